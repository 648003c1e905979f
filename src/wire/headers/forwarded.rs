//! Who the client is: `X-Forwarded-*` and `Forwarded` (RFC 7239), believed from trusted proxies only (H2).

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::wire::fields::{Fields, name};

/// Fields by which frameworks let a proxy tell more of the same kind. A client may not use them to speak as one.
const OTHER_CLAIMS: [&str; 7] = [
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Scheme",
    "X-Forwarded-Server",
    "X-Forwarded-SSL",
    "X-Forwarded-By",
    "X-Real-IP",
];

/// Every field that says who the client is.
fn claims() -> impl Iterator<Item = &'static str> {
    [
        name::X_FORWARDED_FOR,
        name::X_FORWARDED_PROTO,
        name::X_FORWARDED_HOST,
        name::FORWARDED,
    ]
    .into_iter()
    .chain(OTHER_CLAIMS)
}

/// Takes out what reads like a claim where hyphens and underscores are the same: to CGI, WSGI and PHP `X_Forwarded_For`
/// is `X-Forwarded-For`, and may win over it. No proxy spells it so.
fn remove_look_alikes(fields: &mut Fields) {
    let alike = |name: &[u8], claim: &str| {
        let mut pairs = name.iter().zip(claim.as_bytes());
        name.len() == claim.len() && pairs.all(|(a, b)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-'))
    };
    // All that have a hyphen begin with the same letter.
    let is_one = |name: &[u8]| {
        matches!(name, [b'x' | b'X', ..]) && name.contains(&b'_') && claims().any(|claim| alike(name, claim))
    };
    if fields.iter().any(|(name, _)| is_one(name)) {
        fields.retain(|name| !is_one(name));
    }
}

/// The networks whose word on the client is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts the addresses in these networks.
    #[must_use]
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether `address` is trusted. An IPv4 address counts as such in its IPv6-mapped form too.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The hop from the peer to the bridge, as the bridge saw it.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    /// The other end of the connection.
    pub peer: IpAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// The `Host` (or authority) of the request as it came.
    pub host: Option<&'a [u8]>,
}

/// Tells the backend who the client is.
///
/// From an untrusted peer everything that was claimed is replaced by what the bridge saw. From a trusted proxy,
/// `X-Forwarded-For` and `Forwarded` get the peer appended; of the two, one that is missing is made from the other, so
/// that a backend reads the same client from both. `X-Forwarded-Proto` and `-Host` are not lists: a trusted proxy's
/// stand, being what the client used; missing ones are set to what the bridge saw.
///
/// None of these fields passes in a spelling with underscores, whoever sends it.
pub fn forward(fields: &mut Fields, hop: &Hop<'_>, trusted: &TrustedProxies) {
    remove_look_alikes(fields);
    let peer = hop.peer.to_canonical();
    let proto = if hop.secure { "https" } else { "http" };
    if !trusted.trusts(peer) {
        for claim in OTHER_CLAIMS {
            fields.remove(claim);
        }
        // Made of visible ASCII only; were one not, no claim is better than a wrong one.
        fields.insert_made(name::X_FORWARDED_FOR, |value| write_address(value, peer));
        fields.insert_made(name::FORWARDED, |value| {
            write_element(value, peer, Some(proto), hop.host);
        });
        set(fields, name::X_FORWARDED_PROTO, proto.as_bytes());
        match hop.host {
            Some(host) => set(fields, name::X_FORWARDED_HOST, host),
            None => fields.remove(name::X_FORWARDED_HOST),
        }
        return;
    }
    let (list, elements) = extended(fields, peer, proto, hop.host);
    set(fields, name::X_FORWARDED_FOR, &list);
    set(fields, name::FORWARDED, &elements);
    if !fields.contains(name::X_FORWARDED_PROTO) {
        set(fields, name::X_FORWARDED_PROTO, proto.as_bytes());
    }
    if let (false, Some(host)) = (fields.contains(name::X_FORWARDED_HOST), hop.host) {
        set(fields, name::X_FORWARDED_HOST, host);
    }
}

fn set(fields: &mut Fields, name: &'static str, value: &[u8]) {
    fields.insert_made(name, |made| made.extend_from_slice(value));
}

/// Takes every word on who the client is out.
pub fn remove_claims(fields: &mut Fields) {
    remove_look_alikes(fields);
    for claim in claims() {
        fields.remove(claim);
    }
}

/// `X-Forwarded-For` and `Forwarded` of a trusted peer with the peer appended.
fn extended(fields: &Fields, peer: IpAddr, proto: &str, host: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let given_list = joined(fields, name::X_FORWARDED_FOR);
    let given_elements = elements(fields);
    let mut list = match (&given_list, &given_elements) {
        (Some(given), _) => given.clone().into_bytes(),
        (None, Some(elements)) => {
            let nodes: Vec<String> = nodes_of(elements)
                .filter_map(parse_node)
                .map(|ip| ip.to_string())
                .collect();
            nodes.join(", ").into_bytes()
        }
        (None, None) => Vec::new(),
    };
    let mut elements = match (&given_elements, &given_list) {
        (Some(given), _) => given.clone().into_bytes(),
        (None, Some(given)) => {
            let proto = fields.get(name::X_FORWARDED_PROTO).and_then(text);
            converted(given, proto, fields.get(name::X_FORWARDED_HOST))
        }
        (None, None) => Vec::new(),
    };
    separate(&mut list);
    separate(&mut elements);
    write_address(&mut list, peer);
    write_element(&mut elements, peer, Some(proto), host);
    (list, elements)
}

