//! Credentials at the edge: what passes, what does not, and when a passing one stops passing.

mod attacks;
mod fixture;
mod keys;
mod wycheproof;

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use fixture::*;

pub(super) use fixture::{at, detail, reason, role_names, user};

#[test]
fn a_good_token_is_a_user_with_roles_and_claims() {
    let world = World::new();
    let token = world.token(&good());
    let user = user(world.ask(&token));
    assert_eq!(&*user.id, "shop:alice");
    assert_eq!((&*user.issuer, &*user.key), ("shop", "k1"));
    assert_eq!(role_names(&user), ["admin", "customer"]);
    assert_eq!(
        user.claims.get("tenant"),
        Some(&Claim::String(Arc::from("acme")))
    );
    assert_eq!(user.expires, Some(NOW + 300 + LEEWAY_SECONDS));
    assert_eq!(user.credential, sha256(token.as_bytes()));
    assert!(!user.is_anonymous() && User::anonymous().is_anonymous());
}

#[test]
fn what_issuers_really_send_passes() {
    let world = World::new();
    let claims = [
        good_but(json!({"aud": ["other", "shop-api"]})),
        good_but(json!({"exp": NOW as f64 + 10.9})),
        good_but(json!({"nbf": null, "iat": null, "jti": null})),
        good_but(json!({"sub": 17})),
        good_but(json!({"realm_access": null, "tenant": null})),
        good_but(json!({"iat": NOW + LEEWAY_SECONDS, "nbf": NOW + LEEWAY_SECONDS})),
        good_but(json!({"exp": NOW - LEEWAY_SECONDS + 1})),
    ];
    for claims in claims {
        user(world.ask(&world.token(&claims)));
    }
    for header in [
        json!({"alg": "ES256"}),
        json!({"alg": "ES256", "typ": "at+jwt", "kid": "k1"}),
        json!({"alg": "ES256", "typ": "application/AT+JWT", "kid": "k1"}),
        json!({"alg": "ES256", "typ": "jwt", "kid": "k1", "x5t": "abc", "nonce": "n"}),
    ] {
        user(world.ask(&world.key.token(&header, &good())));
    }
}

#[test]
fn one_credential_in_one_header() {
    let world = World::new();
    let token = world.token(&good());
    let bearer = format!("Bearer {token}");
    let ask = |headers: &[(&str, &str)]| world.ask_headers(headers, NOW);
    assert!(matches!(ask(&[]), Authn::Missing));
    assert!(matches!(ask(&[("cookie", &bearer)]), Authn::Missing));
    user(ask(&[("authorization", &format!("bEARER  {token}"))]));
    let refused: [&[(&str, &str)]; 10] = [
        &[("authorization", &bearer), ("authorization", &bearer)],
        &[("authorization", &bearer), ("x-api-key", "tk_a_b")],
        &[("x-api-key", "tk_a_b"), ("x-api-key", "tk_a_b")],
        &[("authorization", &token)],
        &[("authorization", "")],
        &[("authorization", "Bearer")],
        &[("authorization", "Bearer ")],
        &[("authorization", &format!("Basic {token}"))],
        &[("authorization", &format!("DPoP {token}"))],
        &[("x-api-key", "")],
    ];
    for headers in refused {
        assert_eq!(
            reason(&ask(headers)),
            Some(Reason::AuthnInvalid),
            "{headers:?}"
        );
    }
    let latin1 = http::HeaderValue::from_bytes(b"Bearer \xff").unwrap();
    let headers = HeaderMap::from_iter([(AUTHORIZATION, latin1)]);
    let authn = world.authenticators.authenticate(
        &world.ring,
        &world.revocations,
        &mut world.cache.borrow_mut(),
        &headers,
        at(NOW),
    );
    assert_eq!(reason(&authn), Some(Reason::AuthnInvalid));
}

#[test]
fn api_keys_and_tokens_stand_side_by_side() {
    let made = ApiKeys::generate("ci").unwrap();
    let entry = ApiKeyEntry {
        id: Arc::from("ci"),
        hash: *blake3::Hash::from_hex(&made.hash).unwrap().as_bytes(),
        user: Arc::from("ci"),
        roles: vec![Arc::from("robot")],
        expires: None,
    };
    let mut world = World::new();
    let rules = world.authenticators.issuers().cloned().collect();
    let keys = ApiKeys::new(vec![entry]).unwrap();
    world.authenticators = Authenticators::new(rules, Some(keys), true).unwrap();
    assert!(world.authenticators.forwards_credential());
    let robot = user(world.ask_headers(&[("X-Api-Key", &made.text)], NOW));
    assert_eq!((&*robot.id, role_names(&robot)), ("key:ci", vec!["robot"]));
    assert!(
        user(world.ask(&world.token(&good())))
            .id
            .starts_with("shop:")
    );
    // A key is not a bearer token, nor the other way round.
    let swapped = [
        ("authorization", format!("Bearer {}", *made.text)),
        ("x-api-key", world.token(&good())),
    ];
    for (name, value) in swapped {
        let authn = world.ask_headers(&[(name, &value)], NOW);
        assert_eq!(reason(&authn), Some(Reason::AuthnInvalid), "{name}");
    }
}

