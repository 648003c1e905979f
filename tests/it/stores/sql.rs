//! What is particular to the stores in PostgreSQL, MySQL and MariaDB.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use session_bridge::session::clock::{ManualClock, Timestamp};
use session_bridge::session::store::{Acquired, Created, Flaw, Key, LeaseEnd, Replaced, SessionStore, StoreError};
use sha2::{Digest as _, Sha256};

use super::contract::{Subject, keeps_the_contract};
use super::redis::{PATIENT, SLACK, connect_as, open};
use super::secured::{lines, text};
use super::{LONG, eventually, key, record, token, version};
use crate::support::gate::Gate;
use crate::support::pki::Authority;
use crate::support::sql::{Kind, SqlServer};

/// What operators are told.
const OPERATING: &str = include_str!("../../../docs/operating.md");

const BOTH: [Kind; 2] = [Kind::Postgres, Kind::MariaDb];

const PREFIX: &str = "session-bridge:";

/// A store with this deadline that has found its server.
async fn connect(server: &SqlServer, timeout: Duration) -> Arc<dyn SessionStore> {
    let store = connect_as(&server.url(), timeout, PREFIX, &Subject::clock()).await;
    eventually("a connection", || async { store.ping().await.is_ok() }).await;
    store
}

async fn rows(server: &SqlServer) -> i64 {
    server
        .query("SELECT count(*) FROM session_bridge_records")
        .await
        .expect("a count")
}

