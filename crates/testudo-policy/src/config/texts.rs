//! The languages of the strings in `testudo.yaml`, by name: what each is called, how it is checked, how the JSON
//! Schema shows it.

use super::shape::Text;
use super::values;
use super::values::Invalid;

macro_rules! text {
    ($name:ident, $title:literal, $check:expr, $pattern:literal, [$($example:literal),*]) => {
        text!($name, $title, $check, $pattern, [$($example),*], false);
    };
    ($name:ident, $title:literal, $check:expr, $pattern:literal, [$($example:literal),*], $secret:literal) => {
        pub(crate) static $name: Text = Text {
            title: $title,
            check: $check,
            pattern: $pattern,
            examples: &[$($example),*],
            secret: $secret,
        };
    };
}

text!(TEXT, "a string", any_text, "", []);
text!(
    DURATION,
    "a duration",
    |t| checked(values::duration(t)),
    "^[0-9]+ *(ms|s|m|h|d)$",
    ["15s", "10m", "24h"]
);
text!(
    SIZE,
    "a size",
    |t| checked(values::size(t)),
    "^[0-9]+ *(B|[kKMG]B|[KMG]iB)$",
    ["1MiB", "16KiB"]
);
text!(
    SHARE,
    "a share",
    |t| checked(values::share(t)),
    "^[0-9]+(\\.[0-9]+)? *%$",
    ["5%", "0.5%"]
);
text!(
    PRINCIPAL,
    "a service's name, or a user as ISSUER:ID",
    principal,
    "^[^ ]+$",
    ["payments", "shop:alice"]
);
text!(
    WEBHOOK,
    "an https URL, ${file:PATH} or ${env:NAME}",
    values::url,
    "^(https?://|\\$\\{(env|file):)",
    ["https://hooks.example.com/mesh", "${env:SLACK_WEBHOOK}"],
    true
);
text!(
    SECRET,
    "${file:PATH} or ${env:NAME}",
    reference_only,
    "^\\$\\{(env|file):.+\\}$",
    ["${env:HOOK_SECRET}", "${file:/run/secrets/hook}"],
    true
);
text!(
    RATE,
    "a rate",
    |t| checked(values::rate(t)),
    "^[0-9]+ */ *(s|m|min|h|d)$",
    ["100/s", "5/m"]
);
text!(
    ADDRESS,
    "an address",
    |t| checked(values::address(t)),
    "^.+:[0-9]+$",
    ["127.0.0.1:8443", "[::1]:8443"]
);
text!(
    APP,
    "an application's address",
    |t| checked(values::app_address(t)),
    "^.+$",
    [
        "127.0.0.1:9101",
        "unix:run/orders.sock",
        "dns:orders.internal:9101"
    ]
);
text!(
    HOST_PORT,
    "a host and port",
    |t| checked(values::host_port(t)),
    "^.+:[0-9]+$",
    ["api.example.com:443"]
);
text!(
    HOST,
    "a host name",
    |t| checked(values::host_name(t)),
    "^[A-Za-z0-9._-]+$",
    ["api.shop.test"]
);
text!(
    CIDR,
    "a network",
    |t| checked(values::cidr(t)),
    "",
    ["10.0.0.0/8"]
);
text!(
    UNTIL,
    "a date",
    |t| checked(values::until(t)),
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}",
    ["2026-12-31", "2026-12-31T18:00:00Z"]
);
text!(
    SERVICE,
    "a service's name",
    values::service_name,
    "^[a-z][a-z0-9-]*$",
    ["orders"]
);
text!(
    NAME,
    "a name",
    values::name,
    "^[A-Za-z0-9._/@-]+$",
    ["customer"]
);
text!(
    TRUST_DOMAIN,
    "a trust domain",
    values::trust_domain,
    "^[a-z0-9._-]+$",
    ["shop.test"]
);
text!(PATH, "a path", values::path, "^/", ["/orders"]);
text!(
    ISSUER_ID,
    "an issuer's identifier",
    any_text,
    "",
    ["https://id.shop.test"]
);
text!(
    CLAIM,
    "a claim",
    values::claim_path,
    "",
    ["/sub", "roles", "/realm_access/roles"]
);
text!(
    ORIGIN,
    "an origin",
    values::origin,
    "",
    ["https://shop.test", "*"]
);
text!(
    FOLDER,
    "a folder of the bundle",
    file_path,
    "",
    ["policies"]
);
text!(
    FILES,
    "a path of the bundle, with * and **",
    file_path,
    "",
    ["teams/*.yaml"]
);
text!(
    KEYS_FILE,
    "a path of the bundle",
    file_path,
    "",
    ["keys/api-keys.yaml"]
);
text!(
    FILE,
    "a path of the bundle",
    file_path,
    "",
    ["apis/orders.yaml"]
);
text!(
    FILE_OR_URL,
    "a file or an https URL",
    file_or_url,
    "",
    ["keys/jwks.json", "https://id.shop.test/jwks"]
);
text!(
    SECRET_FILE,
    "a file, ${file:PATH} or ${env:NAME}",
    file_path,
    "",
    ["tls/edge.key", "${file:/run/secrets/edge.key}"],
    true
);
text!(COMMAND, "a command", command, "", ["./orders --port 9101"]);
text!(
    LIMIT_KEY,
    "what tells requests apart",
    limit_key,
    "^(user|service|address|all|header:.+|claim:.+)$",
    ["user", "header:x-tenant"]
);
text!(METHOD, "a method", method, "", ["GET"]);
text!(HEADER, "a header's name", header, "", ["content-type"]);
text!(
    LOCATION,
    "a target",
    location,
    "",
    ["https://shop.test/", "/home"]
);
text!(
    KEY_ID,
    "an API key's id",
    key_id,
    "^[A-Za-z0-9-]{1,64}$",
    ["reporting"]
);
text!(HASH, "the hash of a key", hash, "^[0-9a-fA-F]{64}$", []);

