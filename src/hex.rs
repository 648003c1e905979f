//! Hexadecimal digits, in lower case, eight at once: every request has two such texts.

/// The digits of these bytes.
#[must_use]
pub fn digits(bytes: &[u8; 16]) -> [u8; 32] {
    let mut text = [0; 32];
    for (digits, bytes) in text.as_chunks_mut().0.iter_mut().zip(bytes.as_chunks().0) {
        *digits = eight(*bytes);
    }
    text
}

/// The same in the form of a UUID (RFC 9562 §4).
#[must_use]
pub fn hyphenated(bytes: &[u8; 16]) -> [u8; 36] {
    let digits = digits(bytes);
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&digits[..8]);
    text[9..13].copy_from_slice(&digits[8..12]);
    text[14..18].copy_from_slice(&digits[12..16]);
    text[19..23].copy_from_slice(&digits[16..20]);
    text[24..].copy_from_slice(&digits[20..]);
    text
}

fn eight(bytes: [u8; 4]) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let mut digits = u64::from(u32::from_be_bytes(bytes));
    // Each half of a byte becomes a byte.
    digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
    digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
    digits = (digits | digits << 4) & (0x0f * EACH);
    let letters = ((digits + 6 * EACH) >> 4) & EACH;
    let text = digits + u64::from(b'0') * EACH + letters * u64::from(b'a' - b'0' - 10);
    text.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_byte_becomes_two_digits(bytes: [u8; 16]) {
            let expected: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(String::from_utf8(digits(&bytes).to_vec()).unwrap(), expected);
        }

        #[test]
        fn a_uuid_is_told_as_the_library_tells_it(bytes: [u8; 16]) {
            let expected = uuid::Uuid::from_bytes(bytes).hyphenated().to_string();
            prop_assert_eq!(String::from_utf8(hyphenated(&bytes).to_vec()).unwrap(), expected);
        }
    }
}
