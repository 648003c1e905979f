//! Where the lines of a head are, noted while it is read.

use std::ops::Range;

/// How many lines there is room for at once: those of a usual message, and what a proxy adds.
const ROOM: usize = 24;

/// Something of a certain length, first and last letter: nearly always one name, in whatever case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u32);

impl Key {
    #[inline]
    pub(super) fn of(name: &[u8]) -> Self {
        let letter = |byte: Option<&u8>| byte.map_or(0, |byte| u32::from(byte | 0x20));
        let length = u32::try_from(name.len()).map_or(0xffff, |length| length.min(0xffff));
        Self(length << 16 | letter(name.first()) << 8 | letter(name.last()))
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

/// Where something is in its buffer, which is never as long as 4 GiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Of what is beyond 4 GiB nothing would be found.
    pub(super) fn new(range: &Range<usize>) -> Self {
        let at = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        Self {
            start: at(range.start),
            end: at(range.end),
        }
    }

    pub(super) const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
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

/// A field. Small, since lines are moved up when others are taken off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) key: Key,
    pub(super) place: Place,
    pub(super) name: Span,
    pub(super) value: Span,
}

impl Line {
    /// All of it, with its CRLF, if that looks just as it is written.
    pub(super) fn whole(self) -> Option<Range<usize>> {
        (self.place != Place::Loose).then_some(self.name.range().start..self.value.range().end + 2)
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
    pub(in crate::wire) fn note(&mut self, line: &[u8], start: usize, name_length: usize) -> Range<usize> {
        let name = line.get(..name_length).unwrap_or_default();
        let padded = line.get(name_length + 1..).unwrap_or_default();
        let leading = padded.iter().take_while(|byte| is_blank(byte)).count();
        let text = padded.get(leading..).unwrap_or_default();
        let trailing = text.iter().rev().take_while(|byte| is_blank(byte)).count();
        let value = name_length + 1 + leading..line.len() - trailing;
        let whole = trailing == 0 && leading == 1 && padded.first() == Some(&b' ');
        self.push(Line {
            key: Key::of(name),
            place: if whole { Place::Whole } else { Place::Loose },
            name: Span::new(&(start..start + name_length)),
            value: Span::new(&(start + value.start..start + value.end)),
        });
        value
    }

    /// Notes a line of `head`, whatever is around its name and its value. `None` when they are no parts of it.
    pub(super) fn note_parts(&mut self, head: &[u8], name: Range<usize>, value: Range<usize>) -> Option<()> {
        let key = Key::of(head.get(name.clone())?);
        let end = head.get(value.clone()).map(|_| value.end)?;
        let whole = head.get(name.end..value.start) == Some(b": ") && head.get(end..end + 2) == Some(b"\r\n");
        self.push(Line {
            key,
            place: if whole { Place::Whole } else { Place::Loose },
            name: Span::new(&name),
            value: Span::new(&value),
        });
        Some(())
    }

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

const fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
