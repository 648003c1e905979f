//! How a backend reports that a session is dead (rule C4).
//!
//! A backend that has forgotten a session answers the request in some way of its own: a 401, a redirect to its log-in
//! page, a field of the head. None of that is for a client that knows nothing of sessions. What counts is only told by
//! the configuration: to a shopper who never logged in, too, many backends show the log-in page.

use http::{HeaderName, StatusCode};

use crate::session::clock::Timestamp;
use crate::session::cookie::{Cookie, Origin, parse_set_cookie};
use crate::session::glob::Glob;
use crate::session::jar::Jar;
use crate::session::record::CookiePolicy;
use crate::wire::fields::{Fields, name};

/// The signs of a dead session: any of them is one.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The status of the response is one of these.
    pub statuses: Vec<StatusCode>,
    /// It redirects to a path like this; with a `?` in it, to a path and query like this.
    pub redirect: Option<Glob>,
    /// It has this field, with a value like this where one is given.
    pub header: Option<(HeaderName, Option<Glob>)>,
    /// They count only where the response also deletes the session cookie or sets another one: then it is the session
    /// that the backend did not know, and not the log-in that is missing.
    pub with_new_cookie: bool,
}

/// What a response says of cookies, and to what request.
pub struct Answered<'a> {
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub fields: &'a Fields,
    /// The `Set-Cookie` lines.
    pub cookies: &'a [http::HeaderValue],
    /// Where it came from.
    pub origin: &'a Origin<'a>,
}

impl Lost {
    /// Whether that response, to a request that was sent with `jar`, says that the session is dead.
    #[must_use]
    pub fn is_told(&self, by: &Answered<'_>, jar: &Jar, policy: &CookiePolicy, now: Timestamp) -> bool {
        self.shows(by) && (!self.with_new_cookie || changes_session(by, jar, policy, now))
    }

    /// Whether one of the signs is there.
    #[must_use]
    pub fn shows(&self, by: &Answered<'_>) -> bool {
        self.statuses.contains(&by.status) || self.redirects(by) || self.has_field(by.fields)
    }

    fn redirects(&self, by: &Answered<'_>) -> bool {
        let (Some(glob), 301 | 302 | 303 | 307 | 308) = (&self.redirect, by.status.as_u16()) else {
            return false;
        };
        let target = by
            .fields
            .get(name::LOCATION)
            .map(|location| target(location, by.origin.path()));
        target.is_some_and(|target| {
            let end = if glob.as_str().contains('?') { &b"#"[..] } else { b"?#" };
            let part = target.split(|byte| end.contains(byte)).next().unwrap_or_default();
            glob.matches(part)
        })
    }

    fn has_field(&self, fields: &Fields) -> bool {
        self.header.as_ref().is_some_and(|(name, value)| {
            let like = |field: &[u8]| value.as_ref().is_none_or(|glob| glob.matches(field));
            fields.all(name.as_str()).any(like)
        })
    }
}

/// Whether a request that goes to `origin` with `jar` goes with a session.
#[must_use]
pub fn goes_with_session(jar: &Jar, origin: &Origin<'_>, policy: &CookiePolicy, now: Timestamp) -> bool {
    jar.iter()
        .any(|cookie| policy.is_id(cookie.name()) && !cookie.is_expired(now) && cookie.matches(origin))
}

/// What has to be deleted of a jar so that its session is over.
#[must_use]
pub fn deletions(jar: &Jar, policy: &CookiePolicy, now: Timestamp) -> Vec<Cookie> {
    let ids = jar
        .iter()
        .filter(|cookie| policy.is_id(cookie.name()) && !cookie.is_expired(now));
    ids.map(Cookie::deletion).collect()
}

fn changes_session(by: &Answered<'_>, jar: &Jar, policy: &CookiePolicy, now: Timestamp) -> bool {
    let said = by
        .cookies
        .iter()
        .filter_map(|line| parse_set_cookie(line.as_bytes(), by.origin, now).ok());
    said.filter(|cookie| policy.is_id(cookie.name())).any(|cookie| {
        cookie.is_expired(now)
            || jar
                .get(&cookie.key())
                .is_none_or(|before| before.value() != cookie.value())
    })
}

