//! Redis Cluster: which node is asked, and what happens when that one is not the right one any more.
//!
//! Every key belongs to one of 16,384 slots, and every slot to one master. The keys of an installation share a slot, so
//! each call goes to one node. There is a [`Server`](super::server::Server) for each master, its connections made and
//! replaced in the background like those to a single one; a [`Map`] tells which of them serves a slot. `watch` keeps the map true: it asks the nodes for it
//! every few seconds, and ten times a second while something is amiss (a redirection, a lost answer, a link that is
//! down, a slot that nobody serves). Calls never ask for the map; they read it and, where it fails them, wait for a
//! better one, no longer than their deadline.
//!
//! What a node answers, and what is done:
//!
//! | answer | meaning | then |
//! |---|---|---|
//! | `MOVED` | another node has the slot | the map is corrected, that one is asked |
//! | `ASK` | the slot is on its way, and these keys have arrived | that one is asked, this once |
//! | `TRYAGAIN` | the slot is on its way, and these keys are not all in one place | see below |
//! | `CLUSTERDOWN` | nobody may serve the slot | refused |
//! | no answer | the node is gone, or the connection | a read is asked again; a change is [`Failure::Lost`] |
//!
//! Those with a name are refusals: nothing was done, so a change may be sent again. A change whose answer was lost is
//! never sent twice, which is why this is not left to the driver.
//!
//! # While a slot is on its way
//!
//! Its keys move one by one, and a command that names several keys is refused with `TRYAGAIN` wherever not all of them
//! exist: but a lease or a count mostly does not. So no command names more keys than it needs, and most need one. Of
//! the others:
//!
//! * what is read together is read one by one, in an order that cannot show the lead free before the record that its
//!   leader stored ([`Cluster::values`]);
//! * a script is sent to the new node naming its first key only, once the old one has said of each key that it is not
//!   there any more ([`Cluster::run`]). Keys that are gone from there cannot come back, so the new node has all there
//!   is, and the script is as whole as ever. Where some are still at the old one, the call waits for them.

mod find;
mod keep;
mod map;
mod reply;
mod slot;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::sync::watch as latest;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::find::number_of;
use self::map::{Map, Node};
use self::reply::Redirect;
use self::slot::slot_of;
use self::watch::{Past, Visitors, watch};
use super::Address;
use super::link::Target;
use super::scripts::Call;
use super::server::{Effect, Failure};
use super::tracking::Tracking;
use crate::session::store::{StoreError, StoreStats};

/// How often a call follows a redirection, or goes back to where it was sent away from.
const MOST_REDIRECTIONS: u32 = 16;

/// After so many of them a call pauses before the next: nodes that have just heard of a change do not agree yet.
const PROMPT_REDIRECTIONS: u32 = 2;

/// Such a pause, and one before a `TRYAGAIN` is tried again: between half and all of it.
const PAUSE: Duration = Duration::from_millis(15);

/// What a cluster is reached by.
pub(super) struct ClusterTarget {
    /// Where nodes are: those asked first for the others.
    pub(super) seeds: Vec<Address>,
    /// How a node is reached; host and port are those of none.
    pub(super) node: Target,
    /// What the names of all keys start with.
    pub(super) prefix: String,
    /// How many replicas of its node should have a change; 0: none is waited for.
    pub(super) wait_replicas: u16,
    /// Who is told of changes to what was read.
    pub(super) tracking: Option<Tracking>,
}

/// A handle on the nodes of a cluster.
pub(super) struct Cluster {
    shared: Arc<Shared>,
    watch: AbortOnDropHandle<()>,
}

/// What calls and the watch share.
struct Shared {
    target: ClusterTarget,
    state: latest::Sender<State>,
    suspected: AtomicBool,
    /// When the map was known first.
    known_since: OnceLock<Instant>,
    past: Past,
    visitors: Visitors,
}

#[derive(Clone)]
enum State {
    /// No node has told the map yet.
    Unknown {
        since: Instant,
        why: Arc<str>,
    },
    Known(Arc<Map>),
    Closed,
}

impl Cluster {
    /// Starts to look for the nodes, in the background.
    pub(super) fn new(target: ClusterTarget) -> Self {
        let shared = Arc::new(Shared {
            target,
            state: latest::Sender::new(State::Unknown {
                since: Instant::now(),
                why: "no node of the cluster has answered yet".into(),
            }),
            suspected: AtomicBool::new(false),
            known_since: OnceLock::new(),
            past: Past::default(),
            visitors: Visitors::default(),
        });
        let watch = AbortOnDropHandle::new(tokio::spawn(watch(Arc::clone(&shared))));
        Self { shared, watch }
    }

