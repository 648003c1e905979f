//! `store.encryption_key_files`: how records are written and read, and the keys for it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::document::Node;
use super::reader::Fault;
use super::secret::{KEY_LEN, SecretKey, Wiped};

/// What stands in the list for records that are not sealed. A file of that name is written `./clear`.
const CLEAR: &str = "clear";

/// A random key has 30 different bytes or so; with fewer than this, it is none.
const FEWEST_DIFFERENT: usize = 12;

/// No file of a key is longer.
const LONGEST: u64 = 4096;

/// One entry of the list.
#[derive(Clone, Debug)]
pub enum Sealing {
    /// Records are in clear.
    Clear,
    /// Records are sealed with this key.
    Key(KeyFile),
}

/// A key, and the file that it came from.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// The file.
    pub path: PathBuf,
    /// The key in it.
    pub key: SecretKey,
    /// Whether every user of the machine may read the file. A group may: that is how systemd and Kubernetes hand
    /// secrets over.
    pub readable_by_all: bool,
}

impl fmt::Display for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear => f.write_str("\"clear\""),
            Self::Key(file) => write!(f, "{}", file.path.display()),
        }
    }
}

/// An entry: the name of a file with a key in it, or `clear`. A message names the file only once it has been found, for
/// what is no file may be the key itself.
pub(super) fn sealing(node: &Node) -> Result<Sealing, Fault> {
    let text = node.text()?;
    if text == CLEAR {
        return Ok(Sealing::Clear);
    }
    let path = Path::new(text);
    let (content, readable_by_all) =
        read(path).map_err(|error| node.fault(format!("cannot read the file: {error}")))?;
    let key = key_in(&content.0).map_err(|problem| {
        node.fault(format!(
            "{}: {problem}; `openssl rand -base64 32` makes a key",
            path.display()
        ))
    })?;
    Ok(Sealing::Key(KeyFile {
        path: path.to_owned(),
        key,
        readable_by_all,
    }))
}

/// The first two entries that are the same, if any are.
pub(super) fn same_twice(entries: &[Sealing]) -> Option<(&Sealing, &Sealing)> {
    let same = |one: &Sealing, other: &Sealing| match (one, other) {
        (Sealing::Clear, Sealing::Clear) => true,
        (Sealing::Key(one), Sealing::Key(other)) => one.key.expose() == other.key.expose(),
        _ => false,
    };
    entries.iter().enumerate().find_map(|(at, later)| {
        let earlier = entries.iter().take(at).find(|earlier| same(earlier, later))?;
        Some((earlier, later))
    })
}

fn read(path: &Path) -> io::Result<(Wiped<Vec<u8>>, bool)> {
    let file = File::open(path)?;
    let readable_by_all = {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            file.metadata()?.permissions().mode() & 0o004 != 0
        }
        #[cfg(not(unix))]
        {
            false
        }
    };
    let mut content = Wiped(Vec::with_capacity(256));
    file.take(LONGEST).read_to_end(&mut content.0)?;
    Ok((content, readable_by_all))
}

/// The key that a file holds: 32 bytes as they are, or as one line of hexadecimal or base64 text.
fn key_in(content: &[u8]) -> Result<SecretKey, String> {
    let is_text = content
        .iter()
        .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    let decoded = if is_text {
        let line = content.trim_ascii_end();
        from_hex(line).or_else(|| from_base64(line)).ok_or(
            "holds neither 64 hexadecimal digits nor 32 bytes in base64, on one line, nor 32 bytes as they are",
        )?
    } else {
        Wiped(content.to_vec())
    };
    let key = <[u8; KEY_LEN]>::try_from(decoded.0.as_slice())
        .map_err(|_| format!("holds a key of {} bytes, and {KEY_LEN} are needed", decoded.0.len()))?;
    if (0..=u8::MAX).filter(|byte| key.contains(byte)).count() < FEWEST_DIFFERENT {
        return Err("holds a key that is not random".to_owned());
    }
    Ok(SecretKey::new(key))
}

fn from_hex(text: &[u8]) -> Option<Wiped<Vec<u8>>> {
    if text.is_empty() || !text.len().is_multiple_of(2) {
        return None;
    }
    let mut bytes = Wiped(Vec::with_capacity(text.len() / 2));
    for pair in text.chunks(2) {
        let byte = pair
            .iter()
            .try_fold(0, |byte, digit| Some(byte << 4 | char::from(*digit).to_digit(16)?));
        bytes.0.push(u8::try_from(byte?).ok()?);
    }
    Some(bytes)
}

/// Base64 (RFC 4648 §4), with its padding or without.
fn from_base64(text: &[u8]) -> Option<Wiped<Vec<u8>>> {
    let text = match text {
        [digits @ .., b'=', b'='] | [digits @ .., b'='] if text.len().is_multiple_of(4) => digits,
        digits => digits,
    };
    if text.is_empty() || text.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Wiped(Vec::with_capacity(text.len()));
    for group in text.chunks(4) {
        let number = group.iter().try_fold(0_u32, |number, digit| {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            Some(number << 6 | u32::from(value))
        })?;
        let [_, decoded @ ..] = (number << (6 * (4 - group.len()))).to_be_bytes();
        bytes.0.extend(decoded.iter().take(group.len() - 1));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(content: impl AsRef<[u8]>) -> Result<[u8; KEY_LEN], String> {
        key_in(content.as_ref()).map(|key| *key.expose())
    }

    /// 32 different bytes.
    fn counted() -> [u8; KEY_LEN] {
        std::array::from_fn(|at| u8::try_from(at * 8 + 3).unwrap())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_key_is_read_from_raw_bytes_hexadecimal_or_base64() {
        let digits = hex(&counted());
        // As `base64` of coreutils writes it.
        let base64 = "AwsTGyMrMztDS1NbY2tze4OLk5ujq7O7w8vT2+Pr8/s=";
        assert_eq!(key(counted()), Ok(counted()));
        for text in [
            digits.as_str(),
            &digits.to_uppercase(),
            base64,
            base64.trim_end_matches('='),
        ] {
            for end in ["", "\n", "\r\n"] {
                assert_eq!(key(format!("{text}{end}")), Ok(counted()), "{text:?}");
            }
        }
    }

    #[test]
    fn what_is_too_short_too_long_or_not_random_is_refused_without_being_shown() {
        let digits = hex(&counted());
        for (content, why) in [
            (Vec::new(), "holds neither"),
            (b"correct horse battery staple".to_vec(), "holds neither"),
            (format!("{digits}\n{digits}").into_bytes(), "holds neither"),
            // 32 characters of text are a word, and not the bytes of a key.
            (b"correct-horse-battery-staple-123".to_vec(), "holds neither"),
            (digits.as_bytes()[..32].to_vec(), "a key of 16 bytes"),
            (b"c2hvcnQ=".to_vec(), "a key of 5 bytes"),
            (counted()[..31].to_vec(), "a key of 31 bytes"),
            ([counted().as_slice(), b"\n"].concat(), "a key of 33 bytes"),
            (vec![0; 32], "not random"),
            (b"0".repeat(64), "not random"),
            (b"deadbeef".repeat(8), "not random"),
        ] {
            let error = key(&content).unwrap_err();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("horse") && !error.contains(&digits[..8]), "{error}");
        }
    }
}
