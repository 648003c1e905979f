//! The one conformance suite: what every store must do, whatever it is made of.
//!
//! [`keeps_the_contract`] runs every case at once, each with a store of its own.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use session_bridge::session::clock::{Clock, ManualClock, Timestamp};
use session_bridge::session::quota::{Quota, Taken};
use session_bridge::session::store::{
    Acquired, Created, LeaseEnd, LeaseState, NewRecord, Payload, Removed, Replaced, SessionStore, StoreError, Version,
};
use tokio::task::JoinSet;

use super::{LONG, key, record, token, version};

/// A store under test, and its time.
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn SessionStore>,
    /// What the store was given as its clock.
    pub(crate) clock: ManualClock,
    /// The store measures times to live by a clock of its own.
    pub(crate) real_time: bool,
    /// What must live as long as the store.
    pub(crate) _keep: Box<dyn Any + Send + Sync>,
}

impl Subject {
    /// A clock for a subject.
    pub(crate) fn clock() -> ManualClock {
        ManualClock::at(Timestamp::from_millis(1_700_000_000_000))
    }

    /// A time to live that a case can outlast, and that what follows at once does not.
    fn short(&self) -> Duration {
        Duration::from_millis(match self.store.kind() {
            _ if !self.real_time => 10_000,
            // Each call is a few ways to the server and back, which is busy with all cases at once.
            "postgres" | "mysql" | "memcached" => 2000,
            _ => 600,
        })
    }

    /// By how much a store may let something live for longer than it was asked to.
    fn grain(&self) -> Duration {
        Duration::from_secs(if self.store.kind() == "memcached" { 2 } else { 0 })
    }

    /// Lets [`Subject::short`] pass.
    async fn pass_short(&self) {
        if self.real_time {
            tokio::time::sleep(self.short() + self.grain() + Duration::from_millis(10)).await;
        } else {
            self.clock.advance(self.short());
        }
    }
}

type Case = fn(Arc<Subject>) -> BoxFuture<'static, ()>;

macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        const CASES: &[(&str, Case)] = &[$((stringify!($name), |subject| Box::pin($name(subject)))),+];
    };
}

cases![
    an_unknown_key_is_absent_and_no_error,
    a_record_is_found_as_it_was_written,
    create_loses_to_a_record_and_leaves_it_alone,
    replace_takes_place_only_of_the_expected_version,
    remove_takes_away_only_the_expected_version,
    discard_takes_away_no_record,
    touch_moves_nothing_but_the_expiry_of_the_expected_version,
    an_expired_record_is_not_there_for_any_call,
    a_record_lives_by_its_latest_time_to_live,
    a_touched_record_lives_on,
    keys_do_not_touch_one_another,
    versions_and_times_at_their_limits_are_kept,
    payloads_of_any_size_and_content_are_kept,
    a_lease_has_one_holder,
    a_lease_taken_again_by_its_holder_is_renewed,
    a_renewed_lease_lasts,
    a_lease_that_is_not_renewed_is_gone,
    only_its_holder_gives_a_lease_back,
    barren_leaders_are_counted,
    the_count_of_barren_leaders_outlives_a_leader_that_died,
    a_fenced_write_needs_the_lease,
    a_fence_is_judged_before_anything_else,
    a_write_without_a_fence_asks_for_no_lease,
    one_of_many_creates_wins,
    each_version_has_one_successor,
    one_of_many_takes_the_lease,
    an_observer_never_sees_the_lead_free_before_the_record,
    what_is_read_never_goes_back,
    so_many_places_are_taken_and_no_more,
    a_place_given_back_is_free_and_one_of_long_ago_too,
    however_many_ask_at_once_no_place_is_taken_twice,
    every_record_is_listed,
    a_store_that_serves_says_so,
    a_closed_store_refuses_every_call,
];

/// Runs every case with a store of its own, and names those that fail.
pub(crate) async fn keeps_the_contract<F: Future<Output = Subject>>(fresh: impl Fn() -> F) {
    let mut running = JoinSet::new();
    let mut names = std::collections::HashMap::new();
    for (name, case) in CASES {
        let subject = Arc::new(fresh().await);
        let within = tokio::time::timeout(Duration::from_secs(60), case(subject));
        names.insert(
            running
                .spawn(async { within.await.expect("an end within a minute") })
                .id(),
            *name,
        );
    }
    let mut failed = Vec::new();
    while let Some(ended) = running.join_next_with_id().await {
        if let Err(error) = ended {
            failed.push(names[&error.id()]);
        }
    }
    assert!(failed.is_empty(), "these cases failed: {failed:#?}");
}

