//! Which server a key lies on: ketama, as Memcached's own clients spread keys (libmemcached's compatible mode, for one).
//!
//! Each server has 160 points on a ring of 2³² places: four in each MD5 digest of `host:port-0` to `host:port-39`. A key lies
//! on the server of the first point at or after its own place. So one server more or less moves the keys of its share only.

use md5::{Digest, Md5};

use super::Address;

const DIGESTS: usize = 40;

/// The ring.
pub(super) struct Ring {
    /// Places and the servers they belong to, in order.
    points: Vec<(u32, usize)>,
}

impl Ring {
    pub(super) fn new(servers: &[Address]) -> Self {
        let mut points = Vec::with_capacity(servers.len() * DIGESTS * 4);
        for (server, address) in servers.iter().enumerate() {
            for number in 0..DIGESTS {
                let digest = Md5::digest(format!("{address}-{number}"));
                let places = digest.as_chunks().0.iter();
                points.extend(places.map(|place| (u32::from_le_bytes(*place), server)));
            }
        }
        points.sort_unstable();
        Self { points }
    }

    /// The number of the server that a key lies on.
    pub(super) fn place(&self, key: &[u8]) -> usize {
        let digest = Md5::digest(key);
        let place = digest.first_chunk().copied().map_or(0, u32::from_le_bytes);
        let next = self.points.partition_point(|(point, _)| *point < place);
        let point = self.points.get(next).or(self.points.first());
        point.map_or(0, |(_, server)| *server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: usize) -> Vec<Address> {
        let address = |n| Address {
            host: format!("10.0.1.{n}"),
            port: 11211,
        };
        (1..=count).map(address).collect()
    }

    fn key(n: usize) -> Vec<u8> {
        format!("session-bridge:{n:032x}").into_bytes()
    }

    #[test]
    fn keys_are_spread_evenly() {
        let ring = Ring::new(&servers(4));
        assert_eq!(ring.points.len(), 4 * 160);
        let mut counts = [0; 4];
        (0..40_000).for_each(|n| counts[ring.place(&key(n))] += 1);
        assert!(counts.iter().all(|count| (7_000..13_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_server_more_takes_its_share_and_moves_nothing_else() {
        let (before, after) = (Ring::new(&servers(4)), Ring::new(&servers(5)));
        let moved: Vec<_> = (0..40_000)
            .filter(|n| before.place(&key(*n)) != after.place(&key(*n)))
            .collect();
        assert!((4_000..12_500).contains(&moved.len()), "{}", moved.len());
        assert!(moved.iter().all(|n| after.place(&key(*n)) == 4));
    }

    #[test]
    fn one_server_has_all_keys() {
        let ring = Ring::new(&servers(1));
        assert!((0..100).all(|n| ring.place(&key(n)) == 0));
    }

    #[test]
    fn places_are_those_of_other_clients() {
        // Worked out by another program from the same formula.
        let expected = [3, 3, 3, 2, 3, 2, 0, 3, 2, 3, 2, 0, 2, 3, 2, 0, 3, 0, 0, 3, 2, 3, 0, 3];
        let ring = Ring::new(&servers(4));
        let places: Vec<_> = (0..24).map(|n| ring.place(&key(n))).collect();
        assert_eq!(places, expected);
        assert_eq!(ring.points.first(), Some(&(4_398_564, 3)));
        assert_eq!(ring.points.last(), Some(&(4_290_013_132, 3)));
    }
}
