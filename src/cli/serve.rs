//! `session-bridge serve`: forward requests until told to stop.

use std::process::ExitCode;

use super::health::say;
use super::{EXIT_FAILED, EXIT_USAGE, ServeArgs};
use crate::app::App;
use crate::config::{Config, Create, LogLevel};
use crate::lifecycle::Ended;
use crate::lifecycle::service_manager::ServiceManager;
use crate::lifecycle::signals::Signals;
use crate::telemetry;

/// Serves. Exit code 0 after a shutdown that dropped nothing, 1 when the bridge could not start or work had to be dropped,
/// 2 for a bad configuration.
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
        Ok(Ended::Dropped) => ExitCode::from(EXIT_FAILED),
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
    let mut signals = Signals::take_over()?;
    let mut app = tokio::select! {
        app = App::bind(config) => app?,
        signal = signals.stop() => {
            tracing::info!(signal, "stopped before the bridge was started");
            return Ok(Ended::Clean);
        }
    };
    tokio::spawn(signals.fire(app.trigger()));
    match ServiceManager::named_by(|name| std::env::var_os(name)) {
        Ok(Some(manager)) => app = app.announced_to(manager),
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the service manager is not told how the bridge is"),
    }
    let addresses = app.addresses();
    let store = match config.session.create {
        Create::Derive => "none".to_owned(),
        Create::Capture | Create::Prefetch => config.store.url.to_string(),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        traffic = %addresses.traffic,
        ops = %addresses.ops,
        upstream = %config.upstream.url,
        store,
        "listening",
    );
    Ok(app.run().await)
}
