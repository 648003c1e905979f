//! What the guard of a connection and the service behind hyper tell each other about the request in hand.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{EdgeRefusal, EdgeStats};

/// Where the exchange of the connection is: there is never more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// No request is in hand.
    Idle,
    /// A request was handed to hyper, and its response has not ended.
    Running,
    /// hyper has taken all of the response.
    Answered,
    /// hyper has taken the head of a 101: what follows is no HTTP.
    Upgraded,
}

/// Shared by the guard, which reads, and the service, which answers. Both run in the task of the connection, so that
/// no order of memory is at stake and nobody has to be woken.
#[derive(Debug)]
pub(super) struct Exchange {
    stats: Arc<EdgeStats>,
    progress: AtomicU8,
    received: AtomicBool,
    broken: OnceLock<EdgeRefusal>,
}

impl Exchange {
    /// That of a new connection. What it is doing is counted in `stats`.
    pub(super) fn new(stats: Arc<EdgeStats>) -> Self {
        Self {
            stats,
            progress: AtomicU8::new(Progress::Idle as u8),
            received: AtomicBool::new(false),
            broken: OnceLock::new(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        match self.progress.load(Ordering::Relaxed) {
            0 => Progress::Idle,
            1 => Progress::Running,
            2 => Progress::Answered,
            _ => Progress::Upgraded,
        }
    }

    fn set(&self, progress: Progress) {
        let before = self.progress();
        self.progress.store(progress as u8, Ordering::Relaxed);
        if (before, progress) == (Progress::Running, Progress::Answered) {
            return;
        }
        if let Some(gauge) = self.gauge(progress) {
            gauge.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(gauge) = self.gauge(before) {
            gauge.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Where a connection is counted that has come this far.
    fn gauge(&self, progress: Progress) -> Option<&AtomicU64> {
        match progress {
            Progress::Idle => None,
            Progress::Running | Progress::Answered => Some(&self.stats.requests),
            Progress::Upgraded => Some(&self.stats.tunnels),
        }
    }

    /// The guard hands a request over; `received` with all of its body.
    pub(super) fn begin(&self, received: bool) {
        self.received.store(received, Ordering::Relaxed);
        self.set(Progress::Running);
    }

    /// The guard has handed over the rest of the body.
    pub(super) fn set_received(&self) {
        self.received.store(true, Ordering::Relaxed);
    }

    /// Whether all of the request has been handed over.
    pub(super) fn is_received(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }

    /// The response is on the wire, or nothing more will come of it.
    pub(super) fn end(&self) {
        self.set(Progress::Idle);
    }

    /// The guard found the body of the request in hand to be broken. Nothing more comes of this connection.
    pub(super) fn break_off(&self, refusal: EdgeRefusal) {
        // Only the first flaw counts.
        let _ = self.broken.set(refusal);
    }

    pub(super) fn broken(&self) -> Option<EdgeRefusal> {
        self.broken.get().copied()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end();
    }
}

/// The body of a response. When hyper lets go of it, it has taken all that it will of the response.
#[derive(Debug)]
pub(super) struct TrackedBody {
    inner: Body,
    exchange: Arc<Exchange>,
    last: Progress,
}

impl TrackedBody {
    pub(super) fn new(inner: Body, exchange: Arc<Exchange>, is_upgrade: bool) -> Self {
        Self {
            inner,
            exchange,
            last: if is_upgrade {
                Progress::Upgraded
            } else {
                Progress::Answered
            },
        }
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.exchange.set(self.last);
    }
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
