//! What a record remembers of the client that started it, and of what was done since (rules B1 and B2).
//!
//! A section of the record (`record/form.rs`): a replica that does not know it keeps it as it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::record::Rank;

/// The past of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// The network of the client that started it, where sessions are bound to that.
    pub network: Option<IpNet>,
    /// It has seen nothing but safe methods, none of which logged in or out: nothing is at stake.
    pub calm: bool,
}

/// Who makes a request, as far as records remember that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// The address of the client.
    pub address: IpAddr,
    /// The network that what it starts is bound to.
    pub network: Option<IpNet>,
    /// Whether it is to be remembered that nothing is at stake.
    pub watched: bool,
}

impl Past {
    /// What a record remembers that is begun by a response of rank `rank` to a request of `by`.
    #[must_use]
    pub fn begun(by: &By, rank: Rank) -> Self {
        Self {
            network: by.network,
            calm: by.watched && rank == Rank::Safe,
        }
    }

    /// The same after a response of rank `rank` to a request of `by`. One that was bound to no network is from then on.
    #[must_use]
    pub fn after(self, by: &By, rank: Rank) -> Self {
        Self {
            network: self.network.or(by.network),
            calm: self.calm && rank == Rank::Safe,
        }
    }

    /// Whether a client at `address` may have the session.
    #[must_use]
    pub fn admits(&self, address: IpAddr) -> bool {
        self.network
            .is_none_or(|network| network.contains(&address.to_canonical()))
    }

    /// The stored form: a flag, and the length of the prefix and the address, if there is a network.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.calm)];
        if let Some(network) = &self.network {
            bytes.push(network.prefix_len());
            match network.addr() {
                IpAddr::V4(address) => bytes.extend(address.octets()),
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
        bytes
    }

    /// Reads the stored form; `None` for what is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (flags, rest) = bytes.split_first()?;
        let network = match rest.split_first() {
            None => None,
            Some((prefix, octets)) => {
                let v4 = <[u8; 4]>::try_from(octets).map(|octets| Ipv4Addr::from(octets).into());
                let address: IpAddr = v4
                    .or_else(|_| <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).into()))
                    .ok()?;
                Some(IpNet::new(address, *prefix).ok()?)
            }
        };
        (*flags <= 1).then_some(Self {
            network,
            calm: *flags == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_read_as_it_was_written_and_nothing_else_is_one() {
        for network in [None, Some("192.0.2.0/24"), Some("2001:db8::/56"), Some("192.0.2.1/32")] {
            for calm in [false, true] {
                let past = Past {
                    network: network.map(|network| network.parse().unwrap()),
                    calm,
                };
                assert_eq!(Past::decode(&past.encode()), Some(past));
            }
        }
        for bytes in [&[][..], &[2], &[1, 33, 1, 2, 3, 4], &[0, 8, 1], &[0, 129, 0, 0, 0, 0]] {
            assert_eq!(Past::decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn b1_only_the_network_is_admitted_that_the_session_is_bound_to() {
        let past = Past {
            network: Some("192.0.2.0/24".parse().unwrap()),
            calm: false,
        };
        for (address, admitted) in [
            ("192.0.2.1", true),
            ("::ffff:192.0.2.200", true),
            ("192.0.3.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(past.admits(address.parse().unwrap()), admitted, "{address}");
        }
        assert!(Past::default().admits("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn b2_calm_is_over_for_good_with_the_first_request_that_is_not_safe() {
        let by = By {
            address: "192.0.2.1".parse().unwrap(),
            network: None,
            watched: true,
        };
        let calm = Past::begun(&by, Rank::Safe);
        assert!(calm.calm && calm.after(&by, Rank::Safe).calm);
        for rank in [Rank::Unsafe, Rank::Auth] {
            assert!(!Past::begun(&by, rank).calm && !calm.after(&by, rank).calm);
            assert!(!calm.after(&by, rank).after(&by, Rank::Safe).calm);
        }
        assert!(
            !Past::begun(&By { watched: false, ..by }, Rank::Safe).calm,
            "what was not watched is not known"
        );
    }
}
