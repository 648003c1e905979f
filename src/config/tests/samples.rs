//! The sample files are right: each is read, and the one with every key has every key.

use super::super::document::Table;
use super::super::{reader, schema};
use super::*;

const FULL: &str = include_str!("../../../config/session-bridge.toml");
const EXAMPLES: [(&str, &str); 4] = [
    ("bitrix", include_str!("../../../config/examples/bitrix.toml")),
    ("magento", include_str!("../../../config/examples/magento.toml")),
    ("django", include_str!("../../../config/examples/django.toml")),
    ("php", include_str!("../../../config/examples/php.toml")),
];

fn known_keys() -> Vec<String> {
    let mut reader = reader::Reader::default();
    schema::read(&mut reader, &Table::new(), false);
    reader.known
}

/// The file with its examples: lines that begin with `#` and no space lose it.
fn uncommented(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn keys_of(text: &str) -> Vec<String> {
    let document: toml::Table = text.parse().unwrap();
    let mut keys = Vec::new();
    for (section, value) in &document {
        let table = value.as_array().map_or(value, |tables| &tables[0]);
        push_keys(&mut keys, section, table.as_table().unwrap());
    }
    keys
}

fn push_keys(keys: &mut Vec<String>, path: &str, table: &toml::Table) {
    for (key, value) in table {
        let path = format!("{path}.{key}");
        match value.as_table() {
            Some(inner) if !inner.is_empty() => push_keys(keys, &path, inner),
            _ => keys.push(path),
        }
    }
}

#[test]
fn the_full_sample_sets_every_key_to_its_default() {
    let sample = load(FULL, &[]).unwrap();
    let defaults = load(UPSTREAM, &[]).unwrap();
    // Nothing here is secret, so the debug text shows all of it.
    assert_eq!(format!("{sample:#?}"), format!("{defaults:#?}"));

    let with_route = uncommented(FULL);
    let (mut known, mut mentioned) = (known_keys(), keys_of(&with_route));
    known.sort();
    mentioned.sort();
    assert_eq!(mentioned, known);
    assert!(known.len() > 40, "{known:?}");

    let route = &load(&with_route, &[]).unwrap().routes[0];
    let default = &load(&format!("{UPSTREAM}[[route]]\npath = \"/feed/*\""), &[])
        .unwrap()
        .routes[0];
    assert_eq!(format!("{route:?}"), format!("{default:?}"));
}

#[test]
fn the_examples_are_read_and_keep_their_session_cookie() {
    for (name, text) in EXAMPLES {
        let config = load(text, &[]).unwrap_or_else(|errors| panic!("{name}: {errors}"));
        assert!(!config.session.id_cookies.is_empty(), "{name}");
        assert!(!config.session.auth_paths.is_empty(), "{name}");
    }
}

#[test]
fn the_bitrix_globs_meet_the_parameters_of_a_log_in() {
    let config = load(EXAMPLES[0].1, &[]).unwrap();
    let matches = |target: &[u8]| config.session.auth_paths.iter().any(|glob| glob.matches(target));
    for target in [
        "/?login=yes",
        "/personal/?login=yes&backurl=%2F",
        "/personal/?a=b&logout=yes",
        "/auth/index.php",
    ] {
        assert!(matches(target.as_bytes()), "{target}");
    }
    assert!(!matches(b"/catalog/?q=login"));
}
