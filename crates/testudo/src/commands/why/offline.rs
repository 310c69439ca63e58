//! `why` without control: the rings on this host, and the bundle beside them.

use std::path::Path;

use serde_json::Value;
use testudo_control::why::local::{self, Found};
use testudo_control::why::{Evidence, Knowledge, Target, explain};
use testudo_policy::bundle;
use testudo_policy::check::{CheckOptions, Checked, check};

use crate::failure::{Failure, OrFail as _};
use crate::site::STATE_FOLDER;

/// Reads the rings below `state` (or below `.testudo` in it) and explains what they have.
pub(super) fn why(state: &Path, request: &str, any: bool) -> Result<Value, Failure> {
    let rings = local::rings(state);
    if rings.is_empty() {
        return Err(Failure::new("there are no rings here")
            .at(state.display())
            .hint("--state takes the state folder of a proxy, or .testudo of a mesh that `testudo up` ran"));
    }
    let target = match (request, any) {
        ("last", true) => Target::Last,
        ("last", false) => Target::LastDenial,
        (id, _) => Target::Request(id),
    };
    let found = local::find(&rings, target)
        .or_fail(|| format!("cannot read the rings in {}", state.display()))?;
    let Some(found) = found else {
        return Err(nothing(target, rings.len()).at(state.display()));
    };
    let checked = bundle_beside(state);
    let Found {
        request_id,
        events,
        silent,
        proxies,
    } = found;
    let evidence = Evidence {
        request_id: &request_id,
        events,
        silent,
        proxies,
        knowledge: checked.as_ref().and_then(knowledge),
    };
    let why = explain(evidence).ok_or_else(|| nothing(target, rings.len()))?;
    serde_json::to_value(&why).or_fail(|| "cannot show the answer")
}

fn nothing(target: Target<'_>, rings: usize) -> Failure {
    let what = match target {
        Target::Request(_) => "no proxy on this host keeps a request with this id",
        Target::LastDenial => "nothing was denied on this host, as far as its proxies keep it",
        Target::Last => "no proxy on this host keeps a request",
    };
    Failure::new(format!("{what} ({rings} rings read)")).hint(match target {
        Target::Request(_) => {
            "check the id: it is x-request-id of the response; proxies on other hosts have rings of their own"
        }
        Target::LastDenial => "`testudo why last --any` shows the newest request",
        Target::Last => "is this the mesh that you mean?",
    })
}

/// The bundle whose `.testudo` this is, where it has no errors.
fn bundle_beside(state: &Path) -> Option<Checked> {
    let state = state.canonicalize().ok()?;
    let mut folders = state.ancestors();
    let dir = folders.find(|folder| {
        folder.join("testudo.yaml").is_file() && folder.join(STATE_FOLDER).is_dir()
    })?;
    let checked = check(&bundle::load(dir).ok()?, &CheckOptions::default());
    checked.is_ok().then_some(checked)
}

fn knowledge(checked: &Checked) -> Option<Knowledge<'_>> {
    Some(Knowledge {
        config: checked.config.as_ref()?,
        apis: &checked.apis,
        policies: checked.policies.as_ref()?,
        revision: None,
    })
}
