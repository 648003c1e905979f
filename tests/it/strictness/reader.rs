//! Reads requests the way RFC 9110 and RFC 9112 write them, whole streams at a time, and tolerates nothing that one party
//! might read in another way than the next.

/// Who sent what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// A client: one empty line may precede a request (RFC 9112 §2.2), and a target may be absolute.
    FromClient,
    /// The bridge: what it writes is in one form only.
    FromBridge,
}

/// How a stream goes on behind the last whole request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Not at all.
    None,
    /// With a request that is good so far.
    Incomplete,
    /// With something that is not one.
    Flawed(&'static str),
}

/// A request, as far as it matters who gets which.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// With the target that an origin server is to get.
    pub(super) fn forwarded(mut self) -> Self {
        if let Some((_, rest)) = self.target.split_once("://").filter(|_| !self.target.starts_with('/')) {
            self.target = match rest.find(['/', '?']) {
                Some(at) if rest[at..].starts_with('/') => rest[at..].to_owned(),
                Some(at) => format!("/{}", &rest[at..]),
                None => "/".to_owned(),
            };
        }
        self
    }
}

/// All whole requests, and how it goes on.
pub(super) fn read_all(mut stream: &[u8], side: Side) -> (Vec<Request>, Tail) {
    let mut requests = Vec::new();
    while !stream.is_empty() {
        match read(stream, side) {
            Ok(Some((request, rest))) => {
                requests.push(request);
                stream = rest;
            }
            Ok(None) => return (requests, Tail::Incomplete),
            Err(flaw) => return (requests, Tail::Flawed(flaw)),
        }
    }
    (requests, Tail::None)
}

type Parsed<'a, T> = Result<Option<(T, &'a [u8])>, &'static str>;

/// One request; `None` while it is incomplete.
pub(super) fn read(stream: &[u8], side: Side) -> Parsed<'_, Request> {
    let stream = match side {
        Side::FromClient => stream.strip_prefix(b"\r\n").unwrap_or(stream),
        Side::FromBridge => stream,
    };
    let end = stream.windows(4).position(|window| window == b"\r\n\r\n");
    // Whatever follows: a byte that no head may have is a flaw at once.
    let head = &stream[..end.map_or(stream.len(), |end| end + 2)];
    if let Some(flaw) = bad_byte(head, end.is_some()) {
        return Err(flaw);
    }
    let Some(end) = end else { return Ok(None) };
    let head = std::str::from_utf8(&head[..end]).map_or_else(|_| latin(&head[..end]), str::to_owned);
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let [method, target, version] = first.split(' ').collect::<Vec<_>>()[..] else {
        return Err("the request line");
    };
    let is_11 = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return Err("the version"),
    };
    if !is_token(method) || method == "CONNECT" {
        return Err("the method");
    }
    let fields = lines.map(field).collect::<Result<Vec<_>, _>>()?;
    let all = |name: &str| -> Vec<&str> {
        let same = fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_str()).collect()
    };
    host(method, target, &all("host"), is_11, side)?;
    if !all("content_length").is_empty() || !all("transfer_encoding").is_empty() {
        return Err("a field that CGI takes for a framing one");
    }
    let rest = &stream[end + 4..];
    let framed = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Ok(Some((Vec::new(), rest))),
        ([length], []) => sized(length, rest),
        ([], [coding]) if is_11 && coding.eq_ignore_ascii_case("chunked") => chunked(rest),
        _ => Err("the framing"),
    }?;
    Ok(framed.map(|(body, rest)| {
        let request = Request {
            method: method.to_owned(),
            target: target.to_owned(),
            body,
        };
        (request, rest)
    }))
}

fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn bad_byte(head: &[u8], is_whole: bool) -> Option<&'static str> {
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\r' if head.get(at + 1) == Some(&b'\n') || (!is_whole && at + 1 == head.len()) => {}
            b'\n' if at > 0 && head[at - 1] == b'\r' => {}
            b'\r' | b'\n' => return Some("a bare CR or LF"),
            b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Some("a control character"),
        }
    }
    None
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

fn field(line: &str) -> Result<(String, String), &'static str> {
    let (name, value) = line.split_once(':').ok_or("a field without a colon")?;
    if !is_token(name) {
        return Err("a field name");
    }
    Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
}

