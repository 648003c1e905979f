//! Small cases in every order. Each call to the store, and each request to the backend, waits at a gate; once nothing
//! moves any more, one of those who wait is let through. All choices are tried, depth first.
//!
//! Between two choices passes a millisecond, in which nothing happens: that is how the paused time tells that nothing
//! moves. Time may also be let pass, and calls may be lost, as often as the case allows.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::backend::{ALWAYS_STARTS, Ask, Backend};
use super::ms;
use super::replica::{Job, Replica};
use super::rules::Rules;
use super::shared::{Fate, Log, Server, Sky, VirtualClock};
use crate::bridge::lead::LEASE_TTL;
use crate::session::store::Key;

const KEY: Key = Key::from_digest([0; 16]);

/// How often one call may be passed over: then it is its turn.
const PATIENCE: usize = 12;

/// A case: two replicas, a session first where there is one, then these requests at once.
struct Case {
    begins_with: Option<Ask>,
    /// By which replica.
    requests: &'static [(usize, Ask)],
    /// How many calls may be lost, or their answers.
    faults: usize,
    /// How often time may be let pass, and how much.
    waits: (usize, Duration),
    /// The most orders that are tried.
    most: u64,
}

/// Who waits at the gates.
#[derive(Default)]
struct Gates {
    open: std::sync::atomic::AtomicBool,
    parked: Mutex<Vec<Parked>>,
}

struct Parked {
    replica: usize,
    passed_over: usize,
    go: oneshot::Sender<Fate>,
}

impl Sky for Gates {
    fn before<'a>(&'a self, replica: usize, _: &'a Key, _: &'a str) -> Pin<Box<dyn Future<Output = Fate> + Send + 'a>> {
        Box::pin(async move {
            if self.open.load(std::sync::atomic::Ordering::SeqCst) {
                return Fate::Answered;
            }
            let (go, wait) = oneshot::channel();
            self.parked.lock().unwrap().push(Parked {
                replica,
                passed_over: 0,
                go,
            });
            wait.await.unwrap_or(Fate::Refused)
        })
    }

    fn after<'a>(&'a self, _: usize, _: &'a Key) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async {})
    }
}

/// A way through the tree of choices: which was taken, of how many.
#[derive(Default)]
struct Way {
    taken: Vec<(usize, usize)>,
    at: usize,
}

impl Way {
    fn choose(&mut self, count: usize) -> usize {
        if self.at == self.taken.len() {
            self.taken.push((0, count));
        }
        self.at += 1;
        self.taken[self.at - 1].0
    }

    /// The next way, depth first; `None` when all have been gone.
    fn next(mut self) -> Option<Self> {
        while let Some((taken, count)) = self.taken.pop() {
            if taken + 1 < count {
                self.taken.push((taken + 1, count));
                return Some(Self {
                    taken: self.taken,
                    at: 0,
                });
            }
        }
        None
    }
}

impl Case {
    /// Tries every order. Returns how many there were.
    fn explore(&self) -> u64 {
        let most = super::scaled(self.most);
        let (mut way, mut count) = (Way::default(), 0);
        loop {
            let (broken, log) = self.run(&mut way);
            count += 1;
            assert!(broken.is_empty(), "{log}\nbroken: {broken:#?}");
            match way.next() {
                Some(next) if count < most => way = next,
                _ => return count,
            }
        }
    }

