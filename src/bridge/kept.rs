//! The body of a request that may have to be sent once more (rule C4): read before it is sent, up to a limit.
//!
//! Only then is it sure that all of it is there when the backend's answer comes, which may be before the end of an
//! upload. A body that is longer than the limit goes on as it comes, and is not sent again.

use crate::wire::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt as _;

use super::identify::{Pieces, Replay};

/// A whole body.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pieces: std::collections::VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Kept {
    /// The body, once more.
    pub fn body(&self) -> Body {
        Body::new(Replay {
            read: self.pieces.clone(),
            trailers: self.trailers.clone(),
            rest: Body::empty(),
        })
    }
}

/// Reads `body`, and gives it back whole, with what is kept of it where it has no more than `limit` bytes. The deadline is
/// the caller's to set.
///
/// # Errors
/// When the body breaks off.
pub async fn keep(mut body: Body, limit: usize) -> Result<(Body, Option<Kept>), axum::Error> {
    if http_body::Body::is_end_stream(&body) {
        return Ok((body, Some(Kept::default())));
    }
    let announced = http_body::Body::size_hint(&body).lower();
    if usize::try_from(announced).is_ok_and(|announced| announced > limit) {
        return Ok((body, None));
    }
    let (mut read, mut left, mut trailers) = (Pieces::default(), limit, None);
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                let fits = left.checked_sub(data.len());
                read.push(data);
                let Some(rest) = fits else {
                    let body = Replay {
                        read: read.finish(),
                        trailers: None,
                        rest: body,
                    };
                    return Ok((Body::new(body), None));
                };
                left = rest;
            }
            Err(other) => trailers = other.into_trailers().ok(),
        }
    }
    let kept = Kept {
        pieces: read.finish(),
        trailers,
    };
    Ok((kept.body(), Some(kept)))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http::HeaderValue;
    use http_body::{Body as _, Frame};
    use http_body_util::StreamBody;

    use super::*;

    fn chunked(pieces: &[&'static str]) -> Body {
        let frames: Vec<_> = pieces
            .iter()
            .map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(piece.as_bytes()))))
            .collect();
        Body::new(StreamBody::new(stream::iter(frames)))
    }

    async fn text(body: Body) -> String {
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_body_within_the_limit_can_be_had_again_and_again() {
        for body in [chunked(&["ab", "cd", "", "e"]), Body::from("abcde")] {
            let (body, kept) = keep(body, 5).await.unwrap();
            let kept = kept.expect("it is kept");
            assert_eq!(body.size_hint().exact(), Some(5));
            assert_eq!(text(body).await, "abcde");
            for _ in 0..2 {
                assert_eq!(text(kept.body()).await, "abcde");
            }
        }
        let (body, kept) = keep(Body::empty(), 0).await.unwrap();
        assert!(body.is_end_stream() && kept.unwrap().body().is_end_stream());
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_goes_on_whole_and_is_not_kept() {
        for body in [chunked(&["ab", "cd", "e", "f"]), Body::from("abcdef")] {
            let (body, kept) = keep(body, 5).await.unwrap();
            assert!(kept.is_none());
            assert_eq!(text(body).await, "abcdef");
        }
    }

    #[tokio::test]
    async fn trailers_are_kept_too() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("9"));
        let frames = [
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"x"))),
            Ok(Frame::trailers(trailers)),
        ];
        let (_, kept) = keep(Body::new(StreamBody::new(stream::iter(frames))), 9).await.unwrap();
        let collected = kept.unwrap().body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "9");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_an_error() {
        let frames = [
            Ok(Frame::data(Bytes::from_static(b"x"))),
            Err(std::io::Error::other("gone")),
        ];
        assert!(keep(Body::new(StreamBody::new(stream::iter(frames))), 9).await.is_err());
    }
}
