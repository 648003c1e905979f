//! `session-bridge demo` as a newcomer meets it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::bridge::session_bridge;
use crate::support::eventually;
use crate::support::process::Process;

/// A demo that has played its steps, with its output in `dir` and its temporary files in `temporary`.
async fn playing(dir: &Path, temporary: &Path) -> Process {
    let mut command = session_bridge();
    command.arg("demo").env("TMPDIR", temporary).current_dir(dir);
    let mut demo = Process::start("session-bridge", command, dir, "cargo build");
    eventually("the demo to have played", Duration::from_secs(20), async || {
        assert_eq!(demo.exited(), None, "{}", demo.output());
        demo.stdout().contains("Ctrl-C ends the demo.")
    })
    .await;
    assert!(
        demo.stdout().contains(r#"{"basket":["tea","cup"],"name":null}"#),
        "{}",
        demo.output()
    );
    demo
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_files_are_for_nobody_else_and_go_with_it() {
    for signal in ["TERM", "INT"] {
        let (dir, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut demo = playing(dir.path(), temporary.path()).await;
        let made = entries(temporary.path());
        assert_eq!(made.len(), 1, "{made:?}");
        let mode = made[0].metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let name = made[0].file_name().unwrap().to_string_lossy().into_owned();
        let random = name.strip_prefix("session-bridge-demo-").unwrap();
        assert!(uuid::Uuid::parse_str(random).is_ok(), "nobody can guess {name}");

        demo.signal(signal);
        assert_eq!(demo.exit(Duration::from_secs(10)).await.code(), Some(0), "{signal}");
        assert!(entries(temporary.path()).is_empty(), "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_file_can_be_written_it_keeps_sessions_in_memory_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let demo = playing(dir.path(), &dir.path().join("nowhere")).await;
    assert!(
        demo.stderr().contains("sessions are kept in memory: "),
        "{}",
        demo.stderr()
    );
}
