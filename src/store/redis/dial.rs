//! One attempt to reach a server: connect, shake hands, log in. And the trial of a connection that is there.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::lent::Lent;
use super::pipe::{Connection, Listener};
use super::tracking::{Fed, Feed, Tracking};
use crate::store::patience;
use crate::tls;

/// An attempt to connect and to log in ends after the time-out of calls, but neither before nor after these.
const DIAL_WITHIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

/// After this time without an answer the next address of a name is tried as well.
const HEAD_START: Duration = Duration::from_millis(100);

/// For how long what was sent may remain unacknowledged by the other machine before the connection is given up.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// What is said of a server that is frozen, paused, or too slow.
pub(super) const SILENT: &str = "the server accepts connections and does not answer in time";

/// So much of a server's first line is looked at.
const FIRST_LINE: usize = 64;

/// Where a server is, how to log in, and how to see that it works. Secret: it holds the password.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) login: RedisConnectionInfo,
    pub(super) timeout: Duration,
    /// Any answer to it, a refusal too, shows that the server works; `READONLY` shows also that it may be the wrong one.
    pub(super) probe: Cmd,
    /// How to speak TLS, if so.
    pub(super) tls: Option<tls::Client>,
}

/// A connection, and the task that moves its bytes: the connection ends with it.
pub(super) struct Live {
    pub(super) connection: Connection,
    pub(super) driver: AbortOnDropHandle<()>,
    /// Where Redis tells of changes by it.
    pub(super) feed: Option<Arc<Feed>>,
}

/// What became of a connection that was tried out.
pub(super) enum Health {
    Good,
    /// It answers, but takes no writes: the server may have been demoted, and the name may lead elsewhere now.
    ReadOnly,
    /// And why.
    Dead(String),
}

impl Live {
    /// Asks the probe, and waits for the answer for as long as a call may take.
    pub(super) async fn try_out(&self, target: &Target) -> Health {
        let deadline = Instant::now() + target.timeout.min(DIAL_WITHIN.1);
        match patience::within(deadline, self.connection.ask(&target.probe)).await {
            Some(Ok(Value::ServerError(error))) if error.code() == "READONLY" => Health::ReadOnly,
            // Any other refusal is an answer all the same: another connection would get it too.
            Some(Ok(_)) => Health::Good,
            Some(Err(error)) => Health::Dead(tls::explain(&error).unwrap_or_else(|| "the connection was lost".into())),
            None => Health::Dead(SILENT.into()),
        }
    }
}

/// One attempt; the name is resolved anew. What the server says unasked is told to `listener`. The error is fit to be
/// shown.
pub(super) async fn dial(target: &Target, listener: Option<Listener>) -> Result<Live, String> {
    connect(target, |_| Ok((None, listener))).await
}

/// The same, by which changes are told to those named by `tracking`. Where Redis does not let us have that told, the
/// connection is as good as any other.
pub(super) async fn dial_and_track(target: &Target, tracking: Option<&Tracking>) -> Result<Live, String> {
    let Some(tracking) = tracking else {
        return dial(target, None).await;
    };
    let target = Target {
        login: target.login.clone().set_protocol(ProtocolVersion::RESP3),
        ..target.clone()
    };
    let within = target.timeout.min(DIAL_WITHIN.1);
    let feed = |stream: &TcpStream| {
        let feed = Feed::new(tracking, stream, within)?;
        let listener = feed.listener();
        Ok((Some(feed), Some(listener)))
    };
    let mut live = connect(&target, feed).await?;
    if let Some(feed) = &live.feed
        && let Err(why) = feed.track(&live.connection, within).await
    {
        tracking.tell_refusal(&why);
        live.feed = None;
    }
    Ok(live)
}

/// What listens to a connection: as one that tells of changes, and to what is said unasked.
type Ears = (Option<Arc<Feed>>, Option<Listener>);

async fn connect(target: &Target, ears: impl FnOnce(&TcpStream) -> io::Result<Ears>) -> Result<Live, String> {
    let within = target.timeout.clamp(DIAL_WITHIN.0, DIAL_WITHIN.1);
    let until = Instant::now() + within;
    let connecting = async { reach(lookup_host((target.host.as_str(), target.port)).await?).await };
    let stream = match timeout_at(until, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(format!("cannot connect: {error}")),
        Err(_) => return Err(format!("no connection within {} ms", within.as_millis())),
    };
    tune(&stream);
    let ears = ears(&stream).map_err(|error| format!("cannot watch the connection: {error}"))?;
    let greeting = Greeting { ears, until };
    match &target.tls {
        None => hear_and_greet(target, stream, greeting).await,
        Some(tls) => {
            let Ok(stream) = timeout_at(until, tls.connect(&target.host, stream)).await else {
                return Err(format!(
                    "no answer to the TLS handshake within {} ms: does the server speak TLS on this port?",
                    within.as_millis()
                ));
            };
            hear_and_greet(target, stream?, greeting).await
        }
    }
}

