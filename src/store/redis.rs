//! The store in Redis (6 or later) or Valkey: what replicas share. See `layout` for what lies there.
//!
//! Two multiplexed connections a replica, one for reads and one for changes, which the store makes and replaces by
//! itself (`link`, with TLS where it is asked for), to a server that is given or that `sentinel` finds; or two to each
//! master of a `cluster`. A load is one plain `GET`; each change is one script.
//!
//! Where copies of records are kept (`near_cache`), the connections for reads tell of changes to what was read by them
//! (`tracking`), and a change is answered when they have.
//!
//! * **Time.** The expiry is kept by Redis: what `GET` returns is alive, whatever the clock of this replica says.
//!   The `expires_at` of a record was told by the clock of the replica that wrote or touched it last.
//! * **Errors.** A refusal by Redis (loading, read-only, out of memory, no permission …) means that nothing happened:
//!   [`StoreError::Unavailable`]. When the answer to a change is lost (deadline, broken connection), it is
//!   [`StoreError::Ambiguous`]; to a read, [`StoreError::Timeout`] or [`StoreError::Unavailable`]. Without a
//!   connection, calls fail with [`StoreError::Unavailable`]: within the deadline at first, at once when the outage
//!   has lasted longer than that.
//! * **What is not ours.** A value under a record's key that is no record, or one of a later layout, is
//!   [`StoreError::Unreadable`] and never overwritten: only a `discard` takes it away. (A `touch` finds no such version
//!   there. To `observe`, a value that is no string is absent: so Redis answers.)

mod cluster;
mod dial;
mod layout;
mod lent;
mod link;
mod options;
mod pipe;
mod place;
mod replicas;
mod resp;
mod scan;
mod scripts;
mod sentinel;
mod server;
mod tracking;

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ServerError, Value};
use tokio::time::Instant;
use tracing::debug;

pub use self::options::{Address, Login, RedisOptions, Servers};

use self::cluster::{Cluster, ClusterTarget};
use self::layout::{keys, packed_get, parse_record, record_bytes, record_key, tally_key, token_bytes, version_bytes};
use self::link::{Link, Target};
use self::place::Place;
use self::replicas::Replicas;
use self::scripts::{Answer, Lua};
use self::sentinel::{Question, Sentinels};
use self::server::{Effect, Failure, Server};
use crate::session::clock::{Clock, Timestamp};
use crate::session::copies::Pass;
use crate::session::quota::{self, Quota, Taken};
use crate::session::store::{
    Acquired, BARREN_MEMORY, Created, Cursor, Flaw, Key, KeyPage, LeaseEnd, LeaseState, LeaseToken, NewRecord, Removed,
    Replaced, SessionStore, StoreError, StoreFuture, StoreStats, Stored, Unreadable, Version,
};
use crate::store::near_cache::Listener;

/// Records and leases in Redis.
pub struct RedisStore {
    servers: Connected,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    prefix: String,
    /// Who keeps copies of records.
    listener: Option<Arc<dyn Listener>>,
}

/// Who is asked.
enum Connected {
    One {
        server: Server,
        probe: Cmd,
        /// Where replicas are waited for.
        replicas: Option<Replicas>,
        /// Who is asked where it is.
        sentinels: Option<Sentinels>,
    },
    Cluster(Cluster),
}

impl RedisStore {
    /// A store that connects in the background: a Redis that is not there yet is no error here, see
    /// [`SessionStore::ping`]. `clock` tells the `expires_at` of records, nothing else.
    ///
    /// Must be called inside a Tokio runtime.
    #[must_use]
    pub fn connect(options: RedisOptions, clock: Arc<dyn Clock>) -> Self {
        let servers = match &options.servers {
            Servers::One(address) => Connected::one(&options, options.target(address.clone()), None),
            Servers::Sentinel {
                sentinels,
                master,
                login,
            } => {
                let question = Question {
                    master: master.clone(),
                    login: login.greeting(0),
                    tls: options.tls.clone(),
                    timeout: options.timeout,
                };
                let sentinels = Sentinels::ask(sentinels, question);
                Connected::one(&options, options.target(Address::default()), Some(sentinels))
            }
            Servers::Cluster(seeds) => Connected::Cluster(Cluster::new(ClusterTarget {
                seeds: seeds.clone(),
                node: options.target(Address::default()),
                prefix: options.key_prefix.clone(),
                wait_replicas: options.wait_replicas,
                tracking: options.tracking(),
            })),
        };
        Self {
            servers,
            clock,
            timeout: options.timeout,
            prefix: options.key_prefix,
            listener: options.listener,
        }
    }

