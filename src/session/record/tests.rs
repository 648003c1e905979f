use super::*;
use crate::session::cookie::{Origin, parse_set_cookie};
use crate::session::store::{Flaw, Payload};

const NOW: Timestamp = Timestamp::from_millis(1_793_613_600_123);

fn version(seq: u64) -> Version {
    Version {
        seq,
        nonce: 0xfffe_fdfc,
    }
}

/// A record with something in every field: two cookies, changes of each rank, a session that is settling.
fn sample() -> Record {
    let mut record = Record::begin(version(1), Rank::Auth, NOW);
    record.settle_until(Some(NOW.saturating_add(Duration::from_millis(2000))));
    let origin = Origin::new("shop.example", "/catalog/list");
    let lines: [(&[u8], Rank); 2] = [
        (
            b"PHPSESSID=\"ab\\0541\xff\"; path=/; HttpOnly; Secure; Max-Age=3600",
            Rank::Unsafe,
        ),
        (b"promo=1; Domain=.shop.example", Rank::Safe),
    ];
    for (seq, (line, rank)) in (300..).zip(lines) {
        let cookie = parse_set_cookie(line, &origin, NOW).unwrap();
        record.note_change(&cookie.key(), rank, seq, NOW);
        record.jar.insert(cookie);
    }
    record
}

/// [`sample`] as version 0.1.0 stores it.
const FORMAT_1: &str = include_str!("../../../tests/golden/record-format-1.hex");

/// Two sections, tags 3 and 300, as a later version may add.
const SECTIONS: &[u8] = b"\x03\x05hello\xac\x02\x00";

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .trim_end()
        .bytes()
        .map(|digit| u8::try_from(char::from(digit).to_digit(16).unwrap()).unwrap())
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn decode(bytes: impl Into<Vec<u8>>) -> Result<Record, Unreadable> {
    Record::decode(&Payload(bytes.into().into()))
}

/// The sample in format 2.
fn with_sections() -> Vec<u8> {
    let mut bytes = bytes_of(FORMAT_1);
    bytes[0] = 2;
    [&bytes, SECTIONS].concat()
}

#[test]
fn a_record_of_the_released_form_is_read_for_ever_and_written_as_it_was() {
    let record = decode(bytes_of(FORMAT_1)).unwrap();
    assert_eq!(record, sample());
    assert_eq!(record.encode().unwrap().0, bytes_of(FORMAT_1));
}

#[test]
fn what_a_later_version_added_is_kept_through_a_change() {
    let mut record = decode(with_sections()).unwrap();
    assert_eq!(record.encode().unwrap().0, with_sections());
    record.settle_until(None);
    record.jar.remove(&sample().jar.iter().next().unwrap().key());
    let again = record.encode().unwrap().0;
    assert_eq!(again[0], 2);
    assert!(again.ends_with(SECTIONS));
    assert_eq!(decode(again).unwrap(), record);
}

#[test]
fn without_anything_added_a_record_is_written_as_the_version_before_reads_it() {
    let mut bytes = bytes_of(FORMAT_1);
    bytes[0] = 2;
    assert_eq!(decode(bytes).unwrap().encode().unwrap().0, bytes_of(FORMAT_1));
}

#[test]
fn each_flaw_of_a_record_is_told_from_the_others() {
    let flaw = |bytes: Vec<u8>| decode(bytes).unwrap_err().flaw;
    let core = bytes_of(FORMAT_1);
    for format in [0, 3, 127] {
        assert_eq!(flaw([&[format], &core[1..]].concat()), Flaw::UnknownFormat, "{format}");
    }
    for format in [128, 255] {
        assert_eq!(flaw([&[format], &core[1..]].concat()), Flaw::UnknownKey, "{format}");
    }
    assert_eq!(flaw(Vec::new()), Flaw::Garbled);
    for length in 1..core.len() {
        assert_eq!(flaw(core[..length].to_vec()), Flaw::Garbled, "{length}");
    }
    assert_eq!(flaw([&core[..], b"x"].concat()), Flaw::Garbled);
    let full = with_sections();
    let twice = [&full[..], b"\xac\x02\x00"].concat();
    let backwards = [&full[..], b"\x03\x00"].concat();
    for bad in [full[..full.len() - 1].to_vec(), twice, backwards] {
        assert_eq!(flaw(bad), Flaw::Garbled);
    }
}

#[test]
fn what_cannot_be_read_names_its_version() {
    let stored = Stored {
        version: version(7),
        expires_at: NOW,
        payload: Payload(vec![9].into()),
    };
    assert_eq!(Snapshot::read(&stored).unwrap_err().version, Some(version(7)));
}

#[test]
fn the_past_is_kept_by_those_who_do_not_know_it_and_a_garbled_one_makes_the_record_unreadable() {
    let mut record = Record::begin(Version { seq: 1, nonce: 2 }, Rank::Safe, Timestamp::from_millis(1));
    let plain = record.encode().unwrap();
    assert_eq!(
        plain.0.first(),
        Some(&1),
        "nothing new is written where nothing is remembered"
    );
    let past = Past {
        network: Some("192.0.2.0/24".parse().unwrap()),
        calm: true,
    };
    record.set_past(past);
    let mut read = Record::decode(&record.encode().unwrap()).unwrap();
    assert_eq!((read.past(), &read), (Some(past), &record));
    read.set_past(Past { calm: false, ..past });
    assert_eq!(read.past().map(|past| past.calm), Some(false));
    read.sections.set(form::PAST, vec![9]);
    let unreadable = Record::decode(&read.encode().unwrap()).unwrap_err();
    assert_eq!(unreadable.flaw, Flaw::Garbled);
}
