//! Every key, with its type and its default.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Method, Uri};

use super::document::{Node, Table};
use super::reader::{Reader, Section};
use super::sealing::sealing;
use super::sections::{
    Access, Adopt, Bind, ClientTls, Create, Csrf, Derive, IdFormat, InstallId, JsonPointer, Limits, Log, LogFormat,
    LogLevel, Lost, NearCache, OnMismatch, OnMissing, OnStoreError, OnUnreadable, Ops, Prefetch, Route, RouteSession,
    Server, ServerTls, Session, Store, Upstream,
};
use super::url::{StoreUrl, optional_store_url, store_url, upstream_url};
use super::value::{
    api_key, api_keys_file, boolean, bound_address, cookie_glob, cookie_name, count, csrf_header, derive_secret_file,
    duration, header_map, health_path, install_id_header, json_pointer, key_prefix, lasting_pem_file, listen,
    lost_header, lost_redirect, lost_status, method, network, one_of, optional_duration, optional_rate,
    optional_secret, origin, password_file, path_glob, pem_file, positive_duration, size, small_count, target,
    token_file,
};
use crate::session::glob::Glob;

/// The tables of the configuration.
pub(super) const TABLES: [&str; 11] = [
    "server",
    "access",
    "ops",
    "upstream",
    "install_id",
    "session",
    "limits",
    "store",
    "near_cache",
    "log",
    "route",
];

/// What `upstream.profile` can be; a test compares them with the profiles.
const PROFILE_NAMES: [(&str, ()); 8] = [
    ("", ()),
    ("bitrix", ()),
    ("magento", ()),
    ("django", ()),
    ("laravel", ()),
    ("php", ()),
    ("spring", ()),
    ("express", ()),
];

/// Everything that was read. Without `upstream.url` there is no upstream.
pub(super) struct Parts {
    pub(super) server: Server,
    pub(super) access: Access,
    pub(super) ops: Ops,
    pub(super) upstream: Option<Upstream>,
    pub(super) install_id: InstallId,
    pub(super) session: Session,
    pub(super) limits: Limits,
    pub(super) store: Store,
    pub(super) near_cache: NearCache,
    pub(super) log: Log,
    pub(super) routes: Vec<Option<Route>>,
}

/// Reads the whole tree. `needs_upstream`: a missing `upstream.url` is an error.
pub(super) fn read(reader: &mut Reader, tree: &Table, needs_upstream: bool) -> Parts {
    let parts = Parts {
        server: reader.section(tree, "server", server),
        access: reader.section(tree, "access", access),
        ops: reader.section(tree, "ops", ops),
        upstream: reader.section(tree, "upstream", |section| upstream(section, needs_upstream)),
        install_id: reader.section(tree, "install_id", install_id),
        session: reader.section(tree, "session", session),
        limits: reader.section(tree, "limits", limits),
        store: reader.section(tree, "store", store),
        near_cache: reader.section(tree, "near_cache", near_cache),
        log: reader.section(tree, "log", log),
        routes: reader.tables(tree, "route", route),
    };
    reader.only(tree, &TABLES);
    parts
}

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn server(section: &mut Section<'_>) -> Server {
    Server {
        listen: section.value("listen", listen, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080))),
        health_path: section.value("health_path", health_path, Some("/healthz".to_owned())),
        max_connections: section.value("max_connections", count(1..=1_000_000), 16_384),
        max_header_size: section.value("max_header_size", size(1 << 10..=1 << 20), 32 << 10),
        header_timeout: section.value("header_timeout", positive_duration, seconds(10)),
        keep_alive_timeout: section.value("keep_alive_timeout", positive_duration, seconds(75)),
        drain_delay: section.value("drain_delay", duration, seconds(5)),
        drain_timeout: section.value("drain_timeout", duration, seconds(30)),
        trusted_proxies: section.list("trusted_proxies", network, Vec::new()),
        proxy_protocol: section.value("proxy_protocol", boolean, false),
        tls: section.table("tls", server_tls),
    }
}

/// One without the other is told as a contradiction.
fn server_tls(section: &mut Section<'_>) -> Option<ServerTls> {
    let cert = section.value("cert", lasting_pem_file, None);
    let key = section.value("key", lasting_pem_file, None);
    Some(ServerTls { cert: cert?, key: key? })
}

