//! The task that moves the bytes of a connection, and keeps the deadlines of who waits.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, BytesMut};
use redis::{PushInfo, PushKind, RedisResult, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

use super::{Listener, Shared, gone};
use crate::store::patience;
use crate::store::redis::resp;

/// How much is read at once, at least.
const READ: usize = 8 * 1024;

/// How much room is kept for commands that are to be written.
const KEPT: usize = 64 * 1024;

/// Moves the bytes.
pub(super) struct Driver<S> {
    stream: S,
    shared: Arc<Shared>,
    listener: Option<Listener>,
    /// What has been read and is not whole yet.
    read: BytesMut,
    /// What is being written, and how much of it is.
    writing: Vec<u8>,
    written: usize,
    /// The others have had their turn.
    stepped_back: bool,
    timer: Timer,
}

/// When deadlines are to be judged.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The earliest deadline, for which it is set, if it is.
    set_for: Option<Instant>,
    /// When it fires: then, or later by as much as this process was late.
    due: Option<Instant>,
    /// How often in a row it was late.
    late: usize,
}

impl Timer {
    /// Whether deadlines are to be judged now, of which the earliest is `earliest`; else the task is woken then.
    fn is_due(&mut self, earliest: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(earliest) = earliest else { return false };
        if self.set_for.is_none_or(|set_for| earliest < set_for) {
            self.set_for = Some(earliest);
            self.late = 0;
            self.set(earliest);
        } else if !self.sleep.as_ref().is_some_and(|sleep| sleep.is_elapsed()) {
            return false;
        }
        while let (Some(sleep), Some(due)) = (&mut self.sleep, self.due) {
            if sleep.as_mut().poll(cx).is_pending() {
                return false;
            }
            let Some(later) = patience::moved(due, self.late) else {
                break;
            };
            self.late += 1;
            self.set(later);
        }
        self.set_for = None;
        true
    }

    fn set(&mut self, due: Instant) {
        self.due = Some(due);
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(due),
            None => self.sleep = Some(Box::pin(sleep_until(due))),
        }
    }
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.shared.end(&gone());
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        // Both sides, always: the other side may not read before it has written.
        let outcome = match this.poll_read(cx) {
            Err(error) => Err(error),
            Ok(()) => match this.poll_deadlines_and_write(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(outcome) => outcome,
            },
        };
        if let Err(error) = outcome {
            this.shared.end(&error);
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(stream: S, shared: Arc<Shared>, listener: Option<Listener>) -> Self {
        Self {
            stream,
            shared,
            listener,
            read: BytesMut::with_capacity(READ),
            writing: Vec::new(),
            written: 0,
            stepped_back: false,
            timer: Timer::default(),
        }
    }

    /// Takes in all that has arrived.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> RedisResult<()> {
        loop {
            self.read.reserve(READ);
            match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
            while let Some((value, length)) = resp::value(&self.read)? {
                self.read.advance(length);
                self.take_in(value)?;
            }
        }
    }

    fn take_in(&self, value: Value) -> RedisResult<()> {
        let value = match value {
            Value::Push { kind, data } => {
                let answers = kind == PushKind::Subscribe;
                if let Some(listener) = &self.listener {
                    listener(PushInfo { kind, data });
                }
                if !answers {
                    return Ok(());
                }
                Value::Okay
            }
            value => value,
        };
        let mut line = self.shared.line();
        let waker = line.take_in(value)?;
        let outside = line.let_in();
        drop(line);
        waker.into_iter().chain(outside).for_each(Waker::wake);
        Ok(())
    }

    fn poll_deadlines_and_write(&mut self, cx: &mut Context<'_>) -> Poll<RedisResult<()>> {
        let outcome = self.poll_write(cx)?;
        let mut line = self.shared.line();
        while self.timer.is_due(line.earliest, cx) {
            let late = line.expire(Instant::now());
            drop(line);
            late.into_iter().for_each(Waker::wake);
            line = self.shared.line();
        }
        if !self.stepped_back {
            // Also while the stream takes no more: a new deadline may be the earliest.
            line.sleep(cx);
        }
        outcome.map(Ok)
    }

    /// Ready when there is nothing left to do, ever.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<RedisResult<()>> {
        loop {
            while let Some(rest) = self.writing.get(self.written..).filter(|rest| !rest.is_empty()) {
                match ready!(Pin::new(&mut self.stream).poll_write(cx, rest)) {
                    Ok(0) => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into())),
                    Ok(written) => self.written += written,
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
            if self.written > 0 {
                if let Err(error) = ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
                    return Poll::Ready(Err(error.into()));
                }
                self.writing.clear();
                self.writing.shrink_to(KEPT);
                self.written = 0;
            }
            let mut line = self.shared.line();
            if line.out.is_empty() {
                self.stepped_back = false;
                if line.closed && line.answered == line.places.len() {
                    return Poll::Ready(Ok(()));
                }
                line.sleep(cx);
                return Poll::Pending;
            }
            if self.stepped_back {
                std::mem::swap(&mut line.out, &mut self.writing);
                line.sent = line.first + line.places.len() as u64;
                self.stepped_back = false;
                continue;
            }
            drop(line);
            self.stepped_back = true;
            // Has this task woken once the others have run; polled anew it is ready, which is what the flag stands for.
            ready!(pin!(tokio::task::yield_now()).poll(cx));
        }
    }
}
