use proptest::prelude::*;

use super::*;
use crate::session::cookie::parse_set_cookie;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const LATER: Timestamp = Timestamp::from_millis(1_700_000_100_000);
const HOST: &str = "www.shop.example";
const PATH: &str = "/catalog/shoes/list";

fn cookie_at(line: &str, now: Timestamp) -> Cookie {
    parse_set_cookie(line.as_bytes(), &Origin::new(HOST, PATH), now).unwrap_or_else(|why| panic!("{line}: {why}"))
}

fn cookie(line: &str) -> Cookie {
    cookie_at(line, NOW)
}

fn jar<'a>(lines: impl IntoIterator<Item = &'a str>) -> Jar {
    let mut jar = Jar::new();
    for line in lines {
        jar.apply(cookie(line), NOW);
    }
    jar
}

fn header_for(jar: &Jar, host: &str, path: &str) -> String {
    String::from_utf8(jar.header(&Origin::new(host, path), NOW).unwrap_or_default()).unwrap()
}

fn header(jar: &Jar) -> String {
    header_for(jar, HOST, PATH)
}

#[test]
fn an_empty_jar_makes_no_header() {
    assert_eq!(Jar::new().header(&Origin::new(HOST, PATH), NOW), None);
    assert_eq!(
        jar(["a=b; Path=/elsewhere"]).header(&Origin::new(HOST, PATH), NOW),
        None
    );
    assert_eq!(jar(["a=b; Max-Age=60"]).header(&Origin::new(HOST, PATH), LATER), None);
}

#[test]
fn cookies_go_out_in_the_order_in_which_they_were_set() {
    assert_eq!(
        header(&jar(["z=1; Path=/", "a=2; Path=/", "m=3; Path=/"])),
        "z=1; a=2; m=3"
    );
}

#[test]
fn longer_paths_go_first_whatever_their_age() {
    let jar = jar([
        "a=1; Path=/",
        "b=2; Path=/catalog",
        "c=3; Path=/catalog/shoes/list",
        "d=4; Path=/catalog",
        "e=5; Path=/catalog/shoes",
        "f=6; Path=/catalog/hats",
        "g=7; Path=/",
        "h=8; Path=/catalog/; Domain=shop.example",
    ]);
    assert_eq!(header(&jar), "c=3; e=5; h=8; b=2; d=4; a=1; g=7");
    assert_eq!(
        header_for(&jar, HOST, "/catalog/hats/1?x"),
        "f=6; h=8; b=2; d=4; a=1; g=7"
    );
    assert_eq!(header_for(&jar, HOST, "/"), "a=1; g=7");
    assert_eq!(header_for(&jar, "api.shop.example", PATH), "h=8");
}

#[test]
fn values_go_out_byte_for_byte_and_nameless_cookies_as_bare_values() {
    let origin = Origin::new(HOST, "/");
    let mut jar = Jar::new();
    for line in [&b"q=\"[1\\054 2]\""[..], b"e=", b"=bare =x", b"raw\xff=\xfe\x80 \t z"] {
        jar.apply(parse_set_cookie(line, &origin, NOW).unwrap(), NOW);
    }
    assert_eq!(
        jar.header(&origin, NOW).unwrap(),
        b"q=\"[1\\054 2]\"; e=; bare =x; raw\xff=\xfe\x80 \t z"
    );
}

#[test]
fn the_header_is_allocated_once_and_to_measure() {
    let jar = jar(["a=1; Path=/", "bb=22; Path=/", "ccc=333; Path=/"]);
    let field = jar.header(&Origin::new(HOST, PATH), NOW).unwrap();
    assert_eq!(field, b"a=1; bb=22; ccc=333");
    assert_eq!(field.capacity(), field.len());
}

#[test]
fn a_replaced_cookie_keeps_its_place_and_creation_time() {
    let mut jar = jar(["a=1; Path=/", "b=2; Path=/"]);
    jar.insert(cookie_at("a=new; Path=/; Max-Age=60", LATER));
    assert_eq!(header(&jar), "a=new; b=2");
    let kept = jar.get(&cookie("a=x; Path=/").key()).unwrap();
    assert_eq!(kept.created_at(), NOW);
    assert_eq!(kept.expires_at(), Some(Timestamp::from_millis(1_700_000_160_000)));
    assert_eq!(jar.len(), 2);
}

#[test]
fn a_cookie_that_was_deleted_and_set_again_is_a_new_one() {
    let jar = jar(["a=1; Path=/", "b=2; Path=/", "a=; Path=/; Max-Age=0", "a=3; Path=/"]);
    assert_eq!(header(&jar), "b=2; a=3");
}