async fn an_unknown_key_is_absent_and_no_error(subject: Arc<Subject>) {
    let store = &subject.store;
    assert_eq!(store.load(&key(1)).await, Ok(None));
    assert_eq!(
        store.observe(&key(1)).await,
        Ok((None, LeaseState { held: false, barren: 0 }))
    );
    assert_eq!(
        store.replace(&key(1), version(1), record(2, "new", LONG), None).await,
        Ok(Replaced::Conflict(None))
    );
    assert_eq!(store.remove(&key(1), version(1)).await, Ok(Removed::Conflict(None)));
    assert_eq!(store.touch(&key(1), version(1), LONG).await, Ok(false));
    assert_eq!(store.load(&key(1)).await, Ok(None));
}

async fn a_record_is_found_as_it_was_written(subject: Arc<Subject>) {
    let store = &subject.store;
    assert_eq!(
        store.create(&key(1), record(1, "first", LONG), None).await,
        Ok(Created::Won)
    );
    let found = store.load(&key(1)).await.unwrap().expect("a record");
    assert_eq!(found.version, version(1));
    assert_eq!(found.payload.0, "first");
    assert_eq!(found.expires_at, subject.clock.now().saturating_add(LONG));
    assert_eq!(store.observe(&key(1)).await, Ok((Some(found), LeaseState::default())));
}

async fn create_loses_to_a_record_and_leaves_it_alone(subject: Arc<Subject>) {
    let store = &subject.store;
    store.create(&key(1), record(1, "first", LONG), None).await.unwrap();
    let found = store.load(&key(1)).await.unwrap().expect("a record");
    let second = store.create(&key(1), record(2, "second", LONG), None).await;
    assert_eq!(second, Ok(Created::Lost(found.clone())));
    assert_eq!(store.load(&key(1)).await, Ok(Some(found)));
}

async fn replace_takes_place_only_of_the_expected_version(subject: Arc<Subject>) {
    let store = &subject.store;
    store.create(&key(1), record(1, "first", LONG), None).await.unwrap();
    let first = store.load(&key(1)).await.unwrap();
    let near = [Version { seq: 2, ..version(1) }, Version { nonce: 0, ..version(1) }];
    for other in near {
        let outcome = store.replace(&key(1), other, record(2, "second", LONG), None).await;
        assert_eq!(outcome, Ok(Replaced::Conflict(first.clone())));
    }
    assert_eq!(store.load(&key(1)).await, Ok(first));
    assert_eq!(
        store
            .replace(&key(1), version(1), record(2, "second", LONG), None)
            .await,
        Ok(Replaced::Done)
    );
    let second = store.load(&key(1)).await.unwrap().expect("a record");
    assert_eq!((second.version, &second.payload.0[..]), (version(2), &b"second"[..]));
    let late = store.replace(&key(1), version(1), record(2, "third", LONG), None).await;
    assert_eq!(late, Ok(Replaced::Conflict(Some(second))));
}

async fn remove_takes_away_only_the_expected_version(subject: Arc<Subject>) {
    let store = &subject.store;
    store.create(&key(1), record(1, "first", LONG), None).await.unwrap();
    let first = store.load(&key(1)).await.unwrap();
    assert_eq!(
        store.remove(&key(1), version(2)).await,
        Ok(Removed::Conflict(first.clone()))
    );
    assert_eq!(store.load(&key(1)).await, Ok(first));
    assert_eq!(store.remove(&key(1), version(1)).await, Ok(Removed::Done));
    assert_eq!(store.load(&key(1)).await, Ok(None));
    assert_eq!(store.remove(&key(1), version(1)).await, Ok(Removed::Conflict(None)));
    assert_eq!(
        store.create(&key(1), record(5, "again", LONG), None).await,
        Ok(Created::Won)
    );
    assert_eq!(
        store.load(&key(1)).await.unwrap().expect("a record").version,
        version(5)
    );
}

