//! The bytes to and from the backend, in clear or over TLS, counted where they leave this process.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::stats::Open;
use crate::tls::HTTP2;

/// The TCP connection. It counts what the kernel has taken: over TLS that is what matters, as bytes that were sealed and
/// not sent are known to nobody (F4).
#[derive(Debug)]
pub(super) struct Wire {
    tcp: TcpStream,
    written: u64,
    _open: Open,
}

impl Wire {
    pub(super) const fn new(tcp: TcpStream, open: Open) -> Self {
        Self {
            tcp,
            written: 0,
            _open: open,
        }
    }

    fn count(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &result {
            self.written += *count as u64;
        }
        result
    }
}

/// Reads what the kernel has, without asking the runtime whether there is anything.
struct Kernel<'a>(&'a TcpStream);

impl io::Read for Kernel<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let socket = SockRef::from(self.0);
        io::Read::read(&mut &*socket, buf)
    }
}

/// The connection, as messages are read from it and written to it.
#[derive(Debug)]
pub(super) enum Stream {
    Clear(Wire),
    Tls(Box<TlsStream<Wire>>),
}

impl Stream {
    pub(super) const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether HTTP/2 was agreed on with the backend.
    pub(super) fn speaks_http2(&self) -> bool {
        match self {
            Self::Clear(_) => false,
            Self::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(HTTP2),
        }
    }

    /// Bytes that the kernel has taken since the connection was opened.
    pub(super) fn written(&self) -> u64 {
        match self {
            Self::Clear(wire) => wire.written,
            Self::Tls(tls) => tls.get_ref().0.written,
        }
    }

    /// Whether the runtime has been told that the connection is closed, or that there is something unasked for. Asks nobody
    /// where it has been told nothing.
    pub(super) fn is_known_to_be_spent(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        match self {
            Self::Clear(wire) => {
                let read = wire.tcp.try_read(&mut byte);
                !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(tls) => {
                let mut cx = Context::from_waker(Waker::noop());
                let mut buf = ReadBuf::new(&mut byte);
                Pin::new(tls.as_mut()).poll_read(&mut cx, &mut buf).is_ready()
            }
        }
    }

    /// Whether the backend has closed the connection, or said something unasked, as far as the kernel knows at this
    /// moment, whatever the runtime was told. A connection of which this is true is of no more use: what was read is lost.
    pub(super) fn is_spent(&mut self) -> bool {
        let asked = match self {
            Self::Clear(wire) => {
                let mut byte = [0_u8; 1];
                io::Read::read(&mut Kernel(&wire.tcp), &mut byte).map(|_count| true)
            }
            Self::Tls(tls) => {
                let (wire, session) = tls.get_mut();
                session.read_tls(&mut Kernel(&wire.tcp)).and_then(|count| {
                    let state = session
                        .process_new_packets()
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    // Session tickets and the like are nothing that was asked for.
                    Ok(count == 0 || state.peer_has_closed() || state.plaintext_bytes_to_read() > 0)
                })
            }
        };
        asked.unwrap_or_else(|error| !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted))
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.count(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.count(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(wire) => Pin::new(wire).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(wire) => Pin::new(wire).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(wire) => Pin::new(wire).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Clear(wire) => wire.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(wire) => Pin::new(wire).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(wire) => Pin::new(wire).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}
