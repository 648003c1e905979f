//! What lies in Redis: the names of the keys and the bytes of a record.
//!
//! ```text
//! {prefix}{<digest>}         a record: format 1 (1 byte), seq (8), nonce (4), expires_at in ms (8), then the payload;
//!                            numbers are big-endian
//! {prefix}{<digest>}:lease   the token of the holder (16 bytes)
//! {prefix}{<digest>}:barren  how many leaders ended without starting a session, in decimal
//! {prefix}{<digest>}:tally   how many sessions were started when, under a digest that no installation has: text
//! {prefix}{<digest>}:mark    written, in a cluster, where a change waits for replicas
//! {prefix}ping               written by the health check, in a cluster as ping:<number>
//! ```
//!
//! The digest stands in braces, which makes it the hash tag of a cluster: the three keys of an installation share one
//! slot. Every key has a time to live, always.

use bytes::{Buf as _, Bytes};

use crate::session::clock::Timestamp;
use crate::session::store::{Flaw, Key, LeaseToken, NewRecord, Payload, Stored, Unreadable, Version};

/// The first byte of a record. Scripts compare it along with the version.
const FORMAT: u8 = 1;

/// Format and version: what a change compares.
pub(super) const VERSION_LEN: usize = 13;

/// How long the digest is, in its braces.
const DIGEST_LEN: usize = 34;

/// All that comes before the payload.
pub(super) const HEAD_LEN: usize = 21;

/// The key of a record.
pub(super) fn record_key(prefix: &str, key: &Key) -> Vec<u8> {
    let mut name = Vec::with_capacity(prefix.len() + DIGEST_LEN + ":barren".len());
    write_record_key(&mut name, prefix, key);
    name
}

fn write_record_key(to: &mut Vec<u8>, prefix: &str, key: &Key) {
    to.extend_from_slice(prefix.as_bytes());
    to.push(b'{');
    to.extend_from_slice(&key.text());
    to.push(b'}');
}

/// The command that reads a record, as it is written: the most frequent one by far, spelled at once.
pub(super) fn packed_get(prefix: &str, key: &Key) -> Vec<u8> {
    const HEAD: &[u8] = b"*2\r\n$3\r\nGET\r\n$";
    let length = prefix.len() + DIGEST_LEN;
    let mut command = Vec::with_capacity(HEAD.len() + length + 24);
    command.extend_from_slice(HEAD);
    write_number(&mut command, length);
    command.extend_from_slice(b"\r\n");
    write_record_key(&mut command, prefix, key);
    command.extend_from_slice(b"\r\n");
    command
}

fn write_number(to: &mut Vec<u8>, number: usize) {
    if number >= 10 {
        write_number(to, number / 10);
    }
    to.push(b'0' + u8::try_from(number % 10).unwrap_or_default());
}

/// The installation whose record has this key; `None` for all other keys.
pub(super) fn key_of(prefix: &str, name: &[u8]) -> Option<Key> {
    let digits = name
        .strip_prefix(prefix.as_bytes())?
        .strip_prefix(b"{")?
        .strip_suffix(b"}")?;
    let digits = <&[u8; 32]>::try_from(digits).ok()?;
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut digest = [0; 16];
    for (to, pair) in digest.iter_mut().zip(digits.as_chunks::<2>().0) {
        let [high, low] = *pair;
        *to = digit(high)? << 4 | digit(low)?;
    }
    Some(Key::from_digest(digest))
}

/// The three keys of an installation: record, lease, count of barren leaders.
pub(super) fn keys(prefix: &str, key: &Key) -> [Vec<u8>; 3] {
    let record = record_key(prefix, key);
    let with = |suffix: &[u8]| [record.as_slice(), suffix].concat();
    let (lease, barren) = (with(b":lease"), with(b":barren"));
    [record, lease, barren]
}

/// The key of a tally.
pub(super) fn tally_key(prefix: &str, key: &Key) -> Vec<u8> {
    [record_key(prefix, key).as_slice(), b":tally"].concat()
}

/// What the value of a record with this version starts with.
pub(super) fn version_bytes(version: Version) -> [u8; VERSION_LEN] {
    let mut bytes = [FORMAT; VERSION_LEN];
    for (to, from) in bytes
        .iter_mut()
        .skip(1)
        .zip(version.seq.to_be_bytes().into_iter().chain(version.nonce.to_be_bytes()))
    {
        *to = from;
    }
    bytes
}