    /// The answer to a command that reads `key`.
    pub(super) async fn read(&self, key: &[u8], cmd: &Cmd, by: Instant) -> Result<Value, Failure> {
        self.shared.ask(slot_of(key), cmd, Effect::Read, by).await
    }

    /// The values of keys that share a slot: together if that can be, else one by one, in the order of `keys`.
    pub(super) async fn values(&self, keys: &[&[u8]], by: Instant) -> Result<Vec<Value>, Failure> {
        let slot = slot_of(keys.first().copied().unwrap_or_default());
        match self.shared.ask(slot, &values_of(keys), Effect::Read, by).await {
            Ok(Value::Array(values)) => return Ok(values),
            Ok(other) => return Ok(vec![other]),
            Err(Failure::Refused(error)) if error.code() == "TRYAGAIN" => {}
            Err(failure) => return Err(failure),
        }
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            match self.shared.ask(slot, &values_of(&[key]), Effect::Read, by).await? {
                Value::Array(mut one) => values.extend(one.pop()),
                other => values.push(other),
            }
        }
        Ok(values)
    }

    /// What a script answers.
    pub(super) async fn run(&self, call: &Call<'_>, by: Instant) -> Result<Value, Failure> {
        let slot = slot_of(call.first_key());
        loop {
            let mut answer = self.shared.ask(slot, &call.by_hash(), Effect::Change, by).await;
            if is_refusal(&answer, "NOSCRIPT") {
                answer = self.shared.ask(slot, &call.in_full(), Effect::Change, by).await;
            }
            if !is_refusal(&answer, "TRYAGAIN") {
                return answer;
            }
            if let Some(node) = self.shared.has_all(slot, call, by).await? {
                let there = node.ask_here(&call.by_first_key(), Effect::Change, by, None).await;
                // It was called off, or is over.
                if !is_refusal(&there, "MOVED") {
                    return there;
                }
            }
            if !pause(by).await {
                return answer;
            }
        }
    }

    /// What master `number` answers to a command that reads, and how many there are.
    pub(super) async fn ask_master(&self, number: usize, cmd: &Cmd, by: Instant) -> (Result<Value, Failure>, usize) {
        let map = match self.shared.map(by).await {
            Ok(map) => map,
            Err(failure) => return (Err(failure), 0),
        };
        let answer = match map.masters().get(number) {
            Some(node) => node.ask_here(cmd, Effect::Read, by, None).await,
            None => Err(unavailable("the masters of the cluster have changed")),
        };
        (answer, map.masters().len())
    }

    /// Whether there is a master that takes a write.
    ///
    /// One is enough: what the others serve is refused, request by request, while what this one serves is not. If the
    /// loss of some slots took a replica out of its balancer, it would take all of them out, and cost all sessions.
    pub(super) async fn ping(&self, by: Instant) -> Result<(), Failure> {
        let map = self.shared.map(by).await?;
        let mut asked = JoinSet::new();
        for (slot, cmd) in map.probes().iter().cloned() {
            let shared = Arc::clone(&self.shared);
            asked.spawn(async move { shared.ask(slot, &cmd, Effect::Trial, by).await });
        }
        let mut outcome = Err(unavailable("no node serves slots"));
        while let Some(Ok(answer)) = asked.join_next().await {
            match answer {
                Ok(_) => return Ok(()),
                Err(failure) => outcome = Err(failure),
            }
        }
        outcome
    }

    /// Waits for replicas to have what was done to `key`, where that is asked for.
    pub(super) async fn confirm(&self, key: &[u8], by: Instant) {
        if self.shared.target.wait_replicas == 0 {
            return;
        }
        let mut mark = redis::cmd("SET");
        mark.arg([key, b":mark"].concat()).arg(1).arg("PX").arg(1000);
        let node = self.shared.owner(slot_of(key), by).await;
        match node.as_ref().ok().and_then(|node| node.replicas.as_ref()) {
            Some(replicas) => replicas.confirm(mark, by).await,
            // It was there a moment ago.
            None => self.shared.past.add(StoreStats {
                unreplicated: 1,
                ..StoreStats::default()
            }),
        }
    }

    /// What happened so far, at nodes that are masters no more too.
    pub(super) fn stats(&self) -> StoreStats {
        if let State::Known(map) = &*self.shared.state.borrow() {
            self.shared.past.and(map.masters())
        } else {
            self.shared.past.and(&[])
        }
    }

    /// Lets go of all nodes, for good.
    pub(super) fn close(&self) {
        self.watch.abort();
        if let State::Known(map) = self.shared.state.send_replace(State::Closed) {
            map.masters().iter().for_each(|node| node.close());
        }
        self.shared.visitors.close();
    }
}

