//! Who is the master: asked of the sentinels, all of them, all the time.
//!
//! A task for each sentinel keeps a connection to it, subscribes there to `+switch-master`, and asks where the master
//! is: at first, when a switch is told, when a link doubts its server, and every few seconds. Of the latest answers
//! of all that answer, the one of the highest configuration epoch counts: a sentinel that is cut off from the others
//! goes on naming a master that was replaced, even when it is the only one in reach. Sentinels that these know of are asked
//! too, and forgotten when they are gone.
//!
//! The sentinels name a new master only when they have noticed that it is one, for which they look once a second. But the
//! one that leads the fail-over tells at once which server it promotes: that server is asked itself until it is a
//! master, see [`promotion`].
//!
//! What is found here is where a link looks ([`Place`](super::place::Place)); it uses no server that does not say of
//! itself that it is a master. While no sentinel answers, the last master that was named stays.

mod promotion;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use redis::{Cmd, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, Value};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::Address;
use super::dial::{Live, SILENT, Target, dial};
use super::place::Place;
use crate::tls;
use promotion::Promotion;

/// How often a sentinel is asked when nothing happens.
const RECHECK: Duration = Duration::from_secs(2);

/// Doubts of one moment are one question.
const GATHER: Duration = Duration::from_millis(5);

/// The longest pause between two attempts to reach a sentinel, and the longest after the first failed one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(20));

/// How long a sentinel may take to answer, whatever the time-out of calls is.
const ANSWER_WITHIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// No more sentinels than these are asked, whatever they say of one another.
const MOST: usize = 16;

/// A sentinel that was not named in the configuration and has not answered for so long is asked no more, unless another
/// one names it again.
const FORGET: Duration = Duration::from_secs(60);

/// Once nothing newer was said for so long, and the master is in doubt, an older configuration counts too.
const OUTDATED: Duration = Duration::from_secs(10);

/// How to ask, and for whom.
pub(super) struct Question {
    /// What the sentinels call the master.
    pub(super) master: String,
    pub(super) login: RedisConnectionInfo,
    pub(super) tls: Option<tls::Client>,
    pub(super) timeout: Duration,
}

/// The sentinels and what they say. The asking ends with it.
pub(super) struct Sentinels {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

/// How a link has the sentinels asked again, and learns why there is no master.
#[derive(Clone)]
pub(super) struct Doubts {
    shared: Arc<Shared>,
}

struct Shared {
    question: Question,
    state: Mutex<State>,
    master: watch::Sender<Option<Address>>,
    doubts: watch::Sender<u64>,
    stop: CancellationToken,
    /// How to reach a server that is none of the sentinels.
    server: OnceLock<Target>,
}

struct State {
    /// What each sentinel said last; `None`: it does not answer.
    said: HashMap<Address, Option<Answer>>,
    /// What a fail-over that is under way, or was just now, has come to.
    promotion: Promotion,
    believed: Option<Belief>,
    /// Why there is no answer.
    reason: String,
}

/// What was believed last.
struct Belief {
    epoch: u64,
    /// When it was last said, and how many doubts there had been by then.
    at: Instant,
    doubts: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    epoch: u64,
    master: Address,
}

impl Sentinels {
    /// Starts to ask them, in the background.
    pub(super) fn ask(sentinels: &[Address], question: Question) -> Self {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            question,
            state: Mutex::new(State {
                said: HashMap::new(),
                promotion: Promotion::None,
                believed: None,
                reason: "no sentinel has answered yet".into(),
            }),
            master: watch::Sender::new(None),
            doubts: watch::Sender::new(0),
            stop: stop.clone(),
            server: OnceLock::new(),
        });
        shared.meet(sentinels, true);
        Self {
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// Where the master is: `target` with its host and port.
    pub(super) fn place(&self, target: Target) -> Place {
        // All links of a store reach their servers in the same way.
        let _ = self.shared.server.set(target.clone());
        let doubts = Doubts {
            shared: Arc::clone(&self.shared),
        };
        Place::followed(target, self.shared.master.subscribe(), doubts)
    }

    /// Asks no more.
    pub(super) fn close(&self) {
        self.shared.stop.cancel();
    }
}

impl Doubts {
    /// Has all sentinels asked again, soon.
    pub(super) fn raise(&self) {
        self.shared
            .doubts
            .send_modify(|number| *number = number.wrapping_add(1));
    }

