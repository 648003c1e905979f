//! What a response does to the record: rules C1 to C3, as code.
//!
//! For each cookie three values decide: what the record held when the request was **sent**, what the response
//! **says**, and what the record holds **now**.
//!
//! | says | now | outcome |
//! |---|---|---|
//! | same as sent | same as sent | only the expiry is renewed |
//! | same as sent | changed or gone | ignored: the response is older than the change |
//! | new value | same as sent | stored |
//! | new value | changed or gone | conflict: the higher [`Rank`] wins, among equals what is there stays |
//! | deletion | same as sent | removed |
//! | deletion | changed | the higher rank wins likewise |
//! | deletion | gone | nothing to do |
//!
//! *Changed* means changed by somebody: a cookie that has only run out since the request was sent counts as the same,
//! and one that came and went again meanwhile counts as gone.
//!
//! Two rules stand above the table:
//!
//! * A response whose new session cookie lost a conflict spoke for another session: nothing of it is kept (C2).
//! * A request whose record was removed since it was sent may bring a record back only with the highest rank and a new
//!   session cookie (C3).
//!
//! # A store that lost writes
//!
//! A store may lose its last writes in a failover, acknowledged or not: a version goes backwards, and its number is
//! given again. The request in flight then knows more than the store:
//!
//! | *now*, compared with *sent* | outcome |
//! |---|---|
//! | an older version of the same record, nobody changed it since | what was sent is the newer truth: a response that is stored stores it again, the cookies that it does not name too |
//! | an older or the same number, changed since the loss | those changes count as changes since, by the table; all else is as it was sent |
//! | no record, or one that was begun anew | not to be told from a log-out: as by C3, so at worst the installation logs in again |
//!
//! Changes since the loss are told from lost ones by when they were made; see `Record::diverged`.
//!
//! Everything here is a pure function of its arguments, so that a commit can be tried again against a newer *now*.

use super::clock::Timestamp;
use super::cookie::{Cookie, CookieKey};
use super::lineage::Known;
use super::record::{CookiePolicy, Rank, Record, Snapshot};
use super::store::Version;

/// A response, as far as it concerns the record.
#[derive(Clone, Debug)]
pub struct Said {
    /// How much it may decide.
    pub rank: Rank,
    /// Its cookies that are kept at all, in the order of their `Set-Cookie` lines; an expired one is a deletion.
    pub cookies: Vec<Cookie>,
    /// When the response head came.
    pub at: Timestamp,
}

/// What is to be done with the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is as it should be.
    Keep,
    /// Store this one, over *now* or, where there is none, anew.
    Write(Box<Record>),
    /// Remove it: its last session cookie is gone.
    Remove,
}

/// What became of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// No session cookie changed.
    None,
    /// There was no session, now there is.
    Created,
    /// A session cookie got a new value.
    Replaced,
    /// There is no session any more.
    Ended,
}

/// Why a cookie of a response was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drop {
    /// The response repeats what was sent, which has changed since.
    Stale,
    /// It lost a conflict.
    Conflict,
    /// The response's session cookie lost a conflict, and all of it goes with that.
    OtherSession,
    /// The record was removed after the request was sent.
    Removed,
}

/// The outcome of [`merge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// What to do.
    pub action: Action,
    /// What that does to the session.
    pub effect: Effect,
    /// The cookies that were not kept.
    pub dropped: Vec<(CookieKey, Drop)>,
    /// How many cookies had to make room in the jar.
    pub evicted: usize,
}

/// Decides what `said`, the response to a request that was sent with `sent`, does to `now`.
/// `next` is the version that the record has if it is written.
#[must_use]
pub fn merge(
    sent: Option<&Snapshot>,
    now: Option<&Snapshot>,
    said: &Said,
    policy: &CookiePolicy,
    next: Version,
) -> Merged {
    let says = last_word(&said.cookies);
    if says.is_empty() {
        return Merged {
            action: Action::Keep,
            effect: Effect::None,
            dropped: Vec::new(),
            evicted: 0,
        };
    }
    let healed = heal(sent, now);
    let now = healed.as_ref().or(now);
    let removed_meanwhile = is_removed(sent, now);
    if removed_meanwhile && !may_bring_back(sent, said, &says, policy) {
        return drop_all(&says, Drop::Removed);
    }
    let verdicts: Vec<Verdict> = says.iter().map(|cookie| judge(sent, now, cookie, said)).collect();
    let lost_session = says.iter().zip(&verdicts).any(|(cookie, verdict)| {
        policy.is_id(cookie.name()) && !cookie.is_expired(said.at) && *verdict == Verdict::Lost
    });
    if lost_session {
        return drop_all(
            &says,
            if removed_meanwhile {
                Drop::Removed
            } else {
                Drop::OtherSession
            },
        );
    }
    apply(now, healed.is_some(), &says, &verdicts, said, policy, next)
}

/// What the request was sent with, in the place of an older state of it that the store went back to.
fn heal(sent: Option<&Snapshot>, now: Option<&Snapshot>) -> Option<Snapshot> {
    let (sent, now) = sent.zip(now)?;
    let stored = sent.lineage.is_none() && now.lineage.is_none();
    let lost = stored && now.version.seq < sent.version.seq;
    (lost && now.record.is_rewound_from(sent)).then(|| Snapshot {
        record: sent.record.clone(),
        ..now.clone()
    })
}

/// Whether the record that the request was sent with is gone.
fn is_removed(sent: Option<&Snapshot>, now: Option<&Snapshot>) -> bool {
    sent.is_some_and(|sent| now.is_none_or(|now| Known::of(now, sent).is_none()))
}

