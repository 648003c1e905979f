//! Header fields of one message, in the order and the spelling in which they came (H1).
//!
//! A message that is passed on keeps nearly all of its fields. So a head that was read stays the one buffer that it came
//! in, a field is where its name and its value are in that, and what nobody has touched is written by copying whole lines.
//! There are a dozen or two of them: to go through all costs less than any hash would.
//!
//! Trailers, and what the libraries for HTTP/2 and for calls of our own take, are [`HeaderMap`]s: [`Fields::from_map`],
//! [`Fields::to_map`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

pub mod name;

/// How many fields there is room for beside those that were read: what a proxy adds.
const ADDED: usize = 10;

/// See the [module](self).
#[derive(Clone, Default)]
pub struct Fields {
    /// The head that the lines were read from.
    head: Bytes,
    lines: Vec<Line>,
    /// What was set here. It stays when its line is taken off.
    set: Vec<(FieldName, HeaderValue)>,
    marks: Marks,
}

/// Small, since lines are moved up when others are taken off.
#[derive(Clone, Copy)]
enum Line {
    /// As it came: where in the head.
    Read { name: Span, value: Span },
    /// Set here: which of them.
    Set(u32),
}

/// Where something is in the head, which is never as long as 4 GiB.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn of(part: &[u8], head: &[u8]) -> Option<Self> {
        let start = part.as_ptr().addr().checked_sub(head.as_ptr().addr())?;
        let end = start.checked_add(part.len()).filter(|&end| end <= head.len())?;
        Some(Self {
            start: u32::try_from(start).ok()?,
            end: u32::try_from(end).ok()?,
        })
    }

    const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The name of a field that is set, as it is written. Names are the same whatever their case.
#[derive(Clone)]
pub struct FieldName(Spelt);

#[derive(Clone)]
enum Spelt {
    Known(&'static str),
    Made(Arc<str>),
}

impl FieldName {
    /// A name of the configuration, written `Like-This`.
    #[must_use]
    pub fn new(name: &HeaderName) -> Self {
        let mut spelt = Vec::with_capacity(name.as_str().len());
        write_title_case(&mut spelt, name.as_str());
        // It was text before.
        let spelt = String::from_utf8(spelt).unwrap_or_else(|_| name.as_str().to_owned());
        Self(Spelt::Made(spelt.into()))
    }

    /// A name as a peer has spelt it.
    pub(super) fn spelt(name: &str) -> Self {
        Self(Spelt::Made(name.into()))
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Spelt::Known(name) => name,
            Spelt::Made(name) => name,
        }
    }
}

impl From<&'static str> for FieldName {
    fn from(name: &'static str) -> Self {
        Self(Spelt::Known(name))
    }
}

impl fmt::Debug for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which names there may be: one bit for each length and first letter. What has none of the bit need not be looked for.
#[derive(Clone, Copy, Default)]
struct Marks(u64);

impl Marks {
    fn bit(name: &[u8]) -> u64 {
        let first = name.first().map_or(0, |byte| usize::from(byte | 0x20));
        1 << ((name.len() * 7 + first) & 63)
    }

    fn add(&mut self, name: &[u8]) {
        self.0 |= Self::bit(name);
    }

    fn may_hold(self, name: &str) -> bool {
        self.0 & Self::bit(name.as_bytes()) != 0
    }
}

impl Fields {
    /// None at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// None yet, of a head that is about to be taken apart, of some `count` lines.
    pub(super) fn of(head: Bytes, count: usize) -> Self {
        Self {
            head,
            lines: Vec::with_capacity(count + ADDED),
            set: Vec::new(),
            marks: Marks::default(),
        }
    }

