//! The lines of requests as JSON, spelled straight from what there is to tell: in the very form that [`super::json`] gives
//! the same event.

use super::json::{Desk, at_desk};
use super::sink::Sink;
use super::spelling::{escape, escape_bytes, in_thousandths};
use crate::access_log::{Line, TARGET, micros};

/// Writes one.
pub(super) fn write(sink: &Sink, line: &Line<'_>) {
    at_desk(|desk| {
        spell(desk, line);
        sink.push(&desk.line, false);
    });
}

fn spell(Desk { line: out, stamp }: &mut Desk, line: &Line<'_>) {
    out.clear();
    out.extend_from_slice(b"{\"timestamp\":\"");
    stamp.write(line.at, out);
    // Neither our own texts nor a method (RFC 9110 §5.6.2) have anything to be escaped.
    out.extend_from_slice(b"\",\"level\":\"INFO\",\"message\":\"");
    out.extend_from_slice(line.message().as_bytes());
    out.extend_from_slice(b"\",\"method\":\"");
    out.extend_from_slice(line.method.as_str().as_bytes());
    out.extend_from_slice(b"\",\"route\":\"");
    escape(out, line.route);
    if let Some(status) = line.status {
        out.extend_from_slice(b"\",\"status\":");
        out.extend_from_slice(status.as_str().as_bytes());
        out.extend_from_slice(b",\"ms\":");
    } else {
        out.extend_from_slice(b"\",\"ms\":");
    }
    in_thousandths(out, micros(line.took).into());
    if let Some(upstream) = line.upstream {
        out.extend_from_slice(b",\"upstream_ms\":");
        in_thousandths(out, micros(upstream).into());
    }
    out.extend_from_slice(b",\"session\":\"");
    out.extend_from_slice(line.session.as_bytes());
    out.extend_from_slice(b"\",\"request_id\":\"");
    escape_bytes(out, line.request_id.as_bytes());
    if let Some(install) = &line.install {
        out.extend_from_slice(b"\",\"install\":\"");
        out.extend_from_slice(&install.text());
    }
    if let Some(refusal) = line.refusal {
        out.extend_from_slice(b"\",\"refusal\":\"");
        escape(out, refusal);
    }
    if let Some(cause) = line.cause {
        out.extend_from_slice(b"\",\"cause\":\"");
        escape(out, cause);
    }
    out.extend_from_slice(b"\",\"target\":\"");
    out.extend_from_slice(TARGET.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderValue, Method, StatusCode};
    use proptest::prelude::*;

    use super::*;
    use crate::config::{LogFormat, LogLevel};
    use crate::metrics::Outcome;
    use crate::session::store::Key;

    /// A line of JSON without its time, which is checked to be there.
    fn untimed(text: &str) -> &str {
        let (head, rest) = text.split_at("{\"timestamp\":\"2026-01-31T23:59:59.000001Z\"".len());
        assert!(head.starts_with("{\"timestamp\":\"") && head.ends_with("Z\""), "{text}");
        rest
    }

    fn written(line: &Line<'_>) -> String {
        let sink = Sink::kept();
        write(&sink, line);
        sink.content()
    }

    fn emitted(line: &Line<'_>) -> String {
        let sink = Sink::kept();
        let dispatch = super::super::dispatch(LogFormat::Json, LogLevel::Info, false, sink.clone());
        tracing::dispatcher::with_default(&dispatch, || line.emit());
        sink.content()
    }

    #[test]
    fn a_line_tells_when_it_was_told() {
        let line = Line {
            at: Duration::from_micros(1_700_000_000_000_001),
            method: &Method::GET,
            route: "/x",
            status: None,
            took: Duration::ZERO,
            upstream: None,
            session: "none",
            request_id: &HeaderValue::from_static("r"),
            install: None,
            refusal: None,
            cause: None,
        };
        assert_eq!(
            written(&line),
            "{\"timestamp\":\"2023-11-14T22:13:20.000001Z\",\"level\":\"INFO\",\"message\":\"request given up: its connection \
             ended before there was an answer\",\"method\":\"GET\",\"route\":\"/x\",\"ms\":0.0,\"session\":\"none\",\
             \"request_id\":\"r\",\"target\":\"session_bridge::bridge::journal\"}\n"
        );
    }

    proptest! {
        #[test]
        fn a_line_is_what_its_event_is_to_the_last_byte(
            method in "[A-Z!#$%&'*+.^_`|~0-9a-z-]{1,12}",
            route: String,
            status in proptest::option::of(100_u16..1000),
            took in prop_oneof![0_u64..10_000_000_000, any::<u64>()].prop_map(Duration::from_nanos),
            upstream in proptest::option::of((0_u64..10_000_000_000).prop_map(Duration::from_nanos)),
            outcome in 0..Outcome::ALL.len(),
            request_id in "[A-Za-z0-9_.:/+=@~\"\\\\-]{1,128}",
            digest in proptest::option::of(any::<[u8; 16]>()),
            refusal in proptest::option::of(Just("session-wait-timeout")),
            cause: Option<String>,
        ) {
            let line = Line {
                at: Duration::from_secs(1_700_000_000),
                method: &method.parse::<Method>().unwrap(),
                route: &route,
                status: status.map(|status| StatusCode::from_u16(status).unwrap()),
                took,
                upstream,
                session: Outcome::ALL[outcome].text(),
                request_id: &request_id.parse::<HeaderValue>().unwrap(),
                install: digest.map(Key::from_digest),
                refusal,
                cause: cause.as_deref(),
            };
            let (written, emitted) = (written(&line), emitted(&line));
            prop_assert_eq!(untimed(&written), untimed(&emitted));
        }
    }
}
