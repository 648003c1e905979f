//! Random schedules, each made from a seed: what clients ask, how long everything takes, and what goes wrong when.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::backend::{ALWAYS_STARTS, Ask, Backend, Habits};
use super::replica::{Job, Replica};
use super::rules::Rules;
use super::shared::{Fate, Log, Server, Sky, VirtualClock};
use super::{IDLE, ms};
use crate::session::store::Key;

/// What may go wrong. Each kind includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weather {
    /// Nothing: calls, answers and responses only take their time.
    Calm,
    /// Clients leave, responses of the backend never come, replicas are killed.
    Deaths,
    /// Calls fail, or their answers are lost; links are down for a while; replicas freeze.
    Cuts,
    /// The store loses leases and writes that it had acknowledged.
    Losses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill(usize),
    /// One link is down, or all of them.
    Down(Option<usize>, Duration),
    Freeze(usize, Duration),
    ForgetLeases,
    Rewind(usize),
}

#[derive(Clone, Copy, Debug)]
struct Step {
    /// Since the client's last response, or the beginning.
    pause: Duration,
    replica: usize,
    job: Job,
    /// The client leaves after so long.
    leaves: Option<Duration>,
}

/// A schedule, written out, so that it can be made smaller.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    seed: u64,
    replicas: usize,
    installations: u8,
    habits: Habits,
    /// Calls that go wrong, in a thousand.
    faults_per_mille: u32,
    slow: bool,
    clients: Vec<Vec<Step>>,
    faults: Vec<(Duration, Fault)>,
}

