//! What nodes answer about slots: redirections, and the map.

use redis::{ServerError, Value};

use super::super::{Address, refused};
use super::slot::SLOTS;

/// Where a command belongs instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// From now on, all that is in this slot.
    Moved(u16, Address),
    /// This command alone: its slot is being moved, and its keys are there already.
    Ask(Address),
}

impl Redirect {
    /// The redirection that `error` is, if any, as told by the node at `asked`.
    pub(super) fn read(error: &ServerError, asked: &Address) -> Option<Self> {
        let code = error.code();
        if !matches!(code, "MOVED" | "ASK") {
            return None;
        }
        let mut words = error.details()?.split_ascii_whitespace();
        let slot: u16 = words.next()?.parse().ok().filter(|slot| *slot < SLOTS)?;
        let (host, port) = words.next()?.rsplit_once(':')?;
        let node = address(host, port.parse().ok()?, "", asked);
        Some(if code == "MOVED" {
            Self::Moved(slot, node)
        } else {
            Self::Ask(node)
        })
    }
}

/// Where a node is that was told as `host`. It may be unknown (`?`, when it was to announce a name and has none), in
/// which case `ip`, where that is told; or left out, which means the host that was asked.
fn address(host: &str, port: u16, ip: &str, asked: &Address) -> Address {
    let host = match host {
        "" => &asked.host,
        "?" if ip.is_empty() => &asked.host,
        "?" => ip,
        host => host,
    };
    Address {
        host: host.to_owned(),
        port,
    }
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// The latest epoch that the node has heard of: it grows with every fail-over and every move of a slot, so of two
    /// views the one with the higher epoch is the newer.
    pub(super) epoch: u64,
    /// Ranges of slots, both ends included, and their masters.
    pub(super) ranges: Vec<(u16, u16, Address)>,
    /// Where the replicas are.
    pub(super) replicas: Vec<Address>,
}

impl View {
    /// The view in the answers to `CLUSTER SLOTS` and `CLUSTER INFO` by the node at `asked`; else, what they are.
    pub(super) fn read(slots: Value, info: Value, asked: &Address) -> Result<Self, String> {
        for answer in [&slots, &info] {
            if let Value::ServerError(error) = answer {
                return Err(refused(error).to_string());
            }
        }
        Self::parse(slots, info, asked).ok_or_else(|| "its word on the cluster cannot be read".into())
    }

    fn parse(slots: Value, info: Value, asked: &Address) -> Option<Self> {
        let info: String = redis::from_redis_value(info).ok()?;
        let epoch = info
            .lines()
            .find_map(|line| line.trim_end().strip_prefix("cluster_current_epoch:"))?;
        let mut view = Self {
            epoch: epoch.parse().ok()?,
            ranges: Vec::new(),
            replicas: Vec::new(),
        };
        let Value::Array(ranges) = slots else { return None };
        for range in ranges {
            let Value::Array(range) = range else { return None };
            view.add(range, asked)?;
        }
        Some(view)
    }

    /// How many slots have a master.
    pub(super) fn slots(&self) -> usize {
        let sizes = self
            .ranges
            .iter()
            .map(|(first, last, _)| last.saturating_sub(*first) + 1);
        sizes.map(usize::from).sum()
    }

    /// Of two views, the one of the higher rank is to be believed.
    pub(super) fn rank(&self) -> (u64, usize) {
        (self.epoch, self.slots())
    }

    /// First slot, last slot, master, replicas.
    fn add(&mut self, range: Vec<Value>, asked: &Address) -> Option<()> {
        let mut parts = range.into_iter();
        let (first, last) = (slot(parts.next()?)?, slot(parts.next()?)?);
        self.ranges.push((first, last, node(parts.next()?, asked)?));
        for replica in parts {
            let replica = node(replica, asked)?;
            if !self.replicas.contains(&replica) {
                self.replicas.push(replica);
            }
        }
        Some(())
    }
}

fn slot(value: Value) -> Option<u16> {
    redis::from_redis_value(value).ok().filter(|slot| *slot < SLOTS)
}

