//! Sessions that move from one store to another: copied while the bridge is down, or handed over under load.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::config_cli::{Run, run};
use crate::rolling::Load;
use crate::support::balancer::Balancer;
use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::client::Call;
use crate::support::memcached::MemcachedServer;
use crate::support::redis::RedisServer;
use crate::support::shop::Shop;
use crate::support::sql::{Kind, SqlServer};
use crate::support::{InstallId, eventually, fleet};

const REPLICAS: usize = 3;

/// Replicas behind a balancer, and clients that see whether a request fails or a session is lost.
struct Under {
    shop: Shop,
    bridges: Vec<Bridge>,
    balancer: Balancer,
    load: Load,
}

impl Under {
    async fn load(shop: Shop, builder: &BridgeBuilder) -> Self {
        let bridges = fleet::start(REPLICAS, builder).await;
        let addresses: Vec<_> = bridges.iter().map(|bridge| bridge.traffic).collect();
        let balancer = Balancer::before(&addresses, "/healthz").await;
        let world = Self {
            shop,
            bridges,
            balancer,
            load: Load::default(),
        };
        for slot in 0..REPLICAS {
            world.well(slot).await;
        }
        world
    }

    async fn well(&self, slot: usize) {
        eventually("a replica that is well", Duration::from_secs(20), async || {
            self.balancer.is_healthy(slot)
        })
        .await;
    }

    /// Restarts one replica after the other with another configuration.
    async fn roll(&mut self, builder: &BridgeBuilder) {
        for slot in 0..REPLICAS {
            let before = self.load.served();
            eventually("load", Duration::from_secs(20), async || {
                self.load.served() > before + 50
            })
            .await;
            let status = self.bridges[slot].terminate().await;
            assert_eq!(status.code(), Some(0), "{}", self.bridges[slot].logs());
            self.bridges[slot] = builder.clone().start().await;
            self.balancer.replace(slot, self.bridges[slot].traffic);
            self.well(slot).await;
            self.fine();
        }
    }

    fn fine(&self) {
        assert_eq!((self.load.failures(), self.balancer.failures()), (vec![], vec![]));
    }
}

async fn copy(from: &str, to: &str, more: &[&str]) -> Run {
    let arguments = [&["sessions", "copy", "--from", from, "--to", to], more].concat();
    run(&arguments, Some("store.timeout = \"5s\"\n"), &[]).await
}

