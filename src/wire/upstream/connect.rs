//! Opening a connection: resolve, try every address, set the socket up, shake hands where TLS is spoken, start hyper on
//! it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::socket::{Link, Socket};
use super::stats::{Counters, Open};
use super::stream::{Stream, Wire};
use super::upload::UploadBody;
use super::{UpstreamError, UpstreamOptions};
use crate::wire::timer::Timer;

/// The most header lines a response may have. hyper's own bound is 100.
const MAX_HEADERS: usize = 256;
/// The largest response head, in bytes.
const MAX_HEAD: usize = 256 * 1024;
/// A silent connection is probed by TCP after this long: a dead peer ends an endless response or a tunnel.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// One open connection and the means to use it. Dropped, it is closed at once: left to itself, hyper would first wait
/// for a backend that has stopped reading to take the rest of an upload.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: http1::SendRequest<UploadBody>,
    pub(super) link: Arc<Link>,
    /// The deadline of the exchange in hand. It stays set from one to the next, which costs less than a new one each.
    pub(super) alarm: Timer,
    task: AbortHandle,
    upgraded: bool,
}

impl Connection {
    /// Leaves the socket to the tunnel that will take it over.
    pub(super) fn release(mut self) {
        self.upgraded = true;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.upgraded {
            self.task.abort();
        }
    }
}

/// Opens a connection and, where the backend wants it, shakes hands, all within `connect_timeout`.
pub(super) async fn stream(options: &UpstreamOptions, link: Arc<Link>) -> Result<Stream, UpstreamError> {
    let deadline = Instant::now() + options.connect_timeout;
    let tcp = tcp(&options.host, options.port, options.connect_timeout).await?;
    // Neither option is needed to be correct: a socket that refuses them still serves.
    let _ = tcp.set_nodelay(true);
    let _ = SockRef::from(&tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE));
    let wire = Wire::new(tcp, link);
    let Some(tls) = &options.tls else {
        return Ok(Stream::Clear(wire));
    };
    match timeout_at(deadline, tls.connect(without_brackets(&options.host), wire)).await {
        Ok(Ok(tls)) => Ok(Stream::Tls(Box::new(tls))),
        Ok(Err(why)) => Err(UpstreamError::Connect(format!("{}: {why}", options.host))),
        Err(_) => Err(UpstreamError::Connect(format!(
            "{}: the TLS handshake was not over within {:?}",
            options.host, options.connect_timeout
        ))),
    }
}

/// Opens a TCP connection to the first address of `host` that takes one, all within `limit`.
async fn tcp(host: &str, port: u16, limit: Duration) -> Result<TcpStream, UpstreamError> {
    let deadline = Instant::now() + limit;
    let addresses = match timeout(limit, resolve(host, port)).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => return Err(UpstreamError::Connect(format!("{host} could not be resolved: {error}"))),
        Err(_) => {
            return Err(UpstreamError::Connect(format!(
                "{host} was not resolved within {limit:?}"
            )));
        }
    };
    let mut failures = Vec::new();
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for (address, left) in addresses.into_iter().zip((1..=count).rev()) {
        // Each address gets its share of the time that is left, so that a silent one does not cost the others theirs.
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address}: no answer within {share:?}")),
        }
    }
    if failures.is_empty() {
        failures.push(format!("{host} has no address"));
    }
    Err(UpstreamError::Connect(failures.join("; ")))
}

/// A URL writes IPv6 addresses in brackets.
fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
}

async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let host = without_brackets(host);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// Opens a connection and starts HTTP/1.1 on it.
pub(super) async fn open(options: &UpstreamOptions, counters: &Arc<Counters>) -> Result<Connection, UpstreamError> {
    let link = Arc::new(Link::new(Open::new(counters)));
    let stream = stream(options, Arc::clone(&link)).await?;
    let socket = TokioIo::new(Socket::new(stream, Arc::clone(&link)));
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .title_case_headers(true)
        // RFC 9112 section 5: a proxy mends these in responses, where it must refuse them in requests.
        .ignore_invalid_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD)
        .handshake(socket)
        .await
        .map_err(|error| UpstreamError::Connect(super::error::chain(&error)))?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            // Whoever used it has been told; what is left is a connection that ended while it was idle.
            tracing::debug!(%error, "upstream connection ended");
        }
    })
    .abort_handle();
    Ok(Connection {
        sender,
        link,
        alarm: Timer::default(),
        task,
        upgraded: false,
    })
}
