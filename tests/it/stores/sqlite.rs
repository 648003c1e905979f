//! What is particular to the store in an SQLite file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use session_bridge::session::clock::ManualClock;
use session_bridge::session::store::{
    Acquired, BARREN_MEMORY, Created, Flaw, LeaseEnd, LeaseState, Replaced, SessionStore, StoreError,
};
use session_bridge::store::sql::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use super::contract::{Subject, keeps_the_contract};
use super::{LONG, eventually, key, record, token, version};

/// Generous: what is late here is late because the machine is busy.
const TIMEOUT: Duration = Duration::from_secs(20);

struct Place {
    directory: TempDir,
    clock: ManualClock,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            clock: Subject::clock(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("sessions.db")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        PathBuf::from(format!("{}{suffix}", self.path().display()))
    }

    async fn open(&self) -> SqliteStore {
        self.open_within(TIMEOUT).await
    }

    async fn open_within(&self, timeout: Duration) -> SqliteStore {
        SqliteStore::open(self.path(), timeout, Arc::new(self.clock.clone()))
            .await
            .unwrap()
    }

    /// A look at the file past the store.
    async fn look(&self) -> SqliteConnection {
        SqliteConnectOptions::new()
            .filename(self.path())
            .create_if_missing(true)
            .connect()
            .await
            .unwrap()
    }
}

async fn rows(file: &mut SqliteConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM records")
        .fetch_one(file)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_the_contract() {
    keeps_the_contract(|| async {
        let place = Place::new();
        let store = Arc::new(place.open().await);
        Subject {
            store,
            clock: place.clock.clone(),
            real_time: false,
            _keep: Box::new(place),
        }
    })
    .await;
}

#[tokio::test]
async fn records_survive_a_restart_and_leases_do_not() {
    let place = Place::new();
    let store = place.open().await;
    store
        .create(&key(1), record(u64::MAX, "first", LONG), None)
        .await
        .unwrap();
    store.create(&key(2), record(1, "touched", LONG), None).await.unwrap();
    store.touch(&key(2), version(1), LONG * 2).await.unwrap();
    store.create(&key(3), record(1, "replaced", LONG), None).await.unwrap();
    store
        .replace(&key(3), version(1), record(2, "replacement", LONG), None)
        .await
        .unwrap();
    store.create(&key(4), record(1, "removed", LONG), None).await.unwrap();
    store.remove(&key(4), version(1)).await.unwrap();
    store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
    let mut before = Vec::new();
    for n in 1..=4 {
        before.push(store.load(&key(n)).await.unwrap());
    }
    store.close().await.unwrap();
    let store = place.open().await;
    for (n, before) in (1..).zip(before) {
        assert_eq!(store.load(&key(n)).await, Ok(before));
    }
    assert_eq!(store.acquire_lease(&key(1), token(2), LONG).await, Ok(Acquired::Won));
    let outcome = store
        .replace(&key(1), version(u64::MAX), record(2, "next", LONG), None)
        .await;
    assert_eq!(outcome, Ok(Replaced::Done), "a change finds what only the file holds");
}

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let place = Place::new();
    let store = place.open().await;
    for n in 0..50 {
        assert_eq!(
            store.create(&key(n), record(1, "kept", LONG), None).await,
            Ok(Created::Won)
        );
    }
    // What a killed process leaves behind is what lies there at this moment.
    let remains = Place::new();
    for suffix in ["", "-wal"] {
        std::fs::copy(place.beside(suffix), remains.beside(suffix)).unwrap();
    }
    let revived = remains.open().await;
    for n in 0..50 {
        assert_eq!(revived.load(&key(n)).await, store.load(&key(n)).await);
    }
}

