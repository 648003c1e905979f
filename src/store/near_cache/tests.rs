use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8};

use super::*;

const AGE: Duration = Duration::from_secs(60);

/// A promise that stands as it is told to.
#[derive(Default)]
struct Told(AtomicU8);

impl Told {
    fn is(&self, standing: Standing) {
        self.0.store(standing as u8, Ordering::SeqCst);
    }
}

impl Promise for Told {
    fn standing(&self, _now: Instant) -> Standing {
        [Standing::Kept, Standing::Behind, Standing::Broken][usize::from(self.0.load(Ordering::SeqCst))]
    }

    fn caught_up(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

fn key(n: u16) -> Key {
    let mut digest = [7; 16];
    digest[..2].copy_from_slice(&n.to_be_bytes());
    Key::from_digest(digest)
}

fn pass(cache: &NearCache<u64>, promise: &Arc<Told>, key: &Key) -> Pass {
    Pass {
        promise: Arc::clone(promise) as Arc<dyn Promise>,
        mark: cache.mark(key),
        asked: Instant::now(),
        lives: Some(AGE * 10),
    }
}

/// What is served.
fn served(cache: &NearCache<u64>, key: &Key) -> Option<u64> {
    match cache.at_hand(key) {
        AtHand::True(seq) => Some(seq),
        AtHand::Unsure(_) | AtHand::Nothing => None,
    }
}

fn last_known(cache: &NearCache<u64>, key: &Key) -> Option<u64> {
    cache.last_known(key)
}

/// A cache that has read 1 under key 1.
fn filled() -> (NearCache<u64>, Arc<Told>) {
    let (cache, promise) = (NearCache::new(100, AGE), Arc::new(Told::default()));
    cache.keep(&key(1), &pass(&cache, &promise, &key(1)), Some(1));
    assert_eq!(served(&cache, &key(1)), Some(1));
    (cache, promise)
}

#[test]
fn nothing_is_served_under_a_broken_promise_nor_while_news_lie_unread() {
    let (cache, promise) = filled();
    promise.is(Standing::Behind);
    assert!(matches!(cache.at_hand(&key(1)), AtHand::Unsure(_)));
    promise.is(Standing::Broken);
    assert_eq!(served(&cache, &key(1)), None);
    // Another connection promises for what is read by it, and for nothing else.
    let another = Arc::new(Told::default());
    cache.keep(&key(2), &pass(&cache, &another, &key(2)), Some(2));
    assert_eq!((served(&cache, &key(1)), served(&cache, &key(2))), (None, Some(2)));
}

/// A promise whose news are taken in while it is asked how it stands.
struct JustTold(Arc<NearCache<u64>>);

impl Promise for JustTold {
    fn standing(&self, _now: Instant) -> Standing {
        self.0.told(&key(1));
        Standing::Kept
    }

    fn caught_up(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

#[test]
fn what_is_taken_in_between_the_look_for_a_copy_and_the_look_for_news_is_not_missed() {
    let cache = Arc::new(NearCache::new(100, AGE));
    let pass = Pass {
        promise: Arc::new(JustTold(Arc::clone(&cache))),
        mark: cache.mark(&key(1)),
        asked: Instant::now(),
        lives: None,
    };
    cache.keep(&key(1), &pass, Some(1));
    assert_eq!(served(&cache, &key(1)), None);
}

/// A promise of which the news are taken in by another thread, in the order of `redis::tracking`.
#[derive(Default)]
struct Taking(AtomicBool);

impl Promise for Taking {
    fn standing(&self, _now: Instant) -> Standing {
        // As one that is asked a moment later.
        while self.0.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        Standing::Kept
    }

    fn caught_up(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

#[test]
fn what_is_taken_in_by_another_thread_while_a_copy_is_looked_for_is_not_missed() {
    for everything in [false, true] {
        let (cache, promise) = (NearCache::new(100, AGE), Arc::new(Taking::default()));
        // The first version that may be served: the news of all changes before it have arrived.
        let (oldest, done) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let until = Instant::now() + Duration::from_millis(1500);
                for seq in 0.. {
                    let pass = Pass {
                        promise: Arc::clone(&promise) as Arc<dyn Promise>,
                        mark: cache.mark(&key(1)),
                        asked: Instant::now(),
                        lives: None,
                    };
                    cache.keep(&key(1), &pass, Some(seq));
                    promise.0.store(true, Ordering::SeqCst);
                    oldest.store(seq + 1, Ordering::SeqCst);
                    if everything {
                        cache.all_changed();
                    } else {
                        cache.told(&key(1));
                    }
                    promise.0.store(false, Ordering::SeqCst);
                    if Instant::now() > until {
                        break;
                    }
                }
                done.store(true, Ordering::SeqCst);
            });
            let mut hits = 0_u64;
            while !done.load(Ordering::SeqCst) {
                let oldest = oldest.load(Ordering::SeqCst);
                if let Some(seq) = served(&cache, &key(1)) {
                    hits += 1;
                    assert!(seq >= oldest, "{seq} is served, {oldest} was due; hit {hits}");
                }
            }
        });
    }
}

#[test]
fn a_fill_that_was_overtaken_by_news_is_dropped() {
    let (cache, promise) = filled();
    let before = pass(&cache, &promise, &key(1));
    cache.told(&key(1));
    assert_eq!(served(&cache, &key(1)), None);
    cache.keep(&key(1), &before, Some(2));
    assert_eq!((served(&cache, &key(1)), last_known(&cache, &key(1))), (None, None));
    cache.keep(&key(1), &pass(&cache, &promise, &key(1)), Some(3));
    assert_eq!(served(&cache, &key(1)), Some(3));

    let before = pass(&cache, &promise, &key(1));
    cache.all_changed();
    cache.keep(&key(1), &before, Some(4));
    assert_eq!((served(&cache, &key(1)), last_known(&cache, &key(1))), (None, None));
}

#[test]
fn news_of_one_record_leave_the_others_alone() {
    let (cache, promise) = filled();
    cache.keep(&key(2), &pass(&cache, &promise, &key(2)), Some(2));
    let before = pass(&cache, &promise, &key(3));
    cache.told(&key(1));
    cache.keep(&key(3), &before, Some(3));
    assert_eq!((served(&cache, &key(2)), served(&cache, &key(3))), (Some(2), Some(3)));
}

#[test]
fn a_record_that_is_gone_leaves_no_copy() {
    let (cache, promise) = filled();
    cache.keep(&key(1), &pass(&cache, &promise, &key(1)), None);
    assert_eq!((served(&cache, &key(1)), last_known(&cache, &key(1))), (None, None));
}

#[test]
fn nothing_is_served_that_is_too_old_or_has_expired_not_even_in_an_outage() {
    let (cache, promise) = filled();
    let long_ago = Pass {
        asked: Instant::now().checked_sub(AGE + Duration::from_secs(1)).unwrap(),
        ..pass(&cache, &promise, &key(1))
    };
    cache.keep(&key(1), &long_ago, Some(2));
    assert_eq!((served(&cache, &key(1)), last_known(&cache, &key(1))), (None, None));

    let expired = Pass {
        lives: Some(Duration::ZERO),
        ..pass(&cache, &promise, &key(2))
    };
    cache.keep(&key(2), &expired, Some(3));
    assert_eq!((served(&cache, &key(2)), last_known(&cache, &key(2))), (None, None));
}

#[test]
fn in_an_outage_the_last_copy_serves_though_its_promise_is_broken_but_none_that_is_known_to_have_changed() {
    let (cache, promise) = filled();
    promise.is(Standing::Behind);
    assert_eq!(last_known(&cache, &key(1)), None, "it may be known to have changed");
    promise.is(Standing::Broken);
    assert_eq!(last_known(&cache, &key(1)), Some(1));
    // This process was about to change it.
    cache.changed(&key(1));
    assert_eq!(last_known(&cache, &key(1)), None);
}

#[test]
fn there_are_no_more_copies_than_allowed() {
    for max in [1, 3, 100] {
        let (cache, promise) = (NearCache::new(max, AGE), Arc::new(Told::default()));
        for n in 0..1000 {
            cache.keep(&key(n), &pass(&cache, &promise, &key(n)), Some(1));
        }
        let served = (0..1000).filter(|n| served(&cache, &key(*n)).is_some()).count();
        assert!((1..=max).contains(&served), "{served} of at most {max}");
    }
}

#[test]
fn what_happens_is_counted() {
    let (cache, promise) = filled();
    cache.promised();
    served(&cache, &key(1));
    served(&cache, &key(2));
    last_known(&cache, &key(1));
    cache.told(&key(1));
    promise.is(Standing::Broken);
    cache.broken();
    cache.all_changed();
    let expected = NearCacheStats {
        hits: 2,
        misses: 1,
        outage_hits: 1,
        invalidations: 1,
        flushes: 2,
        armed: 0,
    };
    assert_eq!(cache.stats(), expected);
}
