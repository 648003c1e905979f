//! Everything that can fail does, at once and again and again, under load. What must never happen never does; what
//! fails says so in time; what was acknowledged stays.
//!
//! `SESSION_BRIDGE_TEST_FULL=1 cargo test --release --test it chaos -- --nocapture` is the full form: 100,000 requests
//! over 5,000 installations, and ten fail-overs of each kind.
//! `SESSION_BRIDGE_TEST_SEED=…` repeats the choices of a run; the seed of each is printed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::cluster::ClusterNodes;
use crate::support::crowd::{Crowd, Replicas};
use crate::support::gate::{Gate, Way};
use crate::support::redis::RedisServer;
use crate::support::sentinel::Sentinels;
use crate::support::witness::Witness;
use crate::support::{InstallId, eventually, local, scaled};

const REPLICAS: usize = 4;

/// Of a thousand requests to the backend, how many meet a fault there.
const FAULTS: u32 = 20;

/// How long writes are held before a fail-over, so that Redis itself loses none.
const HELD: Duration = Duration::from_secs(6);

/// Served again so soon after the new master takes writes.
const SERVED_WITHIN: Duration = Duration::from_secs(1);

fn seed() -> u64 {
    let given = std::env::var("SESSION_BRIDGE_TEST_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |text| text.parse().expect("a number"));
    eprintln!("SESSION_BRIDGE_TEST_SEED={seed}");
    seed
}

/// A witness behind a gate, and how bridges before it are configured: every wait is short enough for a refusal
/// within two seconds.
async fn backend(seed: u64) -> (Witness, Gate, BridgeBuilder) {
    let witness = Witness::start(seed, FAULTS).await;
    let gate = Gate::seeded(witness.address(), seed).await;
    let builder = Bridge::before(&format!("http://127.0.0.1:{}", gate.port()))
        .set("session.create_wait", "900ms")
        .set("upstream.response_timeout", "500ms")
        .set("log.level", "debug")
        .id_cookies(&["sid"])
        .auth_paths(&["/rotate"]);
    (witness, gate, builder)
}

/// What breaks things at random until it is told to stop.
struct Trouble {
    random: fastrand::Rng,
    replicas: Arc<Replicas>,
    redis: RedisServer,
    /// To Redis, one for each replica.
    ways: Vec<Gate>,
    backend: Gate,
    /// Whether replicas are killed too.
    kills: bool,
}

impl Trouble {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Self {
        while !stop.load(Ordering::SeqCst) {
            self.strike().await;
            let pause = self.millis(20, 200);
            tokio::time::sleep(pause).await;
        }
        self.ways.iter().chain([&self.backend]).for_each(Gate::heal);
        self
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.u64(least..most))
    }

    async fn strike(&mut self) {
        let number = self.random.usize(..self.ways.len());
        let way = if self.random.bool() { Way::Up } else { Way::Down };
        let bytes = self.random.u32(1..3000);
        let time = self.millis(30, 400);
        let gate = &self.ways[number];
        match self.random.u32(..13) {
            0 | 1 if self.kills => {
                self.replicas
                    .replace(self.random.usize(..self.replicas.count()), time)
                    .await;
            }
            0..3 => drop(self.ask(&["CLIENT", "PAUSE", &time.as_millis().to_string(), "ALL"])),
            3 => drop(self.ask(&["CLIENT", "PAUSE", &time.as_millis().to_string(), "WRITE"])),
            4 => drop(self.ask(&["CLIENT", "KILL", "TYPE", "normal"])),
            5 => gate.reset(),
            6 => gate.half_open(),
            7 => gate.cut_after(way, bytes),
            8 => {
                gate.hold();
                tokio::time::sleep(time).await;
                gate.open();
            }
            9 => {
                gate.cut();
                tokio::time::sleep(time).await;
                gate.open();
            }
            10 => {
                gate.delay(way, time / 8, time / 8);
                tokio::time::sleep(time).await;
                gate.delay(way, Duration::ZERO, Duration::ZERO);
            }
            11 => {
                self.backend.cut_after(way, bytes);
                self.backend.reset();
            }
            _ => {
                self.backend.hold();
                tokio::time::sleep(time).await;
                self.backend.open();
            }
        }
    }

    /// A paused Redis answers later: nobody waits for it here.
    fn ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        tokio::task::block_in_place(|| self.redis.try_command(words, Duration::from_millis(1000)))
    }
}

