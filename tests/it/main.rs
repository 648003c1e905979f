//! The behaviour of the bridge, seen from outside.

mod stores;
mod support;
