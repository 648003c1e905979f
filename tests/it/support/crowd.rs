//! Installations that go on asking whatever happens, and keep account of what they were told.
//!
//! Every response is judged as it comes: whose session it shows, whether it carries a cookie, whether a refusal is one
//! of the known kinds and in time. What became of sessions is judged at the end, see [`Crowd::judge`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::InstallId;
use super::bridge::{Bridge, BridgeBuilder};
use super::client::{Answer, Call, Client};
use super::eventually;
use super::witness::Witness;

/// No refusal may take longer.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// Nothing may take longer: a session that is waited for may be started by the third leader only.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// What a bridge may answer by itself when others fail.
const SLUGS: [&str; 5] = [
    "store-unavailable",
    "session-wait-timeout",
    "upstream-unreachable",
    "upstream-bad-response",
    "upstream-timeout",
];

/// Bridges before one witness, each of which may be killed and started again.
pub(crate) struct Replicas {
    slots: Vec<Slot>,
    /// What killed bridges wrote.
    logs: Mutex<String>,
    random: Mutex<fastrand::Rng>,
}

struct Slot {
    builder: BridgeBuilder,
    live: RwLock<Live>,
    bridge: tokio::sync::Mutex<Option<Bridge>>,
}

#[derive(Clone)]
struct Live {
    /// `None` from just before it is killed.
    client: Option<Arc<Client>>,
    generation: u64,
}

/// Many installations, and what they were told.
pub(crate) struct Crowd {
    replicas: Arc<Replicas>,
    installations: Vec<tokio::sync::Mutex<Installation>>,
    tally: Mutex<Tally>,
    asked: AtomicUsize,
    random: AtomicU64,
    /// How often there were two masters for a moment.
    two_masters: AtomicUsize,
}

/// The most sessions that the backend may start of one installation because a replica read what the former of two
/// masters held: each of a burst of requests may find its session dead.
const OF_A_FORMER_MASTER: usize = 8;

struct Installation {
    id: InstallId,
    /// The session it was shown last.
    session: Option<u64>,
    /// A request that may have changed it was not answered: its ID may be a dead one.
    uncertain: bool,
    /// How many requests were not answered by the backend.
    failed: usize,
    /// Whenever it was shown another session than before.
    breaks: Vec<(u64, u64)>,
}

/// What all requests came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) served: usize,
    pub(crate) refused: BTreeMap<String, usize>,
    /// Requests whose replica was killed.
    pub(crate) cut_off: usize,
    /// Responses whose body ended early, as the backend's did.
    pub(crate) broken: usize,
    pub(crate) slowest_answer: Duration,
    pub(crate) slowest_refusal: Duration,
}

/// What one request came to.
enum Told {
    Session(u64),
    Refused,
    /// The replica was killed meanwhile, or the backend's body ended early after the head had been passed on.
    CutOff,
}

/// Why there is no whole answer, where that is nobody's mistake.
#[derive(Clone, Copy)]
enum Cut {
    Killed,
    Body,
}

