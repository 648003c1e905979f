//! The store in Memcached (1.6.10 or later): what replicas share, for as long as Memcached keeps it.
//!
//! # One item an installation
//!
//! Memcached has no transactions and no scripts: what it can do is to write an item on condition that nobody has written
//! it since it was read (CAS), or that it is not there (add). So the record of an installation, its lease with the token
//! that fences, and the count of barren leaders lie in **one item** (`item`), and every change is a read, a decision by the
//! code that all stores share, and a write on that condition, see `cells`. A leader whose lease was taken over finds that
//! the item was written since, reads again, and finds another token: its commit is refused. Were record and lease two
//! items, the lease could be taken over between the look at the one and the write of the other.
//!
//! # Time
//!
//! Leases and records run out by the clock of the server that holds the item, which all replicas read in the same way: an
//! item without content and with an expiry in the year 2038 lies on each server, and what it has left tells the time, in
//! whole seconds. So times to live are kept up to two seconds longer than asked for, never shorter. Items are given their
//! expiry as absolute time: relative ones of more than thirty days would be taken for absolute anyway. Between the read and
//! the write of a change the time may pass at which a lease runs out: that leader may still commit if nobody has taken the
//! lease meanwhile, as if it had been a moment faster.
//!
//! # Servers
//!
//! Keys are spread over the servers as Memcached's own clients do it (`ring`, ketama). One connection to each carries all
//! commands, pipelined (`link`). A server that is away is not replaced by another one: two replicas that do not agree on
//! that would start two sessions. Its installations get the outage policy, the others are served.
//!
//! # What Memcached does not promise
//!
//! It forgets: with its restart everything, and when it is full what was used least. To the bridge that looks as a log-out
//! does. It tells nobody of changes, so there is no near cache over it.
//!
//! # Errors
//!
//! A refusal by Memcached (no memory with `-M`, say) means that nothing happened: [`StoreError::Unavailable`]; a record that
//! is larger than its items may be: [`StoreError::TooLarge`]. When the answer to a write is lost, it is
//! [`StoreError::Ambiguous`]. A connection on which an answer did not come in time is closed and never used again: the
//! answer could be taken for that to another command. A write is sent on the connection of its read only: a server that
//! was restarted in between counts its CAS numbers from the beginning.

mod item;
mod link;
mod protocol;
mod ring;
mod server;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use self::link::{Failure, Link};
use self::protocol::Reply;
use self::ring::Ring;
use self::server::Server;
use crate::session::clock::{Clock, Timestamp};
use crate::session::store::{Cursor, Key, KeyPage, SessionStore, StoreError, StoreStats};
use crate::store::cells::{Cell, CellStore, Cells, Reading};

/// When the item expires that tells the time, in seconds since 1970: the latest that Memcached takes.
const END_OF_TIME: u32 = i32::MAX as u32;

/// How long a server may take to list all its items; that is nothing that a request waits for.
const LIST_WITHIN: Duration = Duration::from_secs(60);

/// How often a read begins anew, when the item that tells the time was not there, say.
const READS: usize = 4;

/// Where Memcached is, and how to use it.
#[derive(Clone, Debug)]
pub struct MemcachedOptions {
    /// Where the servers are; never empty. The same on all replicas, letter by letter: keys are spread by it.
    pub servers: Vec<Address>,
    /// The deadline of every call.
    pub timeout: Duration,
    /// What the keys of all items start with: at most 200 visible ASCII characters.
    pub key_prefix: String,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name, or an address without the brackets of IPv6.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Records and leases in Memcached. It connects in the background: a server that is not there yet is no error here, see
/// [`SessionStore::ping`]. `clock` tells the `expires_at` of records, nothing else.
///
/// Must be called inside a Tokio runtime.
#[must_use]
pub fn connect(options: MemcachedOptions, clock: Arc<dyn Clock>) -> impl SessionStore {
    let timeout = options.timeout;
    let servers = options.servers.iter();
    let items = Items {
        ring: Ring::new(&options.servers),
        servers: servers.map(|at| Arc::new(Server::keep(at.clone(), timeout))).collect(),
        prefix: options.key_prefix,
    };
    CellStore::new(items, clock, timeout)
}

/// The items as cells.
struct Items {
    ring: Ring,
    servers: Vec<Arc<Server>>,
    prefix: String,
}

/// What an item was when it was read, and on which connection.
struct Seen {
    cas: u64,
    link: Arc<Link>,
}

impl Items {
    fn server(&self, name: &str) -> Result<&Arc<Server>, StoreError> {
        let server = self.servers.get(self.ring.place(name.as_bytes()));
        server.ok_or_else(|| StoreError::Unavailable("there is no server".into()))
    }

