//! The grammar of `testudo.yaml` as data: one table that the reader checks files against and that
//! `testudo schema` prints, so that they cannot drift apart. The table itself is in `keys`.

use std::net::SocketAddr;

use super::values::{self, Invalid};
use crate::diagnostic::{Diagnostics, Fix, Span};
use crate::yaml::{Node, Value};

/// A mapping with known keys.
pub(crate) struct Object {
    /// What it is, in words that fit after `of`: `a route`.
    pub(crate) title: &'static str,
    /// Its keys, in the order of the reference.
    pub(crate) keys: &'static [KeySpec],
}

/// One key.
pub(crate) struct KeySpec {
    /// The key.
    pub(crate) name: &'static str,
    /// What may stand there.
    pub(crate) kind: Kind,
    /// Whether it must stand, may stand, or cannot stand yet.
    pub(crate) need: Need,
    /// For the reference: one sentence.
    pub(crate) doc: &'static str,
}

/// Whether a key must stand.
#[derive(Clone, Copy)]
pub(crate) enum Need {
    /// Its absence is an error.
    Required,
    /// It may be left out.
    Optional,
    /// Its feature is not there yet: a `feature.absent` error with this explanation.
    Absent(&'static str),
}

/// What may stand somewhere.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// A string in this language.
    Text(&'static Text),
    /// `true` or `false`.
    Bool,
    /// An integer within bounds.
    Integer(i64, i64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A mapping with known keys.
    Object(&'static Object),
    /// A mapping whose keys are names.
    Map(&'static Text, &'static Kind),
    /// A list.
    List(&'static Kind),
    /// The first of these that fits what stands there.
    Either(&'static [Kind]),
    /// Words or mappings whose feature is not there yet; each with its explanation.
    Later(&'static [(&'static str, &'static str)]),
    /// `null`.
    Null,
    /// Anything (under keys whose feature is not there yet).
    Any,
}

/// A language of strings.
pub(crate) struct Text {
    /// What it is, in words that fit after `must be`: `a duration`.
    pub(crate) title: &'static str,
    /// Whether a string is one.
    pub(crate) check: fn(&str) -> Result<(), Invalid>,
    /// As a regular expression (ECMA 262) for the schema; empty: none.
    pub(crate) pattern: &'static str,
    /// Examples for the schema; each passes `check`.
    pub(crate) examples: &'static [&'static str],
    /// Whether `${env:NAME}` and `${file:PATH}` may stand instead.
    pub(crate) secret: bool,
}

/// Checks a value against the table; everything that is wrong becomes a diagnostic. `place` names it: `gateway.listen`.
pub(crate) fn check(node: &Node, kind: Kind, place: &str, diagnostics: &mut Diagnostics) -> bool {
    match kind {
        Kind::Any => true,
        Kind::Null if node.is_null() => true,
        Kind::Bool if node.as_bool().is_some() => true,
        Kind::Text(text) => check_text(node, text, place, diagnostics),
        Kind::Integer(low, high) => match node.as_i64() {
            Some(value) if (low..=high).contains(&value) => true,
            Some(value) => {
                let message = format!("{place}: {value} is out of range");
                let hint = if low == high {
                    format!("write {low}")
                } else {
                    format!("from {low} to {high}")
                };
                diagnostics.error("value.invalid", &node.span, message, hint);
                false
            }
            None => mismatch(node, kind, place, diagnostics),
        },
        Kind::Word(words) => check_word(node, words, place, diagnostics),
        Kind::Object(object) => match node.as_map() {
            Some(_) => check_object(node, object, place, diagnostics),
            None => mismatch(node, kind, place, diagnostics),
        },
        Kind::Map(names, kind_of_values) => match node.as_map() {
            Some(entries) => {
                let mut fine = true;
                for (key, value) in entries {
                    let place = format!("{place}.{}", key.name);
                    if let Err((message, hint)) = (names.check)(&key.name) {
                        diagnostics.error("value.invalid", &key.span, message, hint);
                        fine = false;
                    }
                    fine &= check(value, *kind_of_values, &place, diagnostics);
                }
                fine
            }
            None => mismatch(node, kind, place, diagnostics),
        },
        Kind::List(item) => match node.as_seq() {
            Some(items) => {
                let results = items.iter().map(|i| check(i, *item, place, diagnostics));
                results.fold(true, |all, one| all & one)
            }
            None => mismatch(node, kind, place, diagnostics),
        },
        Kind::Either(kinds) => match kinds.iter().find(|kind| accepts(node, **kind)) {
            Some(kind) => check(node, *kind, place, diagnostics),
            None => mismatch(node, kind, place, diagnostics),
        },
        Kind::Later(words) => check_later(node, words, place, diagnostics),
        Kind::Null | Kind::Bool => mismatch(node, kind, place, diagnostics),
    }
}

fn check_text(
    node: &Node,
    text: &'static Text,
    place: &str,
    diagnostics: &mut Diagnostics,
) -> bool {
    let Some(written) = node.as_str() else {
        return mismatch(node, Kind::Text(text), place, diagnostics);
    };
    if written.contains("${env:") || written.contains("${file:") {
        if text.secret && is_reference(written) {
            return true;
        }
        let message = format!("{place}: a secret's reference cannot stand here");
        let hint = "${env:NAME} and ${file:PATH} stand alone, as key or certificate of the gateway"
            .to_owned();
        diagnostics.error("value.invalid", &node.span, message, hint);
        return false;
    }
    match (text.check)(written) {
        Ok(()) => true,
        // `check` finds secrets that stand here; they must not be repeated.
        Err((_, hint)) if written.len() > 200 || written.contains(char::is_control) => {
            let message = format!("{place} is not {}", text.title);
            diagnostics.error("value.invalid", &node.span, message, hint);
            false
        }
        Err((message, hint)) => {
            let fix = hint.as_deref().and_then(|h| h.strip_prefix("write "));
            let fix = fix.filter(|fix| (text.check)(fix).is_ok()).map(|fix| Fix {
                span: node.span.clone(),
                replacement: fix.to_owned(),
            });
            diagnostics.error(
                "value.invalid",
                &node.span,
                format!("{place}: {message}"),
                hint,
            );
            attach(diagnostics, fix);
            false
        }
    }
}

fn check_word(node: &Node, words: &[&str], place: &str, diagnostics: &mut Diagnostics) -> bool {
    let Some(written) = node.as_str() else {
        return mismatch_words(node, words, place, diagnostics);
    };
    if words.contains(&written) {
        return true;
    }
    let message = format!("{place}: {written} is not known here");
    suggest(
        "value.invalid",
        &node.span,
        message,
        written,
        words,
        diagnostics,
    );
    false
}

fn check_later(
    node: &Node,
    words: &[(&str, &'static str)],
    place: &str,
    diagnostics: &mut Diagnostics,
) -> bool {
    let written = node.as_str().unwrap_or_default();
    let found = words.iter().find(|(word, _)| written.starts_with(word));
    if let Some((_, why)) = found {
        absent(&node.span, place, why, diagnostics);
    }
    false
}

fn check_object(node: &Node, object: &Object, place: &str, diagnostics: &mut Diagnostics) -> bool {
    let mut fine = true;
    let join = |name: &str| match place {
        "" => name.to_owned(),
        place => format!("{place}.{name}"),
    };
    for (key, value) in node.as_map().unwrap_or(&[]) {
        let Some(spec) = object.keys.iter().find(|spec| spec.name == key.name) else {
            let message = format!("{} is not a key of {}", key.name, object.title);
            let known: Vec<&str> = object.keys.iter().map(|spec| spec.name).collect();
            suggest(
                "key.unknown",
                &key.span,
                message,
                &key.name,
                &known,
                diagnostics,
            );
            fine = false;
            continue;
        };
        if let Need::Absent(why) = spec.need {
            absent(&key.span, &join(spec.name), why, diagnostics);
            fine = false;
            continue;
        }
        // `key:` with nothing after it is as if it were left out, but nobody writes that on purpose.
        if value.is_null() && !accepts(value, spec.kind) {
            let message = format!("{} has no value", join(spec.name));
            let hint = format!("write {}, or remove the key", words(spec.kind));
            diagnostics.error("key.type", &key.span, message, hint);
            fine = false;
            continue;
        }
        fine &= check(value, spec.kind, &join(spec.name), diagnostics);
    }
    for spec in object.keys {
        if matches!(spec.need, Need::Required) && node.get(spec.name).is_none() {
            let message = format!("{} needs {}", object.title, spec.name);
            let hint = format!("{}: {}", spec.name, spec.doc);
            diagnostics.error("key.missing", &node.span, message, hint);
            fine = false;
        }
    }
    fine
}

fn absent(span: &Span, place: &str, why: &str, diagnostics: &mut Diagnostics) {
    let message = format!("{place}: not available yet; {why}");
    let hint = "remove it: it would do nothing".to_owned();
    diagnostics.error("feature.absent", span, message, hint);
}

/// Whether a value is of the right sort to be judged as `kind`.
fn accepts(node: &Node, kind: Kind) -> bool {
    match kind {
        Kind::Any => true,
        Kind::Null => node.is_null(),
        Kind::Bool => node.as_bool().is_some(),
        Kind::Integer(..) => node.as_i64().is_some(),
        Kind::Text(_) => node.as_str().is_some(),
        // A word is only meant where it is one of them, or nothing else could be a string.
        Kind::Word(words) => node.as_str().is_some_and(|text| words.contains(&text)),
        Kind::Later(words) => node
            .as_str()
            .is_some_and(|text| words.iter().any(|(word, _)| text.starts_with(word))),
        Kind::Object(_) | Kind::Map(..) => node.as_map().is_some(),
        Kind::List(_) => node.as_seq().is_some(),
        Kind::Either(kinds) => kinds.iter().any(|kind| accepts(node, *kind)),
    }
}

fn mismatch(node: &Node, kind: Kind, place: &str, diagnostics: &mut Diagnostics) -> bool {
    // A word among alternatives that is misspelt.
    if let (Kind::Either(kinds), Some(written)) = (kind, node.as_str()) {
        let known: Vec<&str> = kinds
            .iter()
            .flat_map(|kind| match kind {
                Kind::Word(words) => words.to_vec(),
                _ => Vec::new(),
            })
            .collect();
        if !known.is_empty() {
            let message = format!("{place}: {written} is not known here");
            let hint = did_you_mean(written, &known).map_or_else(
                || format!("write {}", words(kind)),
                |w| format!("did you mean {w}?"),
            );
            diagnostics.error("value.invalid", &node.span, message, hint);
            return false;
        }
    }
    let (place, wanted) = match kind {
        Kind::Object(object) if place.is_empty() => (object.title, "a mapping".to_owned()),
        _ => (place, words(kind)),
    };
    let message = format!("{place} must be {wanted}, not {}", node.kind());
    let quote = match (&node.value, kind) {
        (Value::Bool(_) | Value::Int(_) | Value::Float(_), Kind::Text(text)) => {
            Some(match text.examples.first() {
                Some(example) => format!("for example {example}; put quotes around plain text"),
                None => "put quotes around it".to_owned(),
            })
        }
        (_, Kind::List(_)) if !node.is_null() => Some("put it into [ ]".to_owned()),
        _ => None,
    };
    diagnostics.error("key.type", &node.span, message, quote);
    false
}

fn mismatch_words(node: &Node, known: &[&str], place: &str, diagnostics: &mut Diagnostics) -> bool {
    let message = format!(
        "{place} must be {}, not {}",
        known.join(" or "),
        node.kind()
    );
    diagnostics.error("key.type", &node.span, message, None);
    false
}

/// A kind in words that fit after `must be`.
pub(crate) fn words(kind: Kind) -> String {
    match kind {
        Kind::Text(text) => text.title.to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::Integer(..) => "an integer".to_owned(),
        Kind::Word(known) => known.join(" or "),
        Kind::Object(object) => format!("a mapping ({})", object.title),
        Kind::Map(..) => "a mapping".to_owned(),
        Kind::List(_) => "a list".to_owned(),
        Kind::Null => "null".to_owned(),
        Kind::Later(_) | Kind::Any => String::new(),
        Kind::Either(kinds) => {
            let all: Vec<String> = kinds.iter().map(|kind| words(*kind)).collect();
            let all: Vec<String> = all.into_iter().filter(|words| !words.is_empty()).collect();
            all.join(" or ")
        }
    }
}

/// An error at a misspelt name: with a fix where one known name is close, else with all of them.
pub(crate) fn suggest(
    code: &'static str,
    span: &Span,
    message: String,
    written: &str,
    known: &[&str],
    diagnostics: &mut Diagnostics,
) {
    let close = did_you_mean(written, known);
    let hint = match close {
        Some(close) => format!("did you mean {close}?"),
        None if known.is_empty() => "there is none".to_owned(),
        None => {
            let mut shown: Vec<&str> = known.iter().copied().take(12).collect();
            if known.len() > shown.len() {
                shown.push("…");
            }
            format!("known: {}", shown.join(" "))
        }
    };
    diagnostics.error(code, span, message, hint);
    let fix = close.map(|close| Fix {
        span: span.clone(),
        replacement: close.to_owned(),
    });
    attach(diagnostics, fix);
}

/// The closest of the known names, if it is close enough to be meant.
pub fn did_you_mean<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    // The distance costs as much memory as both lengths multiplied.
    if written.len() > 256 {
        return None;
    }
    let lower = written.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&lower, &name.to_lowercase());
    let (distance, close) = known
        .iter()
        .filter(|name| name.len() <= 256)
        .map(|name| (distance(name), *name))
        .min_by_key(|(distance, _)| *distance)?;
    let most = (written.chars().count().max(close.chars().count()) / 3).max(1);
    (distance <= most).then_some(close)
}

fn attach(diagnostics: &mut Diagnostics, fix: Option<Fix>) {
    if let Some(last) = diagnostics.list.last_mut() {
        last.fix = fix;
    }
}

/// Whether a string is `${env:NAME}` or `${file:PATH}` and nothing else.
pub(crate) fn is_reference(text: &str) -> bool {
    let inside = |prefix| {
        text.strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix('}'))
    };
    let plain = |c: char| !c.is_control() && !matches!(c, '$' | '{' | '}');
    let variable = |c: char| c.is_ascii_alphanumeric() || c == '_';
    inside("${env:").is_some_and(|name| !name.is_empty() && name.chars().all(variable))
        || inside("${file:").is_some_and(|path| !path.is_empty() && path.chars().all(plain))
}

/// An address, once `check` has passed.
pub(crate) fn address(node: &Node) -> Option<SocketAddr> {
    node.as_str().and_then(|text| values::address(text).ok())
}
