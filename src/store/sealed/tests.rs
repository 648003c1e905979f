use bytes::Bytes;
use futures_util::FutureExt;
use proptest::prelude::*;

use super::seal::key_id;
use super::*;
use crate::session::clock::{Clock, ManualClock, Timestamp};
use crate::store::memory::MemoryStore;

const LONG: Duration = Duration::from_secs(3600);

/// A key of test bytes.
fn sealing(n: u8) -> SealingKey {
    SealingKey::new(&[n; KEY_LEN]).unwrap()
}

fn seal(n: u8) -> Seal {
    Seal::Key(sealing(n))
}

fn key(n: u8) -> Key {
    Key::from_digest([n; 16])
}

fn version(seq: u64) -> Version {
    Version { seq, nonce: 9 }
}

fn payload(bytes: &[u8]) -> Payload {
    Payload(Bytes::copy_from_slice(bytes))
}

fn record(seq: u64, bytes: &[u8]) -> NewRecord {
    NewRecord {
        version: version(seq),
        ttl: LONG,
        payload: payload(bytes),
    }
}

/// A store in memory and the layers over it.
struct World {
    memory: Arc<MemoryStore>,
    clock: ManualClock,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
        Self {
            memory: Arc::new(MemoryStore::new(Arc::new(clock.clone()))),
            clock,
        }
    }

    fn with(&self, first: Seal, others: impl IntoIterator<Item = Seal>) -> SealedStore {
        let inner = Arc::clone(&self.memory) as Arc<dyn SessionStore>;
        SealedStore::over(inner, first, others.into_iter().collect())
    }

    /// What lies in the store.
    fn raw(&self) -> Stored {
        now(self.memory.load(&key(1))).unwrap().expect("a record")
    }
}

/// The store in memory never waits.
fn now<T>(call: StoreFuture<'_, T>) -> Result<T, StoreError> {
    call.now_or_never().expect("an answer at once")
}

fn read(store: &SealedStore) -> Result<Bytes, Flaw> {
    match now(store.load(&key(1))) {
        Ok(stored) => Ok(stored.expect("a record").payload.0),
        Err(StoreError::Unreadable(unreadable)) => {
            assert_eq!(unreadable.version, Some(version(1)));
            Err(unreadable.flaw)
        }
        Err(other) => panic!("{other}"),
    }
}

fn create(store: &SealedStore, bytes: &[u8]) {
    assert_eq!(now(store.create(&key(1), record(1, bytes), None)), Ok(Created::Won));
}

#[test]
fn nothing_of_a_sealed_record_can_be_seen() {
    let world = World::new();
    create(&world.with(seal(1), []), b"PHPSESSID=secret");
    let raw = world.raw().payload.0;
    assert_eq!(raw.len(), b"PHPSESSID=secret".len() + OVERHEAD);
    assert_eq!(raw[0], 0xa1);
    assert_eq!(key_id(&payload(&raw)), Some(sealing(1).id()));
    assert!(!raw.windows(6).any(|window| window == b"secret" || window == b"PHPSES"));
    let again = sealing(1)
        .seal(&key(1), version(1), &payload(b"PHPSESSID=secret"))
        .unwrap();
    assert_ne!(again.0, raw, "each sealing has a nonce of its own");
}

#[test]
fn the_first_seal_writes_and_every_one_is_read() {
    for (written, readers) in [
        (seal(1), [(seal(1), vec![]), (seal(2), vec![seal(1)])]),
        (Seal::Clear, [(Seal::Clear, vec![]), (seal(2), vec![Seal::Clear])]),
    ] {
        let world = World::new();
        create(&world.with(written, []), b"\x01content");
        for (first, others) in readers {
            assert_eq!(read(&world.with(first, others)), Ok(Bytes::from_static(b"\x01content")));
        }
    }
}

#[test]
fn each_way_of_being_unreadable_is_told_from_the_others() {
    let world = World::new();
    create(&world.with(seal(1), []), b"\x01content");
    assert_eq!(read(&world.with(seal(2), [Seal::Clear])), Err(Flaw::UnknownKey));
    let sealed = world.raw().payload.0;

    let flaw_of = |bytes: &[u8], store: &dyn Fn(&World) -> SealedStore| {
        let world = World::new();
        now(world.memory.create(&key(1), record(1, bytes), None)).unwrap();
        read(&store(&world)).unwrap_err()
    };
    let strict = |world: &World| world.with(seal(1), [seal(2)]);
    assert_eq!(flaw_of(b"\x01content", &strict), Flaw::NotSealed);
    assert_eq!(flaw_of(b"", &strict), Flaw::NotSealed);
    assert_eq!(flaw_of(&[&[0xa2], &sealed[1..]].concat(), &strict), Flaw::UnknownFormat);
    assert_eq!(flaw_of(&sealed[..OVERHEAD - 1], &strict), Flaw::Garbled);
    assert_eq!(flaw_of(&sealed[..5], &strict), Flaw::Garbled);
    assert_eq!(flaw_of(&sealed[..sealed.len() - 1], &strict), Flaw::NotAuthentic);
    let error = now(world.with(seal(2), []).load(&key(1))).unwrap_err().to_string();
    assert!(error.contains(&sealing(1).id().to_string()), "{error}");
}

