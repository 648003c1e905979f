//! One value each: from what was written to what it means. Nothing is coerced, and no message holds a value.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use ipnet::IpNet;

use super::document::{Node, Value, list_from_text};
use super::reader::{Fault, nearest};
use super::secret::Secret;
use super::sections::{JsonPointer, PemFile, Rate};
use crate::session::glob::Glob;

/// No time may be longer: adding it to any moment must stay possible.
const LONGEST: Duration = Duration::from_secs(36_500 * 86_400);

impl Node {
    fn expected(&self, what: &str) -> Fault {
        let found = match &self.value {
            Value::Text(_) => "a string",
            Value::Integer(_) => "a number",
            Value::Boolean(_) => "a boolean",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other(what) => what,
            Value::Untyped(_) => return self.fault(format!("expected {what}")),
        };
        self.fault(format!("expected {what}, found {found}"))
    }

    /// A string.
    pub(super) fn text(&self) -> Result<&str, Fault> {
        match &self.value {
            Value::Text(text) | Value::Untyped(text) => Ok(text),
            _ => Err(self.expected("a string")),
        }
    }

    /// The elements of a list.
    pub(super) fn items(&self) -> Result<Vec<Self>, Fault> {
        match &self.value {
            Value::Array(items) => Ok(items.clone()),
            Value::Untyped(text) => list_from_text(text, &self.origin).map_err(|message| self.fault(message)),
            _ => Err(self.expected("a list")),
        }
    }
}

pub(super) fn boolean(node: &Node) -> Result<bool, Fault> {
    match &node.value {
        Value::Boolean(value) => Ok(*value),
        Value::Untyped(text) => text.parse().map_err(|_| node.fault("expected true or false")),
        _ => Err(node.expected("true or false")),
    }
}

/// A whole number within `range`.
pub(super) fn count(range: RangeInclusive<usize>) -> impl Fn(&Node) -> Result<usize, Fault> {
    move |node| {
        let number = match &node.value {
            Value::Integer(number) => *number,
            Value::Untyped(text) => Some(text.parse().map_err(|_| node.expected("a whole number"))?),
            _ => return Err(node.expected("a whole number")),
        };
        let number = number
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| range.contains(number));
        number.ok_or_else(|| node.fault(format!("must be from {} to {}", range.start(), range.end())))
    }
}

/// A number of bytes within `range`: a whole number, or one with a unit such as `32KiB` or `1MB`.
pub(super) fn size(range: RangeInclusive<usize>) -> impl Fn(&Node) -> Result<usize, Fault> {
    move |node| {
        let expected = || node.expected("a number of bytes, such as 65536, \"32KiB\" or \"1MB\"");
        let bytes = match &node.value {
            Value::Integer(number) => number.unwrap_or(u64::MAX),
            Value::Text(text) | Value::Untyped(text) => parse_size(text).ok_or_else(expected)?,
            _ => return Err(expected()),
        };
        let bytes = usize::try_from(bytes).ok().filter(|bytes| range.contains(bytes));
        bytes.ok_or_else(|| node.fault(format!("must be from {} to {} bytes", range.start(), range.end())))
    }
}

/// The number before the unit, and the unit. A number that is too large is as large as can be.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    (!number.is_empty()).then(|| (number.parse().unwrap_or(u64::MAX), unit))
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    Some(number.saturating_mul(factor))
}

fn parse_duration(node: &Node) -> Result<Duration, Fault> {
    let units = "ms, s, m, h or d";
    if matches!(node.value, Value::Integer(_)) {
        return Err(node.fault(format!("a time needs a unit, {units}: \"10s\"")));
    }
    let text = node.text().map_err(|_| node.expected("a time, such as \"10s\""))?;
    let (number, unit) = number_and_unit(text)
        .ok_or_else(|| node.fault("expected a time: a whole number and a unit, such as \"10s\""))?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(node.fault(format!("a time needs a unit, {units}: \"10s\""))),
        _ => {
            return Err(node.fault(format!(
                "the unit of a time is {units}, after one whole number: \"1500ms\""
            )));
        }
    };
    let duration = Duration::from_millis(number.saturating_mul(millis));
    if duration > LONGEST {
        Err(node.fault("must be at most 36500d"))
    } else {
        Ok(duration)
    }
}

