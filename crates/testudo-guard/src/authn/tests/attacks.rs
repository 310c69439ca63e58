//! Forged, confused, foreign and malformed tokens (RFC 8725). Each row names the attack and the words of
//! the refusal, so that no row passes for another row's reason.

use serde_json::{Value, json};

use super::super::encoding::{decode_base64url, encode_base64url};
use super::super::*;
use super::fixture::*;

fn header(changes: Value) -> Value {
    let mut header = json!({"alg": "ES256", "typ": "JWT", "kid": "k1"});
    for (name, value) in changes.as_object().unwrap() {
        header[name] = value.clone();
    }
    header
}

/// HMAC-SHA-256 with a key of the attacker's choice.
fn hmac_token(secret: &[u8], claims: &Value) -> String {
    use aws_lc_rs::hmac;
    let header = json!({"alg": "HS256", "typ": "JWT", "kid": "k1"});
    let input = [header.to_string(), claims.to_string()]
        .map(encode_base64url)
        .join(".");
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, input.as_bytes());
    format!("{input}.{}", encode_base64url(tag))
}

fn assert_refused(world: &World, rows: Vec<(&str, String, &str)>) {
    for (attack, token, words) in rows {
        let authn = world.ask(&token);
        let expected = match words.starts_with("expired") {
            true => Reason::AuthnExpired,
            false => Reason::AuthnInvalid,
        };
        assert_eq!(reason(&authn), Some(expected), "{attack}: {authn:?}");
        assert!(detail(&authn).contains(words), "{attack}: {authn:?}");
    }
    assert!(world.cache.borrow().is_empty());
}

#[test]
fn unsigned_and_wrongly_signed() {
    let world = World::new();
    let thief = Key::p256();
    let (input, _) = world.token(&good()).rsplit_once('.').map(own).unwrap();
    let unsigned = |alg: &str, signature: &str| {
        let parts =
            [header(json!({"alg": alg})), good()].map(|part| encode_base64url(part.to_string()));
        format!("{}.{signature}", parts.join("."))
    };
    let zeros = encode_base64url([0; 64]);
    let cases = vec![
        (
            "another key",
            thief.token(&header(json!({})), &good()),
            "signature",
        ),
        ("alg none", unsigned("none", ""), "compact JWS"),
        (
            "alg none, signed",
            unsigned("none", "AA"),
            "not one of those",
        ),
        ("alg nOnE", unsigned("nOnE", "AA"), "not one of those"),
        ("alg empty", unsigned("", "AA"), "not one of those"),
        ("no signature", format!("{input}."), "compact JWS"),
        ("no third part", input.clone(), "compact JWS"),
        ("zero signature", format!("{input}.{zeros}"), "signature"),
        ("short signature", format!("{input}.AAAA"), "signature"),
    ];
    assert_refused(&world, cases);
}

