//! The Install ID: which installation of the app a request comes from.
//!
//! It is a bearer credential: whoever knows it has the session. So it has no `Display`, its `Debug` shows only the
//! digest under which the store knows it, and a refused one is never repeated.
//!
//! An operator finds the digest of an ID, in its normalised form, with
//!
//! ```text
//! printf %s 9e201bab-1ccf-47d1-82e0-90d71ee5fd2c | sha256sum | cut -c1-32
//! ```

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::store::Key;

/// What an Install ID looks like in this deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Any 128-bit UUID text: with hyphens, as 32 bare digits, in braces, or as `urn:uuid:…`; upper or lower case;
    /// of whatever version. Not the nil UUID.
    Uuid,
    /// 8 to 128 bytes out of `A–Z a–z 0–9 . _ ~ -`, told apart byte by byte.
    Token,
}

/// Shortest token, in bytes.
pub const TOKEN_MIN: usize = 8;
/// Longest token, in bytes.
pub const TOKEN_MAX: usize = 128;

/// A valid Install ID in its normalised form: two spellings of one UUID are equal.
#[derive(Clone, PartialEq, Eq)]
pub struct InstallId {
    text: Text,
    key: Key,
}

#[derive(Clone, PartialEq, Eq)]
enum Text {
    Uuid(Uuid),
    Token(Box<str>),
}

impl InstallId {
    /// Reads an Install ID as it was sent.
    ///
    /// # Errors
    /// [`Malformed`] when `raw` is not of that format. White space around the ID is not taken off.
    pub fn parse(format: Format, raw: &[u8]) -> Result<Self, Malformed> {
        if raw.is_empty() {
            return Err(Malformed::Empty);
        }
        match format {
            Format::Uuid => {
                let uuid = Uuid::try_parse_ascii(raw).map_err(|_| Malformed::NotUuid)?;
                if uuid.is_nil() {
                    return Err(Malformed::Nil);
                }
                // Of this length there is one form, with hyphens: as it is normalised, short of the case.
                let key = if raw.len() == Hyphenated::LENGTH && !has_upper_case(raw) {
                    key_of(raw)
                } else {
                    key_of(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes())
                };
                Ok(Self {
                    text: Text::Uuid(uuid),
                    key,
                })
            }
            Format::Token => {
                if !(TOKEN_MIN..=TOKEN_MAX).contains(&raw.len()) {
                    return Err(Malformed::Length);
                }
                if !raw
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(byte))
                {
                    return Err(Malformed::Character);
                }
                let token = std::str::from_utf8(raw).map_err(|_| Malformed::Character)?;
                Ok(Self {
                    key: key_of(raw),
                    text: Text::Token(token.into()),
                })
            }
        }
    }

    /// The name of this installation in the store: the first 16 bytes of the SHA-256 of the [normalised
    /// text](Self::expose). Safe to log.
    #[must_use]
    pub const fn key(&self) -> Key {
        self.key
    }

    /// The normalised ID itself, **a secret**: a UUID in lower case with hyphens, a token as it was sent. For what is
    /// computed from it; never to be logged, nor sent anywhere but to the backend.
    #[must_use]
    pub fn expose(&self) -> Cow<'_, str> {
        match &self.text {
            Text::Uuid(uuid) => Cow::Owned(uuid.hyphenated().to_string()),
            Text::Token(token) => Cow::Borrowed(token),
        }
    }
}

/// Looked for in all bytes at once: for every request, and nearly always in vain.
fn has_upper_case(text: &[u8]) -> bool {
    text.iter().fold(false, |any, byte| any | byte.is_ascii_uppercase())
}

fn key_of(text: &[u8]) -> Key {
    let digest = Sha256::digest(text);
    let mut first = [0; 16];
    for (to, from) in first.iter_mut().zip(digest) {
        *to = from;
    }
    Key::from_digest(first)
}

impl fmt::Debug for InstallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstallId(sha256:{})", self.key)
    }
}

/// Why a text is not an Install ID. Says nothing of the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It is empty.
    Empty,
    /// It is the nil UUID, which names no installation.
    Nil,
    /// It is not the text of a UUID.
    NotUuid,
    /// A token shorter than [`TOKEN_MIN`] or longer than [`TOKEN_MAX`].
    Length,
    /// A token with a byte that is not allowed.
    Character,
}

