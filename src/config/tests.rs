use std::ffi::OsString;
use std::time::Duration;

use super::*;

mod profiles;
mod samples;

const UPSTREAM: &str = "[upstream]\nurl = \"http://127.0.0.1:8000\"\n";

/// The sources made of this file and these variables, and the directory that the file is in.
fn sources(file: &str, environment: &[(&str, &str)], flags: Flags) -> (Sources, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bridge.toml");
    std::fs::write(&path, file).unwrap();
    let environment = environment
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect();
    (
        Sources {
            file: File::Required(path),
            environment,
            flags,
        },
        directory,
    )
}

fn load_all(file: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Config, String> {
    let (sources, directory) = sources(file, environment, flags);
    let prefix = format!("{}/", directory.path().display());
    Config::load(&sources).map_err(|errors| errors.to_string().replace(&prefix, ""))
}

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    load_all(file, environment, Flags::default())
}

/// The configuration made of an upstream and `rest`, whose first line is line 1.
fn with_upstream(rest: &str) -> Result<Config, String> {
    load(rest, &[("SESSION_BRIDGE_UPSTREAM__URL", "http://127.0.0.1:8000")])
}

fn flags(upstream: Option<&str>, listen: Option<&str>, store: Option<&str>) -> Flags {
    let secret = |text: &str| Secret::from(text.to_owned());
    Flags {
        upstream: upstream.map(secret),
        listen: listen.map(str::to_owned),
        store: store.map(secret),
    }
}

#[test]
fn everything_has_a_default_but_the_upstream() {
    let config = load(UPSTREAM, &[]).unwrap();
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.server.health_path.as_deref(), Some("/healthz"));
    assert_eq!(config.server.max_header_size, 32 * 1024);
    assert_eq!(config.ops.listen.to_string(), "127.0.0.1:9090");
    assert_eq!(config.upstream.idle_timeout, Duration::from_millis(1500));
    assert!(config.upstream.preserve_host);
    assert_eq!(config.install_id.header.unwrap(), "x-install-id");
    assert_eq!(config.install_id.body_pointer.unwrap().as_str(), "/installId");
    assert_eq!(config.install_id.max_body, 1 << 20);
    assert_eq!(config.session.idle_timeout, Duration::from_secs(2_592_000));
    assert_eq!(config.session.max_age, None);
    assert!(config.session.cookies[0].matches(b"anything"));
    assert!(matches!(config.store.url, StoreUrl::Sqlite { path } if path == Path::new("session-bridge.db")));
    assert_eq!(config.log.format, None);
    assert!(config.routes.is_empty());

    let errors = load("", &[]).unwrap_err();
    assert!(errors.contains("configuration: upstream.url: is missing"), "{errors}");
    for way in ["[upstream] url =", "SESSION_BRIDGE_UPSTREAM__URL", "--upstream"] {
        assert!(errors.contains(way), "{way} is not in: {errors}");
    }
}

#[test]
fn flags_beat_the_environment_and_the_environment_beats_the_file() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\n[upstream]\nurl = \"http://file\"\n[store]\nurl = \"memory:\"\n";
    let environment = [
        ("SESSION_BRIDGE_SERVER__LISTEN", "127.0.0.1:2"),
        ("SESSION_BRIDGE_UPSTREAM__URL", "http://env"),
    ];
    let config = load_all(file, &environment, flags(Some("http://flag"), None, None)).unwrap();
    assert_eq!(config.upstream.url.to_string(), "http://flag");
    assert_eq!(config.server.listen.port(), 2);
    assert!(matches!(config.store.url, StoreUrl::Memory));

    let config = load_all(file, &environment, flags(None, Some("[::1]:3"), Some("sqlite:///x.db"))).unwrap();
    assert_eq!(config.upstream.url.to_string(), "http://env");
    assert_eq!(config.server.listen.port(), 3);
    assert_eq!(config.store.url.to_string(), "sqlite:///x.db");
    assert_eq!(load(file, &[]).unwrap().upstream.url.to_string(), "http://file");
}

