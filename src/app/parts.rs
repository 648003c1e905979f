//! From the configuration to the options of each part.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{StartError, sealing, ways};
use crate::bridge::access::ApiKeys;
use crate::bridge::acquire::Acquire;
use crate::bridge::admission::Admission;
use crate::bridge::commit::Commit;
use crate::bridge::csrf::CsrfBridge;
use crate::bridge::identify::IdentifyOptions;
use crate::bridge::outbound::Outbound;
use crate::bridge::pending::Pending;
use crate::bridge::pointer::Pointer;
use crate::bridge::refuse::Refusal;
use crate::bridge::route::{Route, Routes, SessionUse};
use crate::bridge::sessions::Sessions;
use crate::bridge::touch::Touch;
use crate::bridge::turns::Turns;
use crate::bridge::unreadable::OnUnreadable;
use crate::bridge::{self};
use crate::config::{
    self, Config, Create, IdFormat, MemcachedUrl, OnMissing, OnStoreError, RedisTopology, RedisUrl, RouteSession,
    Secret, SqlKind, SqlUrl, StoreUrl,
};
use crate::lifecycle::Drain;
use crate::metrics::Metrics;
use crate::session::clock::Clock;
use crate::session::copies::Copies;
use crate::session::glob::Glob;
use crate::session::install_id::Format;
use crate::session::record::{CookiePolicy, Lifetime, Snapshot};
use crate::session::store::SessionStore;
use crate::store::memcached::{self, MemcachedOptions};
use crate::store::memory::MemoryStore;
use crate::store::moving::MovingStore;
use crate::store::near_cache::{Listener, NearCache};
use crate::store::redis::{Address, Login, RedisOptions, RedisStore, Servers};
use crate::store::sql::SqliteStore;
use crate::store::sql::server::{self, Database, Encryption, SqlOptions};
use crate::tls;
use crate::wire::headers::TrustedProxies;
use crate::wire::server::{Edge, EdgeRefusal, EdgeStats, ProxyProtocol, ServerOptions};
use crate::wire::upstream::{Upstream, UpstreamOptions};

/// Copies in the form in which requests use them.
pub type SnapshotCache = NearCache<Arc<Snapshot>>;

/// How long a client may hold up a body, in either direction; nginx's default for both.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens the store that the URL names, with the layers that belong over it.
///
/// # Errors
/// When the file of an embedded store cannot be opened. A server that does not answer is no error.
pub async fn open_store(store: &config::Store, clock: Arc<dyn Clock>) -> Result<Arc<dyn SessionStore>, StartError> {
    open_store_told(store, clock, None).await
}

/// The same with the near cache, where that is on.
///
/// # Errors
/// As [`open_store`].
pub async fn open_store_and_copies(
    config: &Config,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<dyn SessionStore>, Option<Arc<SnapshotCache>>), StartError> {
    if config.session.create == Create::Derive {
        // There is nothing to keep.
        return Ok((Arc::new(MemoryStore::new(clock)), None));
    }
    let options = &config.near_cache;
    let cache = || Arc::new(NearCache::new(options.max_entries, options.max_age));
    let copies = options.enabled.then(cache);
    let listener = copies.clone().map(|cache| cache as Arc<dyn Listener>);
    Ok((open_store_told(&config.store, clock, listener).await?, copies))
}

/// The same, for one who keeps copies: `listener` is told of changes, by a store that can tell.
///
/// # Errors
/// As [`open_store`].
pub async fn open_store_told(
    store: &config::Store,
    clock: Arc<dyn Clock>,
    listener: Option<Arc<dyn Listener>>,
) -> Result<Arc<dyn SessionStore>, StartError> {
    let Some(to) = &store.moving_to else {
        let raw = open_backend(store, clock, listener).await?;
        return sealing::over(raw, &store.encryption_key_files, store.accept_clear);
    };
    // Nobody keeps copies meanwhile: changes come from two sides.
    let old = open_backend(store, Arc::clone(&clock), None).await?;
    let new = open_backend(&elsewhere(store, to), clock, None).await?;
    let moving: Arc<dyn SessionStore> = Arc::new(MovingStore::new(old, new));
    sealing::over(moving, &store.encryption_key_files, store.accept_clear)
}

