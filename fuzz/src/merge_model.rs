//! What the rules of the merge come to for somebody who remembers everything; the product's own tests use it too.

#[path = "../../src/session/merge/tests/model.rs"]
mod model;

pub(crate) use model::*;

use crate::session::record::Rank;