#[test]
fn rules_that_cannot_be_told_apart_are_refused() {
    let keys = || JwksSource::Inline(Arc::default());
    let one = || rule("shop", ISSUER, keys());
    let build = |rules| Authenticators::new(rules, None, false).err();
    assert_eq!(
        build(vec![one(), rule("shop", "https://b.test", keys())]),
        Some(AuthenticatorsError::SameName(Arc::from("shop")))
    );
    assert!(matches!(
        build(vec![one(), rule("b", ISSUER, keys())]),
        Some(AuthenticatorsError::SameIssuer { .. })
    ));
    for name in ["", "key", "anonymous", "a:b"] {
        assert_eq!(
            build(vec![rule(name, ISSUER, keys())]),
            Some(AuthenticatorsError::BadName(Arc::from(name)))
        );
    }
    let mut deaf = one();
    deaf.audiences.clear();
    assert_eq!(
        build(vec![deaf]),
        Some(AuthenticatorsError::NoAudience(Arc::from("shop")))
    );
}

#[test]
fn expiry_is_honoured_to_the_second_also_for_cached_tokens() {
    let world = World::new();
    let token = world.token(&good());
    let end = NOW + 300 + LEEWAY_SECONDS;
    user(world.ask_at(&token, NOW));
    assert_eq!(world.cache.borrow().len(), 1);
    user(world.ask_at(&token, end - 1));
    let late = world.ask_at(&token, end);
    assert_eq!(reason(&late), Some(Reason::AuthnExpired));
    assert_eq!(detail(&late), "the token expired 60 s ago");
    assert!(world.cache.borrow().is_empty());
}

#[test]
fn a_revocation_reaches_cached_tokens() {
    let mut world = World::new();
    let token = world.token(&good());
    let by_text = Revocation::of_token(&token);
    for (kind, value) in [
        (RevocationKind::User, "shop:alice"),
        (RevocationKind::Key, "k1"),
        (RevocationKind::Token, "token-1"),
        (by_text.kind, &by_text.value),
    ] {
        world.revocations = Revocations::default();
        user(world.ask(&token));
        let value = Arc::from(value);
        world.revocations = Revocations::new([Revocation { kind, value }]);
        for _ in 0..2 {
            let authn = world.ask(&token);
            assert_eq!(reason(&authn), Some(Reason::AuthnInvalid), "{kind:?}");
            assert!(world.cache.borrow().is_empty());
        }
    }
    let value = Arc::from("shop:bob");
    let kind = RevocationKind::User;
    world.revocations = Revocations::new([Revocation { kind, value }]);
    user(world.ask(&token));
    user(world.ask(&token));
}

#[test]
fn changed_rules_reach_cached_tokens() {
    let mut world = World::new();
    let token = world.token(&good());
    user(world.ask(&token));
    let mut rules: Vec<IssuerRule> = world.authenticators.issuers().cloned().collect();
    if let Some(roles) = rules[0].roles.as_mut() {
        roles.allow = Some([Arc::from("customer")].into_iter().collect());
    }
    world.authenticators = Authenticators::new(rules.clone(), None, false).unwrap();
    assert_eq!(role_names(&user(world.ask(&token))), ["customer"]);
    rules[0].audiences = vec![Arc::from("elsewhere")];
    world.authenticators = Authenticators::new(rules, None, false).unwrap();
    assert_eq!(reason(&world.ask(&token)), Some(Reason::AuthnInvalid));
    world.authenticators = Authenticators::new(Vec::new(), None, false).unwrap();
    assert_eq!(reason(&world.ask(&token)), Some(Reason::AuthnInvalid));
}

#[test]
fn a_failed_token_is_never_cached_or_shown() {
    let world = World::new();
    let token = world.token(&good_but(json!({"aud": "other"})));
    for _ in 0..2 {
        let authn = world.ask(&token);
        assert_eq!(reason(&authn), Some(Reason::AuthnInvalid));
        let shown = format!("{authn:?}");
        assert!(
            token.split('.').all(|part| !shown.contains(part)),
            "{shown}"
        );
    }
    assert!(world.cache.borrow().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let world = shared();
        if let Ok(value) = http::HeaderValue::from_bytes(&bytes) {
            for header in ["authorization", API_KEY_HEADER] {
                let name = http::HeaderName::from_static(header);
                let headers = HeaderMap::from_iter([(name, value.clone())]);
                let authn = world.0.authenticate(
                    &KeyRing::default(), &Revocations::default(), &mut TokenCache::default(),
                    &headers, at(NOW),
                );
                prop_assert!(!matches!(authn, Authn::User(_)));
            }
        }
        prop_assert!(KeySet::parse(&bytes).map_or(true, |set| set.is_empty()));
    }

    #[test]
    fn no_three_parts_panic(header in ".{0,40}", claims in ".{0,80}", signature in any::<[u8; 64]>()) {
        let token = [header.as_bytes(), claims.as_bytes(), &signature]
            .map(encoding::encode_base64url)
            .join(".");
        prop_assert!(reason(&ask_shared(&token)).is_some());
    }

    #[test]
    fn a_mutated_token_never_passes(
        position in any::<prop::sample::Index>(), byte in 0x21u8..0x7f, kind in 0u8..3,
    ) {
        let (_, token) = shared();
        let mut bytes = token.clone().into_bytes();
        let at = position.index(bytes.len());
        match kind {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            _ => { bytes.remove(at); }
        }
        let mutated = String::from_utf8(bytes).unwrap();
        prop_assume!(mutated != *token);
        prop_assert!(reason(&ask_shared(&mutated)).is_some(), "{}", mutated);
    }
}

/// One issuer and one good token for all cases.
fn shared() -> &'static (Authenticators, String) {
    static SHARED: std::sync::OnceLock<(Authenticators, String)> = std::sync::OnceLock::new();
    SHARED.get_or_init(|| {
        let world = World::new();
        let token = world.token(&good());
        (world.authenticators, token)
    })
}

fn ask_shared(token: &str) -> Authn {
    let value = http::HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    shared().0.authenticate(
        &KeyRing::default(),
        &Revocations::default(),
        &mut TokenCache::default(),
        &headers,
        at(NOW),
    )
}
