//! Stage 4: the backend's response, without its cookies (rules J3 to J5).

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderName, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderValue};
use http_body::{Frame, SizeHint};

use crate::wire::headers;

/// Its predecessor (RFC 2965), which no browser reads any more and no client should see either.
const SET_COOKIE2: HeaderName = HeaderName::from_static("set-cookie2");

/// Fields by which a backend speaks to shared caches alone; they would overrule `Cache-Control` (RFC 9213).
const TARGETED: [HeaderName; 2] = [
    HeaderName::from_static("cdn-cache-control"),
    HeaderName::from_static("surrogate-control"),
];

/// Takes every `Set-Cookie` out and returns them in order. The response is made uncacheable where that is needed, and
/// `Vary: Cookie` names the field that the cookie now depends on.
pub fn take_cookies(headers: &mut HeaderMap, install_id: Option<&HeaderName>) -> Vec<HeaderValue> {
    vary_by_install_id(headers, install_id);
    if !headers.contains_key(SET_COOKIE) && !headers.contains_key(SET_COOKIE2) {
        return Vec::new();
    }
    let taken = headers.get_all(SET_COOKIE).iter().cloned().collect();
    headers.remove(SET_COOKIE);
    headers.remove(SET_COOKIE2);
    keep_out_of_caches(headers);
    taken
}

/// Makes an informational response one for the client: without cookies, and without what was meant for the bridge alone.
pub fn clean_interim(fields: &mut HeaderMap) {
    headers::strip_response(fields);
    fields.remove(SET_COOKIE);
    fields.remove(SET_COOKIE2);
}

/// Rule J5: what was not cacheable for its `Set-Cookie` must not become so by losing it.
fn keep_out_of_caches(headers: &mut HeaderMap) {
    let is_safe = headers.get_all(CACHE_CONTROL).iter().any(|value| {
        split_list(value.as_bytes()).any(|directive| {
            // `private="x"` and `no-cache="x"` only speak of the fields they name.
            [&b"private"[..], b"no-store", b"no-cache"]
                .iter()
                .any(|safe| directive.eq_ignore_ascii_case(safe))
        })
    });
    if !is_safe {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        for name in TARGETED {
            headers.remove(name);
        }
    }
}

/// Rule J5: the cookie depends on the Install ID, so what varied by the one varies by the other. Where the ID comes in
/// the body alone, no field tells: `*`.
fn vary_by_install_id(headers: &mut HeaderMap, install_id: Option<&HeaderName>) {
    let names_cookie = |value: &HeaderValue| split_list(value.as_bytes()).any(is_cookie);
    if !headers.get_all(VARY).iter().any(names_cookie) {
        return;
    }
    let Some(install_id) = install_id else {
        headers.insert(VARY, HeaderValue::from_static("*"));
        return;
    };
    let instead = install_id.as_str().as_bytes();
    let mut names: Vec<&[u8]> = Vec::new();
    for value in headers.get_all(VARY) {
        for name in split_list(value.as_bytes()) {
            let name = if is_cookie(name) { instead } else { name };
            if !names.iter().any(|seen| seen.eq_ignore_ascii_case(name)) {
                names.push(name);
            }
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&names.join(&b", "[..])) {
        headers.insert(VARY, value);
    }
}

fn is_cookie(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"cookie")
}

/// The members of a comma-separated list (RFC 9110 §5.6.1), empty ones left out. Commas within quotes do not separate.
fn split_list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let mut escaped = false;
    value
        .split(move |byte| {
            let separates = *byte == b',' && !quoted;
            (quoted, escaped) = match *byte {
                b'"' if !escaped => (!quoted, false),
                b'\\' if quoted && !escaped => (quoted, true),
                _ => (quoted, false),
            };
            separates
        })
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// A response body on its way to the client: trailers lose their `Set-Cookie` and what is meant for one hop, and what is to be let go at its end is.
pub struct InboundBody<B: http_body::Body, H> {
    body: B,
    /// The backend has told the length.
    sized: bool,
    /// Dropped at the end of the body, however it ends.
    held: Option<H>,
}

impl<B, H> InboundBody<B, H>
where
    B: http_body::Body<Data = Bytes, Error: Into<axum::BoxError> + Send + Unpin> + Send + Unpin + 'static,
    H: Send + Unpin + 'static,
{
    /// Wraps `body`; `sized`: the backend has told its length. `held` is dropped when it has ended or is given up.
    pub fn wrap(body: B, sized: bool, held: H) -> Body {
        Body::new(Self {
            body,
            sized,
            held: Some(held),
        })
    }
}

