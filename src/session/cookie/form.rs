//! A cookie in memory, all of its text in one piece, and as it is written down.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Cookie;
use crate::session::clock::Timestamp;

/// The texts of a cookie, one behind the other: a jar is read for every request, and each allocation of that counts.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Text {
    /// Name, value, path and domain.
    pub(super) bytes: Box<[u8]>,
    /// Where the value begins, the path and the domain.
    ends: [usize; 3],
}

impl Text {
    pub(super) fn new(name: &[u8], value: &[u8], path: &[u8], domain: &str) -> Self {
        let value_end = name.len() + value.len();
        Self {
            bytes: [name, value, path, domain.as_bytes()].concat().into(),
            ends: [name.len(), value_end, value_end + path.len()],
        }
    }

    pub(super) fn name(&self) -> &[u8] {
        let [end, ..] = self.ends;
        self.bytes.get(..end).unwrap_or_default()
    }

    pub(super) fn value(&self) -> &[u8] {
        let [start, end, _] = self.ends;
        self.bytes.get(start..end).unwrap_or_default()
    }

    pub(super) fn path(&self) -> &[u8] {
        let [_, start, end] = self.ends;
        self.bytes.get(start..end).unwrap_or_default()
    }

    pub(super) fn domain(&self) -> &[u8] {
        let [.., start] = self.ends;
        self.bytes.get(start..).unwrap_or_default()
    }
}

/// A cookie as it is written down and read: the fields in their order are the stored form.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Cookie")]
struct Form<'a> {
    #[serde(borrow, with = "byte_string")]
    name: Cow<'a, [u8]>,
    #[serde(borrow, with = "byte_string")]
    value: Cow<'a, [u8]>,
    #[serde(borrow)]
    domain: Cow<'a, str>,
    host_only: bool,
    #[serde(borrow, with = "byte_string")]
    path: Cow<'a, [u8]>,
    expires_at: Option<Timestamp>,
    created_at: Timestamp,
    secure: bool,
    http_only: bool,
}

impl Serialize for Cookie {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Form {
            name: self.name().into(),
            value: self.value().into(),
            domain: self.domain().into(),
            host_only: self.host_only,
            path: self.path().into(),
            expires_at: self.expires_at,
            created_at: self.created_at,
            secure: self.secure,
            http_only: self.http_only,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Cookie {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = Form::deserialize(deserializer)?;
        Ok(Self {
            text: Text::new(&form.name, &form.value, &form.path, &form.domain),
            host_only: form.host_only,
            expires_at: form.expires_at,
            created_at: form.created_at,
            secure: form.secure,
            http_only: form.http_only,
        })
    }
}

/// Bytes written and read as one run, where possible without a copy: serde takes them element by element otherwise.
pub(super) mod byte_string {
    use std::borrow::Cow;
    use std::fmt;

    use serde::de::{Deserializer, Error, SeqAccess, Visitor};
    use serde::ser::Serializer;

    pub(in super::super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(in super::super) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: From<Cow<'de, [u8]>>,
    {
        deserializer.deserialize_bytes(Bytes).map(T::from)
    }

    struct Bytes;

    impl<'de> Visitor<'de> for Bytes {
        type Value = Cow<'de, [u8]>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
            Ok(Cow::Borrowed(bytes))
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
            Ok(Cow::Owned(bytes.to_vec()))
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
            Ok(Cow::Owned(bytes))
        }

        // Formats without bytes of their own, JSON above all, have them as a list of numbers.
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = list.next_element()? {
                bytes.push(byte);
            }
            Ok(Cow::Owned(bytes))
        }
    }
}
