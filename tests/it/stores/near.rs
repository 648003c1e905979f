//! The store in Redis with copies of its records in this process (rules N1 to N4), at the seam.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use session_bridge::app::open_store_told;
use session_bridge::session::clock::{ManualClock, Timestamp};
use session_bridge::session::copies::{AtHand, Pass};
use session_bridge::session::quota::{Place, Quota, Taken};
use session_bridge::session::store::{
    Acquired, Created, Cursor, Key, KeyPage, LeaseEnd, LeaseState, LeaseToken, NewRecord, Removed, Replaced,
    SessionStore, StoreFuture, Stored, Version,
};
use session_bridge::store::near_cache::{Listener, NearCache};

use super::contract::{Subject, keeps_the_contract};
use super::redis::{PATIENT, config};
use super::{LONG, eventually, key, record, version};
use crate::support::gate::Gate;
use crate::support::redis::RedisServer;
use crate::support::{local, scaled};

/// A replica: a store whose `load` is answered from a copy where there is one at hand.
pub(super) struct Replica {
    pub(super) store: Arc<dyn SessionStore>,
    pub(super) copies: Arc<NearCache<Stored>>,
}

impl Replica {
    pub(super) async fn open(url: &str, prefix: &str, clock: &ManualClock) -> Self {
        let timeout = PATIENT.as_millis();
        let lines = format!("url = {url:?}\ntimeout = \"{timeout}ms\"\nkey_prefix = {prefix:?}");
        Self::with(&lines, clock).await
    }

    /// With these lines in its `[store]`.
    async fn with(lines: &str, clock: &ManualClock) -> Self {
        let copies = Arc::new(NearCache::new(10_000, LONG));
        let config = config(lines).expect("a configuration");
        let listener = Arc::clone(&copies) as Arc<dyn Listener>;
        let store = open_store_told(&config.store, Arc::new(clock.clone()), Some(listener))
            .await
            .expect("a store");
        Self { store, copies }
    }

    /// One that has found its server.
    async fn of(server: &RedisServer) -> Self {
        Self::open(&server.url(), "session-bridge:", &Subject::clock())
            .await
            .found(1)
            .await
    }

    /// The same of one with these lines in its `[store]`.
    pub(super) async fn found_with(lines: &str) -> Self {
        Self::with(lines, &Subject::clock()).await.found(1).await
    }

    /// The same of one in a cluster with so many masters.
    pub(super) async fn found_cluster(url: &str, masters: u64) -> Self {
        let replica = Self::open(url, "session-bridge:", &Subject::clock()).await;
        replica.found(masters).await
    }

    /// Once so many connections tell of changes.
    async fn found(self, connections: u64) -> Self {
        eventually("a connection", || async { self.store.ping().await.is_ok() }).await;
        eventually("a promise", || async { self.copies.stats().armed == connections }).await;
        self
    }

    /// The version at hand, where there is one; none while news lie unread.
    pub(super) fn at_hand(&self, key: &Key) -> Option<Version> {
        match self.copies.at_hand(key) {
            AtHand::True(stored) => Some(stored.version),
            AtHand::Unsure(_) | AtHand::Nothing => None,
        }
    }

    async fn pass(&self, key: &Key) -> (Option<Stored>, Pass) {
        let (stored, pass) = self.store.load_to_keep(key).await.expect("an answer");
        (stored, pass.expect("a promise"))
    }

    pub(super) async fn fill(&self, key: &Key) {
        let (stored, pass) = self.store.load_to_keep(key).await.expect("an answer");
        // There is none where the answer came by a redirection.
        if let Some(pass) = pass {
            self.copies.keep(key, &pass, stored);
        }
    }

    /// The same, until it was not overtaken.
    pub(super) async fn fill_for_sure(&self, key: &Key, seq: u64) {
        eventually("a copy", || async {
            self.fill(key).await;
            self.at_hand(key) == Some(version(seq))
        })
        .await;
    }
}

