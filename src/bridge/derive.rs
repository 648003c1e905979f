//! A session cookie that is computed from the Install ID (rule S5, `session.create = "derive"`): for a backend that takes
//! the session ID that it is given. Nothing is stored, so nothing can be lost, and any replica computes the same.

use std::fmt;

use aws_lc_rs::hmac;

use crate::session::install_id::InstallId;

/// How the cookie is computed.
#[derive(Clone)]
pub struct Derive {
    cookie: String,
    key: Option<hmac::Key>,
}

impl fmt::Debug for Derive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derive")
            .field("cookie", &self.cookie)
            .finish_non_exhaustive()
    }
}

impl Derive {
    /// The value of the cookie of that name is the Install ID itself, a UUID in lower case with hyphens; or, with a
    /// secret, HMAC-SHA256 (RFC 2104) of that text, in lower-case hexadecimal digits.
    #[must_use]
    pub fn new(cookie: String, secret: Option<&[u8]>) -> Self {
        Self {
            cookie,
            key: secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret)),
        }
    }

    /// The `Cookie` field of a request of that installation. Secret.
    #[must_use]
    pub fn field(&self, id: &InstallId) -> Vec<u8> {
        let id = id.expose();
        let mut field = format!("{}=", self.cookie);
        match &self.key {
            None => field.push_str(&id),
            Some(key) => {
                for byte in hmac::sign(key, id.as_bytes()).as_ref() {
                    // Writing to a string cannot fail.
                    let _ = fmt::Write::write_fmt(&mut field, format_args!("{byte:02x}"));
                }
            }
        }
        field.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::install_id::Format;

    fn field(derive: &Derive, format: Format, id: &str) -> String {
        let id = InstallId::parse(format, id.as_bytes()).unwrap();
        String::from_utf8(derive.field(&id)).unwrap()
    }

    #[test]
    fn s5_without_a_secret_the_value_is_the_id_in_its_one_form() {
        let derive = Derive::new("SID".to_owned(), None);
        for id in [
            "9E201BAB-1CCF-47D1-82E0-90D71EE5FD2C",
            "9e201bab1ccf47d182e090d71ee5fd2c",
        ] {
            assert_eq!(
                field(&derive, Format::Uuid, id),
                "SID=9e201bab-1ccf-47d1-82e0-90d71ee5fd2c"
            );
        }
    }

    /// RFC 4231, test case 2, with a message that is a token.
    #[test]
    fn s5_with_a_secret_the_value_is_its_hmac() {
        let derive = Derive::new("SID".to_owned(), Some(b"Jefe"));
        let expected = hmac_by_hand(b"Jefe", b"what-do-ya-want");
        assert_eq!(
            field(&derive, Format::Token, "what-do-ya-want"),
            format!("SID={expected}")
        );
        assert_eq!(
            hmac_by_hand(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let other = Derive::new("SID".to_owned(), Some(b"jefe"));
        assert_ne!(
            field(&other, Format::Token, "what-do-ya-want"),
            format!("SID={expected}")
        );
        assert!(!format!("{derive:?}").contains("Jefe"));
    }

    fn hmac_by_hand(key: &[u8], message: &[u8]) -> String {
        use sha2::{Digest, Sha256};
        let padded = |pad: u8| {
            let mut block = [pad; 64];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            block
        };
        let inner = Sha256::digest([&padded(0x36), message].concat());
        let outer = Sha256::digest([&padded(0x5c)[..], &inner].concat());
        outer.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