#[test]
fn confused_algorithms() {
    let world = World::new();
    let thief = Key::p256();
    let forged = |changes| thief.token(&header(changes), &good());
    let jwk = world.key.jwk();
    let x = jwk["x"].as_str().unwrap().as_bytes();
    let cases = vec![
        (
            "HMAC with the public JWK",
            hmac_token(jwk.to_string().as_bytes(), &good()),
            "not one of those",
        ),
        (
            "HMAC with the point",
            hmac_token(x, &good()),
            "not one of those",
        ),
        (
            "HMAC with nothing",
            hmac_token(b"", &good()),
            "not one of those",
        ),
        (
            "alg of RSA on an EC key",
            forged(json!({"alg": "RS256"})),
            "not for the token's algorithm",
        ),
        (
            "alg of another curve",
            forged(json!({"alg": "ES384"})),
            "not for the token's algorithm",
        ),
        (
            "alg EdDSA on an EC key",
            forged(json!({"alg": "EdDSA"})),
            "not for the token's algorithm",
        ),
        (
            "alg in lower case",
            forged(json!({"alg": "es256"})),
            "not one of those",
        ),
        (
            "alg not a string",
            forged(json!({"alg": ["ES256"]})),
            "not a short string",
        ),
        (
            "no alg",
            thief.token_of_text("", r#"{"kid":"k1"}"#, &good().to_string()),
            "no `alg`",
        ),
    ];
    assert_refused(&world, cases);
}

#[test]
fn keys_of_the_attackers_choice() {
    let world = World::new();
    let thief = Key::p256();
    let forged = |changes| thief.token(&header(changes), &good());
    let cases = vec![
        (
            "own jwk in the header",
            forged(json!({"jwk": thief.jwk()})),
            "signature",
        ),
        (
            "jku",
            forged(json!({"jku": "https://evil.test/jwks.json"})),
            "signature",
        ),
        (
            "x5u",
            forged(json!({"x5u": "https://evil.test/chain.pem"})),
            "signature",
        ),
        ("x5c", forged(json!({"x5c": ["MIIB"]})), "signature"),
        (
            "kid as a path",
            forged(json!({"kid": "../../dev/null"})),
            "no key of the issuer",
        ),
        (
            "kid as SQL",
            forged(json!({"kid": "' OR 1=1 --"})),
            "no key of the issuer",
        ),
        (
            "kid not a string",
            forged(json!({"kid": 1})),
            "not a short string",
        ),
        (
            "kid without end",
            forged(json!({"kid": "k".repeat(300)})),
            "not a short string",
        ),
        (
            "no kid",
            thief.token(&json!({"alg": "ES256"}), &good()),
            "no key of the issuer",
        ),
    ];
    assert_refused(&world, cases);
}

fn own((input, signature): (&str, &str)) -> (String, String) {
    (input.to_owned(), signature.to_owned())
}

#[test]
fn extensions_and_other_kinds_of_token() {
    let world = World::new();
    let signed = |changes| world.key.token(&header(changes), &good());
    assert_refused(
        &world,
        vec![
            (
                "unknown crit",
                signed(json!({"crit": ["exp"], "exp": 1})),
                "crit",
            ),
            ("empty crit", signed(json!({"crit": []})), "crit"),
            (
                "b64",
                signed(json!({"b64": false, "crit": ["b64"]})),
                "crit",
            ),
            ("b64 alone", signed(json!({"b64": false})), "b64"),
            ("JWE", signed(json!({"enc": "A128GCM"})), "enc"),
            ("compressed", signed(json!({"zip": "DEF"})), "zip"),
            (
                "transaction token",
                signed(json!({"typ": "txntoken+jwt"})),
                "type",
            ),
            ("DPoP proof", signed(json!({"typ": "dpop+jwt"})), "type"),
            ("logout token", signed(json!({"typ": "logout+jwt"})), "type"),
            ("typ empty", signed(json!({"typ": ""})), "type"),
            (
                "typ not a string",
                signed(json!({"typ": null})),
                "not a short string",
            ),
        ],
    );
}

#[test]
fn claims_about_issuer_and_audience() {
    let world = World::new();
    let but = |changes| world.token(&good_but(changes));
    let cases = vec![
        (
            "another issuer",
            but(json!({"iss": "https://evil.test"})),
            "not a trusted issuer",
        ),
        (
            "issuer with a slash more",
            but(json!({"iss": format!("{ISSUER}/")})),
            "not a trusted issuer",
        ),
        (
            "issuer in other case",
            but(json!({"iss": ISSUER.to_uppercase()})),
            "not a trusted issuer",
        ),
        ("no issuer", but(json!({"iss": null})), "no `iss`"),
        ("issuer list", but(json!({"iss": [ISSUER]})), "not a string"),
        (
            "another audience",
            but(json!({"aud": "bank"})),
            "another audience",
        ),
        (
            "audience as prefix",
            but(json!({"aud": "shop-"})),
            "another audience",
        ),
        ("no audience", but(json!({"aud": null})), "no `aud`"),
        (
            "empty audience list",
            but(json!({"aud": []})),
            "another audience",
        ),
        (
            "audience list with a number",
            but(json!({"aud": ["shop", 1]})),
            "another audience",
        ),
        (
            "audience object",
            but(json!({"aud": {"shop": 1}})),
            "another audience",
        ),
    ];
    assert_refused(&world, cases);
}

#[test]
fn claims_about_time() {
    let world = World::new();
    let but = |changes| world.token(&good_but(changes));
    let cases = vec![
        (
            "expired",
            but(json!({"exp": NOW - LEEWAY_SECONDS})),
            "expired 60 s ago",
        ),
        ("long expired", but(json!({"exp": 0})), "expired"),
        ("no expiry", but(json!({"exp": null})), "no `exp`"),
        (
            "expiry as text",
            but(json!({"exp": (NOW + 9).to_string()})),
            "not a date",
        ),
        ("negative expiry", but(json!({"exp": -1})), "not a date"),
        (
            "endless expiry",
            but(json!({"exp": u64::MAX})),
            "not a date",
        ),
        (
            "huge float expiry",
            but(json!({"exp": 1e300})),
            "not a date",
        ),
        (
            "not yet",
            but(json!({"nbf": NOW + LEEWAY_SECONDS + 1})),
            "lies ahead",
        ),
        ("nbf as text", but(json!({"nbf": "0"})), "not a date"),
        (
            "issued in the future",
            but(json!({"iat": NOW + LEEWAY_SECONDS + 1})),
            "lies ahead",
        ),
    ];
    assert_refused(&world, cases);
}

#[test]
fn claims_about_the_user() {
    let world = World::new();
    let but = |changes| world.token(&good_but(changes));
    let cases = vec![
        ("no id", but(json!({"sub": null})), "has no /sub"),
        ("empty id", but(json!({"sub": ""})), "user's id"),
        (
            "id with a line break",
            but(json!({"sub": "alice\r\nx-testudo-roles: admin"})),
            "user's id",
        ),
        ("id as list", but(json!({"sub": ["alice"]})), "has no /sub"),
        (
            "roles as numbers",
            but(json!({"realm_access": {"roles": [1]}})),
            "roles are not strings",
        ),
        (
            "roles as object",
            but(json!({"realm_access": {"roles": {}}})),
            "neither",
        ),
        (
            "declared claim as object",
            but(json!({"tenant": {}})),
            "claim tenant",
        ),
        (
            "declared claim as fraction",
            but(json!({"tenant": 0.5})),
            "claim tenant",
        ),
        ("bound to a key", but(json!({"cnf": {"jkt": "abc"}})), "cnf"),
        ("jti not a string", but(json!({"jti": 7})), "jti"),
    ];
    assert_refused(&world, cases);
}

/// The claims are signed by the issuer: what matters is that two readers could disagree.
#[test]
fn spelling() {
    let world = World::new();
    let text = good().to_string();
    let plain = r#"{"alg":"ES256","kid":"k1"}"#;
    let signed = |header: &str, claims: &str| world.key.token_of_text("ES256", header, claims);
    let with_member = |member: &str| format!("{},{member}}}", text.strip_suffix('}').unwrap());
    let token = world.token(&good());
    let standard = |part: usize| {
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        parts[part].push('=');
        parts.join(".")
    };
    // The last character of 64 bytes carries two unused bits.
    let twin = {
        let mut bytes = token.clone().into_bytes();
        let last = bytes.pop().unwrap();
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let at = alphabet.iter().position(|byte| *byte == last).unwrap();
        bytes.push(alphabet[at ^ 1]);
        String::from_utf8(bytes).unwrap()
    };
    assert_refused(
        &world,
        vec![
            (
                "two subs",
                signed(plain, &with_member(r#""sub":"admin""#)),
                "occurs twice",
            ),
            (
                "two subs, escaped",
                signed(plain, &with_member(r#""\u0073ub":"admin""#)),
                "occurs twice",
            ),
            (
                "two exps",
                signed(plain, &with_member(r#""exp":99999999999"#)),
                "occurs twice",
            ),
            (
                "two within",
                signed(plain, &with_member(r#""x":{"a":1,"a":2}"#)),
                "occurs twice",
            ),
            (
                "two algs",
                signed(r#"{"alg":"none","alg":"ES256"}"#, &text),
                "occurs twice",
            ),
            (
                "two kids",
                signed(r#"{"alg":"ES256","kid":"k1","kid":"k2"}"#, &text),
                "occurs twice",
            ),
            (
                "text after the claims",
                signed(plain, &format!("{text}{{}}")),
                "claims",
            ),
            ("claims as list", signed(plain, "[]"), "not a JSON object"),
            ("claims empty", signed(plain, ""), "claims"),
            (
                "lone surrogate",
                signed(plain, &with_member(r#""x":"\ud800""#)),
                "claims",
            ),
            (
                "header as text",
                signed(r#""ES256""#, &text),
                "not a JSON object",
            ),
            ("padding in the header", standard(0), "base64url"),
            ("padding in the claims", standard(1), "base64url"),
            ("padding in the signature", standard(2), "base64url"),
            ("unused bits", twin, "base64url"),
            ("white space", token.replace('.', " ."), "base64url"),
            ("a fourth part", format!("{token}.AA"), "compact JWS"),
            ("a fifth part", format!("{token}.AA.AA"), "compact JWS"),
            ("empty parts", String::from(".."), "compact JWS"),
            ("no parts", String::from("x"), "compact JWS"),
            (
                "JSON serialization",
                format!(r#"{{"payload":"{token}"}}"#),
                "base64url",
            ),
            (
                "huge",
                world.token(&good_but(json!({"x": "y".repeat(9000)}))),
                "longer than 8 KiB",
            ),
            ("huge garbage", "a.".repeat(5000), "longer than 8 KiB"),
            (
                "deep",
                signed(
                    plain,
                    &with_member(&format!(r#""x":{}{}"#, "[".repeat(300), "]".repeat(300))),
                ),
                "claims",
            ),
        ],
    );
}

#[test]
fn one_issuers_key_never_signs_for_another() {
    let (one, other) = (Key::p256(), Key::p256());
    let source = |key: &Key| JwksSource::Inline(set(&[with(key.jwk(), json!({"kid": "k1"}))]));
    let bank = "https://bank.test";
    let mut world = World::of(Key::p256(), rule("shop", ISSUER, source(&one)));
    let rules = vec![
        rule("shop", ISSUER, source(&one)),
        rule("bank", bank, source(&other)),
    ];
    world.authenticators = Authenticators::new(rules, None, false).unwrap();
    let claims = good_but(json!({"iss": bank}));
    let authn = world.ask(&one.token(&header(json!({})), &claims));
    assert_eq!(reason(&authn), Some(Reason::AuthnInvalid));
    let authn = world.ask(&other.token(&header(json!({})), &good()));
    assert_eq!(reason(&authn), Some(Reason::AuthnInvalid));
    let carol = user(world.ask(&other.token(&header(json!({})), &claims)));
    assert_eq!(&*carol.id, "bank:alice", "the same `sub` is another user");
}

/// Anybody can turn the ECDSA signature (r, s) of a token into (r, n - s), which is as valid.
#[test]
fn a_revoked_token_has_no_twin() {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut world = World::new();
    let token = world.token(&good());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = decode_base64url(signature).unwrap();
    let mut borrow = 0;
    for at in (0..32).rev() {
        let difference = i32::from(ORDER[at]) - i32::from(signature[32 + at]) - borrow;
        borrow = i32::from(difference < 0);
        signature[32 + at] = difference.rem_euclid(256).try_into().unwrap();
    }
    let twin = format!("{signed}.{}", encode_base64url(signature));
    assert_ne!(
        user(world.ask(&token)).credential,
        user(world.ask(&twin)).credential
    );
    world.revocations = Revocations::new([Revocation::of_token(&token)]);
    for text in [token, twin] {
        assert_eq!(reason(&world.ask(&text)), Some(Reason::AuthnInvalid));
    }
}
