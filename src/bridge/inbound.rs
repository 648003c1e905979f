//! Stage 4: the backend's response, without its cookies (rules J3 to J5).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};

use crate::wire::body::Body;
use crate::wire::fields::{Fields, name};
use crate::wire::headers;

/// The fields that set cookies: the present one, and its predecessor (RFC 2965), which no browser reads any more and no
/// client should see either.
const SETS_COOKIES: [&str; 2] = [name::SET_COOKIE, name::SET_COOKIE2];

/// Fields by which a backend speaks to shared caches alone; they would overrule `Cache-Control` (RFC 9213).
const TARGETED: [&str; 2] = [name::CDN_CACHE_CONTROL, name::SURROGATE_CONTROL];

/// Takes every `Set-Cookie` out and returns them in order. The response is made uncacheable where that is needed, and
/// `Vary: Cookie` names the field that the cookie now depends on.
pub fn take_cookies(fields: &mut Fields, install_id: Option<&HeaderName>) -> Vec<HeaderValue> {
    vary_by_install_id(fields, install_id);
    if !SETS_COOKIES.iter().any(|name| fields.contains(name)) {
        return Vec::new();
    }
    let taken = fields.take(name::SET_COOKIE);
    fields.remove(name::SET_COOKIE2);
    keep_out_of_caches(fields);
    taken
}

/// Makes an informational response one for the client: without cookies, and without what was meant for the bridge alone.
pub fn clean_interim(fields: &mut Fields) {
    headers::strip_response(fields);
    for name in SETS_COOKIES {
        fields.remove(name);
    }
}

/// Rule J5: what was not cacheable for its `Set-Cookie` must not become so by losing it.
fn keep_out_of_caches(fields: &mut Fields) {
    let is_safe = fields.all(name::CACHE_CONTROL).any(|value| {
        split_list(value).any(|directive| {
            // `private="x"` and `no-cache="x"` only speak of the fields they name.
            [&b"private"[..], b"no-store", b"no-cache"]
                .iter()
                .any(|safe| directive.eq_ignore_ascii_case(safe))
        })
    });
    if !is_safe {
        fields.insert(name::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        for name in TARGETED {
            fields.remove(name);
        }
    }
}

/// Rule J5: the cookie depends on the Install ID, so what varied by the one varies by the other. Where the ID comes in
/// the body alone, no field tells: `*`.
fn vary_by_install_id(fields: &mut Fields, install_id: Option<&HeaderName>) {
    if !fields.all(name::VARY).any(|value| split_list(value).any(is_cookie)) {
        return;
    }
    let Some(install_id) = install_id else {
        fields.insert(name::VARY, HeaderValue::from_static("*"));
        return;
    };
    let instead = install_id.as_str().as_bytes();
    let mut names: Vec<&[u8]> = Vec::new();
    for value in fields.all(name::VARY) {
        for name in split_list(value) {
            let name = if is_cookie(name) { instead } else { name };
            if !names.iter().any(|seen| seen.eq_ignore_ascii_case(name)) {
                names.push(name);
            }
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&names.join(&b", "[..])) {
        fields.insert(name::VARY, value);
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
                    for name in SETS_COOKIES {
                        trailers.remove(name);
                    }
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

    fn fields(lines: &[(&'static str, &'static str)]) -> Fields {
        lines.iter().copied().collect()
    }

    fn through(lines: &[(&'static str, &'static str)]) -> (Vec<HeaderValue>, http::HeaderMap) {
        let mut fields = fields(lines);
        let taken = take_cookies(&mut fields, Some(&HeaderName::from_static("x-install-id")));
        (taken, fields.to_map())
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
        let mut rest = fields(&[("vary", "Cookie, Accept")]);
        take_cookies(&mut rest, None);
        assert_eq!(rest.get("vary"), Some(&b"*"[..]));
    }

    #[tokio::test]
    async fn j4_trailers_lose_their_cookies_and_what_is_for_one_hop_and_the_end_is_told() {
        let frames = [
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"x"))),
            Ok(Frame::trailers(
                fields(&[
                    ("set-cookie", "a=1"),
                    ("x-sum", "9"),
                    ("connection", "x-own"),
                    ("x-own", "1"),
                    ("keep-alive", "1"),
                    ("transfer-encoding", "chunked"),
                    ("content-length", "3"),
                ])
                .to_map(),
            )),
        ];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let (end, ended) = oneshot::channel::<()>();
        let collected = InboundBody::wrap(body, false, end).collect().await.unwrap();
        let trailers = collected.trailers().unwrap();
        assert_eq!(trailers, &fields(&[("x-sum", "9")]).to_map());
        ended.await.expect_err("dropped, not sent");
    }
}
