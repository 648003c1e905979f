//! A child process that never outlives its test.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::eventually;

/// A running program in a process group of its own, so that its workers die with it; killed on drop.
pub(crate) struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command` with its output going to files in `dir`. `install` is the line that installs the program.
    pub(crate) fn start(name: &str, mut command: Command, dir: &Path, install: &str) -> Self {
        let (stdout, stderr) = (dir.join(format!("{name}.stdout")), dir.join(format!("{name}.stderr")));
        let file = |path: &Path| Stdio::from(File::create(path).expect("an output file in the temporary directory"));
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file(&stdout))
            .stderr(file(&stderr));
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{name} could not be started ({:?}: {error}); to install it: {install}",
                command.get_program()
            )
        });
        Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    pub(crate) fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// Everything it has written so far.
    pub(crate) fn output(&self) -> String {
        format!("{}{}", self.stdout(), self.stderr())
    }

    /// How it ended, when it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// Waits for its end.
    pub(crate) async fn exit(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} to exit", self.name);
        let mut status = None;
        eventually(&what, deadline, async || {
            status = self.exited();
            status.is_some()
        })
        .await;
        status.expect("it has exited")
    }

    /// Sends a signal (`TERM`, `KILL`, `STOP` …) to the process and to all that it started.
    pub(crate) fn signal(&self, signal: &str) {
        let group = format!("-{}", self.child.id());
        // `kill` is a builtin of every shell; a signal to a group that is gone already is no failure.
        let _ = Command::new("sh")
            .args(["-c", "kill -s \"$0\" -- \"$1\"", signal, &group])
            .stderr(Stdio::null())
            .status();
    }

    /// Whether it has a handler for the signal of this number.
    pub(crate) fn catches(&self, signal: u32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<_> = output.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(40)..)
                .unwrap_or_default()
                .join("\n");
            eprintln!("--- the end of what {} wrote ---\n{tail}\n---", self.name);
        }
    }
}

/// Waits until a process that was sent `STOP` has stopped, with all its threads: that takes a moment.
pub(crate) fn await_stop(pid: u32) {
    let until = Instant::now() + Duration::from_secs(10);
    let is_stopped = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses. One that has ended is not reaped by a parent that has stopped.
        stat.rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']))
    };
    loop {
        let mut threads = std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten();
        if threads.all(is_stopped) {
            return;
        }
        assert!(Instant::now() < until, "process {pid} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
