//! When to fetch a key set again. Pure: chance is passed in.

use std::time::Duration;

/// All times of fetching, in one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// A set is fetched again after this at the soonest, whatever the issuer says: forged `Cache-Control`
    /// and `no-store` must not make us flood it.
    pub(super) freshest: Duration,
    /// And after this at the latest: a withdrawn key must not count for long.
    pub(super) stalest: Duration,
    /// Where the issuer says nothing.
    pub(super) default: Duration,
    /// Between two fetches that unknown `kid`s ask for.
    pub(super) between_wants: Duration,
    /// After the first failure; doubles with each further one.
    pub(super) first_backoff: Duration,
    /// The longest such wait.
    pub(super) last_backoff: Duration,
    /// For connecting, TLS included.
    pub(super) connect: Duration,
    /// For one whole response.
    pub(super) response: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            freshest: Duration::from_secs(60),
            stalest: Duration::from_secs(3600),
            default: Duration::from_secs(300),
            between_wants: Duration::from_secs(10),
            first_backoff: Duration::from_secs(1),
            last_backoff: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            response: Duration::from_secs(10),
        }
    }
}

impl Timing {
    /// How long a set that was just fetched is good, up to a tenth less by `chance` (0 to 1), so that
    /// gateways do not all come at once.
    pub(super) fn fresh(&self, max_age: Option<Duration>, chance: f64) -> Duration {
        let age = max_age.unwrap_or(self.default);
        age.clamp(self.freshest, self.stalest)
            .mul_f64(1.0 - 0.1 * chance.clamp(0.0, 1.0))
    }

    /// How long to wait after a failure: exponential, up to half less by `chance`.
    pub(super) fn backoff(&self, failures_before: u32, chance: f64) -> Duration {
        let factor = 1_u32 << failures_before.min(16);
        self.first_backoff
            .saturating_mul(factor)
            .min(self.last_backoff)
            .mul_f64(1.0 - 0.5 * chance.clamp(0.0, 1.0))
    }
}

/// What `Cache-Control` and `Age` say (RFC 9111 §5.2.2.1, §4.2.3); `None` where they say nothing that counts.
pub(super) fn max_age(cache_control: &[&str], age: Option<&str>) -> Option<Duration> {
    let mut found = None;
    for directive in cache_control.iter().flat_map(|line| line.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        if matches!(directive.as_str(), "no-store" | "no-cache") {
            return Some(Duration::ZERO);
        }
        if let Some(seconds) = directive.strip_prefix("max-age=") {
            let seconds: u64 = seconds.trim_matches('"').parse().ok()?;
            found = Some(found.map_or(seconds, |other: u64| other.min(seconds)));
        }
    }
    let age: u64 = age.and_then(|age| age.trim().parse().ok()).unwrap_or(0);
    found.map(|seconds| Duration::from_secs(seconds.saturating_sub(age)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn cache_control_is_read_within_bounds() {
        let rows: [(&[&str], Option<&str>, Option<Duration>); 11] = [
            (&[], None, None),
            (&["public"], None, None),
            (&["max-age=600"], None, Some(s(600))),
            (&["public, Max-Age=\"600\""], None, Some(s(600))),
            (&["max-age=600"], Some("100"), Some(s(500))),
            (&["max-age=600"], Some("9999"), Some(s(0))),
            (&["max-age=600"], Some("-1"), Some(s(600))),
            (&["max-age=600", "max-age=60"], None, Some(s(60))),
            (&["max-age=600", "no-store"], None, Some(s(0))),
            (&["max-age=-5"], None, None),
            (&["s-maxage=600"], None, None),
        ];
        for (lines, age, expected) in rows {
            assert_eq!(max_age(lines, age), expected, "{lines:?} {age:?}");
        }
        let timing = Timing::default();
        assert_eq!(timing.fresh(None, 0.0), s(300));
        assert_eq!(timing.fresh(Some(s(0)), 0.0), s(60));
        assert_eq!(timing.fresh(Some(s(u64::MAX)), 0.0), s(3600));
        assert_eq!(timing.fresh(Some(s(1000)), 1.0), s(900));
    }

    #[test]
    fn backoff_doubles_to_its_bound() {
        let timing = Timing::default();
        let waits: Vec<u64> = (0..9).map(|n| timing.backoff(n, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(timing.backoff(u32::MAX, 1.0), s(30));
    }
}