impl<B: http_body::Body<Data = Bytes, Error: Unpin> + Unpin, H: Unpin> http_body::Body for InboundBody<B, H> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(context);
        match polled {
            Poll::Ready(Some(Ok(ref mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_response_trailers(trailers);
                    trailers.remove(SET_COOKIE);
                    trailers.remove(SET_COOKIE2);
                }
                if self.body.is_end_stream() {
                    self.held = None;
                }
            }
            Poll::Ready(Some(Err(_)) | None) => self.held = None,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Exact only where the backend has told the length. The answer to a `HEAD` has no body, but that is not the length
    /// to tell the client (RFC 9110 §8.6).
    fn size_hint(&self) -> SizeHint {
        if self.sized {
            self.body.size_hint()
        } else {
            SizeHint::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use tokio::sync::oneshot;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn through(lines: &[(&'static str, &'static str)]) -> (Vec<HeaderValue>, HeaderMap) {
        let mut headers = headers(lines);
        let taken = take_cookies(&mut headers, Some(&HeaderName::from_static("x-install-id")));
        (taken, headers)
    }

    #[test]
    fn j4_every_set_cookie_is_taken_in_order() {
        let (taken, rest) = through(&[("set-cookie", "a=1"), ("content-type", "x"), ("set-cookie", "b=2")]);
        assert_eq!(taken, ["a=1", "b=2"]);
        assert!(!rest.contains_key("set-cookie"));
        assert_eq!(rest["content-type"], "x");
    }

    #[test]
    fn j5_a_response_that_lost_a_cookie_is_not_cacheable() {
        for (before, after) in [
            (None, "private, no-store"),
            (Some("public, max-age=60"), "private, no-store"),
            (Some("no-cache=\"set-cookie\""), "private, no-store"),
            (Some("private=\"x, private\""), "private, no-store"),
            (Some("max-age=0, Private"), "max-age=0, Private"),
            (Some("no-store"), "no-store"),
            (Some("NO-CACHE, must-revalidate"), "NO-CACHE, must-revalidate"),
        ] {
            let mut lines = vec![("set-cookie", "a=1"), ("surrogate-control", "max-age=9")];
            lines.extend(before.map(|value| ("cache-control", value)));
            let (_, rest) = through(&lines);
            assert_eq!(rest["cache-control"], after, "{before:?}");
            assert_eq!(
                rest.contains_key("surrogate-control"),
                after != "private, no-store",
                "{before:?}"
            );
        }
    }

    #[test]
    fn j5_a_response_without_a_cookie_keeps_its_caching() {
        let (taken, rest) = through(&[("cache-control", "public, max-age=60")]);
        assert!(taken.is_empty());
        assert_eq!(rest["cache-control"], "public, max-age=60");
    }

    #[test]
    fn j5_vary_names_the_install_id_where_it_named_the_cookie() {
        for (before, after) in [
            (vec!["Cookie"], "x-install-id"),
            (vec!["Accept-Language, cookie"], "Accept-Language, x-install-id"),
            (vec!["Accept", "COOKIE, accept"], "Accept, x-install-id"),
            (vec!["X-Install-Id, Cookie"], "X-Install-Id"),
            (vec!["Accept-Encoding"], "Accept-Encoding"),
            (vec!["X-Cookie"], "X-Cookie"),
        ] {
            let lines: Vec<_> = before.iter().map(|value| ("vary", *value)).collect();
            let (_, rest) = through(&lines);
            let values: Vec<_> = rest.get_all("vary").iter().collect();
            assert_eq!(values, [after], "{before:?}");
        }
        let mut rest = headers(&[("vary", "Cookie, Accept")]);
        take_cookies(&mut rest, None);
        assert_eq!(rest["vary"], "*");
    }

    #[tokio::test]
    async fn j4_trailers_lose_their_cookies_and_what_is_for_one_hop_and_the_end_is_told() {
        let frames = [
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"x"))),
            Ok(Frame::trailers(headers(&[
                ("set-cookie", "a=1"),
                ("x-sum", "9"),
                ("connection", "x-own"),
                ("x-own", "1"),
                ("keep-alive", "1"),
                ("transfer-encoding", "chunked"),
                ("content-length", "3"),
            ]))),
        ];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let (end, ended) = oneshot::channel::<()>();
        let collected = InboundBody::wrap(body, false, end).collect().await.unwrap();
        let trailers = collected.trailers().unwrap();
        assert_eq!(trailers, &headers(&[("x-sum", "9")]));
        ended.await.expect_err("dropped, not sent");
    }
}
