//! Key sets: which keys count, for what, and what becomes of tokens when they change.

use std::sync::atomic::{AtomicU32, Ordering};

use aws_lc_rs::rsa::KeySize;
use serde_json::{Value, json};

use super::super::encoding::encode_base64url;
use super::super::*;
use super::fixture::*;

fn parsed(keys: Value) -> KeySet {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap()
}

fn world_with(key: Key, jwk: Value) -> World {
    World::of(key, rule("shop", ISSUER, JwksSource::Inline(set(&[jwk]))))
}

#[test]
fn each_algorithm_verifies_its_own_and_no_other() {
    let keys = [
        (
            Key::rsa(KeySize::Rsa2048),
            vec!["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        ),
        (Key::p256(), vec!["ES256"]),
        (Key::p384(), vec!["ES384"]),
        (Key::ed25519(), vec!["EdDSA"]),
    ];
    for (key, algorithms) in keys {
        let jwk = with(
            key.jwk(),
            json!({"kid": "k", "use": "sig", "key_ops": ["verify"]}),
        );
        let world = world_with(key, jwk);
        for signed in &algorithms {
            for claimed in &algorithms {
                let header = json!({"alg": claimed, "kid": "k"}).to_string();
                let token = world
                    .key
                    .token_of_text(signed, &header, &good().to_string());
                let passed = matches!(world.ask(&token), Authn::User(_));
                assert_eq!(passed, signed == claimed, "{signed} as {claimed}");
            }
        }
    }
}

#[test]
fn a_key_with_an_algorithm_verifies_that_one_alone() {
    let key = Key::rsa(KeySize::Rsa2048);
    let jwk = with(key.jwk(), json!({"kid": "k", "alg": "PS256"}));
    let world = world_with(key, jwk);
    let token = |alg: &str| world.key.token(&json!({"alg": alg, "kid": "k"}), &good());
    user(world.ask(&token("PS256")));
    let confused = world.ask(&token("RS256"));
    assert_eq!(
        detail(&confused),
        "the token's key is not for the token's algorithm"
    );
}

#[test]
fn one_bad_key_does_not_spoil_the_set() {
    let (rsa, ec) = (Key::rsa(KeySize::Rsa2048), Key::p256());
    let short = encode_base64url([0xc1; 128]);
    let ec_but = |members| with(ec.jwk(), members);
    let rsa_but = |members| with(rsa.jwk(), members);
    let x = ec.jwk()["x"].clone();
    let bad = [
        (json!({"kty": "oct", "k": "c2VjcmV0"}), "unknown key type"),
        (
            json!({"kty": "AKP", "alg": "ML-DSA-44"}),
            "unknown key type",
        ),
        (json!({}), "no `kty`"),
        (json!(7), "not a JSON object"),
        (json!(null), "not a JSON object"),
        (ec_but(json!({"crv": "P-521"})), "unknown curve"),
        (ec_but(json!({"crv": "secp256k1"})), "unknown curve"),
        (ec_but(json!({"crv": "P-384"})), "48 bytes"),
        (ec_but(json!({"y": x})), "not a valid key"),
        (ec_but(json!({"x": encode_base64url([0; 31])})), "32 bytes"),
        (
            ec_but(json!({"x": format!("{}=", x.as_str().unwrap())})),
            "base64url",
        ),
        (ec_but(json!({"use": "enc"})), "`use`"),
        (ec_but(json!({"use": ["sig"]})), "`use`"),
        (ec_but(json!({"key_ops": ["sign"]})), "`key_ops`"),
        (ec_but(json!({"key_ops": "verify"})), "`key_ops`"),
        (ec_but(json!({"alg": "RS256"})), "does not fit"),
        (ec_but(json!({"alg": "HS256"})), "not one of those"),
        (ec_but(json!({"alg": "ECDH-ES"})), "not one of those"),
        (ec_but(json!({"alg": 5})), "`alg`"),
        (ec_but(json!({"kid": 5})), "`kid`"),
        (ec_but(json!({"d": x})), "private key"),
        (rsa_but(json!({"n": short})), "1024 bits"),
        (rsa_but(json!({"n": ""})), "0 bits"),
        (rsa_but(json!({"e": "AQ"})), "exponent"),
        (rsa_but(json!({"e": "Ag"})), "exponent"),
        (rsa_but(json!({"e": ""})), "exponent"),
        (
            rsa_but(json!({"e": encode_base64url([0xff; 9])})),
            "exponent",
        ),
        (
            json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
            "32 bytes",
        ),
        (
            json!({"kty": "OKP", "crv": "X25519", "x": x}),
            "unknown curve",
        ),
    ];
    let mut keys: Vec<Value> = bad.iter().map(|(key, _)| key.clone()).collect();
    keys.push(ec.jwk());
    let set = parsed(Value::from(keys));
    assert_eq!((set.len(), set.skipped().len()), (1, bad.len()));
    for (skipped, (key, words)) in set.skipped().iter().zip(&bad) {
        assert!(skipped.contains(words), "{key}: {skipped}");
    }
    let twice = r#"{"keys":[{"kty":"EC","kty":"RSA"},{"kty":"oct"}]}"#;
    assert_eq!(KeySet::parse(twice.as_bytes()).unwrap().skipped().len(), 2);
}

#[test]
fn sets_are_bounded_and_must_be_sets() {
    let many: Vec<Value> = (0..=KeySet::MAX_KEYS).map(|_| json!({})).collect();
    let text = json!({"keys": many}).to_string();
    assert_eq!(
        KeySet::parse(text.as_bytes()).err(),
        Some(JwksError::TooMany(KeySet::MAX_KEYS + 1))
    );
    let large = vec![b' '; KeySet::MAX_BYTES + 1];
    assert_eq!(
        KeySet::parse(&large).err(),
        Some(JwksError::TooLarge(KeySet::MAX_BYTES + 1))
    );
    for bad in [
        "",
        "{}",
        "[]",
        r#"{"keys":{}}"#,
        r#"{"keys":[}"#,
        r#"{"keys":[],"keys":[]}"#,
        "<html>",
    ] {
        assert!(
            matches!(KeySet::parse(bad.as_bytes()), Err(JwksError::Json(_))),
            "{bad}"
        );
    }
    assert!(parsed(json!([])).is_empty());
}

#[test]
fn a_kid_chooses_and_keys_without_one_are_tried() {
    let keys: Vec<Key> = (0..6).map(|_| Key::p256()).collect();
    let named: Vec<Value> = keys
        .iter()
        .enumerate()
        .map(|(n, key)| with(key.jwk(), json!({"kid": format!("k{n}")})))
        .collect();
    let bare: Vec<Value> = keys.iter().map(Key::jwk).collect();
    let verdict = |set_of: &[Value], signer: usize, kid: Option<&str>| {
        let world = World::of(
            Key::p256(),
            rule("shop", ISSUER, JwksSource::Inline(set(set_of))),
        );
        let header = match kid {
            Some(kid) => json!({"alg": "ES256", "kid": kid}),
            None => json!({"alg": "ES256"}),
        };
        matches!(
            world.ask(&keys[signer].token(&header, &good())),
            Authn::User(_)
        )
    };
    assert!(
        verdict(&named, 5, Some("k5")),
        "a kid finds its key however many there are"
    );
    assert!(
        !verdict(&named, 5, Some("k4")),
        "a kid does not fall back to other keys"
    );
    assert!(!verdict(&named, 5, Some("k9")));
    assert!(
        verdict(&named, 3, None),
        "without a kid, fitting keys are tried"
    );
    assert!(!verdict(&named, 4, None), "at most four");
    assert!(
        verdict(&bare[..2], 1, Some("new")),
        "a set without kids serves tokens with one"
    );
    let mut shared = named.clone();
    shared[1]["kid"] = json!("k0");
    assert!(verdict(&shared, 0, Some("k0")) && verdict(&shared, 1, Some("k0")));
}

#[test]
fn leading_zeros_of_a_modulus_are_no_trouble() {
    let key = Key::rsa(KeySize::Rsa2048);
    let mut jwk = key.jwk();
    let clean = parsed(json!([jwk]));
    let n = encoding::decode_base64url(jwk["n"].as_str().unwrap()).unwrap();
    jwk["n"] = json!(encode_base64url([&[0, 0], n.as_slice()].concat()));
    let padded = parsed(json!([jwk]));
    assert_eq!((padded.len(), padded.stamp()), (1, clean.stamp()));
}

#[test]
fn thumbprints_are_those_of_rfc_7638() {
    // §3.1
    let jwk = json!({
        "kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
        "n": concat!(
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRX",
            "jBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSq",
            "zs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHa",
            "Q-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
        )
    });
    let revoked = Revocations::new([Revocation {
        kind: RevocationKind::Key,
        value: Arc::from("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
    }]);
    assert!(parsed(json!([jwk])).keys_revoked_by(&revoked));
}

/// A key set behind a URL, at several moments.
#[test]
fn keys_come_late_rotate_and_go() {
    let (old, new) = (Key::p256(), Key::p256());
    let source = JwksSource::Url(Arc::from("https://id.shop.test/jwks"));
    let issuer = rule("shop", ISSUER, source);
    let name = issuer.key_source().unwrap();
    let mut world = World::of(Key::p256(), issuer);
    let header = |kid: &str| json!({"alg": "ES256", "kid": kid});
    let (old_token, new_token) = (
        old.token(&header("old"), &good()),
        new.token(&header("new"), &good()),
    );
    let calls = Arc::new(AtomicU32::new(0));
    let want = {
        let calls = calls.clone();
        Want::new(move || {
            calls.fetch_add(1, Ordering::Relaxed);
        })
    };
    let ring =
        |keys: Option<Arc<KeySet>>| KeyRing::default().with(name.clone(), keys, want.clone());

    assert_eq!(
        reason(&world.ask(&old_token)),
        Some(Reason::AuthnUnavailable),
        "no such source"
    );
    world.ring = ring(None);
    assert_eq!(
        reason(&world.ask(&old_token)),
        Some(Reason::AuthnUnavailable),
        "never fetched"
    );
    assert!(want.take());

    let old_jwk = with(old.jwk(), json!({"kid": "old"}));
    world.ring = ring(Some(set(std::slice::from_ref(&old_jwk))));
    user(world.ask(&old_token));
    calls.store(0, Ordering::Relaxed);
    for _ in 0..5 {
        assert_eq!(reason(&world.ask(&new_token)), Some(Reason::AuthnInvalid));
    }
    assert_eq!(
        calls.load(Ordering::Relaxed),
        1,
        "one wish until it is taken"
    );
    assert!(want.take() && !want.take());
    let forged = Key::p256().token(&header("old"), &good());
    assert_eq!(reason(&world.ask(&forged)), Some(Reason::AuthnInvalid));
    assert!(
        !want.take(),
        "a bad signature under a known kid asks for nothing"
    );

    world.ring = ring(Some(set(&[
        old_jwk,
        with(new.jwk(), json!({"kid": "new"})),
    ])));
    user(world.ask(&new_token));
    user(world.ask(&old_token));
    world.ring = ring(Some(set(&[with(new.jwk(), json!({"kid": "new"}))])));
    assert_eq!(
        reason(&world.ask(&old_token)),
        Some(Reason::AuthnInvalid),
        "a withdrawn key counts no more, cached or not"
    );
    user(world.ask(&new_token));
    world.ring = world.ring.without(&name);
    assert_eq!(
        reason(&world.ask(&new_token)),
        Some(Reason::AuthnUnavailable)
    );
}

#[test]
fn one_issuer_without_keys_does_not_hurt_another() {
    let key = Key::p256();
    let keys = set(&[with(key.jwk(), json!({"kid": "k1"}))]);
    let mut world = World::of(key, rule("shop", ISSUER, JwksSource::Inline(keys.clone())));
    let rules = vec![
        rule("down", "https://down.test", JwksSource::Discovery),
        rule("shop", ISSUER, JwksSource::Inline(keys)),
    ];
    world.authenticators = Authenticators::new(rules, None, false).unwrap();
    user(world.ask(&world.token(&good())));
    let claims = good_but(json!({"iss": "https://down.test"}));
    let authn = world.ask(&world.token(&claims));
    assert_eq!(reason(&authn), Some(Reason::AuthnUnavailable));
}

#[test]
fn another_source_never_keeps_the_old_sources_keys() {
    let source = |url: &str| rule("shop", ISSUER, JwksSource::Url(Arc::from(url))).key_source();
    assert_ne!(source("https://a.test/k"), source("https://b.test/k"));
    let discovery = |issuer: &str| rule("shop", issuer, JwksSource::Discovery).key_source();
    assert_ne!(discovery("https://a.test"), discovery("https://b.test"));
    assert_ne!(discovery("https://a.test"), source("https://a.test"));
    assert_eq!(
        rule("shop", ISSUER, JwksSource::Inline(set(&[]))).key_source(),
        None
    );
}
