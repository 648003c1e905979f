//! The PROXY protocol, versions 1 and 2: a balancer that passes bytes on says first whose they are
//! (haproxy.org, `doc/proxy-protocol.txt`).
//!
//! Only those whose word is believed may say so, and they have to: their connections begin with the header. All others
//! are clients like any other, to whom such a header is a malformed request; this is HAProxy's
//! `tcp-request connection expect-proxy layer4 if { src … }`.
//!
//! No byte behind the header is read here.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::wire::headers::TrustedProxies;

/// What a header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1, its CRLF included.
const LONGEST_LINE: usize = 107;

/// Types of TLVs: what the balancer says of TLS between the client and itself.
const TLV_SSL: u8 = 0x20;
const SSL_WAS_USED: u8 = 1;

/// A header that cannot be read is logged no more often than this; it is counted each time.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Who speaks it.
#[derive(Debug)]
pub struct ProxyProtocol {
    from: TrustedProxies,
    warned: Mutex<Option<Instant>>,
}

/// What a balancer said of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The client; `None` where the connection is the balancer's own, as for a health check, or no address is told.
    pub(super) client: Option<SocketAddr>,
    /// The connection is that of a client, and no address of it is told.
    pub(super) unnamed: bool,
    /// The client came over TLS.
    pub(super) secure: bool,
}

/// Why a header could not be read.
#[derive(Debug)]
pub(super) enum HeaderError {
    /// The connection ended before it began, which is how some look whether somebody listens.
    Nothing,
    /// It broke off.
    Io(io::Error),
    /// It is none; the text says how.
    Malformed(&'static str),
    /// It took too long.
    Late,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("the connection ended before the header"),
            Self::Io(error) => write!(f, "the header broke off: {}", error.kind()),
            Self::Malformed(how) => f.write_str(how),
            Self::Late => f.write_str("the header did not come in time"),
        }
    }
}

impl ProxyProtocol {
    /// Spoken by those in `from`.
    #[must_use]
    pub const fn new(from: TrustedProxies) -> Self {
        Self {
            from,
            warned: Mutex::new(None),
        }
    }

    /// Whether connections from there begin with a header.
    pub(super) fn is_spoken_by(&self, peer: IpAddr) -> bool {
        self.from.trusts(peer)
    }

    /// Tells the log, where it has not been told just now.
    pub(super) fn complain(&self, peer: SocketAddr, error: &HeaderError) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!(%peer, %error, "a connection of a trusted proxy was closed: it must begin with a PROXY header");
        }
    }
}

/// Reads the header, and nothing behind it, within `limit`.
pub(super) async fn receive(io: &mut TcpStream, limit: Duration) -> Result<Told, HeaderError> {
    let received = tokio::time::timeout(limit, read(io)).await;
    received.unwrap_or(Err(HeaderError::Late))
}

async fn read(io: &mut TcpStream) -> Result<Told, HeaderError> {
    let mut start = [0; SIGNATURE.len()];
    // Shorter than any header of either version.
    if io
        .read(start.get_mut(..1).unwrap_or_default())
        .await
        .map_err(HeaderError::Io)?
        == 0
    {
        return Err(HeaderError::Nothing);
    }
    fill(io, start.get_mut(1..).unwrap_or_default()).await?;
    if start == SIGNATURE {
        let mut rest = [0; 4];
        fill(io, &mut rest).await?;
        let [command, family, high, low] = rest;
        let mut block = vec![0; usize::from(u16::from_be_bytes([high, low]))];
        fill(io, &mut block).await?;
        return version_2(command, family, &block).map_err(HeaderError::Malformed);
    }
    if !start.starts_with(b"PROXY ") {
        return Err(HeaderError::Malformed("the connection begins with something else"));
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\n") {
        let room = LONGEST_LINE - line.len();
        if room == 0 {
            return Err(HeaderError::Malformed("the line is too long"));
        }
        // What follows the line is for somebody else: it is only looked at.
        let mut ahead = [0; LONGEST_LINE];
        let ahead = ahead.get_mut(..room).unwrap_or_default();
        let seen = io.peek(ahead).await.map_err(HeaderError::Io)?;
        let ahead = ahead.get(..seen).unwrap_or_default();
        let end = ahead.iter().position(|byte| *byte == b'\n').map_or(seen, |at| at + 1);
        if end == 0 {
            return Err(HeaderError::Malformed("the line has no end"));
        }
        let known = line.len();
        line.resize(known + end, 0);
        fill(io, line.get_mut(known..).unwrap_or_default()).await?;
    }
    version_1(&line).map_err(HeaderError::Malformed)
}

