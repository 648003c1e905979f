//! Finds one string in a JSON document that arrives in pieces and need not be valid.
//!
//! A [`Pointer`] (RFC 6901) names a member; a [`PointerSearch`] is fed the bytes of the document as they come and says
//! as soon as it can what is there. What follows the answer is never looked at, and what comes before it only has to
//! be told apart: strings from structure, one container from another. So doubled, stray and missing commas, comments,
//! a byte order mark, raw control characters or half a document do no harm.
//!
//! * The first member of a name wins. A value of `null` counts as absent.
//! * A member of the right name in the wrong place (another container, a string, a comment) is never taken.
//! * Memory is bounded: one counter for the depth of what is skipped, and at most [`MAX_VALUE`] bytes of text.
//! * Time is linear in the length of the document, and no input makes it panic.

mod search;
mod text;

use std::fmt;
use std::sync::Arc;

pub use search::PointerSearch;

/// Longest string that is given back, in bytes after its escapes are resolved. A longer one is [`Step::Wrong`].
pub const MAX_VALUE: usize = 512;

/// A JSON pointer to something inside a document (RFC 6901), such as `/installId` or `/users/0/id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    tokens: Arc<[Token]>,
}

#[derive(Debug, PartialEq, Eq)]
struct Token {
    name: Vec<u8>,
    /// The name as the index of an array element, where it can be one.
    index: Option<usize>,
}

impl Pointer {
    /// Reads a pointer.
    ///
    /// # Errors
    /// [`PointerError`] when it does not start with `/`, or has a `~` that is not `~0` or `~1`. The empty pointer (the
    /// whole document) is refused too: a request body is never just an ID.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        let path = text.strip_prefix('/').ok_or(PointerError::NoSlash)?;
        let tokens = path.split('/').map(Token::parse).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { tokens: tokens.into() })
    }
}

impl Token {
    fn parse(text: &str) -> Result<Self, PointerError> {
        let mut name = Vec::with_capacity(text.len());
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            name.push(match byte {
                b'~' => match bytes.next() {
                    Some(b'0') => b'~',
                    Some(b'1') => b'/',
                    _ => return Err(PointerError::BadEscape),
                },
                other => other,
            });
        }
        let is_index = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
        Ok(Self {
            name,
            index: if is_index { text.parse().ok() } else { None },
        })
    }
}

/// The pointer back in its text form.
impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tokens.iter().try_for_each(|token| {
            let name = String::from_utf8_lossy(&token.name);
            write!(f, "/{}", name.replace('~', "~0").replace('/', "~1"))
        })
    }
}

/// Why a text is not a JSON pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointerError {
    /// It does not start with `/`.
    NoSlash,
    /// It has a `~` that is followed by neither `0` nor `1`.
    BadEscape,
}

impl fmt::Display for PointerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSlash => "a JSON pointer starts with \"/\"",
            Self::BadEscape => "in a JSON pointer, \"~\" is written \"~0\" and a \"/\" inside a name \"~1\"",
        })
    }
}

impl std::error::Error for PointerError {}