async fn discard_takes_away_no_record(subject: Arc<Subject>) {
    let store = &subject.store;
    assert_eq!(store.discard(&key(1)).await, Ok(false));
    store.create(&key(1), record(1, "first", LONG), None).await.unwrap();
    let first = store.load(&key(1)).await.unwrap();
    assert_eq!(store.discard(&key(1)).await, Ok(false));
    assert_eq!(store.load(&key(1)).await, Ok(first));
}

async fn touch_moves_nothing_but_the_expiry_of_the_expected_version(subject: Arc<Subject>) {
    let store = &subject.store;
    store.create(&key(1), record(1, "first", LONG), None).await.unwrap();
    let first = store.load(&key(1)).await.unwrap().expect("a record");
    assert_eq!(store.touch(&key(1), version(2), LONG * 2).await, Ok(false));
    assert_eq!(store.load(&key(1)).await, Ok(Some(first.clone())));
    assert_eq!(store.touch(&key(1), version(1), LONG * 2).await, Ok(true));
    let touched = store.load(&key(1)).await.unwrap().expect("a record");
    assert_eq!(touched.expires_at, first.expires_at.saturating_add(LONG));
    assert_eq!((touched.version, touched.payload), (first.version, first.payload));
    assert_eq!(
        store
            .replace(&key(1), version(1), record(2, "second", LONG), None)
            .await,
        Ok(Replaced::Done)
    );
}

async fn an_expired_record_is_not_there_for_any_call(subject: Arc<Subject>) {
    let store = &subject.store;
    for n in 1..=7 {
        assert_eq!(
            store.create(&key(n), record(1, "old", subject.short()), None).await,
            Ok(Created::Won)
        );
    }
    subject.pass_short().await;
    assert_eq!(store.load(&key(1)).await, Ok(None));
    assert_eq!(store.observe(&key(2)).await, Ok((None, LeaseState::default())));
    assert_eq!(
        store.replace(&key(3), version(1), record(2, "new", LONG), None).await,
        Ok(Replaced::Conflict(None))
    );
    assert_eq!(store.remove(&key(4), version(1)).await, Ok(Removed::Conflict(None)));
    assert_eq!(store.touch(&key(5), version(1), LONG).await, Ok(false));
    assert_eq!(store.load(&key(5)).await, Ok(None));
    assert_eq!(
        store.create(&key(6), record(9, "new", LONG), None).await,
        Ok(Created::Won)
    );
    assert_eq!(
        store.load(&key(6)).await.unwrap().expect("a record").version,
        version(9)
    );
    assert_eq!(store.acquire_lease(&key(7), token(1), LONG).await, Ok(Acquired::Won));
    assert_eq!(
        store.create(&key(7), record(9, "new", LONG), Some(token(1))).await,
        Ok(Created::Won)
    );
}

async fn a_record_lives_by_its_latest_time_to_live(subject: Arc<Subject>) {
    let store = &subject.store;
    store
        .create(&key(1), record(1, "short", subject.short()), None)
        .await
        .unwrap();
    store.create(&key(2), record(1, "long", LONG), None).await.unwrap();
    assert_eq!(
        store.replace(&key(1), version(1), record(2, "long", LONG), None).await,
        Ok(Replaced::Done)
    );
    let shorter = record(2, "short", subject.short());
    assert_eq!(
        store.replace(&key(2), version(1), shorter, None).await,
        Ok(Replaced::Done)
    );
    subject.pass_short().await;
    assert_eq!(
        store.load(&key(1)).await.unwrap().expect("a record").version,
        version(2)
    );
    assert_eq!(store.load(&key(2)).await, Ok(None));
}

async fn a_touched_record_lives_on(subject: Arc<Subject>) {
    let store = &subject.store;
    store
        .create(&key(1), record(1, "touched", subject.short()), None)
        .await
        .unwrap();
    store.create(&key(2), record(1, "not", LONG), None).await.unwrap();
    assert_eq!(store.touch(&key(1), version(1), LONG).await, Ok(true));
    assert_eq!(store.touch(&key(2), version(1), subject.short()).await, Ok(true));
    subject.pass_short().await;
    assert_eq!(
        store.load(&key(1)).await.unwrap().expect("a record").payload.0,
        "touched"
    );
    assert_eq!(store.load(&key(2)).await, Ok(None));
}

