//! The status page: readiness at a glance, for people.

use std::fmt::Write;

use axum::body::Body;
use axum::extract::State;
use http::{Response, StatusCode};

use super::health::Report;
use super::sessions::rfc3339;
use super::{HTML, Ops, respond};

pub(super) async fn page(State(ops): State<Ops>) -> Response<Body> {
    respond(StatusCode::OK, HTML, render(&ops.readiness.report()))
}

fn render(report: &Report) -> String {
    let state = match (report.draining, report.ready) {
        (true, _) => "shutting down",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    let mut rows = String::new();
    for (name, part) in &report.parts {
        let state = if part.ok { "works" } else { "fails" };
        let needed = if part.required { "required" } else { "reported only" };
        let since = rfc3339(part.since);
        let reason = escape(part.reason.as_deref().unwrap_or_default());
        // Writing into a string cannot fail.
        let _ = writeln!(
            rows,
            "<tr><td>{name}</td><td>{state}</td><td>{since}</td><td>{needed}</td><td>{reason}</td></tr>"
        );
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>session-bridge: {state}</title>\n\
         <h1>session-bridge {version}</h1>\n<p>This replica is <strong>{state}</strong>.</p>\n\
         <table>\n<tr><th>part</th><th>state</th><th>since</th><th>weight</th><th>reason</th></tr>\n{rows}</table>\n\
         <p><a href=\"/readyz\">readyz</a> <a href=\"/livez\">livez</a> <a href=\"/metrics\">metrics</a></p>\n</html>\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::health::{Patience, Readiness, Weight};
    use super::render;
    use crate::session::clock::{ManualClock, Timestamp};
    use std::sync::Arc;

    #[test]
    fn the_page_tells_the_state_of_each_part() {
        let clock = ManualClock::at(Timestamp::from_millis(1_000));
        let mut readiness = Readiness::new(Arc::new(clock));
        readiness
            .part("store", Weight::Required, Patience::NONE)
            .failed("no answer");
        readiness.part("upstream", Weight::Reported, Patience::NONE).ok();
        let page = render(&readiness.report());
        assert!(page.contains("<strong>not ready</strong>"), "{page}");
        assert!(
            page.contains(
                "<td>store</td><td>fails</td><td>1970-01-01T00:00:01.000Z</td><td>required</td><td>no answer</td>"
            ),
            "{page}"
        );
        assert!(
            page.contains(
                "<td>upstream</td><td>works</td><td>1970-01-01T00:00:01.000Z</td><td>reported only</td><td></td>"
            ),
            "{page}"
        );
        readiness.start_draining();
        assert!(render(&readiness.report()).contains("<strong>shutting down</strong>"));
    }

    #[test]
    fn a_reason_cannot_become_markup() {
        let mut readiness = Readiness::default();
        readiness
            .part("store", Weight::Required, Patience::NONE)
            .failed("<script>&");
        let page = render(&readiness.report());
        assert!(
            page.contains("&lt;script&gt;&amp;") && !page.contains("<script>"),
            "{page}"
        );
    }
}
