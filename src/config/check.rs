//! Values that are right one by one and cannot be meant together.

use std::net::SocketAddr;

use http::{Method, Uri};

use super::document::{Node, Table, Value};
use super::reader::Reader;
use super::schema::Parts;
use super::sealing::{Sealing, same_twice};
use super::sections::{ClientTls, Create, Csrf, OnMismatch, OnMissing, Route, RouteSession, Store};
use super::url::{Encryption, RedisUrl, SqlUrl, StoreUrl};

/// Reports every contradiction.
pub(super) fn contradictions(reader: &mut Reader, tree: &Table, parts: &Parts) {
    if collide(parts.server.listen, parts.ops.listen) {
        reader.contradiction(
            tree,
            &["ops.listen", "server.listen"],
            "server.listen and ops.listen are the same address",
        );
    }
    if parts.install_id.header.is_none() && parts.install_id.body_pointer.is_none() {
        reader.contradiction(
            tree,
            &["install_id.header", "install_id.body_pointer"],
            "header and body_pointer are both off, so no request could have an Install ID",
        );
    }
    keys(reader, tree);
    server_tls(reader, tree);
    if parts.server.proxy_protocol && parts.server.trusted_proxies.is_empty() {
        let message = "is spoken by trusted_proxies only, and there are none";
        reader.contradiction(tree, &["server.proxy_protocol", "server.trusted_proxies"], message);
    }
    if let Some((one, other)) = same_twice(&parts.store.encryption_key_files) {
        let message = match other {
            Sealing::Clear => "\"clear\" is listed twice".to_owned(),
            Sealing::Key(_) => format!("{one} and {other} hold the same key"),
        };
        reader.contradiction(tree, &["store.encryption_key_files"], &message);
    }
    let sealing = &parts.store.encryption_key_files;
    if !parts.store.accept_clear && !sealing.iter().any(|entry| matches!(entry, Sealing::Key(_))) {
        let message = "without a key in encryption_key_files, sessions are stored in clear, and could not be read";
        reader.contradiction(tree, &["store.accept_clear", "store.encryption_key_files"], message);
    } else if !parts.store.accept_clear && sealing.iter().any(|entry| matches!(entry, Sealing::Clear)) {
        let message = "encryption_key_files lists \"clear\", which accept_clear = false refuses";
        reader.contradiction(tree, &["store.accept_clear", "store.encryption_key_files"], message);
    }
    cookies(reader, tree, parts);
    csrf(reader, tree, parts);
    lost(reader, tree, parts);
    creation(reader, tree, parts);
    protection(reader, tree, parts);
    store(reader, tree, parts);
    moving(reader, tree, parts);
    upstream(reader, tree, parts);
    near_cache(reader, tree, parts);
    routes(reader, tree, parts);
}

/// Whether two listeners could not both be opened. Port 0 is a free one each time.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let same_ip = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && same_ip
}

fn keys(reader: &mut Reader, tree: &Table) {
    let has = |key: &str| match value(tree, "access", key) {
        Some(Node {
            value: Value::Array(items),
            ..
        }) => !items.is_empty(),
        Some(node) => node.text().is_ok_and(|text| !matches!(text.trim(), "" | "[]")),
        None => false,
    };
    if has("api_keys") && has("api_keys_file") {
        let message = "api_keys and api_keys_file are both set: keep all keys in one place";
        reader.contradiction(tree, &["access.api_keys_file", "access.api_keys"], message);
    }
}

/// By what is written, since a file that cannot be read is told already.
fn server_tls(reader: &mut Reader, tree: &Table) {
    let Some(Value::Table(tls)) = value(tree, "server", "tls").map(|node| &node.value) else {
        return;
    };
    let names = |key: &str| {
        tls.get(key)
            .is_some_and(|entry| entry.node.text().is_ok_and(|path| !path.is_empty()))
    };
    if names("cert") != names("key") {
        let message = "cert and key belong together: both or neither";
        reader.contradiction(tree, &["server.tls.cert", "server.tls.key"], message);
    }
}

fn cookies(reader: &mut Reader, tree: &Table, parts: &Parts) {
    let session = &parts.session;
    if session.cookies.is_empty() {
        let message = "no cookie would be kept, so there would never be a session; [\"*\"] keeps all";
        reader.contradiction(tree, &["session.cookies"], message);
        return;
    }
    let is_lost =
        |name: &str| !name.contains(['*', '?']) && !session.cookies.iter().any(|kept| kept.matches(name.as_bytes()));
    if session.id_cookies.iter().any(|name| is_lost(name.as_str())) {
        let message = "names a cookie that session.cookies does not keep";
        reader.contradiction(tree, &["session.id_cookies", "session.cookies"], message);
    }
}

