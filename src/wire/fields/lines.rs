//! Where the lines of a head are, noted while it is read.

use std::ops::Range;

/// How many lines there is room for at once: those of a usual message, and what a proxy adds. They take less than 512
/// bytes, up to which the allocator is quick.
const ROOM: usize = 21;

/// Something of a certain length, first and last letter: nearly always one name, in whatever case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u32);

impl Key {
    #[inline]
    pub(super) fn of(name: &[u8]) -> Self {
        let letter = |byte: Option<&u8>| byte.map_or(0, |byte| u32::from(byte | 0x20));
        Self(((name.len() as u32) << 16) | (letter(name.first()) << 8) | letter(name.last()))
    }
}

/// Which names there may be: one bit for some of them. What has none of the bit need not be looked for.
#[derive(Clone, Copy, Debug, Default)]
struct Marks(u64);

impl Marks {
    /// Keys differ in few of their bits: multiplied by that, in the upmost six of 32.
    #[inline]
    const fn bit(key: Key) -> u64 {
        1 << (key.0.wrapping_mul(0x9e37_79b1) >> 26)
    }
}

/// Where a line is, and what of it can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the head, in another form than a line is written in.
    Loose,
    /// In the head, just as it is written: `Name: value` and CRLF.
    Whole,
    /// Among what was set, just as it is written.
    Set,
}

/// A field: where in its buffer it is, which is never as long as 4 GiB. Small, since lines are moved up when others are
/// taken off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) key: Key,
    pub(super) place: Place,
    name_start: u32,
    name_end: u32,
    value_start: u32,
    value_end: u32,
}

impl Line {
    /// Of what is beyond 4 GiB nothing would be found.
    #[inline]
    pub(super) fn new(key: Key, place: Place, name: Range<usize>, value: Range<usize>) -> Self {
        // Behind the value there is a CRLF.
        const FAR: u32 = u32::MAX - 2;
        let fits = name.end <= value.start && value.end < FAR as usize;
        let at = |place: usize| if fits { place as u32 } else { FAR };
        Self {
            key,
            place,
            name_start: at(name.start),
            name_end: at(name.end),
            value_start: at(value.start),
            value_end: at(value.end),
        }
    }

    #[inline]
    pub(super) const fn name(self) -> Range<usize> {
        self.name_start as usize..self.name_end as usize
    }

    #[inline]
    pub(super) const fn value(self) -> Range<usize> {
        self.value_start as usize..self.value_end as usize
    }
}

/// Lines that are next to each other in one buffer, and just as they are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) place: Place,
    start: u32,
    end: u32,
}

impl Run {
    /// A line alone.
    pub(super) const fn of(line: Line) -> Self {
        Self {
            place: line.place,
            start: line.name_start,
            // Behind its CRLF.
            end: line.value_end + 2,
        }
    }

    /// Takes `line` on. `false` when it is somewhere else.
    #[inline]
    pub(super) fn add(&mut self, line: Line) -> bool {
        let next = line.place == self.place && line.name_start == self.end && line.place != Place::Loose;
        if next {
            self.end = line.value_end + 2;
        }
        next
    }

    pub(super) const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The lines of one message, in order: places in its head, and in what was set.
#[derive(Clone, Debug, Default)]
pub(in crate::wire) struct Lines {
    pub(super) lines: Vec<Line>,
    marks: Marks,
}

impl Lines {
    /// Notes a line of a head: `line`, behind which a CRLF comes, begins at `start` of that, with a name of so many
    /// bytes and a colon. Where in the line its value is, without the blanks around it.
    #[inline]
    pub(in crate::wire) fn note(&mut self, line: &[u8], start: usize, name_length: usize) -> Range<usize> {
        let name = line.get(..name_length).unwrap_or_default();
        let padded = line.get(name_length + 1..).unwrap_or_default();
        let (value, place) = match padded {
            [b' ', first, .., last] if !is_blank(first) && !is_blank(last) => {
                (name_length + 2..line.len(), Place::Whole)
            }
            _ => place_of_value(padded, name_length + 1),
        };
        self.push(Line::new(
            Key::of(name),
            place,
            start..start + name_length,
            start + value.start..start + value.end,
        ));
        value
    }

    /// Notes a line of `head`, whatever is around its name and its value. `None` when they are no parts of it.
    pub(super) fn note_parts(&mut self, head: &[u8], name: Range<usize>, value: Range<usize>) -> Option<()> {
        let key = Key::of(head.get(name.clone())?);
        let end = head.get(value.clone()).map(|_| value.end)?;
        let whole = head.get(name.end..value.start) == Some(b": ") && head.get(end..end + 2) == Some(b"\r\n");
        let place = if whole { Place::Whole } else { Place::Loose };
        self.push(Line::new(key, place, name, value));
        Some(())
    }

    #[inline]
    pub(super) fn push(&mut self, line: Line) {
        if self.lines.capacity() == 0 {
            self.lines.reserve_exact(ROOM);
        }
        self.marks.0 |= Marks::bit(line.key);
        self.lines.push(line);
    }

    /// How many there are.
    pub(in crate::wire) fn len(&self) -> usize {
        self.lines.len()
    }

    #[inline]
    pub(super) fn may_hold(&self, key: Key) -> bool {
        self.marks.0 & Marks::bit(key) != 0
    }
}

/// Where a value is that blanks may surround, and whether its line looks as it is written. `start`: where `padded` begins.
fn place_of_value(padded: &[u8], start: usize) -> (Range<usize>, Place) {
    let leading = padded.iter().take_while(|byte| is_blank(byte)).count();
    let text = padded.get(leading..).unwrap_or_default();
    let trailing = text.iter().rev().take_while(|byte| is_blank(byte)).count();
    let whole = trailing == 0 && leading == 1 && padded.first() == Some(&b' ');
    (
        start + leading..start + padded.len() - trailing,
        if whole { Place::Whole } else { Place::Loose },
    )
}

const fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