async fn fill(io: &mut TcpStream, into: &mut [u8]) -> Result<(), HeaderError> {
    io.read_exact(into).await.map(drop).map_err(HeaderError::Io)
}

/// `PROXY TCP4 CLIENT SERVER CLIENT-PORT SERVER-PORT CRLF`, the same with `TCP6`, or `PROXY UNKNOWN … CRLF`.
fn version_1(line: &[u8]) -> Result<Told, &'static str> {
    const INVALID: &str = "a line that does not say who the client is";
    let line = line.strip_suffix(b"\r\n").ok_or("the line does not end by CRLF")?;
    let text = std::str::from_utf8(line).map_err(|_| INVALID)?;
    let mut words = text.split(' ').skip(1);
    let client = match words.next() {
        Some("UNKNOWN") => {
            return Ok(Told {
                unnamed: true,
                ..Told::default()
            });
        }
        Some("TCP4") => addresses::<Ipv4Addr>(&mut words),
        Some("TCP6") => addresses::<Ipv6Addr>(&mut words),
        _ => None,
    };
    match (client, words.next()) {
        (Some(client), None) => Ok(Told {
            client: Some(client),
            ..Told::default()
        }),
        _ => Err(INVALID),
    }
}

/// The first of two addresses with their ports, all of which must be right.
fn addresses<'a, A: FromStr + Into<IpAddr>>(words: &mut impl Iterator<Item = &'a str>) -> Option<SocketAddr> {
    let (client, server): (A, A) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (client_port, server_port) = (port(words.next()?)?, port(words.next()?)?);
    let _: (IpAddr, u16) = (server.into(), server_port);
    Some(SocketAddr::new(client.into(), client_port))
}

/// Decimal, without a sign or zeros in front.
fn port(word: &str) -> Option<u16> {
    let plain = word == "0" || word.starts_with(|first: char| ('1'..='9').contains(&first));
    plain.then(|| word.parse().ok()).flatten()
}

/// `block`: addresses, and TLVs behind them.
fn version_2(command: u8, family: u8, block: &[u8]) -> Result<Told, &'static str> {
    match command {
        0x20 => return Ok(Told::default()),
        0x21 => {}
        _ => return Err("a header of an unknown version or command"),
    }
    const SHORT: &str = "a header too short for its addresses";
    let (length, client) = match family {
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *block.first_chunk::<12>().ok_or(SHORT)?;
            let client = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
            (12, Some(client))
        }
        0x21 => {
            let client = *block.first_chunk::<16>().ok_or(SHORT)?;
            let [.., high, low, _, _] = *block.first_chunk::<36>().ok_or(SHORT)?;
            (36, Some(SocketAddr::from((client, u16::from_be_bytes([high, low])))))
        }
        // No address, or none of an IP connection: UNSPEC, datagrams, Unix sockets.
        0x00 => (0, None),
        0x12 => (12, None),
        0x22 => (36, None),
        0x31 | 0x32 => (216, None),
        _ => return Err("a header of an unknown address family"),
    };
    let rest = block.get(length..).ok_or(SHORT)?;
    Ok(Told {
        client,
        unnamed: client.is_none(),
        secure: tlvs(rest)?,
    })
}