/// One of the two alone does nothing, and a cookie that is not kept has no value to send.
fn csrf(reader: &mut Reader, tree: &Table, parts: &Parts) {
    let Csrf { cookie, header, origin } = &parts.session.csrf;
    let (Some(cookie), Some(header)) = (cookie, header) else {
        let set = first_set(&[
            ("session.csrf.cookie", cookie.is_some()),
            ("session.csrf.header", header.is_some()),
            ("session.csrf.origin", origin.is_some()),
        ]);
        if let Some(key) = set {
            let message = "needs both csrf.cookie and csrf.header: the cookie's value is sent as that field";
            reader.contradiction(tree, &[key, "session.csrf.cookie", "session.csrf.header"], message);
        }
        return;
    };
    let kept = &parts.session.cookies;
    if !kept.is_empty() && !kept.iter().any(|kept| kept.matches(cookie.as_bytes())) {
        let message = "names a cookie that session.cookies does not keep";
        reader.contradiction(tree, &["session.csrf.cookie", "session.cookies"], message);
    }
    if parts.install_id.header.as_ref() == Some(header) {
        let message = "is the field that carries the Install ID";
        reader.contradiction(tree, &["session.csrf.header", "install_id.header"], message);
    }
}

fn lost(reader: &mut Reader, tree: &Table, parts: &Parts) {
    let lost = &parts.session.lost;
    if lost.with_new_cookie && !lost.is_set() {
        let message = "says when the other signs of session.lost count, and there are none";
        reader.contradiction(tree, &["session.lost.with_new_cookie", "session.lost"], message);
    }
}

/// What is set for another way to start a session, or for sessions where none is kept.
fn creation(reader: &mut Reader, tree: &Table, parts: &Parts) {
    let session = &parts.session;
    let prefetch = first_set(&[
        ("session.prefetch.method", session.prefetch.method != Method::GET),
        ("session.prefetch.path", session.prefetch.path != Uri::from_static("/")),
        ("session.prefetch.headers", !session.prefetch.headers.is_empty()),
    ]);
    if let Some(key) = prefetch.filter(|_| session.create != Create::Prefetch) {
        let message = "is for session.create = \"prefetch\"";
        reader.contradiction(tree, &[key, "session.create"], message);
    }
    let derive = first_set(&[
        ("session.derive.cookie", session.derive.cookie.is_some()),
        ("session.derive.secret_file", session.derive.secret.is_some()),
    ]);
    if session.create != Create::Derive {
        if let Some(key) = derive {
            let message = "is for session.create = \"derive\"";
            reader.contradiction(tree, &[key, "session.create"], message);
        }
        return;
    }
    if session.derive.cookie.is_none() {
        let message = "\"derive\" needs session.derive.cookie: the name of the cookie that is computed";
        reader.contradiction(tree, &["session.create", "session.derive.cookie"], message);
    }
    let useless = [
        ("session.lost", session.lost.is_set()),
        ("session.csrf", session.csrf.cookie.is_some()),
        ("session.bind.client_address", session.bind.client_address.is_some()),
        ("session.adopt.enabled", session.adopt.enabled),
        (
            "limits.new_sessions_per_address",
            parts.limits.new_sessions_per_address.is_some(),
        ),
        ("limits.new_sessions", parts.limits.new_sessions.is_some()),
        ("near_cache.enabled", parts.near_cache.enabled),
    ];
    if let Some(key) = first_set(&useless) {
        let message = "is for sessions that are kept, and session.create = \"derive\" keeps none";
        reader.contradiction(tree, &[key, "session.create"], message);
    }
}

/// What would be allowed to nobody, or is said of nothing.
fn protection(reader: &mut Reader, tree: &Table, parts: &Parts) {
    let session = &parts.session;
    if session.bind.client_address.is_none() && session.bind.on_mismatch == OnMismatch::Reject {
        let message = "is for sessions that are bound: set session.bind.client_address";
        reader.contradiction(
            tree,
            &["session.bind.on_mismatch", "session.bind.client_address"],
            message,
        );
    }
    let may_be_missing = parts.install_id.on_missing == OnMissing::Pass
        || parts
            .routes
            .iter()
            .flatten()
            .any(|route| route.session == RouteSession::Optional);
    if session.adopt.enabled && !may_be_missing {
        let message = "is for requests without an Install ID, and those are refused: install_id.on_missing = \"pass\", or a \
                       route with session = \"optional\"";
        reader.contradiction(tree, &["session.adopt.enabled", "install_id.on_missing"], message);
    }
}

