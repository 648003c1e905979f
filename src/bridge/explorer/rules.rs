//! The rules, as questions to a history. Every value that the backend sets is unique, so that each change in the store
//! names the response that it came from; nothing here asks the code under test what it did or meant.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::IDLE;
use super::shared::{Cause, Cookies, Log, State, name};
use crate::session::clock::Timestamp;
use crate::session::record::Rank;
use crate::session::store::{Key, LeaseToken, Stored, Version};

/// A response, and the request that it answers.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) key: Key,
    pub(super) replica: usize,
    pub(super) rank: Rank,
    /// The version and the cookies that the request was sent with.
    pub(super) sent: Option<(Version, Cookies)>,
    /// How many states the store had been in when the request was sent.
    pub(super) sent_at: usize,
    pub(super) lead: Option<LeaseToken>,
    /// See [`Rules::troubles`], when the request came.
    pub(super) troubles: usize,
    /// See [`Rules::losses`], likewise.
    pub(super) losses: usize,
    /// `None`: a deletion.
    pub(super) says: Vec<(String, Option<String>)>,
    /// Whether its head was given out.
    pub(super) answered: bool,
}

impl Told {
    fn sent_value(&self, cookie: &str) -> Option<&str> {
        let (_, cookies) = self.sent.as_ref()?;
        cookies.get(cookie).map(String::as_str)
    }

    fn new_value(&self, cookie: &str) -> Option<&str> {
        let said = self.says.iter().find(|(name, _)| name == cookie)?.1.as_deref();
        said.filter(|value| self.sent_value(cookie) != Some(*value))
    }

    fn deletes(&self, cookie: &str) -> bool {
        self.says.iter().any(|(name, value)| name == cookie && value.is_none())
    }
}

/// A session that a request without one started at the backend.
struct Start {
    /// States of the store by then.
    at: usize,
    barren: usize,
    told: usize,
}

#[derive(Default)]
struct Known {
    told: Vec<Told>,
    authors: HashMap<String, usize>,
    starts: HashMap<Key, Start>,
    barren: HashMap<Key, usize>,
    /// Who took the lease, in turn, and how many states the store had been in then.
    wins: HashMap<Key, Vec<LeaseToken>>,
    won_at: HashMap<LeaseToken, usize>,
    leading: Vec<(Key, usize, LeaseToken)>,
    /// Who has led, and of them who took the lease again while there was a session.
    led: HashSet<LeaseToken>,
    beside: HashSet<LeaseToken>,
    /// Responses whose changes had to wait.
    postponed: HashSet<usize>,
    /// How many states the store had been in when a response came.
    came_at: HashMap<usize, usize>,
    /// What each replica serves that waits for the store.
    served: HashMap<(usize, Key), Cookies>,
    /// Responses that were lost on their way from the backend.
    lost: Vec<usize>,
    /// How often something went wrong between each replica and the store, and with the store.
    troubles: HashMap<Option<usize>, usize>,
}

/// What is known of a history, and judged as it goes on.
pub(super) struct Rules {
    log: Arc<Log>,
    known: Mutex<Known>,
}

impl Rules {
    pub(super) fn new(log: Arc<Log>) -> Arc<Self> {
        Arc::new(Self {
            log,
            known: Mutex::default(),
        })
    }

    pub(super) fn barren(&self, key: &Key) {
        *self.known.lock().unwrap().barren.entry(*key).or_default() += 1;
    }

    pub(super) fn barren_so_far(&self, key: &Key) -> usize {
        self.known.lock().unwrap().barren.get(key).copied().unwrap_or(0)
    }

    /// A lease was taken, when the store had been in these states.
    pub(super) fn won(&self, key: &Key, token: LeaseToken, timeline: &[State]) {
        let mut known = self.known.lock().unwrap();
        known.won_at.insert(token, timeline.len());
        if known.led.contains(&token) && timeline.last().is_some_and(|state| state.sid().is_some()) {
            known.beside.insert(token);
        } else {
            known.beside.remove(&token);
        }
        let wins = known.wins.entry(*key).or_default();
        if wins.last() != Some(&token) {
            wins.push(token);
        }
    }

