//! `session-bridge serve`: forward requests until told to stop.

use std::process::ExitCode;

use super::health::say;
use super::{EXIT_FAILED, EXIT_USAGE, ServeArgs};
use crate::app::App;
use crate::config::{Config, LogLevel};
use crate::lifecycle::Ended;
use crate::telemetry;

/// Serves. Exit code 0 after a clean shutdown, 1 when the bridge could not start or work had to be dropped, 2 for a bad
/// configuration.
pub async fn run(arguments: ServeArgs) -> ExitCode {
    let config = match arguments.load() {
        Ok(config) => config,
        Err(errors) => {
            say(&errors);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let _last_lines = match telemetry::init(&config.log) {
        Ok(flush) => flush,
        Err(error) => {
            say(&error);
            return ExitCode::from(EXIT_FAILED);
        }
    };
    match serve(&config).await {
        Ok(Ended::Clean) => ExitCode::SUCCESS,
        Ok(Ended::Forced) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            tracing::error!(%error, "the bridge cannot start");
            if config.log.level == LogLevel::Off {
                say(&error);
            }
            ExitCode::from(EXIT_FAILED)
        }
    }
}

async fn serve(config: &Config) -> Result<Ended, Box<dyn std::error::Error>> {
    let app = App::bind(config).await?;
    app.trigger().on_signals()?;
    let addresses = app.addresses();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        traffic = %addresses.traffic,
        ops = %addresses.ops,
        upstream = %config.upstream.url,
        store = %config.store.url,
        "listening",
    );
    Ok(app.run().await)
}
