//! Requests without an Install ID that go on with a session of their address (rule B2).
//!
//! An app whose first requests come without an ID would start a session with each. Where it is allowed, such a request
//! goes on with the newest session that was started from its address, as long as nothing is at stake in it: nobody has
//! done anything there yet but look. Whoever does something takes the session off the list for good, *before* that is
//! sent to the backend; and a request that does something never adopts.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::bind::is_elsewhere;
use super::sessions::Sessions;
use crate::session::quota::key_of;
use crate::session::record::{Rank, Snapshot};
use crate::session::store::{Key, StoreError};

/// Finds sessions that may be adopted.
pub struct Adoption {
    sessions: Arc<Sessions>,
    window: Duration,
    candidates: usize,
}

impl Adoption {
    /// Of the last `candidates` sessions of an address, those that were started within `window`.
    #[must_use]
    pub const fn new(sessions: Arc<Sessions>, window: Duration, candidates: usize) -> Self {
        Self {
            sessions,
            window,
            candidates,
        }
    }

    /// Notes that a client at `address` has started the session of `key`.
    ///
    /// # Errors
    /// Whatever keeps the store from answering: then it is not found.
    pub async fn started(&self, address: IpAddr, key: Key) -> Result<(), StoreError> {
        let at = self.sessions.now();
        self.sessions
            .add_newest(&place(address), key, at, self.candidates, self.window)
            .await
    }

    /// The session that a request of `address` without an ID goes on with.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn find(&self, address: IpAddr) -> Result<Option<(Key, Arc<Snapshot>)>, StoreError> {
        let newest = self.sessions.newest(&place(address)).await?;
        for key in newest.within(self.window, self.sessions.now()) {
            if let Some(snapshot) = self.look(&key, address).await? {
                return Ok(Some((key, snapshot)));
            }
        }
        Ok(None)
    }

    /// The session of `key`, if a request of `address` without an ID may go on with it now.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn look(&self, key: &Key, address: IpAddr) -> Result<Option<Arc<Snapshot>>, StoreError> {
        // The store is asked, and no copy: what counts is what was done a moment ago.
        let (found, lease) = self.sessions.observe(key).await?;
        let may_be = |snapshot: &Arc<Snapshot>| {
            // The response that started it has ended, or whoever leads would have the lease.
            let is_settled = !lease.held || !snapshot.record.is_settling(self.sessions.now());
            is_settled && self.may_be_adopted(snapshot, address)
        };
        Ok(found.filter(may_be))
    }

    fn may_be_adopted(&self, snapshot: &Snapshot, address: IpAddr) -> bool {
        let (record, now) = (&snapshot.record, self.sessions.now());
        record.past().is_some_and(|past| past.calm)
            && !is_elsewhere(Some(snapshot), address)
            && now.since(record.started_at()) < self.window
            && self.sessions.has_session(Some(snapshot))
    }

    /// To be called before a request of rank `rank` is sent with `snapshot`: from when this returns, nobody adopts that
    /// session any more if the request puts anything at stake. Returns what it is sent with.
    ///
    /// # Errors
    /// Whatever keeps the store from answering: then the request must not be sent with it.
    pub async fn stake(&self, key: &Key, snapshot: Arc<Snapshot>, rank: Rank) -> Result<Arc<Snapshot>, StoreError> {
        let is_calm = snapshot.record.past().is_some_and(|past| past.calm);
        if rank == Rank::Safe || !is_calm {
            return Ok(snapshot);
        }
        self.sessions.stake(key, snapshot).await
    }
}