    /// A response of the backend is on its way. Returns its number.
    pub(super) fn told(&self, told: Told) -> usize {
        let mut known = self.known.lock().unwrap();
        let number = known.told.len();
        for (_, value) in &told.says {
            if let Some(value) = value {
                known.authors.entry(value.clone()).or_insert(number);
            }
        }
        known.told.push(told);
        number
    }

    /// F1 and S1: who leads has seen, since it took the lease, that there was no session.
    pub(super) fn may_lead(&self, token: LeaseToken, timeline: &[State]) {
        let at = {
            let mut known = self.known.lock().unwrap();
            known.led.insert(token);
            known.won_at.get(&token).copied().unwrap_or(0)
        };
        let since = &timeline[at.saturating_sub(1).min(timeline.len())..];
        if !since.is_empty() && since.iter().all(|state| state.sid().is_some()) {
            self.log
                .broke("F1", "a request leads where there is a session".to_owned());
        }
    }

    /// A request has the lead. S1: no other one has it.
    pub(super) fn leads(&self, key: &Key, replica: usize, token: LeaseToken) {
        let mut known = self.known.lock().unwrap();
        if let Some((_, other, _)) = known.leading.iter().find(|(led, ..)| led == key) {
            self.log
                .broke("S1", format!("r{other} and r{replica} lead at once for {}", name(key)));
        }
        known.leading.push((*key, replica, token));
    }

    pub(super) fn led(&self, token: LeaseToken) {
        self.known
            .lock()
            .unwrap()
            .leading
            .retain(|(_, _, other)| *other != token);
    }

    /// Something went wrong between that replica, or all of them, and the store: its leads may be lost.
    pub(super) fn trouble(&self, replica: Option<usize>) {
        let mut known = self.known.lock().unwrap();
        known
            .leading
            .retain(|(_, other, _)| replica.is_some_and(|replica| replica != *other));
        *known.troubles.entry(replica).or_default() += 1;
    }

    /// A response has come, when the store had been in so many states.
    pub(super) fn came(&self, number: usize, at: usize) {
        self.known.lock().unwrap().came_at.insert(number, at);
    }

    /// The change of a response waits on `replica`, which serves this meanwhile.
    pub(super) fn postponed(&self, number: usize, replica: usize, serves: Cookies) {
        let mut known = self.known.lock().unwrap();
        let key = known.told[number].key;
        known.postponed.insert(number);
        known.served.insert((replica, key), serves);
    }

    /// F3: while changes wait on `replica`, a request there goes with them, if they hold a session.
    pub(super) fn serves(&self, key: &Key, replica: usize, goes_with: &Cookies) {
        let served = self.known.lock().unwrap().served.get(&(replica, *key)).cloned();
        if served.is_some_and(|served| served.contains_key("sid") && served != *goes_with) {
            self.log
                .broke("F3", format!("r{replica} does not serve what waits there"));
        }
    }

    /// How often that has happened.
    pub(super) fn troubles(&self, replica: usize) -> usize {
        self.known.lock().unwrap().troubles(replica)
    }

    /// How often the store has lost something.
    pub(super) fn losses(&self) -> usize {
        self.known.lock().unwrap().losses()
    }

    pub(super) fn response_lost(&self, number: usize) {
        self.known.lock().unwrap().lost.push(number);
    }

