use std::time::Duration;

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_500);
const HOST: &str = "www.shop.example";
const PATH: &str = "/catalog/shoes/list";

fn read(line: impl AsRef<[u8]>) -> Result<Cookie, Rejected> {
    parse_set_cookie(line.as_ref(), &Origin::new(HOST, PATH), NOW)
}

fn cookie(line: impl AsRef<[u8]>) -> Cookie {
    let line = line.as_ref();
    read(line).unwrap_or_else(|why| panic!("{}: {why}", line.escape_ascii()))
}

fn refusal(line: impl AsRef<[u8]>) -> &'static str {
    let line = line.as_ref();
    match read(line) {
        Ok(cookie) => panic!("{} was taken: {cookie:?}", line.escape_ascii()),
        Err(why) => why.kind(),
    }
}

/// How long from now the cookie of this line lives; `None` for a session cookie.
fn lifetime(line: &str) -> Option<Duration> {
    cookie(line).expires_at().map(|end| end.since(NOW))
}

#[test]
fn name_and_value_are_split_at_the_first_equals_sign_and_trimmed() {
    for (line, name, value) in [
        ("sid=abc", "sid", "abc"),
        ("sid=", "sid", ""),
        ("sid=a=b==", "sid", "a=b=="),
        (" \t sid \t=\t abc \t; Path=/", "sid", "abc"),
        ("my sid=a b  c", "my sid", "a b  c"),
        ("sid=a\tb", "sid", "a\tb"),
        ("sid=\"a b, c\"", "sid", "\"a b, c\""),
        ("sid=\" a \"", "sid", "\" a \""),
        ("sid=\"[1\\054 2]\"", "sid", "\"[1\\054 2]\""),
        ("sid=\"a;b\"", "sid", "\"a"),
        ("sid=a, other=b", "sid", "a, other=b"),
        ("sid=%41%3B", "sid", "%41%3B"),
        ("\"sid\"=x", "\"sid\"", "x"),
        ("$Version=1; sid=x", "$Version", "1"),
        ("корзина=пусто", "корзина", "пусто"),
    ] {
        let cookie = cookie(line);
        assert_eq!(
            (cookie.name(), cookie.value()),
            (name.as_bytes(), value.as_bytes()),
            "{line}"
        );
    }
}

#[test]
fn bytes_that_are_no_text_pass_unchanged() {
    let cookie = cookie(b"b\xff\x80=\xfe\xa0\xc3; Path=/");
    assert_eq!(cookie.name(), b"b\xff\x80");
    assert_eq!(cookie.value(), b"\xfe\xa0\xc3");
}

#[test]
fn a_cookie_may_have_no_name() {
    for (line, value) in [
        ("token", "token"),
        ("=token", "token"),
        (" = token", "token"),
        ("==a=b", "=a=b"),
    ] {
        let cookie = cookie(line);
        assert_eq!((cookie.name(), cookie.value()), (&b""[..], value.as_bytes()), "{line}");
    }
    assert_eq!(cookie("token; a=b").value(), b"token");
}

#[test]
fn neither_name_nor_value_is_no_cookie() {
    for line in ["", "=", " ", "\t", " = ", ";", "; sid=abc", "=; Path=/"] {
        assert_eq!(refusal(line), "empty", "{line:?}");
    }
}

#[test]
fn a_control_character_anywhere_drops_the_line_but_a_tab_does_not() {
    for byte in (0_u8..0x20).chain([0x7f]) {
        for (before, after) in [
            ("s", "id=abc; Path=/"),
            ("sid=a", "c"),
            ("sid=abc; Pa", "th=/"),
            ("sid=abc; x=", ""),
        ] {
            let line = [before.as_bytes(), &[byte], after.as_bytes()].concat();
            if byte == b'\t' {
                cookie(&line);
            } else {
                assert_eq!(refusal(&line), "control_character", "{byte:#x}");
            }
        }
    }
}

#[test]
fn name_and_value_hold_4096_bytes_together_and_no_more() {
    for name in [0, 1, 2048, 4095, 4096] {
        let line = |extra| format!("{}={}", "n".repeat(name), "v".repeat(4096 - name + extra));
        assert_eq!(cookie(line(0)).value().len(), 4096 - name);
        assert_eq!(refusal(line(1)), "too_large");
    }
    assert_eq!(refusal("v".repeat(4097)), "too_large");
    // The blanks around them do not count, nor do the attributes.
    cookie(format!("  n  =  {}  ; Path=/{}", "v".repeat(4095), "p".repeat(1023)));
}