impl Replicas {
    /// One for each way to be configured.
    pub(crate) async fn start(builders: Vec<BridgeBuilder>, seed: u64) -> Arc<Self> {
        let mut slots = Vec::new();
        for builder in builders {
            let bridge = builder.clone().start().await;
            slots.push(Slot {
                builder,
                live: RwLock::new(Live::of(&bridge, 0)),
                bridge: tokio::sync::Mutex::new(Some(bridge)),
            });
        }
        Arc::new(Self {
            slots,
            logs: Mutex::default(),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    /// Kills one without warning, and starts another in its place after `pause`.
    pub(crate) async fn replace(&self, number: usize, pause: Duration) {
        let slot = &self.slots[number];
        let mut bridge = slot.bridge.lock().await;
        let generation = {
            let mut live = slot.live.write().unwrap_or_else(PoisonError::into_inner);
            live.client = None;
            live.generation += 1;
            live.generation
        };
        if let Some(mut killed) = bridge.take() {
            tokio::task::block_in_place(|| killed.kill());
            self.logs
                .lock()
                .expect("no panic while locked")
                .push_str(&killed.logs());
        }
        tokio::time::sleep(pause).await;
        let started = slot.builder.clone().start_unready().await;
        *slot.live.write().unwrap_or_else(PoisonError::into_inner) = Live::of(&started, generation);
        *bridge = Some(started);
    }

    /// Waits until all are ready, no change waits for the store any more, and the store has answered each of them for a
    /// while: readiness has patience with a store that does not, and a connection of which nothing is heard is found out
    /// after a second.
    pub(crate) async fn settled(&self) {
        join_all(self.slots.iter().map(async |slot| {
            let bridge = slot.bridge.lock().await;
            let bridge = bridge.as_ref().expect("it was started again");
            let (mut failed, mut answered) = (0, u64::MAX);
            eventually("all replicas to be well", Duration::from_secs(20), async || {
                let metrics = bridge.metrics().await;
                let (ok, not_ok) = probes(&metrics);
                if answered == u64::MAX || not_ok != failed {
                    (failed, answered) = (not_ok, ok);
                }
                bridge.ready().await == Some(200)
                    && ok >= answered + 4
                    && metrics.contains("\nsession_bridge_commits_pending 0\n")
            })
            .await;
        }))
        .await;
    }

    /// The process IDs of those that run.
    pub(crate) async fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for slot in &self.slots {
            pids.extend(slot.bridge.lock().await.as_ref().map(Bridge::pid));
        }
        pids
    }

    /// What all replicas wrote, those that were killed too.
    async fn logs(&self) -> String {
        let mut logs = self.logs.lock().expect("no panic while locked").clone();
        for slot in &self.slots {
            logs.extend(slot.bridge.lock().await.as_ref().map(Bridge::logs));
        }
        logs
    }

    /// The digests of the installations of which some replica said that it could not store a change at once.
    fn told_of(logs: &str) -> BTreeSet<String> {
        let lines = logs
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let told = lines.filter_map(|line| {
            let message = line["message"].as_str()?;
            let about = ["could not be stored", "was not stored", "are lost", "is lost"];
            let about = about.iter().any(|part| message.contains(part));
            about.then(|| line["install"].as_str().map(str::to_owned)).flatten()
        });
        told.collect()
    }

    /// Sends a request to a living replica.
    async fn send(&self, call: Call) -> (Result<Answer, Cut>, Duration) {
        loop {
            let number = self
                .random
                .lock()
                .expect("no panic while locked")
                .usize(..self.slots.len());
            let slot = &self.slots[number];
            let live = slot.live.read().unwrap_or_else(PoisonError::into_inner).clone();
            let Some(client) = live.client else {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            let start = Instant::now();
            let what = call.to_string();
            let answer = client.send(call).await;
            let took = start.elapsed();
            let killed = slot.live.read().unwrap_or_else(PoisonError::into_inner).generation != live.generation;
            return match answer {
                Ok(answer) => (Ok(answer), took),
                Err(_) if killed => (Err(Cut::Killed), took),
                Err(error) if error.starts_with("the body broke off") => (Err(Cut::Body), took),
                Err(error) => panic!("{what}, to a replica that lives: {error} after {took:?}"),
            };
        }
    }

    /// How long after `since` every replica serves these installations and a new one.
    pub(crate) async fn serving(&self, known: &[InstallId], since: Instant) -> Duration {
        let each = self.slots.iter().map(async |slot| {
            let client = slot.live.read().unwrap_or_else(PoisonError::into_inner).client.clone();
            let client = client.expect("none is being killed");
            let new = InstallId::random();
            join_all(known.iter().chain([&new]).map(async |id| {
                loop {
                    let answer = client.send(Call::post("/visit").of(id)).await.expect("an answer");
                    if answer.status == 200 {
                        break;
                    }
                    assert!(
                        since.elapsed() < Duration::from_secs(20),
                        "not served: {}",
                        answer.text()
                    );
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }))
            .await;
            since.elapsed()
        });
        join_all(each).await.into_iter().max().expect("replicas")
    }
}

impl Live {
    fn of(bridge: &Bridge, generation: u64) -> Self {
        Self {
            client: Some(Arc::new(Client::new(bridge.traffic))),
            generation,
        }
    }
}

impl Crowd {
    pub(crate) fn new(replicas: &Arc<Replicas>, installations: usize, seed: u64) -> Arc<Self> {
        let installation = || Installation {
            id: InstallId::random(),
            session: None,
            uncertain: false,
            failed: 0,
            breaks: Vec::new(),
        };
        Arc::new(Self {
            replicas: Arc::clone(replicas),
            installations: (0..installations).map(|_| installation().into()).collect(),
            tally: Mutex::default(),
            two_masters: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            random: AtomicU64::new(seed),
        })
    }

    /// `workers` at once have installations ask until `requests` were sent or `stop` is true. Between two requests a
    /// worker waits up to `pause`.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        workers: usize,
        requests: usize,
        pause: Duration,
        stop: &Arc<AtomicBool>,
    ) {
        let end = self.asked.load(Ordering::SeqCst).saturating_add(requests);
        let work = (0..workers).map(|_| {
            let (crowd, stop) = (Arc::clone(self), Arc::clone(stop));
            let mut random = fastrand::Rng::with_seed(self.random.fetch_add(1, Ordering::SeqCst));
            tokio::spawn(async move {
                while crowd.asked.load(Ordering::SeqCst) < end && !stop.load(Ordering::SeqCst) {
                    let number = random.usize(..crowd.installations.len());
                    // Visits of one installation do not overlap, but for the requests within one.
                    let Ok(mut installation) = crowd.installations[number].try_lock() else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    let burst = match installation.session {
                        // Several with a dead ID would each be given a session by the backend.
                        _ if installation.uncertain => 1,
                        None => 3,
                        Some(_) if random.u32(..10) == 0 => 2,
                        Some(_) => 1,
                    };
                    let rotate = burst == 1 && random.u32(..30) == 0;
                    crowd.visit(&mut installation, burst, rotate).await;
                    drop(installation);
                    tokio::time::sleep(pause.mul_f64(random.f64())).await;
                }
            })
        });
        for worker in work.collect::<Vec<_>>() {
            worker.await.expect("no panic");
        }
    }

    async fn visit(&self, installation: &mut Installation, burst: usize, rotate: bool) {
        self.asked.fetch_add(burst, Ordering::SeqCst);
        let id = installation.id.clone();
        let path = if rotate { "/rotate" } else { "/visit" };
        let told = join_all((0..burst).map(|_| self.request(&id, path))).await;
        for told in told {
            let Told::Session(number) = told else {
                installation.failed += 1;
                installation.uncertain |= rotate;
                continue;
            };
            match installation.session.replace(number) {
                Some(before) if before != number && !installation.uncertain => {
                    installation.breaks.push((before, number));
                }
                _ => {}
            }
            installation.uncertain = false;
        }
    }

    async fn request(&self, id: &InstallId, path: &str) -> Told {
        let (answer, took) = self.replicas.send(Call::post(path).of(id)).await;
        let mut tally = self.tally.lock().expect("no panic while locked");
        let answer = match answer {
            Ok(answer) => answer,
            Err(cut) => {
                match cut {
                    Cut::Killed => tally.cut_off += 1,
                    Cut::Body => tally.broken += 1,
                }
                return Told::CutOff;
            }
        };
        assert!(!answer.headers.contains_key("set-cookie"), "a cookie came through");
        if answer.status == 200 {
            tally.served += 1;
            tally.slowest_answer = tally.slowest_answer.max(took);
            assert!(took < ANSWERED_WITHIN, "answered after {took:?}");
            let shown = answer.json();
            assert_eq!(shown["asks"], id.as_str(), "the backend was told somebody else's ID");
            assert_eq!(shown["owner"], id.as_str(), "somebody else's session");
            return Told::Session(shown["session"].as_u64().expect("a number"));
        }
        let slug = answer.problem();
        assert!(SLUGS.contains(&slug.as_str()), "{} {slug}", answer.status);
        *tally.refused.entry(slug.clone()).or_default() += 1;
        tally.slowest_refusal = tally.slowest_refusal.max(took);
        assert!(took < REFUSED_WITHIN, "{slug} after {took:?}");
        Told::Refused
    }

    /// Has every installation ask once more, when all is well again: each must be served.
    pub(crate) async fn ask_all(&self) {
        for installations in self.installations.chunks(32) {
            join_all(installations.iter().map(async |installation| {
                let mut installation = installation.lock().await;
                let (failed, before) = (installation.failed, self.tally());
                self.visit(&mut installation, 1, false).await;
                let failed = installation.failed - failed;
                assert_eq!(failed, 0, "all is well: {before:?}, {:?}", self.tally());
            }))
            .await;
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().expect("no panic while locked").clone()
    }

    /// The IDs of so many installations that have a session.
    pub(crate) async fn some(&self, count: usize) -> Vec<InstallId> {
        let mut some = Vec::new();
        for installation in &self.installations {
            let installation = installation.lock().await;
            if some.len() < count && installation.session.is_some() {
                some.push(installation.id.clone());
            }
        }
        assert_eq!(some.len(), count, "so many have a session");
        some
    }

    /// From now on, there are two masters for a moment: one is promoted while the former one is alive.
    pub(crate) fn two_masters(&self) {
        self.two_masters.fetch_add(1, Ordering::SeqCst);
    }

    /// Judges what became of sessions.
    ///
    /// A session that a response showed is *acknowledged*: requests sent after that response must see it. The one
    /// excuse is a replica's own word, in its log, that it could not store a change of this very installation when it
    /// was made: other replicas do not know of it until it is stored, and nobody ever will when the replica is killed
    /// before. (A rotation whose response was cut off leaves the record with a dead ID: that is nobody's fault, and
    /// not counted.)
    ///
    /// And a backend may have started more than one session of an installation only where requests of it failed: the
    /// response that brought the session was lost. Or where there were two masters for a moment, and replicas went over
    /// from one to the other at different moments: whoever reads the former may meet an ID that a rotation has ended.
    ///
    /// Returns how many installations needed the excuse.
    pub(crate) async fn judge(&self, witness: &Witness) -> usize {
        let logs = self.replicas.logs().await;
        let told_of = Replicas::told_of(&logs);
        let mut excused = 0;
        for installation in &self.installations {
            let installation = installation.lock().await;
            let digest = digest(&installation.id);
            let starts = witness.starts(installation.id.as_str());
            let of_former = OF_A_FORMER_MASTER * self.two_masters.load(Ordering::SeqCst);
            let lawful = installation.breaks.is_empty() && starts <= 1 + installation.failed + of_former;
            if lawful {
                continue;
            }
            let written = logs.lines().filter(|line| line.contains(&digest)).collect::<Vec<_>>();
            assert!(
                told_of.contains(&digest),
                "{digest} was shown {:?}, {starts} sessions were started, {} requests failed:\n{}",
                installation.breaks,
                installation.failed,
                written.join("\n")
            );
            excused += 1;
        }
        excused
    }
}

/// The name of an installation in logs.
fn digest(id: &InstallId) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(id.as_str().as_bytes());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// How often the store answered when readiness asked, and how often it did not.
fn probes(metrics: &str) -> (u64, u64) {
    let (mut ok, mut not_ok) = (0, 0);
    for line in metrics.lines() {
        if let Some(sample) = line.strip_prefix("session_bridge_store_operations_total{op=\"ping\",result=\"")
            && let Some((result, count)) = sample.split_once("\"} ")
        {
            let count: u64 = count.parse().expect("a count");
            if result == "ok" {
                ok += count;
            } else {
                not_ok += count;
            }
        }
    }
    (ok, not_ok)
}
