//! The store in a database server, PostgreSQL or MySQL and MariaDB: what replicas share.
//!
//! * **One row an installation** holds the record and the lease (`statements` has the tables). Each change is a read, a
//!   decision by the code that all stores share, and a conditional write of that row by its primary key, see `cells`:
//!   single statements, no transaction that is open across the network, and so no lock for others to wait for.
//! * **Time** is the database's, in every comparison that decides.
//! * **Connections** (`pool`) are made when they are needed, up to a limit. One that did not answer in time is closed and
//!   never used again: its answer could be taken for that of another question.
//! * **The schema** is created and migrated by whichever replica comes first (`schema`), and what has expired is deleted in
//!   small batches by one replica at a time (`keeper`). A database that is not there yet is no error: see
//!   [`SessionStore::ping`].
//! * **Errors.** A refusal by the database means that nothing happened: [`StoreError::Unavailable`]. When the answer to a
//!   write is lost (deadline, broken connection, a server that is being shut down), it is [`StoreError::Ambiguous`].

mod connection;
mod keeper;
mod options;
mod pool;
mod rows;
mod schema;
mod statements;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub use self::options::{Database, Encryption, SqlOptions};

use self::connection::{Fate, Value};
use self::pool::Pool;
use self::statements::Statements;
use super::table;
use crate::session::clock::{Clock, Timestamp};
use crate::session::store::{Cursor, Key, KeyPage, SessionStore, StoreError, StoreStats};
use crate::store::cells::{Cell, CellStore, Cells, Reading};
use crate::store::patience::within;

/// Records and leases in a database server. It connects when it is asked: a server that is not there yet is no error
/// here, see [`SessionStore::ping`]. `clock` tells the `expires_at` of records, nothing else.
///
/// Must be called inside a Tokio runtime; a background task prepares the schema and sweeps until the store is dropped.
#[must_use]
pub fn connect(options: SqlOptions, clock: Arc<dyn Clock>) -> impl SessionStore {
    let (timeout, database) = (options.timeout, options.database);
    let prefix = options.key_prefix.clone();
    let pool = Pool::new(options);
    let (told, prepared) = watch::channel(Prepared::NotYet("the database was not asked yet".into()));
    let statements = Statements::of(database);
    let keeper = tokio::spawn(keeper::keep(Arc::clone(&pool), statements, told));
    let rows = Rows {
        pool,
        statements,
        prefix,
        prepared,
        kind: database.kind(),
        _keeper: AbortOnDropHandle::new(keeper),
    };
    CellStore::new(rows, clock, timeout)
}

/// Whether the tables are there.
#[derive(Clone, Debug)]
enum Prepared {
    /// Why not, so far.
    NotYet(String),
    Yes,
}

/// The table as cells.
struct Rows {
    pool: Arc<Pool>,
    statements: &'static Statements,
    prefix: String,
    prepared: watch::Receiver<Prepared>,
    kind: &'static str,
    /// Ends the work in the background with the store.
    _keeper: AbortOnDropHandle<()>,
}

impl Rows {
    /// Waits until the tables are there.
    async fn prepared(&self, by: Instant) -> Result<(), StoreError> {
        if matches!(*self.prepared.borrow(), Prepared::Yes) {
            return Ok(());
        }
        let mut prepared = self.prepared.clone();
        let until = prepared.wait_for(|prepared| matches!(prepared, Prepared::Yes));
        match within(by, until).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => match &*self.prepared.borrow() {
                Prepared::Yes => Ok(()),
                Prepared::NotYet(why) => Err(StoreError::Unavailable(why.clone())),
            },
        }
    }

    /// The values of a row's primary key.
    fn name<'a>(&'a self, key: &'a Key) -> [Value<'a>; 2] {
        [Value::Text(&self.prefix), Value::Bytes(key.as_bytes())]
    }
}

/// A write that was refused since others were at that row, and that may be tried again.
fn outdone(error: &sqlx::Error) -> bool {
    matches!(connection::fate(error), Fate::Outdone)
}

impl Cells for Rows {
    type Tag = i64;

