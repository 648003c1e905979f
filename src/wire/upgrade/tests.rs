use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::time::{sleep, timeout};

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

fn map(lines: &[(&'static str, &'static str)]) -> Fields {
    lines.iter().copied().collect()
}

#[test]
fn only_a_genuine_request_for_another_protocol_is_an_upgrade() {
    type Lines = &'static [(&'static str, &'static str)];
    let websocket: Lines = &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    let cases: &[(Version, Method, Lines, bool)] = &[
        (Version::HTTP_11, Method::GET, websocket, true),
        (Version::HTTP_10, Method::GET, websocket, false),
        (Version::HTTP_2, Method::GET, websocket, false),
        (Version::HTTP_11, Method::CONNECT, websocket, false),
        (Version::HTTP_11, Method::GET, &[("upgrade", "websocket")], false),
        (Version::HTTP_11, Method::GET, &[("connection", "upgrade")], false),
        (
            Version::HTTP_11,
            Method::GET,
            &[("connection", "upgraded"), ("upgrade", "websocket")],
            false,
        ),
        (
            Version::HTTP_11,
            Method::GET,
            &[("connection", "upgrade"), ("upgrade", "")],
            false,
        ),
        (
            Version::HTTP_11,
            Method::GET,
            &[("connection", "upgrade"), ("upgrade", "h2c")],
            false,
        ),
        (
            Version::HTTP_11,
            Method::GET,
            &[("connection", "upgrade"), ("upgrade", "websocket, H2C")],
            false,
        ),
        (
            Version::HTTP_11,
            Method::GET,
            &[("connection", "upgrade"), ("upgrade", "HTTP/2.0")],
            false,
        ),
        (
            Version::HTTP_11,
            Method::GET,
            &[("connection", "upgrade"), ("upgrade", "TLS/1.0")],
            false,
        ),
        (
            Version::HTTP_11,
            Method::GET,
            &[("connection", "upgrade"), ("upgrade", "a"), ("upgrade", "b")],
            false,
        ),
        (
            Version::HTTP_11,
            Method::POST,
            &[("connection", "upgrade"), ("upgrade", "irc/6.9, rta/x11")],
            true,
        ),
    ];
    for (version, method, lines, expected) in cases {
        let asked = requested(method, *version, &map(lines));
        assert_eq!(asked.is_some(), *expected, "{version:?} {method} {lines:?}");
        if let Some(asked) = asked {
            assert_eq!(asked, lines[1].1);
        }
    }
}

#[test]
fn a_switch_to_what_was_not_offered_does_not_agree() {
    let asked = HeaderValue::from_static("websocket, irc/6.9");
    assert!(agrees(&asked, &map(&[("upgrade", "WebSocket")])));
    assert!(agrees(&asked, &map(&[("upgrade", "irc/6.9")])));
    assert!(!agrees(&asked, &map(&[("upgrade", "h2c")])));
    assert!(!agrees(&asked, &map(&[("upgrade", "websocket, h2c")])));
    assert!(!agrees(&asked, &map(&[])));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_takes_nothing_for_too_long_is_given_up() {
    let (mut client, mut inside) = duplex(1024);
    let (ours, _theirs) = duplex(16);
    let mut upstream = Upgraded::new(ours);
    // A silent tunnel stays: the time begins to count with the first byte that is not taken.
    let speaks_late = async {
        sleep(10 * LIMIT).await;
        client.write_all(&[b'x'; 17]).await.unwrap();
        Instant::now()
    };
    let joined = timeout(20 * LIMIT, join(&mut inside, &mut upstream, LIMIT));
    let (joined, spoke) = tokio::join!(joined, speaks_late);
    let error = joined.expect("an end in time").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let waited = spoke.elapsed();
    assert!(waited >= LIMIT && waited < LIMIT + LIMIT / 10, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_takes_something_now_and_then_gets_it_all() {
    let (mut client, mut inside) = duplex(1024);
    let (ours, mut theirs) = duplex(16);
    let mut upstream = Upgraded::new(ours);
    let sends = async {
        client.write_all(&[b'x'; 160]).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let takes = async {
        let (mut taken, mut piece) = (0, [0; 16]);
        loop {
            sleep(LIMIT * 3 / 4).await;
            match theirs.read(&mut piece).await.unwrap() {
                0 => break,
                read => taken += read,
            }
        }
        theirs.shutdown().await.unwrap();
        taken
    };
    let joined = join(&mut inside, &mut upstream, LIMIT);
    let all = timeout(20 * LIMIT, async { tokio::join!(joined, sends, takes) });
    let (joined, (), taken) = all.await.expect("an end in time");
    assert_eq!((joined.unwrap(), taken), ((160, 0), 160));
}
