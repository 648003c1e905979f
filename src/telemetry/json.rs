//! Events as JSON, an object a line: `timestamp`, `level`, `message`, the fields of the event, `target`.
//!
//! Written by hand, since every request makes one: the general machinery of layers and serializers took three times
//! as long, which was more than reading and checking the request itself.

use std::cell::RefCell;
use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::is_urgent;
use super::sink::Sink;

thread_local! {
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Writes the events that `filter` lets through. Spans are not told: nothing here opens one.
pub(super) struct JsonLines {
    filter: Targets,
    most: LevelFilter,
    sink: Sink,
}

impl JsonLines {
    /// `most`: nothing finer than this gets through `filter`.
    pub(super) const fn new(filter: Targets, most: LevelFilter, sink: Sink) -> Self {
        Self { filter, most, sink }
    }

    fn lets_through(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.filter.would_enable(metadata.target(), metadata.level())
    }
}

impl Subscriber for JsonLines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.lets_through(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.lets_through(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.most)
    }

    fn event(&self, event: &Event<'_>) {
        LINE.with(|line| {
            // A value whose text logs something itself finds the line in use: it gets one of its own.
            match line.try_borrow_mut() {
                Ok(mut line) => self.write(&mut line, event),
                Err(_) => self.write(&mut String::new(), event),
            }
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl JsonLines {
    fn write(&self, line: &mut String, event: &Event<'_>) {
        let metadata = event.metadata();
        line.clear();
        line.push_str("{\"timestamp\":\"");
        // Writing into a string cannot fail, here and below.
        let _ = SystemTime.format_time(&mut Writer::new(line));
        line.push_str("\",\"level\":\"");
        line.push_str(level(*metadata.level()));
        line.push('"');
        event.record(&mut Fields(line));
        line.push_str(",\"target\":\"");
        escape(line, metadata.target());
        line.push_str("\"}\n");
        self.sink.push(line.as_bytes(), is_urgent(metadata));
    }
}

const fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

/// The fields of an event, each behind a comma.
struct Fields<'a>(&'a mut String);

impl Fields<'_> {
    fn name(&mut self, field: &Field) {
        self.0.push_str(",\"");
        escape(self.0, field.name());
        self.0.push_str("\":");
    }

    fn text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        self.name(field);
        self.0.push('"');
        match text.as_str() {
            Some(text) => escape(self.0, text),
            None => {
                let _ = Escaped(self.0).write_fmt(text);
            }
        }
        self.0.push('"');
    }

    fn bare(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.name(field);
        let _ = self.0.write_fmt(value);
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        self.0.push('"');
        escape(self.0, value);
        self.0.push('"');
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field, format_args!("{value:?}"));
        } else {
            self.bare(field, format_args!("null"));
        }
    }
}

/// Writes into a JSON string.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

/// Appends `text` as it stands within quotes (RFC 8259 §7).
fn escape(line: &mut String, text: &str) {
    let special = |byte: &u8| *byte < 0x20 || matches!(*byte, b'"' | b'\\');
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| special(&byte)) {
        let (plain, from) = rest.split_at_checked(at).unwrap_or((rest, ""));
        line.push_str(plain);
        let mut characters = from.chars();
        match characters.next() {
            Some('"') => line.push_str("\\\""),
            Some('\\') => line.push_str("\\\\"),
            Some('\n') => line.push_str("\\n"),
            Some('\r') => line.push_str("\\r"),
            Some('\t') => line.push_str("\\t"),
            Some(control) => {
                let _ = write!(line, "\\u{:04x}", u32::from(control));
            }
            None => {}
        }
        rest = characters.as_str();
    }
    line.push_str(rest);
}
