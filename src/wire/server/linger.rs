//! Closing a connection so that the peer can read what was sent last (RFC 9112 §9.6).

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How long a connection lingers at most.
pub(super) const LINGER_TIME: Duration = Duration::from_secs(2);
/// How much it discards at most. Enough for an upload that was refused by its head to run out of steam.
const LINGER_BYTES: usize = 4 * 1024 * 1024;
/// How much is read at a time.
const PIECE: usize = 16 * 1024;

/// Sends `last` and the end of the stream, then reads and discards until the peer closes, within bounds. Closing with
/// input unread would send a reset, at which the peer drops what it has received.
pub(super) async fn close<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO, last: &[u8]) {
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
    let _ = tokio::time::timeout(LINGER_TIME, closing).await;
}
