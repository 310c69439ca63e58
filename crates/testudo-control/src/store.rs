//! The embedded store: revisions and their parts, join tokens, revocations, token keys, the names of
//! proxies, and the audit log. One file, crash-safe (redb commits with fsync); knows nothing of
//! gRPC, HTTP or policies.
//!
//! Every write is one transaction: after a crash or on a full disk the store holds either all of a
//! change or none of it.

mod audit;
mod calls;
mod incidents;
mod narrowing;
mod unwinding;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use testudo_model::Manifest;

pub use audit::{AuditBreak, AuditCheck};
pub use narrowing::HostModes;

/// Revision number to its signed manifest.
const REVISIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revisions");
/// Hex SHA-256 to content.
const PARTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("parts");
/// Hash of a join token's secret to what it is good for.
const JOIN_TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("join_tokens");
/// Serial to revocation.
const REVOCATIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revocations");
/// `kid` to transaction-token key.
const TOKEN_KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("token_keys");
/// Proxy name to its SPIFFE id and certificates.
const PROXIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("proxies");
/// Sequence to hash-chained entry.
const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");

/// Pages that redb keeps in memory; the store is small and read rarely.
const CACHE_BYTES: usize = 2 * 1024 * 1024;

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened; the database may be in use by another process.
    #[error("cannot open the store {path}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        source: redb::DatabaseError,
    },
    /// What is in it is not what was written: a disk's fault, or somebody's.
    #[error(
        "the store {path} is damaged\nhint: restore it from a backup; or begin a new mesh with another state folder, which every proxy joins anew"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What was found.
        source: Box<redb::DatabaseError>,
    },
    /// Reading or writing failed; nothing of the change was kept.
    #[error("the store cannot {action}; nothing was changed")]
    Access {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: Box<redb::Error>,
    },
    /// A record does not read back.
    #[error("a record of the store is damaged: {what}")]
    Damaged {
        /// Which.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The parent is not the newest revision any more.
    #[error("the newest revision is {newest}, not {expected}")]
    Conflict {
        /// Digest of the newest revision, or `none`.
        newest: String,
        /// What the writer thought.
        expected: String,
    },
}

/// A signed revision, exactly as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredRevision {
    /// JSON bytes of the [`Manifest`], as signed.
    #[serde(with = "text")]
    pub manifest: Vec<u8>,
    /// Ed25519 signature, hex.
    pub signature: String,
    /// Hex SHA-256 of `manifest`.
    pub digest: String,
}

/// What a join token is good for, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinGrant {
    /// `gateway` or `sidecar`.
    pub role: String,
    /// The service of a sidecar.
    pub service: Option<String>,
    /// Seconds since the epoch.
    pub expires: u64,
}

/// One entry of the revocation list.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct StoredRevocation {
    /// `workload`, `user`, `key` or `token`.
    pub kind: String,
    /// SPIFFE id or certificate serial, user id, key id, token id.
    pub value: String,
    /// Seconds since the epoch.
    pub at: u64,
    /// For the audit log.
    pub reason: String,
}

/// A gateway's public transaction-token key.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct StoredTokenKey {
    /// Names the key.
    pub kid: String,
    /// Uncompressed P-256 point.
    pub public_key: Vec<u8>,
    /// The gateway's proxy name.
    pub gateway: String,
    /// Seconds since the epoch.
    pub not_after: u64,
}

/// An identity that was issued.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredProxy {
    /// Its name, for example `orders-1`.
    pub name: String,
    /// `gateway` or `sidecar`.
    pub role: String,
    /// The service of a sidecar.
    pub service: Option<String>,
    /// Its SPIFFE id.
    pub spiffe_id: String,
    /// Seconds since the epoch when the newest SVID ends.
    pub not_after: u64,
    /// Serial of the newest SVID, hex.
    pub serial: String,
    /// Seconds since the epoch when it joined.
    pub joined: u64,
}

/// One entry of the audit log; `hash` covers the entry and the hash before it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditEntry {
    /// From 1, without gaps.
    pub sequence: u64,
    /// When.
    pub time: jiff::Timestamp,
    /// Who: `admin`, `files`, or a proxy's name.
    pub actor: String,
    /// What: `revision.applied`, `identity.issued`, `revocation.added`, …
    pub action: String,
    /// About what.
    pub detail: String,
    /// Hash of the entry before, hex BLAKE3; empty for the first.
    pub previous: String,
    /// Hex BLAKE3 over the other fields.
    pub hash: String,
}

