//! Where a response came from and where a request goes: the host and the path that cookies are matched with.

use std::borrow::Cow;

/// The host and the path of one request to the upstream.
///
/// The scheme and the port are no part of it: cookies are blind to the port, and the hop to the upstream counts as
/// secure (rule J2).
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    host: Cow<'a, str>,
    /// The host was written with the dot of the DNS root at its end.
    rooted: bool,
    path: &'a [u8],
}

impl<'a> Origin<'a> {
    /// The origin of a request with this `Host` field and this path.
    ///
    /// `host` is taken as it is sent: a port is cut off, upper case lowered; an IPv6 address keeps its brackets. The
    /// dot that a fully qualified name may end with is left out, so that `shop.example.` is `shop.example`. The path
    /// is what precedes a `?`; one that does not begin with a slash (`*`, an empty one) is `/`.
    #[must_use]
    pub fn new<P: AsRef<[u8]> + ?Sized>(host: &'a str, path: &'a P) -> Self {
        let host = without_port(host);
        let (host, rooted) = match host.strip_suffix('.') {
            Some(relative) if !relative.is_empty() => (relative, true),
            _ => (host, false),
        };
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        let path = path.as_ref().split(|byte| *byte == b'?').next().unwrap_or_default();
        let path = if path.first() == Some(&b'/') { path } else { b"/" };
        Self { host, rooted, path }
    }

    /// The host: lower case, without port and final dot.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path of the request, without query.
    #[must_use]
    pub const fn path(&self) -> &'a [u8] {
        self.path
    }

    /// What a `Domain` attribute names, seen from this origin: lower case, without a leading dot; empty where it
    /// names nothing. `None` if it holds a byte beyond ASCII (RFC 6265bis, 5.7, step 8).
    pub(super) fn domain_attribute(&self, value: &[u8]) -> Option<String> {
        let name = value.strip_prefix(b".").unwrap_or(value);
        // Only a host that is itself written with the final dot knows domains that are.
        let name = if self.rooted {
            name.strip_suffix(b".").unwrap_or(name)
        } else {
            name
        };
        let name = std::str::from_utf8(name).ok().filter(|name| name.is_ascii())?;
        Some(name.to_ascii_lowercase())
    }

    /// Whether the host domain-matches `domain` (RFC 6265bis, 5.1.3): it is the same, or a subdomain of it.
    /// An IP address has no subdomains.
    pub(super) fn domain_matches(&self, domain: &str) -> bool {
        match self.host.strip_suffix(domain) {
            Some("") => true,
            Some(rest) => !domain.is_empty() && rest.ends_with('.') && !is_address(&self.host),
            None => false,
        }
    }

    /// Whether the path of the request is at or below `cookie_path` (RFC 6265bis, 5.1.4).
    pub(super) fn path_matches(&self, cookie_path: &[u8]) -> bool {
        match self.path.strip_prefix(cookie_path) {
            Some(rest) => rest.is_empty() || cookie_path.last() == Some(&b'/') || rest.first() == Some(&b'/'),
            None => false,
        }
    }

    /// The path of a cookie that is set without one: the request's, up to its last slash (RFC 6265bis, 5.1.4).
    pub(super) fn default_path(&self) -> &'a [u8] {
        let last_slash = self.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        match self.path.get(..last_slash) {
            Some(directory) if !directory.is_empty() => directory,
            _ => b"/",
        }
    }
}

/// A `Host` without its port; an IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    if host.starts_with('[') {
        let end = host.find(']').map_or(host.len(), |bracket| bracket + 1);
        return host.get(..end).unwrap_or(host);
    }
    match host.split_once(':') {
        // More than one colon and no brackets: an IPv6 address that was written without them.
        Some((_, rest)) if rest.contains(':') => host,
        Some((name, _)) => name,
        None => host,
    }
}

/// Whether `host` is an IP address. As in URLs, every name whose last label is a number counts as one.
fn is_address(host: &str) -> bool {
    let last_label = host.rsplit('.').next().unwrap_or(host);
    host.contains(':') || (!last_label.is_empty() && last_label.bytes().all(|byte| byte.is_ascii_digit()))
}
