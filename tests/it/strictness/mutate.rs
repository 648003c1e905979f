//! Streams made by chance out of the corpus, the same for the same seed.

use super::corpus;

/// What is put in or in the place of something: what parsers are known to differ about.
const PIECES: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\r\n",
    "\n\r",
    "\0",
    " ",
    "\t",
    "\x0b",
    "\x0c",
    "\u{85}",
    "\u{a0}",
    "\x7f",
    ":",
    ",",
    ";",
    "=",
    "\"",
    "\\",
    "#",
    "?",
    "/",
    "//",
    "*",
    "@",
    "[",
    "]",
    "_",
    "+",
    "-",
    "0",
    "00",
    "0x",
    "5",
    "ffffffffffffffff",
    "1e1",
    "1_0",
    "\r\n\r\n",
    "0\r\n\r\n",
    "0\r\n",
    "5\r\nhello\r\n",
    "5;a=b\r\n",
    "5;\r\n",
    "chunked",
    "Chunked",
    "identity",
    ", chunked",
    "chunked, ",
    "\r\n chunked",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "content-length: 6\r\n",
    "Content-Length : 5\r\n",
    "Content_Length: 5\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: 05\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding: x\r\n",
    "transfer_encoding: chunked\r\n",
    " Transfer-Encoding: chunked\r\n",
    "X: y\nTransfer-Encoding: chunked\r\n",
    "Host: b\r\n",
    "Host: a\r\n",
    "Host:\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Connection: content-length\r\n",
    "Connection: host, te\r\n",
    "Connection: transfer-encoding\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: websocket\r\nConnection: upgrade\r\n",
    "Content-Type: application/json\r\n",
    "Content-Encoding: gzip\r\n",
    "Trailer: x\r\n",
    "TE: trailers\r\n",
    "X: y\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /smuggled HTTP/1.1\r\nX: ",
    "HTTP/1.0",
    "HTTP/1.1",
    "HTTP/0.9",
    "HTTP/2.0",
    "http://a/",
    "http://b/",
    "HEAD",
    "OPTIONS * ",
    "POST",
    "GET ",
    "CONNECT a:80 ",
];

pub(super) struct Mutator {
    seed: u64,
    served: Vec<Vec<u8>>,
    refused: Vec<Vec<u8>>,
}

impl Mutator {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            served: corpus::SERVED
                .iter()
                .map(|(good, _)| good.as_bytes().to_vec())
                .collect(),
            refused: corpus::refused()
                .into_iter()
                .map(|(bad, _)| bad)
                .filter(|bad| bad.len() < 4096)
                .collect(),
        }
    }

    /// The stream of that number, and where it is cut into pieces.
    pub(super) fn stream(&self, number: u64) -> (Vec<u8>, Vec<usize>) {
        let mut random = fastrand::Rng::with_seed(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut stream = Vec::new();
        for _ in 0..random.usize(1..4) {
            // Mostly of what is good, or little would get through.
            let from = if random.u8(..4) == 0 {
                &self.refused
            } else {
                &self.served
            };
            stream.extend_from_slice(&from[random.usize(..from.len())]);
        }
        for _ in 0..random.usize(..4) {
            edit(&mut stream, &mut random);
        }
        let cuts = (0..random.usize(..4)).map(|_| random.usize(..4096)).collect();
        (stream, cuts)
    }
}

fn edit(stream: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let at = random.usize(..=stream.len());
    let span = |stream: &Vec<u8>, random: &mut fastrand::Rng| at..(at + random.usize(..24)).min(stream.len());
    match random.u8(..8) {
        0 if at < stream.len() => stream[at] = random.u8(..),
        1 if at < stream.len() => stream[at] ^= 1 << random.u8(..8),
        2 => drop(stream.drain(span(stream, random))),
        3 => {
            let copied = stream[span(stream, random)].to_vec();
            let to = random.usize(..=stream.len());
            stream.splice(to..to, copied);
        }
        4 => {
            let piece = PIECES[random.usize(..PIECES.len())];
            stream.splice(span(stream, random), piece.bytes());
        }
        5 | 6 => {
            // Between two lines: there fields have their effect.
            let lines: Vec<usize> = stream
                .windows(2)
                .enumerate()
                .filter(|(_, two)| *two == b"\r\n")
                .map(|(at, _)| at + 2)
                .collect();
            let to = if lines.is_empty() {
                at
            } else {
                lines[random.usize(..lines.len())]
            };
            stream.splice(to..to, PIECES[random.usize(..PIECES.len())].bytes());
        }
        _ => {
            stream.splice(at..at, PIECES[random.usize(..PIECES.len())].bytes());
        }
    }
}
