//! A cell as the value of an item, and back.
//!
//! ```text
//! 1 byte   1: this layout
//! 1 byte   what follows: bit 0 a record, bit 1 a lease, bit 2 a count of barren leaders
//! record   seq (8 bytes), nonce (4), expiry by the server's clock (8), expiry as told (8)
//! lease    token (16), until (8)
//! barren   count (4), until (8)
//! payload  the rest, if there is a record
//! ```
//!
//! Numbers are big-endian, times milliseconds since the Unix epoch.

use bytes::{Buf, BufMut, Bytes};

use crate::session::clock::Timestamp;
use crate::session::store::{Flaw, LeaseToken, Payload, Stored, Unreadable, Version};
use crate::store::cells::Cell;
use crate::store::slot::{Lease, Slot};

const LAYOUT: u8 = 1;
const RECORD: u8 = 1;
const LEASE: u8 = 2;
const BARREN: u8 = 4;

/// All but the payload, at most.
const HEAD: usize = 2 + 28 + 24 + 12;

/// The value of an item.
pub(super) fn bytes(cell: &Cell) -> Vec<u8> {
    let Slot { record, lease } = &cell.slot;
    let payload = record.as_ref().map_or(&[][..], |record| record.payload.0.as_ref());
    let mut value = Vec::with_capacity(HEAD + payload.len());
    let has = |there: bool, bit: u8| if there { bit } else { 0 };
    let parts =
        has(record.is_some(), RECORD) | has(lease.holder.is_some(), LEASE) | has(lease.barren.is_some(), BARREN);
    value.extend([LAYOUT, parts]);
    if let Some(record) = record {
        value.put_u64(record.version.seq);
        value.put_u32(record.version.nonce);
        value.put_u64(record.expires_at.as_millis());
        value.put_u64(cell.told.as_millis());
    }
    if let Some((token, until)) = lease.holder {
        value.put_u128(token.0);
        value.put_u64(until.as_millis());
    }
    if let Some((count, until)) = lease.barren {
        value.put_u32(count);
        value.put_u64(until.as_millis());
    }
    value.extend_from_slice(payload);
    value
}

/// Reads what [`bytes`] wrote.
pub(super) fn parse(value: &Bytes) -> Result<Cell, Unreadable> {
    let garbled = || Unreadable::new(Flaw::Garbled, "an item that does not hold what it should");
    let mut rest = value.clone();
    match rest.try_get_u8() {
        Ok(LAYOUT) => {}
        Ok(other) => {
            let detail = format!("an item of layout {other}; this version knows {LAYOUT}");
            return Err(Unreadable::new(Flaw::UnknownFormat, detail));
        }
        Err(_) => return Err(garbled()),
    }
    read(&mut rest).ok_or_else(garbled)
}

fn read(rest: &mut Bytes) -> Option<Cell> {
    let parts = rest.try_get_u8().ok()?;
    let time = |rest: &mut Bytes| rest.try_get_u64().ok().map(Timestamp::from_millis);
    let mut record = None;
    let mut told = Timestamp::default();
    if parts & RECORD != 0 {
        let version = Version {
            seq: rest.try_get_u64().ok()?,
            nonce: rest.try_get_u32().ok()?,
        };
        record = Some((version, time(rest)?));
        told = time(rest)?;
    }
    let mut lease = Lease::default();
    if parts & LEASE != 0 {
        lease.holder = Some((LeaseToken(rest.try_get_u128().ok()?), time(rest)?));
    }
    if parts & BARREN != 0 {
        lease.barren = Some((rest.try_get_u32().ok()?, time(rest)?));
    }
    if parts > RECORD | LEASE | BARREN || record.is_none() && !rest.is_empty() {
        return None;
    }
    let record = record.map(|(version, expires_at)| Stored {
        version,
        expires_at,
        payload: Payload(std::mem::take(rest)),
    });
    Some(Cell {
        slot: Slot { record, lease },
        told,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells() -> Vec<Cell> {
        let at = Timestamp::from_millis;
        let record = |payload: &'static [u8]| {
            Some(Stored {
                version: Version {
                    seq: u64::MAX,
                    nonce: 7,
                },
                expires_at: at(u64::MAX),
                payload: Payload(Bytes::from_static(payload)),
            })
        };
        let holder = Some((LeaseToken(u128::MAX - 1), at(5)));
        let barren = Some((3, at(9)));
        let mut all = Vec::new();
        for record in [None, record(b""), record(b"payload")] {
            for holder in [None, holder] {
                for barren in [None, barren] {
                    let lease = Lease { holder, barren };
                    let told = if record.is_some() { at(11) } else { at(0) };
                    let record = record.clone();
                    all.push(Cell {
                        slot: Slot { record, lease },
                        told,
                    });
                }
            }
        }
        all
    }

    #[test]
    fn a_cell_is_read_as_it_was_written() {
        for cell in cells() {
            assert_eq!(parse(&Bytes::from(bytes(&cell))), Ok(cell));
        }
    }

    #[test]
    fn what_was_not_written_so_is_unreadable() {
        let flaw = |bytes: Vec<u8>| parse(&Bytes::from(bytes)).map_err(|unreadable| unreadable.flaw);
        assert_eq!(flaw(vec![]), Err(Flaw::Garbled));
        assert_eq!(flaw(vec![2, 0]), Err(Flaw::UnknownFormat));
        assert_eq!(flaw(vec![1, 8]), Err(Flaw::Garbled));
        assert_eq!(flaw(vec![1, 0, 0]), Err(Flaw::Garbled));
        for cell in cells() {
            let whole = bytes(&cell);
            let payload = cell.slot.record.as_ref().map_or(0, |record| record.payload.0.len());
            for short in 0..whole.len() - payload {
                assert_eq!(flaw(whole[..short].to_vec()), Err(Flaw::Garbled), "{short} of {cell:?}");
            }
        }
    }
}
