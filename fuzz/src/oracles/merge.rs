//! The jar and the merge: any schedule of responses against a log that remembers everything; and, with all that a
//! backend, a clock and a store that loses writes can do, what must hold whatever happens.

use std::collections::BTreeSet;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};

use crate::merge_model::{Jar as ModelJar, Model, Moment, NAMES};
use crate::session::clock::Timestamp;
use crate::session::cookie::{Cookie, Origin, parse_set_cookie};
use crate::session::glob::Glob;
use crate::session::jar::{Jar, MAX_BYTES, MAX_COOKIES};
use crate::session::merge::{Action, Effect, Merged, Said, merge};
use crate::session::record::{CookiePolicy, Rank, Record, Snapshot};
use crate::session::store::Version;

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const HOST: &str = "www.shop.example";

#[derive(Arbitrary, Clone, Copy, Debug)]
enum AnyRank {
    Safe,
    Unsafe,
    Auth,
}

impl From<AnyRank> for Rank {
    fn from(rank: AnyRank) -> Self {
        match rank {
            AnyRank::Safe => Self::Safe,
            AnyRank::Unsafe => Self::Unsafe,
            AnyRank::Auth => Self::Auth,
        }
    }
}

/// A response of the simple kind: the cookies of the model, their values 0 (deleted) to 3.
#[derive(Arbitrary, Debug)]
struct Plain {
    back: u8,
    rank: AnyRank,
    says: Vec<(u8, u8)>,
}

/// What happens in the full world.
#[derive(Arbitrary, Debug)]
enum Event {
    Response {
        back: u8,
        rank: AnyRank,
        says: Vec<Line>,
    },
    /// Seconds, minutes and hours go by.
    Time(u8, u8, u8),
    /// The store goes back to what it was so many versions ago.
    Loss(u8),
    /// A backend that invents names: so many of them, of that size.
    Flood(u8, u16),
}

#[derive(Arbitrary, Debug)]
struct Line {
    name: u8,
    value: u8,
    path: u8,
    domain: u8,
    age: Option<i16>,
    flags: u8,
}

#[derive(Arbitrary, Debug)]
enum Input {
    AgainstTheLog(Vec<Plain>),
    Anything { ids: u8, events: Vec<Event> },
}

