//! A Redis Cluster: three masters with a replica each, every one a process of its own.

use std::cell::Cell;
use std::time::{Duration, Instant};

use redis::Value;

use super::lasting_port;
use super::redis::RedisServer;
use super::sentinel::{asked, start, takes_writes, wait};

/// How many masters share the slots.
const MASTERS: usize = 3;

/// How many slots every cluster has.
const SLOTS: u16 = 16384;

/// How long a node that may be frozen is waited for.
const ASKED: Duration = Duration::from_millis(200);

/// The six nodes; all end with the value. At the start the first three are masters, and node `n + 3` is the replica
/// of node `n`.
pub(crate) struct ClusterNodes {
    /// The nodes.
    pub(crate) nodes: Vec<RedisServer>,
    /// Their names within the cluster.
    names: Vec<String>,
}

impl ClusterNodes {
    /// Starts six nodes and waits until each of them knows all others and takes the cluster for complete.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with further lines of configuration for the nodes; in each of them `{port}` is a free port.
    pub(crate) async fn start_with(lines: &[&str]) -> Self {
        let started = [(); 2 * MASTERS].map(|()| node(lines));
        let ports = started.each_ref().map(|(_, bus)| *bus);
        let nodes: Vec<_> = started.into_iter().map(|(node, _)| node).collect();
        let names = nodes.iter().map(|node| node.text(&["CLUSTER", "MYID"])).collect();
        let cluster = Self { nodes, names };
        for (master, node) in cluster.nodes[..MASTERS].iter().enumerate() {
            let first = |master: usize| usize::from(SLOTS) * master / MASTERS;
            let (from, to) = (first(master).to_string(), (first(master + 1) - 1).to_string());
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &from, &to]);
            // What equal epochs would have to be settled by takes time.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(master + 1).to_string()]);
        }
        for (node, bus) in cluster.nodes.iter().zip(ports).skip(1) {
            let port = node.port().to_string();
            cluster.nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus.to_string()]);
        }
        wait("the nodes to know each other", || {
            cluster.nodes.iter().all(|node| {
                let known = node.text(&["CLUSTER", "NODES"]);
                known.lines().count() == cluster.nodes.len() && !known.contains("handshake")
            })
        })
        .await;
        for replica in MASTERS..cluster.nodes.len() {
            cluster.nodes[replica].command(&["CLUSTER", "REPLICATE", &cluster.names[replica - MASTERS]]);
        }
        cluster.whole().await;
        cluster
    }

    /// Waits until every node runs, sees all slots served, and every master has a replica that is in step with it.
    pub(crate) async fn whole(&self) {
        let followed = |node: &RedisServer| asked(node, &["INFO", "replication"]).contains("connected_slaves:1");
        wait("the cluster to be whole", || {
            let followed = self.nodes.iter().filter(|node| followed(node)).count() == MASTERS;
            followed
                && self.nodes.iter().all(|node| {
                    let (state, known) = (asked(node, &["CLUSTER", "INFO"]), asked(node, &["CLUSTER", "NODES"]));
                    let replicas = known.lines().filter(|line| line.contains("slave")).count();
                    state.contains("cluster_state:ok") && !known.contains("fail") && replicas == MASTERS
                })
        })
        .await;
        for node in self.nodes.iter().filter(|node| followed(node)) {
            tokio::task::block_in_place(|| node.wait_for_replicas(1));
        }
    }

    /// What the bridge is told: `redis-cluster://…`, with one node of each pair.
    pub(crate) fn url(&self) -> String {
        let addresses = self.nodes[..MASTERS]
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port()));
        format!("redis-cluster://{}", addresses.collect::<Vec<_>>().join(","))
    }

    /// The slot of a key.
    pub(crate) fn slot(&self, key: &str) -> u16 {
        let answers = self
            .nodes
            .iter()
            .map(|node| node.try_command(&["CLUSTER", "KEYSLOT", key], ASKED));
        let slot = answers.flatten().next().expect("a node that answers");
        redis::from_redis_value(slot).expect("a slot")
    }

    /// The node that serves the key now, by the word of the nodes that answer.
    pub(crate) fn master_of(&self, key: &str) -> usize {
        self.serving(self.slot(key))
    }

    /// The node that serves the slot now: of those that say so themselves, the one with the highest epoch.
    fn serving(&self, slot: u16) -> usize {
        let claim = |node: &RedisServer| {
            let known = asked(node, &["CLUSTER", "NODES"]);
            let words: Vec<_> = known.lines().find(|line| line.contains("myself"))?.split(' ').collect();
            let serves = words[2].contains("master") && words[8..].iter().any(|range| covers(range, slot));
            serves.then(|| words[6].parse::<u64>().expect("an epoch"))
        };
        let claims = self.nodes.iter().map(claim).enumerate();
        let best = claims
            .filter(|(_, epoch)| epoch.is_some())
            .max_by_key(|(_, epoch)| *epoch);
        best.expect("a master of the slot").0
    }

    /// A running replica of the key's present master.
    pub(crate) fn replica_of(&self, key: &str) -> usize {
        let master = self.nodes[self.master_of(key)].port();
        let follows = |node: &RedisServer| {
            let text = asked(node, &["INFO", "replication"]);
            text.contains("role:slave") && text.lines().any(|line| line == format!("master_port:{master}"))
        };
        self.nodes.iter().position(follows).expect("a replica of the slot")
    }

    /// Has the replica take over from its master in agreement with it, which loses nothing.
    pub(crate) fn failover(&self, replica: usize) {
        assert_eq!(self.nodes[replica].command(&["CLUSTER", "FAILOVER"]), Value::Okay);
    }

    /// Waits until `node`, a replica before, is a master that takes writes of `key`; says since when.
    pub(crate) async fn promoted(&self, node: usize, key: &str) -> Instant {
        wait("the replica to be a master that takes writes", || {
            takes_writes(&self.nodes[node], key)
        })
        .await;
        Instant::now()
    }

    /// Makes the slot one that is being moved to `to`: from now on its master answers `ASK` for keys that it does not
    /// hold. Says who that master is.
    pub(crate) fn begin_move(&self, slot: u16, to: usize) -> usize {
        let from = self.serving(slot);
        let slot = slot.to_string();
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.names[from]]);
        source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.names[to]]);
        from
    }

    /// Moves the keys of a slot that is being moved, all or the first `count`; says how many.
    pub(crate) fn move_keys(&self, slot: u16, from: usize, to: usize, count: usize) -> usize {
        let source = &self.nodes[from];
        let keys = source.command(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &count.to_string()]);
        let keys: Vec<String> = redis::from_redis_value(keys).expect("names");
        let port = self.nodes[to].port().to_string();
        for key in &keys {
            source.command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        }
        keys.len()
    }

    /// Ends the move: the slot is served by `to`, and by it alone.
    pub(crate) fn end_move(&self, slot: u16, from: usize, to: usize) {
        // First the new owner: a slot without one would be refused by all.
        for node in [to, from] {
            self.nodes[node].command(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &self.names[to]]);
        }
    }

    /// Moves a slot with all its keys; says who served it before.
    pub(crate) fn move_slot(&self, slot: u16, to: usize) -> usize {
        let from = self.begin_move(slot, to);
        while self.move_keys(slot, from, to, 100) > 0 {}
        self.end_move(slot, from, to);
        from
    }
}

/// Starts a node that knows no other; says at which port the others reach it.
fn node(lines: &[&str]) -> (RedisServer, u16) {
    let bus = Cell::new(0);
    let node = start(
        || {
            bus.set(lasting_port());
            let mut all = vec![
                "save \"\"".to_owned(),
                "cluster-enabled yes".to_owned(),
                format!("cluster-port {}", bus.get()),
                "cluster-node-timeout 1000".to_owned(),
                // A replica takes over however long ago it heard of its master.
                "cluster-replica-validity-factor 0".to_owned(),
                "repl-diskless-sync-delay 0".to_owned(),
            ];
            let port = lasting_port().to_string();
            all.extend(lines.iter().map(|line| line.replace("{port}", &port)));
            all
        },
        &[],
    );
    (node, bus.get())
}

/// Whether `12`, `10-20` or such of `CLUSTER NODES` covers the slot.
fn covers(range: &str, slot: u16) -> bool {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    // A slot on the move, `[12->-…]`, is no range.
    let number = |text: &str| text.parse::<u16>();
    number(first).is_ok_and(|first| first <= slot) && number(last).is_ok_and(|last| slot <= last)
}
