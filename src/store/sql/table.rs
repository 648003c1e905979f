//! The table: its schema, and every statement.
//!
//! ```text
//! records
//!   digest      16 bytes, the key
//!   seq         the version, as a signed 64-bit number of the same bits
//!   nonce       the version
//!   expires_at  milliseconds since the Unix epoch
//!   payload     the encoded record
//! ```
//!
//! `PRAGMA user_version` tells the version of the schema. The statements are plain enough for other databases.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Row};

use crate::session::clock::Timestamp;
use crate::session::store::{Cursor, Flaw, Key, KeyPage, Payload, StoreError, Stored, Unreadable, Version};
use crate::store::OpenError;

/// The version of the schema that this program reads and writes.
const SCHEMA: i64 = 1;

const CREATE: &str = "
BEGIN IMMEDIATE;
CREATE TABLE records (
    digest BLOB NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL,
    nonce BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    payload BLOB NOT NULL
);
CREATE INDEX records_expires_at ON records (expires_at);
PRAGMA user_version = 1;
COMMIT;
";

const SELECT: &str = "SELECT seq, nonce, expires_at, payload FROM records WHERE digest = $1";

/// How many keys are listed at once.
pub(super) const KEYS: usize = 1000;

const LIST: &str = "SELECT digest FROM records WHERE digest > $1 ORDER BY digest LIMIT 1000";

const UPSERT: &str = "INSERT INTO records (digest, seq, nonce, expires_at, payload) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (digest) DO UPDATE
SET seq = excluded.seq, nonce = excluded.nonce, expires_at = excluded.expires_at, payload = excluded.payload";

const TOUCH: &str = "UPDATE records SET expires_at = $2 WHERE digest = $1";

const DELETE: &str = "DELETE FROM records WHERE digest = $1";

/// Without any lock, so that nobody waits for a sweep that has nothing to do.
const EXPIRED: &str = "SELECT count(*) FROM (SELECT 1 FROM records WHERE expires_at <= $1 LIMIT 1) AS expired";

const SWEEP: &str = "DELETE FROM records WHERE digest IN
(SELECT digest FROM records WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)
RETURNING digest";

/// Opens the file for writing, and creates the table where there is none.
pub(super) async fn open(path: &Path, patience: Duration) -> Result<SqliteConnection, OpenError> {
    let cannot = |error: &sqlx::Error| OpenError::new(format!("cannot use {}: {}", path.display(), reason(error)));
    // FULL: a commit is on the disk before it is answered, so it survives a power cut. NORMAL would survive a kill
    // only; what it saves is little here, since all that is waiting shares one commit.
    let mut connection = options(path, patience)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .connect()
        .await
        .map_err(|error| cannot(&error))?;
    let schema: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut connection)
        .await
        .map_err(|error| cannot(&error))?;
    match schema {
        SCHEMA => {}
        0 => run(&mut connection, CREATE).await.map_err(|error| cannot(&error))?,
        other => {
            return Err(OpenError::new(format!(
                "{} has version {other} of the schema; this program knows {SCHEMA}",
                path.display()
            )));
        }
    }
    Ok(connection)
}

/// Opens the file, which is there, for reading.
pub(super) async fn open_reader(path: &Path, patience: Duration) -> Result<SqliteConnection, OpenError> {
    let opened = options(path, patience).read_only(true).connect().await;
    opened.map_err(|error| OpenError::new(format!("cannot read {}: {}", path.display(), reason(&error))))
}

fn options(path: &Path, patience: Duration) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(patience)
        .disable_statement_logging()
}

/// The row of `key`; it may have expired.
pub(super) async fn select(connection: &mut SqliteConnection, key: &Key) -> Result<Option<Stored>, StoreError> {
    let row = sqlx::query(SELECT)
        .bind(key.as_bytes().as_slice())
        .fetch_optional(connection)
        .await;
    let row = row.map_err(|error| failed(&error))?;
    Ok(row.map(|row| stored(&row)).transpose()?)
}

fn stored(row: &SqliteRow) -> Result<Stored, Unreadable> {
    let fields = || -> sqlx::Result<(i64, i64, i64, Vec<u8>)> {
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))
    };
    let corrupt = || Unreadable::new(Flaw::Garbled, "a row of the table with a value out of place");
    let (seq, nonce, expires_at, payload) = fields().map_err(|_| corrupt())?;
    Ok(Stored {
        version: Version {
            seq: seq.cast_unsigned(),
            nonce: u32::try_from(nonce).map_err(|_| corrupt())?,
        },
        expires_at: Timestamp::from_millis(u64::try_from(expires_at).map_err(|_| corrupt())?),
        payload: Payload(Bytes::from(payload)),
    })
}

