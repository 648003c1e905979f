//! The line that each request leaves in the log.
//!
//! It is by far the most frequent one. As an event like any other it goes through machinery that takes several times as long
//! as to write it: whoever writes the log can take it as it is instead, see [`take_by`].

use std::sync::OnceLock;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};

use crate::session::store::Key;

/// The target of the event, and what the level is a matter of. All of them are at `info`.
pub const TARGET: &str = "session_bridge::bridge::journal";

/// What there is to tell of a request.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// When it is told, counted from the Unix epoch.
    pub at: Duration,
    /// That of the request.
    pub method: &'a Method,
    /// The name of its route.
    pub route: &'a str,
    /// That of the answer; `None`: the connection ended before there was one.
    pub status: Option<StatusCode>,
    /// How long it took, in all.
    pub took: Duration,
    /// How long of that the backend took.
    pub upstream: Option<Duration>,
    /// What became of its session.
    pub session: &'static str,
    /// What identifies it: visible ASCII.
    pub request_id: &'a HeaderValue,
    /// Whose it is.
    pub install: Option<Key>,
    /// Why it was refused.
    pub refusal: Option<&'static str>,
    /// What stood in the way.
    pub cause: Option<&'a str>,
}

type Take = Box<dyn Fn(&Line<'_>) + Send + Sync>;

static TAKEN_BY: OnceLock<Take> = OnceLock::new();

/// From now on lines are no events, but given to `take`, for the whole process. Whoever takes them knows that lines of this
/// level are wanted. Once it is settled who, that stays so.
pub fn take_by(take: impl Fn(&Line<'_>) + Send + Sync + 'static) {
    // The second one is dropped: that is what is promised.
    let _ = TAKEN_BY.set(Box::new(take));
}

impl Line<'_> {
    /// Puts it into the log.
    pub fn tell(&self) {
        match TAKEN_BY.get() {
            Some(take) => take(self),
            None => self.emit(),
        }
    }

    /// Tells it as an event.
    pub fn emit(&self) {
        tracing::info!(
            target: TARGET,
            message = self.message(),
            method = self.method.as_str(),
            route = self.route,
            status = self.status.map(|status| status.as_u16()),
            ms = millis(self.took),
            upstream_ms = self.upstream.map(millis),
            session = self.session,
            request_id = self.request_id.to_str().unwrap_or_default(),
            install = self.install.map(tracing::field::display),
            refusal = self.refusal,
            cause = self.cause,
        );
    }

    /// What it says in words.
    #[must_use]
    pub const fn message(&self) -> &'static str {
        match self.status {
            Some(_) => "request",
            None => "request given up: its connection ended before there was an answer",
        }
    }
}

/// As many microseconds as a line tells at most: more than an hour.
#[must_use]
pub fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    f64::from(micros(duration)) / 1000.0
}
