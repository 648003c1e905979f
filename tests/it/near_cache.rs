//! The near cache of a fleet (rules N1 to N4), seen from outside.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::client::Call;
use crate::support::cluster::ClusterNodes;
use crate::support::fleet::Fleet;
use crate::support::redis::RedisServer;
use crate::support::shop::Shop;
use crate::support::{InstallId, eventually, scaled};

const SECOND: Duration = Duration::from_secs(1);

/// Three replicas with the near cache on.
async fn fleet() -> Fleet {
    Fleet::configured(3, with_near_cache).await
}

/// With the near cache on. A session that was just started is looked at in the store until its response must have ended.
fn with_near_cache(builder: BridgeBuilder) -> BridgeBuilder {
    builder.set("near_cache.enabled", true).set("session.body_wait", "50ms")
}

/// Asks for the basket until the session is known without asking Redis.
async fn copied(bridge: &Bridge, id: &InstallId) {
    eventually("a copy", 10 * SECOND, async || {
        let before = count(bridge, "hits_total").await;
        bridge.ok(Call::get("/basket").of(id)).await;
        count(bridge, "hits_total").await > before
    })
    .await;
}

/// The sum over all replicas of what a metric without labels counts.
async fn sum(fleet: &Fleet, metric: &str) -> u64 {
    let mut sum = 0;
    for bridge in &fleet.bridges {
        sum += count(bridge, metric).await;
    }
    sum
}