/// What the audit log says of a change; kept in the same transaction as the change.
#[derive(Clone, Copy, Debug)]
pub struct Audit<'a> {
    /// Who: `admin`, `files`, or a proxy's name.
    pub actor: &'a str,
    /// What: `revision.applied`, `identity.issued`, `revocation.added`, `join_token.issued`.
    pub action: &'a str,
    /// About what.
    pub detail: &'a str,
}

/// The store. Cheap to clone; safe to use from several threads.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// Opens the database; again after each I/O error.
type Opener = Box<dyn Fn() -> Result<Database, StoreError> + Send + Sync>;

struct Inner {
    open: Opener,
    /// `None` after an I/O error, until it could be opened again.
    database: RwLock<Option<Database>>,
}

impl Store {
    /// Opens the store at `path`, or makes it.
    ///
    /// # Errors
    /// [`StoreError::Open`] when the file is unreadable, damaged or in use.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let path = path.to_owned();
        Store::with_opener(Box::new(move || open_file(&path)))
    }

    fn with_opener(open: Opener) -> Result<Store, StoreError> {
        let database = RwLock::new(Some(open()?));
        let store = Store {
            inner: Arc::new(Inner { open, database }),
        };
        store.create_tables()?;
        Ok(store)
    }

    /// Runs one transaction. After an I/O error (a full disk) redb refuses everything until the file
    /// is opened again, which also undoes what was half written; so that is done, and the store works
    /// again as soon as the disk does. `run` may run twice, never after it committed.
    fn transact<T>(
        &self,
        action: &'static str,
        run: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        match self.attempt(&run) {
            Some(Err(redb::Error::PreviousIo)) | None => self.reopen()?,
            Some(Err(error @ redb::Error::Io(_))) => {
                // The answer is this error; the next caller finds a store that was opened anew.
                if let Err(error) = self.reopen() {
                    tracing::error!(error = %with_cause(&error), "the store cannot be opened again yet");
                }
                return Err(access(action)(error));
            }
            Some(outcome) => return outcome.map_err(access(action)),
        }
        let outcome = self.attempt(&run).unwrap_or(Err(redb::Error::PreviousIo));
        outcome.map_err(access(action))
    }

    fn attempt<T>(
        &self,
        run: &impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Option<Result<T, redb::Error>> {
        let database = self.inner.database.read();
        let database = database.unwrap_or_else(PoisonError::into_inner);
        database.as_ref().map(run)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut database = self
            .inner
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // The old one holds the lock of the file, so it goes first.
        *database = None;
        *database = Some((self.inner.open)()?);
        tracing::warn!("the store was opened again after an I/O error");
        Ok(())
    }

    fn create_tables(&self) -> Result<(), StoreError> {
        let run = |database: &Database| -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            write.open_table(REVISIONS)?;
            write.open_table(PARTS)?;
            write.open_table(JOIN_TOKENS)?;
            write.open_table(REVOCATIONS)?;
            write.open_table(TOKEN_KEYS)?;
            write.open_table(PROXIES)?;
            write.open_table(AUDIT)?;
            write.open_table(calls::CALLS)?;
            write.open_table(narrowing::CONTAINMENTS)?;
            write.open_table(narrowing::MODES)?;
            write.open_table(narrowing::HOST_MODES)?;
            write.open_table(incidents::INCIDENTS)?;
            write.open_table(incidents::LEARNED)?;
            write.commit()?;
            Ok(())
        };
        self.transact("make its tables", run)
    }

    /// Adds a revision with the parts that are new, if `parent` is still the newest one.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when another revision came between.
    pub fn add_revision(
        &self,
        number: u64,
        parent: Option<&str>,
        revision: &StoredRevision,
        parts: &[(String, Arc<[u8]>)],
        audit: Audit<'_>,
    ) -> Result<(), StoreError> {
        let encoded = encode("revision", revision)?;
        // The comparison stands in the write transaction: redb runs those one at a time.
        let run = |database: &Database| -> Result<Option<String>, redb::Error> {
            let write = database.begin_write()?;
            {
                let mut revisions = write.open_table(REVISIONS)?;
                let last = revisions.last()?.map(|(_, bytes)| bytes.value().to_vec());
                let digest = last.as_deref().and_then(digest_of);
                if digest.as_deref() != parent {
                    return Ok(Some(digest.unwrap_or_else(|| "none".into())));
                }
                let mut table = write.open_table(PARTS)?;
                for (digest, content) in parts {
                    if table.get(digest.as_str())?.is_none() {
                        table.insert(digest.as_str(), content.as_ref())?;
                    }
                }
                revisions.insert(number, encoded.as_slice())?;
            }
            append(&write, audit)?;
            write.commit()?;
            Ok(None)
        };
        match self.transact("add the revision", run)? {
            None => Ok(()),
            Some(newest) => Err(StoreError::Conflict {
                newest,
                expected: parent.unwrap_or("none").into(),
            }),
        }
    }
    /// The newest revision and its number.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn newest_revision(&self) -> Result<Option<(u64, StoredRevision)>, StoreError> {
        let run = |database: &Database| -> Result<Option<(u64, Vec<u8>)>, redb::Error> {
            let table = database.begin_read()?.open_table(REVISIONS)?;
            Ok(table
                .last()?
                .map(|(number, bytes)| (number.value(), bytes.value().to_vec())))
        };
        match self.transact("read revisions", run)? {
            Some((number, bytes)) => Ok(Some((number, decode("revision", &bytes)?))),
            None => Ok(None),
        }
    }

    /// The manifests of the last `limit` revisions, newest first, with their digests.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn revisions(&self, limit: usize) -> Result<Vec<(String, Manifest)>, StoreError> {
        let run = |database: &Database| -> Result<Vec<Vec<u8>>, redb::Error> {
            let table = database.begin_read()?.open_table(REVISIONS)?;
            let mut found = Vec::new();
            for row in table.iter()?.rev().take(limit) {
                found.push(row?.1.value().to_vec());
            }
            Ok(found)
        };
        let rows = self.transact("read revisions", run)?;
        rows.iter()
            .map(|bytes| {
                let revision: StoredRevision = decode("revision", bytes)?;
                Ok((revision.digest, decode("manifest", &revision.manifest)?))
            })
            .collect()
    }

    /// A part by its hex SHA-256.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn part(&self, digest: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let run = |database: &Database| -> Result<Option<Vec<u8>>, redb::Error> {
            let table = database.begin_read()?.open_table(PARTS)?;
            Ok(table.get(digest)?.map(|bytes| bytes.value().to_vec()))
        };
        self.transact("read a part", run)
    }

    /// Keeps the hash of a new join token.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn add_join_token(
        &self,
        hash: &str,
        grant: &JoinGrant,
        audit: Audit<'_>,
    ) -> Result<(), StoreError> {
        self.put(JOIN_TOKENS, hash, grant, Some(audit), "keep the join token")
    }

    /// Takes a join token: it can be used once, whatever then comes of it.
    ///
    /// # Errors
    /// When the store cannot be written; the token is then still there.
    pub fn take_join_token(&self, hash: &str) -> Result<Option<JoinGrant>, StoreError> {
        let run = |database: &Database| -> Result<Option<Vec<u8>>, redb::Error> {
            let write = database.begin_write()?;
            let taken = {
                let mut table = write.open_table(JOIN_TOKENS)?;
                table.remove(hash)?.map(|bytes| bytes.value().to_vec())
            };
            write.commit()?;
            Ok(taken)
        };
        match self.transact("take the join token", run)? {
            Some(bytes) => Ok(Some(decode("join token", &bytes)?)),
            None => Ok(None),
        }
    }

    /// Drops join tokens that ended before `now` (seconds since the epoch).
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn drop_expired_join_tokens(&self, now: u64) -> Result<(), StoreError> {
        let expired: Vec<String> = self
            .all::<JoinGrant>(JOIN_TOKENS, "read join tokens")?
            .into_iter()
            .filter(|(_, grant)| grant.expires < now)
            .map(|(hash, _)| hash)
            .collect();
        expired
            .iter()
            .try_for_each(|hash| self.remove(JOIN_TOKENS, hash, "drop a join token"))
    }

    /// Adds a revocation and returns its serial. The list only grows.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn add_revocation(
        &self,
        revocation: &StoredRevocation,
        audit: Audit<'_>,
    ) -> Result<u64, StoreError> {
        let encoded = encode("revocation", revocation)?;
        let run = |database: &Database| -> Result<u64, redb::Error> {
            let write = database.begin_write()?;
            let serial = {
                let mut table = write.open_table(REVOCATIONS)?;
                let serial = table.last()?.map_or(1, |(serial, _)| serial.value() + 1);
                table.insert(serial, encoded.as_slice())?;
                serial
            };
            append(&write, audit)?;
            write.commit()?;
            Ok(serial)
        };
        self.transact("add the revocation", run)
    }

    /// The whole revocation list and its newest serial (0: empty).
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn revocations(&self) -> Result<(u64, Vec<StoredRevocation>), StoreError> {
        let run = |database: &Database| -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
            let table = database.begin_read()?.open_table(REVOCATIONS)?;
            let mut found = Vec::new();
            for row in table.iter()? {
                let (serial, bytes) = row?;
                found.push((serial.value(), bytes.value().to_vec()));
            }
            Ok(found)
        };
        let rows = self.transact("read revocations", run)?;
        let newest = rows.last().map_or(0, |(serial, _)| *serial);
        let list = rows
            .iter()
            .map(|(_, bytes)| decode("revocation", bytes))
            .collect::<Result<_, _>>()?;
        Ok((newest, list))
    }

    /// Keeps a gateway's token key.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_token_key(&self, key: &StoredTokenKey) -> Result<(), StoreError> {
        self.put(TOKEN_KEYS, &key.kid, key, None, "keep the token key")
    }

    /// Token keys that have not ended at `now`; the others are dropped.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn token_keys(&self, now: u64) -> Result<Vec<StoredTokenKey>, StoreError> {
        let mut live = Vec::new();
        for (kid, key) in self.all::<StoredTokenKey>(TOKEN_KEYS, "read token keys")? {
            if key.not_after <= now {
                self.remove(TOKEN_KEYS, &kid, "drop a token key")?;
            } else {
                live.push(key);
            }
        }
        Ok(live)
    }

    /// Keeps what was issued to a proxy.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_proxy(&self, proxy: &StoredProxy, audit: Audit<'_>) -> Result<(), StoreError> {
        self.put(PROXIES, &proxy.name, proxy, Some(audit), "keep the proxy")
    }

    /// All proxies that ever joined, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn proxies(&self) -> Result<Vec<StoredProxy>, StoreError> {
        Ok(self
            .all(PROXIES, "read proxies")?
            .into_iter()
            .map(|(_, proxy)| proxy)
            .collect())
    }

    /// The last `limit` audit entries, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn audit_entries(&self, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let run = |database: &Database| -> Result<Vec<Vec<u8>>, redb::Error> {
            let table = database.begin_read()?.open_table(AUDIT)?;
            let mut found = Vec::new();
            for row in table.iter()?.rev().take(limit) {
                found.push(row?.1.value().to_vec());
            }
            found.reverse();
            Ok(found)
        };
        let rows = self.transact("read the audit log", run)?;
        rows.iter()
            .map(|bytes| decode("audit entry", bytes))
            .collect()
    }

    fn put<T: Serialize>(
        &self,
        table: TableDefinition<'static, &'static str, &'static [u8]>,
        key: &str,
        value: &T,
        audit: Option<Audit<'_>>,
        action: &'static str,
    ) -> Result<(), StoreError> {
        let encoded = encode(action, value)?;
        let run = |database: &Database| -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            write.open_table(table)?.insert(key, encoded.as_slice())?;
            if let Some(audit) = audit {
                append(&write, audit)?;
            }
            write.commit()?;
            Ok(())
        };
        self.transact(action, run)
    }

    fn remove(
        &self,
        table: TableDefinition<'static, &'static str, &'static [u8]>,
        key: &str,
        action: &'static str,
    ) -> Result<(), StoreError> {
        let run = |database: &Database| -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            write.open_table(table)?.remove(key)?;
            write.commit()?;
            Ok(())
        };
        self.transact(action, run)
    }

    fn all<T: for<'de> Deserialize<'de>>(
        &self,
        table: TableDefinition<'static, &'static str, &'static [u8]>,
        action: &'static str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let run = |database: &Database| -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
            let table = database.begin_read()?.open_table(table)?;
            let mut found = Vec::new();
            for row in table.iter()? {
                let (key, bytes) = row?;
                found.push((key.value().to_string(), bytes.value().to_vec()));
            }
            Ok(found)
        };
        let rows = self.transact(action, run)?;
        rows.into_iter()
            .map(|(key, bytes)| Ok((key, decode(action, &bytes)?)))
            .collect()
    }
}

