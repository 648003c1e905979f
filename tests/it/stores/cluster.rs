//! What is particular to the store in a Redis cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use session_bridge::session::store::{
    Acquired, Created, LeaseEnd, LeaseState, Removed, Replaced, SessionStore, StoreError,
};
use tokio::task::JoinHandle;

use super::contract::{Subject, keeps_the_contract};
use super::near::Replica;
use super::redis::{PATIENT, SLACK, assert_every_key_expires, connect_as, open, record_key};
use super::secured::{documented_rules_of_a_cluster, lines, text};
use super::{LONG, eventually, key, record, token, version};
use crate::support::cluster::ClusterNodes;
use crate::support::pki::Authority;
use crate::support::redis::RedisServer;
use crate::support::{lasting_port, scaled};

/// Long enough for a busy machine, short enough for a wait to show.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What a node that is lost costs must be its own slots.
const SLOTS_APART: &[&str] = &["cluster-require-full-coverage no"];

/// A store with this deadline that has found its cluster.
async fn connect(cluster: &ClusterNodes, timeout: Duration) -> Arc<dyn SessionStore> {
    let store = connect_as(&cluster.url(), timeout, "session-bridge:", &Subject::clock()).await;
    eventually("the cluster", || async { store.ping().await.is_ok() }).await;
    for n in 0..64 {
        eventually("every node", || async { store.load(&key(n)).await.is_ok() }).await;
    }
    store
}

/// How often the node answered with an error of this code.
fn refusals(node: &RedisServer, code: &str) -> u64 {
    let line = format!("errorstat_{code}:count=");
    let statistics = node.text(&["INFO", "errorstats"]);
    let count = statistics.lines().find_map(|text| text.strip_prefix(line.as_str()));
    count.map_or(0, |count| count.trim().parse().expect("a count"))
}

/// How many clients are connected to the node, the one that asks left out.
fn clients(node: &RedisServer) -> usize {
    node.text(&["CLIENT", "LIST", "TYPE", "normal"]).lines().count() - 1
}

/// The life of an installation, from the first lease to the log-out; every answer must be the one that it would be of a
/// single server.
async fn live(store: &dyn SessionStore, n: u32) {
    let (id, holder) = (key(n), token(u128::from(n) + 1));
    let said = |what: &str| format!("installation {n}: {what}");
    assert_eq!(
        store.acquire_lease(&id, holder, LONG).await,
        Ok(Acquired::Won),
        "{}",
        said("lease")
    );
    assert_eq!(
        store.acquire_lease(&id, token(u128::MAX), LONG).await,
        Ok(Acquired::Held { barren: 0 }),
        "{}",
        said("another's lease")
    );
    assert_eq!(
        store.renew_lease(&id, holder, LONG).await,
        Ok(true),
        "{}",
        said("renewal")
    );
    let created = store.create(&id, record(1, "first", LONG), Some(holder)).await;
    assert_eq!(created, Ok(Created::Won), "{}", said("create"));
    let replaced = store
        .replace(&id, version(1), record(2, "second", LONG), Some(holder))
        .await;
    assert_eq!(replaced, Ok(Replaced::Done), "{}", said("fenced replace"));
    let (found, lease) = store.observe(&id).await.expect("an observation");
    assert_eq!((found.expect("a record").version, lease.held), (version(2), true));
    assert_eq!(
        store.release_lease(&id, holder, LeaseEnd::Plain).await,
        Ok(()),
        "{}",
        said("release")
    );
    let replaced = store.replace(&id, version(2), record(3, "third", LONG), None).await;
    assert_eq!(replaced, Ok(Replaced::Done), "{}", said("replace"));
    assert_eq!(store.touch(&id, version(3), LONG).await, Ok(true), "{}", said("touch"));
    assert_eq!(
        store.load(&id).await.expect("a load").expect("a record").payload.0,
        "third"
    );
    let (found, lease) = store.observe(&id).await.expect("an observation");
    assert_eq!(
        (found.expect("a record").version, lease),
        (version(3), LeaseState::default())
    );
    assert_eq!(
        store.remove(&id, version(3)).await,
        Ok(Removed::Done),
        "{}",
        said("remove")
    );
    assert_eq!(store.load(&id).await, Ok(None), "{}", said("load of nothing"));
}

