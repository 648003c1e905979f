//! The answers that the edge gives by itself.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, header};

use super::EdgeStats;
use crate::session::clock::Timestamp;
use crate::wire::strict::Flaw;

/// Why the edge refuses a request, or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeRefusal {
    /// 400: the framing or a field is malformed or ambiguous. The text says how and holds nothing of the request.
    BadRequest(&'static str),
    /// 431: the head is too large or has too many fields.
    HeaderTooLarge,
    /// 408: the head, or the next bytes of the body, did not come in time.
    RequestTimeout,
    /// 503: there are too many connections, or too many requests of one connection.
    Overloaded,
}

/// Turns a refusal into the response for the client. Its status, fields and body are sent as they are; the edge adds
/// `Date`, `Content-Length` and `Connection: close`.
pub type RenderRefusal = Arc<dyn Fn(EdgeRefusal) -> Response<Bytes> + Send + Sync>;

impl From<Flaw> for EdgeRefusal {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed(how) => Self::BadRequest(how),
            Flaw::TooLarge => Self::HeaderTooLarge,
        }
    }
}

impl fmt::Display for EdgeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRequest(how) => write!(f, "malformed request: {how}"),
            Self::HeaderTooLarge => f.write_str("the request head is too large"),
            Self::RequestTimeout => f.write_str("the request did not come in time"),
            Self::Overloaded => f.write_str("too many connections, or too many requests of one"),
        }
    }
}

/// So that a request body can fail with it.
impl std::error::Error for EdgeRefusal {}

impl EdgeRefusal {
    pub(super) fn count(self, stats: &EdgeStats) {
        let counter = match self {
            Self::BadRequest(_) => &stats.bad_request,
            Self::HeaderTooLarge => &stats.header_too_large,
            Self::RequestTimeout => &stats.request_timeout,
            Self::Overloaded => &stats.overloaded,
        };
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The bytes of a final response, after which the connection is closed.
pub(super) fn encode(response: &Response<Bytes>, now: Timestamp) -> Vec<u8> {
    let status = response.status();
    let mut wire = Vec::with_capacity(256 + response.body().len());
    wire.extend_from_slice(b"HTTP/1.1 ");
    wire.extend_from_slice(status.as_str().as_bytes());
    wire.push(b' ');
    wire.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    wire.extend_from_slice(b"\r\n");
    for (name, value) in response.headers() {
        if [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::DATE,
        ]
        .contains(name)
        {
            continue;
        }
        push_title_case(&mut wire, name.as_str());
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    let length = response.body().len();
    let own = format!(
        "Date: {}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
        imf_fixdate(now)
    );
    wire.extend_from_slice(own.as_bytes());
    wire.extend_from_slice(response.body());
    wire
}

/// As hyper spells names that did not come from a peer.
fn push_title_case(wire: &mut Vec<u8>, name: &str) {
    let mut upper = true;
    for byte in name.bytes() {
        wire.push(if upper { byte.to_ascii_uppercase() } else { byte });
        upper = byte == b'-';
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7).
fn imf_fixdate(now: Timestamp) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb",
    ];
    let seconds = now.as_millis() / 1000;
    let days = seconds / 86_400;
    // Days since 1 March of the year 0, in cycles of 400 years; a year begins in March, so that a leap day ends one.
    let shifted = days + 719_468;
    let (cycle, day_of_cycle) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = cycle * 400 + year_of_cycle + u64::from(month >= 10);
    let name = |names: &[&'static str], index: u64| {
        usize::try_from(index)
            .ok()
            .and_then(|index| names.get(index))
            .copied()
            .unwrap_or_default()
    };
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        name(&DAYS, days % 7),
        name(&MONTHS, month),
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_http_wants_them() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(imf_fixdate(Timestamp::from_millis(seconds * 1000)), text);
        }
    }

    #[test]
    fn the_framing_of_a_refusal_is_the_edge_s_own() {
        let response = Response::builder()
            .status(431)
            .header("x-request-id", "7")
            .header("content-length", "99")
            .header("connection", "keep-alive")
            .body(Bytes::from_static(b"{}"))
            .unwrap();
        let wire = String::from_utf8(encode(&response, Timestamp::from_millis(0))).unwrap();
        assert_eq!(
            wire,
            "HTTP/1.1 431 Request Header Fields Too Large\r\nX-Request-Id: 7\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
             Content-Length: 2\r\nConnection: close\r\n\r\n{}"
        );
    }
}
