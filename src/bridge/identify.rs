//! identify.
