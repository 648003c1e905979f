//! A replica made of the real parts, which carries requests as [`crate::bridge::Bridge::handle`] does.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::IDLE;
use super::backend::{Ask, Backend};
use super::rules::Told;
use super::shared::{Cookies, LOOK_FAILED, Link, Server, Sky, State, VirtualClock, cookies_of, name};
use crate::bridge::acquire::{Acquire, AcquireError, Asks, Ready};
use crate::bridge::change::Change;
use crate::bridge::commit::{Commit, Committed};
use crate::bridge::flights::Landing;
use crate::bridge::lead::Lead;
use crate::bridge::pending::Pending;
use crate::bridge::seen_through::{self, SeenThrough};
use crate::bridge::sessions::Sessions;
use crate::bridge::touch::Touch;
use crate::metrics::Metrics;
use crate::session::clock::{Clock, Timestamp};
use crate::session::cookie::{Cookie, Origin, parse_set_cookie};
use crate::session::glob::Glob;
use crate::session::merge::Said;
use crate::session::record::{CookiePolicy, Lifetime};
use crate::session::store::{Key, SessionStore};

/// The longest that a request waits for another one's session.
pub(super) const CREATE_WAIT: Duration = Duration::from_secs(60);
/// Long, since a case in which time passes is about what happens then.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_WAIT: Duration = Duration::from_secs(2);

/// One request, and how long the backend takes for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) ask: Ask,
    /// To the backend, then to the head of its response, then to the end of it.
    pub(super) takes: [Duration; 3],
    /// The response never comes.
    pub(super) breaks: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Answered,
    /// Refused for want of the store.
    Refused,
    /// The backend's response never came.
    Broken,
}

pub(super) struct Replica {
    pub(super) number: usize,
    pub(super) dead: Arc<AtomicBool>,
    pub(super) pending: Arc<Pending>,
    sessions: Arc<Sessions>,
    acquire: Acquire,
    commit: Commit,
    touch: Touch,
    tasks: TaskTracker,
    server: Arc<Server>,
    backend: Arc<Backend>,
    sky: Arc<dyn Sky>,
}

impl Replica {
    pub(super) fn start(
        number: usize,
        server: &Arc<Server>,
        clock: &Arc<VirtualClock>,
        backend: &Arc<Backend>,
        sky: &Arc<dyn Sky>,
    ) -> Arc<Self> {
        let dead = Arc::<AtomicBool>::default();
        let link = Link {
            replica: number,
            server: Arc::clone(server),
            sky: Arc::clone(sky),
            dead: Arc::clone(&dead),
        };
        let metrics = Arc::new(Metrics::new(&[]));
        let policy = CookiePolicy::new(vec![Glob::new("*")], vec![Glob::new("sid")]);
        let lifetime = Lifetime {
            idle_timeout: IDLE,
            max_age: None,
        };
        let sessions = Arc::new(Sessions::new(
            Arc::new(link) as Arc<dyn SessionStore>,
            Arc::clone(clock) as Arc<dyn Clock>,
            Arc::clone(&metrics),
            policy,
            lifetime,
        ));
        let pending = Pending::new(Arc::clone(&sessions), Arc::clone(&metrics));
        let tasks = TaskTracker::new();
        let background = Arc::clone(&pending);
        tokio::spawn(async move { background.run(CancellationToken::new()).await });
        Arc::new(Self {
            number,
            dead,
            acquire: Acquire::new(
                Arc::clone(&sessions),
                Arc::clone(&pending),
                Arc::clone(&metrics),
                tasks.clone(),
                CREATE_WAIT,
                STORE_TIMEOUT,
            ),
            commit: Commit::new(Arc::clone(&sessions), Arc::clone(&pending), Arc::clone(&metrics)),
            touch: Touch::new(Arc::clone(&sessions), metrics, tasks.clone()),
            sessions,
            pending,
            tasks,
            server: Arc::clone(server),
            backend: Arc::clone(backend),
            sky: Arc::clone(sky),
        })
    }