    /// Adds a line of the head that this was made [of](Self::of). `None` when they are no parts of it.
    pub(super) fn push_read(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let (name_at, value_at) = (Span::of(name, &self.head)?, Span::of(value, &self.head)?);
        self.marks.add(name);
        self.lines.push(Line::Read {
            name: name_at,
            value: value_at,
        });
        Some(())
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|&line| (self.name_of(line), self.value_of(line)))
    }

    /// The value of the first line of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.find(name).map(|line| self.value_of(line))
    }

    /// The same, to be kept.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<HeaderValue> {
        self.find(name).and_then(|line| self.shared(line))
    }

    /// The values of all lines of that name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.lines_of(name).map(|line| self.value_of(line))
    }

    /// The same, to be kept.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = HeaderValue> {
        self.lines_of(name).filter_map(|line| self.shared(line))
    }

    /// The members of a comma-separated field, over all its lines, without the blanks around them.
    pub fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.all(name)
            .flat_map(|line| line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
    }

    /// Whether there is a line of that name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// One line of that name, in the place of the first there was.
    pub fn insert(&mut self, name: impl Into<FieldName>, value: HeaderValue) {
        let name = name.into();
        let Some(at) = self.position(name.as_str()) else {
            return self.append(name, value);
        };
        let mut index = 0;
        self.retain(|this| {
            index += 1;
            index <= at + 1 || !is(this, name.as_str())
        });
        let new = self.keep(name, value);
        if let Some(line) = self.lines.get_mut(at) {
            *line = new;
        }
    }

    /// One more line of that name.
    pub fn append(&mut self, name: impl Into<FieldName>, value: HeaderValue) {
        let name = name.into();
        self.marks.add(name.as_str().as_bytes());
        let line = self.keep(name, value);
        self.lines.push(line);
    }

    fn keep(&mut self, name: FieldName, value: HeaderValue) -> Line {
        if self.set.capacity() == 0 {
            self.set.reserve_exact(ADDED);
        }
        self.set.push((name, value));
        // No message has so many that this would not hold.
        Line::Set(u32::try_from(self.set.len() - 1).unwrap_or(u32::MAX))
    }

    /// Takes all lines of that name off.
    pub fn remove(&mut self, name: &str) {
        if self.marks.may_hold(name) {
            self.retain(|this| !is(this, name));
        }
    }

    /// Takes all lines of that name off, and returns their values in order.
    pub fn take(&mut self, name: &str) -> Vec<HeaderValue> {
        let taken: Vec<_> = self.values(name).collect();
        if !taken.is_empty() {
            self.remove(name);
        }
        taken
    }

    /// Keeps the lines of whose name `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) {
        let Self { head, lines, set, .. } = self;
        lines.retain(|line| keep(name_of(head, set, *line)));
    }

    /// Writes the lines, each with its CRLF.
    pub(super) fn write(&self, wire: &mut BytesMut) {
        // Lines that are next to each other in the head are copied at once.
        let mut pending: Option<Range<usize>> = None;
        for &line in &self.lines {
            let whole = self.whole(line);
            match (&mut pending, whole) {
                (Some(pending), Some(whole)) if pending.end == whole.start => pending.end = whole.end,
                (_, whole) => {
                    self.copy(wire, std::mem::replace(&mut pending, whole));
                    if pending.is_none() {
                        wire.put_slice(self.name_of(line));
                        wire.put_slice(b": ");
                        wire.put_slice(self.value_of(line));
                        wire.put_slice(b"\r\n");
                    }
                }
            }
        }
        self.copy(wire, pending);
    }

    fn copy(&self, wire: &mut BytesMut, span: Option<Range<usize>>) {
        if let Some(bytes) = span.and_then(|span| self.head.get(span)) {
            wire.put_slice(bytes);
        }
    }

    /// Where a line that was read is, if it looks just as one that is written.
    fn whole(&self, line: Line) -> Option<Range<usize>> {
        let Line::Read { name, value } = line else { return None };
        let (name, value) = (name.range(), value.range());
        let as_written = self.head.get(name.end..value.start) == Some(b": ")
            && self.head.get(value.end..value.end + 2) == Some(b"\r\n");
        as_written.then_some(name.start..value.end + 2)
    }

    /// The same fields, their names `Like-This`.
    #[must_use]
    pub fn from_map(map: &HeaderMap) -> Self {
        let size = map
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum();
        let mut head = BytesMut::with_capacity(size);
        let mut spans = Vec::with_capacity(map.len());
        for (name, value) in map {
            let start = head.len();
            write_title_case(&mut head, name.as_str());
            let end = head.len();
            head.put_slice(b": ");
            let from = head.len();
            head.put_slice(value.as_bytes());
            spans.push((start..end, from..head.len()));
            head.put_slice(b"\r\n");
        }
        let head = head.freeze();
        let mut fields = Self::of(head.clone(), spans.len());
        for (name, value) in spans {
            if let (Some(name), Some(value)) = (head.get(name), head.get(value)) {
                fields.push_read(name, value);
            }
        }
        fields
    }

    /// The same fields, as the libraries take them. What those cannot hold is left out.
    #[must_use]
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.lines.len());
        for &line in &self.lines {
            if let (Ok(name), Some(value)) = (HeaderName::from_bytes(self.name_of(line)), self.shared(line)) {
                map.append(name, value);
            }
        }
        map
    }

    fn lines_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Line> {
        let lines: &[Line] = if self.marks.may_hold(name) { &self.lines } else { &[] };
        lines.iter().copied().filter(move |&line| is(self.name_of(line), name))
    }

    fn find(&self, name: &str) -> Option<Line> {
        self.position(name).and_then(|at| self.lines.get(at).copied())
    }

    fn position(&self, name: &str) -> Option<usize> {
        if !self.marks.may_hold(name) {
            return None;
        }
        self.lines.iter().position(|&line| is(self.name_of(line), name))
    }

    fn name_of(&self, line: Line) -> &[u8] {
        name_of(&self.head, &self.set, line)
    }

    fn value_of(&self, line: Line) -> &[u8] {
        match line {
            Line::Read { value, .. } => self.head.get(value.range()).unwrap_or_default(),
            Line::Set(at) => self.set.get(at as usize).map_or(&[], |(_, value)| value.as_bytes()),
        }
    }

    fn shared(&self, line: Line) -> Option<HeaderValue> {
        match line {
            Line::Read { value, .. } => HeaderValue::from_maybe_shared(self.head.slice(value.range())).ok(),
            Line::Set(at) => self.set.get(at as usize).map(|(_, value)| value.clone()),
        }
    }
}