/// Reads keys of any type: what is no string is absent.
fn values_of(keys: &[&[u8]]) -> Cmd {
    let mut cmd = redis::cmd("MGET");
    cmd.arg(keys);
    cmd
}

fn unavailable(why: &str) -> Failure {
    Failure::NotSent(StoreError::Unavailable(why.into()))
}

fn is_refusal<T>(answer: &Result<T, Failure>, code: &str) -> bool {
    matches!(answer, Err(Failure::Refused(error)) if error.code() == code)
}

/// `false` when there is no time left for it, and for an answer after it: a change that was refused so far is certain
/// not to have happened, and is better left at that.
async fn pause(by: Instant) -> bool {
    let until = Instant::now() + PAUSE.mul_f64(0.5 + fastrand::f64() / 2.0);
    let in_time = until + 2 * PAUSE < by;
    if in_time {
        tokio::time::sleep_until(until).await;
    }
    in_time
}

impl Shared {
    /// Has the map asked for soon.
    fn suspect(&self) {
        self.suspected.store(true, Ordering::Relaxed);
    }

    /// Whether it was suspected since this was last asked.
    fn was_suspected(&self) -> bool {
        self.suspected.swap(false, Ordering::Relaxed)
    }

    async fn ask(&self, slot: u16, cmd: &Cmd, effect: Effect, by: Instant) -> Result<Value, Failure> {
        let mut lost = None;
        for redirections in 0..MOST_REDIRECTIONS {
            if redirections > PROMPT_REDIRECTIONS && !pause(by).await {
                break;
            }
            let (mut node, connection) = self.way(slot, effect, lost.as_ref(), by).await?;
            let mut answer = node.server.send(cmd, effect, by, connection).await;
            match redirect(&answer, &node) {
                Some(Redirect::Moved(slot, to)) => {
                    self.moved(slot, &to);
                    continue;
                }
                Some(Redirect::Ask(to)) => {
                    node = self.node(&to);
                    answer = node.ask_here(cmd, effect, by, number_of(lost.as_ref(), &node)).await;
                    // The move is over, or was called off.
                    if is_refusal(&answer, "MOVED") {
                        self.suspect();
                        continue;
                    }
                }
                None => {}
            }
            if answer.as_ref().is_err_and(is_suspicious) {
                self.suspect();
            }
            match answer {
                Err(Failure::Lost(number)) if effect.may_repeat() && lost.is_none() => lost = Some((node, number)),
                other => return other,
            }
        }
        self.suspect();
        Err(unavailable("its nodes do not agree on who serves a slot"))
    }

    /// The node to which all keys of `call` have moved, while their slot is on its way; `None` when some have not.
    async fn has_all(&self, slot: u16, call: &Call<'_>, by: Instant) -> Result<Option<Arc<Node>>, Failure> {
        let owner = self.owner(slot, by).await?;
        let mut to: Option<Address> = None;
        for key in call.keys() {
            let mut peek = redis::cmd("GETRANGE");
            peek.arg(key).arg(0).arg(0);
            let answer = owner.server.ask(&peek, Effect::Read, by).await;
            match redirect(&answer, &owner) {
                Some(Redirect::Ask(node)) if to.as_ref().is_none_or(|to| *to == node) => to = Some(node),
                _ => return Ok(None),
            }
        }
        Ok(to.map(|to| self.node(&to)))
    }
}

impl Node {
    /// Asks for what is on its way to this node.
    async fn ask_here(&self, cmd: &Cmd, effect: Effect, by: Instant, after: Option<u64>) -> Result<Value, Failure> {
        let asking = redis::cmd("ASKING");
        let [_, answer] = self.server.ask_together([&asking, cmd], effect, by, after).await?;
        self.server.told(answer)
    }
}

fn redirect(answer: &Result<Value, Failure>, node: &Node) -> Option<Redirect> {
    match answer {
        Err(Failure::Refused(error)) => Redirect::read(error, &node.address),
        _ => None,
    }
}

/// Whether the map may be wrong. Other refusals are the answer of the right node.
fn is_suspicious(failure: &Failure) -> bool {
    match failure {
        Failure::Refused(error) => matches!(error.code(), "CLUSTERDOWN" | "MASTERDOWN" | "READONLY"),
        Failure::NotSent(_) | Failure::Late | Failure::Lost(_) | Failure::Garbled(_) => true,
    }
}

#[cfg(test)]
mod tests;
