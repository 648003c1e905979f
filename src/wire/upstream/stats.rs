//! What the pool counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The pool at one moment, see [`super::Upstream::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamStats {
    /// Connections that are open now, idle and upgraded ones included.
    pub open: usize,
    /// Connections that wait for a request now.
    pub idle: usize,
    /// Connections opened since the start.
    pub connects: u64,
    /// Attempts to open one that failed, since the start.
    pub connect_failures: u64,
    /// Requests that were given a connection used before, since the start.
    pub reused: u64,
    /// Requests taken to another connection because the first had been closed before a byte was written.
    pub retries: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) open: AtomicUsize,
    pub(super) connects: AtomicU64,
    pub(super) connect_failures: AtomicU64,
    pub(super) reused: AtomicU64,
    pub(super) retries: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self, idle: usize) -> UpstreamStats {
        UpstreamStats {
            open: self.open.load(Ordering::Relaxed),
            idle,
            connects: self.connects.load(Ordering::Relaxed),
            connect_failures: self.connect_failures.load(Ordering::Relaxed),
            reused: self.reused.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }
}

/// One open connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Open(Arc<Counters>);

impl Open {
    pub(super) fn new(counters: &Arc<Counters>) -> Self {
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
