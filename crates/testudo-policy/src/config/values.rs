//! The small languages inside of strings: durations, sizes, rates, addresses, dates, paths, secrets' references.
//!
//! Each function says what is wrong in words that fit after `FIELD: `.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use testudo_guard::snapshot::AppAddress;

/// What is wrong with a value, and what to write instead.
pub type Invalid = (String, Option<String>);

fn invalid<T>(message: impl Into<String>, hint: &str) -> Result<T, Invalid> {
    Err((message.into(), Some(hint.to_owned())))
}

/// `250ms`, `15s`, `10m`, `24h`, `30d`; whole numbers.
pub fn duration(text: &str) -> Result<Duration, Invalid> {
    let hint = "write a whole number and a unit: 250ms, 15s, 10m, 24h or 30d";
    let (number, unit) = split_unit(text);
    let Ok(number) = number.parse::<u64>() else {
        return invalid(format!("{text} is not a duration"), hint);
    };
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => return invalid(format!("{text} is not a duration"), hint),
    };
    match millis.map(Duration::from_millis) {
        Some(duration) if duration <= Duration::from_hours(24 * 3660) => Ok(duration),
        _ => invalid(format!("{text} is too long"), "at most ten years: 3660d"),
    }
}

/// `512B`, `16KiB`, `1MiB`, `2GiB`; also powers of ten: `64kB`, `1MB`, `1GB`.
pub fn size(text: &str) -> Result<u64, Invalid> {
    let hint = "write a whole number and a unit: 512B, 16KiB, 1MiB or 1GiB";
    let (number, unit) = split_unit(text);
    let Ok(number) = number.parse::<u64>() else {
        return invalid(format!("{text} is not a size"), hint);
    };
    let unit = match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return invalid(format!("{text} is not a size"), hint),
    };
    match number.checked_mul(unit) {
        Some(bytes) if bytes <= 1 << 40 => Ok(bytes),
        _ => invalid(format!("{text} is too large"), "at most 1024GiB"),
    }
}

/// A number of requests in a unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests.
    pub count: u32,
    /// In so long.
    pub period: Duration,
}

impl Rate {
    /// One request each so long.
    pub fn interval(self) -> Duration {
        self.period / self.count.max(1)
    }

    /// The requests of one second, at least one.
    pub fn one_second(self) -> u32 {
        let seconds = u32::try_from(self.period.as_secs())
            .unwrap_or(u32::MAX)
            .max(1);
        self.count.div_ceil(seconds).max(1)
    }
}

/// `100/s`, `5/m`, `1000/h`, `10/d`.
pub fn rate(text: &str) -> Result<Rate, Invalid> {
    let hint = "write requests per time: 100/s, 5/m, 1000/h or 10/d";
    let Some((count, unit)) = text.split_once('/') else {
        return invalid(format!("{text} is not a rate"), hint);
    };
    let seconds = match unit.trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return invalid(format!("{text} is not a rate"), hint),
    };
    match plain_number(count.trim()) {
        Some(count) if (1..=1_000_000_000).contains(&count) => Ok(Rate {
            count,
            period: Duration::from_secs(seconds),
        }),
        Some(_) => invalid(
            format!("{text} is out of range"),
            "from 1 to 1000000000 requests",
        ),
        None => invalid(format!("{text} is not a rate"), hint),
    }
}

/// `127.0.0.1:8443`, `[::1]:8443`; port 0 lets the system choose.
pub fn address(text: &str) -> Result<SocketAddr, Invalid> {
    let text = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    match text.parse() {
        Ok(address) => Ok(address),
        Err(_) => invalid(
            format!("{text} is not an address"),
            "write IP:PORT, for example 127.0.0.1:8443 or [::1]:8443",
        ),
    }
}

/// `127.0.0.1:9101`, `unix:run/orders.sock`, `dns:orders.internal:9101`.
pub fn app_address(text: &str) -> Result<AppAddress, Invalid> {
    let hint = "write IP:PORT, unix:PATH or dns:NAME:PORT";
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() || path.contains(char::is_control) {
            return invalid(format!("{text} names no socket"), hint);
        }
        return Ok(AppAddress::Unix(path.into()));
    }
    if let Some(name) = text.strip_prefix("dns:") {
        let (host, port) = host_port(name)?;
        return Ok(AppAddress::Dns(host.into(), port));
    }
    match address(text) {
        Ok(address) if address.port() == 0 => invalid(format!("{text} has no port"), hint),
        Ok(address) => Ok(AppAddress::Tcp(address)),
        Err(_) if host_port(text).is_ok() => invalid(
            format!("{text} is a name, not an address"),
            &format!("write dns:{text}"),
        ),
        Err((message, _)) => invalid(message, hint),
    }
}

