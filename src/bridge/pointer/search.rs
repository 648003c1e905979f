//! The search itself: a scanner for strings, words and comments, and above it the way down to the target.

use super::text::Text;
use super::{MAX_VALUE, Pointer, Step, Token};

/// A search under way. See the [module](super).
pub struct PointerSearch {
    pointer: Pointer,
    /// Which token is looked for in the container that `place` is in.
    level: usize,
    place: Place,
    /// How many containers are open inside that one, none of them on the way.
    skipping: usize,
    lex: Lex,
    text: Text,
    done: bool,
}

/// The innermost open container on the way to the target.
///
/// The containers around it need no memory: the first member of a name wins, so the search is over when this closes.
#[derive(Clone, Copy)]
enum Place {
    Root,
    Object { expect: Expect, key_matches: bool },
    Array { next: usize },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Key,
    Colon,
    Value,
}

/// What the next byte belongs to.
#[derive(Clone, Copy)]
enum Lex {
    Between,
    Str(Purpose),
    Scalar(Word),
    Slash,
    LineComment,
    BlockComment { star: bool },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Skip,
    Key,
    Target,
}

/// A number, a word, or rubbish.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    /// Where a key should be: it ends at a colon.
    Key,
    /// A value; a colon is part of it, as in an address without quotes.
    Value,
    /// The value that is looked for: its text decides.
    Target,
}

/// How a value lies to the pointer.
enum Aim {
    Past,
    Through,
    Target,
}

impl PointerSearch {
    /// A search from the start of a document.
    #[must_use]
    pub fn new(pointer: &Pointer) -> Self {
        Self {
            pointer: pointer.clone(),
            level: 0,
            place: Place::Root,
            skipping: 0,
            lex: Lex::Between,
            text: Text::default(),
            done: false,
        }
    }

