//! Revoked workloads: whole identities by SPIFFE id, single certificates by serial.

use std::collections::HashSet;

use crate::svid::VerifiedPeer;

/// What is revoked. A revoked SPIFFE id stays out whichever certificate it shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationList {
    serial: u64,
    values: HashSet<String>,
}

impl RevocationList {
    /// From SPIFFE ids and certificate serials (hex, as `openssl` or `testudo` print them).
    /// `serial` numbers the list, which only ever grows.
    pub fn new<'a>(serial: u64, values: impl IntoIterator<Item = &'a str>) -> Self {
        RevocationList {
            serial,
            values: values.into_iter().map(normalize).collect(),
        }
    }

    /// The list's number.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether this peer is revoked, by id or by certificate.
    pub fn contains(&self, peer: &VerifiedPeer) -> bool {
        !self.values.is_empty()
            && (self.values.contains(peer.spiffe_id.as_str()) || self.values.contains(&peer.serial))
    }
}

/// Ids stay as they are; serials lose case, colons and leading zeros.
fn normalize(value: &str) -> String {
    if value.starts_with("spiffe://") {
        return value.to_owned();
    }
    let digits: String = value
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_ascii_lowercase())
        .collect();
    serial_text(&digits)
}

/// A serial's one spelling: lower-case hex without leading zeros.
pub(crate) fn serial_text(hex: &str) -> String {
    match hex.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => digits.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spiffe_id::SpiffeId;

    #[test]
    fn ids_and_serials_are_found_in_any_spelling() {
        let peer = VerifiedPeer {
            spiffe_id: SpiffeId::parse("spiffe://shop.test/service/orders").unwrap(),
            not_before: 0,
            not_after: 10,
            serial: "a1b2".to_owned(),
        };
        let revoked = |value: &str| RevocationList::new(1, [value]).contains(&peer);
        assert!(revoked("spiffe://shop.test/service/orders"));
        assert!(revoked("a1b2") && revoked("A1:B2") && revoked("00a1b2"));
        assert!(!revoked("spiffe://shop.test/service/order") && !revoked("a1b"));
        assert!(!RevocationList::default().contains(&peer));
    }
}
