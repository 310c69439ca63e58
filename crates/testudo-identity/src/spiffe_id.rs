//! SPIFFE ids and trust domains (SPIFFE-ID standard §2), and what an id means in this mesh.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest id that is read or made (SPIFFE-ID §2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// The longest trust domain (SPIFFE-ID §2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// Why a text is not a SPIFFE id or trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// It does not start with `spiffe://`.
    #[error("a SPIFFE id starts with spiffe://")]
    Scheme,
    /// The trust domain is empty.
    #[error("the trust domain is missing")]
    NoTrustDomain,
    /// A character that trust domains cannot have.
    #[error("{0:?} cannot be in a trust domain: only a-z, 0-9, '.', '-' and '_' can")]
    TrustDomainCharacter(char),
    /// A character that paths cannot have.
    #[error("{0:?} cannot be in the path: only letters, digits, '.', '-' and '_' can")]
    PathCharacter(char),
    /// An empty segment, or a slash at the end.
    #[error("the path has an empty segment or ends with a slash")]
    EmptySegment,
    /// `.` or `..`.
    #[error("the path has a relative segment")]
    RelativeSegment,
    /// Over [`MAX_ID_BYTES`] or [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("it is longer than the standard allows")]
    TooLong,
}

/// The name under which all identities of a mesh live, for example `shop.test`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a bare trust domain name (no scheme, no path).
    ///
    /// # Errors
    /// Where the name breaks SPIFFE-ID §2.1.
    pub fn new(name: &str) -> Result<Self, SpiffeIdError> {
        check_trust_domain(name)?;
        Ok(TrustDomain(Arc::from(name)))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the domain itself, `spiffe://NAME`, which signing certificates carry.
    pub fn id(&self) -> SpiffeId {
        SpiffeId::from_checked(self, "")
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        TrustDomain::new(text)
    }
}

/// A SPIFFE id, for example `spiffe://shop.test/service/orders`. Compared byte by byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path starts in `text`; its length where there is none.
    path_start: usize,
}

/// What an id means in this mesh (DESIGN §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// `/service/NAME`: a workload of this service.
    Service(&'a str),
    /// `/gateway`.
    Gateway,
    /// `/control`.
    Control,
    /// Anything else.
    Other,
}

impl SpiffeId {
    /// Reads an id.
    ///
    /// # Errors
    /// Where it breaks SPIFFE-ID §2. Upper case in scheme or trust domain is refused, not folded:
    /// ids are compared as bytes everywhere.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        check_trust_domain(domain)?;
        check_path(path)?;
        Ok(SpiffeId {
            text: Arc::from(text),
            path_start: SCHEME.len() + domain.len(),
        })
    }

    /// An id in `domain` with this path, which starts with a slash.
    ///
    /// # Errors
    /// Where the path breaks SPIFFE-ID §2.2.
    pub fn new(domain: &TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        check_path(path)?;
        let id = SpiffeId::from_checked(domain, path);
        if id.text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        Ok(id)
    }

    /// `spiffe://DOMAIN/service/NAME`.
    ///
    /// # Errors
    /// Where the name cannot be one segment of a path.
    pub fn service(domain: &TrustDomain, name: &str) -> Result<Self, SpiffeIdError> {
        if name.contains('/') {
            return Err(SpiffeIdError::PathCharacter('/'));
        }
        SpiffeId::new(domain, &format!("/service/{name}"))
    }

    /// `spiffe://DOMAIN/gateway`.
    pub fn gateway(domain: &TrustDomain) -> Self {
        SpiffeId::from_checked(domain, "/gateway")
    }

    /// `spiffe://DOMAIN/control`.
    pub fn control(domain: &TrustDomain) -> Self {
        SpiffeId::from_checked(domain, "/control")
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same, shared.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        self.text
            .get(SCHEME.len()..self.path_start)
            .unwrap_or_default()
    }

    /// The path with its leading slash; empty where there is none.
    pub fn path(&self) -> &str {
        self.text.get(self.path_start..).unwrap_or_default()
    }

    /// Whether it lives in this trust domain.
    pub fn is_member_of(&self, domain: &TrustDomain) -> bool {
        self.trust_domain() == domain.as_str()
    }

    /// What it means in this mesh.
    pub fn kind(&self) -> Kind<'_> {
        match self.path() {
            "/gateway" => Kind::Gateway,
            "/control" => Kind::Control,
            path => match path.strip_prefix("/service/") {
                Some(name) if !name.contains('/') => Kind::Service(name),
                _ => Kind::Other,
            },
        }
    }

    fn from_checked(domain: &TrustDomain, path: &str) -> Self {
        SpiffeId {
            text: Arc::from(format!("{SCHEME}{domain}{path}")),
            path_start: SCHEME.len() + domain.0.len(),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        SpiffeId::parse(text)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        SpiffeId::parse(&text).map_err(serde::de::Error::custom)
    }
}

fn check_trust_domain(name: &str) -> Result<(), SpiffeIdError> {
    if name.is_empty() {
        return Err(SpiffeIdError::NoTrustDomain);
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(SpiffeIdError::TooLong);
    }
    match name
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_'))
    {
        Some(wrong) => Err(SpiffeIdError::TrustDomainCharacter(wrong)),
        None => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    let Some(rest) = path.strip_prefix('/') else {
        return Err(SpiffeIdError::EmptySegment);
    };
    for segment in rest.split('/') {
        match segment {
            "" => return Err(SpiffeIdError::EmptySegment),
            "." | ".." => return Err(SpiffeIdError::RelativeSegment),
            _ => {}
        }
        let wrong = segment
            .chars()
            .find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_'));
        if let Some(wrong) = wrong {
            return Err(SpiffeIdError::PathCharacter(wrong));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_exactly() {
        let domain = TrustDomain::new("shop.test").unwrap();
        let orders = SpiffeId::service(&domain, "orders").unwrap();
        assert_eq!(orders.as_str(), "spiffe://shop.test/service/orders");
        assert_eq!(orders.kind(), Kind::Service("orders"));
        assert_eq!(SpiffeId::gateway(&domain).kind(), Kind::Gateway);
        assert_eq!(SpiffeId::control(&domain).kind(), Kind::Control);
        for other in ["/gateways", "/service", "/service/a/b", "/ns/x/sa/y", ""] {
            assert_eq!(
                SpiffeId::new(&domain, other).unwrap().kind(),
                Kind::Other,
                "{other}"
            );
        }
        assert!(SpiffeId::service(&domain, "a/../control").is_err());
        assert!(SpiffeId::service(&domain, "").is_err());
    }

    #[test]
    fn lengths_are_bounded() {
        let long = format!("spiffe://shop.test/{}", "a".repeat(2048 - 19));
        assert_eq!(long.len(), 2048);
        assert!(SpiffeId::parse(&long).is_ok());
        assert_eq!(
            SpiffeId::parse(&format!("{long}a")),
            Err(SpiffeIdError::TooLong)
        );
        assert!(TrustDomain::new(&"a".repeat(255)).is_ok());
        assert_eq!(
            TrustDomain::new(&"a".repeat(256)),
            Err(SpiffeIdError::TooLong)
        );
    }

    proptest::proptest! {
        #[test]
        fn what_parses_is_its_parts(text in "(spiffe://)?[a-zA-Z0-9./%_:-]{0,40}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                proptest::prop_assert_eq!(id.as_str(), &text);
                let domain = TrustDomain::new(id.trust_domain()).unwrap();
                proptest::prop_assert_eq!(SpiffeId::new(&domain, id.path()).unwrap(), id);
            }
        }
    }
}
