//! What tests need around them.

pub(crate) mod redis;
