//! The two URLs: where the backend is, and where sessions are kept.

use std::fmt;
use std::path::PathBuf;

use http::uri::Authority;

use super::document::Node;
use super::reader::{Fault, nearest};

mod memcached;
mod servers;
mod sql;

pub use memcached::MemcachedUrl;
pub use servers::{Address, RedisTopology, RedisUrl};
pub use sql::{Encryption, SqlKind, SqlUrl};

/// Where the backend is: a host and a port, spoken to in clear or over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    authority: Authority,
    tls: bool,
}

impl UpstreamUrl {
    /// Host and port as they were written: what `Host` says when the client's is not preserved.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The host to connect to: a name, or an address without the brackets of IPv6.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port to connect to; unless it was written 80, or 443 over TLS.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.tls { 443 } else { 80 })
    }

    /// Whether the backend is spoken to over TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.tls
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

pub(super) fn upstream_url(node: &Node) -> Result<UpstreamUrl, Fault> {
    let text = node.text()?;
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(node.fault("expected http://HOST:PORT"));
    };
    let tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(node.fault("expected http://HOST:PORT or https://HOST:PORT; no other scheme is spoken")),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err(node.fault("cannot hold a user name or password: those are the client's to send"));
    }
    if path.contains(['?', '#']) {
        return Err(node.fault("cannot have a query or a fragment"));
    }
    if !matches!(path, "" | "/") {
        return Err(node.fault(
            "cannot have a path: the path of each request is forwarded byte for byte, so there is nothing to put it before",
        ));
    }
    let authority = parse_authority(authority).ok_or_else(|| node.fault("expected http://HOST:PORT"))?;
    Ok(UpstreamUrl { authority, tls })
}

/// A host, and a port from 1 to 65535 or none.
fn parse_authority(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let host = authority.host();
    let after_host = text.strip_prefix(host)?;
    let good_port = match after_host.strip_prefix(':') {
        Some(port) => number::<u16>(port).is_some_and(|port| port != 0),
        None => after_host.is_empty(),
    };
    let good_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    (good_host && good_port).then_some(authority)
}

/// A number in digits alone, without a sign.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// Where sessions are kept.
#[derive(Clone, Debug)]
pub enum StoreUrl {
    /// `memory:`: in this process, gone with it.
    Memory,
    /// `sqlite://PATH`: in a file on this machine.
    Sqlite {
        /// The file, relative to the working directory unless it starts with `/`.
        path: PathBuf,
    },
    /// In Redis or Valkey.
    Redis(RedisUrl),
    /// In PostgreSQL, MySQL or MariaDB.
    Sql(SqlUrl),
    /// In Memcached, for as long as that keeps it.
    Memcached(MemcachedUrl),
}

/// The URL without user name and password, for people to read.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Sqlite { path } => write!(f, "sqlite://{}", path.display()),
            Self::Redis(url) => url.fmt(f),
            Self::Sql(url) => url.fmt(f),
            Self::Memcached(url) => url.fmt(f),
        }
    }
}

/// The names of all schemes but `memory:`.
fn schemes() -> impl Iterator<Item = &'static str> {
    let others = servers::schemes().chain(sql::schemes());
    ["sqlite", memcached::SCHEME].into_iter().chain(others)
}

pub(super) fn store_url(node: &Node) -> Result<StoreUrl, Fault> {
    const EXPECTED: &str = "expected memory:, sqlite://PATH, redis://HOST:PORT/DB, postgres://USER@HOST/DATABASE, \
                            mysql://USER@HOST/DATABASE or memcached://HOST:PORT";
    let text = node.text()?;
    if text == "memory:" {
        return Ok(StoreUrl::Memory);
    }
    let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
    let Some(rest) = rest.strip_prefix("//") else {
        return Err(match scheme {
            "memory" => node.fault("a store in memory is written \"memory:\""),
            _ if schemes().any(|name| name == scheme) => {
                node.fault(format!("{scheme}: must be followed by //; {EXPECTED}"))
            }
            _ => no_such_kind(node, scheme, EXPECTED),
        });
    };
    match scheme {
        "memory" => Err(node.fault("a store in memory is written \"memory:\"")),
        "sqlite" => sqlite(node, rest),
        memcached::SCHEME => memcached::memcached_url(node, rest).map(StoreUrl::Memcached),
        _ => {
            let redis = || servers::redis_url(node, scheme, rest).map(|url| url.map(StoreUrl::Redis));
            let sql = || sql::sql_url(node, scheme, rest).map(|url| url.map(StoreUrl::Sql));
            redis()
                .or_else(sql)
                .unwrap_or_else(|| Err(no_such_kind(node, scheme, EXPECTED)))
        }
    }
}

/// `""`: none.
pub(super) fn optional_store_url(node: &Node) -> Result<Option<StoreUrl>, Fault> {
    match node.text()? {
        "" => Ok(None),
        _ => store_url(node).map(Some),
    }
}

fn no_such_kind(node: &Node, scheme: &str, expected: &str) -> Fault {
    let hint = nearest(scheme, std::iter::once("memory").chain(schemes()));
    let hint = hint.map_or_else(String::new, |near| format!("; did you mean `{near}:`?"));
    node.fault(format!("no such kind of store: {expected}{hint}"))
}

fn sqlite(node: &Node, path: &str) -> Result<StoreUrl, Fault> {
    if path.is_empty() {
        return Err(node.fault("the path of the file is missing: sqlite://session-bridge.db, or sqlite:///var/lib/…"));
    }
    if path == ":memory:" {
        return Err(node.fault("a store in memory is written \"memory:\""));
    }
    if path.contains(['?', '#', '\0']) {
        return Err(node.fault("takes a path and no options: no ? or # in it"));
    }
    if path.ends_with('/') {
        return Err(node.fault("names a directory: the path of a file is needed"));
    }
    Ok(StoreUrl::Sqlite {
        path: PathBuf::from(path),
    })
}
