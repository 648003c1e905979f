//! From a `Set-Cookie` line to a cookie: the parser of RFC 6265bis, 5.6, and what its storage model (5.7) asks.

use std::fmt;

use super::form::Text;
use super::{Cookie, MAX_ATTRIBUTE, MAX_LIFETIME, MAX_NAME_AND_VALUE, Origin};
use crate::session::clock::Timestamp;
use crate::session::date::parse_cookie_date;

/// Why a `Set-Cookie` line is dropped. Carries the name of the cookie where one can be read, see [`Rejected::name`];
/// never a value.
#[derive(Clone, PartialEq, Eq)]
pub enum Rejected {
    /// The line holds a control character other than the tab.
    ControlCharacter(Box<[u8]>),
    /// There is neither a name nor a value.
    Empty,
    /// Name and value are longer than [`MAX_NAME_AND_VALUE`] bytes together.
    TooLarge(Box<[u8]>),
    /// The `Domain` attribute names something that the host does not belong to.
    ForeignDomain(Box<[u8]>),
    /// The name begins with `__Secure-`, `__Host-`, `__Http-` or `__Host-Http-` and the attributes do not keep what
    /// that promises; or there is no name and the value begins so.
    BrokenPrefix(Box<[u8]>),
}

impl Rejected {
    /// A short, stable name of the reason, for metrics and logs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::ControlCharacter(_) => "control_character",
            Self::Empty => "empty",
            Self::TooLarge(_) => "too_large",
            Self::ForeignDomain(_) => "foreign_domain",
            Self::BrokenPrefix(_) => "broken_prefix",
        }
    }

    /// The name of the cookie, where the line has one; at most its first 128 bytes. Any byte may be in it.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        match self {
            Self::ControlCharacter(name)
            | Self::TooLarge(name)
            | Self::ForeignDomain(name)
            | Self::BrokenPrefix(name) => Some(&**name).filter(|name| !name.is_empty()),
            Self::Empty => None,
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlCharacter(_) => "the line holds a control character",
            Self::Empty => "neither a name nor a value",
            Self::TooLarge(_) => "name and value are too long",
            Self::ForeignDomain(_) => "the Domain attribute does not match the host",
            Self::BrokenPrefix(_) => "the attributes do not keep what the prefix of the name promises",
        })
    }
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Rejected({}, \"{}\")",
            self.kind(),
            self.name().unwrap_or_default().escape_ascii()
        )
    }
}

impl std::error::Error for Rejected {}

/// Reads the value of one `Set-Cookie` field of a response that came from `origin` at `now`.
///
/// A result that [is expired](Cookie::is_expired) at `now` is a deletion of the cookie with that key.
///
/// # Errors
///
/// [`Rejected`] where RFC 6265bis, 5.6 and 5.7 say to ignore the line as a whole. An attribute that cannot be read
/// only loses its effect.
pub fn parse_set_cookie(line: &[u8], origin: &Origin<'_>, now: Timestamp) -> Result<Cookie, Rejected> {
    let (pair, attributes) = split(line, b';');
    let (name, value) = match split(pair, b'=') {
        (name, Some(value)) => (trim(name), trim(value)),
        (value, None) => (&[][..], trim(value)),
    };
    if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(Rejected::ControlCharacter(short(name)));
    }
    if name.is_empty() && value.is_empty() {
        return Err(Rejected::Empty);
    }
    if name.len() + value.len() > MAX_NAME_AND_VALUE {
        return Err(Rejected::TooLarge(short(name)));
    }

    let attributes = Attributes::read(attributes.unwrap_or_default(), now);
    let domain = origin
        .domain_attribute(attributes.domain)
        .filter(|domain| domain.is_empty() || origin.domain_matches(domain))
        .ok_or_else(|| Rejected::ForeignDomain(short(name)))?;
    let host_only = domain.is_empty();
    if !attributes.keep_promise_of(if name.is_empty() { value } else { name }, name.is_empty(), host_only) {
        return Err(Rejected::BrokenPrefix(short(name)));
    }
    Ok(Cookie {
        text: Text::new(
            name,
            value,
            attributes.path.unwrap_or_else(|| origin.default_path()),
            if host_only { origin.host() } else { &domain },
        ),
        host_only,
        expires_at: attributes.max_age.or(attributes.expires),
        created_at: now,
        secure: attributes.secure,
        http_only: attributes.http_only,
    })
}

