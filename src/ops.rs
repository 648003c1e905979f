//! The operators' listener.

pub mod health;
pub mod sessions;
