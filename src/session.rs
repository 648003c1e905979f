//! The core: identity, cookies, the stored record and the rules by which it changes.
//!
//! Pure code: nothing here waits, opens a socket or asks the time. What the outside must provide is stated as a
//! trait: [`store::SessionStore`] for what replicas share, [`clock::Clock`] for the time.

pub mod clock;
pub mod cookie;
pub mod copies;
pub mod credential;
pub mod date;
pub mod glob;
pub mod install_id;
pub mod jar;
pub mod key_hash;
pub mod lineage;
pub mod merge;
pub mod newest;
pub mod past;
pub mod quota;
pub mod record;
pub mod removal;
pub mod store;
