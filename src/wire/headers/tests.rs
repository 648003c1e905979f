use std::net::IpAddr;

use super::*;

type Lines<'a> = &'a [(&'static str, &'a str)];

fn map(lines: &[(&'static str, &str)]) -> Fields {
    let mut headers = Fields::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn text<'a>(headers: &'a Fields, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| std::str::from_utf8(value).unwrap())
}

fn lines(headers: &Fields) -> Vec<(String, String)> {
    let mut lines: Vec<_> = headers
        .to_map()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    lines.sort();
    lines
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn trusted() -> TrustedProxies {
    TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()])
}

#[test]
fn fields_of_one_hop_are_taken_off_a_request_and_all_others_stay() {
    let cases: &[(Lines<'_>, Lines<'_>)] = &[
        (&[("accept", "*/*")], &[("accept", "*/*")]),
        (
            &[
                ("connection", "keep-alive"),
                ("keep-alive", "timeout=5"),
                ("accept", "a"),
            ],
            &[("accept", "a")],
        ),
        (
            &[("connection", "close, X-Hop"), ("x-hop", "1"), ("x-other", "2")],
            &[("x-other", "2")],
        ),
        (
            &[
                ("connection", "x-a"),
                ("connection", "X-B , ,"),
                ("x-a", "1"),
                ("x-b", "2"),
            ],
            &[],
        ),
        (
            &[
                ("proxy-connection", "keep-alive"),
                ("proxy-authorization", "Basic eA=="),
            ],
            &[],
        ),
        (
            &[("transfer-encoding", "chunked"), ("trailer", "X-Sum")],
            &[("trailer", "X-Sum")],
        ),
        (&[("connection", "upgrade"), ("upgrade", "websocket")], &[]),
        (
            &[
                ("connection", "Upgrade, HTTP2-Settings"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABk"),
            ],
            &[],
        ),
        (&[("expect", "100-continue")], &[]),
        (&[("te", "gzip, deflate;q=0.5"), ("connection", "TE")], &[]),
        (
            &[("te", "gzip"), ("te", "Trailers")],
            &[("connection", "TE"), ("te", "trailers")],
        ),
        (&[("connection", "\"not a name\"")], &[]),
    ];
    for (given, expected) in cases {
        let mut headers = map(given);
        strip_request(&mut headers);
        assert_eq!(lines(&headers), lines(&map(expected)), "{given:?}");
    }
}

#[test]
fn connection_cannot_take_off_what_a_message_needs() {
    let essential = [
        ("host", "shop"),
        ("content-length", "3"),
        ("authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-port", "443"),
        ("forwarded", "for=1.2.3.4"),
        ("x-request-id", "r"),
        ("set-cookie", "a=b"),
        ("cache-control", "no-store"),
    ];
    let names: Vec<&str> = essential.iter().map(|(name, _)| *name).collect();
    let nominated = names.join(", ");
    for strip in [strip_request, strip_response] {
        let mut headers = map(&essential);
        headers.insert("connection", HeaderValue::from_str(&nominated).unwrap());
        strip(&mut headers);
        assert_eq!(lines(&headers), lines(&map(&essential)));
    }
}

#[test]
fn fields_of_one_hop_are_taken_off_a_response() {
    let mut headers = map(&[
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("trailer", "x-sum"),
        ("content-type", "text/plain"),
    ]);
    strip_response(&mut headers);
    assert_eq!(
        lines(&headers),
        lines(&map(&[("content-type", "text/plain"), ("trailer", "x-sum")]))
    );
}

#[test]
fn an_upgrade_is_put_back_on_as_it_was_asked_for() {
    let mut headers = map(&[
        ("connection", "TE, upgrade"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
    ]);
    let protocol = headers.value("upgrade").unwrap();
    strip_request(&mut headers);
    set_upgrade(&mut headers, protocol);
    assert_eq!(
        lines(&headers),
        lines(&map(&[("connection", "Upgrade"), ("upgrade", "websocket")]))
    );
}

#[test]
fn via_grows_by_one_hop_that_names_the_version_received() {
    for (version, hop) in [
        (Version::HTTP_10, "1.0 session-bridge"),
        (Version::HTTP_11, "1.1 session-bridge"),
        (Version::HTTP_2, "2 session-bridge"),
    ] {
        let mut headers = map(&[("via", "1.1 front")]);
        add_via(&mut headers, version);
        let hops: Vec<_> = headers.all("via").collect();
        assert_eq!(hops, [b"1.1 front", hop.as_bytes()]);
    }
}

#[test]
fn what_a_stranger_claims_is_replaced() {
    let mut headers = map(&[
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
        ("forwarded", "for=6.6.6.6"),
        ("x-forwarded-prefix", "/admin"),
        ("x-real-ip", "6.6.6.6"),
    ]);
    let host = HeaderValue::from_static("shop:8080");
    forward(
        &mut headers,
        &Hop {
            peer: ip("192.0.2.7"),
            secure: false,
            host: Some(host.as_bytes()),
        },
        &trusted(),
    );
    let expected = [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop:8080"),
        ("forwarded", "for=192.0.2.7;host=\"shop:8080\";proto=http"),
    ];
    assert_eq!(lines(&headers), lines(&map(&expected)));
}

/// To CGI, WSGI and PHP they are the same variables.
#[test]
fn what_is_claimed_in_a_spelling_with_underscores_passes_from_nobody() {
    let claims = [
        ("x_forwarded_for", "6.6.6.6"),
        ("x_forwarded-for", "6.6.6.6"),
        ("x-forwarded_proto", "https"),
        ("x_forwarded_host", "evil"),
        ("x_real_ip", "6.6.6.6"),
        ("x_forwarded_prefix", "/admin"),
    ];
    let others = [("x_forwarded_fort", "a"), ("x_own", "b"), ("x-forwarded-for-me", "c")];
    for (peer, trusts) in [("192.0.2.7", false), ("10.0.0.1", true)] {
        let mut headers = map(&[&claims[..], &others].concat());
        let hop = Hop {
            peer: ip(peer),
            secure: false,
            host: None,
        };
        assert_eq!(trusted().trusts(hop.peer), trusts);
        forward(&mut headers, &hop, &trusted());
        let element = format!("for={peer};proto=http");
        let set = [
            ("x-forwarded-for", peer),
            ("x-forwarded-proto", "http"),
            ("forwarded", &element),
        ];
        assert_eq!(lines(&headers), lines(&map(&[&others[..], &set].concat())));
    }
    let mut trailers = map(&claims).to_map();
    strip_request_trailers(&mut trailers);
    assert!(trailers.is_empty(), "{trailers:?}");
}

#[test]
fn a_request_without_a_host_claims_none() {
    let mut headers = map(&[("x-forwarded-host", "evil")]);
    forward(
        &mut headers,
        &Hop {
            peer: ip("192.0.2.7"),
            secure: true,
            host: None,
        },
        &trusted(),
    );
    assert_eq!(headers.get("x-forwarded-host"), None);
    assert_eq!(text(&headers, "forwarded"), Some("for=192.0.2.7;proto=https"));
}

#[test]
fn a_trusted_proxy_gets_its_address_appended() {
    let cases: &[(Lines<'_>, Lines<'_>)] = &[
        (
            &[
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-for", "10.0.0.9"),
                ("x-forwarded-proto", "https"),
            ],
            &[
                ("x-forwarded-for", "1.2.3.4, 10.0.0.9, 10.0.0.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "shop"),
                (
                    "forwarded",
                    "for=1.2.3.4;proto=https, for=10.0.0.9, for=10.0.0.1;host=\"shop\";proto=http",
                ),
            ],
        ),
        (
            &[
                ("forwarded", "For=\"[2001:db8::1]:4711\";proto=https, for=unknown"),
                ("x-forwarded-host", "front"),
            ],
            &[
                ("x-forwarded-for", "2001:db8::1, 10.0.0.1"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "front"),
                (
                    "forwarded",
                    "For=\"[2001:db8::1]:4711\";proto=https, for=unknown, for=10.0.0.1;host=\"shop\";proto=http",
                ),
            ],
        ),
        (
            // A quote that is never closed would swallow what is appended.
            &[("forwarded", "for=6.6.6.6;host=\"")],
            &[
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "shop"),
                ("forwarded", "for=10.0.0.1;host=\"shop\";proto=http"),
            ],
        ),
        (
            &[],
            &[
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "shop"),
                ("forwarded", "for=10.0.0.1;host=\"shop\";proto=http"),
            ],
        ),
    ];
    let host = HeaderValue::from_static("shop");
    for (given, expected) in cases {
        let mut headers = map(given);
        // The dual-stack form of the same address.
        let hop = Hop {
            peer: ip("::ffff:10.0.0.1"),
            secure: false,
            host: Some(host.as_bytes()),
        };
        forward(&mut headers, &hop, &trusted());
        assert_eq!(lines(&headers), lines(&map(expected)), "{given:?}");
    }
}

#[test]
fn an_ipv6_peer_and_an_odd_host_are_quoted() {
    let mut headers = Fields::new();
    let host = HeaderValue::from_static("a\"b\\c");
    forward(
        &mut headers,
        &Hop {
            peer: ip("2001:db8::2"),
            secure: true,
            host: Some(host.as_bytes()),
        },
        &trusted(),
    );
    assert_eq!(
        text(&headers, "forwarded"),
        Some("for=\"[2001:db8::2]\";host=\"a\\\"b\\\\c\";proto=https")
    );
    assert_eq!(text(&headers, "x-forwarded-for"), Some("2001:db8::2"));
}

#[test]
fn the_client_is_the_right_most_hop_that_is_not_trusted() {
    let cases: &[(&str, Lines<'_>, &str)] = &[
        ("192.0.2.7", &[("x-forwarded-for", "1.2.3.4")], "192.0.2.7"),
        ("10.0.0.1", &[], "10.0.0.1"),
        ("10.0.0.1", &[("x-forwarded-for", "1.2.3.4")], "1.2.3.4"),
        (
            "10.0.0.1",
            &[("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.0.0.2")],
            "1.2.3.4",
        ),
        (
            "10.0.0.1",
            &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4:5678")],
            "1.2.3.4",
        ),
        ("10.0.0.1", &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
        (
            "10.0.0.1",
            &[("x-forwarded-for", "6.6.6.6, unknown, 10.0.0.2")],
            "10.0.0.2",
        ),
        ("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, junk")], "10.0.0.1"),
        (
            "fd00::1",
            &[("x-forwarded-for", "[2001:db8::1]:80, fd00::2")],
            "2001:db8::1",
        ),
        ("::ffff:10.0.0.1", &[("x-forwarded-for", "::ffff:1.2.3.4")], "1.2.3.4"),
        (
            "10.0.0.1",
            &[("forwarded", "for=6.6.6.6, for=\"[2001:db8::1]\";by=x")],
            "2001:db8::1",
        ),
        (
            "10.0.0.1",
            &[("forwarded", "for=6.6.6.6, host=\"a,for=7.7.7.7\";for=1.2.3.4")],
            "1.2.3.4",
        ),
        ("10.0.0.1", &[("forwarded", "for=6.6.6.6, proto=http")], "10.0.0.1"),
        ("10.0.0.1", &[("forwarded", "for=6.6.6.6, for=\"1.2.3.4")], "10.0.0.1"),
        (
            "10.0.0.1",
            &[("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "2.2.2.2")],
            "2.2.2.2",
        ),
        ("10.0.0.1", &[("x-forwarded-for", " , ")], "10.0.0.1"),
    ];
    for (peer, given, expected) in cases {
        assert_eq!(
            client_address(&map(given), ip(peer), &trusted()),
            ip(expected),
            "{peer} {given:?}"
        );
    }
}

#[test]
fn a_sane_request_id_is_kept_and_any_other_replaced_by_a_uuid_v7() {
    let longest = "a".repeat(128);
    for sane in ["1", "01JD-x_y.z:a/b+c=@~", longest.as_str()] {
        assert_eq!(request_id(&map(&[("x-request-id", sane)]), 0), sane);
    }
    let too_long = "a".repeat(129);
    for odd in ["", "a b", "a\tb", "a;b", "<script>", "\"", too_long.as_str()] {
        let id = request_id(&map(&[("x-request-id", odd)]), 1_700_000_000_000);
        let id = uuid::Uuid::parse_str(id.to_str().unwrap()).unwrap();
        assert_eq!(id.get_version_num(), 7, "{odd:?}");
        assert_eq!(id.get_timestamp().unwrap().to_unix().0, 1_700_000_000);
    }
    let twice = map(&[("x-request-id", "a"), ("x-request-id", "a")]);
    assert_ne!(request_id(&twice, 0), "a");
    assert_ne!(request_id(&Fields::new(), 0), request_id(&Fields::new(), 0));
}

proptest::proptest! {
    #[test]
    fn no_claim_about_the_client_can_break_what_is_sent_on(
        list in "[ -~]{0,60}",
        elements in "(for=|host=|\"|\\\\|[0-9.,;:\\[\\] a-f]){0,30}",
        host in "[!-~]{0,20}",
        known in proptest::bool::ANY,
    ) {
        let given = map(&[("x-forwarded-for", &list), ("forwarded", &elements), ("x-forwarded-host", &host)]);
        let peer = if known { ip("10.0.0.1") } else { ip("192.0.2.7") };
        let host = HeaderValue::from_str(&host).unwrap();
        let mut sent = given.clone();
        forward(&mut sent, &Hop { peer, secure: true, host: Some(host.as_bytes()) }, &trusted());
        let address = peer.to_string();
        proptest::prop_assert!(text(&sent, "x-forwarded-for").unwrap().ends_with(&address));
        let element = ["for=", &address].concat();
        proptest::prop_assert!(text(&sent, "forwarded").unwrap().contains(&element));
        if known {
            // What was believed before is what the next hop would believe.
            let mut again = Fields::new();
            again.insert("x-forwarded-for", sent.value("x-forwarded-for").unwrap());
            proptest::prop_assert_eq!(client_address(&again, peer, &trusted()), client_address(&given, peer, &trusted()));
        } else {
            proptest::prop_assert_eq!(client_address(&given, peer, &trusted()), peer);
            proptest::prop_assert_eq!(text(&sent, "x-forwarded-for"), Some(address.as_str()));
        }
    }

    #[test]
    fn no_connection_field_can_make_stripping_fail(options in "[ -~]{0,80}") {
        let mut headers = map(&[("connection", &options), ("host", "shop"), ("cookie", "a=b"), ("te", &options)]);
        strip_request(&mut headers);
        proptest::prop_assert_eq!(text(&headers, "host"), Some("shop"));
        proptest::prop_assert_eq!(text(&headers, "cookie"), Some("a=b"));
        strip_response(&mut headers);
        proptest::prop_assert!(!headers.contains("connection"));
    }
}
