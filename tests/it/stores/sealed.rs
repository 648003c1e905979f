//! The layer that seals records, over two of the stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use session_bridge::session::store::{Created, Flaw, SessionStore, StoreError};
use session_bridge::store::memory::MemoryStore;
use session_bridge::store::sealed::{KEY_LEN, Seal, SealedStore, SealingKey};

use super::contract::{Subject, keeps_the_contract};
use super::redis::{PATIENT, assert_every_key_expires, connect, connect_as, record_key};
use super::{LONG, key, record, version};
use crate::support::redis::RedisServer;

fn seal(n: u8) -> Seal {
    Seal::Key(SealingKey::new(&[n; KEY_LEN]).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_memory_keeps_the_contract() {
    keeps_the_contract(|| async {
        let clock = Subject::clock();
        let memory = Arc::new(MemoryStore::new(Arc::new(clock.clone())));
        Subject {
            store: Arc::new(SealedStore::over(memory, seal(1), Vec::new())),
            clock,
            real_time: false,
            _keep: Box::new(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_redis_keeps_the_contract_while_keys_change() {
    let server = RedisServer::start();
    let number = AtomicU32::new(0);
    keeps_the_contract(|| async {
        let clock = Subject::clock();
        let prefix = format!("case-{}:", number.fetch_add(1, Ordering::Relaxed));
        let redis = connect_as(&server.url(), PATIENT, &prefix, &clock).await;
        Subject {
            store: Arc::new(SealedStore::over(redis, seal(2), vec![seal(1), Seal::Clear])),
            clock,
            real_time: true,
            _keep: Box::new(()),
        }
    })
    .await;
    assert!(server.keys().len() > 50);
    assert_every_key_expires(&server);
}

#[tokio::test]
async fn a_touch_seals_anew_what_an_older_key_sealed_and_a_stranger_key_changes_nothing() {
    let server = RedisServer::start();
    let over = async |first, others| SealedStore::over(connect(&server, PATIENT).await, first, others);
    let raw = || server.command(&["GET", &record_key(1)]);
    let old = over(seal(1), Vec::new()).await;
    assert_eq!(
        old.create(&key(1), record(1, "content", LONG), None).await,
        Ok(Created::Won)
    );

    let before = raw();
    let stranger = over(seal(3), vec![seal(4)]).await;
    for outcome in [
        stranger.touch(&key(1), version(1), LONG).await.map(drop),
        stranger.create(&key(1), record(2, "x", LONG), None).await.map(drop),
    ] {
        let Err(StoreError::Unreadable(unreadable)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(
            (unreadable.flaw, unreadable.version),
            (Flaw::UnknownKey, Some(version(1)))
        );
    }
    assert_eq!(raw(), before);

    let new = over(seal(2), vec![seal(1)]).await;
    assert_eq!(new.touch(&key(1), version(1), LONG).await, Ok(true));
    assert_ne!(raw(), before);
    assert_every_key_expires(&server);
    assert!(old.load(&key(1)).await.is_err());
    let found = over(seal(2), Vec::new())
        .await
        .load(&key(1))
        .await
        .unwrap()
        .expect("a record");
    assert_eq!((found.version, &found.payload.0[..]), (version(1), &b"content"[..]));
}