/// What a [`PointerSearch`] knows so far.
#[derive(Clone, PartialEq, Eq)]
pub enum Step {
    /// No answer yet. When the document ends here, nothing was found.
    NeedMore,
    /// The string that the pointer leads to, its escapes resolved. **May be a secret**, so `Debug` hides it. Bytes
    /// that are not UTF-8 are kept as they are; half a surrogate pair becomes U+FFFD.
    Found(Vec<u8>),
    /// There is something, but not a string, or one longer than [`MAX_VALUE`].
    Wrong,
    /// There is nothing, or `null`; more input would not change that.
    Absent,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeedMore => f.write_str("NeedMore"),
            Self::Found(value) => write!(f, "Found({} bytes)", value.len()),
            Self::Wrong => f.write_str("Wrong"),
            Self::Absent => f.write_str("Absent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::{MAX_VALUE, Pointer, PointerError, PointerSearch, Step};

    fn search(pointer: &str, document: impl AsRef<[u8]>) -> Step {
        PointerSearch::new(&Pointer::parse(pointer).unwrap()).feed(document.as_ref())
    }

    fn found(value: &str) -> Step {
        Step::Found(value.as_bytes().to_vec())
    }

    /// Shows what a plain `assert_eq!` would hide.
    #[track_caller]
    fn assert_finds(pointer: &str, document: &str, value: &str) {
        let step = search(pointer, document);
        assert!(step == found(value), "{pointer} in {document}: {step:?}");
    }

    #[test]
    fn finds_a_top_level_member() {
        assert_finds("/installId", r#"{"installId":"abc"}"#, "abc");
        assert_finds(
            "/installId",
            r#" { "a" : 1 , "b":[1,{"c":null}], "installId" : "abc" , "z": "#,
            "abc",
        );
        assert_finds("/installId", r#"{"installId":""}"#, "");
    }

    #[test]
    fn answers_at_the_closing_quote_without_what_follows() {
        let mut search = PointerSearch::new(&Pointer::parse("/id").unwrap());
        assert_eq!(search.feed(br#"{"id":"abc"#), Step::NeedMore);
        assert!(search.feed(b"\"") == found("abc"));
        assert_eq!(search.feed(b", \"id\": \"other\"}"), Step::Absent);
    }

    #[test]
    fn a_member_of_that_name_elsewhere_is_not_taken() {
        for document in [
            r#"{"user":{"installId":"no"}}"#,
            r#"{"a":[{"installId":"no"}]}"#,
            r#"[{"installId":"no"}]"#,
            r#"{"a":"\"installId\":\"no\""}"#,
            r#"{"a":"x\\","b":"{\"installId\":\"no\""}"#,
            r#"{"a":"installId","b":"no"}"#,
            r#"{"a":["installId","no"]}"#,
            r#"{"installIdx":"no","xinstallId":"no","installid":"no"}"#,
            r#"{} {"installId":"no"}"#,
            r#"{"installId" other:"no"}"#,
            r#""installId":"no""#,
            r#"{/* "installId":"no" */}"#,
            "{// \"installId\":\"no\"\n}",
        ] {
            assert_eq!(search("/installId", document), Step::Absent, "{document}");
        }
        assert_finds("/installId", r#"{"a":{"installId":"no"},"installId":"yes"}"#, "yes");
    }

    #[test]
    fn the_first_of_two_members_wins() {
        assert_finds("/id", r#"{"id":"one","id":"two"}"#, "one");
        assert_eq!(search("/a/id", r#"{"a":{},"a":{"id":"two"}}"#), Step::Absent);
    }

    #[test]
    fn commas_too_many_or_too_few_do_no_harm() {
        assert_finds("/id", r#"{"a":"1",, "id":"x"}"#, "x");
        assert_finds("/id", r#"{,,"a":{"b":1,,},,,"id":"x"}"#, "x");
        assert_finds("/id", r#"{"a":"1" "b":2 "id":"x"}"#, "x");
        assert_finds("/id", r#"{"a":[1,,2,],"id":"x"}"#, "x");
        assert_finds("/1/id", r#"[{"id":"no"},,{"id":"x"}]"#, "x");
    }

    #[test]
    fn other_damage_before_the_member_does_no_harm() {
        assert_finds("/id", "\u{feff}{\"id\":\"x\"}", "x");
        assert_finds(
            "/id",
            "{/* one \" */ \"a\": 1, // two \" {\n \"id\" /* three **/ : \"x\"}",
            "x",
        );
        assert_finds("/id", "{\"a\":\"raw \n line\",\"id\":\"x\"}", "x");
        assert_finds("/id", r#"{"a":,"id":"x"}"#, "x");
        assert_finds("/id", r#"{"a","id":"x"}"#, "x");
        assert_finds("/id", r#"{"a" 5,"id":"x"}"#, "x");
        assert_finds("/id", r#"{"a" {"id":"no"},"id":"x"}"#, "x");
        assert_finds("/id", r#"{"a":http://host/path,"id":"x"}"#, "x");
        assert_finds("/id", r#"{"a":{"b":http://host/path},"id":"x"}"#, "x");
        assert_finds("/id", r#"{"a":{b:'c',d:"e"},"id":"x"}"#, "x");
        assert_finds("/id", r#"{a:"id",'b':"no",id:"no","id":"x"}"#, "x");
        assert_finds("/id", r#"{"a":NaN,]"b":[},"id":"x"}"#, "x");
        assert_finds("/id", r#"{"a":"\u12","id":"x"}"#, "x");
        assert_finds("/id", r#"{"a":"\uD83D","id":"x"}"#, "x");
    }

    #[test]
    fn a_key_and_a_value_may_be_written_with_escapes() {
        assert_finds(
            "/installId",
            r#"{"\u0069nstall\u0049d":"a\/b\u00e9\n\"\\"}"#,
            "a/bé\n\"\\",
        );
        assert_finds("/id", r#"{"id":"\uD83D\uDE00"}"#, "😀");
        assert_finds("/😀", r#"{"\ud83d\ude00":"x"}"#, "x");
        assert_finds(
            "/id",
            r#"{"id":"\uD83D-\uDE00\uD83D\uD83D\uDE00\uD83D"}"#,
            "\u{fffd}-\u{fffd}\u{fffd}😀\u{fffd}",
        );
        assert_finds("/id", r#"{"id":"\u12x\u"}"#, "\u{fffd}x\u{fffd}");
        assert!(search("/id", b"{\"id\":\"\xff\xfe\"}") == Step::Found(vec![0xff, 0xfe]));
    }

    #[test]
    fn what_is_no_string_is_wrong_and_null_is_absent() {
        for document in [
            r#"{"id":5}"#,
            r#"{"id":true,"#,
            r#"{"id":{"#,
            r#"{"id":["#,
            r#"{"id":nullx}"#,
            r#"{"id":nul }"#,
        ] {
            assert_eq!(search("/id", document), Step::Wrong, "{document}");
        }
        assert_eq!(search("/id", r#"{"id":null}"#), Step::Absent);
        assert_eq!(search("/id", r#"{"id": null ,"#), Step::Absent);
    }

    #[test]
    fn a_value_beyond_the_limit_is_wrong_before_it_ends() {
        assert_finds(
            "/id",
            &format!(r#"{{"id":"{}"}}"#, "x".repeat(MAX_VALUE)),
            &"x".repeat(MAX_VALUE),
        );
        assert_eq!(
            search("/id", format!(r#"{{"id":"{}"#, "x".repeat(MAX_VALUE + 1))),
            Step::Wrong
        );
    }

    #[test]
    fn follows_objects_and_arrays() {
        let document = r#"{"a/b":[0,{"m~n":"no"},{"x":{"m~n":"no"},"m~n":"yes"}],"01":"z","":{"":"e"}}"#;
        assert_finds("/a~1b/2/m~0n", document, "yes");
        assert_eq!(search("/a~1b/3/m~0n", document), Step::Absent);
        assert_eq!(search("/a~1b/-", document), Step::Absent);
        assert_eq!(search("/a~1b/02", document), Step::Absent);
        assert_eq!(search("/a~1b/0/x", document), Step::Absent);
        assert_finds("/01", document, "z");
        assert_finds("//", document, "e");
        assert_finds("/0", r#"["first"]"#, "first");
    }

    #[test]
    fn what_starts_with_neither_brace_nor_bracket_is_given_up_at_once() {
        for document in ["a=1&b={\"id\":\"x\"}", "5", "\"x\"", "}", ",", "<xml/>", "null"] {
            assert_eq!(search("/id", document), Step::Absent, "{document}");
        }
        assert_eq!(search("/id", ""), Step::NeedMore);
        assert_eq!(search("/id", " \r\n"), Step::NeedMore);
    }

    #[test]
    fn great_depth_costs_nothing() {
        let deep = format!(
            "{{\"a\":{}{},\"id\":\"x\"}}",
            "[".repeat(1_000_000),
            "]".repeat(1_000_000)
        );
        assert_finds("/id", &deep, "x");
    }

    #[test]
    fn a_pointer_is_read_as_rfc_6901_says() {
        assert_eq!(Pointer::parse(""), Err(PointerError::NoSlash));
        assert_eq!(Pointer::parse("installId"), Err(PointerError::NoSlash));
        assert_eq!(Pointer::parse("/a~2"), Err(PointerError::BadEscape));
        assert_eq!(Pointer::parse("/a~"), Err(PointerError::BadEscape));
        assert_eq!(Pointer::parse("/a~1b/c~0d/~01").unwrap().to_string(), "/a~1b/c~0d/~01");
    }

    #[test]
    fn debug_hides_what_was_found() {
        assert!(!format!("{:?}", search("/id", r#"{"id":"s3cret"}"#)).contains("s3cret"));
    }

    /// Few names, so that pointers often hit; unique within an object, as both sides must agree which one counts.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\"\\\\{}\\[\\],:/a😀]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map("[ab0/~\"]{0,2}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn pointer() -> impl Strategy<Value = String> {
        "(/(a|b|0|1|~0|~1|\"|aa|ab|)){1,3}"
    }

    fn in_pieces(pointer: &str, document: &[u8], cuts: &[usize]) -> Step {
        let mut search = PointerSearch::new(&Pointer::parse(pointer).unwrap());
        let mut rest = document;
        for cut in cuts {
            let (piece, after) = rest.split_at(cut % (rest.len() + 1));
            rest = after;
            match search.feed(piece) {
                Step::NeedMore => {}
                answer => return answer,
            }
        }
        search.feed(rest)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn agrees_with_a_parser_on_valid_documents(document in json(), pointer in pointer(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) };
            let expected = match document.pointer(&pointer) {
                None | Some(Value::Null) => Step::Absent,
                Some(Value::String(value)) if value.len() <= MAX_VALUE => found(value),
                Some(_) => Step::Wrong,
            };
            prop_assert_eq!(search(&pointer, text.unwrap()), expected);
        }

        #[test]
        fn the_answer_does_not_depend_on_how_the_document_is_cut(
            document in json(), pointer in pointer(), cuts: Vec<usize>, damage: Option<(usize, u8)>,
        ) {
            let mut text = serde_json::to_vec(&document).unwrap();
            if let Some((at, byte)) = damage {
                let at = at % text.len();
                text[at] = byte;
            }
            prop_assert_eq!(in_pieces(&pointer, &text, &cuts), search(&pointer, &text));
        }

        #[test]
        fn no_bytes_make_it_panic(document: Vec<u8>, pointer in pointer(), cuts: Vec<usize>) {
            prop_assert_eq!(in_pieces(&pointer, &document, &cuts), search(&pointer, &document));
        }

        #[test]
        fn json_like_rubbish_does_not_make_it_panic(
            document in "[{}\\[\\],:\"\\\\/*uaD8 \n0-9]{0,60}", pointer in pointer(), cuts: Vec<usize>,
        ) {
            prop_assert_eq!(in_pieces(&pointer, document.as_bytes(), &cuts), search(&pointer, &document));
        }
    }
}
