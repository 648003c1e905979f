//! When things fail: the store, the backend, and both ways out of it (F1 to F5).

use std::time::Duration;

use tokio::time::Instant;

use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::client::{Answer, Call};
use crate::support::gate::Gate;
use crate::support::memcached::MemcachedServer;
use crate::support::raw::RawBackend;
use crate::support::redis::RedisServer;
use crate::support::shop::Shop;
use crate::support::sql::{Kind, SqlServer};
use crate::support::{InstallId, eventually, local, unused_port};

/// A shop, and a Redis that can be cut off from the bridges.
struct Scene {
    shop: Shop,
    gate: Gate,
    builder: BridgeBuilder,
    _redis: RedisServer,
}

/// `store.timeout` plus what a loaded machine may add.
const REFUSED_WITHIN: Duration = Duration::from_millis(250 + 500);

impl Scene {
    async fn new() -> Self {
        let (shop, redis) = (Shop::start().await, RedisServer::start());
        let gate = Gate::to(local(redis.port())).await;
        let builder = Bridge::before(&shop.url())
            .store(&format!("redis://127.0.0.1:{}/0", gate.port()))
            .id_cookies(&["sid"])
            .auth_paths(&["/login*", "/logout*"]);
        Self {
            shop,
            gate,
            builder,
            _redis: redis,
        }
    }
}

fn assert_store_unavailable(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (503, "store-unavailable"),
        "{}",
        answer.text()
    );
    let seconds: u32 = answer.header("retry-after").parse().expect("Retry-After in seconds");
    assert!(seconds > 0);
}

/// What operators are shown of an installation.
async fn record(bridge: &Bridge, id: &InstallId) -> Answer {
    bridge.ops(Call::get(&format!("/sessions/{}", id.as_str()))).await
}

/// While the store does what `break_it` does, known and unknown installations are refused in time; afterwards the
/// known one goes on within a second.
async fn an_outage_refuses_and_ends(break_it: impl Fn(&Gate)) {
    refuses_and_ends(&Scene::new().await, break_it).await;
}

/// The same over a store of another kind: a server at `port`, whose URL is what `url` makes of the port of the gate.
async fn an_outage_of(port: u16, url: impl Fn(u16) -> String, break_it: impl Fn(&Gate)) {
    let mut scene = Scene::new().await;
    scene.gate = Gate::to(local(port)).await;
    scene.builder = scene.builder.store(&url(scene.gate.port()));
    refuses_and_ends(&scene, break_it).await;
}