/// The keys after `after`, [`KEYS`] at most.
pub(super) async fn keys(connection: &mut SqliteConnection, after: Option<Cursor>) -> Result<KeyPage, StoreError> {
    let after = after.map_or_else(Vec::new, |after| after.0);
    let rows: sqlx::Result<Vec<Vec<u8>>> = sqlx::query_scalar(LIST).bind(after).fetch_all(connection).await;
    Ok(page(rows.map_err(|error| failed(&error))?))
}

/// A part of the list of all keys, made of the digests in it.
pub(super) fn page(digests: Vec<Vec<u8>>) -> KeyPage {
    let next = digests.last().filter(|_| digests.len() >= KEYS).cloned().map(Cursor);
    let keys = digests
        .into_iter()
        .filter_map(|digest| <[u8; 16]>::try_from(digest).ok());
    KeyPage {
        keys: keys.map(Key::from_digest).collect(),
        next,
    }
}

/// Brings the row of `key` from `before` to `after`.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    key: &Key,
    before: Option<&Stored>,
    after: Option<&Stored>,
) -> sqlx::Result<()> {
    let digest = key.as_bytes().as_slice();
    let query = match (before, after) {
        (_, None) => sqlx::query(DELETE).bind(digest),
        (Some(before), Some(after)) if before.version == after.version && before.payload == after.payload => {
            sqlx::query(TOUCH).bind(digest).bind(millis(after.expires_at))
        }
        (_, Some(after)) => sqlx::query(UPSERT)
            .bind(digest)
            .bind(after.version.seq.cast_signed())
            .bind(i64::from(after.version.nonce))
            .bind(millis(after.expires_at))
            .bind(after.payload.0.as_ref()),
    };
    query.execute(connection).await.map(drop)
}

/// Deletes the row of `key` if it cannot be read as a record, and says whether it did. Nobody else may write meanwhile.
pub(super) async fn discard(connection: &mut SqliteConnection, key: &Key) -> Result<bool, StoreError> {
    match select(connection, key).await {
        Err(StoreError::Unreadable(_)) => {}
        other => return other.map(|_| false),
    }
    let deleted = sqlx::query(DELETE)
        .bind(key.as_bytes().as_slice())
        .execute(connection)
        .await;
    deleted.map(|_| true).map_err(|error| failed(&error))
}

/// Deletes what had expired by `now`, the oldest first, `limit` rows at most, and says which.
pub(super) async fn sweep(connection: &mut SqliteConnection, now: Timestamp, limit: u32) -> sqlx::Result<Vec<Key>> {
    let expired: i64 = sqlx::query_scalar(EXPIRED)
        .bind(millis(now))
        .fetch_one(&mut *connection)
        .await?;
    if expired == 0 {
        return Ok(Vec::new());
    }
    let gone: Vec<Vec<u8>> = sqlx::query_scalar(SWEEP)
        .bind(millis(now))
        .bind(limit)
        .fetch_all(connection)
        .await?;
    Ok(gone
        .into_iter()
        .filter_map(|digest| <[u8; 16]>::try_from(digest).ok().map(Key::from_digest))
        .collect())
}

/// Writes something that changes nothing, to see whether that can be done. Part of a transaction.
pub(super) const PROBE: &str = "PRAGMA user_version = 1";

/// Runs a statement without parameters.
pub(super) async fn run(connection: &mut SqliteConnection, statement: &'static str) -> sqlx::Result<()> {
    sqlx::raw_sql(statement).execute(connection).await.map(drop)
}

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

/// What an error means to one who asked for something that was not done.
pub(super) fn failed(error: &sqlx::Error) -> StoreError {
    const CORRUPT: i32 = 11;
    const NOT_A_DATABASE: i32 = 26;
    match code(error) {
        Some(CORRUPT | NOT_A_DATABASE) => StoreError::Corrupt(reason(error)),
        _ => StoreError::Unavailable(reason(error)),
    }
}

/// Whether a failed COMMIT has certainly not happened: there was no room, or no lock to be had.
pub(super) fn undone(error: &sqlx::Error) -> bool {
    const BUSY: i32 = 5;
    const FULL: i32 = 13;
    matches!(code(error), Some(BUSY | FULL))
}

/// The primary result code of SQLite.
fn code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<i32>().ok().map(|code| code & 0xff)
}

/// SQLite's own words. They never hold what is stored: every value is a parameter.
pub(super) fn reason(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    }
}