async fn keeps(kind: Kind) {
    let server = SqlServer::start(kind);
    let number = AtomicU32::new(0);
    keeps_the_contract(|| async {
        let clock = Subject::clock();
        let prefix = format!("case-{}:", number.fetch_add(1, Ordering::Relaxed));
        let url = format!("{}?max_connections=5", server.url());
        let store = connect_as(&url, PATIENT, &prefix, &clock).await;
        Subject {
            store,
            clock,
            real_time: true,
            _keep: Box::new(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_the_contract() {
    keeps(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_keeps_the_contract() {
    keeps(Kind::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_create_the_schema_together() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let starting = (0..12).map(|_| connect(&server, PATIENT));
        let stores = join_all(starting).await;
        for (n, store) in (0..).zip(&stores) {
            assert_eq!(
                store.create(&key(n), record(1, "x", LONG), None).await,
                Ok(Created::Won)
            );
        }
        assert_eq!(rows(&server).await, 12);
        assert_eq!(
            server.query("SELECT count(*) FROM session_bridge_schema").await,
            Some(1)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_comes_late_is_waited_for_within_the_deadline() {
    for kind in BOTH {
        let mut server = SqlServer::start(kind);
        server.kill();
        let timeout = Duration::from_millis(250);
        let store = connect_as(&server.url(), timeout, PREFIX, &Subject::clock()).await;
        let asked = Instant::now();
        assert!(matches!(store.load(&key(1)).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(
            store.create(&key(1), record(1, "x", LONG), None).await,
            Err(StoreError::Unavailable(_))
        ));
        assert!(asked.elapsed() < 2 * timeout + SLACK, "{:?}", asked.elapsed());
        server.restart();
        eventually("an answer", || async { store.ping().await.is_ok() }).await;
        assert_eq!(store.load(&key(1)).await, Ok(None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_a_later_version_is_left_alone_and_told() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        connect(&server, PATIENT).await.close().await.unwrap();
        server.query("UPDATE session_bridge_schema SET version = 2").await;
        let store = connect_as(&server.url(), Duration::from_millis(500), PREFIX, &Subject::clock()).await;
        eventually("the reason", || async {
            let outcome = store.load(&key(1)).await;
            matches!(outcome, Err(StoreError::Unavailable(why)) if why.contains("version 2 of the schema"))
        })
        .await;
    }
}

/// The `nth` block of SQL after `heading`, from 0.
fn documented(heading: &str, nth: usize) -> String {
    let (_, after) = OPERATING.split_once(heading).expect("a heading");
    let mut blocks = after.split("```sql\n").skip(1);
    let block = blocks.nth(nth).expect("a block");
    block.split("```").next().expect("its end").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_can_be_created_by_hand_and_joined_as_documented() {
    for (kind, create, join) in [(Kind::Postgres, 0, 2), (Kind::MariaDb, 1, 3)] {
        let server = SqlServer::start(kind);
        let (user, may) = match kind {
            Kind::Postgres => (
                "CREATE ROLE app LOGIN PASSWORD 'secret'",
                "GRANT SELECT, INSERT, UPDATE, DELETE ON session_bridge_records, session_bridge_schema TO app",
            ),
            Kind::MariaDb => (
                "CREATE USER app IDENTIFIED BY 'secret'",
                "GRANT SELECT, INSERT, UPDATE, DELETE ON shop.* TO app",
            ),
        };
        server.query(user).await;
        if kind == Kind::MariaDb {
            server.query(may).await;
        }
        let store = connect_as(&server.url_as("app:secret"), PATIENT, PREFIX, &Subject::clock()).await;
        let by = Instant::now() + Duration::from_secs(10);
        let watch = connect_as(
            &server.url_as("app:secret"),
            Duration::from_millis(500),
            PREFIX,
            &Subject::clock(),
        )
        .await;
        loop {
            match watch.ping().await {
                Err(StoreError::Unavailable(why)) if why.contains("the tables cannot be created") => break,
                other => assert!(Instant::now() < by, "{other:?}"),
            }
        }
        for statement in documented("### The tables", create).split(";\n") {
            if !statement.trim().is_empty() {
                server.query(statement).await;
            }
        }
        if kind == Kind::Postgres {
            server.query(may).await;
        }
        let id = "9e201bab-1ccf-47d1-82e0-90d71ee5fd2c";
        let digest: [u8; 16] = Sha256::digest(id)[..16].try_into().unwrap();
        let key = Key::from_digest(digest);
        assert_eq!(store.create(&key, record(1, "x", LONG), None).await, Ok(Created::Won));
        server
            .query("CREATE TABLE customers (install_id varchar(36), number bigint)")
            .await;
        server
            .query(&format!("INSERT INTO customers VALUES ('{id}', 42), ('other', 43)"))
            .await;
        assert_eq!(server.query(&documented("### The tables", join)).await, Some(42));
        store.remove(&key, version(1)).await.unwrap();
        assert_eq!(server.query(&documented("### The tables", join)).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bridges_with_prefixes_of_their_own_share_the_tables_and_nothing_else() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let long = "x".repeat(128);
        let one = connect_as(&server.url(), PATIENT, &long, &Subject::clock()).await;
        let other = connect_as(&server.url(), PATIENT, &long.to_uppercase(), &Subject::clock()).await;
        assert_eq!(
            one.create(&key(1), record(1, "one", LONG), None).await,
            Ok(Created::Won)
        );
        assert_eq!(other.load(&key(1)).await, Ok(None));
        assert_eq!(
            other.create(&key(1), record(1, "other", LONG), None).await,
            Ok(Created::Won)
        );
        assert_eq!(one.load(&key(1)).await.unwrap().expect("a record").payload.0, "one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_is_swept_by_one_replica_at_a_time() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let stores = [connect(&server, PATIENT).await, connect(&server, PATIENT).await];
        // Somebody else is at it.
        server
            .query("UPDATE session_bridge_schema SET sweep_until = 9000000000000000")
            .await;
        let short = Duration::from_millis(300);
        let writes = (0..450).map(|n| {
            let store = &stores[0];
            async move { store.create(&key(n), record(1, "old", short), None).await }
        });
        assert!(
            join_all(writes)
                .await
                .iter()
                .all(|outcome| *outcome == Ok(Created::Won))
        );
        stores[0]
            .create(&key(1000), record(1, "kept", LONG), None)
            .await
            .unwrap();
        stores[1].acquire_lease(&key(1001), token(1), LONG).await.unwrap();
        eventually("its end", || async { stores[1].load(&key(449)).await == Ok(None) }).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(rows(&server).await, 452, "nobody else sweeps meanwhile");
        // It died.
        server.query("UPDATE session_bridge_schema SET sweep_until = 0").await;
        eventually("two rows are left", || async { rows(&server).await == 2 }).await;
        assert!(stores[0].load(&key(1000)).await.unwrap().is_some());
        assert!(stores[0].observe(&key(1001)).await.unwrap().1.held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_what_was_removed() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let store = connect(&server, PATIENT).await;
        store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
        store
            .create(&key(1), record(1, "x", LONG), Some(token(1)))
            .await
            .unwrap();
        store.release_lease(&key(1), token(1), LeaseEnd::Plain).await.unwrap();
        assert_eq!(rows(&server).await, 1);
        store.remove(&key(1), version(1)).await.unwrap();
        assert_eq!(rows(&server).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_holds_is_alive_whatever_the_clock_of_the_replica_says() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let clock = ManualClock::at(Timestamp::from_millis(1000));
        let store = connect_as(&server.url(), PATIENT, PREFIX, &clock).await;
        store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
        store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
        clock.advance(LONG * 2);
        assert!(store.load(&key(1)).await.unwrap().is_some());
        assert_eq!(store.renew_lease(&key(1), token(1), LONG).await, Ok(true));
        let outcome = store
            .replace(&key(1), version(1), record(2, "y", LONG), Some(token(1)))
            .await;
        assert_eq!(outcome, Ok(Replaced::Done));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_costs_each_call_its_deadline_and_no_connection_for_good() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let timeout = Duration::from_millis(400);
        let url = format!("{}?max_connections=2", server.url());
        let store = connect_as(&url, timeout, PREFIX, &Subject::clock()).await;
        eventually("a connection", || async { store.ping().await.is_ok() }).await;
        store.create(&key(1), record(1, "kept", LONG), None).await.unwrap();
        for _ in 0..3 {
            server.stop();
            let asked = Instant::now();
            let (reads, changes) = tokio::join!(
                join_all((1..6).map(|n| {
                    let store = &store;
                    async move { store.load(&key(n)).await }
                })),
                join_all((10..16).map(|n| {
                    let store = &store;
                    async move { store.create(&key(n), record(1, "x", LONG), None).await }
                })),
            );
            assert!(asked.elapsed() < timeout + SLACK, "{:?}", asked.elapsed());
            for outcome in reads {
                assert!(
                    matches!(outcome, Err(StoreError::Timeout | StoreError::Unavailable(_))),
                    "{outcome:?}"
                );
            }
            for outcome in changes {
                // All of them look before they write.
                assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
            }
            server.resume();
            let back = Instant::now();
            eventually("an answer", || async { store.load(&key(1)).await.is_ok() }).await;
            assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
            let all = join_all((1..6).map(|n| {
                let store = &store;
                async move { store.load(&key(n)).await }
            }));
            assert!(all.await.iter().all(Result::is_ok));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_vanished_without_a_word_takes_no_place_in_the_pool() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let gate = Gate::to(([127, 0, 0, 1], server.port()).into()).await;
        let timeout = Duration::from_millis(400);
        let url = format!(
            "{}?max_connections=2",
            server.url_at("bridge:p%40ss%2Fword", gate.port())
        );
        let store = connect_as(&url, timeout, PREFIX, &Subject::clock()).await;
        eventually("a connection", || async { store.ping().await.is_ok() }).await;
        for _ in 0..4 {
            gate.half_open();
            let asked = Instant::now();
            let outcomes = join_all((0..6).map(|n| {
                let store = &store;
                async move { store.load(&key(n)).await }
            }));
            let outcomes = outcomes.await;
            assert!(asked.elapsed() < timeout + SLACK, "{:?}", asked.elapsed());
            drop(outcomes);
            eventually("an answer", || async { store.load(&key(1)).await.is_ok() }).await;
        }
        let asked = Instant::now();
        let all = join_all((0..20).map(|n| {
            let store = &store;
            async move { store.load(&key(n)).await }
        }));
        assert!(all.await.iter().all(Result::is_ok));
        assert!(asked.elapsed() < timeout, "{:?}", asked.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_changes_outlive_the_loss_of_idle_connections() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let store = connect(&server, PATIENT).await;
        store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
        for seq in 1..6 {
            server.query(&kill_all(kind)).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(store.load(&key(1)).await.unwrap().is_some());
            server.query(&kill_all(kind)).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            // It reads first, and so finds out in time.
            let outcome = store
                .replace(&key(1), version(seq), record(seq + 1, "y", LONG), None)
                .await;
            assert_eq!(outcome, Ok(Replaced::Done));
        }
    }
}

/// Ends the connections of all others.
fn kill_all(kind: Kind) -> String {
    match kind {
        Kind::Postgres => {
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
                           AND application_name = 'session-bridge'"
                .to_owned()
        }
        // There is no statement that does it for all but one's own; the user may be told to go, though.
        Kind::MariaDb => "BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1094 BEGIN END; FOR c IN (SELECT ID FROM information_schema.PROCESSLIST WHERE \
                          ID <> CONNECTION_ID() AND USER IN ('bridge', 'app')) DO KILL c.ID; END FOR; END"
            .to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_answer_is_lost_is_ambiguous_and_its_connection_is_not_used_again() {
    use sqlx::Connection as _;
    let server = SqlServer::start(Kind::Postgres);
    let store = connect(&server, Duration::from_millis(500)).await;
    store.create(&key(1), record(1, "first", LONG), None).await.unwrap();
    // Somebody holds the row.
    let mut holder = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let hold = "BEGIN; SELECT * FROM session_bridge_records FOR UPDATE;";
    sqlx::raw_sql(hold).execute(&mut holder).await.unwrap();
    let outcome = store
        .replace(&key(1), version(1), record(2, "second", LONG), None)
        .await;
    assert!(matches!(outcome, Err(StoreError::Ambiguous(_))), "{outcome:?}");
    assert_eq!(
        store.load(&key(1)).await.unwrap().expect("a record").version,
        version(1)
    );
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    // It was done after all, or was not, as its connection had gone.
    let mut seen = store.load(&key(1)).await.unwrap().expect("a record").version;
    if seen == version(1) {
        let outcome = store
            .replace(&key(1), version(1), record(2, "second", LONG), None)
            .await
            .unwrap();
        assert!(outcome == Replaced::Done || matches!(outcome, Replaced::Conflict(_)));
        seen = store.load(&key(1)).await.unwrap().expect("a record").version;
    }
    assert_eq!(seen, version(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_ran_out_while_its_write_was_on_the_way_is_no_fence() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let store = connect(&server, PATIENT).await;
        let lease = Duration::from_millis(700);
        store.acquire_lease(&key(1), token(1), lease).await.unwrap();
        // It is read in time, and written when the row is free again.
        let held = server.hold_rows(lease * 2).await;
        let outcome = store.create(&key(1), record(1, "late", LONG), Some(token(1))).await;
        assert_eq!(
            outcome,
            Ok(Created::Fenced),
            "by the clock of the database, at the moment of the write"
        );
        assert_eq!(store.load(&key(1)).await, Ok(None));
        held.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_writes_is_not_well_and_reads_go_on() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let store = connect(&server, PATIENT).await;
        store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
        let (only_reads, writes) = match kind {
            Kind::Postgres => (
                "ALTER DATABASE shop SET default_transaction_read_only = on",
                "ALTER DATABASE shop SET default_transaction_read_only = off",
            ),
            // Who may do everything may write all the same, up to this version.
            Kind::MariaDb => ("SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0"),
        };
        let store = if kind == Kind::MariaDb {
            server.query("CREATE USER app IDENTIFIED BY 'secret'").await;
            server
                .query("GRANT SELECT, INSERT, UPDATE, DELETE ON shop.* TO app")
                .await;
            connect_as(&server.url_as("app:secret"), PATIENT, PREFIX, &Subject::clock()).await
        } else {
            store
        };
        server.query(only_reads).await;
        server.query(&kill_all(kind)).await;
        let writes_again = match kind {
            Kind::Postgres => format!("BEGIN READ WRITE; {writes}; COMMIT"),
            Kind::MariaDb => writes.to_owned(),
        };
        eventually("it to be noticed", || async { store.ping().await.is_err() }).await;
        let outcome = store.replace(&key(1), version(1), record(2, "y", LONG), None).await;
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
        assert!(store.load(&key(1)).await.unwrap().is_some());
        server.query(&writes_again).await;
        server.query(&kill_all(kind)).await;
        eventually("it to be well", || async { store.ping().await.is_ok() }).await;
        let outcome = store.replace(&key(1), version(1), record(2, "y", LONG), None).await;
        assert_eq!(outcome, Ok(Replaced::Done));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_with_values_out_of_place_is_unreadable_and_stays_until_it_is_discarded() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let store = connect(&server, PATIENT).await;
        store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
        server.query("UPDATE session_bridge_records SET nonce = -1").await;
        let outcomes = [
            store.load(&key(1)).await.map(drop),
            store.create(&key(1), record(1, "x", LONG), None).await.map(drop),
            store
                .replace(&key(1), version(1), record(2, "x", LONG), None)
                .await
                .map(drop),
        ];
        for outcome in outcomes {
            let Err(StoreError::Unreadable(unreadable)) = outcome else {
                panic!("{outcome:?}");
            };
            assert_eq!((unreadable.flaw, unreadable.version), (Flaw::Garbled, None));
        }
        assert_eq!(store.discard(&key(1)).await, Ok(true));
        assert_eq!(store.load(&key(1)).await, Ok(None));
        assert_eq!(
            store.create(&key(1), record(1, "x", LONG), None).await,
            Ok(Created::Won)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_and_not_shown_and_one_in_a_file_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, format!("{}\n", crate::support::sql::PASSWORD)).unwrap();
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let wrong = connect_as(
            &server.url_as("bridge:hunter2"),
            Duration::from_millis(500),
            PREFIX,
            &Subject::clock(),
        )
        .await;
        eventually("the refusal", || async {
            let text = format!("{:?}", wrong.load(&key(1)).await);
            assert!(!text.contains("hunter2"), "{text}");
            text.contains("password authentication failed") || text.contains("Access denied")
        })
        .await;
        let right = format!("url = {:?}\npassword_file = {file:?}", server.url_as("bridge"));
        let right = open(&right, &Subject::clock()).await.unwrap();
        eventually("a connection", || async { right.ping().await.is_ok() }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_spoken_to_over_tls_as_the_url_says() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let identity = ours.issue(&["127.0.0.1"]);
    let misnamed = ours.issue(&["shop.example"]);
    for kind in BOTH {
        let start = |cert: &Path, key: &Path| {
            let (cert, key) = (text(cert), text(key));
            let mut server = SqlServer::start(kind);
            for (from, to) in [(&cert, "cert.pem"), (&key, "key.pem")] {
                std::fs::copy(from, server.directory().join(to)).unwrap();
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                std::fs::set_permissions(server.directory().join(to), mode).unwrap();
                server.hand_over(to);
            }
            let file = |name: &str| text(&server.directory().join(name));
            let arguments = match kind {
                Kind::Postgres => vec![
                    "-cssl=on".to_owned(),
                    format!("-cssl_cert_file={}", file("cert.pem")),
                    format!("-cssl_key_file={}", file("key.pem")),
                ],
                Kind::MariaDb => vec![
                    format!("--ssl-cert={}", file("cert.pem")),
                    format!("--ssl-key={}", file("key.pem")),
                ],
            };
            server.set_arguments(arguments);
            server.restart();
            server
        };
        let (mode, require, prefer, full) = match kind {
            Kind::Postgres => ("sslmode", "require", "prefer", "verify-full"),
            Kind::MariaDb => ("ssl-mode", "REQUIRED", "PREFERRED", "VERIFY_IDENTITY"),
        };
        let server = start(&identity.cert, &identity.key);
        let reached = async |server: &SqlServer, options: &str, ca: Option<&Authority>| {
            let url = format!("{}{options}", server.url());
            let store = open(&lines(&url, ca, None), &Subject::clock()).await.unwrap();
            let by = Instant::now() + Duration::from_secs(3);
            loop {
                match store.ping().await {
                    Ok(()) => return Ok(()),
                    Err(StoreError::Unavailable(why)) if why.contains("certificate") || why.contains("TLS") => {
                        return Err(why);
                    }
                    other => assert!(Instant::now() < by, "{other:?}"),
                }
            }
        };
        for (options, ca) in [
            (String::new(), Some(&ours)),
            (format!("?{mode}={full}"), Some(&ours)),
            (format!("?{mode}={require}"), None),
            (format!("?{mode}={prefer}"), None),
        ] {
            assert_eq!(reached(&server, &options, ca).await, Ok(()), "{options}");
        }
        let why = reached(&server, "", Some(&theirs)).await.unwrap_err();
        assert!(why.contains("not trusted: unknown issuer"), "{why}");
        let server = start(&misnamed.cert, &misnamed.key);
        let why = reached(&server, "", Some(&ours)).await.unwrap_err();
        assert!(why.contains("another name"), "{why}");
        // One that has no TLS.
        if kind == Kind::Postgres {
            let server = SqlServer::start(kind);
            let why = reached(&server, "?sslmode=require", None).await.unwrap_err();
            assert!(why.contains("TLS"), "{why}");
            assert_eq!(reached(&server, "?sslmode=prefer", None).await, Ok(()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_replicas_takes_the_lease() {
    for kind in BOTH {
        let server = SqlServer::start(kind);
        let stores = join_all((0..6).map(|_| connect(&server, PATIENT))).await;
        for round in 0..10 {
            let asked = (0..60).map(|n| {
                let store = Arc::clone(&stores[n % stores.len()]);
                tokio::spawn(async move { store.acquire_lease(&key(round), token(n as u128 + 1), LONG).await })
            });
            let outcomes = join_all(asked).await;
            let won = outcomes
                .iter()
                .filter(|outcome| matches!(outcome, Ok(Ok(Acquired::Won))));
            assert_eq!(won.count(), 1);
            assert!(
                outcomes.iter().all(|outcome| matches!(outcome, Ok(Ok(_)))),
                "{outcomes:?}"
            );
        }
    }
}