    /// The values of these keys of one installation; as of one moment, unless they are on their way to another node.
    async fn values(&self, names: &[&[u8]]) -> Result<Vec<Value>, StoreError> {
        let by = Instant::now() + self.timeout;
        match &self.servers {
            Connected::One { server, .. } => {
                let mut get = redis::cmd("MGET");
                get.arg(names);
                server.ask(&get, Effect::Read, by).await.map(|values| match values {
                    Value::Array(values) => values,
                    other => vec![other],
                })
            }
            Connected::Cluster(cluster) => cluster.values(names, by).await,
        }
        .map_err(|failure| self.explain(failure, Effect::Read))
    }

    /// What a script answers; `names` are the keys that it needs, and no others.
    async fn run(&self, script: &Lua, names: &[Vec<u8>], args: &[&[u8]]) -> Result<Answer, StoreError> {
        self.run_by(Instant::now() + self.timeout, script, names, args).await
    }

    /// The same for a change of the record of `key`: it counts when replicas have it, where that is asked for, and when
    /// all who keep copies have been told.
    async fn change(&self, key: &Key, script: &Lua, names: &[Vec<u8>], args: &[&[u8]]) -> Result<Answer, StoreError> {
        let by = Instant::now() + self.timeout;
        // Should the store be lost now, this is not what it held last.
        self.changed(key);
        let answer = self.run_by(by, script, names, args).await;
        // What was asked for before may not have been answered yet.
        self.changed(key);
        if matches!(answer, Ok(Answer::Done)) {
            let all_told = async {
                if self.listener.is_some() {
                    self.servers.all_told(names, by).await;
                }
            };
            tokio::join!(self.servers.confirm(names, by), all_told);
        }
        answer
    }

    fn changed(&self, key: &Key) {
        if let Some(listener) = &self.listener {
            listener.changed(key);
        }
    }

    async fn run_by(&self, by: Instant, script: &Lua, names: &[Vec<u8>], args: &[&[u8]]) -> Result<Answer, StoreError> {
        let call = script.on(names, args);
        match &self.servers {
            Connected::One { server, .. } => match server.ask(&call.by_hash(), Effect::Change, by).await {
                Err(Failure::Refused(error)) if error.code() == "NOSCRIPT" => {
                    server.ask(&call.in_full(), Effect::Change, by).await
                }
                other => other,
            },
            Connected::Cluster(cluster) => cluster.run(&call, by).await,
        }
        .map(Answer::from)
        .map_err(|failure| self.explain(failure, Effect::Change))
    }

    /// The keys of a change to a record: the lease is one of them only where it is asked for.
    fn fenced_keys(&self, key: &Key, fence: Option<LeaseToken>) -> Vec<Vec<u8>> {
        let [record, lease, _] = keys(&self.prefix, key);
        match fence {
            Some(_) => vec![record, lease],
            None => vec![record],
        }
    }

    fn explain(&self, failure: Failure, effect: Effect) -> StoreError {
        match (failure, effect) {
            (Failure::NotSent(error), _) => error,
            (Failure::Refused(error), _) => refused(&error),
            (Failure::Late, Effect::Read | Effect::Trial) => StoreError::Timeout,
            (Failure::Late, Effect::Change) => {
                StoreError::Ambiguous(format!("no answer within {} ms", self.timeout.as_millis()))
            }
            (Failure::Lost(_), Effect::Read | Effect::Trial) => {
                StoreError::Unavailable("the connection was lost".into())
            }
            (Failure::Lost(_), Effect::Change) => StoreError::Ambiguous("the connection was lost".into()),
            (Failure::Garbled(error), Effect::Read | Effect::Trial) => StoreError::Unavailable(error.category().into()),
            (Failure::Garbled(error), Effect::Change) => StoreError::Ambiguous(error.category().into()),
        }
    }

    /// The value and the time to live, in ms, of a record that is written now.
    fn value(&self, new: &NewRecord) -> (Vec<u8>, String) {
        (record_bytes(new, self.expiry(new.ttl)), millis(new.ttl))
    }

    fn expiry(&self, ttl: Duration) -> Timestamp {
        self.clock.now().saturating_add(ttl)
    }
}

