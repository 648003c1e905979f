//! The sending half of a stream: the body of a request, only as fast as the backend takes it.

use std::fmt;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use tokio::time::Instant;

use super::request::{Piece, Source};

/// See the [module](self).
pub(super) struct Upload {
    pub(super) source: Source,
    /// What the source has given and the backend has not taken.
    piece: Bytes,
    /// What is left of the length that was told.
    left: Option<u64>,
    state: State,
    /// The client has nothing more to give for now.
    awaits_client: bool,
    /// When something of it last moved.
    moved: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Sending,
    Sent,
    /// The backend wants no more of it. Whether it has answered is for the reader to find out.
    Unwanted,
    /// What the client's body failed with.
    Failed(String),
}

/// Without what is sent.
impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("source", &self.source)
            .field("left", &self.left)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Upload {
    pub(super) fn new(source: Source) -> Self {
        let mut upload = Self {
            left: source.length,
            source,
            piece: Bytes::new(),
            state: State::Sending,
            awaits_client: false,
            moved: Instant::now(),
        };
        upload.begin();
        upload
    }

    fn begin(&mut self) {
        self.left = self.source.length;
        self.piece = Bytes::new();
        self.awaits_client = false;
        self.moved = Instant::now();
        self.state = if self.source.is_empty() {
            State::Sent
        } else {
            State::Sending
        };
    }

    /// Begins again on another stream. `false` when that cannot be done.
    pub(super) fn rewind(&mut self) -> bool {
        let can = self.source.rewind() && !matches!(self.state, State::Failed(_));
        if can {
            self.begin();
        }
        can
    }

    /// The time for which nothing has moved begins now.
    pub(super) fn restart_clock(&mut self) {
        self.moved = Instant::now();
    }

    /// Whether there is nothing to send, or no more.
    pub(super) fn is_over(&self) -> bool {
        self.state != State::Sending
    }

    /// What the client's body failed with, if it did.
    pub(super) fn failure(&self) -> Option<&str> {
        match &self.state {
            State::Failed(what) => Some(what),
            State::Sending | State::Sent | State::Unwanted => None,
        }
    }

    /// The backend would take more, the client sends nothing.
    pub(super) const fn awaits_client(&self) -> bool {
        self.awaits_client
    }

    /// When something of it last moved.
    pub(super) const fn last_moved(&self) -> Instant {
        self.moved
    }

    /// Sends what can be sent now. Ready when it is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, stream: &mut SendStream<Bytes>) -> Poll<()> {
        while self.state == State::Sending {
            self.awaits_client = false;
            if self.piece.is_empty() {
                match self.source.poll_next(cx) {
                    Poll::Ready(next) => {
                        self.moved = Instant::now();
                        self.take(next, stream);
                    }
                    Poll::Pending => {
                        self.awaits_client = true;
                        // The backend may lose interest meanwhile.
                        let _ = ready!(stream.poll_reset(cx));
                        self.awaits_client = false;
                        self.state = State::Unwanted;
                    }
                }
            } else {
                ready!(self.poll_piece(cx, stream));
            }
        }
        Poll::Ready(())
    }

    fn take(&mut self, next: Result<Piece, String>, stream: &mut SendStream<Bytes>) {
        match next {
            Err(what) => self.state = State::Failed(what),
            Ok(Piece::Data(data)) => {
                if let Some(left) = &mut self.left {
                    match left.checked_sub(data.len() as u64) {
                        Some(rest) => *left = rest,
                        None => return self.state = State::Failed("it is longer than was told".to_owned()),
                    }
                }
                self.piece = data;
            }
            Ok(Piece::End(_)) if self.left.is_some_and(|left| left > 0) => {
                self.state = State::Failed("it is shorter than was told".to_owned());
            }
            Ok(Piece::End(trailers)) => {
                let sent = match trailers {
                    Some(trailers) => stream.send_trailers(trailers),
                    None => stream.send_data(Bytes::new(), true),
                };
                self.state = if sent.is_ok() { State::Sent } else { State::Unwanted };
            }
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>, stream: &mut SendStream<Bytes>) -> Poll<()> {
        let mut room = stream.capacity();
        if room == 0 {
            stream.reserve_capacity(self.piece.len());
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(now)) => room = now,
                Some(Err(_)) | None => {
                    self.state = State::Unwanted;
                    return Poll::Ready(());
                }
            }
        }
        let data = self.piece.split_to(room.min(self.piece.len()));
        let is_last = self.piece.is_empty() && self.left.unwrap_or(0) == 0 && self.source.is_at_end();
        self.moved = Instant::now();
        if stream.send_data(data, is_last).is_err() {
            self.state = State::Unwanted;
        } else if is_last {
            self.state = State::Sent;
        }
        Poll::Ready(())
    }
}
