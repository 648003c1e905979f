//! The `session-bridge` program: arguments in, an exit code out.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use session_bridge::cli::{self, Cli, Command};
use session_bridge::telemetry;
use tokio::runtime::Builder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long threads may take at the end that cannot be told to stop, such as one that waits for a name to be resolved.
const LAST_THREADS: Duration = Duration::from_millis(100);

/// How long what reads the log may take for its last lines.
const LAST_LINES: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let runtime = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            cli::health::say(&format_args!("the runtime cannot start: {error}"));
            return ExitCode::from(cli::EXIT_FAILED);
        }
    };
    let code = runtime.block_on(run());
    runtime.shutdown_timeout(LAST_THREADS);
    telemetry::flush(LAST_LINES);
    code
}

async fn run() -> ExitCode {
    match Cli::parse().into_command() {
        Command::Serve(arguments) => cli::serve::run(arguments).await,
        Command::Demo => cli::demo::run().await,
        Command::Check(arguments) => cli::check::run(arguments).await,
        Command::Sessions(command) => cli::sessions::run(command).await,
        Command::Health(arguments) => cli::health::run(arguments).await,
    }
}
