//! A store whose sessions are on their way into another one, for as long as that takes: a layer over both.
//!
//! # Where the truth is
//!
//! What an installation has lies in the *old* store until its record there is a *mark* (`MARK`), and in the *new* one from
//! then on. The mark takes the place of the record by its version, as any change does, so that for each installation there
//! is one moment at which all replicas change over, whatever each of them is doing just then: a change that meant the old
//! record finds the mark, and is made in the new store, where the record lies under the same version.
//!
//! An installation that the old store knows nothing of is begun in the old store, until the *handover*: a mark under a key
//! that no installation has (`HANDOVER`). It says that every replica knows of marks by now. From then on such an
//! installation is begun in the new store; who takes the lead over it holds both leases and marks the old store first, so
//! that a replica which has not heard of the handover yet (it looks once a second) follows.
//!
//! So once the handover was declared and everybody has heard of it, nothing new comes into the old store, and when what is
//! there has been [moved](MovingStore::move_over), replicas that know of the new store alone may take over.

mod calls;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::session::clock::Timestamp;
use crate::session::store::{
    Acquired, Created, Key, LeaseEnd, LeaseToken, NewRecord, Payload, Replaced, SessionStore, StoreError, Stored,
    Version,
};

/// What stands in place of a record that was moved. No record and nothing else that is stored begins with it.
const MARK: &[u8] = b"M";

/// For how long a mark stands: much longer than any replica goes without having looked for the handover.
const MARKED: Duration = Duration::from_secs(24 * 3600);

/// For how long the handover is declared.
const DECLARED: Duration = Duration::from_secs(365 * 24 * 3600);

/// The key of the handover.
const HANDOVER: Key = Key::from_digest(*b"handed over to b");

/// How long one look for the handover is good for.
pub const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// How often a call begins anew when it finds that the truth has changed sides.
const TURNS: usize = 8;

/// How long the old lease is held while the new one is taken.
const BOTH: Duration = Duration::from_secs(2);

/// The layer.
pub struct MovingStore {
    old: Arc<dyn SessionStore>,
    new: Arc<dyn SessionStore>,
    handover: Mutex<Heard>,
}

/// What is known of the handover.
#[derive(Clone, Copy)]
enum Heard {
    NotBy(Option<Instant>),
    Declared,
}

/// Where the truth about an installation is.
enum Truth {
    /// In the old store, which holds this.
    Old(Stored),
    /// In the old store, which holds nothing.
    OldNothing,
    /// In the new store.
    New,
    /// In the new store as soon as the old one is marked: it holds nothing, and the handover was declared.
    NewUnmarked,
}

/// What became of a record that was to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It lies in the new store now.
    Done,
    /// There was nothing to move (any more).
    Nothing,
}

impl MovingStore {
    /// Over the `old` store and the `new` one.
    #[must_use]
    pub fn new(old: Arc<dyn SessionStore>, new: Arc<dyn SessionStore>) -> Self {
        Self {
            old,
            new,
            handover: Mutex::new(Heard::NotBy(None)),
        }
    }

    /// Declares the handover.
    ///
    /// # Errors
    /// Those of the old store.
    pub async fn declare(&self) -> Result<(), StoreError> {
        match self.old.create(&HANDOVER, mark(1, DECLARED), None).await? {
            Created::Won | Created::Lost(_) | Created::Fenced => Ok(()),
        }
    }

    /// Whether the handover was declared, as far as it was heard within the last second.
    ///
    /// # Errors
    /// Those of the old store.
    pub async fn is_declared(&self) -> Result<bool, StoreError> {
        let asked = Instant::now();
        match *self.heard() {
            Heard::Declared => return Ok(true),
            Heard::NotBy(Some(at)) if at + HEARD_WITHIN > asked => return Ok(false),
            Heard::NotBy(_) => {}
        }
        let declared = self.old.load(&HANDOVER).await?.is_some();
        *self.heard() = if declared {
            Heard::Declared
        } else {
            Heard::NotBy(Some(asked))
        };
        Ok(declared)
    }