#[test]
fn a_deletion_takes_only_the_cookie_of_its_key() {
    let mut jar = jar([
        "a=1; Path=/",
        "a=2; Path=/catalog",
        "a=3; Path=/; Domain=shop.example",
        "b=4; Path=/",
    ]);
    for (line, left) in [
        ("a=; Path=/catalog/; Max-Age=0", "a=2; a=1; a=3; b=4"),
        ("never-set=; Max-Age=0", "a=2; a=1; a=3; b=4"),
        (
            "a=; Path=/; Domain=.SHOP.example; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "a=2; a=1; b=4",
        ),
        ("a=deleted; Path=/; Max-Age=-1", "a=2; b=4"),
    ] {
        assert_eq!(jar.apply(cookie(line), NOW), 0);
        assert_eq!(header(&jar), left, "{line}");
    }
}

#[test]
fn expired_cookies_stay_out_of_the_header_and_are_purged() {
    let mut jar = jar(["a=1; Path=/; Max-Age=60", "b=2; Path=/", "c=3; Path=/; Max-Age=1000"]);
    let origin = Origin::new(HOST, PATH);
    assert_eq!(jar.header(&origin, NOW).unwrap(), b"a=1; b=2; c=3");
    assert_eq!(jar.header(&origin, LATER).unwrap(), b"b=2; c=3");
    assert_eq!(
        (
            jar.purge_expired(NOW),
            jar.purge_expired(LATER),
            jar.purge_expired(LATER)
        ),
        (0, 1, 0)
    );
    assert_eq!(jar.len(), 2);
}

#[test]
fn get_and_remove_find_the_exact_key() {
    let mut jar = jar(["a=1; Path=/", "a=2; Path=/; Domain=www.shop.example"]);
    let key = cookie("a=; Path=/; Domain=www.shop.example").key();
    assert_eq!(jar.get(&key).map(Cookie::value), Some(&b"2"[..]));
    assert_eq!(jar.remove(&key).map(|gone| gone.value().to_vec()), Some(b"2".to_vec()));
    assert!(jar.get(&key).is_none() && jar.remove(&key).is_none());
    assert_eq!(header(&jar), "a=1");
    assert!(!jar.is_empty());
}

#[test]
fn a_full_jar_gives_up_expired_cookies_first() {
    let mut jar = Jar::new();
    jar.apply(cookie("gone=1; Max-Age=60; Secure; HttpOnly"), NOW);
    for n in 1..MAX_COOKIES {
        assert_eq!(jar.apply(cookie(&format!("c{n}=1")), NOW), 0);
    }
    assert_eq!(jar.len(), MAX_COOKIES);
    assert_eq!(jar.apply(cookie_at("new=1", LATER), LATER), 1);
    assert_eq!(jar.len(), MAX_COOKIES);
    assert!(jar.get(&cookie("gone=1").key()).is_none());
    assert!(jar.get(&cookie("c1=1").key()).is_some());
}

#[test]
fn a_full_jar_gives_up_the_oldest_of_the_least_protected_and_keeps_the_session() {
    let mut jar = Jar::new();
    jar.apply(cookie("sid=1; HttpOnly"), NOW);
    for n in 0..MAX_COOKIES * 2 {
        let gone = jar.apply(cookie(&format!("seen{n}=1")), NOW);
        assert_eq!(gone, usize::from(n >= MAX_COOKIES - 1));
    }
    assert_eq!(jar.len(), MAX_COOKIES);
    assert!(jar.get(&cookie("sid=1").key()).is_some());
    let (first_kept, last) = (MAX_COOKIES + 1, MAX_COOKIES * 2 - 1);
    assert!(jar.get(&cookie(&format!("seen{}=1", first_kept - 1)).key()).is_none());
    assert!(jar.get(&cookie(&format!("seen{first_kept}=1")).key()).is_some());
    assert!(jar.get(&cookie(&format!("seen{last}=1")).key()).is_some());
}

#[test]
fn the_newest_cookie_is_kept_even_where_all_others_are_better_protected() {
    let mut jar = Jar::new();
    for n in 0..MAX_COOKIES {
        jar.apply(cookie(&format!("c{n}=1; Secure; HttpOnly")), NOW);
    }
    assert_eq!(jar.apply(cookie("new=1"), NOW), 1);
    assert!(jar.get(&cookie("new=1").key()).is_some());
    assert!(jar.get(&cookie("c0=1").key()).is_none());
}

