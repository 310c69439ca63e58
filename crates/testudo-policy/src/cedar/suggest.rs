//! Did you mean.

use crate::config::did_you_mean;

/// The candidate that is closest to what was written, if it is close enough to have been meant.
pub(super) fn nearest<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    did_you_mean(written, &candidates)
}

/// `a, b and 3 more`.
pub(super) fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 6;
    let items: Vec<&str> = items.into_iter().collect();
    let mut text = items
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if items.len() > SHOWN {
        text.push_str(&format!(" and {} more", items.len() - SHOWN));
    }
    text
}
