//! That a record was removed: remembered for a while, for whoever may have written it without knowing.
//!
//! A replica that lost the answer to a write, and then the store, tries the write again once the store is back. If it
//! finds no record then, its write was lost on the way, or it took effect and the session was ended since; to store it
//! in the second case would undo a log-out (rule C3). So whoever removes a young record says so beside it first.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::record::Snapshot;
use super::store::{Flaw, Key, Payload, StoreError, Unreadable, Version};

/// For how long a removal is remembered, and the oldest change of a record whose removal needs to be: longer than any
/// change waits for the store.
pub const REMEMBERED: Duration = Duration::from_secs(40 * 60);

/// What tells a removal from a record, whose format it could be no version of.
const FORMAT: u8 = b'R';

/// A write that may have taken effect: its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The beginning of the record that was written.
    pub born: Version,
    /// The version that was written.
    pub version: Version,
    /// When its response came.
    pub at: Timestamp,
}

/// The last removal of a record of one installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    born: Version,
    version: Version,
    at: Timestamp,
}

impl Removal {
    /// `removed` is removed at `at`; `None` where that need not be remembered: nobody can still wait to write it.
    #[must_use]
    pub fn of(removed: &Snapshot, at: Timestamp) -> Option<Self> {
        (at.since(removed.record.changed_at()) < REMEMBERED).then(|| Self {
            born: removed.record.born(),
            version: removed.version,
            at,
        })
    }

    /// The version under which it is stored: that of the record.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Where the removal of the record of `key` is kept: a key that no installation has.
    #[must_use]
    pub fn key(key: &Key) -> Key {
        Key::from_digest(key.as_bytes().map(|byte| byte ^ 0xa5))
    }

    /// Whether what was removed may have been, or come of, what `attempt` wrote. A later removal hides an earlier one:
    /// then the times tell.
    #[must_use]
    pub fn may_be_of(&self, attempt: &Attempt) -> bool {
        if self.born != attempt.born {
            return self.at >= attempt.at;
        }
        self.version == attempt.version || self.version.seq > attempt.version.seq
    }

    /// Whether it was removed after `at`.
    #[must_use]
    pub fn is_after(&self, at: Timestamp) -> bool {
        self.at > at
    }

    /// The stored form.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the encoder refuses, which nothing makes it do.
    pub fn encode(&self) -> Result<Payload, StoreError> {
        postcard::to_extend(self, vec![FORMAT])
            .map(|bytes| Payload(Bytes::from(bytes)))
            .map_err(|error| StoreError::Corrupt(format!("removal: {error}")))
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// What [`Removal::encode`] did not write cannot be read.
    pub fn decode(payload: &Payload) -> Result<Self, Unreadable> {
        match payload.0.split_first() {
            Some((&FORMAT, encoded)) => postcard::from_bytes(encoded)
                .map_err(|error| Unreadable::new(Flaw::Garbled, format!("removal: {error}"))),
            _ => Err(Unreadable::new(Flaw::UnknownFormat, "it is no removal")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn version(seq: u64, nonce: u32) -> Version {
        Version { seq, nonce }
    }

    #[test]
    fn c3_a_removal_tells_whether_it_may_have_ended_what_was_written() {
        let born = version(1, 7);
        let attempt = Attempt {
            born,
            version: version(5, 8),
            at: Timestamp::from_millis(100),
        };
        for (removed_born, removed, at, may_be) in [
            (born, version(5, 8), 50, true),
            (born, version(6, 9), 50, true),
            // Somebody else's write has that number: ours did not take effect.
            (born, version(5, 9), 200, false),
            (born, version(4, 9), 200, false),
            // Another record: it may hide the removal of ours only where it came after.
            (version(1, 3), version(9, 9), 50, false),
            (version(1, 3), version(1, 3), 100, true),
        ] {
            let removal = Removal {
                born: removed_born,
                version: removed,
                at: Timestamp::from_millis(at),
            };
            assert_eq!(removal.may_be_of(&attempt), may_be, "{removal:?}");
            assert_eq!(Removal::decode(&removal.encode().unwrap()), Ok(removal));
        }
    }

    #[test]
    fn a_removal_is_kept_where_no_installation_is_and_reads_as_no_record() {
        let key = Key::from_digest([7; 16]);
        assert_ne!(Removal::key(&key), key);
        assert_eq!(Removal::key(&Removal::key(&key)), key);
        let removal = Removal {
            born: version(1, 1),
            version: version(2, 2),
            at: Timestamp::from_millis(1),
        };
        let payload = removal.encode().unwrap();
        assert!(crate::session::record::Record::decode(&payload).is_err());
        assert!(Removal::decode(&Payload(Bytes::from_static(&[1, 2]))).is_err());
    }
}
