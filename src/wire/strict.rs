//! The judge of a client's bytes: HTTP/1.x request framing as RFC 9110 and RFC 9112 write it, and nothing looser (H3).
//!
//! Most parsers forgive: a bare LF ends a line, a `Content-Length` beside a `Transfer-Encoding` is dropped in
//! silence. Two parties that forgive differently see different requests in the same bytes, which is how requests are
//! smuggled. So every byte is judged here before anything is made of it, and what is doubtful is refused, never repaired.
//!
//! The [`Checker`] is pure: it does no I/O, keeps no bytes and reads no clock. Its verdict depends on the bytes alone,
//! never on how they were cut into reads.

mod bytes;
mod chunked;
mod head;
mod http2;

use chunked::Chunked;
use head::{Framing, Head};

pub(super) use bytes::{TOKEN, find_control};
pub(super) use head::Judged;
pub(super) use http2::admit as admit_http2;

/// The most header fields a request may have. As many as most backends take.
pub const MAX_FIELDS: usize = 100;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It breaks the grammar or is ambiguous; the text says how, in words that hold nothing of the request.
    Malformed(&'static str),
    /// The head, or the trailer section, is larger than allowed or has too many fields.
    TooLarge,
}

/// What [`Checker::advance`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// How many bytes at the front of the window are judged and good. The next window begins after them.
    pub release: usize,
    /// Whether the last of them ends a request. Bytes after it are not looked at before [`Checker::next_message`].
    pub ended: bool,
    /// Where the head ends that is among them, if it does there.
    pub head: Option<HeadEnd>,
}

/// The end of a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadEnd {
    /// How many bytes at the front of the window belong to the head.
    pub length: usize,
    /// Whether what follows comes in chunks; else in as many bytes as was told.
    pub chunked: bool,
}

/// Where in the stream of requests the checker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Before the first byte of a request. An empty line, which is tolerated there once, does not begin one.
    Between,
    /// Within a head.
    Head,
    /// Within a body, or its trailers.
    Body,
    /// Behind the last byte of a request.
    Ended,
}

/// Judges the bytes of one connection, request by request.
#[derive(Debug)]
pub struct Checker {
    max_header_size: usize,
    phase: Phase,
    /// What was found in the last head.
    judged: Option<Judged>,
}

#[derive(Debug)]
enum Phase {
    Head(Head),
    Sized(u64),
    Chunked(Chunked),
    Ended,
    Failed(Flaw),
}

impl Checker {
    /// A checker for a connection on which nothing has been read. `max_header_size`: the most bytes a head may have,
    /// from its first byte to the empty line that ends it.
    #[must_use]
    pub fn new(max_header_size: usize) -> Self {
        Self {
            max_header_size,
            phase: Phase::Head(Head::default()),
            judged: None,
        }
    }

    /// Judges the window: all bytes that were read and not yet released, in order.
    ///
    /// A head is released whole or not at all. Until it is complete the window has to grow: the caller keeps what was
    /// not released, and shows it again with more behind it. Body bytes are released as they come.
    ///
    /// # Errors
    /// The flaw of the first doubtful byte. It is final: every later call tells the same.
    pub fn advance(&mut self, window: &[u8]) -> Result<Advance, Flaw> {
        let result = self.judge(window);
        if let Err(flaw) = result {
            self.phase = Phase::Failed(flaw);
        }
        result
    }

    /// What is where in the head that was released last. Once.
    pub(super) fn take_judged(&mut self) -> Option<Judged> {
        self.judged.take()
    }

    /// Goes on to the next request. Does nothing unless the last one has ended.
    pub fn next_message(&mut self) {
        if matches!(self.phase, Phase::Ended) {
            self.phase = Phase::Head(Head::default());
        }
    }

    /// Where in the stream it stands. After a flaw: where it was found, a head or a body, is not told; `Body`.
    #[must_use]
    pub fn position(&self) -> Position {
        match &self.phase {
            Phase::Head(head) if head.has_begun() => Position::Head,
            Phase::Head(_) => Position::Between,
            Phase::Sized(_) | Phase::Chunked(_) | Phase::Failed(_) => Position::Body,
            Phase::Ended => Position::Ended,
        }
    }

    /// How many bytes of a body of known length are still to be judged.
    pub(super) const fn sized_rest(&self) -> u64 {
        match &self.phase {
            Phase::Sized(rest) => *rest,
            Phase::Head(_) | Phase::Chunked(_) | Phase::Ended | Phase::Failed(_) => 0,
        }
    }

    fn judge(&mut self, window: &[u8]) -> Result<Advance, Flaw> {
        let (mut release, mut head_end) = (0, None);
        loop {
            let rest = window.get(release..).unwrap_or_default();
            match &mut self.phase {
                Phase::Failed(flaw) => return Err(*flaw),
                Phase::Ended => {
                    return Ok(Advance {
                        release,
                        ended: true,
                        head: head_end,
                    });
                }
                Phase::Head(head) => match head.advance(rest, self.max_header_size)? {
                    None => return Ok(unfinished(release, head_end)),
                    Some((length, framing)) => {
                        release += length;
                        self.judged = head.take_judged();
                        head_end = Some(HeadEnd {
                            length,
                            chunked: framing == Framing::Chunked,
                        });
                        self.phase = match framing {
                            Framing::Sized(0) => Phase::Ended,
                            Framing::Sized(length) => Phase::Sized(length),
                            Framing::Chunked => Phase::Chunked(Chunked::default()),
                        };
                    }
                },
                Phase::Sized(remaining) => {
                    let taken = rest.len().min(usize::try_from(*remaining).unwrap_or(usize::MAX));
                    release += taken;
                    *remaining -= taken as u64;
                    if *remaining > 0 {
                        return Ok(unfinished(release, head_end));
                    }
                    self.phase = Phase::Ended;
                }
                Phase::Chunked(body) => {
                    let (taken, ended) = body.advance(rest)?;
                    release += taken;
                    if !ended {
                        return Ok(unfinished(release, head_end));
                    }
                    self.phase = Phase::Ended;
                }
            }
        }
    }
}

const fn unfinished(release: usize, head: Option<HeadEnd>) -> Advance {
    Advance {
        release,
        ended: false,
        head,
    }
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