#[test]
fn what_stands_in_the_way_of_a_write_is_opened_or_unreadable_and_stays() {
    let world = World::new();
    create(&world.with(seal(1), []), b"first");
    let good = world.with(seal(2), [seal(1)]);
    let there = now(good.load(&key(1))).unwrap().expect("a record");
    assert_eq!(there.payload.0, "first");
    let other = version(7);
    assert_eq!(
        now(good.create(&key(1), record(2, b"x"), None)),
        Ok(Created::Lost(there.clone()))
    );
    assert_eq!(
        now(good.replace(&key(1), other, record(2, b"x"), None)),
        Ok(Replaced::Conflict(Some(there.clone())))
    );
    assert_eq!(now(good.remove(&key(1), other)), Ok(Removed::Conflict(Some(there))));
    let blind = world.with(seal(2), []);
    let before = world.raw();
    for outcome in [
        now(blind.create(&key(1), record(2, b"x"), None)).map(drop),
        now(blind.replace(&key(1), other, record(2, b"x"), None)).map(drop),
        now(blind.remove(&key(1), other)).map(drop),
        now(blind.observe(&key(1))).map(drop),
    ] {
        assert!(matches!(outcome, Err(StoreError::Unreadable(_))), "{outcome:?}");
    }
    assert_eq!(now(blind.discard(&key(1))), Ok(false));
    assert_eq!(world.raw(), before);
    assert_eq!(now(blind.remove(&key(1), version(1))), Ok(Removed::Done));
}

#[test]
fn a_touch_moves_the_expiry_alone_or_writes_anew_what_the_first_seal_has_not_written() {
    let world = World::new();
    create(&world.with(seal(1), []), b"content");
    let before = world.raw();
    let touch = |store: &SealedStore, expected| now(store.touch(&key(1), expected, LONG));
    world.clock.advance(LONG / 2);
    for store in [world.with(seal(1), []), world.with(seal(1), [seal(2)])] {
        assert_eq!(touch(&store, version(1)), Ok(true));
        assert_eq!(world.raw().payload, before.payload);
    }
    for (first, last) in [(seal(2), seal(1)), (Seal::Clear, seal(2)), (seal(3), Seal::Clear)] {
        let store = world.with(first, [last]);
        world.clock.advance(LONG / 2);
        assert_eq!(touch(&store, version(2)), Ok(false));
        assert!(!store.is_current(&world.raw().payload));
        assert_eq!(touch(&store, version(1)), Ok(true));
        let after = world.raw();
        assert!(store.is_current(&after.payload));
        assert_eq!(after.version, version(1));
        assert_eq!(after.expires_at, world.clock.now().saturating_add(LONG));
        assert_eq!(read(&store), Ok(Bytes::from_static(b"content")));
    }
}

#[test]
fn a_key_prints_its_id_and_nothing_else() {
    let id = sealing(0x41).id().to_string();
    assert_eq!(id.len(), 16);
    assert_ne!(id, sealing(0x42).id().to_string());
    assert_eq!(format!("{:?}", seal(0x41)), format!("Key(SealingKey({id}))"));
}

proptest! {
    #[test]
    fn whatever_is_sealed_is_opened(content: Vec<u8>, digest: [u8; 16], seq: u64, nonce: u32) {
        let (key, version) = (Key::from_digest(digest), Version { seq, nonce });
        let sealed = sealing(1).seal(&key, version, &payload(&content)).unwrap();
        prop_assert_eq!(sealing(1).open(&key, version, &sealed).unwrap().0, content);
    }

    #[test]
    fn any_bit_that_is_flipped_is_noticed(content in prop::collection::vec(any::<u8>(), 0..100), bit: prop::sample::Index) {
        let world = World::new();
        create(&world.with(seal(1), []), &content);
        let mut stored = world.raw();
        let mut bytes = stored.payload.0.to_vec();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        stored.payload = payload(&bytes);
        prop_assert!(world.with(seal(1), [seal(2)]).open(&key(1), &stored).is_err());
        // Where records in clear are accepted, what passes for one must still not be read as one.
        if let Ok(opened) = world.with(seal(1), [Seal::Clear]).open(&key(1), &stored) {
            prop_assert!(crate::session::record::Snapshot::read(&opened).is_err());
        }
    }

    #[test]
    fn a_record_that_was_moved_to_another_installation_or_version_is_refused(
        content: Vec<u8>, digest: [u8; 16], bit in 0..128_usize, seq: u64, nonce: u32, other_seq: u64, other_nonce: u32,
    ) {
        let (here, at) = (Key::from_digest(digest), Version { seq, nonce });
        let sealed = sealing(1).seal(&here, at, &payload(&content)).unwrap();
        let mut elsewhere = digest;
        elsewhere[bit / 8] ^= 1 << (bit % 8);
        let elsewhere = Key::from_digest(elsewhere);
        let flaw = |key, version| sealing(1).open(key, version, &sealed).err().map(|unreadable| unreadable.flaw);
        prop_assert_eq!(flaw(&elsewhere, at), Some(Flaw::NotAuthentic));
        for version in [Version { seq: other_seq, nonce }, Version { seq, nonce: other_nonce }] {
            prop_assert_eq!(flaw(&here, version), (version != at).then_some(Flaw::NotAuthentic));
        }
    }

    #[test]
    fn reading_any_bytes_never_panics(bytes: Vec<u8>, form: bool) {
        let bytes = if form { [sealing(1).seal(&key(1), version(1), &payload(b"")).unwrap().0[..9].to_vec(), bytes].concat() } else { bytes };
        let stored = Stored { version: version(1), expires_at: Timestamp::MAX, payload: payload(&bytes) };
        prop_assert!(World::new().with(seal(1), []).open(&key(1), &stored).is_err());
    }
}
