//! Learned policies as a file for people: each with its evidence, and at the end what was left out and why.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use jiff::Timestamp;

use super::{Learned, LeftOut, Permit, Principal};

/// Longest line of a comment.
const WIDTH: usize = 110;

/// The file, and the lines on which each policy stands.
pub(super) fn file(learned: &Learned) -> (String, Vec<RangeInclusive<u32>>) {
    let mut text = String::from(
        "// Learned from calls that were seen (`testudo policy learn`). Least privilege: once a service is in mode\n\
         // enforce, what neither this nor another policy permits is denied. Read it first: what an attacker did while\n\
         // nothing was enforced looks like any other call. Groups such as orders:read cover later operations too.\n",
    );
    if learned.permits.is_empty() {
        text.push_str("//\n// There is nothing to permit that is not permitted already.\n");
    }
    let mut lines = Vec::new();
    let mut service = None;
    for permit in &learned.permits {
        if service != Some(&permit.service) {
            let _ = write!(text, "\n// ── {} ──\n", plain(&permit.service));
            service = Some(&permit.service);
        }
        text.push('\n');
        evidence(&mut text, permit);
        let first = line_count(&text) + 1;
        text.push_str(&policy(permit));
        lines.push(first..=line_count(&text));
    }
    if !learned.left_out.is_empty() {
        text.push_str("\n// ── Left out ──\n");
    }
    for left_out in &learned.left_out {
        text.push_str("//\n");
        left_out_lines(&mut text, left_out);
    }
    (text, lines)
}

fn line_count(text: &str) -> u32 {
    u32::try_from(text.matches('\n').count()).unwrap_or(u32::MAX)
}

fn evidence(text: &mut String, permit: &Permit) {
    let who = match &permit.principal {
        Principal::Role(role) => format!("Users in the role {}", plain(role)),
        Principal::Users => "Every user with a credential".to_owned(),
        Principal::Anonymous => "ANYBODY, without a credential".to_owned(),
        Principal::Service(name) => format!("The service {}", plain(name)),
    };
    let (first, last) = permit.seen;
    comment(
        text,
        "",
        &format!("{who}, seen {} to {} UTC:", minute(first), minute(last)),
    );
    let widest = permit
        .evidence
        .iter()
        .map(|evidence| evidence.operation.chars().count());
    let widest = widest.max().unwrap_or(0);
    for evidence in &permit.evidence {
        let mut line = format!(
            "{:<widest$}  {} request{}",
            plain(&evidence.operation),
            evidence.requests,
            if evidence.requests == 1 { "" } else { "s" }
        );
        for note in &evidence.notes {
            line.push_str("; ");
            line.push_str(note);
        }
        comment(text, "  ", &line);
    }
}

fn left_out_lines(text: &mut String, left_out: &LeftOut) {
    comment(text, "", &format!("{}: {}", left_out.what, left_out.why));
    if let Some(permit) = &left_out.permit {
        for line in policy(permit).lines() {
            let _ = writeln!(text, "//     {line}");
        }
    }
}

/// A comment, broken at spaces; further lines are indented more. Whatever it is made of, it stays a comment.
fn comment(text: &mut String, indent: &str, content: &str) {
    let content: String = content.chars().flat_map(shown).collect();
    let mut line = format!("// {indent}");
    let mut empty = true;
    for word in content.split(' ') {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(line.trim_end());
            text.push('\n');
            line = format!("//   {indent}");
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// The policy as Cedar.
pub(super) fn policy(permit: &Permit) -> String {
    let principal = match &permit.principal {
        Principal::Role(role) => format!("principal in Role::{}", string(role)),
        Principal::Users => "principal is User".to_owned(),
        Principal::Anonymous => "principal is Anonymous".to_owned(),
        Principal::Service(name) => format!("principal == Service::{}", string(name)),
    };
    let action = match permit.actions.as_slice() {
        [only] if is_group(only) => format!("action in Action::{}", string(only)),
        [only] => format!("action == Action::{}", string(only)),
        several => {
            let actions = several
                .iter()
                .map(|action| format!("    Action::{}", string(action)));
            format!(
                "action in [\n{}\n  ]",
                actions.collect::<Vec<_>>().join(",\n")
            )
        }
    };
    let mut text = format!("permit (\n  {principal},\n  {action},\n  resource\n)");
    if !permit.own.is_empty() {
        let conditions: Vec<String> = permit.own.iter().map(|name| own_condition(name)).collect();
        let _ = write!(text, "\nwhen {{ {} }}", conditions.join(" && "));
    }
    text.push_str(";\n");
    text
}

/// `check` keeps operations from being called like groups.
fn is_group(action: &str) -> bool {
    matches!(action.rsplit(':').next(), Some("read" | "write" | "*"))
}

/// `context.params.customerId == principal.id`.
pub(super) fn own_condition(parameter: &str) -> String {
    let mut characters = parameter.chars();
    let identifier = characters
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if identifier {
        format!("context.params.{parameter} == principal.id")
    } else {
        format!("context.params[{}] == principal.id", string(parameter))
    }
}

/// Who does what, in words.
pub(super) fn subject(principal: &Principal, what: &str) -> String {
    let who = match principal {
        Principal::Role(role) => format!("role {}", plain(role)),
        Principal::Users => "users without a role".to_owned(),
        Principal::Anonymous => "anonymous".to_owned(),
        Principal::Service(name) => format!("service {}", plain(name)),
    };
    format!("{who}, {}", plain(what))
}

/// A string of Cedar. Its escapes are those of Rust.
fn string(text: &str) -> String {
    format!("{text:?}")
}

/// Text that may come from traffic, on one line: nothing in it ends a comment or moves a cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars().take(200).flat_map(shown).collect()
}

fn shown(character: char) -> Vec<char> {
    let hidden = character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if hidden {
        character.escape_default().collect()
    } else {
        vec![character]
    }
}

fn minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M").to_string()
}
