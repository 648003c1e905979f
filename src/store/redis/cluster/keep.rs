//! Copies of what the nodes of a cluster hold (rules N1 to N3).
//!
//! Each node tells of changes to what was read from it, on its own connection, and a copy counts for as long as that node
//! is the one that serves its slot: when the map says otherwise, the copies of that slot are not served any more.
//!
//! While a slot is on its way from one node to another, its keys are removed from the old one, which tells of that; what is
//! read by a redirection is not kept.
//!
//! In a failover a master that lives becomes a replica, and its connections stay: what changes at its successor it tells late,
//! once it has caught up with that. So where copies are kept the map is asked for every second, and a change at a master that
//! is new here is answered only when it must be known everywhere: whoever has a copy from its predecessor believes it no more.
//! What is left is a replica of the bridge that hears only from a master that was cut off from the others: until it
//! hears otherwise it serves copies as that one would answer itself, see the module of the cluster.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::map::Node;
use super::slot::slot_of;
use super::watch::KNOWN_ELSEWHERE;
use super::{Cluster, Effect, Failure, Shared, State};
use crate::session::copies::{Pass, Promise, Standing};
use crate::session::store::Key;

impl Cluster {
    /// The answer to `get`, which reads the record of `key` under `name`, with what it takes to keep it.
    pub(in crate::store::redis) async fn read_to_keep(
        &self,
        key: &Key,
        name: &[u8],
        (get, left): (&Cmd, &Cmd),
        by: Instant,
    ) -> Result<(Value, Option<Pass>), Failure> {
        let slot = slot_of(name);
        let (node, up) = self.shared.way_up(slot, Effect::Read, None, by).await?;
        match node.server.read_over(key, (get, left), by, up).await {
            Ok((answer, pass)) => Ok((answer, pass.map(|pass| self.shared.limit(pass, slot, &node)))),
            // It is elsewhere, or the connection is gone: found as ever.
            Err(Failure::Refused(_) | Failure::Lost(_) | Failure::NotSent(_)) => {
                Ok((self.read(name, get, by).await?, None))
            }
            Err(failure @ (Failure::Late | Failure::Garbled(_))) => {
                self.shared.suspect();
                Err(failure)
            }
        }
    }

    /// Returns when the node that serves `name` has handed out what it tells of the changes before, or why that is not
    /// known.
    pub(in crate::store::redis) async fn all_told(&self, name: &[u8], by: Instant) -> Result<(), Failure> {
        let node = self.shared.owner(slot_of(name), by).await?;
        let told = node.server.ask(&redis::cmd("PING"), Effect::Read, by).await.map(drop);
        self.shared.known_elsewhere(&node).await;
        told
    }
}

impl Shared {
    /// Waits until `node` is known to all who keep copies, where it is new.
    async fn known_elsewhere(&self, node: &Node) {
        let since = node.master_since();
        if self.known_since.get().is_some_and(|first| since > *first) {
            tokio::time::sleep_until(since + KNOWN_ELSEWHERE).await;
        }
    }

    /// The same for as long as `node` serves `slot`.
    fn limit(self: &Arc<Self>, pass: Pass, slot: u16, node: &Arc<Node>) -> Pass {
        Pass {
            promise: Arc::new(Served {
                promise: pass.promise,
                slot,
                node: Arc::downgrade(node),
                shared: Arc::downgrade(self),
            }),
            ..pass
        }
    }

    fn serves(&self, node: &Weak<Node>, slot: u16) -> bool {
        match &*self.state.borrow() {
            State::Known(map) => map
                .owner(slot)
                .is_some_and(|owner| std::ptr::eq(Arc::as_ptr(owner), node.as_ptr())),
            State::Unknown { .. } | State::Closed => false,
        }
    }
}

/// What a node promises, for one of its slots.
struct Served {
    promise: Arc<dyn Promise>,
    slot: u16,
    node: Weak<Node>,
    /// Not an owner: the copies belong to those who are told by it.
    shared: Weak<Shared>,
}

impl Promise for Served {
    fn standing(&self, now: std::time::Instant) -> Standing {
        match self.shared.upgrade() {
            Some(shared) if shared.serves(&self.node, self.slot) => self.promise.standing(now),
            _ => Standing::Broken,
        }
    }

    fn caught_up(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.promise.caught_up()
    }
}