impl Connected {
    fn one(options: &RedisOptions, target: Target, sentinels: Option<Sentinels>) -> Self {
        let probe = probe(&options.key_prefix);
        let place = |target: Target| match &sentinels {
            Some(sentinels) => sentinels.place(target),
            None => Place::from(target),
        };
        // That reads are answered is seen by a read, and that changes are by a change.
        let changes = Target {
            probe: probe.clone(),
            ..target.clone()
        };
        let replicas = (options.wait_replicas > 0).then(|| {
            let link = Link::beside(place(changes.clone()));
            Replicas::new(options.wait_replicas, link)
        });
        Self::One {
            server: Server::new(
                Link::new(place(target), options.tracking()),
                Link::beside(place(changes)),
            ),
            probe,
            replicas,
            sentinels,
        }
    }

    /// Waits for replicas to have what was done to these keys, where that is asked for.
    async fn confirm(&self, names: &[Vec<u8>], by: Instant) {
        match self {
            Self::One { replicas, probe, .. } => {
                if let Some(replicas) = replicas {
                    replicas.confirm(probe.clone(), by).await;
                }
            }
            Self::Cluster(cluster) => cluster.confirm(names.first().map_or(&[], Vec::as_slice), by).await,
        }
    }

    /// Returns when Redis has handed out what it tells of the changes of these keys that were answered before (rule N2), or
    /// at `by`.
    async fn all_told(&self, names: &[Vec<u8>], by: Instant) {
        let told = match self {
            Self::One { server, .. } => server.ask(&redis::cmd("PING"), Effect::Read, by).await.map(drop),
            Self::Cluster(cluster) => cluster.all_told(names.first().map_or(&[], Vec::as_slice), by).await,
        };
        if let Err(failure) = told {
            // Our own copy is gone, and the connection is under suspicion now.
            debug!(?failure, "it is not known whether all replicas were told of a change");
        }
    }
}

/// A harmless write.
fn probe(prefix: &str) -> Cmd {
    let mut cmd = redis::cmd("SET");
    cmd.arg(format!("{prefix}ping")).arg(1).arg("PX").arg(1000);
    cmd
}

/// A time to live as Redis takes it: at least 1 ms, and no more than what it can add to the present.
fn millis(ttl: Duration) -> String {
    ttl.as_millis().clamp(1, 1 << 48).to_string()
}

/// A fence as scripts take it: the empty string is none.
fn fence_bytes(fence: Option<LeaseToken>) -> Vec<u8> {
    fence.map(|token| token_bytes(token).to_vec()).unwrap_or_default()
}

/// What a refusal means. Nothing was changed by it. Of the server's text only what does not repeat our arguments.
fn refused(error: &ServerError) -> StoreError {
    if error.code() == "WRONGTYPE" {
        return Unreadable::new(Flaw::Garbled, "a key of the store holds a value of another type").into();
    }
    if error.code() == "MOVED" {
        let why = "the server is a node of a cluster: is redis-cluster:// meant in store.url?";
        return StoreError::Unavailable(why.into());
    }
    let details = error.details().unwrap_or_default();
    let details = details.split(", with args").next().unwrap_or_default();
    StoreError::Unavailable(
        format!("Redis refused: {} {details}", error.code())
            .trim_end()
            .to_owned(),
    )
}

/// An answer that no script of ours gives.
fn unexpected<T>() -> Result<T, StoreError> {
    Err(StoreError::Corrupt("an answer of an unexpected type".into()))
}

fn get(name: &[u8]) -> Cmd {
    let mut get = Cmd::with_capacity(2, name.len() + 3);
    get.arg("GET").arg(name);
    get
}

fn record(value: Value) -> Result<Option<Stored>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(parse_record(bytes)?)),
        _ => unexpected(),
    }
}