    /// Carries one request, as long as its client stays: what is dropped before it was sent is let go, what was sent is
    /// seen through.
    pub(super) async fn carry(self: &Arc<Self>, job: Job) -> Ended {
        let this = Arc::clone(self);
        let work = async move {
            let begun = this.server.timeline(&job.key).len();
            let before = (this.server.rules.troubles(this.number), this.server.rules.losses());
            let was_waiting = this.pending.waits(&job.key);
            let asks = Asks {
                safe: job.ask.is_safe(),
                client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            };
            let acquire = async {
                let ready = this.acquire.acquire(&job.key, asks).await;
                (ready, LOOK_FAILED.with(Cell::get))
            };
            let (ready, look_failed) = LOOK_FAILED.scope(Cell::new(false), acquire).await;
            let ready = match ready {
                Ok(ready) => ready,
                Err(error) => {
                    this.server
                        .log
                        .note(format!("r{} {} {:?}: {error:?}", this.number, name(&job.key), job.ask));
                    if matches!(error, AcquireError::WaitTimeout) {
                        this.server.log.broke("S3", format!("{:?} waited in vain", job.ask));
                    }
                    return Ended::Refused;
                }
            };
            if look_failed {
                let why = format!("{:?} goes on although it could not look at the store", job.ask);
                this.server.log.broke("F1", why);
            }
            this.judge_ready(&job, &ready, begun, was_waiting, before.0);
            if let (Some(snapshot), None) = (&ready.snapshot, &ready.lead) {
                this.touch.used(&job.key, snapshot, ready.at);
            }
            seen_through::dispatched();
            this.exchange(job, ready, before).await
        };
        SeenThrough::new(self.tasks.clone(), Box::pin(work)).await
    }

    /// F1, S1, S2 and S4: what a request goes on with.
    fn judge_ready(&self, job: &Job, ready: &Ready, begun: usize, was_waiting: bool, troubles: usize) {
        let (log, rules) = (&self.server.log, &self.server.rules);
        let cookies = cookies_of(ready.snapshot.as_deref());
        log.note(format!(
            "r{} {} {:?} goes with {cookies:?}{}",
            self.number,
            name(&job.key),
            job.ask,
            if ready.lead.is_some() { " and leads" } else { "" }
        ));
        if was_waiting {
            rules.serves(&job.key, self.number, &cookies);
        }
        let timeline = self.server.timeline(&job.key);
        let seen = &timeline[begun - 1..];
        let has_session = cookies.contains_key("sid");
        if seen.iter().all(|state| state.sid().is_some()) && !has_session && !was_waiting {
            log.broke(
                "F1",
                "a session was there all the time, and the request goes without".to_owned(),
            );
        }
        if let Some(lead) = &ready.lead {
            rules.may_lead(lead.token(), &timeline);
            if rules.troubles(self.number) == troubles {
                rules.leads(&job.key, self.number, lead.token());
            }
            if has_session {
                log.broke("S1", "a request with a session leads".to_owned());
            }
        } else if !(has_session || job.ask.is_safe() && rules.barren_so_far(&job.key) > 0) {
            log.broke(
                "S2",
                "a request without a session was let go without the lead".to_owned(),
            );
        }
        let version = ready.snapshot.as_ref().map(|snapshot| snapshot.version);
        let untroubled = rules.troubles(self.number) == 0;
        let late = ready.waited && seen[0].sid().is_none();
        if untroubled && (super::LATE_FOLLOWERS || !late) && !seen.iter().any(|state: &State| state.version == version)
        {
            log.broke(
                "S4",
                format!(
                    "{:?} goes with a record older than what was stored when it came",
                    job.ask
                ),
            );
        }
    }

