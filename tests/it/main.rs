//! The behaviour of the bridge, seen from outside.
