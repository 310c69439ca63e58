use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb")).unwrap();
    (dir, store)
}

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
        .add_revision(1, None, &first, &[("aa".into(), Arc::from(&b"part"[..]))])
        .unwrap();
    assert_eq!(store.part("aa").unwrap().as_deref(), Some(&b"part"[..]));
    assert_eq!(store.part("bb").unwrap(), None);

    let late = store.add_revision(2, None, &revision("two"), &[]);
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    assert_eq!(store.newest_revision().unwrap().unwrap().0, 1);

    store
        .add_revision(2, Some(&first.digest), &revision("two"), &[])
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
    store.add_join_token("hash", &grant).unwrap();
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

    store.add_join_token("old", &grant).unwrap();
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
    assert_eq!(store.add_revocation(&entry).unwrap(), 1);
    assert_eq!(store.add_revocation(&entry).unwrap(), 2);
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
fn the_audit_log_is_chained_by_hash() {
    let (_dir, store) = store();
    store.audit("admin", "revision.applied", "1").unwrap();
    store.audit("admin", "revision.applied", "2").unwrap();
    let entries = store.audit_entries(10).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1].previous, entries[0].hash);
    assert_eq!(entry_hash(&entries[1]).unwrap(), entries[1].hash);
    let mut forged = entries[0].clone();
    forged.detail = "3".into();
    assert_ne!(entry_hash(&forged).unwrap(), forged.hash);
}

#[test]
fn a_store_in_use_is_refused_with_its_path() {
    let (dir, _store) = store();
    let again = Store::open(&dir.path().join("store.redb"));
    assert!(again.err().unwrap().to_string().contains("store.redb"));
}
