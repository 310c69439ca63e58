//! How large a policy may be. Cedar's parser and type checker recurse along a policy's structure; a
//! policy that is nested too deep would end the process, not the parse.

/// Deepest nesting of brackets. Cedar's parser holds about four times that in two MiB of stack.
const MAX_DEPTH: usize = 32;
/// Most `if`s in one policy.
const MAX_IFS: usize = 100;
/// Longest policy, in bytes: bounds chains such as `a && b && …`.
const MAX_BYTES: usize = 64 << 10;

/// Where a policy is too large, and how.
pub(super) struct Excess {
    pub(super) offset: usize,
    pub(super) message: String,
    pub(super) hint: &'static str,
}

/// Looks at brackets and words only, outside of strings and comments.
pub(super) fn check(text: &str) -> Result<(), Excess> {
    let excess = |offset, message, hint| Excess {
        offset,
        message,
        hint,
    };
    let mut rest = text;
    let (mut depth, mut ifs, mut start) = (0_usize, 0_usize, 0_usize);
    while let Some(first) = rest.chars().next() {
        let offset = text.len() - rest.len();
        let length = token_length(rest, first);
        let token = rest.get(..length).unwrap_or(rest);
        rest = rest.get(length..).unwrap_or("");
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "if" => ifs += 1,
            ";" => (depth, ifs, start) = (0, 0, offset + 1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            let message = format!("this is nested more than {MAX_DEPTH} deep");
            return Err(excess(offset, message, "write several policies"));
        }
        if ifs > MAX_IFS {
            let message = format!("this policy has more than {MAX_IFS} `if`s");
            return Err(excess(offset, message, "write several policies"));
        }
        // A licence above a policy is no part of it.
        if token.starts_with("//") && depth == 0 {
            start += length;
        } else if offset.saturating_sub(start) > MAX_BYTES {
            let message = format!("this policy is longer than {MAX_BYTES} bytes");
            return Err(excess(start, message, "write several policies"));
        }
    }
    Ok(())
}

/// The bytes of the word, string, comment or single character that a text begins with.
fn token_length(text: &str, first: char) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if first == '"' {
        let mut escaped = false;
        let end = text.char_indices().skip(1).find(|(_, character)| {
            let closes = *character == '"' && !escaped;
            escaped = *character == '\\' && !escaped;
            closes
        });
        return end.map_or(text.len(), |(offset, _)| offset + 1);
    }
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    if is_word(first) {
        return text
            .find(|character| !is_word(character))
            .unwrap_or(text.len());
    }
    first.len_utf8()
}