    /// The key of an item.
    fn name(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The key of the item that tells the time.
    fn clock(&self) -> String {
        format!("{}clock", self.prefix)
    }
}

/// The time that the item tells which has so many seconds left.
fn time(left: i64) -> Option<Timestamp> {
    let now = i64::from(END_OF_TIME).checked_sub(left)?;
    let now = u64::try_from(now).ok().filter(|_| left >= 0)?;
    now.checked_mul(1000).map(Timestamp::from_millis)
}

/// When an item expires that is of no use from `at` on, as Memcached takes it.
fn expiry(at: Timestamp) -> u32 {
    let seconds = at.as_millis().div_ceil(1000);
    u32::try_from(seconds).map_or(END_OF_TIME, |seconds| seconds.clamp(1, END_OF_TIME))
}

fn unexpected<T>() -> Result<T, StoreError> {
    Err(StoreError::Corrupt("an answer of an unexpected kind".into()))
}

/// What a refusal means: nothing was done.
fn refused<T>(why: &str) -> Result<T, StoreError> {
    Err(StoreError::Unavailable(format!("Memcached refused: {why}")))
}

/// What the answer to a write means.
fn written(reply: &Reply, over_another: bool) -> Result<bool, StoreError> {
    match reply {
        Reply::Done => Ok(true),
        Reply::NotStored | Reply::Exists | Reply::NotFound => Ok(false),
        // To leave no old value behind where a new one was meant to be, Memcached takes the old one away then.
        Reply::Refused(why) if over_another && why.contains("memory") => {
            Err(StoreError::Ambiguous(format!("Memcached refused: {why}")))
        }
        Reply::Refused(why) => refused(why),
        Reply::Miss | Reply::Hit { .. } | Reply::Noop => unexpected(),
    }
}

impl Cells for Items {
    type Tag = Seen;

    async fn read(&self, key: &Key, by: Instant) -> Result<Reading<Seen>, StoreError> {
        let (name, clock) = (self.name(key), self.clock());
        let server = self.server(&name)?;
        let question = format!("mg {name} c v\r\nmg {clock} t\r\n");
        for _ in 0..READS {
            let link = server.link(by).await?;
            let answers = match link.ask(question.clone().into(), 2, by).await {
                Ok(answers) => answers,
                Err(Failure::Late) => return Err(StoreError::Timeout),
                Err(Failure::Lost) => continue,
            };
            let [item, time_left] = answers.as_slice() else {
                return unexpected();
            };
            let now = match time_left {
                Reply::Hit { left, .. } => left.and_then(time),
                Reply::Miss => {
                    let set = format!("ms {clock} 0 T{END_OF_TIME} ME\r\n\r\n");
                    // Whatever becomes of it, the next look shows.
                    let _ = link.ask(set.into(), 1, by).await;
                    continue;
                }
                Reply::Refused(why) => return refused(why),
                _ => None,
            };
            let Some(now) = now else {
                return Err(StoreError::Corrupt(format!("the item {clock} is not ours")));
            };
            return match item {
                Reply::Miss => Ok(Reading {
                    cell: Ok(Cell::default()),
                    tag: None,
                    now,
                }),
                Reply::Hit {
                    cas: Some(cas),
                    value: Some(value),
                    ..
                } => Ok(Reading {
                    cell: item::parse(value),
                    tag: Some(Seen { cas: *cas, link }),
                    now,
                }),
                Reply::Refused(why) => refused(why),
                _ => unexpected(),
            };
        }
        Err(StoreError::Unavailable("the connection was lost".into()))
    }

