//! One connection, from its acceptance to its end.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use axum::body::Body;
use bytes::BytesMut;
use http::header::{CONNECTION, HeaderValue};
use http::{Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::begin::Peer;
use super::exchange::{Exchange, Progress, TrackedBody};
use super::guard::{Guard, Place};
use super::lent::Lent;
use super::{Edge, EdgeService, linger};
use crate::lifecycle::{Drain, Stage};
use crate::wire::strict::MAX_FIELDS;

/// hyper as the edge wants it. It sets no deadlines and no limit of its own that the guard would not reach first.
pub(super) fn protocol(edge: &Edge) -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1
        .preserve_header_case(true)
        .title_case_headers(true)
        .half_close(false)
        .keep_alive(true)
        .header_read_timeout(None)
        // Heads are handed over whole.
        .max_buf_size(edge.options.max_header_size.max(400 * 1024));
    const { assert!(MAX_FIELDS <= 100, "hyper refuses more unless it is told") };
    http1
}

/// Serves requests until the connection closes, is upgraded, or has to be dropped. `first`: what was read of it already.
pub(super) async fn run<IO, S>(
    io: IO,
    first: BytesMut,
    peer: Peer,
    http1: &http1::Builder,
    service: S,
    place: Place,
    edge: Arc<Edge>,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: EdgeService,
{
    let exchange = Arc::new(Exchange::new(edge.stats.clone()));
    let (lent, returned) = Lent::new(Guard::new(io, first, exchange.clone(), edge.clone(), place));
    let drain = edge.drain.clone();
    let service = {
        let exchange = exchange.clone();
        service_fn(move |mut request| {
            peer.introduce(request.extensions_mut());
            respond(service.call(request), exchange.clone(), edge.clone())
        })
    };
    let mut connection = http1.serve_connection(TokioIo::new(lent), service).with_upgrades();
    let mut watch = Watch::new(&drain);
    let served = poll_fn(|cx| match watch.poll_forced(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => Pin::new(&mut connection).poll(cx).map(Some),
    });
    let Some(result) = served.await else { return };
    if let Err(error) = &result {
        tracing::debug!(%error, "connection ended early");
    }
    if exchange.progress() == Progress::Upgraded {
        return;
    }
    drop(connection);
    let closing = async {
        // At once, unless the service keeps the upgrade that it has declined.
        if let Ok(Ok(guard)) = tokio::time::timeout(linger::LINGER_TIME, returned).await {
            guard.finish(result.is_ok()).await;
        }
    };
    tokio::select! {
        () = closing => {}
        () = drain.forced() => {}
    }
}

/// Lets the task of a connection be woken by the shutdown, without asking the shared tokens at every poll.
struct Watch {
    drain: Drain,
    closing: Pin<Box<dyn Future<Output = ()> + Send>>,
    forced: Pin<Box<dyn Future<Output = ()> + Send>>,
    registered: Option<Waker>,
}

impl Watch {
    fn new(drain: &Drain) -> Self {
        Self {
            drain: drain.clone(),
            closing: Box::pin(drain.closing()),
            forced: Box::pin(drain.forced()),
            registered: None,
        }
    }

    /// Ready when the connection is to be dropped. When the shutdown is closing it only wakes: the guard does the rest.
    fn poll_forced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let stage = self.drain.stage();
        if !self
            .registered
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            self.registered = Some(cx.waker().clone());
            if stage < Stage::Closing && self.closing.as_mut().poll(cx).is_ready() {
                // It has begun since: the guard sees it as it is polled next.
                self.closing = Box::pin(std::future::pending());
            }
            if self.forced.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        if stage == Stage::Forced {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// The service's answer, or the refusal where the body has turned out to be broken before there was one.
async fn respond<F, E>(answer: F, exchange: Arc<Exchange>, edge: Arc<Edge>) -> Result<Response<TrackedBody>, E>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    let mut answer = pin!(answer);
    let answered = poll_fn(|cx| match exchange.broken() {
        Some(refusal) => Poll::Ready(Err(refusal)),
        None => answer.as_mut().poll(cx).map(Ok),
    });
    let mut response = match answered.await {
        Ok(response) => response?,
        Err(refusal) => (edge.render)(refusal).map(Body::from),
    };
    let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    // A client whose body nobody may read to the end has to know that the connection goes, and so has one whose
    // connection will be closed soon.
    if !is_upgrade && (edge.drain.is_draining() || !exchange.is_received()) {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| TrackedBody::new(body, exchange, is_upgrade)))
}