async fn keys_do_not_touch_one_another(subject: Arc<Subject>) {
    let store = &subject.store;
    for n in 0..100 {
        let text = format!("record {n}");
        assert_eq!(
            store.create(&key(n), record(u64::from(n), &text, LONG), None).await,
            Ok(Created::Won)
        );
    }
    assert_eq!(store.acquire_lease(&key(3), token(1), LONG).await, Ok(Acquired::Won));
    assert_eq!(store.remove(&key(4), version(4)).await, Ok(Removed::Done));
    for n in 0..100 {
        let (found, lease) = store.observe(&key(n)).await.unwrap();
        let expected = (n != 4).then(|| (version(u64::from(n)), Bytes::from(format!("record {n}"))));
        assert_eq!(found.map(|found| (found.version, found.payload.0)), expected);
        assert_eq!(lease.held, n == 3);
    }
}

async fn versions_and_times_at_their_limits_are_kept(subject: Arc<Subject>) {
    let store = &subject.store;
    let limits = [
        Version { seq: 0, nonce: 0 },
        Version {
            seq: u64::MAX,
            nonce: u32::MAX,
        },
        Version {
            seq: 1 << 63,
            nonce: 1 << 31,
        },
    ];
    for (n, version) in (0..).zip(limits) {
        let new = NewRecord {
            version,
            ttl: Duration::MAX,
            payload: Payload(Bytes::from_static(b"x")),
        };
        assert_eq!(store.create(&key(n), new.clone(), None).await, Ok(Created::Won));
        assert_eq!(store.load(&key(n)).await.unwrap().expect("a record").version, version);
        assert_eq!(store.touch(&key(n), version, Duration::MAX).await, Ok(true));
        assert_eq!(store.replace(&key(n), version, new, None).await, Ok(Replaced::Done));
    }
    assert_eq!(
        store.acquire_lease(&key(9), token(u128::MAX), Duration::MAX).await,
        Ok(Acquired::Won)
    );
    assert_eq!(
        store.renew_lease(&key(9), token(u128::MAX), Duration::MAX).await,
        Ok(true)
    );
    // The shortest time there is must not be an error, nor for ever.
    assert_eq!(
        store
            .create(&key(10), record(1, "x", Duration::from_nanos(1)), None)
            .await,
        Ok(Created::Won)
    );
    subject.pass_short().await;
    assert_eq!(store.load(&key(10)).await, Ok(None));
}