impl Malformed {
    /// What is wrong, in a few words that may be shown to the caller.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Empty => "it is empty",
            Self::Nil => "it is the nil UUID",
            Self::NotUuid => "it is not a UUID",
            Self::Length => "it must be 8 to 128 characters long",
            Self::Character => "only letters, digits and . _ ~ - are allowed",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Format, InstallId, Malformed};

    const ID: &str = "9e201bab-1ccf-47d1-82e0-90d71ee5fd2c";

    fn uuid(raw: &str) -> Result<InstallId, Malformed> {
        InstallId::parse(Format::Uuid, raw.as_bytes())
    }

    fn token(raw: &str) -> Result<InstallId, Malformed> {
        InstallId::parse(Format::Token, raw.as_bytes())
    }

    #[test]
    fn all_spellings_of_a_uuid_name_one_installation() {
        let plain = uuid(ID).unwrap();
        for spelling in [
            "9E201BAB-1CCF-47D1-82E0-90D71EE5FD2C",
            "9e201bab1ccf47d182e090d71ee5fd2c",
            "9E201BAB1ccf47d182e090d71ee5fd2c",
            "{9e201bab-1ccf-47d1-82e0-90d71ee5fd2c}",
            "urn:uuid:9e201bab-1ccf-47d1-82e0-90d71ee5fd2c",
        ] {
            assert_eq!(uuid(spelling).unwrap(), plain, "{spelling}");
            assert_eq!(uuid(spelling).unwrap().key(), plain.key(), "{spelling}");
        }
        assert_eq!(plain.expose(), ID);
    }

    #[test]
    fn a_uuid_of_no_valid_version_is_taken() {
        let id = uuid("00650000-0008-0000-ac5d-e021b623c9b7").unwrap();
        assert_eq!(id.expose(), "00650000-0008-0000-ac5d-e021b623c9b7");
    }

    #[test]
    fn the_nil_uuid_and_an_empty_value_are_refused() {
        assert_eq!(uuid("00000000-0000-0000-0000-000000000000"), Err(Malformed::Nil));
        assert_eq!(uuid("00000000000000000000000000000000"), Err(Malformed::Nil));
        assert_eq!(uuid(""), Err(Malformed::Empty));
        assert_eq!(token(""), Err(Malformed::Empty));
    }

    #[test]
    fn what_is_no_uuid_is_refused() {
        for bad in [
            " 9e201bab-1ccf-47d1-82e0-90d71ee5fd2c",
            "9e201bab-1ccf-47d1-82e0-90d71ee5fd2c ",
            "9e201bab-1ccf-47d1-82e0-90d71ee5fd2",
            "9e201bab-1ccf-47d1-82e0-90d71ee5fd2cc",
            "9e201bab1-ccf-47d1-82e0-90d71ee5fd2c",
            "ge201bab-1ccf-47d1-82e0-90d71ee5fd2c",
            "installation",
        ] {
            assert_eq!(uuid(bad), Err(Malformed::NotUuid), "{bad}");
        }
        assert_eq!(InstallId::parse(Format::Uuid, &[0xff; 36]), Err(Malformed::NotUuid));
    }

    #[test]
    fn a_token_has_8_to_128_allowed_characters() {
        assert_eq!(token("aZ09._~-").unwrap().expose(), "aZ09._~-");
        assert!(token(&"x".repeat(128)).is_ok());
        assert_eq!(token("1234567"), Err(Malformed::Length));
        assert_eq!(token(&"x".repeat(129)), Err(Malformed::Length));
        for bad in [
            "with space",
            "semi;colon",
            "slash/slash",
            "plus+plus",
            "новый-ид",
            "tab\ttab1",
        ] {
            assert_eq!(token(bad), Err(Malformed::Character), "{bad}");
        }
    }

    #[test]
    fn tokens_differ_by_case() {
        assert_ne!(token("abcdefgh").unwrap().key(), token("ABCDEFGH").unwrap().key());
    }

    #[test]
    fn the_key_is_what_sha256sum_prints() {
        // printf %s 9e201bab-1ccf-47d1-82e0-90d71ee5fd2c | sha256sum | cut -c1-32
        assert_eq!(
            uuid(&ID.to_uppercase()).unwrap().key().to_string(),
            "8936e17b2c45703c237003e0ee23f016"
        );
        // printf %s abcdefgh | sha256sum | cut -c1-32
        assert_eq!(
            token("abcdefgh").unwrap().key().to_string(),
            "9c56cc51b374c3ba189210d5b6d4bf57"
        );
    }

    #[test]
    fn debug_shows_the_digest_and_never_the_id() {
        let shown = format!("{:?}", uuid(ID).unwrap());
        assert!(shown.contains("8936e17b2c45703c237003e0ee23f016"), "{shown}");
        assert!(
            !shown.contains("9e201bab") && !shown.contains("90d71ee5fd2c"),
            "{shown}"
        );
        assert!(!format!("{:?}", token("abcdefgh").unwrap()).contains("abcdefgh"));
    }

    proptest! {
        #[test]
        fn any_uuid_but_nil_is_normalised(number in 1u128.., upper: bool, hyphens: bool) {
            let id = uuid::Uuid::from_u128(number);
            let mut text = if hyphens { id.hyphenated().to_string() } else { id.simple().to_string() };
            if upper {
                text.make_ascii_uppercase();
            }
            let parsed = uuid(&text).unwrap();
            prop_assert_eq!(parsed.expose(), id.hyphenated().to_string());
            prop_assert_eq!(parsed.key(), uuid(&id.hyphenated().to_string()).unwrap().key());
            prop_assert_eq!(parsed.key(), uuid(&id.braced().to_string()).unwrap().key());
        }

        #[test]
        fn no_bytes_make_it_panic(raw: Vec<u8>) {
            let _ = InstallId::parse(Format::Uuid, &raw);
            let _ = InstallId::parse(Format::Token, &raw);
        }
    }
}