/// `payments.example.com:443`, `192.0.2.1:80`, `[2001:db8::1]:443`; the host in lower case.
pub fn host_port(text: &str) -> Result<(String, u16), Invalid> {
    let hint = "write HOST:PORT, for example api.example.com:443";
    let Some((host, port)) = text.rsplit_once(':') else {
        return invalid(format!("{text} has no port"), hint);
    };
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    let port = match port.parse::<u16>() {
        Ok(port) if port > 0 && digits => port,
        _ => return invalid(format!("{port} is not a port"), hint),
    };
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let valid = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host_name(host).is_ok(),
    };
    if !valid {
        return invalid(format!("{host} is not a host"), hint);
    }
    Ok((host.to_ascii_lowercase(), port))
}

/// A DNS name or IPv4 address without port; the answer is in lower case.
pub fn host_name(text: &str) -> Result<String, Invalid> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(text.to_ascii_lowercase());
    }
    let hint = if text.contains('*') {
        "hosts are exact names: leave `host` out to match every host"
    } else if text.contains("://") || text.contains('/') {
        "write the name alone, without scheme and path"
    } else if text.contains(':') {
        "write the name alone, without port"
    } else {
        "write a DNS name, for example api.example.com"
    };
    invalid(format!("{text} is not a host name"), hint)
}

/// `10.0.0.0/8`, or one address.
pub fn cidr(text: &str) -> Result<IpNet, Invalid> {
    if let Ok(net) = text.parse::<IpNet>() {
        if net.trunc() != net {
            let hint = format!("write {}", net.trunc());
            return invalid(format!("{text} has bits beyond its prefix"), &hint);
        }
        return Ok(net);
    }
    match text.parse::<std::net::IpAddr>() {
        Ok(address) => Ok(address.into()),
        Err(_) => invalid(
            format!("{text} is not a network"),
            "write a CIDR, for example 10.0.0.0/8 or 2001:db8::/32",
        ),
    }
}

/// A date (its midnight, UTC) or an RFC 3339 time, as seconds since the epoch.
pub fn until(text: &str) -> Result<u64, Invalid> {
    let hint = "write a date (2026-12-31, its midnight in UTC) or 2026-12-31T18:00:00Z";
    let second = match text.parse::<jiff::civil::Date>() {
        Ok(date) if text.len() == 10 => date
            .to_zoned(jiff::tz::TimeZone::UTC)
            .map(|zoned| zoned.timestamp().as_second()),
        _ => text
            .parse::<jiff::Timestamp>()
            .map(jiff::Timestamp::as_second),
    };
    match second.map(u64::try_from) {
        Ok(Ok(second)) => Ok(second),
        _ => invalid(format!("{text} is not a date"), hint),
    }
}

/// A service's name: a DNS label in lower case, so that `NAME.mesh` is a host.
pub fn service_name(text: &str) -> Result<(), Invalid> {
    let valid = (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if valid {
        return Ok(());
    }
    invalid(
        format!("{text} cannot be a service's name"),
        "lower-case letters, digits and hyphens, a letter first, at most 63",
    )
}

/// A name of a role, an issuer, a claim, a limit, a label.
pub fn name(text: &str) -> Result<(), Invalid> {
    let valid = (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-/@".contains(&b));
    if valid {
        return Ok(());
    }
    invalid(
        format!("{text:?} cannot be a name"),
        "letters, digits and . _ - / @, at most 128",
    )
}

/// A trust domain (SPIFFE-ID §2.1).
pub fn trust_domain(text: &str) -> Result<(), Invalid> {
    let valid = (1..=255).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b));
    if valid {
        return Ok(());
    }
    invalid(
        format!("{text:?} is not a trust domain"),
        "lower-case letters, digits, dots, dashes and underscores, for example shop.test",
    )
}

/// An absolute path without query: of a route, a probe, a limit.
pub fn path(text: &str) -> Result<(), Invalid> {
    if !text.starts_with('/') {
        return invalid(
            format!("{text} does not begin with /"),
            &format!("write /{text}"),
        );
    }
    if let Some(odd) = text
        .chars()
        .find(|c| "?#*{}\\;".contains(*c) || c.is_whitespace())
    {
        return invalid(
            format!("{text} has a {odd:?}"),
            "write a plain path prefix, for example /orders",
        );
    }
    if text.contains("//") || text.split('/').any(|s| s == "." || s == "..") {
        return invalid(
            format!("{text} can match no request"),
            "requests are normalized first: no empty, . or .. segments",
        );
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return invalid(
            format!("{text} is not percent-encoded"),
            "write it as it stands in URLs",
        );
    }
    Ok(())
}

/// An `https` URL, or `http` to this host.
pub fn url(text: &str) -> Result<(), Invalid> {
    let hint = "write an https URL; http only to loopback";
    let Ok(uri) = text.parse::<http::Uri>() else {
        return invalid(format!("{text} is not a URL"), hint);
    };
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return invalid(format!("{text} is not a URL"), hint);
    };
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return invalid("the URL holds a user or a password", "leave them out");
    }
    let local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    if scheme == "https" || (scheme == "http" && local) {
        return Ok(());
    }
    invalid(format!("{scheme} does not protect what it fetches"), hint)
}

