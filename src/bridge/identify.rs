//! Stage 1: which installation a request comes from (I1–I3).
//!
//! The header is asked first; only where it is absent is the body read, and then no further than to the answer. What
//! was read is kept as the pieces in which it came, and the body that goes on replays it before the rest: byte for
//! byte the one that was sent, of the same announced length, with its trailers. With the ID in the header the body is
//! not touched at all, so that a client that waits for `100 Continue` is not told to go on before the backend was
//! asked.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use super::pointer::{Pointer, PointerSearch, Step};
use crate::session::install_id::{Format, InstallId, Malformed};
use crate::wire::body::Body;
use crate::wire::fields::{Fields, name};

/// Where the Install ID is looked for, and what it looks like.
#[derive(Clone, Debug)]
pub struct IdentifyOptions {
    /// The header field, if any; it comes before the body.
    pub header: Option<HeaderName>,
    /// The member of a JSON body, if any.
    pub pointer: Option<Pointer>,
    /// In how many bytes of the body it is looked for.
    pub max_body: usize,
    /// The form of a valid ID.
    pub format: Format,
}

/// Why an Install ID could not be made out. Says nothing of what was sent.
#[derive(Debug)]
pub enum IdentifyError {
    /// There is one, and it is not valid.
    Malformed(Malformed),
    /// The header is there more than once, with different IDs.
    Repeated,
    /// The member of the body is not a string, or one far too long.
    NotAString,
    /// The client's body could not be read: it hung up, or broke the framing.
    Body(axum::Error),
}

impl IdentifyError {
    /// What is wrong, in a few words that may be shown to the caller.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(why) => why.reason(),
            Self::Repeated => "the header is repeated with different values",
            Self::NotAString => "the member of the body is not a short string",
            Self::Body(_) => "the request body could not be read",
        }
    }
}

impl fmt::Display for IdentifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no Install ID: {}", self.reason())
    }
}

impl std::error::Error for IdentifyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Malformed(why) => Some(why),
            Self::Body(error) => Some(error),
            Self::Repeated | Self::NotAString => None,
        }
    }
}

impl From<Malformed> for IdentifyError {
    fn from(why: Malformed) -> Self {
        Self::Malformed(why)
    }
}

/// The ID that the head of a request tells; then the body is not asked.
///
/// # Errors
/// [`IdentifyError`] when what is there cannot be an Install ID.
pub fn told(options: &IdentifyOptions, fields: &Fields) -> Result<Option<InstallId>, IdentifyError> {
    let Some(name) = &options.header else { return Ok(None) };
    let mut id = None;
    for value in fields.all(name.as_str()) {
        let this = InstallId::parse(options.format, value)?;
        match &id {
            Some(first) if *first != this => return Err(IdentifyError::Repeated),
            _ => id = Some(this),
        }
    }
    Ok(id)
}

/// The ID in the body of a request whose head tells none; `None` where there is none either. Whether that is allowed (I3)
/// is for the caller to decide. The body comes back whole.
///
/// Waits for the client; the deadline for that is the caller's to set.
///
/// # Errors
/// [`IdentifyError`] when what is there cannot be an Install ID, or the body breaks off before the answer.
pub async fn find(
    options: &IdentifyOptions,
    fields: &Fields,
    body: Body,
) -> Result<(Option<InstallId>, Body), IdentifyError> {
    match &options.pointer {
        Some(pointer) if may_hold_json(fields) && !http_body::Body::is_end_stream(&body) => {
            from_body(options, pointer, body).await
        }
        _ => Ok((None, body)),
    }
}

/// Whether the body is worth searching: it says that it is JSON, or does not say what it is. In the latter case the
/// search gives up at the first byte that starts neither an object nor an array.
fn may_hold_json(fields: &Fields) -> bool {
    let encoded = fields.all(name::CONTENT_ENCODING).any(|value| {
        let coding = value.trim_ascii();
        !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")
    });
    !encoded
        && fields
            .get(name::CONTENT_TYPE)
            .is_none_or(|value| value.is_empty() || is_json(value))
}

fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    let ends_with = |suffix: &[u8]| {
        essence.len().checked_sub(suffix.len()).is_some_and(|at| {
            let (_, end) = essence.split_at(at);
            end.eq_ignore_ascii_case(suffix)
        })
    };
    ends_with(b"/json") || ends_with(b"+json")
}