#[test]
fn a_jar_holds_fifty_of_the_largest_cookies_and_is_bounded_in_bytes() {
    let mut jar = Jar::new();
    let path = format!("/{}", "p".repeat(1023));
    for n in 0..MAX_COOKIES {
        let gone = jar.apply(cookie(&format!("c{n:03}={}; Path={path}", "v".repeat(4092))), NOW);
        assert!(n >= 50 || gone == 0, "{n}");
        assert!(jar.iter().map(Cookie::size).sum::<usize>() <= MAX_BYTES);
    }
    assert!((50..60).contains(&jar.len()), "{}", jar.len());
    // A cookie that grows makes room too, and stays.
    jar.apply(cookie("small=1"), NOW);
    let before = jar.len();
    assert_eq!(jar.apply(cookie(&format!("small={}", "v".repeat(4000))), NOW), 1);
    assert_eq!(jar.len(), before - 1);
    assert!(jar.iter().map(Cookie::size).sum::<usize>() <= MAX_BYTES);
    assert_eq!(
        jar.get(&cookie("small=").key()).map(|grown| grown.value().len()),
        Some(4000)
    );
}

#[test]
fn debug_output_of_a_jar_shows_no_value() {
    let text = format!("{:?}", jar(["sid=s3cret"]));
    assert!(text.contains("sid") && !text.contains("s3cret"), "{text}");
}

fn parsed() -> impl Strategy<Value = Vec<Cookie>> {
    let line = crate::session::cookie::tests::line();
    proptest::collection::vec(line, 0..20).prop_map(|lines| {
        let origin = Origin::new(HOST, PATH);
        lines
            .iter()
            .filter_map(|line| parse_set_cookie(line, &origin, NOW).ok())
            .collect()
    })
}

fn filled(cookies: &[Cookie]) -> Jar {
    let mut jar = Jar::new();
    for cookie in cookies {
        jar.apply(cookie.clone(), NOW);
    }
    jar
}

proptest! {
    #[test]
    fn a_header_can_always_be_sent(cookies in parsed(), path in "(/[a-z]{0,8}){0,4}") {
        if let Some(field) = filled(&cookies).header(&Origin::new(HOST, &path), NOW) {
            prop_assert!(!field.is_empty());
            prop_assert!(field.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()));
        }
    }

    #[test]
    fn the_header_holds_every_matching_cookie_once_in_order(cookies in parsed()) {
        let jar = filled(&cookies);
        let origin = Origin::new(HOST, PATH);
        let mut expected: Vec<(usize, &Cookie)> = jar.iter().enumerate().filter(|(_, c)| c.matches(&origin)).collect();
        expected.sort_by_key(|(place, cookie)| (Reverse(cookie.path().len()), *place));
        let pairs: Vec<Vec<u8>> = expected
            .iter()
            .map(|(_, cookie)| {
                let equals: &[u8] = if cookie.name().is_empty() { b"" } else { b"=" };
                [cookie.name(), equals, cookie.value()].concat()
            })
            .collect();
        prop_assert_eq!(jar.header(&origin, NOW).unwrap_or_default(), pairs.join(&b"; "[..]));
    }

    #[test]
    fn a_stored_cookie_is_found_and_a_second_storing_changes_nothing(cookies in parsed()) {
        let mut jar = filled(&cookies);
        let once = jar.clone();
        for cookie in cookies.iter().filter(|cookie| jar.get(&cookie.key()) == Some(*cookie)).cloned().collect::<Vec<_>>() {
            jar.apply(cookie, NOW);
        }
        prop_assert!(jar == once);
    }

    #[test]
    fn keys_are_unique_and_the_last_word_counts(cookies in parsed()) {
        let jar = filled(&cookies);
        let mut keys: Vec<_> = jar.iter().map(Cookie::key).collect();
        keys.sort();
        keys.dedup();
        prop_assert_eq!(keys.len(), jar.len());
        for cookie in &cookies {
            let last = cookies.iter().rfind(|other| other.same_key(cookie));
            let alive = last.filter(|last| !last.is_expired(NOW));
            prop_assert_eq!(jar.get(&cookie.key()).map(Cookie::value), alive.map(Cookie::value));
        }
    }

    #[test]
    fn a_jar_survives_being_encoded(cookies in parsed()) {
        let jar = filled(&cookies);
        let bytes = postcard::to_stdvec(&jar).unwrap();
        prop_assert!(postcard::from_bytes::<Jar>(&bytes).unwrap() == jar);
    }
}
