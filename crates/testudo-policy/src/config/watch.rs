//! `watch:`: what is done about the unusual.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::fields::Fields;
use super::keys::watch as keys;
use super::shape::{Kind, Object};
use super::{SecretSource, defaults, values};
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::Node;

/// `watch:`; what the whole stands for when it is left out.
#[derive(Debug)]
pub struct Watch {
    /// What is done about incidents.
    pub respond: Respond,
    /// How long a containment lasts.
    pub contain_for: Duration,
    /// Share of the mesh's traffic (0 to 1) that containments may touch together.
    pub max_share: f64,
    /// Who is never contained.
    pub protect: Vec<Protected>,
    /// Who is told.
    pub notify: Vec<Webhook>,
    /// Knobs by detector; what is left out is not in it.
    pub detectors: BTreeMap<&'static str, DetectorKnobs>,
}

/// What is done about incidents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Respond {
    /// They are shown and sent.
    Alert,
    /// Verified principals are contained too.
    Contain,
}

/// An entry of `protect`.
#[derive(Clone, Debug)]
pub struct Protected {
    /// A service's name, or `ISSUER:ID`.
    pub name: Arc<str>,
    /// Where it stands.
    pub span: Span,
}

/// An entry of `notify`.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Where deliveries go.
    pub url: WebhookUrl,
    /// In which shape.
    pub format: WebhookFormat,
    /// The key of the signature, resolved on control's host.
    pub secret: Option<SecretSource>,
    /// Where the entry stands.
    pub span: Span,
}

/// Where deliveries go. Slack's URLs are secrets, and need not stand in the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookUrl {
    /// As written.
    Plain(Arc<str>),
    /// Resolved on control's host.
    Secret(SecretSource),
}

/// The shape of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookFormat {
    /// The incident as JSON.
    Generic,
    /// A message for a Slack incoming webhook.
    Slack,
}

/// What is written of one detector.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DetectorKnobs {
    /// It says nothing.
    pub off: bool,
    /// By key; durations in seconds, sizes in bytes, shares from 0 to 1.
    pub knobs: BTreeMap<&'static str, f64>,
}

impl Default for Watch {
    fn default() -> Self {
        Watch {
            respond: defaults::WATCH_RESPOND,
            contain_for: defaults::CONTAIN_FOR,
            max_share: defaults::MAX_SHARE,
            protect: Vec::new(),
            notify: Vec::new(),
            detectors: BTreeMap::new(),
        }
    }
}

impl Watch {
    /// Whether a user (`ISSUER:ID`) or a service is never contained.
    pub fn protects(&self, name: &str) -> bool {
        self.protect
            .iter()
            .any(|protected| &*protected.name == name)
    }
}

/// Every detector that the bundle may name, with its knobs (without `off`).
pub fn detectors() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    keys::DETECTORS.keys.iter().map(|key| {
        let knobs = object(key.kind).map_or_else(Vec::new, |object| {
            let names = object.keys.iter().map(|key| key.name);
            names.filter(|name| *name != "off").collect()
        });
        (key.name, knobs)
    })
}

pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Watch {
    let fields = Fields::new(node, &keys::WATCH);
    let mut watch = Watch::default();
    if fields.text("respond") == Some("contain") {
        watch.respond = Respond::Contain;
    }
    if let Some(wanted) = fields.duration("contain_for") {
        if (defaults::CONTAIN_FOR_MIN..=defaults::CONTAIN_FOR_MAX).contains(&wanted) {
            watch.contain_for = wanted;
        } else {
            let message = "watch.contain_for is out of range";
            let hint = "from 10s to 7d".to_owned();
            diagnostics.error("value.invalid", &fields.span("contain_for"), message, hint);
        }
    }
    if let Some(share) = fields.text("max_share").and_then(|t| values::share(t).ok()) {
        watch.max_share = share;
    }
    let protect = fields.names("protect").into_iter();
    watch.protect = protect
        .map(|(name, span)| Protected { name, span })
        .collect();
    let notify = fields.get("notify").and_then(Node::as_seq).unwrap_or(&[]);
    watch.notify = notify.iter().filter_map(webhook).collect();
    if watch.notify.len() > defaults::WEBHOOKS_MAX {
        let message = format!("there are more than {} webhooks", defaults::WEBHOOKS_MAX);
        diagnostics.error("value.invalid", &fields.span("notify"), message, None);
    }
    if let Some(node) = fields.get("detectors") {
        watch.detectors = knobs(node);
    }
    watch
}

fn webhook(node: &Node) -> Option<Webhook> {
    node.as_map()?;
    let fields = Fields::new(node, &keys::NOTIFY);
    Some(Webhook {
        url: url(fields.text("url")?),
        format: match fields.text("format") {
            Some("slack") => WebhookFormat::Slack,
            _ => WebhookFormat::Generic,
        },
        secret: fields.text("secret").and_then(secret),
        span: node.span.clone(),
    })
}

fn url(text: &str) -> WebhookUrl {
    secret(text).map_or_else(|| WebhookUrl::Plain(Arc::from(text)), WebhookUrl::Secret)
}

/// Only references pass `shape`.
fn secret(text: &str) -> Option<SecretSource> {
    let inside = |prefix: &str| {
        let name = text.strip_prefix(prefix)?.strip_suffix('}')?;
        Some(name.to_owned())
    };
    inside("${env:")
        .map(SecretSource::Environment)
        .or_else(|| inside("${file:").map(SecretSource::File))
}

fn knobs(node: &Node) -> BTreeMap<&'static str, DetectorKnobs> {
    let fields = Fields::new(node, &keys::DETECTORS);
    let mut all = BTreeMap::new();
    for key in keys::DETECTORS.keys {
        let entry = fields.get(key.name).filter(|node| node.as_map().is_some());
        let (Some(entry), Some(object)) = (entry, object(key.kind)) else {
            continue;
        };
        let fields = Fields::new(entry, object);
        let mut read = DetectorKnobs::default();
        for knob in object.keys {
            match (knob.name, fields.get(knob.name)) {
                ("off", Some(node)) => read.off = node.as_bool().unwrap_or(false),
                (name, Some(node)) => {
                    if let Some(value) = number(node) {
                        read.knobs.insert(name, value);
                    }
                }
                (_, None) => {}
            }
        }
        all.insert(key.name, read);
    }
    all
}

/// A knob in its unit, once `shape` has passed it.
#[expect(clippy::cast_precision_loss, reason = "knobs are far below 2^52")]
fn number(node: &Node) -> Option<f64> {
    if let Some(value) = node.as_i64() {
        return Some(value as f64);
    }
    let text = node.as_str()?;
    if text.ends_with('%') {
        return values::share(text).ok();
    }
    if let Ok(duration) = values::duration(text) {
        return Some(duration.as_secs_f64());
    }
    values::size(text).ok().map(|bytes| bytes as f64)
}

fn object(kind: Kind) -> Option<&'static Object> {
    match kind {
        Kind::Object(object) => Some(object),
        Kind::Text(_)
        | Kind::Bool
        | Kind::Integer(..)
        | Kind::Word(_)
        | Kind::Map(..)
        | Kind::List(_)
        | Kind::Either(_)
        | Kind::Later(_)
        | Kind::Null
        | Kind::Any => None,
    }
}
