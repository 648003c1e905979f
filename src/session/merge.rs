//! To come: merge.
