//! What goes over a connection of HTTP/2, as far as it decides whether a request may be sent again (F4).
//!
//! The library does not tell which streams a `GOAWAY` leaves unprocessed once the connection has ended, nor which requests
//! it had not written yet. Both stand in the heads of the frames, which are read here as they pass.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The preface of a client (RFC 9113 §3.4) is no frame.
const PREFACE: usize = 24;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
/// What [`Watch::last`] holds where there was no `GOAWAY`.
const ALL: u32 = u32::MAX;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Watch {
    born: Instant,
    /// The newest stream whose `HEADERS` have begun to leave. Streams are opened in the order of their numbers.
    written: AtomicU32,
    /// The last stream that the backend has processed or will, by its own word.
    last: AtomicU32,
    settled: AtomicBool,
    /// When something came that was no `PING`: milliseconds since `born`.
    heard: AtomicU64,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            born: Instant::now(),
            written: AtomicU32::new(0),
            last: AtomicU32::new(ALL),
            settled: AtomicBool::new(false),
            heard: AtomicU64::new(0),
        }
    }

    /// When the connection was opened.
    pub(super) const fn born(&self) -> Instant {
        self.born
    }

    /// Whether anything of this stream has left.
    pub(super) fn has_written(&self, stream: u32) -> bool {
        stream <= self.written.load(Ordering::Acquire)
    }

    /// Whether the backend has said that it has not processed this stream and will not (RFC 9113 §6.8).
    pub(super) fn disowns(&self, stream: u32) -> bool {
        stream > self.last.load(Ordering::Acquire)
    }

    /// Whether the backend wants no more streams on this connection.
    pub(super) fn is_leaving(&self) -> bool {
        self.last.load(Ordering::Acquire) != ALL
    }

    /// Whether the backend's settings have come: from then on it is known to speak HTTP/2.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// When the backend last said something of its own accord.
    pub(super) fn heard(&self) -> Instant {
        self.born + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    fn received(&self, frame: Frame) {
        if frame.kind == SETTINGS {
            self.settled.store(true, Ordering::Release);
        }
        if frame.kind != PING {
            let age = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.heard.store(age, Ordering::Relaxed);
        }
        if let Some(last) = frame.last {
            // It may be lowered, never raised.
            self.last.fetch_min(last, Ordering::AcqRel);
        }
    }

    fn sent(&self, frame: Frame) {
        if frame.kind == HEADERS {
            self.written.fetch_max(frame.stream, Ordering::AcqRel);
        }
    }
}

/// The head of a frame; a `GOAWAY` is told of once more, with the stream that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    stream: u32,
    last: Option<u32>,
}

/// The length of a frame's head (RFC 9113 §4.1), and of the word that a `GOAWAY` begins with.
const HEAD: u32 = 9;
const WORD: u32 = 4;

/// Finds the frames in a stream of bytes, cut anywhere.
#[derive(Debug, Default)]
struct Scan {
    /// Bytes to pass over: those of a payload.
    skip: usize,
    /// What has come of a head or a word, and how many bytes that is.
    bytes: u128,
    have: u32,
    /// Within a `GOAWAY`: how much of it comes behind the word.
    behind_word: Option<usize>,
}

impl Scan {
    fn behind_preface() -> Self {
        Self {
            skip: PREFACE,
            ..Self::default()
        }
    }

    fn feed(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Frame)) {
        loop {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            bytes = bytes.get(passed..).unwrap_or_default();
            let Some((byte, rest)) = bytes.split_first() else {
                return;
            };
            bytes = rest;
            self.bytes = (self.bytes << 8) | u128::from(*byte);
            self.have += 1;
            match self.behind_word {
                Some(behind) if self.have == WORD => {
                    tell(Frame {
                        kind: GO_AWAY,
                        stream: 0,
                        last: Some(stream(self.bytes)),
                    });
                    (self.behind_word, self.skip) = (None, behind);
                    (self.bytes, self.have) = (0, 0);
                }
                None if self.have == HEAD => tell(self.head()),
                _ => {}
            }
        }
    }

    fn head(&mut self) -> Frame {
        let length = usize::try_from((self.bytes >> 48) & 0xff_ffff).unwrap_or_default();
        let frame = Frame {
            kind: u8::try_from((self.bytes >> 40) & 0xff).unwrap_or_default(),
            stream: stream(self.bytes),
            last: None,
        };
        self.behind_word = length.checked_sub(WORD as usize).filter(|_| frame.kind == GO_AWAY);
        self.skip = if self.behind_word.is_some() { 0 } else { length };
        (self.bytes, self.have) = (0, 0);
        frame
    }
}

/// The last four bytes, without the reserved bit.
fn stream(bytes: u128) -> u32 {
    u32::try_from(bytes & 0x7fff_ffff).unwrap_or_default()
}

