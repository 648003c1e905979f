//! The sessions that were started last from one address (rule B2): a note beside the records, under a key that no
//! installation has.

use std::time::Duration;

use bytes::Bytes;

use super::clock::Timestamp;
use super::store::{Key, Payload};

/// What tells it from a record, whose format it could be no version of.
const FORMAT: u8 = b'N';

/// A key and a time.
const ENTRY: usize = 24;

/// The last sessions, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Newest(Vec<(Key, Timestamp)>);

impl Newest {
    /// Notes that the session of `key` was started at `at`; no more than `most` are remembered.
    pub fn add(&mut self, key: Key, at: Timestamp, most: usize) {
        self.0.retain(|(other, _)| *other != key);
        self.0.push((key, at));
        self.0.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
        self.0.truncate(most);
    }

    /// Those that were started within `window` before `now`, the newest first.
    pub fn within(&self, window: Duration, now: Timestamp) -> impl Iterator<Item = Key> {
        self.0
            .iter()
            .filter(move |(_, at)| now.since(*at) < window)
            .map(|(key, _)| *key)
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Payload {
        let mut bytes = vec![FORMAT];
        for (key, at) in &self.0 {
            bytes.extend_from_slice(key.as_bytes());
            bytes.extend_from_slice(&at.as_millis().to_be_bytes());
        }
        Payload(Bytes::from(bytes))
    }

    /// Reads the stored form; what is none names nobody.
    #[must_use]
    pub fn decode(payload: &Payload) -> Self {
        let Some(entries) = payload.0.strip_prefix(&[FORMAT]) else {
            return Self::default();
        };
        let (entries, _) = entries.as_chunks::<ENTRY>();
        let read = |entry: &[u8; ENTRY]| {
            let (digest, at) = entry.split_first_chunk::<16>()?;
            let at = <[u8; 8]>::try_from(at).ok()?;
            Some((
                Key::from_digest(*digest),
                Timestamp::from_millis(u64::from_be_bytes(at)),
            ))
        };
        Self(entries.iter().filter_map(read).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn key(n: u8) -> Key {
        Key::from_digest([n; 16])
    }

    #[test]
    fn b2_the_newest_come_first_and_no_more_than_so_many_are_remembered() {
        let mut newest = Newest::default();
        for (n, at) in [(1, 100), (2, 300), (3, 200), (1, 400), (4, 50)] {
            newest.add(key(n), Timestamp::from_millis(at), 3);
        }
        let newest = Newest::decode(&newest.encode());
        let within = |ms, now| -> Vec<Key> {
            newest
                .within(Duration::from_millis(ms), Timestamp::from_millis(now))
                .collect()
        };
        assert_eq!(within(1000, 500), [key(1), key(2), key(3)]);
        assert_eq!(within(201, 500), [key(1), key(2)]);
        assert_eq!(within(100, 500), []);
    }

    #[test]
    fn what_is_no_such_note_names_nobody_and_reads_as_no_record() {
        for bytes in [&b""[..], b"N", b"N123", b"X"] {
            assert_eq!(Newest::decode(&Payload(Bytes::from_static(bytes))), Newest::default());
        }
        assert!(crate::session::record::Record::decode(&Newest::default().encode()).is_err());
    }
}
