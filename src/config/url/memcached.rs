//! The URL of Memcached.

use std::fmt;

use super::servers::{Address, address};
use crate::config::document::Node;
use crate::config::reader::Fault;

/// The scheme.
pub(super) const SCHEME: &str = "memcached";

const EXAMPLE: &str = "memcached://HOST:PORT,HOST:PORT";

const DEFAULT_PORT: u16 = 11211;

/// `memcached://host[:11211],…`: the servers over which sessions are spread.
#[derive(Clone, Debug)]
pub struct MemcachedUrl {
    /// Where they are; never empty, and none twice.
    pub servers: Vec<Address>,
    shown: String,
}

impl fmt::Display for MemcachedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Reads what follows `memcached://`.
pub(super) fn memcached_url(node: &Node, rest: &str) -> Result<MemcachedUrl, Fault> {
    parse(rest).map_err(|message| node.fault(message))
}

fn parse(rest: &str) -> Result<MemcachedUrl, String> {
    if rest.contains('@') {
        return Err("Memcached is spoken to without a user or a password".into());
    }
    let hosts = rest.strip_suffix('/').unwrap_or(rest);
    if hosts.contains(['/', '?', '#']) {
        return Err(format!("takes hosts and nothing else: {EXAMPLE}"));
    }
    let mut servers: Vec<Address> = Vec::new();
    for host in hosts.split(',') {
        let server = address(host, EXAMPLE, DEFAULT_PORT)?;
        if servers.contains(&server) {
            return Err("names a server twice".into());
        }
        servers.push(server);
    }
    Ok(MemcachedUrl {
        servers,
        shown: format!("{SCHEME}://{hosts}"),
    })
}
