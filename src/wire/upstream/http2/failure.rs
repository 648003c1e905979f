//! What an error of the library means for a request: whether the backend has seen it (F4), and in which words it is told.

use h2::Reason;

use super::link::Status;
use crate::wire::upstream::error::UpstreamError;

/// Why a stream has no response.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) fate: Fate,
    detail: String,
}

/// What became of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing of it was written, or the backend said that it has gone away without looking at it (RFC 9113 §6.8).
    Unseen,
    /// The backend refused it before it did anything (RFC 9113 §8.7).
    Refused,
    /// The backend may have seen it.
    Seen,
    /// It was answered, with something that is no response.
    Unreadable,
}

impl Failure {
    pub(super) fn of(error: &h2::Error, stream: u32, status: &Status) -> Self {
        let refused = error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
        let fate = if refused {
            Fate::Refused
        } else if !status.watch.has_written(stream) || status.watch.disowns(stream) {
            Fate::Unseen
        } else if error.is_library() {
            Fate::Unreadable
        } else {
            Fate::Seen
        };
        Self {
            fate,
            detail: cut(error, status),
        }
    }

    /// The connection took no more streams.
    pub(super) fn unopened(error: &h2::Error) -> Self {
        Self {
            fate: Fate::Unseen,
            detail: error.to_string(),
        }
    }

    /// The same, of a request that the backend has shown to have looked at.
    pub(super) fn seen(self) -> Self {
        match self.fate {
            Fate::Unseen | Fate::Refused => Self {
                fate: Fate::Seen,
                ..self
            },
            Fate::Seen | Fate::Unreadable => self,
        }
    }

    /// What came is no response.
    pub(super) fn unreadable(what: &str) -> Self {
        Self {
            fate: Fate::Unreadable,
            detail: what.to_owned(),
        }
    }

    /// As the requester is told.
    pub(super) fn explain(self) -> UpstreamError {
        match self.fate {
            Fate::Unreadable => UpstreamError::BadResponse(self.detail),
            Fate::Unseen | Fate::Refused | Fate::Seen => UpstreamError::Reset {
                detail: self.detail,
                arrived: self.fate == Fate::Seen,
            },
        }
    }
}

/// What ended a stream, for operators.
pub(super) fn cut(error: &h2::Error, status: &Status) -> String {
    match status.verdict() {
        Some(verdict) => verdict.to_owned(),
        None => error.to_string(),
    }
}
