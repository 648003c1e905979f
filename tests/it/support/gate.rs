//! A way to a server that can be broken in the middle of a test, in every way a network can.
//!
//! Two kinds of faults: a *mode* holds for all connections until the next one ([`Gate::open`] ends it); an *event*
//! happens once, and connections made afterwards know nothing of it.
//!
//! | mode | connections there are | new connections |
//! |---|---|---|
//! | [`open`](Gate::open) | bytes pass | pass |
//! | [`cut`](Gate::cut) | closed | accepted and closed |
//! | [`refuse`](Gate::refuse) | closed | refused |
//! | [`stall`](Gate::stall) | nothing passes; closed when it ends | the same |
//! | [`hold`](Gate::hold) | nothing passes; all of it does when it ends | the same |
//!
//! | event | connections there are |
//! |---|---|
//! | [`reset`](Gate::reset) | broken by RST |
//! | [`half_open`](Gate::half_open) | bytes vanish, and no end is ever heard of, not even when the other side closes |
//! | [`cut_after`](Gate::cut_after) | the one that carries so many bytes more is closed after them |
//!
//! Apart from these, [`delay`](Gate::delay) makes every way take its time.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{lasting_port, local};

/// A direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    Cut,
    Refuse,
    Stall,
    Hold,
}

/// What holds now. Connections are numbered from 1 as they come.
#[derive(Clone, Copy, Debug)]
struct Control {
    mode: Mode,
    /// How long bytes take each way: at least, and how much more at random.
    delays: [(Duration, Duration); 2],
    /// Connections up to this number are to be reset …
    reset_to: u64,
    /// … or to be half-open.
    half_open_to: u64,
    /// The gate is gone.
    ended: bool,
}

/// How a connection ends by the will of the gate.
enum Fate {
    Close,
    Reset,
    HalfOpen,
}

struct Inner {
    target: SocketAddr,
    control: watch::Sender<Control>,
    /// Whether a listener is there; the mode `Refuse` takes it away.
    listening: watch::Sender<bool>,
    accepted: AtomicU64,
    /// How many bytes pass each way before the next [`Gate::cut_after`].
    budgets: [AtomicI64; 2],
    random: Mutex<fastrand::Rng>,
}

/// A listener that passes connections on to a server.
pub(crate) struct Gate {
    port: u16,
    inner: Arc<Inner>,
    accepting: JoinHandle<()>,
}

impl Gate {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        Self::seeded(target, fastrand::u64(..)).await
    }

    /// The same; what it does at random follows from `seed`.
    pub(crate) async fn seeded(target: SocketAddr, seed: u64) -> Self {
        let mut listener = None;
        // A port that was free may be taken by the time it is wanted.
        for _ in 0..20 {
            listener = TcpListener::bind(local(lasting_port())).await.ok();
            if listener.is_some() {
                break;
            }
        }
        let listener = listener.expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        let control = Control {
            mode: Mode::Open,
            delays: [(Duration::ZERO, Duration::ZERO); 2],
            reset_to: 0,
            half_open_to: 0,
            ended: false,
        };
        let inner = Arc::new(Inner {
            target,
            control: watch::Sender::new(control),
            listening: watch::Sender::new(true),
            accepted: AtomicU64::new(0),
            budgets: [AtomicI64::new(i64::MAX), AtomicI64::new(i64::MAX)],
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
        });
        let accepting = tokio::spawn(accept(listener, port, Arc::clone(&inner)));
        Self { port, inner, accepting }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Passes (again). Connections that were stalled are closed; those that were held go on.
    pub(crate) fn open(&self) {
        self.enter(Mode::Open);
    }

    /// Closes all connections, and every new one at once.
    pub(crate) fn cut(&self) {
        self.enter(Mode::Cut);
    }

    /// Closes all connections and stops listening; returns when that is so.
    pub(crate) async fn refuse(&self) {
        self.enter(Mode::Refuse);
        let mut listening = self.inner.listening.subscribe();
        listening
            .wait_for(|listening| !listening)
            .await
            .expect("the gate is there");
    }

    /// Keeps all connections and lets nothing pass: the server hangs, and will have forgotten everybody.
    pub(crate) fn stall(&self) {
        self.enter(Mode::Stall);
    }

    /// Keeps all connections and lets nothing pass for now: the network swallows packets, which are sent again.
    pub(crate) fn hold(&self) {
        self.enter(Mode::Hold);
    }

    /// Breaks all connections by RST.
    pub(crate) fn reset(&self) {
        let last = self.inner.accepted.load(Ordering::SeqCst);
        self.inner.control.send_modify(|control| control.reset_to = last);
    }

    /// Loses all connections without a word: bytes vanish, and neither side ever hears of an end.
    pub(crate) fn half_open(&self) {
        let last = self.inner.accepted.load(Ordering::SeqCst);
        self.inner.control.send_modify(|control| control.half_open_to = last);
    }

    /// After this many more bytes that way, over all connections, the one that carries the last of them is closed.
    pub(crate) fn cut_after(&self, way: Way, bytes: u32) {
        self.inner.budgets[way as usize].store(bytes.into(), Ordering::SeqCst);
    }

    /// From now on bytes take `latency` that way, and up to `jitter` more; their order stays.
    pub(crate) fn delay(&self, way: Way, latency: Duration, jitter: Duration) {
        let delay = (latency, jitter);
        self.inner
            .control
            .send_modify(|control| control.delays[way as usize] = delay);
    }

    /// Passes, at once and without end: whatever was told before is forgotten.
    pub(crate) fn heal(&self) {
        for (budget, way) in self.inner.budgets.iter().zip([Way::Up, Way::Down]) {
            budget.store(i64::MAX, Ordering::SeqCst);
            self.delay(way, Duration::ZERO, Duration::ZERO);
        }
        self.open();
    }

    /// How many connections have come so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.inner.accepted.load(Ordering::SeqCst)
    }

    fn enter(&self, mode: Mode) {
        self.inner.control.send_modify(|control| control.mode = mode);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.accepting.abort();
        self.inner.control.send_modify(|control| control.ended = true);
    }
}

