//! What keeps the map true, in the background, and the nodes that are not part of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::super::Address;
use super::super::dial::dial;
use super::super::link::{Link, Target};
use super::super::replicas::Replicas;
use super::super::server::{Effect, Server};
use super::map::{Map, Node};
use super::reply::View;
use super::slot::SLOTS;
use super::{Shared, State};
use crate::session::store::StoreStats;

/// How often the map is asked for when all is well.
const EVERY: Duration = Duration::from_secs(5);

/// The same where copies are kept: they are believed for no longer than the map.
const EVERY_WITH_COPIES: Duration = Duration::from_secs(1);

/// How long a master that is new here may be unknown elsewhere: until the map was asked for, and the answers have come.
pub(super) const KNOWN_ELSEWHERE: Duration = Duration::from_millis(1500);

/// How often it is looked whether all is well, and the map asked for when it is not: between half and all of it, so
/// that replicas do not ask in step.
const TICK: Duration = Duration::from_millis(100);

/// How many nodes are asked at a time.
const ASKED: usize = 3;

/// How many are asked at a time as long as no map is known: of the configured ones most may be gone.
const ASKED_AT_FIRST: usize = 16;

/// How long the others may take once one has answered: a node that was cut off from the rest must not be the only one
/// that is listened to.
const GRACE: Duration = Duration::from_millis(50);

/// How long a node may take at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// A view that is older than the map is not taken, unless there have been so many of them in a row: then the cluster
/// was made anew.
const OLDER_VIEWS: u32 = 20;

/// A node outside the map is let go when it was not asked for so long.
const VISIT: Duration = Duration::from_secs(60);

/// What lasts for less is not told: a connection takes its time.
const WORTH_TELLING: Duration = Duration::from_millis(500);

struct Visit {
    node: Arc<Node>,
    asked_at: Instant,
}

/// Nodes that redirections told of. Those that are asked no more, or became part of the map, are let go.
#[derive(Default)]
pub(super) struct Visitors(Mutex<Guests>);

#[derive(Default)]
struct Guests {
    closed: bool,
    visits: Vec<Visit>,
}

impl Visitors {
    /// The node at `address`, which was no master so far.
    pub(super) fn master(&self, address: &Address, shared: &Shared) -> Arc<Node> {
        let node = self.node(address, shared);
        node.became_master();
        node
    }

    /// The node at `address`, to which a connection is made unless there is one.
    pub(super) fn node(&self, address: &Address, shared: &Shared) -> Arc<Node> {
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let asked_at = Instant::now();
        if let Some(visit) = guests.visits.iter_mut().find(|visit| visit.node.address == *address) {
            visit.asked_at = asked_at;
            return Arc::clone(&visit.node);
        }
        let node = Arc::new(Node {
            address: address.clone(),
            master_since: Mutex::new(asked_at),
            server: Server::new(
                Link::new(shared.target_at(address), shared.target.tracking.clone()),
                Link::beside(shared.target_at(address)),
            ),
            replicas: (shared.target.wait_replicas > 0).then(|| {
                let link = Link::beside(shared.target_at(address));
                Replicas::new(shared.target.wait_replicas, link)
            }),
        });
        if guests.closed {
            node.close();
        } else {
            guests.visits.push(Visit {
                node: Arc::clone(&node),
                asked_at,
            });
        }
        node
    }

    /// Lets those go that were not asked for long, and leaves to the map those that are part of it.
    fn sweep(&self, map: &Map) {
        let mapped = |node: &Arc<Node>| map.masters().iter().any(|master| Arc::ptr_eq(master, node));
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guests
            .visits
            .retain(|visit| visit.asked_at.elapsed() < VISIT && !mapped(&visit.node));
    }

    /// Lets all of them go, for good.
    pub(super) fn close(&self) {
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guests.closed = true;
        guests.visits.drain(..).for_each(|visit| visit.node.close());
    }
}

