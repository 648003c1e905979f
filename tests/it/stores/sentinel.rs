//! The store in a Redis whose master Sentinel chooses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use session_bridge::session::store::{Replaced, SessionStore, StoreError};

use super::contract::{Subject, keeps_the_contract};
use super::near::Replica;
use super::redis::open;
use super::{LONG, eventually, key, record, version};
use crate::support::redis::RedisServer;
use crate::support::sentinel::Sentinels;

/// What operators read.
const OPERATING: &str = include_str!("../../../docs/operating.md");

/// From the new master's being writable to the first change.
const SERVED_WITHIN: Duration = Duration::from_secs(1);

async fn connect(lines: &str) -> Arc<dyn SessionStore> {
    let store = open(lines, &Subject::clock()).await.expect("a store");
    eventually("a connection", || async { store.ping().await.is_ok() }).await;
    store
}

fn url(sentinels: &Sentinels) -> String {
    format!("url = {:?}", sentinels.url())
}

/// What the store says while it cannot be used.
async fn reason(store: &dyn SessionStore) -> String {
    format!("{:?}", store.load(&key(1)).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_under_sentinel_keeps_the_contract() {
    let sentinels = Sentinels::start().await;
    let number = AtomicU32::new(0);
    keeps_the_contract(|| async {
        let clock = Subject::clock();
        let n = number.fetch_add(1, Ordering::Relaxed);
        let lines = format!("{}\ntimeout = \"20s\"\nkey_prefix = \"case-{n}:\"", url(&sentinels));
        Subject {
            store: open(&lines, &clock).await.expect("a store"),
            clock,
            real_time: true,
            _keep: Box::new(()),
        }
    })
    .await;
}

/// Writes and reads all the time, and says when the first change after `since` was done, and whether any call took
/// longer than it may.
async fn served_after(store: &dyn SessionStore, since: Instant) -> Duration {
    let mut n = 1_000;
    loop {
        n += 1;
        if store.create(&key(n), record(1, "x", LONG), None).await.is_ok() {
            return since.elapsed();
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{}", reason(store).await);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Runs `fault` on the master and waits until the store is served by another one.
async fn fails_over(sentinels: &mut Sentinels, fault: impl AsyncFnOnce(&mut Sentinels, usize)) {
    let store = connect(&url(sentinels)).await;
    store.create(&key(1), record(1, "kept", LONG), None).await.unwrap();
    let before = sentinels.master();
    sentinels.in_step(before).await;
    let stop = tokio_util::sync::CancellationToken::new();
    // Calls go on all the time, and none takes longer than its deadline.
    let load = {
        let (store, stop) = (Arc::clone(&store), stop.clone());
        tokio::spawn(async move {
            let (known, mut n) = (key(1), 10_000);
            while !stop.is_cancelled() {
                n += 1;
                let asked = Instant::now();
                let outcomes = tokio::join!(store.load(&known), async {
                    store.create(&key(n), record(1, "x", LONG), None).await.map(drop)
                });
                assert!(
                    asked.elapsed() < Duration::from_millis(1000),
                    "{:?} {outcomes:?}",
                    asked.elapsed()
                );
                if let Ok(found) = outcomes.0 {
                    assert!(found.is_some(), "what was replicated is never absent");
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    fault(sentinels, before).await;
    let (_, writable) = sentinels.promoted(before).await;
    // Reads and changes have a connection each.
    served_after(&*store, writable).await;
    eventually("reads to be served", async || {
        store.load(&key(1)).await.is_ok_and(|found| found.is_some())
    })
    .await;
    let took = writable.elapsed();
    assert!(took < SERVED_WITHIN, "{took:?}");
    stop.cancel();
    load.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_master_is_killed_the_next_one_is_in_use_within_a_second() {
    let mut sentinels = Sentinels::start().await;
    fails_over(&mut sentinels, async |sentinels, master| {
        sentinels.servers[master].kill();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_master_freezes_the_next_one_is_in_use_within_a_second() {
    let mut sentinels = Sentinels::start().await;
    let mut frozen = 0;
    fails_over(&mut sentinels, async |sentinels, master| {
        frozen = master;
        sentinels.servers[master].stop();
    })
    .await;
    sentinels.servers[frozen].resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_master_is_switched_by_command_the_next_one_is_in_use_within_a_second() {
    let mut sentinels = Sentinels::start().await;
    fails_over(&mut sentinels, async |sentinels, _| sentinels.failover().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_no_copy_from_the_old_master_is_served() {
    let mut sentinels = Sentinels::start().await;
    let lines = format!("{}\ntimeout = \"5s\"", url(&sentinels));
    let (reader, writer) = (Replica::found_with(&lines).await, Replica::found_with(&lines).await);
    writer.store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    reader.fill_for_sure(&key(1), 1).await;
    let before = sentinels.master();
    sentinels.in_step(before).await;
    sentinels.servers[before].kill();
    sentinels.promoted(before).await;
    eventually("a change at the new master", || async {
        let replaced = writer
            .store
            .replace(&key(1), version(1), record(2, "x", LONG), None)
            .await;
        matches!(replaced, Ok(Replaced::Done))
    })
    .await;
    assert_eq!(reader.at_hand(&key(1)), None);
    reader.fill_for_sure(&key(1), 2).await;
    assert_eq!(reader.copies.stats().armed, 1);
    // And the new master tells.
    let replaced = writer
        .store
        .replace(&key(1), version(2), record(3, "x", LONG), None)
        .await;
    assert_eq!(replaced, Ok(Replaced::Done));
    assert_eq!(reader.at_hand(&key(1)), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sentinel_of_the_url_is_enough_to_find_the_others() {
    let mut sentinels = Sentinels::start().await;
    let only = format!(
        "url = \"redis-sentinel://127.0.0.1:{}/mymaster\"",
        sentinels.sentinels[0].port()
    );
    let store = connect(&only).await;
    sentinels.sentinels[0].kill();
    let before = sentinels.master();
    sentinels.servers[before].kill();
    let (_, writable) = sentinels.promoted(before).await;
    assert!(served_after(&*store, writable).await < SERVED_WITHIN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_are_gone_or_deaf_do_not_stop_a_store_that_has_its_master() {
    let mut sentinels = Sentinels::start().await;
    let store = connect(&url(&sentinels)).await;
    let (killed, others) = sentinels.sentinels.split_at_mut(1);
    killed[0].kill();
    others.iter().for_each(RedisServer::stop);
    for n in 0..100 {
        store.create(&key(n), record(1, "x", LONG), None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    others.iter().for_each(RedisServer::resume);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_it_is_no_master_is_not_used() {
    let master = RedisServer::start();
    let replica = RedisServer::start();
    replica.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    // A sentinel that was told wrong: it names a replica.
    let lines = [format!("sentinel monitor m 127.0.0.1 {} 1", replica.port())];
    let sentinel = RedisServer::try_start_from_file(&lines, &["--sentinel"]).expect("a sentinel");
    let address = format!("url = \"redis-sentinel://127.0.0.1:{}/", sentinel.port());
    let store = open(&format!("{address}m\""), &Subject::clock()).await.unwrap();
    eventually("the reason", || async {
        reason(&*store)
            .await
            .contains("the sentinels call the master is none (yet)")
    })
    .await;
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    let back = Instant::now();
    eventually("a change", || async {
        store.create(&key(1), record(1, "x", LONG), None).await.is_ok()
    })
    .await;
    assert!(back.elapsed() < SERVED_WITHIN, "{:?}", back.elapsed());

    let unknown = open(&format!("{address}other\""), &Subject::clock()).await.unwrap();
    eventually("the reason", || async {
        reason(&*unknown)
            .await
            .contains("it knows no master of the name in store.url")
    })
    .await;
    assert!(matches!(unknown.load(&key(1)).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_behind_the_times_parts_nobody_from_the_master_when_the_others_are_gone() {
    let (master, former) = (RedisServer::start(), RedisServer::start());
    let sentinel = |server: &RedisServer, epoch: u64| {
        let lines = [
            format!("sentinel monitor m 127.0.0.1 {} 3", server.port()),
            format!("sentinel config-epoch m {epoch}"),
        ];
        RedisServer::try_start_from_file(&lines, &["--sentinel"]).expect("a sentinel")
    };
    let mut current = [(); 3].map(|()| sentinel(&master, 7));
    let outdated = sentinel(&former, 6);
    let all = current.iter().chain([&outdated]);
    let all: Vec<_> = all.map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
    let store = connect(&format!("url = \"redis-sentinel://{}/m\"", all.join(","))).await;
    let connected = || outdated.text(&["CLIENT", "LIST"]).contains("sub=2");
    eventually("all to be asked", || async {
        connected() && current.iter().all(|s| s.text(&["CLIENT", "LIST"]).contains("sub=2"))
    })
    .await;
    // Who answered first may have been the outdated one. This test is a client of both, too, and so are the sentinels.
    let clients = |server: &RedisServer| {
        let list = server.text(&["CLIENT", "LIST"]);
        list.lines().filter(|line| !line.contains("name=sentinel")).count()
    };
    eventually("reads and changes to go to the master", || async {
        clients(&former) == 1 && clients(&master) >= 3 && store.ping().await.is_ok()
    })
    .await;
    let before = store.stats().reconnects;
    current.iter_mut().for_each(RedisServer::kill);
    for n in 0..100 {
        store.create(&key(n), record(1, "x", LONG), None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(store.stats().reconnects, before);
    assert_eq!(former.keys().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_have_a_login_of_their_own() {
    // The rules of the documentation are enough.
    let mut documented = OPERATING
        .lines()
        .filter_map(|line| line.strip_prefix("ACL SETUSER bridge "));
    let rules = documented.find(|rules| rules.contains("+sentinel|"));
    let rules = rules.expect("the line of the sentinels' ACL in docs/operating.md");
    let master = RedisServer::start();
    let lines = [
        format!("sentinel monitor m 127.0.0.1 {} 1", master.port()),
        format!("user bridge {}", rules.replace("PASSWORD", "sentinelhunter")),
        "user default off".to_owned(),
    ];
    let sentinel = RedisServer::try_start_from_file(&lines, &["--sentinel"]).expect("a sentinel");
    let directory = tempfile::tempdir().unwrap();
    let password = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("sentinel_password_file = {:?}", path.display().to_string())
    };
    let url = format!("url = \"redis-sentinel://127.0.0.1:{}/m\"", sentinel.port());
    let user = "sentinel_username = \"bridge\"";
    let right = password("right", "sentinelhunter\n");
    connect(&[&url, user, &right].map(|line| line.to_owned()).join("\n")).await;

    let wrong = password("wrong", "wronghunter\n");
    for (lines, expected) in [
        (vec![&url[..], user, &wrong], "authentication failed"),
        (vec![&url[..]], "NOAUTH"),
    ] {
        let store = open(&lines.join("\n"), &Subject::clock()).await.unwrap();
        let mut shown = String::new();
        for _ in 0..200 {
            shown = reason(&*store).await;
            if shown.contains(expected) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(shown.contains(expected), "{expected} is not in {shown}");
        assert!(!shown.contains("hunter"), "{shown}");
    }
}
