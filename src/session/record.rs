//! What the store holds for one installation: the jar, and what is needed to judge a late response.
//!
//! How it is encoded, and how that may change from version to version, is told in `record/form.rs`. The version of the
//! record and the expiry are not part of it: they belong to the store, which compares and moves them without reading the
//! record.

mod form;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::cookie::{Cookie, CookieKey};
use super::glob::Glob;
use super::jar::Jar;
use super::store::{Stored, Unreadable, Version};

pub use form::FIRST_SEALED;
use form::Sections;

/// No request is in flight for longer than this: what changed before need not be remembered.
const IN_FLIGHT_HORIZON: Duration = Duration::from_secs(3600);

/// The most changes that are remembered, so that a backend which invents names cannot grow a record for ever.
const MAX_HISTORY: usize = 64;

/// How much the response to a request may decide (rule C1). A higher rank wins a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rank {
    /// A safe method (RFC 9110 §9.2.1): GET, HEAD, OPTIONS, TRACE.
    Safe,
    /// Any other method.
    Unsafe,
    /// A request that logs in or out.
    Auth,
}

/// The last changes of one cookie since the record began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Changes {
    key: CookieKey,
    /// By rank: the sequence number of the last change by a response of that rank; 0 for none.
    last: [u64; 3],
    /// When the last of them happened.
    at: Timestamp,
}

/// One installation's session, as stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version with which it began. Tells this record from one that was removed before.
    born: Version,
    /// The rank of the response that began it.
    born_rank: Rank,
    /// When its session started: `session.max_age` counts from here.
    pub(super) started_at: Timestamp,
    /// Until when the response that started the session may still be under way (rule S1).
    pub(super) settles_at: Option<Timestamp>,
    pub(super) jar: Jar,
    history: Vec<Changes>,
    /// Encoded by themselves, after all of the above.
    #[serde(skip)]
    sections: Sections,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("born", &self.born)
            .field("cookies", &self.jar.len())
            .finish_non_exhaustive()
    }
}

impl Record {
    /// An empty record that begins with version `born`, by a response of rank `rank`.
    #[must_use]
    pub fn begin(born: Version, rank: Rank, now: Timestamp) -> Self {
        Self {
            born,
            born_rank: rank,
            started_at: now,
            settles_at: None,
            jar: Jar::new(),
            history: Vec::new(),
            sections: Sections::default(),
        }
    }

    /// The version with which this record began.
    #[must_use]
    pub const fn born(&self) -> Version {
        self.born
    }

    /// The cookies.
    #[must_use]
    pub const fn jar(&self) -> &Jar {
        &self.jar
    }

    /// When the session started.
    #[must_use]
    pub const fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Whether the response that started the session may still be under way: whoever did not start it had better
    /// ask whether the lease is still held.
    #[must_use]
    pub fn is_settling(&self, now: Timestamp) -> bool {
        self.settles_at.is_some_and(|until| until > now)
    }

    /// Marks the session as just started by a response that may be under way until `until`.
    pub fn settle_until(&mut self, until: Option<Timestamp>) {
        self.settles_at = until;
    }

    /// When the record is to be forgotten if nothing uses it after `now` (rule T1).
    #[must_use]
    pub fn expiry(&self, now: Timestamp, times: &Lifetime) -> Timestamp {
        let idle = now.saturating_add(times.idle_timeout);
        match times.max_age {
            Some(max_age) => idle.min(self.started_at.saturating_add(max_age)),
            None => idle,
        }
    }

    /// Remembers that the change which makes version `seq` touched `key` with `rank`.
    pub(super) fn note_change(&mut self, key: &CookieKey, rank: Rank, seq: u64, now: Timestamp) {
        match self.history.iter_mut().find(|changes| changes.key == *key) {
            Some(changes) => {
                set_last(&mut changes.last, rank, seq);
                changes.at = now;
            }
            None => {
                let mut last = [0; 3];
                set_last(&mut last, rank, seq);
                self.history.push(Changes {
                    key: key.clone(),
                    last,
                    at: now,
                });
            }
        }
    }

