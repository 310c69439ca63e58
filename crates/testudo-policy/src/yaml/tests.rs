use proptest::prelude::*;

use super::*;

fn read(text: &str) -> (Option<Node>, Vec<(String, u32, u32)>) {
    let mut diagnostics = Diagnostics::default();
    let node = parse("t.yaml", text.as_bytes(), &mut diagnostics);
    let found = diagnostics
        .sorted()
        .into_iter()
        .map(|d| (d.code.to_owned(), d.span.line, d.span.column))
        .collect();
    (node, found)
}

fn good(text: &str) -> Node {
    let (node, found) = read(text);
    assert!(found.is_empty(), "{found:?}");
    node.unwrap()
}

#[test]
fn scalars_follow_the_core_schema() {
    let node = good(
        "[~, null, true, False, yes, 12, -3, +4, 0o17, 0x1F, 1.5, 1e3, .inf, 1_000, 08, '12', 0x, 99999999999999999999, 1.2.3, -x]",
    );
    let json = node.to_json();
    assert_eq!(
        json,
        serde_json::json!([
            null, null, true, false, "yes", 12, -3, 4, 15, 31, 1.5, 1000.0, null, "1_000", 8, "12",
            "0x", 1e20, "1.2.3", "-x"
        ])
    );
}

#[test]
fn places_are_characters_from_one() {
    let node = good("grüße: wörter hier  # c\nb:\n  - \"x y\"\n  - |\n    long\n    text\n");
    let (key, value) = node.entry("grüße").unwrap();
    assert_eq!((key.span.line, key.span.column, key.span.length), (1, 1, 5));
    assert_eq!(
        (value.span.line, value.span.column, value.span.length),
        (1, 8, 11)
    );
    let item = node.pointer("/b/0").unwrap();
    assert_eq!(
        (item.span.line, item.span.column, item.span.length),
        (3, 5, 5)
    );
    let block = node.pointer("/b/1").unwrap();
    assert_eq!(block.as_str(), Some("long\ntext\n"));
    assert_eq!(block.span.line, 5);
}

#[test]
fn json_is_read_too() {
    let node = good("{\n\t\"a\": [1, {\"b\": \"x\\/y\\u00e9\"}],\n\t\"c\": null\n}");
    assert_eq!(
        node.to_json(),
        serde_json::json!({"a": [1, {"b": "x/yé"}], "c": null})
    );
}

#[test]
fn duplicates_are_errors_with_their_place() {
    let (node, found) = read("a: 1\nb: 2\na: 3\n'200': x\n200: y\n");
    assert_eq!(
        found,
        [
            ("yaml.duplicate".to_owned(), 3, 1),
            ("yaml.duplicate".to_owned(), 5, 1)
        ]
    );
    assert_eq!(node.unwrap().get("a").unwrap().as_i64(), Some(1));
}

#[test]
fn what_is_not_one_plain_document_is_refused() {
    for (text, line, column) in [
        ("a: [1, 2\nb: 3\n", 2, 2),
        ("a: 1\n---\nb: 2\n", 2, 1),
        ("a: !secret x\n", 1, 12),
        ("? [a]\n: b\n", 1, 3),
        ("a: 1\nb: \0 hidden: true\n", 2, 4),
        ("a: *none\n", 1, 4),
        ("a: &a [*a]\n", 1, 8),
        (r#"{"a": "\ud83d"}"#, 1, 7),
    ] {
        let (node, found) = read(text);
        assert!(node.is_none(), "{text:?}");
        assert_eq!(
            found,
            [("yaml.syntax".to_owned(), line, column)],
            "{text:?}"
        );
    }
    let mut diagnostics = Diagnostics::default();
    assert!(parse("t.yaml", b"a: \xff", &mut diagnostics).is_none());
    assert!(diagnostics.has_errors());
}

#[test]
fn aliases_expand_within_bounds() {
    let node = good("a: &x {k: [1, 2]}\nb: *x\n");
    assert_eq!(node.pointer("/b/k/1").unwrap().as_i64(), Some(2));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let uses = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{uses}]\n"));
    }
    let (node, found) = read(&bomb);
    assert!(node.is_none());
    assert_eq!(found.first().unwrap().0, "yaml.syntax");
}

