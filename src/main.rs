//! The `session-bridge` program.

fn main() {}
