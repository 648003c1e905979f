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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::from("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(***)");
        assert_eq!(secret.expose(), "hunter2");
    }
}