#[test]
fn an_attribute_value_of_more_than_1024_bytes_is_ignored() {
    let long = "x".repeat(1025);
    assert_eq!(cookie(format!("a=b; Path=/p; Path=/{}", &long[1..])).path(), b"/p");
    assert_eq!(cookie(format!("a=b; Path=/{}", &long[2..])).path().len(), 1024);
    assert!(cookie(format!("a=b; Domain={long}")).host_only());
    assert!(!cookie(format!("a=b; Secure={long}")).secure());
    assert!(!cookie(format!("a=b; HttpOnly={long}")).http_only());
    assert_eq!(lifetime(&format!("a=b; Max-Age={}", "9".repeat(1025))), None);
}

#[test]
fn attributes_are_known_in_any_case_and_whatever_surrounds_them() {
    let cookie =
        cookie("a=b;; ;=;unknown;un=known;\tsEcUrE = x ;HTTPONLY=;PATH\t=\t/p ;DOMAIN= shop.example ;MAX-AGE= 60");
    assert!(cookie.secure() && cookie.http_only() && !cookie.host_only());
    assert_eq!(cookie.path(), b"/p");
    assert_eq!(cookie.domain(), "shop.example");
    assert_eq!(cookie.expires_at(), Some(Timestamp::from_millis(1_700_000_060_500)));
}

#[test]
fn what_only_looks_like_an_attribute_is_none() {
    for line in [
        "a=b; \"Secure\"",
        "a=b; Secure x",
        "a=b; Secur",
        "a=Secure",
        "a=b, Secure",
    ] {
        assert!(!cookie(line).secure(), "{line}");
    }
    assert!(!cookie("a=b; Http-Only").http_only());
    assert_eq!(lifetime("a=b; maxage=60"), None);
}

#[test]
fn max_age_is_counted_from_the_moment_of_receipt() {
    for (value, seconds) in [("1", 1), ("60", 60), ("0060", 60), ("34560000", 34_560_000)] {
        assert_eq!(
            lifetime(&format!("a=b; Max-Age={value}")),
            Some(Duration::from_secs(seconds)),
            "{value}"
        );
    }
}

#[test]
fn max_age_of_zero_or_less_is_a_deletion() {
    for value in ["0", "000", "-0", "-1", "-99999999999999999999999"] {
        let cookie = cookie(format!("a=b; Max-Age={value}"));
        assert!(
            cookie.is_expired(NOW) && cookie.is_expired(Timestamp::from_millis(0)),
            "{value}"
        );
    }
}

#[test]
fn a_max_age_that_is_no_number_is_ignored() {
    for value in ["", "-", "+60", "6 0", "60,000", "1.5", "60s", "--60", "x", "0x10", "٣"] {
        assert_eq!(lifetime(&format!("a=b; Max-Age={value}")), None, "{value}");
        assert_eq!(
            lifetime(&format!("a=b; Max-Age=60; Max-Age={value}")),
            Some(Duration::from_secs(60)),
            "{value}"
        );
    }
}

#[test]
fn no_cookie_lives_longer_than_400_days() {
    for end in [
        "Max-Age=34560001",
        "Max-Age=18446744073709551616",
        "Max-Age=36893488147419103240",
        "Max-Age=99999999999999999999999999999999",
        "Expires=Fri, 31 Dec 9999 23:59:59 GMT",
        "Expires=Wed, 01 Jan 2025 00:00:00 GMT",
    ] {
        assert_eq!(lifetime(&format!("a=b; {end}")), Some(MAX_LIFETIME), "{end}");
    }
    assert_eq!(MAX_LIFETIME.as_secs(), 34_560_000);
}

#[test]
fn max_age_wins_over_expires_in_any_order() {
    for line in [
        "a=b; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "a=b; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=60",
        "a=b; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=60",
    ] {
        assert_eq!(lifetime(line), Some(Duration::from_secs(60)), "{line}");
    }
    assert!(cookie("a=b; Max-Age=0; Expires=Wed, 15 Nov 2023 22:13:20 GMT").is_expired(NOW));
    // One that cannot be read is none.
    assert!(cookie("a=b; Max-Age=soon; Expires=Thu, 01 Jan 1970 00:00:00 GMT").is_expired(NOW));
}

