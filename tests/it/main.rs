//! The behaviour of the bridge, seen from outside: real processes, real sockets, real backends.
//!
//! One file a behaviour; `support` is what they are made of. `tests/run` brings the programs that are needed.
//! `SESSION_BRIDGE_TEST_FULL=1` raises the counts to the full ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says why on stderr"
)]

mod architecture;
mod backends;
mod chaos;
mod commit;
mod config_cli;
mod creation;
mod demo;
mod edge;
mod failures;
mod figures;
mod gate;
mod http2_backend;
mod limits;
mod lost;
mod migration;
mod near_cache;
mod outage;
mod profiles;
mod protection;
mod proxying;
mod redundancy;
mod rolling;
mod sealing;
mod secrets;
mod service_manager;
mod shutdown;
mod single_flight;
mod stores;
mod strictness;
mod support;
mod turns;
