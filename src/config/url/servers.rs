//! The URLs of Redis and Valkey: one server, several found by Sentinel, a cluster; in clear or over TLS.

use std::fmt;

use super::number;
use crate::config::document::Node;
use crate::config::reader::Fault;
use crate::config::secret::Secret;

/// Where Redis or Valkey is, and who we are there. Displayed without user and password.
#[derive(Clone, Debug)]
pub struct RedisUrl {
    /// Which servers.
    pub topology: RedisTopology,
    /// Whether they are spoken to over TLS, sentinels too.
    pub tls: bool,
    /// The user; without one, a password is that of the default user.
    pub username: Option<Secret>,
    /// The password of the URL; it may be in a file instead.
    pub password: Option<Secret>,
    shown: String,
}

/// How the servers of a Redis belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisTopology {
    /// `redis://[user:pass@]host[:6379][/db]`: one server.
    One {
        /// Where it is.
        server: Address,
        /// The number of the database.
        database: u16,
    },
    /// `redis-sentinel://[user:pass@]host[:26379],…/master[/db]`: whichever server the sentinels call the master.
    Sentinel {
        /// Where sentinels are; never empty.
        sentinels: Vec<Address>,
        /// What they call it.
        master: String,
        /// The number of the database.
        database: u16,
    },
    /// `redis-cluster://[user:pass@]host[:6379],…`: a cluster, of which these nodes are asked for the others.
    Cluster {
        /// Where nodes are; never empty.
        seeds: Vec<Address>,
    },
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name, or an address without the brackets of IPv6.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl RedisUrl {
    /// Whether it is a cluster.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(self.topology, RedisTopology::Cluster { .. })
    }

    /// Whether sentinels are asked where the master is.
    #[must_use]
    pub fn has_sentinels(&self) -> bool {
        matches!(self.topology, RedisTopology::Sentinel { .. })
    }
}

/// How a URL goes on after its scheme.
#[derive(Clone, Copy)]
enum Form {
    One,
    Sentinel,
    Cluster,
}

impl Form {
    const fn example(self) -> &'static str {
        match self {
            Self::One => "redis://HOST:PORT/DB",
            Self::Sentinel => "redis-sentinel://HOST:PORT,HOST:PORT/MASTER",
            Self::Cluster => "redis-cluster://HOST:PORT,HOST:PORT",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::One | Self::Cluster => 6379,
            Self::Sentinel => 26379,
        }
    }
}

/// Every scheme, what follows it, and whether it means TLS. Valkey speaks the same protocol.
const SCHEMES: [(&str, Form, bool); 12] = [
    ("redis", Form::One, false),
    ("rediss", Form::One, true),
    ("redis-sentinel", Form::Sentinel, false),
    ("rediss-sentinel", Form::Sentinel, true),
    ("redis-cluster", Form::Cluster, false),
    ("rediss-cluster", Form::Cluster, true),
    ("valkey", Form::One, false),
    ("valkeys", Form::One, true),
    ("valkey-sentinel", Form::Sentinel, false),
    ("valkeys-sentinel", Form::Sentinel, true),
    ("valkey-cluster", Form::Cluster, false),
    ("valkeys-cluster", Form::Cluster, true),
];

/// The names of all schemes.
pub(super) fn schemes() -> impl Iterator<Item = &'static str> {
    SCHEMES.iter().map(|(scheme, ..)| *scheme)
}

/// Reads what follows `scheme://`; `None` for a scheme that is not of Redis.
pub(super) fn redis_url(node: &Node, scheme: &str, rest: &str) -> Option<Result<RedisUrl, Fault>> {
    let (scheme, form, tls) = *SCHEMES.iter().find(|(name, ..)| *name == scheme)?;
    Some(parse(form, rest).map_err(|message| node.fault(message)).map(|parsed| {
        let (username, password, topology, shown) = parsed;
        RedisUrl {
            topology,
            tls,
            username,
            password,
            shown: format!("{scheme}://{shown}"),
        }
    }))
}

type Parsed = (Option<Secret>, Option<Secret>, RedisTopology, String);

