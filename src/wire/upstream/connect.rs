//! Opening a connection: resolve, try the addresses, set the socket up, shake hands where TLS is spoken.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::stats::Open;
use super::stream::{Stream, Wire};
use super::{UpstreamError, UpstreamOptions, race};

/// A silent connection is probed by TCP after this long: a dead peer ends an endless response or a tunnel.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// Opens a connection and, where the backend wants it, shakes hands, all within `connect_timeout`.
pub(super) async fn stream(options: &UpstreamOptions, open: Open) -> Result<Stream, UpstreamError> {
    let deadline = Instant::now() + options.connect_timeout;
    let tcp = tcp(&options.host, options.port, options.connect_timeout).await?;
    // Neither option is needed to be correct: a socket that refuses them still serves.
    let _ = tcp.set_nodelay(true);
    let _ = SockRef::from(&tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE));
    let wire = Wire::new(tcp, open);
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
    if addresses.is_empty() {
        return Err(UpstreamError::Connect(format!("{host} has no address")));
    }
    let first = race::first(addresses, deadline).await;
    first.map_err(|failures| UpstreamError::Connect(failures.join("; ")))
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
