//! Reading the audit log and following its chain of hashes.

use redb::{Database, ReadableDatabase};
use serde::Serialize;

use super::{AUDIT, AuditEntry, Store, StoreError, entry_hash};

/// Entries that are read in one transaction: the log only grows, and others write meanwhile.
const AT_ONCE: usize = 1024;

/// What following the chain came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditCheck {
    /// Whether every entry is as it was written and none is missing between them. Entries that were cut off at
    /// the end leave no trace here: compare `newest` with what was noted elsewhere.
    pub ok: bool,
    /// Entries that were read.
    pub entries: u64,
    /// Hash of the newest one.
    pub newest: Option<String>,
    /// Where the chain breaks first.
    pub broken: Option<AuditBreak>,
    /// Whether the hash that was asked for is that of an entry; `None`: none was.
    pub contains: Option<bool>,
}

/// Where the chain breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditBreak {
    /// The entry's sequence number.
    pub sequence: u64,
    /// What is wrong with it.
    pub why: String,
}

impl Store {
    /// Follows the whole chain. `contains`: a hash that was noted earlier and must be that of an entry.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn check_audit(&self, contains: Option<&str>) -> Result<AuditCheck, StoreError> {
        let mut check = AuditCheck {
            ok: true,
            entries: 0,
            newest: None,
            broken: None,
            contains: contains.map(|_| false),
        };
        let mut next = 1;
        let mut previous = String::new();
        loop {
            let rows = self.audit_rows(next)?;
            for (sequence, bytes) in &rows {
                check.entries += 1;
                let entry = serde_json::from_slice::<AuditEntry>(bytes);
                let why = match &entry {
                    Ok(entry) => broken(entry, *sequence, next, &previous)?,
                    Err(error) => Some(format!("it does not read: {error}")),
                };
                if let (Some(why), None) = (why, &check.broken) {
                    check.broken = Some(AuditBreak {
                        sequence: *sequence,
                        why,
                    });
                }
                previous = entry.map(|entry| entry.hash).unwrap_or_default();
                if contains == Some(previous.as_str()) {
                    check.contains = Some(true);
                }
                next = sequence.saturating_add(1);
            }
            if rows.len() < AT_ONCE {
                break;
            }
        }
        check.newest = Some(previous).filter(|_| check.entries > 0);
        check.ok = check.broken.is_none() && check.contains != Some(false);
        Ok(check)
    }

    fn audit_rows(&self, from: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let run = |database: &Database| -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
            let table = database.begin_read()?.open_table(AUDIT)?;
            let mut found = Vec::new();
            for row in table.range(from..)?.take(AT_ONCE) {
                let (sequence, bytes) = row?;
                found.push((sequence.value(), bytes.value().to_vec()));
            }
            Ok(found)
        };
        self.transact("read the audit log", run)
    }
}

fn broken(
    entry: &AuditEntry,
    sequence: u64,
    expected: u64,
    previous: &str,
) -> Result<Option<String>, StoreError> {
    Ok(if sequence != expected {
        Some(format!("entry {expected} is missing"))
    } else if entry.sequence != sequence {
        Some(format!("it says that it is entry {}", entry.sequence))
    } else if entry_hash(entry)? != entry.hash {
        Some("it was changed after it was written: its hash does not fit".into())
    } else if entry.previous != previous {
        Some("it does not follow the entry before it: that one was replaced".into())
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Audit, StoredRevocation};
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb")).unwrap();
        for number in 0..5 {
            let entry = StoredRevocation {
                kind: "user".into(),
                value: format!("shop:user-{number}"),
                at: 1,
                reason: String::new(),
            };
            let audit = Audit {
                actor: "admin",
                action: "revocation.added",
                detail: &entry.value,
            };
            store.add_revocation(&entry, audit).unwrap();
        }
        (dir, store)
    }

    /// Does to the log what nobody should.
    fn tamper(store: &Store, sequence: u64, change: impl Fn(AuditEntry) -> Option<AuditEntry>) {
        let entry = store.audit_entries(100).unwrap();
        let entry = entry.into_iter().find(|entry| entry.sequence == sequence);
        let changed = change(entry.unwrap()).map(|entry| serde_json::to_vec(&entry).unwrap());
        let run = |database: &Database| -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(AUDIT)?;
                match &changed {
                    Some(bytes) => table.insert(sequence, bytes.as_slice())?,
                    None => table.remove(sequence)?,
                };
            }
            write.commit()?;
            Ok(())
        };
        store.transact("tamper", run).unwrap();
    }

    fn break_of(store: &Store) -> (u64, String) {
        let check = store.check_audit(None).unwrap();
        assert!(!check.ok);
        let broken = check.broken.unwrap();
        (broken.sequence, broken.why)
    }

    #[test]
    fn an_honest_log_holds_and_an_old_hash_is_found_in_it() {
        let (_dir, store) = store();
        let check = store.check_audit(None).unwrap();
        assert!(check.ok && check.entries == 5, "{check:?}");
        let noted = store.audit_entries(3).unwrap()[0].hash.clone();
        assert_eq!(
            store.check_audit(Some(&noted)).unwrap().contains,
            Some(true)
        );
        // The newest entries were cut off: only a hash that was noted says so.
        tamper(&store, 5, |_| None);
        let newest = check.newest.unwrap();
        let cut = store.check_audit(Some(&newest)).unwrap();
        assert!(!cut.ok && cut.broken.is_none(), "{cut:?}");
    }

    #[test]
    fn a_changed_entry_is_named() {
        let (_dir, store) = store();
        tamper(&store, 3, |entry| {
            Some(AuditEntry {
                detail: "shop:somebody-else".into(),
                ..entry
            })
        });
        let (sequence, why) = break_of(&store);
        assert_eq!(sequence, 3);
        assert!(why.contains("changed"), "{why}");
    }

    #[test]
    fn a_replaced_entry_with_a_fitting_hash_is_found_at_the_next_one() {
        let (_dir, store) = store();
        tamper(&store, 2, |entry| {
            let mut entry = AuditEntry {
                actor: "nobody".into(),
                ..entry
            };
            entry.hash = entry_hash(&entry).unwrap();
            Some(entry)
        });
        let (sequence, why) = break_of(&store);
        assert_eq!(sequence, 3);
        assert!(why.contains("replaced"), "{why}");
    }

    #[test]
    fn a_missing_entry_is_named() {
        let (_dir, store) = store();
        tamper(&store, 4, |_| None);
        assert_eq!(break_of(&store), (5, "entry 4 is missing".into()));
    }
}
