//! Containments, modes that were set for a while, and what proxies told of modes set on their hosts.
//! Each change stands in the audit log, in the same transaction.

use std::collections::BTreeMap;

use redb::{Database, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{Audit, Store, StoreError, append};
use crate::containment::Stored;
use crate::modes::SetMode;

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// Kind, principal and place to containment.
pub(super) const CONTAINMENTS: Table = TableDefinition::new("containments");
/// Service to the mode that was set through control.
pub(super) const MODES: Table = TableDefinition::new("modes");
/// Proxy name to what was set on its host.
pub(super) const HOST_MODES: Table = TableDefinition::new("host_modes");

/// What a proxy told of modes set on its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostModes {
    /// Up to which of its changes all are in the audit log.
    pub audited: u64,
    /// What holds there, by service.
    pub set: BTreeMap<String, SetMode>,
}

impl Store {
    /// Containments that were kept, ended and released ones too.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn containments(&self) -> Result<Vec<Stored>, StoreError> {
        let all = self.all(CONTAINMENTS, "read containments")?;
        Ok(all.into_iter().map(|(_, stored)| stored).collect())
    }

    /// Keeps a containment.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_containment(
        &self,
        key: &str,
        stored: &Stored,
        audit: Audit<'_>,
    ) -> Result<(), StoreError> {
        self.put(
            CONTAINMENTS,
            key,
            stored,
            Some(audit),
            "keep the containment",
        )
    }

    /// Forgets a containment.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn drop_containment(&self, key: &str, audit: Option<Audit<'_>>) -> Result<(), StoreError> {
        self.remove_audited(CONTAINMENTS, key, audit, "drop a containment")
    }

    /// Modes that were set through control, by service.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn modes(&self) -> Result<BTreeMap<String, SetMode>, StoreError> {
        Ok(self.all(MODES, "read modes")?.into_iter().collect())
    }

    /// Keeps a service's mode.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_mode(
        &self,
        service: &str,
        mode: &SetMode,
        audit: Audit<'_>,
    ) -> Result<(), StoreError> {
        self.put(MODES, service, mode, Some(audit), "keep the mode")
    }

    /// Forgets a service's mode.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn drop_mode(&self, service: &str, audit: Audit<'_>) -> Result<(), StoreError> {
        self.remove_audited(MODES, service, Some(audit), "drop a mode")
    }

    /// What was set on the hosts of proxies, by proxy.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn host_modes(&self) -> Result<BTreeMap<String, HostModes>, StoreError> {
        let all = self.all(HOST_MODES, "read the modes set on hosts")?;
        Ok(all.into_iter().collect())
    }

    /// Keeps what a proxy told.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_host_modes(
        &self,
        proxy: &str,
        modes: &HostModes,
        audit: Audit<'_>,
    ) -> Result<(), StoreError> {
        self.put(HOST_MODES, proxy, modes, Some(audit), "keep a host's modes")
    }

    fn remove_audited(
        &self,
        table: Table,
        key: &str,
        audit: Option<Audit<'_>>,
        action: &'static str,
    ) -> Result<(), StoreError> {
        let run = |database: &Database| -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            write.open_table(table)?.remove(key)?;
            if let Some(audit) = audit {
                append(&write, audit)?;
            }
            write.commit()?;
            Ok(())
        };
        self.transact(action, run)
    }
}