async fn refuses_and_ends(scene: &Scene, break_it: impl Fn(&Gate)) {
    let bridge = scene.builder.clone().start().await;
    let (known, unknown) = (InstallId::random(), InstallId::random());
    bridge.ok(Call::post("/basket/add").of(&known)).await;

    break_it(&scene.gate);
    let reached = scene.shop.count();
    for id in [&known, &unknown, &known] {
        let start = Instant::now();
        assert_store_unavailable(&bridge.send(Call::post("/basket/add").of(id)).await);
        assert!(start.elapsed() < REFUSED_WITHIN, "refused after {:?}", start.elapsed());
    }
    assert_eq!(scene.shop.count(), reached, "nothing reached the backend");
    eventually("readiness to fail", Duration::from_secs(5), async || {
        bridge.ready().await == Some(503)
    })
    .await;
    assert_eq!(
        bridge.ops(Call::get("/livez")).await.status,
        200,
        "the process itself is well"
    );

    scene.gate.open();
    let mut shown = None;
    eventually(
        "the known installation to be served",
        Duration::from_secs(1),
        async || {
            let answer = bridge.send(Call::post("/basket").of(&known)).await;
            if answer.status == 200 {
                shown = Some(answer.json());
            } else {
                assert_store_unavailable(&answer);
            }
            shown.is_some()
        },
    )
    .await;
    let shown = shown.expect("it was served");
    assert_eq!(
        (&shown["basket"], &shown["started"]),
        (&1.into(), &false.into()),
        "it has its old session"
    );
    assert_eq!(
        scene.shop.sessions_started(),
        1,
        "an outage was never read as \"no session\""
    );
    assert_eq!(bridge.ok(Call::post("/basket/add").of(&unknown)).await["started"], true);
    eventually("readiness to return", Duration::from_secs(5), async || {
        bridge.ready().await == Some(200)
    })
    .await;
    eventually(
        "a line of the log for each change of readiness",
        Duration::from_secs(5),
        async || {
            let logs = bridge.logs();
            let told = |what: &str| logs.matches(what).count();
            (told("this replica is ready"), told("this replica is not ready")) == (2, 1)
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_store_refuses_in_time_and_its_return_needs_no_restart() {
    an_outage_refuses_and_ends(Gate::cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_store_refuses_in_time_and_its_return_needs_no_restart() {
    an_outage_refuses_and_ends(Gate::stall).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_or_hanging_database_refuses_in_time_and_its_return_needs_no_restart() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let server = SqlServer::start(kind);
        let url = |port| server.url_at("bridge:p%40ss%2Fword", port);
        an_outage_of(server.port(), url, Gate::cut).await;
        an_outage_of(server.port(), url, Gate::stall).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_or_hanging_memcached_refuses_in_time_and_its_return_needs_no_restart() {
    let server = MemcachedServer::start();
    let url = |port| format!("memcached://127.0.0.1:{port}");
    an_outage_of(server.port(), url, Gate::cut).await;
    an_outage_of(server.port(), url, Gate::stall).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_starts_without_its_store_serves_once_it_is_there() {
    let scene = Scene::new().await;
    scene.gate.cut();
    let bridge = scene.builder.clone().start_unready().await;
    assert_eq!(bridge.ready().await, Some(503));
    eventually("a line about it in the log", Duration::from_secs(5), async || {
        let logs = bridge.logs();
        let mut lines = logs.lines();
        lines.any(|line| line.contains("the store does not answer") && line.contains("\"reason\":\"the store "))
    })
    .await;
    assert_store_unavailable(&bridge.send(Call::post("/basket").of(&InstallId::random())).await);
    scene.gate.open();
    eventually("readiness", Duration::from_secs(5), async || {
        bridge.ready().await == Some(200)
    })
    .await;
    eventually(
        "a line about its return in the log",
        Duration::from_secs(5),
        async || bridge.logs().contains("the store answers"),
    )
    .await;
    let metrics = bridge.metrics().await;
    for result in ["unavailable", "ok"] {
        let sample = format!("session_bridge_store_operations_total{{op=\"ping\",result=\"{result}\"}}");
        assert!(metrics.contains(&sample), "{sample} is not in:\n{metrics}");
    }
    bridge.ok(Call::post("/basket").of(&InstallId::random())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_store_a_stateless_bridge_forwards_without_cookies() {
    let scene = Scene::new().await;
    let bridge = scene
        .builder
        .clone()
        .set("session.on_store_error", "stateless")
        .start()
        .await;
    let id = InstallId::random();
    bridge.ok(Call::post("/basket/add").of(&id)).await;
    scene.gate.cut();
    for _ in 0..2 {
        let answer = bridge
            .send(Call::post("/basket/add").of(&id).header("cookie", "sid=evil"))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(
            answer.json()["cookies"],
            "",
            "no cookie goes out, neither the client's nor the session's"
        );
        assert!(!answer.headers.contains_key("set-cookie"), "and none comes in");
    }
    scene.gate.open();
    eventually("the session to be found again", Duration::from_secs(5), async || {
        let answer = bridge.send(Call::post("/basket").of(&id)).await;
        answer.status == 200 && answer.json()["basket"] == 1
    })
    .await;
}

/// A request of a stateless bridge while `obstacle` stands between it and its session: it is forwarded without one, in
/// time, and nothing of the answer is kept.
async fn forwarded_without_a_session(bridge: &Bridge, id: &InstallId, obstacle: &str) {
    let start = Instant::now();
    let answer = bridge.send(Call::post("/basket/add").of(id)).await;
    assert_eq!(answer.status, 200, "{obstacle}: {}", answer.text());
    assert_eq!(answer.json()["cookies"], "", "{obstacle}");
    assert!(!answer.headers.contains_key("set-cookie"), "{obstacle}");
    // Three deadlines at most, and what a loaded machine may add.
    let took = start.elapsed();
    assert!(took < Duration::from_millis(3 * 250 + 500), "{obstacle}: {took:?}");
}

/// The names of all records.
fn records(redis: &RedisServer) -> Vec<String> {
    let mut keys = redis.keys();
    keys.retain(|name| name.ends_with('}'));
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_call_to_the_store_fails_a_stateless_bridge_forwards_without_a_session_and_keeps_nothing() {
    let scene = Scene::new().await;
    let redis = &scene._redis;
    let bridge = scene
        .builder
        .clone()
        .set("session.on_store_error", "stateless")
        .start()
        .await;
    let direct = scene.builder.clone().store(&redis.url()).start().await;
    let known = InstallId::random();
    direct.ok(Call::post("/basket/add").of(&known)).await;
    let kept = records(redis);

    // The lease cannot be taken: Redis refuses all writes.
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    forwarded_without_a_session(&bridge, &InstallId::random(), "no lease").await;
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);

    // It is not known whether the lease was taken: Redis answers no write.
    redis.command(&["CLIENT", "PAUSE", "2000", "WRITE"]);
    forwarded_without_a_session(&bridge, &InstallId::random(), "no answer").await;
    redis.command(&["CLIENT", "UNPAUSE"]);

    // The record cannot be read.
    let (name, good) = (&kept[0], redis.command(&["GET", &kept[0]]));
    redis.command(&["SET", name, "xx", "KEEPTTL"]);
    forwarded_without_a_session(&bridge, &known, "unreadable").await;
    assert_eq!(redis.text(&["GET", name]), "xx", "it is left alone");
    let redis::Value::BulkString(good) = good else {
        panic!("{good:?}")
    };
    redis.raw(&[b"SET", name.as_bytes(), &good, b"KEEPTTL"]);

    eventually("nothing to be left behind", Duration::from_secs(10), async || {
        records(redis) == kept
    })
    .await;

    // The look while another request starts the session.
    let id = InstallId::random();
    let leading = direct.send(Call::post("/basket/add?leader=1&after=2000").of(&id));
    let waiting = async {
        scene.shop.wait_for("leader").await;
        let waits = bridge.send(Call::post("/basket/add").of(&id));
        let cutting = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            scene.gate.stall();
            Instant::now()
        };
        let (answer, cut) = tokio::join!(waits, cutting);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["cookies"], "");
        assert!(!answer.headers.contains_key("set-cookie"));
        assert!(cut.elapsed() < Duration::from_millis(250 + 500), "{:?}", cut.elapsed());
    };
    let (led, ()) = tokio::join!(leading, waiting);
    assert_eq!(led.status, 200);
    let shown = direct.ok(Call::post("/basket").of(&id)).await;
    assert_eq!(
        shown["basket"], 1,
        "the leader's session is kept, and only that: {shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_could_not_be_stored_is_delivered_served_and_stored_later() {
    let scene = Scene::new().await;
    let bridge = scene.builder.clone().start().await;
    let other = scene.builder.clone().start().await;
    let id = InstallId::random();
    bridge.ok(Call::post("/basket/add").of(&id)).await;

    let before = record(&other, &id).await.text();
    let rotating = bridge.send(Call::post("/rotate?after=500").of(&id));
    let cutting = async {
        scene.shop.wait_for("/rotate").await;
        scene.gate.cut();
    };
    let (rotated, ()) = tokio::join!(rotating, cutting);
    assert_eq!(
        rotated.status,
        200,
        "the backend's response is delivered: {}",
        rotated.text()
    );
    let rotated = rotated.json();

    let meanwhile = bridge.ok(Call::post("/basket").of(&id)).await;
    assert_eq!(
        meanwhile["session"], rotated["session"],
        "this replica serves the change"
    );
    assert_store_unavailable(&other.send(Call::post("/basket").of(&id)).await);

    scene.gate.open();
    // The shop would answer the dead ID with a fresh session: the other replica is used only once the change is there.
    eventually("the change to be stored", Duration::from_secs(10), async || {
        let now = record(&other, &id).await;
        now.status == 200 && now.text() != before
    })
    .await;
    let shown = other.ok(Call::post("/basket").of(&id)).await;
    assert_eq!(
        (&shown["session"], &shown["started"]),
        (&rotated["session"], &false.into()),
        "stored in the end"
    );
    assert_eq!(scene.shop.sessions_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_session_that_could_not_be_stored_is_served_and_stored_later() {
    let scene = Scene::new().await;
    let bridge = scene.builder.clone().start().await;
    let id = InstallId::random();
    let starting = bridge.send(Call::post("/basket/add?after=500").of(&id));
    let cutting = async {
        scene.shop.wait_for("after=500").await;
        scene.gate.cut();
    };
    let (started, ()) = tokio::join!(starting, cutting);
    assert_eq!(
        started.status,
        200,
        "the backend's response is delivered: {}",
        started.text()
    );
    let meanwhile = bridge.ok(Call::post("/basket").of(&id)).await;
    assert_eq!(meanwhile["basket"], 1, "this replica serves the session: {meanwhile}");
    scene.gate.open();
    let other = scene.builder.clone().start().await;
    let found = async || record(&other, &id).await.status == 200;
    eventually("the session to be stored", Duration::from_secs(10), found).await;
    assert_eq!(other.ok(Call::post("/basket").of(&id)).await["basket"], 1);
    assert_eq!(scene.shop.sessions_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_short_outage_no_other_replica_starts_a_second_session() {
    let scene = Scene::new().await;
    let (here, there) = (scene.builder.clone().start().await, scene.builder.clone().start().await);
    for _ in 0..3 {
        let id = InstallId::random();
        let before = scene.shop.sessions_started();
        let starting = here.send(Call::post(&format!("/basket/add?after=300&tag={}", id.as_str())).of(&id));
        let stalling = async {
            scene.shop.wait_for_tag(id.as_str()).await;
            scene.gate.stall();
        };
        let (started, ()) = tokio::join!(starting, stalling);
        assert_eq!(started.status, 200, "{}", started.text());
        scene.gate.open();
        let mut shown = None;
        eventually("the other replica to serve", Duration::from_secs(10), async || {
            let answer = there.send(Call::post("/basket").of(&id)).await;
            if answer.status == 200 {
                shown = Some(answer.json());
            }
            shown.is_some()
        })
        .await;
        assert_eq!(shown.expect("it was served")["basket"], 1, "in the one session");
        assert_eq!(scene.shop.sessions_started(), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_refuses_connections_is_a_502() {
    let bridge = Bridge::before(&format!("http://127.0.0.1:{}", unused_port()))
        .start_unready()
        .await;
    let answer = bridge.send(Call::post("/basket").of(&InstallId::random())).await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (502, "upstream-unreachable")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_too_slow_is_a_504_and_is_asked_once() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url())
        .set("upstream.response_timeout", "300ms")
        .start()
        .await;
    let start = Instant::now();
    let answer = bridge
        .send(Call::post("/none?before=5000").of(&InstallId::random()))
        .await;
    assert_eq!((answer.status, answer.problem().as_str()), (504, "upstream-timeout"));
    assert!(
        start.elapsed() < Duration::from_millis(300 + 700),
        "answered after {:?}",
        start.elapsed()
    );
    assert_eq!(shop.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_give_the_backend_more_time() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url()).set("upstream.response_timeout", "300ms");
    let bridge = bridge.route("path = \"/none\"\ntimeout = \"5s\"").start().await;
    bridge.ok(Call::post("/none?before=800").of(&InstallId::random())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_does_not_speak_http_is_a_502_that_repeats_nothing_of_it() {
    let backend = RawBackend::answering("secret internals of the shop\r\n\r\n").await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let answer = bridge.send(Call::post("/basket").of(&InstallId::random())).await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (502, "upstream-bad-response")
    );
    assert!(
        !answer.text().contains("internals") && !answer.text().contains("127.0.0.1"),
        "{}",
        answer.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_backend_read_is_never_sent_again() {
    let backend = RawBackend::scripted(|_, stream| async move { drop(stream) }).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    for method in [Call::post("/order"), Call::get("/order")] {
        let sent = backend.seen().len();
        let answer = bridge.send(method.of(&InstallId::random())).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (502, "upstream-bad-response")
        );
        assert_eq!(backend.seen().len(), sent + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_backend_lost_is_replaced_by_its_own_answer() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url()).id_cookies(&["sid"]).start().await;
    let id = InstallId::random();
    let first = bridge.ok(Call::post("/basket/add").of(&id)).await;
    shop.forget_all();
    let fresh = bridge.ok(Call::post("/basket/add").of(&id)).await;
    assert_ne!(fresh["session"], first["session"]);
    let shown = bridge.ok(Call::post("/basket").of(&id)).await;
    assert_eq!((&shown["session"], &shown["basket"]), (&fresh["session"], &1.into()));
}
