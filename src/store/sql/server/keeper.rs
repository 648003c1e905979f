//! What is done in the background: the schema is prepared, what has expired is deleted, unused connections are closed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::connection::{self, Value};
use super::pool::{Lent, Pool};
use super::statements::{SWEEP_BATCH, Statements};
use super::{Prepared, schema};

/// How soon the schema is looked at again when it could not be prepared.
const PREPARE_AGAIN: Duration = Duration::from_millis(100);

/// How long it may take: other replicas may be at it, or somebody's long transaction in the way.
const PREPARE_WITHIN: Duration = Duration::from_secs(30);

/// How often expired rows are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How long one look or one batch may take. Longer than requests are made to wait: nobody waits for it.
const SWEEP_WITHIN: Duration = Duration::from_secs(5);

/// Works until it is aborted.
pub(super) async fn keep(pool: Arc<Pool>, statements: &'static Statements, told: watch::Sender<Prepared>) {
    while let Err(why) = prepare(&pool, statements).await {
        told.send_replace(Prepared::NotYet(why));
        tokio::time::sleep(PREPARE_AGAIN).await;
    }
    told.send_replace(Prepared::Yes);
    let me = fastrand::u128(..).to_be_bytes();
    let mut failing = false;
    loop {
        pool.close_unused();
        match sweep(&pool, statements, &me).await {
            Ok(true) => continue,
            Ok(false) => failing = false,
            // An outage is told where requests meet it.
            Err(Trouble::Away) => {}
            Err(Trouble::Refused(why)) => {
                if !failing {
                    warn!(why, "what has expired could not be deleted; it is tried again");
                }
                failing = true;
            }
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

async fn prepare(pool: &Arc<Pool>, statements: &Statements) -> Result<(), String> {
    let by = Instant::now() + PREPARE_WITHIN;
    let mut lent = pool.take(by).await.map_err(|error| match error {
        crate::session::store::StoreError::Unavailable(why) => why,
        other => other.to_string(),
    })?;
    match tokio::time::timeout_at(by, schema::prepare(&mut lent, statements)).await {
        Ok(Ok(())) => {
            lent.give_back();
            Ok(())
        }
        // A transaction may be open: the connection is closed.
        Ok(Err(why)) => Err(why),
        Err(_) => Err("the tables could not be prepared in time".into()),
    }
}

/// Why a sweep came to nothing.
enum Trouble {
    Away,
    Refused(String),
}

/// Deletes one batch of what has expired, if no other replica is at it. `true` when there may be more.
async fn sweep(pool: &Arc<Pool>, statements: &Statements, me: &[u8; 16]) -> Result<bool, Trouble> {
    let by = Instant::now() + SWEEP_WITHIN;
    let mut lent = pool.take(by).await.map_err(|_| Trouble::Away)?;
    match tokio::time::timeout_at(by, batch(&mut lent, statements, me)).await {
        Ok(Ok(more)) => {
            lent.give_back();
            Ok(more)
        }
        Ok(Err(error)) => {
            let refused = error.as_database_error().is_some();
            let trouble = match refused && !super::outdone(&error) {
                true => Trouble::Refused(connection::reason(&error)),
                false => Trouble::Away,
            };
            lent.settle(&error);
            Err(trouble)
        }
        Err(_) => Err(Trouble::Away),
    }
}

async fn batch(lent: &mut Lent, statements: &Statements, me: &[u8; 16]) -> sqlx::Result<bool> {
    if lent.fetch(statements.expired, &[]).await?.is_none() {
        return Ok(false);
    }
    let who = Value::Bytes(me);
    if lent.execute(statements.lease, &[who, who]).await? == 0 {
        return Ok(false);
    }
    Ok(lent.execute(statements.sweep, &[]).await? >= SWEEP_BATCH)
}