#[test]
fn the_environment_can_set_every_type() {
    let config = load(
        UPSTREAM,
        &[
            ("SESSION_BRIDGE_UPSTREAM__PRESERVE_HOST", "false"),
            ("SESSION_BRIDGE_SERVER__MAX_CONNECTIONS", "7"),
            ("SESSION_BRIDGE_INSTALL_ID__MAX_BODY", "2MB"),
            ("SESSION_BRIDGE_SESSION__COOKIES", "PHPSESSID, BITRIX_SM_*"),
            ("SESSION_BRIDGE_SESSION__ID_COOKIES", r#"["PHPSESSID"]"#),
            ("SESSION_BRIDGE_SESSION__AUTH_PATHS", r#"["\/login", "*"]"#),
            ("SESSION_BRIDGE_SERVER__TRUSTED_PROXIES", "[]"),
            ("SESSION_BRIDGE_SESSION__MAX_AGE", "12h"),
            (
                "SESSION_BRIDGE_ROUTE",
                r#"[{"path": "/feed/*", "session": "off"}, {"path": "/x", "auth": true}]"#,
            ),
            ("SESSION_BRIDGES", "not ours"),
            ("PATH", "not ours"),
        ],
    )
    .unwrap();
    assert!(!config.upstream.preserve_host);
    assert_eq!(config.server.max_connections, 7);
    assert_eq!(config.install_id.max_body, 2_000_000);
    assert!(config.session.cookies[1].matches(b"BITRIX_SM_GUEST_ID"));
    assert_eq!(config.session.id_cookies.len(), 1);
    assert!(config.session.auth_paths[0].matches(b"/login"));
    assert_eq!(config.session.max_age, Some(Duration::from_secs(43_200)));
    assert_eq!(config.routes[0].session, RouteSession::Off);
    assert!(config.routes[1].auth);

    let toml = r#"[{path = "/feed/*", methods = ["GET"]}]"#;
    let config = load(UPSTREAM, &[("SESSION_BRIDGE_ROUTE", toml)]).unwrap();
    assert_eq!(config.routes[0].methods, ["GET"]);
}

#[test]
fn durations_sizes_and_addresses_are_read_exactly() {
    for (text, millis) in [
        ("250ms", 250),
        ("10s", 10_000),
        ("10m", 600_000),
        ("2h", 7_200_000),
        ("30d", 2_592_000_000),
    ] {
        let config = with_upstream(&format!("session.idle_timeout = \"{text}\"")).unwrap();
        assert_eq!(config.session.idle_timeout, Duration::from_millis(millis), "{text}");
    }
    let sizes = [
        ("65536", 65_536),
        ("\"64KiB\"", 65_536),
        ("\"1MiB\"", 1 << 20),
        ("\"65KB\"", 65_000),
        ("\"2048\"", 2048),
    ];
    for (text, bytes) in sizes {
        let config = with_upstream(&format!("server.max_header_size = {text}")).unwrap();
        assert_eq!(config.server.max_header_size, bytes, "{text}");
    }
    let config =
        with_upstream("server.listen = \"localhost:81\"\nserver.trusted_proxies = [\"10.0.0.0/8\", \"::1\"]").unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:81");
    assert_eq!(config.server.trusted_proxies[1].to_string(), "::1/128");
}

#[test]
fn the_parts_of_the_upstream_are_told_apart() {
    let url = |text: &str| load(&format!("upstream.url = \"{text}\""), &[]).unwrap().upstream.url;
    assert_eq!((url("http://shop/").host(), url("http://shop").port()), ("shop", 80));
    assert_eq!(
        (url("http://[::1]:81").host(), url("http://[::1]:81").port()),
        ("::1", 81)
    );
    assert_eq!(url("http://my_app:8000").authority().as_str(), "my_app:8000");
    for (text, port, tls) in [
        ("http://h", 80, false),
        ("https://h", 443, true),
        ("https://h:8443", 8443, true),
    ] {
        assert_eq!((url(text).port(), url(text).is_tls()), (port, tls), "{text}");
        assert_eq!(url(text).to_string(), text);
    }
}

#[test]
fn tls_towards_the_backend_is_for_an_https_url() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pem");
    std::fs::write(&path, "-----BEGIN SOMETHING-----\nhunter2\n").unwrap();
    let with = |url: &str, keys: &[&str]| {
        let keys: Vec<_> = keys.iter().map(|key| format!("{key} = {path:?}")).collect();
        let text = format!("[upstream]\nurl = \"{url}\"\ntls = {{ {} }}", keys.join(", "));
        load(&text, &[]).map(|config| config.upstream.tls)
    };
    let tls = with("https://h", &["ca", "cert", "key"]).unwrap();
    assert!(tls.ca.is_some() && tls.cert.is_some() && tls.key.is_some());
    assert!(!format!("{tls:?}").contains("hunter2"));
    let clear = "bridge.toml:3: upstream.tls.ca: upstream.url is of no TLS: write https:// in place of http://";
    assert_eq!(with("http://h", &["ca"]).unwrap_err(), clear);
    let half = "bridge.toml:3: upstream.tls.key: cert and key belong together: both or neither";
    assert_eq!(with("https://h", &["ca", "key"]).unwrap_err(), half);
}

#[test]
fn stores_are_told_apart_and_shown_without_their_password() {
    let shown = |text: &str| {
        with_upstream(&format!("store.url = \"{text}\""))
            .unwrap()
            .store
            .url
            .to_string()
    };
    for same in [
        "memory:",
        "sqlite://a b.db",
        "sqlite:///var/lib/x.db",
        "redis://h",
        "redis://h:6379/0",
        "redis://[::1]:1/",
    ] {
        assert_eq!(shown(same), same);
    }
    assert_eq!(shown("redis://user:p%40ss@h:6379/15"), "redis://h:6379/15");
    assert_eq!(shown("redis://:pass@h"), "redis://h");
    assert_eq!(shown("valkeys://user:pass@h/1"), "valkeys://h/1");
    assert_eq!(
        shown("redis-sentinel://user:pass@a,b:1/m/2"),
        "redis-sentinel://a,b:1/m/2"
    );
    assert_eq!(
        shown("rediss-cluster://user:pass@a,[::1]:1"),
        "rediss-cluster://a,[::1]:1"
    );
}

/// What the URL says, in one line.
fn sql(text: &str) -> String {
    let store = with_upstream(&format!("store.url = \"{text}\"")).unwrap().store;
    let StoreUrl::Sql(url) = &store.url else {
        panic!("{text} is of a database server")
    };
    let password = url.password.as_ref().map_or("-", Secret::expose);
    format!(
        "{:?} {}:{} {} as {} {password}, {:?}, {} at most, shown {url}",
        url.kind,
        url.server.host,
        url.server.port,
        url.database,
        url.username.expose(),
        url.encryption,
        url.max_connections
    )
}

#[test]
fn the_url_of_a_database_server_says_all_that_it_takes() {
    assert_eq!(
        sql("postgres://bridge@db/shop"),
        "Postgres db:5432 shop as bridge -, None, 16 at most, shown postgres://db/shop"
    );
    assert_eq!(
        sql("postgresql://b%40r:p%2Fw%3F@[::1]:1/my%20shop?sslmode=verify-full&max_connections=3"),
        "Postgres ::1:1 my shop as b@r p/w?, Some(VerifyFull), 3 at most, \
         shown postgresql://[::1]:1/my%20shop?sslmode=verify-full&max_connections=3"
    );
    assert_eq!(
        sql("mysql://u:p@h/d?ssl-mode=VERIFY_IDENTITY"),
        "MySql h:3306 d as u p, Some(VerifyFull), 16 at most, shown mysql://h/d?ssl-mode=VERIFY_IDENTITY"
    );
    assert_eq!(
        sql("mariadb://u@h:7/d?ssl-mode=disabled"),
        "MySql h:7 d as u -, Some(Disable), 16 at most, shown mariadb://h:7/d?ssl-mode=disabled"
    );
}

#[test]
fn the_url_of_memcached_names_its_servers() {
    let store = with_upstream("store.url = \"memcached://a,b:1,[::1]:2/\"")
        .unwrap()
        .store;
    let StoreUrl::Memcached(url) = &store.url else {
        panic!("it is of Memcached")
    };
    let servers = url
        .servers
        .iter()
        .map(|server| format!("{} {}", server.host, server.port));
    assert_eq!(servers.collect::<Vec<_>>(), ["a 11211", "b 1", "::1 2"]);
    assert_eq!(url.to_string(), "memcached://a,b:1,[::1]:2");
}

/// What the URL says, in one line.
fn redis(text: &str) -> String {
    let store = with_upstream(&format!("store.url = \"{text}\"")).unwrap().store;
    let StoreUrl::Redis(url) = &store.url else {
        panic!("{text} is of Redis")
    };
    let list = |addresses: &[Address]| {
        let shown = addresses
            .iter()
            .map(|address| format!("{} {}", address.host, address.port));
        shown.collect::<Vec<_>>().join(", ")
    };
    let topology = match &url.topology {
        RedisTopology::One { server, database } => format!("{} db {database}", list(std::slice::from_ref(server))),
        RedisTopology::Sentinel {
            sentinels,
            master,
            database,
        } => format!("{} says where {master} is, db {database}", list(sentinels)),
        RedisTopology::Cluster { seeds } => format!("{} of a cluster", list(seeds)),
    };
    let shown = |secret: &Option<Secret>| secret.as_ref().map_or("-".to_owned(), |text| text.expose().to_owned());
    let tls = if url.tls { "tls " } else { "" };
    format!("{tls}{topology} as {} {}", shown(&url.username), shown(&url.password))
}

#[test]
fn the_urls_of_redis_say_where_it_is_and_who_we_are() {
    for (text, meaning) in [
        ("redis://h", "h 6379 db 0 as - -"),
        ("redis://[fd00::1]/", "fd00::1 6379 db 0 as - -"),
        ("valkey://h:1/15", "h 1 db 15 as - -"),
        ("rediss://u:p%40%3a%C3%A9@h", "tls h 6379 db 0 as u p@:é"),
        ("valkeys://:p@[::1]:7", "tls ::1 7 db 0 as - p"),
        ("redis://:@h", "h 6379 db 0 as - -"),
        (
            "redis-sentinel://a/mymaster",
            "a 26379 says where mymaster is, db 0 as - -",
        ),
        (
            "rediss-sentinel://u:p@a,b:7,[::1],[::1]:8/my-1.x_y/3",
            "tls a 26379, b 7, ::1 26379, ::1 8 says where my-1.x_y is, db 3 as u p",
        ),
        ("redis-cluster://u:p@a:7101,b", "a 7101, b 6379 of a cluster as u p"),
        ("rediss-cluster://a/0", "tls a 6379 of a cluster as - -"),
        ("valkeys-cluster://a/", "tls a 6379 of a cluster as - -"),
    ] {
        assert_eq!(redis(text), meaning, "{text}");
    }
}

#[test]
fn passwords_and_certificates_come_from_files_that_belong_to_the_url() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        format!("{:?}", path.display().to_string())
    };
    let password = file("password", "hunter 2\r\n");
    let pem = file("pem", "-----BEGIN SOMETHING-----\n");
    let with = |lines: &[&str]| with_upstream(&format!("[store]\n{}", lines.join("\n"))).map(|config| config.store);

    let file_of = format!("password_file = {password}");
    let url = "url = \"redis://user@h\"";
    let store = with(&[url, &file_of]).unwrap();
    assert_eq!(store.password.as_ref().unwrap().expose(), "hunter 2");
    assert!(!format!("{store:?}").contains("hunter"));
    let errors = with(&["url = \"redis://user:x@h\"", &file_of]).unwrap_err();
    assert_eq!(
        errors,
        "bridge.toml:3: store.password_file: there is a password in store.url too: keep it in one place"
    );
    let errors = with(&[&file_of]).unwrap_err();
    assert!(
        errors.contains("store.password_file: is for a store on a server"),
        "{errors}"
    );
    for (content, expected) in [
        ("\n", "the file holds no password"),
        ("hunter2\nx\n", "the file must hold one line, the password"),
    ] {
        let errors = with(&[url, &format!("password_file = {}", file("bad", content))]).unwrap_err();
        assert_eq!(errors, format!("bridge.toml:3: store.password_file: {expected}"));
    }

    let sentinel = format!("sentinel_password_file = {password}");
    let lines = ["url = \"redis-sentinel://h/m\"", "sentinel_username = \"s\"", &sentinel];
    let store = with(&lines).unwrap();
    assert_eq!(store.sentinel_username.unwrap().expose(), "s");
    assert_eq!(store.sentinel_password.unwrap().expose(), "hunter 2");

    let tls = |keys: &str| format!("tls = {{ {keys} }}");
    let all = tls(&format!("ca = {pem}, cert = {pem}, key = {pem}"));
    let store = with(&["url = \"rediss://h\"", &all]).unwrap();
    assert!(store.tls.ca.is_some() && store.tls.cert.is_some() && store.tls.key.is_some());
    assert!(!format!("{store:?}").contains("SOMETHING"));
    let errors = with(&["url = \"redis://h\"", &all]).unwrap_err();
    assert_eq!(
        errors,
        "bridge.toml:3: store.tls.ca: store.url is of no TLS: write rediss:// in place of redis://"
    );
    for half in ["cert", "key"] {
        let errors = with(&["url = \"rediss://h\"", &tls(&format!("{half} = {pem}"))]).unwrap_err();
        assert_eq!(
            errors,
            format!("bridge.toml:3: store.tls.{half}: cert and key belong together: both or neither")
        );
    }
    let file = format!("{UPSTREAM}[store]\nurl = \"rediss://h\"");
    let variable = [("SESSION_BRIDGE_STORE__TLS__CA", pem.trim_matches('"'))];
    assert!(load(&file, &variable).unwrap().store.tls.ca.is_some());
    let errors = load(&file, &[("SESSION_BRIDGE_STORE__TLS__CERTS", "x")]).unwrap_err();
    assert!(
        errors.contains("did you mean `SESSION_BRIDGE_STORE__TLS__CERT`?"),
        "{errors}"
    );
}