impl SessionStore for RedisStore {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            let by = Instant::now() + self.timeout;
            let answer = match &self.servers {
                Connected::One { server, .. } => {
                    let get = packed_get(&self.prefix, key);
                    server.ask_packed(&get, Effect::Read, by).await
                }
                Connected::Cluster(cluster) => {
                    let name = record_key(&self.prefix, key);
                    Box::pin(async move { cluster.read(&name, &get(&name), by).await }).await
                }
            };
            record(answer.map_err(|failure| self.explain(failure, Effect::Read))?)
        })
    }

    fn load_to_keep<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, (Option<Stored>, Option<Pass>)> {
        Box::pin(async move {
            let by = Instant::now() + self.timeout;
            let name = record_key(&self.prefix, key);
            let mut left = Cmd::with_capacity(2, name.len() + 4);
            left.arg("PTTL").arg(&name);
            let commands = (&get(&name), &left);
            let answer = match &self.servers {
                Connected::One { server, .. } => server.read_to_keep(key, commands, by).await,
                Connected::Cluster(cluster) => cluster.read_to_keep(key, &name, commands, by).await,
            };
            let (value, pass) = answer.map_err(|failure| self.explain(failure, Effect::Read))?;
            Ok((record(value)?, pass))
        })
    }

    fn observe<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, (Option<Stored>, LeaseState)> {
        Box::pin(async move {
            let [record_key, lease_key, barren_key] = keys(&self.prefix, key);
            // In an order in which they may also be read one by one, see the module of the cluster.
            let names = [&lease_key[..], &barren_key[..], &record_key[..]];
            let Ok([lease, barren, stored]) = <[Value; 3]>::try_from(self.values(&names).await?) else {
                return unexpected();
            };
            let barren = match barren {
                Value::Nil => 0,
                count => redis::from_redis_value(count).or_else(|_| unexpected())?,
            };
            Ok((
                record(stored)?,
                LeaseState {
                    held: lease != Value::Nil,
                    barren,
                },
            ))
        })
    }

    fn create<'a>(&'a self, key: &'a Key, new: NewRecord, fence: Option<LeaseToken>) -> StoreFuture<'a, Created> {
        Box::pin(async move {
            let (value, ttl) = self.value(&new);
            match self
                .change(
                    key,
                    &scripts::CREATE,
                    &self.fenced_keys(key, fence),
                    &[&value, ttl.as_bytes(), &fence_bytes(fence)],
                )
                .await?
            {
                Answer::Done => Ok(Created::Won),
                Answer::Fenced => Ok(Created::Fenced),
                Answer::Found(there) => Ok(Created::Lost(parse_record(there)?)),
                Answer::Number(_) | Answer::Nothing | Answer::Unknown => unexpected(),
            }
        })
    }

    fn replace<'a>(
        &'a self,
        key: &'a Key,
        expected: Version,
        new: NewRecord,
        fence: Option<LeaseToken>,
    ) -> StoreFuture<'a, Replaced> {
        Box::pin(async move {
            let (value, ttl) = self.value(&new);
            let args: [&[u8]; 4] = [&version_bytes(expected), &value, ttl.as_bytes(), &fence_bytes(fence)];
            match self
                .change(key, &scripts::REPLACE, &self.fenced_keys(key, fence), &args)
                .await?
            {
                Answer::Done => Ok(Replaced::Done),
                Answer::Fenced => Ok(Replaced::Fenced),
                Answer::Found(there) => Ok(Replaced::Conflict(Some(parse_record(there)?))),
                Answer::Nothing => Ok(Replaced::Conflict(None)),
                Answer::Number(_) | Answer::Unknown => unexpected(),
            }
        })
    }

    fn remove<'a>(&'a self, key: &'a Key, expected: Version) -> StoreFuture<'a, Removed> {
        Box::pin(async move {
            let names = self.fenced_keys(key, None);
            match self
                .change(key, &scripts::REMOVE, &names, &[&version_bytes(expected)])
                .await?
            {
                Answer::Done => Ok(Removed::Done),
                Answer::Found(there) => Ok(Removed::Conflict(Some(parse_record(there)?))),
                Answer::Nothing => Ok(Removed::Conflict(None)),
                Answer::Fenced | Answer::Number(_) | Answer::Unknown => unexpected(),
            }
        })
    }

    fn discard<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            done(
                &self
                    .change(key, &scripts::DISCARD, &self.fenced_keys(key, None), &[])
                    .await?,
            )
        })
    }

    fn touch<'a>(&'a self, key: &'a Key, expected: Version, ttl: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let expiry = self.expiry(ttl).as_millis().to_be_bytes();
            let ttl = millis(ttl);
            let args: [&[u8]; 3] = [&version_bytes(expected), &expiry, ttl.as_bytes()];
            let answer = self.run(&scripts::TOUCH, &self.fenced_keys(key, None), &args).await;
            // The record is what it was, so nobody waits for others to be told; but our copy has the old expiry.
            self.changed(key);
            done(&answer?)
        })
    }

    fn acquire_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, Acquired> {
        Box::pin(async move {
            let [_, lease, barren] = keys(&self.prefix, key);
            match self
                .run(
                    &scripts::ACQUIRE,
                    &[lease, barren],
                    &[&token_bytes(token), millis(ttl).as_bytes()],
                )
                .await?
            {
                Answer::Done => Ok(Acquired::Won),
                Answer::Number(barren) => Ok(Acquired::Held {
                    barren: u32::try_from(barren).unwrap_or(u32::MAX),
                }),
                Answer::Fenced | Answer::Found(_) | Answer::Nothing | Answer::Unknown => unexpected(),
            }
        })
    }

    fn renew_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let [_, lease, _] = keys(&self.prefix, key);
            let ttl = millis(ttl);
            let args: [&[u8]; 2] = [&token_bytes(token), ttl.as_bytes()];
            done(&self.run(&scripts::RENEW, &[lease], &args).await?)
        })
    }

    fn release_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, end: LeaseEnd) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let [_, lease, barren] = keys(&self.prefix, key);
            let (names, remember) = match end {
                LeaseEnd::Plain => (vec![lease], String::new()),
                LeaseEnd::Barren => (vec![lease, barren], millis(BARREN_MEMORY)),
            };
            let args: [&[u8]; 2] = [&token_bytes(token), remember.as_bytes()];
            done(&self.run(&scripts::RELEASE, &names, &args).await?).map(drop)
        })
    }

    fn take_place<'a>(&'a self, key: &'a Key, quota: Quota, _: Timestamp) -> StoreFuture<'a, Taken> {
        Box::pin(async move {
            let (slice, slices) = (quota.slice().to_string(), quota.slices().to_string());
            let (most, ttl) = (quota.most.to_string(), millis(quota.memory()));
            let args = [&most, &slice, &slices, &ttl].map(|arg| arg.as_bytes());
            let names = [tally_key(&self.prefix, key)];
            match self.run(&scripts::TAKE_PLACE, &names, &args).await? {
                Answer::Number(number) => match u64::try_from(number) {
                    Ok(number) if number % 2 == 0 => Ok(Taken::Place(quota::Place(number / 2))),
                    Ok(number) => Ok(Taken::Full {
                        wait: Duration::from_millis(number / 2),
                    }),
                    Err(_) => unexpected(),
                },
                Answer::Done | Answer::Fenced | Answer::Found(_) | Answer::Nothing | Answer::Unknown => unexpected(),
            }
        })
    }

    fn give_back<'a>(&'a self, key: &'a Key, quota: Quota, place: quota::Place) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let (slice, ttl) = (place.0.to_string(), millis(quota.memory()));
            let names = [tally_key(&self.prefix, key)];
            done(
                &self
                    .run(&scripts::GIVE_BACK, &names, &[slice.as_bytes(), ttl.as_bytes()])
                    .await?,
            )
            .map(drop)
        })
    }

    fn keys(&self, after: Option<Cursor>) -> StoreFuture<'_, KeyPage> {
        Box::pin(async move {
            let by = Instant::now() + self.timeout;
            let (number, after) = scan::place(after)?;
            let scan = scan::command(&self.prefix, after);
            let (answer, masters) = match &self.servers {
                Connected::One { server, .. } => (server.ask(&scan, Effect::Read, by).await, 1),
                Connected::Cluster(cluster) => cluster.ask_master(number, &scan, by).await,
            };
            let answer = answer.map_err(|failure| self.explain(failure, Effect::Read))?;
            scan::page(answer, &self.prefix, number, masters)
        })
    }

    fn ping(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let by = Instant::now() + self.timeout;
            match &self.servers {
                Connected::One { server, probe, .. } => server.ask(probe, Effect::Trial, by).await.map(drop),
                Connected::Cluster(cluster) => cluster.ping(by).await,
            }
            .map_err(|failure| self.explain(failure, Effect::Trial))
        })
    }

    fn kind(&self) -> &'static str {
        "redis"
    }

    fn stats(&self) -> StoreStats {
        match &self.servers {
            Connected::One { server, replicas, .. } => StoreStats {
                reconnects: server.reconnects() + replicas.as_ref().map_or(0, Replicas::reconnects),
                unreplicated: replicas.as_ref().map_or(0, Replicas::unconfirmed),
            },
            Connected::Cluster(cluster) => cluster.stats(),
        }
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            match &self.servers {
                Connected::One {
                    server,
                    replicas,
                    sentinels,
                    ..
                } => {
                    server.close();
                    if let Some(replicas) = replicas {
                        replicas.close();
                    }
                    if let Some(sentinels) = sentinels {
                        sentinels.close();
                    }
                }
                Connected::Cluster(cluster) => cluster.close(),
            }
            Ok(())
        })
    }
}

/// Done or not.
fn done(answer: &Answer) -> Result<bool, StoreError> {
    match answer {
        Answer::Done => Ok(true),
        Answer::Nothing => Ok(false),
        Answer::Fenced | Answer::Number(_) | Answer::Found(_) | Answer::Unknown => unexpected(),
    }
}
