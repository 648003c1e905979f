//! HTTP as bytes: a socket for clients and a backend that shows what arrived exactly as it arrived.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const STUCK: Duration = Duration::from_secs(20);

/// One end of a connection that reads and writes HTTP/1.1 by hand.
pub(crate) struct RawStream {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The head of a message: its lines as they were, without the ends of lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawHead {
    /// The request line or status line.
    pub(crate) first: String,
    /// Field lines.
    pub(crate) fields: Vec<(String, String)>,
}

/// One request as a [`RawBackend`] received it.
#[derive(Clone, Debug)]
pub(crate) struct RawRequest {
    pub(crate) head: RawHead,
    pub(crate) body: Vec<u8>,
}

impl RawHead {
    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line
                    .split_once(':')
                    .unwrap_or_else(|| panic!("no field line: {line:?}"));
                (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
            })
            .collect();
        Self { first, fields }
    }

    /// The values of all fields of that name, whatever its case.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The value of the one field of that name; empty when there is none.
    pub(crate) fn one(&self, name: &str) -> &str {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is there {} times: {all:?}", all.len());
        all.first().copied().unwrap_or_default()
    }

    /// Whether a field is there under exactly this name, case included.
    pub(crate) fn spelled(&self, name: &str) -> bool {
        self.fields.iter().any(|(n, _)| n == name)
    }

    /// The status code of a response.
    pub(crate) fn status(&self) -> u16 {
        let code = self.first.split(' ').nth(1).unwrap_or_default();
        code.parse()
            .unwrap_or_else(|_| panic!("no status line: {:?}", self.first))
    }
}

impl RawStream {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.expect("a connection"))
    }

    /// The same, where nobody may listen any more.
    pub(crate) async fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        TcpStream::connect(address).await.map(Self::new)
    }

    fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Writes these bytes.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).await.expect("the peer takes bytes");
    }

    /// Writes these bytes; the peer may have gone.
    pub(crate) async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Reads once more; `false` when the peer has closed.
    /// Says that nothing more will come; reads on.
    pub(crate) async fn end(&mut self) {
        self.stream.shutdown().await.expect("an open stream");
    }

    async fn fill(&mut self) -> bool {
        let read = tokio::time::timeout(STUCK, self.stream.read_buf(&mut self.buffer)).await;
        matches!(read.expect("bytes or an end within the deadline"), Ok(count) if count > 0)
    }

    /// The next head; `None` when the peer has closed before one.
    pub(crate) async fn head(&mut self) -> Option<RawHead> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Some(RawHead::parse(&String::from_utf8_lossy(&head)));
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next `count` bytes, or fewer when the peer closes.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            if !self.fill().await {
                break;
            }
        }
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    /// Everything until the peer closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// One chunk of a chunked body; empty for the last one, whose trailers are left to be read.
    pub(crate) async fn chunk(&mut self) -> Vec<u8> {
        let line = self.line().await;
        let size = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no chunk size: {line:?}"));
        let chunk = self.bytes(size).await;
        if size > 0 {
            assert_eq!(self.bytes(2).await, b"\r\n", "the end of a chunk");
        }
        chunk
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return String::from_utf8_lossy(&line[..end]).into_owned();
            }
            assert!(self.fill().await, "the peer closed in the middle of a line");
        }
    }

    /// The body that belongs to `head`, when it is a request or a response with a body.
    pub(crate) async fn body(&mut self, head: &RawHead) -> Vec<u8> {
        if head.one("transfer-encoding").eq_ignore_ascii_case("chunked") {
            let mut body = Vec::new();
            loop {
                let chunk = self.chunk().await;
                if chunk.is_empty() {
                    while !self.line().await.is_empty() {}
                    return body;
                }
                body.extend(chunk);
            }
        }
        let length = head.one("content-length");
        self.bytes(if length.is_empty() {
            0
        } else {
            length.parse().expect("a length")
        })
        .await
    }

    /// Writes a whole request and reads the whole response.
    pub(crate) async fn exchange(&mut self, request: impl AsRef<[u8]>) -> (RawHead, Vec<u8>) {
        self.write(request).await;
        let head = self.head().await.expect("a response");
        let body = self.body(&head).await;
        (head, body)
    }
}

type Script = dyn Fn(RawRequest, RawStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// A backend that writes by hand, one connection a request, and keeps what it received.
pub(crate) struct RawBackend {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<RawRequest>>>,
    accepting: JoinHandle<()>,
}

impl RawBackend {
    /// Answers each request with these bytes, and closes.
    pub(crate) async fn answering(response: impl Into<Vec<u8>>) -> Self {
        let response = Arc::new(response.into());
        Self::scripted(move |_, mut stream| {
            let response = Arc::clone(&response);
            async move {
                let _ = stream.try_write(response.as_slice()).await;
            }
        })
        .await
    }

    /// Reads each request to its end and hands it to `script` with the connection.
    pub(crate) async fn scripted<F>(script: impl Fn(RawRequest, RawStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::listen(true, Arc::new(move |request, stream| Box::pin(script(request, stream)))).await
    }

    /// Reads only the head of each request; the body is left to `script`.
    pub(crate) async fn scripted_before_body<F>(
        script: impl Fn(RawRequest, RawStream) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::listen(
            false,
            Arc::new(move |request, stream| Box::pin(script(request, stream))),
        )
        .await
    }

    async fn listen(read_body: bool, script: Arc<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, record) = (Arc::clone(&script), Arc::clone(&record));
                tokio::spawn(async move {
                    let mut stream = RawStream::new(stream);
                    let Some(head) = stream.head().await else { return };
                    let body = if read_body {
                        stream.body(&head).await
                    } else {
                        Vec::new()
                    };
                    let request = RawRequest { head, body };
                    record.lock().expect("no panic while locked").push(request.clone());
                    script(request, stream).await;
                });
            }
        });
        Self {
            address,
            seen,
            accepting,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<RawRequest> {
        self.seen.lock().expect("no panic while locked").clone()
    }

    /// The only request so far.
    pub(crate) fn only(&self) -> RawRequest {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "one request reached the backend: {seen:?}");
        seen.into_iter().next().expect("one request")
    }
}

impl Drop for RawBackend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