fn parse(form: Form, rest: &str) -> Result<Parsed, String> {
    if rest.contains(['?', '#']) {
        return Err("takes no options: write a ? or # in a password as %3F or %23".into());
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let shown = rest.strip_prefix(login).unwrap_or(rest);
    let shown = shown.strip_prefix('@').unwrap_or(shown).to_owned();
    let (username, password) = read_login(login)?;
    let mut addresses = addresses(form, hosts)?;
    let topology = match form {
        Form::One => match (addresses.pop(), addresses.is_empty()) {
            (Some(server), true) => RedisTopology::One {
                server,
                database: database(form, path)?,
            },
            _ => return Err("names several hosts: that is redis-sentinel:// or redis-cluster://".into()),
        },
        Form::Sentinel => {
            let (master, number) = path.split_once('/').unwrap_or((path, ""));
            RedisTopology::Sentinel {
                sentinels: addresses,
                master: master_name(master)?,
                database: database(form, number)?,
            }
        }
        Form::Cluster if matches!(path, "" | "0") => RedisTopology::Cluster { seeds: addresses },
        Form::Cluster => return Err(format!("a cluster has no databases: {}", form.example())),
    };
    Ok((username, password, topology, shown))
}

pub(super) fn read_login(login: &str) -> Result<(Option<Secret>, Option<Secret>), String> {
    const ENCODE: &str = "in a user name or password, write @ : / [ ] % and what is not ASCII as %40 and so on";
    let (username, password) = login.split_once(':').unwrap_or((login, ""));
    if login.contains(['@', '[', ']']) || password.contains(':') {
        return Err(ENCODE.into());
    }
    let read = |text: &str| match decode(text) {
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => Ok(Some(Secret::from(text))),
        None => Err(ENCODE.to_owned()),
    };
    Ok((read(username)?, read(password)?))
}

/// The text behind visible ASCII in which `%XX` stands for a byte of UTF-8.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                bytes.push(high << 4 | low);
            }
            _ if byte.is_ascii_graphic() => bytes.push(byte),
            _ => return None,
        }
    }
    String::from_utf8(bytes).ok()
}

fn addresses(form: Form, hosts: &str) -> Result<Vec<Address>, String> {
    let address = |text| address(text, form.example(), form.default_port());
    hosts.split(',').map(address).collect()
}

/// A host, and a port from 1 to 65535 or none; `example` is the URL as it should be.
pub(super) fn address(text: &str, example: &str, default_port: u16) -> Result<Address, String> {
    let expected = || format!("expected {example}; in a password, write / as %2F and @ as %40");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(expected)?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(expected());
            }
            (host, port)
        }
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (host, port) = text.split_at_checked(end).unwrap_or((text, ""));
            if port.matches(':').count() > 1 {
                return Err(format!("an IPv6 address stands in brackets: [::1]:{default_port}"));
            }
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if host.is_empty() || !host.bytes().all(fine) {
                return Err(expected());
            }
            (host, port)
        }
    };
    let port = match port.strip_prefix(':') {
        Some(port) => number::<u16>(port)
            .filter(|port| *port != 0)
            .ok_or("after the host and a colon comes the port, from 1 to 65535")?,
        None if port.is_empty() => default_port,
        None => return Err(expected()),
    };
    Ok(Address {
        host: host.to_owned(),
        port,
    })
}

fn master_name(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err(format!(
            "after the hosts comes what the sentinels call the master, mostly mymaster: {}",
            Form::Sentinel.example()
        ));
    }
    // What Sentinel itself allows.
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !name.bytes().all(fine) {
        return Err("the name of a master has letters, digits, and . - _ only".into());
    }
    Ok(name.to_owned())
}

fn database(form: Form, text: &str) -> Result<u16, String> {
    let place = match form {
        Form::Sentinel => "the master comes the number of the database: redis-sentinel://HOST:PORT/MASTER/0",
        Form::One | Form::Cluster => "the host comes the number of the database: redis://HOST:PORT/0",
    };
    match text {
        "" => Ok(0),
        _ => number(text).ok_or_else(|| format!("after {place}")),
    }
}