/// The same but for its URL. A password that is in a file is that of the user of `store.url`.
fn elsewhere(store: &config::Store, url: &StoreUrl) -> config::Store {
    config::Store {
        url: url.clone(),
        moving_to: None,
        password: None,
        wait_replicas: 0,
        ..store.clone()
    }
}

/// The store that the URL names, and no layer over it.
pub(super) async fn open_raw(
    store: &config::Store,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn SessionStore>, StartError> {
    open_backend(store, clock, None).await
}

async fn open_backend(
    store: &config::Store,
    clock: Arc<dyn Clock>,
    listener: Option<Arc<dyn Listener>>,
) -> Result<Arc<dyn SessionStore>, StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError(format!("store.url: {error}"));
    Ok(match &store.url {
        StoreUrl::Memory => Arc::new(MemoryStore::new(clock)),
        StoreUrl::Sqlite { path } => Arc::new(
            SqliteStore::open(path, store.timeout, clock)
                .await
                .map_err(|error| failed(&error))?,
        ),
        StoreUrl::Redis(url) => {
            let options = RedisOptions {
                listener,
                ..redis(url, store)?
            };
            Arc::new(RedisStore::connect(options, clock))
        }
        StoreUrl::Memcached(url) => Arc::new(memcached::connect(memcached(url, store), clock)),
        StoreUrl::Sql(url) => Arc::new(server::connect(sql(url, store)?, clock)),
    })
}

fn redis(url: &RedisUrl, store: &config::Store) -> Result<RedisOptions, StartError> {
    let (servers, database) = match &url.topology {
        RedisTopology::One { server, database } => (Servers::One(address(server)), *database),
        RedisTopology::Sentinel {
            sentinels,
            master,
            database,
        } => {
            let servers = Servers::Sentinel {
                sentinels: sentinels.iter().map(address).collect(),
                master: master.clone(),
                login: login(store.sentinel_username.as_ref(), store.sentinel_password.as_ref()),
            };
            (servers, *database)
        }
        RedisTopology::Cluster { seeds } => (Servers::Cluster(seeds.iter().map(address).collect()), 0),
    };
    Ok(RedisOptions {
        servers,
        login: login(url.username.as_ref(), url.password.as_ref().or(store.password.as_ref())),
        tls: if url.tls {
            Some(client_tls("store", &store.tls)?)
        } else {
            None
        },
        database,
        timeout: store.timeout,
        key_prefix: store.key_prefix.clone(),
        wait_replicas: store.wait_replicas,
        listener: None,
    })
}

fn memcached(url: &MemcachedUrl, store: &config::Store) -> MemcachedOptions {
    let servers = url.servers.iter().map(|server| memcached::Address {
        host: server.host.clone(),
        port: server.port,
    });
    MemcachedOptions {
        servers: servers.collect(),
        timeout: store.timeout,
        key_prefix: store.key_prefix.clone(),
    }
}

fn sql(url: &SqlUrl, store: &config::Store) -> Result<SqlOptions, StartError> {
    let material = &store.tls;
    if material.ca.is_some() || material.cert.is_some() {
        // Here it is told which of them cannot be used, and why; the driver would tell that with the first connection.
        client_tls("store", material)?;
    }
    let text = |secret: &Secret| secret.expose().to_owned();
    let encryption = url.encryption.map(|encryption| match encryption {
        config::Encryption::Disable => Encryption::Disable,
        config::Encryption::Prefer => Encryption::Prefer,
        config::Encryption::Require => Encryption::Require,
        config::Encryption::VerifyCa => Encryption::VerifyCa,
        config::Encryption::VerifyFull => Encryption::VerifyFull,
    });
    let unsaid = if material.ca.is_some() {
        Encryption::VerifyFull
    } else {
        Encryption::Prefer
    };
    Ok(SqlOptions {
        database: match url.kind {
            SqlKind::Postgres => Database::Postgres,
            SqlKind::MySql => Database::MySql,
        },
        host: url.server.host.clone(),
        port: url.server.port,
        username: text(&url.username),
        password: url.password.as_ref().or(store.password.as_ref()).map(text),
        name: url.database.clone(),
        encryption: encryption.unwrap_or(unsaid),
        ca: material.ca.as_ref().map(text),
        identity: material.cert.as_ref().map(text).zip(material.key.as_ref().map(text)),
        max_connections: url.max_connections,
        timeout: store.timeout,
        key_prefix: store.key_prefix.clone(),
    })
}