async fn count(bridge: &Bridge, metric: &str) -> u64 {
    let text = bridge.metrics().await;
    let prefix = format!("session_bridge_near_cache_{metric} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
    value.expect("the metric").parse().expect("a number")
}

/// One installation that changes its session again and again, on one replica after the other, and after each change
/// looks at it on all of them; returns how many of these looks saw an old session.
async fn probe(fleet: &Fleet, id: &InstallId, probes: &AtomicUsize, wanted: usize) -> usize {
    let mut stale = 0;
    let mut step = fastrand::usize(..1000);
    while probes.load(Ordering::Relaxed) < wanted {
        // Each replica reads it once more, so that each has a copy.
        for bridge in &fleet.bridges {
            bridge.ok(Call::get("/basket").of(id)).await;
        }
        let change = if step % 10 == 0 { "/login?user=me" } else { "/rotate" };
        let now = fleet.turn(step).ok(Call::post(change).of(id)).await["session"].clone();
        for n in 0..fleet.bridges.len() {
            let seen = fleet.turn(step + n + 1).ok(Call::get("/basket").of(id)).await;
            stale += usize::from(seen["session"] != now);
            probes.fetch_add(1, Ordering::Relaxed);
        }
        if step % 7 == 0 {
            fleet.turn(step + 1).ok(Call::post("/logout").of(id)).await;
            let seen = fleet.turn(step).ok(Call::get("/basket").of(id)).await;
            stale += usize::from(seen["started"] != true);
            probes.fetch_add(1, Ordering::Relaxed);
        }
        step += 1;
    }
    stale
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_after_a_change_sees_the_session_from_before_it_on_any_of_three_replicas() {
    let fleet = fleet().await;
    let (probes, wanted) = (AtomicUsize::new(0), scaled(2000, 20_000));
    let ids: Vec<_> = (0..8).map(|_| InstallId::random()).collect();
    let stale: usize = join_all(ids.iter().map(|id| probe(&fleet, id, &probes, wanted)))
        .await
        .into_iter()
        .sum();
    let (hits, told) = (
        sum(&fleet, "hits_total").await,
        sum(&fleet, "invalidations_total").await,
    );
    eprintln!(
        "{stale} stale of {} probes; {hits} hits, {told} changes told",
        probes.load(Ordering::Relaxed)
    );
    assert_eq!(stale, 0);
    assert!(hits > 100 && told > 100, "{hits} hits, {told} changes told");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_after_a_change_is_stale_while_tracking_connections_are_killed() {
    let fleet = fleet().await;
    let kills = scaled(20, 100);
    let ids: Vec<_> = (0..8).map(|_| InstallId::random()).collect();
    let probes = AtomicUsize::new(0);
    let probing = join_all(ids.iter().map(|id| probe(&fleet, id, &probes, usize::MAX / 2)));
    let mut killed = 0;
    let killing = async {
        while killed < kills {
            let victims = fleet.redis.tracking_connections();
            let Some(victim) = victims.get(killed % 3) else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            fleet.redis.command(&["CLIENT", "KILL", "ID", &victim.to_string()]);
            killed += 1;
            let before = probes.load(Ordering::Relaxed);
            eventually("more probes", 60 * SECOND, async || {
                probes.load(Ordering::Relaxed) >= before + 10
            })
            .await;
        }
        // Ends the probing.
        probes.fetch_add(usize::MAX / 2, Ordering::Relaxed);
    };
    let (stale, ()) = tokio::join!(probing, killing);
    let stale: usize = stale.into_iter().sum();
    // A connection that is killed before it is armed has nothing to flush.
    let expected = kills as u64 * 9 / 10;
    eventually("the flushes", 10 * SECOND, async || {
        sum(&fleet, "flushes_total").await >= expected
    })
    .await;
    let flushes = sum(&fleet, "flushes_total").await;
    eprintln!(
        "{stale} stale of {} probes; {killed} connections killed, {flushes} flushes",
        probes.load(Ordering::Relaxed) - usize::MAX / 2
    );
    assert_eq!(stale, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_steady_state_redis_is_hardly_asked() {
    let fleet = fleet().await;
    let ids: Vec<_> = (0..50).map(|_| InstallId::random()).collect();
    for id in &ids {
        for bridge in &fleet.bridges {
            copied(bridge, id).await;
        }
    }
    let requests = scaled(6000, 60_000);
    let before = fleet.redis.all_calls();
    let next = AtomicUsize::new(0);
    let client = async || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= requests {
                return;
            }
            let id = &ids[n / 3 % ids.len()];
            fleet.turn(n).ok(Call::post("/basket/add").of(id)).await;
        }
    };
    join_all((0..16).map(|_| client())).await;
    let commands = (fleet.redis.all_calls() - before) as f64 / requests as f64;
    eprintln!("{commands:.4} commands a request");
    assert!(commands < 0.05, "{commands} commands a request");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_promise_no_copy_is_served_though_there_are_some() {
    let fleet = Fleet::configured(2, with_near_cache).await;
    let id = InstallId::random();
    let [one, other] = &fleet.bridges[..] else {
        panic!("two")
    };
    copied(one, &id).await;
    // From now on Redis promises nothing to new connections.
    fleet.redis.command(&["ACL", "SETUSER", "default", "-client|tracking"]);
    for connection in fleet.redis.tracking_connections() {
        fleet.redis.command(&["CLIENT", "KILL", "ID", &connection.to_string()]);
    }
    eventually("the promises to be broken", 10 * SECOND, async || {
        count(one, "armed").await == 0 && count(other, "armed").await == 0
    })
    .await;
    for _ in 0..20 {
        let now = other.ok(Call::post("/rotate").of(&id)).await["session"].clone();
        assert_eq!(one.ok(Call::get("/basket").of(&id)).await["session"], now);
    }
    eventually("a warning", 10 * SECOND, async || {
        one.logs().contains("CLIENT TRACKING")
    })
    .await;
}

/// What a node says of a key that is elsewhere is no refusal to tell of changes.
#[tokio::test(flavor = "multi_thread")]
async fn the_move_of_a_slot_is_not_told_as_a_want_of_promises() {
    let (cluster, shop) = (ClusterNodes::start().await, Shop::start().await);
    let builder = Bridge::before(&shop.url()).id_cookies(&["sid"]).store(&cluster.url());
    let bridge = with_near_cache(builder).start().await;
    let id = InstallId::random();
    let session = bridge.ok(Call::get("/basket").of(&id)).await["session"].clone();
    for round in 0..3 {
        copied(&bridge, &id).await;
        let records = cluster.nodes.iter().flat_map(RedisServer::keys);
        let mut records = records;
        let record = records.find(|key| key.ends_with('}')).expect("a record");
        let to = (cluster.master_of(&record) + 1) % 3;
        cluster.move_slot(cluster.slot(&record), to);
        let seen = bridge.ok(Call::get("/basket").of(&id)).await;
        assert_eq!(seen["session"], session, "round {round}");
    }
    assert!(!bridge.logs().contains("CLIENT TRACKING"), "{}", bridge.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_known_sessions_go_on_from_copies_that_are_young_enough() {
    let mut fleet = Fleet::configured(1, |builder| {
        with_near_cache(builder)
            .set("near_cache.max_age", "4s")
            .set("store.timeout", "250ms")
    })
    .await;
    let (id, ended, unknown) = (InstallId::random(), InstallId::random(), InstallId::random());
    let session = fleet.bridges[0].ok(Call::get("/basket").of(&id)).await["session"].clone();
    for id in [&id, &ended] {
        copied(&fleet.bridges[0], id).await;
    }
    let copied = Instant::now();
    fleet.redis.kill();
    let bridge = &fleet.bridges[0];
    for _ in 0..5 {
        assert_eq!(bridge.ok(Call::get("/basket").of(&id)).await["session"], session);
    }
    // It is not known whether there is a session; and a log-out is newer than any copy.
    assert_eq!(bridge.send(Call::get("/basket").of(&unknown)).await.status, 503);
    bridge.ok(Call::post("/logout").of(&ended)).await;
    let after = bridge.send(Call::get("/basket").of(&ended)).await;
    assert_eq!(after.status, 503, "{}", after.text());
    assert!(count(bridge, "outage_hits_total").await >= 5);

    eventually("the copy to be too old", 10 * SECOND, async || {
        bridge.send(Call::get("/basket").of(&id)).await.status == 503
    })
    .await;
    assert!(copied.elapsed() >= 3 * SECOND, "{:?}", copied.elapsed());
    // It comes back empty, and what it says counts again.
    fleet.redis.restart();
    let bridge = &fleet.bridges[0];
    let back = AtomicBool::new(false);
    eventually("a session", 20 * SECOND, async || {
        let answer = bridge.send(Call::get("/basket").of(&id)).await;
        back.store(
            answer.status == 200 && answer.json()["session"] != session,
            Ordering::Relaxed,
        );
        back.load(Ordering::Relaxed)
    })
    .await;
}
