//! Header fields of one message, in the order and the spelling in which they came (H1).
//!
//! A message that is passed on keeps nearly all of its fields. So a head that was read stays the one buffer that it came
//! in, a field is where its name and its value are in that, and what nobody has touched is written by copying whole lines.
//! There are a dozen or two of them: to go through all costs less than any hash would.
//!
//! Trailers, and what the libraries for HTTP/2 and for calls of our own take, are [`HeaderMap`]s: [`Fields::from_map`],
//! [`Fields::to_map`].

use std::borrow::Borrow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::strict::find_control;

mod lines;
pub mod name;

pub(super) use lines::Lines;
use lines::{Key, Line, Place, Run};

/// How many bytes of lines there is room for, once one is set.
const SET_ROOM: usize = 512;

/// See the [module](self).
#[derive(Clone, Default)]
pub struct Fields {
    /// The head that the lines were read from.
    head: Bytes,
    lines: Lines,
    /// The lines that were set here, as they are written. They stay when they are taken off.
    set: Vec<u8>,
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

impl Fields {
    /// None at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was noted of the lines of `head`.
    pub(super) fn of(head: Bytes, lines: Lines) -> Self {
        Self {
            head,
            lines,
            set: Vec::new(),
        }
    }

    /// Adds a line of the head that this was made [of](Self::of). `None` when they are no parts of it.
    pub(super) fn push_read(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let (name, value) = (place_of(name, &self.head)?, place_of(value, &self.head)?);
        self.lines.note_parts(&self.head, name, value)
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines = self.lines.lines.iter();
        lines.map(|&line| (self.name_of(line), self.value_of(line)))
    }

    /// The value of the first line of that name.
    #[must_use]
    #[inline]
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
        let mut lines = self.all(name);
        let mut rest: Option<&[u8]> = None;
        std::iter::from_fn(move || {
            let members = rest.take().or_else(|| lines.next())?;
            let comma = members.iter().position(|&byte| byte == b',');
            let member = comma.map_or(members, |comma| members.get(..comma).unwrap_or_default());
            rest = comma.and_then(|comma| members.get(comma + 1..));
            Some(member.trim_ascii())
        })
    }

    /// Whether there is a line of that name.
    #[must_use]
    #[inline]
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// One line of that name, in the place of the first there was.
    pub fn insert(&mut self, name: impl Into<FieldName>, value: impl Borrow<HeaderValue>) {
        self.insert_line(name.into().as_str(), value.borrow());
    }

    /// The same, of a value that is made in its place. Where what was made is no line of text, there is none of that name.
    pub fn insert_made(&mut self, name: &'static str, make: impl FnOnce(&mut Vec<u8>)) {
        match self.keep_made(name, make) {
            Some(line) => self.put(line, name),
            None => self.remove(name),
        }
    }

    fn insert_line(&mut self, name: &str, value: &HeaderValue) {
        let line = self.keep(name, |set| set.extend_from_slice(value.as_bytes()));
        self.put(line, name);
    }

    fn put(&mut self, line: Line, name: &str) {
        let held = self.lines.may_hold(line.key);
        let at = held.then(|| self.position(line.key, name)).flatten();
        let Some(at) = at else {
            return self.lines.push(line);
        };
        self.remove_lines(line.key, name, at + 1);
        if let Some(first) = self.lines.lines.get_mut(at) {
            *first = line;
        }
    }

    /// One more line of that name.
    pub fn append(&mut self, name: impl Into<FieldName>, value: impl Borrow<HeaderValue>) {
        let value = value.borrow().as_bytes();
        let line = self.keep(name.into().as_str(), |set| set.extend_from_slice(value));
        self.lines.push(line);
    }

    /// The same, of a value that is [made](Self::insert_made) in its place. Where it is no line of text, there is none more.
    pub fn append_made(&mut self, name: &'static str, make: impl FnOnce(&mut Vec<u8>)) {
        if let Some(line) = self.keep_made(name, make) {
            self.lines.push(line);
        }
    }

    fn keep_made(&mut self, name: &str, make: impl FnOnce(&mut Vec<u8>)) -> Option<Line> {
        let before = self.set.len();
        let line = self.keep(name, make);
        let value = self.set.get(line.value()).unwrap_or_default();
        let unfit = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
        if find_control(value).is_some() && value.iter().any(unfit) {
            self.set.truncate(before);
            return None;
        }
        Some(line)
    }

    /// Writes a line that is set here, to stand where it is put.
    fn keep(&mut self, name: &str, make: impl FnOnce(&mut Vec<u8>)) -> Line {
        let (name, set) = (name.as_bytes(), &mut self.set);
        if set.capacity() == 0 {
            set.reserve_exact(SET_ROOM);
        }
        let start = set.len();
        set.extend_from_slice(name);
        set.extend_from_slice(b": ");
        let from = set.len();
        make(set);
        let end = set.len();
        set.extend_from_slice(b"\r\n");
        Line::new(Key::of(name), Place::Set, start..start + name.len(), from..end)
    }