    async fn read(&self, key: &Key, by: Instant) -> Result<Reading<i64>, StoreError> {
        self.prepared(by).await?;
        // A server that was restarted has closed the connections that were idle meanwhile; that is noticed by asking.
        let name = self.name(key);
        for again in [true, false] {
            let mut lent = self.pool.take(by).await?;
            match within(by, lent.fetch(self.statements.read, &name)).await {
                Some(Ok(row)) => {
                    lent.give_back();
                    return rows::reading(row.as_ref());
                }
                Some(Err(error)) if connection::is_broken(&error) && again => self.pool.forget_idle(),
                Some(Err(error)) => {
                    lent.settle(&error);
                    return Err(StoreError::Unavailable(connection::reason(&error)));
                }
                None => return Err(StoreError::Timeout),
            }
        }
        Err(StoreError::Unavailable("the connection was lost".into()))
    }

    async fn write(
        &self,
        key: &Key,
        read: Option<&i64>,
        cell: Option<&Cell>,
        until: Timestamp,
        by: Instant,
    ) -> Result<bool, StoreError> {
        let [prefix, digest] = self.name(key);
        let until = Value::Int(rows::millis(until));
        let mut values = Vec::with_capacity(16);
        let statement = match (read, cell) {
            (None, None) => return Ok(true),
            (Some(tag), None) => {
                values.extend([prefix, digest, Value::Int(*tag), until]);
                self.statements.delete
            }
            (Some(tag), Some(cell)) => {
                rows::push(&mut values, cell);
                values.extend([prefix, digest, Value::Int(*tag), until]);
                self.statements.update
            }
            (None, Some(cell)) => {
                rows::push(&mut values, cell);
                values.extend([prefix, digest]);
                self.statements.insert
            }
        };
        let mut lent = self.pool.take(by).await?;
        match within(by, lent.execute(statement, &values)).await {
            Some(Ok(rows)) => {
                lent.give_back();
                Ok(rows > 0)
            }
            Some(Err(error)) => {
                lent.settle(&error);
                match connection::fate(&error) {
                    Fate::Outdone => Ok(false),
                    Fate::Refused => Err(StoreError::Unavailable(connection::reason(&error))),
                    Fate::Unknown => Err(StoreError::Ambiguous(connection::reason(&error))),
                }
            }
            // Dropped, the connection is closed.
            None => Err(StoreError::Ambiguous("no answer in time".into())),
        }
    }

    async fn keys(&self, after: Option<Cursor>, by: Instant) -> Result<KeyPage, StoreError> {
        self.prepared(by).await?;
        let after = after.map_or_else(Vec::new, |after| after.0);
        let values = [Value::Text(&self.prefix), Value::Bytes(&after)];
        let mut lent = self.pool.take(by).await?;
        match within(by, lent.fetch_all(self.statements.list, &values)).await {
            Some(Ok(rows)) => {
                lent.give_back();
                let digests = rows.iter().filter_map(|row| row.bytes(0).ok().flatten());
                Ok(table::page(digests.collect()))
            }
            Some(Err(error)) => {
                lent.settle(&error);
                Err(StoreError::Unavailable(connection::reason(&error)))
            }
            None => Err(StoreError::Timeout),
        }
    }

    async fn ping(&self, by: Instant) -> Result<(), StoreError> {
        self.prepared(by).await?;
        for again in [true, false] {
            let mut lent = self.pool.take(by).await?;
            match within(by, lent.execute(self.statements.probe, &[])).await {
                Some(Ok(_)) => {
                    lent.give_back();
                    return Ok(());
                }
                Some(Err(error)) if outdone(&error) => {
                    lent.give_back();
                    return Ok(());
                }
                Some(Err(error)) if connection::is_broken(&error) && again => self.pool.forget_idle(),
                Some(Err(error)) => {
                    lent.settle(&error);
                    return Err(StoreError::Unavailable(connection::reason(&error)));
                }
                None => return Err(StoreError::Timeout),
            }
        }
        Err(StoreError::Unavailable("the connection was lost".into()))
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            reconnects: self.pool.reconnects(),
            unreplicated: 0,
        }
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
