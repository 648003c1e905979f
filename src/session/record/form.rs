//! The stored forms of a record: one format byte, then what that format says.
//!
//! | first byte | what follows |
//! |---|---|
//! | 1 | the core: [postcard](https://postcard.jamesmunns.com/wire-format) data of [`Record`] |
//! | 2 | the core, then any number of sections: tag, length (varints of postcard) and that many bytes, tags ascending |
//! | 128 and above | sealed, see `store::sealed`: never handed to this module by a replica that has the key |
//!
//! # How the form may change, so that old and new replicas share a store
//!
//! * What a later version adds to a record is a *section* with a tag of its own. A version that does not know a tag keeps
//!   the section as it is and writes it back. What must not be carried along unread needs a new format.
//! * A record is written in the **lowest format that can hold it**: without sections that is format 1. So a version that
//!   brings a section writes what the version before it reads until the feature behind the section is turned on, which
//!   is done once all replicas have it; and what the version before meets then (a late rollback), it reads and keeps.
//! * A format that is not known is left alone and reported ([`Flaw::UnknownFormat`]).

use bytes::Bytes;

use super::Record;
use crate::session::store::{Flaw, Payload, StoreError, Unreadable};

/// The core alone.
const CORE: u8 = 1;

/// The core and sections.
const SECTIONS: u8 = 2;

/// The section that holds the [`Past`](crate::session::past::Past) of a record.
pub(super) const PAST: u32 = 1;

/// First bytes from here on belong to sealed payloads, never to records in clear.
pub const FIRST_SEALED: u8 = 0x80;

/// What a later version has added: tags and contents, the tags ascending. Not known here, kept for those who know it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Sections(Vec<(u32, Box<[u8]>)>);

impl Sections {
    fn read(mut rest: &[u8]) -> Result<Self, Unreadable> {
        let mut sections: Vec<(u32, Box<[u8]>)> = Vec::new();
        while !rest.is_empty() {
            let ((tag, content), after): ((u32, &[u8]), _) =
                postcard::take_from_bytes(rest).map_err(|error| garbled(&error))?;
            if sections.last().is_some_and(|(last, _)| *last >= tag) {
                return Err(Unreadable::new(Flaw::Garbled, "sections out of order"));
            }
            sections.push((tag, content.into()));
            rest = after;
        }
        Ok(Self(sections))
    }

    /// The content of the section with this tag.
    pub(super) fn get(&self, tag: u32) -> Option<&[u8]> {
        let section = self.0.iter().find(|(other, _)| *other == tag);
        section.map(|(_, content)| &**content)
    }

    /// Puts a section in the place of the one with this tag.
    pub(super) fn set(&mut self, tag: u32, content: Vec<u8>) {
        let place = self.0.partition_point(|(other, _)| *other < tag);
        match self.0.get_mut(place) {
            Some((other, there)) if *other == tag => *there = content.into(),
            _ => self.0.insert(place, (tag, content.into())),
        }
    }

    fn write(&self, mut to: Vec<u8>) -> postcard::Result<Vec<u8>> {
        for section in &self.0 {
            to = postcard::to_extend(section, to)?;
        }
        Ok(to)
    }
}

impl Record {
    /// The stored form. Secret.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the encoder refuses, which nothing that a record can hold makes it do.
    pub fn encode(&self) -> Result<Payload, StoreError> {
        let format = if self.sections.0.is_empty() { CORE } else { SECTIONS };
        postcard::to_extend(self, vec![format])
            .and_then(|core| self.sections.write(core))
            .map(|bytes| Payload(Bytes::from(bytes)))
            .map_err(|error| StoreError::Corrupt(format!("a record cannot be encoded: {error}")))
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`Unreadable`] for anything that [`Record::encode`] of this version, or of one that keeps to the rules of this
    /// form, did not write.
    pub fn decode(payload: &Payload) -> Result<Self, Unreadable> {
        let (format, encoded) = match payload.0.split_first() {
            Some((format @ (&CORE | &SECTIONS), encoded)) => (*format, encoded),
            Some((FIRST_SEALED.., _)) => {
                return Err(Unreadable::new(
                    Flaw::UnknownKey,
                    "store.encryption_key_files names no key at all",
                ));
            }
            Some((format, _)) => {
                let detail = format!("format {format}; this version knows {CORE} and {SECTIONS}");
                return Err(Unreadable::new(Flaw::UnknownFormat, detail));
            }
            None => return Err(Unreadable::new(Flaw::Garbled, "it is empty")),
        };
        let (mut record, rest) = postcard::take_from_bytes::<Self>(encoded).map_err(|error| garbled(&error))?;
        match (format, rest) {
            (_, []) => {}
            (SECTIONS, rest) => record.sections = Sections::read(rest)?,
            _ => return Err(Unreadable::new(Flaw::Garbled, "it goes on after its end")),
        }
        if record.sections.get(PAST).is_some() && record.past().is_none() {
            return Err(Unreadable::new(Flaw::Garbled, "the past of the record makes no sense"));
        }
        Ok(record)
    }
}

fn garbled(error: &postcard::Error) -> Unreadable {
    Unreadable::new(Flaw::Garbled, error.to_string())
}
