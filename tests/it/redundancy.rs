//! What the tests over Sentinel and Cluster rest on: that these do what is asked of them.

use redis::Value;

use crate::support::cluster::ClusterNodes;
use crate::support::sentinel::Sentinels;

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_promote_a_replica_when_asked_and_when_the_master_dies_or_hangs() {
    let mut redis = Sentinels::start().await;
    assert_eq!(redis.url().matches("127.0.0.1:").count(), 3);
    let first = redis.master();
    assert_eq!(first, 0);
    let mut master = first;
    for (number, fault) in ["asked", "dies", "hangs"].into_iter().enumerate() {
        redis.servers[master].command(&["SET", "number", &number.to_string()]);
        redis.in_step(master).await;
        match fault {
            "asked" => redis.failover().await,
            "dies" => redis.servers[master].kill(),
            _ => redis.servers[master].stop(),
        }
        let (new, _) = redis.promoted(master).await;
        assert_ne!(new, master);
        assert_eq!(
            redis.servers[new].number(&["GET", "number"]),
            i64::try_from(number).unwrap()
        );
        match fault {
            "dies" => redis.servers[master].restart(),
            "hangs" => redis.servers[master].resume(),
            _ => {}
        }
        redis.in_step(new).await;
        assert_eq!(redis.master(), new);
        for sentinel in &redis.sentinels {
            let address = sentinel.command(&["SENTINEL", "get-master-addr-by-name", "mymaster"]);
            let (_, port): (String, u16) = redis::from_redis_value(address).unwrap();
            assert_eq!(port, redis.servers[new].port());
        }
        master = new;
    }
    // Two of three suffice.
    redis.sentinels[0].kill();
    redis.servers[master].kill();
    redis.promoted(master).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_promotes_the_replica_of_a_killed_master_and_moves_slots() {
    let mut redis = ClusterNodes::start().await;
    assert_eq!(redis.url().matches("127.0.0.1:").count(), 3);
    let (key, slot) = ("{user1000}.name", redis.slot("{user1000}.name"));
    assert_eq!(slot, redis.slot("user1000"));
    let (master, replica) = (redis.master_of(key), redis.replica_of(key));
    assert_eq!(replica, master + 3);
    redis.nodes[master].command(&["SET", key, "anna"]);

    let other = (master + 1) % 3;
    let from = redis.begin_move(slot, other);
    assert_eq!(from, master);
    assert_eq!(
        redis.nodes[master].text(&["GET", key]),
        "anna",
        "served until it is moved"
    );
    assert_eq!(redis.move_keys(slot, from, other, 10), 1);
    let asks = redis.nodes[master].try_command(&["GET", key], std::time::Duration::from_secs(5));
    assert_eq!(asks.unwrap_err().code(), Some("ASK"));
    redis.end_move(slot, from, other);
    assert_eq!(
        (redis.master_of(key), redis.nodes[other].text(&["GET", key])),
        (other, "anna".into())
    );
    assert_eq!(redis.move_slot(slot, master), other, "and back");
    let moved = redis.nodes[other].try_command(&["GET", key], std::time::Duration::from_secs(5));
    assert_eq!(moved.unwrap_err().code(), Some("MOVED"));

    redis.whole().await;
    redis.nodes[master].kill();
    redis.promoted(replica, key).await;
    assert_eq!(
        (redis.master_of(key), redis.nodes[replica].text(&["GET", key])),
        (replica, "anna".into())
    );
    redis.nodes[master].restart();
    redis.whole().await;
    assert_eq!(redis.replica_of(key), master, "it has become a replica");
    redis.failover(master);
    redis.promoted(master, key).await;
    assert_eq!(
        redis.nodes[master].command(&["GET", key]),
        Value::BulkString(b"anna".to_vec())
    );
}
