use bytes::Bytes;

use super::*;
use crate::session::clock::ManualClock;
use crate::session::glob::Glob;
use crate::session::record::Rank;
use crate::session::store::{Flaw, Payload};
use crate::store::memory::MemoryStore;

const TTL: Duration = Duration::from_secs(60);

const BAD: Version = Version { seq: 5, nonce: 5 };
const NEW: Version = Version { seq: 1, nonce: 1 };

fn key() -> Key {
    Key::from_digest([7; 16])
}

/// A front of a store whose one record has a format to come.
async fn over_a_record_to_come(policy: OnUnreadable) -> (Sessions, Arc<MemoryStore>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let store = Arc::new(MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>));
    let new = NewRecord {
        version: BAD,
        ttl: TTL,
        payload: Payload(Bytes::from_static(b"\x03to come")),
    };
    store.create(&key(), new, None).await.unwrap();
    let sessions = Sessions::new(
        Arc::clone(&store) as Arc<dyn SessionStore>,
        clock,
        Arc::new(Metrics::new(&[])),
        CookiePolicy::new(vec![Glob::new("*")], Vec::new()),
        Lifetime {
            idle_timeout: TTL,
            max_age: None,
        },
    );
    (sessions.on_unreadable(policy), store)
}

fn new_record(sessions: &Sessions) -> Record {
    Record::begin(NEW, Rank::Safe, sessions.now())
}

/// What the removal of another record is asked with.
fn snapshot(sessions: &Sessions) -> Snapshot {
    Snapshot {
        version: NEW,
        expires_at: Timestamp::MAX,
        record: new_record(sessions),
        lineage: None,
    }
}

#[tokio::test]
async fn under_reject_no_call_takes_an_unreadable_record_for_nothing_or_touches_it() {
    let (sessions, store) = over_a_record_to_come(OnUnreadable::Reject).await;
    let before = store.load(&key()).await.unwrap();
    let record = new_record(&sessions);
    for outcome in [
        sessions.load(&key()).await.map(drop),
        sessions.inspect(&key()).await.map(drop),
        sessions.observe(&key()).await.map(drop),
        sessions.write(&key(), None, NEW, &record, None).await.map(drop),
        sessions.write(&key(), Some(NEW), NEW, &record, None).await.map(drop),
        sessions.remove(&key(), &snapshot(&sessions)).await.map(drop),
    ] {
        let Err(StoreError::Unreadable(unreadable)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!((unreadable.flaw, unreadable.version), (Flaw::UnknownFormat, Some(BAD)));
    }
    assert_eq!(store.load(&key()).await.unwrap(), before);
    // Somebody who only looks meets it, and is not counted.
    let series = "session_bridge_records_unreadable_total{reason=\"unknown_format\"} 5";
    assert!(sessions.metrics.encode().contains(series));
}

#[tokio::test]
async fn under_replace_it_is_removed_and_what_comes_next_begins_anew() {
    for call in 0..5 {
        let (sessions, store) = over_a_record_to_come(OnUnreadable::Replace).await;
        let record = new_record(&sessions);
        let nothing = match call {
            0 => sessions.load(&key()).await.unwrap().is_none(),
            1 => sessions.observe(&key()).await.unwrap().0.is_none(),
            2 => matches!(
                sessions.write(&key(), None, NEW, &record, None).await.unwrap(),
                Written::Conflict(None)
            ),
            3 => matches!(
                sessions.write(&key(), Some(NEW), NEW, &record, None).await.unwrap(),
                Written::Conflict(None)
            ),
            _ => matches!(
                sessions.remove(&key(), &snapshot(&sessions)).await.unwrap(),
                Written::Conflict(None)
            ),
        };
        assert!(nothing, "{call}");
        assert_eq!(store.load(&key()).await.unwrap(), None, "{call}");
        let written = sessions.write(&key(), None, NEW, &record, None).await.unwrap();
        assert!(matches!(written, Written::Done), "{call}");
        let series = "session_bridge_records_unreadable_total{reason=\"unknown_format\"} 1";
        assert!(sessions.metrics.encode().contains(series), "{call}");
    }
}

#[tokio::test]
async fn what_has_taken_the_place_of_an_unreadable_record_is_not_discarded() {
    let (sessions, store) = over_a_record_to_come(OnUnreadable::Reject).await;
    let Err(StoreError::Unreadable(unreadable)) = sessions.load(&key()).await else {
        panic!("it was read");
    };
    store.remove(&key(), BAD).await.unwrap();
    let record = new_record(&sessions);
    sessions.write(&key(), None, NEW, &record, None).await.unwrap();
    assert_eq!(sessions.discard(&key(), &unreadable).await, Ok(false));
    assert_eq!(sessions.load(&key()).await.unwrap().expect("a record").version, NEW);
}

#[tokio::test]
async fn a_removal_that_cannot_be_read_is_treated_by_the_policy() {
    for before in [b"\x03to come".as_slice(), b""] {
        for policy in [OnUnreadable::Reject, OnUnreadable::Replace] {
            let (sessions, store) = over_a_record_to_come(policy).await;
            let place = Removal::key(&key());
            let there = NewRecord {
                version: BAD,
                ttl: TTL,
                payload: Payload(Bytes::from_static(before)),
            };
            store.create(&place, there, None).await.unwrap();
            let removal = sessions.removal(&key()).await;
            let left = store.load(&place).await.unwrap();
            match policy {
                OnUnreadable::Reject => assert!(removal.is_err() && left.is_some(), "{removal:?}"),
                OnUnreadable::Replace => assert!(removal == Ok(None) && left.is_none(), "{removal:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_removal_is_remembered_in_the_place_of_one_before_also_of_one_that_cannot_be_read() {
    for before in [b"\x03to come".as_slice(), b""] {
        let (sessions, store) = over_a_record_to_come(OnUnreadable::Reject).await;
        store.remove(&key(), BAD).await.unwrap();
        let there = NewRecord {
            version: BAD,
            ttl: TTL,
            payload: Payload(Bytes::from_static(before)),
        };
        let place = Removal::key(&key());
        store.create(&place, there, None).await.unwrap();
        assert!(matches!(sessions.removal(&key()).await, Err(StoreError::Unreadable(_))));
        let snapshot = snapshot(&sessions);
        sessions.write(&key(), None, NEW, &snapshot.record, None).await.unwrap();
        assert!(matches!(
            sessions.remove(&key(), &snapshot).await.unwrap(),
            Written::Done
        ));
        assert!(sessions.removal(&key()).await.unwrap().is_some());
    }
}