/// The file (its first line is line 1), and the whole of the one error that it has.
#[rustfmt::skip]
const WRONG: &[(&str, &str)] = &[
    // Names.
    ("[session]\nidle_timout = \"1d\"", "bridge.toml:2: session.idle_timout: unknown key; did you mean `idle_timeout`?"),
    ("[sesion]\nidle_timeout = \"1d\"", "bridge.toml:1: sesion: unknown key; did you mean `session`?"),
    ("[[routes]]\npath = \"/\"", "bridge.toml:1: routes: unknown key; did you mean `route`?"),
    ("[[route]]\npath = \"/\"\n\nsesion = \"off\"", "bridge.toml:4: route.sesion: unknown key; did you mean `session`?"),
    ("[server]\nidle_timeout = \"1d\"", "bridge.toml:2: server.idle_timeout: unknown key; did you mean `upstream.idle_timeout`?"),
    ("[log]\ncolour = true", "bridge.toml:2: log.colour: unknown key; the keys of log are format, level"),
    ("[kafka]\nx = 1", "bridge.toml:1: kafka: unknown key; the tables are server, access, ops, upstream, install_id, session, limits, store, near_cache, log, route"),
    ("\"a\\nb\" = 1", "bridge.toml:1: a\\nb: unknown key; the tables are server, access, ops, upstream, install_id, session, limits, store, near_cache, log, route"),
    // Types.
    ("log = 1", "bridge.toml:1: log: is a table: write [log]"),
    ("[route]\npath = \"/\"", "bridge.toml:1: route: is a list of tables: write [[route]] before each"),
    ("route = [1]", "bridge.toml:1: route: is a list of tables: write [[route]] before each"),
    ("[server]\nlisten = 8080", "bridge.toml:2: server.listen: expected a string, found a number"),
    ("[server]\nmax_connections = \"5\"", "bridge.toml:2: server.max_connections: expected a whole number, found a string"),
    ("[server]\nmax_connections = 1.5", "bridge.toml:2: server.max_connections: expected a whole number, found a fraction"),
    ("[server]\nmax_connections = -1", "bridge.toml:2: server.max_connections: must be from 1 to 1000000"),
    ("[upstream]\npreserve_host = \"false\"", "bridge.toml:2: upstream.preserve_host: expected true or false, found a string"),
    ("[session]\ncookies = \"*\"", "bridge.toml:2: session.cookies: expected a list, found a string"),
    ("[session]\ncookies = [\n  \"*\",\n  7,\n]", "bridge.toml:4: session.cookies: entry 2 of the list: expected a string, found a number"),
    // Times and sizes.
    ("server.drain_delay = 5", "bridge.toml:1: server.drain_delay: a time needs a unit, ms, s, m, h or d: \"10s\""),
    ("server.drain_delay = \"5\"", "bridge.toml:1: server.drain_delay: a time needs a unit, ms, s, m, h or d: \"10s\""),
    ("server.drain_delay = \"1.5s\"", "bridge.toml:1: server.drain_delay: the unit of a time is ms, s, m, h or d, after one whole number: \"1500ms\""),
    ("server.drain_delay = \"-1s\"", "bridge.toml:1: server.drain_delay: expected a time: a whole number and a unit, such as \"10s\""),
    ("server.drain_delay = \"\"", "bridge.toml:1: server.drain_delay: cannot be empty: expected a time, such as \"10s\""),
    ("session.idle_timeout = \"0s\"", "bridge.toml:1: session.idle_timeout: must be longer than zero"),
    ("session.max_age = \"0d\"", "bridge.toml:1: session.max_age: must be longer than zero"),
    ("session.max_age = \"99999999999999999999d\"", "bridge.toml:1: session.max_age: must be at most 36500d"),
    ("server.max_header_size = \"32kb\"", "bridge.toml:1: server.max_header_size: expected a number of bytes, such as 65536, \"32KiB\" or \"1MB\", found a string"),
    ("server.max_header_size = 0", "bridge.toml:1: server.max_header_size: must be from 1024 to 1048576 bytes"),
    // Addresses.
    ("server.listen = \"8080\"", "bridge.toml:1: server.listen: expected an IP address and a port, such as \"0.0.0.0:8080\", \"[::]:8080\" or \"localhost:8080\""),
    ("server.trusted_proxies = [\"10.0.0.0/40\"]", "bridge.toml:1: server.trusted_proxies: expected a network, such as \"10.0.0.0/8\" or \"fd00::/8\""),
    // Words.
    ("log.level = \"inof\"", "bridge.toml:1: log.level: unknown value, expected \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"; did you mean \"info\"?"),
    ("log.level = \"verbose\"", "bridge.toml:1: log.level: unknown value, expected \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\""),
    ("install_id.format = \"UUID\"", "bridge.toml:1: install_id.format: unknown value, expected \"uuid\" or \"token\"; did you mean \"uuid\"?"),
    // Paths, names, pointers.
    ("server.health_path = \"healthz\"", "bridge.toml:1: server.health_path: a path starts with /"),
    ("server.health_path = \"/a?b\"", "bridge.toml:1: server.health_path: a path has no ?, # or space, and nothing but ASCII"),
    ("install_id.header = \"X Install\"", "bridge.toml:1: install_id.header: not a valid name of a header field"),
    ("install_id.header = \"Cookie\"", "bridge.toml:1: install_id.header: this header field has a meaning of its own in HTTP; it cannot carry the Install ID"),
    ("install_id.body_pointer = \"installId\"", "bridge.toml:1: install_id.body_pointer: a JSON pointer starts with /, as in \"/installId\" or \"/user/installId\""),
    ("install_id.body_pointer = \"/a~2\"", "bridge.toml:1: install_id.body_pointer: in a JSON pointer, ~ is written ~0 and a / within a name ~1"),
    ("session.auth_paths = [\"login\"]", "bridge.toml:1: session.auth_paths: a path starts with / (or with *, for any beginning)"),
    ("session.auth_paths = [\"/a b\"]", "bridge.toml:1: session.auth_paths: what clients send has no # or space and nothing but ASCII: write such bytes as %20"),
    ("session.cookies = [\"a=b\"]", "bridge.toml:1: session.cookies: the name of a cookie has no ; = , or space"),
    ("session.cookies = [\"\"]", "bridge.toml:1: session.cookies: the name of a cookie cannot be empty"),
    ("store.key_prefix = \"a b\"", "bridge.toml:1: store.key_prefix: at most 128 visible ASCII characters"),
    ("[[route]]\npath = \"/\"\nmethods = [\"get\"]", "bridge.toml:3: route.methods: request methods are written in capitals; did you mean \"GET\"?"),
    ("[[route]]\npath = \"/\"\nmethods = [\"G T\"]", "bridge.toml:3: route.methods: not a request method, such as \"GET\""),
    ("[[route]]\nauth = true", "bridge.toml:1: route.path: is missing"),
    // The upstream.
    ("upstream.url = \"127.0.0.1:8000\"", "bridge.toml:1: upstream.url: expected http://HOST:PORT"),
    ("upstream.url = \"ftp://h\"", "bridge.toml:1: upstream.url: expected http://HOST:PORT or https://HOST:PORT; no other scheme is spoken"),
    ("upstream.url = \"http://u:p@h\"", "bridge.toml:1: upstream.url: cannot hold a user name or password: those are the client's to send"),
    ("upstream.url = \"http://h?q\"", "bridge.toml:1: upstream.url: cannot have a query or a fragment"),
    ("upstream.url = \"http://h/shop\"", "bridge.toml:1: upstream.url: cannot have a path: the path of each request is forwarded byte for byte, so there is nothing to put it before"),
    ("upstream.url = \"http://\"", "bridge.toml:1: upstream.url: expected http://HOST:PORT"),
    ("upstream.url = \"http://h:0\"", "bridge.toml:1: upstream.url: expected http://HOST:PORT"),
    ("upstream.url = \"http://h:99999\"", "bridge.toml:1: upstream.url: expected http://HOST:PORT"),
    ("upstream.url = \"http://h:\"", "bridge.toml:1: upstream.url: expected http://HOST:PORT"),
    // The store.
    ("store.url = \"memory\"", "bridge.toml:1: store.url: a store in memory is written \"memory:\""),
    ("store.url = \"sqlite://\"", "bridge.toml:1: store.url: the path of the file is missing: sqlite://session-bridge.db, or sqlite:///var/lib/…"),
    ("store.url = \"sqlite://x?mode=ro\"", "bridge.toml:1: store.url: takes a path and no options: no ? or # in it"),
    ("store.url = \"sqlite:x\"", "bridge.toml:1: store.url: sqlite: must be followed by //; expected memory:, sqlite://PATH, redis://HOST:PORT/DB, postgres://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE or memcached://HOST:PORT"),
    ("store.url = \"redi://h\"", "bridge.toml:1: store.url: no such kind of store: expected memory:, sqlite://PATH, redis://HOST:PORT/DB, postgres://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE or memcached://HOST:PORT; did you mean `redis:`?"),
    ("store.url = \"redis://\"", "bridge.toml:1: store.url: expected redis://HOST:PORT/DB; in a password, write / as %2F and @ as %40"),
    ("store.url = \"redis://h/zero\"", "bridge.toml:1: store.url: after the host comes the number of the database: redis://HOST:PORT/0"),
    ("store.url = \"redis://:a@b@h\"", "bridge.toml:1: store.url: in a user name or password, write @ : / [ ] % and what is not ASCII as %40 and so on"),
    ("store.url = \"redis:h\"", "bridge.toml:1: store.url: redis: must be followed by //; expected memory:, sqlite://PATH, redis://HOST:PORT/DB, postgres://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE or memcached://HOST:PORT"),
    ("store.url = \"redis-sentinal://h\"", "bridge.toml:1: store.url: no such kind of store: expected memory:, sqlite://PATH, redis://HOST:PORT/DB, postgres://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE or memcached://HOST:PORT; did you mean `redis-sentinel:`?"),
    ("store.url = \"redis://h:0\"", "bridge.toml:1: store.url: after the host and a colon comes the port, from 1 to 65535"),
    ("store.url = \"redis://h:65536\"", "bridge.toml:1: store.url: after the host and a colon comes the port, from 1 to 65535"),
    ("store.url = \"redis://::1\"", "bridge.toml:1: store.url: an IPv6 address stands in brackets: [::1]:6379"),
    ("store.url = \"redis://[::1\"", "bridge.toml:1: store.url: expected redis://HOST:PORT/DB; in a password, write / as %2F and @ as %40"),
    ("store.url = \"redis://h?x=1\"", "bridge.toml:1: store.url: takes no options: write a ? or # in a password as %3F or %23"),
    ("store.url = \"redis://a,b\"", "bridge.toml:1: store.url: names several hosts: that is redis-sentinel:// or redis-cluster://"),
    ("store.url = \"redis://u:%f@h\"", "bridge.toml:1: store.url: in a user name or password, write @ : / [ ] % and what is not ASCII as %40 and so on"),
    ("store.url = \"redis://u:%ff@h\"", "bridge.toml:1: store.url: in a user name or password, write @ : / [ ] % and what is not ASCII as %40 and so on"),
    ("store.url = \"redis://u@h\"", "bridge.toml:1: store.url: names a user without a password: add it, user:password@, or set store.password_file"),
    ("store.url = \"redis-sentinel://a,b\"", "bridge.toml:1: store.url: after the hosts comes what the sentinels call the master, mostly mymaster: redis-sentinel://HOST:PORT,HOST:PORT/MASTER"),
    ("store.url = \"redis-sentinel://a,,b/m\"", "bridge.toml:1: store.url: expected redis-sentinel://HOST:PORT,HOST:PORT/MASTER; in a password, write / as %2F and @ as %40"),
    ("store.url = \"redis-sentinel://a/m m\"", "bridge.toml:1: store.url: the name of a master has letters, digits, and . - _ only"),
    ("store.url = \"redis-sentinel://a/m/x\"", "bridge.toml:1: store.url: after the master comes the number of the database: redis-sentinel://HOST:PORT/MASTER/0"),
    ("store.url = \"redis-cluster://a,b/1\"", "bridge.toml:1: store.url: a cluster has no databases: redis-cluster://HOST:PORT,HOST:PORT"),
    ("store.password_file = \"/nowhere/p\"", "bridge.toml:1: store.password_file: cannot read the file: No such file or directory (os error 2)"),
    ("[store]\ntls = { ca = \"/nowhere/p\" }", "bridge.toml:2: store.tls.ca: cannot read the file: No such file or directory (os error 2)"),
    ("[store.tls]\ncert = \"Cargo.toml\"", "bridge.toml:2: store.tls.cert: the file must be PEM: a text with -----BEGIN … in it"),
    ("[store]\ntls = true", "bridge.toml:2: store.tls: is a table: write [store.tls]"),
    ("[store.tls]\ncertificate = \"\"", "bridge.toml:2: store.tls.certificate: unknown key; the keys of store.tls are ca, cert, key"),
    ("[store.tls]\nkeys = \"\"", "bridge.toml:2: store.tls.keys: unknown key; did you mean `key`?"),
    ("[server]\ntls = { cert = \"/nowhere/c\", key = \"/nowhere/k\" }", "bridge.toml:2: server.tls.cert: cannot read the file: No such file or directory (os error 2)\nbridge.toml:2: server.tls.key: cannot read the file: No such file or directory (os error 2)"),
    ("server.proxy_protocol = true", "bridge.toml:1: server.proxy_protocol: is spoken by trusted_proxies only, and there are none"),
    ("[server.tls]\nkey = \"Cargo.toml\"\ncert = \"\"", "bridge.toml:2: server.tls.key: the file must be PEM: a text with -----BEGIN … in it"),
    ("store.wait_replicas = 256", "bridge.toml:1: store.wait_replicas: must be from 0 to 255"),
    // Files and keys.
    ("access.api_keys = [\"a b\"]", "bridge.toml:1: access.api_keys: a key is not empty and has visible ASCII characters only, no space: a client could not send it"),
    ("access.api_keys_file = \"/nowhere/keys\"", "bridge.toml:1: access.api_keys_file: cannot read the file: No such file or directory (os error 2)"),
    ("ops.token_file = \"/nowhere/token\"", "bridge.toml:1: ops.token_file: cannot read the file: No such file or directory (os error 2)"),
    // Contradictions.
    ("server.listen = \"[::]:1\"\nops.listen = \"[::1]:1\"", "bridge.toml:2: ops.listen: server.listen and ops.listen are the same address"),
    ("[install_id]\nheader = \"\"\nbody_pointer = \"\"", "bridge.toml:2: install_id.header: header and body_pointer are both off, so no request could have an Install ID"),
    ("store.encryption_key_files = [\"/nowhere/key\"]", "bridge.toml:1: store.encryption_key_files: cannot read the file: No such file or directory (os error 2)"),
    ("[store]\nencryption_key_files = [\"clear\",\n\"clear\"]", "bridge.toml:2: store.encryption_key_files: \"clear\" is listed twice"),
    ("store.encryption_key_file = []", "bridge.toml:1: store.encryption_key_file: unknown key; did you mean `encryption_key_files`?"),
    ("[store]\naccept_clear = false", "bridge.toml:2: store.accept_clear: without a key in encryption_key_files, sessions are stored in clear, and could not be read"),
    ("[store]\nencryption_key_files = [\"clear\"]\naccept_clear = false", "bridge.toml:3: store.accept_clear: without a key in encryption_key_files, sessions are stored in clear, and could not be read"),
    ("store.on_unreadable = \"ignore\"", "bridge.toml:1: store.on_unreadable: unknown value, expected \"reject\" or \"replace\""),
    ("session.cookies = []", "bridge.toml:1: session.cookies: no cookie would be kept, so there would never be a session; [\"*\"] keeps all"),
    ("session.cookies = [\"A*\"]\nsession.id_cookies = [\"A1\", \"B\"]", "bridge.toml:2: session.id_cookies: names a cookie that session.cookies does not keep"),
    ("[[route]]\npath = \"/a\"\n[[route]]\npath = \"/a\"\nauth = true", "bridge.toml:3: route.path: an earlier route has the same path and methods, and the first match wins"),
    ("[[route]]\npath = \"/a\"\nauth = true\nsession = \"off\"", "bridge.toml:1: route.auth: a route without a session cannot log in or out: auth = true, session = \"off\""),
    ("store.url = \"memory:\"\nstore.wait_replicas = 1", "bridge.toml:2: store.wait_replicas: is for a store in Redis, and store.url names another one"),
    ("store.sentinel_username = \"u\"", "bridge.toml:1: store.sentinel_username: is for a store in Redis, and store.url names another one"),
    ("store.url = \"redis://h\"\nstore.sentinel_username = \"u\"", "bridge.toml:2: store.sentinel_username: there are no sentinels in store.url: redis-sentinel://…"),
    ("store.url = \"redis-cluster://h\"\nstore.key_prefix = \"a{}{b}:\"", "bridge.toml:2: store.key_prefix: its first braces are empty, {}: a cluster would keep the keys of one session apart"),
    ("store.url = \"redis-sentinel://h/m\"\nstore.sentinel_username = \"u\"", "bridge.toml:2: store.sentinel_username: a user needs a password: set sentinel_password_file too"),
    ("[upstream.tls]\nca = \"/nowhere/p\"", "bridge.toml:2: upstream.tls.ca: cannot read the file: No such file or directory (os error 2)"),
    ("session.csrf = { cookie = \"csrftoken\" }", "bridge.toml:1: session.csrf.cookie: needs both csrf.cookie and csrf.header: the cookie's value is sent as that field"),
    ("session.csrf.origin = \"https://h\"", "bridge.toml:1: session.csrf.origin: needs both csrf.cookie and csrf.header: the cookie's value is sent as that field"),
    ("session.cookies = [\"s*\"]\nsession.csrf = { cookie = \"c\", header = \"X-C\" }", "bridge.toml:2: session.csrf.cookie: names a cookie that session.cookies does not keep"),
    ("session.csrf = { cookie = \"c\", header = \"X-Install-Id\" }", "bridge.toml:1: session.csrf.header: is the field that carries the Install ID"),
    ("session.csrf = { cookie = \"c*\", header = \"X-C\" }", "bridge.toml:1: session.csrf.cookie: this is one cookie, so its name has no * or ?"),
    ("session.csrf = { cookie = \"c\", header = \"Cookie\" }", "bridge.toml:1: session.csrf.header: this header field has a meaning of its own in HTTP; it cannot carry a token"),
    ("session.csrf = { origin = \"https://h/\" }", "bridge.toml:1: session.csrf.origin: expected an origin: scheme, host and, where it is not the usual one, port: \"https://shop.example\""),
    ("near_cache.enabled = true", "bridge.toml:1: near_cache.enabled: is for a store in Redis; the one that store.url names is in this process and needs no copies"),
    ("near_cache.enabled = true\nstore.url = \"memory:\"", "bridge.toml:1: near_cache.enabled: is for a store in Redis; the one that store.url names is in this process and needs no copies"),
    ("near_cache.max_entries = 0", "bridge.toml:1: near_cache.max_entries: must be from 1 to 100000000"),
    ("near_cache.max_age = \"0s\"", "bridge.toml:1: near_cache.max_age: must be longer than zero"),
    ("[[route]]\npath = \"/\"\nreplay = true", "bridge.toml:1: route.replay: session.lost names no sign of a dead session, so nothing would be sent again"),
    ("session.lost.status = [401]\n[[route]]\npath = \"/\"\nreplay = true\nauth = true", "bridge.toml:2: route.replay: a log-in or log-out is never sent again: auth = true"),
    ("session.lost.status = [401]\n[[route]]\npath = \"/\"\nreplay = true\nsession = \"off\"", "bridge.toml:2: route.replay: a route without a session has none to lose: session = \"off\""),
    ("session.lost = { status = [200] }", "bridge.toml:1: session.lost.status: must be from 300 to 599"),
    ("session.lost = { redirect = \"login\" }", "bridge.toml:1: session.lost.redirect: a path starts with / (or with *, for any beginning)"),
    ("session.lost = { header = \"X Y\" }", "bridge.toml:1: session.lost.header: expected a header field, such as \"X-Session-Expired\" or \"X-Session: expired*\""),
    ("session.lost = { header = \"Set-Cookie: sid=*\" }", "bridge.toml:1: session.lost.header: cannot be Set-Cookie: see with_new_cookie"),
    ("session.lost = { with_new_cookie = true }", "bridge.toml:1: session.lost.with_new_cookie: says when the other signs of session.lost count, and there are none"),
    ("session.replay_body = \"1GiB\"", "bridge.toml:1: session.replay_body: must be from 0 to 16777216 bytes"),
    ("limits.new_sessions = \"500\"", "bridge.toml:1: limits.new_sessions: expected so many within a second, a minute, an hour or a day: \"500/s\", \"30/m\", \"100/h\", \"1000/d\""),
    ("limits.new_sessions = \"30/min\"", "bridge.toml:1: limits.new_sessions: expected so many within a second, a minute, an hour or a day: \"500/s\", \"30/m\", \"100/h\", \"1000/d\""),
    ("limits.new_sessions_per_address = \"0/m\"", "bridge.toml:1: limits.new_sessions_per_address: must be from 1 to 1000000000 within the time"),
    ("limits.new_session = \"1/m\"", "bridge.toml:1: limits.new_session: unknown key; did you mean `new_sessions`?"),
    ("[session]\nprefetch = 1", "bridge.toml:2: session.prefetch: is a table: write [session.prefetch]"),
    ("session.create = \"derive\"", "bridge.toml:1: session.create: \"derive\" needs session.derive.cookie: the name of the cookie that is computed"),
    ("session.derive.cookie = \"SID\"", "bridge.toml:1: session.derive.cookie: is for session.create = \"derive\""),
    ("session.create = \"derive\"\nsession.derive.cookie = \"S*\"", "bridge.toml:2: session.derive.cookie: this is one cookie, so its name has no * or ?"),
    ("session.create = \"derive\"\nsession.derive.cookie = \"SID\"\nlimits.new_sessions = \"1/s\"", "bridge.toml:3: limits.new_sessions: is for sessions that are kept, and session.create = \"derive\" keeps none"),
    ("session.derive.secret_file = \"/nowhere/secret\"", "bridge.toml:1: session.derive.secret_file: cannot read the file: No such file or directory (os error 2)"),
    ("session.prefetch.path = \"/start\"", "bridge.toml:1: session.prefetch.path: is for session.create = \"prefetch\""),
    ("session.create = \"prefetch\"\nsession.prefetch.path = \"start\"", "bridge.toml:2: session.prefetch.path: expected a path, with a query or without, such as \"/\" or \"/start?app=1\""),
    ("session.create = \"prefetch\"\nsession.prefetch.headers = { Cookie = \"a=b\" }", "bridge.toml:2: session.prefetch.headers: this header field is the bridge's own to set"),
    ("session.create = \"prefetch\"\nsession.prefetch.headers = { Accept = 1 }", "bridge.toml:2: session.prefetch.headers: expected a string, found a number"),
    ("session.bind.client_address = \"/33\"", "bridge.toml:1: session.bind.client_address: expected \"off\", \"exact\", or how many bits count: \"/24\" for IPv4, \"/24,/56\" for both"),
    ("session.bind.client_address = \"/24,/0\"", "bridge.toml:1: session.bind.client_address: expected \"off\", \"exact\", or how many bits count: \"/24\" for IPv4, \"/24,/56\" for both"),
    ("session.bind.on_mismatch = \"reject\"", "bridge.toml:1: session.bind.on_mismatch: is for sessions that are bound: set session.bind.client_address"),
    ("session.adopt.enabled = true", "bridge.toml:1: session.adopt.enabled: is for requests without an Install ID, and those are refused: install_id.on_missing = \"pass\", or a route with session = \"optional\""),
    ("session.adopt.candidates = 11", "bridge.toml:1: session.adopt.candidates: must be from 1 to 10"),
    // Not in this version.
    // Memcached.
    ("store.url = \"memcached:h\"", "bridge.toml:1: store.url: memcached: must be followed by //; expected memory:, sqlite://PATH, redis://HOST:PORT/DB, postgres://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE or memcached://HOST:PORT"),
    ("store.url = \"memcached://u:hunter2@h\"", "bridge.toml:1: store.url: Memcached is spoken to without a user or a password"),
    ("store.url = \"memcached://h/0\"", "bridge.toml:1: store.url: takes hosts and nothing else: memcached://HOST:PORT,HOST:PORT"),
    ("store.url = \"memcached://h:1,h:1\"", "bridge.toml:1: store.url: names a server twice"),
    ("store.url = \"memcached://h,\"", "bridge.toml:1: store.url: expected memcached://HOST:PORT,HOST:PORT; in a password, write / as %2F and @ as %40"),
    ("store.url = \"memcache://h\"", "bridge.toml:1: store.url: no such kind of store: expected memory:, sqlite://PATH, redis://HOST:PORT/DB, postgres://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE or memcached://HOST:PORT; did you mean `memcached:`?"),
    ("store.url = \"memcached://h\"\nstore.wait_replicas = 1", "bridge.toml:2: store.wait_replicas: is of no use with a store in Memcached, which store.url names"),
    ("store.url = \"memcached://h\"\nnear_cache.enabled = true", "bridge.toml:2: near_cache.enabled: is for a store in Redis; the one that store.url names does not tell of changes"),
    // Database servers.
    ("store.url = \"postgres://h\"", "bridge.toml:1: store.url: names no user: postgres://USER@HOST:PORT/DATABASE"),
    ("store.url = \"mysql://u@h\"", "bridge.toml:1: store.url: after the host comes the name of the database: mysql://USER@HOST:PORT/DATABASE"),
    ("store.url = \"postgres:u@h/d\"", "bridge.toml:1: store.url: postgres: must be followed by //; expected memory:, sqlite://PATH, redis://HOST:PORT/DB, postgres://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE or memcached://HOST:PORT"),
    ("store.url = \"postgres://u@h/a/b\"", "bridge.toml:1: store.url: after the host comes the name of the database: postgres://USER@HOST:PORT/DATABASE"),
    ("store.url = \"postgres://u@h:0/d\"", "bridge.toml:1: store.url: after the host and a colon comes the port, from 1 to 65535"),
    ("store.url = \"postgres://u@::1/d\"", "bridge.toml:1: store.url: an IPv6 address stands in brackets: [::1]:5432"),
    ("store.url = \"postgres://u@a,b/d\"", "bridge.toml:1: store.url: names several hosts: one is taken, such as that of a balancer which knows the primary server"),
    ("store.url = \"postgres://u:x?y@h/d\"", "bridge.toml:1: store.url: has a ? before an @: in a password, write it as %3F"),
    ("store.url = \"postgres://u:x#y@h/d\"", "bridge.toml:1: store.url: has a # in it: in a password, write it as %23"),
    ("store.url = \"postgres://u@h/d?sslmod=require\"", "bridge.toml:1: store.url: has an option that is not known here: there are sslmode and max_connections; did you mean `sslmode`?"),
    ("store.url = \"mysql://u@h/d?x=1\"", "bridge.toml:1: store.url: has an option that is not known here: there are ssl-mode and max_connections"),
    ("store.url = \"postgres://u@h/d?sslmode=allow\"", "bridge.toml:1: store.url: sslmode is one of disable, prefer, require, verify-ca, verify-full"),
    ("store.url = \"mysql://u@h/d?max_connections=0\"", "bridge.toml:1: store.url: max_connections is a number from 1 to 1000"),
    ("store.url = \"postgre://u@h/d\"", "bridge.toml:1: store.url: no such kind of store: expected memory:, sqlite://PATH, redis://HOST:PORT/DB, postgres://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE or memcached://HOST:PORT; did you mean `postgres:`?"),
    ("store.url = \"postgres://u@h/d\"\nstore.wait_replicas = 1", "bridge.toml:2: store.wait_replicas: is for a store in Redis, and store.url names another one"),
    ("store.url = \"postgres://u@h/d\"\nnear_cache.enabled = true", "bridge.toml:2: near_cache.enabled: is for a store in Redis; the one that store.url names does not tell of changes"),
];

