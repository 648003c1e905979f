//! The arrows between the layers, as `src/lib.rs` states them.

use std::path::{Path, PathBuf};

/// A source file of the crate.
struct Source {
    /// Path below `src`, without the extension, with `/`: `store/redis`.
    module: String,
    /// Its text without comments.
    code: String,
}

impl Source {
    /// The outermost module: `store` of `store/redis`.
    fn layer(&self) -> &str {
        self.module.split('/').next().expect("a first part")
    }

    /// The layers that it names by `crate::…`, which is the only way across modules here.
    fn uses(&self) -> Vec<&str> {
        let mut used = Vec::new();
        for (at, _) in self.code.match_indices("crate::") {
            let rest = &self.code[at + "crate::".len()..];
            let names = rest
                .strip_prefix('{')
                .map_or(rest, |group| group.split("};").next().unwrap_or(group));
            let grouped = rest.starts_with('{');
            for name in top_level(names, grouped) {
                let name = name
                    .trim()
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or("");
                used.push(name);
            }
        }
        used
    }
}

/// The members of a `{…}` group outside inner groups; the one path when it is no group.
fn top_level(names: &str, grouped: bool) -> Vec<&str> {
    if !grouped {
        return vec![names];
    }
    let (mut members, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in names.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                members.push(&names[start..at]);
                return members;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                members.push(&names[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    members.push(&names[start..]);
    members
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources: Vec<_> = rust_files(&root)
        .into_iter()
        .map(|path| {
            let module = path.strip_prefix(&root).expect("below src").with_extension("");
            let module = module.to_str().expect("UTF-8").replace('\\', "/");
            let text = std::fs::read_to_string(&path).expect("a source file");
            // The time comes through the clock, for everyone.
            let code = without_comments(without_tests(&text)).replace("crate::session::clock::", "clock::");
            Source { module, code }
        })
        .collect();
    sources.sort_by(|a, b| a.module.cmp(&b.module));
    assert!(sources.len() > 20, "the sources were found");
    sources
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test_file(&path) {
            found.push(path);
        }
    }
    found
}

/// What stands before the tests at the end of a file: they may use whatever helps them.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

/// Whether a file holds nothing but tests: `tests.rs`, `tests/…`, and what `bridge.rs` declares for tests alone.
fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| {
        let name = Path::new(part.as_os_str()).file_stem();
        name.is_some_and(|name| name == "tests" || name == "explorer")
    })
}

/// Drops whole-line comments and what follows ` // `; a path in a comment is no use of it.
fn without_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines
        .map(|line| line.split(" // ").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Whether `name` is used as the root of a path: `name::…`.
fn names_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        // Behind a quote it is a text: the target of a log line.
        !before.is_alphanumeric() && !['_', ':', '"'].contains(&before)
    })
}

#[test]
fn each_layer_uses_only_those_below_it() {
    // `metrics` holds the names of all metrics and is used by every part that counts something; the accept loop in
    // `wire` is told by `lifecycle` when to drain.
    let allowed: &[(&str, &[&str])] = &[
        ("hex", &[]),
        ("session", &["hex"]),
        ("lifecycle", &[]),
        ("tls", &[]),
        ("metrics", &["session"]),
        ("moment", &["session"]),
        ("access_log", &["session"]),
        ("wire", &["metrics", "lifecycle", "tls", "moment", "hex"]),
        ("store", &["session", "tls"]),
        ("bridge", &["session", "wire", "metrics", "moment", "access_log"]),
        ("ops", &["session", "metrics"]),
        ("telemetry", &["config", "access_log"]),
        ("config", &["session"]),
    ];
    for source in sources() {
        let Some((_, below)) = allowed.iter().find(|(layer, _)| *layer == source.layer()) else {
            assert!(
                ["app", "cli", "lib", "main"].contains(&source.layer()),
                "{} belongs to no layer",
                source.module
            );
            continue;
        };
        for used in source.uses() {
            let fine = used == source.layer() || below.contains(&used);
            assert!(
                fine,
                "src/{}.rs uses crate::{used}; {} may use {below:?}",
                source.module,
                source.layer()
            );
        }
    }
}

#[test]
fn the_stages_of_the_bridge_never_call_each_other() {
    let sources = sources();
    let stages = ["identify", "acquire", "outbound", "inbound", "commit"];
    for source in &sources {
        let Some(stage) = source.module.strip_prefix("bridge/") else {
            continue;
        };
        let stage = stage.split('/').next().unwrap_or(stage);
        if !stages.contains(&stage) {
            continue;
        }
        for other in stages.iter().filter(|other| **other != stage) {
            for path in [format!("super::{other}"), format!("bridge::{other}")] {
                assert!(!source.code.contains(&path), "src/{}.rs names {path}", source.module);
            }
        }
    }
}

#[test]
fn the_session_core_knows_no_runtime_no_http_library_and_no_driver() {
    let foreign = [
        "tokio",
        "axum",
        "hyper",
        "hyper_util",
        "reqwest",
        "redis",
        "sqlx",
        "futures_util",
        "tracing",
    ];
    for source in sources().iter().filter(|source| source.layer() == "session") {
        for name in foreign {
            assert!(
                !names_crate(&source.code, name),
                "src/{}.rs names {name}",
                source.module
            );
        }
    }
}

#[test]
fn a_driver_is_named_only_in_the_file_of_its_store() {
    for (driver, home) in [("redis", "store/redis"), ("sqlx", "store/sql")] {
        let mut at_home = 0;
        for source in sources() {
            let is_home = source.module == home || source.module.starts_with(&format!("{home}/"));
            // `store::redis::…` is our own module; only a path that begins with the name is the driver.
            if names_crate(&source.code, driver) {
                assert!(is_home, "src/{}.rs names {driver}", source.module);
                at_home += 1;
            }
        }
        assert!(at_home > 0, "{home} names its driver, so this test can see it");
    }
}

#[test]
fn only_the_clock_asks_for_the_time_and_only_the_configuration_for_the_environment() {
    for source in sources() {
        if source.module != "session/clock" {
            assert!(
                !source.code.contains("SystemTime::now"),
                "src/{}.rs asks for the time",
                source.module
            );
        }
        if !["config", "cli", "main", "telemetry"].contains(&source.layer()) {
            for call in ["env::var(", "env::vars(", "env::var_os(", "env::vars_os("] {
                assert!(
                    !source.code.contains(call),
                    "src/{}.rs reads the environment",
                    source.module
                );
            }
        }
    }
}