    /// S1: a request without a session has started one at the backend.
    pub(super) fn started(&self, number: usize, timeline: &[State]) {
        let mut known = self.known.lock().unwrap();
        let told = known.told[number].clone();
        if told.lead.is_none() {
            // Freed by a leader without a session (S2).
            return;
        }
        let barren = known.barren.get(&told.key).copied().unwrap_or(0);
        if let Some(before) = known.starts.get(&told.key) {
            let gone = timeline[before.at.min(timeline.len())..]
                .iter()
                .any(|state| !matches!(state.cause, Cause::Write { .. }) || state.sid().is_none());
            let cut_off = known.lost.contains(&before.told)
                || known.told[before.told].troubles != known.troubles(known.told[before.told].replica);
            if !gone && before.barren == barren && !cut_off {
                self.log.broke(
                    "S1",
                    format!(
                        "response {number} starts a second session of {} beside response {}",
                        name(&told.key),
                        before.told
                    ),
                );
            }
        }
        let at = timeline.len();
        known.starts.insert(
            told.key,
            Start {
                at,
                barren,
                told: number,
            },
        );
    }

    /// The store holds something else than before.
    pub(super) fn stored(
        &self,
        key: &Key,
        timeline: &[State],
        record: Option<&Stored>,
        now: Timestamp,
        holder: Option<LeaseToken>,
    ) {
        let (Some(new), Some(old)) = (
            timeline.last(),
            timeline.len().checked_sub(2).map(|index| &timeline[index]),
        ) else {
            return;
        };
        self.log
            .note(format!("store: {} is {:?} ({:?})", name(key), new.cookies, new.cause));
        if let Some(record) = record
            && !(now < record.expires_at && record.expires_at <= now.saturating_add(IDLE))
        {
            self.log.broke("T2", "a record without a due expiry".to_owned());
        }
        for value in new.cookies.values() {
            if !value.starts_with(&format!("{}-", name(key))) {
                self.log.broke("F7", format!("{value} in the record of {}", name(key)));
            }
        }
        let known = self.known.lock().unwrap();
        match new.cause {
            Cause::Write { fence } => self.written(&known, timeline, old, new, fence, holder),
            Cause::Remove => self.removed(&known, key, old, timeline),
            Cause::Expired | Cause::Loss => {}
        }
    }

    fn written(
        &self,
        known: &Known,
        timeline: &[State],
        old: &State,
        new: &State,
        fence: Option<LeaseToken>,
        holder: Option<LeaseToken>,
    ) {
        let changed: Vec<(&String, usize)> = new
            .cookies
            .iter()
            .filter(|(cookie, value)| old.cookies.get(*cookie) != Some(value))
            .map(|(cookie, value)| (cookie, known.authors[value]))
            .collect();
        // A response to a request that knew what was lost stores that again.
        let healed = timeline.iter().skip(1).any(|state| state.cause == Cause::Loss);
        for (cookie, number) in changed.iter().filter(|_| !healed) {
            let author = &known.told[*number];
            if changed.iter().any(|(_, other)| other != number) {
                self.log.broke(
                    "C2",
                    format!("one write with cookies of several responses: {changed:?}"),
                );
            }
            if author.new_value("sid").is_some_and(|sid| new.sid() != Some(sid)) {
                self.log.broke(
                    "C2",
                    format!("{cookie} of response {number} was kept, and its session was not"),
                );
            }
        }
        let Some(sid) = new.sid().filter(|sid| old.sid() != Some(*sid)) else {
            return;
        };
        let before = &timeline[..timeline.len() - 1];
        let lost_since = |index: usize| before[index..].iter().any(|state| state.cause == Cause::Loss);
        if let Some(last) = before.iter().rposition(|state| state.sid() == Some(sid))
            && !lost_since(last + 1)
        {
            self.log
                .broke("C3", format!("session {sid} came back after it had gone"));
        }
        let number = known.authors[sid];
        let author = &known.told[number];
        let intact = author.losses == known.losses();
        if intact && old.sid().is_none() && author.lead.is_some() && (fence.is_none() || fence != holder) {
            self.log
                .broke("S3", format!("response {number} started {sid} without the lease"));
        }
        if let Some(token) = author.lead
            && known.beside.contains(&token)
            && !known.postponed.contains(&number)
        {
            let why = format!("response {number} wrote by a lease that was taken again beside a session");
            self.log.broke("S3", why);
        }
        let sent_at = known.sent_at(number, before);
        if !super::BUILT_ON_WAITING && known.waited(author, timeline) {
            return;
        }
        if lost_since(sent_at.max(1)) {
            return;
        }
        let since = &before[sent_at..];
        let builds_on = old.sid().is_some() && old.sid() == author.sent_value("sid");
        // What was sent with nothing asks once whether a record was removed, when the response has come.
        let until = match author.sent {
            Some(_) => before.len(),
            None => known
                .came_at
                .get(&number)
                .map_or(before.len(), |at| (*at).clamp(sent_at, before.len())),
        };
        let removed = before[sent_at..until].iter().any(|state| state.cause == Cause::Remove);
        if !builds_on && removed && author.rank < Rank::Auth {
            let with = author.sent_value("sid").unwrap_or("nothing");
            // A store that lost something may have lost the note of the removal.
            let noted = author.losses == known.losses();
            if author.sent.is_some() || (super::SENT_WITH_NOTHING && noted) {
                self.log.broke(
                    "C3",
                    format!("response {number}, sent with {with}, brought a removed record back"),
                );
            }
        }
        if old.sid().is_some() && old.sid() != author.sent_value("sid") {
            let since_gone = since
                .iter()
                .rposition(|state| state.sid().is_none())
                .map_or(0, |index| index + 1);
            let highest = since[since_gone..]
                .iter()
                .filter_map(State::sid)
                .filter(|other| !author.sent_value("sid").is_some_and(|sent| known.descends(sent, other)))
                .map(|other| known.told[known.authors[other]].rank)
                .max();
            if highest.is_some_and(|highest| highest >= author.rank) {
                self.log.broke(
                    "C1",
                    format!(
                        "{sid} of response {number} ({:?}) overwrote {:?} of rank {highest:?}",
                        author.rank,
                        old.sid()
                    ),
                );
            }
        }
    }

