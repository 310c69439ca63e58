//! The JWS vectors of Wycheproof, each difference with its reason.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::encoding::decode_base64url;
use super::super::jwks::KeySet;
use super::super::jws::Compact;

/// Vectors that Wycheproof calls valid and that are refused here.
fn refused_on_purpose(group: &Value, jws: &str) -> Option<&'static str> {
    let key = group.get("public").unwrap_or(&group["private"]);
    if key["kty"] == "oct" {
        return Some("HMAC needs a secret that every verifier could sign with");
    }
    if key["crv"] == "P-521" {
        return Some("ES512 is not among the algorithms that count");
    }
    let header = decode_base64url(jws.split('.').next().unwrap_or_default()).unwrap_or_default();
    let header: Value = serde_json::from_slice(&header).unwrap_or_default();
    if key["alg"] == "PS256" && header["alg"] == "PS384" {
        return Some("the key says PS256, the token PS384 (RFC 8725 §3.1: one algorithm a key)");
    }
    None
}

#[test]
fn vectors_are_judged_as_they_say() {
    let root = std::env::var_os("TESTUDO_CORPORA").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../../shared/corpora"
            ))
        },
        PathBuf::from,
    );
    let path = root.join("wycheproof-jose/json_web_signature_test.json");
    let Ok(text) = std::fs::read(&path) else {
        eprintln!("skipped: no corpus at {}", path.display());
        return;
    };
    let corpus: Value = serde_json::from_slice(&text).unwrap();
    let (mut run, mut accepted, mut differences, mut wrong) = (0, 0, 0, Vec::new());
    for group in corpus["testGroups"].as_array().unwrap() {
        // Groups with a secret have no public key; the set is then empty, as it should be.
        let key = group.get("public").unwrap_or(&group["private"]);
        let keys = KeySet::parse(json!({"keys": [key]}).to_string().as_bytes()).unwrap();
        for test in group["tests"].as_array().unwrap() {
            let id = test["tcId"].as_u64().unwrap();
            let jws = test["jws"].as_str().unwrap_or_default();
            let verified = Compact::parse(jws).is_ok_and(|token| keys.verify(&token).is_ok());
            let valid = test["result"] == "valid";
            run += 1;
            accepted += u32::from(verified);
            match (valid, verified, refused_on_purpose(group, jws)) {
                (true, true, None) | (false, false, _) => {}
                (true, false, Some(_)) => differences += 1,
                _ => wrong.push(format!("{id} {} {}", test["comment"], group["comment"])),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(run > 300, "{run} vectors");
    println!("{run} vectors, {accepted} accepted, {differences} refused on purpose");
    assert!(accepted > 10, "the corpus proves nothing if nothing passes");
}