    /// Takes the next piece of the document. After an answer other than [`Step::NeedMore`] the search is over, and
    /// says [`Step::Absent`] to whatever else it is fed.
    pub fn feed(&mut self, chunk: &[u8]) -> Step {
        if self.done {
            return Step::Absent;
        }
        let mut rest = chunk;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if let Some(step) = self.byte(byte) {
                self.done = true;
                return step;
            }
            if matches!(self.lex, Lex::Str(Purpose::Skip)) && !self.text.in_escape() {
                // Most of a document is the inside of strings that nobody asked for.
                let plain = rest
                    .iter()
                    .position(|byte| matches!(byte, b'"' | b'\\'))
                    .unwrap_or(rest.len());
                rest = rest.get(plain..).unwrap_or_default();
            }
        }
        Step::NeedMore
    }

    fn byte(&mut self, byte: u8) -> Option<Step> {
        match self.lex {
            Lex::Between => self.between(byte),
            Lex::Str(purpose) => self.in_string(byte, purpose),
            Lex::Scalar(word) => self.in_scalar(byte, word),
            Lex::Slash => {
                self.lex = match byte {
                    b'/' => Lex::LineComment,
                    b'*' => Lex::BlockComment { star: false },
                    // A lone slash is rubbish.
                    _ => {
                        self.lex = Lex::Between;
                        return self.between(byte);
                    }
                };
                None
            }
            Lex::LineComment => {
                if matches!(byte, b'\n' | b'\r') {
                    self.lex = Lex::Between;
                }
                None
            }
            Lex::BlockComment { star } => {
                self.lex = if star && byte == b'/' {
                    Lex::Between
                } else {
                    Lex::BlockComment { star: byte == b'*' }
                };
                None
            }
        }
    }

    fn between(&mut self, byte: u8) -> Option<Step> {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' | b'\x0b' | b'\x0c' => None,
            b'"' => self.string_starts(),
            b'{' | b'[' => self.opens(byte == b'{'),
            b'}' | b']' => self.closes(byte == b'}'),
            b',' | b':' => self.separator(byte == b':'),
            b'/' => {
                self.lex = Lex::Slash;
                None
            }
            // The byte order mark.
            0xef | 0xbb | 0xbf if matches!(self.place, Place::Root) => None,
            _ => self.scalar_starts(byte),
        }
    }

    fn separator(&mut self, colon: bool) -> Option<Step> {
        if self.skipping > 0 {
            return None;
        }
        match &mut self.place {
            Place::Root => return Some(Step::Absent),
            Place::Object { expect, key_matches } => match (colon, *expect) {
                // A key that was not a string is none that is looked for.
                (true, Expect::Key) => (*expect, *key_matches) = (Expect::Value, false),
                (true, _) => *expect = Expect::Value,
                (false, _) => *expect = Expect::Key,
            },
            // Elements are counted by what is there, not by commas.
            Place::Array { .. } => {}
        }
        None
    }

    fn opens(&mut self, object: bool) -> Option<Step> {
        if self.skipping > 0 {
            self.skipping = self.skipping.saturating_add(1);
            return None;
        }
        match self.aim() {
            Aim::Past => {
                self.skipping = 1;
                None
            }
            Aim::Target => Some(Step::Wrong),
            Aim::Through => {
                if !matches!(self.place, Place::Root) {
                    self.level += 1;
                }
                if object {
                    self.place = Place::Object {
                        expect: Expect::Key,
                        key_matches: false,
                    };
                    return None;
                }
                self.place = Place::Array { next: 0 };
                let has_index = self.wanted().is_some_and(|token| token.index.is_some());
                (!has_index).then_some(Step::Absent)
            }
        }
    }

    fn closes(&mut self, object: bool) -> Option<Step> {
        if self.skipping > 0 {
            self.skipping -= 1;
            return None;
        }
        let fits = match self.place {
            Place::Root => true,
            Place::Object { .. } => object,
            Place::Array { .. } => !object,
        };
        // The wrong bracket closes nothing.
        fits.then_some(Step::Absent)
    }

    fn string_starts(&mut self) -> Option<Step> {
        let purpose = if self.skipping > 0 {
            Purpose::Skip
        } else if self.awaits_key() {
            Purpose::Key
        } else {
            match self.aim() {
                Aim::Past => Purpose::Skip,
                Aim::Target => Purpose::Target,
                Aim::Through => return Some(Step::Absent),
            }
        };
        let limit = match purpose {
            Purpose::Skip => 0,
            Purpose::Key => self.wanted().map_or(0, |token| token.name.len()),
            Purpose::Target => MAX_VALUE,
        };
        self.text.restart(limit);
        self.lex = Lex::Str(purpose);
        None
    }

    fn in_string(&mut self, byte: u8, purpose: Purpose) -> Option<Step> {
        let ended = self.text.take(byte);
        if purpose == Purpose::Target && self.text.over {
            return Some(Step::Wrong);
        }
        if !ended {
            return None;
        }
        self.lex = Lex::Between;
        match purpose {
            Purpose::Skip => None,
            Purpose::Key => {
                let key_matches = !self.text.over && self.wanted().is_some_and(|token| token.name == self.text.kept);
                self.place = Place::Object {
                    expect: Expect::Colon,
                    key_matches,
                };
                None
            }
            Purpose::Target => Some(Step::Found(std::mem::take(&mut self.text.kept))),
        }
    }

    fn scalar_starts(&mut self, byte: u8) -> Option<Step> {
        let word = if self.skipping > 0 {
            Word::Value
        } else if self.awaits_key() {
            // A string before it was no key: a colon after it belongs to this word.
            self.place = Place::Object {
                expect: Expect::Key,
                key_matches: false,
            };
            Word::Key
        } else {
            match self.aim() {
                Aim::Past => Word::Value,
                Aim::Target => Word::Target,
                Aim::Through => return Some(Step::Absent),
            }
        };
        if word == Word::Target {
            self.text.restart("null".len());
            self.text.push(&[byte]);
        }
        self.lex = Lex::Scalar(word);
        None
    }

    fn in_scalar(&mut self, byte: u8, word: Word) -> Option<Step> {
        let ends = match byte {
            b',' | b'{' | b'}' | b'[' | b']' | b'"' => true,
            b':' => word == Word::Key,
            _ => byte.is_ascii_whitespace(),
        };
        match (word, ends) {
            (Word::Target, true) if !self.text.over && self.text.kept == b"null" => Some(Step::Absent),
            (Word::Target, true) => Some(Step::Wrong),
            (Word::Target, false) => {
                self.text.push(&[byte]);
                None
            }
            (Word::Key | Word::Value, true) => {
                self.lex = Lex::Between;
                self.between(byte)
            }
            (Word::Key | Word::Value, false) => None,
        }
    }

    /// How the value that starts here lies to the pointer; moves on to what comes after it.
    fn aim(&mut self) -> Aim {
        let index = self.wanted().and_then(|token| token.index);
        let hit = match &mut self.place {
            Place::Root => return Aim::Through,
            Place::Object { expect, key_matches } => {
                let hit = *expect == Expect::Value && *key_matches;
                *expect = Expect::Key;
                hit
            }
            Place::Array { next } => {
                let hit = index == Some(*next);
                *next = next.saturating_add(1);
                hit
            }
        };
        match hit {
            false => Aim::Past,
            true if self.level + 1 == self.pointer.tokens.len() => Aim::Target,
            true => Aim::Through,
        }
    }

    /// Whether a string here is a key (or, after a string without a colon, the next one).
    const fn awaits_key(&self) -> bool {
        matches!(
            self.place,
            Place::Object {
                expect: Expect::Key | Expect::Colon,
                ..
            }
        )
    }

    fn wanted(&self) -> Option<&Token> {
        self.pointer.tokens.get(self.level)
    }
}
