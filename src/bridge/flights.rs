//! One attempt a replica: of all requests here that wait for the session of one installation, one speaks to the store
//! and the others wait for what it finds.
//!
//! This is a courtesy to the store, not the guarantee: that one session is started over all replicas is the lease's
//! doing ([`super::lead`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
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
    /// It was cut off, or what it started could not be kept: the next one tries.
    Failed,
    /// The store did not answer: it would not answer the others either, one deadline after the other.
    Outage(StoreError),
}

type Waiting = HashMap<Key, watch::Receiver<Option<Landing>>>;

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
            return Seat::First(self.ticket(*key).0);
        };
        match waiting.entry(*key) {
            Entry::Occupied(entry) => Seat::Follower(Follower(entry.get().clone())),
            Entry::Vacant(entry) => {
                let (ticket, landing) = self.ticket(*key);
                entry.insert(landing);
                Seat::First(ticket)
            }
        }
    }

    fn ticket(self: &Arc<Self>, key: Key) -> (Ticket, watch::Receiver<Option<Landing>>) {
        let (sender, receiver) = watch::channel(None);
        (
            Ticket {
                key,
                flights: Arc::clone(self),
                sender,
            },
            receiver,
        )
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
    sender: watch::Sender<Option<Landing>>,
}

impl Ticket {
    /// Ends the attempt. Whoever comes later starts another one.
    pub fn land(self, landing: Landing) {
        self.leave();
        self.sender.send_replace(Some(landing));
    }

    fn leave(&self) {
        if let Some(mut waiting) = self.flights.shard(&self.key)
            && waiting
                .get(&self.key)
                .is_some_and(|receiver| receiver.same_channel(&self.sender.subscribe()))
        {
            waiting.remove(&self.key);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave();
        self.sender.send_if_modified(|landing| {
            let cut_off = landing.is_none();
            if cut_off {
                *landing = Some(Landing::Failed);
            }
            cut_off
        });
    }
}

/// A place among those who wait.
pub struct Follower(watch::Receiver<Option<Landing>>);

impl Follower {
    /// Waits for the end of the attempt.
    pub async fn landing(mut self) -> Landing {
        match self.0.wait_for(Option::is_some).await {
            Ok(landing) => landing.clone().unwrap_or(Landing::Failed),
            Err(_closed) => Landing::Failed,
        }
    }
}
