//! `CLIENT TRACKING`: the connection by which Redis tells of changes to what was read over it.
//!
//! A [`Feed`] is one such connection, from the greeting to its end, as the near cache sees it: the promise under which
//! copies are kept. It stands at the wire, as [`Fed`], and notes what is read there:
//!
//! * **Kept** means that nothing of Redis lies unread. The kernel is asked for what has arrived and was not fetched; a
//!   flag tells that something was fetched and may not be taken in yet. The flag is up *before* the kernel is read, and
//!   comes down only when there is nothing left and all that was read has been handled: the driver handles each message
//!   before it reads on. So whoever finds the kernel empty, and the flag down after that, has missed nothing.
//! * **Broken** is final: the connection was closed, by whichever side, or is not believed for its silence.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use redis::{PushInfo, PushKind, Value};
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tracing::warn;

use super::layout::key_of;
use super::pipe::{Connection, Listener as Ear};
use crate::session::copies::{Pass, Promise, Standing};
use crate::session::store::Key;
use crate::store::near_cache::Listener;
use crate::store::patience;

/// For how long a connection is believed that nothing was heard of, beside the time that an answer may take. It is asked
/// after two seconds of silence at the latest, see `link`.
pub(super) const BELIEVED_FOR: Duration = Duration::from_secs(3);

/// How often it is told that Redis does not promise.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Who is told of changes, and how records are named.
#[derive(Clone)]
pub(super) struct Tracking {
    pub(super) listener: Arc<dyn Listener>,
    pub(super) prefix: Arc<str>,
    pub(super) told: Arc<Mutex<Option<Instant>>>,
}

impl Tracking {
    /// Told once in a while: the store works, without copies.
    pub(super) fn tell_refusal(&self, why: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            warn!(
                why,
                "Redis does not promise to tell of changes (CLIENT TRACKING): the near cache stays empty"
            );
        }
    }
}

/// A connection that tells of changes.
pub(super) struct Feed {
    tracking: Tracking,
    /// A second handle on the socket, to ask the kernel; none once it is over.
    socket: RwLock<Option<Socket>>,
    /// Something may have been read that is not taken in.
    reading: AtomicBool,
    /// Redis has promised to tell.
    armed: AtomicBool,
    ended: AtomicBool,
    began: Instant,
    /// When something was heard last, in milliseconds since it began.
    heard: AtomicU64,
    believed_for: Duration,
    /// Wakes those who wait for it to be taken in.
    caught_up: Notify,
}

impl Feed {
    /// For this connection, to which answers may take `timeout`.
    pub(super) fn new(tracking: &Tracking, stream: &TcpStream, timeout: Duration) -> io::Result<Arc<Self>> {
        let socket = socket2::SockRef::from(stream).try_clone()?;
        Ok(Arc::new(Self {
            tracking: tracking.clone(),
            socket: RwLock::new(Some(socket)),
            reading: AtomicBool::new(true),
            armed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            began: Instant::now(),
            heard: AtomicU64::new(0),
            believed_for: BELIEVED_FOR + timeout,
            caught_up: Notify::new(),
        }))
    }

    /// Takes in what Redis pushes on this connection.
    pub(super) fn listener(self: &Arc<Self>) -> Ear {
        let feed = Arc::clone(self);
        Box::new(move |push: PushInfo| feed.take_in(&push))
    }

    /// Has Redis promise to tell, before anything is read over this connection. The error is fit to be shown.
    pub(super) async fn track(&self, connection: &Connection, timeout: Duration) -> Result<(), String> {
        let mut track = redis::cmd("CLIENT");
        track.arg("TRACKING").arg("ON");
        let until = tokio::time::Instant::now() + timeout;
        match patience::within(until, connection.ask(&track)).await {
            Some(Ok(Value::Okay)) => Ok(()),
            Some(Ok(Value::ServerError(error))) => Err(error.code().to_owned()),
            Some(Ok(_)) => Err("its answer makes no sense".into()),
            Some(Err(_)) => Err("the connection was lost".into()),
            None => Err("it was not answered in time".into()),
        }
    }