/// Exactly one host, a plain one, and the same as in the target.
fn host(method: &str, target: &str, hosts: &[&str], is_11: bool, side: Side) -> Result<(), &'static str> {
    let is_name = |host: &str| {
        let (name, port) = match host.rfind(':').filter(|at| !host[*at..].contains(']')) {
            Some(at) => (&host[..at], &host[at + 1..]),
            None => (host, ""),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        let bracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let named = bracketed.map_or(!name.is_empty() && name.chars().all(plain), |address| {
            address.parse::<std::net::Ipv6Addr>().is_ok()
        });
        named && port.chars().all(|c| c.is_ascii_digit())
    };
    if hosts.len() > 1 || (hosts.is_empty() && (is_11 || side == Side::FromBridge)) {
        return Err("not one host");
    }
    if !hosts.iter().all(|host| is_name(host)) {
        return Err("the host");
    }
    if target.is_empty() || target.contains(['#', '"', '<', '>']) || !target.chars().all(|c| c.is_ascii_graphic()) {
        return Err("the target");
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(());
    }
    let scheme = target.split("://").next().unwrap_or_default().to_ascii_lowercase();
    let rest = target.get(scheme.len() + 3..).unwrap_or_default();
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let same = hosts.first().is_none_or(|host| host.eq_ignore_ascii_case(authority));
    let is_good = side == Side::FromClient && matches!(&scheme[..], "http" | "https") && is_name(authority) && same;
    if is_good { Ok(()) } else { Err("the target") }
}

fn sized<'a>(length: &str, rest: &'a [u8]) -> Parsed<'a, Vec<u8>> {
    let digits = !length.is_empty() && length.chars().all(|c| c.is_ascii_digit());
    // More than one reading: octal, to some.
    if !digits || (length.len() > 1 && length.starts_with('0')) {
        return Err("the length");
    }
    let length = length.parse::<i64>().map_err(|_| "the length")?;
    let length = usize::try_from(length).map_err(|_| "the length")?;
    Ok((rest.len() >= length).then(|| (rest[..length].to_vec(), &rest[length..])))
}

fn chunked(mut rest: &[u8]) -> Parsed<'_, Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Some((size, behind)) = line(rest)? else {
            return Ok(None);
        };
        rest = behind;
        let (size, extensions) = size.split_at(size.find(';').unwrap_or(size.len()));
        if size.is_empty() || size.len() > 15 || !size.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err("a chunk size");
        }
        check_extensions(extensions)?;
        let size = usize::from_str_radix(size, 16).map_err(|_| "a chunk size")?;
        if size == 0 {
            break;
        }
        let Some(data) = rest.get(..size) else { return Ok(None) };
        body.extend_from_slice(data);
        rest = &rest[size..];
        match rest {
            [b'\r', b'\n', behind @ ..] => rest = behind,
            [] | [b'\r'] => return Ok(None),
            _ => return Err("the end of a chunk"),
        }
    }
    loop {
        let Some((trailer, behind)) = line(rest)? else {
            return Ok(None);
        };
        rest = behind;
        if trailer.is_empty() {
            return Ok(Some((body, rest)));
        }
        let (name, _) = field(&trailer)?;
        let framing = ["content-length", "transfer-encoding", "host", "trailer"];
        if framing.iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
            return Err("a framing field in the trailers");
        }
    }
}

/// A line of the chunked framing; `None` while it has no end.
fn line(rest: &[u8]) -> Parsed<'_, String> {
    let end = rest.windows(2).position(|window| window == b"\r\n");
    let line = &rest[..end.map_or(rest.len(), |end| end + 2)];
    match bad_byte(line, end.is_some()) {
        Some(flaw) => Err(flaw),
        None => Ok(end.map(|end| (latin(&rest[..end]), &rest[end + 2..]))),
    }
}

/// `*( ";" token [ "=" ( token / quoted-string ) ] )`.
fn check_extensions(mut rest: &str) -> Result<(), &'static str> {
    const FLAW: &str = "a chunk extension";
    while !rest.is_empty() {
        rest = rest.strip_prefix(';').ok_or(FLAW)?;
        let name = rest.find([';', '=']).unwrap_or(rest.len());
        if !is_token(&rest[..name]) {
            return Err(FLAW);
        }
        rest = &rest[name..];
        let Some(value) = rest.strip_prefix('=') else { continue };
        let Some(mut quoted) = value.strip_prefix('"') else {
            let end = value.find(';').unwrap_or(value.len());
            if !is_token(&value[..end]) {
                return Err(FLAW);
            }
            rest = &value[end..];
            continue;
        };
        loop {
            let at = quoted.find(['"', '\\']).ok_or(FLAW)?;
            let is_end = quoted[at..].starts_with('"');
            quoted = &quoted[at + 1..];
            if is_end {
                break;
            }
            let escaped = quoted.chars().next().ok_or(FLAW)?;
            quoted = &quoted[escaped.len_utf8()..];
        }
        rest = quoted;
    }
    Ok(())
}
