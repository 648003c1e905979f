//! Events as JSON, an object a line: `timestamp`, `level`, `message`, the fields of the event, `target`.
//!
//! Written by hand, since every request makes one: the general machinery of layers and serializers took three times
//! as long, which was more than reading and checking the request itself.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::is_urgent;
use super::sink::Sink;
use super::spelling::{Bare, Escaped, escape, fraction, is_plain, unsigned};
use super::stamp::Stamp;
use crate::session::clock::{Clock as _, SystemClock};

/// What a thread writes its lines with.
pub(super) struct Desk {
    pub(super) line: Vec<u8>,
    pub(super) stamp: Stamp,
}

impl Desk {
    fn new() -> Self {
        Self {
            line: Vec::new(),
            stamp: Stamp::new(),
        }
    }
}

thread_local! {
    static DESK: RefCell<Desk> = RefCell::new(Desk::new());
}

/// Writes a line at the desk of this thread.
pub(super) fn at_desk(write: impl FnOnce(&mut Desk)) {
    DESK.with(|desk| {
        // A value whose text logs something itself finds the desk in use: it gets one of its own.
        match desk.try_borrow_mut() {
            Ok(mut desk) => write(&mut desk),
            Err(_) => write(&mut Desk::new()),
        }
    });
}

/// Writes the events that `filter` lets through. Spans are not told: nothing here opens one.
pub(super) struct JsonLines {
    filter: Targets,
    most: LevelFilter,
    sink: Sink,
    /// An event can come whose target, or the name of a field of it, has to be escaped.
    odd_names: AtomicBool,
}

impl JsonLines {
    /// `most`: nothing finer than this gets through `filter`.
    pub(super) const fn new(filter: Targets, most: LevelFilter, sink: Sink) -> Self {
        Self {
            filter,
            most,
            sink,
            odd_names: AtomicBool::new(false),
        }
    }

    fn lets_through(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.filter.would_enable(metadata.target(), metadata.level())
    }
}

impl Subscriber for JsonLines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.lets_through(metadata) {
            // Every event is heard of here before it first comes: its names need not be looked at again.
            let mut names = metadata.fields().iter().map(|field| field.name());
            if !is_plain(metadata.target().as_bytes()) || !names.all(|name| is_plain(name.as_bytes())) {
                self.odd_names.store(true, Ordering::Relaxed);
            }
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
        at_desk(|desk| self.write(desk, event));
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
    fn write(&self, Desk { line, stamp }: &mut Desk, event: &Event<'_>) {
        let metadata = event.metadata();
        line.clear();
        line.extend_from_slice(b"{\"timestamp\":\"");
        stamp.write(SystemClock.since_epoch(), line);
        line.extend_from_slice(b"\",\"level\":\"");
        line.extend_from_slice(level(*metadata.level()).as_bytes());
        line.push(b'"');
        let odd_names = self.odd_names.load(Ordering::Relaxed);
        event.record(&mut Fields { line, odd_names });
        line.extend_from_slice(b",\"target\":\"");
        name(line, metadata.target(), odd_names);
        line.extend_from_slice(b"\"}\n");
        self.sink.push(line, is_urgent(metadata));
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

/// The fields of an event, each behind a comma. Writing into memory cannot fail.
struct Fields<'a> {
    line: &'a mut Vec<u8>,
    odd_names: bool,
}

fn name(line: &mut Vec<u8>, name: &str, odd: bool) {
    if odd {
        escape(line, name);
    } else {
        line.extend_from_slice(name.as_bytes());
    }
}

impl Fields<'_> {
    fn name(&mut self, field: &Field) {
        self.line.extend_from_slice(b",\"");
        name(self.line, field.name(), self.odd_names);
        self.line.extend_from_slice(b"\":");
    }

    fn text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        self.name(field);
        self.line.push(b'"');
        let _ = Escaped(self.line).write_fmt(text);
        self.line.push(b'"');
    }

    fn bare(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.name(field);
        let _ = Bare(self.line).write_fmt(value);
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        self.line.push(b'"');
        escape(self.line, value);
        self.line.push(b'"');
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field);
        self.line.extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field);
        if value < 0 {
            self.line.push(b'-');
        }
        unsigned(self.line, value.unsigned_abs());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        unsigned(self.line, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.name(field);
        if value.is_finite() {
            fraction(self.line, value);
        } else {
            self.line.extend_from_slice(b"null");
        }
    }
}