    fn removed(&self, known: &Known, key: &Key, old: &State, timeline: &[State]) {
        let Some(sid) = old.sid() else { return };
        let rank = known.told[known.authors[sid]].rank;
        let explained = known.told.iter().any(|told| {
            told.key == *key
                && told.deletes("sid")
                && ((!super::BUILT_ON_WAITING && known.waited(told, timeline))
                    || told.rank > rank
                    || told
                        .sent_value("sid")
                        .is_some_and(|sent| known.descends(sid, sent) || known.descends(sent, sid)))
        });
        if !explained {
            self.log
                .broke("C1", format!("no log-out may have removed {sid} of rank {rank:?}"));
        }
    }

    /// S4 and F3: what a response says is stored, or something came before it.
    pub(super) fn kept(&self, number: usize, timeline: &[State], rule: &'static str) {
        let known = self.known.lock().unwrap();
        let told = known.told[number].clone();
        if !super::BUILT_ON_WAITING && known.waited(&told, timeline) {
            return;
        }
        for (cookie, _) in &told.says {
            if let Some(value) = told.new_value(cookie)
                && !known.is_settled(number, cookie, timeline)
            {
                self.log
                    .broke(rule, format!("{cookie}={value} of response {number} is lost"));
            }
        }
        let now = timeline.last().and_then(State::sid);
        if told.deletes("sid")
            && told.sent_value("sid").is_some()
            && now == told.sent_value("sid")
            && !timeline
                .iter()
                .skip(told.sent_at)
                .any(|state| state.cause == Cause::Loss)
        {
            self.log
                .broke(rule, format!("the log-out of response {number} is lost"));
        }
    }

    /// The head is given out.
    pub(super) fn answered(&self, number: usize) {
        self.known.lock().unwrap().told[number].answered = true;
    }

    /// The responses of `key` that were given out by replicas that live.
    pub(super) fn to_be_kept(&self, key: &Key, dead: &[bool]) -> Vec<usize> {
        let known = self.known.lock().unwrap();
        let told = known.told.iter().enumerate();
        told.filter(|(_, told)| told.key == *key && told.answered && !dead[told.replica])
            .map(|(number, _)| number)
            .collect()
    }
}