fn access(section: &mut Section<'_>) -> Access {
    let listed = section.list("api_keys", api_key, Vec::new());
    let from_file = section.value("api_keys_file", api_keys_file, None);
    Access {
        api_keys: from_file.unwrap_or(listed),
    }
}

fn ops(section: &mut Section<'_>) -> Ops {
    Ops {
        listen: section.value("listen", listen, SocketAddr::from((Ipv4Addr::LOCALHOST, 9090))),
        token: section.value("token_file", token_file, None),
    }
}

fn upstream(section: &mut Section<'_>, needed: bool) -> Option<Upstream> {
    // What it says is in the tree already.
    section.value("profile", one_of(&PROFILE_NAMES, &[]), ());
    if needed && !section.is_set("url") {
        section.missing(
            "url",
            "is missing, and the only key without a default: where is the backend? Set it in the file ([upstream] \
             url = \"http://127.0.0.1:8000\"), by SESSION_BRIDGE_UPSTREAM__URL, or as serve --upstream http://127.0.0.1:8000",
        );
    }
    let url = section.optional("url", upstream_url);
    let rest = (
        section.table("tls", client_tls),
        section.value("preserve_host", boolean, true),
        section.value("connect_timeout", positive_duration, seconds(2)),
        section.value("response_timeout", positive_duration, seconds(30)),
        section.value("idle_timeout", duration, Duration::from_millis(1500)),
        section.value("max_age", optional_duration, Some(seconds(600))),
        section.value("max_connections", count(1..=100_000), 512),
        section.value("http2", boolean, false),
    );
    let (tls, preserve_host, connect_timeout, response_timeout, idle_timeout, max_age, max_connections, http2) = rest;
    Some(Upstream {
        url: url?,
        tls,
        preserve_host,
        connect_timeout,
        response_timeout,
        idle_timeout,
        max_age,
        max_connections,
        http2,
    })
}

fn install_id(section: &mut Section<'_>) -> InstallId {
    InstallId {
        header: section.value(
            "header",
            install_id_header,
            Some(HeaderName::from_static("x-install-id")),
        ),
        body_pointer: section.value("body_pointer", json_pointer, Some(JsonPointer::new("/installId"))),
        max_body: section.value("max_body", size(1..=1 << 30), 1 << 20),
        format: section.value(
            "format",
            one_of(&[("uuid", IdFormat::Uuid), ("token", IdFormat::Token)], &[]),
            IdFormat::Uuid,
        ),
        on_missing: section.value(
            "on_missing",
            one_of(&[("reject", OnMissing::Reject), ("pass", OnMissing::Pass)], &[]),
            OnMissing::Reject,
        ),
    }
}

fn session(section: &mut Section<'_>) -> Session {
    Session {
        cookies: section.list("cookies", cookie_glob, vec![Glob::new("*")]),
        id_cookies: section.list("id_cookies", cookie_glob, Vec::new()),
        idle_timeout: section.value("idle_timeout", positive_duration, seconds(30 * 86_400)),
        max_age: section.value("max_age", optional_duration, None),
        create: section.value(
            "create",
            one_of(
                &[
                    ("capture", Create::Capture),
                    ("prefetch", Create::Prefetch),
                    ("derive", Create::Derive),
                ],
                &[],
            ),
            Create::Capture,
        ),
        prefetch: section.table("prefetch", |prefetch| Prefetch {
            method: prefetch.value("method", method, Method::GET),
            path: prefetch.value("path", target, Uri::from_static("/")),
            headers: prefetch.value("headers", header_map, HeaderMap::new()),
        }),
        derive: section.table("derive", |derive| Derive {
            cookie: derive.value("cookie", cookie_name, None),
            secret: derive.value("secret_file", derive_secret_file, None),
        }),
        create_wait: section.value("create_wait", duration, seconds(10)),
        body_wait: section.value("body_wait", duration, seconds(2)),
        max_in_flight: Some(section.value("max_in_flight", count(0..=10_000), 0)).filter(|most| *most > 0),
        turn_wait: section.value("turn_wait", duration, seconds(10)),
        auth_paths: section.list("auth_paths", path_glob, Vec::new()),
        on_store_error: section.value(
            "on_store_error",
            one_of(
                &[("reject", OnStoreError::Reject), ("stateless", OnStoreError::Stateless)],
                &[],
            ),
            OnStoreError::Reject,
        ),
        csrf: section.table("csrf", |csrf| Csrf {
            cookie: csrf.value("cookie", cookie_name, None),
            header: csrf.value("header", csrf_header, None),
            origin: csrf.value("origin", origin, None),
        }),
        lost: section.table("lost", |lost| Lost {
            status: lost.list("status", lost_status, Vec::new()),
            redirect: lost.value("redirect", lost_redirect, None),
            header: lost.value("header", lost_header, None),
            with_new_cookie: lost.value("with_new_cookie", boolean, false),
        }),
        replay_body: section.value("replay_body", size(0..=16 << 20), 64 << 10),
        bind: section.table("bind", |bind| Bind {
            client_address: bind.value("client_address", bound_address, None),
            on_mismatch: bind.value(
                "on_mismatch",
                one_of(&[("new", OnMismatch::New), ("reject", OnMismatch::Reject)], &[]),
                OnMismatch::New,
            ),
        }),
        adopt: section.table("adopt", |adopt| Adopt {
            enabled: adopt.value("enabled", boolean, false),
            window: adopt.value("window", positive_duration, seconds(600)),
            candidates: adopt.value("candidates", count(1..=10), 10),
        }),
    }
}

