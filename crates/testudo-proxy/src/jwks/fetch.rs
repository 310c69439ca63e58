//! One fetch of a key set over HTTP: by URL, or by way of OpenID Connect Discovery 1.0.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AGE, CACHE_CONTROL};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use testudo_guard::authn::{JwksError, KeySet};

use super::schedule::{Timing, max_age};

/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 3;

/// Where a source is.
#[derive(Clone, Debug)]
pub(super) enum Location {
    /// The set itself.
    Url(Arc<str>),
    /// The issuer, whose discovery document says where the set is.
    Discovery(Arc<str>),
}

/// What came.
pub(super) struct Fetched {
    pub(super) keys: KeySet,
    /// As it came, to be kept.
    pub(super) json: Vec<u8>,
    pub(super) max_age: Option<Duration>,
}

/// Why nothing usable came.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} is not a URL")]
    NotAUrl(String),
    #[error("{0} is neither https nor on loopback")]
    NotHttps(String),
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    #[error("{0} answered {1}")]
    Status(String, StatusCode),
    #[error("{0} answered with more than {max} bytes", max = KeySet::MAX_BYTES)]
    TooLarge(String),
    #[error("{0} is not a discovery document: {1}")]
    Discovery(String, String),
    #[error("the discovery document at {0} is of issuer {1:?}, not of {2:?}")]
    OtherIssuer(String, String, Arc<str>),
    #[error("the answer of {0} cannot be used")]
    Keys(String, #[source] JwksError),
}

/// An error with its causes, on one line.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Why there is no HTTP client.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("no HTTP client can be built: {0}")]
    Http(#[from] reqwest::Error),
}

/// Fetches key sets. Cheap to clone.
#[derive(Clone)]
pub(super) struct Fetcher {
    client: Client,
}

#[derive(Deserialize)]
struct DiscoveryDocument {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    /// With the roots that this machine trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others). Proxies
    /// from the environment are not used: those variables are the way into the mesh.
    pub(super) fn new(timing: Timing) -> Result<Self, ClientError> {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::warn!(errors = ?found.errors, "this machine trusts no certificate authority: https key sets cannot be fetched");
        }
        Fetcher::with_roots(roots, timing)
    }

    pub(super) fn with_roots(
        roots: rustls::RootCertStore,
        timing: Timing,
    ) -> Result<Self, ClientError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(redirect::Policy::custom(judge_redirect))
            .referer(false)
            .connect_timeout(timing.connect)
            .timeout(timing.response)
            .pool_max_idle_per_host(0)
            .user_agent("testudo")
            .build()?;
        Ok(Fetcher { client })
    }

    /// Fetches the set of a source.
    pub(super) async fn fetch(&self, location: &Location) -> Result<Fetched, FetchError> {
        let url = match location {
            Location::Url(url) => parse(url)?,
            Location::Discovery(issuer) => self.discover(issuer).await?,
        };
        let response = self.ask(&url).await?;
        let header = |name| response.headers().get(name)?.to_str().ok();
        let cache_control: Vec<&str> = response
            .headers()
            .get_all(CACHE_CONTROL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let max_age = max_age(&cache_control, header(AGE));
        let json = read(response).await?;
        let keys = KeySet::parse(&json).map_err(|error| FetchError::Keys(url.into(), error))?;
        Ok(Fetched {
            keys,
            json,
            max_age,
        })
    }

    /// OpenID Connect Discovery 1.0 §4. The document must be of this very issuer (§4.3): otherwise one
    /// issuer could pass another's keys off as its own.
    async fn discover(&self, issuer: &Arc<str>) -> Result<Url, FetchError> {
        let base = issuer.strip_suffix('/').unwrap_or(issuer);
        let url = parse(&format!("{base}/.well-known/openid-configuration"))?;
        let json = read(self.ask(&url).await?).await?;
        let document: DiscoveryDocument = match serde_json::from_slice(&json) {
            Ok(document) => document,
            Err(error) => return Err(FetchError::Discovery(url.into(), error.to_string())),
        };
        if document.issuer != **issuer {
            return Err(FetchError::OtherIssuer(
                url.into(),
                document.issuer,
                issuer.clone(),
            ));
        }
        let keys = parse(&document.jwks_uri)?;
        if url.scheme() == "https" && keys.scheme() != "https" {
            return Err(FetchError::NotHttps(keys.into()));
        }
        Ok(keys)
    }

    async fn ask(&self, url: &Url) -> Result<Response, FetchError> {
        let response = self
            .client
            .get(url.clone())
            .header(http::header::ACCEPT, "application/json")
            .send()
            .await
            .map_err(FetchError::Request)?;
        if response.status() == StatusCode::OK {
            Ok(response)
        } else {
            Err(FetchError::Status(url.to_string(), response.status()))
        }
    }
}

/// Reads a body within its cap.
async fn read(mut response: Response) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(FetchError::Request)? {
        if body.len() + chunk.len() > KeySet::MAX_BYTES {
            return Err(FetchError::TooLarge(response.url().to_string()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn parse(text: &str) -> Result<Url, FetchError> {
    let url = Url::parse(text).map_err(|_| FetchError::NotAUrl(text.to_owned()))?;
    if url.scheme() == "https" || is_plain_loopback(&url) {
        Ok(url)
    } else {
        Err(FetchError::NotHttps(url.into()))
    }
}

/// Plain HTTP counts on this machine alone: there is nobody in between.
fn is_plain_loopback(url: &Url) -> bool {
    let host = url
        .host_str()
        .map(|host| host.trim_start_matches('[').trim_end_matches(']'));
    url.scheme() == "http"
        && host.is_some_and(|host| {
            host == "localhost" || host.parse().is_ok_and(|host: IpAddr| host.is_loopback())
        })
}

/// A redirect goes to https, or from plain loopback to plain loopback: never from https to less.
fn judge_redirect(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let all_plain = attempt.previous().iter().all(is_plain_loopback);
    let fits = attempt.url().scheme() == "https" || (all_plain && is_plain_loopback(attempt.url()));
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else if fits {
        attempt.follow()
    } else {
        attempt.error("a redirect to what is not https")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_counts_on_loopback_alone() {
        for good in [
            "https://id.test/keys",
            "http://127.0.0.1:80/k",
            "http://127.8.8.8/k",
            "http://[::1]:8080/k",
            "http://localhost/k",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://id.test/keys",
            "http://127.0.0.1.evil.test/k",
            "http://localhost.evil.test/k",
            "http://0.0.0.0/k",
            "http://10.0.0.1/k",
            "file:///etc/passwd",
            "ftp://127.0.0.1/k",
            "keys.json",
            "",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