/// The last `Set-Cookie` for each key, in order: what a browser would end up with.
fn last_word(cookies: &[Cookie]) -> Vec<&Cookie> {
    let mut says: Vec<&Cookie> = Vec::with_capacity(cookies.len());
    for cookie in cookies {
        match says.iter_mut().find(|earlier| earlier.same_key(cookie)) {
            Some(earlier) => *earlier = cookie,
            None => says.push(cookie),
        }
    }
    says
}

/// Rule C3: only a log-in outlives the removal of the record it was sent with.
fn may_bring_back(sent: Option<&Snapshot>, said: &Said, says: &[&Cookie], policy: &CookiePolicy) -> bool {
    said.rank == Rank::Auth
        && says.iter().any(|cookie| {
            let before = sent.and_then(|sent| live(sent, &cookie.key(), said.at));
            policy.is_id(cookie.name())
                && !cookie.is_expired(said.at)
                && before.is_none_or(|before| before.value() != cookie.value())
        })
}

fn drop_all(says: &[&Cookie], reason: Drop) -> Merged {
    let dropped = says.iter().map(|cookie| (cookie.key(), reason)).collect();
    Merged {
        action: Action::Keep,
        effect: Effect::None,
        dropped,
        evicted: 0,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Store it, as a change.
    Store,
    /// The value is there already: only its attributes are renewed.
    Renew,
    /// Remove it.
    Delete,
    /// Older than a change.
    Stale,
    /// Lost a conflict.
    Lost,
    /// Says nothing that is not so already.
    Void,
}

/// The table, for one cookie.
fn judge(sent: Option<&Snapshot>, now: Option<&Snapshot>, says: &Cookie, said: &Said) -> Verdict {
    let key = says.key();
    let before = sent.and_then(|sent| live(sent, &key, said.at)).map(Cookie::value);
    let present = now.and_then(|now| live(now, &key, said.at)).map(Cookie::value);
    let since = now.and_then(|now| now.changed_since(&key, sent, said.at));
    let same_value = before.is_some() && before == present;
    // What the record held went with it.
    let removed = before.is_some() && is_removed(sent, now);
    let changed = !same_value && (since.is_some() || removed);
    let wins = since.is_none_or(|since| said.rank > since);
    if says.is_expired(said.at) {
        return match present {
            None => Verdict::Void,
            Some(_) if !changed || wins => Verdict::Delete,
            Some(_) => Verdict::Lost,
        };
    }
    let value = says.value();
    match (before == Some(value), changed) {
        _ if present == Some(value) => Verdict::Renew,
        (true, true) => Verdict::Stale,
        (false, true) if !wins => Verdict::Lost,
        _ => Verdict::Store,
    }
}

fn live<'a>(snapshot: &'a Snapshot, key: &CookieKey, at: Timestamp) -> Option<&'a Cookie> {
    snapshot.record.jar().get(key).filter(|cookie| !cookie.is_expired(at))
}

/// Carries the verdicts out on a copy of `now`, which was `healed` of a loss or not.
fn apply(
    now: Option<&Snapshot>,
    healed: bool,
    says: &[&Cookie],
    verdicts: &[Verdict],
    said: &Said,
    policy: &CookiePolicy,
    next: Version,
) -> Merged {
    let mut record = match now {
        Some(now) => now.record.clone(),
        None => Record::begin(next, said.rank, said.at),
    };
    let had_session = now.is_some_and(|now| policy.has_session(now.record.jar(), said.at));
    let (mut altered, mut id_changed) = (healed, false);
    let (mut dropped, mut evicted) = (Vec::new(), 0);
    for (cookie, verdict) in says.iter().zip(verdicts) {
        let is_id = policy.is_id(cookie.name());
        match verdict {
            Verdict::Store => {
                note(&mut record, now, cookie, said, next);
                evicted += record.jar.insert((*cookie).clone());
                altered = true;
                id_changed |= is_id;
            }
            Verdict::Delete => {
                note(&mut record, now, cookie, said, next);
                record.jar.remove(&cookie.key());
                altered = true;
                id_changed |= is_id;
            }
            Verdict::Renew => altered |= renew(&mut record, cookie),
            Verdict::Stale => dropped.push((cookie.key(), Drop::Stale)),
            Verdict::Lost => dropped.push((cookie.key(), Drop::Conflict)),
            Verdict::Void => {}
        }
    }
    let has_session = policy.has_session(&record.jar, said.at);
    let effect = match (had_session, has_session) {
        (false, true) => Effect::Created,
        (true, false) if id_changed => Effect::Ended,
        (true, true) if id_changed => Effect::Replaced,
        _ => Effect::None,
    };
    if effect == Effect::Created {
        record.started_at = said.at;
    }
    let action = if effect == Effect::Ended {
        Action::Remove
    } else if !altered || (now.is_none() && record.jar.is_empty()) {
        Action::Keep
    } else {
        record.jar.purge_expired(said.at);
        record.prune_history(policy, said.at);
        Action::Write(Box::new(record))
    };
    Merged {
        action,
        effect,
        dropped,
        evicted,
    }
}

/// Takes over the attributes of a cookie whose value is there already. Whether that alters anything.
fn renew(record: &mut Record, cookie: &Cookie) -> bool {
    let before = record.jar.get(&cookie.key()).cloned();
    record.jar.insert(cookie.clone());
    before.as_ref() != record.jar.get(&cookie.key())
}

/// A record remembers who changed what after it began; its beginning is remembered once for all cookies.
fn note(record: &mut Record, now: Option<&Snapshot>, cookie: &Cookie, said: &Said, next: Version) {
    if now.is_some() {
        record.note_change(&cookie.key(), said.rank, next.seq, said.at);
    }
}

#[cfg(test)]
mod tests;
