//! The merge against a model that remembers everything: the whole log of changes, in their order, and the rules by their
//! wording. What the merge makes of the little that a record remembers must be the same.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{Rank, Snapshot, World};

type Jar = BTreeMap<&'static str, u8>;

const NAMES: [&str; 4] = ["sid", "remember", "cart", "csrf"];

/// Whether a cookie that the beginning of a record set, and that was deleted since, counts as changed with the rank of
/// the beginning, for those who did not know the record.
const BEGINNING_OUTLIVES_ITS_COOKIES: bool = true;

fn is_session(name: &str) -> bool {
    name == "sid" || name == "remember"
}

/// What was true after a response.
#[derive(Clone, Debug, Default)]
struct Moment {
    /// Which record there was, by the number of its first moment, and the rank that began it.
    record: Option<(usize, Rank)>,
    jar: Jar,
    /// What the response changed.
    changed: BTreeMap<&'static str, Rank>,
}

/// A response: to a request that was sent at which moment, and what it says; 0 is a deletion.
#[derive(Clone, Debug)]
struct Response {
    back: usize,
    rank: Rank,
    says: Vec<(&'static str, u8)>,
}

struct Model(Vec<Moment>);

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

    /// Carries a response out. Returns the cookies that were dropped.
    fn respond(&mut self, sent: usize, rank: Rank, lines: &[(&'static str, u8)]) -> BTreeSet<&'static str> {
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

fn any_response() -> impl Strategy<Value = Response> {
    let rank = prop_oneof![Just(Rank::Safe), Just(Rank::Unsafe), Just(Rank::Auth)];
    let line = (prop::sample::select(&NAMES[..]), 0..4_u8);
    (0..6_usize, rank, prop::collection::vec(line, 0..4)).prop_map(|(back, rank, says)| Response { back, rank, says })
}

fn jar(world: &World) -> BTreeMap<String, String> {
    let text = world.jar();
    let pairs = text.split("; ").filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn cases() -> u32 {
    match std::env::var_os("SESSION_BRIDGE_TEST_FULL") {
        Some(value) if value == "1" => 200_000,
        _ => 2000,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]
    #[test]
    fn c1_to_c3_the_merge_does_what_a_full_log_of_the_changes_would(
        responses in prop::collection::vec(any_response(), 1..20),
    ) {
        let mut world = World::new(&["sid", "remember"]);
        let mut model = Model(vec![Moment::default()]);
        let mut seen: Vec<Option<Snapshot>> = vec![None];
        for response in responses {
            let sent = seen.len().saturating_sub(response.back + 1);
            let lines: Vec<String> = response
                .says
                .iter()
                .map(|(name, value)| match value {
                    0 => format!("{name}=; Max-Age=0; Path=/"),
                    value => format!("{name}={value}; Path=/"),
                })
                .collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let sent_with = seen[sent].clone();
            let merged = world.respond(sent_with.as_ref(), response.rank, &lines);
            let dropped = model.respond(sent, response.rank, &response.says);
            let expected = model.0.last().unwrap();
            prop_assert_eq!(world.now.is_some(), expected.record.is_some(), "{:?}", response);
            let expected: BTreeMap<String, String> =
                expected.jar.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
            prop_assert_eq!(jar(&world), expected, "{:?}", response);
            let told: BTreeSet<String> = merged.dropped.iter().map(|(key, _)| String::from_utf8_lossy(&key.name).into_owned()).collect();
            let dropped: BTreeSet<String> = dropped.into_iter().map(str::to_owned).collect();
            prop_assert_eq!(told, dropped, "{:?}", response);
            seen.push(world.sent());
        }
    }
}
