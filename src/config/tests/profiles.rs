//! The profiles are right, and whatever is set stands over them.

use super::super::profile::PROFILES;
use super::*;

const BASE: &str = "upstream.url = \"http://127.0.0.1:8000\"\n";

fn with(profile: &str, lines: &str) -> Config {
    let text = format!("{BASE}upstream.profile = \"{profile}\"\n{lines}");
    load(&text, &[]).unwrap_or_else(|errors| panic!("{profile}: {errors}"))
}

fn names(globs: &[crate::session::glob::Glob]) -> Vec<&str> {
    globs.iter().map(crate::session::glob::Glob::as_str).collect()
}

/// What each profile makes of cookies and requests.
struct Row {
    profile: &'static str,
    session_cookie: &'static str,
    other_cookie: Option<&'static str>,
    log_in: &'static str,
    lost: (&'static [u16], Option<&'static str>),
    csrf: Option<(&'static str, &'static str)>,
}

const TABLE: [Row; 7] = [
    Row {
        profile: "bitrix",
        session_cookie: "PHPSESSID",
        other_cookie: Some("BITRIX_SM_SALE_UID"),
        log_in: "/personal/?login=yes",
        lost: (&[401], None),
        csrf: None,
    },
    Row {
        profile: "magento",
        session_cookie: "PHPSESSID",
        other_cookie: Some("form_key"),
        log_in: "/customer/account/loginPost/",
        lost: (&[], Some("/customer/account/login/referer/x/")),
        csrf: None,
    },
    Row {
        profile: "django",
        session_cookie: "sessionid",
        other_cookie: Some("messages"),
        log_in: "/accounts/login/",
        lost: (&[], Some("/accounts/login/?next=/basket")),
        csrf: Some(("csrftoken", "x-csrftoken")),
    },
    Row {
        profile: "laravel",
        session_cookie: "my_shop_session",
        other_cookie: Some("remember_web_59ba36addc2b2f94"),
        log_in: "/login",
        lost: (&[419], None),
        csrf: Some(("XSRF-TOKEN", "x-xsrf-token")),
    },
    Row {
        profile: "php",
        session_cookie: "PHPSESSID",
        other_cookie: None,
        log_in: "/login.php",
        lost: (&[], Some("/login.php")),
        csrf: None,
    },
    Row {
        profile: "spring",
        session_cookie: "JSESSIONID",
        other_cookie: Some("remember-me"),
        log_in: "/login",
        lost: (&[], Some("/login")),
        csrf: Some(("XSRF-TOKEN", "x-xsrf-token")),
    },
    Row {
        profile: "express",
        session_cookie: "connect.sid",
        other_cookie: None,
        log_in: "/login",
        lost: (&[401], None),
        csrf: None,
    },
];

#[test]
fn every_profile_knows_its_cookies_its_log_in_and_how_a_dead_session_looks() {
    assert_eq!(PROFILES.map(|(name, _)| name), TABLE.map(|row| row.profile));
    for row in TABLE {
        let session = with(row.profile, "").session;
        let is_in =
            |globs: &[crate::session::glob::Glob], text: &str| globs.iter().any(|glob| glob.matches(text.as_bytes()));
        assert!(is_in(&session.cookies, row.session_cookie), "{}", row.profile);
        assert!(is_in(&session.id_cookies, row.session_cookie), "{}", row.profile);
        if let Some(other) = row.other_cookie {
            assert!(
                is_in(&session.cookies, other) && !is_in(&session.id_cookies, other),
                "{}",
                row.profile
            );
        }
        assert!(!is_in(&session.cookies, "_ga"), "{}", row.profile);
        assert!(is_in(&session.auth_paths, row.log_in), "{}", row.profile);
        assert!(!is_in(&session.auth_paths, "/basket"), "{}", row.profile);
        let (statuses, redirect) = row.lost;
        let told: Vec<_> = session.lost.status.iter().map(http::StatusCode::as_u16).collect();
        assert_eq!(told, statuses, "{}", row.profile);
        assert_eq!(session.lost.redirect.is_some(), redirect.is_some(), "{}", row.profile);
        if let Some((glob, path)) = session.lost.redirect.as_ref().zip(redirect) {
            assert!(glob.matches(path.as_bytes()), "{}", row.profile);
        }
        // What guests see, too, must not cost them the basket.
        assert_eq!(session.lost.with_new_cookie, told != [419], "{}", row.profile);
        let csrf = session.csrf.cookie.as_deref().zip(session.csrf.header.as_ref());
        assert_eq!(
            csrf.map(|(cookie, header)| (cookie, header.as_str())),
            row.csrf,
            "{}",
            row.profile
        );
    }
}

#[test]
fn every_profile_is_whole_and_says_where_it_comes_from() {
    for (name, text) in PROFILES {
        let (_, errors) = super::super::document::from_toml(name, text);
        assert!(errors.is_empty(), "{name}: {errors:?}");
        for what in [
            "# Cookies: ",
            "# Log-in and log-out: ",
            "# A dead session: ",
            "# CSRF: ",
        ] {
            assert!(text.contains(what), "{name} says nothing of {what}");
        }
    }
}

#[test]
fn whatever_is_set_stands_over_the_profile() {
    let lines = "session.id_cookies = [\"sid\"]\nsession.cookies = [\"*\"]\nsession.lost.redirect = \"/in\"";
    let session = with("django", lines).session;
    assert_eq!(
        (names(&session.id_cookies), names(&session.cookies)),
        (vec!["sid"], vec!["*"])
    );
    assert_eq!(session.lost.redirect.unwrap().as_str(), "/in");
    assert!(session.lost.with_new_cookie, "key by key");
    assert_eq!(session.csrf.cookie.as_deref(), Some("csrftoken"));
    let off =
        "session.csrf = { cookie = \"\", header = \"\" }\nsession.lost = { redirect = \"\", with_new_cookie = false }";
    let session = with("django", off).session;
    assert!(session.csrf.cookie.is_none() && !session.lost.is_set());
    let by_environment = load(
        UPSTREAM,
        &[
            ("SESSION_BRIDGE_UPSTREAM__PROFILE", "express"),
            ("SESSION_BRIDGE_SESSION__AUTH_PATHS", "/in,/out"),
        ],
    )
    .unwrap();
    assert_eq!(names(&by_environment.session.id_cookies), ["connect.sid"]);
    assert_eq!(names(&by_environment.session.auth_paths), ["/in", "/out"]);
}

#[test]
fn without_a_profile_nothing_is_known_and_an_unknown_one_is_an_error() {
    let session = with("", "").session;
    assert!(session.id_cookies.is_empty() && !session.lost.is_set());
    let error = load(&format!("{BASE}upstream.profile = \"djnago\""), &[]).unwrap_err();
    assert!(
        error.contains("upstream.profile: ") && error.contains("django"),
        "{error}"
    );
    let kept = load(
        &format!("{BASE}upstream.profile = \"django\"\nsession.cookies = [\"sessionid\"]"),
        &[],
    );
    let error = kept.unwrap_err();
    assert!(
        error.starts_with("profile django:"),
        "the place of what contradicts is told: {error}"
    );
}
