//! `session-bridge check`: is the configuration right, and do the store and the backend answer?

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::{ConfigArgs, EXIT_FAILED, EXIT_USAGE};
use crate::app;
use crate::config::{Config, Create, StoreUrl};
use crate::session::clock::{Clock as _, SystemClock};
use crate::session::quota::Quota;
use crate::session::store::{Key, LeaseEnd, LeaseToken, NewRecord, Payload, SessionStore, StoreError, Version};

/// How long the store may take to answer for the first time, connecting included.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long what is written to try the store out is there, should its removal fail.
const REHEARSAL: Duration = Duration::from_secs(5);

/// How often it is tried out where several servers have their shares.
const REHEARSALS: usize = 60;

/// What is to be known of Memcached.
const FORGETFUL: &str = "answers; Memcached forgets sessions when it is full, and all of them with a restart: to whom they \
                         belong that is a log-out";

/// Checks, and reports on standard output. Exit code 0 when all is well, 1 when something does not answer, 2 for a bad
/// configuration.
pub async fn run(arguments: ConfigArgs) -> ExitCode {
    let config = match arguments.load() {
        Ok(config) => config,
        Err(errors) => {
            super::health::say(&errors);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    report("configuration", &Ok("valid".to_owned()));
    let store = match config.session.create {
        Create::Derive => report("store", &Ok("none is used: session cookies are computed".to_owned())),
        Create::Capture | Create::Prefetch => report(&format!("store {}", config.store.url), &store(&config).await),
    };
    let upstream = report(&format!("upstream {}", config.upstream.url), &upstream(&config).await);
    let tls = config.server.tls.as_ref().is_none_or(|tls| {
        let usable = app::server_tls(tls).map(|_| "can be shown to clients".to_owned());
        report("certificate server.tls", &usable.map_err(text))
    });
    if store && upstream && tls {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAILED)
    }
}

fn report(what: &str, result: &Result<String, String>) -> bool {
    let (mark, text) = match result {
        Ok(text) => ("ok    ", text),
        Err(text) => ("FAILED", text),
    };
    // There is nobody to tell that telling failed; the exit code says enough.
    let _ = writeln!(std::io::stdout(), "{mark}  {what}: {text}");
    result.is_ok()
}

async fn store(config: &Config) -> Result<String, String> {
    let store = &config.store;
    // To look is not to create: the file would belong to whoever checks.
    if let StoreUrl::Sqlite { path } = &store.url
        && !path.exists()
    {
        return will_be_created(path);
    }
    let opened = app::open_store_and_copies(config, Arc::new(SystemClock)).await;
    let (opened, _copies) = opened.map_err(|error| {
        let text = error.to_string();
        // The line begins with the store already.
        text.strip_prefix("store.url: ").map(str::to_owned).unwrap_or(text)
    })?;
    let deadline = Instant::now() + PATIENCE;
    let answer = loop {
        match opened.ping().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
            answer => break answer,
        }
    };
    let outcome = match (answer, &store.url) {
        (Err(error), _) => Err(error),
        (Ok(()), StoreUrl::Redis(_) | StoreUrl::Sql(_)) => rehearse(&*opened, config.limits.is_set()).await,
        (Ok(()), StoreUrl::Memcached(_)) => rehearse_often(&*opened, config.limits.is_set()).await,
        (Ok(()), StoreUrl::Memory | StoreUrl::Sqlite { .. }) => Ok(false),
    };
    let unreplicated = opened.stats().unreplicated;
    opened.close().await.map_err(text)?;
    let told = outcome.map_err(text)?;
    // While sessions are moved there are no copies.
    if config.near_cache.enabled && !told && store.moving_to.is_none() {
        return Err("answers, but refuses what near_cache.enabled needs: CLIENT TRACKING, PTTL".to_owned());
    }
    Ok(match unreplicated {
        0 if matches!(store.url, StoreUrl::Memcached(_)) => FORGETFUL.to_owned(),
        0 => "answers".to_owned(),
        _ => "answers, but fewer replicas than store.wait_replicas have what is written".to_owned(),
    })
}

/// So often that each of a few servers has its turn.
async fn rehearse_often(store: &dyn SessionStore, counts: bool) -> Result<bool, StoreError> {
    for _ in 0..REHEARSALS {
        rehearse(store, counts).await?;
    }
    Ok(false)
}

/// Does what requests do, for an installation that there is not: the user may lack the right to some of it.
/// Whether what was read could be kept as a copy. `counts`: there are limits on new sessions.
async fn rehearse(store: &dyn SessionStore, counts: bool) -> Result<bool, StoreError> {
    let key = Key::from_digest(*Uuid::new_v4().as_bytes());
    let token = LeaseToken(Uuid::new_v4().as_u128());
    let record = |seq| NewRecord {
        version: Version { seq, nonce: 0 },
        ttl: REHEARSAL,
        payload: Payload(Bytes::from_static(&[1])),
    };
    let (first, second) = (record(1), record(2));
    let (begun, changed) = (first.version, second.version);
    store.acquire_lease(&key, token, REHEARSAL).await?;
    store.renew_lease(&key, token, REHEARSAL).await?;
    store.create(&key, first, Some(token)).await?;
    store.touch(&key, begun, REHEARSAL).await?;
    store.replace(&key, begun, second, None).await?;
    let (_, pass) = store.load_to_keep(&key).await?;
    store.observe(&key).await?;
    store.remove(&key, changed).await?;
    store.release_lease(&key, token, LeaseEnd::Barren).await?;
    if counts {
        let quota = Quota {
            most: 1,
            within: REHEARSAL,
        };
        store.take_place(&key, quota, SystemClock.now()).await?;
    }
    Ok(pass.is_some())
}

fn will_be_created(path: &Path) -> Result<String, String> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if folder.is_dir() {
        Ok("not there yet; it is created when the bridge starts".to_owned())
    } else {
        Err(format!("the folder {} does not exist", folder.display()))
    }
}

async fn upstream(config: &Config) -> Result<String, String> {
    app::upstream(&config.upstream)
        .map_err(text)?
        .probe()
        .await
        .map(|()| "accepts connections".to_owned())
        .map_err(text)
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}