/// What happened at nodes that are masters no more.
#[derive(Default)]
pub(super) struct Past(Mutex<StoreStats>);

impl Past {
    pub(super) fn add(&self, stats: StoreStats) {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sum.reconnects += stats.reconnects;
        sum.unreplicated += stats.unreplicated;
    }

    /// All of it, and what happened at these.
    pub(super) fn and(&self, nodes: &[Arc<Node>]) -> StoreStats {
        let past = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nodes
            .iter()
            .map(|node| node.stats())
            .fold(past, |sum, stats| StoreStats {
                reconnects: sum.reconnects + stats.reconnects,
                unreplicated: sum.unreplicated + stats.unreplicated,
            })
    }
}

/// Asks for the map for ever.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut teller = Teller::default();
    let mut older = 0;
    let every = shared.target.tracking.as_ref().map_or(EVERY, |_| EVERY_WITH_COPIES);
    loop {
        let asked_at = Instant::now();
        match ask_around(&shared).await {
            Ok(view) => shared.take(view, &mut older),
            Err(why) => shared.still_unknown(&why),
        }
        if let State::Known(map) = &*shared.state.borrow() {
            shared.visitors.sweep(map);
        }
        loop {
            // Calls that suspect the map cannot have it asked for more often than this.
            tick().await;
            let unserved = shared.unserved();
            teller.tell(unserved);
            if unserved > 0 || asked_at.elapsed() > every || shared.was_suspected() {
                break;
            }
        }
    }
}