/// Where sessions cannot be moved from or to.
fn moving(reader: &mut Reader, tree: &Table, parts: &Parts) {
    let store = &parts.store;
    let Some(to) = &store.moving_to else { return };
    let embedded = |url: &StoreUrl| matches!(url, StoreUrl::Memory | StoreUrl::Sqlite { .. });
    if embedded(&store.url) || embedded(to) {
        let message = "sessions move between servers while replicas go on; from and to a store of one process they are \
                       copied while it is down: session-bridge sessions copy";
        reader.contradiction(tree, &["store.moving_to", "store.url"], message);
    } else if store.url.to_string() == to.to_string() {
        reader.contradiction(
            tree,
            &["store.moving_to", "store.url"],
            "is the store that sessions are in already",
        );
    }
}

/// What is set for a store that has no use for it.
fn store(reader: &mut Reader, tree: &Table, parts: &Parts) {
    let store = &parts.store;
    let tls = first_of_tls(&store.tls, ["store.tls.ca", "store.tls.cert", "store.tls.key"]);
    let sentinel = first_set(&[
        ("store.sentinel_username", store.sentinel_username.is_some()),
        ("store.sentinel_password_file", store.sentinel_password.is_some()),
    ]);
    let replicas = first_set(&[("store.wait_replicas", store.wait_replicas > 0)]);
    let password_file = first_set(&[("store.password_file", store.password.is_some())]);
    let mut contradiction = |keys: &[&str], message: &str| reader.contradiction(tree, keys, message);
    let url = match &store.url {
        StoreUrl::Redis(url) => url,
        StoreUrl::Sql(url) => {
            for key in [sentinel, replicas].into_iter().flatten() {
                let message = "is for a store in Redis, and store.url names another one";
                contradiction(&[key, "store.url"], message);
            }
            return sql(store, url, tls, contradiction);
        }
        StoreUrl::Memcached(_) => {
            for key in [tls, password_file, sentinel, replicas].into_iter().flatten() {
                contradiction(
                    &[key, "store.url"],
                    "is of no use with a store in Memcached, which store.url names",
                );
            }
            return;
        }
        StoreUrl::Memory | StoreUrl::Sqlite { .. } => {
            for key in [tls, password_file].into_iter().flatten() {
                contradiction(
                    &[key, "store.url"],
                    "is for a store on a server, and store.url names none",
                );
            }
            for key in [sentinel, replicas].into_iter().flatten() {
                let message = "is for a store in Redis, and store.url names another one";
                contradiction(&[key, "store.url"], message);
            }
            return;
        }
    };
    if let Some(key) = tls.filter(|_| !url.tls) {
        let message = "store.url is of no TLS: write rediss:// in place of redis://";
        contradiction(&[key, "store.url"], message);
    } else if store.tls.cert.is_some() != store.tls.key.is_some() {
        let message = "cert and key belong together: both or neither";
        contradiction(&["store.tls.cert", "store.tls.key"], message);
    }
    if let Some(key) = sentinel.filter(|_| !url.has_sentinels()) {
        let message = "there are no sentinels in store.url: redis-sentinel://…";
        contradiction(&[key, "store.url"], message);
    } else if let Some(key) = sentinel.filter(|_| store.sentinel_password.is_none()) {
        contradiction(&[key], "a user needs a password: set sentinel_password_file too");
    }
    // By the rule of Redis, the keys of one installation would then lie on different nodes.
    let tag = store.key_prefix.split_once('{').map(|(_, tag)| tag);
    if url.is_cluster() && tag.is_some_and(|tag| tag.starts_with('}')) {
        let message = "its first braces are empty, {}: a cluster would keep the keys of one session apart";
        contradiction(&["store.key_prefix", "store.url"], message);
    }
    password(store, url, contradiction);
}

/// What does not go together with a database server.
fn sql(store: &Store, url: &SqlUrl, tls: Option<&str>, mut contradiction: impl FnMut(&[&str], &str)) {
    if url.password.is_some() && store.password.is_some() {
        let message = "there is a password in store.url too: keep it in one place";
        contradiction(&["store.password_file", "store.url"], message);
    }
    if store.tls.cert.is_some() != store.tls.key.is_some() {
        let message = "cert and key belong together: both or neither";
        contradiction(&["store.tls.cert", "store.tls.key"], message);
    }
    match (url.encryption, tls) {
        (Some(Encryption::Disable), Some(key)) => {
            contradiction(&[key, "store.url"], "store.url turns TLS off");
        }
        (Some(Encryption::Prefer | Encryption::Require), Some(_)) if store.tls.ca.is_some() => {
            let message = "store.url asks for no check of the certificate: name verify-full there, or for MySQL \
                           verify_identity, or leave the mode out";
            contradiction(&["store.tls.ca", "store.url"], message);
        }
        _ => {}
    }
}

