//! HTTP/1.1 messages as bytes (RFC 9112): heads read and written, chunks taken apart and put together.
//!
//! Pure: no I/O and no clock. [`server`](super::server) and [`upstream`](super::upstream) bring the bytes. What comes from
//! clients was judged by [`strict`](super::strict) before it is read here; what comes from the backend was not, and is
//! read with the forgiveness that RFC 9112 asks of a client.
//!
//! A head that goes through the bridge keeps the spelling of its field names (H1): see [`fields`](super::fields).

mod chunked;
mod date;
mod request;
mod response;
mod scan;

pub(super) use chunked::{Chunk, Decoder, LAST_CHUNK, write_chunk_size, write_trailers};
pub(super) use date::imf_fixdate;
pub(super) use request::{Asked, read_request, write_request};
pub(super) use response::{Length, decimal, read_response, write_status_line};
pub(super) use scan::HeadScan;
