//! Text that fits a terminal: wrapped, cut, and without anything that a terminal would obey.

/// What would move a cursor, hide or reorder text becomes visible; tabs become one space, so that columns hold.
pub(super) fn visible(text: &str) -> String {
    text.chars().map(visible_char).collect()
}

fn visible_char(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{FFFD}',
        // Zero-width and bidirectional controls (Trojan Source).
        '\u{200B}'..='\u{200F}'
        | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{2069}'
        | '\u{FEFF}' => '\u{FFFD}',
        c => c,
    }
}

/// Words on lines of at most `width` characters; a longer word gets a line of its own. Line breaks stay.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let paragraph = visible(paragraph);
        let mut line = String::new();
        for word in paragraph.split(' ') {
            let length = line.chars().count();
            if length > 0 && length + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            } else if length > 0 {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

/// A stretch of a line that shows the columns `from..from + length` (from 0) within `width` characters, and where
/// they stand in it.
pub(super) fn window(
    line: &str,
    from: usize,
    length: usize,
    width: usize,
) -> (String, usize, usize) {
    let chars: Vec<char> = line.chars().map(visible_char).collect();
    if chars.len() <= width {
        let length = length.min((chars.len() + 1).saturating_sub(from)).max(1);
        return (chars.into_iter().collect(), from, length);
    }
    // A third of the width before, the rest after; an ellipsis where something is cut off.
    let start = from.saturating_sub(width / 3);
    let cut: String = chars
        .iter()
        .skip(start)
        .take(width.saturating_sub(2))
        .collect();
    let cut_length = cut.chars().count();
    let mut shown = String::new();
    let mut at = from - start;
    if start > 0 {
        shown.push('…');
        at += 1;
    }
    shown.push_str(&cut);
    if start + cut_length < chars.len() {
        shown.push('…');
    }
    let end = shown.chars().count();
    (shown, at, length.min(end.saturating_sub(at)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_around_what_matters() {
        let line = format!("{}HERE{}", "a".repeat(200), "b".repeat(200));
        let (shown, at, length) = window(&line, 200, 4, 60);
        assert!(shown.chars().count() <= 60);
        let marked: String = shown.chars().skip(at).take(length).collect();
        assert_eq!(marked, "HERE");
        assert_eq!(window("short", 9, 50, 60), ("short".to_owned(), 9, 1));
    }

    #[test]
    fn terminals_are_not_told_what_to_do() {
        assert_eq!(visible("a\u{1b}[31m\u{202E}b\t"), "a\u{FFFD}[31m\u{FFFD}b ");
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrap("a\nb", 5), ["a", "b"]);
    }
}
