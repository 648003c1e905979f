//! Whether this replica should be sent requests, and why not.
//!
//! Each part of the bridge that can fail is probed in the background and reports here; asking costs nothing and waits
//! for nobody. Only what other replicas might do better takes this one out: a store that cannot be reached does, where
//! requests are refused without it. The upstream does not: all replicas share it, and taking them all out would only
//! turn clear answers of the bridge into errors of the load balancer. It is reported all the same.
//!
//! One probe that fails says little: a connection that broke, a store that paused. So a part has a [`Patience`]: it turns
//! bad after so many failures in a row, and good again after so many successes in a row. The first success ever counts
//! at once, so that a start takes no longer than it must.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::session::clock::{Clock, SystemClock, Timestamp};

/// Whether a failing part makes the replica unready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Without it the replica is not ready.
    Required,
    /// Its failure is reported, and no more.
    Reported,
}

/// The readiness of this replica: its parts, and whether it is draining.
pub struct Readiness {
    clock: Arc<dyn Clock>,
    draining: AtomicBool,
    parts: Vec<(&'static str, Arc<Part>)>,
}

/// How many answers in a row it takes to change the mind about a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// This many failures make it bad.
    pub failures: u32,
    /// This many successes make it good again.
    pub successes: u32,
}

impl Patience {
    /// Every answer counts at once.
    pub const NONE: Self = Self {
        failures: 1,
        successes: 1,
    };
}

/// One part, to be kept by whoever probes it. It counts as failing until it is first found well.
pub struct Part {
    weight: Weight,
    patience: Patience,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    failure: Option<String>,
    /// Since when it is as it is.
    since: Timestamp,
    /// It was found well once.
    proven: bool,
    /// How many answers in a row have contradicted the state.
    against: u32,
    /// When the first of them came.
    turned: Timestamp,
}

/// A moment's readiness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether requests should be sent here.
    pub ready: bool,
    /// Whether this replica is shutting down.
    pub draining: bool,
    /// Every part by its name.
    pub parts: BTreeMap<&'static str, PartReport>,
}

