//! Double-submit CSRF protection, for a client that has no cookies to read the token from.
//!
//! Frameworks such as Django, Laravel, Angular's partners (Spring) and Express' `csurf` set a cookie and want its value
//! back in a header field of each unsafe request: a page of another site can make a browser send the cookie, but cannot
//! read it. The client behind the bridge knows neither; the bridge has the cookie, and is no browser that another site
//! could abuse, so it sends the field too. What the protection is for stays as it was: the bridge only speaks for callers
//! that name an installation, and a browser does not add an Install ID by itself.
//!
//! The value is percent-decoded, as the frameworks' own scripts do before they send it: Laravel's cookie ends in `%3D`.

use http::{HeaderName, HeaderValue, Method};
use percent_encoding::percent_decode;

use crate::session::clock::Timestamp;
use crate::session::cookie::Origin;
use crate::session::jar::Jar;
use crate::wire::fields::{FieldName, Fields, name};

/// How a token gets from the jar into the requests.
#[derive(Clone, Debug)]
pub struct CsrfBridge {
    cookie: Vec<u8>,
    header: FieldName,
    origin: Option<HeaderValue>,
}

/// The token of one session, as the field carries it.
pub struct CsrfToken(HeaderValue);

impl CsrfBridge {
    /// The value of the jar's `cookie` is sent as `header`. `origin`: what the backend is told as `Origin`, whatever the
    /// client says; `None` leaves the client's.
    #[must_use]
    pub fn new(cookie: impl Into<Vec<u8>>, header: &HeaderName, origin: Option<HeaderValue>) -> Self {
        Self {
            cookie: cookie.into(),
            header: FieldName::new(header),
            origin,
        }
    }

    /// The token for a request to `origin` at `now`; `None` where the session has none yet.
    #[must_use]
    pub fn token(&self, jar: &Jar, origin: &Origin<'_>, now: Timestamp) -> Option<CsrfToken> {
        let value = jar.find(&self.cookie, origin, now)?.value();
        let decoded: Vec<u8> = percent_decode(value).collect();
        let field = HeaderValue::from_bytes(&decoded).or_else(|_| HeaderValue::from_bytes(value));
        let mut field = field.ok()?;
        field.set_sensitive(true);
        Some(CsrfToken(field))
    }

    /// Puts the token into the fields of a request as the backend gets it. Safe methods are left alone: no framework
    /// protects them. A field of the client's own stays only where there is no token, since it cannot know the cookie.
    ///
    /// A request that says neither `Origin` nor `Referer` gets the backend's own address as `Referer`: Django wants one
    /// over HTTPS, Symfony always.
    pub fn apply(&self, method: &Method, fields: &mut Fields, token: Option<CsrfToken>) {
        if method.is_safe() {
            return;
        }
        if let Some(CsrfToken(value)) = token {
            fields.insert(self.header.clone(), value);
        }
        if let Some(origin) = &self.origin {
            fields.insert(name::ORIGIN, origin.clone());
            // Whoever looks at both wants them to agree.
            fields.remove(name::REFERER);
        } else if fields.contains(name::ORIGIN) || fields.contains(name::REFERER) {
            return;
        }
        if let Some(referer) = self.referer(fields) {
            fields.insert(name::REFERER, referer);
        }
    }