#[test]
fn each_error_names_the_line_the_key_and_what_would_be_right() {
    for (file, expected) in WRONG {
        let result = if file.contains("upstream.url") {
            load(file, &[])
        } else {
            with_upstream(file)
        };
        assert_eq!(result.map(|_| ()).unwrap_err(), *expected, "{file}");
    }
}

#[test]
fn an_error_of_the_environment_names_the_variable() {
    let key = "names no key of the configuration; ";
    for (variable, value, expected) in [
        (
            "STORE_URL",
            "memory:",
            format!("{key}did you mean `SESSION_BRIDGE_STORE__URL`?"),
        ),
        (
            "ROUTE",
            "[{ path = \"/\", sesion = \"off\" }]",
            "route.sesion: unknown key; did you mean `session`?".to_owned(),
        ),
        (
            "LISTEN",
            ":80",
            format!("{key}did you mean `SESSION_BRIDGE_SERVER__LISTEN`?"),
        ),
        (
            "store__url",
            "memory:",
            format!("{key}did you mean `SESSION_BRIDGE_STORE__URL`?"),
        ),
        (
            "SESSION__IDLE_TIMOUT",
            "1d",
            format!("{key}did you mean `SESSION_BRIDGE_SESSION__IDLE_TIMEOUT`?"),
        ),
        (
            "SESSION__IDLE__TIMEOUT",
            "1d",
            format!("{key}did you mean `SESSION_BRIDGE_SESSION__IDLE_TIMEOUT`?"),
        ),
        (
            "ROUTE__0__PATH",
            "/",
            "route: is a list of tables: set SESSION_BRIDGE_ROUTE to an array of them".to_owned(),
        ),
        (
            "PORT",
            "8080",
            format!("{key}`SESSION_BRIDGE_STORE__URL`, for example, sets store.url"),
        ),
        (
            "",
            "",
            format!("{key}`SESSION_BRIDGE_STORE__URL`, for example, sets store.url"),
        ),
        (
            "LOG",
            "info",
            "log: is a table: set its keys one by one, as SESSION_BRIDGE_LOG__KEY".to_owned(),
        ),
        (
            "LOG__LEVEL__X",
            "info",
            "log.level: expected a string, found a table".to_owned(),
        ),
        (
            "SERVER__MAX_CONNECTIONS",
            "1e3",
            "server.max_connections: expected a whole number".to_owned(),
        ),
        (
            "UPSTREAM__PRESERVE_HOST",
            "yes",
            "upstream.preserve_host: expected true or false".to_owned(),
        ),
        (
            "ACCESS__API_KEYS",
            "",
            "access.api_keys: is empty; write [] for an empty list".to_owned(),
        ),
        (
            "SESSION__COOKIES",
            "a,,b",
            "session.cookies: has an empty element between its commas".to_owned(),
        ),
        (
            "SESSION__COOKIES",
            "[\"a\"",
            "session.cookies: starts with [ but is neither a TOML nor a JSON array".to_owned(),
        ),
    ] {
        let variable = format!("SESSION_BRIDGE_{variable}");
        let errors = load(UPSTREAM, &[(&variable, value)]).unwrap_err();
        assert_eq!(errors, format!("environment variable {variable}: {expected}"));
    }
}