async fn payloads_of_any_size_and_content_are_kept(subject: Arc<Subject>) {
    let store = &subject.store;
    let every_byte: Vec<u8> = (0..=255).collect();
    let big: Vec<u8> = (0..1_000_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect();
    for (n, bytes) in (0..).zip([Vec::new(), every_byte, big]) {
        let payload = Payload(Bytes::from(bytes));
        let new = |seq| NewRecord {
            version: version(seq),
            ttl: LONG,
            payload: payload.clone(),
        };
        assert_eq!(store.create(&key(n), new(1), None).await, Ok(Created::Won));
        assert_eq!(store.load(&key(n)).await.unwrap().expect("a record").payload, payload);
        assert_eq!(
            store.replace(&key(n), version(1), new(2), None).await,
            Ok(Replaced::Done)
        );
        let Ok(Created::Lost(there)) = store.create(&key(n), new(3), None).await else {
            panic!("not lost")
        };
        assert_eq!((there.version, there.payload), (version(2), payload));
    }
}

async fn a_lease_has_one_holder(subject: Arc<Subject>) {
    let store = &subject.store;
    assert_eq!(store.acquire_lease(&key(1), token(1), LONG).await, Ok(Acquired::Won));
    assert_eq!(
        store.acquire_lease(&key(1), token(2), LONG).await,
        Ok(Acquired::Held { barren: 0 })
    );
    assert_eq!(store.renew_lease(&key(1), token(2), LONG).await, Ok(false));
    assert_eq!(
        store.observe(&key(1)).await,
        Ok((None, LeaseState { held: true, barren: 0 }))
    );
    assert_eq!(store.acquire_lease(&key(2), token(2), LONG).await, Ok(Acquired::Won));
    assert_eq!(store.load(&key(1)).await, Ok(None));
}

async fn a_lease_taken_again_by_its_holder_is_renewed(subject: Arc<Subject>) {
    let store = &subject.store;
    assert_eq!(
        store.acquire_lease(&key(1), token(1), subject.short()).await,
        Ok(Acquired::Won)
    );
    assert_eq!(store.acquire_lease(&key(1), token(1), LONG).await, Ok(Acquired::Won));
    subject.pass_short().await;
    assert_eq!(
        store.acquire_lease(&key(1), token(2), LONG).await,
        Ok(Acquired::Held { barren: 0 })
    );
}

async fn a_renewed_lease_lasts(subject: Arc<Subject>) {
    let store = &subject.store;
    assert_eq!(
        store.acquire_lease(&key(1), token(1), subject.short()).await,
        Ok(Acquired::Won)
    );
    assert_eq!(store.renew_lease(&key(1), token(1), LONG).await, Ok(true));
    subject.pass_short().await;
    assert!(store.observe(&key(1)).await.unwrap().1.held);
    assert_eq!(
        store.create(&key(1), record(1, "late", LONG), Some(token(1))).await,
        Ok(Created::Won)
    );
}

async fn a_lease_that_is_not_renewed_is_gone(subject: Arc<Subject>) {
    let store = &subject.store;
    assert_eq!(
        store.acquire_lease(&key(1), token(1), subject.short()).await,
        Ok(Acquired::Won)
    );
    subject.pass_short().await;
    assert_eq!(store.observe(&key(1)).await, Ok((None, LeaseState::default())));
    assert_eq!(store.renew_lease(&key(1), token(1), LONG).await, Ok(false));
    assert_eq!(store.acquire_lease(&key(1), token(2), LONG).await, Ok(Acquired::Won));
    assert_eq!(store.renew_lease(&key(1), token(1), LONG).await, Ok(false));
    assert_eq!(
        store.acquire_lease(&key(1), token(1), LONG).await,
        Ok(Acquired::Held { barren: 0 })
    );
}

async fn only_its_holder_gives_a_lease_back(subject: Arc<Subject>) {
    let store = &subject.store;
    assert_eq!(store.release_lease(&key(1), token(1), LeaseEnd::Barren).await, Ok(()));
    store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
    assert_eq!(store.release_lease(&key(1), token(2), LeaseEnd::Barren).await, Ok(()));
    assert_eq!(
        store.observe(&key(1)).await.unwrap().1,
        LeaseState { held: true, barren: 0 }
    );
    assert_eq!(store.release_lease(&key(1), token(1), LeaseEnd::Plain).await, Ok(()));
    assert_eq!(
        store.observe(&key(1)).await.unwrap().1,
        LeaseState { held: false, barren: 0 }
    );
    assert_eq!(store.acquire_lease(&key(1), token(2), LONG).await, Ok(Acquired::Won));
}

async fn barren_leaders_are_counted(subject: Arc<Subject>) {
    let store = &subject.store;
    for n in 1..=3 {
        assert_eq!(store.acquire_lease(&key(1), token(1), LONG).await, Ok(Acquired::Won));
        assert_eq!(
            store.acquire_lease(&key(1), token(2), LONG).await,
            Ok(Acquired::Held { barren: n - 1 })
        );
        store.release_lease(&key(1), token(1), LeaseEnd::Barren).await.unwrap();
        assert_eq!(
            store.observe(&key(1)).await.unwrap().1,
            LeaseState { held: false, barren: n }
        );
    }
    store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
    store.release_lease(&key(1), token(1), LeaseEnd::Plain).await.unwrap();
    assert_eq!(
        store.observe(&key(1)).await.unwrap().1,
        LeaseState { held: false, barren: 3 }
    );
    assert_eq!(store.observe(&key(2)).await.unwrap().1, LeaseState::default());
}

async fn the_count_of_barren_leaders_outlives_a_leader_that_died(subject: Arc<Subject>) {
    let store = &subject.store;
    store.acquire_lease(&key(1), token(1), subject.short()).await.unwrap();
    store.release_lease(&key(1), token(1), LeaseEnd::Barren).await.unwrap();
    assert_eq!(
        store.acquire_lease(&key(1), token(2), subject.short()).await,
        Ok(Acquired::Won)
    );
    subject.pass_short().await;
    assert_eq!(
        store.observe(&key(1)).await.unwrap().1,
        LeaseState { held: false, barren: 1 }
    );
}

async fn a_fenced_write_needs_the_lease(subject: Arc<Subject>) {
    let store = &subject.store;
    let new = |seq| record(seq, "fenced", LONG);
    assert_eq!(store.create(&key(1), new(1), Some(token(1))).await, Ok(Created::Fenced));
    store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
    assert_eq!(store.create(&key(1), new(1), Some(token(2))).await, Ok(Created::Fenced));
    assert_eq!(store.load(&key(1)).await, Ok(None));
    assert_eq!(store.create(&key(1), new(1), Some(token(1))).await, Ok(Created::Won));
    assert_eq!(
        store.replace(&key(1), version(1), new(2), Some(token(2))).await,
        Ok(Replaced::Fenced)
    );
    assert_eq!(
        store.replace(&key(1), version(1), new(2), Some(token(1))).await,
        Ok(Replaced::Done)
    );
    store.release_lease(&key(1), token(1), LeaseEnd::Plain).await.unwrap();
    assert_eq!(
        store.replace(&key(1), version(2), new(3), Some(token(1))).await,
        Ok(Replaced::Fenced)
    );
    // One that has run out is as good as none, and so is one that was taken over.
    store.acquire_lease(&key(2), token(1), subject.short()).await.unwrap();
    subject.pass_short().await;
    assert_eq!(store.create(&key(2), new(1), Some(token(1))).await, Ok(Created::Fenced));
    store.acquire_lease(&key(2), token(2), LONG).await.unwrap();
    assert_eq!(store.create(&key(2), new(1), Some(token(1))).await, Ok(Created::Fenced));
    assert_eq!(store.load(&key(2)).await, Ok(None));
    assert_eq!(
        store.load(&key(1)).await.unwrap().expect("a record").version,
        version(2)
    );
}

async fn a_fence_is_judged_before_anything_else(subject: Arc<Subject>) {
    let store = &subject.store;
    store.create(&key(1), record(1, "first", LONG), None).await.unwrap();
    let new = record(2, "second", LONG);
    assert_eq!(
        store.create(&key(1), new.clone(), Some(token(1))).await,
        Ok(Created::Fenced)
    );
    assert_eq!(
        store.replace(&key(1), version(9), new.clone(), Some(token(1))).await,
        Ok(Replaced::Fenced)
    );
    store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
    assert!(matches!(
        store.create(&key(1), new.clone(), Some(token(1))).await,
        Ok(Created::Lost(_))
    ));
    assert!(matches!(
        store.replace(&key(1), version(9), new, Some(token(1))).await,
        Ok(Replaced::Conflict(Some(_)))
    ));
}

async fn a_write_without_a_fence_asks_for_no_lease(subject: Arc<Subject>) {
    let store = &subject.store;
    store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
    assert_eq!(
        store.create(&key(1), record(1, "first", LONG), None).await,
        Ok(Created::Won)
    );
    assert_eq!(
        store
            .replace(&key(1), version(1), record(2, "second", LONG), None)
            .await,
        Ok(Replaced::Done)
    );
    assert_eq!(store.touch(&key(1), version(2), LONG).await, Ok(true));
    assert_eq!(store.remove(&key(1), version(2)).await, Ok(Removed::Done));
    assert!(store.observe(&key(1)).await.unwrap().1.held, "the lease is still held");
}

/// Runs `task` for `0..count` at once, on tasks of their own.
async fn at_once<T, F>(count: u64, task: impl Fn(u64) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let running: Vec<_> = (0..count).map(|n| tokio::spawn(task(n))).collect();
    join_all(running)
        .await
        .into_iter()
        .map(|ended| ended.expect("no panic"))
        .collect()
}

async fn one_of_many_creates_wins(subject: Arc<Subject>) {
    let outcomes = at_once(50, |n| {
        let store = Arc::clone(&subject.store);
        async move { store.create(&key(1), record(n, "many", LONG), None).await.unwrap() }
    })
    .await;
    let there = subject.store.load(&key(1)).await.unwrap().expect("a record");
    for (n, outcome) in (0..).zip(outcomes) {
        let expected = if there.version == version(n) {
            Created::Won
        } else {
            Created::Lost(there.clone())
        };
        assert_eq!(outcome, expected);
    }
}

async fn each_version_has_one_successor(subject: Arc<Subject>) {
    const LAST: u64 = 60;
    subject
        .store
        .create(&key(1), record(0, "start", LONG), None)
        .await
        .unwrap();
    let successes = at_once(6, |_| {
        let store = Arc::clone(&subject.store);
        async move {
            let mut seq = 0;
            let mut done = Vec::new();
            while seq < LAST {
                match store
                    .replace(&key(1), version(seq), record(seq + 1, "next", LONG), None)
                    .await
                    .unwrap()
                {
                    Replaced::Done => {
                        seq += 1;
                        done.push(seq);
                    }
                    Replaced::Conflict(Some(there)) => seq = there.version.seq,
                    other => panic!("{other:?}"),
                }
            }
            done
        }
    })
    .await;
    let mut all: Vec<u64> = successes.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (1..=LAST).collect::<Vec<_>>());
}