async fn from_body(
    options: &IdentifyOptions,
    pointer: &Pointer,
    mut body: Body,
) -> Result<(Option<InstallId>, Body), IdentifyError> {
    let mut search = PointerSearch::new(pointer);
    let mut read = Pieces::default();
    let mut trailers = None;
    let mut left = options.max_body;
    let mut step = Step::NeedMore;
    while left > 0 && step == Step::NeedMore {
        let Some(frame) = body.frame().await else { break };
        match frame.map_err(IdentifyError::Body)?.into_data() {
            Ok(data) => {
                let searched = data.get(..left).unwrap_or(&data);
                left -= searched.len();
                step = search.feed(searched);
                read.push(data);
            }
            Err(other) => {
                trailers = other.into_trailers().ok();
                break;
            }
        }
    }
    let id = match step {
        Step::Found(value) => Some(InstallId::parse(options.format, &value)?),
        Step::Wrong => return Err(IdentifyError::NotAString),
        Step::Absent | Step::NeedMore => None,
    };
    Ok((
        id,
        Body::new(Replay {
            read: read.finish(),
            trailers,
            rest: body,
        }),
    ))
}

/// Pieces smaller than this are put together: kept one by one, each would cost more than what is in it.
const SMALL_PIECE: usize = 256;
/// How large a piece made of small ones may become.
const JOINED_PIECE: usize = 8 * 1024;

/// What was read of a body, in order. Nothing is copied but small pieces after the first.
#[derive(Default)]
pub(super) struct Pieces {
    done: VecDeque<Bytes>,
    joined: BytesMut,
}

impl Pieces {
    pub(super) fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        if piece.len() < SMALL_PIECE && !self.done.is_empty() {
            self.joined.extend_from_slice(&piece);
            if self.joined.len() >= JOINED_PIECE {
                self.done.push_back(self.joined.split().freeze());
            }
        } else {
            self.close_joined();
            self.done.push_back(piece);
        }
    }

    fn close_joined(&mut self) {
        if !self.joined.is_empty() {
            self.done.push_back(self.joined.split().freeze());
        }
    }

    pub(super) fn finish(mut self) -> VecDeque<Bytes> {
        self.close_joined();
        self.done
    }
}

/// A body of which a part has been read already.
pub(super) struct Replay {
    pub(super) read: VecDeque<Bytes>,
    /// The trailers, if they have been read too.
    pub(super) trailers: Option<HeaderMap>,
    pub(super) rest: Body,
}

impl http_body::Body for Replay {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(piece) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.trailers.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read = self
            .read
            .iter()
            .fold(0u64, |sum, piece| sum.saturating_add(piece.len() as u64));
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::HeaderValue;
    use http_body::Body as _;
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "9e201bab-1ccf-47d1-82e0-90d71ee5fd2c";
    const OTHER: &str = "00650000-0008-0000-ac5d-e021b623c9b7";

    fn options() -> IdentifyOptions {
        IdentifyOptions {
            header: Some(HeaderName::from_static("x-install-id")),
            pointer: Some(Pointer::parse("/installId").unwrap()),
            max_body: 1024,
            format: Format::Uuid,
        }
    }

    fn id(text: &str) -> Option<InstallId> {
        Some(InstallId::parse(Format::Uuid, text.as_bytes()).unwrap())
    }

    async fn identify(
        options: &IdentifyOptions,
        fields: &Fields,
        body: Body,
    ) -> Result<(Option<InstallId>, Body), IdentifyError> {
        match told(options, fields)? {
            Some(id) => Ok((Some(id), body)),
            None => find(options, fields, body).await,
        }
    }