/// A time that may be zero.
pub(super) fn duration(node: &Node) -> Result<Duration, Fault> {
    if node.text().is_ok_and(str::is_empty) {
        return Err(node.fault("cannot be empty: expected a time, such as \"10s\""));
    }
    parse_duration(node)
}

/// A time longer than zero.
pub(super) fn positive_duration(node: &Node) -> Result<Duration, Fault> {
    let duration = duration(node)?;
    if duration.is_zero() {
        Err(node.fault("must be longer than zero"))
    } else {
        Ok(duration)
    }
}

/// A time longer than zero, or `""` for none.
pub(super) fn optional_duration(node: &Node) -> Result<Option<Duration>, Fault> {
    if node.text().is_ok_and(str::is_empty) {
        Ok(None)
    } else {
        positive_duration(node).map(Some)
    }
}

/// So many within a time, `30/m`; or `""` for no limit.
pub(super) fn optional_rate(node: &Node) -> Result<Option<Rate>, Fault> {
    let expected = || {
        node.fault(
            "expected so many within a second, a minute, an hour or a day: \"500/s\", \"30/m\", \"100/h\", \"1000/d\"",
        )
    };
    let text = node.text().map_err(|_| expected())?;
    if text.is_empty() {
        return Ok(None);
    }
    let (number, unit) = text.split_once('/').ok_or_else(expected)?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(expected()),
    };
    let most: u32 = number.trim().parse().map_err(|_| expected())?;
    if !(1..=1_000_000_000).contains(&most) {
        return Err(node.fault("must be from 1 to 1000000000 within the time"));
    }
    Ok(Some(Rate {
        most,
        within: Duration::from_secs(seconds),
    }))
}

/// An address to listen on.
pub(super) fn listen(node: &Node) -> Result<SocketAddr, Fault> {
    let text = node.text()?;
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    // The one name that needs nobody to be asked.
    if let Some(Ok(port)) = text.strip_prefix("localhost:").map(str::parse) {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    Err(node.fault("expected an IP address and a port, such as \"0.0.0.0:8080\", \"[::]:8080\" or \"localhost:8080\""))
}

/// A network, `10.0.0.0/8`, or a single address.
pub(super) fn network(node: &Node) -> Result<IpNet, Fault> {
    let text = node.text()?;
    let parsed = text
        .parse()
        .or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address)));
    parsed.map_err(|_| node.fault("expected a network, such as \"10.0.0.0/8\" or \"fd00::/8\""))
}

/// One of a few words. `available` are those with a meaning; `later` are known, but not in this version.
pub(super) fn one_of<T: Clone>(
    available: &'static [(&'static str, T)],
    later: &'static [&'static str],
) -> impl Fn(&Node) -> Result<T, Fault> {
    move |node| {
        let text = node.text()?;
        if let Some((_, value)) = available.iter().find(|(name, _)| *name == text) {
            return Ok(value.clone());
        }
        if let Some(name) = later.iter().find(|name| **name == text) {
            return Err(node.fault(format!("\"{name}\" is not available in this version")));
        }
        let names = || available.iter().map(|(name, _)| *name);
        let hint = nearest(text, names()).map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
        let all: Vec<_> = names().map(|name| format!("\"{name}\"")).collect();
        Err(node.fault(format!("unknown value, expected {}{hint}", either(&all))))
    }
}