/// `section`: the table of the configuration that `material` is in.
pub(super) fn client_tls(section: &str, material: &config::ClientTls) -> Result<tls::Client, StartError> {
    let identity = match (&material.cert, &material.key) {
        (Some(cert), Some(key)) => Some((cert.expose(), key.expose())),
        _ => None,
    };
    tls::Client::new(material.ca.as_ref().map(Secret::expose), identity)
        .map_err(|error| StartError(format!("{section}.tls.{}: {error}", error.part())))
}

fn address(address: &config::Address) -> Address {
    Address {
        host: address.host.clone(),
        port: address.port,
    }
}

fn login(username: Option<&Secret>, password: Option<&Secret>) -> Login {
    let text = |secret: &Secret| secret.expose().to_owned();
    Login {
        username: username.map(text),
        password: password.map(text),
    }
}

/// The way to the backend.
///
/// # Errors
/// When what is set for TLS cannot be used.
pub fn upstream(upstream: &config::Upstream) -> Result<Upstream, StartError> {
    let tls = upstream.url.is_tls().then(|| client_tls("upstream", &upstream.tls));
    Ok(Upstream::new(UpstreamOptions {
        host: upstream.url.host().to_owned(),
        port: upstream.url.port(),
        tls: tls.transpose()?,
        connect_timeout: upstream.connect_timeout,
        idle_timeout: upstream.idle_timeout,
        max_age: upstream.max_age,
        max_connections: upstream.max_connections,
        http2: upstream.http2,
    }))
}

pub(super) fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(&Refusal::SLUGS))
}

pub(super) const fn format(format: IdFormat) -> Format {
    match format {
        IdFormat::Uuid => Format::Uuid,
        IdFormat::Token => Format::Token,
    }
}

pub(super) fn sessions(
    config: &Config,
    store: Arc<dyn SessionStore>,
    copies: Option<Arc<dyn Copies>>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
) -> Arc<Sessions> {
    let session = &config.session;
    let policy = CookiePolicy::new(session.cookies.clone(), session.id_cookies.clone());
    let lifetime = Lifetime {
        idle_timeout: session.idle_timeout,
        max_age: session.max_age,
    };
    let on_unreadable = match config.store.on_unreadable {
        config::OnUnreadable::Reject => OnUnreadable::Reject,
        config::OnUnreadable::Replace => OnUnreadable::Replace,
    };
    let sessions = Sessions::new(store, clock, metrics, policy, lifetime);
    Arc::new(sessions.on_unreadable(on_unreadable).with_copies(copies))
}

/// The edge, its refusals rendered by the bridge's one table.
pub(super) fn edge(
    config: &Config,
    tls: Option<tls::Server>,
    drain: Drain,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
) -> Edge {
    let server = &config.server;
    Edge {
        options: ServerOptions {
            max_connections: server.max_connections,
            max_header_size: server.max_header_size,
            header_timeout: server.header_timeout,
            keep_alive_timeout: server.keep_alive_timeout,
            stall_timeout: STALL_TIMEOUT,
        },
        tls,
        proxy_protocol: server.proxy_protocol.then(|| {
            let from = TrustedProxies::new(server.trusted_proxies.clone());
            Arc::new(ProxyProtocol::new(from))
        }),
        render: Arc::new(move |cause| {
            let refusal = match cause {
                EdgeRefusal::BadRequest(reason) => Refusal::BadRequest { reason },
                EdgeRefusal::HeaderTooLarge => Refusal::HeaderTooLarge,
                EdgeRefusal::RequestTimeout => Refusal::RequestTimeout,
                EdgeRefusal::Overloaded => Refusal::Overloaded,
            };
            metrics.refusal(refusal.slug());
            let request_id = Uuid::now_v7().to_string();
            // An overload is told by the accept loop, once in a while: a line for each connection would add to it.
            if cause != EdgeRefusal::Overloaded {
                tracing::info!(
                    status = refusal.status().as_u16(),
                    refusal = refusal.slug(),
                    %cause,
                    request_id,
                    "a request was refused before it was read"
                );
            }
            refusal.response(&request_id)
        }),
        drain,
        clock,
        stats: Arc::new(EdgeStats::default()),
    }
}

