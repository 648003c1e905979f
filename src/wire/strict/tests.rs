use proptest::prelude::*;

use super::samples::{GOOD, MALFORMED};
use super::*;

const MAX: usize = 4096;

/// What a connection amounts to: the requests that were released whole, how much of the last one was, and the flaw.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    ended: Vec<Vec<u8>>,
    flaw: Option<Flaw>,
    position: Option<Position>,
}

/// Feeds `bytes` in the given pieces, the way a reader does: what is not released is shown again.
fn judge(bytes: &[u8], cuts: &[usize]) -> Verdict {
    let mut checker = Checker::new(MAX);
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let (mut window, mut current, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for cut in cuts.windows(2) {
        window.extend_from_slice(&bytes[cut[0]..cut[1]]);
        loop {
            match checker.advance(&window) {
                Err(flaw) => {
                    assert_eq!(checker.advance(&window), Err(flaw), "a flaw is final");
                    return Verdict {
                        ended,
                        flaw: Some(flaw),
                        position: None,
                    };
                }
                Ok(advance) => {
                    assert!(advance.release <= window.len());
                    current.extend(window.drain(..advance.release));
                    if !advance.ended {
                        break;
                    }
                    assert_eq!(checker.position(), Position::Ended);
                    ended.push(std::mem::take(&mut current));
                    checker.next_message();
                    if window.is_empty() {
                        break;
                    }
                }
            }
        }
    }
    Verdict {
        ended,
        flaw: None,
        position: Some(checker.position()),
    }
}

fn flaw(request: &str) -> Option<Flaw> {
    judge(request.as_bytes(), &[]).flaw
}

#[test]
fn good_requests_are_released_byte_for_byte() {
    for request in GOOD {
        let verdict = judge(request.as_bytes(), &[]);
        assert_eq!(verdict.flaw, None, "{request:?}");
        assert_eq!(verdict.ended, [request.as_bytes()], "{request:?}");
    }
}

#[test]
fn every_malformed_request_of_the_table_is_refused() {
    for (head, why) in MALFORMED {
        assert!(
            matches!(flaw(head), Some(Flaw::Malformed(_))),
            "{why}: {head:?} was {:?}",
            flaw(head)
        );
    }
}

#[test]
fn a_head_may_have_exactly_the_allowed_size() {
    let with = |padding: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(padding));
    let fits = with(MAX - with(0).len());
    assert_eq!(fits.len(), MAX);
    assert_eq!(flaw(&fits), None);
    for cut in [1, MAX - 1, MAX] {
        assert_eq!(
            judge(with(MAX - with(0).len() + 1).as_bytes(), &[cut]).flaw,
            Some(Flaw::TooLarge)
        );
    }
    assert_eq!(
        flaw(&"x".repeat(MAX)),
        Some(Flaw::TooLarge),
        "a head without an end is not waited for"
    );
}

#[test]
fn a_head_may_have_exactly_the_allowed_number_of_fields() {
    let with = |fields: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(fields - 1));
    assert_eq!(flaw(&with(MAX_FIELDS)), None);
    assert_eq!(flaw(&with(MAX_FIELDS + 1)), Some(Flaw::TooLarge));
}

#[test]
fn trailers_and_chunk_extensions_are_limited() {
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(
        flaw(&format!("{chunked}0\r\n{}\r\n", "X: y\r\n".repeat(65))),
        Some(Flaw::TooLarge)
    );
    assert_eq!(
        flaw(&format!("{chunked}0\r\nX: {}", "y".repeat(9000))),
        Some(Flaw::TooLarge)
    );
    let extended = "1;a=b\r\nx\r\n".repeat(4000);
    assert!(matches!(
        flaw(&format!("{chunked}{extended}")),
        Some(Flaw::Malformed(_))
    ));
}

#[test]
fn nothing_behind_the_end_of_a_request_is_looked_at_before_the_next_is_asked_for() {
    let mut checker = Checker::new(MAX);
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n\x81\x05raw\n";
    let first = checker.advance(bytes).unwrap();
    assert_eq!(
        first,
        Advance {
            release: bytes.len() - 6,
            ended: true,
            head: Some(HeadEnd {
                length: bytes.len() - 6,
                chunked: false
            })
        }
    );
    assert_eq!(
        checker.advance(&bytes[first.release..]).unwrap(),
        Advance {
            release: 0,
            ended: true,
            head: None
        }
    );
    checker.next_message();
    assert!(checker.advance(&bytes[first.release..]).is_err());
}

