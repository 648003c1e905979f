//! Reading from a connection without memory for those that are silent.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

/// How much is read at a time: enough for most messages.
const PIECE: usize = 16 * 1024;
/// How much once there is more than that.
const LARGE: usize = 64 * 1024;

/// Reads into buffers that are as large as what came.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The last read has left something behind: the next one goes straight into a large buffer.
    more: bool,
}

impl Reading {
    /// Appends to `into` what there is to read now; how much that was, 0 at the end of the stream.
    ///
    /// Nothing is allocated while there is nothing, but after a read that has filled its buffer.
    pub(super) fn poll<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        if self.more {
            into.reserve(LARGE);
            let before = into.len();
            let polled = poll_read_buf(Pin::new(io), cx, into);
            self.more = matches!(&polled, Poll::Ready(Ok(_)) if into.len() - before >= PIECE);
            if polled.is_pending() && into.is_empty() {
                *into = BytesMut::new();
            }
            return polled;
        }
        let mut piece = [MaybeUninit::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(io).poll_read(cx, &mut piece))?;
        let read = piece.filled();
        self.more = read.len() == PIECE;
        if into.is_empty() {
            *into = BytesMut::from(read);
        } else {
            into.extend_from_slice(read);
        }
        Poll::Ready(Ok(read.len()))
    }
}
