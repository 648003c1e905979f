//! How many requests of one installation the backend works on at once.
//!
//! A backend that locks its session while a request runs, as PHP does, answers the requests of one installation one after
//! the other however many it is sent: each of the others only keeps a worker busy with waiting, and a screen that opens
//! with ten requests can take the workers of everybody. So the others wait here, where waiting costs nothing, in the order
//! in which they came.
//!
//! A turn is taken before the session is looked up, so that a request goes out with what those before it have changed, and
//! is given back at the end of the response's body: PHP gives its lock back no earlier. It is a matter of this replica
//! alone: with several, the backend sees so many for each of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::session::store::Key;

const SHARDS: usize = 64;

type Queues = HashMap<Key, Queue>;

/// The requests of one installation, those that run and those that wait. The semaphore is fair.
struct Queue {
    places: Arc<Semaphore>,
    /// How many requests have it in hand. The last one takes the queue away.
    members: usize,
}

/// The queues of this replica: one for each installation that has a request under way.
pub struct Turns {
    most: usize,
    patience: Duration,
    shards: Vec<Mutex<Queues>>,
}

/// A request waited for its turn for longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnTimeout;

impl Turns {
    /// At most `most` requests of an installation at once (at least one); the others wait, for `patience` at most.
    #[must_use]
    pub fn new(most: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            most: most.clamp(1, Semaphore::MAX_PERMITS),
            patience,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        })
    }

    /// Waits for the turn of a request of `key`. Whoever gives up leaves the others their order.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn take(self: &Arc<Self>, key: Key) -> Result<Turn, TurnTimeout> {
        let (places, member) = self.join(key);
        let permit = match Arc::clone(&places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => tokio::time::timeout(self.patience, places.acquire_owned())
                .await
                // Nobody closes it.
                .map_or(Err(TurnTimeout), |permit| permit.map_err(|_closed| TurnTimeout))?,
        };
        Ok(Turn {
            _permit: permit,
            _member: member,
        })
    }

    fn join(self: &Arc<Self>, key: Key) -> (Arc<Semaphore>, Member) {
        let mut queues = self.shard(&key);
        let queue = queues.entry(key).or_insert_with(|| Queue {
            places: Arc::new(Semaphore::new(self.most)),
            members: 0,
        });
        queue.members += 1;
        let member = Member {
            key,
            turns: Arc::clone(self),
        };
        (Arc::clone(&queue.places), member)
    }

    #[allow(
        clippy::indexing_slicing,
        reason = "there are as many shards as the remainder can be"
    )]
    fn shard(&self, key: &Key) -> MutexGuard<'_, Queues> {
        let index = key.as_bytes().first().map_or(0, |byte| usize::from(*byte) % SHARDS);
        // A panic while the lock is held leaves the map whole: every change to it is a single call or assignment.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to ask the backend. Dropped, it goes to the next one.
pub struct Turn {
    // In this order: the place is free before the queue may be taken away.
    _permit: OwnedSemaphorePermit,
    _member: Member,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

/// One request in a queue.
struct Member {
    key: Key,
    turns: Arc<Turns>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Entry::Occupied(mut queue) = self.turns.shard(&self.key).entry(self.key) {
            queue.get_mut().members -= 1;
            if queue.get().members == 0 {
                queue.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex as StdMutex;

    const ANNA: Key = Key::from_digest([1; 16]);
    const BORIS: Key = Key::from_digest([65; 16]);
    const LONG: Duration = Duration::from_secs(3600);

    fn queues(turns: &Turns) -> usize {
        turns.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_as_may_go_at_once_and_the_others_in_the_order_in_which_they_came() {
        let turns = Turns::new(2, LONG);
        let first = turns.take(ANNA).await.unwrap();
        let second = turns.take(ANNA).await.unwrap();
        let order = Arc::new(StdMutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for place in 0..10 {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let turn = turns.take(ANNA).await.unwrap();
                order.lock().unwrap().push(place);
                drop(turn);
            }));
            tokio::task::yield_now().await;
        }
        assert!(order.lock().unwrap().is_empty(), "nobody overtakes");
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), (0..10).collect::<Vec<_>>());
        drop(second);
        assert_eq!(queues(&turns), 0, "nothing is left behind");
    }

    #[tokio::test(start_paused = true)]
    async fn one_installation_does_not_hold_up_another() {
        let turns = Turns::new(1, LONG);
        let anna = turns.take(ANNA).await.unwrap();
        // The same shard.
        drop(turns.take(BORIS).await.unwrap());
        drop(anna);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_too_long_gives_up_and_takes_nothing_along() {
        let turns = Turns::new(1, Duration::from_secs(10));
        let first = turns.take(ANNA).await.unwrap();
        let began = tokio::time::Instant::now();
        assert!(matches!(turns.take(ANNA).await, Err(TurnTimeout)));
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        // Dropped while it waits, as when the client leaves.
        assert!(
            tokio::time::timeout(Duration::from_secs(1), turns.take(ANNA))
                .await
                .is_err()
        );
        drop(first);
        drop(turns.take(ANNA).await.unwrap());
        assert_eq!(queues(&turns), 0);
    }
}