#[test]
fn an_error_of_a_flag_names_the_flag() {
    let errors = load_all("", &[], flags(Some("ftp://h"), Some("80"), Some("mysql://h"))).unwrap_err();
    let places: Vec<_> = errors
        .lines()
        .map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": "))
        .collect();
    assert_eq!(
        places,
        [
            "flag --listen: server.listen",
            "flag --store: store.url",
            "flag --upstream: upstream.url"
        ]
    );
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_an_error() {
    use std::os::unix::ffi::OsStringExt;
    let (mut sources, _directory) = sources(UPSTREAM, &[], Flags::default());
    sources
        .environment
        .push(("SESSION_BRIDGE_STORE__URL".into(), OsString::from_vec(vec![0xff])));
    let errors = Config::load(&sources).unwrap_err().to_string();
    assert_eq!(
        errors,
        "environment variable SESSION_BRIDGE_STORE__URL: is not valid UTF-8"
    );
}

#[test]
fn variables_that_kubernetes_sets_for_a_service_are_not_taken_for_ours() {
    let set = [
        ("SESSION_BRIDGE_SERVICE_HOST", "10.0.0.1"),
        ("SESSION_BRIDGE_SERVICE_PORT", "8080"),
        ("SESSION_BRIDGE_SERVICE_PORT_HTTP", "8080"),
        ("SESSION_BRIDGE_PORT", "tcp://10.0.0.1:8080"),
        ("SESSION_BRIDGE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("SESSION_BRIDGE_PORT_8080_TCP_PROTO", "tcp"),
        ("SESSION_BRIDGE_PORT_8080_TCP_PORT", "8080"),
        ("SESSION_BRIDGE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("SESSION_BRIDGE_OPS_SERVICE_HOST", "10.0.0.2"),
        ("SESSION_BRIDGE_OPS_PORT_9090_TCP_ADDR", "10.0.0.2"),
    ];
    load(UPSTREAM, &set).unwrap();
}

#[test]
fn the_file_is_named_by_the_flag_else_by_the_environment_else_by_the_working_directory() {
    let environment = vec![("SESSION_BRIDGE_CONFIG".into(), "/etc/there.toml".into())];
    let of = |file: Option<&str>, environment| Sources::of(file.map(PathBuf::from), environment, Flags::default()).file;
    assert!(matches!(of(Some("x.toml"), environment.clone()), File::Required(path) if path.ends_with("x.toml")));
    assert!(matches!(of(None, environment), File::Required(path) if path.ends_with("there.toml")));
    assert!(matches!(of(None, Vec::new()), File::IfThere(path) if path.ends_with("session-bridge.toml")));
    load(UPSTREAM, &[("SESSION_BRIDGE_CONFIG", "/etc/there.toml")]).unwrap();
}

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_the_sources() {
    let file = "[server]\nlisten = \"x\"\nlisen = 1\n\n[store]\nurl = 5\n\n[limitz]\n\n[[route]]\npath = \"x\"\nmethods = [\"get\", 1]\n";
    let environment = [("SESSION_BRIDGE_LOG__LEVEL", "loud"), ("SESSION_BRIDGE_LOGS", "x")];
    let errors = load_all(file, &environment, flags(Some("h"), None, None)).unwrap_err();
    let places: Vec<_> = errors.lines().map(|line| line.split(": ").next().unwrap()).collect();
    let expected = [
        "bridge.toml:2",
        "bridge.toml:3",
        "bridge.toml:6",
        "bridge.toml:8",
        "bridge.toml:11",
        "bridge.toml:12",
        "bridge.toml:12",
        "environment variable SESSION_BRIDGE_LOGS",
        "environment variable SESSION_BRIDGE_LOG__LEVEL",
        "flag --upstream",
    ];
    assert_eq!(places, expected, "{errors}");
}

#[test]
fn an_error_of_syntax_names_line_and_column_and_hides_the_rest() {
    for (file, place) in [
        ("[server]\nlisten = hunter2\n", "bridge.toml:2:10: "),
        ("a = 1\nb = \"hunter2\n", "bridge.toml:2:"),
        (
            "[store]\nurl = \"memory:\"\nurl = \"redis://:hunter2@h\"\n",
            "bridge.toml:3:1: ",
        ),
        ("[store\nurl = \"redis://:hunter2@h\"\n", "bridge.toml:1:7: "),
        ("x = [\"hunter2\"", "bridge.toml:1:"),
    ] {
        let errors = load(file, &[]).unwrap_err();
        assert!(errors.starts_with(place), "{file}: {errors}");
        assert!(errors.contains("not valid TOML"), "{errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
        assert!(
            !errors.contains("upstream.url"),
            "nothing is known of a file that cannot be read: {errors}"
        );
    }
}

#[test]
fn syntax_errors_are_reported_once_a_line() {
    let errors = load("[server]\nlisten = a b c\n\nmore d e\n", &[]).unwrap_err();
    let lines: Vec<_> = errors.lines().map(|line| line.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["2", "4"], "{errors}");
}

#[test]
fn no_error_shows_a_value() {
    let secret = "hunter2";
    let mut files = Vec::new();
    for key in [
        "server.listen",
        "server.health_path",
        "server.max_connections",
        "server.max_header_size",
        "server.header_timeout",
        "ops.listen",
        "ops.token_file",
        "access.api_keys_file",
        "upstream.url",
        "upstream.preserve_host",
        "upstream.http2",
        "install_id.header",
        "install_id.body_pointer",
        "install_id.max_body",
        "install_id.format",
        "install_id.on_missing",
        "session.cookies",
        "session.max_age",
        "session.create",
        "session.on_store_error",
        "session.csrf.cookie",
        "session.csrf.header",
        "session.csrf.origin",
        "store.encryption_key_files",
        "store.accept_clear",
        "store.on_unreadable",
        "session.lost",
        "store.url",
        "store.timeout",
        "store.key_prefix",
        "store.password_file",
        "upstream.tls.ca",
        "store.tls",
        "store.tls.ca",
        "store.wait_replicas",
        "log.format",
        "log.level",
        "log.levle",
        "limits",
        "route",
    ] {
        for value in [
            "u:hunter2 @h",
            "redis://u:hunter2@h:x",
            "redis://hunter2@h?x",
            "postgres://:hunter2@h",
            "x;hunter2",
        ] {
            files.push(format!("{key} = \"{value}\""));
            files.push(format!("{key} = [\"{value}\", 1, \"\"]"));
        }
    }
    let mut errors_seen = 0;
    for file in &files {
        let result = if file.contains("upstream.url") {
            load(file, &[])
        } else {
            with_upstream(file)
        };
        let Err(errors) = result else { continue };
        errors_seen += 1;
        assert!(!errors.contains(secret), "{file}: {errors}");
    }
    assert!(errors_seen > files.len() * 9 / 10, "{errors_seen} of {}", files.len());

    let given = flags(
        Some("http://u:hunter2@h"),
        Some("hunter2"),
        Some("redis://:hunter2@h:port"),
    );
    assert!(!format!("{given:?}").contains("redis"));
    let errors = load_all("", &[("SESSION_BRIDGE_ACCESS__API_KEYS", "good,hunter2 bad")], given).unwrap_err();
    assert_eq!(errors.lines().count(), 4, "{errors}");
    assert!(!errors.contains(secret), "{errors}");
}

#[test]
fn no_secret_is_in_the_debug_text_of_a_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "hunter2\n").unwrap();
    let file = format!(
        "[access]\napi_keys = [\"hunter2\"]\n[ops]\ntoken_file = {:?}\n[store]\nurl = \"redis://:hunter2@h\"",
        token.display().to_string()
    );
    let config = with_upstream(&file).unwrap();
    assert_eq!(config.ops.token.as_ref().unwrap().expose(), "hunter2");
    assert_eq!(config.access.api_keys[0].expose(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn api_keys_come_from_a_file_with_one_key_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    let with = |content: &str, more: &str| {
        std::fs::write(&path, content).unwrap();
        with_upstream(&format!(
            "[access]\napi_keys_file = {:?}\n{more}",
            path.display().to_string()
        ))
    };
    let config = with("# ours\nkey-1\r\n\n  key-2 \n", "").unwrap();
    let keys: Vec<_> = config.access.api_keys.iter().map(Secret::expose).collect();
    assert_eq!(keys, ["key-1", "key-2"]);

    let errors = with("# none yet\n", "").unwrap_err();
    assert_eq!(errors, "bridge.toml:2: access.api_keys_file: the file holds no key");
    let errors = with("good\nhunter2 bad\n", "").unwrap_err();
    assert!(
        errors.contains("line 2 of the file") && !errors.contains("hunter2"),
        "{errors}"
    );
    let errors = with("key\n", "api_keys = [\"other\"]").unwrap_err();
    assert!(errors.contains("api_keys and api_keys_file are both set"), "{errors}");
    with("key\n", "api_keys = []").unwrap();
}

#[test]
fn sealing_keys_come_from_files_and_no_two_are_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let one = file("one.key", "AwsTGyMrMztDS1NbY2tze4OLk5ujq7O7w8vT2+Pr8/s=\n");
    let same = file(
        "same.key",
        "030b131b232b333b434b535b636b737b838b939ba3abb3bbc3cbd3dbe3ebf3fb",
    );
    let short = file("short.key", "c2hvcnQ=\n");
    let with = |entries: &[&str]| with_upstream(&format!("[store]\nencryption_key_files = {entries:?}"));

    assert!(with(&[]).unwrap().store.encryption_key_files.is_empty());
    let config = with(&["clear", &one]).unwrap();
    let [Sealing::Clear, Sealing::Key(key)] = &config.store.encryption_key_files[..] else {
        panic!("{config:?}");
    };
    assert_eq!(key.path.display().to_string(), one);
    assert_eq!(key.key.expose()[..3], [3, 11, 19]);
    assert!(!format!("{config:?}").contains("11, 19"));
    let from_environment = load(
        UPSTREAM,
        &[("SESSION_BRIDGE_STORE__ENCRYPTION_KEY_FILES", &format!("{one}, clear"))],
    );
    assert_eq!(from_environment.unwrap().store.encryption_key_files.len(), 2);

    let errors = with(&[&one, &same]).unwrap_err();
    assert_eq!(
        errors,
        format!("bridge.toml:2: store.encryption_key_files: {one} and {same} hold the same key")
    );
    let errors = with(&[&short]).unwrap_err();
    let wanted = format!("bridge.toml:2: store.encryption_key_files: {short}: holds a key of 5 bytes");
    assert!(errors.starts_with(&wanted), "{errors}");
    // A key in place of its file is not repeated.
    let errors = with(&["clear", "AwsTGyMrMztDS1NbY2tze4OLk5ujq7O7w8vT2+Pr8/s="]).unwrap_err();
    assert!(
        errors.contains("entry 2 of the list: cannot read the file") && !errors.contains("AwsT"),
        "{errors}"
    );
}

#[cfg(unix)]
#[test]
fn a_sealing_key_that_everyone_may_read_is_noted() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, "AwsTGyMrMztDS1NbY2tze4OLk5ujq7O7w8vT2+Pr8/s=").unwrap();
    for (mode, noted) in [(0o600, false), (0o400, false), (0o640, false), (0o604, true)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let list = [path.display().to_string()];
        let config = with_upstream(&format!("[store]\nencryption_key_files = {list:?}")).unwrap();
        assert!(
            matches!(&config.store.encryption_key_files[..], [Sealing::Key(key)] if key.readable_by_all == noted),
            "{mode:o}"
        );
    }
}

