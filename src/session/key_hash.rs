//! How [`Key`](super::store::Key)s are hashed for maps in memory.

use std::hash::{BuildHasher, Hasher};

/// Makes hashers for keys. Each map has a secret of its own.
///
/// A key is a digest already: its bits are evenly spread, and there is nothing left to mix. What a digest does not keep
/// out is somebody who tries Install IDs until thousands of their digests would meet in one place of a map. The secret
/// does: one multiplication with it, of which no place can be told by who does not know it.
#[derive(Clone, Copy, Debug)]
pub struct KeyHash {
    secret: [u64; 2],
}

impl Default for KeyHash {
    fn default() -> Self {
        Self {
            secret: [fastrand::u64(..), fastrand::u64(..)],
        }
    }
}

impl BuildHasher for KeyHash {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher {
            secret: self.secret,
            hash: 0,
        }
    }
}

/// See [`KeyHash`].
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher {
    secret: [u64; 2],
    hash: u64,
}

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        let [first, second] = self.secret;
        for half in bytes.chunks(16) {
            let (low, high) = half.split_at(half.len().min(8));
            let product = u128::from(number(low) ^ first) * u128::from(number(high) ^ second ^ self.hash);
            let [lower, upper] = [product as u64, (product >> 64) as u64];
            self.hash = lower ^ upper;
        }
    }

    // The length of what is always 16 bytes long says nothing.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.hash
    }
}

/// Up to 8 bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    match <[u8; 8]>::try_from(bytes) {
        Ok(bytes) => u64::from_le_bytes(bytes),
        Err(_) => bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::session::store::Key;

    fn keys() -> impl Iterator<Item = Key> {
        (0..10_000_u32).map(|number| {
            let digest = Sha256::digest(number.to_be_bytes());
            Key::from_digest(digest[..16].try_into().unwrap())
        })
    }

    #[test]
    fn digests_are_spread_over_all_places() {
        let hash = KeyHash::default();
        let places: HashSet<_> = keys().map(|key| hash.hash_one(key) % (1 << 16)).collect();
        // By chance alone some 700 of them would meet.
        assert!(places.len() > 8500, "{}", places.len());
        let tops: HashSet<_> = keys().map(|key| hash.hash_one(key) >> 57).collect();
        assert_eq!(tops.len(), 128);
    }

    #[test]
    fn who_does_not_know_the_secret_cannot_tell_who_meets() {
        let (one, other) = (KeyHash::default(), KeyHash::default());
        let meet: Vec<_> = keys().filter(|key| one.hash_one(key) % 64 == 0).collect();
        let places: HashSet<_> = meet.iter().map(|key| other.hash_one(key) % 64).collect();
        assert!(places.len() > 32, "{}", places.len());
    }

    #[test]
    fn each_half_of_a_key_counts() {
        let hash = KeyHash::default();
        let of = |number: u128| hash.hash_one(Key::from_digest(number.to_be_bytes()));
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        assert_ne!(of(7), of(7 | 1 << 100));
    }
}
