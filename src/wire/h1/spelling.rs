//! Field names as they were sent (H1: PHP reads `getallheaders()['Authorization']`).

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};

/// The head that a message came with: an extension, by which its field names are written as they were read.
#[derive(Clone, Debug)]
pub(crate) struct Spelling {
    head: Bytes,
    /// Where in it each name is, in order.
    names: Vec<(u32, u32)>,
}

/// The reason phrase of a response where it is not the usual one; an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason(pub(crate) Bytes);

impl Spelling {
    /// `names`: where in `head` each name begins, and its length.
    pub(super) const fn new(head: Bytes, names: Vec<(u32, u32)>) -> Self {
        Self { head, names }
    }

    /// The name of the field `name` that comes after `skip` others of the same name.
    fn nth(&self, name: &HeaderName, skip: usize) -> Option<&[u8]> {
        let wanted = name.as_str().as_bytes();
        self.names
            .iter()
            .filter(|(_, length)| *length as usize == wanted.len())
            .filter_map(|&(start, length)| self.head.get(start as usize..(start + length) as usize))
            .filter(|spelt| spelt.eq_ignore_ascii_case(wanted))
            .nth(skip)
    }
}

/// Writes the fields as lines, their names as they were spelt, and those that were added `Like-This`.
pub(crate) fn write_fields(wire: &mut BytesMut, fields: &HeaderMap, spelling: Option<&Spelling>) {
    let mut last: Option<(&HeaderName, usize)> = None;
    for (name, value) in fields {
        // Fields of one name come one after the other.
        let before = match last {
            Some((same, count)) if same == name => count + 1,
            _ => 0,
        };
        last = Some((name, before));
        match spelling.and_then(|spelling| spelling.nth(name, before)) {
            Some(spelt) => wire.extend_from_slice(spelt),
            None => write_title_case(wire, name.as_str()),
        }
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
}

/// Writes a name that nobody has spelt: `X-Request-Id`.
pub(crate) fn write_title_case(wire: &mut impl Extend<u8>, name: &str) {
    let mut upper = true;
    wire.extend(name.bytes().map(|byte| {
        let written = if upper { byte.to_ascii_uppercase() } else { byte };
        upper = byte == b'-';
        written
    }));
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn names_are_written_as_they_were_spelt_and_added_ones_in_title_case() {
        let head = Bytes::from_static(b"x-A: 1\r\nX-a: 2\r\nhOST: 3\r\n");
        let spelling = Spelling::new(head, vec![(0, 3), (8, 3), (16, 4)]);
        let mut fields = HeaderMap::new();
        for (name, value) in [("host", "3"), ("x-a", "1"), ("x-a", "2"), ("x-a", "4"), ("via-me", "5")] {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut wire = BytesMut::new();
        write_fields(&mut wire, &fields, Some(&spelling));
        assert_eq!(&wire[..], b"hOST: 3\r\nx-A: 1\r\nX-a: 2\r\nX-A: 4\r\nVia-Me: 5\r\n");
    }
}
