//! What operators read: one line for each event, on standard output.
//!
//! * The form is JSON, or text for people; unset, it is text where standard output is a terminal and JSON elsewhere.
//! * `log.level` is about this program. What its libraries say is written from `warn` upwards at most, whatever the
//!   level: their finer lines show header fields, commands and statements, and so cookies, passwords and Install IDs.
//!   Records of the `log` facade are not written at all.
//! * Times are UTC, in the form of RFC 3339 with microseconds.
//! * No line of ours holds a cookie value, an Install ID or a key: such things live in types that cannot print them.

//!
//! A line is written within some ten milliseconds, those of `warn` and above at once. Nobody waits for standard output:
//! when its reader is too slow, lines are dropped, and a line says how many.

use std::io::{self, IsTerminal};
use std::panic;
use std::time::Duration;

use tracing::{Dispatch, Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, fmt};

use crate::access_log;
use crate::config::{Log, LogFormat, LogLevel};

mod json;
mod requests;
mod sink;
mod spelling;
mod stamp;

use json::JsonLines;
use sink::{Line, Sink};

/// The target of our own events: the name of the library.
const OURS: &str = "session_bridge";

/// How long the end of the process waits for the last lines to be taken.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long a panic does.
const LINES_BEFORE_PANIC: Duration = Duration::from_millis(50);

/// Writes what is left when it is dropped: to be kept until the end of the process.
#[must_use = "dropped at once, it does not write the last lines"]
pub struct Flush(Sink);

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES);
    }
}

/// Makes events go to standard output from now on, for the whole process.
///
/// # Errors
///
/// Where the process has had this done already, or has no room for the thread that writes.
pub fn init(log: &Log) -> io::Result<Flush> {
    let terminal = io::stdout().is_terminal();
    let format = log
        .format
        .unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let sink = Sink::start(io::stdout(), |lines| {
        tracing::warn!(
            lines,
            "log lines were dropped: standard output does not take them fast enough"
        );
    })?;
    if spells_requests(format, log.level) {
        let sink = sink.clone();
        access_log::take_by(move |line| requests::write(&sink, line));
    }
    tracing::dispatcher::set_global_default(dispatch(format, log.level, terminal, sink.clone()))
        .map_err(io::Error::other)?;
    let (told, before) = (sink.clone(), panic::take_hook());
    panic::set_hook(Box::new(move |panic| {
        // What led to it had better be on record, should this be the end.
        told.flush(LINES_BEFORE_PANIC);
        before(panic);
    }));
    Ok(Flush(sink))
}

fn dispatch(format: LogFormat, level: LogLevel, colours: bool, sink: Sink) -> Dispatch {
    let (filter, most) = filter(level);
    match format {
        LogFormat::Json => Dispatch::new(JsonLines::new(filter, most, sink)),
        LogFormat::Text => {
            // What cannot be written must not be told on standard error: that may be closed as well, at which the macro
            // that writes there panics.
            let layer = fmt::layer()
                .with_ansi(colours)
                .log_internal_errors(false)
                .with_writer(sink);
            Dispatch::new(tracing_subscriber::registry().with(layer.with_filter(filter)))
        }
    }
}

/// Whether lines of requests are wanted, in the form that [`requests`] knows.
fn spells_requests(format: LogFormat, level: LogLevel) -> bool {
    format == LogFormat::Json && filter(level).0.would_enable(access_log::TARGET, &Level::INFO)
}

/// Whether an event is to be written at once.
fn is_urgent(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::WARN
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line::new(self, false)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line::new(self, is_urgent(metadata))
    }
}

