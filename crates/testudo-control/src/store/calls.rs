//! Observed calls in the store: only what changed is written, all of it at once.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use testudo_policy::learn::observed::{Call, CallKey};

use super::{Store, StoreError, decode, encode};

/// A call's key to what is known of it, both as JSON.
pub(super) const CALLS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("calls");

/// A key and its call, as they are kept.
type Row = (Vec<u8>, Vec<u8>);

impl Store {
    /// All observed calls. One that does not read (made by another version) is left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn calls(&self) -> Result<Vec<(CallKey, Call)>, StoreError> {
        let run = |database: &Database| -> Result<Vec<Row>, redb::Error> {
            let table = database.begin_read()?.open_table(CALLS)?;
            let mut found = Vec::new();
            for row in table.iter()? {
                let (key, call) = row?;
                found.push((key.value().to_vec(), call.value().to_vec()));
            }
            Ok(found)
        };
        let rows = self.transact("read observed calls", run)?;
        let read = rows.iter().filter_map(|(key, call)| {
            let key = decode("observed call", key).ok()?;
            Some((key, decode("observed call", call).ok()?))
        });
        Ok(read.collect())
    }

    /// Keeps calls that changed and drops those that are gone.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_calls(
        &self,
        changed: &[(CallKey, Call)],
        gone: &[CallKey],
    ) -> Result<(), StoreError> {
        let changed = changed
            .iter()
            .map(|(key, call)| {
                Ok((
                    encode("observed call", key)?,
                    encode("observed call", call)?,
                ))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        let gone = gone
            .iter()
            .map(|key| encode("observed call", key))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let run = |database: &Database| -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(CALLS)?;
                for key in &gone {
                    table.remove(key.as_slice())?;
                }
                for (key, call) in &changed {
                    table.insert(key.as_slice(), call.as_slice())?;
                }
            }
            write.commit()?;
            Ok(())
        };
        self.transact("keep observed calls", run)
    }
}