/// A connection whose frames are watched.
#[derive(Debug)]
pub(super) struct Watched<S> {
    inner: S,
    watch: Arc<Watch>,
    incoming: Scan,
    outgoing: Scan,
    /// The backend takes no more. What it said before, its answers and its `GOAWAY`, is still to be read: the library
    /// would end with the failed write, so it is not told.
    deaf: bool,
}

impl<S> Watched<S> {
    pub(super) fn new(inner: S, watch: Arc<Watch>) -> Self {
        Self {
            inner,
            watch,
            incoming: Scan::default(),
            outgoing: Scan::behind_preface(),
            deaf: false,
        }
    }

    /// Notes what was written of `parts`, which are `whole` bytes.
    fn wrote<'a>(
        &mut self,
        result: Poll<io::Result<usize>>,
        parts: impl IntoIterator<Item = &'a [u8]>,
        whole: usize,
    ) -> Poll<io::Result<usize>> {
        match ready!(result) {
            Ok(count) => {
                let mut left = count;
                for part in parts {
                    let taken = part.get(..left.min(part.len())).unwrap_or_default();
                    left -= taken.len();
                    self.outgoing.feed(taken, |frame| self.watch.sent(frame));
                }
                Poll::Ready(Ok(count))
            }
            Err(_) => {
                self.deaf = true;
                Poll::Ready(Ok(whole))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        this.incoming.feed(new, |frame| this.watch.received(frame));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.wrote(result, [bytes], bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let whole = parts.iter().map(|part| part.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(whole));
        }
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, parts);
        self.wrote(result, parts.iter().map(|part| &**part), whole)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.deaf && ready!(Pin::new(&mut self.inner).poll_flush(cx)).is_err() {
            self.deaf = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every frame of a stream, whatever the pieces it comes in.
    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let wire = [
            &[0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1][..],
            &[0, 0, 0, SETTINGS, 1, 0, 0, 0, 0],
            &[0, 0, 3, HEADERS, 5, 0x80, 0, 1, 3, HEADERS, GO_AWAY, 0],
            &[0, 0, 10, GO_AWAY, 0, 0, 0, 0, 0, 0x80, 0, 1, 1, 0, 0, 0, 0, b'h', b'i'],
            &[0, 0, 8, PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ]
        .concat();
        let frame = |kind, stream, last| Frame { kind, stream, last };
        let expected = [
            frame(SETTINGS, 0, None),
            frame(SETTINGS, 0, None),
            frame(HEADERS, 259, None),
            frame(GO_AWAY, 0, None),
            frame(GO_AWAY, 0, Some(257)),
            frame(PING, 0, None),
        ];
        for size in 1..=wire.len() {
            let (mut scan, mut found) = (Scan::default(), Vec::new());
            for piece in wire.chunks(size) {
                scan.feed(piece, |frame| found.push(frame));
            }
            assert_eq!(found, expected, "pieces of {size}");
        }
    }

    /// The library would end with the failed write, and never read what the backend said before it closed.
    #[tokio::test]
    async fn a_goodbye_is_heard_although_nothing_can_be_written_any_more() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let (ours, mut theirs) = tokio::io::duplex(64);
        let watch = Arc::new(Watch::new());
        let mut watched = Watched::new(ours, Arc::clone(&watch));
        theirs
            .write_all(&[0, 0, 8, GO_AWAY, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0])
            .await
            .unwrap();
        drop(theirs);
        let request = [&[b'-'; PREFACE][..], &[0, 0, 0, HEADERS, 5, 0, 0, 0, 5]].concat();
        watched.write_all(&request).await.unwrap();
        watched.write_all(&request).await.unwrap();
        watched.flush().await.unwrap();
        assert_eq!(watched.read_to_end(&mut Vec::new()).await.unwrap(), 17);
        assert!(watch.disowns(5) && !watch.disowns(3) && !watch.has_written(5));
    }

    #[test]
    fn what_was_not_written_and_what_is_disowned_is_known() {
        let watch = Watch::new();
        let frame = |kind, stream, last| Frame { kind, stream, last };
        assert!(!watch.has_written(1) && !watch.disowns(u32::MAX - 1) && !watch.is_leaving());
        watch.sent(frame(HEADERS, 5, None));
        assert!(watch.has_written(5) && !watch.has_written(7));
        // The first of two: nothing more is to be begun, and everything is still answered (RFC 9113 §6.8).
        watch.received(frame(GO_AWAY, 0, Some(0x7fff_ffff)));
        assert!(watch.is_leaving() && !watch.disowns(7));
        watch.received(frame(GO_AWAY, 0, Some(3)));
        assert!(watch.disowns(5) && !watch.disowns(3));
    }
}