/// A moment's state of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartReport {
    /// Whether it works.
    pub ok: bool,
    /// Whether the replica is unready without it.
    pub required: bool,
    /// Since when that is so: for a failing part, when the first of the failures came. Milliseconds since the Unix epoch.
    pub since: Timestamp,
    /// Why it does not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl Readiness {
    /// Without any part; the time is taken from `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            draining: AtomicBool::new(false),
            parts: Vec::new(),
        }
    }

    /// Adds a part, failing as "not probed yet".
    pub fn part(&mut self, name: &'static str, weight: Weight, patience: Patience) -> Arc<Part> {
        let now = self.clock.now();
        let part = Arc::new(Part {
            weight,
            patience,
            clock: Arc::clone(&self.clock),
            state: Mutex::new(State {
                failure: Some("not probed yet".to_owned()),
                since: now,
                proven: false,
                against: 0,
                turned: now,
            }),
        });
        self.parts.push((name, Arc::clone(&part)));
        part
    }

    /// Makes the replica unready for good.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether it is shutting down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether requests should be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.is_draining()
            && self
                .parts
                .iter()
                .all(|(_, part)| part.weight == Weight::Reported || part.is_ok())
    }

    /// The state of everything.
    #[must_use]
    pub fn report(&self) -> Report {
        let draining = self.is_draining();
        let parts: BTreeMap<_, _> = self.parts.iter().map(|(name, part)| (*name, part.report())).collect();
        Report {
            ready: !draining && parts.values().all(|part| part.ok || !part.required),
            draining,
            parts,
        }
    }

    /// The report as an answer: 200 when ready, else 503. For both listeners.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        let report = self.report();
        let mut body = serde_json::to_vec(&report).unwrap_or_default();
        body.push(b'\n');
        let mut response = Response::new(Bytes::from(body));
        if !report.ready {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl Part {
    /// It was found working.
    pub fn ok(&self) {
        self.set(None);
    }

    /// It was found failing. Anyone who can reach the traffic listener can read `reason`: it must hold no secret, and
    /// had better name no address.
    pub fn failed(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    /// Whether it works, as far as is known.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.state().failure.is_none()
    }

    fn set(&self, failure: Option<String>) {
        let now = self.clock.now();
        let mut state = self.state();
        let (fails, failed) = (failure.is_some(), state.failure.is_some());
        if fails == failed {
            state.against = 0;
            // The latest reason is told.
            state.failure = failure;
            return;
        }
        if state.against == 0 {
            state.turned = now;
        }
        state.against += 1;
        let enough = if fails {
            self.patience.failures
        } else {
            self.patience.successes
        };
        if state.against >= enough || (!fails && !state.proven) {
            *state = State {
                failure,
                since: state.turned,
                proven: state.proven || !fails,
                against: 0,
                turned: now,
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> PartReport {
        let state = self.state();
        PartReport {
            ok: state.failure.is_none(),
            required: self.weight == Weight::Required,
            since: state.since,
            reason: state.failure.clone(),
        }
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("report", &self.report())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::session::clock::ManualClock;

    /// As the store's.
    const STEADY: Patience = Patience {
        failures: 3,
        successes: 2,
    };

    fn readiness() -> (Readiness, ManualClock) {
        let clock = ManualClock::at(Timestamp::from_millis(1_000));
        (Readiness::new(Arc::new(clock.clone())), clock)
    }

    fn seen(readiness: &Readiness) -> (u16, Value) {
        let response = readiness.response();
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["ready"], readiness.is_ready());
        assert_eq!(response.headers()["content-type"], "application/json");
        (response.status().as_u16(), body)
    }

    #[test]
    fn a_required_part_that_fails_takes_the_replica_out_with_its_reason_and_since_when() {
        let (mut readiness, clock) = readiness();
        let store = readiness.part("store", Weight::Required, Patience::NONE);
        store.ok();
        assert_eq!(seen(&readiness).0, 200);
        clock.advance(Duration::from_secs(1));
        store.failed("no answer in time");
        clock.advance(Duration::from_secs(1));
        store.failed("connection refused");
        let parts = json!({"store": {"ok": false, "required": true, "since": 2000, "reason": "connection refused"}});
        assert_eq!(
            seen(&readiness),
            (503, json!({"ready": false, "draining": false, "parts": parts}))
        );
        store.ok();
        let parts = json!({"store": {"ok": true, "required": true, "since": 3000}});
        assert_eq!(
            seen(&readiness),
            (200, json!({"ready": true, "draining": false, "parts": parts}))
        );
    }

    #[test]
    fn a_part_turns_bad_after_failures_in_a_row_and_good_after_successes_in_a_row() {
        let (mut readiness, clock) = readiness();
        let store = readiness.part("store", Weight::Required, STEADY);
        let after = |answer: bool| {
            clock.advance(Duration::from_millis(500));
            if answer {
                store.ok()
            } else {
                store.failed("no answer")
            }
            seen(&readiness).0
        };
        assert_eq!(after(true), 200, "the first success at start counts at once");
        let answers = [false, false, true, false, false, true, true];
        assert_eq!(answers.map(after), [200; 7], "never three failures in a row");
        assert_eq!([false, false, false].map(after), [200, 200, 503]);
        assert_eq!(
            seen(&readiness).1["parts"]["store"]["since"],
            1_000 + 9 * 500,
            "the first of the three"
        );
        assert_eq!(
            [true, false, true, false].map(after),
            [503; 4],
            "never two successes in a row"
        );
        assert_eq!([true, true].map(after), [503, 200]);
    }

    #[test]
    fn a_start_without_the_store_is_unready_until_its_first_success() {
        let (mut readiness, _) = readiness();
        let store = readiness.part("store", Weight::Required, STEADY);
        for _ in 0..5 {
            store.failed("no answer");
            assert_eq!(seen(&readiness).0, 503);
        }
        store.ok();
        assert_eq!(seen(&readiness).0, 200);
    }

    #[test]
    fn a_reported_part_that_fails_is_shown_and_no_more() {
        let (mut readiness, _) = readiness();
        readiness
            .part("upstream", Weight::Reported, Patience::NONE)
            .failed("connection refused");
        let (status, body) = seen(&readiness);
        assert_eq!(status, 200);
        assert_eq!(
            body["parts"]["upstream"],
            json!({"ok": false, "required": false, "since": 1000, "reason": "connection refused"})
        );
    }

    #[test]
    fn a_required_part_counts_as_failing_until_it_was_probed() {
        let (mut readiness, _) = readiness();
        let store = readiness.part("store", Weight::Required, STEADY);
        assert_eq!(seen(&readiness).0, 503);
        store.ok();
        assert_eq!(seen(&readiness).0, 200);
    }

    #[test]
    fn draining_makes_it_unready_at_once_and_for_good() {
        let (mut readiness, _) = readiness();
        let store = readiness.part("store", Weight::Required, STEADY);
        store.ok();
        readiness.start_draining();
        let (status, body) = seen(&readiness);
        assert_eq!((status, &body["draining"]), (503, &Value::Bool(true)));
        store.ok();
        assert_eq!(seen(&readiness).0, 503);
    }
}
