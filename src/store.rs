//! Where sessions are kept: one file a backend, the only file that names its driver.
//!
//! | backend | what is shared | survives | for |
//! |---|---|---|---|
//! | [`memory`] | nothing: one process | nothing | trials, tests |
//! | [`sql`] (SQLite) | nothing: one process | a restart, a kill, a power cut | one machine |
//! | [`redis`] | all replicas | what Redis survives | two replicas and more |
//! | [`memcached`] | all replicas | nothing | two replicas that may lose sessions |
//! | [`sql::server`] (PostgreSQL, MySQL, MariaDB) | all replicas | what the database survives | two replicas and more |
//!
//! [`sealed`] is a layer over any of them, and [`moving`] one over two, while sessions are on their way from one to the other. [`near_cache`] lies beside [`redis`]: copies in this process of what was read
//! there.
//!
//! All of them implement [`SessionStore`](crate::session::store::SessionStore) and pass one conformance suite,
//! `tests/it/stores/contract.rs`. All but Redis, which decides in its scripts, share the deciding itself (`slot`), so that
//! they cannot differ: [`memory`] and SQLite on the truth that they have in memory, the others between a read and a write
//! on condition (`cells`).

mod cells;
pub mod memcached;
pub mod memory;
pub mod moving;
pub mod near_cache;
mod patience;
mod recent;
pub mod redis;
pub mod sealed;
mod shards;
mod slot;
pub mod sql;

use std::fmt;

/// Why a store could not be opened. It is final: trying again with the same options will not help, whereas an outage
/// of a store that was opened is a [`StoreError`](crate::session::store::StoreError).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenError(String);

impl OpenError {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}
