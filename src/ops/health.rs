//! Whether this replica should be sent requests, and why not.
//!
//! Each part of the bridge that can fail is probed in the background and reports here; asking costs nothing and waits
//! for nobody. Only what other replicas might do better takes this one out: a store that cannot be reached does, where
//! requests are refused without it. The upstream does not: all replicas share it, and taking them all out would only
//! turn clear answers of the bridge into errors of the load balancer. It is reported all the same.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

/// Whether a failing part makes the replica unready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Without it the replica is not ready.
    Required,
    /// Its failure is reported, and no more.
    Reported,
}

/// The readiness of this replica: its parts, and whether it is draining.
#[derive(Debug, Default)]
pub struct Readiness {
    draining: AtomicBool,
    parts: Vec<(&'static str, Arc<Part>)>,
}

/// One part, to be kept by whoever probes it. It counts as failing until it is first found well.
#[derive(Debug)]
pub struct Part {
    weight: Weight,
    failure: Mutex<Option<String>>,
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
    /// Why it does not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Readiness {
    /// Adds a part, failing as "not probed yet".
    pub fn part(&mut self, name: &'static str, weight: Weight) -> Arc<Part> {
        let part = Arc::new(Part {
            weight,
            failure: Mutex::new(Some("not probed yet".to_owned())),
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

    /// Whether it worked when it was last looked at.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn set(&self, failure: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    fn report(&self) -> PartReport {
        let reason = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PartReport {
            ok: reason.is_none(),
            required: self.weight == Weight::Required,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(readiness: &Readiness) -> (u16, Value) {
        let response = readiness.response();
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["ready"], readiness.is_ready());
        assert_eq!(response.headers()["content-type"], "application/json");
        (response.status().as_u16(), body)
    }

    #[test]
    fn a_required_part_that_fails_takes_the_replica_out_with_its_reason() {
        let mut readiness = Readiness::default();
        let store = readiness.part("store", Weight::Required);
        store.ok();
        assert_eq!(seen(&readiness).0, 200);
        store.failed("no answer in time");
        let parts = json!({"store": {"ok": false, "required": true, "reason": "no answer in time"}});
        assert_eq!(
            seen(&readiness),
            (503, json!({"ready": false, "draining": false, "parts": parts}))
        );
        store.ok();
        let parts = json!({"store": {"ok": true, "required": true}});
        assert_eq!(
            seen(&readiness),
            (200, json!({"ready": true, "draining": false, "parts": parts}))
        );
    }

    #[test]
    fn a_reported_part_that_fails_is_shown_and_no_more() {
        let mut readiness = Readiness::default();
        readiness
            .part("upstream", Weight::Reported)
            .failed("connection refused");
        let (status, body) = seen(&readiness);
        assert_eq!(status, 200);
        assert_eq!(
            body["parts"]["upstream"],
            json!({"ok": false, "required": false, "reason": "connection refused"})
        );
    }

    #[test]
    fn a_required_part_counts_as_failing_until_it_was_probed() {
        let mut readiness = Readiness::default();
        let store = readiness.part("store", Weight::Required);
        assert_eq!(seen(&readiness).0, 503);
        store.ok();
        assert_eq!(seen(&readiness).0, 200);
    }

    #[test]
    fn draining_makes_it_unready_at_once_and_for_good() {
        let mut readiness = Readiness::default();
        let store = readiness.part("store", Weight::Required);
        store.ok();
        readiness.start_draining();
        let (status, body) = seen(&readiness);
        assert_eq!((status, &body["draining"]), (503, &Value::Bool(true)));
        store.ok();
        assert_eq!(seen(&readiness).0, 503);
    }
}
