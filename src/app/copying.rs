//! Sessions from one store into another: copied, or handed over while the bridge runs.
//!
//! *Copied*, the source stays as it is, and what is newer in the target is left alone. *Handed over*, each session is moved
//! so that all replicas follow, see [`moving`](crate::store::moving).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{StartError, parts, sealing};
use crate::config;
use crate::session::clock::{Clock, SystemClock};
use crate::session::record::Record;
use crate::session::store::{Created, Cursor, Key, NewRecord, Payload, Replaced, SessionStore, StoreError, Stored};
use crate::store::moving::{HEARD_WITHIN, Moved, MovingStore};

/// How many sessions are on their way at once.
const AT_ONCE: usize = 32;

/// How often a call is tried that the store did not take.
const TRIES: usize = 5;

/// How long to wait in between.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a store may take to answer for the first time.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// How often all that is left is looked through; mostly the second time finds nothing.
const PASSES: usize = 20;

/// What a tally begins with (`session::quota`), and what a mark does: neither is a session.
const NO_SESSION: [&[u8]; 2] = [b"T", b"M"];

/// What became of the sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Stored in the target.
    pub copied: usize,
    /// The target held the same version.
    pub same: usize,
    /// The target holds a newer one, or one of which that cannot be told.
    pub kept: usize,
    /// They ended while this was going on, or were moved by another run.
    pub ended: usize,
    /// They cannot be read, in the source or in the target.
    pub unreadable: usize,
    /// The stores did not take them.
    pub failed: usize,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many were found so far.
    Found(usize),
    /// So many of all are done.
    Done(usize, usize),
}

/// The two stores.
pub struct Copying {
    from: Arc<dyn SessionStore>,
    to: Arc<dyn SessionStore>,
    raw_from: Arc<dyn SessionStore>,
    raw_to: Arc<dyn SessionStore>,
    timeout: Duration,
}

enum Outcome {
    Copied,
    Same,
    Kept,
    Ended,
    Unreadable,
}

impl Copying {
    /// Opens both stores, and waits for them to answer.
    ///
    /// # Errors
    /// When one of them cannot be opened, or does not answer.
    pub async fn open(from: &config::Store, to: &config::Store) -> Result<Self, StartError> {
        let open = async |which: &str, store: &config::Store| {
            let clock = Arc::new(SystemClock);
            let raw = parts::open_raw(store, clock).await;
            let raw = raw.map_err(|error| StartError(format!("{which}: {error}")))?;
            answers(&*raw)
                .await
                .map_err(|error| StartError(format!("{which}: {error}")))?;
            let sealed = sealing::over(Arc::clone(&raw), &store.encryption_key_files, store.accept_clear)?;
            Ok::<_, StartError>((raw, sealed))
        };
        let (raw_from, from) = open("--from", from).await?;
        let (raw_to, to_sealed) = open("--to", to).await?;
        Ok(Self {
            from,
            to: to_sealed,
            raw_from,
            raw_to,
            timeout: to.timeout,
        })
    }

    /// Copies every session. `watch` is told how far it is.
    ///
    /// # Errors
    /// When the source cannot be listed.
    pub async fn copy(&self, watch: impl FnMut(Progress)) -> Result<Report, StoreError> {
        let (from, to, raw) = (Arc::clone(&self.from), Arc::clone(&self.to), Arc::clone(&self.raw_from));
        self.each(watch, move |key| {
            copy_one(Arc::clone(&raw), Arc::clone(&from), Arc::clone(&to), key)
        })
        .await
    }

    /// Declares the handover and moves every session, until nothing is left to be moved.
    ///
    /// # Errors
    /// When the target holds something before the handover was declared, a store does not answer, or sessions are left.
    pub async fn hand_over(&self, mut watch: impl FnMut(Progress)) -> Result<Report, StoreError> {
        let moving = Arc::new(MovingStore::new(Arc::clone(&self.raw_from), Arc::clone(&self.raw_to)));
        if !moving.is_declared().await? && holds_sessions(&*self.raw_to).await? {
            return Err(StoreError::Unavailable(
                "the target holds sessions already: hand over to an empty one, or to another store.key_prefix".into(),
            ));
        }
        moving.declare().await?;
        // Whoever has looked a moment ago looks again, and what was begun before that is done.
        tokio::time::sleep(HEARD_WITHIN * 2 + self.timeout * 4).await;
        let mut total = Report::default();
        for _ in 0..PASSES {
            let moving = Arc::clone(&moving);
            let pass = self
                .each(&mut watch, move |key| move_one(Arc::clone(&moving), key))
                .await?;
            total.copied += pass.copied;
            total.failed = pass.failed;
            if pass.copied == 0 && pass.failed == 0 {
                return Ok(total);
            }
        }
        Err(StoreError::Unavailable(
            "sessions keep coming into the old store: does every replica have store.moving_to?".into(),
        ))
    }

    async fn each<F>(&self, mut watch: impl FnMut(Progress), one: impl Fn(Key) -> F) -> Result<Report, StoreError>
    where
        F: Future<Output = Result<Outcome, StoreError>> + Send + 'static,
    {
        let keys = list(&*self.raw_from, |found| watch(Progress::Found(found))).await?;
        let (mut report, mut done, total) = (Report::default(), 0, keys.len());
        let mut running = JoinSet::new();
        let mut waiting = keys.into_iter();
        watch(Progress::Done(0, total));
        loop {
            while running.len() < AT_ONCE
                && let Some(key) = waiting.next()
            {
                running.spawn(one(key));
            }
            let Some(ended) = running.join_next().await else { break };
            match ended {
                Ok(Ok(outcome)) => report.count(&outcome),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a session was not copied");
                    report.failed += 1;
                }
                Err(_) => report.failed += 1,
            }
            done += 1;
            watch(Progress::Done(done, total));
        }
        Ok(report)
    }

    /// Lets go of both stores.
    pub async fn close(&self) {
        // All that was to be stored was answered.
        let _ = self.raw_from.close().await;
        let _ = self.raw_to.close().await;
    }
}