/// `a`, `a or b`, `a, b or c`.
fn either(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [word] => word.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A request method. Methods are case-sensitive (RFC 9110, 9.1).
pub(super) fn method(node: &Node) -> Result<Method, Fault> {
    const COMMON: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"];
    let text = node.text()?;
    let method =
        Method::from_bytes(text.as_bytes()).map_err(|_| node.fault("not a request method, such as \"GET\""))?;
    if text.contains(|c: char| c.is_ascii_lowercase()) {
        let hint =
            nearest(text, COMMON.into_iter()).map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
        return Err(node.fault(format!("request methods are written in capitals{hint}")));
    }
    Ok(method)
}

/// Fields that mean something to every server and client on the way.
const TAKEN: [&str; 13] = [
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A header field that carries something of ours (`what`), or `""` for none.
fn header_for(node: &Node, what: &str) -> Result<Option<HeaderName>, Fault> {
    let text = node.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| node.fault("not a valid name of a header field"))?;
    if TAKEN.contains(&name.as_str()) {
        return Err(node.fault(format!(
            "this header field has a meaning of its own in HTTP; it cannot carry {what}"
        )));
    }
    Ok(Some(name))
}

/// A header that may carry the Install ID, or `""` for none.
pub(super) fn install_id_header(node: &Node) -> Result<Option<HeaderName>, Fault> {
    header_for(node, "the Install ID")
}

/// The header field for the CSRF token, or `""` for none.
pub(super) fn csrf_header(node: &Node) -> Result<Option<HeaderName>, Fault> {
    header_for(node, "a token")
}

/// An origin as browsers write it (RFC 6454, 6.2), or `""` for none.
pub(super) fn origin(node: &Node) -> Result<Option<HeaderValue>, Fault> {
    let text = node.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    let fault = || {
        node.fault(
            "expected an origin: scheme, host and, where it is not the usual one, port: \"https://shop.example\"",
        )
    };
    let uri: Uri = text.parse().map_err(|_| fault())?;
    let (scheme, authority) = uri.scheme_str().zip(uri.authority()).ok_or_else(fault)?;
    let is_web = matches!(scheme, "http" | "https");
    // Not only an origin where there is more: a path, a user, a query.
    if !is_web
        || authority.as_str().contains('@')
        || text.len() != scheme.len() + "://".len() + authority.as_str().len()
    {
        return Err(fault());
    }
    HeaderValue::from_str(text).map(Some).map_err(|_| fault())
}

/// A JSON pointer (RFC 6901), or `""` for none.
pub(super) fn json_pointer(node: &Node) -> Result<Option<JsonPointer>, Fault> {
    let text = node.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('/') {
        return Err(node.fault("a JSON pointer starts with /, as in \"/installId\" or \"/user/installId\""));
    }
    // Each ~ begins ~0 (for ~) or ~1 (for /).
    if text.split('~').skip(1).any(|after| !after.starts_with(['0', '1'])) {
        return Err(node.fault("in a JSON pointer, ~ is written ~0 and a / within a name ~1"));
    }
    Ok(Some(JsonPointer::new(text)))
}

/// A path of our own, or `""` for none.
pub(super) fn health_path(node: &Node) -> Result<Option<String>, Fault> {
    match node.text()? {
        "" => Ok(None),
        text if !text.starts_with('/') => Err(node.fault("a path starts with /")),
        text if text.contains(['?', '#']) || !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(node.fault("a path has no ?, # or space, and nothing but ASCII"))
        }
        text => Ok(Some(text.to_owned())),
    }
}

/// A glob over paths, and queries.
pub(super) fn path_glob(node: &Node) -> Result<Glob, Fault> {
    let text = node.text()?;
    if !text.starts_with(['/', '*']) {
        return Err(node.fault("a path starts with / (or with *, for any beginning)"));
    }
    if text.contains('#') || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(node.fault("what clients send has no # or space and nothing but ASCII: write such bytes as %20"));
    }
    Ok(Glob::new(text))
}

/// A path, with a query or without.
pub(super) fn target(node: &Node) -> Result<Uri, Fault> {
    let text = node.text()?;
    let is_target = text.starts_with('/') && !text.contains('#');
    let uri = is_target.then(|| text.parse().ok()).flatten();
    uri.ok_or_else(|| node.fault("expected a path, with a query or without, such as \"/\" or \"/start?app=1\""))
}

