//! Which node serves which slot, as far as is known.

use std::sync::{Arc, Mutex, PoisonError};

use redis::Cmd;
use tokio::time::Instant;

use super::super::Address;
use super::super::replicas::Replicas;
use super::super::server::Server;
use super::reply::View;
use super::slot::{SLOTS, slot_of};
use crate::session::store::StoreStats;

/// Marks a slot that nobody serves. There cannot be as many nodes as slots and one.
const NOBODY: u16 = u16::MAX;

/// How many names are tried to find one in the slots of each master.
const PROBE_NAMES: u32 = 4096;

/// A node, and the connections to it.
pub(super) struct Node {
    pub(super) address: Address,
    pub(super) server: Server,
    /// Since when it has been known here as a master, the last time that it became one.
    pub(super) master_since: Mutex<Instant>,
    /// Where its replicas are waited for.
    pub(super) replicas: Option<Replicas>,
}

impl Node {
    /// See [`Node::master_since`].
    pub(super) fn master_since(&self) -> Instant {
        *self.master_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is a master from now on.
    pub(super) fn became_master(&self) {
        *self.master_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// What happened so far.
    pub(super) fn stats(&self) -> StoreStats {
        let replicas = self.replicas.as_ref();
        StoreStats {
            reconnects: self.server.reconnects() + replicas.map_or(0, Replicas::reconnects),
            unreplicated: replicas.map_or(0, Replicas::unconfirmed),
        }
    }

    /// Lets go of the connections, for good.
    pub(super) fn close(&self) {
        self.server.close();
        if let Some(replicas) = &self.replicas {
            replicas.close();
        }
    }
}

/// Who serves what. Never changed, only replaced: a call goes by the one that it found.
#[derive(Clone)]
pub(super) struct Map {
    /// What it was made of; `None` once it was corrected by a redirection.
    view: Option<View>,
    epoch: u64,
    masters: Vec<Arc<Node>>,
    replicas: Vec<Address>,
    /// For each slot, the place of its master among `masters`.
    owners: Box<[u16]>,
    /// Whether every slot has one.
    complete: bool,
    probes: Arc<[(u16, Cmd)]>,
}

impl Map {
    /// The map that `view` is. `node` finds the node at an address, or makes it; `probe` makes a harmless write to a
    /// key of this name.
    pub(super) fn new(
        view: View,
        mut node: impl FnMut(&Address) -> Arc<Node>,
        probe: impl Fn(u32) -> (Vec<u8>, Cmd),
    ) -> Self {
        let mut map = Self {
            epoch: view.epoch,
            masters: Vec::new(),
            replicas: view.replicas.clone(),
            owners: vec![NOBODY; usize::from(SLOTS)].into(),
            complete: false,
            probes: [].into(),
            view: None,
        };
        for (first, last, address) in &view.ranges {
            let place = map.place(address, &mut node);
            let range = usize::from(*first)..=usize::from(*last);
            if let Some(owners) = map.owners.get_mut(range) {
                owners.fill(place);
            }
        }
        map.complete = !map.owners.contains(&NOBODY);
        map.view = Some(view);
        map.probes = map.find_probes(probe);
        map
    }

    /// This map with one slot in other hands.
    pub(super) fn corrected(&self, slot: u16, to: &Address, mut node: impl FnMut(&Address) -> Arc<Node>) -> Self {
        let mut map = self.clone();
        let place = map.place(to, &mut node);
        if let Some(owner) = map.owners.get_mut(usize::from(slot)) {
            *owner = place;
        }
        map.view = None;
        map
    }

    fn place(&mut self, address: &Address, node: &mut impl FnMut(&Address) -> Arc<Node>) -> u16 {
        let known = self.masters.iter().position(|master| master.address == *address);
        let place = known.unwrap_or_else(|| {
            self.masters.push(node(address));
            self.masters.len() - 1
        });
        u16::try_from(place).unwrap_or(NOBODY)
    }

    /// A write for each master, to a key that is its own.
    fn find_probes(&self, probe: impl Fn(u32) -> (Vec<u8>, Cmd)) -> Arc<[(u16, Cmd)]> {
        let mut found = Vec::new();
        let mut missing: Vec<bool> = vec![true; self.masters.len()];
        for n in 0..PROBE_NAMES {
            if found.len() == missing.len() {
                break;
            }
            let (name, cmd) = probe(n);
            let slot = slot_of(&name);
            let place = self.owners.get(usize::from(slot)).copied().unwrap_or(NOBODY);
            if let Some(missing) = missing.get_mut(usize::from(place))
                && std::mem::take(missing)
            {
                found.push((slot, cmd));
            }
        }
        found.into()
    }

    /// Who serves `slot`.
    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        let place = self.owners.get(usize::from(slot))?;
        self.masters.get(usize::from(*place))
    }

    /// The nodes that serve slots.
    pub(super) fn masters(&self) -> &[Arc<Node>] {
        &self.masters
    }

    /// Where their replicas are.
    pub(super) fn replicas(&self) -> &[Address] {
        &self.replicas
    }

    /// The writes that show whether masters serve, and their slots: one for each master that has enough slots for a
    /// key to be found.
    pub(super) fn probes(&self) -> &Arc<[(u16, Cmd)]> {
        &self.probes
    }

    /// See [`View::epoch`].
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether it says what `view` says.
    pub(super) fn is(&self, view: &View) -> bool {
        self.view.as_ref() == Some(view)
    }

    /// How many slots have no node, or one to which there is no connection.
    pub(super) fn unserved(&self) -> usize {
        let up: Vec<bool> = self.masters.iter().map(|master| master.server.is_up()).collect();
        if self.complete && up.iter().all(|up| *up) {
            return 0;
        }
        let served = |place: &&u16| up.get(usize::from(**place)).is_some_and(|up| *up);
        self.owners.len() - self.owners.iter().filter(served).count()
    }
}
