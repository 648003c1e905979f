//! How many sessions may be started (rule B3): for each client address, and in all; counted by the store for all replicas.
//!
//! Who would go to the backend without a session takes a place first, and gives it back where none was started. So the
//! count is of sessions, never below it, and a client whose requests start none is not held up.
//!
//! Once the store has said that there is no place, this replica knows that for a moment: a flood of invented Install IDs
//! costs the store what it costs to look for their sessions, and no lease.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::sessions::Sessions;
use crate::session::quota::{Place, Quota, Taken, key_of};
use crate::session::store::{Key, StoreError};

/// For how long it is known that there is no place. Not for as long as the store says: a place may be given back.
const KNOWN_FULL: Duration = Duration::from_secs(1);

/// Of how many addresses that is known at most.
const MAX_KNOWN: usize = 10_000;

/// What of an IPv6 address names a client: a network of that many bits is what one subscriber is given.
const IPV6_PREFIX: u8 = 64;

/// How many sessions may be started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// By each client address.
    pub per_address: Option<Quota>,
    /// In all.
    pub in_all: Option<Quota>,
}

/// Counts those who may start a session.
pub struct Admission {
    sessions: Arc<Sessions>,
    limits: Limits,
    tasks: TaskTracker,
    full: Mutex<HashMap<Key, Instant>>,
}

/// Why somebody may not.
#[derive(Debug)]
pub enum Denied {
    /// So many sessions were started lately; when to try again.
    Full(Duration),
    /// The store did not answer.
    Store(StoreError),
}

impl Admission {
    /// Counts in the store of `sessions`; `None` where nothing is limited.
    #[must_use]
    pub fn new(sessions: Arc<Sessions>, limits: Limits, tasks: TaskTracker) -> Option<Arc<Self>> {
        let is_limited = limits.per_address.is_some() || limits.in_all.is_some();
        is_limited.then(|| {
            Arc::new(Self {
                sessions,
                limits,
                tasks,
                full: Mutex::default(),
            })
        })
    }

    /// How long that client has to wait, where it is known without asking that it has to.
    #[must_use]
    pub fn is_full(&self, client: IpAddr) -> Option<Duration> {
        let now = Instant::now();
        let full = self.known();
        let waits = self.quotas(client).into_iter().filter_map(|(key, _)| full.get(&key));
        waits
            .map(|until| until.saturating_duration_since(now))
            .max()
            .filter(|wait| !wait.is_zero())
    }

    /// Takes a place for a session that `client` may start.
    ///
    /// # Errors
    /// See [`Denied`].
    pub async fn admit(self: &Arc<Self>, client: IpAddr) -> Result<Admitted, Denied> {
        if let Some(wait) = self.is_full(client) {
            return Err(Denied::Full(wait));
        }
        // Dropped on the way, it gives back what was taken so far.
        let mut admitted = Admitted {
            admission: Arc::clone(self),
            places: Vec::new(),
        };
        for (key, quota) in self.quotas(client) {
            match self.sessions.take_place(&key, quota).await.map_err(Denied::Store)? {
                Taken::Place(place) => admitted.places.push((key, quota, place)),
                Taken::Full { wait } => {
                    self.remember(key, wait);
                    return Err(Denied::Full(wait));
                }
            }
        }
        Ok(admitted)
    }

    /// The address first: whoever is held up by that takes nothing from the others.
    ///
    /// What is counted within another time is counted elsewhere: the slices of the one mean nothing to the other.
    fn quotas(&self, client: IpAddr) -> Vec<(Key, Quota)> {
        let place = |what: &str, whom: &str, quota: Quota| {
            let within = quota.within.as_millis();
            (key_of(what, &format!("{whom} within {within} ms")), quota)
        };
        let Limits { per_address, in_all } = self.limits;
        let of_address = per_address.map(|quota| place("new sessions of", &unit(client), quota));
        let of_all = in_all.map(|quota| place("new sessions", "all", quota));
        of_address.into_iter().chain(of_all).collect()
    }

