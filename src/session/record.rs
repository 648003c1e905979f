//! To come: record.
