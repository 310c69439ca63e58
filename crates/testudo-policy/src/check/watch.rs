//! Names in `watch:` that refer to nothing, and settings there that would do nothing.

use crate::config::shape::suggest;
use crate::config::{Config, Respond};
use crate::diagnostic::{Diagnostics, Span};

pub(super) fn check(config: &Config, diagnostics: &mut Diagnostics) {
    let watch = &config.watch;
    for protected in &watch.protect {
        match protected.name.split_once(':') {
            None => service(&protected.name, &protected.span, config, diagnostics),
            Some((issuer, id)) => user(issuer, id, &protected.span, config, diagnostics),
        }
    }
    if watch.respond == Respond::Alert
        && let Some(first) = watch.protect.first()
    {
        let message = "nobody is contained: watch.respond is alert";
        let hint =
            "set `respond: contain`; until then this holds for containments by hand".to_owned();
        diagnostics.warning("value.unused", &first.span, message, hint);
    }
    for (index, webhook) in watch.notify.iter().enumerate() {
        let mut before = watch.notify.iter().take(index);
        if before.any(|other| other.url == webhook.url && other.format == webhook.format) {
            let message = "this webhook is told twice";
            diagnostics.error("name.duplicate", &webhook.span, message, None);
        }
    }
}

fn service(name: &str, span: &Span, config: &Config, diagnostics: &mut Diagnostics) {
    if matches!(name, "anonymous" | "gateway" | "control") {
        let message = format!("{name} is never contained anyway");
        diagnostics.error("ref.unknown", span, message, "remove it".to_owned());
    } else if !config.services.contains_key(name) {
        let known: Vec<&str> = config.services.keys().map(AsRef::as_ref).collect();
        let message = format!("there is no service {name}, and a user is written ISSUER:ID");
        suggest("ref.unknown", span, message, name, &known, diagnostics);
    }
}

/// Whether the issuer has such a user is the issuer's to know; of API keys the bundle knows all.
fn user(issuer: &str, id: &str, span: &Span, config: &Config, diagnostics: &mut Diagnostics) {
    let Some(users) = &config.users else {
        let message = "there are no users";
        diagnostics.error("ref.unknown", span, message, "add `users:`".to_owned());
        return;
    };
    if let ("key", Some(file)) = (issuer, &users.api_keys) {
        let known: Vec<&str> = file.keys.iter().map(|key| &*key.user).collect();
        if !known.contains(&id) {
            let message = format!("no API key stands for {id}");
            suggest("ref.unknown", span, message, id, &known, diagnostics);
        }
        return;
    }
    let known: Vec<&str> = users.jwt.iter().map(|issuer| &*issuer.name).collect();
    if !known.contains(&issuer) {
        let message = format!("there is no issuer {issuer}");
        suggest("ref.unknown", span, message, issuer, &known, diagnostics);
    }
}
