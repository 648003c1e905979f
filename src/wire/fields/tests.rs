use proptest::prelude::*;

use super::*;

/// Lines that CRLF ends are noted as they come, others by their parts.
fn read(head: &'static [u8]) -> Fields {
    let (mut lines, mut start) = (Lines::default(), 0);
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let colon = line.iter().position(|byte| *byte == b':').unwrap();
        if let Some(line) = line.strip_suffix(b"\r\n") {
            let value = lines.note(line, start, colon);
            assert_eq!(line[value], *line[colon + 1..].trim_ascii());
        } else {
            let value = line[colon + 1..].trim_ascii();
            let from = place_of(value, head).unwrap();
            lines.note_parts(head, start..start + colon, from).unwrap();
        }
        start += line.len();
    }
    Fields::of(Bytes::from_static(head), lines)
}

fn written(fields: &Fields) -> String {
    let mut wire = BytesMut::new();
    fields.write(&mut wire);
    String::from_utf8(wire.to_vec()).unwrap()
}

fn value(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

#[test]
fn what_nobody_touched_is_written_as_it_came_and_what_was_added_behind_it() {
    let loose = read(b"A:1\r\nB:\t2\r\nC: 3 \r\nD:  4\r\nE: \r\nF:\r\nG: 5\nH: 6\r\n");
    assert_eq!(
        written(&loose),
        "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: \r\nF: \r\nG: 5\r\nH: 6\r\n"
    );
    let mut fields = read(b"hOST: shop\r\nx-a: 1\r\nX-A: 2\r\nX-b:\t3 \r\nX-Empty: \r\nx-c:4\n");
    assert_eq!(
        written(&fields),
        "hOST: shop\r\nx-a: 1\r\nX-A: 2\r\nX-b: 3\r\nX-Empty: \r\nx-c: 4\r\n"
    );
    fields.remove("X-B");
    fields.insert("X-a", value("5"));
    fields.append(FieldName::new(&HeaderName::from_static("x-csrf-token")), value("t"));
    assert_eq!(
        written(&fields),
        "hOST: shop\r\nX-a: 5\r\nX-Empty: \r\nx-c: 4\r\nX-Csrf-Token: t\r\n"
    );
}

#[test]
fn a_name_is_the_same_in_every_case() {
    let fields = read(b"CoNtEnT-tYpE: a\r\nx-a: 1, 2\r\nX-A:3,\r\n");
    assert_eq!(fields.get(name::CONTENT_TYPE), Some(&b"a"[..]));
    assert_eq!(fields.get("content-typ"), None);
    assert_eq!(fields.all("X-a").count(), 2);
    assert_eq!(fields.members("x-A").collect::<Vec<_>>(), [&b"1"[..], b"2", b"3", b""]);
    assert!(fields.contains("X-A") && !fields.contains("X-B"));
}

#[test]
fn lines_are_taken_off_with_their_values() {
    let mut fields = read(b"set-cookie: a=1\r\nDate: x\r\nSet-Cookie: b=2\r\n");
    assert_eq!(fields.take(name::SET_COOKIE), ["a=1", "b=2"]);
    assert_eq!(written(&fields), "Date: x\r\n");
    assert!(fields.take(name::SET_COOKIE).is_empty());
}

#[test]
fn debug_tells_no_values() {
    let mut fields = read(b"Cookie: s3cret\r\n");
    fields.append("X-B", value("s3cret"));
    let shown = format!("{fields:?}");
    assert!(
        shown.contains("Cookie") && shown.contains("X-B") && !shown.contains("s3cret"),
        "{shown}"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Insert(usize, u16),
    Append(usize, u16),
    Remove(usize),
    Take(usize),
}

/// Two of one length and first letter among them.
const NAMES: [&str; 4] = ["x-aa", "x-ab", "host", "cookie"];

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        (name.clone(), any::<u16>()).prop_map(|(name, value)| Step::Insert(name, value)),
        (name.clone(), any::<u16>()).prop_map(|(name, value)| Step::Append(name, value)),
        name.clone().prop_map(Step::Remove),
        name.prop_map(Step::Take),
    ]
}

proptest! {
    #[test]
    fn they_are_what_a_header_map_holds(
        first in proptest::collection::vec((0..NAMES.len(), any::<u16>()), 0..6),
        steps in proptest::collection::vec(step(), 0..12),
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in first {
            map.append(NAMES[name], HeaderValue::from(value));
        }
        let mut fields = Fields::from_map(&map);
        for step in steps {
            match step {
                Step::Insert(name, value) => {
                    map.insert(NAMES[name], HeaderValue::from(value));
                    fields.insert(NAMES[name], HeaderValue::from(value));
                }
                Step::Append(name, value) => {
                    map.append(NAMES[name], HeaderValue::from(value));
                    fields.append(NAMES[name], HeaderValue::from(value));
                }
                Step::Remove(name) => {
                    map.remove(NAMES[name]);
                    fields.remove(NAMES[name]);
                }
                Step::Take(name) => {
                    let taken: Vec<_> = map.get_all(NAMES[name]).iter().cloned().collect();
                    map.remove(NAMES[name]);
                    prop_assert_eq!(fields.take(NAMES[name]), taken);
                }
            }
            for name in NAMES {
                let expected: Vec<_> = map.get_all(name).iter().map(HeaderValue::as_bytes).collect();
                prop_assert_eq!(fields.all(name).collect::<Vec<_>>(), expected);
                prop_assert_eq!(fields.contains(name), map.contains_key(name));
                prop_assert_eq!(fields.value(name), map.get(name).cloned());
            }
            prop_assert_eq!(fields.len(), map.len());
        }
        prop_assert_eq!(fields.to_map(), map);
    }
}

#[test]
fn a_value_that_is_made_stands_where_one_was_and_is_no_line_if_it_is_no_text() {
    let mut fields: Fields = [("Via", "1.1 a"), ("Host", "shop"), ("via", "1.1 b")]
        .into_iter()
        .collect();
    fields.insert_made("Via", |value| value.extend_from_slice(b"1.1 \xffc"));
    fields.append_made("Cookie", |value| value.extend_from_slice(b"a=b"));
    for unfit in [&b"a\r\nX: y"[..], b"a\0", b"\x7f", b"\n"] {
        fields.append_made("Cookie", |value| value.extend_from_slice(unfit));
    }
    let mut wire = BytesMut::new();
    fields.write(&mut wire);
    assert_eq!(&wire[..], b"Via: 1.1 \xffc\r\nHost: shop\r\nCookie: a=b\r\n");
    fields.insert_made("Host", |value| value.extend_from_slice(b"a\nb"));
    assert!(!fields.contains("Host"));
}
