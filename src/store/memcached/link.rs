//! One connection to one server, for all calls at once: commands are pipelined, and each answer belongs to the oldest
//! command that has none yet.
//!
//! So answers can only be told apart while none is missing. When one does not come in time, or makes no sense, the
//! connection is closed, and whoever waits on it is told so.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Address;
use super::protocol::{self, Reply};
use crate::session::store::StoreError;
use crate::store::patience::within;

/// How many commands may wait to be written; further ones wait to be queued.
const QUEUE: usize = 1024;

/// How much is written at once.
const BATCH: usize = 64 << 10;

/// The longest line of a list of items.
const LIST_LINE: u64 = 4096;

/// What an item takes up besides its key and value, generously.
const OVERHEAD: usize = 1024;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It did not come in time.
    Late,
    /// The connection was lost; the command may have been carried out.
    Lost,
}

/// Who waits for so many answers.
struct Waiting {
    count: usize,
    answer: oneshot::Sender<Vec<Reply>>,
}

/// A connection.
pub(super) struct Link {
    queue: mpsc::Sender<(Vec<u8>, Waiting)>,
    dead: CancellationToken,
    /// How large an item may be.
    item_limit: usize,
}

impl Link {
    /// Connects, and makes sure that there is a Memcached of use on the other side. It takes as long as it takes. The error
    /// is for operators.
    pub(super) async fn open(address: &Address) -> Result<Self, String> {
        let reach = |error: io::Error| format!("{address} cannot be reached: {error}");
        let mut stream = TcpStream::connect((address.host.as_str(), address.port))
            .await
            .map_err(reach)?;
        stream.set_nodelay(true).map_err(reach)?;
        let settings = settings(&mut stream).await.map_err(|why| format!("{address}: {why}"))?;
        let (reader, writer) = stream.into_split();
        let (queue, queued) = mpsc::channel(QUEUE);
        let (sent, waiting) = mpsc::unbounded_channel();
        let dead = CancellationToken::new();
        tokio::spawn(write(writer, queued, sent, dead.clone().drop_guard(), dead.clone()));
        tokio::spawn(read(reader, waiting, dead.clone().drop_guard(), dead.clone()));
        Ok(Self {
            queue,
            dead,
            item_limit: settings.item_limit,
        })
    }

    /// The `count` answers to `commands`.
    pub(super) async fn ask(&self, commands: Vec<u8>, count: usize, by: Instant) -> Result<Vec<Reply>, Failure> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { count, answer };
        let asked = async {
            self.queue.send((commands, waiting)).await.map_err(|_| Failure::Lost)?;
            answered.await.map_err(|_| Failure::Lost)
        };
        let answers = within(by, asked).await;
        answers.unwrap_or_else(|| {
            self.close();
            Err(Failure::Late)
        })
    }

    /// Whether an item with this key and so large a value would be taken. One that would not must not even be sent: Memcached
    /// takes the old one away then.
    pub(super) fn fits(&self, name: &str, value: usize) -> Result<(), StoreError> {
        let most = self.item_limit.saturating_sub(OVERHEAD + name.len());
        if value > most {
            let why = format!("{value} bytes, and Memcached takes {most} (its option -I)");
            return Err(StoreError::TooLarge(why));
        }
        Ok(())
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    /// Waits until it is of no use any more.
    pub(super) async fn died(&self) {
        self.dead.cancelled().await;
    }

    pub(super) fn close(&self) {
        self.dead.cancel();
    }
}

struct Settings {
    item_limit: usize,
}

