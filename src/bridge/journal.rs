//! What is told of a request: one log line, and the metrics. Nothing secret passes through here; the Install ID is known
//! by its digest alone.

use std::fmt;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::refuse::Refusal;
use crate::access_log::Line;
use crate::metrics::{Metrics, Outcome, StatusClass};
use crate::moment;
use crate::session::clock::{Clock as _, SystemClock, Timestamp};
use crate::session::store::Key;
use crate::wire::body::Body;
use crate::wire::fields::name;
use crate::wire::headers;
use crate::wire::message::{RequestHead, Response};

/// A request that takes no longer is told of as if nobody had set the wall clock meanwhile.
const QUICK: Duration = Duration::from_secs(1);

/// What became of the session, as far as the request has come.
pub type Session = Outcome;

/// The story of one request. Told once: when it is closed, or when it is dropped because its connection ended: the client
/// left, or the bridge was stopped by force.
pub struct Journal<'a> {
    metrics: &'a Metrics,
    method: Method,
    route: &'a str,
    request_id: HeaderValue,
    install: Option<Key>,
    session: Outcome,
    came: Duration,
    started: Instant,
    dispatched: Option<Instant>,
    responded: Option<Instant>,
    refusal: Option<&'static str>,
    cause: Option<String>,
    told: bool,
}

impl<'a> Journal<'a> {
    /// Begins the story of the request with that head, which came so long after the Unix epoch.
    #[must_use]
    pub fn open(head: &RequestHead, route: &'a str, came: Duration, metrics: &'a Metrics) -> Self {
        Self {
            metrics,
            method: head.method.clone(),
            route,
            request_id: headers::request_id(&head.fields, Timestamp::after_epoch(came).as_millis()),
            install: None,
            session: Outcome::None,
            came,
            started: moment::lately(),
            dispatched: None,
            responded: None,
            refusal: None,
            cause: None,
            told: false,
        }
    }

    /// The request's identity: the client's own where it is sane, else made up.
    #[must_use]
    pub const fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    /// Whose request it is.
    pub const fn identified(&mut self, install: Option<Key>) {
        self.install = install;
    }

    /// What became of the session so far.
    pub const fn session(&mut self, session: Session) {
        self.session = session;
    }

    /// It goes to the backend.
    pub fn dispatched(&mut self) {
        self.dispatched = Some(moment::now());
    }

    /// The backend has answered, or will not.
    pub fn responded(&mut self) {
        self.responded = Some(moment::now());
    }

    /// What stood in the way, for operators.
    pub fn cause(&mut self, cause: &dyn fmt::Display) {
        self.cause = Some(cause.to_string());
    }

    /// The end: the response goes to the client.
    #[must_use]
    pub fn close(mut self, mut response: Response) -> Response {
        let head = &mut response.head;
        head.fields.insert(name::X_REQUEST_ID, &self.request_id);
        self.tell(Some(head.status));
        response
    }

    /// The end: a refusal goes to the client.
    #[must_use]
    pub fn refuse(mut self, refusal: &Refusal) -> Response {
        self.refusal = Some(refusal.slug());
        self.metrics.refusal(refusal.slug());
        let request_id = self.request_id.to_str().unwrap_or_default();
        let response = refusal.response(request_id).map(Body::from);
        self.close(response.into())
    }

    fn tell(&mut self, status: Option<StatusCode>) {
        self.told = true;
        // Where the backend has answered, that was a moment ago, or has been waited since.
        let ended = self.responded.map_or_else(moment::now, |_| moment::lately());
        let took = ended.saturating_duration_since(self.started);
        let upstream = self.dispatched.zip(self.responded).map(|(from, to)| to - from);
        if let Some(upstream) = upstream {
            self.metrics.upstream(upstream);
        }
        let class = status.map_or(StatusClass::Other, StatusClass::from);
        self.metrics.request((&self.method).into(), class, self.session, took);
        let line = Line {
            at: told_at(self.came, took),
            method: &self.method,
            route: self.route,
            status,
            took,
            upstream,
            session: self.session.text(),
            request_id: &self.request_id,
            install: self.install,
            refusal: self.refusal,
            cause: self.cause.as_deref(),
        };
        line.tell();
    }
}

impl Drop for Journal<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.tell(None);
        }
    }
}

/// The present moment, so long after a request `came`.
fn told_at(came: Duration, took: Duration) -> Duration {
    if took < QUICK {
        came + took
    } else {
        SystemClock.since_epoch()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_is_told_by_the_wall_clock_as_it_is_by_then() {
        let came = Duration::from_secs(1_700_000_000);
        let quick = QUICK - Duration::from_micros(1);
        assert_eq!(told_at(came, quick), came + quick);
        let before = SystemClock.since_epoch();
        let told = told_at(came, QUICK);
        assert!((before..=SystemClock.since_epoch()).contains(&told), "{told:?}");
    }
}
