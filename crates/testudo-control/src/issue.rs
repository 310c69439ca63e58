//! Identities: join tokens, SVIDs for those who bring one, renewal, and edge certificates.

use std::time::Duration;

use serde_json::{Value, json};
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};

use testudo_identity::{
    Authority, AuthorityError, Issued, JoinToken, ProxyRole, SpiffeId, SpiffeIdError,
};
use testudo_model::mesh::{Identity, JoinRequest};

use crate::store::{Audit, JoinGrant, StoreError, StoredProxy};
use crate::{Control, unix_now};

/// An SVID that ended may still renew for so long (seconds; DESIGN §6).
const RENEWAL_GRACE: u64 = 24 * 3600;

/// Longest life of a join token (seconds).
const JOIN_TTL_MAX: u64 = 24 * 3600;

/// Why an identity was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Unknown, used or expired; which of these is not said.
    #[error(
        "the join token is not valid (any more); make a new one with `testudo identity issue --join`"
    )]
    Token,
    /// The token is for another role or service.
    #[error("the join token is for {granted}, not for {wanted}")]
    OtherRole {
        /// What it is good for.
        granted: String,
        /// What was asked for.
        wanted: String,
    },
    /// The service is not (any more) in the bundle.
    #[error("there is no service {0} in the bundle")]
    NoService(String),
    /// The SVID ended too long ago.
    #[error("the SVID ended more than 24 hours ago; join again with a new token")]
    TooLate,
    /// The name is another identity's.
    #[error("the name {0} belongs to another identity")]
    NameTaken(String),
    /// No gateway in the bundle.
    #[error("the bundle has no gateway")]
    NoGateway,
    /// The authority refused.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The service's name does not make an id.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a join token was not made.
#[derive(Debug, thiserror::Error)]
pub enum JoinTokenError {
    /// Neither `gateway` nor a service of the bundle.
    #[error("there is no service {0} in the bundle; it has {1}")]
    NoService(String, String),
    /// A sidecar's token names its service.
    #[error("a token for a sidecar names its service")]
    Incomplete,
    /// The bundle has no gateway.
    #[error("the bundle has no gateway; add `gateway:` to testudo.yaml")]
    NoGateway,
    /// There is no bundle yet.
    #[error("there is no revision yet")]
    NoRevision,
    /// The authority failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Control {
    /// Makes a one-time join token; returns its text and when it ends (seconds since the epoch).
    ///
    /// # Errors
    /// See [`JoinTokenError`].
    pub fn issue_join_token(
        &self,
        role: &str,
        service: Option<&str>,
        ttl_seconds: u64,
    ) -> Result<(String, u64), JoinTokenError> {
        let current = self.revisions.current().ok_or(JoinTokenError::NoRevision)?;
        let role = match (role, service) {
            ("gateway", _) if current.config.gateway.is_none() => {
                return Err(JoinTokenError::NoGateway);
            }
            ("gateway", _) => ProxyRole::Gateway,
            (_, None) => return Err(JoinTokenError::Incomplete),
            (_, Some(service)) => {
                if !current.config.services.contains_key(service) {
                    let known: Vec<_> =
                        current.config.services.keys().map(|name| &**name).collect();
                    return Err(JoinTokenError::NoService(service.into(), known.join(", ")));
                }
                ProxyRole::Sidecar(service.into())
            }
        };
        let expires = unix_now() + ttl_seconds.min(JOIN_TTL_MAX);
        let root = self.authority().root_sha256()?;
        let token = JoinToken::generate(self.domain.clone(), role.clone(), root, self.manifest_key);
        let grant = JoinGrant {
            role: role.word().into(),
            service: service_of(&role),
            expires,
        };
        self.store.drop_expired_join_tokens(unix_now())?;
        let audit = Audit {
            actor: "admin",
            action: "join_token.issued",
            detail: &format!("{} {}", role.word(), role.service()),
        };
        self.store.add_join_token(&token.hash(), &grant, audit)?;
        Ok((token.to_text().to_string(), expires))
    }