/// The value of a record.
pub(super) fn record_bytes(new: &NewRecord, expires_at: Timestamp) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_LEN + new.payload.0.len());
    value.extend_from_slice(&version_bytes(new.version));
    value.extend_from_slice(&expires_at.as_millis().to_be_bytes());
    value.extend_from_slice(&new.payload.0);
    value
}

/// The record in a value; the payload is not copied.
pub(super) fn parse_record(value: Vec<u8>) -> Result<Stored, Unreadable> {
    let mut value = Bytes::from(value);
    let Some(([format, numbers @ ..], _)) = value.split_first_chunk::<HEAD_LEN>() else {
        let detail = format!("a value of {} bytes, too short for a record", value.len());
        return Err(Unreadable::new(Flaw::Garbled, detail));
    };
    if *format != FORMAT {
        let detail = format!("a value of the layout {format}; this version knows {FORMAT}");
        return Err(Unreadable::new(Flaw::UnknownFormat, detail));
    }
    let number = |from: usize, len: usize| {
        numbers
            .iter()
            .skip(from)
            .take(len)
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let nonce = u32::try_from(number(8, 4)).unwrap_or_default();
    let version = Version {
        seq: number(0, 8),
        nonce,
    };
    let expires_at = Timestamp::from_millis(number(12, 8));
    value.advance(HEAD_LEN);
    Ok(Stored {
        version,
        expires_at,
        payload: Payload(value),
    })
}

/// The value of a lease.
pub(super) fn token_bytes(token: LeaseToken) -> [u8; 16] {
    token.0.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> NewRecord {
        NewRecord {
            version: Version {
                seq: 0x0102_0304_0506_0708,
                nonce: 0xfffe_fdfc,
            },
            ttl: std::time::Duration::from_secs(1),
            payload: Payload(Bytes::from_static(b"payload")),
        }
    }

    #[test]
    fn a_record_is_laid_out_as_documented_and_read_back() {
        let value = record_bytes(&new(), Timestamp::from_millis(0x1112_1314_1516_1718));
        let head = [
            1, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xfe, 0xfd, 0xfc, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
        ];
        assert_eq!(value, [head.as_slice(), b"payload"].concat());
        let stored = parse_record(value).unwrap();
        assert_eq!(stored.version, new().version);
        assert_eq!(stored.expires_at.as_millis(), 0x1112_1314_1516_1718);
        assert_eq!(stored.payload, new().payload);
    }

    #[test]
    fn the_command_that_reads_a_record_is_spelled_as_any_other() {
        let key = Key::from_digest([0xab; 16]);
        for prefix in [
            "",
            "p:",
            "a prefix of more than sixty-six characters, so that a hundred are the key:",
        ] {
            let mut get = redis::cmd("GET");
            get.arg(record_key(prefix, &key));
            assert_eq!(packed_get(prefix, &key), get.get_packed_command());
        }
    }

    #[test]
    fn a_short_value_and_an_unknown_format_are_unreadable() {
        let flaw = |value: &[u8]| parse_record(value.to_vec()).unwrap_err().flaw;
        let mut value = record_bytes(&new(), Timestamp::MAX);
        assert_eq!(flaw(&value[..20]), Flaw::Garbled);
        assert!(parse_record(value[..21].to_vec()).is_ok());
        value[0] = 2;
        assert_eq!(flaw(&value), Flaw::UnknownFormat);
    }

    #[test]
    fn the_keys_of_an_installation_share_a_hash_tag() {
        let key = Key::from_digest([0xab; 16]);
        let [record, lease, barren] = keys("p:", &key).map(|name| String::from_utf8(name).unwrap());
        assert_eq!(record, format!("p:{{{key}}}"));
        assert_eq!(lease, format!("{record}:lease"));
        assert_eq!(barren, format!("{record}:barren"));
    }

    #[test]
    fn the_installation_is_read_back_from_the_key_of_its_record_and_from_no_other() {
        let key = Key::from_digest([
            0x0f, 0x1e, 0x2d, 0x3c, 0x4b, 0x5a, 0x69, 0x78, 0x87, 0x96, 0xa5, 0xb4, 0xc3, 0xd2, 0xe1, 0xf0,
        ]);
        let [record, lease, barren] = keys("p:", &key);
        assert_eq!(key_of("p:", &record), Some(key));
        for other in [
            &lease,
            &barren,
            &record.to_ascii_uppercase(),
            &record[..35].to_vec(),
            &b"p:ping".to_vec(),
        ] {
            assert_eq!(key_of("p:", other), None);
        }
        assert_eq!(key_of("q:", &record), None);
    }
}
