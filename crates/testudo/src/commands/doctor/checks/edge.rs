//! The gateway's own certificates, which nobody renews but people. They lie in the bundle beside the state folder.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use testudo_policy::certificate;
use testudo_policy::config::{Config, GatewayTls, SecretSource};

use super::{Finding, Level, days};

/// Certificates of public authorities are renewed a month before their end.
const WARNING: SignedDuration = SignedDuration::from_hours(24 * 14);

/// One finding for each certificate that ends soon or has ended. Those outside of the bundle are not looked at.
pub(in crate::commands::doctor) fn examine(
    dir: &Path,
    config: &Config,
    now: Timestamp,
) -> Vec<Finding> {
    let tls = config.gateway.as_ref().map(|gateway| &gateway.tls);
    let Some(GatewayTls::Certificates(sources)) = tls else {
        return Vec::new();
    };
    let ends = sources.iter().filter_map(|source| {
        let (SecretSource::Bundle(path), SecretSource::Bundle(key)) =
            (&source.certificate, &source.key)
        else {
            return None;
        };
        let read = |path: &str| std::fs::read(dir.join(path)).unwrap_or_default();
        let found = certificate::inspect(&read(path), &read(key)).ok()?;
        Some((path, Timestamp::from_second(found.not_after).ok()?))
    });
    ends.filter_map(|(path, end)| finding(path, end.duration_since(now)))
        .collect()
}

fn finding(path: &str, left: SignedDuration) -> Option<Finding> {
    let hint = "put a new one in its place: saved files are applied at once";
    if left.is_negative() {
        let message = format!("{path}, which the gateway shows, has expired");
        return Some(Finding::new(Level::Bad, "certificates", message).hint(hint));
    }
    let message = format!("{path}, which the gateway shows, ends in {}", days(left));
    (left < WARNING).then(|| Finding::new(Level::Warning, "certificates", message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_told_of_in_time() {
        let level = |hours| {
            finding("tls/a.pem", SignedDuration::from_hours(hours)).map(|finding| finding.level)
        };
        assert_eq!(level(24 * 30), None);
        assert_eq!(level(24 * 10), Some(Level::Warning));
        assert_eq!(level(-1), Some(Level::Bad));
    }
}
