//! What a connection occupies while it is open, and what is counted of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{Edge, EdgeStats};

/// The place of one connection.
pub(super) struct Place {
    edge: Arc<Edge>,
    _slot: OwnedSemaphorePermit,
    _hold: TaskTrackerToken,
}

impl Place {
    pub(super) fn take(edge: Arc<Edge>, slot: OwnedSemaphorePermit) -> Self {
        edge.stats.open.fetch_add(1, Ordering::Relaxed);
        let hold = edge.drain.hold();
        Self {
            edge,
            _slot: slot,
            _hold: hold,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.edge.stats.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection is doing, counted for as long as it does.
pub(super) struct Doing<'a>(&'a AtomicU64);

impl<'a> Doing<'a> {
    /// A request is in hand.
    pub(super) fn request(stats: &'a EdgeStats) -> Self {
        Self::count(&stats.requests)
    }

    /// The connection is one of another protocol.
    pub(super) fn tunnel(stats: &'a EdgeStats) -> Self {
        Self::count(&stats.tunnels)
    }

    fn count(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