    /// Turns a join token and a CSR into an identity. The token is used up, whatever comes of it.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn join(&self, request: &JoinRequest) -> Result<Identity, IssueError> {
        let hash = testudo_identity::join::hash_secret(&request.token);
        let grant = self
            .store
            .take_join_token(&hash)?
            .ok_or(IssueError::Token)?;
        if grant.expires < unix_now() {
            return Err(IssueError::Token);
        }
        let granted_service = grant.service.as_deref().unwrap_or("");
        if grant.role != request.role || granted_service != request.service {
            return Err(IssueError::OtherRole {
                granted: format!("{} {granted_service}", grant.role),
                wanted: format!("{} {}", request.role, request.service),
            });
        }
        let id = self.id_of(&grant)?;
        let name = self.choose_name(&request.proxy, &grant, &id)?;
        let known = self
            .store
            .proxies()?
            .into_iter()
            .find(|proxy| proxy.name == name);
        let joined = known.map_or_else(unix_now, |proxy| proxy.joined);
        self.issue(&id, name, grant.role, grant.service, joined, &request.csr)
    }

    /// A new SVID for the identity that a connection proved.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn renew(
        &self,
        id: &SpiffeId,
        not_after: u64,
        serial: &str,
        csr: &[u8],
    ) -> Result<Identity, IssueError> {
        if unix_now() > not_after.saturating_add(RENEWAL_GRACE) {
            return Err(IssueError::TooLate);
        }
        let proxies = self.store.proxies()?;
        // An older certificate of the same workload may renew too (the answer to an earlier renewal may be lost).
        let known = proxies
            .iter()
            .find(|proxy| proxy.spiffe_id == id.as_str() && proxy.serial == serial)
            .or_else(|| proxies.iter().find(|proxy| proxy.spiffe_id == id.as_str()));
        let Some(known) = known.cloned() else {
            return Err(IssueError::Token);
        };
        if let Some(service) = &known.service {
            self.require_service(service)?;
        }
        self.issue(id, known.name, known.role, known.service, known.joined, csr)
    }

    /// A server certificate for the edge, with the hosts of all routes, localhost and the loopback addresses.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn edge_certificate(&self, csr: &[u8]) -> Result<(Vec<Vec<u8>>, u64), IssueError> {
        let current = self.revisions.current().ok_or(IssueError::NoGateway)?;
        let gateway = current
            .config
            .gateway
            .as_ref()
            .ok_or(IssueError::NoGateway)?;
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
        if !gateway.listen.ip().is_unspecified() && !gateway.listen.ip().is_loopback() {
            names.push(gateway.listen.ip().to_string());
        }
        names.extend(
            gateway
                .routes
                .iter()
                .filter_map(|route| route.rule.host.as_deref().map(String::from)),
        );
        names.sort();
        names.dedup();
        let authority = self.authority();
        let issued = authority.issue_edge(csr, &names, current.config.identity_ttl, unix_now())?;
        Ok((der(&issued), issued.not_after))
    }

    /// Whether a proxy's name was given to this identity.
    pub fn owns_name(&self, name: &str, spiffe_id: &str) -> bool {
        self.store.proxies().is_ok_and(|list| {
            list.iter()
                .any(|proxy| proxy.name == name && proxy.spiffe_id == spiffe_id)
        })
    }

    /// What the HTTP API tells about the authority.
    pub fn authority_view(&self) -> Value {
        let authority = self.authority();
        let not_after = i64::try_from(authority.issuing_not_after()).ok();
        json!({
            "issuing_not_after": not_after.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()),
            "roots": authority.trust().roots().len(),
        })
    }

    /// Trust anchors (PEM) and the manifest key, for `identity show` and for other meshes.
    pub fn trust_view(&self) -> Value {
        let authority = self.authority();
        json!({
            "trust_domain": self.trust_domain(),
            "roots_pem": testudo_identity::pem::encode_certificates(authority.trust().roots()),
            "manifest_key": crate::revisions::hex(&self.manifest_key),
        })
    }

    /// The authority, to issue with.
    pub(crate) fn authority(&self) -> RwLockReadGuard<'_, Authority> {
        self.authority
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The authority, for its upkeep.
    pub(crate) fn authority_mut(&self) -> RwLockWriteGuard<'_, Authority> {
        self.authority
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(
        &self,
        id: &SpiffeId,
        name: String,
        role: String,
        service: Option<String>,
        joined: u64,
        csr: &[u8],
    ) -> Result<Identity, IssueError> {
        let ttl = self
            .revisions
            .current()
            .map_or(Duration::from_secs(24 * 3600), |current| {
                current.config.identity_ttl
            });
        let authority = self.authority();
        let issued = authority.issue_svid(csr, id, ttl, unix_now())?;
        let roots = authority
            .trust()
            .roots()
            .iter()
            .map(|root| root.to_vec())
            .collect();
        drop(authority);
        let proxy = StoredProxy {
            name: name.clone(),
            role,
            service,
            spiffe_id: id.as_str().into(),
            not_after: issued.not_after,
            serial: issued.serial.clone(),
            joined,
        };
        let audit = Audit {
            actor: &name,
            action: "identity.issued",
            detail: &format!("{id} {}", issued.serial),
        };
        self.store.put_proxy(&proxy, audit)?;
        Ok(Identity {
            proxy: name,
            spiffe_id: id.as_str().into(),
            chain: der(&issued),
            roots,
            manifest_key: self.manifest_key.to_vec(),
            trust_domain: self.trust_domain().into(),
            not_after: issued.not_after,
        })
    }

    fn id_of(&self, grant: &JoinGrant) -> Result<SpiffeId, IssueError> {
        match &grant.service {
            Some(service) => {
                self.require_service(service)?;
                Ok(SpiffeId::service(&self.domain, service)?)
            }
            None => Ok(SpiffeId::gateway(&self.domain)),
        }
    }

    fn require_service(&self, service: &str) -> Result<(), IssueError> {
        let known = self
            .revisions
            .current()
            .is_some_and(|current| current.config.services.contains_key(service));
        if known {
            Ok(())
        } else {
            Err(IssueError::NoService(service.into()))
        }
    }

    /// The name that was asked for, or the first free `SERVICE-N`.
    fn choose_name(
        &self,
        wanted: &str,
        grant: &JoinGrant,
        id: &SpiffeId,
    ) -> Result<String, IssueError> {
        let taken = self.store.proxies()?;
        let owner = |name: &str| taken.iter().find(|proxy| proxy.name == name);
        if !wanted.is_empty() {
            let usable = wanted.len() <= 128
                && wanted
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
            let free = owner(wanted).is_none_or(|proxy| proxy.spiffe_id == id.as_str());
            return if usable && free {
                Ok(wanted.to_string())
            } else {
                Err(IssueError::NameTaken(wanted.to_string()))
            };
        }
        let base = grant.service.as_deref().unwrap_or("gateway");
        (1..=u32::MAX)
            .map(|number| format!("{base}-{number}"))
            .find(|name| owner(name).is_none())
            .ok_or_else(|| IssueError::NameTaken(base.to_string()))
    }
}

fn service_of(role: &ProxyRole) -> Option<String> {
    match role {
        ProxyRole::Gateway => None,
        ProxyRole::Sidecar(service) => Some(service.clone()),
    }
}

fn der(issued: &Issued) -> Vec<Vec<u8>> {
    issued
        .chain
        .iter()
        .map(|certificate| certificate.to_vec())
        .collect()
}