/// An embedded store needs no copies, and one that does not tell of changes must not have any.
fn near_cache(reader: &mut Reader, tree: &Table, parts: &Parts) {
    if !parts.near_cache.enabled {
        return;
    }
    let message = match &parts.store.url {
        StoreUrl::Redis(_) => return,
        StoreUrl::Memory | StoreUrl::Sqlite { .. } => {
            "is for a store in Redis; the one that store.url names is in this process and needs no copies"
        }
        StoreUrl::Sql(_) | StoreUrl::Memcached(_) => {
            "is for a store in Redis; the one that store.url names does not tell of changes"
        }
    };
    reader.contradiction(tree, &["near_cache.enabled", "store.url"], message);
}

fn password(store: &Store, url: &RedisUrl, mut contradiction: impl FnMut(&[&str], &str)) {
    match (&url.username, &url.password, &store.password) {
        (_, Some(_), Some(_)) => contradiction(
            &["store.password_file", "store.url"],
            "there is a password in store.url too: keep it in one place",
        ),
        (Some(_), None, None) => contradiction(
            &["store.url", "store.password_file"],
            "names a user without a password: add it, user:password@, or set store.password_file",
        ),
        _ => {}
    }
}

/// The first of these keys that is set.
/// The first key of such a table that is set.
fn first_of_tls(tls: &ClientTls, [ca, cert, key]: [&'static str; 3]) -> Option<&'static str> {
    first_set(&[
        (ca, tls.ca.is_some()),
        (cert, tls.cert.is_some()),
        (key, tls.key.is_some()),
    ])
}

fn upstream(reader: &mut Reader, tree: &Table, parts: &Parts) {
    let Some(upstream) = &parts.upstream else { return };
    let set = first_of_tls(
        &upstream.tls,
        ["upstream.tls.ca", "upstream.tls.cert", "upstream.tls.key"],
    );
    if let Some(key) = set.filter(|_| !upstream.url.is_tls()) {
        let message = "upstream.url is of no TLS: write https:// in place of http://";
        reader.contradiction(tree, &[key, "upstream.url"], message);
    } else if upstream.tls.cert.is_some() != upstream.tls.key.is_some() {
        let message = "cert and key belong together: both or neither";
        reader.contradiction(tree, &["upstream.tls.cert", "upstream.tls.key"], message);
    }
}

fn first_set(keys: &[(&'static str, bool)]) -> Option<&'static str> {
    keys.iter().find(|(_, set)| *set).map(|(key, _)| *key)
}

fn routes(reader: &mut Reader, tree: &Table, parts: &Parts) {
    let nodes = tree
        .get("route")
        .and_then(|entry| entry.node.items().ok())
        .unwrap_or_default();
    let mut earlier: Vec<&Route> = Vec::new();
    let tables = nodes.iter().filter(|node| matches!(node.value, Value::Table(_)));
    for (node, route) in tables.zip(&parts.routes) {
        let Some(route) = route else { continue };
        if earlier.iter().any(|first| covers(first, route)) {
            let message = "an earlier route has the same path and methods, and the first match wins";
            reader.push(node.origin.clone(), "route.path", message);
        }
        if route.auth && route.session == RouteSession::Off {
            let message = "a route without a session cannot log in or out: auth = true, session = \"off\"";
            reader.push(node.origin.clone(), "route.auth", message);
        }
        let useless = [
            (
                !parts.session.lost.is_set(),
                "session.lost names no sign of a dead session, so nothing would be sent again",
            ),
            (
                route.session == RouteSession::Off,
                "a route without a session has none to lose: session = \"off\"",
            ),
            (route.auth, "a log-in or log-out is never sent again: auth = true"),
        ];
        if let Some((_, message)) = useless.iter().find(|(is_so, _)| route.replay && *is_so) {
            reader.push(node.origin.clone(), "route.replay", *message);
        }
        earlier.push(route);
    }
}

/// Whether `later` can never be the first match.
fn covers(first: &Route, later: &Route) -> bool {
    let all_methods = || !later.methods.is_empty() && later.methods.iter().all(|method| first.methods.contains(method));
    (first.path == later.path || first.path.as_str() == "*") && (first.methods.is_empty() || all_methods())
}

fn value<'a>(tree: &'a Table, section: &str, key: &str) -> Option<&'a Node> {
    match &tree.get(section)?.node.value {
        Value::Table(table) => Some(&table.get(key)?.node),
        _ => None,
    }
}
