//! Who may call at all (I5): the API keys.

use crate::session::credential::{Credential, bearer_token};
use crate::wire::fields::{Fields, name};

/// The API keys that callers may show. `Debug` tells how many there are, never what they are.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys(Vec<Credential>);

impl ApiKeys {
    /// These keys; with none, every caller is let in.
    pub fn new<K: AsRef<[u8]>>(keys: impl IntoIterator<Item = K>) -> Self {
        Self(keys.into_iter().map(|key| Credential::new(key.as_ref())).collect())
    }

    /// Whether a request with these header fields may go on: there are no keys to show, or a valid one is shown as
    /// `Authorization: Bearer KEY` or as `key: KEY`. Of a repeated field only the first counts.
    #[must_use]
    pub fn allow(&self, fields: &Fields) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let bearer = fields.get(name::AUTHORIZATION).and_then(bearer_token);
        let key = fields.get(name::KEY);
        [bearer, key]
            .into_iter()
            .flatten()
            .any(|shown| Credential::any_is(&self.0, shown))
    }
}

#[cfg(test)]
mod tests {
    use super::ApiKeys;
    use crate::wire::fields::Fields;

    fn headers(fields: &[(&'static str, &'static str)]) -> Fields {
        fields.iter().copied().collect()
    }

    #[test]
    fn without_keys_everyone_is_let_in() {
        assert!(ApiKeys::default().allow(&Fields::new()));
        assert!(ApiKeys::new(Vec::<String>::new()).allow(&headers(&[("key", "whatever")])));
    }

    #[test]
    fn a_key_is_taken_from_either_header() {
        let keys = ApiKeys::new(["first", "second"]);
        assert!(keys.allow(&headers(&[("authorization", "Bearer second")])));
        assert!(keys.allow(&headers(&[("authorization", "bearer first")])));
        assert!(keys.allow(&headers(&[("key", "first")])));
        assert!(keys.allow(&headers(&[("authorization", "Basic dXNlcg=="), ("key", "second")])));
    }

    #[test]
    fn a_wrong_or_missing_key_is_not_let_in() {
        let keys = ApiKeys::new(["first", "second"]);
        assert!(!keys.allow(&Fields::new()));
        assert!(!keys.allow(&headers(&[("authorization", "Bearer third")])));
        assert!(!keys.allow(&headers(&[("authorization", "first")])));
        assert!(!keys.allow(&headers(&[("authorization", "Bearer ")])));
        assert!(!keys.allow(&headers(&[("key", "")])));
        assert!(!keys.allow(&headers(&[("key", "first,second")])));
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", ApiKeys::new(["s3cret"]));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
