//! A model of the merge that remembers everything: the whole log of changes, in their order, and the rules by their
//! wording. What the merge makes of the little that a record remembers must be the same.

use std::collections::{BTreeMap, BTreeSet};

use super::Rank;

/// The cookies by name, with their values.
pub(crate) type Jar = BTreeMap<&'static str, u8>;

/// The cookies that there are; the first two mean a session.
pub(crate) const NAMES: [&str; 4] = ["sid", "remember", "cart", "csrf"];

/// Whether a cookie that the beginning of a record set, and that was deleted since, counts as changed with the rank of
/// the beginning, for those who did not know the record.
const BEGINNING_OUTLIVES_ITS_COOKIES: bool = true;

fn is_session(name: &str) -> bool {
    name == "sid" || name == "remember"
}

/// What was true after a response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moment {
    /// Which record there was, by the number of its first moment, and the rank that began it.
    pub(crate) record: Option<(usize, Rank)>,
    pub(crate) jar: Jar,
    /// What the response changed.
    changed: BTreeMap<&'static str, Rank>,
}

/// Every moment, the last one last; begins with one empty one.
pub(crate) struct Model(pub(crate) Vec<Moment>);

impl Model {
    /// The highest rank of any change to that cookie since the moment `sent` (rule C1). What a removed record held went
    /// with it. The beginning of a record counts once for all that it holds, for those who did not know the record.
    fn highest_since(&self, name: &str, sent: usize) -> Option<Rank> {
        let now = self.0.last()?;
        let (began, by) = now.record?;
        let since = (sent + 1).max(if BEGINNING_OUTLIVES_ITS_COOKIES {
            began
        } else {
            began + 1
        });
        let changes = self.0[since..].iter().filter_map(|moment| moment.changed.get(name));
        let knew = self.0[sent].record == now.record;
        let beginning = (!knew && now.jar.contains_key(name)).then_some(by);
        changes.copied().max().max(beginning)
    }

    /// Carries out a response to a request that was sent at the moment `sent`; the value 0 is a deletion. Returns the
    /// cookies that were dropped.
    pub(crate) fn respond(&mut self, sent: usize, rank: Rank, lines: &[(&'static str, u8)]) -> BTreeSet<&'static str> {
        let says: Jar = lines.iter().copied().collect();
        let (then, now) = (self.0[sent].clone(), self.0.last().unwrap().clone());
        let mut next = Moment {
            changed: BTreeMap::new(),
            ..now.clone()
        };
        let everything: BTreeSet<_> = says.keys().copied().collect();
        let removed = then.record.is_some() && then.record != now.record;
        let new_session =
            |(name, value): (&&'static str, &u8)| is_session(name) && *value != 0 && then.jar.get(name) != Some(value);
        // C3: of what was sent before a removal, only a log-in brings a record back.
        if removed && !(rank == Rank::Auth && says.iter().any(new_session)) {
            self.0.push(next);
            return everything;
        }
        let mut dropped = BTreeSet::new();
        for (name, value) in &says {
            let (before, present) = (then.jar.get(name), now.jar.get(name));
            let highest = self.highest_since(name, sent);
            let same = before.is_some() && before == present;
            let changed = !same && (highest.is_some() || (removed && before.is_some()));
            let wins = highest.is_none_or(|highest| rank > highest);
            if *value == 0 {
                match present {
                    None => {}
                    Some(_) if !changed || wins => {
                        next.jar.remove(name);
                        next.changed.insert(name, rank);
                    }
                    Some(_) => drop(dropped.insert(*name)),
                }
                continue;
            }
            if present == Some(value) {
                continue;
            }
            let repeats = before == Some(value);
            if changed && (repeats || !wins) {
                dropped.insert(*name);
                // C2: it spoke for another session.
                if !repeats && is_session(name) {
                    self.0.push(Moment {
                        changed: BTreeMap::new(),
                        ..now
                    });
                    return everything;
                }
                continue;
            }
            next.jar.insert(name, *value);
            next.changed.insert(name, rank);
        }
        let had_session = now.jar.keys().any(|name| is_session(name));
        let has_session = next.jar.keys().any(|name| is_session(name));
        if had_session && !has_session {
            // C3: the record goes with its last session cookie.
            next.record = None;
            next.jar.clear();
        } else if next.record.is_none() && !next.jar.is_empty() {
            next.record = Some((self.0.len(), rank));
        }
        self.0.push(next);
        dropped
    }
}
