//! What is particular to the store in memory.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use session_bridge::session::clock::{Clock, ManualClock};
use session_bridge::session::record::{Rank, Record, Snapshot};
use session_bridge::session::store::{
    Acquired, BARREN_MEMORY, Created, Cursor, Key, KeyPage, LeaseEnd, LeaseState, LeaseToken, NewRecord, Payload,
    Removed, Replaced, SessionStore, StoreFuture, Stored, Version,
};
use session_bridge::store::memory::MemoryStore;

use super::contract::{Subject, keeps_the_contract};
use super::{LONG, eventually, key, record, token, version};

fn store() -> (MemoryStore, ManualClock) {
    let clock = Subject::clock();
    (MemoryStore::new(Arc::new(clock.clone())), clock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_contract() {
    keeps_the_contract(|| async {
        let (store, clock) = store();
        Subject {
            store: Arc::new(store),
            clock,
            real_time: false,
            _keep: Box::new(()),
        }
    })
    .await;
}

/// Any store over which only the calls without a default are passed on.
struct Plain(MemoryStore);

macro_rules! pass_on {
    ($($name:ident($($arg:ident: $type:ty),*) -> $output:ty;)+) => {
        $(fn $name<'a>(&'a self, key: &'a Key, $($arg: $type),*) -> StoreFuture<'a, $output> {
            self.0.$name(key, $($arg),*)
        })+
    };
}

impl SessionStore for Plain {
    pass_on! {
        load() -> Option<Stored>;
        observe() -> (Option<Stored>, LeaseState);
        create(new: NewRecord, fence: Option<LeaseToken>) -> Created;
        replace(expected: Version, new: NewRecord, fence: Option<LeaseToken>) -> Replaced;
        remove(expected: Version) -> Removed;
        discard() -> bool;
        touch(expected: Version, ttl: Duration) -> bool;
        acquire_lease(token: LeaseToken, ttl: Duration) -> Acquired;
        renew_lease(token: LeaseToken, ttl: Duration) -> bool;
        release_lease(token: LeaseToken, end: LeaseEnd) -> ();
    }

    fn keys(&self, after: Option<Cursor>) -> StoreFuture<'_, KeyPage> {
        self.0.keys(after)
    }

    fn ping(&self) -> StoreFuture<'_, ()> {
        self.0.ping()
    }

    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.0.close()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_seam_does_for_stores_that_do_not_count_themselves_keeps_the_contract() {
    keeps_the_contract(|| async {
        let (store, clock) = store();
        Subject {
            store: Arc::new(Plain(store)),
            clock,
            real_time: false,
            _keep: Box::new(()),
        }
    })
    .await;
}

/// What is read at once is what is loaded.
fn agree(store: &MemoryStore, clock: &ManualClock, n: u32) {
    let loaded = store.load(&key(n)).now_or_never().expect("ready at once");
    let read = loaded.and_then(|stored| Ok(stored.as_ref().map(Snapshot::read).transpose()?));
    let at_once = store.at_once().expect("a store in this process");
    for _ in 0..2 {
        assert_eq!(at_once.read(&key(n), clock.now()), read, "key {n}");
    }
}

#[test]
fn what_is_read_at_once_is_what_the_store_holds_whatever_has_happened_to_it() {
    let (store, clock) = store();
    let mut random = fastrand::Rng::with_seed(7);
    // Some of one part of the store and one row there, some of others.
    let keys: Vec<u32> = (0..12).map(|n| n << 8).chain([1, 2, 3]).collect();
    let mut last = vec![0; keys.len()];
    for step in 1..20_000 {
        let at = random.usize(..keys.len());
        let (key, before) = (key(keys[at]), version(last[at]));
        let written = NewRecord {
            version: version(step),
            ttl: Duration::from_secs(random.u64(1..50)),
            payload: match step % 17 {
                0 => Payload("nonsense".into()),
                _ => Record::begin(version(step), Rank::Safe, clock.now()).encode().unwrap(),
            },
        };
        let done = match random.u8(..8) {
            0 => store.create(&key, written, None).now_or_never() == Some(Ok(Created::Won)),
            1 | 2 => store.replace(&key, before, written, None).now_or_never() == Some(Ok(Replaced::Done)),
            other => {
                match other {
                    3 => drop(store.remove(&key, before).now_or_never()),
                    4 => drop(store.touch(&key, before, LONG).now_or_never()),
                    5 => drop(store.acquire_lease(&key, token(1), LONG).now_or_never()),
                    _ => clock.advance(Duration::from_secs(random.u64(..3))),
                }
                false
            }
        };
        if done {
            last[at] = step;
        }
        agree(&store, &clock, keys[at]);
        agree(&store, &clock, keys[random.usize(..keys.len())]);
    }
    store.close().now_or_never();
    agree(&store, &clock, 1);
}

#[test]
fn no_call_waits_and_no_runtime_is_needed() {
    let (store, _) = store();
    let created = store.create(&key(1), record(1, "x", LONG), None).now_or_never();
    assert_eq!(created, Some(Ok(Created::Won)));
    assert!(
        store
            .load(&key(1))
            .now_or_never()
            .expect("ready at once")
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn the_count_of_barren_leaders_is_forgotten_after_its_time() {
    let (store, clock) = store();
    store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
    store.release_lease(&key(1), token(1), LeaseEnd::Barren).await.unwrap();
    clock.advance(BARREN_MEMORY - Duration::from_millis(1));
    assert_eq!(store.observe(&key(1)).await.unwrap().1.barren, 1);
    clock.advance(Duration::from_millis(1));
    assert_eq!(store.observe(&key(1)).await.unwrap().1, LeaseState::default());
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_swept_and_the_rest_stays() {
    let (store, clock) = store();
    for n in 0..1000 {
        store
            .create(&key(n), record(1, "old", Duration::from_secs(1)), None)
            .await
            .unwrap();
    }
    for n in 1000..1010 {
        store.create(&key(n), record(1, "kept", LONG), None).await.unwrap();
        store.touch(&key(n - 1000), version(1), LONG).await.unwrap();
    }
    for n in 2000..2100 {
        store
            .acquire_lease(&key(n), token(1), Duration::from_secs(1))
            .await
            .unwrap();
    }
    store.load(&key(3000)).await.unwrap();
    assert_eq!(store.len(), 1110);
    clock.advance(Duration::from_secs(1));
    eventually("twenty records are left", || async { store.len() == 20 }).await;
    assert!(store.load(&key(5)).await.unwrap().is_some());
    assert!(store.load(&key(1005)).await.unwrap().is_some());
}

#[tokio::test]
async fn what_was_removed_takes_no_room() {
    let (store, _) = store();
    store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    store.acquire_lease(&key(2), token(1), LONG).await.unwrap();
    store.remove(&key(1), version(1)).await.unwrap();
    store.release_lease(&key(2), token(1), LeaseEnd::Plain).await.unwrap();
    assert!(store.is_empty());
}