async fn tick() {
    tokio::time::sleep(TICK.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
}

/// The newest view that can be had: from nodes to which there is a connection, else from any that are known.
async fn ask_around(shared: &Arc<Shared>) -> Result<View, String> {
    let (up, others) = shared.whom_to_ask();
    let mut asked = JoinSet::new();
    for node in up {
        asked.spawn(ask_node(node));
    }
    if let Ok(view) = newest(asked).await {
        return Ok(view);
    }
    let mut asked = JoinSet::new();
    for address in others {
        asked.spawn(ask_stranger(shared.target_at(&address), address));
    }
    newest(asked).await
}

async fn newest(mut asked: JoinSet<Result<View, String>>) -> Result<View, String> {
    let mut until = Instant::now() + PATIENCE;
    let mut best: Result<View, _> = Err("no node of the cluster answers".to_owned());
    while let Ok(Some(Ok(answer))) = tokio::time::timeout_at(until, asked.join_next()).await {
        match (&best, answer) {
            (Ok(best), Ok(view)) if best.rank() >= view.rank() => {}
            (_, Ok(view)) => {
                until = until.min(Instant::now() + GRACE);
                best = Ok(view);
            }
            (Err(_), Err(why)) => best = Err(format!("no node of the cluster answers: {why}")),
            (Ok(_), Err(_)) => {}
        }
    }
    best
}

/// Asks for the map: who serves what, and how new that is.
fn questions() -> [Cmd; 2] {
    ["SLOTS", "INFO"].map(|about| {
        let mut cmd = redis::cmd("CLUSTER");
        cmd.arg(about);
        cmd
    })
}

async fn ask_node(node: Arc<Node>) -> Result<View, String> {
    let [slots, info] = questions();
    let by = Instant::now() + PATIENCE;
    let asked = node.server.ask_together([&slots, &info], Effect::Read, by, None);
    let [slots, info] = asked.await.map_err(|_| "the connection was lost".to_owned())?;
    View::read(slots, info, &node.address)
}

/// Asks over a connection that is made for this alone.
async fn ask_stranger(target: Target, address: Address) -> Result<View, String> {
    let live = dial(&target, None).await?;
    let [slots, info] = questions();
    let answers = live.connection.ask_all(&[&slots, &info]).await;
    let answers = answers.map_err(|error| error.category().to_owned())?;
    let [slots, info] = <[Value; 2]>::try_from(answers).map_err(|_| "the answers are not as many".to_owned())?;
    View::read(slots, info, &address)
}

impl Shared {
    /// Some nodes to which there is a connection, and some of all others.
    fn whom_to_ask(&self) -> (Vec<Arc<Node>>, Vec<Address>) {
        let mut up = Vec::new();
        let mut others = self.target.seeds.clone();
        let mut most = ASKED_AT_FIRST;
        if let State::Known(map) = &*self.state.borrow() {
            let (connected, not): (Vec<_>, Vec<_>) = map.masters().iter().partition(|node| node.server.is_up());
            up.extend(connected.into_iter().map(Arc::clone));
            others.extend(not.into_iter().map(|node| node.address.clone()));
            others.extend_from_slice(map.replicas());
            most = ASKED;
        }
        fastrand::shuffle(&mut up);
        fastrand::shuffle(&mut others);
        up.truncate(ASKED);
        others.truncate(most);
        (up, others)
    }

    /// Makes `view` the map, unless it is older than what is known. `older` counts such ones.
    pub(super) fn take(self: &Arc<Self>, view: View, older: &mut u32) {
        let known = match &*self.state.borrow() {
            State::Known(map) => Some(Arc::clone(map)),
            State::Unknown { .. } | State::Closed => None,
        };
        if let Some(known) = &known {
            if known.is(&view) {
                *older = 0;
                return;
            }
            if view.epoch < known.epoch() && *older < OLDER_VIEWS {
                *older += 1;
                return;
            }
        }
        *older = 0;
        let (epoch, slots) = (view.epoch, view.slots());
        let masters = known.as_deref().map(Map::masters).unwrap_or_default();
        let gone = masters
            .iter()
            .filter(|node| view.ranges.iter().all(|(.., master)| *master != node.address));
        let gone: Vec<_> = gone.map(|node| node.stats()).collect();
        let node = |address: &Address| {
            let same = masters.iter().find(|node| node.address == *address);
            same.map_or_else(|| self.visitors.master(address, self), Arc::clone)
        };
        let map = Map::new(view, node, |n| probe(&self.target.prefix, n));
        let masters = map.masters().len();
        debug!(epoch, slots, masters, "a new map of the cluster");
        // Its masters were not made so just now, as far as is known.
        let _ = self.known_since.set(Instant::now());
        self.state.send_if_modified(|state| {
            let open = !matches!(state, State::Closed);
            if open {
                gone.into_iter().for_each(|stats| self.past.add(stats));
                *state = State::Known(Arc::new(map));
            }
            open
        });
    }

    /// Notes why there is no map, without waking those who wait for one.
    fn still_unknown(&self, reason: &str) {
        debug!(reason, "the map of the cluster cannot be had");
        self.state.send_if_modified(|state| {
            if let State::Unknown { why, .. } = state {
                *why = reason.into();
            }
            false
        });
    }

    /// How many slots are out of reach just now.
    fn unserved(&self) -> usize {
        match &*self.state.borrow() {
            State::Known(map) => map.unserved(),
            State::Unknown { .. } | State::Closed => usize::from(SLOTS),
        }
    }
}

/// Number `n` of the harmless writes, and its key.
fn probe(prefix: &str, n: u32) -> (Vec<u8>, Cmd) {
    let name = format!("{prefix}ping:{n}").into_bytes();
    let mut cmd = redis::cmd("SET");
    cmd.arg(&name).arg(1).arg("PX").arg(1000);
    (name, cmd)
}

/// Tells, once a change, how many slots are out of reach.
#[derive(Default)]
struct Teller {
    since: Option<Instant>,
    told: bool,
}

impl Teller {
    fn tell(&mut self, unserved: usize) {
        if unserved == 0 {
            self.since = None;
            if std::mem::take(&mut self.told) {
                info!("all slots of the cluster are served");
            }
            return;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if !self.told && since.elapsed() > WORTH_TELLING {
            self.told = true;
            warn!(
                unserved,
                "slots of the cluster are out of reach: their sessions are not served"
            );
        }
    }
}