    async fn exchange(self: &Arc<Self>, job: Job, ready: Ready, (troubles, losses): (usize, usize)) -> Ended {
        let (log, rules) = (Arc::clone(&self.server.log), Arc::clone(&self.server.rules));
        let Ready { snapshot, lead, at, .. } = ready;
        let cookies = cookies_of(snapshot.as_deref());
        for value in cookies.values() {
            if !value.starts_with(&format!("{}-", name(&job.key))) {
                log.broke("F7", format!("{value} goes to the backend for {}", name(&job.key)));
            }
        }
        let sent_at = self.server.timeline(&job.key).len();
        tokio::time::sleep(job.takes[0]).await;
        let what = format!("backend r{} {} {:?}", self.number, name(&job.key), job.ask);
        let _ = self.sky.before(usize::MAX, &job.key, &what).await;
        let answer = self.backend.handle(&job.key, job.ask, &cookies);
        let number = rules.told(Told {
            key: job.key,
            replica: self.number,
            rank: job.ask.rank(),
            sent: snapshot.as_ref().map(|snapshot| (snapshot.version, cookies.clone())),
            sent_at,
            lead: lead.as_ref().map(Lead::token),
            troubles,
            losses,
            says: answer.says.clone(),
            answered: false,
        });
        log.note(format!(
            "{what} with {:?} says {:?} (response {number})",
            cookies.get("sid"),
            answer.says
        ));
        if answer.started {
            rules.started(number, &self.server.timeline(&job.key));
        }
        if job.breaks {
            rules.response_lost(number);
        }
        tokio::time::sleep(job.takes[1]).await;
        if self.dead.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        if job.breaks {
            if let Some(lead) = &lead {
                rules.led(lead.token());
            }
            return Ended::Broken;
        }
        let now = self.sessions.now();
        let said = Said {
            rank: job.ask.rank(),
            cookies: set_cookies(&answer.says, now),
            at: now,
        };
        let has_body = job.takes[2] > Duration::ZERO;
        let settle = (lead.is_some() && has_body).then_some(BODY_WAIT);
        let change = Change::new(snapshot, at, said, settle);
        rules.came(number, self.server.timeline(&job.key).len());
        let committed = self.commit.commit(&job.key, change, lead.as_ref()).await;
        log.note(format!(
            "response {number} goes out{}",
            if committed.waits { ", its change waits" } else { "" }
        ));
        if committed.waits {
            rules.postponed(number, self.number, cookies_of(committed.snapshot.as_deref()));
        }
        rules.answered(number);
        if !committed.waits {
            rules.kept(number, &self.server.timeline(&job.key), "S4");
        }
        if let Some(lead) = lead {
            self.end(job, lead, &committed);
        }
        Ended::Answered
    }

    fn end(self: &Arc<Self>, job: Job, lead: Lead, committed: &Committed) {
        let landing = committed.landing(&self.sessions);
        let (this, waits) = (Arc::clone(self), committed.waits);
        self.tasks.spawn(async move {
            tokio::time::sleep(job.takes[2].min(BODY_WAIT)).await;
            this.server.rules.led(lead.token());
            if matches!(landing, Landing::Barren(_)) {
                this.server.rules.barren(&job.key);
            }
            match landing {
                Landing::Session(..) if waits && this.commit.waits(&job.key) => lead.leave(landing),
                landing => lead.end(landing).await,
            }
        });
    }

    /// What a request would find now.
    pub(super) async fn look(&self, key: &Key) -> Option<Cookies> {
        let snapshot = self.sessions.load(key).await.ok()?;
        Some(cookies_of(snapshot.as_deref()))
    }
}

fn set_cookies(says: &[(String, Option<String>)], at: Timestamp) -> Vec<Cookie> {
    let origin = Origin::new("shop.example", "/");
    let line = |(name, value): &(String, Option<String>)| match value {
        Some(value) => format!("{name}={value}; Path=/"),
        None => format!("{name}=; Max-Age=0; Path=/"),
    };
    says.iter()
        .map(|said| parse_set_cookie(line(said).as_bytes(), &origin, at).unwrap())
        .collect()
}
