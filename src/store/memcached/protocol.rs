//! What Memcached answers to meta commands, read byte by byte as it comes.
//!
//! See `doc/protocol.txt` of Memcached, "Meta Commands".

use bytes::{Buf, Bytes, BytesMut};

/// The longest line of an answer. Keys are not asked for, so that lines are short.
const LINE: usize = 4096;

/// The largest value: what `-I` allows at most.
const VALUE: usize = 1 << 30;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// `VA`, or the `HD` of a read.
    Hit {
        /// The CAS number, where it was asked for.
        cas: Option<u64>,
        /// How many seconds the item has left, -1 for no expiry, where that was asked for.
        left: Option<i64>,
        /// The value, where it was asked for.
        value: Option<Bytes>,
    },
    /// `EN`: there is no such item.
    Miss,
    /// `HD` without flags: done.
    Done,
    /// `NS`: it is there already.
    NotStored,
    /// `EX`: it has another CAS number.
    Exists,
    /// `NF`: it is not there.
    NotFound,
    /// `MN`.
    Noop,
    /// `SERVER_ERROR` and the like, in Memcached's own words.
    Refused(String),
}

impl Reply {
    /// Whether what comes after it may be understood: not after an error that says that Memcached did not understand us.
    pub(super) fn is_last(&self) -> bool {
        matches!(self, Self::Refused(why) if !why.starts_with("SERVER_ERROR"))
    }
}

/// What cannot be an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbled;

/// Takes the first answer from `bytes`; `None` while it is not complete.
pub(super) fn take(bytes: &mut BytesMut) -> Result<Option<Reply>, Garbled> {
    let Some(end) = bytes.iter().take(LINE).position(|byte| *byte == b'\n') else {
        return if bytes.len() < LINE { Ok(None) } else { Err(Garbled) };
    };
    let line = bytes
        .get(..end)
        .and_then(|line| line.strip_suffix(b"\r"))
        .ok_or(Garbled)?;
    let line = std::str::from_utf8(line).map_err(|_| Garbled)?;
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let reply = match words.next().ok_or(Garbled)? {
        "VA" => {
            let size: usize = words.next().and_then(|size| size.parse().ok()).ok_or(Garbled)?;
            if size > VALUE {
                return Err(Garbled);
            }
            let (cas, left) = flags(words)?;
            let whole = end + 1 + size + 2;
            if bytes.len() < whole {
                bytes.reserve(whole - bytes.len());
                return Ok(None);
            }
            bytes.advance(end + 1);
            let value = bytes.split_to(size).freeze();
            if bytes.split_to(2) != b"\r\n"[..] {
                return Err(Garbled);
            }
            let value = Some(value);
            return Ok(Some(Reply::Hit { cas, left, value }));
        }
        "HD" => match flags(words)? {
            (None, None) => Reply::Done,
            (cas, left) => Reply::Hit { cas, left, value: None },
        },
        "EN" => Reply::Miss,
        "NS" => Reply::NotStored,
        "EX" => Reply::Exists,
        "NF" => Reply::NotFound,
        "MN" => Reply::Noop,
        "ERROR" | "CLIENT_ERROR" | "SERVER_ERROR" => Reply::Refused(line.to_owned()),
        _ => return Err(Garbled),
    };
    bytes.advance(end + 1);
    Ok(Some(reply))
}

fn flags<'a>(words: impl Iterator<Item = &'a str>) -> Result<(Option<u64>, Option<i64>), Garbled> {
    let (mut cas, mut left) = (None, None);
    for word in words {
        if let Some(number) = word.strip_prefix('c') {
            cas = Some(number.parse().map_err(|_| Garbled)?);
        } else if let Some(number) = word.strip_prefix('t') {
            left = Some(number.parse().map_err(|_| Garbled)?);
        }
    }
    Ok((cas, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Reply>, Garbled> {
        let mut bytes = BytesMut::from(bytes);
        let mut replies = Vec::new();
        while let Some(reply) = take(&mut bytes)? {
            replies.push(reply);
        }
        assert!(bytes.is_empty(), "{bytes:?} is left");
        Ok(replies)
    }

    const MANY: &[u8] = b"VA 5 c7\r\na\r\nbc\r\nEN\r\nHD t-1\r\nHD\r\nNS\r\nEX\r\nNF\r\nMN\r\n\
        SERVER_ERROR out of memory storing object\r\nVA 0 c18446744073709551615 t9\r\n\r\n";

    fn replies() -> Vec<Reply> {
        let hit = |cas, left, value: Option<&'static [u8]>| Reply::Hit {
            cas,
            left,
            value: value.map(Bytes::from_static),
        };
        vec![
            hit(Some(7), None, Some(b"a\r\nbc")),
            Reply::Miss,
            hit(None, Some(-1), None),
            Reply::Done,
            Reply::NotStored,
            Reply::Exists,
            Reply::NotFound,
            Reply::Noop,
            Reply::Refused("SERVER_ERROR out of memory storing object".into()),
            hit(Some(u64::MAX), Some(9), Some(b"")),
        ]
    }

    #[test]
    fn answers_are_read_one_after_the_other() {
        assert_eq!(all(MANY), Ok(replies()));
    }

    #[test]
    fn answers_are_read_however_they_are_cut_up() {
        let (mut bytes, mut found) = (BytesMut::new(), Vec::new());
        for byte in MANY {
            bytes.extend([*byte]);
            found.extend(take(&mut bytes).unwrap());
        }
        assert_eq!(found, replies());
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_no_panic() {
        for bytes in [
            &b"VA x\r\n"[..],
            b"VA 99999999999999999999 c1\r\n",
            b"VA 2000000000 c1\r\n",
            b"VA 1 c1\r\nabc",
            b"HD cx\r\n",
            b"HD\n",
            b"\r\n",
            b"STORED\r\n",
            b"VA 1 c\xff\r\n",
            &[b'x'; LINE],
        ] {
            assert_eq!(all(bytes), Err(Garbled), "{bytes:?}");
        }
    }

    #[test]
    fn after_an_error_that_is_not_the_servers_nothing_can_be_understood() {
        let refused = |text: &str| Reply::Refused(text.to_owned());
        assert!(refused("ERROR").is_last() && refused("CLIENT_ERROR bad data chunk").is_last());
        assert!(!refused("SERVER_ERROR out of memory storing object").is_last());
        assert!(!Reply::Done.is_last());
    }
}
