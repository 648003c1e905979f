//! A backend that reads strictly and keeps what it read.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::reader::{Request, Side, read};

#[derive(Default)]
struct Books {
    requests: Vec<Request>,
    flaws: Vec<String>,
}

pub(super) struct Recorder {
    address: SocketAddr,
    books: Arc<Mutex<Books>>,
    accepting: JoinHandle<()>,
}

impl Recorder {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let books = Arc::<Mutex<Books>>::default();
        let kept = Arc::clone(&books);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&kept)));
            }
        });
        Self {
            address,
            books,
            accepting,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests that have arrived whole since this was last asked, and what else did.
    pub(super) fn take(&self) -> (Vec<Request>, Vec<String>) {
        let books = std::mem::take(&mut *self.books.lock().expect("no panic while locked"));
        (books.requests, books.flaws)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, books: Arc<Mutex<Books>>) {
    let _ = stream.set_nodelay(true);
    let mut bytes = Vec::new();
    while matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
        match read(&bytes, Side::FromBridge) {
            Ok(None) => {}
            Ok(Some((request, rest))) => {
                let mut answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                if request.method == "HEAD" {
                    answer = answer.trim_end_matches("ok");
                }
                let surplus = rest.escape_ascii().to_string();
                {
                    let mut books = books.lock().expect("no panic while locked");
                    books.requests.push(request);
                    // The bridge never pipelines.
                    if !surplus.is_empty() {
                        books.flaws.push(format!("bytes behind a request: {surplus}"));
                    }
                }
                bytes.clear();
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Err(flaw) => {
                let text = format!("{flaw} in {}", bytes.escape_ascii());
                books.lock().expect("no panic while locked").flaws.push(text);
                return;
            }
        }
    }
}