    /// Takes all lines of that name off.
    #[inline]
    pub fn remove(&mut self, name: &str) {
        let key = Key::of(name.as_bytes());
        if self.lines.may_hold(key) {
            self.remove_lines(key, name, 0);
        }
    }

    /// From the line `from` on.
    fn remove_lines(&mut self, key: Key, name: &str, from: usize) {
        let Self { head, lines, set } = self;
        let mut index = 0;
        lines.lines.retain(|&line| {
            index += 1;
            index <= from || line.key != key || !is(part(head, set, line, line.name()), name)
        });
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
        let Self { head, lines, set } = self;
        lines.lines.retain(|&line| keep(part(head, set, line, line.name())));
    }

    /// Writes the lines, each with its CRLF.
    pub(super) fn write(&self, wire: &mut BytesMut) {
        // Lines that are next to each other are copied at once.
        let mut run: Option<Run> = None;
        for &line in &self.lines.lines {
            if run.as_mut().is_some_and(|run| run.add(line)) {
                continue;
            }
            self.copy(wire, run.replace(Run::of(line)));
            if line.place == Place::Loose {
                wire.put_slice(self.name_of(line));
                wire.put_slice(b": ");
                wire.put_slice(self.value_of(line));
                wire.put_slice(b"\r\n");
            }
        }
        self.copy(wire, run);
    }

    fn copy(&self, wire: &mut BytesMut, run: Option<Run>) {
        let Some(run) = run else { return };
        let buffer: &[u8] = match run.place {
            // Written already.
            Place::Loose => return,
            Place::Whole => &self.head,
            Place::Set => &self.set,
        };
        wire.put_slice(buffer.get(run.range()).unwrap_or_default());
    }

    /// The same fields, their names `Like-This`.
    #[must_use]
    pub fn from_map(map: &HeaderMap) -> Self {
        let size = map
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum();
        let mut head = BytesMut::with_capacity(size);
        let mut lines = Lines::default();
        for (name, value) in map {
            let start = head.len();
            write_title_case(&mut head, name.as_str());
            let end = head.len();
            head.put_slice(b": ");
            let from = head.len();
            head.put_slice(value.as_bytes());
            let to = head.len();
            head.put_slice(b"\r\n");
            lines.note_parts(&head, start..end, from..to);
        }
        Self::of(head.freeze(), lines)
    }

    /// The same fields, as the libraries take them. What those cannot hold is left out.
    #[must_use]
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.lines.len());
        for &line in &self.lines.lines {
            if let (Ok(name), Some(value)) = (HeaderName::from_bytes(self.name_of(line)), self.shared(line)) {
                map.append(name, value);
            }
        }
        map
    }

    fn lines_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Line> {
        let key = Key::of(name.as_bytes());
        let lines: &[Line] = if self.lines.may_hold(key) {
            &self.lines.lines
        } else {
            &[]
        };
        let lines = lines.iter().copied();
        lines.filter(move |&line| line.key == key && is(self.name_of(line), name))
    }

    #[inline]
    fn find(&self, name: &str) -> Option<Line> {
        let key = Key::of(name.as_bytes());
        let at = self.lines.may_hold(key).then(|| self.position(key, name));
        self.lines.lines.get(at??).copied()
    }

    fn position(&self, key: Key, name: &str) -> Option<usize> {
        let mut lines = self.lines.lines.iter();
        lines.position(|&line| line.key == key && is(self.name_of(line), name))
    }

    fn name_of(&self, line: Line) -> &[u8] {
        part(&self.head, &self.set, line, line.name())
    }

    fn value_of(&self, line: Line) -> &[u8] {
        part(&self.head, &self.set, line, line.value())
    }

    fn shared(&self, line: Line) -> Option<HeaderValue> {
        match line.place {
            Place::Loose | Place::Whole => {
                HeaderValue::from_maybe_shared(self.head.slice_ref(self.value_of(line))).ok()
            }
            Place::Set => HeaderValue::from_bytes(self.value_of(line)).ok(),
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

/// What is at `range` of the buffer that `line` is in.
fn part<'a>(head: &'a [u8], set: &'a [u8], line: Line, range: Range<usize>) -> &'a [u8] {
    let buffer = if line.place == Place::Set { set } else { head };
    buffer.get(range).unwrap_or_default()
}

/// Where in `head` that part of it is.
fn place_of(part: &[u8], head: &[u8]) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(head.as_ptr().addr())?;
    let end = start.checked_add(part.len()).filter(|&end| end <= head.len())?;
    Some(start..end)
}

/// Whether it is that name, in whatever case.
fn is(name: &[u8], wanted: &str) -> bool {
    let wanted = wanted.as_bytes();
    name == wanted || name.eq_ignore_ascii_case(wanted)
}

/// Tells names alone: values may be secrets.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .lines
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
