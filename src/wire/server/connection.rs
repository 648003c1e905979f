//! One connection of HTTP/1.1, from its first byte to its end: requests in, responses out, one at a time, in one task.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::intake::{Intake, Next, Raw, Shared, lock};
use super::linger::{self, OverTcp};
use super::place::{Doing, Place};
use super::refusal::encode;
use super::reply::{Asked, Reply, Written};
use super::{Came, Edge, EdgeRefusal, EdgeService, Informer};
use crate::lifecycle::{Drain, Stage};
use crate::moment;
use crate::wire::body::Body;
use crate::wire::message::{Peer, Request, RequestHead, Response};
use crate::wire::timer::Timer;
use crate::wire::upgrade::{self, Upgraded};

/// How long a client that has said all that it will is still sent a response without end of which nothing comes: one
/// that has closed its side for good cannot be told from it before the next bytes.
const HALF_CLOSED_PATIENCE: Duration = Duration::from_secs(2);

/// How a connection comes to its end.
enum Ending {
    /// All that was asked is answered: it is closed in order.
    Done,
    /// What came is refused.
    Refused(EdgeRefusal),
    /// It was idle for too long.
    Left,
    /// The client is gone, or cannot be told anything more.
    Gone,
    /// It goes on in another protocol.
    Switched(Upgraded),
}

/// Serves requests until the connection closes, is upgraded, or has to be dropped. `first`: what was read of it already.
pub(super) async fn run<IO, S>(io: IO, first: BytesMut, peer: Peer, service: S, place: Place, edge: Arc<Edge>)
where
    IO: AsyncRead + AsyncWrite + OverTcp + Unpin + Send + 'static,
    S: EdgeService,
{
    let intake = Arc::new(Mutex::new(Intake::new(io, first, peer, edge.clone())));
    let mut watch = Watch::new(&edge.drain);
    let ended = {
        let mut served = pin!(serve(&intake, &service, &edge));
        poll_fn(|cx| match watch.poll_forced(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => moment::one_poll(|| served.as_mut().poll(cx)).map(Some),
        })
        .await
    };
    let Some(ending) = ended else { return };
    let ended = finish(ending, intake, &edge);
    tokio::select! {
        () = ended => {}
        () = edge.drain.forced() => {}
    }
    drop(place);
}

async fn serve<IO, S>(intake: &Shared<IO>, service: &S, edge: &Edge) -> Ending
where
    IO: AsyncRead + AsyncWrite + OverTcp + Unpin + Send + 'static,
    S: EdgeService,
{
    let mut first = true;
    loop {
        let Begun {
            head,
            persistent,
            takes_trailers,
            body,
            informer,
            _request,
        } = match next(intake, edge, first).await {
            Ok(begun) => begun,
            Err(ending) => return ending,
        };
        first = false;
        let asked = Asked {
            method: head.method.clone(),
            version: head.version,
            takes_trailers,
        };
        let came = Came {
            informer,
            under_way: None,
        };
        let answered = answer(intake, service.call(Request { head, body }, came), persistent, edge).await;
        let Some((response, close)) = answered else {
            return Ending::Gone;
        };
        if response.head.status == StatusCode::SWITCHING_PROTOCOLS {
            return switch(intake, response, &asked, edge).await;
        }
        let mut reply = Reply::new(response, &asked, close, &*edge.clock);
        let closes = reply.closes();
        if closes {
            linger::end_by_reset(&lock(intake).io, true);
        }
        match write(intake, &mut reply).await {
            Ok(Written::Whole) => {}
            Ok(Written::CutShort) | Err(_) => return Ending::Gone,
        }
        if closes {
            linger::end_by_reset(&lock(intake).io, false);
        }
        if close || closes {
            drop(reply);
            poll_fn(|cx| lock(intake).poll_body_released(cx)).await;
            return Ending::Done;
        }
    }
}

/// A request in hand: its head is read, its body on the way.
struct Begun<'a> {
    head: Box<RequestHead>,
    persistent: bool,
    takes_trailers: bool,
    body: Body,
    informer: Option<Informer>,
    _request: Doing<'a>,
}

/// Waits for the next request, and for its body where that is small. `first`: there was none before.
async fn next<'a, IO>(intake: &Shared<IO>, edge: &'a Edge, first: bool) -> Result<Begun<'a>, Ending>
where
    IO: AsyncRead + AsyncWrite + OverTcp + Unpin + Send + 'static,
{
    let (mut over, mut head) = (!first, None);
    // All under one lock.
    poll_fn(|cx| {
        let shared = intake;
        let mut intake = lock(shared);
        if std::mem::take(&mut over) {
            intake.next_message();
        }
        if head.is_none() {
            head = Some(match ready!(intake.poll_next(cx)) {
                Next::Request(head) => (head, Doing::request(&edge.stats)),
                Next::Refused(refusal) => return Poll::Ready(Err(Ending::Refused(refusal))),
                Next::Left => return Poll::Ready(Err(Ending::Left)),
                Next::Closed => return Poll::Ready(Err(Ending::Done)),
                Next::Gone => return Poll::Ready(Err(Ending::Gone)),
            });
        }
        ready!(intake.poll_small_body(cx));
        let Some((asked, request)) = head.take() else {
            return Poll::Pending;
        };
        let (body, informer) = intake.begin(shared, asked.head.version);
        Poll::Ready(Ok(Begun {
            head: asked.head,
            persistent: asked.persistent,
            takes_trailers: asked.takes_trailers,
            body,
            informer,
            _request: request,
        }))
    })
    .await
}