async fn one_of_many_takes_the_lease(subject: Arc<Subject>) {
    let outcomes = at_once(50, |n| {
        let store = Arc::clone(&subject.store);
        async move { store.acquire_lease(&key(1), token(u128::from(n)), LONG).await.unwrap() }
    })
    .await;
    let won: Vec<u128> = (0..)
        .zip(&outcomes)
        .filter(|(_, outcome)| **outcome == Acquired::Won)
        .map(|(n, _)| n)
        .collect();
    assert_eq!(won.len(), 1);
    assert_eq!(subject.store.renew_lease(&key(1), token(won[0]), LONG).await, Ok(true));
}

async fn an_observer_never_sees_the_lead_free_before_the_record(subject: Arc<Subject>) {
    let round = |n: u32| {
        let (leader, observer) = (Arc::clone(&subject.store), Arc::clone(&subject.store));
        let lead = async move {
            let outcome = leader.create(&key(n), record(1, "led", LONG), Some(token(1))).await;
            assert_eq!(outcome, Ok(Created::Won));
            leader.release_lease(&key(n), token(1), LeaseEnd::Plain).await.unwrap();
        };
        let watch = async move {
            loop {
                let (found, lease) = observer.observe(&key(n)).await.unwrap();
                assert!(found.is_some() || lease.held, "neither record nor leader");
                if !lease.held {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        (tokio::spawn(lead), tokio::spawn(watch))
    };
    for n in 0..20 {
        assert_eq!(
            subject.store.acquire_lease(&key(n), token(1), LONG).await,
            Ok(Acquired::Won)
        );
        let (lead, watch) = round(n);
        lead.await.unwrap();
        watch.await.unwrap();
    }
}

async fn what_is_read_never_goes_back(subject: Arc<Subject>) {
    const LAST: u64 = 100;
    subject
        .store
        .create(&key(1), record(0, "start", LONG), None)
        .await
        .unwrap();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let store = Arc::clone(&subject.store);
            tokio::spawn(async move {
                let mut seen = 0;
                while seen < LAST {
                    let seq = store.load(&key(1)).await.unwrap().expect("a record").version.seq;
                    assert!(seq >= seen, "{seq} after {seen}");
                    seen = seq;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for seq in 0..LAST {
        let outcome = subject
            .store
            .replace(&key(1), version(seq), record(seq + 1, "next", LONG), None)
            .await;
        assert_eq!(outcome, Ok(Replaced::Done));
        assert_eq!(
            subject.store.load(&key(1)).await.unwrap().expect("a record").version,
            version(seq + 1)
        );
    }
    join_all(readers)
        .await
        .into_iter()
        .for_each(|ended| ended.expect("no panic"));
}

async fn so_many_places_are_taken_and_no_more(subject: Arc<Subject>) {
    let (store, now) = (&subject.store, subject.clock.now());
    let three = quota(3, LONG);
    for n in [1, 2] {
        for _ in 0..3 {
            let taken = store.take_place(&key(n), three, now).await;
            assert!(matches!(taken, Ok(Taken::Place(_))), "{taken:?}");
        }
        let Ok(Taken::Full { wait }) = store.take_place(&key(n), three, now).await else {
            panic!("a fourth place of {n}")
        };
        // A slice more, where the moment falls within one, and what a clock of whole seconds leaves open.
        let most = LONG * 11 / 10 + Duration::from_secs(2);
        assert!(wait > LONG * 9 / 10 && wait <= most, "{wait:?}");
    }
    // Nothing of this is the record of an installation.
    store.create(&key(3), record(1, "first", LONG), None).await.unwrap();
    assert_eq!(store.load(&key(3)).await.unwrap().unwrap().payload.0, "first");
}

async fn a_place_given_back_is_free_and_one_of_long_ago_too(subject: Arc<Subject>) {
    let (store, clock) = (&subject.store, &subject.clock);
    let one = quota(1, subject.short() / 2);
    let Ok(Taken::Place(place)) = store.take_place(&key(1), one, clock.now()).await else {
        panic!("no place")
    };
    let full = |taken| matches!(taken, Ok(Taken::Full { .. }));
    assert!(full(store.take_place(&key(1), one, clock.now()).await));
    store.give_back(&key(1), one, place).await.unwrap();
    let again = store.take_place(&key(1), one, clock.now()).await;
    assert!(matches!(again, Ok(Taken::Place(_))), "{again:?}");
    assert!(full(store.take_place(&key(1), one, clock.now()).await));
    subject.pass_short().await;
    let later = store.take_place(&key(1), one, clock.now()).await;
    assert!(matches!(later, Ok(Taken::Place(_))), "{later:?}");
    // Of a place that counts no more, nothing is left to give back.
    store.give_back(&key(1), one, place).await.unwrap();
    assert!(full(store.take_place(&key(1), one, clock.now()).await));
    store.give_back(&key(2), one, place).await.unwrap();
}

async fn however_many_ask_at_once_no_place_is_taken_twice(subject: Arc<Subject>) {
    let some = quota(20, LONG);
    let taken = at_once(60, |_| {
        let (store, now) = (Arc::clone(&subject.store), subject.clock.now());
        async move {
            loop {
                match store.take_place(&key(1), some, now).await {
                    // So many at once that it did not come to a decision.
                    Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
                    taken => return taken.unwrap(),
                }
            }
        }
    })
    .await;
    let places = taken.iter().filter(|taken| matches!(taken, Taken::Place(_))).count();
    assert_eq!(places, 20);
}

fn quota(most: u32, within: Duration) -> Quota {
    Quota { most, within }
}

async fn every_record_is_listed(subject: Arc<Subject>) {
    let store = &subject.store;
    let writes = at_once(2100, |n| {
        let store = Arc::clone(&subject.store);
        let n = u32::try_from(n).unwrap();
        async move { store.create(&key(n), record(1, "listed", LONG), None).await.unwrap() }
    });
    assert!(writes.await.iter().all(|outcome| *outcome == Created::Won));
    let (mut listed, mut after) = (std::collections::BTreeSet::new(), None);
    loop {
        let page = store.keys(after).await.unwrap();
        listed.extend(page.keys);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!((0..2100).filter(|n| !listed.contains(&key(*n))).count(), 0);
}

async fn a_store_that_serves_says_so(subject: Arc<Subject>) {
    assert_eq!(subject.store.ping().await, Ok(()));
    let kinds = ["memory", "sqlite", "redis", "memcached", "postgres", "mysql"];
    assert!(kinds.contains(&subject.store.kind()));
}

async fn a_closed_store_refuses_every_call(subject: Arc<Subject>) {
    let store = &subject.store;
    store.create(&key(1), record(1, "first", LONG), None).await.unwrap();
    assert_eq!(store.close().await, Ok(()));
    let refusals = [
        store.load(&key(1)).await.map(drop),
        store.observe(&key(1)).await.map(drop),
        store.create(&key(2), record(1, "late", LONG), None).await.map(drop),
        store
            .replace(&key(1), version(1), record(2, "late", LONG), None)
            .await
            .map(drop),
        store.remove(&key(1), version(1)).await.map(drop),
        store.discard(&key(1)).await.map(drop),
        store.touch(&key(1), version(1), LONG).await.map(drop),
        store.acquire_lease(&key(1), token(1), LONG).await.map(drop),
        store.renew_lease(&key(1), token(1), LONG).await.map(drop),
        store.release_lease(&key(1), token(1), LeaseEnd::Plain).await,
        store
            .take_place(&key(1), quota(1, LONG), subject.clock.now())
            .await
            .map(drop),
        store.ping().await,
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Err(StoreError::Unavailable(_))), "{refusal:?}");
    }
    assert_eq!(store.close().await, Ok(()), "closing twice does no harm");
}
