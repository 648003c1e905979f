//! refuse.
