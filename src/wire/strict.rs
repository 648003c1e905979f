//! strict.