/// What the server says of itself.
async fn settings(stream: &mut TcpStream) -> Result<Settings, String> {
    const MOST: usize = 64 << 10;
    let broke = |error: io::Error| format!("the connection broke: {error}");
    stream.write_all(b"stats settings\r\nmn\r\n").await.map_err(broke)?;
    let mut bytes = BytesMut::new();
    while !bytes.ends_with(b"\r\nMN\r\n") {
        let text = String::from_utf8_lossy(&bytes);
        if let Some(why) = text.lines().find(|line| line.contains("ERROR")) {
            return Err(format!("Memcached says {why}; 1.6 or later is needed"));
        }
        if bytes.len() > MOST {
            return Err("what is there is no Memcached".into());
        }
        if stream.read_buf(&mut bytes).await.map_err(broke)? == 0 {
            return Err("it closed the connection".into());
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let setting = |name: &str| {
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    };
    if setting("cas_enabled") == Some("no") {
        return Err("Memcached runs with -C, without which it cannot compare and set".into());
    }
    let item_limit = setting("item_size_max").and_then(|limit| limit.parse().ok());
    Ok(Settings {
        item_limit: item_limit.ok_or("what is there is no Memcached of 1.6 or later")?,
    })
}

/// What follows `prefix` in the keys of all items of a server, by its own list of them (`lru_crawler metadump`).
pub(super) async fn names(address: &Address, prefix: &str) -> Result<Vec<String>, String> {
    let broke = |error: io::Error| format!("{address}: the connection broke: {error}");
    let stream = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(broke)?;
    let mut stream = BufReader::new(stream);
    stream.write_all(b"lru_crawler metadump all\r\n").await.map_err(broke)?;
    let mut names = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        let length = (&mut stream)
            .take(LIST_LINE)
            .read_line(&mut line)
            .await
            .map_err(broke)?;
        let line = line.trim_end();
        if length == 0 || line.starts_with("BUSY") || line.contains("ERROR") {
            return Err(format!("{address} does not list its items: {line}"));
        }
        if line == "END" {
            return Ok(names);
        }
        let name = line.strip_prefix("key=").and_then(|rest| rest.split(' ').next());
        // Written as in a URL.
        let name = name.map(|name| percent_encoding::percent_decode_str(name).decode_utf8_lossy());
        names.extend(name.and_then(|name| name.strip_prefix(prefix).map(str::to_owned)));
    }
}

async fn write(
    mut stream: OwnedWriteHalf,
    mut queued: mpsc::Receiver<(Vec<u8>, Waiting)>,
    sent: mpsc::UnboundedSender<Waiting>,
    _end: DropGuard,
    dead: CancellationToken,
) {
    let writing = async {
        let mut batch = BytesMut::new();
        while let Some((commands, waiting)) = queued.recv().await {
            batch.clear();
            batch.extend_from_slice(&commands);
            let mut waiters = vec![waiting];
            while batch.len() < BATCH
                && let Ok((commands, waiting)) = queued.try_recv()
            {
                batch.extend_from_slice(&commands);
                waiters.push(waiting);
            }
            for waiting in waiters {
                // The answer may come before all is written.
                if sent.send(waiting).is_err() {
                    return;
                }
            }
            if stream.write_all(&batch).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = dead.cancelled() => {}
    }
}

async fn read(
    mut stream: OwnedReadHalf,
    mut sent: mpsc::UnboundedReceiver<Waiting>,
    _end: DropGuard,
    dead: CancellationToken,
) {
    let reading = async {
        let mut bytes = BytesMut::with_capacity(BATCH);
        while let Some(first) = next(&mut stream, &mut bytes).await {
            let mut replies = vec![first];
            // Nobody has asked for what comes unasked.
            let Ok(waiting) = sent.try_recv() else { return };
            while replies.len() < waiting.count && !replies.last().is_some_and(Reply::is_last) {
                match next(&mut stream, &mut bytes).await {
                    Some(reply) => replies.push(reply),
                    None => return,
                }
            }
            let is_last = replies.last().is_some_and(Reply::is_last);
            // Who has given up has closed the connection as well.
            let _ = waiting.answer.send(replies);
            if is_last {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = dead.cancelled() => {}
    }
}

/// The next answer; `None` at the end of the connection, and when it makes no sense.
async fn next(stream: &mut OwnedReadHalf, bytes: &mut BytesMut) -> Option<Reply> {
    loop {
        match protocol::take(bytes) {
            Ok(Some(reply)) => return Some(reply),
            Ok(None) => {}
            Err(protocol::Garbled) => return None,
        }
        match stream.read_buf(bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}
