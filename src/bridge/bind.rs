//! Sessions that belong to the network of the client that started them (rule B1).
//!
//! A request from elsewhere, with the right Install ID or not, is never given such a session. It is refused, or it has a
//! session of its own for that network, beside the first one: whoever learnt an Install ID can neither use the session of
//! its owner nor end it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::session::quota::key_of;
use crate::session::record::Snapshot;
use crate::session::store::Key;

/// How far an address counts, and what becomes of requests from elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Bind {
    /// How many bits of an IPv4 address; 32 at most.
    pub v4: u8,
    /// How many bits of an IPv6 address; 128 at most.
    pub v6: u8,
    /// They are refused.
    pub reject: bool,
}

impl Bind {
    /// The network that counts as the client's.
    #[must_use]
    pub fn network(&self, client: IpAddr) -> IpNet {
        let client = client.to_canonical();
        let prefix = if client.is_ipv4() { self.v4 } else { self.v6 };
        IpNet::new(client, prefix).map_or_else(|_| IpNet::from(client), |network| network.trunc())
    }

    /// The key of the session that an installation has from `client`, where the one under `key` belongs elsewhere.
    #[must_use]
    pub fn key(&self, key: &Key, client: IpAddr) -> Key {
        key_of("bound", &format!("{key} {}", self.network(client)))
    }
}

/// Whether the record belongs elsewhere.
#[must_use]
pub fn is_elsewhere(snapshot: Option<&Snapshot>, client: IpAddr) -> bool {
    snapshot
        .and_then(|snapshot| snapshot.record.past())
        .is_some_and(|past| !past.admits(client))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b1_the_network_of_a_client_is_as_long_as_is_set() {
        let bind = Bind {
            v4: 24,
            v6: 56,
            reject: false,
        };
        for (address, network) in [
            ("192.0.2.77", "192.0.2.0/24"),
            ("::ffff:192.0.2.77", "192.0.2.0/24"),
            ("2001:db8:1:2ff::1", "2001:db8:1:200::/56"),
        ] {
            assert_eq!(bind.network(address.parse().unwrap()).to_string(), network);
        }
    }

    #[test]
    fn b1_each_network_has_a_key_of_its_own() {
        let bind = Bind {
            v4: 24,
            v6: 56,
            reject: false,
        };
        let (one, two) = (Key::from_digest([1; 16]), Key::from_digest([2; 16]));
        let at = |address: &str| address.parse().unwrap();
        assert_eq!(bind.key(&one, at("192.0.2.1")), bind.key(&one, at("192.0.2.2")));
        assert_ne!(bind.key(&one, at("192.0.2.1")), bind.key(&one, at("192.0.3.1")));
        assert_ne!(bind.key(&one, at("192.0.2.1")), bind.key(&two, at("192.0.2.1")));
        assert_ne!(bind.key(&one, at("192.0.2.1")), one);
    }
}