    async fn write(
        &self,
        key: &Key,
        read: Option<&Seen>,
        cell: Option<&Cell>,
        // Nothing that Memcached can judge, see the module.
        _until: Timestamp,
        by: Instant,
    ) -> Result<bool, StoreError> {
        let name = self.name(key);
        let link = match read {
            Some(seen) if seen.link.is_dead() => return Ok(false),
            Some(seen) => Arc::clone(&seen.link),
            None => self.server(&name)?.link(by).await?,
        };
        let command = match (read, cell) {
            (None, None) => return Ok(true),
            (Some(seen), None) => format!("md {name} C{}\r\n", seen.cas).into_bytes(),
            (seen, Some(cell)) => {
                let value = item::bytes(cell);
                link.fits(&name, value.len())?;
                let expiry = expiry(cell.slot.useless_at().unwrap_or_default());
                let condition = seen.map_or_else(|| "ME".to_owned(), |seen| format!("C{}", seen.cas));
                let head = format!("ms {name} {} T{expiry} {condition}\r\n", value.len());
                [head.as_bytes(), &value, b"\r\n"].concat()
            }
        };
        match link.ask(command, 1, by).await {
            Ok(answers) => answers
                .first()
                .map_or_else(unexpected, |answer| written(answer, read.is_some())),
            Err(Failure::Late) => Err(StoreError::Ambiguous("no answer in time".into())),
            Err(Failure::Lost) => Err(StoreError::Ambiguous("the connection was lost".into())),
        }
    }

    /// Server by server.
    async fn keys(&self, after: Option<Cursor>, by: Instant) -> Result<KeyPage, StoreError> {
        let number = after.and_then(|after| after.0.first().copied()).map_or(0, usize::from);
        let Some(server) = self.servers.get(number) else {
            return Ok(KeyPage::default());
        };
        let names = server.names(&self.prefix, by.max(Instant::now() + LIST_WITHIN)).await?;
        let keys = names.iter().filter_map(|digits| {
            let digest = uuid::Uuid::try_parse(digits).ok().filter(|_| digits.len() == 32)?;
            Some(Key::from_digest(*digest.as_bytes()))
        });
        let next = u8::try_from(number + 1)
            .ok()
            .filter(|next| usize::from(*next) < self.servers.len());
        Ok(KeyPage {
            keys: keys.collect(),
            next: next.map(|next| Cursor(vec![next])),
        })
    }

    /// As long as one server is well: see the module.
    async fn ping(&self, by: Instant) -> Result<(), StoreError> {
        let mut asked = JoinSet::new();
        for server in &self.servers {
            let (server, name) = (Arc::clone(server), format!("{}ping", self.prefix));
            asked.spawn(async move {
                let link = server.link(by).await?;
                match link.ask(format!("ms {name} 0 T2\r\n\r\n").into(), 1, by).await {
                    Ok(answers) => match answers.as_slice() {
                        [Reply::Done] => Ok(()),
                        [Reply::Refused(why)] => refused(why),
                        _ => unexpected(),
                    },
                    Err(Failure::Late) => Err(StoreError::Timeout),
                    Err(Failure::Lost) => Err(StoreError::Unavailable("the connection was lost".into())),
                }
            });
        }
        let mut outcome = Err(StoreError::Timeout);
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => outcome = Err(error),
                Err(_) => {}
            }
        }
        outcome
    }

    fn kind(&self) -> &'static str {
        "memcached"
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            reconnects: self.servers.iter().map(|server| server.reconnects()).sum(),
            unreplicated: 0,
        }
    }

    async fn close(&self) {
        self.servers.iter().for_each(|server| server.close());
    }

    /// The clock tells whole seconds: a time to live that began at the end of one would be shorter by nearly that.
    fn kept(&self, ttl: Duration) -> Duration {
        ttl.saturating_add(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_absolute_rounded_up_and_never_none() {
        for (millis, seconds) in [
            (1_700_000_000_000, 1_700_000_000),
            (1_700_000_000_001, 1_700_000_001),
            (0, 1),
            (u64::MAX, END_OF_TIME),
            (2_147_483_646_001, END_OF_TIME),
        ] {
            assert_eq!(expiry(Timestamp::from_millis(millis)), seconds, "{millis}");
        }
    }

    #[test]
    fn the_time_is_told_by_what_is_left() {
        assert_eq!(time(447_483_647), Some(Timestamp::from_millis(1_700_000_000_000)));
        assert_eq!(time(-1), None, "an item without an expiry tells no time");
        assert_eq!(time(i64::from(END_OF_TIME) + 1), None);
    }

    #[test]
    fn a_refusal_for_want_of_memory_may_have_cost_the_item_that_was_there() {
        let refusal = Reply::Refused("SERVER_ERROR out of memory storing object".into());
        assert!(matches!(written(&refusal, true), Err(StoreError::Ambiguous(_))));
        assert!(matches!(written(&refusal, false), Err(StoreError::Unavailable(_))));
    }
}