#[test]
fn the_last_expires_that_can_be_read_counts() {
    let day = Duration::from_millis(24 * 60 * 60 * 1000 - 500);
    for line in [
        "a=b; Expires=Wed, 15 Nov 2023 22:13:20 GMT",
        "a=b; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Expires=Wed, 15-Nov-23 22:13:20 GMT",
        "a=b; Expires=Wed, 15 Nov 2023 22:13:20 GMT; Expires=tomorrow; Expires=",
    ] {
        assert_eq!(lifetime(line), Some(day), "{line}");
    }
    assert_eq!(lifetime("a=b; Expires=tomorrow"), None);
    assert_eq!(lifetime("a=b; Expires=0"), None);
}

#[test]
fn a_cookie_ends_with_the_moment_it_names() {
    let cookie = cookie("a=b; Max-Age=1");
    assert!(!cookie.is_expired(Timestamp::from_millis(1_700_000_001_499)));
    assert!(cookie.is_expired(Timestamp::from_millis(1_700_000_001_500)));
    assert!(!self::cookie("a=b").is_expired(Timestamp::MAX));
}

#[test]
fn without_a_domain_the_cookie_is_for_the_host_alone() {
    for line in [
        "a=b",
        "a=b; Domain",
        "a=b; Domain=",
        "a=b; Domain=.",
        "a=b; Domain=elsewhere.example; Domain=",
    ] {
        let cookie = cookie(line);
        assert!(cookie.host_only(), "{line}");
        assert_eq!(cookie.domain(), HOST, "{line}");
        assert!(cookie.matches(&Origin::new(HOST, PATH)));
        assert!(!cookie.matches(&Origin::new("m.www.shop.example", PATH)));
        assert!(!cookie.matches(&Origin::new("shop.example", PATH)));
    }
}

#[test]
fn a_domain_takes_in_the_host_and_what_is_below_it() {
    for (attribute, domain) in [
        ("www.shop.example", "www.shop.example"),
        (".www.shop.example", "www.shop.example"),
        (" .wWw.ShOp.eXaMpLe ", "www.shop.example"),
        ("shop.example", "shop.example"),
        ("elsewhere.example; Domain=shop.example", "shop.example"),
        ("example", "example"),
    ] {
        let cookie = cookie(format!("a=b; Domain={attribute}"));
        assert_eq!((cookie.domain(), cookie.host_only()), (domain, false), "{attribute}");
        for (host, sent) in [
            (HOST, true),
            ("m.www.shop.example", true),
            ("api.shop.example", domain != "www.shop.example"),
            ("xshop.example", domain == "example"),
            ("shop.example.com", false),
        ] {
            assert_eq!(cookie.matches(&Origin::new(host, PATH)), sent, "{attribute} {host}");
        }
    }
}

#[test]
fn a_domain_that_the_host_is_not_part_of_drops_the_line() {
    for domain in [
        "api.shop.example",
        "m.www.shop.example",
        "op.example",
        "w.shop.example",
        "..shop.example",
        "shop..example",
        ". shop.example",
        "shop.example.",
        "shop.example .",
        "\"shop.example\"",
        "shop.example:443",
        "www.shop.example, x",
        "shop.example; Domain=elsewhere.example",
        "магазин.example",
        "shop.ехample",
    ] {
        assert_eq!(refusal(format!("a=b; Domain={domain}")), "foreign_domain", "{domain}");
    }
}

#[test]
fn an_ip_address_has_no_subdomains() {
    for (host, own, foreign) in [
        ("127.0.0.1:8080", "127.0.0.1", "0.0.1"),
        ("10.1.2.3", "10.1.2.3", "2.3"),
        ("[::1]:8080", "[::1]", ":1]"),
        ("[2001:DB8::1]", "[2001:db8::1]", "1]"),
        ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", "2.3.4]"),
    ] {
        let origin = Origin::new(host, "/");
        let set = |line: String| parse_set_cookie(line.as_bytes(), &origin, NOW);
        assert_eq!(set("a=b".into()).unwrap().domain(), own);
        assert!(set(format!("a=b; Domain={own}")).unwrap().matches(&origin), "{host}");
        for domain in [foreign.to_owned(), format!(".{foreign}"), format!("x.{own}")] {
            assert_eq!(
                set(format!("a=b; Domain={domain}")).unwrap_err().kind(),
                "foreign_domain",
                "{host} {domain}"
            );
        }
    }
    // Nor does a name that only begins like one become an address.
    let named = Origin::new("1.2.3.shop", "/");
    assert!(
        parse_set_cookie(b"a=b; Domain=3.shop", &named, NOW)
            .unwrap()
            .matches(&named)
    );
}