/// Keeps a record changing until it is told to stop; says how many changes were acknowledged, and fails when one is
/// refused or lost.
fn keep_changing(store: &Arc<dyn SessionStore>, n: u32, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let (store, stop) = (Arc::clone(store), Arc::clone(stop));
    tokio::spawn(async move {
        let id = key(n);
        let mut seq = 1;
        assert_eq!(store.create(&id, record(seq, "x", LONG), None).await, Ok(Created::Won));
        while !stop.load(Ordering::Relaxed) {
            let outcome = store.replace(&id, version(seq), record(seq + 1, "x", LONG), None).await;
            assert_eq!(outcome, Ok(Replaced::Done), "record {n}, change {seq}");
            seq += 1;
            let found = store.load(&id).await.expect("a load").expect("a record");
            assert_eq!(found.version, version(seq), "record {n}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        seq
    })
}

/// The first keys that `node` serves, and the first that others do.
fn keys_of(cluster: &ClusterNodes, node: usize, count: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for n in 0..1000 {
        let list = if cluster.master_of(&record_key(n)) == node {
            &mut own
        } else {
            &mut others
        };
        list.push(n);
        if own.len() >= count && others.len() >= count {
            break;
        }
    }
    own.truncate(count);
    others.truncate(count);
    (own, others)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_the_contract_and_leaves_nothing_without_an_expiry() {
    let cluster = ClusterNodes::start().await;
    let number = AtomicU32::new(0);
    keeps_the_contract(|| async {
        let clock = Subject::clock();
        // Braces of the prefix may make all keys one slot's: that is slow, and right.
        let braces = ["", "{app}:", "a{b:"][number.load(Ordering::Relaxed) as usize % 3];
        let prefix = format!("case-{}:{braces}", number.fetch_add(1, Ordering::Relaxed));
        Subject {
            store: connect_as(&cluster.url(), PATIENT, &prefix, &clock).await,
            clock,
            real_time: true,
            _keep: Box::new(()),
        }
    })
    .await;
    for node in &cluster.nodes[..3] {
        assert!(!node.keys().is_empty());
        assert_every_key_expires(node);
    }
    assert!(cluster.nodes[..3].iter().map(|node| node.keys().len()).sum::<usize>() > 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_knows_the_cluster_asks_the_right_node_at_once() {
    let cluster = ClusterNodes::start().await;
    let redirected = || -> Vec<u64> { cluster.nodes.iter().map(|node| refusals(node, "MOVED")).collect() };
    let before = redirected();
    let store = connect(&cluster, PATIENT).await;
    for n in 0..200 {
        live(&*store, n).await;
    }
    assert_eq!(store.ping().await, Ok(()));
    assert_eq!(redirected(), before);
    // One connection to each master for reads and one for changes, none to replicas.
    let connected: Vec<_> = cluster.nodes.iter().map(clients).collect();
    assert_eq!(connected, [2, 2, 2, 0, 0, 0]);
    store.close().await.unwrap();
    eventually("no connections", || async {
        cluster.nodes.iter().all(|node| clients(node) == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_living_node_among_the_seeds_is_enough_and_a_replica_will_do() {
    let cluster = ClusterNodes::start().await;
    let url = format!(
        "redis-cluster://127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}",
        lasting_port(),
        lasting_port(),
        cluster.nodes[5].port()
    );
    let store = connect_as(&url, Duration::from_secs(5), "session-bridge:", &Subject::clock()).await;
    for n in 0..20 {
        live(&*store, n).await;
    }
    // Those that accept and never answer take longest to be told from others.
    let silent = [(); 12].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let deaf: String = silent
        .iter()
        .map(|deaf| format!("{},", deaf.local_addr().unwrap()))
        .collect();
    for _ in 0..5 {
        let url = format!("redis-cluster://{deaf}127.0.0.1:{}", cluster.nodes[5].port());
        let begun = Instant::now();
        let store = connect_as(&url, Duration::from_secs(5), "session-bridge:", &Subject::clock()).await;
        live(&*store, 1).await;
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cluster_calls_say_why_and_an_outage_that_lasts_is_told_at_once() {
    let nobody = format!("redis-cluster://127.0.0.1:{}", lasting_port());
    let timeout = Duration::from_millis(250);
    let single = RedisServer::start();
    let no_cluster = format!("redis-cluster://127.0.0.1:{}", single.port());
    for (url, why) in [(nobody, "refused"), (no_cluster, "cluster support disabled")] {
        let store = connect_as(&url, timeout, "p:", &Subject::clock()).await;
        let asked = Instant::now();
        eventually("the reason", || async {
            let outcome = store.load(&key(1)).await;
            matches!(&outcome, Err(StoreError::Unavailable(text)) if text.contains(why))
        })
        .await;
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
        let asked = Instant::now();
        let created = store.create(&key(1), record(1, "x", LONG), None).await;
        assert!(matches!(created, Err(StoreError::Unavailable(_))), "{created:?}");
        assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_to_a_node_that_gave_the_slot_away_is_sent_on() {
    let cluster = ClusterNodes::start().await;
    let store = connect(&cluster, TIMEOUT).await;
    for n in 0..10 {
        let created = store.create(&key(n), record(1, "x", LONG), None).await;
        assert_eq!(created, Ok(Created::Won));
        let slot = cluster.slot(&record_key(n));
        let from = cluster.move_slot(slot, (cluster.master_of(&record_key(n)) + 1) % 3);
        let redirected = refusals(&cluster.nodes[from], "MOVED");
        let replaced = store.replace(&key(n), version(1), record(2, "y", LONG), None).await;
        assert_eq!(replaced, Ok(Replaced::Done));
        assert_eq!(
            store.load(&key(n)).await.unwrap().expect("a record").version,
            version(2)
        );
        // Told once, known from then on.
        assert!(refusals(&cluster.nodes[from], "MOVED") <= redirected + 1);
    }
    let redirected: u64 = cluster.nodes.iter().map(|node| refusals(node, "MOVED")).sum();
    assert!(redirected > 0, "every call was quicker than the redirections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_on_their_way_under_load_cost_no_call_and_no_record() {
    let cluster = ClusterNodes::start().await;
    let store = connect(&cluster, Duration::from_secs(5)).await;
    let rounds = scaled(3, 30);
    let stop = Arc::new(AtomicBool::new(false));
    let mut changing: Vec<_> = (0..12).map(|n| keep_changing(&store, n, &stop)).collect();
    for n in 0..12 {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        // Another installation of the same slot would have to be searched for; this one has its own.
        changing.push(tokio::spawn(async move {
            let mut lives = 0;
            while !stop.load(Ordering::Relaxed) {
                live(&*store, 100 + n).await;
                lives += 1;
            }
            lives
        }));
    }
    for round in 0..rounds {
        for n in (0..12).chain(100..112) {
            let slot = cluster.slot(&record_key(n));
            let to = (cluster.master_of(&record_key(n)) + 1 + round % 2) % 3;
            let from = cluster.begin_move(slot, to);
            // Some of its keys are here, some there, for a while.
            tokio::time::sleep(Duration::from_millis(20)).await;
            while tokio::task::block_in_place(|| cluster.move_keys(slot, from, to, 1)) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            cluster.end_move(slot, from, to);
        }
    }
    stop.store(true, Ordering::Relaxed);
    for task in changing {
        assert!(task.await.expect("no call failed") > 10);
    }
    let asked: u64 = cluster.nodes.iter().map(|node| refusals(node, "ASK")).sum();
    assert!(asked > 10, "{asked} calls came while their slot was on its way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_stuck_on_its_way_is_served() {
    let cluster = ClusterNodes::start().await;
    let store = connect(&cluster, TIMEOUT).await;
    let begin = |n: u32| {
        let slot = cluster.slot(&record_key(n));
        let to = (cluster.master_of(&record_key(n)) + 1) % 3;
        (slot, cluster.begin_move(slot, to), to)
    };
    // Who comes new lives at the new node.
    begin(1);
    for _ in 0..3 {
        live(&*store, 1).await;
    }
    store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
    assert_eq!(store.release_lease(&key(1), token(1), LeaseEnd::Barren).await, Ok(()));
    let (_, lease) = store.observe(&key(1)).await.unwrap();
    assert_eq!(lease, LeaseState { held: false, barren: 1 });

    // Who was there goes on at the old one.
    store.create(&key(2), record(1, "x", LONG), None).await.unwrap();
    begin(2);
    assert_eq!(store.touch(&key(2), version(1), LONG).await, Ok(true));
    let replaced = store.replace(&key(2), version(1), record(2, "y", LONG), None).await;
    assert_eq!(replaced, Ok(Replaced::Done));
    let (found, lease) = store.observe(&key(2)).await.unwrap();
    assert_eq!((found.expect("a record").version, lease.held), (version(2), false));
    assert_eq!(store.remove(&key(2), version(2)).await, Ok(Removed::Done));
    live(&*store, 2).await;

    // What needs keys of which one is here and one there waits for them, and is never done by halves.
    store.acquire_lease(&key(3), token(3), LONG).await.unwrap();
    let (slot, from, to) = begin(3);
    let asked = Instant::now();
    let created = store.create(&key(3), record(1, "x", LONG), Some(token(3))).await;
    // The last of many tries may be one whose answer is not waited for.
    let refused = matches!(created, Err(StoreError::Unavailable(_) | StoreError::Ambiguous(_)));
    assert!(refused, "{created:?}");
    assert!(asked.elapsed() < TIMEOUT + SLACK, "{:?}", asked.elapsed());
    assert_eq!(store.load(&key(3)).await, Ok(None));
    let (created, moved) = tokio::join!(
        async { store.create(&key(3), record(1, "x", LONG), Some(token(3))).await },
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            tokio::task::block_in_place(|| cluster.move_keys(slot, from, to, 10))
        }
    );
    assert_eq!((created, moved), (Ok(Created::Won), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_by_command_under_load_costs_no_call_and_no_record() {
    let cluster = ClusterNodes::start().await;
    let store = connect(&cluster, Duration::from_secs(5)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let changing: Vec<_> = (0..12).map(|n| keep_changing(&store, n, &stop)).collect();
    for master in 0..3 {
        cluster.failover(master + 3);
        eventually("the replica to be the master", || async {
            tokio::task::block_in_place(|| {
                cluster.nodes[master + 3]
                    .text(&["INFO", "replication"])
                    .contains("role:master")
            })
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in changing {
        assert!(task.await.expect("no call failed") > 10);
    }
    // Who is no master any more is let go.
    eventually("the old masters to be left", || async {
        tokio::task::block_in_place(|| {
            let connected: Vec<_> = cluster.nodes.iter().map(clients).collect();
            connected == [0, 0, 0, 2, 2, 2]
        })
    })
    .await;
}

#[derive(Clone, Copy, PartialEq)]
enum Loss {
    Killed,
    Frozen,
}

/// Loses a master for good, and looks at what that costs.
async fn lose_a_master(loss: Loss) {
    let mut cluster = ClusterNodes::start_with(SLOTS_APART).await;
    let store = connect(&cluster, TIMEOUT).await;
    let (own, others) = tokio::task::block_in_place(|| keys_of(&cluster, 0, 5));
    for n in &own {
        let created = store.create(&key(*n), record(7, "kept", LONG), None).await;
        assert_eq!(created, Ok(Created::Won));
    }
    tokio::task::block_in_place(|| cluster.nodes[0].wait_for_replicas(1));
    let stop = Arc::new(AtomicBool::new(false));
    let changing: Vec<_> = others.iter().map(|n| keep_changing(&store, *n, &stop)).collect();
    let deadlines = {
        let (store, stop, n) = (Arc::clone(&store), Arc::clone(&stop), own[0]);
        tokio::spawn(async move {
            let (mut failures, mut slowest) = (0, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let asked = Instant::now();
                failures += u32::from(store.touch(&key(n), version(7), LONG).await.is_err());
                slowest = slowest.max(asked.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (failures, slowest)
        })
    };
    match loss {
        Loss::Killed => cluster.nodes[0].kill(),
        Loss::Frozen => cluster.nodes[0].stop(),
    }
    let watched = async {
        // Of what the lost master served nothing is to be had, and readiness knows of the others.
        eventually("the loss to show", || async { store.load(&key(own[1])).await.is_err() }).await;
        assert_eq!(store.ping().await, Ok(()));
        loop {
            if let Ok(found) = store.load(&key(own[1])).await {
                return (Instant::now(), found);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let name = record_key(own[1]);
    let (promoted, (served, found)) = tokio::join!(cluster.promoted(3, &name), watched);
    let after = served.saturating_duration_since(promoted);
    assert!(after < Duration::from_secs(1), "{after:?} after the promotion");
    assert_eq!(found.expect("an acknowledged record").version, version(7));
    for n in &own {
        let found = store.load(&key(*n)).await.unwrap().expect("an acknowledged record");
        assert_eq!((found.version, &found.payload.0[..]), (version(7), &b"kept"[..]));
        let replaced = store.replace(&key(*n), version(7), record(8, "on", LONG), None).await;
        assert_eq!(replaced, Ok(Replaced::Done));
    }
    stop.store(true, Ordering::Relaxed);
    for task in changing {
        assert!(task.await.expect("the other slots are served throughout") > 50);
    }
    let (failures, slowest) = deadlines.await.unwrap();
    assert!(
        failures > 0 && slowest < TIMEOUT + SLACK,
        "{failures} failures, the slowest call took {slowest:?}"
    );
    eprintln!("served {after:?} after the promotion; {failures} refusals, the slowest call took {slowest:?}");
    if loss == Loss::Frozen {
        cluster.nodes[0].resume();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_costs_its_own_slots_alone_until_its_replica_takes_over() {
    lose_a_master(Loss::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_master_costs_its_own_slots_alone_until_its_replica_takes_over() {
    lose_a_master(Loss::Frozen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_under_way_when_its_master_dies_is_not_sent_again() {
    let mut cluster = ClusterNodes::start_with(SLOTS_APART).await;
    let store = connect(&cluster, PATIENT).await;
    let (own, _) = tokio::task::block_in_place(|| keys_of(&cluster, 0, 2));
    store.create(&key(own[0]), record(1, "x", LONG), None).await.unwrap();
    tokio::task::block_in_place(|| cluster.nodes[0].wait_for_replicas(1));
    // It takes the commands, and dies before it has looked at them.
    cluster.nodes[0].stop();
    let (known, new) = (key(own[0]), key(own[1]));
    let calls = async { tokio::join!(store.load(&known), store.create(&new, record(1, "x", LONG), None)) };
    let death = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.nodes[0].kill();
    };
    let ((load, create), ()) = tokio::join!(calls, death);
    // The read is asked again: of the new master, when there is one.
    assert_eq!(load.unwrap().expect("a record").version, version(1));
    assert!(matches!(create, Err(StoreError::Ambiguous(_))), "{create:?}");
    assert_eq!(store.load(&new).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_down_refuses_and_is_found_again_when_it_is_back() {
    let mut cluster = ClusterNodes::start().await;
    let store = connect(&cluster, TIMEOUT).await;
    let (own, others) = tokio::task::block_in_place(|| keys_of(&cluster, 0, 1));
    let replica = cluster.replica_of(&record_key(own[0]));
    cluster.nodes[replica].kill();
    cluster.nodes[0].kill();
    // As it is set up by default, it serves all slots or none.
    eventually("the refusal", || async {
        let outcome = store
            .create(&key(others[0]), record(1, "x", LONG), None)
            .await
            .map(drop);
        matches!(&outcome, Err(StoreError::Unavailable(text)) if text.contains("CLUSTERDOWN"))
    })
    .await;
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    cluster.nodes[0].restart();
    eventually("the cluster", || async { store.ping().await.is_ok() }).await;
    for n in [own[0], others[0]] {
        eventually("the slot", || async { store.remove(&key(n), version(1)).await.is_ok() }).await;
        live(&*store, n).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_served_over_tls_by_the_user_of_the_documentation() {
    let authority = Authority::new("ours");
    let node = authority.issue(&["127.0.0.1"]);
    let mut rules = documented_rules_of_a_cluster();
    for rule in &mut rules {
        if rule.starts_with('>') {
            *rule = ">hunter2".to_owned();
        }
    }
    let settings = [
        "tls-port {port}".to_owned(),
        "tls-cluster yes".to_owned(),
        "tls-replication yes".to_owned(),
        format!("tls-ca-cert-file {}", text(&authority.file())),
        format!("tls-cert-file {}", text(&node.cert)),
        format!("tls-key-file {}", text(&node.key)),
        format!("user bridge {}", rules.join(" ")),
    ];
    let cluster = ClusterNodes::start_with(&settings.each_ref().map(String::as_str)).await;
    let ports: (String, u16) =
        redis::from_redis_value(cluster.nodes[0].command(&["CONFIG", "GET", "tls-port"])).unwrap();
    let url = format!("rediss-cluster://bridge:hunter2@127.0.0.1:{}", ports.1);
    let shown = authority.issue(&["the bridge"]);
    let store = open(&lines(&url, Some(&authority), Some(&shown)), &Subject::clock())
        .await
        .expect("a store");
    eventually("the cluster", || async { store.ping().await.is_ok() }).await;
    for n in 0..20 {
        eventually("its node", || async { store.load(&key(n)).await.is_ok() }).await;
        live(&*store, n).await;
    }
    let slot = cluster.slot(&record_key(0));
    cluster.begin_move(slot, (cluster.master_of(&record_key(0)) + 1) % 3);
    live(&*store, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_waits_for_the_replicas_of_its_own_node() {
    let cluster = ClusterNodes::start_with(SLOTS_APART).await;
    let settings = format!("url = {:?}\ntimeout = \"1s\"\nwait_replicas = 1", cluster.url());
    let store = open(&settings, &Subject::clock()).await.expect("a store");
    let (own, others) = tokio::task::block_in_place(|| keys_of(&cluster, 0, 20));
    for n in own.iter().chain(&others) {
        eventually("a change that is confirmed", || async {
            let before = store.stats().unreplicated;
            let _ = store.remove(&key(*n), version(1)).await;
            let created = store.create(&key(*n), record(1, "x", LONG), None).await;
            created == Ok(Created::Won) && store.stats().unreplicated == before
        })
        .await;
    }
    // A replica that does not answer holds up the changes of its master, and those alone; they stand.
    let before = store.stats().unreplicated;
    cluster.nodes[3].stop();
    let asked = Instant::now();
    let replaced = store
        .replace(&key(own[0]), version(1), record(2, "y", LONG), None)
        .await;
    assert_eq!(replaced, Ok(Replaced::Done));
    assert!(
        asked.elapsed() > TIMEOUT - Duration::from_millis(100),
        "{:?}",
        asked.elapsed()
    );
    assert!(asked.elapsed() < TIMEOUT + SLACK, "{:?}", asked.elapsed());
    assert_eq!(store.stats().unreplicated, before + 1);
    let asked = Instant::now();
    for n in &others {
        let replaced = store.replace(&key(*n), version(1), record(2, "y", LONG), None).await;
        assert_eq!(replaced, Ok(Replaced::Done));
    }
    assert!(asked.elapsed() < TIMEOUT, "{:?}", asked.elapsed());
    assert_eq!(store.stats().unreplicated, before + 1);
    cluster.nodes[3].resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_copies_keeps_the_contract() {
    let cluster = ClusterNodes::start().await;
    let number = AtomicU32::new(0);
    keeps_the_contract(|| async {
        let clock = Subject::clock();
        let prefix = format!("case-{}:", number.fetch_add(1, Ordering::Relaxed));
        Subject {
            store: Arc::new(Replica::open(&cluster.url(), &prefix, &clock).await),
            clock,
            real_time: true,
            _keep: Box::new(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_copy_of_a_cluster_outlives_a_change_by_another_replica() {
    let cluster = ClusterNodes::start().await;
    let (reader, writer) = two_replicas(&cluster).await;
    for seq in 0..30 {
        for n in 0..20 {
            if seq == 0 {
                let created = writer.store.create(&key(n), record(1, "x", LONG), None).await;
                assert_eq!(created, Ok(Created::Won));
                continue;
            }
            reader.fill_for_sure(&key(n), seq).await;
            let new = record(seq + 1, "x", LONG);
            let replaced = writer.store.replace(&key(n), version(seq), new, None).await;
            assert_eq!(replaced, Ok(Replaced::Done));
            assert_eq!(reader.at_hand(&key(n)), None, "round {seq}, installation {n}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_does_not_outlive_the_move_of_its_slot_and_the_new_node_tells_of_changes() {
    let cluster = ClusterNodes::start().await;
    let (reader, writer) = two_replicas(&cluster).await;
    let name = record_key(1);
    writer.store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    for seq in 1..6 {
        reader.fill_for_sure(&key(1), seq).await;
        let to = (cluster.master_of(&name) + 1) % 3;
        cluster.move_slot(cluster.slot(&name), to);
        let new = record(seq + 1, "x", LONG);
        let replaced = writer.store.replace(&key(1), version(seq), new, None).await;
        assert_eq!(replaced, Ok(Replaced::Done));
        assert_eq!(reader.at_hand(&key(1)), None, "move {seq}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_copy_of_a_master_that_was_demoted_outlives_a_change_at_its_successor() {
    let cluster = ClusterNodes::start().await;
    let (reader, writer) = two_replicas(&cluster).await;
    // One for each master.
    let numbers: Vec<_> = (0..3)
        .map(|master| (0..).find(|n| cluster.master_of(&record_key(*n)) == master))
        .map(|number| number.expect("a key of each master"))
        .collect();
    for n in numbers {
        let (key, name) = (key(n), record_key(n));
        writer.store.create(&key, record(1, "x", LONG), None).await.unwrap();
        let (master, replica) = (cluster.master_of(&name), cluster.replica_of(&name));
        cluster.nodes[master].wait_for_replicas(1);
        reader.fill_for_sure(&key, 1).await;
        // The old master lives, keeps its connections, and takes its time to catch up with the new one.
        cluster.nodes[master].command(&["CONFIG", "SET", "masterauth", "refused"]);
        cluster.failover(replica);
        cluster.promoted(replica, &name).await;
        eventually("a change at the new master", || async {
            let new = record(2, "x", LONG);
            let replaced = writer.store.replace(&key, version(1), new, None).await;
            matches!(replaced, Ok(Replaced::Done))
        })
        .await;
        assert_eq!(reader.at_hand(&key), None, "installation {n}");
        reader.fill_for_sure(&key, 2).await;
        let replaced = writer.store.replace(&key, version(2), record(3, "x", LONG), None).await;
        assert_eq!(replaced, Ok(Replaced::Done));
        assert_eq!(reader.at_hand(&key), None, "installation {n}: the new master tells");
    }
}

async fn two_replicas(cluster: &ClusterNodes) -> (Replica, Replica) {
    let url = cluster.url();
    (
        Replica::found_cluster(&url, 3).await,
        Replica::found_cluster(&url, 3).await,
    )
}