    fn headers(lines: &[(&'static str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in lines {
            fields.append(*name, HeaderValue::from_str(value).unwrap());
        }
        fields
    }

    fn json() -> Fields {
        headers(&[("content-type", "application/json; charset=utf-8")])
    }

    /// A body that comes in pieces and counts how often it was asked.
    struct Chunked {
        frames: VecDeque<Result<Frame<Bytes>, &'static str>>,
        length: Option<u64>,
        polled: Arc<AtomicUsize>,
    }

    impl Chunked {
        fn new(pieces: &[&[u8]]) -> Self {
            let frames = pieces
                .iter()
                .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
                .collect();
            Self {
                frames,
                length: None,
                polled: Arc::default(),
            }
        }

        fn with_length(mut self) -> Self {
            let data = self
                .frames
                .iter()
                .filter_map(|frame| frame.as_ref().ok().and_then(Frame::data_ref));
            self.length = Some(data.map(|data| data.len() as u64).sum());
            self
        }

        fn then(mut self, frame: Result<Frame<Bytes>, &'static str>) -> Self {
            self.frames.push_back(frame);
            self
        }

        fn into_body(self) -> (Body, Arc<AtomicUsize>) {
            let polled = Arc::clone(&self.polled);
            (Body::new(self), polled)
        }
    }

    impl http_body::Body for Chunked {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            self.polled.fetch_add(1, Ordering::SeqCst);
            let frame = self.frames.pop_front();
            if let (Some(length), Some(Ok(frame))) = (&mut self.length, &frame) {
                *length -= frame.data_ref().map_or(0, Bytes::len) as u64;
            }
            Poll::Ready(frame)
        }

        fn size_hint(&self) -> SizeHint {
            self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    async fn run(headers: &Fields, body: impl Into<Body>) -> Result<Option<InstallId>, IdentifyError> {
        identify(&options(), headers, body.into())
            .await
            .map(|(identity, _)| identity)
    }

    #[tokio::test]
    async fn the_header_comes_first_and_the_body_is_not_touched() {
        let (body, polled) = Chunked::new(&[format!(r#"{{"installId":"{OTHER}"}}"#).as_bytes()]).into_body();
        let mut headers = json();
        headers.insert("x-install-id", HeaderValue::from_static(ID));
        let (identity, body) = identify(&options(), &headers, body).await.unwrap();
        assert_eq!(identity, id(ID));
        assert_eq!(polled.load(Ordering::SeqCst), 0);
        assert!(!body.collect().await.unwrap().to_bytes().is_empty());
    }

    #[tokio::test]
    async fn a_repeated_header_is_fine_when_it_names_one_installation() {
        let upper = ID.to_uppercase();
        let same = headers(&[("x-install-id", ID), ("x-install-id", &upper)]);
        assert_eq!(run(&same, "").await.unwrap(), id(ID));
        let different = headers(&[("x-install-id", ID), ("x-install-id", OTHER)]);
        assert!(matches!(run(&different, "").await, Err(IdentifyError::Repeated)));
        let one_empty = headers(&[("x-install-id", ID), ("x-install-id", "")]);
        assert!(matches!(
            run(&one_empty, "").await,
            Err(IdentifyError::Malformed(Malformed::Empty))
        ));
    }

    #[tokio::test]
    async fn a_bad_header_is_malformed_whatever_the_body_says() {
        for bad in ["", "nonsense", "00000000-0000-0000-0000-000000000000"] {
            let mut headers = json();
            headers.insert("x-install-id", HeaderValue::from_static(bad));
            let outcome = run(&headers, format!(r#"{{"installId":"{ID}"}}"#)).await;
            assert!(
                matches!(outcome, Err(IdentifyError::Malformed(_))),
                "{bad}: {outcome:?}"
            );
        }
    }

    #[tokio::test]
    async fn without_the_header_the_body_is_searched() {
        let body = format!(
            r#"{{"items":[{{"installId":"no"}}],, "installId": "{}" }}"#,
            ID.to_uppercase()
        );
        for content_type in [
            "application/json",
            "TEXT/JSON;charset=utf-8",
            "application/problem+json",
        ] {
            let headers = headers(&[("content-type", content_type)]);
            assert_eq!(run(&headers, body.clone()).await.unwrap(), id(ID), "{content_type}");
        }
        assert_eq!(run(&Fields::new(), body.clone()).await.unwrap(), id(ID));
        let identity_coding = headers(&[("content-type", "text/json"), ("content-encoding", "identity")]);
        assert_eq!(run(&identity_coding, body).await.unwrap(), id(ID));
    }

    #[tokio::test]
    async fn a_body_that_is_not_json_is_not_read() {
        for fields in [
            [("content-type", "text/plain"), ("accept", "*/*")],
            [("content-type", "application/x-www-form-urlencoded"), ("accept", "*/*")],
            [("content-type", "json"), ("accept", "*/*")],
            [("content-type", "application/json"), ("content-encoding", "gzip")],
        ] {
            let (body, polled) = Chunked::new(&[format!(r#"{{"installId":"{ID}"}}"#).as_bytes()]).into_body();
            let (identity, _) = identify(&options(), &headers(&fields), body).await.unwrap();
            assert_eq!((identity, polled.load(Ordering::SeqCst)), (None, 0), "{fields:?}");
        }
    }

    #[tokio::test]
    async fn a_body_of_unknown_type_is_given_up_at_its_first_byte() {
        let (body, polled) = Chunked::new(&[b"\r\n ", b"a=1&b=2", b"{\"installId\":\"x\"}"]).into_body();
        let (identity, body) = identify(&options(), &Fields::new(), body).await.unwrap();
        assert_eq!((identity, polled.load(Ordering::SeqCst)), (None, 2));
        assert_eq!(
            body.collect().await.unwrap().to_bytes(),
            "\r\n a=1&b=2{\"installId\":\"x\"}"
        );
    }

    #[tokio::test]
    async fn an_empty_body_says_nothing() {
        assert_eq!(run(&json(), Body::empty()).await.unwrap(), None);
        let (body, _) = Chunked::new(&[]).into_body();
        assert_eq!(run(&json(), body).await.unwrap(), None);
    }

    #[tokio::test]
    async fn reading_stops_with_the_piece_that_holds_the_answer() {
        let first = format!(r#"{{"installId":"{ID}","#);
        let (body, polled) = Chunked::new(&[first.as_bytes(), b"\"more\":1}", b"rest"]).into_body();
        let (identity, body) = identify(&options(), &json(), body).await.unwrap();
        assert_eq!((identity, polled.load(Ordering::SeqCst)), (id(ID), 1));
        assert_eq!(
            body.collect().await.unwrap().to_bytes(),
            format!("{first}\"more\":1}}rest")
        );
    }

    #[tokio::test]
    async fn no_more_than_max_body_is_searched_or_kept() {
        let options = IdentifyOptions {
            max_body: 20,
            ..options()
        };
        let document = format!(r#"{{"filler":"xxxxxxxx","installId":"{ID}"}}"#);
        let pieces: Vec<_> = document.as_bytes().chunks(8).collect();
        let (body, polled) = Chunked::new(&pieces).into_body();
        let (identity, body) = identify(&options, &json(), body).await.unwrap();
        assert_eq!((identity, polled.load(Ordering::SeqCst)), (None, 3));
        assert_eq!(body.collect().await.unwrap().to_bytes(), document);

        let fits = IdentifyOptions {
            max_body: document.len() - 1,
            ..options
        };
        let (identity, _) = identify(&fits, &json(), document.into()).await.unwrap();
        assert_eq!(identity, id(ID));
    }

    #[tokio::test]
    async fn a_bad_member_is_malformed() {
        let not_a_string = run(&json(), r#"{"installId":5}"#).await;
        assert!(
            matches!(not_a_string, Err(IdentifyError::NotAString)),
            "{not_a_string:?}"
        );
        for bad in ["", "nonsense", " 9e201bab-1ccf-47d1-82e0-90d71ee5fd2c"] {
            let outcome = run(&json(), format!(r#"{{"installId":"{bad}"}}"#)).await;
            assert!(
                matches!(outcome, Err(IdentifyError::Malformed(_))),
                "{bad}: {outcome:?}"
            );
        }
        assert_eq!(run(&json(), r#"{"installId":null}"#).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_before_the_answer_is_an_error() {
        let (body, _) = Chunked::new(&[b"{"]).then(Err("reset")).into_body();
        assert!(matches!(run(&json(), body).await, Err(IdentifyError::Body(_))));
    }

    #[tokio::test]
    async fn trailers_and_the_announced_length_survive() {
        let trailers = headers(&[("x-checksum", "1")]).to_map();
        for found in [true, false] {
            let first = if found {
                format!(r#"{{"installId":"{ID}""#)
            } else {
                "{".to_owned()
            };
            let body = Chunked::new(&[first.as_bytes(), b"}"]).with_length();
            let total = body.length.unwrap();
            let (body, _) = body.then(Ok(Frame::trailers(trailers.clone()))).into_body();
            let (_, body) = identify(&options(), &json(), body).await.unwrap();
            assert_eq!(body.size_hint().exact(), Some(total));
            assert!(!body.is_end_stream());
            let collected = body.collect().await.unwrap();
            assert_eq!(collected.trailers(), Some(&trailers));
            assert_eq!(collected.to_bytes(), format!("{first}}}"));
        }
    }

    #[test]
    fn neither_options_nor_errors_show_an_id() {
        let identity = format!("{:?}", id(ID));
        let error = format!(
            "{:?}",
            InstallId::parse(Format::Uuid, b"s3cret").map_err(IdentifyError::from)
        );
        assert!(!identity.contains(ID) && !error.contains("s3cret"));
    }

    proptest! {
        #[test]
        fn the_body_that_goes_on_is_the_one_that_came(
            pieces in proptest::collection::vec("[{}\":,a installId0-9]{0,400}", 0..30), max_body in 0usize..3000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let pieces: Vec<_> = pieces.iter().map(String::as_bytes).collect();
                let sent = pieces.concat();
                let (body, _) = Chunked::new(&pieces).with_length().into_body();
                let options = IdentifyOptions { max_body, ..options() };
                if let Ok((_, body)) = identify(&options, &Fields::new(), body).await {
                    prop_assert_eq!(body.size_hint().exact(), Some(sent.len() as u64));
                    prop_assert_eq!(body.collect().await.unwrap().to_bytes(), sent);
                }
                Ok(())
            })?;
        }
    }
}
