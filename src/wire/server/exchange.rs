//! What the guard of a connection and the service behind hyper tell each other about the request in hand.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::EdgeRefusal;

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
#[derive(Debug, Default)]
pub(super) struct Exchange {
    progress: AtomicU8,
    received: AtomicBool,
    broken: OnceLock<EdgeRefusal>,
}

impl Exchange {
    pub(super) fn progress(&self) -> Progress {
        match self.progress.load(Ordering::Relaxed) {
            0 => Progress::Idle,
            1 => Progress::Running,
            2 => Progress::Answered,
            _ => Progress::Upgraded,
        }
    }

    /// The guard hands a request over; `received` with all of its body.
    pub(super) fn begin(&self, received: bool) {
        self.received.store(received, Ordering::Relaxed);
        self.progress.store(Progress::Running as u8, Ordering::Relaxed);
    }

    /// The guard has handed over the rest of the body.
    pub(super) fn set_received(&self) {
        self.received.store(true, Ordering::Relaxed);
    }

    /// Whether all of the request has been handed over.
    pub(super) fn is_received(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }

    /// The response is on the wire; the next request may come.
    pub(super) fn end(&self) {
        self.progress.store(Progress::Idle as u8, Ordering::Relaxed);
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
        self.exchange.progress.store(self.last as u8, Ordering::Relaxed);
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
