//! A JSON string as it comes, byte by byte.

/// The string under way: its escapes resolved, its first `limit` bytes kept.
#[derive(Default)]
pub(super) struct Text {
    pub(super) kept: Vec<u8>,
    limit: usize,
    /// It is longer than `limit`.
    pub(super) over: bool,
    escape: Escape,
    /// The first half of a surrogate pair, until the second comes.
    high: Option<u16>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Backslash,
    Hex {
        digits: u8,
        value: u16,
    },
}

impl Text {
    pub(super) fn restart(&mut self, limit: usize) {
        self.kept.clear();
        (self.limit, self.over, self.escape, self.high) = (limit, false, Escape::None, None);
    }

    /// Whether an escape is under way.
    pub(super) fn in_escape(&self) -> bool {
        self.escape != Escape::None
    }

    /// Takes one byte of the string; `true` when it was the closing quote.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        match (self.escape, byte) {
            (Escape::None, b'"') => {
                self.push(&[]);
                return true;
            }
            (Escape::None, b'\\') => self.escape = Escape::Backslash,
            (Escape::None, _) => self.push(&[byte]),
            (Escape::Backslash, b'u') => self.escape = Escape::Hex { digits: 0, value: 0 },
            (Escape::Backslash, _) => {
                self.escape = Escape::None;
                self.push(&[match byte {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    other => other,
                }]);
            }
            (Escape::Hex { digits, value }, _) => return self.hex(digits, value, byte),
        }
        false
    }

    fn hex(&mut self, digits: u8, value: u16, byte: u8) -> bool {
        let digit = char::from(byte)
            .to_digit(16)
            .and_then(|digit| u16::try_from(digit).ok());
        let Some(digit) = digit else {
            self.escape = Escape::None;
            self.push_char(char::REPLACEMENT_CHARACTER);
            return self.take(byte);
        };
        let value = value << 4 | digit;
        if digits == 3 {
            self.escape = Escape::None;
            self.unit(value);
        } else {
            self.escape = Escape::Hex {
                digits: digits + 1,
                value,
            };
        }
        false
    }

    /// Takes one UTF-16 unit of a `\u` escape.
    fn unit(&mut self, unit: u16) {
        let units = [self.high.unwrap_or(unit), unit];
        let pair = units.get(usize::from(self.high.is_none())..).unwrap_or_default();
        match char::decode_utf16(pair.iter().copied()).next() {
            Some(Ok(char)) => {
                self.high = None;
                self.push_char(char);
            }
            _ if self.high.is_some() => {
                self.push(&[]);
                self.unit(unit);
            }
            _ if (0xd800..0xdc00).contains(&unit) => self.high = Some(unit),
            _ => self.push_char(char::REPLACEMENT_CHARACTER),
        }
    }

    fn push_char(&mut self, char: char) {
        self.push(char.encode_utf8(&mut [0; 4]).as_bytes());
    }

    /// Keeps `bytes`, after U+FFFD for half a surrogate pair that is still waiting.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.high.take().is_some() {
            self.push_char(char::REPLACEMENT_CHARACTER);
        }
        if self.kept.len() + bytes.len() > self.limit {
            self.over = true;
        } else {
            self.kept.extend_from_slice(bytes);
        }
    }
}