/// Connects to the first of these addresses that accepts. One that does not answer does not keep the others waiting: of
/// the addresses of a name some may lead nowhere.
async fn reach(mut addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        let next = addresses.next();
        let head_start = if next.is_some() { HEAD_START } else { DIAL_WITHIN.1 };
        if let Some(address) = next {
            attempts.spawn(TcpStream::connect(address));
        }
        match timeout(head_start, attempts.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => failure = error,
            Ok(None) => return Err(failure),
            // It takes long, and goes on while the next one is tried.
            Ok(Some(Err(_))) | Err(_) => {}
        }
    }
}

/// How a connection is greeted, and until when.
struct Greeting {
    ears: Ears,
    until: Instant,
}

async fn hear_and_greet<S>(target: &Target, mut stream: S, greeting: Greeting) -> Result<Live, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let by_tls = target.tls.is_some();
    timeout_at(greeting.until, hear(&mut stream, by_tls))
        .await
        .map_err(|_| SILENT)??;
    greet(target, stream, greeting).await
}

/// Waits for a first answer, which may be any but a farewell. The driver would not tell what else it is that closes a
/// connection: a server that has no room for it; or one that looks at our certificate when the handshake is over for
/// us (TLS 1.3), and refuses it.
async fn hear<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, by_tls: bool) -> Result<(), String> {
    let lost = |error| tls::explain(&error).unwrap_or_else(|| closed(by_tls).into());
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.map_err(lost)?;
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await.map_err(lost)? {
            b'\n' => break,
            byte if line.len() < FIRST_LINE => line.push(byte),
            _ => {}
        }
    }
    match line.as_slice() {
        line if line.starts_with(b"-ERR max number of clients") => {
            Err("the server turns connections away: it has as many as its maxclients allows".into())
        }
        line if line.starts_with(b"-DENIED") => {
            Err("the server is in protected mode: it has no password, and answers its own machine only".into())
        }
        _ => Ok(()),
    }
}

/// What is said of a connection that was closed before there was a login.
const fn closed(by_tls: bool) -> &'static str {
    if by_tls {
        "the connection was closed during the greeting"
    } else {
        "the connection was closed during the greeting: does the server expect TLS (rediss://)?"
    }
}

async fn greet<S>(target: &Target, stream: S, greeting: Greeting) -> Result<Live, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Greeting {
        ears: (feed, listener),
        until,
    } = greeting;
    let by_tls = target.tls.is_some();
    // The library knows how to log in; it is given the stream for that long.
    let (lent, ours) = Lent::new(Fed::new(stream, feed.clone()));
    let settings = AsyncConnectionConfig::new().set_response_timeout(None);
    let greeting = MultiplexedConnection::new_with_config(&target.login, lent, settings);
    match timeout_at(until, greeting).await {
        Ok(Ok(greeted)) => drop(greeted),
        Ok(Err(error)) => return Err(refused_login(&error, by_tls)),
        Err(_) => return Err(SILENT.into()),
    }
    let stream = ours.take_back().ok_or_else(|| closed(by_tls).to_owned())?;
    let (connection, driver) = Connection::new(stream, listener);
    Ok(Live {
        connection,
        driver: AbortOnDropHandle::new(tokio::spawn(driver)),
        feed,
    })
}

/// None of it is worth failing for: it makes the connection faster, and the loss of the peer known sooner.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(stream);
    let keep_alive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(15));
    let _ = socket.set_tcp_keepalive(&keep_alive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

/// Says why the greeting failed, without the server's own words: some servers repeat what they were sent, and that
/// held the password.
fn refused_login(error: &RedisError, by_tls: bool) -> String {
    if let Some(why) = tls::explain(error) {
        return why;
    }
    match (error.kind(), error.code()) {
        (ErrorKind::Io | ErrorKind::Parse, _) => closed(by_tls).into(),
        // The code of most errors: a password where none is set, a user or a database that there is not.
        (_, Some("ERR")) => {
            "the server refused the greeting: are user, password and database of store.url right?".into()
        }
        (_, Some("NOPROTO")) => "the server does not speak RESP3, which near_cache needs: Redis 6 or later does".into(),
        (_, Some("WRONGPASS")) => "the server refused the greeting: authentication failed".into(),
        (_, Some(code)) => format!("the server refused the greeting: {code}"),
        (_, None) => format!("the server refused the greeting: {}", error.category()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    fn listen(backlog: i32) -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(backlog).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn of_several_addresses_one_that_is_dead_or_deaf_does_not_keep_the_others_waiting() {
        let (_deaf, silent) = listen(0);
        // Its queue is full: further attempts get no answer at all.
        let _first = TcpStream::connect(silent).await.unwrap();
        let waiting = timeout(Duration::from_millis(200), TcpStream::connect(silent)).await;
        assert!(waiting.is_err(), "{waiting:?}");
        let (closed, dead) = listen(1);
        drop(closed);
        let (_well, address) = listen(8);
        let within = DIAL_WITHIN.0;
        let made = timeout(within, reach([silent, dead, silent, address].into_iter())).await;
        assert_eq!(made.unwrap().unwrap().peer_addr().unwrap(), address);
        let refused = timeout(within, reach([dead].into_iter())).await.unwrap();
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(reach(std::iter::empty()).await.is_err());
    }
}
