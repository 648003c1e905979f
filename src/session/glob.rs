//! Globs over bytes: cookie names, paths, paths with a query.

/// A pattern in which `*` stands for any run of bytes (also none, also with `/` in it) and `?` for exactly one byte.
///
/// Everything else stands for itself; there is no escape. Matching needs no memory and no recursion: at worst it
/// takes as many steps as the pattern is long times the text is long, mostly as many as the text is long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glob {
    pattern: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Nothing but `*`.
    All,
    /// No wildcard at all.
    Literal,
    Wild,
}

impl Glob {
    /// The glob written as `pattern`. Every text is a valid pattern; the empty one matches the empty text only.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        let kind = if !pattern.is_empty() && pattern.bytes().all(|byte| byte == b'*') {
            Kind::All
        } else if pattern.contains(['*', '?']) {
            Kind::Wild
        } else {
            Kind::Literal
        };
        Self {
            pattern: pattern.to_owned(),
            kind,
        }
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        match self.kind {
            Kind::All => true,
            Kind::Literal => self.pattern.as_bytes() == text,
            Kind::Wild => matches_wild(self.pattern.as_bytes(), text),
        }
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.pattern
    }
}

/// Walks pattern and text side by side. On a mismatch it goes back to the last `*` alone and lets that one take one
/// byte more: what an earlier `*` took never needs to change, since a later one can make up for it.
fn matches_wild(mut pattern: &[u8], mut text: &[u8]) -> bool {
    // What follows the last `*`, and the text from where that `*` stops for now.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (Some((b'*', rest)), _) => {
                if rest.is_empty() {
                    return true;
                }
                retry = Some((rest, text));
                pattern = rest;
                continue;
            }
            (Some((wanted, pattern_rest)), Some((found, text_rest))) if *wanted == b'?' || wanted == found => {
                pattern = pattern_rest;
                text = text_rest;
                continue;
            }
            (None, None) => return true,
            // The text has ended before the pattern: taking more of it cannot help.
            (Some(_), None) => return false,
            (_, Some(_)) => {}
        }
        let Some((after_star, (_, text_rest))) = retry.and_then(|(p, t)| Some((p, t.split_first()?))) else {
            return false;
        };
        pattern = after_star;
        text = text_rest;
        retry = Some((after_star, text_rest));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::Glob;

    /// The definition, spelled out.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            Some((b'?', rest)) => !text.is_empty() && naive(rest, &text[1..]),
            Some((byte, rest)) => text.first() == Some(byte) && naive(rest, &text[1..]),
        }
    }

    #[test]
    fn a_star_takes_any_run_also_none_and_also_slashes() {
        assert!(Glob::new("*").matches(b""));
        assert!(Glob::new("/feed/*").matches(b"/feed/"));
        assert!(Glob::new("/feed/*").matches(b"/feed/a/b?c=d"));
        assert!(!Glob::new("/feed/*").matches(b"/feed"));
        assert!(Glob::new("*session*").matches(b"session"));
        assert!(Glob::new("**").matches(b"any"));
    }

    #[test]
    fn a_question_mark_takes_exactly_one_byte() {
        assert!(Glob::new("s?d").matches(b"sid"));
        assert!(!Glob::new("s?d").matches(b"sd"));
        assert!(!Glob::new("s?d").matches(b"siid"));
        assert!(Glob::new("?").matches(&[0xff]));
        assert!(!Glob::new("?").matches(b""));
    }

    #[test]
    fn without_wildcards_only_the_same_text_matches() {
        assert!(Glob::new("PHPSESSID").matches(b"PHPSESSID"));
        assert!(!Glob::new("PHPSESSID").matches(b"phpsessid"));
        assert!(!Glob::new("PHPSESSID").matches(b"PHPSESSID2"));
        assert!(Glob::new("").matches(b""));
        assert!(!Glob::new("").matches(b"a"));
    }

    #[test]
    fn many_stars_over_a_long_text_stay_quick() {
        let glob = Glob::new(&format!("{}b", "*a".repeat(50)));
        let text = vec![b'a'; 20_000];
        let start = Instant::now();
        assert!(!glob.matches(&text));
        assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
    }

    #[test]
    fn the_pattern_is_given_back_as_written() {
        assert_eq!(Glob::new("a*b?").as_str(), "a*b?");
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?/]{0,8}", text in "[ab*?/]{0,12}") {
            prop_assert_eq!(Glob::new(&pattern).matches(text.as_bytes()), naive(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