/// The elements of `Forwarded` that say what `X-Forwarded-*` said.
fn converted(list: &str, proto: Option<&str>, host: Option<&[u8]>) -> Vec<u8> {
    let mut elements = Vec::new();
    let (mut proto, mut host) = (proto.filter(|proto| matches!(*proto, "http" | "https")), host);
    for address in list.split(',').filter_map(|node| parse_node(node.trim())) {
        separate(&mut elements);
        write_element(&mut elements, address, proto.take(), host.take());
    }
    elements
}

fn separate(list: &mut Vec<u8>) {
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
}

fn write_element(into: &mut Vec<u8>, address: IpAddr, proto: Option<&str>, host: Option<&[u8]>) {
    match address {
        IpAddr::V4(_) => {
            into.extend_from_slice(b"for=");
            write_address(into, address);
        }
        IpAddr::V6(_) => {
            into.extend_from_slice(b"for=\"[");
            write_address(into, address);
            into.extend_from_slice(b"]\"");
        }
    }
    if let Some(host) = host.filter(|host| text(host).is_some()) {
        into.extend_from_slice(b";host=\"");
        if host.iter().any(|byte| matches!(byte, b'"' | b'\\')) {
            for &byte in host {
                if matches!(byte, b'"' | b'\\') {
                    into.push(b'\\');
                }
                into.push(byte);
            }
        } else {
            into.extend_from_slice(host);
        }
        into.push(b'"');
    }
    if let Some(proto) = proto {
        into.extend_from_slice(b";proto=");
        into.extend_from_slice(proto.as_bytes());
    }
}

/// Every request has its peer's address written twice: an IPv4 address without the general machinery.
fn write_address(into: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        // Writing to memory cannot fail.
        let _ = write!(into, "{address}");
        return;
    };
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            into.push(b'.');
        }
        if octet >= 100 {
            into.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            into.push(b'0' + octet / 10 % 10);
        }
        into.push(b'0' + octet % 10);
    }
}

/// All lines of a list field as one; `None` where there is none, or none that is text.
fn joined(fields: &Fields, name: &str) -> Option<String> {
    let mut all = String::new();
    for line in fields.all(name).filter_map(text) {
        let line = line.trim();
        if !line.is_empty() {
            if !all.is_empty() {
                all.push_str(", ");
            }
            all.push_str(line);
        }
    }
    (!all.is_empty()).then_some(all)
}

/// All of `Forwarded`; `None` also where a quote is left open, which would swallow what is appended.
fn elements(fields: &Fields) -> Option<String> {
    joined(fields, name::FORWARDED).filter(|elements| {
        let mut quotes = Quotes::default();
        elements.chars().for_each(|character| quotes.pass(character));
        !quotes.open
    })
}

/// A value of visible ASCII.
fn text(value: &[u8]) -> Option<&str> {
    let visible = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
    std::str::from_utf8(value).ok().filter(|_| value.iter().all(visible))
}

/// The address of the client: the peer, or, as long as the word comes from trusted proxies, the one that they name.
///
/// Read from the right: the first address that is not itself trusted. Where all are, the left-most. An entry that is no
/// address (`unknown`, a made-up name) ends the search at the proxy that wrote it. `X-Forwarded-For` is read where
/// there is one, else `Forwarded`. To be read before [`forward`] adds the peer.
#[must_use]
pub fn client_address(fields: &Fields, peer: IpAddr, trusted: &TrustedProxies) -> IpAddr {
    let peer = peer.to_canonical();
    if !trusted.trusts(peer) {
        return peer;
    }
    if let Some(list) = joined(fields, name::X_FORWARDED_FOR) {
        return walk(list.split(',').rev().map(str::trim), peer, trusted);
    }
    let Some(elements) = elements(fields) else {
        return peer;
    };
    let nodes: Vec<&str> = nodes_of(&elements).collect();
    walk(nodes.into_iter().rev(), peer, trusted)
}

fn walk<'a>(nearest_first: impl Iterator<Item = &'a str>, peer: IpAddr, trusted: &TrustedProxies) -> IpAddr {
    let mut client = peer;
    for node in nearest_first.filter(|node| !node.is_empty()) {
        let Some(address) = parse_node(node) else { return client };
        client = address;
        if !trusted.trusts(address) {
            return client;
        }
    }
    client
}

/// The `for` of each element of a `Forwarded` value, in order, still quoted; `unknown` where an element has none.
fn nodes_of(elements: &str) -> impl Iterator<Item = &str> {
    split_unquoted(elements, ',').map(|element| {
        let mut pairs = split_unquoted(element, ';').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))
            .map_or("unknown", |(_, node)| node.trim())
    })
}

/// Splits at `separator`, save inside quotes.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quotes = Quotes::default();
    text.split(move |character| {
        quotes.pass(character);
        !quotes.open && character == separator
    })
}

/// Whether a reader that goes through a value is inside a quoted string (RFC 9110 section 5.6.4).
#[derive(Default)]
struct Quotes {
    open: bool,
    escaped: bool,
}

impl Quotes {
    fn pass(&mut self, character: char) {
        if self.escaped {
            self.escaped = false;
        } else if self.open && character == '\\' {
            self.escaped = true;
        } else if character == '"' {
            self.open = !self.open;
        }
    }
}

/// An address, with or without a port, brackets or quotes.
fn parse_node(node: &str) -> Option<IpAddr> {
    let node = node.trim_matches('"');
    let address = match node.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => match node.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(bare) => bare.parse().ok()?,
            None => node.parse::<SocketAddr>().ok()?.ip(),
        },
    };
    Some(address.to_canonical())
}
