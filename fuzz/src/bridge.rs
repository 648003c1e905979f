//! How an Install ID is found, and how a request goes on to the backend.

pub mod identify;
pub mod outbound;
pub mod pointer;
