//! The body of a message on its way through.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;

/// A body of whatever kind. One that is here already, as most are, needs no box and nobody to be asked.
#[derive(Debug, Default)]
pub struct Body(Kind);

#[derive(Debug, Default)]
enum Kind {
    #[default]
    Ended,
    /// All of it, and not empty.
    Whole(Bytes),
    Coming(UnsyncBoxBody<Bytes, axum::Error>),
}

impl Body {
    /// One that comes as it comes.
    #[must_use]
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
    {
        Self(Kind::Coming(body.map_err(axum::Error::new).boxed_unsync()))
    }

    /// None.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Kind::Ended)
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(whole: T) -> Self {
        let whole = whole.into();
        Self(if whole.is_empty() {
            Kind::Ended
        } else {
            Kind::Whole(whole)
        })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.0 {
            Kind::Ended => Poll::Ready(None),
            Kind::Whole(whole) => {
                let whole = std::mem::take(whole);
                self.0 = Kind::Ended;
                Poll::Ready(Some(Ok(Frame::data(whole))))
            }
            Kind::Coming(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Ended => true,
            Kind::Whole(_) => false,
            Kind::Coming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Ended => SizeHint::with_exact(0),
            Kind::Whole(whole) => SizeHint::with_exact(whole.len() as u64),
            Kind::Coming(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    #[tokio::test]
    async fn a_body_that_is_here_comes_in_one_piece_and_has_ended_then() {
        let mut body = Body::from("abc");
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (false, Some(3)));
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(&piece[..], b"abc");
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn nothing_is_no_body() {
        for body in [Body::empty(), Body::from(""), Body::default()] {
            assert_eq!((body.is_end_stream(), body.size_hint().exact()), (true, Some(0)));
        }
    }

    #[tokio::test]
    async fn one_that_comes_is_what_it_was_made_of() {
        let body = Body::new(http_body_util::Full::new(Bytes::from_static(b"ab")));
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (false, Some(2)));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "ab");
    }
}