    /// Forgets changes that no request in flight can have missed.
    pub(super) fn prune_history(&mut self, now: Timestamp) {
        self.history.retain(|changes| now.since(changes.at) < IN_FLIGHT_HORIZON);
        if self.history.len() > MAX_HISTORY {
            let excess = self.history.len() - MAX_HISTORY;
            self.history.sort_by_key(|changes| changes.at);
            self.history.drain(..excess);
        }
    }

    /// The highest rank of any change to `key` since a request was sent with `sent` (rule C1); `None` when nobody
    /// changed it. For a request that was sent with another record, or none, everything here is a change.
    pub(super) fn changed_since(&self, key: &CookieKey, sent: Option<&Snapshot>) -> Option<Rank> {
        let same_record = sent.filter(|sent| sent.record.born == self.born);
        let after = same_record.map_or(0, |sent| sent.version.seq);
        let recorded = self
            .history
            .iter()
            .find(|changes| changes.key == *key)
            .and_then(|changes| {
                [Rank::Auth, Rank::Unsafe, Rank::Safe]
                    .into_iter()
                    .find(|rank| last(&changes.last, *rank) > after)
            });
        match same_record {
            Some(_) => recorded,
            None => recorded.max(self.jar.get(key).map(|_| self.born_rank)),
        }
    }
}

const fn index(rank: Rank) -> usize {
    match rank {
        Rank::Safe => 0,
        Rank::Unsafe => 1,
        Rank::Auth => 2,
    }
}

fn last(last: &[u64; 3], rank: Rank) -> u64 {
    last.get(index(rank)).copied().unwrap_or(0)
}

fn set_last(last: &mut [u64; 3], rank: Rank, seq: u64) {
    if let Some(slot) = last.get_mut(index(rank)) {
        *slot = seq;
    }
}

/// How long a record lives (rule T1).
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// Since its last use.
    pub idle_timeout: Duration,
    /// Since its session started.
    pub max_age: Option<Duration>,
}

/// Which cookies matter, and which of them mean "there is a session" (rules J3, S1).
#[derive(Clone, Debug)]
pub struct CookiePolicy {
    kept: Vec<Glob>,
    id: Vec<Glob>,
}

impl CookiePolicy {
    /// `kept`: names that are kept; `id`: names that mean a session, or none of them: any kept cookie does.
    #[must_use]
    pub const fn new(kept: Vec<Glob>, id: Vec<Glob>) -> Self {
        Self { kept, id }
    }

    /// Whether a cookie of that name is kept.
    #[must_use]
    pub fn keeps(&self, name: &[u8]) -> bool {
        self.kept.iter().any(|glob| glob.matches(name))
    }

    /// Whether a cookie of that name means that there is a session.
    #[must_use]
    pub fn is_id(&self, name: &[u8]) -> bool {
        self.id.is_empty() || self.id.iter().any(|glob| glob.matches(name))
    }

    /// Whether the jar holds an unexpired cookie that means a session.
    #[must_use]
    pub fn has_session(&self, jar: &Jar, now: Timestamp) -> bool {
        jar.iter()
            .any(|cookie: &Cookie| self.is_id(cookie.name()) && !cookie.is_expired(now))
    }
}

/// A record as it was read at one moment: what a request is sent with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The version that was read.
    pub version: Version,
    /// When the store will forget it.
    pub expires_at: Timestamp,
    /// The record.
    pub record: Record,
}

impl Snapshot {
    /// Reads what the store returned.
    ///
    /// # Errors
    /// [`Unreadable`], with the version, when it cannot be read.
    pub fn read(stored: &Stored) -> Result<Arc<Self>, Unreadable> {
        let record = Record::decode(&stored.payload).map_err(|unreadable| unreadable.of(stored.version))?;
        Ok(Arc::new(Self {
            version: stored.version,
            expires_at: stored.expires_at,
            record,
        }))
    }
}