/// Path, query and fragment of a `Location` (RFC 9110 §10.2.2), which may be relative to `path`.
fn target(location: &[u8], path: &[u8]) -> Vec<u8> {
    let location = location.trim_ascii();
    let scheme = location
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || b"+-.".contains(byte)))
        .filter(|end| location.get(*end..).is_some_and(|rest| rest.starts_with(b"://")));
    let after_scheme = scheme.and_then(|end| location.get(end + 1..)).unwrap_or(location);
    if let Some(rest) = after_scheme.strip_prefix(b"//") {
        let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
        let rest = rest.get(end..).unwrap_or_default();
        let slash: &[u8] = if rest.starts_with(b"/") { b"" } else { b"/" };
        return [slash, rest].concat();
    }
    let base = match location.first() {
        Some(b'/') => &[][..],
        None | Some(b'?' | b'#') => path,
        Some(_) => {
            let end = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            path.get(..end).unwrap_or_default()
        }
    };
    [base, location.strip_prefix(b"./").unwrap_or(location)].concat()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn lost() -> Lost {
        Lost {
            statuses: vec![StatusCode::UNAUTHORIZED],
            redirect: Some(Glob::new("/login*")),
            header: Some((HeaderName::from_static("x-session"), Some(Glob::new("expired*")))),
            with_new_cookie: false,
        }
    }

    fn told(lost: &Lost, status: u16, fields: &[(&'static str, &str)], cookies: &[&'static str]) -> bool {
        let mut told = Fields::new();
        for (name, value) in fields {
            told.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let cookies: Vec<_> = cookies.iter().map(|line| HeaderValue::from_static(line)).collect();
        let origin = Origin::new("shop.example", "/shop/basket");
        let mut jar = Jar::new();
        jar.insert(parse_set_cookie(b"sid=old; Path=/", &origin, NOW).unwrap());
        let by = Answered {
            status: StatusCode::from_u16(status).unwrap(),
            fields: &told,
            cookies: &cookies,
            origin: &origin,
        };
        let policy = CookiePolicy::new(vec![Glob::new("*")], vec![Glob::new("sid")]);
        lost.is_told(&by, &jar, &policy, NOW)
    }

    #[test]
    fn c4_a_status_a_redirect_or_a_field_tells_of_a_dead_session_and_nothing_else_does() {
        let lost = lost();
        assert!(told(&lost, 401, &[], &[]));
        assert!(told(&lost, 200, &[("x-session", "expired, log in")], &[]));
        assert!(told(&lost, 302, &[("location", "/login?next=/")], &[]));
        for (status, fields) in [
            (200, vec![]),
            (403, vec![]),
            (302, vec![("location", "/basket?to=/login")]),
            (302, vec![]),
            (200, vec![("location", "/login")]),
            (304, vec![("location", "/login")]),
            (200, vec![("x-session", "alive")]),
        ] {
            assert!(
                !told(&lost, status, &fields, &["sid=new; Path=/"]),
                "{status} {fields:?}"
            );
        }
        let any_value = Lost {
            header: Some((HeaderName::from_static("x-session"), None)),
            ..lost
        };
        assert!(told(&any_value, 200, &[("x-session", "alive")], &[]));
    }

    #[test]
    fn c4_with_a_new_cookie_the_signs_count_only_where_the_backend_did_not_know_the_session() {
        let lost = Lost {
            with_new_cookie: true,
            ..lost()
        };
        let to_login = [("location", "/login")];
        assert!(!told(&lost, 302, &to_login, &[]), "it is the log-in that is missing");
        assert!(!told(&lost, 302, &to_login, &["sid=old; Path=/", "csrf=x; Path=/"]));
        assert!(told(&lost, 302, &to_login, &["sid=; Path=/; Max-Age=0"]));
        assert!(told(&lost, 302, &to_login, &["sid=new; Path=/"]));
        assert!(!told(&lost, 200, &[], &["sid=new; Path=/"]));
    }

    #[test]
    fn c4_a_redirect_is_known_in_every_form() {
        for (location, expected) in [
            ("/login", "/login"),
            ("https://shop.example/login?a=b", "/login?a=b"),
            ("//shop.example/login", "/login"),
            ("http://shop.example?login", "/?login"),
            ("login.php", "/shop/login.php"),
            ("./login.php", "/shop/login.php"),
            ("?login=yes", "/shop/basket?login=yes"),
            ("", "/shop/basket"),
            ("/to?url=http://x/", "/to?url=http://x/"),
        ] {
            let found = target(location.as_bytes(), b"/shop/basket");
            assert_eq!(String::from_utf8(found).unwrap(), expected, "{location}");
        }
    }

    #[test]
    fn c4_a_glob_with_a_question_mark_is_matched_against_path_and_query() {
        let lost = Lost {
            redirect: Some(Glob::new("/*?login=yes*")),
            ..lost()
        };
        assert!(told(&lost, 302, &[("location", "/auth/?login=yes#top")], &[]));
        assert!(!told(&lost, 302, &[("location", "/auth/")], &[]));
    }
}