#[test]
fn the_host_is_known_whatever_its_spelling() {
    for (field, host) in [
        ("shop.example", "shop.example"),
        ("SHOP.Example:8080", "shop.example"),
        ("shop.example.", "shop.example"),
        ("shop.example.:443", "shop.example"),
        ("shop.example:", "shop.example"),
        ("[::1]", "[::1]"),
        ("[::1]:80", "[::1]"),
        ("[FE80::A]:80", "[fe80::a]"),
        ("[::1", "[::1"),
        ("::1", "::1"),
        ("localhost:80", "localhost"),
        ("", ""),
        (":80", ""),
        (".", "."),
    ] {
        assert_eq!(Origin::new(field, "/").host(), host, "{field}");
    }
}

#[test]
fn a_host_with_the_final_dot_is_the_host_without_it() {
    let dotted = Origin::new("www.shop.example.:8080", "/");
    let plain = Origin::new("www.shop.example", "/");
    for domain in [
        "",
        "; Domain=shop.example",
        "; Domain=shop.example.",
        "; Domain=.www.shop.example.",
    ] {
        let cookie = parse_set_cookie(format!("a=b{domain}").as_bytes(), &dotted, NOW).unwrap();
        assert!(cookie.matches(&dotted) && cookie.matches(&plain), "{domain}");
    }
}

#[test]
fn the_default_path_is_the_directory_of_the_request() {
    for (request, path) in [
        ("/", "/"),
        ("/page", "/"),
        ("/shop/", "/shop"),
        ("/shop/page", "/shop"),
        ("/shop//page", "/shop/"),
        ("//page", "/"),
        ("/shop/page?next=/a/b/c", "/shop"),
        ("/?/a/b", "/"),
        ("", "/"),
        ("*", "/"),
        ("?a/b/c", "/"),
        ("shop/page", "/"),
    ] {
        let set = |line: &[u8]| parse_set_cookie(line, &Origin::new(HOST, request), NOW).unwrap();
        assert_eq!(set(b"a=b").path(), path.as_bytes(), "{request}");
        for attribute in [
            "a=b; Path",
            "a=b; Path=",
            "a=b; Path=x/",
            "a=b; Path=\"/x\"",
            "a=b; Path=/x; Path=",
        ] {
            assert_eq!(
                set(attribute.as_bytes()).path(),
                path.as_bytes(),
                "{request} {attribute}"
            );
        }
    }
}

#[test]
fn a_path_takes_in_what_is_at_and_below_it() {
    for (path, request, sent) in [
        ("/", "/", true),
        ("/", "/any/thing", true),
        ("/", "*", true),
        ("/shop", "/shop", true),
        ("/shop", "/shop?a=/b", true),
        ("/shop", "/shop/", true),
        ("/shop", "/shop/cart", true),
        ("/shop", "/shop//cart", true),
        ("/shop", "/shopping", false),
        ("/shop", "/sho", false),
        ("/shop", "/", false),
        ("/shop", "/SHOP", false),
        ("/shop", "/%73hop", false),
        ("/shop", "/a/shop", false),
        ("/shop/", "/shop", false),
        ("/shop/", "/shop/", true),
        ("/shop/", "/shop/cart", true),
        ("/shop?x", "/shop", false),
        ("/x; Path=/shop", "/shop", true),
        ("/shop; Path=/x", "/shop", false),
    ] {
        let cookie = cookie(format!("a=b; Path={path}"));
        assert_eq!(cookie.matches(&Origin::new(HOST, request)), sent, "{path} {request}");
    }
}

#[test]
fn a_path_may_hold_bytes_that_are_no_text() {
    let cookie = cookie(b"a=b; Path=/\xd0\xba\xff");
    assert!(cookie.matches(&Origin::new(HOST, &b"/\xd0\xba\xff/x"[..])));
    assert!(!cookie.matches(&Origin::new(HOST, &b"/\xd0\xba"[..])));
}

#[test]
fn secure_holds_no_cookie_back() {
    // J2: the hop to the upstream is the trusted one, whatever its scheme.
    let cookie = cookie("a=b; Secure");
    assert!(cookie.secure());
    assert!(cookie.matches(&Origin::new(HOST, PATH)));
}

