//! The values that labels can take, all known beforehand, and tables of metrics indexed by them.
//!
//! A series is looked up by position, without a lock, a hash or an allocation.

use std::fmt;
use std::sync::OnceLock;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::times::Times;
use crate::session::store::{Flaw, StoreError};

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The value as it appears in metrics.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            pub(super) const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// Request methods; what a client makes up itself is [`Method::Other`].
    Method {
        /// `GET`
        Get = "GET",
        /// `HEAD`
        Head = "HEAD",
        /// `POST`
        Post = "POST",
        /// `PUT`
        Put = "PUT",
        /// `PATCH`
        Patch = "PATCH",
        /// `DELETE`
        Delete = "DELETE",
        /// `OPTIONS`
        Options = "OPTIONS",
        /// Any other method.
        Other = "other",
    }
}

impl From<&http::Method> for Method {
    fn from(method: &http::Method) -> Self {
        Self::ALL
            .iter()
            .copied()
            .find(|known| known.text() == method.as_str())
            .unwrap_or(Self::Other)
    }
}

label! {
    /// The class of a status code.
    StatusClass {
        /// 100–199
        Informational = "1xx",
        /// 200–299
        Success = "2xx",
        /// 300–399
        Redirection = "3xx",
        /// 400–499
        ClientError = "4xx",
        /// 500–599
        ServerError = "5xx",
        /// Codes outside of the standard.
        Other = "other",
    }
}

impl From<http::StatusCode> for StatusClass {
    fn from(status: http::StatusCode) -> Self {
        match status.as_u16() / 100 {
            1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirection,
            4 => Self::ClientError,
            5 => Self::ServerError,
            _ => Self::Other,
        }
    }
}

label! {
    /// What a request did with its session.
    Outcome {
        /// It went on with the session that was there.
        Hit = "hit",
        /// It waited for another request to start the session, and went on with that.
        Waited = "waited",
        /// It started the session.
        Created = "created",
        /// Its session cookie got a new value: a log-in, a rotation.
        Replaced = "replaced",
        /// It ended the session (log-out).
        Ended = "ended",
        /// It had none: a request without one, or a refusal.
        None = "none",
    }
}

label! {
    /// What the client was answered when the backend did not know the session of its request.
    LostAnswer {
        /// What the backend said to the request when it was sent once more, with a fresh session.
        Healed = "healed",
        /// A refusal, 401.
        Refused = "refused",
    }
}

label! {
    /// The calls of a store.
    StoreOp {
        /// Reading a record.
        Load = "load",
        /// Reading a record and the state of its lease.
        Observe = "observe",
        /// Writing a first record.
        Create = "create",
        /// Writing over a record.
        Replace = "replace",
        /// Removing a record.
        Remove = "remove",
        /// Removing what cannot be read.
        Discard = "discard",
        /// Moving the expiry of a record.
        Touch = "touch",
        /// Taking a lease.
        AcquireLease = "acquire_lease",
        /// Keeping a lease.
        RenewLease = "renew_lease",
        /// Giving a lease back.
        ReleaseLease = "release_lease",
        /// Taking a place of a limit.
        TakePlace = "take_place",
        /// Giving one back.
        GiveBack = "give_back",
        /// Asking whether the store can serve.
        Ping = "ping",
    }
}

label! {
    /// How a call of the store ended.
    StoreResult {
        /// With an answer, whatever it was.
        Ok = "ok",
        /// The store could not be reached, or refused.
        Unavailable = "unavailable",
        /// No answer in time to a read.
        Timeout = "timeout",
        /// What it holds or answers makes no sense.
        Corrupt = "corrupt",
        /// The record cannot be read.
        Unreadable = "unreadable",
        /// The record is larger than the store takes.
        TooLarge = "too_large",
        /// The answer to a change was lost.
        Ambiguous = "ambiguous",
    }
}

