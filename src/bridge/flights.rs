//! One attempt a replica: of all requests here that wait for the session of one installation, one speaks to the store
//! and the others wait for what it finds.
//!
//! This is a courtesy to the store, not the guarantee: that one session is started over all replicas is the lease's
//! doing ([`super::lead`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::session::record::Snapshot;
use crate::session::store::{Key, StoreError};

const SHARDS: usize = 64;

/// How an attempt ended, for those who waited.
#[derive(Clone, Debug)]
pub enum Landing {
    /// There is a session, and the response that started it has ended. With it, when the store was asked for what is
    /// known: who has looked at the store later may know better.
    Session(Arc<Snapshot>, Instant),
    /// The leader's response started none: safe methods go on together with what the store holds, others in turn.
    Barren(Option<Arc<Snapshot>>),
    /// It was cut off, was not allowed to start one, or what it started could not be kept: the next one tries.
    Failed,
    /// The store did not answer: it would not answer the others either, one deadline after the other.
    Outage(StoreError),
}

type Waiting = HashMap<Key, Arc<Attempt>>;

/// An attempt under way, or how it ended.
#[derive(Default)]
struct Attempt {
    landing: OnceLock<Landing>,
    /// Wakes those who wait in the order in which they came.
    landed: Notify,
}

/// The attempts under way in this replica.
pub struct Flights {
    shards: Vec<Mutex<Waiting>>,
}

/// The part a request plays.
pub enum Seat {
    /// It is the first: it speaks to the store and must land the ticket.
    First(Ticket),
    /// Another one speaks; wait for its landing.
    Follower(Follower),
}

impl Flights {
    /// Nothing under way.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        })
    }

    /// Joins the attempt for `key`, or starts it.
    #[must_use]
    pub fn join(self: &Arc<Self>, key: &Key) -> Seat {
        let Some(mut waiting) = self.shard(key) else {
            return Seat::First(self.ticket(*key));
        };
        match waiting.entry(*key) {
            Entry::Occupied(entry) => Seat::Follower(Follower(Arc::clone(entry.get()))),
            Entry::Vacant(entry) => {
                let ticket = self.ticket(*key);
                entry.insert(Arc::clone(&ticket.attempt));
                Seat::First(ticket)
            }
        }
    }

    fn ticket(self: &Arc<Self>, key: Key) -> Ticket {
        Ticket {
            key,
            flights: Arc::clone(self),
            attempt: Arc::default(),
        }
    }

    fn shard(&self, key: &Key) -> Option<MutexGuard<'_, Waiting>> {
        let index = key.as_bytes().first().map_or(0, |byte| usize::from(*byte) % SHARDS);
        // A panic while the lock is held leaves the map as it was: every operation on it is a single call.
        self.shards
            .get(index)
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The right, and the duty, to tell the others how it ended. Dropped, it tells them that it failed.
pub struct Ticket {
    key: Key,
    flights: Arc<Flights>,
    attempt: Arc<Attempt>,
}

impl Ticket {
    /// Ends the attempt. Whoever comes later starts another one.
    pub fn land(self, landing: Landing) {
        self.end(landing);
    }

    fn end(&self, landing: Landing) {
        if let Some(mut waiting) = self.flights.shard(&self.key)
            && waiting
                .get(&self.key)
                .is_some_and(|attempt| Arc::ptr_eq(attempt, &self.attempt))
        {
            waiting.remove(&self.key);
        }
        // It ends once: what was said first stays.
        let _ = self.attempt.landing.set(landing);
        self.attempt.landed.notify_waiters();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(Landing::Failed);
    }
}

/// A place among those who wait.
pub struct Follower(Arc<Attempt>);

impl Follower {
    /// Waits for the end of the attempt.
    pub async fn landing(self) -> Landing {
        let mut landed = std::pin::pin!(self.0.landed.notified());
        // From here on no end is missed.
        landed.as_mut().enable();
        if self.0.landing.get().is_none() {
            landed.await;
        }
        self.0.landing.get().cloned().unwrap_or(Landing::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_that_ended_takes_no_later_attempt_with_it() {
        let (flights, key) = (Flights::new(), Key::from_digest([7; 16]));
        let Seat::First(ended) = flights.join(&key) else {
            panic!("nothing is under way");
        };
        ended.end(Landing::Barren(None));
        let Seat::First(_later) = flights.join(&key) else {
            panic!("the attempt has ended");
        };
        drop(ended);
        assert!(matches!(flights.join(&key), Seat::Follower(_)));
    }
}
