use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::session::store::StoreError;

const MOMENT: Duration = Duration::from_millis(3);

/// Metrics on which everything has happened once.
fn all_happened() -> Metrics {
    let metrics = Metrics::new(&["one", "two"]);
    for method in Method::ALL {
        for status in StatusClass::ALL {
            for outcome in Outcome::ALL {
                metrics.request(*method, *status, *outcome, MOMENT);
            }
        }
    }
    for op in StoreOp::ALL {
        for result in StoreResult::ALL {
            metrics.store_operation(*op, *result, MOMENT);
        }
    }
    LeaseEvent::ALL.iter().for_each(|event| metrics.lease(*event));
    RecordFlaw::ALL.iter().for_each(|flaw| metrics.record_unreadable(*flaw));
    CookieDrop::ALL
        .iter()
        .for_each(|reason| metrics.cookie_dropped(*reason));
    ["one", "two"].into_iter().for_each(|slug| metrics.refusal(slug));
    metrics.upstream(MOMENT);
    metrics.session_created();
    metrics.session_replaced();
    metrics.session_ended();
    LostAnswer::ALL.iter().for_each(|answer| metrics.session_lost(*answer));
    metrics.session_wait(MOMENT);
    metrics.set_cookies_stripped(1);
    metrics.commit_conflict();
    metrics.commit_retried();
    metrics.commits_superseded(1);
    Abandoned::ALL
        .iter()
        .for_each(|reason| metrics.commits_abandoned(*reason, 1));
    metrics.touched();
    for (source, _, _) in Sources::GAUGES.into_iter().chain(Sources::COUNTERS) {
        metrics.read_from(source, || 1);
    }
    metrics
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

type Shape = BTreeMap<String, (String, BTreeSet<String>)>;

/// Metric → type and labels, as the module documentation has it.
fn catalogue() -> Shape {
    let rows = include_str!("../metrics.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `session_bridge_"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let labels = cells[2]
            .split(", ")
            .filter(|label| !label.is_empty())
            .map(str::to_owned)
            .collect();
        assert!(cells[3].len() > 5, "no meaning: {row}");
        (format!("session_bridge_{}", cells[0]), (cells[1].clone(), labels))
    })
    .collect()
}

/// Metric → type and labels, as encoded.
fn encoded(text: &str) -> Shape {
    let mut shape = Shape::new();
    let mut current = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let suffix = if kind == "counter" { "_total" } else { "" };
            current = (format!("{name}{suffix}"), kind.to_owned());
            shape.insert(current.0.clone(), (current.1.clone(), BTreeSet::new()));
        } else if let Some((_, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let names = labels.split('=').filter_map(|part| part.rsplit(['{', ',', '"']).next());
            let names = names.filter(|name| !name.is_empty() && *name != "le" && !name.starts_with('}'));
            shape.get_mut(&current.0).unwrap().1.extend(names.map(str::to_owned));
        }
    }
    shape
}

#[test]
fn the_catalogue_is_what_is_encoded() {
    assert_eq!(encoded(&all_happened().encode()), catalogue());
}

#[test]
fn each_thing_that_happens_is_counted_once_in_its_own_series() {
    let text = all_happened().encode();
    for method in Method::ALL {
        for status in StatusClass::ALL {
            for outcome in Outcome::ALL {
                let (method, status, outcome) = (method.text(), status.text(), outcome.text());
                let labels = format!("{{method=\"{method}\",status=\"{status}\",outcome=\"{outcome}\"}}");
                assert_eq!(
                    value(&text, &format!("session_bridge_requests_total{labels}")),
                    Some(1.0),
                    "{labels}"
                );
            }
        }
    }
    for reason in Abandoned::ALL {
        let series = format!("session_bridge_commits_abandoned_total{{reason=\"{}\"}}", reason.text());
        assert_eq!(value(&text, &series), Some(1.0), "{series}");
    }
    for op in StoreOp::ALL {
        for result in StoreResult::ALL {
            let labels = format!("{{op=\"{}\",result=\"{}\"}}", op.text(), result.text());
            let series = format!("session_bridge_store_operations_total{labels}");
            assert_eq!(value(&text, &series), Some(1.0), "{labels}");
        }
        let series = format!(
            "session_bridge_store_operation_duration_seconds_count{{op=\"{}\"}}",
            op.text()
        );
        assert_eq!(value(&text, &series), Some(StoreResult::ALL.len() as f64));
    }
    for series in catalogue()
        .into_iter()
        .filter(|(_, (kind, labels))| kind != "histogram" && labels.is_empty())
    {
        assert_eq!(value(&text, &series.0), Some(1.0), "{}", series.0);
    }
}

#[test]
fn alerts_find_their_series_before_anything_happened() {
    let text = Metrics::new(&["overloaded"]).encode();
    for series in [
        "session_bridge_refusals_total{slug=\"overloaded\"}",
        "session_bridge_leases_total{event=\"lost\"}",
        "session_bridge_cookies_dropped_total{reason=\"lost\"}",
        "session_bridge_commits_abandoned_total{reason=\"full\"}",
        "session_bridge_records_unreadable_total{reason=\"unknown_key\"}",
        "session_bridge_upstream_connects_total",
        "session_bridge_ready",
    ] {
        assert_eq!(value(&text, series), Some(0.0), "{series}");
    }
}

#[test]
fn an_unknown_slug_makes_no_series() {
    let metrics = Metrics::new(&["overloaded"]);
    metrics.refusal("made-up");
    assert!(!metrics.encode().contains("made-up"));
}

#[test]
fn what_is_kept_elsewhere_is_read_when_asked_for() {
    let metrics = Metrics::new(&[]);
    let connections = Arc::new(AtomicU64::new(3));
    let read = Arc::clone(&connections);
    metrics.read_from(Source::ClientConnections, move || read.load(Ordering::Relaxed));
    assert_eq!(value(&metrics.encode(), "session_bridge_client_connections"), Some(3.0));
    connections.store(7, Ordering::Relaxed);
    assert_eq!(value(&metrics.encode(), "session_bridge_client_connections"), Some(7.0));
}

#[test]
fn labels_are_taken_from_what_happened() {
    assert_eq!(Method::from(&http::Method::POST), Method::Post);
    assert_eq!(Method::from(&http::Method::from_bytes(b"BREW").unwrap()), Method::Other);
    assert_eq!(StatusClass::from(http::StatusCode::NOT_FOUND), StatusClass::ClientError);
    assert_eq!(
        StatusClass::from(http::StatusCode::from_u16(999).unwrap()),
        StatusClass::Other
    );
    assert_eq!(StoreResult::from(&Ok::<_, StoreError>(())), StoreResult::Ok);
    assert_eq!(
        StoreResult::from(&Err::<(), _>(StoreError::Timeout)),
        StoreResult::Timeout
    );
}