    fn referer(&self, fields: &Fields) -> Option<HeaderValue> {
        let mut referer = Vec::with_capacity(64);
        if let Some(origin) = &self.origin {
            referer.extend_from_slice(origin.as_bytes());
        } else {
            let secure = fields
                .get(name::X_FORWARDED_PROTO)
                .and_then(|proto| proto.split(|byte| *byte == b',').next())
                // Of several proxies the first is the one that the client came to.
                .is_some_and(|proto| proto.trim_ascii().eq_ignore_ascii_case(b"https"));
            referer.extend_from_slice(if secure { b"https://" } else { b"http://" });
            referer.extend_from_slice(fields.get(name::HOST)?);
        }
        referer.push(b'/');
        HeaderValue::from_maybe_shared(bytes::Bytes::from(referer)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::cookie::parse_set_cookie;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn bridge(origin: Option<&'static str>) -> CsrfBridge {
        let header = HeaderName::from_static("x-csrftoken");
        CsrfBridge::new("csrftoken", &header, origin.map(HeaderValue::from_static))
    }

    fn jar(lines: &[&str]) -> Jar {
        let origin = Origin::new("shop.example", "/admin/x");
        let mut jar = Jar::new();
        for line in lines {
            jar.apply(parse_set_cookie(line.as_bytes(), &origin, NOW).unwrap(), NOW);
        }
        jar
    }

    /// The fields that the backend gets, sorted, of a request with `given`.
    fn sent(bridge: &CsrfBridge, method: &Method, cookies: &[&str], given: &[(&'static str, &str)]) -> String {
        let mut fields = Fields::new();
        fields.insert(name::HOST, HeaderValue::from_static("shop.example"));
        for (name, value) in given {
            fields.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let token = bridge.token(&jar(cookies), &Origin::new("shop.example", "/admin/x"), NOW);
        bridge.apply(method, &mut fields, token);
        fields.remove(name::HOST);
        fields.remove(name::X_FORWARDED_PROTO);
        let mut lines: Vec<_> = fields
            .to_map()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines.join("\n")
    }

    #[test]
    fn the_token_of_the_jar_goes_with_unsafe_requests_alone() {
        let cookies = ["csrftoken=abc; Path=/", "sessionid=secret; Path=/"];
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let expected = "referer: http://shop.example/\nx-csrftoken: abc";
            assert_eq!(sent(&bridge(None), &method, &cookies, &[]), expected, "{method}");
        }
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert_eq!(sent(&bridge(None), &method, &cookies, &[]), "", "{method}");
        }
    }

    #[test]
    fn a_token_is_decoded_where_that_makes_a_field() {
        for (value, expected) in [
            ("eyJpdiI6Ing%3D", "x-csrftoken: eyJpdiI6Ing="),
            ("100%", "x-csrftoken: 100%"),
            ("a%0D%0AX-Evil:1", "x-csrftoken: a%0D%0AX-Evil:1"),
        ] {
            let line = format!("csrftoken={value}; Path=/");
            let sent = sent(&bridge(None), &Method::POST, &[&line], &[("referer", "x")]);
            assert_eq!(sent, format!("referer: x\n{expected}"));
        }
    }

    #[test]
    fn of_two_cookies_of_the_name_the_one_that_goes_first_counts() {
        let cookies = [
            "csrftoken=root; Path=/",
            "csrftoken=admin; Path=/admin",
            "csrftoken=other; Path=/shop",
        ];
        assert!(sent(&bridge(None), &Method::POST, &cookies, &[]).ends_with("x-csrftoken: admin"));
    }

    #[test]
    fn a_field_of_the_client_stays_only_where_there_is_no_token() {
        let own = [("x-csrftoken", "own"), ("referer", "https://app.example/")];
        let kept = sent(&bridge(None), &Method::POST, &[], &own);
        assert_eq!(kept, "referer: https://app.example/\nx-csrftoken: own");
        let replaced = sent(&bridge(None), &Method::POST, &["csrftoken=abc; Path=/"], &own);
        assert_eq!(replaced, "referer: https://app.example/\nx-csrftoken: abc");
    }

    #[test]
    fn an_expired_token_is_none() {
        let cookies = ["csrftoken=abc; Path=/; Max-Age=0"];
        assert_eq!(
            sent(&bridge(None), &Method::POST, &cookies, &[("origin", "null")]),
            "origin: null"
        );
    }

    #[test]
    fn the_referer_follows_the_scheme_that_the_backend_is_told() {
        for (proto, referer) in [
            ("https", "referer: https://shop.example/"),
            ("HTTPS, http", "referer: https://shop.example/"),
            ("http, https", "referer: http://shop.example/"),
        ] {
            let told = [("x-forwarded-proto", proto)];
            assert_eq!(sent(&bridge(None), &Method::POST, &[], &told), referer, "{proto}");
        }
    }

    #[test]
    fn an_origin_that_is_configured_stands_in_place_of_the_clients() {
        let bridge = bridge(Some("https://shop.example"));
        let given = [
            ("origin", "https://platform.example"),
            ("referer", "https://platform.example/x"),
        ];
        let expected = "origin: https://shop.example\nreferer: https://shop.example/";
        assert_eq!(sent(&bridge, &Method::POST, &[], &given), expected);
        let untouched = "origin: https://platform.example\nreferer: https://platform.example/x";
        assert_eq!(sent(&bridge, &Method::GET, &[], &given), untouched);
    }
}