/// The hash that chains an audit entry to the one before it.
///
/// # Errors
/// When the entry cannot be encoded.
pub fn entry_hash(entry: &AuditEntry) -> Result<String, StoreError> {
    let hashed = AuditEntry {
        hash: String::new(),
        ..entry.clone()
    };
    Ok(blake3::hash(&encode("audit entry", &hashed)?)
        .to_hex()
        .to_string())
}

/// Appends to the audit log as part of a change: there is neither a change without its entry nor an
/// entry without its change, and writers cannot take the same sequence number.
fn append(write: &WriteTransaction, audit: Audit<'_>) -> Result<(), redb::Error> {
    let unreadable = |error: StoreError| redb::Error::Corrupted(error.to_string());
    let mut table = write.open_table(AUDIT)?;
    let last = table.last()?.map(|(_, bytes)| bytes.value().to_vec());
    let last: Option<AuditEntry> = last
        .map(|bytes| decode("audit entry", &bytes))
        .transpose()
        .map_err(unreadable)?;
    let mut entry = AuditEntry {
        sequence: last.as_ref().map_or(1, |last| last.sequence + 1),
        time: jiff::Timestamp::now(),
        actor: audit.actor.into(),
        action: audit.action.into(),
        detail: audit.detail.into(),
        previous: last.map(|last| last.hash).unwrap_or_default(),
        hash: String::new(),
    };
    entry.hash = entry_hash(&entry).map_err(unreadable)?;
    let encoded = encode("audit entry", &entry).map_err(unreadable)?;
    table.insert(entry.sequence, encoded.as_slice())?;
    Ok(())
}

