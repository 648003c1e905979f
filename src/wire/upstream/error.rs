//! Why there is no response, and whose fault that is.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// Why [`super::Upstream::forward`] has no response to give. The texts are for operators: they name addresses and causes,
/// never anything of the request or the response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// No connection could be opened: refused, unreachable, not resolved, or not in time.
    Connect(String),
    /// Every connection stayed in use for as long as a request may wait for one.
    Overloaded {
        /// The cap that was reached.
        max_connections: usize,
    },
    /// The response head did not come in time, or the backend stopped taking the upload.
    Timeout {
        /// How long nothing had moved.
        waited: Duration,
        /// Whether the backend may have seen any of the request.
        arrived: bool,
    },
    /// The connection ended before a response head was complete.
    Reset {
        /// What the connection reported.
        detail: String,
        /// Whether the backend may have seen any of the request.
        arrived: bool,
    },
    /// The backend answered with something that is no HTTP response, or not one to this request.
    BadResponse(String),
    /// The client broke its upload off. The backend is not to blame.
    ClientBody(String),
    /// The client stopped sending. The backend is not to blame.
    ClientStalled {
        /// How long nothing had come.
        waited: Duration,
    },
}

/// Whose fault an [`UpstreamError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client's.
    Client,
    /// The backend's, or the network's on the way to it.
    Backend,
    /// The bridge's own: it has run out of connections.
    Bridge,
}

impl UpstreamError {
    /// A short, stable name for metrics and logs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Overloaded { .. } => "overloaded",
            Self::Timeout { .. } => "timeout",
            Self::Reset { .. } => "reset",
            Self::BadResponse(_) => "bad_response",
            Self::ClientBody(_) => "client_body",
            Self::ClientStalled { .. } => "client_stalled",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::ClientBody(_) | Self::ClientStalled { .. } => Fault::Client,
            Self::Overloaded { .. } => Fault::Bridge,
            Self::Connect(_) | Self::Timeout { .. } | Self::Reset { .. } | Self::BadResponse(_) => Fault::Backend,
        }
    }

    /// Whether any byte of the request may have reached the backend. `false` is proof that none was written (F4).
    #[must_use]
    pub const fn arrived(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Overloaded { .. } => false,
            Self::Timeout { arrived, .. } | Self::Reset { arrived, .. } => *arrived,
            Self::BadResponse(_) | Self::ClientBody(_) | Self::ClientStalled { .. } => true,
        }
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "no connection to the upstream: {why}"),
            Self::Overloaded { max_connections } => {
                write!(f, "all {max_connections} upstream connections are in use")
            }
            Self::Timeout { waited, arrived } => {
                write!(
                    f,
                    "the upstream did not answer: nothing moved for {waited:?}{}",
                    seen(*arrived)
                )
            }
            Self::Reset { detail, arrived } => {
                write!(
                    f,
                    "the upstream broke the connection off before its response: {detail}{}",
                    seen(*arrived)
                )
            }
            Self::BadResponse(what) => write!(f, "the upstream's response cannot be used: {what}"),
            Self::ClientBody(what) => write!(f, "the client did not finish its request body: {what}"),
            Self::ClientStalled { waited } => write!(
                f,
                "the client did not finish its request body: nothing came for {waited:?}"
            ),
        }
    }
}

const fn seen(arrived: bool) -> &'static str {
    if arrived {
        " (the request may have arrived)"
    } else {
        " (nothing of the request was sent)"
    }
}

impl StdError for UpstreamError {}