    /// Why there is no master.
    pub(super) fn reason(&self) -> String {
        self.shared.state().reason.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to ask those that are not asked yet. `for_good`: they are in the configuration.
    fn meet(self: &Arc<Self>, sentinels: &[Address], for_good: bool) {
        for address in sentinels {
            let mut state = self.state();
            if state.said.len() >= MOST || state.said.contains_key(address) {
                continue;
            }
            state.said.insert(address.clone(), None);
            drop(state);
            let (shared, address) = (Arc::clone(self), address.clone());
            tokio::spawn(async move {
                let stop = shared.stop.clone();
                stop.run_until_cancelled(attend(address, shared, for_good)).await;
            });
        }
    }

    fn answered(&self, sentinel: &Address, answer: Option<Answer>, reason: Option<String>) {
        let mut state = self.state();
        state.said.insert(sentinel.clone(), answer);
        if let Some(reason) = reason {
            state.reason = reason;
        }
        self.settle(state);
    }

    /// Names the master that follows from what is known.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let now = self.master.borrow().clone();
        let promoted = state.promotion.answer();
        let Some((epoch, best)) = best(state.said.values().flatten().chain(promoted), now.as_ref()) else {
            return;
        };
        let doubts = *self.doubts.borrow();
        if !state.believes(epoch, doubts) {
            return;
        }
        let at = Instant::now();
        state.believed = Some(Belief { epoch, at, doubts });
        drop(state);
        self.master.send_if_modified(|master| {
            let moved = master.as_ref() != Some(&best);
            if moved {
                debug!(master = %best, "the sentinels name a master");
                *master = Some(best);
            }
            moved
        });
    }
}

impl State {
    /// Whether to go by what is said in this epoch. A newer one has been replaced by it only if most sentinels say so, as
    /// when all were made anew; a few may have been cut off while the others are out of reach, and must not part a link
    /// from a master that works.
    fn believes(&self, epoch: u64, doubts: u64) -> bool {
        let voices = self.said.values().flatten().count();
        self.believed.as_ref().is_none_or(|belief| {
            epoch >= belief.epoch
                || voices * 2 > self.said.len()
                || (doubts != belief.doubts && belief.at.elapsed() >= OUTDATED)
        })
    }
}

/// What counts of these answers, and its epoch: the highest epoch; within it what most say, and `now` rather than any other.
fn best<'a>(answers: impl Iterator<Item = &'a Answer> + Clone, now: Option<&Address>) -> Option<(u64, Address)> {
    let epoch = answers.clone().map(|answer| answer.epoch).max()?;
    let latest = answers
        .filter(|answer| answer.epoch == epoch)
        .map(|answer| &answer.master);
    let votes = |address: &Address| latest.clone().filter(|other| *other == address).count();
    let winner = latest
        .clone()
        .max_by_key(|address| (votes(address), now == Some(*address)));
    winner.map(|address| (epoch, address.clone()))
}

/// Stays with one sentinel: for good, or until it is forgotten.
async fn attend(sentinel: Address, shared: Arc<Shared>, for_good: bool) {
    let (longest, first) = PAUSE;
    let mut pause = first;
    let mut last_answer = Instant::now();
    loop {
        let mut answered = false;
        let why = converse(&sentinel, &shared, &mut answered).await;
        debug!(%sentinel, why, "no answer from a sentinel");
        shared.answered(&sentinel, None, Some(format!("no sentinel names the master: {why}")));
        if answered {
            last_answer = Instant::now();
        } else if !for_good && last_answer.elapsed() >= FORGET {
            shared.state().said.remove(&sentinel);
            return;
        }
        pause = if answered { first } else { (pause * 2).min(longest) };
        tokio::time::sleep(pause.mul_f64(fastrand::f64())).await;
    }
}

/// One connection to a sentinel, from its beginning to its end; returns why it ended. `answered`: it was of use.
async fn converse(sentinel: &Address, shared: &Arc<Shared>, answered: &mut bool) -> String {
    let question = &shared.question;
    let target = Target {
        host: sentinel.host.clone(),
        port: sentinel.port,
        login: question.login.clone().set_protocol(ProtocolVersion::RESP3),
        timeout: question.timeout.clamp(ANSWER_WITHIN.0, ANSWER_WITHIN.1),
        probe: redis::cmd("PING"),
        tls: question.tls.clone(),
    };
    let switched = Arc::new(Notify::new());
    let told = Arc::clone(&switched);
    let hearing = Arc::clone(shared);
    let listener = move |info: PushInfo| {
        if info.kind == PushKind::Message {
            match promotion::told(&info.data, &hearing.question.master) {
                Some(server) => hearing.promised(server),
                None => told.notify_one(),
            }
        }
    };
    let mut doubts = shared.doubts.subscribe();
    let mut live = match dial(&target, Some(Box::new(listener))).await {
        Ok(live) => live,
        Err(why) => return why,
    };
    for channel in ["+switch-master", promotion::CHANNEL] {
        match tokio::time::timeout(target.timeout, live.connection.subscribe(channel)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is_io_error() => {
                return tls::explain(&error).unwrap_or_else(|| "the connection was lost".into());
            }
            // Less quick, but no less right.
            Ok(Err(_)) => debug!(%sentinel, channel, "the sentinel lets nobody subscribe to a channel"),
            Err(_) => return SILENT.into(),
        }
    }
    loop {
        doubts.mark_unchanged();
        match tokio::time::timeout(target.timeout, ask(&live, &question.master)).await {
            Ok(Ok((answer, others))) => {
                *answered = true;
                shared.answered(sentinel, Some(answer), None);
                shared.meet(&others, false);
            }
            Ok(Err(why)) => return why,
            Err(_) => return SILENT.into(),
        }
        tokio::select! {
            _ = &mut live.driver => return "the connection was lost".into(),
            () = switched.notified() => {}
            _ = doubts.changed() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(RECHECK) => {}
        }
    }
}