    fn remember(&self, key: Key, wait: Duration) {
        let now = Instant::now();
        let mut full = self.known();
        if full.len() >= MAX_KNOWN {
            full.retain(|_, until| *until > now);
        }
        if full.len() < MAX_KNOWN {
            full.insert(key, now + wait.min(KNOWN_FULL));
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Instant>> {
        // Whole at every moment, whatever happened to another thread.
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one client.
fn unit(client: IpAddr) -> String {
    match client.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => ipnet::Ipv6Net::new(address, IPV6_PREFIX)
            .map_or_else(|_| address.to_string(), |network| network.trunc().to_string()),
    }
}

/// A place that was taken. Dropped, it is given back.
pub struct Admitted {
    admission: Arc<Admission>,
    places: Vec<(Key, Quota, Place)>,
}

impl Admitted {
    /// A session was started, or may have been: it counts.
    pub fn used(mut self) {
        self.places.clear();
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let places = std::mem::take(&mut self.places);
        if places.is_empty() {
            return;
        }
        let sessions = Arc::clone(&self.admission.sessions);
        self.admission.tasks.spawn(async move {
            for (key, quota, place) in places {
                if let Err(error) = sessions.give_back(&key, quota, place).await {
                    tracing::debug!(%error, "a place was not given back; it counts until its time is over");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::session::clock::ManualClock;
    use crate::session::clock::Timestamp;
    use crate::session::glob::Glob;
    use crate::session::record::{CookiePolicy, Lifetime};
    use crate::store::memory::MemoryStore;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn quota(most: u32, seconds: u64) -> Option<Quota> {
        Some(Quota {
            most,
            within: Duration::from_secs(seconds),
        })
    }

    fn admission(store: &Arc<MemoryStore>, clock: &ManualClock, limits: Limits) -> Arc<Admission> {
        let sessions = Sessions::new(
            Arc::clone(store) as Arc<_>,
            Arc::new(clock.clone()),
            Arc::new(Metrics::new(&[])),
            CookiePolicy::new(vec![Glob::new("*")], Vec::new()),
            Lifetime {
                idle_timeout: Duration::from_secs(3600),
                max_age: None,
            },
        );
        Admission::new(Arc::new(sessions), limits, TaskTracker::new()).expect("a limit")
    }

    fn world(limits: Limits) -> ([Arc<Admission>; 2], ManualClock) {
        let clock = ManualClock::at(Timestamp::from_millis(1_800_000_000_000));
        let store = Arc::new(MemoryStore::new(Arc::new(clock.clone())));
        ([(); 2].map(|()| admission(&store, &clock, limits)), clock)
    }

    #[tokio::test(start_paused = true)]
    async fn b3_places_are_counted_for_each_address_and_in_all_over_all_replicas() {
        let ([one, two], clock) = world(Limits {
            per_address: quota(2, 60),
            in_all: quota(3, 60),
        });
        one.admit(HERE).await.expect("the first").used();
        two.admit(HERE).await.expect("the second").used();
        assert!(matches!(one.admit(HERE).await, Err(Denied::Full(_))));
        assert!(matches!(two.admit(HERE).await, Err(Denied::Full(_))));
        one.admit(THERE).await.expect("another address").used();
        let Err(Denied::Full(wait)) = two.admit(THERE).await else {
            panic!("a fourth in all")
        };
        assert!(wait > Duration::from_secs(50), "{wait:?}");
        clock.advance(Duration::from_secs(66));
        tokio::time::advance(Duration::from_secs(66)).await;
        two.admit(HERE).await.expect("a minute later").used();
    }

    #[tokio::test(start_paused = true)]
    async fn b3_what_started_no_session_counts_for_nothing() {
        let ([one, two], _clock) = world(Limits {
            per_address: quota(1, 60),
            in_all: quota(1, 60),
        });
        for _ in 0..5 {
            drop(one.admit(HERE).await.expect("a place"));
            one.tasks.close();
            one.tasks.wait().await;
        }
        // Who is refused in all gives back what was taken for the address.
        let held = one.admit(THERE).await.expect("a place");
        assert!(matches!(two.admit(HERE).await, Err(Denied::Full(_))));
        drop(held);
        for tasks in [&one.tasks, &two.tasks] {
            tasks.close();
            tasks.wait().await;
        }
        tokio::time::advance(KNOWN_FULL).await;
        two.admit(HERE).await.expect("a place").used();
    }

    #[tokio::test(start_paused = true)]
    async fn b3_what_was_counted_within_another_time_holds_nobody_up_when_the_limit_is_changed() {
        let clock = ManualClock::at(Timestamp::from_millis(1_800_000_000_000));
        let store = Arc::new(MemoryStore::new(Arc::new(clock.clone())));
        let limits = |seconds| Limits {
            per_address: quota(3, seconds),
            in_all: quota(3, seconds),
        };
        let before = admission(&store, &clock, limits(60));
        before.admit(HERE).await.expect("a place").used();
        let after = admission(&store, &clock, limits(3600));
        for round in 0..10 {
            let admitted = after.admit(HERE).await;
            admitted
                .unwrap_or_else(|_| panic!("one an hour is too many in round {round}"))
                .used();
            clock.advance(Duration::from_secs(3600));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn b3_that_there_is_no_place_is_known_for_a_moment_without_asking() {
        let ([one, _], _clock) = world(Limits {
            per_address: quota(1, 60),
            in_all: None,
        });
        one.admit(HERE).await.expect("a place").used();
        assert_eq!(one.is_full(HERE), None);
        assert!(one.admit(HERE).await.is_err());
        assert!(one.is_full(HERE).is_some_and(|wait| wait <= KNOWN_FULL));
        assert_eq!(one.is_full(THERE), None);
        tokio::time::advance(KNOWN_FULL).await;
        assert_eq!(one.is_full(HERE), None);
    }

    #[test]
    fn b3_a_client_is_an_ipv4_address_or_what_a_subscriber_has_of_ipv6() {
        for (address, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(unit(address.parse().unwrap()), expected);
        }
        assert!(admission_of_nothing());
    }

    fn admission_of_nothing() -> bool {
        let clock = ManualClock::at(Timestamp::from_millis(0));
        let store = Arc::new(MemoryStore::new(Arc::new(clock.clone())));
        let some = admission(
            &store,
            &clock,
            Limits {
                per_address: quota(1, 1),
                in_all: None,
            },
        );
        Admission::new(Arc::clone(&some.sessions), Limits::default(), TaskTracker::new()).is_none()
    }
}