#[test]
fn an_empty_line_alone_does_not_begin_a_request() {
    let mut checker = Checker::new(MAX);
    for window in [&b"\r"[..], b"\r\n"] {
        assert_eq!(checker.advance(window).unwrap().release, 0);
        assert_eq!(checker.position(), Position::Between);
    }
    checker.advance(b"\r\nG").unwrap();
    assert_eq!(checker.position(), Position::Head);
}

#[test]
fn the_fast_search_for_controls_finds_what_a_plain_one_finds() {
    let plain = |bytes: &[u8]| bytes.iter().position(|&byte| byte < 0x20 || byte == 0x7f);
    for byte in 0..=u8::MAX {
        for (at, beside) in (0..17).flat_map(|at| [b' ', b'~', 0x80, 0xff].map(|beside| (at, beside))) {
            let mut bytes = [beside; 17];
            bytes[at] = byte;
            assert_eq!(
                find_control(&bytes),
                plain(&bytes),
                "{byte:#x} at {at} among {beside:#x}"
            );
        }
    }
    proptest!(|(bytes in prop::collection::vec(prop_oneof![8 => 0x20_u8..=0xff, 1 => 0_u8..=0xff, 1 => Just(0x7f)], 0..64))| {
        prop_assert_eq!(find_control(&bytes), plain(&bytes));
    });
}

#[test]
fn a_run_ends_at_the_first_byte_of_another_kind() {
    for at in 0..12 {
        let mut bytes = [b'a'; 12];
        assert_eq!(TOKEN.run(&bytes), 12);
        bytes[at] = b':';
        assert_eq!(TOKEN.run(&bytes), at);
        assert_eq!(TOKEN.run(&bytes[..at]), at);
    }
}

/// Streams of good requests, of which some bytes were changed, taken out or doubled.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let stream = prop::collection::vec(prop::sample::select(GOOD), 1..5).prop_map(|parts| parts.concat().into_bytes());
    let interesting = prop_oneof![
        prop::sample::select(&b"\r\n \t:;,0aG/\0\x7f\x0b\x85\"#"[..]),
        any::<u8>(),
    ];
    (
        stream,
        prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, interesting), 0..4),
    )
        .prop_map(|(mut stream, edits)| {
            for (index, kind, byte) in edits {
                if stream.is_empty() {
                    break;
                }
                let at = index.index(stream.len());
                match kind {
                    0 => stream[at] = byte,
                    1 => stream.insert(at, byte),
                    2 => drop(stream.remove(at)),
                    _ => stream.truncate(at),
                }
            }
            stream
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_does_not_depend_on_how_the_bytes_were_cut(
        stream in mutated(),
        cuts in prop::collection::vec(0_usize..4096, 0..12),
    ) {
        let whole = judge(&stream, &[]);
        prop_assert_eq!(&judge(&stream, &cuts), &whole);
        let every_byte: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(&judge(&stream, &every_byte), &whole);
    }

    #[test]
    fn what_is_accepted_has_no_bare_line_end_and_one_framing(stream in mutated()) {
        for request in judge(&stream, &[]).ended {
            let end = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
            prop_assert!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']));
            prop_assert!(head.matches("\r\nhost:").count() <= 1);
            let framings = head.matches("\r\ncontent-length:").count() + head.matches("\r\ntransfer-encoding:").count();
            prop_assert!(framings <= 1);
        }
    }

    #[test]
    fn no_bytes_at_all_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        judge(&bytes, &[7, 100]);
    }

    #[test]
    fn every_accepted_target_is_one_that_the_http_library_takes_unchanged(
        target in prop_oneof!["/[\\x21-\\x7e]{0,8}", "https?://[a-c]{1,3}(:[0-9]{0,6})?[\\x21-\\x7e]{0,6}", "[\\x21-\\xff]{1,5}"],
    ) {
        let host = target.split("://").nth(1).and_then(|rest| rest.split(['/', '?']).next()).unwrap_or("a");
        if flaw(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).is_none() {
            let uri = http::Uri::try_from(target.as_str()).unwrap();
            if target.starts_with('/') {
                prop_assert_eq!(uri.to_string(), target);
            } else {
                prop_assert_eq!(uri.authority().unwrap().as_str(), host);
            }
        }
    }
}
