use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb")).unwrap();
    (dir, store)
}

const AUDIT_OF_TEST: Audit<'_> = Audit {
    actor: "admin",
    action: "test",
    detail: "",
};

fn revision(text: &str) -> StoredRevision {
    StoredRevision {
        manifest: text.as_bytes().to_vec(),
        signature: "00".into(),
        digest: format!("digest of {text}"),
    }
}

#[test]
fn revisions_are_compared_and_set_on_their_parent() {
    let (_dir, store) = store();
    let first = revision("one");
    store
        .add_revision(
            1,
            None,
            &first,
            &[("aa".into(), Arc::from(&b"part"[..]))],
            AUDIT_OF_TEST,
        )
        .unwrap();
    assert_eq!(store.part("aa").unwrap().as_deref(), Some(&b"part"[..]));
    assert_eq!(store.part("bb").unwrap(), None);

    let late = store.add_revision(2, None, &revision("two"), &[], AUDIT_OF_TEST);
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    assert_eq!(store.newest_revision().unwrap().unwrap().0, 1);

    store
        .add_revision(2, Some(&first.digest), &revision("two"), &[], AUDIT_OF_TEST)
        .unwrap();
    let (number, newest) = store.newest_revision().unwrap().unwrap();
    assert_eq!((number, newest.manifest.as_slice()), (2, &b"two"[..]));
}

#[test]
fn a_join_token_is_taken_once() {
    let (_dir, store) = store();
    let grant = JoinGrant {
        role: "sidecar".into(),
        service: Some("orders".into()),
        expires: 10,
    };
    store.add_join_token("hash", &grant, AUDIT_OF_TEST).unwrap();
    assert_eq!(
        store
            .take_join_token("hash")
            .unwrap()
            .unwrap()
            .service
            .as_deref(),
        Some("orders")
    );
    assert!(store.take_join_token("hash").unwrap().is_none());

    store.add_join_token("old", &grant, AUDIT_OF_TEST).unwrap();
    store.drop_expired_join_tokens(11).unwrap();
    assert!(store.take_join_token("old").unwrap().is_none());
}

#[test]
fn revocations_only_grow_and_outlive_a_restart() {
    let (dir, store) = store();
    let entry = StoredRevocation {
        kind: "user".into(),
        value: "shop:bob".into(),
        at: 1,
        reason: "left".into(),
    };
    assert_eq!(store.add_revocation(&entry, AUDIT_OF_TEST).unwrap(), 1);
    assert_eq!(store.add_revocation(&entry, AUDIT_OF_TEST).unwrap(), 2);
    drop(store);
    let store = Store::open(&dir.path().join("store.redb")).unwrap();
    assert_eq!(
        store.revocations().unwrap(),
        (2, vec![entry.clone(), entry])
    );
}

#[test]
fn expired_token_keys_are_dropped() {
    let (_dir, store) = store();
    let key = StoredTokenKey {
        kid: "k".into(),
        public_key: vec![4],
        gateway: "gateway-1".into(),
        not_after: 5,
    };
    store.put_token_key(&key).unwrap();
    assert_eq!(store.token_keys(4).unwrap(), vec![key]);
    assert!(store.token_keys(5).unwrap().is_empty());
    assert!(store.token_keys(4).unwrap().is_empty());
}

#[test]
fn every_change_is_in_the_audit_log_which_is_chained_by_hash() {
    let (_dir, store) = store();
    let audit = |detail| Audit {
        detail,
        ..AUDIT_OF_TEST
    };
    let entry = StoredRevocation {
        kind: "user".into(),
        value: "shop:bob".into(),
        at: 1,
        reason: String::new(),
    };
    store.add_revocation(&entry, audit("1")).unwrap();
    store
        .add_revision(1, None, &revision("one"), &[], audit("2"))
        .unwrap();
    // A change that is refused leaves no entry.
    let refused = store.add_revision(2, None, &revision("two"), &[], audit("3"));
    assert!(refused.is_err());
    let entries = store.audit_entries(10).unwrap();
    let details: Vec<_> = entries.iter().map(|entry| entry.detail.as_str()).collect();
    assert_eq!(details, ["1", "2"]);
    assert_eq!(entries[1].previous, entries[0].hash);
    assert_eq!(entry_hash(&entries[1]).unwrap(), entries[1].hash);
    let mut forged = entries[0].clone();
    forged.detail = "3".into();
    assert_ne!(entry_hash(&forged).unwrap(), forged.hash);
}