#[test]
fn same_site_decides_nothing() {
    for value in ["None", "none", "Lax", "Strict", "", "x"] {
        assert!(
            cookie(format!("a=b; SameSite={value}")).matches(&Origin::new(HOST, PATH)),
            "{value}"
        );
    }
}

#[test]
fn a_prefixed_name_needs_the_attributes_that_it_promises() {
    let host = "Secure; Path=/";
    for (prefix, attributes, taken) in [
        ("__Secure-", "Secure", true),
        ("__Secure-", "Secure; Domain=shop.example; Path=/x", true),
        ("__Secure-", "Path=/; HttpOnly", false),
        ("__Host-", host, true),
        ("__Host-", "Secure; Path=/; Domain=", true),
        ("__Host-", "Secure; Path=/x; Path=/", true),
        ("__Host-", "Path=/", false),
        ("__Host-", "Secure", false),
        ("__Host-", "Secure; Path=/x", false),
        ("__Host-", "Secure; Path=/; Path=/x", false),
        ("__Host-", "Secure; Path=/; Domain=www.shop.example", false),
        ("__Http-", "Secure; HttpOnly", true),
        ("__Http-", "Secure; HttpOnly; Domain=shop.example", true),
        ("__Http-", "Secure", false),
        ("__Http-", "HttpOnly", false),
        ("__Host-Http-", "Secure; HttpOnly; Path=/", true),
        ("__Host-Http-", host, false),
        ("__Host-Http-", "Secure; HttpOnly", false),
        ("__Host-Http-", "Secure; HttpOnly; Path=/; Domain=shop.example", false),
        ("__Other-", "Path=/x", true),
        ("__Secure", "Path=/x", true),
        ("_Secure-", "Path=/x", true),
        ("x__Secure-", "Path=/x", true),
    ] {
        for spelling in [prefix.to_owned(), prefix.to_lowercase(), prefix.to_uppercase()] {
            for name in [spelling.clone(), format!("{spelling}sid")] {
                let outcome = read(format!("{name}=x; {attributes}"));
                assert_eq!(outcome.is_ok(), taken, "{name}; {attributes}");
                if let Err(why) = outcome {
                    assert_eq!((why.kind(), why.name()), ("broken_prefix", Some(name.as_bytes())));
                }
            }
        }
    }
}

#[test]
fn the_path_that_host_promises_must_be_written_out() {
    let top = Origin::new(HOST, "/page");
    for attributes in ["Secure", "Secure; Path", "Secure; Path=", "Secure; Path=/; Path="] {
        let line = format!("__Host-sid=x; {attributes}");
        assert!(parse_set_cookie(line.as_bytes(), &top, NOW).is_err(), "{attributes}");
    }
}

#[test]
fn a_cookie_without_a_name_cannot_pass_for_a_prefixed_one() {
    let all = "Secure; HttpOnly; Path=/";
    for value in [
        "__Secure-sid=x",
        "__Host-sid=x",
        "__host-",
        "__HTTP-sid",
        "__Host-Http-sid=x",
    ] {
        for line in [format!("={value}; {all}"), format!("== {value}; {all}")] {
            let hidden = line.starts_with("==");
            assert_eq!(read(&line).is_ok(), hidden, "{line}");
        }
    }
    assert_eq!(refusal(format!("__Secure-sid; {all}")), "broken_prefix");
}

#[test]
fn a_refusal_tells_the_name_and_never_the_value() {
    for (line, name) in [
        ("sid=s3cret\u{1}; Path=/", Some("sid")),
        ("sid=s3cret; Domain=elsewhere.example", Some("sid")),
        ("s3cret; Domain=elsewhere.example", None),
        ("__Host-sid=s3cret", Some("__Host-sid")),
        ("__Host-s3cret", None),
        (&format!("sid={}", "s3cret".repeat(1000)), Some("sid")),
        ("=", None),
    ] {
        let why = read(line).unwrap_err();
        assert_eq!(why.name(), name.map(str::as_bytes), "{line}");
        assert!(!format!("{why} {why:?}").contains("s3cret"), "{why:?}");
    }
    let long = read(format!("{}=x", "n".repeat(5000))).unwrap_err();
    assert_eq!(long.name().map(<[u8]>::len), Some(128));
}

