//! Lines are written by a thread of its own, so that a reader of standard output that hangs holds up no request, no
//! answer about readiness, and no shutdown.
//!
//! Whoever has a line adds it to a buffer; the thread writes what has come together. A full buffer takes no more lines:
//! they are counted, and told of once there is room again.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many bytes wait to be written at most: some thousand lines.
const ROOM: usize = 1 << 20;

/// How long lines come together before they are written, so that the thread is not woken for each one.
const GATHER: Duration = Duration::from_millis(2);

/// Where lines go. Clones share one buffer.
#[derive(Clone, Debug, Default)]
pub(super) struct Output(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    /// The thread waits for lines.
    filled: Condvar,
    /// Someone waits for everything to be written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: Vec<u8>,
    /// How many lines found no room since that was last told.
    lost: u64,
    /// The thread is at work, and looks here again by itself.
    writing: bool,
}

impl Output {
    /// Starts the thread that writes to `target`.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(super) fn to(target: impl Write + Send + 'static) -> io::Result<Self> {
        let output = Self::default();
        let shared = Arc::clone(&output.0);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write_to(target))?;
        Ok(output)
    }

    /// Waits until everything is written, `within` at most.
    pub(super) fn flush(&self, within: Duration) {
        let pending = |buffer: &mut Buffer| buffer.writing || !buffer.lines.is_empty();
        let waited = self.0.written.wait_timeout_while(self.0.lock(), within, pending);
        drop(waited);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        // A panic while the lock is held leaves whole lines.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_lines(&self) {
        let mut buffer = self.lock();
        if buffer.lines.is_empty() {
            buffer.writing = false;
            self.written.notify_all();
        }
        while buffer.lines.is_empty() {
            buffer = self.filled.wait(buffer).unwrap_or_else(PoisonError::into_inner);
        }
        buffer.writing = true;
    }

    fn write_to(&self, mut target: impl Write) {
        let mut batch = Vec::new();
        loop {
            self.wait_for_lines();
            thread::sleep(GATHER);
            let lost = {
                let mut buffer = self.lock();
                std::mem::swap(&mut buffer.lines, &mut batch);
                std::mem::take(&mut buffer.lost)
            };
            // Nobody can be told that there is no reader any more.
            let _ = target.write_all(&batch).and_then(|()| target.flush());
            batch.clear();
            if lost > 0 {
                tracing::warn!(lines = lost, "log lines are lost: they were not read fast enough");
            }
        }
    }
}

impl Write for Output {
    /// Takes one line, or drops it; never waits for a reader.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut buffer = self.0.lock();
        if buffer.lines.len() + line.len() > ROOM {
            buffer.lost += 1;
        } else {
            buffer.lines.extend_from_slice(line);
            if !buffer.writing {
                self.0.filled.notify_one();
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// Hands on what is written, each time after it was let.
    struct Slow {
        may: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.may.recv().is_err() {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe));
            }
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Output, Sender<()>, Receiver<Vec<u8>>) {
        let ((let_write, may), (written, read)) = (channel(), channel());
        (Output::to(Slow { may, written }).unwrap(), let_write, read)
    }

    #[test]
    fn a_reader_that_hangs_holds_nobody_up_and_what_it_misses_is_counted() {
        let (mut output, let_write, read) = slow();
        output.write_all(b"first\n").unwrap();
        // It has been taken, and cannot be written.
        while !output.0.lock().lines.is_empty() {
            thread::yield_now();
        }
        let line = [b'x'; 1024];
        for _ in 0..ROOM / line.len() + 3 {
            output.write_all(&line).unwrap();
        }
        let full = |buffer: MutexGuard<'_, Buffer>| (buffer.lines.len(), buffer.lost);
        assert_eq!(full(output.0.lock()), (ROOM, 3));
        output.flush(Duration::from_millis(1));
        let_write.send(()).unwrap();
        assert_eq!(read.recv_timeout(LONG).unwrap(), b"first\n");
        let_write.send(()).unwrap();
        assert_eq!(read.recv_timeout(LONG).unwrap().len(), ROOM);
        output.write_all(b"there is room again\n").unwrap();
        let_write.send(()).unwrap();
        assert_eq!(read.recv_timeout(LONG).unwrap(), b"there is room again\n");
        assert_eq!(output.0.lock().lost, 0);
    }

    #[test]
    fn flushing_waits_until_the_last_line_is_written() {
        let (mut output, let_write, read) = slow();
        for line in ["a\n", "b\n", "c\n"] {
            output.write_all(line.as_bytes()).unwrap();
            let_write.send(()).unwrap();
        }
        output.flush(LONG);
        assert_eq!(read.try_iter().collect::<Vec<_>>().concat(), b"a\nb\nc\n");
    }

    #[test]
    fn a_reader_that_is_gone_costs_the_lines_and_nothing_else() {
        let (mut output, let_write, read) = slow();
        drop((let_write, read));
        for _ in 0..3 {
            output.write_all(b"lost\n").unwrap();
            output.flush(LONG);
        }
        assert!(output.0.lock().lines.is_empty());
    }
}