#[test]
fn writers_at_the_same_time_lose_no_audit_entry() {
    let (_dir, store) = store();
    let writers: Vec<_> = (0..4)
        .map(|number| {
            let store = store.clone();
            std::thread::spawn(move || {
                let proxy = StoredProxy {
                    name: format!("orders-{number}"),
                    role: "sidecar".into(),
                    service: Some("orders".into()),
                    spiffe_id: String::new(),
                    not_after: 0,
                    serial: String::new(),
                    joined: 0,
                };
                for _ in 0..10 {
                    store.put_proxy(&proxy, AUDIT_OF_TEST).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let sequences: Vec<_> = store
        .audit_entries(100)
        .unwrap()
        .iter()
        .map(|entry| entry.sequence)
        .collect();
    assert_eq!(sequences, (1..=40).collect::<Vec<_>>());
}

#[test]
fn a_store_in_use_is_refused_with_its_path() {
    let (dir, _store) = store();
    let again = Store::open(&dir.path().join("store.redb"));
    assert!(again.err().unwrap().to_string().contains("store.redb"));
}

#[test]
fn a_damaged_store_is_an_error_wherever_the_damage_is() {
    let (dir, store) = store();
    for number in 1..40 {
        let detail = "x".repeat(200);
        let entry = StoredRevocation {
            kind: "user".into(),
            value: format!("shop:{number}"),
            at: 1,
            reason: detail.clone(),
        };
        let audit = Audit {
            actor: "admin",
            action: "revocation.added",
            detail: &detail,
        };
        store.add_revocation(&entry, audit).unwrap();
    }
    drop(store);
    let path = dir.path().join("store.redb");
    let good = std::fs::read(&path).unwrap();
    let serial = |store: &Store| store.revocations().unwrap().0;
    assert_eq!(serial(&Store::open(&path).unwrap()), 39);
    let mut found = 0;
    for start in (0..good.len()).step_by(2048) {
        let mut bytes = good.clone();
        for byte in bytes.iter_mut().skip(start).take(64) {
            *byte ^= 0x55;
        }
        std::fs::write(&path, &bytes).unwrap();
        // What nothing uses may be damaged; an older state is no answer.
        match Store::open(&path) {
            Ok(store) => assert_eq!(serial(&store), 39, "damage at {start} lost something"),
            Err(error) => {
                assert!(error.to_string().contains("is damaged"), "{start}: {error}");
                found += 1;
            }
        }
    }
    assert!(found > 3, "{found}");
}

/// A disk in memory that can be full.
#[derive(Clone, Debug, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn space(&self) -> std::io::Result<()> {
        match self.full.load(Ordering::Relaxed) {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn store(&self) -> Store {
        let disk = self.clone();
        let open = move || {
            redb::Builder::new()
                .create_with_backend(disk.clone())
                .map_err(|source| StoreError::Open {
                    path: "memory".into(),
                    source,
                })
        };
        Store::with_opener(Box::new(open)).unwrap()
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.bytes.lock().unwrap()[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.space()?;
        let len = usize::try_from(len).unwrap();
        self.bytes.lock().unwrap().resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.space()?;
        let start = usize::try_from(offset).unwrap();
        self.bytes.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[test]
fn after_a_full_disk_the_store_works_again_without_a_restart_and_has_lost_nothing() {
    let disk = Disk::default();
    let store = disk.store();
    let entry = |value: &str| StoredRevocation {
        kind: "user".into(),
        value: value.into(),
        at: 1,
        reason: String::new(),
    };
    store
        .add_revocation(&entry("before"), AUDIT_OF_TEST)
        .unwrap();
    disk.full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let refused = store.add_revocation(&entry("during"), AUDIT_OF_TEST);
        assert!(refused.is_err());
    }
    disk.full.store(false, Ordering::Relaxed);
    assert_eq!(
        store
            .add_revocation(&entry("after"), AUDIT_OF_TEST)
            .unwrap(),
        2
    );
    let (serial, list) = store.revocations().unwrap();
    let values: Vec<_> = list.iter().map(|entry| entry.value.as_str()).collect();
    assert_eq!((serial, values), (2, vec!["before", "after"]));
    assert_eq!(store.audit_entries(10).unwrap().len(), 2);
}
