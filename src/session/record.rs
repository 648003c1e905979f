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
use super::lineage::{Known, Lineage};
use super::past::Past;
use super::store::{Stored, Unreadable, Version};

pub use form::FIRST_SEALED;
use form::{PAST, Sections};

/// No request is in flight for longer than this: what changed before need not be remembered.
pub const IN_FLIGHT_HORIZON: Duration = Duration::from_secs(3600);

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

    /// What it remembers of who started it, and of what was done since; `None` for nothing.
    #[must_use]
    pub fn past(&self) -> Option<Past> {
        self.sections.get(PAST).and_then(Past::decode)
    }

    /// Has it remember that.
    pub fn set_past(&mut self, past: Past) {
        self.sections.set(PAST, past.encode());
    }

    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let cookies = self.jar.iter().map(Cookie::footprint).sum::<usize>();
        // What is remembered of a cookie is smaller than a cookie.
        cookies + self.history.len() * 160 + size_of::<Self>()
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
                // What is there without a history came with the beginning, which counts also once the cookie is gone.
                if self.jar.get(key).is_some() {
                    set_last(&mut last, self.born_rank, self.born.seq);
                }
                set_last(&mut last, rank, seq);
                self.history.push(Changes {
                    key: key.clone(),
                    last,
                    at: now,
                });
            }
        }
    }

    /// Forgets changes that no request in flight can have missed, and of too many first what decides least: what is of
    /// no session cookie, then what is of a low rank, then what is old.
    pub(super) fn prune_history(&mut self, policy: &CookiePolicy, now: Timestamp) {
        self.history.retain(|changes| now.since(changes.at) < IN_FLIGHT_HORIZON);
        if self.history.len() > MAX_HISTORY {
            let excess = self.history.len() - MAX_HISTORY;
            let highest = |changes: &Changes| RANKS.into_iter().find(|rank| last(&changes.last, *rank) > 0);
            self.history
                .sort_by_key(|changes| (policy.is_id(&changes.key.name), highest(changes), changes.at));
            self.history.drain(..excess);
        }
    }

    /// Whether the last change of that rank, whose number the request should know, is one that it cannot have known: it
    /// came after the last one that `sent` tells of.
    fn diverged(&self, changes: &Changes, rank: Rank, sent: &Snapshot) -> bool {
        let sent = &sent.record;
        let seq = last(&changes.last, rank);
        // Who knows the record knows its beginning.
        if sent.born != self.born || seq == self.born.seq {
            return false;
        }
        let before = sent.history.iter().find(|before| before.key == changes.key);
        let is_another = seq != before.map_or(0, |before| last(&before.last, rank));
        // Its time is that of the last of them.
        let is_last = changes.last.iter().all(|other| *other <= seq);
        (is_another || is_last) && changes.at > before.map_or_else(|| sent.changed_at(), |before| before.at)
    }

    /// Whether this is what `sent`, a later version of the same record, once was: the store lost the writes between,
    /// and nothing has changed since.
    pub(super) fn is_rewound_from(&self, sent: &Snapshot) -> bool {
        self.born == sent.record.born
            && !self
                .history
                .iter()
                .any(|changes| RANKS.into_iter().any(|rank| self.diverged(changes, rank, sent)))
    }

    /// When a cookie was last set or deleted, as far as that is remembered.
    #[must_use]
    pub fn changed_at(&self) -> Timestamp {
        let changes = self.history.iter().map(|changes| changes.at);
        changes.fold(self.started_at, Timestamp::max)
    }
}

/// The highest first.
const RANKS: [Rank; 3] = [Rank::Auth, Rank::Unsafe, Rank::Safe];

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
    /// On what it builds, when it was not read but is served before it is stored; its version is then a prediction.
    pub lineage: Option<Lineage>,
}

impl Snapshot {
    /// The highest rank of any change to `key` since a request was sent with `sent` (rule C1); `None` when nobody
    /// changed it. For a request that was sent with another record, or none, everything here is a change.
    ///
    /// The numbers of the versions tell, but for one case: a store that lost its last writes in a failover gives their
    /// numbers again. Then the history tells, see [`Record::diverged`].
    ///
    /// A cookie that has run out by `at` is none, whether the jar is rid of it yet or not, and a change that no request in
    /// flight can have missed is none any more.
    pub(super) fn changed_since(&self, key: &CookieKey, sent: Option<&Self>, at: Timestamp) -> Option<Rank> {
        let known = sent.and_then(|sent| Known::of(self, sent));
        let record = &self.record;
        let is_news = |changes: &Changes, rank| {
            let seq = last(&changes.last, rank);
            let known = known.as_ref().is_some_and(|known| known.has(seq));
            seq > 0 && (!known || sent.is_some_and(|sent| record.diverged(changes, rank, sent)))
        };
        let remembered = |changes: &&Changes| changes.key == *key && at.since(changes.at) < IN_FLIGHT_HORIZON;
        let changes = record.history.iter().find(remembered);
        let recorded = changes.and_then(|changes| RANKS.into_iter().find(|rank| is_news(changes, *rank)));
        if known.as_ref().is_some_and(|known| known.birth) {
            return recorded;
        }
        let held = record.jar.get(key).filter(|cookie| !cookie.is_expired(at));
        recorded.max(held.map(|_| record.born_rank))
    }

    /// The last stored version of the record that this builds on; 0 for none.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.lineage.as_ref().map_or(self.version.seq, Lineage::base)
    }

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
            lineage: None,
        }))
    }
}
