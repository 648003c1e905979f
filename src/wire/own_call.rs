//! Requests that the bridge makes of its own accord, to the backend, without a client behind them.
//!
//! They are none of the traffic: nothing is streamed and nothing passed on. What counts is the head of the answer.
//! No redirect is followed, nothing is decompressed, no proxy of the environment is used.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http_body_util::BodyExt as _;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};

use super::fields::Fields;
use super::message::{Request, RequestHead, ResponseHead};
use super::upstream::{Upstream, UpstreamError};
use crate::tls;
use crate::wire::body::Body;

/// Where the backend is, and how long it may take.
#[derive(Clone, Debug)]
pub struct OwnCallOptions {
    /// `http` or `https`, host and port: `http://127.0.0.1:8000`.
    pub base: String,
    /// Who the backend must be, and who we are, where it is spoken to over TLS.
    pub tls: Option<tls::Client>,
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// A connection that was unused for this long is not used again.
    pub idle_timeout: Duration,
    /// To the head of the answer.
    pub timeout: Duration,
    /// How much longer its body is waited for: what the backend does until then belongs to the request.
    pub body_wait: Duration,
    /// The way of the traffic, where the calls are to go over that: to a backend that may speak HTTP/2 alone.
    pub over: Option<Upstream>,
}

/// Calls the backend. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OwnCalls {
    client: Client,
    options: OwnCallOptions,
}

/// Why there is no answer. The text is for operators.
#[derive(Debug)]
pub enum OwnCallError {
    /// No connection came about.
    Unreachable(String),
    /// It took too long.
    Timeout,
    /// What came is no HTTP, or the connection broke.
    BadResponse(String),
}

impl fmt::Display for OwnCallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "the backend cannot be reached: {why}"),
            Self::Timeout => f.write_str("the backend did not answer in time"),
            Self::BadResponse(why) => write!(f, "the backend gave no readable answer: {why}"),
        }
    }
}

impl Error for OwnCallError {}

impl OwnCalls {
    /// # Errors
    /// When the client cannot be built from what is set for TLS.
    pub fn new(options: OwnCallOptions) -> Result<Self, String> {
        let builder = client(options.tls.as_ref())?
            .redirect(Policy::none())
            .http1_only()
            .tcp_nodelay(true)
            .pool_idle_timeout(options.idle_timeout)
            .connect_timeout(options.connect_timeout);
        let client = builder.build().map_err(|error| reason(&error))?;
        Ok(Self { client, options })
    }

    /// Sends a request without a body, and waits for the answer; for its body no longer than is set.
    ///
    /// # Errors
    /// See [`OwnCallError`].
    pub async fn send(&self, head: &RequestHead) -> Result<ResponseHead, OwnCallError> {
        if let Some(upstream) = &self.options.over {
            return self.send_over(upstream, head).await;
        }
        let target = head.target();
        let call = self
            .client
            .request(head.method.clone(), format!("{}{target}", self.options.base))
            .headers(head.fields.to_map())
            .send();
        let mut answer = tokio::time::timeout(self.options.timeout, call)
            .await
            .map_err(|_elapsed| OwnCallError::Timeout)?
            .map_err(|error| explain(&error))?;
        let response = ResponseHead {
            fields: Fields::from_map(answer.headers()),
            ..ResponseHead::new(answer.status())
        };
        // One that breaks off, or takes longer, has said what counts.
        let rest = async { while let Ok(Some(_)) = answer.chunk().await {} };
        let _ = tokio::time::timeout(self.options.body_wait, rest).await;
        Ok(response)
    }
}

impl OwnCalls {
    async fn send_over(&self, upstream: &Upstream, head: &RequestHead) -> Result<ResponseHead, OwnCallError> {
        let request = Request {
            head: Box::new(head.clone()),
            body: Body::empty(),
        };
        let call = upstream.forward(request, self.options.timeout, true, |_interim| {});
        let mut answer = call.await.map_err(|error| of_upstream(&error))?;
        let rest = async { while let Some(Ok(_)) = answer.body.frame().await {} };
        let _ = tokio::time::timeout(self.options.body_wait, rest).await;
        Ok(answer.head)
    }
}

fn of_upstream(error: &UpstreamError) -> OwnCallError {
    match error {
        UpstreamError::Timeout { .. } => OwnCallError::Timeout,
        error if !error.arrived() => OwnCallError::Unreachable(error.to_string()),
        error => OwnCallError::BadResponse(error.to_string()),
    }
}

/// What every client of this program is built from. It asks nobody but whom it is told to: no proxy of the environment, and
/// over TLS as `tls` says alone, or with `None` nobody at all.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client(tls: Option<&tls::Client>) -> Result<ClientBuilder, String> {
    let config = match tls {
        Some(tls) => tls.config(),
        None => tls::Client::nobody().map_err(|error| error.to_string())?.config(),
    };
    Ok(Client::builder().no_proxy().tls_backend_preconfigured(config))
}

fn explain(error: &reqwest::Error) -> OwnCallError {
    if error.is_timeout() && !error.is_connect() {
        OwnCallError::Timeout
    } else if error.is_connect() {
        OwnCallError::Unreachable(reason(error))
    } else {
        OwnCallError::BadResponse(reason(error))
    }
}

/// What went wrong, down to the cause, without the URL.
fn reason(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes
        .last()
        .map_or_else(|| "no cause is told".to_owned(), ToString::to_string)
}
