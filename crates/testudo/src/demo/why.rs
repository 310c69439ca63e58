//! What `testudo why` says of the last attack.

use serde_json::Value;

use crate::api::Api;
use crate::commands::why::{self, text};
use crate::demo::attack::{Outcome, presented};
use crate::demo::attacks::{Attack, How};
use crate::terminal::Style;

/// Lines for the screen, at most `room`: the whole answer of `testudo why` where it fits.
pub(crate) async fn explain(
    api: &Api,
    attack: &Attack,
    outcome: &Outcome,
    room: usize,
    style: Style,
) -> Vec<String> {
    let request = attack.how.request();
    let mut lines = vec![
        String::new(),
        style.bold(&format!(
            "why  {}: {} {} with {}",
            attack.who,
            request.method,
            request.target,
            presented(request.credential)
        )),
    ];
    match answer(api, outcome.request_id.as_deref()).await {
        Some(why) => {
            let whole = text::whole(&why, style);
            let fits = whole.len() + lines.len() <= room;
            lines.extend(if fits {
                whole
            } else {
                text::brief(&why, style)
            });
        }
        None => lines.push(format!("  {}", without_decision(attack, outcome))),
    }
    lines.truncate(room);
    lines
}

async fn answer(api: &Api, request_id: Option<&str>) -> Option<Value> {
    why::ask(api, request_id?, false).await.ok()
}

fn without_decision(attack: &Attack, outcome: &Outcome) -> String {
    match &attack.how {
        How::Sidecar(..) => format!("the handshake failed before a request could be sent ({})", outcome.detail),
        How::Application(_) => "the application listens on a Unix socket in a folder of mode 0700: nobody else can connect".to_owned(),
        _ if outcome.status.is_some_and(|status| status < 400) => "nothing stopped it: the shield is down".to_owned(),
        _ => "no proxy keeps this one".to_owned(),
    }
}