impl Inner {
    /// When bytes that come now are to go on.
    fn due(&self, way: Way) -> Option<Instant> {
        let (latency, jitter) = self.control.borrow().delays[way as usize];
        if latency + jitter == Duration::ZERO {
            return None;
        }
        let jitter = jitter.mul_f64(self.random.lock().expect("no panic while locked").f64());
        Some(Instant::now() + latency + jitter)
    }

    /// Takes `count` bytes off what may pass; how many may, and whether the connection is to end after them.
    fn spend(&self, way: Way, count: usize) -> (usize, bool) {
        let budget = &self.budgets[way as usize];
        let count = i64::try_from(count).expect("a small number");
        let take = |left: i64| match left {
            i64::MAX => i64::MAX,
            left if left <= count => i64::MAX,
            left => left - count,
        };
        let before = budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(take(left)));
        let before = before.expect("always changed");
        let last = before <= count;
        (usize::try_from(before.min(count)).expect("a small number"), last)
    }
}

async fn accept(listener: TcpListener, port: u16, inner: Arc<Inner>) {
    let mut control = inner.control.subscribe();
    let mut listener = Some(listener);
    loop {
        let refusing = control.borrow_and_update().mode == Mode::Refuse;
        if refusing {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(local(port)).await.expect("the port it had"));
        }
        inner.listening.send_replace(listener.is_some());
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => pending().await,
            }
        };
        tokio::select! {
            client = accepted => {
                let Ok((client, _)) = client else { return };
                let number = inner.accepted.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(serve(client, number, Arc::clone(&inner)));
            }
            _ = control.changed() => {}
        }
    }
}

async fn serve(mut client: TcpStream, number: u64, inner: Arc<Inner>) {
    let control = inner.control.subscribe();
    // One that comes when everything is cut never gets as far as the server.
    if control.borrow().mode == Mode::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(inner.target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let fate = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(from_client, to_server, Way::Up, &inner);
        let down = pump(from_server, to_client, Way::Down, &inner);
        tokio::select! {
            _ = async { tokio::try_join!(up, down) } => Fate::Close,
            fate = fate(control, number) => fate,
        }
    };
    match fate {
        Fate::Close => {}
        Fate::Reset => {
            for stream in [&client, &server] {
                let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
        }
        Fate::HalfOpen => {
            let mut control = inner.control.subscribe();
            tokio::select! {
                () = async { tokio::join!(swallow(&mut client), swallow(&mut server)); } => {}
                _ = control.wait_for(|control| control.ended) => {}
            }
        }
    }
}

/// Waits until the gate has something to say about the connection.
async fn fate(mut control: watch::Receiver<Control>, number: u64) -> Fate {
    let mut stalled = false;
    loop {
        let now = *control.borrow_and_update();
        let freed = stalled && now.mode != Mode::Stall;
        stalled = now.mode == Mode::Stall;
        if number <= now.half_open_to {
            return Fate::HalfOpen;
        }
        if number <= now.reset_to {
            return Fate::Reset;
        }
        if freed || now.ended || matches!(now.mode, Mode::Cut | Mode::Refuse) || control.changed().await.is_err() {
            return Fate::Close;
        }
    }
}

/// Carries bytes one way, in their time; ends well when the sender has ended.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    inner: &Inner,
) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Option<Instant>, Vec<u8>)>(64);
    let read = async move {
        loop {
            let mut bytes = vec![0; 16 * 1024];
            let count = from.read(&mut bytes).await?;
            bytes.truncate(count);
            // Nothing stands for the end.
            if sender.send((inner.due(way), bytes)).await.is_err() || count == 0 {
                return io::Result::Ok(());
            }
        }
    };
    let mut control = inner.control.subscribe();
    let write = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            if let Some(due) = due {
                tokio::time::sleep_until(due).await;
            }
            let passes = |control: &Control| !matches!(control.mode, Mode::Hold | Mode::Stall);
            let _ = control.wait_for(passes).await;
            if bytes.is_empty() {
                break;
            }
            let (count, last) = inner.spend(way, bytes.len());
            to.write_all(&bytes[..count]).await?;
            if last {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// Reads and forgets, and does not let the peer's end be the end.
async fn swallow(stream: &mut TcpStream) {
    let mut bytes = vec![0; 16 * 1024];
    while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
    pending::<()>().await;
}
