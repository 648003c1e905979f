//! The request, top to bottom.

pub mod access;
pub mod acquire;
pub mod commit;
pub mod identify;
pub mod inbound;
pub mod outbound;
pub mod pointer;
pub mod refuse;
