//! The tables, and every statement, for either kind of database.
//!
//! ```text
//! session_bridge_records: what is known of one installation
//!   prefix           store.key_prefix: of which bridge
//!   digest           16 bytes, the key
//!   revision         drawn anew with each write
//!   seq, nonce       the version of the record, signed numbers of the same bits
//!   expires_at       of the record, by the database's clock
//!   told_expires_at  the same, by the clock of the replica that wrote or touched it last
//!   payload          the encoded record
//!   lease_token      who may start a session, 16 bytes
//!   lease_until      until when
//!   barren           how many could not, lately
//!   barren_until     until when that is remembered
//!   sweep_at         from when on none of this is of any use
//! session_bridge_schema: one row
//!   id               1
//!   version          of the schema
//!   probed_at        when a replica last tried to write
//!   sweeper          which replica deletes what has expired, 16 bytes
//!   sweep_until      until when
//! ```
//!
//! Times are milliseconds since the Unix epoch. A row may hold a record, a lease, or both; the columns of the other are
//! NULL then.
//!
//! The time is asked for in the middle of a statement (`clock_timestamp()`, `SYSDATE`), since a statement may have waited
//! for another one before it comes to compare.

use super::options::Database;

/// The version of the schema that this program reads and writes.
pub(super) const VERSION: i64 = 1;

/// How many rows a sweep deletes at once.
pub(super) const SWEEP_BATCH: u64 = 100;

/// Each statement; values in the order of their mention.
pub(super) struct Statements {
    /// The version of the schema.
    pub(super) version: &'static str,
    /// Creates what is not there. Several replicas may do that at once: PostgreSQL, where that would be an error, has them
    /// do it in turn.
    pub(super) create: &'static str,
    /// The time and the cell. Values: prefix, digest.
    pub(super) read: &'static str,
    /// Writes a cell where there is none. Values: those of a cell, prefix, digest.
    pub(super) insert: &'static str,
    /// Writes a cell in place of another one. Values: those of a cell, prefix, digest, the revision that is there, until when.
    pub(super) update: &'static str,
    /// Deletes a cell. Values: prefix, digest, the revision that is there, until when.
    pub(super) delete: &'static str,
    /// The digests of up to a thousand records. Values: prefix, the digest after which to begin.
    pub(super) list: &'static str,
    /// Writes, unless somebody just did; on a server that takes no writes that is an error either way.
    pub(super) probe: &'static str,
    /// Whether anything has expired; without any lock.
    pub(super) expired: &'static str,
    /// Becomes or stays the one that sweeps, for ten seconds. Values: who, who.
    pub(super) lease: &'static str,
    /// Deletes [`SWEEP_BATCH`] rows that have expired, the oldest first.
    pub(super) sweep: &'static str,
}

impl Statements {
    /// For this kind.
    pub(super) const fn of(database: Database) -> &'static Self {
        match database {
            Database::Postgres => &POSTGRES,
            Database::MySql => &MYSQL,
        }
    }
}

