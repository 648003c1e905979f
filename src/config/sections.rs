//! The typed configuration, in the shape of the file. `config/session-bridge.toml` says what each key is for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use ipnet::IpNet;

use super::sealing::Sealing;
use super::secret::Secret;
use super::url::{StoreUrl, UpstreamUrl};
use crate::session::glob::Glob;

/// `[server]`: the listener for clients.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The path answered here with the readiness of this replica, if any.
    pub health_path: Option<String>,
    /// How many connections are open at once at most.
    pub max_connections: usize,
    /// How many bytes a request head may have.
    pub max_header_size: usize,
    /// From the first byte to the end of a request head.
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub keep_alive_timeout: Duration,
    /// From the signal to stop, while readiness fails already, to the end of accepting. May be zero.
    pub drain_delay: Duration,
    /// From the end of `drain_delay` to the closing of what is still open. May be zero.
    pub drain_timeout: Duration,
    /// Whose `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections from `trusted_proxies`, which are some then, begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// What to show to clients over TLS; `None`: the listener speaks clear text.
    pub tls: Option<ServerTls>,
}

/// `server.tls`: the certificate to show, with its chain, and its key.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The certificate.
    pub cert: PemFile,
    /// The key of `cert`.
    pub key: PemFile,
}

/// A PEM file that is read again when it changes.
#[derive(Clone, Debug)]
pub struct PemFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it held when the configuration was read.
    pub content: Secret,
}

/// `[access]`: who may use the bridge at all.
#[derive(Clone, Debug)]
pub struct Access {
    /// The keys, from `api_keys` or from the file that `api_keys_file` names; empty for no check.
    pub api_keys: Vec<Secret>,
}

/// `[ops]`: the listener for operators.
#[derive(Clone, Debug)]
pub struct Ops {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What the file that `token_file` names holds; needed for `/sessions` unless the listener is a loopback one.
    pub token: Option<Secret>,
}

/// `[upstream]`: the backend.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Where it is.
    pub url: UpstreamUrl,
    /// Who the backend is, and who we are, over TLS. All unset where the URL is of no TLS.
    pub tls: ClientTls,
    /// Send the client's `Host`, not the upstream's.
    pub preserve_host: bool,
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// From the end of the request to the response head.
    pub response_timeout: Duration,
    /// A connection unused for longer is not used again. Zero: none is used twice.
    pub idle_timeout: Duration,
    /// A connection older than that is not used again.
    pub max_age: Option<Duration>,
    /// How many connections are open at once at most; over HTTP/2, how many requests are under way.
    pub max_connections: usize,
    /// Speak HTTP/2 to it: over TLS where it agrees, in clear text without asking.
    pub http2: bool,
}

/// `[install_id]`: which installation a request comes from.
#[derive(Clone, Debug)]
pub struct InstallId {
    /// The header field that carries it, if any. `None` only where `body_pointer` is set.
    pub header: Option<HeaderName>,
    /// Where in a JSON body it is, if there. `None` only where `header` is set.
    pub body_pointer: Option<JsonPointer>,
    /// How many bytes of the body are searched.
    pub max_body: usize,
    /// What it looks like.
    pub format: IdFormat,
    /// What becomes of a request without one.
    pub on_missing: OnMissing,
}

/// `[session]`: how sessions start, live and end.
#[derive(Clone, Debug)]
pub struct Session {
    /// The names of the cookies that are kept. Never empty.
    pub cookies: Vec<Glob>,
    /// The names that mean "there is a session"; empty: any kept cookie does.
    pub id_cookies: Vec<Glob>,
    /// How long an unused session lives.
    pub idle_timeout: Duration,
    /// How long any session lives.
    pub max_age: Option<Duration>,
    /// How a session starts.
    pub create: Create,
    /// The request that starts one, with [`Create::Prefetch`].
    pub prefetch: Prefetch,
    /// How the cookie is computed, with [`Create::Derive`].
    pub derive: Derive,
    /// How long a request waits for another one that is starting the session. May be zero.
    pub create_wait: Duration,
    /// How long after its head the body of a response may hold those who wait. May be zero.
    pub body_wait: Duration,
    /// How many requests of one installation go to the backend at once; `None`: any number.
    pub max_in_flight: Option<usize>,
    /// How long the others wait for their turn. May be zero.
    pub turn_wait: Duration,
    /// Requests that log in or out.
    pub auth_paths: Vec<Glob>,
    /// What becomes of a request while the store cannot be asked.
    pub on_store_error: OnStoreError,
    /// What is sent for the CSRF protection of the backend.
    pub csrf: Csrf,
    /// How the backend reports a dead session.
    pub lost: Lost,
    /// How many bytes of a request's body are kept to send it once more.
    pub replay_body: usize,
    /// To whom a session belongs.
    pub bind: Bind,
    /// Whether requests without an Install ID may go on with a session.
    pub adopt: Adopt,
}

