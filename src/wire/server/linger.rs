//! Closing a connection so that the peer can read what was sent last (RFC 9112 §9.6); and so that it cannot take what
//! was cut short for whole.

use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// How long a connection lingers at most.
pub(super) const LINGER_TIME: Duration = Duration::from_secs(2);
/// How much it discards at most. Enough for an upload that was refused by its head to run out of steam.
const LINGER_BYTES: usize = 4 * 1024 * 1024;
/// How much is read at a time.
const PIECE: usize = 16 * 1024;

/// How long a connection lingers at most on which nothing was due: a request that was on its way when it was closed
/// arrives by then.
pub(super) const IDLE_LINGER_TIME: Duration = Duration::from_secs(1);

/// Sends `last` and the end of the stream, then reads and discards until the peer closes, within bounds. Closing with
/// input unread would send a reset, at which the peer drops what it has received.
pub(super) async fn close<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO, last: &[u8]) {
    close_within(io, last, LINGER_TIME).await;
}

/// The same, for a connection that was closed while it was idle. A request that arrives after that was seen by nobody,
/// and is safe to send again: its client reads the end of the stream and no reset, which might mean anything.
pub(super) async fn close_idle<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO) {
    close_within(io, b"", IDLE_LINGER_TIME).await;
}

async fn close_within<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO, last: &[u8], limit: Duration) {
    let closing = async {
        io.write_all(last).await?;
        io.shutdown().await?;
        let mut piece = BytesMut::with_capacity(PIECE);
        let mut discarded = 0;
        while discarded < LINGER_BYTES {
            match io.read_buf(&mut piece).await? {
                0 => break,
                read => discarded += read,
            }
            piece.clear();
        }
        Ok::<(), std::io::Error>(())
    };
    // Neither a peer that is gone nor one that goes on sending can be told anything more.
    let _ = tokio::time::timeout(limit, closing).await;
}

/// What is carried by TCP.
pub(super) trait OverTcp {
    fn tcp(&self) -> &TcpStream;
}

impl OverTcp for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl OverTcp for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Whether from now on the end of the connection is a reset, however it comes: by an error, by the forced end of a
/// shutdown, by the end of the process. For as long as the end of the stream would be that of a response.
pub(super) fn end_by_reset(io: &impl OverTcp, reset: bool) {
    // It fails on a connection that is none any more.
    let _ = SockRef::from(io.tcp()).set_linger(reset.then_some(Duration::ZERO));
}
