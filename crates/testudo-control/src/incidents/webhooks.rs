//! Webhooks: incidents as JSON or as a Slack message, signed, tried again, never in anybody's way.
//!
//! Each webhook has a bounded queue and a task of its own; what does not fit is dropped and counted, and
//! [`WebhookStatus`] shows it. Deliveries go to https URLs, or http on loopback; redirects are not
//! followed, and the proxy variables of the environment are not used.
//!
//! Headers of a delivery: `X-Testudo-Event` (`incident.opened`, `incident.contained`,
//! `incident.closed`), `X-Testudo-Delivery` (the same for every try), `X-Testudo-Timestamp` (seconds
//! since the epoch), and with a secret `X-Testudo-Signature: v1=HEX`, the HMAC-SHA256 of
//! `TIMESTAMP.BODY`.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use reqwest::{Client, redirect};
use serde::Serialize;
use serde_json::{Value, json};
use testudo_policy::config::{SecretSource, Watch, Webhook, WebhookFormat, WebhookUrl, values};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::Incident;
use crate::unix_now;

/// Deliveries that may wait for one webhook.
const QUEUE: usize = 256;
/// Tries of one delivery, and the pauses between them: 1, 2, 4 … seconds, 64 at most.
const TRIES: u32 = 8;
const LONGEST_PAUSE: Duration = Duration::from_secs(64);
const TIMEOUT: Duration = Duration::from_secs(10);

/// How deliveries to one webhook go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WebhookStatus {
    /// Scheme and host: the rest of a URL may be a secret.
    pub url: String,
    /// Deliveries that were taken.
    pub delivered: u64,
    /// Deliveries that were given up.
    pub failed: u64,
    /// Deliveries that found no room in the queue.
    pub dropped: u64,
    /// Why the last try failed; null once one succeeded.
    pub last_error: Option<String>,
}

#[derive(Debug)]
struct Delivery {
    id: String,
    event: &'static str,
    body: Vec<u8>,
}