    /// From now on copies are kept under this promise.
    pub(super) fn arm(&self) {
        if self.ended.load(Ordering::Acquire) || self.armed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.tracking.listener.promised();
        // It may have ended meanwhile, and nobody have seen that it was armed.
        if self.ended.load(Ordering::Acquire) {
            self.disarm();
        }
    }

    /// The promise is broken.
    pub(super) fn end(&self) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        // The handle would keep the connection open.
        *self.socket.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.disarm();
        self.caught_up.notify_waiters();
    }

    fn disarm(&self) {
        if self.armed.swap(false, Ordering::AcqRel) {
            self.tracking.listener.broken();
        }
    }

    /// Tells that Redis refuses what copies need.
    pub(super) fn tell_refusal(&self, why: &str) {
        self.tracking.tell_refusal(why);
    }

    /// What is needed to keep a record that is read by this connection now.
    pub(super) fn pass(self: &Arc<Self>, key: &Key) -> Pass {
        let promise: Arc<dyn Promise> = Arc::clone(self) as _;
        Pass {
            promise,
            mark: self.tracking.listener.mark(key),
            asked: Instant::now(),
            lives: None,
        }
    }

    fn take_in(&self, push: &PushInfo) {
        let listener = &self.tracking.listener;
        match (&push.kind, push.data.as_slice()) {
            (PushKind::Invalidate, [Value::Array(names)]) => {
                for name in names {
                    if let Value::BulkString(name) = name
                        && let Some(key) = key_of(&self.tracking.prefix, name)
                    {
                        listener.told(&key);
                    }
                }
            }
            // The database was emptied; or the words are none that we know.
            (PushKind::Invalidate, _) => listener.all_changed(),
            _ => {}
        }
    }

    /// Whether something has arrived that nobody has fetched.
    fn lies_unread(&self) -> Standing {
        let socket = self.socket.read().unwrap_or_else(PoisonError::into_inner);
        let Some(socket) = &*socket else {
            return Standing::Broken;
        };
        match socket.peek(&mut [MaybeUninit::uninit()]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Standing::Kept,
            // The end of the stream; or an error that has arrived.
            Ok(0) | Err(_) => Standing::Broken,
            Ok(_) => Standing::Behind,
        }
    }
}

impl Promise for Feed {
    fn standing(&self, now: Instant) -> Standing {
        if self.ended.load(Ordering::Acquire) || !self.armed.load(Ordering::Acquire) {
            return Standing::Broken;
        }
        match self.lies_unread() {
            Standing::Kept => {}
            other => return other,
        }
        if self.reading.load(Ordering::SeqCst) {
            return Standing::Behind;
        }
        let heard = self.began + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        if now.saturating_duration_since(heard) > self.believed_for {
            // It is not over: once something is heard, it was right all along.
            return Standing::Broken;
        }
        Standing::Kept
    }

    fn caught_up(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let caught_up = self.caught_up.notified();
            let mut caught_up = std::pin::pin!(caught_up);
            caught_up.as_mut().enable();
            if self.standing(Instant::now()) == Standing::Behind {
                caught_up.await;
            }
        })
    }
}

/// The stream of a connection, which may be one that tells of changes.
pub(super) struct Fed<IO> {
    io: IO,
    feed: Option<Arc<Feed>>,
}

impl<IO> Fed<IO> {
    pub(super) const fn new(io: IO, feed: Option<Arc<Feed>>) -> Self {
        Self { io, feed }
    }
}

impl<IO> Drop for Fed<IO> {
    fn drop(&mut self) {
        if let Some(feed) = &self.feed {
            feed.end();
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Fed<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(feed) = &this.feed else {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        };
        feed.reading.store(true, Ordering::SeqCst);
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if read.is_pending() {
            feed.reading.store(false, Ordering::SeqCst);
            feed.caught_up.notify_waiters();
        } else {
            let now = u64::try_from(feed.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            feed.heard.store(now, Ordering::Relaxed);
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Fed<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