/// `session.bind`: to whom a session belongs, beside those who know the Install ID.
#[derive(Clone, Copy, Debug)]
pub struct Bind {
    /// How many bits of the client's IPv4 and IPv6 address count; `None`: none of them.
    pub client_address: Option<(u8, u8)>,
    /// What becomes of requests from elsewhere.
    pub on_mismatch: OnMismatch,
}

/// `session.bind.on_mismatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMismatch {
    /// They have a session of their own.
    New,
    /// 403.
    Reject,
}

/// `session.adopt`: requests without an Install ID that go on with a session of their address.
#[derive(Clone, Copy, Debug)]
pub struct Adopt {
    /// Whether there are any.
    pub enabled: bool,
    /// How long ago the session was started at most.
    pub window: Duration,
    /// How many sessions of an address are looked at, from the newest.
    pub candidates: usize,
}

/// `session.lost`: the signs of a session that the backend does not know any more. Any of them is one.
#[derive(Clone, Debug, Default)]
pub struct Lost {
    /// The status of the response.
    pub status: Vec<StatusCode>,
    /// Where it redirects to.
    pub redirect: Option<Glob>,
    /// A field that it has, with the value where one is given.
    pub header: Option<(HeaderName, Option<Glob>)>,
    /// They count only where the response deletes the session cookie or sets another one. Only where one of them is set.
    pub with_new_cookie: bool,
}

impl Lost {
    /// Whether there is any sign.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        !self.status.is_empty() || self.redirect.is_some() || self.header.is_some()
    }
}

/// `session.prefetch`: the request by which the bridge has the backend start a session.
#[derive(Clone, Debug)]
pub struct Prefetch {
    /// Its method.
    pub method: Method,
    /// Its path, with a query or without.
    pub path: Uri,
    /// Its fields, beside those that say who the client is.
    pub headers: HeaderMap,
}

/// `session.derive`: a session cookie that is computed from the Install ID.
#[derive(Clone, Debug, Default)]
pub struct Derive {
    /// The name of the cookie. Set if and only if sessions are derived.
    pub cookie: Option<String>,
    /// What the file that `secret_file` names holds; unset: the Install ID itself is the value.
    pub secret: Option<Secret>,
}

/// `session.csrf`: a cookie whose value the backend wants in a header field, too. Off where nothing is set.
#[derive(Clone, Debug, Default)]
pub struct Csrf {
    /// The name of the cookie. Set if and only if `header` is.
    pub cookie: Option<String>,
    /// The header field.
    pub header: Option<HeaderName>,
    /// What unsafe requests say as `Origin`; unset: what the client says. Set only where `cookie` is.
    pub origin: Option<HeaderValue>,
}

/// `[limits]`: how many sessions may be started, over all replicas.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// By each client address.
    pub new_sessions_per_address: Option<Rate>,
    /// In all.
    pub new_sessions: Option<Rate>,
}

impl Limits {
    /// Whether there is any.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.new_sessions_per_address.is_some() || self.new_sessions.is_some()
    }
}

/// So many within a time: `30/m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; at least one.
    pub most: u32,
    /// A second, a minute, an hour or a day.
    pub within: Duration,
}