/// What the bridge shares with the rest.
pub(super) struct Shared {
    pub(super) sessions: Arc<Sessions>,
    pub(super) pending: Arc<Pending>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) upstream: Upstream,
    pub(super) tasks: TaskTracker,
}

pub(super) fn bridge(config: &Config, shared: Shared) -> Result<bridge::Parts, StartError> {
    let Shared {
        sessions,
        pending,
        metrics,
        upstream,
        tasks,
    } = shared;
    let keys = config.access.api_keys.iter().map(|key| key.expose().to_owned());
    Ok(bridge::Parts {
        api_keys: ApiKeys::new(keys),
        identify: identify(&config.install_id)?,
        reject_missing: config.install_id.on_missing == OnMissing::Reject,
        routes: routes(config),
        outbound: outbound(config)?,
        csrf: csrf(&config.session.csrf),
        turns: config
            .session
            .max_in_flight
            .map(|most| Turns::new(most, config.session.turn_wait)),
        acquire: Acquire::new(
            Arc::clone(&sessions),
            Arc::clone(&pending),
            Arc::clone(&metrics),
            tasks.clone(),
            config.session.create_wait,
            config.store.timeout,
        )
        .with_admission(Admission::new(
            Arc::clone(&sessions),
            ways::limits(&config.limits),
            tasks.clone(),
        )),
        prefetch: ways::prefetch(config, &upstream)?,
        bind: ways::bind(&config.session.bind),
        adoption: ways::adoption(&config.session.adopt, &sessions),
        derive: ways::derive(&config.session),
        commit: Commit::new(Arc::clone(&sessions), pending, Arc::clone(&metrics)),
        touch: Touch::new(Arc::clone(&sessions), Arc::clone(&metrics), tasks.clone()),
        sessions,
        upstream,
        metrics,
        tasks,
        lost: ways::lost(&config.session.lost),
        replay_body: config.session.replay_body,
        stateless_on_outage: config.session.on_store_error == OnStoreError::Stateless,
        body_wait: config.session.body_wait,
    })
}

fn identify(install_id: &config::InstallId) -> Result<IdentifyOptions, StartError> {
    let pointer = install_id
        .body_pointer
        .as_ref()
        .map(|pointer| Pointer::parse(pointer.as_str()))
        .transpose();
    Ok(IdentifyOptions {
        header: install_id.header.clone(),
        pointer: pointer.map_err(|error| StartError(format!("install_id.body_pointer: {error}")))?,
        max_body: install_id.max_body,
        format: format(install_id.format),
    })
}

fn csrf(csrf: &config::Csrf) -> Option<CsrfBridge> {
    let (cookie, header) = csrf.cookie.clone().zip(csrf.header.clone())?;
    Some(CsrfBridge::new(cookie, &header, csrf.origin.clone()))
}

fn outbound(config: &Config) -> Result<Outbound, StartError> {
    let host = HeaderValue::from_str(config.upstream.url.authority().as_str())
        .map_err(|error| StartError(format!("upstream.url: {error}")))?;
    let trusted = TrustedProxies::new(config.server.trusted_proxies.clone());
    Ok(Outbound::new(host, config.upstream.preserve_host, trusted))
}

fn routes(config: &Config) -> Routes {
    let otherwise = Route {
        path: Glob::new("*"),
        methods: Vec::new(),
        session: SessionUse::Required,
        auth: false,
        unlimited: false,
        replay: false,
        response_timeout: config.upstream.response_timeout,
        auth_paths: config.session.auth_paths.clone(),
    };
    let routes = config.routes.iter().map(|route| Route {
        path: route.path.clone(),
        methods: route.methods.clone(),
        session: match route.session {
            RouteSession::Required => SessionUse::Required,
            RouteSession::Optional => SessionUse::Optional,
            RouteSession::Off => SessionUse::Off,
        },
        auth: route.auth,
        unlimited: route.unlimited,
        replay: route.replay,
        response_timeout: route.timeout.unwrap_or(config.upstream.response_timeout),
        auth_paths: config.session.auth_paths.clone(),
    });
    Routes::new(routes.collect(), otherwise)
}
