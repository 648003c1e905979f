//! Who serves a slot, and the way there.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::Address;
use super::super::link::{Target, Up};
use super::super::pipe::Connection;
use super::super::server::{Effect, Failure};
use super::map::{Map, Node};
use super::{Shared, State, unavailable};

/// A way to a node: its connection, and the number of that.
type Way = (Arc<Node>, (u64, Connection));

/// A connection that broke: its node, its number there.
pub(super) type Lost = (Arc<Node>, u64);

/// The number of the lost connection, if it was one to this node.
pub(super) fn number_of(lost: Option<&Lost>, node: &Arc<Node>) -> Option<u64> {
    lost.filter(|(loser, _)| Arc::ptr_eq(loser, node))
        .map(|(_, number)| *number)
}

impl Shared {
    /// A connection to whoever serves `slot`: not the one that was `lost`.
    pub(super) async fn way(
        &self,
        slot: u16,
        effect: Effect,
        lost: Option<&Lost>,
        by: Instant,
    ) -> Result<Way, Failure> {
        let (node, up) = self.way_up(slot, effect, lost, by).await?;
        Ok((node, (up.number, up.connection)))
    }

    /// The same, with what the node tells by it.
    pub(super) async fn way_up(
        &self,
        slot: u16,
        effect: Effect,
        lost: Option<&Lost>,
        by: Instant,
    ) -> Result<(Arc<Node>, Up), Failure> {
        loop {
            let node = self.owner(slot, by).await?;
            tokio::select! {
                biased;
                up = node.server.link(effect).up(by, number_of(lost, &node)) => {
                    return up.map(|up| (Arc::clone(&node), up)).map_err(Failure::NotSent);
                }
                () = self.change_of(slot, &node) => {}
            }
        }
    }

    pub(super) async fn owner(&self, slot: u16, by: Instant) -> Result<Arc<Node>, Failure> {
        self.map(by).await?.owner(slot).map(Arc::clone).ok_or_else(|| {
            self.suspect();
            unavailable("no node of the cluster serves the slot")
        })
    }

    /// The map. As long as there is none it is waited for; not so once that has lasted for longer than a call may take.
    pub(super) async fn map(&self, by: Instant) -> Result<Arc<Map>, Failure> {
        let since = match &*self.state.borrow() {
            State::Known(map) => return Ok(Arc::clone(map)),
            State::Unknown { since, .. } => *since,
            State::Closed => return Err(unavailable("it has been closed")),
        };
        let mut states = self.state.subscribe();
        let known = states.wait_for(|state| !matches!(state, State::Unknown { .. }));
        let until = by.min(since + self.target.node.timeout);
        // Whether the wait ended well or not, the state tells.
        let _ = tokio::time::timeout_at(until, known).await.map(drop);
        match &*self.state.borrow() {
            State::Known(map) => Ok(Arc::clone(map)),
            State::Unknown { why, .. } => Err(unavailable(why)),
            State::Closed => Err(unavailable("it has been closed")),
        }
    }

    /// Ends when someone else than `node` serves `slot`.
    pub(super) async fn change_of(&self, slot: u16, node: &Arc<Node>) {
        let changed = |state: &State| match state {
            State::Known(map) => map.owner(slot).is_none_or(|owner| !Arc::ptr_eq(owner, node)),
            State::Unknown { .. } => false,
            State::Closed => true,
        };
        // The sender is ours.
        let _ = self.state.subscribe().wait_for(changed).await.map(drop);
    }

    /// Notes that `slot` is served by the node at `to`, and has the rest of the map looked after.
    pub(super) fn moved(&self, slot: u16, to: &Address) {
        self.state.send_if_modified(|state| {
            let State::Known(map) = state else { return false };
            if map.owner(slot).is_some_and(|owner| owner.address == *to) {
                return false;
            }
            *map = Arc::new(map.corrected(slot, to, |address| self.visitors.master(address, self)));
            true
        });
        self.suspect();
    }

    /// The node at `address`: one of the map, or a visitor.
    pub(super) fn node(&self, address: &Address) -> Arc<Node> {
        let mapped = match &*self.state.borrow() {
            State::Known(map) => map
                .masters()
                .iter()
                .find(|node| node.address == *address)
                .map(Arc::clone),
            State::Unknown { .. } | State::Closed => None,
        };
        mapped.unwrap_or_else(|| self.visitors.node(address, self))
    }

    /// How the node at `address` is reached.
    pub(super) fn target_at(&self, address: &Address) -> Target {
        Target {
            host: address.host.clone(),
            port: address.port,
            ..self.target.node.clone()
        }
    }
}
