//! Names for credentials in events: the same credential has the same name, and the name tells nothing.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use http::header::{AUTHORIZATION, HeaderMap};

use super::{API_KEY_HEADER, User, jws};

/// Names credentials for events ([`testudo_model::Event::credential`]).
///
/// One that is right has the same name at every gateway: it holds enough chance that a hash cannot be
/// turned back. One that is wrong can be anything, a password in the wrong place too; its name is keyed
/// with a secret of this process, so that nobody who reads the log can try guesses.
pub struct Fingerprints {
    key: Option<[u8; 32]>,
}

impl Default for Fingerprints {
    fn default() -> Self {
        let mut key = [0; 32];
        let filled = SystemRandom::new().fill(&mut key);
        Fingerprints {
            key: filled.ok().map(|()| key),
        }
    }
}

impl Fingerprints {
    /// Of a user's credential: a BLAKE3 hash of the digest that verifying it took anyway.
    pub fn right(user: &User) -> u64 {
        first_half(&blake3::hash(&user.credential))
    }

    /// Of whatever came and proved nothing. `None`: nothing came.
    pub fn wrong(&self, headers: &HeaderMap) -> Option<u64> {
        let mut hasher = blake3::Hasher::new_keyed(self.key.as_ref()?);
        let mut came = false;
        for name in [AUTHORIZATION.as_str(), API_KEY_HEADER] {
            for value in headers.get_all(name) {
                came = true;
                let bytes = value.as_bytes();
                // The length is the client's choice.
                hasher.update(bytes.get(..jws::MAX_TOKEN_BYTES).unwrap_or(bytes));
                hasher.update(&[0]);
            }
            hasher.update(&[1]);
        }
        came.then(|| first_half(&hasher.finalize()))
    }
}

/// Its first 16 hex digits.
fn first_half(hash: &blake3::Hash) -> u64 {
    let bytes = hash.as_bytes().first_chunk::<8>();
    bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn the_same_credential_has_the_same_name_and_guessing_is_of_no_use() {
        let here = Fingerprints::default();
        let name = here.wrong(&headers("Basic YWxpY2U6aHVudGVyMg==")).unwrap();
        assert_eq!(
            here.wrong(&headers("Basic YWxpY2U6aHVudGVyMg==")),
            Some(name)
        );
        assert_ne!(
            here.wrong(&headers("Basic YWxpY2U6aHVudGVyMw==")),
            Some(name)
        );
        // Another process, or a reader of the log, cannot try passwords.
        let there = Fingerprints::default();
        assert_ne!(
            there.wrong(&headers("Basic YWxpY2U6aHVudGVyMg==")),
            Some(name)
        );
        assert_eq!(here.wrong(&HeaderMap::new()), None);
        // A header's end is part of what is hashed.
        let mut key = headers("a");
        key.insert(API_KEY_HEADER, HeaderValue::from_static("b"));
        assert_ne!(here.wrong(&key), here.wrong(&headers("ab")));
    }

    #[test]
    fn a_right_one_is_named_by_its_digest() {
        let user = |byte| User {
            credential: [byte; 32],
            ..(*User::anonymous()).clone()
        };
        assert_eq!(Fingerprints::right(&user(1)), Fingerprints::right(&user(1)));
        assert_ne!(Fingerprints::right(&user(1)), Fingerprints::right(&user(2)));
        let hex = format!("{:016x}", Fingerprints::right(&user(1)));
        let whole = blake3::hash(&[1; 32]).to_hex();
        assert!(whole.starts_with(&hex));
    }
}