    fn run(&self, way: &mut Way) -> (Vec<(&'static str, String)>, String) {
        fastrand::seed(7);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(self.carry_out(way))
    }

    async fn carry_out(&self, way: &mut Way) -> (Vec<(&'static str, String)>, String) {
        let log = Log::new();
        let rules = Rules::new(Arc::clone(&log));
        let clock = Arc::new(VirtualClock(Instant::now()));
        let server = Server::new(Arc::clone(&clock), Arc::clone(&log), rules);
        let backend = Arc::new(Backend::new(ALWAYS_STARTS, 0));
        let gates = Arc::new(Gates::default());
        let sky = Arc::clone(&gates) as Arc<dyn Sky>;
        let replicas = [0, 1].map(|number| Replica::start(number, &server, &clock, &backend, &sky));
        let job = |ask| Job {
            key: KEY,
            ask,
            takes: [Duration::ZERO; 3],
            breaks: false,
        };
        if let Some(ask) = self.begins_with {
            gates.open.store(true, std::sync::atomic::Ordering::SeqCst);
            replicas[0].carry(job(ask)).await;
            tokio::time::sleep(ms(10)).await;
            gates.open.store(false, std::sync::atomic::Ordering::SeqCst);
        }
        let requests: Vec<_> = self
            .requests
            .iter()
            .map(|(replica, ask)| {
                let (replica, job) = (Arc::clone(&replicas[*replica]), job(*ask));
                tokio::spawn(async move { replica.carry(job).await })
            })
            .collect();
        let (mut faults, mut waits) = (self.faults, self.waits.0);
        while !requests.iter().all(tokio::task::JoinHandle::is_finished)
            || replicas.iter().any(|replica| !replica.pending.is_empty())
        {
            tokio::time::sleep(ms(1)).await;
            if clock.0.elapsed() > Duration::from_secs(120) {
                log.broke("S3", "a request hangs, or a change waits for ever".to_owned());
                break;
            }
            self.let_one_through(&server, &gates, way, &mut faults, &mut waits)
                .await;
        }
        gates.open.store(true, std::sync::atomic::Ordering::SeqCst);
        gates.parked.lock().unwrap().drain(..).for_each(|parked| {
            let _ = parked.go.send(Fate::Answered);
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        let timeline = server.timeline(&KEY);
        for number in server.rules.to_be_kept(&KEY, &[false; 2]) {
            server.rules.kept(number, &timeline, "F3");
        }
        if server.holder(&KEY).is_some() {
            log.broke("S3", "a lease is held for ever".to_owned());
        }
        (log.broken(), log.text())
    }

    async fn let_one_through(
        &self,
        server: &Server,
        gates: &Gates,
        way: &mut Way,
        faults: &mut usize,
        waits: &mut usize,
    ) {
        let (first, choices) = {
            let parked = gates.parked.lock().unwrap();
            let overdue = parked.iter().position(|parked| parked.passed_over >= PATIENCE);
            let whom: Vec<usize> = overdue.map_or_else(|| (0..parked.len()).collect(), |overdue| vec![overdue]);
            let mut choices: Vec<Option<(usize, Fate)>> = whom.iter().map(|who| Some((*who, Fate::Answered))).collect();
            if *faults > 0 {
                for fate in [Fate::AnswerLost, Fate::CallLost, Fate::Refused] {
                    let links = whom.iter().filter(|who| parked[**who].replica != usize::MAX);
                    choices.extend(links.map(|who| Some((*who, fate))));
                }
            }
            if *waits > 0 && !parked.is_empty() {
                choices.push(None);
            }
            (parked.len(), choices)
        };
        if first == 0 {
            return;
        }
        match choices[way.choose(choices.len())] {
            None => {
                *waits -= 1;
                if self.waits.1 > LEASE_TTL {
                    (0..2).for_each(|replica| server.rules.trouble(Some(replica)));
                }
                tokio::time::sleep(self.waits.1).await;
            }
            Some((who, fate)) => {
                *faults -= usize::from(fate != Fate::Answered);
                let mut parked = gates.parked.lock().unwrap();
                let chosen = parked.remove(who);
                parked.iter_mut().for_each(|other| other.passed_over += 1);
                // Who is gone meanwhile needs no answer.
                let _ = chosen.go.send(fate);
            }
        }
    }
}

const TIME_PASSES: (usize, Duration) = (1, ms(70));

#[test]
fn s1_two_first_requests_in_every_order() {
    for requests in [&[(0, Ask::Page), (1, Ask::Page)], &[(0, Ask::Basket), (1, Ask::LogIn)]] {
        for (faults, waits) in [(0, TIME_PASSES), (1, (0, Duration::ZERO))] {
            let case = Case {
                begins_with: None,
                requests,
                faults,
                waits,
                most: 2000,
            };
            assert!(case.explore() > 100);
        }
    }
}

#[test]
fn c1_a_log_in_and_a_late_response_in_every_order() {
    for late in [Ask::Page, Ask::Basket, Ask::LogOut, Ask::LogIn] {
        for on in [0, 1] {
            let requests: &'static [(usize, Ask)] = Box::leak(Box::new([(0, Ask::LogIn), (on, late), (1, Ask::Page)]));
            let case = Case {
                begins_with: Some(Ask::Page),
                requests,
                faults: 0,
                waits: (0, Duration::ZERO),
                most: 2000,
            };
            assert!(case.explore() > 100);
        }
    }
}

#[test]
fn c3_a_log_out_and_a_late_response_in_every_order() {
    for late in [Ask::Page, Ask::Basket, Ask::LogOut] {
        for on in [0, 1] {
            let requests: &'static [(usize, Ask)] = Box::leak(Box::new([(0, Ask::LogOut), (on, late)]));
            let case = Case {
                begins_with: Some(Ask::LogIn),
                requests,
                faults: 1,
                waits: (0, Duration::ZERO),
                most: 2000,
            };
            assert!(case.explore() > 100);
        }
    }
}

#[test]
fn f3_a_first_request_whose_answers_are_lost_and_a_log_out_in_every_order() {
    let case = Case {
        begins_with: None,
        requests: &[(0, Ask::Basket), (1, Ask::LogOut)],
        faults: if super::LOST_CREATION { 2 } else { 0 },
        waits: (0, Duration::ZERO),
        most: 4000,
    };
    assert!(case.explore() > 10);
}

#[test]
fn s3_a_lease_that_runs_out_before_the_commit_in_every_order() {
    for second in [Ask::Page, Ask::LogIn] {
        let requests: &'static [(usize, Ask)] = Box::leak(Box::new([(0, Ask::Basket), (1, second)]));
        let case = Case {
            begins_with: None,
            requests,
            faults: 0,
            waits: (1, ms(2100)),
            most: 2000,
        };
        assert!(case.explore() > 100);
    }
}