/// `5%`, `0.5%`: more than 0 and at most 100, as a number from 0 to 1.
pub fn share(text: &str) -> Result<f64, Invalid> {
    let hint = "write a percentage above 0, for example 5% or 0.5%";
    let number = text.strip_suffix('%').map(str::trim_end);
    let plain = |n: &&str| n.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match number.filter(plain).and_then(|n| n.parse::<f64>().ok()) {
        Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => invalid(format!("{text} is not a share"), hint),
    }
}

/// A claim: a JSON Pointer (RFC 6901), or the bare name of a top-level one.
pub fn claim_path(text: &str) -> Result<(), Invalid> {
    let bad_escape = text
        .match_indices('~')
        .any(|(at, _)| !matches!(text.as_bytes().get(at + 1), Some(b'0' | b'1')));
    if text.is_empty() || text == "/" || (text.starts_with('/') && bad_escape) {
        return invalid(
            format!("{text:?} names no claim"),
            "write a claim's name, or a JSON Pointer such as /realm_access/roles",
        );
    }
    Ok(())
}

/// A CORS origin: scheme, host and port, or `*`.
pub fn origin(text: &str) -> Result<(), Invalid> {
    let hint = "write scheme://host[:port], for example https://shop.test, or \"*\"";
    if text == "*" {
        return Ok(());
    }
    match text.split_once("://") {
        Some(("http" | "https", rest))
            if !rest.is_empty() && !rest.contains(['/', '?', '#', '@', '*', ' ']) =>
        {
            Ok(())
        }
        _ => invalid(format!("{text} is not an origin"), hint),
    }
}

/// `str::parse` would take a sign.
fn plain_number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_sizes_and_rates() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(duration("24h"), Ok(Duration::from_hours(24)));
        for bad in [
            "",
            "15",
            "s",
            "-1s",
            "1.5s",
            "1w",
            "99999999999999999999s",
            "999999999d",
            "１s",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("16 KiB"), Ok(16 << 10));
        for bad in ["1", "MiB", "1Mib", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        let five = rate("5/m").unwrap();
        assert_eq!(five.interval(), Duration::from_secs(12));
        assert_eq!(five.one_second(), 1);
        assert_eq!(rate("100/s").unwrap().one_second(), 100);
        for bad in ["0/s", "100", "/s", "-1/s", "100/y", "5000000000/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_and_hosts() {
        assert!(address("127.0.0.1:0").is_ok());
        assert!(address("[::1]:8443").is_ok());
        assert!(address("localhost:80").is_ok());
        assert!(address("shop.test:80").is_err());
        assert_eq!(
            app_address("unix:run/a.sock"),
            Ok(AppAddress::Unix("run/a.sock".into()))
        );
        assert_eq!(
            app_address("dns:db.test:80"),
            Ok(AppAddress::Dns("db.test".into(), 80))
        );
        let (_, hint) = app_address("db.test:80").unwrap_err();
        assert_eq!(hint.as_deref(), Some("write dns:db.test:80"));
        for bad in ["unix:", "dns:x", "127.0.0.1:0", "127.0.0.1", "9101"] {
            assert!(app_address(bad).is_err(), "{bad}");
        }
        for bad in [
            "x",
            "x:0",
            "x:70000",
            "http://x:80",
            "a b:80",
            ":80",
            "-x:80",
            "[x]:80",
        ] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
        assert_eq!(
            host_port("Api.Example.com:443"),
            Ok(("api.example.com".to_owned(), 443))
        );
        assert!(cidr("10.0.0.0/8").is_ok() && cidr("::1").is_ok());
        assert!(cidr("10.1.0.0/8").is_err() && cidr("10.0.0.0/33").is_err());
    }

    #[test]
    fn names_paths_and_dates() {
        for good in ["orders", "a", "a-1"] {
            assert!(service_name(good).is_ok(), "{good}");
        }
        for bad in ["", "Orders", "-a", "a-", "1a", "a_b", "a.b"] {
            assert!(service_name(bad).is_err(), "{bad}");
        }
        for bad in [
            "orders", "/a?b", "/a/*", "/a//b", "/a/../b", "/{id}", "/a b", "/é",
        ] {
            assert!(path(bad).is_err(), "{bad}");
        }
        assert_eq!(until("1970-01-02"), Ok(86_400));
        assert_eq!(until("1970-01-01T00:00:01Z"), Ok(1));
        for bad in ["tomorrow", "2026-13-01", "1969-01-01", "2026-12-31T18:00"] {
            assert!(until(bad).is_err(), "{bad}");
        }
        for bad in [
            "http://id.test",
            "ftp://x",
            "id.test",
            "https://u:p@id.test",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
        assert!(url("https://id.test/jwks").is_ok() && url("http://127.0.0.1:80/jwks").is_ok());
        for bad in ["", "/", "/a~b", "/~2"] {
            assert!(claim_path(bad).is_err(), "{bad}");
        }
        assert!(claim_path("https://x.test/role~s").is_ok());
    }
}