impl Report {
    fn count(&mut self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Copied => &mut self.copied,
            Outcome::Same => &mut self.same,
            Outcome::Kept => &mut self.kept,
            Outcome::Ended => &mut self.ended,
            Outcome::Unreadable => &mut self.unreadable,
        };
        *counter += 1;
    }
}

/// All keys of a store, each once; `watch` is told how many there are so far.
async fn list(store: &dyn SessionStore, mut watch: impl FnMut(usize)) -> Result<Vec<Key>, StoreError> {
    let mut keys = Vec::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = patiently(|| store.keys(after.clone())).await?;
        keys.extend(page.keys);
        watch(keys.len());
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

async fn holds_sessions(store: &dyn SessionStore) -> Result<bool, StoreError> {
    for key in list(store, |_| {}).await? {
        match store.load(&key).await {
            Ok(Some(stored)) if !is_no_session(&stored.payload) => return Ok(true),
            Ok(_) => {}
            Err(StoreError::Unreadable(_)) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

async fn answers(store: &dyn SessionStore) -> Result<(), StoreError> {
    let until = tokio::time::Instant::now() + FIRST_ANSWER;
    loop {
        match store.ping().await {
            Err(_) if tokio::time::Instant::now() < until => tokio::time::sleep(PAUSE / 10).await,
            answer => return answer,
        }
    }
}

/// Asks again when the store does not answer.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(mut ask: impl FnMut() -> F) -> Result<T, StoreError> {
    for _ in 1..TRIES {
        match ask().await {
            Err(StoreError::Unavailable(_) | StoreError::Timeout | StoreError::Ambiguous(_)) => {
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
    ask().await
}

async fn move_one(moving: Arc<MovingStore>, key: Key) -> Result<Outcome, StoreError> {
    match patiently(|| moving.move_over(&key, SystemClock.now())).await {
        Ok(Moved::Done) => Ok(Outcome::Copied),
        Ok(Moved::Nothing) => Ok(Outcome::Ended),
        Err(StoreError::Unreadable(_)) => Ok(Outcome::Unreadable),
        Err(error) => Err(error),
    }
}

async fn copy_one(
    raw: Arc<dyn SessionStore>,
    from: Arc<dyn SessionStore>,
    to: Arc<dyn SessionStore>,
    key: Key,
) -> Result<Outcome, StoreError> {
    let attempt = || async {
        match from.load(&key).await {
            Ok(None) => Ok(Outcome::Ended),
            Ok(Some(stored)) if is_no_session(&stored.payload) => Ok(Outcome::Ended),
            Ok(Some(stored)) => put(&*to, &key, &stored).await,
            Err(StoreError::Unreadable(_)) => match raw.load(&key).await? {
                Some(stored) if !is_no_session(&stored.payload) => Ok(Outcome::Unreadable),
                Some(_) | None => Ok(Outcome::Ended),
            },
            Err(error) => Err(error),
        }
    };
    match patiently(attempt).await {
        Err(StoreError::Unreadable(_)) => Ok(Outcome::Unreadable),
        other => other,
    }
}

fn is_no_session(payload: &Payload) -> bool {
    NO_SESSION.iter().any(|begin| payload.0.starts_with(begin))
}

/// Stores a session in the target, unless that holds a newer one.
async fn put(to: &dyn SessionStore, key: &Key, stored: &Stored) -> Result<Outcome, StoreError> {
    let left = stored.expires_at.since(SystemClock.now());
    if left.is_zero() {
        return Ok(Outcome::Ended);
    }
    let new = NewRecord {
        version: stored.version,
        ttl: left,
        payload: stored.payload.clone(),
    };
    let mut there = match to.create(key, new.clone(), None).await? {
        Created::Won | Created::Fenced => return Ok(Outcome::Copied),
        Created::Lost(there) => there,
    };
    loop {
        if there.version == stored.version {
            if stored.expires_at > there.expires_at {
                to.touch(key, stored.version, left).await?;
            }
            return Ok(Outcome::Same);
        }
        if !is_newer(stored, &there) {
            return Ok(Outcome::Kept);
        }
        match to.replace(key, there.version, new.clone(), None).await? {
            Replaced::Done | Replaced::Fenced => return Ok(Outcome::Copied),
            Replaced::Conflict(Some(other)) => there = other,
            Replaced::Conflict(None) => match to.create(key, new.clone(), None).await? {
                Created::Won | Created::Fenced => return Ok(Outcome::Copied),
                Created::Lost(other) => there = other,
            },
        }
    }
}

/// Whether `one` has changed after `other`, as far as that can be told.
fn is_newer(one: &Stored, other: &Stored) -> bool {
    let (Ok(one_record), Ok(other_record)) = (Record::decode(&one.payload), Record::decode(&other.payload)) else {
        return false;
    };
    let one = (one_record.changed_at(), one.version.seq);
    one > (other_record.changed_at(), other.version.seq)
}
