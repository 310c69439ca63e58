//! The containments that control sends: put in force whole, kept for a restart, and over by themselves
//! when their time is, whether control is there or not.

use std::sync::Arc;

use testudo_guard::containment::{ContainedAction, ContainedKind, Containment, Containments};
use testudo_model::mesh;

use super::Context;

pub(super) fn take(context: &Context, set: &mesh::Containments) {
    use_containments(context, set);
    context.keep(set);
}

pub(super) fn use_containments(context: &Context, set: &mesh::Containments) {
    let mut entries = Vec::new();
    for entry in &set.entries {
        match read(entry) {
            Ok(containment) => entries.push(containment),
            Err(error) => tracing::error!(%error, id = entry.id, "a containment is left out"),
        }
    }
    let installed = &context.shared.installed;
    let previous = installed.live.containments.load();
    if entries.is_empty() && installed.live.containments.get().is_none() {
        return;
    }
    let (set, refused) = Containments::new(entries, &previous);
    drop(previous);
    for error in refused {
        tracing::error!(%error, "a containment is left out");
    }
    installed.live.containments.store(Arc::new(set));
    // Streams of somebody who is contained now end.
    installed.changed();
}

fn read(
    entry: &mesh::Containment,
) -> Result<Containment, testudo_guard::containment::BadContainment> {
    let kind: ContainedKind = entry.kind.parse()?;
    let action = ContainedAction::new(&entry.action, entry.rate)?;
    let operation = Some(entry.operation.as_str()).filter(|operation| !operation.is_empty());
    Ok(Containment {
        id: Arc::from(entry.id.as_str()),
        kind,
        principal: Arc::from(entry.principal.as_str()),
        service: Arc::from(entry.service.as_str()),
        operation: operation.map(Arc::from),
        action,
        until: entry.until,
        reason: Arc::from(entry.reason.as_str()),
    })
}
