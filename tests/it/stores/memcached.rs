//! What is particular to the store in Memcached.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use session_bridge::session::clock::{ManualClock, Timestamp};
use session_bridge::session::store::{
    Acquired, Created, Flaw, LeaseEnd, NewRecord, Payload, Replaced, SessionStore, StoreError,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::contract::{Subject, keeps_the_contract};
use super::redis::{PATIENT, SLACK, connect_as};
use super::{LONG, eventually, key, record, token, version};
use crate::support::gate::Gate;
use crate::support::memcached::MemcachedServer;

const PREFIX: &str = "session-bridge:";

/// A store with this deadline that has found its servers.
async fn connect(url: &str, timeout: Duration) -> Arc<dyn SessionStore> {
    let store = connect_as(url, timeout, PREFIX, &Subject::clock()).await;
    eventually("a connection", || async { store.ping().await.is_ok() }).await;
    store
}

fn name(n: u32) -> String {
    format!("{PREFIX}{}", key(n))
}

async fn keeps(url: &str) {
    let number = AtomicU32::new(0);
    keeps_the_contract(|| async {
        let clock = Subject::clock();
        let prefix = format!("case-{}:", number.fetch_add(1, Ordering::Relaxed));
        let store = connect_as(url, PATIENT, &prefix, &clock).await;
        Subject {
            store,
            clock,
            real_time: true,
            _keep: Box::new(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memcached_keeps_the_contract() {
    let server = MemcachedServer::start();
    keeps(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_memcached_keep_the_contract_and_have_their_shares() {
    let servers = [(); 3].map(|()| MemcachedServer::start());
    keeps(&MemcachedServer::url_of(&servers)).await;
    let shares = servers.each_ref().map(|server| server.stat("total_items"));
    assert!(shares.iter().all(|items| *items > 20), "{shares:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_item_holds_record_and_lease_and_expires_with_what_lasts_longer() {
    let server = MemcachedServer::start();
    let store = connect(&server.url(), PATIENT).await;
    store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
    let items = server.stat("curr_items");
    store
        .create(&key(1), record(258, "payload", LONG * 2), Some(token(1)))
        .await
        .unwrap();
    assert_eq!(server.stat("curr_items"), items, "no other item");
    let (_, value) = server.ask(format!("mg {} v\r\n", name(1)).as_bytes());
    assert_eq!(value[..10], [1, 3, 0, 0, 0, 0, 0, 0, 1, 2]);
    assert!(value.ends_with(b"payload"));
    let hours = |seconds: i64| (seconds + 60) / 3600;
    assert_eq!(server.seconds_left(&name(1)).map(hours), Some(2));
    // Beyond thirty days a relative time would be taken for an absolute one.
    let days = Duration::from_secs(86_400);
    store.touch(&key(1), version(258), days * 100).await.unwrap();
    let left = server.seconds_left(&name(1)).expect("an item");
    assert!((left - 100 * 86_400).abs() < 10, "{left}");
    store.remove(&key(1), version(258)).await.unwrap();
    store.release_lease(&key(1), token(1), LeaseEnd::Plain).await.unwrap();
    assert_eq!(server.seconds_left(&name(1)), None, "nothing is left of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_whose_clocks_differ_agree_on_who_leads_and_for_how_long() {
    let server = MemcachedServer::start();
    let clock = |millis| ManualClock::at(Timestamp::from_millis(millis));
    let early = connect_as(&server.url(), PATIENT, PREFIX, &clock(1000)).await;
    let late = connect_as(&server.url(), PATIENT, PREFIX, &clock(4_000_000_000_000)).await;
    let lease = Duration::from_secs(2);
    assert_eq!(early.acquire_lease(&key(1), token(1), lease).await, Ok(Acquired::Won));
    let taken = Instant::now();
    assert!(late.observe(&key(1)).await.unwrap().1.held);
    assert_eq!(
        late.acquire_lease(&key(1), token(2), lease).await,
        Ok(Acquired::Held { barren: 0 })
    );
    eventually("the end of the lease", || async {
        late.acquire_lease(&key(1), token(2), LONG).await == Ok(Acquired::Won)
    })
    .await;
    let lasted = taken.elapsed();
    assert!(
        (lease - Duration::from_millis(50)..lease + 2 * lease).contains(&lasted),
        "{lasted:?}"
    );
    assert_eq!(
        early.create(&key(1), record(1, "late", LONG), Some(token(1))).await,
        Ok(Created::Fenced)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_frozen_server_no_answer_is_taken_for_that_to_another_question() {
    let server = MemcachedServer::start();
    let timeout = Duration::from_millis(300);
    let store = connect(&server.url(), timeout).await;
    for n in 0..20 {
        store
            .create(&key(n), record(u64::from(n), &format!("record {n}"), LONG), None)
            .await
            .unwrap();
    }
    for round in 0..5 {
        server.stop();
        let asked = Instant::now();
        let outcomes = join_all((0..20).map(|n| {
            let store = &store;
            async move { store.load(&key(n)).await }
        }))
        .await;
        assert!(asked.elapsed() < timeout + SLACK, "{:?}", asked.elapsed());
        for outcome in outcomes {
            assert!(
                matches!(outcome, Err(StoreError::Timeout | StoreError::Unavailable(_))),
                "{outcome:?}"
            );
        }
        let change = store.create(&key(100 + round), record(1, "x", LONG), None).await;
        assert!(matches!(change, Err(StoreError::Unavailable(_))), "{change:?}");
        server.resume();
        let back = Instant::now();
        eventually("an answer", || async { store.load(&key(1)).await.is_ok() }).await;
        assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
        for n in 0..20 {
            let found = store.load(&key(n)).await.unwrap().expect("a record");
            assert_eq!(found.payload.0, format!("record {n}"));
        }
    }
    assert!(store.stats().reconnects >= 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_answer_is_lost_is_ambiguous() {
    let server = MemcachedServer::start();
    let gate = Gate::to(([127, 0, 0, 1], server.port()).into()).await;
    let store = connect(&format!("memcached://127.0.0.1:{}", gate.port()), PATIENT).await;
    let (mut ambiguous, mut done) = (0, 0);
    for n in 0..60 {
        let change = async {
            let outcome = store.create(&key(n), record(1, "x", LONG), None).await;
            let there = || async { server.seconds_left(&name(n)).is_some() };
            match outcome {
                Ok(outcome) => {
                    assert_eq!(outcome, Created::Won);
                    assert!(there().await);
                    done += 1;
                }
                Err(StoreError::Ambiguous(_)) => ambiguous += 1,
                Err(StoreError::Unavailable(_)) => assert!(!there().await),
                other => panic!("{other:?}"),
            }
        };
        let breaking = async {
            tokio::time::sleep(Duration::from_micros(u64::from(n) * 20)).await;
            gate.reset();
        };
        tokio::join!(change, breaking);
        eventually("a connection", || async { store.load(&key(n)).await.is_ok() }).await;
    }
    assert!(done + ambiguous > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_vanished_is_found_out_by_the_first_who_asks() {
    let server = MemcachedServer::start();
    let gate = Gate::to(([127, 0, 0, 1], server.port()).into()).await;
    let timeout = Duration::from_millis(400);
    let store = connect(&format!("memcached://127.0.0.1:{}", gate.port()), timeout).await;
    for _ in 0..3 {
        gate.half_open();
        let asked = Instant::now();
        assert!(store.load(&key(1)).await.is_err());
        assert!(asked.elapsed() < timeout + SLACK, "{:?}", asked.elapsed());
        eventually("an answer", || async { store.load(&key(1)).await.is_ok() }).await;
        assert!(
            asked.elapsed() < timeout + Duration::from_secs(1),
            "{:?}",
            asked.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_costs_its_share_and_nothing_else() {
    let mut servers = [(); 3].map(|()| MemcachedServer::start());
    let timeout = Duration::from_millis(250);
    let store = connect(&MemcachedServer::url_of(&servers), timeout).await;
    for n in 0..60 {
        eventually("a connection", || async {
            store.create(&key(n), record(1, "x", LONG), None).await.is_ok()
        })
        .await;
    }
    servers[0].kill();
    eventually("it to be noticed", || async {
        let outcomes = join_all((0..60).map(|n| {
            let store = &store;
            async move { store.load(&key(n)).await }
        }));
        outcomes.await.iter().any(Result::is_err)
    })
    .await;
    tokio::time::sleep(timeout).await;
    let mut away = 0;
    for n in 0..60 {
        let asked = Instant::now();
        match store.load(&key(n)).await {
            Ok(found) => assert!(found.is_some()),
            Err(StoreError::Unavailable(why)) => {
                assert!(why.contains(&servers[0].port().to_string()), "{why}");
                away += 1;
            }
            other => panic!("{other:?}"),
        }
        assert!(
            asked.elapsed() < Duration::from_millis(100),
            "known at once: {:?}",
            asked.elapsed()
        );
    }
    assert!((5..40).contains(&away), "{away} of 60");
    assert_eq!(store.ping().await, Ok(()));
    servers[1].kill();
    servers[2].kill();
    eventually("it to be noticed", || async { store.ping().await.is_err() }).await;
    servers[0].restart();
    eventually("it to be back", || async { store.ping().await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_memcached_forgot_is_absent_and_may_be_created_anew() {
    let mut server = MemcachedServer::start();
    let store = connect(&server.url(), PATIENT).await;
    store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    server.restart();
    eventually("its absence", || async { store.load(&key(1)).await == Ok(None) }).await;
    let outcome = store.replace(&key(1), version(1), record(2, "y", LONG), None).await;
    assert_eq!(outcome, Ok(Replaced::Conflict(None)));
    assert_eq!(
        store.create(&key(1), record(1, "z", LONG), None).await,
        Ok(Created::Won)
    );
}

fn sized(seq: u64, size: usize) -> NewRecord {
    NewRecord {
        version: version(seq),
        ttl: LONG,
        payload: Payload(Bytes::from(vec![b'x'; size])),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_is_refused_and_the_one_before_stays() {
    for (arguments, size) in [(&[][..], 1 << 20), (&["-I", "2m"][..], 2 << 20)] {
        let server = MemcachedServer::start_with(arguments);
        let store = connect(&server.url(), PATIENT).await;
        store.create(&key(1), record(1, "first", LONG), None).await.unwrap();
        let outcome = store.replace(&key(1), version(1), sized(2, size), None).await;
        assert!(matches!(outcome, Err(StoreError::TooLarge(_))), "{outcome:?}");
        let outcome = store.create(&key(2), sized(1, size), None).await;
        assert!(matches!(outcome, Err(StoreError::TooLarge(_))), "{outcome:?}");
        assert_eq!(store.load(&key(1)).await.unwrap().expect("a record").payload.0, "first");
        // One that is a little smaller is taken.
        let outcome = store.replace(&key(1), version(1), sized(2, size - 2048), None).await;
        assert_eq!(outcome, Ok(Replaced::Done));
        assert_eq!(
            store.load(&key(1)).await.unwrap().expect("a record").payload.0.len(),
            size - 2048
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_that_evicts_nothing_refuses_new_sessions() {
    let server = MemcachedServer::start_with(&["-M", "-m", "2"]);
    let store = connect(&server.url(), PATIENT).await;
    let mut refused = None;
    for n in 0..1000 {
        match store.create(&key(n), sized(1, 20_000), None).await {
            Ok(outcome) => assert_eq!(outcome, Created::Won),
            Err(error) => {
                refused = Some((n, error));
                break;
            }
        }
    }
    let (n, error) = refused.expect("a refusal");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert_eq!(store.load(&key(n)).await, Ok(None));
    for n in 0..n {
        assert!(store.load(&key(n)).await.unwrap().is_some(), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_is_none_of_ours_is_unreadable_and_stays_until_it_is_discarded() {
    let server = MemcachedServer::start();
    let store = connect(&server.url(), PATIENT).await;
    for (n, value, flaw) in [
        (1, &b""[..], Flaw::Garbled),
        (2, b"\x01too short", Flaw::Garbled),
        (3, b"\x02of a layout to come", Flaw::UnknownFormat),
    ] {
        server.set(&name(n), value);
        let outcomes = [
            store.load(&key(n)).await.map(drop),
            store.create(&key(n), record(1, "x", LONG), None).await.map(drop),
            store.remove(&key(n), version(1)).await.map(drop),
        ];
        for outcome in outcomes {
            let Err(StoreError::Unreadable(unreadable)) = outcome else {
                panic!("{n}: {outcome:?}");
            };
            assert_eq!((unreadable.flaw, unreadable.version), (flaw, None), "{n}");
        }
        assert_eq!(store.discard(&key(n)).await, Ok(true));
        assert_eq!(store.load(&key(n)).await, Ok(None));
        assert_eq!(
            store.create(&key(n), record(1, "x", LONG), None).await,
            Ok(Created::Won)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_item_that_tells_the_time_is_made_again_when_it_is_gone() {
    let server = MemcachedServer::start();
    let store = connect(&server.url(), PATIENT).await;
    store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    assert_eq!(server.ask(format!("md {PREFIX}clock\r\n").as_bytes()).0, "HD");
    assert!(store.load(&key(1)).await.unwrap().is_some());
    server.set(&format!("{PREFIX}clock"), b"");
    let outcome = store.load(&key(1)).await;
    assert!(
        matches!(outcome, Err(StoreError::Corrupt(_))),
        "one without an expiry: {outcome:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_memcached_of_use_is_told_in_words() {
    let server = MemcachedServer::start_with(&["-C"]);
    let refusing = connect_as(&server.url(), Duration::from_millis(500), PREFIX, &Subject::clock()).await;
    eventually("the reason", || async {
        matches!(refusing.ping().await, Err(StoreError::Unavailable(why)) if why.contains("with -C"))
    })
    .await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("memcached://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let other = connect_as(&url, Duration::from_millis(500), PREFIX, &Subject::clock()).await;
    eventually("the reason", || async {
        matches!(other.ping().await, Err(StoreError::Unavailable(why)) if why.contains("closed the connection"))
    })
    .await;
}