macro_rules! pass_on {
    ($($name:ident($($arg:ident: $type:ty),*) -> $output:ty;)+) => {
        $(fn $name<'a>(&'a self, key: &'a Key, $($arg: $type),*) -> StoreFuture<'a, $output> {
            self.store.$name(key, $($arg),*)
        })+
    };
}

impl SessionStore for Replica {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            loop {
                match self.copies.at_hand(key) {
                    AtHand::True(stored) => return Ok(Some(stored)),
                    AtHand::Unsure(promise) => promise.caught_up().await,
                    AtHand::Nothing => break,
                }
            }
            let (stored, pass) = self.store.load_to_keep(key).await?;
            if let Some(pass) = pass {
                self.copies.keep(key, &pass, stored.clone());
            }
            Ok(stored)
        })
    }

    pass_on! {
        observe() -> (Option<Stored>, LeaseState);
        create(new: NewRecord, fence: Option<LeaseToken>) -> Created;
        replace(expected: Version, new: NewRecord, fence: Option<LeaseToken>) -> Replaced;
        remove(expected: Version) -> Removed;
        discard() -> bool;
        touch(expected: Version, ttl: Duration) -> bool;
        acquire_lease(token: LeaseToken, ttl: Duration) -> Acquired;
        renew_lease(token: LeaseToken, ttl: Duration) -> bool;
        release_lease(token: LeaseToken, end: LeaseEnd) -> ();
        take_place(quota: Quota, now: Timestamp) -> Taken;
        give_back(quota: Quota, place: Place) -> ();
    }

    fn keys(&self, after: Option<Cursor>) -> StoreFuture<'_, KeyPage> {
        self.store.keys(after)
    }

    fn ping(&self) -> StoreFuture<'_, ()> {
        self.store.ping()
    }

    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.store.close()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_copies_keeps_the_contract() {
    let server = RedisServer::start();
    let number = AtomicU32::new(0);
    keeps_the_contract(|| async {
        let clock = Subject::clock();
        let prefix = format!("case-{}:", number.fetch_add(1, Ordering::Relaxed));
        Subject {
            store: Arc::new(Replica::open(&server.url(), &prefix, &clock).await),
            clock,
            real_time: true,
            _keep: Box::new(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_done_only_once_its_own_replica_has_been_told_and_no_other_serves_the_old_record() {
    let server = RedisServer::start();
    let replicas = [Replica::of(&server).await, Replica::of(&server).await];
    let [writer, other] = &replicas;
    let created = writer.store.create(&key(1), record(1, "x", LONG), None).await;
    assert_eq!(created, Ok(Created::Won));
    let rounds = scaled(1000, 20_000) as u64;
    for seq in 1..rounds {
        writer.fill(&key(1)).await;
        other.fill(&key(1)).await;
        let told = writer.copies.stats().invalidations;
        let new = record(seq + 1, "x", LONG);
        let replaced = writer.store.replace(&key(1), version(seq), new, None).await;
        assert_eq!(replaced, Ok(Replaced::Done));
        assert!(
            writer.copies.stats().invalidations > told,
            "round {seq}: not told before it was done"
        );
        assert_eq!(other.at_hand(&key(1)), None, "round {seq}: an old record is served");
    }
    let removed = writer.store.remove(&key(1), version(rounds)).await;
    assert_eq!(removed, Ok(Removed::Done));
    assert_eq!(other.at_hand(&key(1)), None);
}

#[tokio::test]
async fn a_fill_that_was_overtaken_by_a_change_of_another_replica_is_dropped() {
    let server = RedisServer::start();
    let (reader, writer) = (Replica::of(&server).await, Replica::of(&server).await);
    writer.store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    let (stored, pass) = reader.pass(&key(1)).await;
    let told = reader.copies.stats().invalidations;
    let replaced = writer
        .store
        .replace(&key(1), version(1), record(2, "x", LONG), None)
        .await;
    assert_eq!(replaced, Ok(Replaced::Done));
    eventually("the news", || async { reader.copies.stats().invalidations > told }).await;
    reader.copies.keep(&key(1), &pass, stored);
    assert_eq!(reader.at_hand(&key(1)), None);
    reader.fill_for_sure(&key(1), 2).await;
}

#[tokio::test]
async fn a_copy_dies_with_the_connection_that_told_of_changes_and_the_next_one_fills_anew() {
    let server = RedisServer::start();
    let replica = Replica::of(&server).await;
    replica.store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    for round in 1..20_u64 {
        replica.fill_for_sure(&key(1), 1).await;
        let (stored, pass) = replica.pass(&key(1)).await;
        let [connection] = server.tracking_connections()[..] else {
            panic!("one connection tells of changes");
        };
        server.command(&["CLIENT", "KILL", "ID", &connection.to_string()]);
        // In the kernel of this machine the end has arrived: nothing else need have noticed.
        assert_eq!(replica.at_hand(&key(1)), None, "round {round}");
        // What was asked for before is no more true than what was kept.
        replica.copies.keep(&key(1), &pass, stored);
        assert_eq!(replica.at_hand(&key(1)), None, "round {round}");
        eventually("a new promise", || async {
            let stats = replica.copies.stats();
            stats.armed == 1 && stats.flushes == round
        })
        .await;
        assert_eq!(replica.at_hand(&key(1)), None, "round {round}");
    }
}

#[tokio::test]
async fn an_emptied_database_an_expiry_and_a_touch_are_told_too() {
    let server = RedisServer::start();
    let (reader, writer) = (Replica::of(&server).await, Replica::of(&server).await);
    for n in 1..=3 {
        writer.store.create(&key(n), record(1, "x", LONG), None).await.unwrap();
        reader.fill_for_sure(&key(n), 1).await;
    }
    // A touch changes what a copy says of the expiry.
    assert_eq!(writer.store.touch(&key(1), version(1), LONG * 2).await, Ok(true));
    eventually("the news of the touch", || async { reader.at_hand(&key(1)).is_none() }).await;
    eventually("the other copy", || async {
        reader.at_hand(&key(2)) == Some(version(1))
    })
    .await;

    let short = Duration::from_millis(300);
    assert_eq!(writer.store.touch(&key(2), version(1), short).await, Ok(true));
    reader.fill_for_sure(&key(2), 1).await;
    eventually("the expiry", || async { reader.at_hand(&key(2)).is_none() }).await;

    reader.fill_for_sure(&key(3), 1).await;
    server.command(&["FLUSHALL"]);
    eventually("the news of the flush", || async {
        reader.copies.last_known(&key(3)).is_none()
    })
    .await;
    assert_eq!(reader.at_hand(&key(3)), None);
}

#[tokio::test]
async fn where_redis_promises_nothing_nothing_is_kept_and_all_else_works() {
    for refused in ["-client|tracking", "-pttl"] {
        let server = RedisServer::start();
        server.command(&["ACL", "SETUSER", "default", refused]);
        let replica = Replica::open(&server.url(), "session-bridge:", &Subject::clock()).await;
        eventually("a connection", || async { replica.store.ping().await.is_ok() }).await;
        replica.store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
        let found = replica.load(&key(1)).await.unwrap().expect("a record");
        assert_eq!(found.version, version(1));
        assert_eq!(replica.at_hand(&key(1)), None, "{refused}");
    }
}

#[tokio::test]
async fn when_the_network_swallows_everything_without_a_word_copies_are_not_believed_for_long() {
    let server = RedisServer::start();
    let gate = Gate::to(local(server.port())).await;
    let url = format!("redis://127.0.0.1:{}", gate.port());
    let reader = Replica::found_with(&format!("url = {url:?}\ntimeout = \"250ms\"")).await;
    let writer = Replica::of(&server).await;
    writer.store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    reader.fill_for_sure(&key(1), 1).await;
    gate.hold();
    let replaced = writer
        .store
        .replace(&key(1), version(1), record(2, "x", LONG), None)
        .await;
    assert_eq!(replaced, Ok(Replaced::Done));
    eventually("doubts", || async { reader.at_hand(&key(1)).is_none() }).await;
    gate.open();
    reader.fill_for_sure(&key(1), 2).await;
}
