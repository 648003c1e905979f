//! What is particular to the store in Redis.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::Value;
use session_bridge::app::open_store;
use session_bridge::config::{Config, File, Sources};
use session_bridge::session::clock::{Clock, ManualClock, Timestamp};
use session_bridge::session::store::{
    Acquired, BARREN_MEMORY, Created, Flaw, LeaseEnd, LeaseState, Replaced, SessionStore, StoreError,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::contract::{Subject, keeps_the_contract};
use super::{LONG, eventually, key, record, token, version};
use crate::support::gate::{Gate, Way};
use crate::support::redis::RedisServer;

/// Generous: what is late here is late because the machine is busy.
pub(super) const PATIENT: Duration = Duration::from_secs(20);

/// What a call may take longer than its deadline on a busy machine.
pub(super) const SLACK: Duration = Duration::from_millis(600);

/// The store that a bridge with this URL opens.
pub(super) async fn connect_as(
    url: &str,
    timeout: Duration,
    prefix: &str,
    clock: &ManualClock,
) -> Arc<dyn SessionStore> {
    let timeout = timeout.as_millis();
    open(
        &format!("url = {url:?}\ntimeout = \"{timeout}ms\"\nkey_prefix = {prefix:?}"),
        clock,
    )
    .await
    .expect("a store")
}

/// The store that a bridge with these lines in its `[store]` opens.
pub(super) async fn open(lines: &str, clock: &ManualClock) -> Result<Arc<dyn SessionStore>, String> {
    let config = config(lines)?;
    open_store(&config.store, Arc::new(clock.clone()))
        .await
        .map_err(|error| error.to_string())
}

/// The configuration of a bridge with these lines in its `[store]`.
pub(super) fn config(lines: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("session-bridge.toml");
    let text = format!("upstream.url = \"http://127.0.0.1:1\"\n[store]\n{lines}\n");
    std::fs::write(&path, text).expect("a configuration file");
    let sources = Sources {
        file: File::Required(path),
        ..Sources::default()
    };
    Config::load(&sources).map_err(|errors| errors.to_string())
}

/// A store with this deadline that has found its server.
pub(super) async fn connect(server: &RedisServer, timeout: Duration) -> Arc<dyn SessionStore> {
    let store = connect_as(&server.url(), timeout, "session-bridge:", &Subject::clock()).await;
    eventually("a connection", || async { store.ping().await.is_ok() }).await;
    store
}

pub(super) fn record_key(n: u32) -> String {
    format!("session-bridge:{{{}}}", key(n))
}

pub(super) fn assert_every_key_expires(server: &RedisServer) {
    for name in server.keys() {
        let left = server.number(&["PTTL", &name]);
        // -2: it has expired since it was listed, 0: it does so now; -1 would be for ever.
        assert!(left >= 0 || left == -2, "{name} has {left} ms to live");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_keeps_the_contract_and_leaves_nothing_without_an_expiry() {
    let server = RedisServer::start();
    let number = AtomicU32::new(0);
    keeps_the_contract(|| async {
        let clock = Subject::clock();
        let prefix = format!("case-{}:", number.fetch_add(1, Ordering::Relaxed));
        let store = connect_as(&server.url(), PATIENT, &prefix, &clock).await;
        Subject {
            store,
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
async fn what_lies_in_redis_is_as_documented() {
    let server = RedisServer::start();
    let store = connect(&server, PATIENT).await;
    store.acquire_lease(&key(1), token(0x0102), LONG).await.unwrap();
    store
        .release_lease(&key(1), token(0x0102), LeaseEnd::Barren)
        .await
        .unwrap();
    store.acquire_lease(&key(1), token(0x0102), LONG * 2).await.unwrap();
    store
        .create(&key(1), record(258, "payload", LONG), Some(token(0x0102)))
        .await
        .unwrap();
    let name = record_key(1);
    let mut names = server.keys();
    names.sort();
    assert_eq!(
        names,
        [
            "session-bridge:ping",
            &name,
            &format!("{name}:barren"),
            &format!("{name}:lease")
        ]
    );

    let mut value = vec![1, 0, 0, 0, 0, 0, 0, 1, 2];
    value.extend(version(258).nonce.to_be_bytes());
    value.extend(Subject::clock().now().saturating_add(LONG).as_millis().to_be_bytes());
    value.extend(b"payload");
    assert_eq!(server.command(&["GET", &name]), Value::BulkString(value));
    let holder = 0x0102_u128.to_be_bytes().to_vec();
    assert_eq!(
        server.command(&["GET", &format!("{name}:lease")]),
        Value::BulkString(holder)
    );
    assert_eq!(server.number(&["GET", &format!("{name}:barren")]), 1);

    let lives = |suffix: &str| u128::try_from(server.number(&["PTTL", &format!("{name}{suffix}")])).unwrap();
    let about = |ttl: Duration| ttl.as_millis() - 20_000..=ttl.as_millis();
    assert!(about(LONG).contains(&lives("")));
    assert!(about(LONG * 2).contains(&lives(":lease")));
    assert!(about(BARREN_MEMORY).contains(&lives(":barren")));
    store.touch(&key(1), version(258), LONG * 3).await.unwrap();
    assert!(about(LONG * 3).contains(&lives("")));
    assert_every_key_expires(&server);
}

#[tokio::test]
async fn a_load_is_one_get_and_a_touch_rewrites_nothing() {
    let server = RedisServer::start();
    let store = connect(&server, PATIENT).await;
    store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    let before = (server.calls("get"), server.calls("evalsha"), server.calls("set"));
    for _ in 0..10 {
        store.load(&key(1)).await.unwrap();
    }
    store.touch(&key(1), version(1), LONG).await.unwrap();
    let after = (server.calls("get"), server.calls("evalsha"), server.calls("set"));
    // The first call of a script is by its hash, and then in full.
    assert_eq!((after.0 - before.0, after.1 - before.1, after.2 - before.2), (10, 1, 0));
    assert_eq!(server.calls("setrange"), 1);
}

#[tokio::test]
async fn all_calls_share_two_connections() {
    let server = RedisServer::start();
    let store = connect(&server, PATIENT).await;
    let loads = (0..500).map(|n| {
        let store = &store;
        async move { store.load(&key(n)).await }
    });
    assert!(join_all(loads).await.iter().all(|outcome| *outcome == Ok(None)));
    let clients = server.text(&["CLIENT", "LIST"]);
    assert_eq!(
        clients.lines().count(),
        3,
        "one for reads, one for changes, and the one that asks: {clients}"
    );
}

#[tokio::test]
async fn a_redis_that_is_not_there_yet_is_found_when_it_comes() {
    let mut server = RedisServer::prepare(&[]);
    let store = connect_as(&server.url(), Duration::from_millis(250), "p:", &Subject::clock()).await;
    let started = Instant::now();
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.load(&key(1)).await, Err(StoreError::Unavailable(_))));
    assert!(
        started.elapsed() < Duration::from_millis(250) + SLACK,
        "an outage that lasts is told at once"
    );
    server.restart();
    let started = Instant::now();
    eventually("an answer", || async { store.load(&key(1)).await == Ok(None) }).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_redis_that_died_is_in_use_again_within_a_second_of_its_return() {
    let mut server = RedisServer::start();
    let store = connect(&server, Duration::from_millis(250)).await;
    store
        .create(&key(1), record(1, "lost with it", LONG), None)
        .await
        .unwrap();
    server.kill();
    eventually("the outage to be noticed", || async {
        store.load(&key(1)).await.is_err()
    })
    .await;
    let failures = [
        store.load(&key(1)).await.map(drop),
        store.create(&key(2), record(1, "x", LONG), None).await.map(drop),
        store.acquire_lease(&key(2), token(1), LONG).await.map(drop),
        store.ping().await,
    ];
    for failure in failures {
        assert!(matches!(failure, Err(StoreError::Unavailable(_))), "{failure:?}");
    }
    // Long enough for the pauses between attempts to have grown to their longest.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = Instant::now();
    assert!(store.load(&key(1)).await.is_err());
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    server.restart();
    let back = Instant::now();
    eventually("a write", || async {
        store.create(&key(1), record(1, "new", LONG), None).await.is_ok()
    })
    .await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
}

#[tokio::test]
async fn calls_to_a_frozen_redis_end_by_the_deadline() {
    let timeout = Duration::from_millis(250);
    let server = RedisServer::start();
    let store = connect(&server, timeout).await;
    store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    server.stop();
    let known = key(1);
    let new = key(2);
    let calls = async {
        tokio::join!(
            store.load(&known),
            store.observe(&known),
            store.create(&new, record(1, "x", LONG), None),
            store.release_lease(&known, token(1), LeaseEnd::Plain),
        )
    };
    let asked = Instant::now();
    let (load, observe, create, release) = calls.await;
    assert!(asked.elapsed() < timeout + SLACK, "{:?}", asked.elapsed());
    assert_eq!(load, Err(StoreError::Timeout));
    assert_eq!(observe, Err(StoreError::Timeout));
    assert!(matches!(create, Err(StoreError::Ambiguous(_))), "{create:?}");
    assert!(matches!(release, Err(StoreError::Ambiguous(_))), "{release:?}");
    // The connection is found to be dead; from then on it is certain that nothing was done.
    eventually("the connection to be given up", || async {
        matches!(
            store.create(&key(3), record(1, "x", LONG), None).await,
            Err(StoreError::Unavailable(_))
        )
    })
    .await;
    for _ in 0..5 {
        let asked = Instant::now();
        assert!(store.load(&key(1)).await.is_err());
        assert!(asked.elapsed() < timeout + SLACK, "{:?}", asked.elapsed());
    }
    server.resume();
    let back = Instant::now();
    eventually("an answer", || async { store.load(&key(1)).await.is_ok() }).await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
}

#[tokio::test]
async fn a_short_pause_of_redis_costs_no_connection() {
    let server = RedisServer::start();
    let store = connect(&server, Duration::from_millis(400)).await;
    let connections = || -> Vec<String> {
        let clients = server.text(&["CLIENT", "LIST"]);
        let others = clients.lines().filter(|line| !line.contains("cmd=client|list"));
        others
            .filter_map(|line| line.split(' ').next().map(str::to_owned))
            .collect()
    };
    let before = connections();
    assert_eq!(before.len(), 2, "{before:?}");
    let trials = server.calls("ping");
    server.stop();
    assert_eq!(store.load(&key(1)).await, Err(StoreError::Timeout));
    server.resume();
    assert_eq!(store.load(&key(1)).await, Ok(None));
    eventually("the trial of the connection", || async {
        server.calls("ping") > trials
    })
    .await;
    assert_eq!(connections(), before);
}

#[tokio::test]
async fn while_writes_are_paused_reads_are_answered_and_changes_are_refused_at_once() {
    let timeout = Duration::from_millis(250);
    let server = RedisServer::start();
    let store = connect(&server, timeout).await;
    store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    let before = store.stats().reconnects;
    server.command(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let first = store.create(&key(2), record(1, "x", LONG), None).await;
    assert!(matches!(first, Err(StoreError::Ambiguous(_))), "{first:?}");
    eventually("the pause to be known", || async {
        let asked = Instant::now();
        let outcome = store.create(&key(2), record(1, "x", LONG), None).await;
        matches!(outcome, Err(StoreError::Unavailable(_))) && asked.elapsed() < Duration::from_millis(100)
    })
    .await;
    for _ in 0..50 {
        assert!(store.load(&key(1)).await.unwrap().is_some());
        assert!(store.ping().await.is_err());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.stats().reconnects, before, "nothing comes and goes meanwhile");
    server.command(&["CLIENT", "UNPAUSE"]);
    let back = Instant::now();
    eventually("a change", || async {
        store.create(&key(3), record(1, "x", LONG), None).await.is_ok()
    })
    .await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
    // The one that was given up was not carried out either: its connection was closed before.
    assert_eq!(store.load(&key(2)).await, Ok(None));
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_in_time_is_down_and_does_not_come_and_go() {
    let server = RedisServer::start();
    let store = connect(&server, Duration::from_millis(200)).await;
    server.command(&["CLIENT", "PAUSE", "60000", "ALL"]);
    eventually("the outage to be known", || async {
        matches!(store.load(&key(1)).await, Err(StoreError::Unavailable(_)))
    })
    .await;
    let before = store.stats().reconnects;
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let asked = Instant::now();
        let outcome = store.load(&key(1)).await;
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
        assert!(asked.elapsed() < Duration::from_millis(250), "{:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.stats().reconnects, before);
}

#[tokio::test]
async fn a_redis_that_has_no_room_for_clients_is_down_says_so_and_is_not_stormed() {
    let server = RedisServer::start_with(&["--maxclients", "10"]);
    let mut guests = Vec::new();
    while guests.len() < 10 {
        let mut guest = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        guest.write_all(b"PING\r\n").unwrap();
        let mut answer = [0; 7];
        if guest.read_exact(&mut answer).is_ok() && answer == *b"+PONG\r\n" {
            guests.push(guest);
        }
    }
    let mut rejected = || {
        let mut answer = [0; 8192];
        guests[0].write_all(b"INFO stats\r\n").unwrap();
        let length = guests[0].read(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        let (_, after) = text.split_once("rejected_connections:").unwrap();
        after.lines().next().unwrap().trim().parse::<u64>().unwrap()
    };
    for login in ["", "user:pass@"] {
        let url = format!("redis://{login}127.0.0.1:{}", server.port());
        let store = connect_as(&url, Duration::from_millis(250), "p:", &Subject::clock()).await;
        let before = rejected();
        tokio::time::sleep(Duration::from_secs(2)).await;
        // Two connections, each tried anew after an eighth of a second in the mean.
        let attempts = rejected() - before;
        assert!(attempts < 100, "{attempts}");
        assert_eq!(store.stats().reconnects, 0);
        // Its word may be lost with the connection, which it closes in the same moment.
        eventually("the reason", || async {
            matches!(store.ping().await, Err(StoreError::Unavailable(why)) if why.contains("maxclients"))
        })
        .await;
    }
    let store = connect_as(&server.url(), Duration::from_millis(250), "p:", &Subject::clock()).await;
    drop(guests);
    eventually("a place", || async { store.ping().await.is_ok() }).await;
}

#[tokio::test]
async fn connections_that_come_and_go_are_not_made_as_fast_as_they_go() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let store = connect_as(&url, Duration::from_millis(250), "p:", &Subject::clock()).await;
    let mut made = 0;
    let serving = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            made += 1;
            // Each is good for two answers: those that show that it works.
            for _ in 0..2 {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"+OK\r\n").await;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), serving).await;
    assert!(store.stats().reconnects > 4, "{made}");
    // A fortieth of a second in the mean, for each of two.
    assert!(made < 400, "{made}");
}

#[tokio::test]
async fn a_peer_that_vanished_is_found_out_though_nobody_asks() {
    let server = RedisServer::start();
    let gate = Gate::to(([127, 0, 0, 1], server.port()).into()).await;
    let url = format!("redis://127.0.0.1:{}", gate.port());
    let store = connect_as(&url, Duration::from_millis(250), "p:", &Subject::clock()).await;
    eventually("a connection", || async { store.load(&key(1)).await.is_ok() }).await;
    gate.stall();
    // A second of silence, the time-out, and the time within which a loss is waited out.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = Instant::now();
    let outcome = store.load(&key(1)).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    gate.open();
    let back = Instant::now();
    eventually("an answer", || async { store.load(&key(1)).await.is_ok() }).await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
}

#[tokio::test]
async fn a_read_outlives_the_loss_of_its_connection() {
    let server = RedisServer::start();
    let store = connect(&server, Duration::from_secs(5)).await;
    store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    for _ in 0..20 {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert!(store.load(&key(1)).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn of_the_calls_under_way_when_redis_dies_reads_are_asked_again_and_changes_are_not() {
    let mut server = RedisServer::start();
    let store = connect(&server, PATIENT).await;
    // It takes the commands, and dies before it has looked at them.
    server.stop();
    let read_key = key(1);
    let written = key(2);
    let calls = async {
        tokio::join!(
            store.load(&read_key),
            store.create(&written, record(1, "x", LONG), None)
        )
    };
    let death = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.restart();
    };
    let ((load, create), ()) = tokio::join!(calls, death);
    assert_eq!(load, Ok(None));
    assert!(matches!(create, Err(StoreError::Ambiguous(_))), "{create:?}");
    assert_eq!(store.load(&key(2)).await, Ok(None));
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_taught_again() {
    let server = RedisServer::start();
    let store = connect(&server, PATIENT).await;
    for seq in 1..4 {
        server.command(&["SCRIPT", "FLUSH"]);
        assert_eq!(
            store.create(&key(1), record(seq, "x", LONG), None).await,
            Ok(Created::Won)
        );
        assert_eq!(store.acquire_lease(&key(1), token(1), LONG).await, Ok(Acquired::Won));
        store.remove(&key(1), version(seq)).await.unwrap();
    }
}

#[tokio::test]
async fn a_refusal_by_redis_means_that_nothing_happened() {
    let server = RedisServer::start();
    let store = connect(&server, PATIENT).await;
    store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
    let unavailable = |outcome: Result<(), StoreError>| {
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    };

    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    unavailable(store.create(&key(2), record(1, "x", LONG), None).await.map(drop));
    unavailable(
        store
            .replace(&key(1), version(1), record(2, "x", LONG), None)
            .await
            .map(drop),
    );
    unavailable(store.release_lease(&key(1), token(1), LeaseEnd::Barren).await);
    unavailable(store.ping().await);
    assert_eq!(
        store.load(&key(1)).await.unwrap().expect("a record").version,
        version(1)
    );
    assert_eq!(
        store.observe(&key(1)).await.unwrap().1,
        LeaseState { held: true, barren: 0 }
    );
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(store.ping().await, Ok(()));

    // A server that was demoted answers reads, and refuses writes until it is promoted again.
    server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    for _ in 0..3 {
        unavailable(store.create(&key(2), record(1, "x", LONG), None).await.map(drop));
        assert!(store.load(&key(1)).await.unwrap().is_some());
    }
    unavailable(store.ping().await);
    server.command(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(
        store.create(&key(2), record(1, "x", LONG), None).await,
        Ok(Created::Won)
    );
}

#[tokio::test]
async fn a_value_that_is_no_record_is_unreadable_and_stays_until_it_is_discarded() {
    let server = RedisServer::start();
    let store = connect(&server, PATIENT).await;
    let bad: [(&[&[u8]], Flaw); 4] = [
        (&[b"SET", b"", b"", b"PX", b"100000"], Flaw::Garbled),
        (&[b"SET", b"", b"\x01too short", b"PX", b"100000"], Flaw::Garbled),
        (
            &[b"SET", b"", b"\x02a record of a layout to come", b"PX", b"100000"],
            Flaw::UnknownFormat,
        ),
        (&[b"RPUSH", b"", b"a list"], Flaw::Garbled),
    ];
    for (n, (words, flaw)) in (1..).zip(bad) {
        let name = record_key(n);
        let mut words = words.to_vec();
        words[1] = name.as_bytes();
        server.raw(&words);
        let outcomes = [
            store.load(&key(n)).await.map(drop),
            store
                .replace(&key(n), version(1), record(2, "x", LONG), None)
                .await
                .map(drop),
            store.remove(&key(n), version(1)).await.map(drop),
            store.create(&key(n), record(1, "new", LONG), None).await.map(drop),
        ];
        for outcome in outcomes {
            let Err(StoreError::Unreadable(unreadable)) = outcome else {
                panic!("{n}: {outcome:?}");
            };
            assert_eq!((unreadable.flaw, unreadable.version), (flaw, None), "{n}");
        }
        assert_eq!(
            store.create(&key(n), record(1, "new", LONG), Some(token(1))).await,
            Ok(Created::Fenced)
        );
        assert!(store.load(&key(n)).await.is_err());
        assert_eq!(store.discard(&key(n)).await, Ok(true));
        assert_eq!(store.load(&key(n)).await, Ok(None));
        assert_eq!(
            store.create(&key(n), record(1, "new", LONG), None).await,
            Ok(Created::Won)
        );
        assert_eq!(store.load(&key(n)).await.unwrap().expect("a record").payload.0, "new");
    }
    assert_every_key_expires(&server);
}

#[tokio::test]
async fn user_password_and_database_of_the_url_are_used_and_never_shown() {
    let server = RedisServer::start();
    let acl = [
        "ACL",
        "SETUSER",
        "bridge",
        "on",
        ">hunter2",
        "~session-bridge:*",
        "+@all",
    ];
    server.command(&acl);
    let url =
        |password: &str, database: u8| format!("redis://bridge:{password}@127.0.0.1:{}/{database}", server.port());
    let prefix = "session-bridge:";
    let clock = Subject::clock();
    let store = connect_as(&url("hunter2", 3), PATIENT, prefix, &clock).await;
    eventually("a connection", || async { store.ping().await.is_ok() }).await;
    store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    assert!(server.text(&["INFO", "keyspace"]).contains("db3:keys=2"));

    let wrong = connect_as(&url("wrong-hunter", 3), Duration::from_millis(250), prefix, &clock).await;
    eventually("the refusal", || async {
        format!("{:?}", wrong.load(&key(1)).await).contains("authentication failed")
    })
    .await;
    let error = wrong.load(&key(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)));
    assert!(!format!("{error} {error:?}").contains("hunter"), "{error}");

    let no_such_database = connect_as(&url("hunter2", 99), Duration::from_millis(250), prefix, &clock).await;
    eventually("the refusal", || async {
        format!("{:?}", no_such_database.load(&key(1)).await)
            .contains("are user, password and database of store.url right?")
    })
    .await;
}

#[tokio::test]
async fn what_redis_holds_is_alive_whatever_the_clock_of_the_replica_says() {
    let server = RedisServer::start();
    let clock = ManualClock::at(Timestamp::from_millis(1000));
    let store = connect_as(&server.url(), PATIENT, "session-bridge:", &clock).await;
    store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    clock.advance(LONG * 2);
    assert!(store.load(&key(1)).await.unwrap().is_some());
    let outcome = store.replace(&key(1), version(1), record(2, "y", LONG), None).await;
    assert_eq!(outcome, Ok(Replaced::Done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_waits_for_replicas_and_stands_without_them() {
    let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = RedisServer::start();
    let gate = Gate::to(([127, 0, 0, 1], master.port()).into()).await;
    replica.command(&["REPLICAOF", "127.0.0.1", &gate.port().to_string()]);
    let timeout = Duration::from_millis(400);
    let lines = format!("url = {:?}\ntimeout = \"400ms\"\nwait_replicas = 1", master.url());
    tokio::task::block_in_place(|| master.wait_for_replicas(1));
    let store = open(&lines, &Subject::clock()).await.unwrap();
    eventually("a confirmed change", || async {
        let before = store.stats().unreplicated;
        let _ = store.create(&key(0), record(1, "x", LONG), None).await;
        let _ = store.remove(&key(0), version(1)).await;
        store.stats().unreplicated == before
    })
    .await;

    // With its replica, a change is there when it is answered, though it takes its time.
    gate.delay(Way::Down, Duration::from_millis(20), Duration::ZERO);
    let before = store.stats().unreplicated;
    for n in 1..20 {
        let name = record_key(n);
        store.create(&key(n), record(1, "x", LONG), None).await.unwrap();
        assert_eq!(replica.number(&["EXISTS", &name]), 1, "{n}");
        store
            .replace(&key(n), version(1), record(2, "y", LONG), None)
            .await
            .unwrap();
        assert!(replica.text(&["GETRANGE", &name, "21", "-1"]).contains('y'), "{n}");
        store.remove(&key(n), version(2)).await.unwrap();
        assert_eq!(replica.number(&["EXISTS", &name]), 0, "{n}");
    }
    assert_eq!(store.stats().unreplicated, before);

    // Many at once wait together.
    let changes = |from: u32| {
        let store = Arc::clone(&store);
        let create = move |n: u32| {
            let store = Arc::clone(&store);
            async move { store.create(&key(from + n), record(1, "x", LONG), None).await }
        };
        join_all((0..500).map(create))
    };
    let outcomes = changes(1000).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(Created::Won)));
    assert_eq!(store.stats().unreplicated, before);

    // Without it they stand, are counted, and take no longer than a call may; reads do not wait at all.
    replica.stop();
    let asked = Instant::now();
    let reads = async {
        for _ in 0..20 {
            let asked = Instant::now();
            store.load(&key(1000)).await.unwrap();
            assert!(asked.elapsed() < timeout / 2, "{:?}", asked.elapsed());
        }
    };
    let (outcomes, ()) = tokio::join!(changes(2000), reads);
    assert!(asked.elapsed() < timeout + SLACK, "{:?}", asked.elapsed());
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(Created::Won)));
    assert_eq!(store.stats().unreplicated, before + 500);

    replica.resume();
    eventually("a confirmed change", || async {
        let before = store.stats().unreplicated;
        let _ = store.create(&key(0), record(1, "x", LONG), None).await;
        let _ = store.remove(&key(0), version(1)).await;
        store.stats().unreplicated == before
    })
    .await;
    let rounds = master.calls("wait");
    assert!(
        rounds < 1000,
        "{rounds} rounds for 1100 changes: they were not waited for together"
    );
}
