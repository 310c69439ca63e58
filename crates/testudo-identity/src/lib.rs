//! Identities of the mesh: SPIFFE ids, SVIDs and how they are made, kept, renewed and verified, the
//! embedded certificate authority, and the TLS configurations that prove who is at the other end.
//!
//! Knows nothing of HTTP, gRPC or policy. No function here decides what the time is: callers pass it,
//! or share one [`Clock`].

pub mod authority;
pub mod clock;
pub mod csr;
pub mod files;
pub mod identity;
pub mod join;
pub mod manifest_key;
pub mod pem;
pub mod revocation;
pub mod spiffe_id;
pub mod svid;
pub mod tls;
pub mod trust;

pub use authority::{Authority, AuthorityError, Issued};
pub use clock::Clock;
pub use identity::{EdgeIdentity, Identity, IdentityError, KeyRequest};
pub use join::{JoinToken, JoinTokenError, ProxyRole};
pub use manifest_key::{ManifestKey, verify_manifest};
pub use revocation::RevocationList;
pub use spiffe_id::{Kind, SpiffeId, SpiffeIdError, TrustDomain};
pub use svid::{SvidError, VerifiedPeer, peer_identity};
pub use tls::{Alpn, MeshTls};
pub use trust::TrustBundle;

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Bytes of hex in either case; `None` where it is not hex.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            if !pair.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return None;
            }
            u8::from_str_radix(pair, 16).ok()
        })
        .collect()
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    digest
}