fn place(address: IpAddr) -> Key {
    key_of("sessions of", &address.to_canonical().to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;
    use proptest::test_runner::Config;

    use super::*;
    use crate::bridge::change::{Change, Outcome};
    use crate::metrics::Metrics;
    use crate::session::clock::{ManualClock, Timestamp};
    use crate::session::cookie::{Origin, parse_set_cookie};
    use crate::session::glob::Glob;
    use crate::session::merge::Said;
    use crate::session::past::By;
    use crate::session::record::{CookiePolicy, Lifetime};
    use crate::store::memory::MemoryStore;

    const WINDOW: Duration = Duration::from_secs(600);

    /// One thing that happens, at a replica.
    #[derive(Clone, Debug)]
    enum Step {
        /// A whole request of that installation, from that address.
        Request {
            id: u8,
            address: u8,
            rank: Rank,
        },
        /// One without an ID.
        Adopt {
            address: u8,
        },
        /// The first half of a request: up to when it is sent; the second half comes with the next step of that kind.
        Slow {
            id: u8,
            address: u8,
            rank: Rank,
        },
        Pass {
            seconds: u64,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        let rank = prop_oneof![4 => Just(Rank::Safe), 2 => Just(Rank::Unsafe), 1 => Just(Rank::Auth)];
        let who = (0..6_u8, 0..2_u8, rank);
        prop_oneof![
            5 => who.clone().prop_map(|(id, address, rank)| Step::Request { id, address, rank }),
            2 => who.prop_map(|(id, address, rank)| Step::Slow { id, address, rank }),
            4 => (0..2_u8).prop_map(|address| Step::Adopt { address }),
            1 => (1..400_u64).prop_map(|seconds| Step::Pass { seconds }),
        ]
    }

    struct World {
        clock: ManualClock,
        sessions: Arc<Sessions>,
        adoption: Adoption,
        metrics: Metrics,
        /// The sessions, by their cookie, that anything was ever sent with that is not safe, or that it has started.
        at_stake: HashSet<Vec<u8>>,
        started: HashMap<Key, (u8, Timestamp)>,
        slow: Vec<(Key, u8, Rank, Option<Arc<Snapshot>>)>,
    }

    fn sid(snapshot: &Snapshot) -> Vec<u8> {
        snapshot
            .record
            .jar()
            .iter()
            .map(|cookie| cookie.value().to_vec())
            .next()
            .unwrap_or_default()
    }

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    impl World {
        fn new(candidates: usize) -> Self {
            let clock = ManualClock::at(Timestamp::from_millis(1_800_000_000_000));
            let sessions = Arc::new(Sessions::new(
                Arc::new(MemoryStore::new(Arc::new(clock.clone()))),
                Arc::new(clock.clone()),
                Arc::new(Metrics::new(&[])),
                CookiePolicy::new(vec![Glob::new("*")], vec![Glob::new("sid")]),
                Lifetime {
                    idle_timeout: Duration::from_secs(86_400),
                    max_age: None,
                },
            ));
            Self {
                adoption: Adoption::new(Arc::clone(&sessions), WINDOW, candidates),
                sessions,
                clock,
                metrics: Metrics::new(&[]),
                at_stake: HashSet::new(),
                started: HashMap::new(),
                slow: Vec::new(),
            }
        }

        /// Up to when the request is sent, as the bridge does it.
        async fn send(&mut self, key: Key, rank: Rank) -> Option<Arc<Snapshot>> {
            let found = self.sessions.load(&key).await.unwrap();
            let held = match found {
                Some(snapshot) => Some(self.adoption.stake(&key, snapshot, rank).await.unwrap()),
                None => None,
            };
            if rank != Rank::Safe {
                self.at_stake.extend(held.as_deref().map(sid));
            }
            held
        }

        async fn respond(&mut self, key: Key, from: u8, rank: Rank, held: Option<Arc<Snapshot>>) {
            let now = self.sessions.now();
            let origin = Origin::new("shop.example", "/");
            let line = format!("sid={}; Path=/", fastrand::u64(..));
            let starts = held.is_none();
            let cookies = if starts || rank == Rank::Auth {
                vec![parse_set_cookie(line.as_bytes(), &origin, now).unwrap()]
            } else {
                Vec::new()
            };
            if rank != Rank::Safe {
                self.at_stake
                    .extend(cookies.iter().map(|cookie| cookie.value().to_vec()));
            }
            let by = By {
                address: address(from),
                network: None,
                watched: true,
            };
            let said = Said { rank, cookies, at: now };
            let change = Change::new(held.clone(), now, said, None).by(Some(by));
            let outcome = change.store(&self.sessions, &self.metrics, &key, held, None).await;
            assert!(matches!(outcome, Ok(Outcome::Settled(_))));
            if starts && !self.started.contains_key(&key) {
                self.started.insert(key, (from, now));
                self.adoption.started(address(from), key).await.unwrap();
            }
        }

        async fn step(&mut self, step: Step) {
            match step {
                Step::Request { id, address, rank } => {
                    let key = Key::from_digest([id + 1; 16]);
                    let held = self.send(key, rank).await;
                    self.respond(key, address, rank, held).await;
                }
                Step::Slow { id, address, rank } => {
                    let key = Key::from_digest([id + 1; 16]);
                    let held = self.send(key, rank).await;
                    self.slow.push((key, address, rank, held));
                    if self.slow.len() > 2 {
                        let (key, address, rank, held) = self.slow.remove(0);
                        self.respond(key, address, rank, held).await;
                    }
                }
                Step::Adopt { address: from } => {
                    let Some((key, snapshot)) = self.adoption.find(address(from)).await.unwrap() else {
                        return;
                    };
                    let is_at_stake = self.at_stake.contains(&sid(&snapshot));
                    assert!(!is_at_stake, "something is at stake in the adopted session");
                    let (of, at) = self.started[&key];
                    assert_eq!(of, from, "it was started from another address");
                    assert!(self.sessions.now().since(at) < WINDOW, "it is too old");
                }
                Step::Pass { seconds } => self.clock.advance(Duration::from_secs(seconds)),
            }
        }
    }

    proptest! {
        #![proptest_config(Config { cases: 400, ..Config::default() })]
        #[test]
        fn b2_adoption_never_gives_a_session_with_anything_at_stake(
            candidates in 1_usize..=10,
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut world = World::new(candidates);
                for step in steps {
                    world.step(step).await;
                }
            });
        }
    }

    #[tokio::test]
    async fn b2_the_newest_calm_session_of_the_address_is_adopted_of_the_last_so_many() {
        let mut world = World::new(2);
        for id in 0..3 {
            world
                .step(Step::Request {
                    id,
                    address: 1,
                    rank: Rank::Safe,
                })
                .await;
            world.clock.advance(Duration::from_secs(1));
        }
        let key = |id: u8| Key::from_digest([id + 1; 16]);
        let found = async |world: &World, from| world.adoption.find(address(from)).await.unwrap().map(|(key, _)| key);
        assert_eq!(found(&world, 1).await, Some(key(2)));
        assert_eq!(found(&world, 0).await, None, "another address");
        world
            .step(Step::Request {
                id: 2,
                address: 1,
                rank: Rank::Unsafe,
            })
            .await;
        assert_eq!(found(&world, 1).await, Some(key(1)));
        world
            .step(Step::Request {
                id: 1,
                address: 1,
                rank: Rank::Auth,
            })
            .await;
        assert_eq!(found(&world, 1).await, None, "the third one is not looked at");
    }

    #[tokio::test]
    async fn b2_what_is_too_old_is_not_adopted() {
        let mut world = World::new(10);
        world
            .step(Step::Request {
                id: 1,
                address: 1,
                rank: Rank::Safe,
            })
            .await;
        world.clock.advance(WINDOW - Duration::from_millis(1));
        assert!(world.adoption.find(address(1)).await.unwrap().is_some());
        world.clock.advance(Duration::from_millis(1));
        assert!(world.adoption.find(address(1)).await.unwrap().is_none());
    }
}
