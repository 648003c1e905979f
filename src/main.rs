//! The `session-bridge` program: arguments in, an exit code out.

use std::num::NonZero;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use session_bridge::cli::{self, Cli, Command};
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long threads may take at the end that cannot be told to stop, such as one that waits for a name to be resolved.
const LAST_THREADS: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            cli::health::say(&format_args!("the runtime cannot start: {error}"));
            return ExitCode::from(cli::EXIT_FAILED);
        }
    };
    let code = runtime.block_on(run());
    runtime.shutdown_timeout(LAST_THREADS);
    code
}

/// On one core there is nobody to share the work with: a scheduler that would is only in the way.
fn runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut builder = if cores > 1 {
        Builder::new_multi_thread()
    } else {
        Builder::new_current_thread()
    };
    builder.enable_all().build()
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
