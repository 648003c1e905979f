//! Where sessions are kept: one file a backend, the only file that names its driver.

pub mod memory;
pub mod redis;
pub mod sql;
