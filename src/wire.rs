//! HTTP without meaning: connections, framing, fields. Nothing here knows of sessions.

pub mod body;
pub mod fields;
mod h1;
pub mod headers;
pub mod message;
pub mod own_call;
mod reading;
pub mod server;
pub mod strict;
mod timer;
pub mod upgrade;
pub mod upstream;
