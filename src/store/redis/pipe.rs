//! One connection to Redis that all share: commands go out in the order in which they are asked, and answers come in that
//! order.
//!
//! ```text
//! who ask ──▶ out ──▶ driver ──▶ Redis          each leaves the bytes of its command, and its place in the line
//! who ask ◀── line ◀── driver ◀── Redis         the answer belongs to the first place that has none
//! ```
//!
//! The driver is a task, the only one that touches the stream. It is woken by the first command, and then steps back behind
//! the tasks that are ready to run: what they ask goes out with it, in one call of the kernel on each side. When nothing else
//! is ready that costs one turn of the runtime, and no time.
//!
//! Who gives up waiting leaves its place: the answer is read and thrown away. When the connection ends, all who wait are told
//! so, and all who ask from then on. What is no answer ends it, and an answer that nobody asked for: whatever follows might go
//! to the wrong one.
//!
//! # Deadlines
//!
//! The driver keeps them, with one timer for all who wait, so that a command takes none of its own: it is set to the earliest
//! deadline there was, which has nearly always been met when it fires, and then to the earliest one left. A deadline is
//! judged after all that has arrived was read, and moves by as much as the timer was late, as in [`patience`]: a process
//! that was too busy to send a command in time has not waited for its answer.
//!
//! [`patience`]: crate::store::patience

mod driver;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use redis::{Cmd, PushInfo, RedisError, RedisResult, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use self::driver::Driver;

/// How many may wait for an answer; further ones wait to ask.
const LINE: usize = 16 * 1024;

/// Who is told what Redis says unasked.
pub(super) type Listener = Box<dyn Fn(PushInfo) + Send + Sync>;

/// A handle on the connection, which ends with the last of them, once those who have asked are answered.
#[derive(Clone)]
pub(super) struct Connection {
    handle: Arc<Handle>,
}

struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        let mut line = self.0.line();
        line.closed = true;
        let driver = line.driver.take();
        drop(line);
        driver.inspect(Waker::wake_by_ref);
    }
}

#[derive(Default)]
struct Shared(Mutex<Line>);

/// Those who wait, and what is to be written.
#[derive(Default)]
struct Line {
    /// Commands that are not written yet.
    out: Vec<u8>,
    /// Those who have asked; in front those who have their answer and have not fetched it.
    places: VecDeque<Place>,
    /// The number of the first place.
    first: u64,
    /// How many of the places have their answer.
    answered: usize,
    /// The number of the first place whose command is not being written yet.
    sent: u64,
    /// Who wait for room.
    outside: Vec<Waker>,
    /// No deadline is earlier than this.
    earliest: Option<Instant>,
    /// Taken when it is awake, or about to be.
    driver: Option<Waker>,
    /// Nobody will ask any more.
    closed: bool,
    /// Why it has ended.
    broken: Option<RedisError>,
}

/// What became of a question; `None`: nothing, until its deadline.
type Answer = Option<RedisResult<Value>>;

/// One who waits.
struct Place {
    /// How many values make up the answer: so many are still to come.
    wanted: usize,
    /// Those that have come, where there are several.
    several: Option<Vec<Value>>,
    answer: Option<Answer>,
    waker: Option<Waker>,
    deadline: Option<Instant>,
    /// Nobody waits here any more.
    left: bool,
}

