//! Where an answer of Redis ends in what was read, and what it says.
//!
//! A record comes as a bulk string: that is read here, in one look and one copy. Of all else only the end is found here; what
//! it says is read by the library.

use redis::{ErrorKind, RedisError, Value};

/// The longest line: the head of a value, or a short text.
const MAX_LINE: usize = 64 * 1024;

/// The longest string that Redis holds.
const MAX_STRING: usize = 512 * 1024 * 1024;

/// The most values that make up an answer: more than a cluster tells of all its slots.
const MAX_VALUES: usize = 1024 * 1024;

/// How deep values may lie in one another.
const MAX_DEPTH: usize = 32;

/// What cannot be an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbled(&'static str);

impl From<Garbled> for RedisError {
    fn from(Garbled(why): Garbled) -> Self {
        (ErrorKind::Parse, why).into()
    }
}

/// The value at the beginning of `read`, and how long it was; `None` when it has not arrived whole.
///
/// # Errors
/// When it is none. Nothing that follows can be read then.
pub(super) fn value(read: &[u8]) -> Result<Option<(Value, usize)>, RedisError> {
    if let Some(b'$') = read.first() {
        let Some((text, head)) = line(read)? else {
            return Ok(None);
        };
        let Some(length) = length(text)? else {
            return Ok(Some((Value::Nil, head)));
        };
        let (start, end) = (head, head + length);
        return match (read.get(start..end), read.get(end..end + 2)) {
            (Some(string), Some(b"\r\n")) => Ok(Some((Value::BulkString(string.to_vec()), end + 2))),
            (Some(_), Some(_)) => Err(Garbled("a string is longer than it said").into()),
            _ => Ok(None),
        };
    }
    let mut left = MAX_VALUES;
    match end(read, 0, &mut left)? {
        Some(end) => {
            let whole = read.get(..end).unwrap_or(read);
            redis::parse_redis_value(whole).map(|value| Some((value, end)))
        }
        None if read.len() > MAX_STRING + MAX_LINE => Err(Garbled("an answer without an end").into()),
        None => Ok(None),
    }
}

/// Where the value at the beginning of `read` ends; `None` when it has not arrived whole. `left`: how many more there may be.
fn end(read: &[u8], depth: usize, left: &mut usize) -> Result<Option<usize>, Garbled> {
    // All of them are looked at anew each time that more has arrived.
    *left = left.checked_sub(1).ok_or(Garbled("an answer of too many values"))?;
    let Some((text, head)) = line(read)? else {
        return Ok(None);
    };
    let members = match read.first() {
        Some(b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(') => return Ok(Some(head)),
        Some(b'$' | b'=' | b'!') => {
            let end = length(text)?.map_or(head, |length| head + length + 2);
            return Ok((end <= read.len()).then_some(end));
        }
        Some(b'*' | b'~' | b'>') => length(text)?.unwrap_or(0),
        Some(b'%') => length(text)?.unwrap_or(0) * 2,
        // What they belong to follows.
        Some(b'|') => length(text)?.unwrap_or(0) * 2 + 1,
        _ => return Err(Garbled("a value of an unknown type")),
    };
    if depth >= MAX_DEPTH {
        return Err(Garbled("values lie too deep in one another"));
    }
    let mut at = head;
    for _ in 0..members {
        match end(read.get(at..).unwrap_or_default(), depth + 1, left)? {
            Some(length) => at += length,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// What stands between the type of a value and the end of its line, and where the next line begins.
fn line(read: &[u8]) -> Result<Option<(&[u8], usize)>, Garbled> {
    match memchr::memchr(b'\n', read) {
        Some(at) => match read.get(1..at) {
            Some([text @ .., b'\r']) => Ok(Some((text, at + 1))),
            _ => Err(Garbled("a line without its end")),
        },
        None if read.len() > MAX_LINE => Err(Garbled("a line without an end")),
        None => Ok(None),
    }
}

/// A length; `None` for a negative one, which stands for nothing at all.
fn length(digits: &[u8]) -> Result<Option<usize>, Garbled> {
    if digits == b"-1" {
        return Ok(None);
    }
    if digits.is_empty() || digits.len() > 9 {
        return Err(Garbled("a length that makes no sense"));
    }
    let mut length = 0_usize;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(Garbled("a length that makes no sense"));
        }
        length = length * 10 + usize::from(digit - b'0');
    }
    if length > MAX_STRING {
        return Err(Garbled("a length that makes no sense"));
    }
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One of each.
    const VALUES: [&[u8]; 20] = [
        b"$5\r\nhello\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$4\r\n\r\n$1\r\n",
        b"+OK\r\n",
        b"+PONG\r\n",
        b"-NOSCRIPT No matching script.\r\n",
        b":-42\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b"(12345678901234567890\r\n",
        b"=7\r\ntxt:abc\r\n",
        b"!9\r\nERR wrong\r\n",
        b"*-1\r\n",
        b"*3\r\n$1\r\na\r\n_\r\n*1\r\n:7\r\n",
        b"~1\r\n+x\r\n",
        b"%1\r\n+key\r\n*0\r\n",
        b"|1\r\n+ttl\r\n:3\r\n$1\r\nx\r\n",
        b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n",
    ];

    #[test]
    fn every_value_says_what_it_says_to_the_library_and_ends_where_it_ends() {
        for one in VALUES {
            let expected = redis::parse_redis_value(one).unwrap();
            for behind in [&b""[..], b"$5", b"*1\r\n"] {
                let read = [one, behind].concat();
                let found = value(&read).unwrap();
                assert_eq!(found, Some((expected.clone(), one.len())), "{}", one.escape_ascii());
            }
        }
    }

    #[test]
    fn a_value_that_has_not_arrived_whole_is_waited_for() {
        for one in VALUES {
            for so_far in 0..one.len() {
                assert_eq!(
                    value(&one[..so_far]).unwrap(),
                    None,
                    "{so_far} of {}",
                    one.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn what_is_no_value_is_an_error_and_nothing_is_waited_for_without_end() {
        for bad in [
            &b"?\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\n",
            b"$5\r\nhelloXX",
            b"$x\r\n",
            b"$-2\r\n",
            b"$9999999999\r\n",
            b"$999999999\r\n",
            b"+no end\n",
            b"*1\r\n?\r\n",
            b":twelve\r\n",
        ] {
            let error = value(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Parse, "{}", bad.escape_ascii());
        }
        assert!(value(&b"*1\r\n".repeat(100)).is_err());
        let endless = [&b"*500000000\r\n"[..], &b":1\r\n".repeat(MAX_VALUES)].concat();
        assert_eq!(value(&endless[..MAX_VALUES]).unwrap(), None);
        assert!(value(&endless).is_err());
        let string = b"$500000000\r\n";
        let mut long = vec![0; MAX_STRING + MAX_LINE + 1];
        long[..16].copy_from_slice(&[b"*9\r\n", &string[..]].concat());
        long[500_000_018..500_000_030].copy_from_slice(string);
        assert_eq!(value(&long[..MAX_STRING + MAX_LINE]).unwrap(), None);
        assert!(value(&long).is_err());
        assert!(value(&[b'+'; MAX_LINE + 2]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_beyond_them(read: Vec<u8>, kind in 0..VALUES.len(), cut in 0_usize..40) {
            let _ = value(&read);
            let mut mixed = VALUES[kind].to_vec();
            mixed.truncate(cut);
            mixed.extend_from_slice(&read);
            if let Ok(Some((_, length))) = value(&mixed) {
                prop_assert!(length <= mixed.len());
            }
        }
    }
}
