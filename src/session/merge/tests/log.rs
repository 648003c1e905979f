//! The merge against a [model](super::model) that remembers everything.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::model::{Model, Moment, NAMES};
use super::{Rank, Snapshot, World};

/// A response: to a request that was sent at which moment, and what it says; 0 is a deletion.
#[derive(Clone, Debug)]
struct Response {
    back: usize,
    rank: Rank,
    says: Vec<(&'static str, u8)>,
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
