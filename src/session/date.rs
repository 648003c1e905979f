//! To come: date.
