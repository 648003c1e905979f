//! The judge of a request's framing.

#[allow(unused_imports, reason = "the server, which is not here, uses them")]
pub mod strict;