#[test]
fn depth_is_bounded() {
    for text in [
        "[".repeat(100_000),
        "- ".repeat(100_000),
        "{a: ".repeat(5_000),
    ] {
        let (node, found) = read(&text);
        assert!(node.is_none());
        assert_eq!(found.len(), 1);
    }
}

proptest! {
    #[test]
    fn never_panics(text in "\\PC{0,200}") {
        read(&text);
    }

    #[test]
    fn never_panics_on_almost_yaml(text in "[-a1:#'\"&*!|>%@`{}\\[\\],? \t\r\n~.\\\\]{0,120}") {
        let (_, found) = read(&text);
        for (_, line, column) in found {
            prop_assert!(line >= 1 && column >= 1);
        }
    }

    #[test]
    fn never_panics_on_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        parse("t.yaml", &bytes, &mut Diagnostics::default());
    }
}

#[test]
fn json_is_read_as_json_readers_do() {
    let long = "k".repeat(3000);
    for (text, expected) in [
        (
            r#"{"a":"\ud83d\ude00"}"#.to_owned(),
            serde_json::json!({"a": "😀"}),
        ),
        (
            format!("{{\"{long}\": 1}}"),
            serde_json::json!({long.clone(): 1}),
        ),
        (
            "{\"a\":1,\"b\":[1,2],\"c\":{\"d\":null}}".to_owned(),
            serde_json::json!({"a":1,"b":[1,2],"c":{"d":null}}),
        ),
        (
            "{\n\t\"a\"\t:\t[\n\t\t1\n\t]\n}\n".to_owned(),
            serde_json::json!({"a":[1]}),
        ),
        (
            "{\"a\": \"line\\nbreak \\u0000\"}".to_owned(),
            serde_json::json!({"a": "line\nbreak \u{0}"}),
        ),
        (
            "{\"a\": 1e400, \"b\": -0}".to_owned(),
            serde_json::json!({"a": null, "b": 0}),
        ),
        ("{\n\"a\"\n:\n1}".to_owned(), serde_json::json!({"a": 1})),
        ("[\"a: b # c\"]".to_owned(), serde_json::json!(["a: b # c"])),
        (
            r#"["\\ud83d\\ude00", "\\\ud83d\ude00"]"#.to_owned(),
            serde_json::json!(["\\ud83d\\ude00", "\\😀"]),
        ),
    ] {
        assert_eq!(good(&text).to_json(), expected, "{text}");
    }
}

#[test]
fn syntax_errors_say_what_to_do() {
    for (text, message) in [
        ("a: 1\n\tb: 2\n", "a tab where spaces are expected"),
        ("a: 1\nb 2\nc: 3\n", "a `:` is missing before this"),
        ("a:\n  b: 1\n c: 2\n", "this does not belong here"),
        ("a: [1]]\n", "this does not belong here"),
        ("a: \"b\n", "the quote is never closed"),
        ("a: {b: 1\nc: 2\n", "a `,` or `}` is missing before this"),
        ("a: [b\nc: 2\n", "a `:` cannot stand here"),
        ("a: [b\n  c\n", "a `,` or `]` is missing before this"),
        ("a: b: c\n", "a second `:` in one value"),
        ("a: @b\n", "a value cannot begin with this character"),
        (
            "a: *b\n",
            "`*` stands for a named value, and there is none of that name",
        ),
    ] {
        let mut diagnostics = Diagnostics::default();
        assert!(parse("t.yaml", text.as_bytes(), &mut diagnostics).is_none());
        let found = diagnostics.list.first().unwrap();
        assert_eq!(found.message, message, "{text}");
        assert!(found.hint.is_some());
    }
}