/// Fields of a request, as a table of names and values.
pub(super) fn header_map(node: &Node) -> Result<HeaderMap, Fault> {
    let expected = || node.fault("expected a table of header fields in the file, such as { Accept = \"text/html\" }");
    let Value::Table(table) = &node.value else {
        return Err(expected());
    };
    let mut fields = HeaderMap::new();
    for (name, entry) in table {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| entry.node.fault("not a valid name of a header field"))?;
        if name != http::header::CONTENT_TYPE && TAKEN.contains(&name.as_str()) && name != http::header::HOST {
            return Err(entry.node.fault("this header field is the bridge's own to set"));
        }
        let value = entry.node.text()?;
        let value =
            HeaderValue::from_str(value).map_err(|_| entry.node.fault("not a valid value of a header field"))?;
        fields.insert(name, value);
    }
    Ok(fields)
}

/// The secret in a file, for computing cookies. `""`: no such file.
pub(super) fn derive_secret_file(node: &Node) -> Result<Option<Secret>, Fault> {
    let Some(content) = file(node)? else { return Ok(None) };
    let secret = content.expose().trim_end_matches(['\r', '\n']).to_owned();
    if secret.len() < 32 {
        return Err(node.fault("the file holds less than 32 bytes: `openssl rand -hex 32` makes a secret"));
    }
    Ok(Some(Secret::from(secret)))
}

/// A glob over cookie names.
pub(super) fn cookie_glob(node: &Node) -> Result<Glob, Fault> {
    let text = node.text()?;
    if text.is_empty() {
        return Err(node.fault("the name of a cookie cannot be empty"));
    }
    if text.contains([';', '=', ',']) || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(node.fault("the name of a cookie has no ; = , or space"));
    }
    Ok(Glob::new(text))
}

/// The name of one cookie, or `""` for none.
pub(super) fn cookie_name(node: &Node) -> Result<Option<String>, Fault> {
    if node.text()?.is_empty() {
        return Ok(None);
    }
    let name = cookie_glob(node)?;
    if name.as_str().contains(['*', '?']) {
        return Err(node.fault("this is one cookie, so its name has no * or ?"));
    }
    Ok(Some(name.as_str().to_owned()))
}

/// How many bits of an IPv4 and of an IPv6 address count; `"off"`: none.
pub(super) fn bound_address(node: &Node) -> Result<Option<(u8, u8)>, Fault> {
    let text = node.text()?;
    let expected =
        || node.fault("expected \"off\", \"exact\", or how many bits count: \"/24\" for IPv4, \"/24,/56\" for both");
    let bits = |text: &str, most: u8| {
        let bits = text.trim().strip_prefix('/').and_then(|bits| bits.parse().ok());
        bits.filter(|bits| (1..=most).contains(bits))
    };
    match text {
        "off" => Ok(None),
        "exact" => Ok(Some((32, 128))),
        _ => {
            let (v4, v6) = match text.split_once(',') {
                Some((v4, v6)) => (bits(v4, 32), bits(v6, 128)),
                None => (bits(text, 32), Some(128)),
            };
            v4.zip(v6).map(Some).ok_or_else(expected)
        }
    }
}

/// A status by which a backend may report a dead session.
pub(super) fn lost_status(node: &Node) -> Result<StatusCode, Fault> {
    let number = count(300..=599)(node)?;
    let status = u16::try_from(number)
        .ok()
        .and_then(|number| StatusCode::from_u16(number).ok());
    status.ok_or_else(|| node.expected("a status code, such as 401"))
}

/// Where a redirect leads, or `""`.
pub(super) fn lost_redirect(node: &Node) -> Result<Option<Glob>, Fault> {
    if node.text()?.is_empty() {
        return Ok(None);
    }
    path_glob(node).map(Some)
}

/// A header field, with or without a value: `Name` or `Name: value`; or `""`.
pub(super) fn lost_header(node: &Node) -> Result<Option<(HeaderName, Option<Glob>)>, Fault> {
    let text = node.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    let (name, value) = text
        .split_once(':')
        .map_or((text, ""), |(name, value)| (name, value.trim()));
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| node.fault("expected a header field, such as \"X-Session-Expired\" or \"X-Session: expired*\""))?;
    if name == http::header::SET_COOKIE {
        return Err(node.fault("cannot be Set-Cookie: see with_new_cookie"));
    }
    Ok(Some((name, (!value.is_empty()).then(|| Glob::new(value)))))
}

