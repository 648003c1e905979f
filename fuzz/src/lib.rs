//! What is fuzzed, and what has to hold for every input.
//!
//! The modules `bridge`, `hex`, `session` and `wire` are the product's own files, by symbolic links: so only what is fuzzed is
//! built and instrumented, and neither a database driver nor a TLS library is needed. The rules of the layers make this
//! possible; see the top of the product's `lib.rs`.

#[allow(dead_code, reason = "not all of it is fuzzed")]
mod bridge;
#[allow(dead_code, reason = "not all of it is fuzzed")]
mod hex;
mod merge_model;
pub mod oracles;
#[path = "wire/strict/samples.rs"]
mod samples;
#[allow(dead_code, unused_imports, reason = "not all of it is fuzzed")]
mod session;
#[allow(dead_code, unused_imports, reason = "not all of it is fuzzed")]
mod wire;
