//! The search for the Install ID in a body: against a JSON parser, whole and in pieces; and the ID itself.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::bridge::identify::{IdentifyError, IdentifyOptions, find, told};
use crate::bridge::pointer::{MAX_VALUE, Pointer, PointerSearch, Step};
use crate::session::install_id::{Format, InstallId};
use crate::wire::body::Body;
use crate::wire::fields::Fields;

const POINTERS: [&[&str]; 6] = [
    &["installId"],
    &["a", "id"],
    &["a", "0"],
    &["0"],
    &["", "a/~\"b"],
    &["a", "1", "id"],
];
const LIMITS: [usize; 4] = [64 * 1024, 0, 7, 40];

pub fn check(data: &[u8]) {
    let mut document = data;
    let tokens: &[&str] = *super::choose(&mut document, &POINTERS);
    let max_body = *super::choose(&mut document, &LIMITS);
    let escaped = tokens
        .iter()
        .map(|token| format!("/{}", token.replace('~', "~0").replace('/', "~1")));
    let pointer = Pointer::parse(&escaped.collect::<String>()).expect("a pointer");

    let step = search(&pointer, [document]);
    assert!(search(&pointer, document.chunks(1)) == step, "cut at every byte");
    assert!(search(&pointer, super::pieces(document)) == step, "cut anywhere");
    if let Ok(parsed) = serde_json::from_slice::<Json>(document) {
        assert!(step == expected(&parsed, tokens), "a parser finds something else");
    }
    if let Step::Found(value) = &step {
        assert!(value.len() <= MAX_VALUE);
        is_in(document, tokens, value);
        well_formed(value);
    }
    identified(&pointer, max_body, document);
    by_header(document);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let id = "9e201bab-1ccf-47d1-82e0-90d71ee5fd2c";
    let documents = [
        format!(r#"{{"installId":"{id}"}}"#),
        format!(
            r#"{{"x":[1,-2.5e3,true,null,{{}}],"installId":"{}"}}"#,
            id.to_uppercase()
        ),
        format!(r#" {{ "a" : {{ "b":"\"}}", "id" : "{{{id}}}" }} }}"#),
        r#"{"a":["abc.DEF~-1",{"id":"12345678"}]}"#.to_owned(),
        r#"["first","second"]"#.to_owned(),
        r#"{"":{"a/~\"b":"\u0061\ud83d\ude00\u00e9bcdefgh"}}"#.to_owned(),
        r#"{"installId":null,"installId":"again"}"#.to_owned(),
        "\u{feff}{/* \"installId\":\"no\" */,, \"installId\" : \"urn:uuid:9e201bab-1ccf-47d1-82e0-90d71ee5fd2c\""
            .to_owned(),
        r#"{"a":http://x,"b":"\u12","installId":"\ud83d-\ude00"}"#.to_owned(),
        format!(r#"{{"installId":"{}"}}"#, "x".repeat(MAX_VALUE + 1)),
        "a=b&installId=c".to_owned(),
    ];
    let mut seeds = Vec::new();
    for document in documents {
        for pointer in 0..6_u8 {
            seeds.push([&[pointer, pointer % 4], document.as_bytes()].concat());
        }
    }
    seeds
}

fn search<'a>(pointer: &Pointer, pieces: impl IntoIterator<Item = &'a [u8]>) -> Step {
    let mut search = PointerSearch::new(pointer);
    for piece in pieces {
        match search.feed(piece) {
            Step::NeedMore => {}
            answer => {
                assert!(
                    search.feed(b"{\"a\":\"b\"}") == Step::Absent,
                    "it goes on after its answer"
                );
                return answer;
            }
        }
    }
    Step::NeedMore
}

/// A valid document. Where a name is there twice, the first counts, which `serde_json::Value` does not remember.
enum Json {
    Null,
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
    Other,
}

fn expected(json: &Json, tokens: &[&str]) -> Step {
    let Some((token, rest)) = tokens.split_first() else {
        return match json {
            Json::Null => Step::Absent,
            Json::Text(text) if text.len() <= MAX_VALUE => Step::Found(text.clone().into_bytes()),
            _ => Step::Wrong,
        };
    };
    let member = match json {
        Json::Object(members) => members.iter().find(|(name, _)| name == token).map(|(_, value)| value),
        Json::List(elements) => token.parse::<usize>().ok().and_then(|index| elements.get(index)),
        // Nothing but an empty document or white space leaves the answer open, and neither can be parsed.
        _ => None,
    };
    member.map_or(Step::Absent, |member| expected(member, rest))
}

/// Whatever the damage: what is found is written in the document as a string, and so is the name before it.
fn is_in(document: &[u8], tokens: &[&str], value: &[u8]) {
    if document.contains(&b'\\') {
        return;
    }
    let quoted = |text: &[u8]| [b"\"", text, b"\""].concat();
    let last = quoted(value);
    let at = document.windows(last.len()).rposition(|window| window == last);
    let at = at.expect("what was found is nowhere in the document");
    for token in tokens.iter().filter(|token| token.parse::<usize>().is_err()) {
        let name = quoted(token.as_bytes());
        assert!(
            document[..at].windows(name.len()).any(|window| window == name),
            "its name is not there"
        );
    }
}

fn well_formed(value: &[u8]) {
    for format in [Format::Uuid, Format::Token] {
        let Ok(id) = InstallId::parse(format, value) else {
            continue;
        };
        let normalised = id.expose().into_owned();
        let again = InstallId::parse(format, normalised.as_bytes()).expect("an ID stays one");
        assert!(again == id && again.key() == id.key() && again.expose() == normalised);
        assert_eq!(format!("{id:?}"), format!("InstallId(sha256:{})", id.key()));
        if format == Format::Token {
            assert_eq!(normalised.as_bytes(), value);
            continue;
        }
        let digits: Vec<u8> = value
            .iter()
            .filter(|byte| byte.is_ascii_hexdigit())
            .map(u8::to_ascii_lowercase)
            .collect();
        let plain = normalised.replace('-', "").into_bytes();
        // "urn:uuid:" brings a digit of its own.
        assert!(
            digits.ends_with(&plain) && normalised.len() == 36,
            "another ID than was sent"
        );
    }
}

/// The stage as a whole: the same answer within its limit, and the body goes on byte for byte.
fn identified(pointer: &Pointer, max_body: usize, document: &[u8]) {
    let options = IdentifyOptions {
        header: None,
        pointer: Some(pointer.clone()),
        max_body,
        format: Format::Token,
    };
    let pieces = super::pieces(document)
        .into_iter()
        .map(Bytes::copy_from_slice)
        .collect();
    let body = Body::new(Arriving(pieces));
    let outcome = ready(find(&options, &Fields::new(), body));
    let within = &document[..max_body.min(document.len())];
    let expected = match search(pointer, [within]) {
        Step::Found(value) => InstallId::parse(Format::Token, &value).map(Some).map_err(|_| ()),
        Step::Wrong => Err(()),
        Step::Absent | Step::NeedMore => Ok(None),
    };
    match outcome {
        Ok((identity, body)) => {
            assert!(expected == Ok(identity));
            let forwarded = ready(body.collect()).expect("the body goes on").to_bytes();
            assert!(forwarded == document, "the body was changed");
        }
        Err(IdentifyError::Malformed(_) | IdentifyError::NotAString) => assert!(expected.is_err()),
        Err(error) => panic!("{error}"),
    }
}

/// The same ID whether it stands in a body or in the header, once or twice; and none beside another.
fn by_header(text: &[u8]) {
    let Ok(value) = http::HeaderValue::from_bytes(text) else {
        return;
    };
    let options = IdentifyOptions {
        header: Some(http::HeaderName::from_static("x-install-id")),
        pointer: None,
        max_body: 0,
        format: Format::Token,
    };
    let mut fields = Fields::new();
    assert!(told(&options, &fields).expect("no header, no error").is_none());
    fields.append("x-Install-ID", value.clone());
    let expected = InstallId::parse(Format::Token, text).ok();
    assert!(told(&options, &fields).ok().flatten() == expected);
    fields.append("X-Install-Id", value);
    assert!(told(&options, &fields).ok().flatten() == expected, "twice the same");
    fields.append("X-INSTALL-ID", http::HeaderValue::from_static("another-one-0000"));
    let another = InstallId::parse(Format::Token, b"another-one-0000").ok();
    assert!(told(&options, &fields).is_err() || expected == another);
}

struct Arriving(std::collections::VecDeque<Bytes>);

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(http_body::Frame::data(piece))))
    }
}

fn ready<F: Future>(future: F) -> F::Output {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits although everything is there"),
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Everything)
    }
}

struct Everything;

impl<'de> Visitor<'de> for Everything {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(Json::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}
