//! What a caller proves itself with, and how it is compared.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A secret that a caller has to show: an API key, the operators' token.
///
/// Only its SHA-256 is kept. Digests are compared, in constant time, so that neither the length of the secret nor how
/// much of a guess was right can be measured.
#[derive(Clone)]
pub struct Credential([u8; 32]);

impl Credential {
    /// The credential whose text is `secret`.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Whether one of `credentials` is `shown`. Every one of them is compared, whatever the outcome of the others.
    #[must_use]
    pub fn any_is(credentials: &[Self], shown: &[u8]) -> bool {
        let shown = Self::new(shown);
        let found = credentials
            .iter()
            .fold(subtle::Choice::from(0), |found, known| found | known.0.ct_eq(&shown.0));
        found.into()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(***)")
    }
}

/// The token in an `Authorization` field value of the scheme `Bearer` (RFC 6750 §2.1), the scheme in any case.
#[must_use]
pub fn bearer_token(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{Credential, bearer_token};

    #[test]
    fn any_of_the_credentials_is_accepted_and_nothing_else() {
        let known = ["one", "second", "third"].map(|secret| Credential::new(secret.as_bytes()));
        for good in ["one", "second", "third"] {
            assert!(Credential::any_is(&known, good.as_bytes()), "{good}");
        }
        for bad in ["", "on", "one ", "One", "onesecond"] {
            assert!(!Credential::any_is(&known, bad.as_bytes()), "{bad}");
        }
        assert!(!Credential::any_is(&[], b"one"));
    }

    #[test]
    fn a_bearer_token_is_taken_whatever_the_case_of_its_scheme() {
        for good in ["Bearer abc", "bearer abc", "BEARER   abc "] {
            assert_eq!(bearer_token(good.as_bytes()), Some(b"abc".as_slice()), "{good}");
        }
        for bad in ["", "Bearer", "Bearer ", "Bearerabc", "Basic abc", "abc"] {
            assert_eq!(bearer_token(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Credential::new(b"s3cret")), "Credential(***)");
    }
}
