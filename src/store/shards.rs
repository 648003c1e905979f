//! A map cut into parts, each behind its own lock, so that requests seldom wait for one another.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::session::store::Key;

/// How many parts there are besides the first.
const MORE: usize = 15;

/// Parts of type `T`, chosen by key. A lock is never held across an await: the guard is not `Send`.
pub(super) struct Shards<T> {
    first: Mutex<T>,
    more: Box<[Mutex<T>]>,
}

impl<T> Shards<T> {
    /// How many parts there are.
    pub(super) const COUNT: usize = MORE + 1;

    /// Parts made by `new`.
    pub(super) fn new(mut new: impl FnMut() -> T) -> Self {
        let first = Mutex::new(new());
        Self {
            first,
            more: (0..MORE).map(|_| Mutex::new(new())).collect(),
        }
    }

    /// The part that `key` belongs to. Keys are digests: their bytes are evenly spread.
    pub(super) fn of(&self, key: &Key) -> MutexGuard<'_, T> {
        let [.., last] = key.as_bytes();
        lock(self.more.get(usize::from(*last) % Self::COUNT).unwrap_or(&self.first))
    }

    /// Every part, one after the other; a part is locked only while its guard lives.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        std::iter::once(&self.first).chain(&self.more).map(lock)
    }
}

/// A panic while a part was locked cannot leave it half changed: every change to a part ends with plain assignments.
fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