/// What this sentinel says now, and which others it knows.
async fn ask(live: &Live, master: &str) -> Result<(Answer, Vec<Address>), String> {
    let ask = |word: &'static str| {
        let mut cmd = Cmd::new();
        cmd.arg("SENTINEL").arg(word).arg(master);
        async move { live.connection.ask(&cmd).await }
    };
    let (address, state, others) = tokio::join!(ask("GET-MASTER-ADDR-BY-NAME"), ask("MASTER"), ask("SENTINELS"));
    let address = match address.map_err(|_| "the connection was lost")? {
        Value::Array(words) => match words.as_slice() {
            [host, port] => address_of(Some(host), Some(port)),
            _ => None,
        },
        Value::Nil => return Err("it knows no master of the name in store.url".into()),
        Value::ServerError(error) => return Err(format!("the sentinel refused: {}", error.code())),
        _ => None,
    };
    let state = match state.map_err(|_| "the connection was lost")? {
        Value::ServerError(error) => return Err(format!("the sentinel refused: {}", error.code())),
        state => state,
    };
    let epoch = field(&state, "config-epoch").and_then(number);
    let (Some(master), Some(epoch)) = (address, epoch) else {
        return Err("the sentinel's answer cannot be read".into());
    };
    let others = match others {
        Ok(Value::Array(others)) => others
            .iter()
            .filter_map(|other| address_of(field(other, "ip"), field(other, "port")))
            .collect(),
        _ => Vec::new(),
    };
    Ok((Answer { epoch, master }, others))
}

/// A field of an answer that is a map, or a list of names and values.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Map(fields) => fields
            .iter()
            .find(|(key, _)| text(key) == Some(name))
            .map(|(_, value)| value),
        Value::Array(words) => words.chunks_exact(2).find_map(|pair| match pair {
            [key, value] if text(key) == Some(name) => Some(value),
            _ => None,
        }),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn number<T: std::str::FromStr>(value: &Value) -> Option<T> {
    match value {
        Value::Int(number) => number.to_string().parse().ok(),
        other => text(other)?.parse().ok(),
    }
}

fn address_of(host: Option<&Value>, port: Option<&Value>) -> Option<Address> {
    let host = text(host?)?;
    let port = number(port?)?;
    (!host.is_empty() && port != 0).then(|| Address {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address { host: "h".into(), port }
    }

    fn of(answers: &[(u64, u16)], now: Option<u16>) -> Option<u16> {
        let answers: Vec<_> = answers
            .iter()
            .map(|(epoch, port)| Answer {
                epoch: *epoch,
                master: at(*port),
            })
            .collect();
        best(answers.iter(), now.map(at).as_ref()).map(|(_, address)| address.port)
    }

    #[test]
    fn a_sentinel_that_was_cut_off_is_not_believed_however_many_they_are() {
        assert_eq!(of(&[(1, 7), (1, 7), (2, 8)], Some(7)), Some(8));
        assert_eq!(of(&[], Some(7)), None);
    }

    #[test]
    fn of_answers_of_one_epoch_most_count_and_then_what_was() {
        assert_eq!(of(&[(1, 7), (1, 8), (1, 8)], Some(7)), Some(8));
        assert_eq!(of(&[(1, 7), (1, 8)], Some(7)), Some(7));
        assert_eq!(of(&[(1, 7), (1, 8)], Some(8)), Some(8));
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_configuration_counts_when_most_name_it_or_nothing_else_is_left() {
        let answer = |epoch| {
            let answer = Answer { epoch, master: at(7) };
            Some(answer)
        };
        let state = |answers: [Option<Answer>; 3]| State {
            promotion: Promotion::None,
            said: (1..).map(at).zip(answers).collect(),
            believed: Some(Belief {
                epoch: 2,
                at: Instant::now(),
                doubts: 5,
            }),
            reason: String::new(),
        };
        let alone = state([answer(1), None, None]);
        assert!(alone.believes(2, 5) && alone.believes(3, 5));
        assert!(!alone.believes(1, 6));
        assert!(state([answer(1), answer(0), None]).believes(1, 5));
        tokio::time::advance(OUTDATED).await;
        assert!(!alone.believes(1, 5), "nobody doubts the master");
        assert!(alone.believes(1, 6));
    }

    #[test]
    fn answers_are_read_as_maps_and_as_lists() {
        let word = |text: &str| Value::BulkString(text.into());
        let list = Value::Array(vec![word("ip"), word("::1"), word("port"), word("7")]);
        let map = Value::Map(vec![(word("ip"), word("::1")), (word("port"), Value::Int(7))]);
        for value in [list, map] {
            let address = address_of(field(&value, "ip"), field(&value, "port")).unwrap();
            assert_eq!(address.to_string(), "[::1]:7");
        }
        assert_eq!(address_of(Some(&word("")), Some(&word("7"))), None);
        assert_eq!(address_of(Some(&word("h")), Some(&word("70000"))), None);
    }
}