impl Connection {
    /// A connection over `stream`, and the driver that has to run for it. What Redis says unasked is told to `listener`.
    pub(super) fn new<S>(stream: S, listener: Option<Listener>) -> (Self, impl Future<Output = ()> + Send)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let driver = Driver::new(stream, Arc::clone(&shared), listener);
        let handle = Arc::new(Handle(shared));
        (Self { handle }, driver)
    }

    /// The answer to a command; a refusal is one.
    pub(super) async fn ask(&self, cmd: &Cmd) -> RedisResult<Value> {
        self.ask_packed(&cmd.get_packed_command()).await
    }

    /// The same of a command as it is written.
    async fn ask_packed(&self, command: &[u8]) -> RedisResult<Value> {
        let answer = self.asking(command, 1, None).await;
        // Without a deadline there is an answer, or an end.
        answer.unwrap_or_else(|| Err(gone()))
    }

    /// The same until `deadline`; `None` when it has passed.
    pub(super) async fn ask_by(&self, command: &[u8], deadline: Instant) -> Option<RedisResult<Value>> {
        self.asking(command, 1, Some(deadline)).await
    }

    /// The answers to several commands that nothing comes between.
    pub(super) async fn ask_all(&self, commands: &[&Cmd]) -> RedisResult<Vec<Value>> {
        let mut packed = Vec::new();
        for cmd in commands {
            cmd.write_packed_command(&mut packed);
        }
        match self.asking(&packed, commands.len(), None).await {
            Some(Ok(Value::Array(answers))) => Ok(answers),
            Some(Ok(answer)) => Ok(vec![answer]),
            Some(Err(error)) => Err(error),
            None => Err(gone()),
        }
    }

    /// Has what is published on a channel told to the listener.
    pub(super) async fn subscribe(&self, channel: &str) -> RedisResult<()> {
        let mut cmd = redis::cmd("SUBSCRIBE");
        cmd.arg(channel);
        match self.ask(&cmd).await? {
            Value::ServerError(error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn asking<'a>(&'a self, command: &'a [u8], wanted: usize, deadline: Option<Instant>) -> Asking<'a> {
        Asking {
            shared: &self.handle.0,
            command,
            wanted,
            deadline,
            number: None,
        }
    }
}

fn gone() -> RedisError {
    io::Error::from(io::ErrorKind::BrokenPipe).into()
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        // A panic while the lock is held leaves the line whole: every change ends with plain assignments.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection has ended.
    fn end(&self, why: &RedisError) {
        let mut line = self.line();
        line.broken.get_or_insert_with(|| why.clone());
        line.out = Vec::new();
        let mut wakers = std::mem::take(&mut line.outside);
        let answered = line.answered;
        for place in line.places.iter_mut().skip(answered) {
            place.answer = Some(Some(Err(why.clone())));
            wakers.extend(place.waker.take());
        }
        line.answered = line.places.len();
        line.clear();
        drop(line);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Line {
    /// Takes an answer in, and names who waits for it.
    fn take_in(&mut self, value: Value) -> RedisResult<Option<Waker>> {
        let is_asked = self.first + (self.answered as u64) < self.sent;
        let Some(place) = self.places.get_mut(self.answered).filter(|_| is_asked) else {
            // Later it would have gone to the wrong one, as would all that follows. Who asks on may do so elsewhere.
            let unasked = io::Error::new(io::ErrorKind::InvalidData, "an answer that nobody asked for");
            return Err(unasked.into());
        };
        place.wanted = place.wanted.saturating_sub(1);
        let value = match &mut place.several {
            Some(several) => {
                several.push(value);
                if place.wanted > 0 {
                    return Ok(None);
                }
                Value::Array(std::mem::take(several))
            }
            None => value,
        };
        if place.is_open() {
            place.answer = Some(Some(Ok(value)));
        }
        let waker = place.waker.take();
        self.answered += 1;
        self.clear();
        Ok(waker)
    }

    /// Those who wait for room, if there is some.
    fn let_in(&mut self) -> Vec<Waker> {
        if self.places.len() < LINE {
            std::mem::take(&mut self.outside)
        } else {
            Vec::new()
        }
    }

    /// Takes away the places in front that are of no use any more. There may be room then.
    fn clear(&mut self) {
        while self.answered > 0 && self.places.front().is_some_and(|place| place.left) {
            self.places.pop_front();
            self.first += 1;
            self.answered -= 1;
        }
    }

    /// Ends the wait of those whose deadline is `now` or earlier, and tells who they are.
    fn expire(&mut self, now: Instant) -> Vec<Waker> {
        let mut wakers = std::mem::take(&mut self.outside);
        self.earliest = None;
        for place in self
            .places
            .iter_mut()
            .skip(self.answered)
            .filter(|place| place.is_open())
        {
            match place.deadline {
                Some(deadline) if deadline <= now => {
                    place.answer = Some(None);
                    wakers.extend(place.waker.take());
                }
                Some(deadline) => self.earliest = Some(self.earliest.map_or(deadline, |other| other.min(deadline))),
                None => {}
            }
        }
        wakers
    }

    /// Has the driver woken when there is something to do.
    fn sleep(&mut self, cx: &Context<'_>) {
        if self.driver.is_none() {
            self.driver = Some(cx.waker().clone());
        }
    }

    fn note(&mut self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline
            && self.earliest.is_none_or(|earliest| deadline < earliest)
        {
            self.earliest = Some(deadline);
        }
    }

    fn place(&mut self, number: u64) -> Option<&mut Place> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.places.get_mut(at)
    }
}

impl Place {
    /// Whether somebody waits here for an answer.
    const fn is_open(&self) -> bool {
        !self.left && self.answer.is_none()
    }
}

/// One who asks.
struct Asking<'a> {
    shared: &'a Shared,
    command: &'a [u8],
    wanted: usize,
    deadline: Option<Instant>,
    /// Its place, once it has asked and until it has fetched the answer.
    number: Option<u64>,
}

impl Asking<'_> {
    fn ask(&mut self, cx: &Context<'_>) -> Poll<Answer> {
        let mut line = self.shared.line();
        if let Some(why) = &line.broken {
            return Poll::Ready(Some(Err(why.clone())));
        }
        let is_full = line.places.len() >= LINE;
        if is_full && self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Poll::Ready(None);
        }
        line.note(self.deadline);
        if is_full {
            line.outside.push(cx.waker().clone());
            let driver = line.driver.take();
            drop(line);
            driver.inspect(Waker::wake_by_ref);
            return Poll::Pending;
        }
        self.number = Some(line.first + line.places.len() as u64);
        line.out.extend_from_slice(self.command);
        line.places.push_back(Place {
            wanted: self.wanted,
            several: (self.wanted > 1).then(|| Vec::with_capacity(self.wanted)),
            answer: None,
            waker: Some(cx.waker().clone()),
            deadline: self.deadline,
            left: false,
        });
        let driver = line.driver.take();
        drop(line);
        driver.inspect(Waker::wake_by_ref);
        Poll::Pending
    }
}

impl Future for Asking<'_> {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let Some(number) = self.number else {
            return self.ask(cx);
        };
        let mut line = self.shared.line();
        let Some(place) = line.place(number) else {
            return Poll::Ready(Some(Err(gone())));
        };
        let Some(answer) = place.answer.take() else {
            if !place.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                place.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        place.left = true;
        line.clear();
        let outside = line.let_in();
        drop(line);
        outside.into_iter().for_each(Waker::wake);
        self.number = None;
        Poll::Ready(answer)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut line = self.shared.line();
            if let Some(place) = line.place(number) {
                place.left = true;
                place.waker = None;
                place.answer = None;
            }
            line.clear();
            let outside = line.let_in();
            drop(line);
            outside.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests;
