//! The cookie jar of one installation: its order, its limits and the `Cookie` field it makes.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::cookie::{Cookie, CookieKey, Origin};

/// How many cookies a jar holds. Browsers keep about as many for one site; RFC 6265bis, 6.1 asks for 50.
pub const MAX_COOKIES: usize = 180;

/// How many bytes of names, values, domains and paths a jar holds: a little more than 50 cookies of the largest size,
/// which RFC 6265bis, 6.1 asks for. No known backend takes a `Cookie` field of even a quarter of that.
pub const MAX_BYTES: usize = 256 * 1024;

/// The cookies of one session with the upstream, in the order in which they were first set.
///
/// No two of them have the same key. A jar that would outgrow [`MAX_COOKIES`] or [`MAX_BYTES`] gives up cookies: first
/// those that have expired, then those set with neither `Secure` nor `HttpOnly`, then those set with one of them, and
/// the oldest first within each group. A session cookie is often the oldest, but nearly always one of the last group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Jar {
    cookies: Vec<Cookie>,
}

impl Jar {
    /// An empty jar.
    #[must_use]
    pub const fn new() -> Self {
        Self { cookies: Vec::new() }
    }

    /// How many cookies there are, expired ones that nobody has purged included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cookies.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cookies.is_empty()
    }

    /// All cookies, in the order in which they were first set.
    pub fn iter(&self) -> std::slice::Iter<'_, Cookie> {
        self.cookies.iter()
    }

    /// The cookie with this key.
    #[must_use]
    pub fn get(&self, key: &CookieKey) -> Option<&Cookie> {
        self.cookies.iter().find(|cookie| cookie.has_key(key))
    }

    /// Of the cookies with this name that go with a request to `origin` at `now`, the one that [`Self::header`] puts first.
    #[must_use]
    pub fn find(&self, name: &[u8], origin: &Origin<'_>, now: Timestamp) -> Option<&Cookie> {
        self.cookies
            .iter()
            .filter(|cookie| cookie.name() == name && !cookie.is_expired(now) && cookie.matches(origin))
            .min_by_key(|cookie| Reverse(cookie.path().len()))
    }

    /// Adds a cookie. One of the same key is replaced, and the new one keeps its creation time and its place
    /// (RFC 6265bis, 5.7, step 23). Tells how many other cookies had to make room.
    pub fn insert(&mut self, mut cookie: Cookie) -> usize {
        let now = cookie.created_at();
        let place = self
            .cookies
            .iter()
            .position(|old| old.same_key(&cookie))
            .unwrap_or(self.cookies.len());
        if let Some(old) = self.cookies.get_mut(place) {
            cookie.keep_creation_of(old);
            *old = cookie;
        } else {
            self.cookies.push(cookie);
        }
        self.make_room(place, now)
    }

    /// Takes the cookie with this key out.
    pub fn remove(&mut self, key: &CookieKey) -> Option<Cookie> {
        let place = self.cookies.iter().position(|cookie| cookie.has_key(key))?;
        Some(self.cookies.remove(place))
    }

    /// Does what a `Set-Cookie` that was received at `now` says: stores the cookie, or deletes the one of its key if it
    /// has expired already. Tells how many other cookies had to make room.
    pub fn apply(&mut self, cookie: Cookie, now: Timestamp) -> usize {
        if cookie.is_expired(now) {
            self.cookies.retain(|old| !old.same_key(&cookie));
            return 0;
        }
        self.insert(cookie)
    }

    /// Throws away what has expired at `now`, and tells how many that were.
    pub fn purge_expired(&mut self, now: Timestamp) -> usize {
        let before = self.cookies.len();
        self.cookies.retain(|cookie| !cookie.is_expired(now));
        before - self.cookies.len()
    }

    /// The value of the `Cookie` field for a request to `origin` at `now` (RFC 6265bis, 5.8.3), or `None` when no
    /// cookie belongs to it. Longer paths come first, then what was set first.
    #[must_use]
    pub fn header(&self, origin: &Origin<'_>, now: Timestamp) -> Option<Vec<u8>> {
        let goes = |cookie: &&Cookie| !cookie.is_expired(now) && cookie.matches(origin);
        let lengths = self
            .cookies
            .iter()
            .map(|cookie| cookie.name().len() + cookie.value().len());
        // To the byte where all of them go, as they nearly always do: then it is handed on without another allocation.
        let marks = (self.cookies.len() * "=; ".len()).saturating_sub("; ".len());
        let mut field = Vec::with_capacity(lengths.sum::<usize>() + marks);
        let (mut any, mut shortest) = (false, usize::MAX);
        for cookie in self.cookies.iter().filter(goes) {
            if cookie.path().len() > shortest {
                // Seldom: nearly always all have the path "/".
                field.clear();
                let mut sorted: Vec<_> = self.cookies.iter().filter(goes).collect();
                sorted.sort_by_key(|cookie| Reverse(cookie.path().len()));
                sorted.into_iter().for_each(|cookie| append(&mut field, cookie));
                break;
            }
            (any, shortest) = (true, cookie.path().len());
            append(&mut field, cookie);
        }
        any.then_some(field)
    }

    /// Gives up cookies until the jar keeps its limits, but never the one at `kept`. Tells how many.
    fn make_room(&mut self, kept: usize, now: Timestamp) -> usize {
        let mut bytes: usize = self.cookies.iter().map(Cookie::size).sum();
        let mut count = self.cookies.len();
        if count <= MAX_COOKIES && bytes <= MAX_BYTES {
            return 0;
        }

        let rank = |cookie: &Cookie| {
            (
                !cookie.is_expired(now),
                usize::from(cookie.secure()) + usize::from(cookie.http_only()),
            )
        };
        let mut candidates: Vec<usize> = (0..count).filter(|place| *place != kept).collect();
        candidates.sort_by_key(|place| self.cookies.get(*place).map(rank));
        let mut given_up = vec![false; count];
        for place in candidates {
            let Some((cookie, gone)) = self.cookies.get(place).zip(given_up.get_mut(place)) else {
                continue;
            };
            if count <= MAX_COOKIES && bytes <= MAX_BYTES && !cookie.is_expired(now) {
                break;
            }
            *gone = true;
            count -= 1;
            bytes -= cookie.size();
        }
        let before = self.cookies.len();
        let mut given_up = given_up.into_iter();
        self.cookies.retain(|_| !given_up.next().unwrap_or(false));
        before - self.cookies.len()
    }
}

impl<'a> IntoIterator for &'a Jar {
    type Item = &'a Cookie;
    type IntoIter = std::slice::Iter<'a, Cookie>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Writes `name=value` after what is there already; a cookie without a name is its bare value.
fn append(field: &mut Vec<u8>, cookie: &Cookie) {
    if !field.is_empty() {
        field.extend_from_slice(b"; ");
    }
    if !cookie.name().is_empty() {
        field.extend_from_slice(cookie.name());
        field.push(b'=');
    }
    field.extend_from_slice(cookie.value());
}
