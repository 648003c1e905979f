//! Where log lines go: a bounded buffer, emptied into standard output by a thread of its own.
//!
//! Who logs only copies its line. A reader of standard output that is slow, or stands still, costs lines and never
//! holds a request up: what finds the buffer full is dropped and counted, and the next line that gets through tells
//! how many those were.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How many bytes may wait to be written.
const LIMIT: usize = 1024 * 1024;
/// With so many the writer begins at once.
const ENOUGH: usize = 128 * 1024;
/// The time from one write to the next, unless there is much to write: what comes in between is written together.
const GATHER: Duration = Duration::from_millis(10);
/// The pause before another try, when standard output does not wait itself.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// The way to the writer. Clones share one.
#[derive(Clone)]
pub(super) struct Sink {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to do for the writer.
    work: Condvar,
    /// The writer has written what it had.
    done: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    dropped: u64,
    /// Not to wait for more.
    hurry: bool,
    writing: bool,
}

impl Sink {
    /// A sink that nothing empties.
    fn new() -> Self {
        Self { shared: Arc::default() }
    }

    /// A sink that is emptied into `output`. After lines were lost, `lost` is called with their number.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(output: impl Write + Send + 'static, lost: fn(u64)) -> io::Result<Self> {
        let sink = Self::new();
        let shared = Arc::clone(&sink.shared);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.run(output, lost))?;
        Ok(sink)
    }

    /// Takes one whole line; `urgent`: it is to be written at once.
    pub(super) fn push(&self, line: &[u8], urgent: bool) {
        let mut state = self.shared.lock();
        if state.lines.len() + line.len() > LIMIT {
            state.dropped += 1;
            return;
        }
        let before = state.lines.len();
        state.lines.extend_from_slice(line);
        state.hurry |= urgent;
        // The writer is woken once for all that it finds when it comes, not for each line.
        let wake = before == 0 || urgent || (before < ENOUGH && state.lines.len() >= ENOUGH);
        drop(state);
        if wake {
            self.shared.work.notify_one();
        }
    }

    /// Waits until all that was taken is written, for `limit` at most.
    pub(super) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        state.hurry = true;
        self.shared.work.notify_one();
        while !state.lines.is_empty() || state.writing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self
                .shared
                .done
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut output: impl Write, lost: fn(u64)) {
        let (mut batch, mut next_at) = (Vec::new(), Instant::now());
        loop {
            let dropped = self.next(&mut batch, next_at);
            let failed = write_out(&mut output, &batch).is_err();
            next_at = Instant::now() + GATHER;
            let unwritten = if failed { count_lines(&batch) } else { 0 };
            batch.clear();
            {
                let mut state = self.lock();
                state.writing = false;
                self.done.notify_all();
            }
            // An output that takes nothing cannot be told so either: the count goes on until something gets through.
            match dropped + unwritten {
                0 => {}
                count if failed => self.lock().dropped += count,
                count => lost(count),
            }
        }
    }

    /// Waits for lines and until `not_before`, and takes them, with the number of those that found no room.
    fn next(&self, batch: &mut Vec<u8>, not_before: Instant) -> u64 {
        let mut state = self.lock();
        while state.lines.is_empty() {
            state.hurry = false;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        while !state.hurry && state.lines.len() < ENOUGH {
            let left = not_before.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .work
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.hurry = false;
        state.writing = true;
        std::mem::swap(&mut state.lines, batch);
        std::mem::take(&mut state.dropped)
    }
}

/// Writes all of it, for as long as that takes.
fn write_out(output: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(TRY_AGAIN),
            Err(error) => return Err(error),
        }
    }
    output.flush()
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// One event's way into a [`Sink`].
pub(super) struct Line<'a> {
    sink: &'a Sink,
    urgent: bool,
}

impl<'a> Line<'a> {
    pub(super) const fn new(sink: &'a Sink, urgent: bool) -> Self {
        Self { sink, urgent }
    }
}

impl Write for Line<'_> {
    /// Events are written whole, in one call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.push(bytes, self.urgent);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
impl Sink {
    /// A sink that only keeps what it is given.
    pub(super) fn kept() -> Self {
        Self::new()
    }

    /// What it was given.
    pub(super) fn content(&self) -> String {
        String::from_utf8(self.shared.lock().lines.clone()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Takes a batch only when it is let.
    struct Gate {
        open: mpsc::Receiver<io::Result<()>>,
        batches: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.open.recv().map_err(io::Error::other)??;
            self.batches.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated(lost: fn(u64)) -> (Sink, mpsc::Sender<io::Result<()>>, mpsc::Receiver<Vec<u8>>) {
        let (key, open) = mpsc::channel();
        let (batches, written) = mpsc::channel();
        (Sink::start(Gate { open, batches }, lost).unwrap(), key, written)
    }

    #[test]
    fn lines_are_written_in_order_and_soon() {
        let (sink, key, written) = gated(|_| {});
        key.send(Ok(())).unwrap();
        sink.push(b"one\n", false);
        sink.push(b"two\n", false);
        let mut seen = written.recv_timeout(LONG).unwrap();
        while seen.len() < 8 {
            key.send(Ok(())).unwrap();
            seen.extend(written.recv_timeout(LONG).unwrap());
        }
        assert_eq!(seen, b"one\ntwo\n");
    }

    #[test]
    fn a_flush_returns_when_all_is_written() {
        let (sink, key, written) = gated(|_| {});
        (0..3).for_each(|_| key.send(Ok(())).unwrap());
        for _ in 0..3 {
            sink.push(b"line\n", false);
            sink.flush(LONG);
            assert_eq!(written.try_recv().unwrap(), b"line\n");
        }
    }

    #[test]
    fn an_output_that_stands_still_holds_nobody_up_and_costs_lines_that_are_counted() {
        static LOST: AtomicU64 = AtomicU64::new(0);
        let (sink, key, written) = gated(|count| {
            LOST.fetch_add(count, Ordering::SeqCst);
        });
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let many = 3 * LIMIT / line.len();
        (0..many).for_each(|_| sink.push(&line, false));
        sink.flush(Duration::from_millis(50));

        key.send(Ok(())).unwrap();
        let (mut lines, deadline) = (0, Instant::now() + LONG);
        while lines + LOST.load(Ordering::SeqCst) < many as u64 {
            assert!(Instant::now() < deadline, "lines were lost and not counted");
            if let Ok(batch) = written.recv_timeout(Duration::from_millis(20)) {
                lines += count_lines(&batch);
                key.send(Ok(())).unwrap();
            }
        }
        assert_eq!(lines + LOST.load(Ordering::SeqCst), many as u64);
        assert!(lines < many as u64, "the buffer has no bound");
    }

    #[test]
    fn what_an_output_refuses_is_told_once_it_takes_lines_again() {
        static LOST: AtomicU64 = AtomicU64::new(0);
        let (sink, key, written) = gated(|count| {
            LOST.fetch_add(count, Ordering::SeqCst);
        });
        key.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        sink.push(b"one\ntwo\n", true);
        sink.flush(LONG);
        assert_eq!(LOST.load(Ordering::SeqCst), 0);
        key.send(Ok(())).unwrap();
        sink.push(b"three\n", true);
        assert_eq!(written.recv_timeout(LONG).unwrap(), b"three\n");
        let deadline = Instant::now() + LONG;
        while LOST.load(Ordering::SeqCst) != 2 {
            assert!(Instant::now() < deadline, "the loss was not told");
            thread::yield_now();
        }
    }
}
