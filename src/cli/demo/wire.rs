//! What went over the wire, in lines for a person to read. Cookie values and Install IDs are cut short.

use std::fmt;

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, Request, StatusCode};

/// The header by which the demo's app names its installation.
pub(super) const INSTALL_ID: HeaderName = HeaderName::from_static("x-install-id");

/// How many characters of a value are shown.
const SHOWN: usize = 4;

/// One request between the bridge and the shop, with its answer, as the shop saw them.
///
/// Its `Display` is two lines: `bridge → shop …` and `shop → bridge …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    request: Seen,
    status: StatusCode,
    set_cookies: Vec<String>,
}

/// The request half of an [`Exchange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    line: String,
    cookies: Vec<String>,
}

impl Seen {
    /// What is shown of `request`.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let cookies = lines(request.headers(), &COOKIE)
            .flat_map(|line| line.split(';').map(|pair| shortened(pair.trim())).collect::<Vec<_>>());
        Self {
            line: format!("{} {}", request.method(), request.uri().path()),
            cookies: cookies.collect(),
        }
    }

    /// The exchange that ends with this answer.
    pub(super) fn answered(self, status: StatusCode, headers: &HeaderMap) -> Exchange {
        Exchange {
            request: self,
            status,
            set_cookies: set_cookies(headers),
        }
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            request,
            status,
            set_cookies,
        } = self;
        let cookies: Vec<_> = if request.cookies.is_empty() {
            vec![]
        } else {
            vec![request.cookies.join("; ")]
        };
        writeln!(f, "bridge → shop   {} ({})", request.line, fields("Cookie", &cookies))?;
        write!(
            f,
            "shop → bridge   {} ({})",
            status.as_u16(),
            fields("Set-Cookie", set_cookies)
        )
    }
}

/// What the app sees of an answer, and what it does not see.
pub(super) fn answer_to_app(status: StatusCode, headers: &HeaderMap) -> String {
    format!(
        "bridge → app    {} ({})",
        status.as_u16(),
        fields("Set-Cookie", &set_cookies(headers))
    )
}

/// What the app sends: an Install ID and no cookie.
pub(super) fn request_of_app(method: &str, path: &str, install_id: &str) -> String {
    format!(
        "app → bridge    {method} {path} (X-Install-Id: {}, no Cookie)",
        cut(install_id)
    )
}

fn set_cookies(headers: &HeaderMap) -> Vec<String> {
    lines(headers, &SET_COOKIE).map(|line| shortened(&line)).collect()
}

fn lines(headers: &HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> {
    headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// `name=value; attributes` with only the first characters of the value.
fn shortened(cookie: &str) -> String {
    let (pair, attributes) = cookie.split_at(cookie.find(';').unwrap_or(cookie.len()));
    match pair.split_once('=') {
        Some((name, value)) => format!("{name}={}{attributes}", cut(value)),
        None => format!("{}{attributes}", cut(pair)),
    }
}

fn cut(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()),
        None => value.to_owned(),
    }
}

fn fields(name: &str, values: &[String]) -> String {
    if values.is_empty() {
        return format!("no {name}");
    }
    values
        .iter()
        .map(|value| format!("{name}: {value}"))
        .collect::<Vec<_>>()
        .join(", ")
}