/// By the steps of the documentation, while clients go on.
async fn hand_over(from: &str, to: &str) {
    let shop = Shop::start().await;
    let before = fleet::builder(&shop, from).set("server.drain_delay", "1s");
    let between = before.clone().set("store.moving_to", to);
    let after = before.clone().store(to);
    let mut world = Under::load(shop, &before).await;
    let mut clients = Vec::new();
    for number in 0..8 {
        let pause = Duration::from_millis(10 + 5 * number);
        clients.push(world.load.client(world.balancer.address(), "", pause, usize::MAX));
    }
    // New installations all the while.
    for _ in 0..4 {
        let pause = Duration::from_millis(20);
        clients.push(world.load.client(world.balancer.address(), "?after=10", pause, 6));
    }
    world.roll(&between).await;
    let moved = copy(from, to, &["--hand-over"]).await;
    assert_eq!(moved.code, 0, "{}{}", moved.stdout, moved.stderr);
    assert!(
        moved.stdout.contains("all sessions are in the new store"),
        "{}",
        moved.stdout
    );
    world.fine();
    let again = copy(from, to, &["--hand-over"]).await;
    assert!(
        again.stdout.contains("\n0 sessions copied"),
        "nothing is left: {}",
        again.stdout
    );
    world.roll(&after).await;
    world.load.stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no panic");
    }
    world.fine();
    let installations = world.load.installations.load(Ordering::SeqCst);
    assert_eq!(world.shop.sessions_started(), installations, "one session each");
    eprintln!(
        "{} requests of {installations} installations, none failed",
        world.load.served()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_handed_over_from_redis_to_postgres_under_load_and_none_is_lost() {
    let (from, to) = (RedisServer::start(), SqlServer::start(Kind::Postgres));
    hand_over(&from.url(), &to.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_handed_over_from_memcached_to_mariadb_under_load_and_none_is_lost() {
    let (from, to) = (
        [(); 2].map(|()| MemcachedServer::start()),
        SqlServer::start(Kind::MariaDb),
    );
    hand_over(&MemcachedServer::url_of(&from), &to.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_copied_between_stores_of_every_kind_with_their_expiry() {
    let directory = tempfile::tempdir().expect("a directory");
    let sqlite = format!("sqlite://{}", directory.path().join("x.db").display());
    let (redis, memcached) = (RedisServer::start(), MemcachedServer::start());
    let (postgres, mariadb) = (SqlServer::start(Kind::Postgres), SqlServer::start(Kind::MariaDb));
    let stores = [
        &sqlite,
        &redis.url(),
        &memcached.url(),
        &postgres.url(),
        &mariadb.url(),
        &sqlite,
    ];
    let shop = Shop::start().await;
    let ids: Vec<_> = (0..30).map(|_| InstallId::random()).collect();
    let mut bridge = fleet::builder(&shop, stores[0]).start().await;
    for id in &ids {
        bridge.ok(Call::post("/basket/add").of(id)).await;
    }
    let expiry = async |bridge: &Bridge| {
        let answer = bridge.ops(Call::get(&format!("/sessions/{}", ids[7].as_str()))).await;
        // 2026-12-02T10:00:00.123Z
        let json = answer.json();
        let text = json["expires_at"].as_str().expect("a time");
        let number = |from: usize, to: usize| text[from..to].parse::<u64>().expect("a number");
        ((number(11, 13) * 60 + number(14, 16)) * 60 + number(17, 19)) * 1000 + number(20, 23)
    };
    let expires_at = expiry(&bridge).await;
    assert_eq!(bridge.terminate().await.code(), Some(0));
    for (round, pair) in stores.windows(2).enumerate() {
        if round == 4 {
            // Back into the first one, which holds them already.
            let again = copy(pair[0], pair[1], &[]).await;
            assert_eq!(again.code, 0, "{}{}", again.stdout, again.stderr);
            assert!(
                again.stdout.contains("\n0 sessions copied\n30 were there already"),
                "{}",
                again.stdout
            );
            break;
        }
        let copied = copy(pair[0], pair[1], &[]).await;
        assert_eq!(copied.code, 0, "{}{}", copied.stdout, copied.stderr);
        assert!(copied.stdout.contains("\n30 sessions copied"), "{}", copied.stdout);
        assert!(copied.stderr.contains("100 %  30 of 30 sessions"), "{}", copied.stderr);
        let said = format!("{}{}", copied.stdout, copied.stderr);
        assert!(!said.contains("p%40ss") && !said.contains("p@ss"), "{said}");
        let mut bridge = fleet::builder(&shop, pair[1]).start().await;
        for id in &ids {
            let answer = bridge.ok(Call::get("/basket").of(id)).await;
            assert_eq!(answer["basket"], 1);
        }
        let moved = expiry(&bridge).await.abs_diff(expires_at);
        let moved = moved.min(86_400_000 - moved);
        assert!(moved < 2000, "by {moved} ms: {} → {}", pair[0], pair[1]);
        assert_eq!(bridge.terminate().await.code(), Some(0));
    }
    assert_eq!(shop.sessions_started(), 30, "nobody had to start anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_newer_in_the_target_is_left_alone_and_what_is_older_is_not() {
    let (old, new) = (RedisServer::start(), SqlServer::start(Kind::Postgres));
    let shop = Shop::start().await;
    let bridges = [
        fleet::builder(&shop, &old.url()).start().await,
        fleet::builder(&shop, &new.url()).start().await,
    ];
    let (changed_there, changed_here) = (InstallId::random(), InstallId::random());
    for id in [&changed_there, &changed_here] {
        bridges[0].ok(Call::post("/basket/add").of(id)).await;
    }
    assert!(
        copy(&old.url(), &new.url(), &[])
            .await
            .stdout
            .contains("\n2 sessions copied")
    );
    let with = |id: &InstallId, value: &str| {
        Call::post("/cookies")
            .of(id)
            .header("x-set-cookie", &format!("mark={value}; path=/"))
    };
    bridges[0].ok(with(&changed_there, "old")).await;
    bridges[1].ok(with(&changed_there, "newer")).await;
    bridges[0].ok(with(&changed_here, "newest")).await;
    let copied = copy(&old.url(), &new.url(), &[]).await;
    assert!(
        copied
            .stdout
            .contains("\n1 sessions copied\n1 left alone: the target holds a newer one"),
        "{}",
        copied.stdout
    );
    for (id, expected) in [(&changed_there, "mark=newer"), (&changed_here, "mark=newest")] {
        let answer = bridges[1].ok(Call::post("/basket/add").of(id)).await;
        let cookies = answer["cookies"].as_str().expect("cookies");
        assert!(cookies.contains(expected), "{cookies}");
    }
    let refused = copy(&old.url(), &new.url(), &["--hand-over"]).await;
    assert_eq!(refused.code, 1, "{}", refused.stdout);
    assert!(refused.stderr.contains("holds sessions already"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_cannot_be_says_why() {
    let redis = RedisServer::start();
    let url = redis.url();
    for (from, to, code, said) in [
        ("memory:", url.as_str(), 2, "in memory"),
        (&url, &url, 2, "the same store"),
        (&url, "redi://h", 2, "did you mean `redis:`?"),
        (&url, "postgres://u:hunter2@127.0.0.1:1/d", 1, "--to: "),
        ("redis://:hunter2@127.0.0.1:1", &url, 1, "--from: "),
    ] {
        let begun = Instant::now();
        let outcome = copy(from, to, &[]).await;
        assert_eq!(outcome.code, code, "{}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stderr.contains(said), "{said}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