impl Plan {
    pub(super) fn of(seed: u64, weather: Weather) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let replicas = rng.usize(2..=4);
        let installations = if rng.u8(0..4) == 0 { rng.u8(2..=3) } else { 1 };
        let habits = match rng.u8(0..4) {
            0 => ALWAYS_STARTS,
            3 => Habits {
                page_starts: 100,
                rotates: 70,
                revives: 80,
                fresh_log_out: 0,
            },
            1 => Habits {
                page_starts: 60,
                rotates: 30,
                revives: 50,
                fresh_log_out: 0,
            },
            _ => Habits {
                page_starts: 100,
                rotates: 10,
                revives: 80,
                fresh_log_out: 40,
            },
        };
        let mut clients = Vec::new();
        for key in 0..installations {
            for _ in 0..rng.usize(1..=4) {
                clients.push(
                    (0..rng.usize(1..=4))
                        .map(|_| step(&mut rng, replicas, key, weather))
                        .collect(),
                );
            }
        }
        let mut faults = Vec::new();
        if weather >= Weather::Deaths {
            let mut mortals: Vec<usize> = (0..replicas).collect();
            rng.shuffle(&mut mortals);
            for victim in mortals.into_iter().take(rng.usize(0..replicas)) {
                faults.push((ms(rng.u64(0..3000)), Fault::Kill(victim)));
            }
        }
        if weather >= Weather::Cuts {
            for _ in 0..rng.usize(1..=4) {
                let whose = (rng.u8(0..3) > 0).then(|| rng.usize(0..replicas));
                let lasts = ms(rng.u64(20..4000));
                let fault = match rng.u8(0..4) {
                    0 => Fault::Freeze(rng.usize(0..replicas), lasts),
                    _ => Fault::Down(whose, lasts),
                };
                faults.push((ms(rng.u64(0..4000)), fault));
            }
        }
        if weather >= Weather::Losses {
            for _ in 0..rng.usize(1..=3) {
                let fault = match rng.u8(0..4) {
                    0 => Fault::ForgetLeases,
                    1 => Fault::Rewind(usize::MAX),
                    _ => Fault::Rewind(rng.usize(1..=8)),
                };
                faults.push((ms(rng.u64(0..4000)), fault));
            }
        }
        Self {
            seed,
            replicas,
            installations,
            habits,
            faults_per_mille: if weather >= Weather::Cuts {
                [0, 30, 150][rng.usize(0..3)]
            } else {
                0
            },
            slow: rng.bool(),
            clients,
            faults,
        }
    }

    /// A log-in takes long, and its lease is forgotten; meanwhile another request starts a session.
    pub(super) fn with_forgotten_leases(seed: u64) -> Self {
        let mut plan = Self::of(seed, Weather::Calm);
        let mut rng = fastrand::Rng::with_seed(seed);
        let step = |replica, ask, pause, works| Step {
            pause: ms(pause),
            replica,
            job: Job {
                key: Key::from_digest([0; 16]),
                ask,
                takes: [Duration::ZERO, ms(works), Duration::ZERO],
                breaks: false,
            },
            leaves: None,
        };
        let slow = step(0, Ask::LogIn, 0, rng.u64(1000..3000));
        let quick = step(
            1,
            [Ask::Page, Ask::Basket][rng.usize(0..2)],
            rng.u64(0..600),
            rng.u64(0..300),
        );
        plan.clients = vec![vec![slow], vec![quick]];
        plan.habits = ALWAYS_STARTS;
        plan.faults = vec![(ms(rng.u64(100..900)), Fault::ForgetLeases)];
        plan
    }

    /// On one replica, several sessions start just before the store goes away, and change at once.
    pub(super) fn with_an_outage(seed: u64) -> Self {
        let mut plan = Self::of(seed, Weather::Calm);
        let mut rng = fastrand::Rng::with_seed(seed);
        plan.installations = 3;
        plan.habits = Habits {
            page_starts: 100,
            rotates: 100,
            revives: 80,
            fresh_log_out: 0,
        };
        let clients = (0..plan.installations).map(|key| {
            let views = (0..4).map(|view| Step {
                pause: ms(rng.u64(0..20)),
                replica: 0,
                job: Job {
                    key: Key::from_digest([key; 16]),
                    ask: Ask::Page,
                    takes: [
                        Duration::ZERO,
                        ms(if view == 0 { 500 } else { rng.u64(0..20) }),
                        Duration::ZERO,
                    ],
                    breaks: false,
                },
                leaves: None,
            });
            views.collect()
        });
        plan.clients = clients.collect();
        plan.faults = vec![(ms(400), Fault::Down(None, ms(rng.u64(500..3000))))];
        plan
    }

    /// Runs it. Returns the rules that were broken, and the log.
    pub(super) fn run(&self) -> (Vec<(&'static str, String)>, String) {
        fastrand::seed(self.seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(self.carry_out())
    }

    async fn carry_out(&self) -> (Vec<(&'static str, String)>, String) {
        let log = Log::new();
        let rules = Rules::new(Arc::clone(&log));
        let clock = Arc::new(VirtualClock(Instant::now()));
        let server = Server::new(Arc::clone(&clock), Arc::clone(&log), rules);
        let backend = Arc::new(Backend::new(self.habits, self.seed));
        let weather = Arc::new(Random {
            seed: self.seed,
            luck: Mutex::default(),
            links: Mutex::new(vec![Outages::default(); self.replicas]),
            faults_per_mille: self.faults_per_mille,
            slow: self.slow,
            over: std::sync::atomic::AtomicBool::new(false),
        });
        let sky: Arc<dyn Sky> = Arc::clone(&weather) as Arc<dyn Sky>;
        let replicas: Vec<_> = (0..self.replicas)
            .map(|number| Replica::start(number, &server, &clock, &backend, &sky))
            .collect();
        let faults = tokio::spawn(bring(
            self.faults.clone(),
            Arc::clone(&server),
            replicas.clone(),
            Arc::clone(&weather),
        ));
        let clients: Vec<_> = self
            .clients
            .iter()
            .map(|steps| tokio::spawn(client(steps.clone(), replicas.clone())))
            .collect();
        let all = async {
            for client in clients {
                client.await.unwrap();
            }
            faults.await.unwrap();
        };
        if tokio::time::timeout(Duration::from_secs(600), all).await.is_err() {
            log.broke("S3", "a request hangs".to_owned());
        }
        self.settle(&server, &replicas, &weather).await;
        (log.broken(), log.text())
    }

    /// The faults are over: everything finds its place, on every replica alike.
    async fn settle(&self, server: &Arc<Server>, replicas: &[Arc<Replica>], weather: &Random) {
        let log = &server.log;
        log.note("-- the faults are over".to_owned());
        weather.over.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(20)).await;
        let dead: Vec<bool> = replicas
            .iter()
            .map(|replica| replica.dead.load(Ordering::SeqCst))
            .collect();
        let living: Vec<_> = replicas.iter().filter(|replica| !dead[replica.number]).collect();
        for replica in &living {
            if !replica.pending.is_empty() {
                log.broke(
                    "F3",
                    format!("{} changes wait for ever on r{}", replica.pending.len(), replica.number),
                );
            }
        }
        for key in self.keys() {
            let timeline = server.timeline(&key);
            for number in server.rules.to_be_kept(&key, &dead) {
                server.rules.kept(number, &timeline, "F3");
            }
            if let Some(holder) = server.holder(&key) {
                log.broke("S3", format!("a lease is held for ever: {:x}", holder.0 >> 112));
            }
            for replica in &living {
                let found = replica.look(&key).await;
                if found.as_ref() != timeline.last().map(|state| &state.cookies) {
                    log.broke("S4", format!("r{} finds {found:?}", replica.number));
                }
            }
        }
        tokio::time::sleep(IDLE).await;
        for key in self.keys() {
            if living[0].look(&key).await.is_none_or(|cookies| !cookies.is_empty()) {
                log.broke("T2", "a record outlived its expiry".to_owned());
            }
        }
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        (0..self.installations).map(|number| Key::from_digest([number; 16]))
    }

    /// The same with fewer steps and faults, as long as it breaks `rule` still.
    pub(super) fn shrink(mut self, rule: &str) -> Self {
        let breaks = |plan: &Self| plan.run().0.iter().any(|(broken, _)| *broken == rule);
        loop {
            let mut smaller = Vec::new();
            for (client, steps) in self.clients.iter().enumerate() {
                for step in 0..steps.len() {
                    let mut plan = self.clone();
                    plan.clients[client].remove(step);
                    smaller.push(plan);
                }
            }
            for fault in 0..self.faults.len() {
                let mut plan = self.clone();
                plan.faults.remove(fault);
                smaller.push(plan);
            }
            if self.faults_per_mille > 0 {
                smaller.push(Self {
                    faults_per_mille: 0,
                    ..self.clone()
                });
            }
            match smaller.into_iter().find(breaks) {
                Some(plan) => self = plan,
                None => return self,
            }
        }
    }
}

fn step(rng: &mut fastrand::Rng, replicas: usize, key: u8, weather: Weather) -> Step {
    let long = rng.u8(0..12) == 0;
    let takes = [
        ms(rng.u64(0..60)),
        ms(if long { rng.u64(0..5000) } else { rng.u64(0..200) }),
        ms(if rng.bool() { 0 } else { rng.u64(0..2500) }),
    ];
    let worse = weather >= Weather::Deaths;
    Step {
        pause: ms(if rng.bool() { 0 } else { rng.u64(0..800) }),
        replica: rng.usize(0..replicas),
        job: Job {
            key: Key::from_digest([key; 16]),
            ask: match rng.u8(0..10) {
                0..4 => Ask::Page,
                4..7 => Ask::Basket,
                7..9 => Ask::LogIn,
                _ => Ask::LogOut,
            },
            takes,
            breaks: worse && rng.u8(0..20) == 0,
        },
        leaves: (worse && rng.u8(0..8) == 0).then(|| ms(rng.u64(0..300))),
    }
}

async fn client(steps: Vec<Step>, replicas: Vec<Arc<Replica>>) {
    for step in steps {
        tokio::time::sleep(step.pause).await;
        // A balancer sends nobody to a dead replica.
        let living = |index: usize| {
            !replicas[(step.replica + index) % replicas.len()]
                .dead
                .load(Ordering::SeqCst)
        };
        let Some(index) = (0..replicas.len()).find(|index| living(*index)) else {
            return;
        };
        let replica = Arc::clone(&replicas[(step.replica + index) % replicas.len()]);
        let request = tokio::time::timeout(step.leaves.unwrap_or(Duration::MAX), replica.carry(step.job));
        tokio::select! {
            biased;
            _ = request => {}
            () = died(&replica) => {}
        }
    }
}

async fn died(replica: &Replica) {
    while !replica.dead.load(Ordering::SeqCst) {
        tokio::time::sleep(ms(25)).await;
    }
}

async fn bring(
    mut faults: Vec<(Duration, Fault)>,
    server: Arc<Server>,
    replicas: Vec<Arc<Replica>>,
    weather: Arc<Random>,
) {
    faults.sort_by_key(|(at, _)| *at);
    let began = Instant::now();
    for (at, fault) in faults {
        tokio::time::sleep_until(began + at).await;
        server.log.note(format!("!! {fault:?}"));
        match fault {
            Fault::Kill(victim) => {
                replicas[victim].dead.store(true, Ordering::SeqCst);
                server.rules.trouble(Some(victim));
            }
            Fault::Down(whose, lasts) => {
                for (number, link) in weather.links.lock().unwrap().iter_mut().enumerate() {
                    if whose.is_none_or(|whose| whose == number) {
                        link.down_until = Some(Instant::now() + lasts);
                    }
                }
            }
            Fault::Freeze(victim, lasts) => {
                server.rules.trouble(Some(victim));
                weather.links.lock().unwrap()[victim].frozen_until = Some(Instant::now() + lasts);
            }
            Fault::ForgetLeases => server.forget_leases().await,
            Fault::Rewind(count) => server.rewind(count).await,
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Outages {
    down_until: Option<Instant>,
    frozen_until: Option<Instant>,
}

struct Random {
    seed: u64,
    /// By replica and installation, so that what one of them does changes nothing for the others.
    luck: Mutex<HashMap<(usize, Key), fastrand::Rng>>,
    links: Mutex<Vec<Outages>>,
    faults_per_mille: u32,
    slow: bool,
    over: std::sync::atomic::AtomicBool,
}

impl Random {
    fn draw<T>(&self, replica: usize, key: &Key, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        let mut luck = self.luck.lock().unwrap();
        let place = (replica as u64) << 8 | u64::from(key.as_bytes()[0]);
        let rng = luck
            .entry((replica, *key))
            .or_insert_with(|| fastrand::Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place));
        draw(rng)
    }

    fn pause(&self, replica: usize, key: &Key) -> Duration {
        self.draw(replica, key, |rng| match rng.u8(0..10) {
            0..4 => Duration::ZERO,
            4..8 => ms(rng.u64(0..6)),
            _ if self.slow => ms(rng.u64(0..120)),
            _ => ms(rng.u64(0..20)),
        })
    }

    async fn thaw(&self, replica: usize) {
        let until = self
            .links
            .lock()
            .unwrap()
            .get(replica)
            .and_then(|link| link.frozen_until);
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }
}

impl Sky for Random {
    fn before<'a>(
        &'a self,
        replica: usize,
        key: &'a Key,
        _: &'a str,
    ) -> Pin<Box<dyn Future<Output = Fate> + Send + 'a>> {
        Box::pin(async move {
            let Some(link) = self.links.lock().unwrap().get(replica).copied() else {
                return Fate::Answered;
            };
            self.thaw(replica).await;
            if link.down_until.is_some_and(|until| until > Instant::now()) {
                let (hangs, lost) = self.draw(replica, key, |rng| (rng.u8(0..4) == 0, rng.bool()));
                if hangs {
                    tokio::time::sleep(ms(250)).await;
                }
                return if hangs && lost { Fate::CallLost } else { Fate::Refused };
            }
            tokio::time::sleep(self.pause(replica, key)).await;
            let fails = self.draw(replica, key, |rng| rng.u32(0..1000) < self.faults_per_mille);
            if fails && !self.over.load(Ordering::SeqCst) {
                return self.draw(replica, key, |rng| {
                    [Fate::Refused, Fate::AnswerLost, Fate::CallLost][rng.usize(0..3)]
                });
            }
            Fate::Answered
        })
    }

    fn after<'a>(&'a self, replica: usize, key: &'a Key) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            tokio::time::sleep(self.pause(replica, key)).await;
            self.thaw(replica).await;
        })
    }
}
