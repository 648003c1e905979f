use super::*;

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