static POSTGRES: Statements = Statements {
    version: "SELECT version FROM session_bridge_schema WHERE id = 1",
    create: "BEGIN;
SELECT pg_advisory_xact_lock(7238443910612453);
CREATE TABLE IF NOT EXISTS session_bridge_records (
    prefix text NOT NULL,
    digest bytea NOT NULL,
    revision bigint NOT NULL,
    seq bigint,
    nonce bigint,
    expires_at bigint,
    told_expires_at bigint,
    payload bytea,
    lease_token bytea,
    lease_until bigint,
    barren bigint,
    barren_until bigint,
    sweep_at bigint NOT NULL,
    PRIMARY KEY (prefix, digest)
);
CREATE INDEX IF NOT EXISTS session_bridge_records_sweep_at ON session_bridge_records (sweep_at);
CREATE TABLE IF NOT EXISTS session_bridge_schema (
    id bigint NOT NULL PRIMARY KEY,
    version bigint NOT NULL,
    probed_at bigint NOT NULL,
    sweeper bytea NOT NULL,
    sweep_until bigint NOT NULL
);
INSERT INTO session_bridge_schema VALUES (1, 1, 0, '', 0) ON CONFLICT DO NOTHING;
COMMIT;",
    read: "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint, r.revision, r.seq, r.nonce, r.expires_at, r.told_expires_at, r.payload,
r.lease_token, r.lease_until, r.barren, r.barren_until
FROM (SELECT 1) AS one LEFT JOIN session_bridge_records AS r ON r.prefix = $1 AND r.digest = $2",
    insert: "INSERT INTO session_bridge_records (revision, seq, nonce, expires_at, told_expires_at, payload, lease_token, lease_until, barren, barren_until, sweep_at, prefix, digest)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING",
    update: "UPDATE session_bridge_records
SET revision = $1, seq = $2, nonce = $3, expires_at = $4, told_expires_at = $5, payload = $6, lease_token = $7, lease_until = $8, barren = $9, barren_until = $10, sweep_at = $11
WHERE prefix = $12 AND digest = $13 AND revision = $14 AND floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint < $15",
    delete: "DELETE FROM session_bridge_records
WHERE prefix = $1 AND digest = $2 AND revision = $3 AND floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint < $4",
    list: "SELECT digest FROM session_bridge_records
WHERE prefix = $1 AND digest > $2 AND payload IS NOT NULL ORDER BY digest LIMIT 1000",
    probe: "UPDATE session_bridge_schema SET probed_at = floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint WHERE id = 1 AND probed_at <= floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - 1000",
    expired: "SELECT CAST(1 AS bigint) FROM session_bridge_records WHERE sweep_at <= floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint ORDER BY sweep_at LIMIT 1",
    lease: "UPDATE session_bridge_schema SET sweeper = $1, sweep_until = floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + 10000
WHERE id = 1 AND (sweeper = $2 OR sweep_until <= floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)",
    sweep: "DELETE FROM session_bridge_records WHERE (prefix, digest) IN
(SELECT prefix, digest FROM session_bridge_records WHERE sweep_at <= floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
ORDER BY sweep_at LIMIT 100 FOR UPDATE SKIP LOCKED)",
};

static MYSQL: Statements = Statements {
    version: "SELECT version FROM session_bridge_schema WHERE id = 1",
    create: "CREATE TABLE IF NOT EXISTS session_bridge_records (
    prefix VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    digest BINARY(16) NOT NULL,
    revision BIGINT NOT NULL,
    seq BIGINT,
    nonce BIGINT,
    expires_at BIGINT,
    told_expires_at BIGINT,
    payload LONGBLOB,
    lease_token BINARY(16),
    lease_until BIGINT,
    barren BIGINT,
    barren_until BIGINT,
    sweep_at BIGINT NOT NULL,
    PRIMARY KEY (prefix, digest),
    KEY session_bridge_records_sweep_at (sweep_at)
) ENGINE = InnoDB;
CREATE TABLE IF NOT EXISTS session_bridge_schema (
    id BIGINT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL,
    probed_at BIGINT NOT NULL,
    sweeper BINARY(16) NOT NULL,
    sweep_until BIGINT NOT NULL
) ENGINE = InnoDB;
INSERT IGNORE INTO session_bridge_schema VALUES (1, 1, 0, '', 0);",
    read: "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED), r.revision, r.seq, r.nonce, r.expires_at, r.told_expires_at, r.payload,
r.lease_token, r.lease_until, r.barren, r.barren_until
FROM (SELECT 1) AS one LEFT JOIN session_bridge_records AS r ON r.prefix = ? AND r.digest = ?",
    insert: "INSERT INTO session_bridge_records (revision, seq, nonce, expires_at, told_expires_at, payload, lease_token, lease_until, barren, barren_until, sweep_at, prefix, digest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    update: "UPDATE session_bridge_records
SET revision = ?, seq = ?, nonce = ?, expires_at = ?, told_expires_at = ?, payload = ?, lease_token = ?, lease_until = ?, barren = ?, barren_until = ?, sweep_at = ?
WHERE prefix = ? AND digest = ? AND revision = ? AND CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED) < ?",
    delete: "DELETE FROM session_bridge_records
WHERE prefix = ? AND digest = ? AND revision = ? AND CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED) < ?",
    list: "SELECT digest FROM session_bridge_records
WHERE prefix = ? AND digest > ? AND payload IS NOT NULL ORDER BY digest LIMIT 1000",
    probe: "UPDATE session_bridge_schema SET probed_at = CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED) WHERE id = 1 AND probed_at <= CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED) - 1000",
    expired: "SELECT CAST(1 AS SIGNED) FROM session_bridge_records WHERE sweep_at <= CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED) ORDER BY sweep_at LIMIT 1",
    lease: "UPDATE session_bridge_schema SET sweeper = ?, sweep_until = CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED) + 10000
WHERE id = 1 AND (sweeper = ? OR sweep_until <= CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED))",
    sweep: "DELETE FROM session_bridge_records WHERE sweep_at <= CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED) ORDER BY sweep_at LIMIT 100",
};
