//! Which of the 16,384 slots a key belongs to, by Redis's rule.

/// How many slots a cluster has.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a key: CRC16 (XMODEM) of its hash tag, or of all of it where there is none.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

/// What stands between the first `{` and the first `}` after it. All of the key where that is nothing.
pub(super) fn hash_tag(key: &[u8]) -> &[u8] {
    let tagged = || {
        let (_, after) = split_once(key, b'{')?;
        let (tag, _) = split_once(after, b'}')?;
        (!tag.is_empty()).then_some(tag)
    };
    tagged().unwrap_or(key)
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let mut parts = bytes.splitn(2, |byte| *byte == at);
    Some((parts.next()?, parts.next()?))
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        let [high, _] = crc.to_be_bytes();
        let step = TABLE.get(usize::from(high ^ byte)).copied().unwrap_or_default();
        (crc << 8) ^ step
    })
}

const TABLE: [u16; 256] = table();

#[allow(
    clippy::indexing_slicing,
    reason = "done by the compiler, which refuses an index out of bounds"
)]
const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::super::layout::keys;
    use super::*;
    use crate::session::store::Key;

    #[test]
    fn the_checksum_is_that_of_the_known_vectors() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(crc16(b""), 0);
        // As a server answers to CLUSTER KEYSLOT.
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"somekey"), 11_058);
        assert_eq!(slot_of(b"foo{hash_tag}"), 2515);
    }

    #[test]
    fn the_hash_tag_is_what_the_first_braces_hold_unless_that_is_nothing() {
        let tag = |key: &'static str| std::str::from_utf8(hash_tag(key.as_bytes())).unwrap();
        assert_eq!(tag("{user1000}.following"), "user1000");
        assert_eq!(tag("foo{bar}{zap}"), "bar");
        assert_eq!(tag("foo{{bar}}zap"), "{bar");
        assert_eq!(tag("foo{}{bar}"), "foo{}{bar}");
        assert_eq!(tag("foo{bar"), "foo{bar");
        assert_eq!(tag("foo}bar{"), "foo}bar{");
    }

    #[test]
    fn the_keys_of_an_installation_share_a_slot_whatever_braces_the_prefix_has() {
        let key = Key::from_digest([0xab; 16]);
        for prefix in ["p:", "", "{app}:", "a{b", "a}b{", "}{", "{{", "x{y}z{"] {
            let slots = keys(prefix, &key).map(|name| slot_of(&name));
            assert!(slots.iter().all(|slot| *slot == slots[0]), "{prefix}: {slots:?}");
        }
        // The only ones that keep them apart: these are refused.
        let slots = keys("a{}b:", &key).map(|name| slot_of(&name));
        assert!(slots.iter().any(|slot| *slot != slots[0]));
    }
}