fn limits(section: &mut Section<'_>) -> Limits {
    Limits {
        new_sessions_per_address: section.value("new_sessions_per_address", optional_rate, None),
        new_sessions: section.value("new_sessions", optional_rate, None),
    }
}

fn client_tls(section: &mut Section<'_>) -> ClientTls {
    ClientTls {
        ca: section.value("ca", pem_file, None),
        cert: section.value("cert", pem_file, None),
        key: section.value("key", pem_file, None),
    }
}

fn store(section: &mut Section<'_>) -> Store {
    Store {
        url: section.value(
            "url",
            store_url,
            StoreUrl::Sqlite {
                path: PathBuf::from("session-bridge.db"),
            },
        ),
        moving_to: section.value("moving_to", optional_store_url, None),
        timeout: section.value("timeout", positive_duration, Duration::from_millis(250)),
        key_prefix: section.value("key_prefix", key_prefix, "session-bridge:".to_owned()),
        password: section.value("password_file", password_file, None),
        tls: section.table("tls", client_tls),
        sentinel_username: section.value("sentinel_username", optional_secret, None),
        sentinel_password: section.value("sentinel_password_file", password_file, None),
        wait_replicas: section.value("wait_replicas", small_count, 0),
        encryption_key_files: section.list("encryption_key_files", sealing, Vec::new()),
        accept_clear: section.value("accept_clear", boolean, true),
        on_unreadable: section.value(
            "on_unreadable",
            one_of(
                &[("reject", OnUnreadable::Reject), ("replace", OnUnreadable::Replace)],
                &[],
            ),
            OnUnreadable::Reject,
        ),
    }
}

fn near_cache(section: &mut Section<'_>) -> NearCache {
    NearCache {
        enabled: section.value("enabled", boolean, false),
        max_entries: section.value("max_entries", count(1..=100_000_000), 100_000),
        max_age: section.value("max_age", positive_duration, seconds(60)),
    }
}

fn log(section: &mut Section<'_>) -> Log {
    let formats = one_of(
        &[
            ("", None),
            ("json", Some(LogFormat::Json)),
            ("text", Some(LogFormat::Text)),
        ],
        &[],
    );
    let levels = one_of(
        &[
            ("off", LogLevel::Off),
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ],
        &[],
    );
    Log {
        format: section.value("format", formats, None),
        level: section.value("level", levels, LogLevel::Info),
    }
}

fn route(section: &mut Section<'_>, node: &Node) -> Option<Route> {
    let path = section.required("path", node, path_glob);
    let rest = (
        section.list("methods", method, Vec::new()),
        section.value("auth", boolean, false),
        section.value(
            "session",
            one_of(
                &[
                    ("required", RouteSession::Required),
                    ("optional", RouteSession::Optional),
                    ("off", RouteSession::Off),
                ],
                &[],
            ),
            RouteSession::Required,
        ),
        section.value("unlimited", boolean, false),
        section.value("replay", boolean, false),
        section.value("timeout", optional_duration, None),
    );
    let (methods, auth, session, unlimited, replay, timeout) = rest;
    Some(Route {
        path: path?,
        methods,
        auth,
        session,
        unlimited,
        replay,
        timeout,
    })
}