/// `[store]`: where sessions are kept.
#[derive(Clone, Debug)]
pub struct Store {
    /// Which store.
    pub url: StoreUrl,
    /// Where sessions are moved to: which is the new store while they are.
    pub moving_to: Option<StoreUrl>,
    /// For each operation.
    pub timeout: Duration,
    /// What its keys start with.
    pub key_prefix: String,
    /// What the file that `password_file` names holds: the password of the user of the URL, or of the default user.
    /// `None` where the URL has one.
    pub password: Option<Secret>,
    /// Who the server is, and who we are, over TLS. All unset where the URL is of no TLS.
    pub tls: ClientTls,
    /// The user at the sentinels. `None` where the URL has none of them.
    pub sentinel_username: Option<Secret>,
    /// What the file that `sentinel_password_file` names holds.
    pub sentinel_password: Option<Secret>,
    /// How many replicas of Redis should have a change before it counts as done.
    pub wait_replicas: u16,
    /// How records are written (the first) and read (all of them). Empty: in clear.
    pub encryption_key_files: Vec<Sealing>,
    /// Whether records in clear are read, too, where there are keys.
    pub accept_clear: bool,
    /// What becomes of a record that cannot be read.
    pub on_unreadable: OnUnreadable,
}

/// `store.tls` and `upstream.tls`: the content of PEM files.
#[derive(Clone, Debug, Default)]
pub struct ClientTls {
    /// The authorities that the server's certificate may come from; unset: those of this machine.
    pub ca: Option<Secret>,
    /// The certificate to show, with its chain. Set if and only if `key` is.
    pub cert: Option<Secret>,
    /// The key of `cert`.
    pub key: Option<Secret>,
}

/// `[near_cache]`: copies in this process of sessions that are kept in Redis.
#[derive(Clone, Copy, Debug)]
pub struct NearCache {
    /// Whether there are any. Only with a store that tells of changes.
    pub enabled: bool,
    /// How many there are at most.
    pub max_entries: usize,
    /// How old one may be.
    pub max_age: Duration,
}

/// `[log]`: what is written to standard output.
#[derive(Clone, Debug)]
pub struct Log {
    /// How; unset: text on a terminal, JSON elsewhere.
    pub format: Option<LogFormat>,
    /// How much.
    pub level: LogLevel,
}

/// `[[route]]`: what is different for some requests. The first that matches counts.
#[derive(Clone, Debug)]
pub struct Route {
    /// Which paths.
    pub path: Glob,
    /// Which methods; empty: all.
    pub methods: Vec<Method>,
    /// These requests log in or out.
    pub auth: bool,
    /// Whether they have a session.
    pub session: RouteSession,
    /// `session.max_in_flight` is not for them.
    pub unlimited: bool,
    /// They may be sent once more, with a fresh session, where theirs turns out to be dead.
    pub replay: bool,
    /// In place of `upstream.response_timeout`.
    pub timeout: Option<Duration>,
}

/// A JSON pointer (RFC 6901) to a member, known to be well formed and not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer(String);

impl JsonPointer {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The pointer as it was written: starts with `/`, and `~` only begins `~0` or `~1`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `install_id.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdFormat {
    /// Any 128-bit UUID text.
    Uuid,
    /// 8 to 128 of `A–Z a–z 0–9 . _ ~ -`.
    Token,
}

/// `install_id.on_missing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMissing {
    /// 400.
    Reject,
    /// Forwarded without a session.
    Pass,
}

/// `session.create`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// From the first ordinary response that starts one.
    Capture,
    /// By a request of the bridge's own.
    Prefetch,
    /// Not at all: the cookie is computed.
    Derive,
}

/// `session.on_store_error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreError {
    /// 503.
    Reject,
    /// Forwarded without a session.
    Stateless,
}

/// `store.on_unreadable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnreadable {
    /// It stays, and its requests are treated as in an outage.
    Reject,
    /// It is removed, and its requests begin without a session.
    Replace,
}

/// `route.session`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteSession {
    /// As everywhere else.
    Required,
    /// A request without an Install ID is forwarded without a session, as with [`OnMissing::Pass`].
    Optional,
    /// Forwarded without a session, cookies stripped.
    Off,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `log.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What an operator must act on.
    Error,
    /// What went wrong and was dealt with.
    Warn,
    /// Starts, stops, changes of state, and each request.
    Info,
    /// What is refused before it is a request, what clients and the network do, and each step.
    Debug,
    /// All there is.
    Trace,
}
