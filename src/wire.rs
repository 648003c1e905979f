//! HTTP without meaning: connections, framing, fields. Nothing here knows of sessions.

pub mod headers;
pub mod server;
pub mod strict;
mod timer;
pub mod upgrade;
pub mod upstream;
