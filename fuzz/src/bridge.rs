//! How an Install ID is found in a body.

pub mod identify;
pub mod pointer;
