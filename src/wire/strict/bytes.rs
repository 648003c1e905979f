//! Kinds of bytes, and runs of them.

/// A kind of bytes: its bit in the table of all.
#[derive(Clone, Copy)]
pub(in crate::wire) struct Class(u8);

/// `tchar` (RFC 9110 §5.6.2).
pub(in crate::wire) const TOKEN: Class = Class(1);
/// What may be anywhere in a path and a query.
pub(super) const PATH: Class = Class(2);
/// What may be in the name of a host, or in an IPv4 address.
pub(super) const HOST: Class = Class(4);

impl Class {
    pub(super) fn has(self, byte: u8) -> bool {
        classes_of(byte) & self.0 != 0
    }

    /// How many bytes at the front are of this kind. Four at a time, then one by one.
    pub(in crate::wire) fn run(self, bytes: &[u8]) -> usize {
        let all = |four: &&[u8; 4]| four.iter().fold(self.0, |all, &byte| all & classes_of(byte)) != 0;
        let fours = bytes.as_chunks::<4>().0.iter().take_while(all).count() * 4;
        let rest = bytes.get(fours..).unwrap_or_default();
        let ones = rest.iter().take_while(|&&byte| self.has(byte)).count();
        fours + ones
    }
}

fn classes_of(byte: u8) -> u8 {
    CLASSES.get(usize::from(byte)).copied().unwrap_or(0)
}

static CLASSES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    loop {
        #[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            table[byte as usize] = classes(byte);
        }
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

const fn classes(byte: u8) -> u8 {
    let everywhere = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let in_token = matches!(
        byte,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'^' | b'`' | b'|'
    );
    let in_path = byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'`');
    let mut classes = 0;
    if everywhere || in_token {
        classes |= TOKEN.0;
    }
    if in_path {
        classes |= PATH.0;
    }
    if everywhere {
        classes |= HOST.0;
    }
    classes
}

/// The first byte below 0x20, or DEL. Eight bytes at a time: most of a head has none.
pub(in crate::wire) fn find_control(bytes: &[u8]) -> Option<usize> {
    const LOW: u64 = u64::from_le_bytes([0x7f; 8]);
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    // What makes 0x21 and more the highest bit of a byte.
    const UP: u64 = u64::from_le_bytes([0x80 - 0x21; 8]);
    let (blocks, rest) = bytes.as_chunks::<8>();
    for (index, block) in blocks.iter().enumerate() {
        let word = u64::from_le_bytes(*block);
        // Of seven bits one more is at most 0x20 for what is sought and for nothing else; no byte carries into the next.
        let next = ((word & LOW) + ONES) & LOW;
        let found = !((next + UP) | word | LOW);
        if found != 0 {
            return Some(index * 8 + (found.trailing_zeros() / 8) as usize);
        }
    }
    let position = rest.iter().position(|&byte| byte < 0x20 || byte == 0x7f)?;
    Some(bytes.len() - rest.len() + position)
}
