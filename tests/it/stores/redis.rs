//! What is particular to the store in Redis.