/// Counters of one webhook, shared with its task.
#[derive(Debug, Default)]
struct Tally {
    shown: String,
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Tally {
    fn error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

struct Queue {
    format: WebhookFormat,
    /// `None`: it cannot be told at all; the tally says why.
    sender: Option<mpsc::Sender<Delivery>>,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct State {
    queues: Vec<Queue>,
    /// Dropping it ends the tasks.
    tasks: JoinSet<()>,
}

/// Tells the webhooks of a bundle.
#[derive(Default)]
pub struct Notifier {
    state: Mutex<State>,
}

impl Notifier {
    /// Takes the webhooks of a revision; what still waits for the ones before is lost, and logged.
    /// `folder`: where `${file:…}` is relative to. Needs a tokio runtime.
    pub fn configure(&self, watch: &Watch, folder: &Path) {
        let mut state = State::default();
        let client = client();
        for webhook in &watch.notify {
            let target = client
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|client| Target::new(webhook, folder, client.clone()));
            let tally = Arc::new(Tally {
                shown: shown(webhook),
                ..Tally::default()
            });
            let sender = match target {
                Ok(target) => {
                    let (sender, receiver) = mpsc::channel(QUEUE);
                    state
                        .tasks
                        .spawn(deliver(target, receiver, Arc::clone(&tally)));
                    Some(sender)
                }
                Err(error) => {
                    tracing::error!(webhook = tally.shown, error, "a webhook cannot be told");
                    *tally.error() = Some(error);
                    None
                }
            };
            state.queues.push(Queue {
                format: webhook.format,
                sender,
                tally,
            });
        }
        *self.lock() = state;
    }

    /// Queues news of an incident for every webhook. Never waits.
    pub fn tell(&self, event: &'static str, incident: &Incident) {
        for queue in &self.lock().queues {
            let body = match queue.format {
                WebhookFormat::Generic => json!({"event": event, "incident": incident}),
                WebhookFormat::Slack => slack(event, incident),
            };
            let delivery = Delivery {
                id: uuid::Uuid::new_v4().to_string(),
                event,
                body: body.to_string().into_bytes(),
            };
            let sent = queue
                .sender
                .as_ref()
                .is_some_and(|s| s.try_send(delivery).is_ok());
            if !sent {
                queue.tally.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How deliveries go.
    pub fn status(&self) -> Vec<WebhookStatus> {
        let status = |queue: &Queue| WebhookStatus {
            url: queue.tally.shown.clone(),
            delivered: queue.tally.delivered.load(Ordering::Relaxed),
            failed: queue.tally.failed.load(Ordering::Relaxed),
            dropped: queue.tally.dropped.load(Ordering::Relaxed),
            last_error: queue.tally.error().clone(),
        };
        self.lock().queues.iter().map(status).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With the roots that this machine trusts.
fn client() -> Result<Client, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        .timeout(TIMEOUT)
        .pool_max_idle_per_host(0)
        .user_agent("testudo")
        .build()
        .map_err(|error| error.to_string())
}

struct Target {
    client: Client,
    url: reqwest::Url,
    key: Option<hmac::Key>,
}

impl Target {
    fn new(webhook: &Webhook, folder: &Path, client: Client) -> Result<Target, String> {
        let url = match &webhook.url {
            WebhookUrl::Plain(url) => url.to_string(),
            WebhookUrl::Secret(source) => {
                let bytes = resolve(source, folder)?;
                let text = std::str::from_utf8(&bytes).map_err(|_| "the URL is not text")?;
                text.trim().to_owned()
            }
        };
        // What was resolved here, `check` has not seen. The message may not repeat it.
        values::url(&url).map_err(|_| "the URL is neither https nor on loopback".to_owned())?;
        let url = url
            .parse()
            .map_err(|_| "the URL cannot be read".to_owned())?;
        let key = match &webhook.secret {
            Some(source) => {
                let bytes = resolve(source, folder)?;
                let secret = bytes.trim_ascii();
                if secret.is_empty() {
                    return Err("the secret is empty".to_owned());
                }
                Some(hmac::Key::new(hmac::HMAC_SHA256, secret))
            }
            None => None,
        };
        Ok(Target { client, url, key })
    }

    async fn send(&self, delivery: &Delivery) -> Result<(), String> {
        let timestamp = unix_now().to_string();
        let mut request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("x-testudo-event", delivery.event)
            .header("x-testudo-delivery", &delivery.id)
            .header("x-testudo-timestamp", &timestamp);
        if let Some(key) = &self.key {
            let signature = sign(key, &timestamp, &delivery.body);
            request = request.header("x-testudo-signature", format!("v1={signature}"));
        }
        // The answer's body is not read; errors are told without the URL.
        let answer = request.body(delivery.body.clone()).send().await;
        match answer.map_err(|error| with_causes(&error.without_url()))? {
            answer if answer.status().is_success() => Ok(()),
            answer => Err(format!("answered {}", answer.status())),
        }
    }
}

/// Hex HMAC-SHA256 of `TIMESTAMP.BODY`, as receivers compute it.
pub fn signature(secret: &[u8], timestamp: &str, body: &[u8]) -> String {
    sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), timestamp, body)
}

fn sign(key: &hmac::Key, timestamp: &str, body: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut context = hmac::Context::with_key(key);
    context.update(timestamp.as_bytes());
    context.update(b".");
    context.update(body);
    let mut hex = String::new();
    for byte in context.sign().as_ref() {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

async fn deliver(target: Target, mut queue: mpsc::Receiver<Delivery>, tally: Arc<Tally>) {
    while let Some(delivery) = queue.recv().await {
        let mut pause = Duration::from_secs(1);
        for attempt in 1..=TRIES {
            match target.send(&delivery).await {
                Ok(()) => {
                    tally.delivered.fetch_add(1, Ordering::Relaxed);
                    *tally.error() = None;
                    break;
                }
                Err(error) => {
                    tracing::warn!(
                        webhook = tally.shown,
                        error,
                        attempt,
                        "a webhook did not take a delivery"
                    );
                    *tally.error() = Some(error);
                }
            }
            if attempt == TRIES {
                tally.failed.fetch_add(1, Ordering::Relaxed);
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// The bytes; messages name where they were looked for, never what was found.
fn resolve(source: &SecretSource, folder: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    match source {
        SecretSource::Environment(name) => std::env::var_os(name)
            .map(|value| Zeroizing::new(std::os::unix::ffi::OsStringExt::into_vec(value)))
            .ok_or_else(|| format!("the environment variable {name} is not set")),
        SecretSource::File(path) | SecretSource::Bundle(path) => {
            let read = std::fs::read(folder.join(path));
            read.map(Zeroizing::new)
                .map_err(|error| format!("{path} cannot be read: {error}"))
        }
    }
}

/// Scheme and host.
fn shown(webhook: &Webhook) -> String {
    match &webhook.url {
        WebhookUrl::Plain(url) => {
            let end = url
                .match_indices('/')
                .nth(2)
                .map_or(url.len(), |(at, _)| at);
            url.get(..end).unwrap_or_default().to_owned()
        }
        WebhookUrl::Secret(SecretSource::Environment(name)) => format!("${{env:{name}}}"),
        WebhookUrl::Secret(SecretSource::File(path) | SecretSource::Bundle(path)) => {
            format!("${{file:{path}}}")
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// A message for a Slack incoming webhook. Names come from traffic: what Slack reads as markup is
/// escaped as its documentation says.
fn slack(event: &str, incident: &Incident) -> Value {
    let escaped = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    let verb = event.strip_prefix("incident.").unwrap_or(event);
    let severity = match incident.severity {
        testudo_watch::detect::Severity::Low => "low",
        testudo_watch::detect::Severity::Medium => "medium",
        testudo_watch::detect::Severity::High => "high",
    };
    let usual = incident.baseline.usual;
    let usual = usual.map_or_else(|| "not known".to_owned(), |usual| format!("{usual:.1}"));
    let text = format!(
        "*{}* ({verb}, {severity})\n{}: {:.1} {} (usual: {usual})\n{}\n`testudo watch show {}`",
        escaped(&incident.title),
        escaped(&incident.baseline.what),
        incident.baseline.seen,
        escaped(&incident.baseline.unit),
        escaped(&incident.suggestion),
        incident.id,
    );
    json!({"text": text})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_hmac_sha256_of_timestamp_and_body() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        let expected = "b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163";
        let found = signature(b"secret", "1700000000", b"{}");
        assert_eq!(found, expected);
        assert_ne!(found, signature(b"secret", "1700000001", b"{}"));
        assert_ne!(found, signature(b"other", "1700000000", b"{}"));
    }

    #[test]
    fn what_may_be_secret_of_a_url_is_not_shown() {
        let webhook = |url| Webhook {
            url,
            format: WebhookFormat::Slack,
            secret: None,
            span: testudo_policy::diagnostic::Span::default(),
        };
        let plain = WebhookUrl::Plain("https://hooks.slack.test/services/T0/B0/secret".into());
        assert_eq!(shown(&webhook(plain)), "https://hooks.slack.test");
        let hidden = WebhookUrl::Secret(SecretSource::Environment("HOOK".to_owned()));
        assert_eq!(shown(&webhook(hidden)), "${env:HOOK}");
    }
}