/// What keys in the store start with.
pub(super) fn key_prefix(node: &Node) -> Result<String, Fault> {
    let text = node.text()?;
    if text.len() > 128 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(node.fault("at most 128 visible ASCII characters"));
    }
    Ok(text.to_owned())
}

/// A key that clients show, as it can stand in a header field.
pub(super) fn api_key(node: &Node) -> Result<Secret, Fault> {
    let text = node.text()?;
    if is_sendable(text) {
        return Ok(Secret::from(text.to_owned()));
    }
    Err(node.fault("a key is not empty and has visible ASCII characters only, no space: a client could not send it"))
}

/// The keys in a file, one a line; empty lines and those that start with `#` are skipped. `""`: no such file.
pub(super) fn api_keys_file(node: &Node) -> Result<Option<Vec<Secret>>, Fault> {
    let Some(content) = file(node)? else { return Ok(None) };
    let mut keys = Vec::new();
    for (index, line) in content.expose().lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if !is_sendable(line) {
            let line = index + 1;
            return Err(node.fault(format!(
                "line {line} of the file: a key has visible ASCII characters only, no space"
            )));
        }
        keys.push(Secret::from(line.to_owned()));
    }
    // No key would mean no check: surely not what a file of keys is for.
    if keys.is_empty() {
        Err(node.fault("the file holds no key"))
    } else {
        Ok(Some(keys))
    }
}

/// The token in a file. `""`: no such file.
pub(super) fn token_file(node: &Node) -> Result<Option<Secret>, Fault> {
    let Some(content) = file(node)? else { return Ok(None) };
    match content.expose().trim() {
        token if is_sendable(token) => Ok(Some(Secret::from(token.to_owned()))),
        _ => Err(node.fault("the file must hold one token of visible ASCII characters, without spaces")),
    }
}

/// The password in a file, without the end of its line. `""`: no such file.
pub(super) fn password_file(node: &Node) -> Result<Option<Secret>, Fault> {
    let Some(content) = file(node)? else { return Ok(None) };
    let content = content.expose();
    let line = content.strip_suffix('\n').unwrap_or(content);
    match line.strip_suffix('\r').unwrap_or(line) {
        "" => Err(node.fault("the file holds no password")),
        password if password.contains(['\n', '\r', '\0']) => {
            Err(node.fault("the file must hold one line, the password"))
        }
        password => Ok(Some(Secret::from(password.to_owned()))),
    }
}

/// What a PEM file holds. `""`: no such file.
pub(super) fn pem_file(node: &Node) -> Result<Option<Secret>, Fault> {
    match file(node)? {
        Some(content) if !content.expose().contains("-----BEGIN ") => {
            Err(node.fault("the file must be PEM: a text with -----BEGIN … in it"))
        }
        content => Ok(content),
    }
}

/// The same, of a file that is read again later.
pub(super) fn lasting_pem_file(node: &Node) -> Result<Option<PemFile>, Fault> {
    let path = PathBuf::from(node.text()?);
    Ok(pem_file(node)?.map(|content| PemFile { path, content }))
}

/// A text that is not to be shown, or `""` for none.
pub(super) fn optional_secret(node: &Node) -> Result<Option<Secret>, Fault> {
    let text = node.text()?;
    Ok((!text.is_empty()).then(|| Secret::from(text.to_owned())))
}

/// A number of servers.
pub(super) fn small_count(node: &Node) -> Result<u16, Fault> {
    count(0..=usize::from(u8::MAX))(node).map(|number| u16::try_from(number).unwrap_or(u16::MAX))
}

fn is_sendable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn file(node: &Node) -> Result<Option<Secret>, Fault> {
    let path = node.text()?;
    if path.is_empty() {
        return Ok(None);
    }
    let content = std::fs::read_to_string(path);
    content
        .map(|text| Some(Secret::from(text)))
        .map_err(|error| node.fault(format!("cannot read the file: {error}")))
}