fn any_text(text: &str) -> Result<(), Invalid> {
    if text.trim().is_empty() {
        return Err(("it is empty".to_owned(), None));
    }
    Ok(())
}

fn principal(text: &str) -> Result<(), Invalid> {
    let fine = |c: char| !c.is_whitespace() && !c.is_control();
    let named = match text.split_once(':') {
        Some((issuer, id)) => !issuer.is_empty() && !id.is_empty(),
        None => !text.is_empty(),
    };
    if named && text.chars().all(fine) {
        return Ok(());
    }
    let hint = "write a service's name, or ISSUER:ID".to_owned();
    Err((format!("{text:?} names nobody"), Some(hint)))
}

/// References have passed before; what stands here may be the secret itself and must not be shown.
fn reference_only(_: &str) -> Result<(), Invalid> {
    let hint = "write ${env:NAME} or ${file:PATH}: secrets never enter a bundle".to_owned();
    Err(("a secret cannot stand here".to_owned(), Some(hint)))
}

fn checked<T>(result: Result<T, Invalid>) -> Result<(), Invalid> {
    result.map(|_| ())
}

fn file_path(text: &str) -> Result<(), Invalid> {
    let hint = "write a path relative to this file".to_owned();
    if text.is_empty() || text.contains("://") || text.contains(char::is_control) {
        return Err((format!("{text:?} is not a path"), Some(hint)));
    }
    Ok(())
}

fn file_or_url(text: &str) -> Result<(), Invalid> {
    if text.contains("://") {
        values::url(text)
    } else {
        file_path(text)
    }
}

fn command(text: &str) -> Result<(), Invalid> {
    match shell_words::split(text) {
        Ok(words) if !words.is_empty() => Ok(()),
        Ok(_) => Err(("the command is empty".to_owned(), None)),
        Err(error) => Err((format!("the command cannot be split: {error}"), None)),
    }
}

fn limit_key(text: &str) -> Result<(), Invalid> {
    let hint = Some("user, service, address, header:NAME, claim:NAME or all".to_owned());
    match text.split_once(':') {
        None if matches!(text, "user" | "service" | "address" | "all") => Ok(()),
        Some(("header", name)) if name.parse::<http::HeaderName>().is_ok() => Ok(()),
        Some(("claim", name)) => values::name(name),
        _ => Err((format!("{text} does not tell requests apart"), hint)),
    }
}

fn method(text: &str) -> Result<(), Invalid> {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    if known.contains(&text) {
        return Ok(());
    }
    let upper = text.to_uppercase();
    let hint = if known.contains(&upper.as_str()) {
        format!("write {upper}")
    } else {
        known.join(" ")
    };
    Err((format!("{text} is not a method that is served"), Some(hint)))
}

fn header(text: &str) -> Result<(), Invalid> {
    match text.parse::<http::HeaderName>() {
        Ok(_) => Ok(()),
        Err(_) => Err((format!("{text:?} is not a header's name"), None)),
    }
}

fn location(text: &str) -> Result<(), Invalid> {
    let absolute = text.starts_with("https://") || text.starts_with("http://");
    if (absolute || (text.starts_with('/') && !text.starts_with("//")))
        && text.bytes().all(|b| b.is_ascii_graphic())
    {
        return Ok(());
    }
    let hint = "write an absolute URL, or a path beginning with /".to_owned();
    Err((format!("{text} is no target"), Some(hint)))
}

fn key_id(text: &str) -> Result<(), Invalid> {
    let valid = (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if valid {
        return Ok(());
    }
    let hint = "1 to 64 letters, digits and hyphens".to_owned();
    Err(("not an API key's id".to_owned(), Some(hint)))
}

fn hash(text: &str) -> Result<(), Invalid> {
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    // Somebody may have pasted the key itself: it must not be shown.
    let hint = "64 hex digits, as `testudo identity api-key` prints them".to_owned();
    Err(("not the hash of a key".to_owned(), Some(hint)))
}
