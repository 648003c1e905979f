//! Connections that change protocols: WebSocket and the like (H4, RFC 9110 section 7.8).
//!
//! An upgrade takes five steps, each where it belongs: [`requested`] looks at the client's head; [`super::headers`]
//! takes the hop-by-hop fields off and puts the upgrade back on; the backend answers, with a 101 or with an ordinary
//! response that ends the matter; the 101 goes to the client; [`tunnel`] joins the two connections.

use std::io;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::headers::members;

/// The protocols that a genuine upgrade request asks for: the value of its `Upgrade` field.
///
/// Genuine: HTTP/1.1, `Connection` names `upgrade`, and `Upgrade` is one line. Upgrades to another HTTP (`h2c`,
/// `HTTP/2.0`) or to TLS are none: tunnelled, they would carry requests past the bridge. A server may leave an upgrade
/// unanswered, so these requests go on as ordinary ones.
#[must_use]
pub fn requested(method: &Method, version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || method == Method::CONNECT {
        return None;
    }
    let mut lines = headers.get_all(UPGRADE).iter();
    let (Some(protocols), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let named = members(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    let passable = members(headers, &UPGRADE).all(is_passable);
    (named && passable).then(|| protocols.clone())
}

/// Whether a 101 of the backend changes to one of the protocols that were asked for.
#[must_use]
pub fn agrees(asked: &HeaderValue, response: &HeaderMap) -> bool {
    let mut answered = members(response, &UPGRADE).peekable();
    let offered = |protocol: &[u8]| {
        asked
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|offer| offer.trim_ascii().eq_ignore_ascii_case(protocol))
    };
    answered.peek().is_some() && answered.all(offered)
}

fn is_passable(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
    !name.is_empty()
        && ![&b"h2c"[..], b"h2", b"h3", b"http", b"tls"]
            .iter()
            .any(|no| name.eq_ignore_ascii_case(no))
}

/// How a tunnel ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Both sides have said all they had to say.
    Finished {
        /// Bytes that went from the client to the backend.
        to_upstream: u64,
        /// Bytes that went from the backend to the client.
        to_client: u64,
    },
    /// It was cut, because `stop` was cancelled.
    Stopped,
}

/// Joins two connections that have been upgraded, until both have ended or `stop` is cancelled (a forced drain).
///
/// An end of the stream on one side is passed to the other, which may go on speaking. Each direction is read only as
/// fast as it is written. A silent tunnel is not closed: the protocol inside has its own pings, and TCP keep-alive
/// finds a backend that is gone. Run it as a task of its own: both connections become ready only after the 101 has been
/// written to the client.
///
/// # Errors
/// One of the connections failed, or was never upgraded.
pub async fn tunnel(client: OnUpgrade, upstream: OnUpgrade, stop: CancellationToken) -> io::Result<TunnelEnd> {
    let joined = async {
        let (client, upstream) = tokio::try_join!(client, upstream).map_err(io::Error::other)?;
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        let (to_upstream, to_client) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
        Ok(TunnelEnd::Finished { to_upstream, to_client })
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(TunnelEnd::Stopped),
        end = joined => end,
    }
}

#[cfg(test)]
mod tests;