/// Replicas over one Redis, each with a way of its own to it, and what is to break them.
async fn troubled(seed: u64, kills: bool) -> (Witness, Arc<Replicas>, Trouble) {
    let (witness, backend, builder) = backend(seed).await;
    let redis = RedisServer::start();
    let (mut ways, mut builders) = (Vec::new(), Vec::new());
    for number in 0..REPLICAS {
        let way = Gate::seeded(
            local(redis.port()),
            seed ^ u64::try_from(number).expect("a small number"),
        )
        .await;
        builders.push(builder.clone().store(&format!("redis://127.0.0.1:{}/0", way.port())));
        ways.push(way);
    }
    let replicas = Replicas::start(builders, seed).await;
    let trouble = Trouble {
        random: fastrand::Rng::with_seed(seed),
        replicas: Arc::clone(&replicas),
        redis,
        ways,
        backend,
        kills,
    };
    (witness, replicas, trouble)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_no_session_is_mixed_up_and_no_acknowledged_one_is_lost() {
    let seed = seed();
    let (witness, replicas, trouble) = troubled(seed, true).await;
    let crowd = Crowd::new(&replicas, scaled(300, 5_000), seed);
    let (stop, never) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let started = Instant::now();
    let pause = Duration::from_millis(scaled(150, 10).try_into().expect("a small number"));
    let asking = async {
        crowd.ask(32, scaled(3_000, 100_000), pause, &never).await;
        stop.store(true, Ordering::SeqCst);
        started.elapsed()
    };
    let (took, trouble) = tokio::join!(asking, trouble.run(Arc::clone(&stop)));
    witness.set_faults(0);
    replicas.settled().await;
    crowd.ask_all().await;
    let excused = crowd.judge(&witness).await;
    drop(trouble);
    let tally = crowd.tally();
    eprintln!("{took:?}: {tally:?}; {excused} installations excused");
    let refused: usize = tally.refused.values().sum();
    assert!(refused > 0, "something did fail");
    assert!(tally.broken * 100 < tally.served, "{tally:?}");
    assert!(
        tally.served > 2 * (refused + tally.cut_off),
        "most requests are served: {tally:?}"
    );
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Resident memory, in KiB.
    memory: f64,
    /// Open files.
    files: f64,
}

impl Held {
    fn by(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident
            .and_then(|text| text.trim().strip_suffix(" kB"))
            .expect("VmRSS");
        let files = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("a running process")
            .count();
        Self {
            memory: resident.trim().parse().expect("a number"),
            files: f64::from(u32::try_from(files).expect("a small number")),
        }
    }

    fn mean(of: &[Self]) -> Self {
        let count = f64::from(u32::try_from(of.len()).expect("a small number"));
        Self {
            memory: of.iter().map(|held| held.memory).sum::<f64>() / count,
            files: of.iter().map(|held| held.files).sum::<f64>() / count,
        }
    }
}

/// Level: the mean of the last fifth of the time is at most a tenth and 4 MiB above that of the second fifth (the first
/// is for warming up), and for open files at most 16 above it.
#[tokio::test(flavor = "multi_thread")]
async fn memory_and_open_files_stay_level_under_faults() {
    let seed = seed();
    let (witness, replicas, trouble) = troubled(seed, false).await;
    let crowd = Crowd::new(&replicas, scaled(300, 5_000), seed);
    let (stop, never) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let workers = 16;
    // As much as they can for a moment, then half of that: as long a pause between requests as a request takes.
    let requests = scaled(1_000, 10_000);
    let started = Instant::now();
    crowd.ask(workers, requests, Duration::ZERO, &never).await;
    let each = started.elapsed() * u32::try_from(workers).expect("a small number")
        / u32::try_from(requests).expect("a small number");
    let (seconds, samples) = (scaled(15, 1_800), 100);
    let every = Duration::from_secs(seconds.try_into().expect("a small number")) / samples;
    let pids = replicas.pids().await;
    let mut held = vec![Vec::new(); pids.len()];
    let looking = async {
        for _ in 0..samples {
            tokio::time::sleep(every).await;
            for (held, pid) in held.iter_mut().zip(&pids) {
                held.push(Held::by(*pid));
            }
        }
        stop.store(true, Ordering::SeqCst);
    };
    let asking = crowd.ask(workers, usize::MAX, each * 2, &stop);
    let ((), (), trouble) = tokio::join!(looking, asking, trouble.run(Arc::clone(&stop)));
    witness.set_faults(0);
    replicas.settled().await;
    crowd.judge(&witness).await;
    drop(trouble);
    eprintln!("{:?}", crowd.tally());
    for held in held {
        let fifth = held.len() / 5;
        let (second, last) = (Held::mean(&held[fifth..2 * fifth]), Held::mean(&held[4 * fifth..]));
        eprintln!("second fifth: {second:?}, last fifth: {last:?}");
        assert!(
            last.memory < second.memory * 1.1 + 4096.0,
            "memory: {second:?}, {last:?}"
        );
        assert!(last.files < second.files + 16.0, "open files: {second:?}, {last:?}");
    }
}

/// How the master goes.
#[derive(Clone, Copy, Debug)]
enum Going {
    Killed,
    Frozen,
    ByCommand,
}

/// The load of a fail-over: it goes on until it is told to stop.
struct Load {
    witness: Witness,
    _gate: Gate,
    replicas: Arc<Replicas>,
    crowd: Arc<Crowd>,
    stop: Arc<AtomicBool>,
    asking: tokio::task::JoinHandle<()>,
}

impl Load {
    async fn start(url: &str) -> Self {
        let seed = seed();
        let (witness, gate, builder) = backend(seed).await;
        let replicas = Replicas::start(vec![builder.store(url); REPLICAS], seed).await;
        let crowd = Crowd::new(&replicas, scaled(200, 2_000), seed);
        let stop = Arc::new(AtomicBool::new(false));
        let asking = tokio::spawn({
            let (crowd, stop) = (Arc::clone(&crowd), Arc::clone(&stop));
            async move { crowd.ask(16, usize::MAX, Duration::from_millis(60), &stop).await }
        });
        Self {
            witness,
            _gate: gate,
            replicas,
            crowd,
            stop,
            asking,
        }
    }

    /// Waits until `more` further requests were served.
    async fn served(&self, more: usize) {
        let before = self.crowd.tally().served;
        eventually("requests to be served", Duration::from_secs(30), async || {
            assert!(!self.asking.is_finished(), "the load has ended: see its panic");
            self.crowd.tally().served >= before + more
        })
        .await;
    }

    /// How long after the new master took writes every replica serves these installations and new ones.
    async fn served_after(&self, known: &[InstallId], writable: Instant) -> Duration {
        // What is measured is the store's part.
        self.witness.set_faults(0);
        let served = self.replicas.serving(known, writable).await;
        self.witness.set_faults(FAULTS);
        served
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.asking.await.expect("no panic");
        self.witness.set_faults(0);
        self.replicas.settled().await;
        self.crowd.ask_all().await;
        let excused = self.crowd.judge(&self.witness).await;
        eprintln!("{:?}; {excused} installations excused", self.crowd.tally());
    }
}

/// The old master is there again. It takes itself for the master until it is told otherwise: nobody may believe it.
async fn comes_back(going: Going, old: &mut RedisServer) {
    match going {
        Going::Killed => old.restart(),
        Going::Frozen => old.resume(),
        Going::ByCommand => {}
    }
    eventually("the old master to be a replica", Duration::from_secs(30), async || {
        old.is_replica()
    })
    .await;
    // It holds back what its new master sends it, too. As it becomes a replica, its connections are cut.
    eventually(
        "the old master to hold back nothing",
        Duration::from_secs(10),
        async || {
            let answer = old.try_command(&["CLIENT", "UNPAUSE"], Duration::from_millis(500));
            answer.is_ok_and(|answer| answer == redis::Value::Okay)
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_fail_over_loses_no_acknowledged_session_and_is_over_with_the_new_master() {
    let mut redis = Sentinels::start().await;
    let load = Load::start(&redis.url()).await;
    let mut master = redis.master();
    for going in [Going::Killed, Going::Frozen, Going::ByCommand].repeat(scaled(1, 10)) {
        load.served(scaled(100, 1_000)).await;
        let known = load.crowd.some(20).await;
        let replicas: Vec<_> = (0..3).filter(|n| *n != master).map(|n| &redis.servers[n]).collect();
        tokio::task::block_in_place(|| redis.servers[master].hold_writes(HELD, &replicas));
        let gone = Instant::now();
        match going {
            Going::Killed => redis.servers[master].kill(),
            Going::Frozen => redis.servers[master].stop(),
            Going::ByCommand => {
                load.crowd.two_masters();
                redis.failover().await;
            }
        }
        let (new, writable) = redis.promoted(master).await;
        let writable = Instant::from_std(writable);
        let served = load.served_after(&known, writable).await;
        eprintln!(
            "{going:?}: a new master after {:?}, all served {served:?} later",
            writable - gone
        );
        assert!(
            served < SERVED_WITHIN,
            "{going:?}: served again {served:?} after the new master took writes"
        );
        comes_back(going, &mut redis.servers[master]).await;
        redis.in_step(new).await;
        master = new;
    }
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_a_master_of_a_cluster_loses_no_acknowledged_session_and_is_over_with_its_replica() {
    let mut redis = ClusterNodes::start().await;
    let load = Load::start(&redis.url()).await;
    let goings = [Going::Killed, Going::Frozen, Going::ByCommand].repeat(scaled(1, 10));
    // Keys of different masters, in turn.
    for (going, key) in goings.into_iter().zip(["a", "b", "c", "d"].into_iter().cycle()) {
        load.served(scaled(100, 1_000)).await;
        let known = load.crowd.some(20).await;
        let (master, replica) = (redis.master_of(key), redis.replica_of(key));
        if !matches!(going, Going::ByCommand) {
            tokio::task::block_in_place(|| redis.nodes[master].hold_writes(HELD, &[&redis.nodes[replica]]));
        }
        let gone = Instant::now();
        match going {
            Going::Killed => redis.nodes[master].kill(),
            Going::Frozen => redis.nodes[master].stop(),
            Going::ByCommand => redis.failover(replica),
        }
        let writable = Instant::from_std(redis.promoted(replica, key).await);
        let served = load.served_after(&known, writable).await;
        eprintln!(
            "{going:?}: a new master after {:?}, all served {served:?} later",
            writable - gone
        );
        assert!(served < SERVED_WITHIN, "{going:?}: served again after {served:?}");
        comes_back(going, &mut redis.nodes[master]).await;
        redis.whole().await;
    }
    load.end().await;
}
