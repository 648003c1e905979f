//! The list of what Redis holds, by `SCAN`; in a cluster, of one master after the other.

use redis::{Cmd, Value};

use super::layout::key_of;
use super::unexpected;
use crate::session::store::{Cursor, KeyPage, StoreError};

/// How many keys Redis looks at for one part of the list, about.
const COUNT: u32 = 1000;

/// The number of the master and the cursor of `SCAN` there.
pub(super) fn place(after: Option<Cursor>) -> Result<(usize, u64), StoreError> {
    let Some(Cursor(bytes)) = after else { return Ok((0, 0)) };
    match bytes.split_first_chunk() {
        Some((master, rest)) => match rest.try_into() {
            Ok(cursor) => Ok((usize::from(u16::from_be_bytes(*master)), u64::from_be_bytes(cursor))),
            Err(_) => unexpected(),
        },
        None => unexpected(),
    }
}

/// The command.
pub(super) fn command(prefix: &str, cursor: u64) -> Cmd {
    // In a pattern, these mean something.
    let mut pattern = String::with_capacity(prefix.len() + 8);
    for character in prefix.chars() {
        if "*?[]\\^".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push_str("{*}");
    let mut scan = redis::cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(COUNT);
    scan
}

/// What the answer of master `number` of `masters` says.
pub(super) fn page(answer: Value, prefix: &str, number: usize, masters: usize) -> Result<KeyPage, StoreError> {
    let (cursor, names): (u64, Vec<Vec<u8>>) = match redis::from_redis_value(answer) {
        Ok(answer) => answer,
        Err(_) => return unexpected(),
    };
    let next = match cursor {
        0 if number + 1 < masters => Some((number + 1, 0)),
        0 => None,
        cursor => Some((number, cursor)),
    };
    let next = next.map(|(number, cursor)| {
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        Cursor([&number.to_be_bytes()[..], &cursor.to_be_bytes()].concat())
    });
    Ok(KeyPage {
        keys: names.iter().filter_map(|name| key_of(prefix, name)).collect(),
        next,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_pattern_is_taken_as_it_is() {
        let text = String::from_utf8(command("a*[b]:", 7).get_packed_command()).unwrap();
        assert!(text.contains("a\\*\\[b\\]:{*}"), "{text}");
    }

    #[test]
    fn the_list_goes_on_where_it_ended_and_with_the_next_master() {
        assert_eq!(place(None), Ok((0, 0)));
        let answer = |cursor: &str| {
            let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
            Value::Array(vec![bulk(cursor), Value::Array(vec![bulk("p:ping")])])
        };
        let next = page(answer("9"), "p:", 0, 2).unwrap().next;
        assert_eq!(place(next), Ok((0, 9)));
        let next = page(answer("0"), "p:", 0, 2).unwrap().next;
        assert_eq!(place(next), Ok((1, 0)));
        assert_eq!(page(answer("0"), "p:", 1, 2).unwrap(), KeyPage::default());
    }
}
