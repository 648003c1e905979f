//! Who may call at all (I5): the API keys.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::session::credential::{Credential, bearer_token};

/// The other place for an API key, besides `Authorization: Bearer`.
const KEY_HEADER: &str = "key";

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
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let bearer = headers
            .get(AUTHORIZATION)
            .and_then(|value| bearer_token(value.as_bytes()));
        let key = headers.get(KEY_HEADER).map(|value| value.as_bytes());
        [bearer, key]
            .into_iter()
            .flatten()
            .any(|shown| Credential::any_is(&self.0, shown))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::ApiKeys;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn without_keys_everyone_is_let_in() {
        assert!(ApiKeys::default().allow(&HeaderMap::new()));
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
        assert!(!keys.allow(&HeaderMap::new()));
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