    /// Moves what the old store holds of an installation; `now` is the time by which its expiry was told.
    ///
    /// # Errors
    /// Those of the stores. What was not moved is where it was.
    pub async fn move_over(&self, key: &Key, now: Timestamp) -> Result<Moved, StoreError> {
        for _ in 0..TURNS {
            let Some(stored) = self.old.load(key).await?.filter(is_movable) else {
                return Ok(Moved::Nothing);
            };
            let copy = NewRecord {
                version: stored.version,
                ttl: stored.expires_at.since(now).max(Duration::from_millis(1)),
                payload: stored.payload.clone(),
            };
            self.put(key, copy, stored.expires_at).await?;
            let seq = stored.version.seq.saturating_add(1);
            match self.old.replace(key, stored.version, mark(seq, MARKED), None).await? {
                Replaced::Done => return Ok(Moved::Done),
                Replaced::Conflict(Some(other)) if is_mark(&other) => return Ok(Moved::Nothing),
                // It has changed since, and is copied anew.
                Replaced::Conflict(Some(_)) => {}
                // It has ended since: the copy must not outlive it.
                Replaced::Conflict(None) | Replaced::Fenced => {
                    self.new.remove(key, stored.version).await?;
                }
            }
        }
        Err(StoreError::Unavailable("it changes too fast to be moved".into()))
    }

    /// Makes `copy` what the new store holds: as long as the truth is in the old one, what lies there is an earlier copy.
    /// Of the same version, it may have been used since, which moves nothing but its expiry.
    async fn put(&self, key: &Key, copy: NewRecord, expires_at: Timestamp) -> Result<(), StoreError> {
        for _ in 0..TURNS {
            let there = match self.new.create(key, copy.clone(), None).await? {
                Created::Lost(there) => there,
                Created::Won | Created::Fenced => return Ok(()),
            };
            if there.version == copy.version {
                if expires_at <= there.expires_at || self.new.touch(key, copy.version, copy.ttl).await? {
                    return Ok(());
                }
                continue;
            }
            if self.new.replace(key, there.version, copy.clone(), None).await? == Replaced::Done {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("its copy changes too fast".into()))
    }

    async fn truth(&self, key: &Key) -> Result<Truth, StoreError> {
        match self.old.load(key).await? {
            Some(stored) if is_mark(&stored) => Ok(Truth::New),
            Some(stored) => Ok(Truth::Old(stored)),
            None if self.is_declared().await? => Ok(Truth::NewUnmarked),
            None => Ok(Truth::OldNothing),
        }
    }

    /// Marks the old store, which holds nothing. `false` when the lease is lost, or when it holds something now.
    async fn mark_empty(&self, key: &Key, fence: Option<LeaseToken>) -> Result<bool, StoreError> {
        Ok(match self.old.create(key, mark(1, MARKED), fence).await? {
            Created::Won => true,
            Created::Lost(there) => is_mark(&there),
            Created::Fenced => false,
        })
    }

    /// Takes the lead over an installation that the old store knows nothing of: first there, since a replica that has not
    /// heard of the handover may have it, then in the new store; and marks the old one.
    async fn lead_anew(&self, key: &Key, token: LeaseToken, ttl: Duration) -> Result<Option<Acquired>, StoreError> {
        if let held @ Acquired::Held { .. } = self.old.acquire_lease(key, token, ttl.max(BOTH)).await? {
            return Ok(Some(held));
        }
        let acquired = self.new.acquire_lease(key, token, ttl).await?;
        let marked = acquired == Acquired::Won && self.mark_empty(key, Some(token)).await?;
        if acquired == Acquired::Won && !marked {
            // Somebody has begun it in the old store meanwhile.
            self.new.release_lease(key, token, LeaseEnd::Plain).await?;
        }
        self.old.release_lease(key, token, LeaseEnd::Plain).await?;
        Ok((acquired != Acquired::Won || marked).then_some(acquired))
    }

    /// Whether the token holds the lease of before the move; it is carried over to the new store then.
    async fn carry_lease(&self, key: &Key, token: LeaseToken) -> Result<bool, StoreError> {
        if !self.old.renew_lease(key, token, BOTH).await? {
            return Ok(false);
        }
        let carried = self.new.acquire_lease(key, token, BOTH).await? == Acquired::Won;
        if carried {
            self.old.release_lease(key, token, LeaseEnd::Plain).await?;
        }
        Ok(carried)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.handover.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mark(seq: u64, ttl: Duration) -> NewRecord {
    NewRecord {
        version: Version {
            seq,
            nonce: fastrand::u32(..),
        },
        ttl,
        payload: Payload(Bytes::from_static(MARK)),
    }
}

fn is_mark(stored: &Stored) -> bool {
    stored.payload.0 == MARK
}

/// Counts of started sessions (`quota`) begin anew in the new store.
fn is_movable(stored: &Stored) -> bool {
    !is_mark(stored) && !stored.payload.0.starts_with(b"T")
}
