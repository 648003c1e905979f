//! A client that keeps connections but no cookies, follows nothing and repeats nothing.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::TcpStream;

use super::InstallId;

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

/// One whole response.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Connections to one address.
pub(crate) struct Client {
    address: SocketAddr,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// Far more than any request may take; a test that waits longer is stuck.
const STUCK: Duration = Duration::from_secs(60);

impl Call {
    pub(crate) fn new(method: Method, target: &str) -> Self {
        Self {
            method,
            target: target.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new(Method::GET, target)
    }

    /// A POST of an empty JSON object, as the platform sends them.
    pub(crate) fn post(target: &str) -> Self {
        Self::new(Method::POST, target)
            .header("content-type", "application/json")
            .body("{}")
    }

    /// Names the installation in the header.
    pub(crate) fn of(self, id: &InstallId) -> Self {
        self.header("x-install-id", id.as_str())
    }

    /// Adds a field; a repeated one is sent twice.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).expect("a field name");
        self.headers
            .append(name, HeaderValue::try_from(value).expect("a field value"));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    fn request(&self, address: SocketAddr) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.parse().expect("a request target");
        *request.headers_mut() = self.headers.clone();
        if !request.headers().contains_key(http::header::HOST) {
            let host = HeaderValue::try_from(address.to_string()).expect("an address");
            request.headers_mut().insert(http::header::HOST, host);
        }
        request
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.target)
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    /// The value of a field; empty when there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("visible ASCII"))
    }

    /// The slug of the problem that a refusal names; checks the form that every refusal has.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{}: {}",
            self.status,
            self.text()
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        let id = self.header("x-request-id");
        assert!(!id.is_empty(), "a refusal has a request ID");
        assert!(
            self.text().contains(id),
            "the problem names the request ID {id}: {problem}"
        );
        let kind = problem["type"].as_str().expect("a type");
        kind.strip_prefix("urn:session-bridge:problem:")
            .unwrap_or_else(|| panic!("an unknown type: {kind}"))
            .to_owned()
    }
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Sends a request and reads the response to its end.
    ///
    /// A kept connection that was closed before the request could be written is replaced by a new one; nothing else
    /// is ever sent twice.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, String> {
        tokio::time::timeout(STUCK, self.exchange(&call))
            .await
            .map_err(|_| format!("no answer within {STUCK:?}"))?
    }

    async fn exchange(&self, call: &Call) -> Result<Answer, String> {
        let mut request = call.request(self.address);
        loop {
            let kept = self.idle.lock().expect("no panic while locked").pop();
            let was_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => connect(self.address).await?,
            };
            if sender.ready().await.is_err() && was_kept {
                continue;
            }
            let response = match sender.try_send_request(request).await {
                Ok(response) => response,
                Err(mut error) => match error.take_message() {
                    Some(unsent) if was_kept => {
                        request = unsent;
                        continue;
                    }
                    _ => return Err(format!("no response: {:?}", error.into_error())),
                },
            };
            let (head, body) = response.into_parts();
            let body = body
                .collect()
                .await
                .map_err(|error| format!("the body broke off: {error:?}"))?;
            if !sender.is_closed() {
                self.idle.lock().expect("no panic while locked").push(sender);
            }
            return Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.to_bytes(),
            });
        }
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("no connection to {address}: {error}"))?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("no HTTP on the connection: {error}"))?;
    // Its errors come out at the sender as well.
    tokio::spawn(connection);
    Ok(sender)
}
