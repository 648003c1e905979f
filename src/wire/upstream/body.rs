//! The response body, which holds its connection until it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::connect::Connection;
use super::pool::Pool;
use super::upload::Upload;

/// A connection in use.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) connection: Connection,
    pub(super) place: OwnedSemaphorePermit,
    pub(super) pool: Arc<Pool>,
    /// The upload that may outlast the response, and how long it may stand still.
    pub(super) rest: Option<(Arc<Upload>, Duration)>,
    pub(super) reusable: bool,
}

impl Lease {
    pub(super) fn finish(self) {
        let Self {
            connection,
            place,
            pool,
            rest,
            reusable,
        } = self;
        pool.finish(connection, place, rest, reusable);
    }
}

/// A response body as it comes from the backend: data and trailers, frame by frame, read only as fast as it is asked
/// for.
///
/// A body that is cut short ends with an error, never with a clean end. Read to its end, it puts the connection back
/// into the pool; dropped before, it closes the connection.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, lease: Lease) -> Self {
        let mut body = Self {
            incoming,
            lease: Some(lease),
        };
        body.finish_at_end();
        body
    }

    /// A body that is complete and holds nothing.
    pub(super) const fn without_lease(incoming: Incoming) -> Self {
        Self { incoming, lease: None }
    }

    fn finish_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
    }
}

impl HttpBody for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(_))) => self.finish_at_end(),
            Poll::Ready(Some(Err(_))) => self.lease = None,
            Poll::Ready(None) => self.finish(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