#[test]
fn debug_output_never_shows_a_value() {
    let cookie = cookie("sid=s3cret; Path=/");
    let text = format!("{cookie:?} {:?}", cookie.key());
    assert!(text.contains("sid") && text.contains(HOST), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn name_domain_host_only_and_path_make_the_key() {
    let base = cookie("a=b; Path=/");
    let same = cookie("a=c; Path=/; Secure; HttpOnly; Max-Age=60");
    assert!(base.key() == same.key() && base.same_key(&same) && base.has_key(&same.key()));
    for line in [
        "A=b; Path=/",
        "a=b; Path=/x",
        "a=b; Path=/; Domain=shop.example",
        "a=b; Path=/; Domain=www.shop.example",
    ] {
        let other = cookie(line);
        assert!(
            base.key() != other.key() && !base.same_key(&other) && !base.has_key(&other.key()),
            "{line}"
        );
    }
}

#[test]
fn a_cookie_survives_formats_with_and_without_bytes_of_their_own() {
    let cookie = cookie(b"b\xff=\x80v; Path=/\xfe; Max-Age=60; Secure; Domain=shop.example");
    assert!(postcard::from_bytes::<Cookie>(&postcard::to_stdvec(&cookie).unwrap()).unwrap() == cookie);
    assert!(serde_json::from_str::<Cookie>(&serde_json::to_string(&cookie).unwrap()).unwrap() == cookie);
    let key = cookie.key();
    assert!(serde_json::from_str::<CookieKey>(&serde_json::to_string(&key).unwrap()).unwrap() == key);
}

/// Lines that look like cookies, with the parts that matter mixed at random.
pub(in crate::session) fn line() -> impl Strategy<Value = Vec<u8>> {
    let name = proptest::sample::select(vec!["sid", "a", "", "__Host-a", "__Secure-b", "с"]);
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..12),
        Just(b"v".to_vec()),
        Just(b"__Http-x".to_vec()),
        Just(b"\" a = b \"".to_vec())
    ];
    let attribute = proptest::sample::select(vec![
        "Path=/",
        "Path=/catalog",
        "Path=/other/x",
        "Path",
        "Domain=shop.example",
        "Domain=elsewhere",
        "Domain=",
        "Max-Age=60",
        "Max-Age=0",
        "Max-Age=x",
        "Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "Expires=x",
        "Secure",
        "HttpOnly",
        "SameSite=Lax",
        "",
    ]);
    (name, any::<bool>(), value, proptest::collection::vec(attribute, 0..5)).prop_map(|(name, equals, value, rest)| {
        let equals = if equals { "=" } else { "" };
        let mut line = [name.as_bytes(), equals.as_bytes(), &value].concat();
        for attribute in rest {
            line.extend_from_slice(b"; ");
            line.extend_from_slice(attribute.as_bytes());
        }
        line
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(
        line in proptest::collection::vec(any::<u8>(), 0..200),
        host in "\\PC{0,20}",
        path in proptest::collection::vec(any::<u8>(), 0..30),
    ) {
        let origin = Origin::new(&host, &path);
        if let Ok(cookie) = parse_set_cookie(&line, &origin, NOW) {
            prop_assert!(cookie.name().len() + cookie.value().len() <= MAX_NAME_AND_VALUE);
            prop_assert!(cookie.path().starts_with(b"/"));
        }
    }

    #[test]
    fn a_cookie_for_every_path_goes_back_to_where_it_came_from(line in line()) {
        let line = [&line[..], b"; Path=/"].concat();
        if let Ok(cookie) = read(&line) {
            prop_assert!(cookie.matches(&Origin::new(HOST, PATH)));
            prop_assert!(cookie.expires_at().is_none_or(|end| end.since(NOW) <= MAX_LIFETIME));
        }
    }

    #[test]
    fn a_cookie_with_the_default_path_goes_back_to_where_it_came_from(path in "(/[a-z]{0,3}){0,5}") {
        let origin = Origin::new(HOST, &path);
        let cookie = parse_set_cookie(b"a=b", &origin, NOW).unwrap();
        prop_assert!(cookie.matches(&origin));
    }

    #[test]
    fn what_was_read_reads_the_same_when_written_again(line in line()) {
        if let Ok(cookie) = read(&line) {
            let again = [cookie.name(), b"=", cookie.value(), b"; Path=", cookie.path()].concat();
            let kept = match read(&again) {
                Ok(kept) => kept,
                // A prefixed name is only taken with its attributes.
                Err(why) => {
                    prop_assert_eq!(why.kind(), "broken_prefix");
                    return Ok(());
                }
            };
            prop_assert_eq!((kept.name(), kept.value(), kept.path()), (cookie.name(), cookie.value(), cookie.path()));
        }
    }
}
