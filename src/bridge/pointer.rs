//! pointer.