/// A client whose request nobody may read to its end has to know that the connection goes, and so has one whose
/// connection will be closed soon.
fn must_close<IO: AsyncRead + AsyncWrite + Unpin>(
    intake: &mut Intake<IO>,
    cx: &mut Context<'_>,
    persistent: bool,
    edge: &Edge,
) -> bool {
    intake.begin_answer(cx);
    !persistent || edge.drain.is_draining() || !intake.is_taken() || intake.broken().is_some()
}

/// The service's answer, or the refusal where the body has turned out to be broken before there was one, and whether the
/// connection is to end with it; `None` when the client is gone.
async fn answer<IO, F>(intake: &Shared<IO>, answer: F, persistent: bool, edge: &Edge) -> Option<(Response, bool)>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response>,
{
    let mut answer = pin!(answer);
    poll_fn(|cx| {
        let answered = answer.as_mut().poll(cx);
        let mut intake = lock(intake);
        intake.register(cx);
        if let Some(refusal) = intake.broken() {
            // What the service makes of a broken body is not what broke it.
            let response = refusal.response(edge);
            return Poll::Ready(Some((response, must_close(&mut intake, cx, persistent, edge))));
        }
        if let Poll::Ready(response) = answered {
            let close = response.head.status != StatusCode::SWITCHING_PROTOCOLS
                && must_close(&mut intake, cx, persistent, edge);
            return Poll::Ready(Some((response, close)));
        }
        if intake.poll_gone(cx).is_ready() || matches!(intake.poll_interim(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// Writes a response while the client is there.
async fn write<IO>(intake: &Shared<IO>, reply: &mut Reply) -> io::Result<Written>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (mut silence, mut silent_since, mut written) = (Timer::default(), None, 0);
    poll_fn(|cx| {
        if let Poll::Ready(written) = reply.poll(cx, intake) {
            return Poll::Ready(written);
        }
        let mut intake = lock(intake);
        intake.register(cx);
        if intake.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if std::mem::replace(&mut written, reply.written()) != reply.written() {
            silent_since = None;
        }
        if !(intake.is_half_closed() && reply.is_open_ended() && reply.is_waiting()) {
            silent_since = None;
            return Poll::Pending;
        }
        let since = *silent_since.get_or_insert_with(Instant::now);
        silence
            .poll(cx, since + HALF_CLOSED_PATIENCE)
            .map(|()| Err(io::ErrorKind::ConnectionAborted.into()))
    })
    .await
}

/// Sends a 101; what follows is no HTTP.
async fn switch<IO>(intake: &Shared<IO>, mut response: Response, asked: &Asked, edge: &Edge) -> Ending
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let upgraded = response.head.upgraded.take();
    let mut reply = Reply::new(response, asked, false, &*edge.clock);
    match (write(intake, &mut reply).await, upgraded) {
        (Ok(Written::Whole), Some(upgraded)) => Ending::Switched(upgraded),
        _ => Ending::Gone,
    }
}

/// Closes the connection so that the client can read what was sent last, or leaves it to another protocol.
async fn finish<IO>(ending: Ending, intake: Shared<IO>, edge: &Edge)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut io = Raw(intake);
    match ending {
        Ending::Done => linger::close(&mut io, b"").await,
        Ending::Refused(refusal) => {
            let wire = encode(&(edge.render)(refusal), edge.clock.now());
            linger::close(&mut io, &wire).await;
        }
        Ending::Left => linger::close_idle(&mut io).await,
        Ending::Gone => {}
        Ending::Switched(mut upgraded) => {
            let _tunnel = Doing::tunnel(&edge.stats);
            let joined = upgrade::join(&mut io, &mut upgraded, edge.options.stall_timeout);
            if let Err(error) = joined.await {
                tracing::debug!(%error, "an upgraded connection broke");
            }
            let _ = io.shutdown().await;
        }
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

    /// Ready when the connection is to be dropped. When the shutdown is closing it only wakes: the intake does the rest.
    fn poll_forced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let stage = self.drain.stage();
        if !self
            .registered
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            self.registered = Some(cx.waker().clone());
            if stage < Stage::Closing && self.closing.as_mut().poll(cx).is_ready() {
                // It has begun since: the intake sees it as it is polled next.
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
