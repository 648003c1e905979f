//! One sealed payload: its form, and the key that makes and opens it.
//!
//! ```text
//! 0xa1          this form: AES-256-GCM-SIV (RFC 8452)
//! key ID        8 bytes: which key, without telling anything of it
//! nonce         12 bytes, drawn at random
//! ciphertext    as long as the payload in clear
//! tag           16 bytes
//! ```
//!
//! The tag covers, besides the content, the first nine bytes, the key of the record and its version. So a record passes
//! only where and as what it was written: neither as that of another installation nor as another version of its own.
//!
//! Why GCM-SIV: nonces of 12 bytes drawn at random by many replicas may come twice after some 2³² records. With GCM that
//! gives the key of the tag away; with GCM-SIV it tells that two records are equal if they are, and nothing else.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::session::store::{Flaw, Key, Payload, StoreError, Unreadable, Version};
use crate::store::OpenError;

/// The first byte. No record in clear begins with it, nor does one with any single bit of it changed.
pub(super) const FORM: u8 = 0xa1;

/// How many bytes a key has.
pub const KEY_LEN: usize = 32;

const ID_LEN: usize = 8;
const TAG_LEN: usize = 16;
/// Form and key ID.
const NAME_LEN: usize = 1 + ID_LEN;
/// All that comes before the ciphertext.
const HEAD_LEN: usize = NAME_LEN + NONCE_LEN;

/// How many bytes sealing adds.
pub const OVERHEAD: usize = HEAD_LEN + TAG_LEN;

/// The name of a key: eight bytes of a digest of it. Safe to print.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; ID_LEN]);

impl KeyId {
    /// The name of the key made of these bytes.
    #[must_use]
    pub fn of(key: &[u8; KEY_LEN]) -> Self {
        let digest = Sha256::new()
            .chain_update(b"session-bridge key id 1\0")
            .chain_update(key)
            .finalize();
        let mut id = [0; ID_LEN];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A key that seals and opens. Its `Debug` shows its ID only; the library wipes the key itself when it is dropped.
pub struct SealingKey {
    id: KeyId,
    key: LessSafeKey,
}

impl SealingKey {
    /// The key made of these bytes.
    ///
    /// # Errors
    /// When the library refuses it, which it has no reason to.
    pub fn new(key: &[u8; KEY_LEN]) -> Result<Self, OpenError> {
        let unbound = UnboundKey::new(&AES_256_GCM_SIV, key);
        Ok(Self {
            id: KeyId::of(key),
            key: LessSafeKey::new(unbound.map_err(|_| OpenError::new("the sealing library refused a key"))?),
        })
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Whether it is this key that sealed `payload`, by its own word.
    pub(super) fn has_sealed(&self, payload: &Payload) -> bool {
        payload.0.get(..NAME_LEN) == Some(self.name().as_slice())
    }

    /// Seals `payload` as that of `key` in `version`.
    pub(super) fn seal(&self, key: &Key, version: Version, payload: &Payload) -> Result<Payload, StoreError> {
        let failed = || StoreError::Unavailable("a record could not be sealed".into());
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| failed())?;
        let mut sealed = Vec::with_capacity(payload.0.len() + OVERHEAD);
        sealed.extend_from_slice(&self.name());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&payload.0);
        let content = sealed.get_mut(HEAD_LEN..).unwrap_or_default();
        let bound = Aad::from(bound(&self.name(), key, version));
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), bound, content)
            .map_err(|_| failed())?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(Payload(Bytes::from(sealed)))
    }

    /// Opens what [`SealingKey::seal`] made of the same `key` and `version`.
    pub(super) fn open(&self, key: &Key, version: Version, sealed: &Payload) -> Result<Payload, Unreadable> {
        let parts = sealed
            .0
            .split_first_chunk::<NAME_LEN>()
            .and_then(|(name, rest)| Some((name, rest.split_first_chunk::<NONCE_LEN>()?)))
            .and_then(|(name, (nonce, rest))| Some((name, nonce, rest.split_last_chunk::<TAG_LEN>()?)));
        let Some((name, nonce, (content, tag))) = parts else {
            return Err(Unreadable::new(Flaw::Garbled, "it is too short to be sealed"));
        };
        let mut payload = vec![0; content.len()];
        let (nonce, bound) = (
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(bound(name, key, version)),
        );
        self.key
            .open_separate_gather(nonce, bound, content, tag, &mut payload)
            .map_err(|_| Unreadable::new(Flaw::NotAuthentic, format!("key {}", self.id)))?;
        Ok(Payload(Bytes::from(payload)))
    }

    /// What everything that it sealed begins with.
    fn name(&self) -> [u8; NAME_LEN] {
        let mut name = [FORM; NAME_LEN];
        name.iter_mut().skip(1).zip(self.id.0).for_each(|(to, from)| *to = from);
        name
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

/// The ID of the key that sealed `payload`, by its own word.
pub(super) fn key_id(payload: &Payload) -> Option<KeyId> {
    let (name, _) = payload.0.split_first_chunk::<NAME_LEN>()?;
    let (_, id) = name.split_last_chunk::<ID_LEN>()?;
    Some(KeyId(*id))
}

/// What the tag covers besides the content.
fn bound(name: &[u8; NAME_LEN], key: &Key, version: Version) -> Vec<u8> {
    [
        b"session-bridge sealed record\0".as_slice(),
        name,
        key.as_bytes(),
        &version.seq.to_be_bytes(),
        &version.nonce.to_be_bytes(),
    ]
    .concat()
}
