//! Making text from traffic safe to print: a path must not be able to move a cursor or fake a line.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Escapes control characters (C0, DEL, C1), line separators and bidirectional overrides as `\xNN` or `\u{NNNN}`.
/// A backslash is doubled where something was escaped, so that the result reads back unambiguously.
///
/// ```
/// assert_eq!(testudo_watch::escape_for_terminal("/orders/17"), "/orders/17");
/// assert_eq!(testudo_watch::escape_for_terminal("/\u{1b}[2J\n"), "/\\x1b[2J\\x0a");
/// ```
pub fn escape_for_terminal(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        let code = u32::from(character);
        if character == '\\' {
            escaped.push_str("\\\\");
        } else if !is_unsafe(character) {
            escaped.push(character);
        } else if code <= 0xff {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "\\x{code:02x}");
        } else {
            let _ = write!(escaped, "\\u{{{code:x}}}");
        }
    }
    Cow::Owned(escaped)
}

fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{feff}'
        )
        || ('\u{202a}'..='\u{202e}').contains(&character)
        || ('\u{2066}'..='\u{2069}').contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_cursors_or_turns_text_is_escaped() {
        for (text, expected) in [
            ("plain ünïcode ✓", "plain ünïcode ✓"),
            ("a\\b", "a\\b"),
            ("a\\b\r", "a\\\\b\\x0d"),
            ("\u{9b}31m", "\\x9b31m"),
            ("\u{202e}exe", "\\u{202e}exe"),
            ("\u{2028}", "\\u{2028}"),
        ] {
            assert_eq!(escape_for_terminal(text), expected, "{text:?}");
        }
    }
}
