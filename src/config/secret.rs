//! Text that must not be seen.

use std::fmt;

/// A secret: an API key, a token, a URL that may hold a password, an Install ID given as an argument.
///
/// It has no `Display`, its `Debug` shows nothing of it, and it cannot be compared with `==`, which would not take
/// constant time.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The text itself. The caller sees to it that it is not printed.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// How many bytes a key has that records are sealed with.
pub(super) const KEY_LEN: usize = 32;

/// A key that records are sealed with. Its `Debug` shows nothing of it, and it is wiped when it is dropped.
#[derive(Clone)]
pub struct SecretKey(Wiped<[u8; KEY_LEN]>);

impl SecretKey {
    pub(super) const fn new(key: [u8; KEY_LEN]) -> Self {
        Self(Wiped(key))
    }

    /// The bytes themselves. The caller sees to it that they are not printed.
    #[must_use]
    pub const fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(***)")
    }
}

/// Bytes that are overwritten when they are dropped, as well as that can be done without `unsafe`.
#[derive(Clone)]
pub(super) struct Wiped<T: AsMut<[u8]>>(pub(super) T);

impl<T: AsMut<[u8]>> Drop for Wiped<T> {
    fn drop(&mut self) {
        self.0.as_mut().fill(0);
        // Somebody might look: the compiler must not leave the writing out.
        std::hint::black_box(self.0.as_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealing_key_is_not_printed() {
        let key = SecretKey::new([0x41; KEY_LEN]);
        assert_eq!(format!("{key:?}"), "SecretKey(***)");
        assert_eq!(key.expose(), &[0x41; KEY_LEN]);
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::from("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(***)");
        assert_eq!(secret.expose(), "hunter2");
    }
}
