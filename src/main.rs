//! The `session-bridge` program: arguments in, an exit code out.

use std::process::ExitCode;

use clap::Parser;
use session_bridge::cli::{self, Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().into_command() {
        Command::Serve(arguments) => cli::serve::run(arguments).await,
        Command::Demo => cli::demo::run().await,
        Command::Check(arguments) => cli::check::run(arguments).await,
        Command::Sessions(command) => cli::sessions::run(command).await,
        Command::Health(arguments) => cli::health::run(arguments).await,
    }
}
