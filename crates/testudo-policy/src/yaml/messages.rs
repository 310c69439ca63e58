//! What the parser says, in words that help somebody who does not know YAML's grammar.

/// The message and a hint for what the parser found.
pub(super) fn explained(info: &str) -> (String, Option<&'static str>) {
    let (message, hint) = if info.contains("tab") {
        ("a tab where spaces are expected", "indent with spaces")
    } else if info.contains("simple key expect") {
        ("a `:` is missing before this", "write `key: value`")
    } else if info.contains("did not find expected key") {
        (
            "this does not belong here",
            "keys of one mapping line up exactly; or a bracket or quote is one too many",
        )
    } else if info.contains("unexpected end of stream") {
        ("the quote is never closed", "close it, or remove it")
    } else if info.contains("expected ',' or '}'") {
        (
            "a `,` or `}` is missing before this",
            "close what was opened",
        )
    } else if info.contains("expected ',' or ']'") {
        (
            "a `,` or `]` is missing before this",
            "close what was opened",
        )
    } else if info.contains("mapping values are not allowed") {
        (
            "a second `:` in one value",
            "put quotes around values that contain `: `; or the indentation is off",
        )
    } else if info.contains("illegal placement of ':'") {
        (
            "a `:` cannot stand here",
            "close the list before it, or put quotes around the value",
        )
    } else if info.contains("unknown anchor") {
        (
            "`*` stands for a named value, and there is none of that name",
            "put quotes around text that begins with *",
        )
    } else if info.contains("unexpected character") {
        (
            "a value cannot begin with this character",
            "put quotes around the value",
        )
    } else {
        return (info.to_owned(), None);
    };
    (message.to_owned(), Some(hint))
}
