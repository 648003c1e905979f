//! One cookie of RFC 6265bis: what a `Set-Cookie` line says, and which requests it belongs to.
//!
//! Everything is judged for one origin, the upstream ([`Origin`]), and the hop to it counts as a secure one:
//!
//! * `Secure` is kept with the cookie and holds nothing back (rule J2). It is asked for only where the name of the
//!   cookie promises it (`__Secure-` and its kin).
//! * `SameSite` tells a browser which *other* sites may have a cookie sent along. There are no other sites here: it is
//!   ignored like any attribute that is not known, and `SameSite=None` needs no `Secure`.
//! * No public suffix list is asked (rule J1).

mod form;
mod origin;
mod parse;
#[cfg(test)]
pub(super) mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use form::{Text, byte_string};

pub use origin::Origin;
pub use parse::{Rejected, parse_set_cookie};

/// The longest life of a cookie from the moment it was set: 400 days (RFC 6265bis, 5.5).
pub const MAX_LIFETIME: std::time::Duration = std::time::Duration::from_secs(400 * 24 * 60 * 60);

/// The most bytes that the name and the value of a cookie may have together (RFC 6265bis, 5.6).
pub const MAX_NAME_AND_VALUE: usize = 4096;

/// The most bytes that the value of an attribute may have; a longer attribute is ignored (RFC 6265bis, 5.6).
pub const MAX_ATTRIBUTE: usize = 1024;

/// A cookie as it is kept. Made by [`parse_set_cookie`]; its value is secret and is never printed.
///
/// Names, values and paths are bytes and pass unchanged: quotes, inner blanks and bytes beyond ASCII included. They
/// hold no control character but the tab.
#[derive(Clone, PartialEq, Eq)]
pub struct Cookie {
    text: Text,
    host_only: bool,
    expires_at: Option<Timestamp>,
    created_at: Timestamp,
    secure: bool,
    http_only: bool,
}

impl Cookie {
    /// The name; empty for a cookie that was set without one.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.text.name()
    }

    /// The value. Secret.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.text.value()
    }

    /// The host, or the parent domain, that the cookie belongs to: lower case, without a leading dot.
    #[must_use]
    pub fn domain(&self) -> &str {
        // It was text when it was put there.
        std::str::from_utf8(self.text.domain()).unwrap_or_default()
    }

    /// Whether the cookie belongs to the host alone (no `Domain` attribute), and not to its subdomains.
    #[must_use]
    pub const fn host_only(&self) -> bool {
        self.host_only
    }

    /// The path at and below which the cookie is sent.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.text.path()
    }

    /// When the cookie ends; `None` for a cookie that lasts as long as the session it is kept in.
    #[must_use]
    pub const fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// When a cookie of this key was first set.
    #[must_use]
    pub const fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Whether it was set with `Secure`.
    #[must_use]
    pub const fn secure(&self) -> bool {
        self.secure
    }

    /// Whether it was set with `HttpOnly`.
    #[must_use]
    pub const fn http_only(&self) -> bool {
        self.http_only
    }

    /// What tells this cookie from others (rule J1).
    #[must_use]
    pub fn key(&self) -> CookieKey {
        CookieKey {
            name: self.name().to_vec(),
            domain: self.domain().to_owned(),
            host_only: self.host_only,
            path: self.path().to_vec(),
        }
    }

    /// Whether `key` is the key of this cookie.
    #[must_use]
    pub fn has_key(&self, key: &CookieKey) -> bool {
        self.name() == key.name
            && self.path() == key.path
            && self.host_only == key.host_only
            && self.text.domain() == key.domain.as_bytes()
    }

    /// Whether `other` would take the place of this cookie in a jar.
    #[must_use]
    pub fn same_key(&self, other: &Self) -> bool {
        self.name() == other.name()
            && self.path() == other.path()
            && self.host_only == other.host_only
            && self.text.domain() == other.text.domain()
    }

    /// Whether the cookie has ended at `now`. One that has when it is received is a deletion.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// Whether the cookie is sent with requests to `origin`, expiry aside (RFC 6265bis, 5.8.3).
    #[must_use]
    pub fn matches(&self, origin: &Origin<'_>) -> bool {
        let host = if self.host_only {
            origin.host().as_bytes() == self.text.domain()
        } else {
            origin.domain_matches(self.domain())
        };
        host && origin.path_matches(self.path())
    }

    /// How many bytes it adds to a record, its times and flags aside.
    pub(super) fn size(&self) -> usize {
        self.text.bytes.len()
    }

    /// What deletes this cookie: one of its key that ended long ago.
    #[must_use]
    pub fn deletion(&self) -> Self {
        Self {
            text: Text::new(self.name(), &[], self.path(), self.domain()),
            expires_at: Some(Timestamp::from_millis(0)),
            ..*self
        }
    }

    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.size() + size_of::<Self>()
    }

    /// Takes over the creation time of the cookie that this one replaces (RFC 6265bis, 5.7, step 23).
    pub(super) const fn keep_creation_of(&mut self, old: &Self) {
        self.created_at = old.created_at;
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookie")
            .field("name", &format_args!("\"{}\"", self.name().escape_ascii()))
            .field("value", &format_args!("[{} bytes]", self.value().len()))
            .field("domain", &self.domain())
            .field("host_only", &self.host_only)
            .field("path", &format_args!("\"{}\"", self.path().escape_ascii()))
            .field("expires_at", &self.expires_at)
            .field("created_at", &self.created_at)
            .field("secure", &self.secure)
            .field("http_only", &self.http_only)
            .finish()
    }
}

/// What a cookie is known by: no jar holds two cookies of one key (rule J1).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CookieKey {
    /// See [`Cookie::name`].
    #[serde(with = "byte_string")]
    pub name: Vec<u8>,
    /// See [`Cookie::domain`].
    pub domain: String,
    /// See [`Cookie::host_only`].
    pub host_only: bool,
    /// See [`Cookie::path`].
    #[serde(with = "byte_string")]
    pub path: Vec<u8>,
}

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subdomains = if self.host_only { "" } else { "*." };
        let (name, path) = (self.name.escape_ascii(), self.path.escape_ascii());
        write!(f, "CookieKey({name} at {subdomains}{}{path})", self.domain)
    }
}
