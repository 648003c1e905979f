//! Heads of requests: judged, read, changed and written.

use bytes::{Bytes, BytesMut};

pub mod body;
pub mod fields;
pub mod h1;
pub mod headers;
pub mod message;
pub mod strict;
pub mod timer;
pub mod upgrade;

// What `wire` alone may call in the product.

pub(crate) type Asked = h1::Asked;

pub(crate) fn read_request(head: Bytes, peer: message::Peer) -> Option<Asked> {
    let mut checker = strict::Checker::new(head.len());
    checker.advance(&head).ok()?;
    h1::read_request(head, checker.take_judged()?, peer)
}

pub(crate) fn write_request(wire: &mut BytesMut, head: &message::RequestHead) {
    h1::write_request(wire, head);
}

pub(crate) fn write_fields(wire: &mut BytesMut, fields: &fields::Fields) {
    fields.write(wire);
}