#[test]
fn a_file_is_needed_only_where_it_was_named() {
    let missing = PathBuf::from("/nowhere/bridge.toml");
    let flags = flags(Some("http://h"), None, None);
    let sources = |file| Sources {
        file,
        environment: Vec::new(),
        flags: flags.clone(),
    };
    Config::load(&sources(File::IfThere(missing.clone()))).unwrap();
    let errors = Config::load(&sources(File::Required(missing))).unwrap_err().to_string();
    assert_eq!(
        errors,
        "/nowhere/bridge.toml: cannot read the file: No such file or directory (os error 2)"
    );
}

#[test]
fn a_file_that_is_not_text_is_an_error_and_a_byte_order_mark_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.toml");
    let load = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        let sources = Sources {
            file: File::Required(path.clone()),
            ..Sources::default()
        };
        Config::load(&sources).map_err(|errors| errors.to_string())
    };
    assert!(
        load(b"upstream.url = \"http://\xff\"")
            .unwrap_err()
            .contains("it is not UTF-8 text")
    );
    load(b"\xef\xbb\xbfupstream.url = \"http://h\"\r\n").unwrap();
}

#[test]
fn a_value_that_was_beaten_is_not_looked_at() {
    let file = "[upstream]\nurl = \"to be set\"\n";
    load_all(file, &[], flags(Some("http://h"), None, None)).unwrap();
}