impl Known {
    fn troubles(&self, replica: usize) -> usize {
        let count = |whose| self.troubles.get(&whose).copied().unwrap_or(0);
        count(None) + count(Some(replica))
    }

    fn losses(&self) -> usize {
        self.troubles.get(&None).copied().unwrap_or(0)
    }

    /// Whether the request was sent with what waited for the store, and was stored otherwise in the end, if at all.
    fn waited(&self, told: &Told, timeline: &[State]) -> bool {
        let version = told.sent.as_ref().map(|(version, _)| *version);
        !timeline[..told.sent_at.min(timeline.len())]
            .iter()
            .any(|state| state.version == version)
    }

    /// How far the store had come when the request was sent, as far as it could know: what it was sent with may have been
    /// older than what the store held, or have waited for the store.
    fn sent_at(&self, number: usize, timeline: &[State]) -> usize {
        let told = &self.told[number];
        let at = told.sent_at.min(timeline.len());
        let version = told.sent.as_ref().map(|(version, _)| *version);
        match timeline[..at].iter().rposition(|state| state.version == version) {
            Some(index) => index + 1,
            None => match told.sent_value("sid").and_then(|sid| self.authors.get(sid)) {
                Some(author) if *author != number => self.sent_at(*author, timeline),
                _ => at,
            },
        }
    }

    /// Whether `sid` is `from`, or was set by a response to a request with it, directly or not.
    fn descends(&self, sid: &str, from: &str) -> bool {
        sid == from
            || self
                .authors
                .get(sid)
                .and_then(|author| self.told[*author].sent_value("sid"))
                .is_some_and(|before| before != sid && self.descends(before, from))
    }

    fn is_settled(&self, number: usize, cookie: &str, timeline: &[State]) -> bool {
        self.is_settled_within(8, number, cookie, timeline)
    }

    /// Responses are built on each other: the chain is followed so far.
    fn is_settled_within(&self, far: usize, number: usize, cookie: &str, timeline: &[State]) -> bool {
        let Some(far) = far.checked_sub(1) else { return false };
        let told = &self.told[number];
        let Some(value) = told.new_value(cookie) else {
            return true;
        };
        if timeline
            .iter()
            .any(|state| state.cookies.get(cookie).is_some_and(|held| held == value))
        {
            return true;
        }
        let from = self.sent_at(number, timeline).clamp(1, timeline.len());
        let overtaken = (from..timeline.len()).any(|index| {
            let state = &timeline[index];
            !matches!(state.cause, Cause::Write { .. })
                || state.cookies.get(cookie) != timeline[index - 1].cookies.get(cookie)
        });
        let superseded = self.told.iter().enumerate().any(|(other, later)| {
            other != number
                && later.sent_value(cookie) == Some(value)
                && self.is_settled_within(far, other, cookie, timeline)
                && (later.new_value(cookie).is_some() || later.deletes(cookie) || later.deletes("sid"))
        });
        let other_session = cookie != "sid"
            && told
                .new_value("sid")
                .is_some_and(|sid| !timeline.iter().any(|state| state.sid() == Some(sid)))
            && self.is_settled_within(far, number, "sid", timeline);
        // It was built on what waited for the store, and that session lost in the end.
        let base_lost = told.sent_value("sid").is_some_and(|sid| {
            let stored = timeline.iter().any(|state| state.sid() == Some(sid));
            let author = self.authors.get(sid).filter(|author| **author != number);
            !stored && author.is_some_and(|author| self.is_settled_within(far, *author, "sid", timeline))
        });
        let lease_lost = told.lead.is_some() && told.losses != self.losses();
        let fenced = told.lead.is_some_and(|token| {
            let wins = self.wins.get(&told.key).map_or(&[][..], Vec::as_slice);
            let ours = wins.iter().position(|win| *win == token);
            ours.is_some_and(|ours| wins.len() > ours + 1)
        });
        overtaken || superseded || other_session || fenced || lease_lost || base_lost
    }
}