/// Host or nothing, port, ID, and pairs of further facts (since Redis 7).
fn node(value: Value, asked: &Address) -> Option<Address> {
    let Value::Array(parts) = value else { return None };
    let mut parts = parts.into_iter();
    let host: Option<String> = redis::from_redis_value(parts.next()?).ok()?;
    let port: u16 = redis::from_redis_value(parts.next()?).ok()?;
    let facts = parts.nth(1).map(redis::from_redis_value::<Vec<String>>);
    let facts = facts.and_then(Result::ok).unwrap_or_default();
    let mut pairs = facts.chunks_exact(2);
    let ip = pairs.find_map(|pair| match pair {
        [name, ip] if name == "ip" => Some(ip.as_str()),
        _ => None,
    });
    Some(address(
        host.as_deref().unwrap_or_default(),
        port,
        ip.unwrap_or_default(),
        asked,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Address {
        Address {
            host: host.to_owned(),
            port,
        }
    }

    /// The answer that stands on the wire as `text`.
    fn value(text: &str) -> Value {
        redis::parse_redis_value(text.as_bytes()).unwrap()
    }

    fn redirect(text: &str) -> Option<Redirect> {
        let Value::ServerError(error) = value(&format!("-{text}\r\n")) else {
            panic!("no error: {text}")
        };
        Redirect::read(&error, &at("asked", 7000))
    }

    #[test]
    fn redirections_are_told_from_other_errors() {
        assert_eq!(
            redirect("MOVED 3999 127.0.0.1:6381"),
            Some(Redirect::Moved(3999, at("127.0.0.1", 6381)))
        );
        assert_eq!(
            redirect("ASK 16383 db-1.example:6381"),
            Some(Redirect::Ask(at("db-1.example", 6381)))
        );
        assert_eq!(
            redirect("MOVED 1 fe80::1:6381"),
            Some(Redirect::Moved(1, at("fe80::1", 6381)))
        );
        for other in [
            "MOVED",
            "MOVED 1",
            "MOVED 16384 h:1",
            "MOVED x h:1",
            "ASK 1 h",
            "ASK 1 h:65536",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "CLUSTERDOWN The cluster is down",
            "ERR MOVED 1 h:1",
        ] {
            assert_eq!(redirect(other), None, "{other}");
        }
    }

    #[test]
    fn a_node_that_announces_no_host_is_where_we_asked() {
        assert_eq!(redirect("MOVED 1 :6381"), Some(Redirect::Moved(1, at("asked", 6381))));
        assert_eq!(redirect("ASK 1 ?:6381"), Some(Redirect::Ask(at("asked", 6381))));
        let slots = "*3\r\n\
            *3\r\n:0\r\n:5460\r\n*3\r\n$0\r\n\r\n:1\r\n$2\r\nid\r\n\
            *3\r\n:5461\r\n:10922\r\n*4\r\n$1\r\n?\r\n:2\r\n$2\r\nid\r\n*2\r\n$2\r\nip\r\n$8\r\n10.0.0.2\r\n\
            *3\r\n:10923\r\n:16383\r\n*4\r\n$-1\r\n:3\r\n$2\r\nid\r\n*2\r\n$2\r\nip\r\n$8\r\n10.0.0.3\r\n";
        let view = View::read(value(slots), info(), &at("asked", 7000)).unwrap();
        let masters: Vec<_> = view.ranges.into_iter().map(|(.., node)| node).collect();
        assert_eq!(masters, [at("asked", 1), at("10.0.0.2", 2), at("asked", 3)]);
    }

    fn info() -> Value {
        value("$48\r\ncluster_state:ok\r\ncluster_current_epoch:6\r\na:b\r\n\r\n")
    }

    #[test]
    fn a_view_has_the_ranges_their_masters_and_the_replicas_once_each() {
        let slots = "*2\r\n\
            *4\r\n:0\r\n:99\r\n*3\r\n$1\r\nh\r\n:1\r\n$2\r\nid\r\n*3\r\n$1\r\nh\r\n:4\r\n$2\r\nid\r\n\
            *4\r\n:200\r\n:200\r\n*4\r\n$4\r\nname\r\n:1\r\n$2\r\nid\r\n*0\r\n*3\r\n$1\r\nh\r\n:4\r\n$2\r\nid\r\n";
        let view = View::read(value(slots), info(), &at("asked", 7000)).unwrap();
        assert_eq!((view.epoch, view.slots()), (6, 101));
        assert_eq!(view.ranges, [(0, 99, at("h", 1)), (200, 200, at("name", 1))]);
        assert_eq!(view.replicas, [at("h", 4)]);
    }

    #[test]
    fn what_is_no_view_is_not_taken_for_one() {
        let refusal = "-ERR This instance has cluster support disabled\r\n";
        let asked = at("asked", 7000);
        let why = View::read(value(refusal), value(refusal), &asked).unwrap_err();
        assert!(why.contains("ERR This instance has cluster support disabled"), "{why}");
        let beyond = "*1\r\n*3\r\n:0\r\n:16384\r\n*3\r\n$1\r\nh\r\n:1\r\n$2\r\nid\r\n";
        let views = [
            (value("*0\r\n"), value(refusal)),
            (value("*0\r\n"), value("$3\r\na:b\r\n")),
            (value("$-1\r\n"), info()),
            (value(beyond), info()),
        ];
        for (slots, info) in views {
            assert!(View::read(slots, info, &asked).is_err());
        }
        let none = View::read(value("*0\r\n"), info(), &asked).unwrap();
        assert_eq!((none.ranges.len(), none.slots()), (0, 0));
    }
}
