//! Copies of records in this process (rules N1 to N4): what the bridge, which asks for them, and the store, which keeps
//! them true, agree on.
//!
//! A store that promises to tell of every change gives a [`Pass`] with what it reads. What is [kept](Copies::keep) with
//! it is [at hand](Copies::at_hand) for as long as the promise stands, no change was told, and it is young enough.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock::Timestamp;
use super::record::Snapshot;
use super::store::{Key, StoreError};

/// A store's promise to tell of every change of what was read with it.
pub trait Promise: Send + Sync + 'static {
    /// How it stands at `now`.
    fn standing(&self, now: Instant) -> Standing;

    /// Returns when what had arrived of the store when this was called may have been taken in, or when the promise is
    /// broken. May return early: ask how it stands again.
    fn caught_up(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// How a [`Promise`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All that the store has told, as far as it has arrived here, is taken in.
    Kept,
    /// Something of the store has arrived and is not taken in yet: it may be a change.
    Behind,
    /// Changes may not be told any more.
    Broken,
}

/// What it takes to keep what was read. Drawn before the store is asked.
#[derive(Clone)]
pub struct Pass {
    /// The promise under which it was read.
    pub promise: Arc<dyn Promise>,
    /// Tells whether a change was told since.
    pub mark: u64,
    /// When the store was about to be asked.
    pub asked: Instant,
    /// How long the record lived from then on at least, by the store's own clock; unset: for as long as it is not told
    /// of.
    pub lives: Option<Duration>,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("mark", &self.mark).finish_non_exhaustive()
    }
}

/// What there is of a record without asking the store. `V`: the form in which it is kept.
pub enum AtHand<V> {
    /// This is what the store holds, as far as it has told.
    True(V),
    /// There is a copy, and something of the store is not taken in yet: wait for [`Promise::caught_up`], and look again.
    Unsure(Arc<dyn Promise>),
    /// The store must be asked.
    Nothing,
}

/// The copies of this process.
pub trait Copies: Send + Sync + 'static {
    /// The record of `key`, where it is known without asking the store (rules N1 and N3).
    fn at_hand(&self, key: &Key) -> AtHand<Arc<Snapshot>>;

    /// Keeps what the store answered, unless a change was told since `pass` was drawn; `None`: there is no record.
    fn keep(&self, key: &Key, pass: &Pass, found: Option<&Arc<Snapshot>>);

    /// For when the store cannot be asked (rule N4): the last copy, also where it is not known to be true any more.
    fn last_known(&self, key: &Key) -> Option<Arc<Snapshot>>;
}

/// A store that has its records in this process: it answers without a wait, and keeps what was read of a record for the
/// next one who asks.
pub trait AtOnce: Send + Sync {
    /// The record of `key` at `now`, by the caller's clock: what [`load`](super::store::SessionStore::load) and
    /// [`Snapshot::read`] would come to.
    ///
    /// # Errors
    /// That it cannot be read, or that the store is closed.
    fn read(&self, key: &Key, now: Timestamp) -> Result<Option<Arc<Snapshot>>, StoreError>;
}
