//! SIGTERM: readiness fails at once, what is under way is finished, and a rolling restart fails no request (F6).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::RwLock;
use tokio::time::Instant;

use crate::support::bridge::Bridge;
use crate::support::client::{Call, Client};
use crate::support::fleet::Fleet;
use crate::support::raw::RawStream;
use crate::support::shop::Shop;
use crate::support::{InstallId, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_fails_readiness_at_once_and_finishes_what_is_under_way() {
    let shop = Shop::start().await;
    let mut bridge = Bridge::before(&shop.url())
        .set("server.drain_delay", "2s")
        .start()
        .await;
    let address = bridge.traffic;
    let slow = tokio::spawn(async move {
        Client::new(address)
            .send(Call::post("/basket/add?after=3000").of(&InstallId::random()))
            .await
    });
    shop.wait_for("after=3000").await;

    let told = Instant::now();
    bridge.signal("TERM");
    eventually("readiness to fail", Duration::from_millis(500), async || {
        bridge.ready().await == Some(503)
    })
    .await;
    assert_eq!(
        bridge.send(Call::get("/healthz")).await.status,
        503,
        "on the traffic listener too"
    );
    assert_eq!(bridge.ops(Call::get("/livez")).await.status, 200);
    // The load balancer has not noticed yet: new connections are still served.
    let late = Client::new(address)
        .send(Call::post("/basket").of(&InstallId::random()))
        .await;
    assert_eq!(late.expect("served during drain_delay").status, 200);
    assert!(told.elapsed() < Duration::from_secs(2), "all this within drain_delay");

    let status = bridge.exit(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0));
    let answer = slow
        .await
        .expect("no panic")
        .expect("the request under way is answered");
    assert_eq!((answer.status, &answer.json()["basket"]), (200, &1.into()));
    assert!(
        told.elapsed() >= Duration::from_millis(2900),
        "it waited for the request under way"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_hold_the_exit() {
    let shop = Shop::start().await;
    let mut bridge = Bridge::before(&shop.url()).start().await;
    let _silent = RawStream::connect(bridge.traffic).await;
    let mut idle = RawStream::connect(bridge.traffic).await;
    let id = InstallId::random();
    let request = format!(
        "GET /none HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Install-Id: {}\r\n\r\n",
        id.as_str()
    );
    assert_eq!(idle.exchange(request).await.0.status(), 200);
    let told = Instant::now();
    assert_eq!(bridge.terminate().await.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(5), "it took {:?}", told.elapsed());
    assert!(idle.head().await.is_none(), "the idle connection was closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_finished_by_drain_timeout_is_cut() {
    let shop = Shop::start().await;
    let mut bridge = Bridge::before(&shop.url())
        .set("server.drain_timeout", "1s")
        .start()
        .await;
    let mut endless = RawStream::connect(bridge.traffic).await;
    let id = InstallId::random();
    endless
        .write(format!(
            "GET /endless HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Install-Id: {}\r\n\r\n",
            id.as_str()
        ))
        .await;
    assert_eq!(endless.head().await.expect("a response").status(), 200);
    let told = Instant::now();
    assert_eq!(bridge.terminate().await.code(), Some(1), "work had to be dropped");
    let took = told.elapsed();
    let logs = bridge.logs();
    let forced = logs.lines().find(|line| line.contains("shutting down by force"));
    assert!(forced.is_some_and(|line| line.contains("\"connections\":1,")), "{logs}");
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(4)).contains(&took),
        "it took {took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_the_draining() {
    let shop = Shop::start().await;
    let mut bridge = Bridge::before(&shop.url())
        .set("server.drain_delay", "20s")
        .start()
        .await;
    bridge.signal("TERM");
    eventually("readiness to fail", Duration::from_secs(1), async || {
        bridge.ready().await == Some(503)
    })
    .await;
    let told = Instant::now();
    bridge.signal("TERM");
    bridge.exit(Duration::from_secs(5)).await;
    assert!(told.elapsed() < Duration::from_secs(3), "it took {:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_in_sqlite_survives_a_restart_and_a_crash() {
    let (shop, dir) = (Shop::start().await, tempfile::tempdir().expect("a temporary directory"));
    let url = format!("sqlite://{}", dir.path().join("sessions.db").display());
    let builder = Bridge::before(&shop.url()).store(&url).id_cookies(&["sid"]);
    let id = InstallId::random();
    let mut bridge = builder.clone().start().await;
    assert_eq!(bridge.ok(Call::post("/basket/add").of(&id)).await["basket"], 1);
    assert_eq!(bridge.terminate().await.code(), Some(0));
    let mut bridge = builder.clone().start().await;
    assert_eq!(
        bridge.ok(Call::post("/basket/add").of(&id)).await["basket"],
        2,
        "after a restart"
    );
    bridge.kill();
    let bridge = builder.start().await;
    assert_eq!(
        bridge.ok(Call::post("/basket/add").of(&id)).await["basket"],
        3,
        "after a crash"
    );
    assert_eq!(shop.sessions_started(), 1);
}

/// What a load balancer knows of a replica.
struct Member {
    bridge: Bridge,
    /// Whether its health check passed the last time.
    in_rotation: AtomicBool,
}

type Members = Arc<RwLock<Vec<Arc<Member>>>>;

/// Checks the health of all members, as a load balancer does, until it is aborted.
async fn check_health(members: Members) {
    loop {
        for member in members.read().await.iter() {
            member
                .in_rotation
                .store(member.bridge.ready().await == Some(200), Ordering::SeqCst);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_fails_no_request() {
    let mut fleet = Fleet::configured(3, |builder| builder.set("server.drain_delay", "1s")).await;
    let member = |bridge| {
        Arc::new(Member {
            bridge,
            in_rotation: AtomicBool::new(true),
        })
    };
    let members: Members = Arc::new(RwLock::new(fleet.bridges.drain(..).map(member).collect()));
    let checking = tokio::spawn(check_health(Arc::clone(&members)));
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));

    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (members, stop, served) = (Arc::clone(&members), Arc::clone(&stop), Arc::clone(&served));
            tokio::spawn(async move {
                let id = InstallId::random();
                let mut basket = 0;
                while !stop.load(Ordering::SeqCst) {
                    let in_rotation: Vec<_> = {
                        let members = members.read().await;
                        members
                            .iter()
                            .filter(|m| m.in_rotation.load(Ordering::SeqCst))
                            .map(Arc::clone)
                            .collect()
                    };
                    let member = &in_rotation[(number + basket) % in_rotation.len()];
                    let shown = member.bridge.ok(Call::post("/basket/add?after=5").of(&id)).await;
                    basket += 1;
                    assert_eq!(
                        shown["basket"], basket,
                        "no request failed, and none was in another session"
                    );
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();

    for _ in 0..3 {
        let before = served.load(Ordering::SeqCst);
        eventually("load", Duration::from_secs(10), async || {
            served.load(Ordering::SeqCst) > before + 50
        })
        .await;
        let fresh = member(fleet.builder.clone().start().await);
        let old = {
            let mut members = members.write().await;
            members.push(fresh);
            Arc::clone(&members[0])
        };
        old.bridge.signal("TERM");
        let removed = async || !old.in_rotation.load(Ordering::SeqCst);
        eventually("the load balancer to notice", Duration::from_millis(900), removed).await;
        members.write().await.remove(0);
        eventually("the last request to let go", Duration::from_secs(5), async || {
            Arc::strong_count(&old) == 1
        })
        .await;
        let Ok(mut old) = Arc::try_unwrap(old).map(|member| member.bridge) else {
            panic!("it is ours alone")
        };
        assert_eq!(old.exit(Duration::from_secs(10)).await.code(), Some(0));
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no failed request");
    }
    checking.abort();
    assert_eq!(fleet.shop.sessions_started(), 8);
}
