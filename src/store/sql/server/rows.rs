//! Cells as rows, and rows as cells.

use bytes::Bytes;

use super::connection::{Row, Value};
use crate::session::clock::Timestamp;
use crate::session::store::{Flaw, LeaseToken, Payload, StoreError, Stored, Unreadable, Version};
use crate::store::cells::{Cell, Reading};
use crate::store::slot::{Lease, Slot};

/// What the statement to read a cell answered.
pub(super) fn reading(row: Option<&Row>) -> Result<Reading<i64>, StoreError> {
    let unexpected = || StoreError::Corrupt("an answer of an unexpected type".into());
    let row = row.ok_or_else(unexpected)?;
    let now = row.int(0).ok().flatten().and_then(time).ok_or_else(unexpected)?;
    let tag = row.int(1).map_err(|_| unexpected())?;
    let cell = match tag {
        None => Ok(Cell::default()),
        Some(_) => {
            cell(row).ok_or_else(|| Unreadable::new(Flaw::Garbled, "a row of the table with a value out of place"))
        }
    };
    Ok(Reading { cell, tag, now })
}

/// `None` where a value is out of place.
fn cell(row: &Row) -> Option<Cell> {
    let int = |column| row.int(column).ok();
    let (record, told) = match (int(2)?, int(3)?, int(4)?, int(5)?, row.bytes(6).ok()?) {
        (Some(seq), Some(nonce), Some(expires_at), Some(told), Some(payload)) => {
            let record = Stored {
                version: Version {
                    seq: seq.cast_unsigned(),
                    nonce: u32::try_from(nonce).ok()?,
                },
                expires_at: time(expires_at)?,
                payload: Payload(Bytes::from(payload)),
            };
            (Some(record), time(told)?)
        }
        (None, None, None, None, None) => (None, Timestamp::default()),
        _ => return None,
    };
    let holder = match (row.bytes(7).ok()?, int(8)?) {
        (Some(token), Some(until)) => {
            let token = u128::from_be_bytes(token.try_into().ok()?);
            Some((LeaseToken(token), time(until)?))
        }
        (None, None) => None,
        _ => return None,
    };
    let barren = match (int(9)?, int(10)?) {
        (Some(count), Some(until)) => Some((u32::try_from(count).ok()?, time(until)?)),
        (None, None) => None,
        _ => return None,
    };
    let lease = Lease { holder, barren };
    Some(Cell {
        slot: Slot { record, lease },
        told,
    })
}

/// The values of a cell, in the order of the columns from `revision` to `sweep_at`. The revision is drawn at random, so
/// that one which is read again later is never taken for the one before.
pub(super) fn push<'a>(values: &mut Vec<Value<'a>>, cell: &'a Cell) {
    let record = cell.slot.record.as_ref();
    let Lease { holder, barren } = cell.slot.lease;
    values.push(Value::Int(fastrand::i64(..)));
    values.extend([
        Value::MaybeInt(record.map(|record| record.version.seq.cast_signed())),
        Value::MaybeInt(record.map(|record| record.version.nonce.into())),
        Value::MaybeInt(record.map(|record| millis(record.expires_at))),
        Value::MaybeInt(record.map(|_| millis(cell.told))),
        Value::MaybeBytes(record.map(|record| record.payload.0.as_ref())),
    ]);
    values.extend([
        Value::Token(holder.map(|(token, _)| token.0.to_be_bytes())),
        Value::MaybeInt(holder.map(|(_, until)| millis(until))),
        Value::MaybeInt(barren.map(|(count, _)| count.into())),
        Value::MaybeInt(barren.map(|(_, until)| millis(until))),
        Value::Int(millis(cell.slot.useless_at().unwrap_or_default())),
    ]);
}

/// A time as the tables hold it; the latest that they can hold for any later one.
pub(super) fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

fn time(millis: i64) -> Option<Timestamp> {
    u64::try_from(millis).ok().map(Timestamp::from_millis)
}