/// What gets through, and the finest level of it.
fn filter(level: LogLevel) -> (Targets, LevelFilter) {
    let ours = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let targets = Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        .with_target(OURS, ours);
    (targets, ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written of the events of `emit`.
    fn written(format: LogFormat, level: LogLevel, emit: impl FnOnce()) -> String {
        let sink = Sink::kept();
        tracing::dispatcher::with_default(&dispatch(format, level, false, sink.clone()), emit);
        sink.content()
    }

    #[test]
    fn libraries_are_heard_from_warn_upwards_whatever_the_level() {
        let emit = || {
            tracing::trace!(target: "session_bridge::bridge", "ours-trace");
            tracing::info!(target: "session_bridge", "ours-info");
            tracing::error!(target: "session_bridge", "ours-error");
            tracing::trace!(target: "h2::codec", "theirs-trace");
            tracing::info!(target: "sqlx::query", "theirs-info");
            tracing::warn!(target: "redis", "theirs-warn");
            tracing::error!(target: "hyper", "theirs-error");
        };
        let all = [
            "ours-trace",
            "ours-info",
            "ours-error",
            "theirs-trace",
            "theirs-info",
            "theirs-warn",
            "theirs-error",
        ];
        for (level, expected) in [
            (
                LogLevel::Trace,
                vec!["ours-trace", "ours-info", "ours-error", "theirs-warn", "theirs-error"],
            ),
            (
                LogLevel::Debug,
                vec!["ours-info", "ours-error", "theirs-warn", "theirs-error"],
            ),
            (
                LogLevel::Info,
                vec!["ours-info", "ours-error", "theirs-warn", "theirs-error"],
            ),
            (LogLevel::Warn, vec!["ours-error", "theirs-warn", "theirs-error"]),
            (LogLevel::Error, vec!["ours-error", "theirs-error"]),
            (LogLevel::Off, vec![]),
        ] {
            for format in [LogFormat::Text, LogFormat::Json] {
                let text = written(format, level, emit);
                let seen: Vec<_> = all.into_iter().filter(|event| text.contains(event)).collect();
                assert_eq!(seen, expected, "{format:?} {level:?}");
            }
        }
    }

    #[test]
    fn requests_are_spelled_where_their_events_would_be_written_as_json() {
        for (level, wanted) in [
            (LogLevel::Off, false),
            (LogLevel::Error, false),
            (LogLevel::Warn, false),
            (LogLevel::Info, true),
            (LogLevel::Debug, true),
            (LogLevel::Trace, true),
        ] {
            assert_eq!(spells_requests(LogFormat::Json, level), wanted, "{level:?}");
            assert!(!spells_requests(LogFormat::Text, level), "{level:?}");
        }
    }

    #[test]
    fn json_is_one_object_a_line_with_the_time_in_utc() {
        let text = written(LogFormat::Json, LogLevel::Info, || {
            tracing::info!(target: "session_bridge", key = "a\nb", "started");
            tracing::warn!(target: "session_bridge", "stopped");
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (&lines[0]["message"], &lines[0]["level"]),
            (&"started".into(), &"INFO".into())
        );
        assert_eq!(
            (&lines[0]["key"], &lines[0]["target"]),
            (&"a\nb".into(), &"session_bridge".into())
        );
        let time = lines[0]["timestamp"].as_str().unwrap();
        assert_eq!(
            (time.len(), time.get(10..11), time.ends_with('Z')),
            (27, Some("T"), true),
            "{time}"
        );
    }

    #[test]
    fn json_holds_values_of_every_type_as_they_are() {
        let nasty = "\u{1}\"\\\t\r\n\u{7f}é\u{1f600}";
        let text = written(LogFormat::Json, LogLevel::Info, || {
            tracing::info!(
                target: "session_bridge::bridge",
                text = nasty,
                shown = %nasty,
                told = ?nasty,
                none = None::<u64>,
                some = Some(7_u16),
                number = -3_i64,
                large = u128::MAX,
                part = 0.25,
                whole = 4.0,
                not = f64::NAN,
                yes = true,
                error = &std::io::Error::other(nasty) as &dyn std::error::Error,
                "{} it is", "here",
            );
        });
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        for name in ["text", "shown", "error"] {
            assert_eq!(line[name], nasty, "{name}");
        }
        assert_eq!(line["told"], format!("{nasty:?}"));
        assert_eq!(
            (&line["none"], &line["not"]),
            (&serde_json::Value::Null, &serde_json::Value::Null)
        );
        assert_eq!((&line["some"], &line["number"]), (&7.into(), &(-3).into()));
        assert!(text.contains(&format!("\"large\":{}", u128::MAX)), "{text}");
        assert_eq!(
            (&line["part"], &line["whole"], &line["yes"]),
            (&0.25.into(), &4.0.into(), &true.into())
        );
        assert_eq!(line["message"], "here it is");
        assert!(text.starts_with("{\"timestamp\":\"20"), "{text}");
        assert!(text.ends_with(",\"target\":\"session_bridge::bridge\"}\n"), "{text}");
    }

    #[test]
    fn json_holds_names_that_need_escapes_as_they_are() {
        let plain = written(LogFormat::Json, LogLevel::Info, || {
            tracing::info!(target: "session_bridge", plain = 1, "first");
        });
        assert!(plain.contains("\"plain\":1,\"target\":\"session_bridge\"}"), "{plain}");
        let sink = Sink::kept();
        tracing::dispatcher::with_default(&dispatch(LogFormat::Json, LogLevel::Info, false, sink.clone()), || {
            tracing::info!(target: "session_bridge", { "a\"name\n" = 1 }, "second");
            tracing::info!(target: "session_bridge::\\", plain = 2, "third");
        });
        let text = sink.content();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["a\"name\n"], 1);
        assert_eq!(lines[1]["target"], "session_bridge::\\");
    }

    #[test]
    fn text_is_one_line_an_event_without_colours_off_a_terminal() {
        let emit = || tracing::info!(target: "session_bridge", key = "\u{1b}[31m", "started");
        let text = written(LogFormat::Text, LogLevel::Info, emit);
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("INFO session_bridge: started"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
