//! What clients get when Redis fails in one way or another. Each test is a row of the table in `docs/operating.md`, and
//! what the row says is what the test expects.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::client::{Answer, Call};
use crate::support::gate::{Gate, Way};
use crate::support::redis::RedisServer;
use crate::support::shop::Shop;
use crate::support::{InstallId, eventually, local, unused_port};

/// What a busy machine may add to every time.
const SLACK: Duration = Duration::from_millis(500);

/// What a row of the table says.
struct Row {
    /// The statuses that a known installation may get.
    known: Vec<u16>,
    /// … and an unknown one.
    unknown: Vec<u16>,
    /// What becomes of a change that the backend makes meanwhile.
    change: Fate,
    /// How long an answer takes at most.
    answered: Duration,
    /// How long after the end of the failure everybody is served again.
    served_again: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is stored before the client has its answer.
    Stored,
    /// The client has its answer, this replica serves it, and it is stored afterwards.
    Kept,
    /// The record is not there any more that it would change.
    Lost,
}

impl Row {
    /// The row that names this test.
    fn of(test: &str) -> Self {
        let text = include_str!("../../docs/operating.md");
        let ending = format!("| `{test}` |");
        let line = text.lines().find(|line| line.ends_with(&ending));
        let line = line.unwrap_or_else(|| panic!("docs/operating.md has no row for {test}"));
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, known, unknown, change, answered, served_again, _] = cells[..] else {
            panic!("another number of columns: {line}");
        };
        Self {
            known: statuses(known),
            unknown: statuses(unknown),
            change: match change {
                "stored" => Fate::Stored,
                "kept" => Fate::Kept,
                "lost" => Fate::Lost,
                other => panic!("{other:?} is not what becomes of a change"),
            },
            answered: duration(answered),
            served_again: duration(served_again),
        }
    }
}

/// `200`, `503`, `200 or 503`.
fn statuses(cell: &str) -> Vec<u16> {
    let words = cell.split(" or ");
    words.map(|word| word.parse().expect("a status")).collect()
}

/// `250 ms`, `1 s`.
fn duration(cell: &str) -> Duration {
    match cell.split_once(' ') {
        Some((number, "ms")) => Duration::from_millis(number.parse().expect("a number")),
        Some((number, "s")) => Duration::from_secs(number.parse().expect("a number")),
        _ => panic!("{cell:?} is no time"),
    }
}

/// Two replicas over a Redis that can fail in itself or by what lies between.
struct Scene {
    row: Row,
    shop: Shop,
    redis: RedisServer,
    gate: Gate,
    here: Bridge,
    there: Bridge,
    /// An installation that does nothing during the failure but ask.
    known: InstallId,
    /// One whose session the backend changes during the failure.
    changing: InstallId,
}