/// What the attributes of a line come to. Of those that can be read, the last of each name counts.
#[derive(Default)]
struct Attributes<'a> {
    max_age: Option<Timestamp>,
    expires: Option<Timestamp>,
    domain: &'a [u8],
    /// An absolute path that was asked for; `None` means the default path.
    path: Option<&'a [u8]>,
    secure: bool,
    http_only: bool,
}

impl<'a> Attributes<'a> {
    fn read(text: &'a [u8], now: Timestamp) -> Self {
        let latest = now.saturating_add(MAX_LIFETIME);
        let mut all = Self::default();
        for attribute in text.split(|byte| *byte == b';') {
            let (name, value) = split(attribute, b'=');
            let (name, value) = (trim(name), trim(value.unwrap_or_default()));
            if value.len() > MAX_ATTRIBUTE {
                continue;
            }
            if name.eq_ignore_ascii_case(b"path") {
                all.path = Some(value).filter(|path| path.first() == Some(&b'/'));
            } else if name.eq_ignore_ascii_case(b"httponly") {
                all.http_only = true;
            } else if name.eq_ignore_ascii_case(b"expires") {
                all.expires = parse_cookie_date(value).map(|end| end.min(latest)).or(all.expires);
            } else if name.eq_ignore_ascii_case(b"max-age") {
                all.max_age = max_age(value, now).map(|end| end.min(latest)).or(all.max_age);
            } else if name.eq_ignore_ascii_case(b"secure") {
                all.secure = true;
            } else if name.eq_ignore_ascii_case(b"domain") {
                all.domain = value;
            }
        }
        all
    }

    /// Whether a name with one of the reserved prefixes may go with these attributes. Where there is no name, no
    /// value may begin like one: sent back, it would read as a name.
    fn keep_promise_of(&self, text: &[u8], nameless: bool, host_only: bool) -> bool {
        let begins_with = |prefix: &[u8]| {
            text.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        if !text.starts_with(b"__") {
            return true;
        }
        // The path must have been asked for by name: the default path of a page at the top is "/" too.
        let host = self.secure && host_only && self.path == Some(b"/");
        let http = self.secure && self.http_only;
        let kept = if begins_with(b"__Host-Http-") {
            host && http
        } else if begins_with(b"__Host-") {
            host
        } else if begins_with(b"__Http-") {
            http
        } else if begins_with(b"__Secure-") {
            self.secure
        } else {
            return true;
        };
        kept && !nameless
    }
}

/// When a cookie with this `Max-Age` ends; `None` for a value that is not a whole number of seconds, which is ignored
/// (RFC 6265bis, 5.6.2). Zero and less is the epoch: long ago.
fn max_age(value: &[u8], now: Timestamp) -> Option<Timestamp> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = digits.iter().fold(0_u64, |sum, digit| {
        sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    });
    if negative || seconds == 0 {
        return Some(Timestamp::from_millis(0));
    }
    Some(now.saturating_add(std::time::Duration::from_secs(seconds)))
}

/// As much of a name as is worth telling: nothing has limited its length so far.
fn short(name: &[u8]) -> Box<[u8]> {
    name.get(..128).unwrap_or(name).into()
}

/// What precedes the first `separator`, and what follows it where there is one.
fn split(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = text.splitn(2, |byte| *byte == separator);
    (parts.next().unwrap_or_default(), parts.next())
}

/// Without the blanks and tabs at both ends. No other white space counts as such.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}