#[tokio::test]
async fn a_store_that_was_only_dropped_lets_go_of_the_file() {
    let place = Place::new();
    let store = place.open().await;
    store.create(&key(1), record(1, "kept", LONG), None).await.unwrap();
    drop(store);
    assert!(place.open().await.load(&key(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    let place = Place::new();
    for suffix in ["", ".lock"] {
        std::fs::write(place.beside(suffix), "").unwrap();
        std::fs::set_permissions(place.beside(suffix), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let store = place.open().await;
    store.create(&key(1), record(1, "secret", LONG), None).await.unwrap();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mode = std::fs::metadata(place.beside(suffix)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
}

#[tokio::test]
async fn a_second_process_is_refused_and_told_which_file() {
    let place = Place::new();
    let store = place.open().await;
    let second = SqliteStore::open(place.path(), TIMEOUT, Arc::new(place.clock.clone())).await;
    let error = second.err().expect("a refusal").to_string();
    assert!(error.contains(&place.beside(".lock").display().to_string()), "{error}");
    assert_eq!(
        store.create(&key(1), record(1, "x", LONG), None).await,
        Ok(Created::Won)
    );
}

#[tokio::test]
async fn a_restart_waits_for_the_old_process_to_let_go() {
    let place = Place::new();
    let old = place.open().await;
    let leaving = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        old.close().await.unwrap();
    };
    let (new, ()) = tokio::join!(place.open(), leaving);
    assert_eq!(new.ping().await, Ok(()));
}

#[tokio::test]
async fn a_file_that_cannot_be_ours_is_refused_and_named() {
    let place = Place::new();
    std::fs::write(
        place.path(),
        "this is no database, and long enough to be seen as none ".repeat(20),
    )
    .unwrap();
    let clock = || Arc::new(place.clock.clone());
    let error = SqliteStore::open(place.path(), TIMEOUT, clock())
        .await
        .err()
        .expect("a refusal")
        .to_string();
    assert!(error.contains("sessions.db"), "{error}");

    let newer = Place::new();
    let mut file = newer.look().await;
    sqlx::raw_sql("PRAGMA user_version = 2")
        .execute(&mut file)
        .await
        .unwrap();
    file.close().await.unwrap();
    let error = SqliteStore::open(newer.path(), TIMEOUT, clock())
        .await
        .err()
        .expect("a refusal")
        .to_string();
    assert!(error.contains("sessions.db") && error.contains("version 2"), "{error}");

    let nowhere = Path::new("/nonexistent/sessions.db");
    let error = SqliteStore::open(nowhere, TIMEOUT, clock())
        .await
        .err()
        .expect("a refusal")
        .to_string();
    assert!(error.contains("/nonexistent/sessions.db"), "{error}");
}

/// How many transactions the log holds: a frame that ends one says how large the database then is.
fn commits(log: &Path) -> usize {
    let log = std::fs::read(log).unwrap();
    let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let page = usize::try_from(word(8)).unwrap();
    let salt = &log[16..24];
    let frames = (32..).step_by(24 + page).take_while(|at| at + 24 + page <= log.len());
    frames
        .filter(|at| &log[at + 8..at + 16] == salt && word(at + 4) != 0)
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_wait_together_are_committed_together() {
    let place = Place::new();
    let store = place.open().await;
    let before = commits(&place.beside("-wal"));
    store.create(&key(1000), record(1, "alone", LONG), None).await.unwrap();
    assert_eq!(commits(&place.beside("-wal")), before + 1);
    let many = (0..300).map(|n| {
        let store = &store;
        async move { store.create(&key(n), record(1, "together", LONG), None).await }
    });
    assert!(join_all(many).await.iter().all(|outcome| *outcome == Ok(Created::Won)));
    let together = commits(&place.beside("-wal")) - before - 1;
    assert!((1..=30).contains(&together), "300 changes took {together} transactions");
    // What changes no record writes nothing.
    let before = commits(&place.beside("-wal"));
    store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
    store.release_lease(&key(1), token(1), LeaseEnd::Plain).await.unwrap();
    store.create(&key(1), record(2, "late", LONG), None).await.unwrap();
    store.touch(&key(1), version(2), LONG).await.unwrap();
    store.ping().await.unwrap();
    assert_eq!(commits(&place.beside("-wal")), before);
}

#[tokio::test]
async fn what_has_expired_is_swept_from_the_file_in_the_background() {
    let place = Place::new();
    let store = place.open().await;
    join_all((0..450).map(|n| {
        let store = &store;
        async move {
            store
                .create(&key(n), record(1, "old", Duration::from_secs(1)), None)
                .await
                .unwrap()
        }
    }))
    .await;
    store.create(&key(1000), record(1, "kept", LONG), None).await.unwrap();
    store.touch(&key(7), version(1), LONG).await.unwrap();
    let mut file = place.look().await;
    assert_eq!(rows(&mut file).await, 451);
    place.clock.advance(Duration::from_secs(1));
    assert_eq!(store.load(&key(3)).await, Ok(None));
    let file = tokio::sync::Mutex::new(file);
    eventually("two rows are left", || async {
        rows(&mut *file.lock().await).await == 2
    })
    .await;
    assert!(store.load(&key(7)).await.unwrap().is_some());
    assert_eq!(
        store.create(&key(3), record(2, "new", LONG), None).await,
        Ok(Created::Won)
    );
    assert_eq!(
        store.load(&key(3)).await.unwrap().expect("a record").version,
        version(2)
    );
}

#[tokio::test]
async fn the_count_of_barren_leaders_is_forgotten_after_its_time() {
    let place = Place::new();
    let store = place.open().await;
    store.acquire_lease(&key(1), token(1), LONG).await.unwrap();
    store.release_lease(&key(1), token(1), LeaseEnd::Barren).await.unwrap();
    place.clock.advance(BARREN_MEMORY - Duration::from_millis(1));
    assert_eq!(store.observe(&key(1)).await.unwrap().1.barren, 1);
    place.clock.advance(Duration::from_millis(1));
    assert_eq!(store.observe(&key(1)).await.unwrap().1, LeaseState::default());
}

#[tokio::test]
async fn a_disk_that_takes_no_writes_fails_changes_and_nothing_else() {
    let place = Place::new();
    let store = place.open_within(Duration::from_secs(1)).await;
    store.create(&key(1), record(1, "kept", LONG), None).await.unwrap();
    let mut file = place.look().await;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut file).await.unwrap();
    let (one, two) = (key(1), key(2));
    let changes = async {
        tokio::join!(
            store.create(&two, record(1, "refused", LONG), None),
            store.replace(&one, version(1), record(2, "refused", LONG), None),
        )
    };
    let reads = async {
        loop {
            let seen = store.load(&one).await.unwrap().expect("a record").version;
            assert_eq!(
                (seen, store.load(&two).await),
                (version(1), Ok(None)),
                "seen before it is on the disk"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (refused, replaced) = tokio::select! {
        outcomes = changes => outcomes,
        () = reads => unreachable!("it never ends"),
    };
    assert!(matches!(replaced, Err(StoreError::Unavailable(_))), "{replaced:?}");
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    assert!(store.load(&key(1)).await.unwrap().is_some());
    assert_eq!(store.load(&key(2)).await, Ok(None));
    sqlx::raw_sql("ROLLBACK").execute(&mut file).await.unwrap();
    assert_eq!(store.ping().await, Ok(()));
    assert_eq!(store.load(&key(2)).await, Ok(None), "what was refused did not happen");
    assert_eq!(
        store.create(&key(2), record(1, "taken", LONG), None).await,
        Ok(Created::Won)
    );
}

/// Where the process that may write little is to put its file.
const SMALL_PLACE: &str = "SESSION_BRIDGE_TEST_SMALL_PLACE";

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_answered() {
    let place = Place::new();
    // 128 KiB a file; a write past that is an error, as on a full disk.
    let run = r#"trap '' XFSZ; ulimit -f 256; exec "$0" --exact stores::sqlite::fills_its_place --ignored --nocapture"#;
    let output = std::process::Command::new("sh")
        .args(["-c", run])
        .arg(std::env::current_exe().unwrap())
        .env(SMALL_PLACE, place.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let stored = text
        .lines()
        .find_map(|line| line.strip_prefix("stored ")?.parse::<u32>().ok())
        .expect("a number");
    assert!(stored > 0);
    let store = place.open().await;
    for n in 0..stored {
        assert!(store.load(&key(n)).await.unwrap().is_some(), "{n} of {stored}");
    }
    assert_eq!(
        store.create(&key(9999), record(1, "room again", LONG), None).await,
        Ok(Created::Won)
    );
}

#[tokio::test]
#[ignore = "run in a process of its own by the test above"]
#[allow(clippy::print_stdout, reason = "so it reports to the test above")]
async fn fills_its_place() {
    let Some(path) = std::env::var_os(SMALL_PLACE) else {
        return;
    };
    let store = SqliteStore::open(path, TIMEOUT, Arc::new(Subject::clock()))
        .await
        .unwrap();
    let filler = "x".repeat(2000);
    let mut stored = 0;
    let error = loop {
        assert!(stored < 1000, "there is no limit");
        match store.create(&key(stored), record(1, &filler, LONG), None).await {
            Ok(outcome) => assert_eq!(outcome, Created::Won),
            Err(error) => break error,
        }
        stored += 1;
    };
    assert!(
        matches!(error, StoreError::Unavailable(_) | StoreError::Ambiguous(_)),
        "{error:?}"
    );
    // What is left may take a trial write or two.
    eventually("the store to say that it cannot write", || async {
        assert!(
            store
                .create(&key(stored), record(2, &filler, LONG), None)
                .await
                .is_err()
        );
        store.ping().await.is_err()
    })
    .await;
    for n in 0..stored {
        assert!(store.load(&key(n)).await.unwrap().is_some());
    }
    assert_eq!(store.acquire_lease(&key(5000), token(1), LONG).await, Ok(Acquired::Won));
    println!("stored {stored}");
}

#[tokio::test]
async fn changes_end_by_the_deadline_while_the_file_is_locked() {
    let place = Place::new();
    let store = place.open_within(Duration::from_secs(2)).await;
    let mut file = place.look().await;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut file).await.unwrap();
    let changes = (0..4).map(|n| {
        let store = &store;
        async move {
            tokio::time::sleep(Duration::from_millis(50) * n).await;
            let started = Instant::now();
            let outcome = store.create(&key(n), record(1, "late", LONG), None).await;
            assert!(
                started.elapsed() < Duration::from_millis(2200),
                "{:?}",
                started.elapsed()
            );
            outcome
        }
    });
    for outcome in join_all(changes).await {
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut file).await.unwrap();
    store.create(&key(100), record(1, "kept", LONG), None).await.unwrap();
    assert_eq!(rows(&mut file).await, 1);
}

#[tokio::test]
async fn a_row_with_values_out_of_place_is_unreadable_and_stays_until_it_is_discarded() {
    let place = Place::new();
    place.open().await.close().await.unwrap();
    let mut file = place.look().await;
    let insert =
        "INSERT INTO records (digest, seq, nonce, expires_at, payload) VALUES ($1, 1, -1, 9000000000000000, 'x')";
    sqlx::query(insert)
        .bind(key(1).as_bytes().as_slice())
        .execute(&mut file)
        .await
        .unwrap();
    file.close().await.unwrap();
    let store = place.open().await;
    let outcomes = [
        store.load(&key(1)).await.map(drop),
        store.create(&key(1), record(1, "x", LONG), None).await.map(drop),
    ];
    for outcome in outcomes {
        let Err(StoreError::Unreadable(unreadable)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!((unreadable.flaw, unreadable.version), (Flaw::Garbled, None));
    }
    assert_eq!(
        store.create(&key(2), record(1, "x", LONG), None).await,
        Ok(Created::Won)
    );
    assert_eq!(store.discard(&key(1)).await, Ok(true));
    assert_eq!(store.load(&key(1)).await, Ok(None));
    assert_eq!(
        store.create(&key(1), record(1, "x", LONG), None).await,
        Ok(Created::Won)
    );
}