impl Scene {
    async fn new(test: &str, arguments: &[&str]) -> Self {
        let (shop, redis) = (Shop::start().await, RedisServer::start_with(arguments));
        let gate = Gate::to(local(redis.port())).await;
        let builder: BridgeBuilder = Bridge::before(&shop.url())
            .store(&format!("redis://127.0.0.1:{}/0", gate.port()))
            .set("session.body_wait", "50ms")
            .id_cookies(&["sid"])
            .auth_paths(&["/login*", "/logout*"]);
        let (here, there) = (builder.clone().start().await, builder.start().await);
        let (known, changing) = (InstallId::random(), InstallId::random());
        for id in [&known, &changing] {
            here.ok(Call::post("/basket/add").of(id)).await;
            assert_eq!(there.ok(Call::post("/basket").of(id)).await["basket"], 1);
        }
        // A session that is still being started is looked at more closely.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Self {
            row: Row::of(test),
            shop,
            redis,
            gate,
            here,
            there,
            known,
            changing,
        }
    }

    /// Makes Redis fail by `fail`, looks at what everybody gets, ends it by `mend`, and looks again.
    async fn play(mut self, fail: impl AsyncFnOnce(&mut Self), mend: impl AsyncFnOnce(&mut Self)) {
        let rotating = tokio::spawn({
            let client = crate::support::client::Client::new(self.here.traffic);
            let call = Call::post("/rotate?after=600&tag=change").of(&self.changing);
            async move { client.send(call).await.expect("an answer") }
        });
        self.shop.wait_for_tag("change").await;
        fail(&mut self).await;

        for _ in 0..3 {
            self.look().await;
        }
        let rotated = rotating.await.expect("no panic");
        assert_eq!(
            rotated.status,
            200,
            "the backend's answer is delivered: {}",
            rotated.text()
        );
        let rotated = rotated.json()["session"].clone();
        match self.row.change {
            Fate::Kept => {
                // This replica serves the change, whether Redis can be read or not.
                for _ in 0..3 {
                    let shown = self.here.ok(Call::post("/basket").of(&self.changing)).await;
                    assert_eq!(shown["session"], rotated);
                }
            }
            Fate::Stored => assert_eq!(self.session_there(&self.changing).await, Some(rotated.clone())),
            Fate::Lost => {}
        }
        self.look().await;

        mend(&mut self).await;
        let mended = Instant::now();
        let lost = self.row.change == Fate::Lost;
        for bridge in [&self.here, &self.there] {
            let shown = served(bridge, &self.known, mended + self.row.served_again + SLACK).await;
            assert_eq!(shown["basket"], if lost { 0 } else { 1 }, "the session it had: {shown}");
        }
        let unknown = InstallId::random();
        let shown = served(&self.there, &unknown, mended + self.row.served_again + SLACK).await;
        assert_eq!(shown["started"], true);
        eprintln!("served again after {:?}", mended.elapsed());
        if !lost {
            eventually("the change to be stored", Duration::from_secs(5), async || {
                self.session_there(&self.changing).await.as_ref() == Some(&rotated)
            })
            .await;
        }
    }

    /// What a known and an unknown installation get just now.
    async fn look(&self) {
        let (reached, new) = (self.shop.count(), InstallId::random());
        let (known, unknown) = tokio::join!(
            self.ask("known", &self.known, &self.row.known),
            self.ask("unknown", &new, &self.row.unknown)
        );
        let served = [&known, &unknown].into_iter().filter(|answer| answer.status == 200);
        assert_eq!(
            self.shop.count(),
            reached + served.count(),
            "no refused request reached the backend"
        );
        if known.status == 200 && self.row.change != Fate::Lost {
            assert_eq!(known.json()["basket"], 1, "the session it had");
        }
    }

    async fn ask(&self, who: &str, id: &InstallId, allowed: &[u16]) -> Answer {
        let start = Instant::now();
        let answer = self.here.send(Call::post("/basket").of(id)).await;
        let took = start.elapsed();
        eprintln!("{who}: {} after {took:?}", answer.status);
        assert!(took < self.row.answered + SLACK, "{who}: answered after {took:?}");
        assert!(
            allowed.contains(&answer.status),
            "{who}: {} {}",
            answer.status,
            answer.text()
        );
        if answer.status != 200 {
            assert_eq!(answer.problem(), "store-unavailable", "{who}");
            let seconds: u32 = answer.header("retry-after").parse().expect("Retry-After in seconds");
            assert!(seconds > 0);
        }
        answer
    }

    /// The session with which the other replica serves `id`. A shop that is shown a dead ID would start a new one:
    /// so this asks the other replica's record first, and nothing when it is still the old one.
    async fn session_there(&self, id: &InstallId) -> Option<serde_json::Value> {
        let record = self.there.ops(Call::get(&format!("/sessions/{}", id.as_str()))).await;
        let version = record.json()["version"].as_u64();
        if version.is_none_or(|version| version < 2) {
            return None;
        }
        Some(self.there.ok(Call::post("/basket").of(id)).await["session"].clone())
    }
}