pub fn check(data: &[u8]) {
    match Input::arbitrary_take_rest(Unstructured::new(data)) {
        Ok(Input::AgainstTheLog(responses)) => against_the_log(&responses),
        Ok(Input::Anything { ids, events }) => anything(ids, &events),
        Err(_) => {}
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(7);
    let sizes = [16, 64, 200, 400, 800, 1500];
    let seed = |number: usize| (0..sizes[number % sizes.len()]).map(|_| random.u8(..)).collect();
    (0..60).map(seed).collect()
}

fn policy(ids: &[&str]) -> CookiePolicy {
    CookiePolicy::new(vec![Glob::new("*")], ids.iter().map(|name| Glob::new(name)).collect())
}

fn next_version(now: Option<&Snapshot>, nonce: usize) -> Version {
    Version {
        seq: now.map_or(1, |now| now.version.seq + 1),
        nonce: u32::try_from(nonce).unwrap(),
    }
}

/// What is stored after `merged`; through the stored form, as in a store.
fn carry_out(now: Option<&Snapshot>, merged: &Merged, version: Version) -> Option<Snapshot> {
    match &merged.action {
        Action::Keep => now.cloned(),
        Action::Remove => None,
        Action::Write(record) => {
            let decoded = Record::decode(&record.encode().expect("it is encoded")).expect("it is decoded");
            assert!(decoded == **record, "the stored form is another record");
            Some(Snapshot {
                version,
                expires_at: Timestamp::MAX,
                record: decoded,
                lineage: None,
            })
        }
    }
}

fn against_the_log(responses: &[Plain]) {
    let policy = policy(&["sid", "remember"]);
    let mut model = Model(vec![Moment::default()]);
    let mut states: Vec<Option<Snapshot>> = vec![None];
    for (number, response) in responses.iter().take(64).enumerate() {
        let sent = states.len().saturating_sub(usize::from(response.back % 8) + 1);
        let says: Vec<(&'static str, u8)> = response
            .says
            .iter()
            .take(6)
            .map(|(name, value)| (NAMES[usize::from(*name) % 4], value % 4))
            .collect();
        let cookies = says.iter().map(|(name, value)| {
            let line = match value {
                0 => format!("{name}=; Max-Age=0; Path=/"),
                value => format!("{name}={value}; Path=/"),
            };
            parse_set_cookie(line.as_bytes(), &Origin::new(HOST, "/"), START).expect("a good line")
        });
        let said = Said {
            rank: response.rank.into(),
            cookies: cookies.collect(),
            at: START,
        };
        let now = states.last().unwrap().as_ref();
        let version = next_version(now, number);
        let merged = merge(states[sent].as_ref(), now, &said, &policy, version);
        let next = carry_out(now, &merged, version);

        let dropped = model.respond(sent, said.rank, &says);
        let expected = model.0.last().unwrap();
        assert_eq!(next.is_some(), expected.record.is_some(), "{response:?}");
        let jar: ModelJar = next
            .iter()
            .flat_map(|next| next.record.jar())
            .map(by_the_model)
            .collect();
        assert_eq!(jar, expected.jar, "{response:?}");
        let told: BTreeSet<&str> = merged.dropped.iter().map(|(key, _)| name_of(&key.name)).collect();
        assert_eq!(told, dropped, "{response:?}");
        states.push(next);
    }
}

fn name_of(name: &[u8]) -> &'static str {
    NAMES
        .into_iter()
        .find(|known| known.as_bytes() == name)
        .expect("a name that was set")
}

fn by_the_model(cookie: &Cookie) -> (&'static str, u8) {
    (name_of(cookie.name()), cookie.value()[0] - b'0')
}

/// The world in which anything may happen.
struct World {
    policy: CookiePolicy,
    at: Timestamp,
    /// What the store held, the last state last.
    states: Vec<Option<Snapshot>>,
    /// Every `name=value` that a backend ever set.
    set: BTreeSet<Vec<u8>>,
    writes: usize,
    floods: usize,
}

fn anything(ids: u8, events: &[Event]) {
    let mut world = World {
        policy: policy([&["sid"][..], &["sid", "c*"], &[]][usize::from(ids % 3)]),
        at: START,
        states: vec![None],
        set: BTreeSet::new(),
        writes: 0,
        floods: 0,
    };
    for event in events.iter().take(48) {
        match event {
            Event::Response { back, rank, says } => {
                let cookies = says.iter().take(12).filter_map(|line| world.cookie(line)).collect();
                world.respond(*back, *rank, cookies);
            }
            Event::Time(seconds, minutes, hours) => {
                let seconds = u64::from(*seconds) + 60 * u64::from(*minutes) + 3600 * u64::from(*hours);
                world.at = world.at.saturating_add(Duration::from_secs(seconds));
            }
            Event::Loss(back) => {
                let earlier = world.states.len().saturating_sub(usize::from(back % 8) + 1);
                world.states.push(world.states[earlier].clone());
            }
            // Each is a lot of work; six fill the jar.
            Event::Flood(..) if world.floods == 6 => {}
            Event::Flood(count, size) => {
                world.floods += 1;
                let value = "x".repeat(usize::from(size % 4000));
                let first = world.floods * 32;
                let line = |number| format!("flood{}={value}; Path=/", first + number);
                let origin = Origin::new(HOST, "/");
                let cookies = (0..usize::from(count % 32))
                    .filter_map(|number| parse_set_cookie(line(number).as_bytes(), &origin, world.at).ok());
                let cookies: Vec<Cookie> = cookies.collect();
                world.respond(0, AnyRank::Unsafe, cookies);
            }
        }
    }
}

impl World {
    fn cookie(&self, line: &Line) -> Option<Cookie> {
        let name = ["sid", "csrf", "cart", "c1", "c2", "__Host-x", "", "n\u{e9}"][usize::from(line.name % 8)];
        let value = ["", "a", "b", "long value", "\"q\"", "=", "\u{fc}", "deleted"][usize::from(line.value % 8)];
        let path = ["/", "/a", "/a/", "/a/b", "x"][usize::from(line.path % 5)];
        let domain = [
            "",
            "; Domain=shop.example",
            "; Domain=.www.shop.example",
            "; Domain=example.com",
        ];
        let age = line
            .age
            .map_or(String::new(), |age| format!("; Max-Age={}", i32::from(age) * 10));
        let flags = ["", "; Secure", "; HttpOnly", "; Secure; HttpOnly"][usize::from(line.flags % 4)];
        let line = format!(
            "{name}={value}; Path={path}{}{age}{flags}",
            domain[usize::from(line.domain % 4)]
        );
        parse_set_cookie(line.as_bytes(), &Origin::new(HOST, "/a/b?c"), self.at).ok()
    }

    fn respond(&mut self, back: u8, rank: AnyRank, cookies: Vec<Cookie>) {
        let sent = self.states[self.states.len().saturating_sub(usize::from(back % 8) + 1)].clone();
        let now = self.states.last().unwrap().clone();
        self.set.extend(cookies.iter().map(pair));
        self.writes += 1;
        let said = Said {
            rank: rank.into(),
            cookies,
            at: self.at,
        };
        let version = next_version(now.as_ref(), self.writes);
        let merged = merge(sent.as_ref(), now.as_ref(), &said, &self.policy, version);
        let again = merge(sent.as_ref(), now.as_ref(), &said, &self.policy, version);
        assert!(merged == again, "the same question, another answer");
        let next = carry_out(now.as_ref(), &merged, version);
        self.well_formed(&merged, &said, now.as_ref(), next.as_ref());
        if sent == now {
            self.undisputed(&merged, &said, next.as_ref());
        }
        if let (Action::Write(_), Some(written)) = (&merged.action, &next) {
            self.idempotent(sent.as_ref(), written, &said);
        }
        self.states.push(next);
    }

    /// What holds after every response.
    fn well_formed(&self, merged: &Merged, said: &Said, now: Option<&Snapshot>, next: Option<&Snapshot>) {
        for (key, _) in &merged.dropped {
            assert!(
                said.cookies.iter().any(|cookie| cookie.has_key(key)),
                "dropped what nobody said"
            );
        }
        let had = now.is_some_and(|now| self.policy.has_session(now.record.jar(), self.at));
        let has = next.is_some_and(|next| self.policy.has_session(next.record.jar(), self.at));
        match merged.effect {
            Effect::Created => assert!(has),
            Effect::Replaced => assert!(has),
            Effect::Ended => assert!(!has && merged.action == Action::Remove),
            Effect::None => assert!(had == has || merged.action != Action::Remove),
        }
        let Some(next) = next else { return };
        let jar = next.record.jar();
        assert!(
            jar.len() <= MAX_COOKIES && bytes(jar) <= MAX_BYTES,
            "the jar outgrew its limits"
        );
        let mut keys = BTreeSet::new();
        for cookie in jar {
            assert!(keys.insert(cookie.key()), "two of one key");
            assert!(self.set.contains(&pair(cookie)), "a cookie that nobody set");
            let wrote = matches!(merged.action, Action::Write(_));
            assert!(!wrote || !cookie.is_expired(self.at), "an expired cookie was stored");
        }
        for path in ["/", "/a/b/c?d", "/ab"] {
            self.header(jar, &Origin::new(HOST, path));
        }
    }

    /// Nothing but what was set goes to the backend: longest path first, each with the request it belongs to.
    fn header(&self, jar: &Jar, origin: &Origin<'_>) {
        let mut expected: Vec<&Cookie> = jar
            .iter()
            .filter(|cookie| !cookie.is_expired(self.at) && cookie.matches(origin))
            .collect();
        expected.sort_by_key(|cookie| std::cmp::Reverse(cookie.path().len()));
        let expected: Vec<Vec<u8>> = expected.into_iter().map(pair).collect();
        let field = jar.header(origin, self.at);
        assert_eq!(field.is_some(), !expected.is_empty());
        if let Some(field) = field {
            assert!(field == expected.join(&b"; "[..]), "other bytes, or another order");
            http::HeaderValue::from_bytes(&field).expect("a field value");
        }
    }

    /// Nobody else changed anything since the request was sent: what the response says is so.
    fn undisputed(&self, merged: &Merged, said: &Said, next: Option<&Snapshot>) {
        assert!(
            merged.dropped.is_empty(),
            "dropped without a conflict: {:?}",
            merged.dropped
        );
        if merged.action == Action::Remove || merged.evicted > 0 {
            return;
        }
        for (place, cookie) in said.cookies.iter().enumerate() {
            if said.cookies.iter().skip(place + 1).any(|later| later.same_key(cookie)) {
                continue;
            }
            let stored = next.and_then(|next| next.record.jar().get(&cookie.key()));
            let stored = stored.filter(|stored| !stored.is_expired(self.at));
            if cookie.is_expired(self.at) {
                assert!(stored.is_none(), "deleted and still there");
            } else {
                let stored = stored.expect("set and not there");
                assert!(stored.value() == cookie.value() && stored.expires_at() == cookie.expires_at());
            }
        }
    }

    /// A write whose answer was lost is decided again, over itself: that changes nothing any more.
    fn idempotent(&self, sent: Option<&Snapshot>, written: &Snapshot, said: &Said) {
        let version = next_version(Some(written), self.writes);
        let again = merge(sent, Some(written), said, &self.policy, version);
        let after = carry_out(Some(written), &again, version);
        let jar = |snapshot: &Snapshot| snapshot.record.jar().iter().map(pair).collect::<BTreeSet<_>>();
        if again.evicted == 0
            && bytes(written.record.jar()) < MAX_BYTES / 2
            && written.record.jar().len() < MAX_COOKIES / 2
        {
            assert_eq!(
                after.as_ref().map(jar),
                Some(jar(written)),
                "said twice, it is something else: {said:?}"
            );
        }
    }
}

fn bytes(jar: &Jar) -> usize {
    let size =
        |cookie: &Cookie| cookie.name().len() + cookie.value().len() + cookie.domain().len() + cookie.path().len();
    jar.iter().map(size).sum()
}

fn pair(cookie: &Cookie) -> Vec<u8> {
    if cookie.name().is_empty() {
        return cookie.value().to_vec();
    }
    [cookie.name(), b"=", cookie.value()].concat()
}
