//! What `check --fix` does: the replacements of diagnostics, made in the files.

use std::collections::BTreeMap;

use crate::bundle::Bundle;
use crate::diagnostic::{Diagnostic, Fix};

/// The new text of each file that a fix changes. Where two fixes overlap, the first one counts: run it again.
pub fn apply(bundle: &Bundle, diagnostics: &[Diagnostic]) -> BTreeMap<String, String> {
    let mut by_file: BTreeMap<&str, Vec<&Fix>> = BTreeMap::new();
    for fix in diagnostics.iter().filter_map(|d| d.fix.as_ref()) {
        by_file.entry(&fix.span.file).or_default().push(fix);
    }
    let mut changed = BTreeMap::new();
    for (path, mut fixes) in by_file {
        let content = bundle.content(path).map(std::str::from_utf8);
        let Some(Ok(text)) = content else {
            continue;
        };
        fixes.sort_by_key(|fix| (fix.span.line, fix.span.column));
        if let Some(text) = replace(text, &fixes) {
            changed.insert(path.to_owned(), text);
        }
    }
    changed
}

/// `fixes` are ordered by place. `None`: none of them could be made.
fn replace(text: &str, fixes: &[&Fix]) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for fix in fixes {
        let Some((start, end)) = range(text, fix) else {
            continue;
        };
        if start < done {
            continue;
        }
        out.push_str(text.get(done..start)?);
        out.push_str(&fix.replacement);
        done = end;
    }
    out.push_str(text.get(done..)?);
    (out != text).then_some(out)
}

/// The bytes of a span; `None`: the text has no such place.
fn range(text: &str, fix: &Fix) -> Option<(usize, usize)> {
    let line = usize::try_from(fix.span.line.checked_sub(1)?).ok()?;
    let column = usize::try_from(fix.span.column.checked_sub(1)?).ok()?;
    let length = usize::try_from(fix.span.length).ok()?;
    let mut start = if text.starts_with('\u{FEFF}') && line == 0 {
        '\u{FEFF}'.len_utf8()
    } else {
        0
    };
    for _ in 0..line {
        start += text.get(start..)?.find('\n')? + 1;
    }
    let rest = text.get(start..)?;
    let rest = rest.split('\n').next()?;
    let offset = |chars: usize| match rest.char_indices().nth(chars) {
        Some((at, _)) => Some(at),
        None => (rest.chars().count() == chars).then_some(rest.len()),
    };
    Some((start + offset(column)?, start + offset(column + length)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{Diagnostics, Span};

    #[test]
    fn fixes_replace_what_they_span_and_nothing_else() {
        let text = "a: é wrong x\nb: wrong\n";
        let files = BTreeMap::from([("testudo.yaml".to_owned(), text.as_bytes().to_vec())]);
        let bundle = Bundle::from_files(files).unwrap();
        let mut diagnostics = Diagnostics::default();
        for (line, column, length) in [(2, 4, 5), (1, 6, 5), (1, 8, 2), (7, 1, 1), (2, 4, 99)] {
            let span = Span {
                file: "testudo.yaml".into(),
                line,
                column,
                length,
            };
            diagnostics.error("value.invalid", &span, "x", None);
            diagnostics.list.last_mut().unwrap().fix = Some(Fix {
                span,
                replacement: "right".to_owned(),
            });
        }
        let changed = apply(&bundle, &diagnostics.list);
        assert_eq!(changed["testudo.yaml"], "a: é right x\nb: right\n");
    }
}