impl<T> From<&Result<T, StoreError>> for StoreResult {
    fn from(result: &Result<T, StoreError>) -> Self {
        match result {
            Ok(_) => Self::Ok,
            Err(StoreError::Unavailable(_)) => Self::Unavailable,
            Err(StoreError::Timeout) => Self::Timeout,
            Err(StoreError::Corrupt(_)) => Self::Corrupt,
            Err(StoreError::Unreadable(_)) => Self::Unreadable,
            Err(StoreError::TooLarge(_)) => Self::TooLarge,
            Err(StoreError::Ambiguous(_)) => Self::Ambiguous,
        }
    }
}

label! {
    /// Why a record cannot be read.
    RecordFlaw {
        /// Sealed with a key that this replica does not have.
        UnknownKey = "unknown_key",
        /// Its seal is broken.
        NotAuthentic = "not_authentic",
        /// In clear where only sealed ones are accepted.
        NotSealed = "not_sealed",
        /// Of a format that this version does not know.
        UnknownFormat = "unknown_format",
        /// Its content makes no sense.
        Garbled = "garbled",
    }
}

impl From<Flaw> for RecordFlaw {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::UnknownKey => Self::UnknownKey,
            Flaw::NotAuthentic => Self::NotAuthentic,
            Flaw::NotSealed => Self::NotSealed,
            Flaw::UnknownFormat => Self::UnknownFormat,
            Flaw::Garbled => Self::Garbled,
        }
    }
}

label! {
    /// Why a cookie of the backend was not kept.
    CookieDrop {
        /// Its name matches nothing in `session.cookies` (J3).
        NotKept = "not_kept",
        /// The `Set-Cookie` cannot be read (J1).
        Unreadable = "unreadable",
        /// Its domain, prefix or size is not allowed (J1).
        Refused = "refused",
        /// The record changed since the request was sent, and the other change stays (C1).
        Lost = "lost",
        /// It repeats what was sent, and the record has changed since.
        Stale = "stale",
        /// It came with a session that lost a conflict (C2).
        OtherSession = "other_session",
        /// The record was removed after the request was sent (C3).
        Removed = "removed",
        /// Its request had lost the lease (S3).
        Fenced = "fenced",
        /// The jar had no room for it.
        Evicted = "evicted",
    }
}

label! {
    /// Why a change that the store had not taken was given up (F3).
    Abandoned {
        /// Too many waited already, or too much.
        Full = "full",
        /// It had waited for too long.
        TooOld = "too_old",
        /// Its session had run out meanwhile.
        Expired = "expired",
        /// What the store holds cannot be read.
        Unreadable = "unreadable",
        /// The session became larger than the store takes.
        TooLarge = "too_large",
        /// The store was not back before the replica stopped.
        Shutdown = "shutdown",
    }
}

label! {
    /// What became of the lead over starting a session (S1–S3).
    LeaseEvent {
        /// A request took the lead.
        Won = "won",
        /// A request found another one in the lead, and waited.
        Waited = "waited",
        /// A leader lost the lead before it had committed.
        Lost = "lost",
        /// A waiter gave up (`session.create_wait`).
        Expired = "expired",
        /// A leader ended without a session.
        Barren = "barren",
    }
}

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// A metric with `N` labels, its series found by position.
pub(super) struct Table<const N: usize, M> {
    family: Family<Labels<N>, M, fn() -> M>,
    series: Box<[OnceLock<M>]>,
}

impl<const N: usize, M: Clone> Table<N, M> {
    /// A table for `size` series, none of which is there yet.
    pub(super) fn new(size: usize, empty: fn() -> M) -> Self {
        Self {
            family: Family::new_with_constructor(empty),
            series: (0..size).map(|_| OnceLock::new()).collect(),
        }
    }

    /// What is registered and encoded.
    pub(super) fn family(&self) -> Family<Labels<N>, M, fn() -> M> {
        self.family.clone()
    }

    /// Uses the series at `index`, which appears in the output from then on.
    pub(super) fn with(&self, index: usize, labels: Labels<N>, apply: impl FnOnce(&M)) {
        if let Some(series) = self.series.get(index) {
            apply(series.get_or_init(|| self.family.get_or_create_owned(&labels)));
        }
    }
}

pub(super) type Counters<const N: usize> = Table<N, Counter>;
pub(super) type Histograms<const N: usize> = Table<N, Times>;

impl<const N: usize, M> fmt::Debug for Table<N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} series)", self.series.len())
    }
}
