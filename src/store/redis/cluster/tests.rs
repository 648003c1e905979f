//! What is done with answers that a real cluster gives seldom: against nodes that are not real.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::layout;
use super::super::scripts;
use super::*;
use crate::session::store::Key;

/// A node that answers by rote, and remembers what it was asked.
struct FakeNode {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

/// `None`: the connection is closed instead.
type Answers = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl FakeNode {
    async fn start(answers: impl Fn(u16, &str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::start_slow(Duration::ZERO, answers).await
    }

    /// The same; each answer takes this long.
    async fn start_slow(
        pause: Duration,
        answers: impl Fn(u16, &str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers: Answers = Arc::new(move |command| answers(port, command));
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, pause, Arc::clone(&answers), Arc::clone(&log)));
            }
        });
        Self {
            port,
            asked,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// How often it was asked what begins like this.
    fn count(&self, start: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|command| command.starts_with(start)).count()
    }
}

async fn serve(mut stream: TcpStream, pause: Duration, answers: Answers, log: Arc<Mutex<Vec<String>>>) {
    let mut text = String::new();
    loop {
        while let Some((command, len)) = take(&text) {
            text.drain(..len);
            log.lock().unwrap().push(command.clone());
            let answer = match command.split(' ').next().unwrap() {
                "CLIENT" | "ASKING" => Some("+OK\r\n".to_owned()),
                "PING" => Some("+PONG\r\n".to_owned()),
                _ => answers(&command),
            };
            let Some(answer) = answer else { return };
            tokio::time::sleep(pause).await;
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(len) if len > 0 => text.extend(buffer[..len].iter().map(|byte| char::from(*byte))),
            _ => return,
        }
    }
}

