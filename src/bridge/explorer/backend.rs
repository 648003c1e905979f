//! A backend whose sessions are its own state: what it is told is all it knows.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use super::shared::{Cookies, name};
use crate::session::record::Rank;
use crate::session::store::Key;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Page,
    Basket,
    LogIn,
    LogOut,
}

impl Ask {
    pub(super) const fn is_safe(self) -> bool {
        matches!(self, Self::Page)
    }

    pub(super) const fn rank(self) -> Rank {
        match self {
            Self::Page => Rank::Safe,
            Self::Basket => Rank::Unsafe,
            Self::LogIn | Self::LogOut => Rank::Auth,
        }
    }
}

/// How a backend behaves. The shares are in percent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// Page views without a session that start one.
    pub(super) page_starts: u8,
    /// Page views that give the session another ID.
    pub(super) rotates: u8,
    /// Requests with a dead ID that get a fresh session; the others are told nothing.
    pub(super) revives: u8,
    /// Log-outs that are answered with a fresh session instead of a deletion.
    pub(super) fresh_log_out: u8,
}

pub(super) const ALWAYS_STARTS: Habits = Habits {
    page_starts: 100,
    rotates: 0,
    revives: 100,
    fresh_log_out: 0,
};

/// What it knows of one installation.
struct Table {
    /// Session IDs.
    alive: HashSet<String>,
    count: usize,
    rng: fastrand::Rng,
}

impl Table {
    fn happens(&mut self, percent: u8) -> bool {
        self.rng.u8(0..100) < percent
    }
}

/// The backend.
pub(super) struct Backend {
    habits: Habits,
    seed: u64,
    tables: Mutex<HashMap<Key, Table>>,
}

/// What it says.
pub(super) struct Answer {
    pub(super) says: Vec<(String, Option<String>)>,
    /// It started a session for a request that came without one.
    pub(super) started: bool,
}

impl Backend {
    pub(super) fn new(habits: Habits, seed: u64) -> Self {
        Self {
            habits,
            seed,
            tables: Mutex::default(),
        }
    }

    pub(super) fn handle(&self, key: &Key, ask: Ask, cookies: &Cookies) -> Answer {
        let mut tables = self.tables.lock().unwrap();
        let table = tables.entry(*key).or_insert_with(|| Table {
            alive: HashSet::new(),
            count: 0,
            rng: fastrand::Rng::with_seed(self.seed ^ u64::from(key.as_bytes()[0]) << 32),
        });
        let sid = cookies.get("sid");
        let alive = sid.is_some_and(|sid| table.alive.contains(sid));
        let mut says = Vec::new();
        let fresh = |table: &mut Table, says: &mut Vec<_>| {
            table.count += 1;
            let value = format!("{}-s{}", name(key), table.count);
            table.alive.insert(value.clone());
            says.push(("sid".to_owned(), Some(value)));
            if table.count.is_multiple_of(2) {
                says.push(("csrf".to_owned(), Some(format!("{}-x{}", name(key), table.count))));
            }
        };
        let start = match ask {
            Ask::Page if sid.is_none() => table.happens(self.habits.page_starts),
            Ask::Page if alive => table.happens(self.habits.rotates),
            Ask::Page => table.happens(self.habits.revives),
            Ask::Basket => sid.is_none() || (!alive && table.happens(self.habits.revives)),
            Ask::LogIn => true,
            Ask::LogOut => false,
        };
        let mut started = sid.is_none() && start;
        if start {
            if let Some(sid) = sid.filter(|_| alive) {
                table.alive.remove(sid);
            }
            fresh(table, &mut says);
        }
        match ask {
            Ask::Basket => {
                table.count += 1;
                says.push(("cart".to_owned(), Some(format!("{}-c{}", name(key), table.count))));
            }
            Ask::LogOut => {
                if let Some(sid) = sid {
                    table.alive.remove(sid);
                }
                if table.happens(self.habits.fresh_log_out) {
                    started = sid.is_none();
                    fresh(table, &mut says);
                } else {
                    says.push(("sid".to_owned(), None));
                }
            }
            Ask::Page | Ask::LogIn => {}
        }
        Answer { says, started }
    }
}
