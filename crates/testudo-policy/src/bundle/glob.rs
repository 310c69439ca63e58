//! `*`, `?` and `**` over paths, for `include`.

/// Whether a path matches. `*` and `?` stay within a segment, `**` is any number of segments.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    segments(&pattern, &path)
}

/// Whether a pattern is more than a plain path.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// The folder under which everything lies that can match; empty: anywhere.
pub(super) fn fixed_folder(pattern: &str) -> String {
    let folders: Vec<&str> = pattern.split('/').collect();
    let (_, folders) = folders.split_last().unwrap_or((&"", &[]));
    let fixed: Vec<&str> = folders
        .iter()
        .copied()
        .take_while(|segment| !is_pattern(segment))
        .collect();
    fixed.join("/")
}

/// Row by row over the path, as for one segment: polynomial, whatever the pattern.
fn segments(pattern: &[&str], path: &[&str]) -> bool {
    let mut reachable = vec![false; path.len() + 1];
    if let Some(first) = reachable.first_mut() {
        *first = true;
    }
    for part in pattern {
        let mut next = vec![false; path.len() + 1];
        let mut carried = false;
        for (at, slot) in next.iter_mut().enumerate() {
            let here = reachable.get(at).copied().unwrap_or(false);
            if *part == "**" {
                carried |= here;
                *slot = carried;
            } else if let Some(before) = at.checked_sub(1) {
                *slot = reachable.get(before).copied().unwrap_or(false)
                    && path.get(before).is_some_and(|text| segment(part, text));
            }
        }
        reachable = next;
    }
    reachable.last().copied().unwrap_or(false)
}

fn segment(pattern: &str, text: &str) -> bool {
    // A hidden file is only matched by a pattern that names its dot.
    if text.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let text: Vec<char> = text.chars().collect();
    let mut reachable = vec![false; text.len() + 1];
    if let Some(first) = reachable.first_mut() {
        *first = true;
    }
    for c in pattern.chars() {
        let mut next = vec![false; text.len() + 1];
        let mut carried = false;
        for (at, slot) in next.iter_mut().enumerate() {
            let here = reachable.get(at).copied().unwrap_or(false);
            if c == '*' {
                carried |= here;
                *slot = carried;
            } else if let Some(before) = at.checked_sub(1) {
                let fits = c == '?' || text.get(before) == Some(&c);
                *slot = fits && reachable.get(before).copied().unwrap_or(false);
            }
        }
        reachable = next;
    }
    reachable.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_paths() {
        for (pattern, path, expected) in [
            ("teams/*.yaml", "teams/a.yaml", true),
            ("teams/*.yaml", "teams/x/a.yaml", false),
            ("teams/*.yaml", "teams/.hidden.yaml", false),
            ("teams/**/*.yaml", "teams/a.yaml", true),
            ("teams/**/*.yaml", "teams/x/y/a.yaml", true),
            ("**/*.yaml", "a.yaml", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
        assert_eq!(fixed_folder("teams/x/*.yaml"), "teams/x");
        assert_eq!(fixed_folder("*.yaml"), "");
    }
}