/// Asks until it is served, and says what it was shown.
async fn served(bridge: &Bridge, id: &InstallId, until: Instant) -> serde_json::Value {
    loop {
        let answer = bridge.send(Call::post("/basket").of(id)).await;
        if answer.status == 200 {
            return answer.json();
        }
        assert_eq!(answer.problem(), "store-unavailable");
        assert!(Instant::now() < until, "not served again in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_down() {
    let scene = Scene::new("redis_is_down", &["--appendonly", "yes", "--appendfsync", "always"]).await;
    scene
        .play(async |scene| scene.redis.kill(), async |scene| scene.redis.restart())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_frozen() {
    let scene = Scene::new("redis_is_frozen", &[]).await;
    scene
        .play(async |scene| scene.redis.stop(), async |scene| scene.redis.resume())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_paused() {
    let scene = Scene::new("redis_is_paused", &[]).await;
    let paused = std::cell::Cell::new(None);
    let fail = async |scene: &mut Scene| {
        scene.redis.command(&["CLIENT", "PAUSE", "4000", "ALL"]);
        paused.set(Some(Instant::now()));
    };
    // A paused Redis cannot be told to go on: it does when the time has passed.
    let mend = async |_: &mut Scene| {
        tokio::time::sleep_until(paused.get().expect("it was paused") + Duration::from_secs(4)).await;
    };
    scene.play(fail, mend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_takes_no_writes_for_now() {
    let scene = Scene::new("redis_takes_no_writes_for_now", &[]).await;
    let fail = async |scene: &mut Scene| drop(scene.redis.command(&["CLIENT", "PAUSE", "60000", "WRITE"]));
    let mend = async |scene: &mut Scene| drop(scene.redis.command(&["CLIENT", "UNPAUSE"]));
    scene.play(fail, mend).await;
}

/// Sets one of its parameters for the time of the failure.
async fn with_parameter(test: &str, name: &str, bad: &str, good: &str) {
    let scene = Scene::new(test, &[]).await;
    let fail = async |scene: &mut Scene| drop(scene.redis.command(&["CONFIG", "SET", name, bad]));
    let mend = async |scene: &mut Scene| drop(scene.redis.command(&["CONFIG", "SET", name, good]));
    scene.play(fail, mend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_out_of_memory() {
    with_parameter("redis_is_out_of_memory", "maxmemory", "1", "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_lacks_its_replicas() {
    with_parameter("redis_lacks_its_replicas", "min-replicas-to-write", "1", "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_became_a_replica() {
    let scene = Scene::new("redis_became_a_replica", &[]).await;
    let nobody = unused_port().to_string();
    let fail = async |scene: &mut Scene| drop(scene.redis.command(&["REPLICAOF", "127.0.0.1", &nobody]));
    let mend = async |scene: &mut Scene| drop(scene.redis.command(&["REPLICAOF", "NO", "ONE"]));
    scene.play(fail, mend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_takes_no_more_connections() {
    let scene = Scene::new("redis_takes_no_more_connections", &[]).await;
    let mut operator = scene.redis.connection();
    let mut limit = |limit: &str| tell(&mut operator, &["CONFIG", "SET", "maxclients", limit]);
    limit("1");
    let refused = scene.redis.try_command(&["PING"], Duration::from_secs(5));
    assert!(refused.is_err(), "it is at its limit");
    scene.play(async |_| {}, async |_| limit("1000")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_takes_no_new_connection_for_a_lost_one() {
    let scene = Scene::new("redis_takes_no_new_connection_for_a_lost_one", &[]).await;
    let operator = std::cell::RefCell::new(scene.redis.connection());
    let fail = async |_: &mut Scene| {
        tell(&mut operator.borrow_mut(), &["CONFIG", "SET", "maxclients", "1"]);
        tell(
            &mut operator.borrow_mut(),
            &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
        );
    };
    let mend = async |_: &mut Scene| tell(&mut operator.borrow_mut(), &["CONFIG", "SET", "maxclients", "1000"]);
    scene.play(fail, mend).await;
}

/// A command over a connection that is there already.
fn tell(connection: &mut redis::Connection, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    let answer: redis::RedisResult<redis::Value> = command.arg(&words[1..]).query(connection);
    answer.expect("an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_drops_its_connections() {
    let scene = Scene::new("redis_drops_its_connections", &[]).await;
    let fail = async |scene: &mut Scene| drop(scene.redis.command(&["CLIENT", "KILL", "TYPE", "normal"]));
    scene.play(fail, async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_restarted_with_its_data() {
    let arguments = ["--appendonly", "yes", "--appendfsync", "always"];
    let scene = Scene::new("redis_is_restarted_with_its_data", &arguments).await;
    scene.play(async |scene| scene.redis.restart(), async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_restarted_empty() {
    let scene = Scene::new("redis_is_restarted_empty", &[]).await;
    scene.play(async |scene| scene.redis.restart(), async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_loading() {
    // 20 ms a key, and a look at its clients after each kilobyte.
    let arguments = [
        "--rdbcompression",
        "no",
        "--key-load-delay",
        "20000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let scene = Scene::new("redis_is_loading", &arguments).await;
    let kilobyte = "x".repeat(1024);
    for number in 0..150 {
        scene
            .redis
            .command(&["SET", &format!("test:{number}"), &kilobyte, "PX", "600000"]);
    }
    let fail = async |scene: &mut Scene| {
        scene.redis.command(&["SAVE"]);
        scene.redis.restart();
    };
    let mend = async |scene: &mut Scene| {
        eventually("all to be loaded", Duration::from_secs(20), async || {
            scene.redis.text(&["INFO", "persistence"]).contains("\nloading:0")
        })
        .await;
    };
    scene.play(fail, mend).await;
}

/// Makes the way to Redis take this much longer there and back, for the time of the failure.
async fn with_delay(test: &str, delay: Duration) {
    let scene = Scene::new(test, &[]).await;
    let set = |scene: &Scene, delay: Duration| {
        scene.gate.delay(Way::Up, delay / 2, Duration::ZERO);
        scene.gate.delay(Way::Down, delay / 2, Duration::ZERO);
    };
    scene
        .play(
            async |scene| set(scene, delay),
            async |scene| set(scene, Duration::ZERO),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_slow() {
    with_delay("redis_is_slow", Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_too_slow() {
    with_delay("redis_is_too_slow", Duration::from_millis(600)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_unreachable() {
    let scene = Scene::new("redis_is_unreachable", &[]).await;
    scene
        .play(async |scene| scene.gate.hold(), async |scene| scene.gate.open())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_connections_are_half_open() {
    let scene = Scene::new("redis_connections_are_half_open", &[]).await;
    let fail = async |scene: &mut Scene| scene.gate.half_open();
    scene.play(fail, async |_| {}).await;
}

#[test]
fn each_row_of_the_table_is_a_test() {
    let source = include_str!("failures.rs");
    let rows = include_str!("../../docs/operating.md").lines().filter_map(|line| {
        let name = line.strip_suffix("` |")?.rsplit_once('`')?.1;
        name.starts_with("redis_").then_some(name)
    });
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), 17, "{rows:?}");
    for row in rows {
        assert!(source.contains(&format!("async fn {row}()")), "no test is named {row}");
    }
}