#[test]
fn the_operators_listener_is_known_without_an_upstream() {
    let (with_ops, _directory) = sources("ops.listen = \"0.0.0.0:99\"", &[], Flags::default());
    assert_eq!(Ops::load(&with_ops).unwrap().listen.port(), 99);
    let (wrong, _directory) = sources("ops.listen = 5", &[], Flags::default());
    Ops::load(&wrong).unwrap_err();
}

#[test]
fn routes_that_differ_in_methods_are_no_contradiction() {
    let config = with_upstream(
        "[[route]]\npath = \"/a\"\nmethods = [\"GET\"]\n[[route]]\npath = \"/a\"\nmethods = [\"GET\", \"POST\"]\ntimeout = \"5s\"",
    )
    .unwrap();
    assert_eq!(config.routes[1].timeout, Some(Duration::from_secs(5)));
    let errors = with_upstream("[[route]]\npath = \"*\"\n[[route]]\npath = \"/a\"").unwrap_err();
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(
        file in "(\\PC|[\\[\\]=\"'.,{}#\n]|server|route|listen|url|[0-9]){0,60}",
        value in "(\\PC|[\\[\\]{}:\",]|redis://|http://|@|[0-9]){0,30}",
    ) {
        let (mut tree, errors) = from_toml("x", &file);
        let variables = ["STORE__URL", "UPSTREAM__URL", "SESSION__COOKIES", "ROUTE", "SERVER__LISTEN", "LOG", "STORE__TIMEOUT"];
        let environment: Vec<_> =
            variables.iter().map(|name| (format!("SESSION_BRIDGE_{name}").into(), value.clone().into())).collect();
        let mut reader = Reader::starting_with(errors);
        reader.extend(overlay_environment(&mut tree, &environment));
        let parts = schema::read(&mut reader, &tree, true);
        check::contradictions(&mut reader, &tree, &parts);
        let errors = reader.into_errors(&schema::TABLES);
        proptest::prop_assert!(!errors.is_empty(), "`log` is a table, so there is one at least");
    }
}