/// Of names and values that are known to be good.
impl FromIterator<(&'static str, &'static str)> for Fields {
    fn from_iter<I: IntoIterator<Item = (&'static str, &'static str)>>(lines: I) -> Self {
        let mut fields = Self::new();
        for (name, value) in lines {
            fields.append(name, HeaderValue::from_static(value));
        }
        fields
    }
}

fn name_of<'a>(head: &'a [u8], set: &'a [(FieldName, HeaderValue)], line: Line) -> &'a [u8] {
    match line {
        Line::Read { name, .. } => head.get(name.range()).unwrap_or_default(),
        Line::Set(at) => set.get(at as usize).map_or(&[], |(name, _)| name.as_str().as_bytes()),
    }
}

/// Whether it is that name, in whatever case.
fn is(name: &[u8], wanted: &str) -> bool {
    name.len() == wanted.len() && name.eq_ignore_ascii_case(wanted.as_bytes())
}

/// Tells names alone: values may be secrets.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .lines
            .iter()
            .map(|&line| self.name_of(line).escape_ascii().to_string());
        f.debug_list().entries(names).finish()
    }
}

/// Writes a name that nobody has spelt: `X-Request-Id`.
pub(super) fn write_title_case(wire: &mut impl Extend<u8>, name: &str) {
    let mut upper = true;
    wire.extend(name.bytes().map(|byte| {
        let written = if upper { byte.to_ascii_uppercase() } else { byte };
        upper = byte == b'-';
        written
    }));
}

#[cfg(test)]
mod tests;
