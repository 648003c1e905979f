//! What operators read: one line for each event, on standard output.
//!
//! * The form is JSON, or text for people; unset, it is text where standard output is a terminal and JSON elsewhere.
//! * `log.level` is about this program. What its libraries say is written from `warn` upwards at most, whatever the
//!   level: their finer lines show header fields, commands and statements, and so cookies, passwords and Install IDs.
//!   Records of the `log` facade are not written at all.
//! * Times are UTC, in the form of RFC 3339 with microseconds.
//! * A reader that hangs or is gone holds nothing up; [`flush`] at the end waits for it a moment.
//! * No line of ours holds a cookie value, an Install ID or a key: such things live in types that cannot print them.

mod output;

use std::error::Error;
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{Log, LogFormat, LogLevel};
use output::Output;

/// The target of our own events: the name of the library.
const OURS: &str = "session_bridge";

/// Where the lines of this process go, once it has been [initialised](init).
static OUTPUT: OnceLock<Output> = OnceLock::new();

/// Makes events go to standard output from now on, for the whole process.
///
/// # Errors
///
/// Where the process has had this done already, or can start no thread for it.
pub fn init(log: &Log) -> Result<(), Box<dyn Error>> {
    let terminal = io::stdout().is_terminal();
    let format = log
        .format
        .unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let output = Output::to(io::stdout())?;
    let writer = output.clone();
    subscriber(format, log.level, terminal, move || writer.clone()).try_init()?;
    let _ = OUTPUT.set(output);
    Ok(())
}

/// Waits until all lines are written, `within` at most: the last thing that the process does.
pub fn flush(within: Duration) {
    if let Some(output) = OUTPUT.get() {
        output.flush(within);
    }
}

fn subscriber<W>(format: LogFormat, level: LogLevel, colours: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A log that nobody reads any more must not be told on standard error: that may be closed as well, at which the
    // macro that writes there panics.
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .log_internal_errors(false)
            .with_writer(writer)
            .boxed(),
        LogFormat::Text => fmt::layer()
            .with_ansi(colours)
            .log_internal_errors(false)
            .with_writer(writer)
            .boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter(level)))
}

fn filter(level: LogLevel) -> Targets {
    let ours = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        .with_target(OURS, ours)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of the events of `emit`.
    fn written(format: LogFormat, level: LogLevel, emit: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(subscriber(format, level, false, move || writer.clone()), emit);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
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
            let text = written(LogFormat::Text, level, emit);
            let seen: Vec<_> = all.into_iter().filter(|event| text.contains(event)).collect();
            assert_eq!(seen, expected, "{level:?}");
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
    fn text_is_one_line_an_event_without_colours_off_a_terminal() {
        let emit = || tracing::info!(target: "session_bridge", key = "\u{1b}[31m", "started");
        let text = written(LogFormat::Text, LogLevel::Info, emit);
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("INFO session_bridge: started"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