fn digest_of(revision: &[u8]) -> Option<String> {
    serde_json::from_slice::<StoredRevision>(revision)
        .ok()
        .map(|revision| revision.digest)
}

/// Opens the file and reads all of it once: redb trusts its pages afterwards, and an older state that it could fall
/// back to may lack revocations.
///
/// redb panics over pages that cannot be (4.6: `Invalid page type byte`): that is an answer, too.
fn open_file(path: &Path) -> Result<Database, StoreError> {
    unwinding::quietly(|| open_whole(path)).unwrap_or_else(|panic| {
        let source = redb::StorageError::Corrupted(panic).into();
        Err(StoreError::Corrupt {
            path: path.display().to_string(),
            source: Box::new(source),
        })
    })
}

fn open_whole(path: &Path) -> Result<Database, StoreError> {
    let shown = || path.display().to_string();
    let corrupt = |source| StoreError::Corrupt {
        path: shown(),
        source: Box::new(source),
    };
    let opened = redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create(path);
    let mut database = opened.map_err(|source| match source {
        redb::DatabaseError::Storage(redb::StorageError::Corrupted(_)) => corrupt(source),
        redb::DatabaseError::Storage(redb::StorageError::Io(ref error))
            if error.kind() == std::io::ErrorKind::InvalidData =>
        {
            corrupt(source)
        }
        source => StoreError::Open {
            path: shown(),
            source,
        },
    })?;
    let damage = |text: &str| redb::StorageError::Corrupted(text.to_owned()).into();
    match database.check_integrity() {
        Ok(true) => Ok(database),
        Ok(false) => Err(corrupt(damage("its checksums do not fit"))),
        Err(source) => Err(corrupt(source)),
    }
}

/// An error with its cause, in one line.
pub fn with_cause(error: &StoreError) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn access(action: &'static str) -> impl FnOnce(redb::Error) -> StoreError {
    move |source| StoreError::Access {
        action,
        source: Box::new(source),
    }
}

fn encode<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|source| StoreError::Damaged {
        what: what.into(),
        source,
    })
}

fn decode<T: for<'de> Deserialize<'de>>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Damaged {
        what: what.into(),
        source,
    })
}

/// The manifest's bytes are JSON text; kept as a string so that they come back unchanged.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _, ser::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(bytes).map_err(S::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer).map_err(D::Error::custom)?;
        Ok(text.into_bytes())
    }
}

#[cfg(test)]
mod tests;
