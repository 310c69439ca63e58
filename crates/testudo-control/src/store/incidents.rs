//! Incidents and what detectors learned, in the store.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Audit, Store, StoreError, append, decode, encode};
use crate::incidents::Incident;

/// Id to incident, as JSON.
pub(super) const INCIDENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("incidents");
/// Name to what was learned, as JSON.
pub(super) const LEARNED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("learned");

impl Store {
    /// All incidents. One that does not read (made by another version) is left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn incidents(&self) -> Result<Vec<Incident>, StoreError> {
        let run = |database: &Database| -> Result<Vec<Vec<u8>>, redb::Error> {
            let table = database.begin_read()?.open_table(INCIDENTS)?;
            let mut found = Vec::new();
            for row in table.iter()? {
                found.push(row?.1.value().to_vec());
            }
            Ok(found)
        };
        let rows = self.transact("read incidents", run)?;
        let read = rows.iter().filter_map(|row| decode("incident", row).ok());
        Ok(read.collect())
    }

    /// Keeps incidents that changed and drops those that are gone.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_incidents(
        &self,
        changed: &[Incident],
        gone: &[String],
        audit: Option<Audit<'_>>,
    ) -> Result<(), StoreError> {
        let changed = changed
            .iter()
            .map(|incident| Ok((incident.id.as_str(), encode("incident", incident)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let run = |database: &Database| -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(INCIDENTS)?;
                for (id, incident) in &changed {
                    table.insert(*id, incident.as_slice())?;
                }
                for id in gone {
                    table.remove(id.as_str())?;
                }
            }
            if let Some(audit) = audit {
                append(&write, audit)?;
            }
            write.commit()?;
            Ok(())
        };
        self.transact("keep incidents", run)
    }

    /// What was kept under a name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn learned(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let run = |database: &Database| -> Result<Option<Vec<u8>>, redb::Error> {
            let table = database.begin_read()?.open_table(LEARNED)?;
            Ok(table.get(name)?.map(|bytes| bytes.value().to_vec()))
        };
        self.transact("read what detectors learned", run)
    }

    /// Keeps what was learned.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_learned(&self, name: &str, learned: &[u8]) -> Result<(), StoreError> {
        let run = |database: &Database| -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            write.open_table(LEARNED)?.insert(name, learned)?;
            write.commit()?;
            Ok(())
        };
        self.transact("keep what detectors learned", run)
    }
}
