//! What may go on the revocation list: entries that name something of this mesh. A name that nothing has would be
//! listed, look done, and revoke nobody.

use testudo_identity::SpiffeId;
use testudo_policy::config::{Config, Jwks};

use crate::Control;
use crate::store::{StoreError, StoredRevocation};

/// What became of a revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// The list's new number.
    pub serial: u64,
    /// What is listed.
    pub value: String,
    /// Where control cannot know whether the entry matches anything: why.
    pub note: Option<String>,
}

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// Nobody in this mesh is called so.
    #[error("{0}")]
    Nobody(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The value to list, and what to say about it.
type Judged = (String, Option<String>);

impl Control {
    /// Makes an entry's value what the list compares with.
    ///
    /// # Errors
    /// When it cannot match anybody.
    pub(crate) fn judge_revocation(&self, entry: &StoredRevocation) -> Result<Judged, RevokeError> {
        let value = entry.value.trim();
        if value.is_empty() {
            return Err(nobody("there is nothing to revoke"));
        }
        let current = self.revisions.current();
        let config = current.as_ref().map(|current| &current.config);
        match entry.kind.as_str() {
            "workload" => self.judge_workload(value, config),
            "user" => config.map_or_else(
                || Ok((value.to_owned(), None)),
                |config| user(value, config),
            ),
            "key" => self.judge_key(value, config),
            // Tokens are known to those who have them.
            _ => Ok((value.to_owned(), None)),
        }
    }

    fn judge_workload(&self, value: &str, config: Option<&Config>) -> Result<Judged, RevokeError> {
        let proxies = self.store.proxies()?;
        let has_service =
            |name: &str| config.is_some_and(|config| config.services.contains_key(name));
        if let Ok(id) = SpiffeId::parse(value) {
            let id = id.to_string();
            let issued = proxies.iter().any(|proxy| proxy.spiffe_id == id);
            let own = config.is_some_and(|config| {
                let mut names = config.services.keys();
                id == SpiffeId::gateway(&self.domain).to_string()
                    || names.any(|name| is_service(&id, &self.domain, name))
            });
            return match issued || own {
                true => Ok((id, None)),
                false => Err(nobody(format!(
                    "nobody in this mesh is {id}; `testudo identity show` lists who is"
                ))),
            };
        }
        let serial = value.replace(':', "").to_ascii_lowercase();
        let serial = serial.trim_start_matches('0').to_owned();
        let is_hex = !serial.is_empty() && serial.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hex && proxies.iter().any(|proxy| proxy.serial == serial) {
            return Ok((serial, None));
        }
        if has_service(value) {
            let id = SpiffeId::service(&self.domain, value).map(|id| id.to_string());
            let id = id.unwrap_or_default();
            return Err(nobody(format!(
                "{value} is a service; all its workloads are revoked as {id}, one of them by its serial number"
            )));
        }
        if let Some(proxy) = proxies.iter().find(|proxy| proxy.name == value) {
            return Err(nobody(format!(
                "{value} is a proxy; it is revoked by its serial number, {}",
                proxy.serial
            )));
        }
        // Renewal forgets older numbers, of certificates that may still be valid.
        if is_hex && serial.len() >= 16 {
            let note = "no newest certificate has this serial number".to_owned();
            return Ok((serial, Some(note)));
        }
        Err(nobody(format!(
            "{value} is neither a SPIFFE id (spiffe://{}/service/NAME) nor a serial number; `testudo identity show` lists both",
            self.domain
        )))
    }

    fn judge_key(&self, value: &str, config: Option<&Config>) -> Result<Judged, RevokeError> {
        let tokens = self.store.token_keys(crate::unix_now())?;
        let users = config.and_then(|config| config.users.as_ref());
        let api_keys = users.and_then(|users| users.api_keys.as_ref());
        let known = tokens.iter().any(|key| key.kid == value)
            || api_keys.is_some_and(|file| file.keys.iter().any(|key| &*key.id == value));
        if known {
            return Ok((value.to_owned(), None));
        }
        let mut issuers = users.iter().flat_map(|users| &users.jwt).peekable();
        if issuers.peek().is_none() {
            return Err(nobody(format!(
                "no key of this mesh is called {value}: an API key has its `id`, a key of transaction tokens its kid"
            )));
        }
        let remote = issuers.any(|issuer| !matches!(issuer.jwks, Jwks::File(_)));
        let what = if remote {
            "it counts if an issuer has a key of this kid"
        } else {
            "it counts if a key set of an issuer has this kid"
        };
        let note = format!("no API key is called {value}: {what}");
        Ok((value.to_owned(), Some(note)))
    }
}

fn is_service(id: &str, domain: &testudo_identity::TrustDomain, name: &str) -> bool {
    SpiffeId::service(domain, name).is_ok_and(|service| service.to_string() == id)
}

/// `ISSUER:ID`, as policies and the decision log name users.
fn user(value: &str, config: &Config) -> Result<Judged, RevokeError> {
    let mut names: Vec<&str> = Vec::new();
    if let Some(users) = &config.users {
        names.extend(users.jwt.iter().map(|issuer| &*issuer.name));
        names.extend(users.api_keys.iter().map(|_| "key"));
    }
    match value.split_once(':') {
        Some((issuer, id)) if names.contains(&issuer) && !id.is_empty() => {
            Ok((value.to_owned(), None))
        }
        _ if names.is_empty() => Err(nobody("the bundle has no `users:`")),
        _ => Err(nobody(format!(
            "users are revoked as ISSUER:ID, for example {}:{}; issuers here: {}",
            names.first().copied().unwrap_or_default(),
            value.rsplit(':').next().unwrap_or_default(),
            names.join(", ")
        ))),
    }
}

fn nobody(text: impl Into<String>) -> RevokeError {
    RevokeError::Nobody(text.into())
}