/// Whether one of them says that the client came over TLS.
fn tlvs(mut rest: &[u8]) -> Result<bool, &'static str> {
    let mut secure = false;
    while let [kind, high, low, behind @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = behind.split_at_checked(length).ok_or("a TLV longer than its header")?;
        secure |= *kind == TLV_SSL && value.first().is_some_and(|client| client & SSL_WAS_USED != 0);
        rest = next;
    }
    if rest.is_empty() {
        Ok(secure)
    } else {
        Err("a TLV longer than its header")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(text: &str) -> Told {
        Told {
            client: Some(text.parse().unwrap()),
            ..Told::default()
        }
    }

    const UNNAMED: Told = Told {
        client: None,
        unnamed: true,
        secure: false,
    };

    #[test]
    fn a_line_tells_the_client() {
        for (line, told) in [
            (
                "PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n",
                client("203.0.113.9:56324"),
            ),
            ("PROXY TCP6 2001:db8::9 ::1 1 0\r\n", client("[2001:db8::9]:1")),
            ("PROXY UNKNOWN\r\n", UNNAMED),
            ("PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n", UNNAMED),
        ] {
            assert_eq!(version_1(line.as_bytes()), Ok(told), "{line}");
        }
    }

    #[test]
    fn a_line_that_is_not_exactly_right_is_refused() {
        for line in [
            "PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\n",
            "PROXY TCP4  203.0.113.9 10.0.0.1 56324 443\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 56324 443 \r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 56324\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 065 443\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 +65 443\r\n",
            "PROXY TCP4 203.0.113.9 10.0.0.1 1 65536\r\n",
            "PROXY TCP4 203.0.113.09 10.0.0.1 1 2\r\n",
            "PROXY TCP4 203.0.113.9 ::1 1 2\r\n",
            "PROXY TCP6 203.0.113.9 10.0.0.1 1 2\r\n",
            "PROXY TCP4 shop.example 10.0.0.1 1 2\r\n",
            "PROXY tcp4 203.0.113.9 10.0.0.1 1 2\r\n",
            "PROXY UDP4 203.0.113.9 10.0.0.1 1 2\r\n",
            "PROXY \r\n",
            "PROXY TCP4\r\n",
        ] {
            version_1(line.as_bytes()).expect_err(line);
        }
    }

    const V4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0xdc, 4, 1, 0xbb];

    fn v6() -> Vec<u8> {
        let address: Ipv6Addr = "2001:db8::9".parse().unwrap();
        [&address.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[0, 1, 0, 2]].concat()
    }

    fn with(block: &[u8], tlvs: &[(u8, &[u8])]) -> Vec<u8> {
        let mut block = block.to_vec();
        for (kind, value) in tlvs {
            block.push(*kind);
            block.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            block.extend(*value);
        }
        block
    }

    #[test]
    fn a_block_tells_the_client_and_whether_it_came_over_tls() {
        assert_eq!(version_2(0x21, 0x11, &V4), Ok(client("203.0.113.9:56324")));
        assert_eq!(version_2(0x21, 0x21, &v6()), Ok(client("[2001:db8::9]:1")));
        let secure = with(&V4, &[(1, b"h2"), (TLV_SSL, &[1, 0, 0, 0, 0]), (4, b"")]);
        let told = version_2(0x21, 0x11, &secure).unwrap();
        assert_eq!((told.client, told.secure), (client("203.0.113.9:56324").client, true));
        let clear = with(&V4, &[(TLV_SSL, &[0, 0, 0, 0, 0])]);
        assert_eq!(version_2(0x21, 0x11, &clear), Ok(client("203.0.113.9:56324")));
        for (command, family, length) in [
            (0x20, 0x11, 12),
            (0x20, 0, 0),
            (0x21, 0, 0),
            (0x21, 0x12, 12),
            (0x21, 0x31, 216),
        ] {
            // Its own connection, or that of somebody.
            let told = if command == 0x20 { Told::default() } else { UNNAMED };
            assert_eq!(version_2(command, family, &vec![0; length]), Ok(told), "{family}");
        }
    }

    #[test]
    fn a_block_that_is_not_right_is_refused() {
        for (command, family, block) in [
            (0x22, 0x11, V4.to_vec()),
            (0x11, 0x11, V4.to_vec()),
            (0x21, 0x41, V4.to_vec()),
            (0x21, 0x13, V4.to_vec()),
            (0x21, 0x11, V4[..11].to_vec()),
            (0x21, 0x21, v6()[..35].to_vec()),
            (0x21, 0x31, vec![0; 215]),
            (0x21, 0x11, with(&V4, &[(1, b"x")])[..15].to_vec()),
            (0x21, 0x11, [&V4[..], &[1, 0]].concat()),
        ] {
            version_2(command, family, &block).expect_err("{block:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(command: u8, family: u8, block: Vec<u8>, line: Vec<u8>) {
            let _ = version_2(command, family, &block);
            let _ = version_2(0x21, family, &block);
            let _ = version_1(&line);
            let _ = version_1(&[&b"PROXY TCP4 "[..], &line, b"\r\n"].concat());
        }
    }
}