/// The first command of `text`, words with blanks between, and how long it is there.
fn take(text: &str) -> Option<(String, usize)> {
    let mut at = 0;
    let mut line = || {
        let end = at + text.get(at..)?.find("\r\n")?;
        let line = text.get(at..end)?;
        at = end + 2;
        Some(line)
    };
    let words: usize = line()?.strip_prefix('*')?.parse().ok()?;
    let mut command = Vec::new();
    for _ in 0..words {
        line()?;
        command.push(line()?);
    }
    Some((command.join(" "), at))
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// The answer to questions about the cluster: one master for all slots, or else what `otherwise` says.
fn all_slots_at(host: &str, port: u16, command: &str, otherwise: impl FnOnce() -> Option<String>) -> Option<String> {
    match command {
        "CLUSTER SLOTS" => Some(format!(
            "*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n{}:{port}\r\n{}",
            bulk(host),
            bulk("id")
        )),
        "CLUSTER INFO" => Some(bulk("cluster_state:ok\r\ncluster_current_epoch:1\r\n")),
        _ => otherwise(),
    }
}

const TIMEOUT: Duration = Duration::from_secs(2);

fn cluster(seeds: &[u16]) -> Cluster {
    let at = |port: &u16| Address {
        host: "127.0.0.1".to_owned(),
        port: *port,
    };
    Cluster::new(ClusterTarget {
        seeds: seeds.iter().map(at).collect(),
        node: Target {
            host: String::new(),
            port: 0,
            login: redis::RedisConnectionInfo::default(),
            timeout: TIMEOUT,
            probe: redis::cmd("PING"),
            tls: None,
        },
        prefix: "p:".to_owned(),
        wait_replicas: 0,
        tracking: None,
    })
}

fn get() -> Cmd {
    let mut get = redis::cmd("GET");
    get.arg("k");
    get
}

fn soon() -> Instant {
    Instant::now() + TIMEOUT
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < until, "in vain waited for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_call_that_is_sent_in_circles_ends() {
    let slot = slot_of(b"k");
    let node = FakeNode::start(move |port, command| {
        all_slots_at("", port, command, || Some(format!("-MOVED {slot} :{port}\r\n")))
    })
    .await;
    let outcome = cluster(&[node.port]).read(b"k", &get(), soon()).await;
    assert!(
        matches!(&outcome, Err(Failure::NotSent(StoreError::Unavailable(why))) if why.contains("do not agree")),
        "{outcome:?}"
    );
    assert_eq!(node.count("GET"), MOST_REDIRECTIONS as usize);
}

#[tokio::test]
async fn nodes_that_announce_no_host_are_found_where_they_were_asked() {
    let slot = slot_of(b"k");
    let other = FakeNode::start(|_, _| Some(bulk("there"))).await;
    let to = other.port;
    let node = FakeNode::start(move |port, command| {
        all_slots_at("?", port, command, || Some(format!("-MOVED {slot} :{to}\r\n")))
    })
    .await;
    let outcome = cluster(&[node.port]).read(b"k", &get(), soon()).await;
    assert!(
        matches!(&outcome, Ok(Value::BulkString(value)) if value == b"there"),
        "{outcome:?}"
    );
    // The node goes on calling itself the owner of all slots: by the time the other one is connected it may be asked again.
    assert_eq!(other.count("GET"), 1);
    assert!(node.count("GET") >= 1);
}

#[tokio::test]
async fn what_has_moved_already_is_asked_for_at_its_new_place_this_once() {
    let slot = slot_of(b"k");
    let new = FakeNode::start(|_, _| Some(bulk("moved"))).await;
    let to = new.port;
    let old = FakeNode::start(move |port, command| {
        all_slots_at("", port, command, || Some(format!("-ASK {slot} 127.0.0.1:{to}\r\n")))
    })
    .await;
    let cluster = cluster(&[old.port]);
    for _ in 0..3 {
        assert!(cluster.read(b"k", &get(), soon()).await.is_ok());
    }
    assert_eq!((old.count("GET"), new.count("GET")), (3, 3));
    let asked = new.asked.lock().unwrap().clone();
    let pairs: Vec<_> = asked
        .windows(2)
        .filter(|pair| pair[1] == "GET k")
        .map(|pair| pair[0].clone())
        .collect();
    assert_eq!(pairs, ["ASKING", "ASKING", "ASKING"]);
}

#[tokio::test]
async fn a_slot_that_is_down_is_refused_at_once_and_a_change_to_it_is_sent_once() {
    let node = FakeNode::start(|port, command| {
        all_slots_at("", port, command, || {
            Some("-CLUSTERDOWN Hash slot not served\r\n".to_owned())
        })
    })
    .await;
    let cluster = cluster(&[node.port]);
    let keys = layout::keys("p:", &Key::from_digest([1; 16]));
    let asked = Instant::now();
    let outcome = cluster
        .run(&scripts::REMOVE.on(&keys[..1], &[b"version"]), soon())
        .await;
    assert!(
        matches!(&outcome, Err(Failure::Refused(error)) if error.code() == "CLUSTERDOWN"),
        "{outcome:?}"
    );
    assert!(asked.elapsed() < TIMEOUT / 2);
    assert_eq!(node.count("EVAL"), 1);
}

#[tokio::test]
async fn of_lost_answers_a_read_is_asked_again_and_a_change_is_not() {
    let node = FakeNode::start(|port, command| all_slots_at("", port, command, || None)).await;
    let cluster = cluster(&[node.port]);
    let outcome = cluster.read(b"k", &get(), soon()).await;
    assert!(matches!(outcome, Err(Failure::Lost(_))), "{outcome:?}");
    assert_eq!(node.count("GET"), 2);
    let keys = layout::keys("p:", &Key::from_digest([1; 16]));
    let outcome = cluster
        .run(&scripts::REMOVE.on(&keys[..1], &[b"version"]), soon())
        .await;
    assert!(matches!(outcome, Err(Failure::Lost(_))), "{outcome:?}");
    assert_eq!(node.count("EVAL"), 1);
}

#[tokio::test]
async fn a_script_is_sent_to_the_new_place_by_its_first_key_only_when_every_key_is_gone_from_the_old_one() {
    let keys = layout::keys("p:", &Key::from_digest([1; 16]));
    let slot = slot_of(&keys[0]);
    for (lease_is_there, sent) in [(false, 1), (true, 0)] {
        let new = FakeNode::start(|_, command| {
            let many = command.starts_with("EVALSHA") || !command.contains(" 1 p:{");
            Some(if many {
                "-TRYAGAIN Multiple keys\r\n".to_owned()
            } else {
                ":-1\r\n".to_owned()
            })
        })
        .await;
        let to = new.port;
        let old = FakeNode::start(move |port, command| {
            all_slots_at("", port, command, || {
                let there = lease_is_there && command.starts_with("GETRANGE") && command.contains(":lease");
                // As servers before version 7 do: if any key is missing, the new place is to be asked.
                Some(if there {
                    bulk("x")
                } else {
                    format!("-ASK {slot} :{to}\r\n")
                })
            })
        })
        .await;
        let cluster = cluster(&[old.port]);
        let args: [&[u8]; 3] = [b"value", b"1000", b"fence"];
        // Where the call is refused at last, that takes all the time there is.
        let patience = if lease_is_there {
            Duration::from_millis(300)
        } else {
            TIMEOUT
        };
        let by = Instant::now() + patience;
        let outcome = cluster.run(&scripts::CREATE.on(&keys[..2], &args), by).await;
        assert_eq!(new.count("EVAL local"), sent, "{outcome:?}");
        match outcome {
            Ok(Value::Int(-1)) => assert!(!lease_is_there),
            Err(Failure::Refused(error)) => assert!(lease_is_there && error.code() == "TRYAGAIN"),
            // The last of many tries may be one whose answer is not waited for.
            Err(Failure::Late) => assert!(lease_is_there),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_older_view_is_not_taken_until_there_is_no_other_for_long() {
    let node = FakeNode::start(|port, command| all_slots_at("", port, command, || Some("+OK\r\n".to_owned()))).await;
    let cluster = cluster(&[node.port]);
    let shared = &cluster.shared;
    let map = shared.map(soon()).await.unwrap();
    cluster.watch.abort();
    let elsewhere = |epoch| reply::View {
        epoch,
        ranges: vec![(
            0,
            16_383,
            Address {
                host: "127.0.0.1".to_owned(),
                port: 1,
            },
        )],
        replicas: Vec::new(),
    };
    let owner = || async { shared.owner(0, soon()).await.unwrap().address.port };
    let mut older = 0;
    for _ in 0..20 {
        shared.take(elsewhere(0), &mut older);
        assert_eq!(owner().await, map.owner(0).unwrap().address.port);
    }
    shared.take(elsewhere(0), &mut older);
    assert_eq!(owner().await, 1);
    shared.take(
        reply::View {
            ranges: Vec::new(),
            ..elsewhere(2)
        },
        &mut older,
    );
    let outcome = cluster.read(b"k", &get(), soon()).await;
    assert!(
        matches!(&outcome, Err(Failure::NotSent(StoreError::Unavailable(why))) if why.contains("no node")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_node_cut_off_from_the_others_is_not_believed() {
    let node = FakeNode::start_slow(Duration::from_millis(5), |port, command| {
        let info = bulk("cluster_state:ok\r\ncluster_current_epoch:9\r\n");
        match command {
            "CLUSTER INFO" => Some(info),
            _ => all_slots_at("", port, command, || Some(bulk("new"))),
        }
    })
    .await;
    let cut_off = FakeNode::start(|port, command| all_slots_at("", port, command, || Some(bulk("old")))).await;
    for _ in 0..5 {
        let cluster = cluster(&[cut_off.port, node.port]);
        assert!(cluster.read(b"k", &get(), soon()).await.is_ok());
    }
    eventually("five answers", || node.count("GET") == 5).await;
    assert_eq!(cut_off.count("GET"), 0);
}

#[tokio::test]
async fn a_node_that_was_heard_of_before_is_new_as_a_master_when_it_becomes_one() {
    let answers = |port: u16, command: &str| all_slots_at("127.0.0.1", port, command, || Some("$-1\r\n".to_owned()));
    let (master, other) = (FakeNode::start(answers).await, FakeNode::start(answers).await);
    let cluster = cluster(&[master.port]);
    let by = Instant::now() + TIMEOUT;
    cluster.ping(by).await.unwrap();
    let to = Address {
        host: "127.0.0.1".to_owned(),
        port: other.port,
    };
    let visited = cluster.shared.node(&to);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let moved = Instant::now();
    cluster.shared.moved(5, &to);
    let owner = cluster.shared.owner(5, by).await.unwrap();
    assert!(Arc::ptr_eq(&owner, &visited), "it is the same node");
    assert!(owner.master_since() >= moved);
    // What it was given before, it still has.
    let since = owner.master_since();
    cluster.shared.moved(6, &to);
    assert_eq!(owner.master_since(), since);
}
