//! The one task that changes anything. It takes all that is waiting, decides each change in order, writes the outcome
//! in one transaction, and answers when that is on the disk. What comes in meanwhile goes into the next.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior};
use tracing::warn;

use super::cache::Lookup;
use super::{Shared, table};
use crate::session::clock::Timestamp;
use crate::session::store::{Key, StoreError, Stored};
use crate::store::slot::Slot;

/// How many changes share a transaction at most.
const BATCH: usize = 512;

/// How often the background sweep looks for what has expired.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How many rows the sweep deletes at once.
const SWEEP_BATCH: u32 = 100;

/// What the writer is asked for.
pub(super) enum Order {
    /// A change.
    Change(Box<dyn Change>),
    /// To delete what cannot be read as a record, and say whether there was any.
    Discard(Key, oneshot::Sender<Result<bool, StoreError>>),
    /// To say whether it can write.
    Probe(oneshot::Sender<Result<(), StoreError>>),
    /// To end, once all that was asked before is done.
    Close(oneshot::Sender<()>),
}

/// A change of one key.
pub(super) trait Change: Send {
    fn key(&self) -> &Key;
    /// `false` when nobody waits for it any more; it must then be left alone.
    fn claim(&self) -> bool;
    fn decide(&mut self, slot: &mut Slot, now: Timestamp);
    /// Tells the outcome to whoever asked, or why there is none.
    fn answer(self: Box<Self>, written: Result<(), StoreError>);
}

/// Whose turn it is: taken once, by the writer who starts the change or by the caller who gives it up.
#[derive(Clone, Default)]
pub(super) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Whether the caller is the first to take it.
    pub(super) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// A [`Change`] made of a function.
pub(super) struct Pending<T, F> {
    pub(super) key: Key,
    pub(super) claim: Claim,
    pub(super) decide: Option<F>,
    pub(super) outcome: Option<T>,
    pub(super) reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnOnce(&mut Slot, Timestamp) -> T + Send> Change for Pending<T, F> {
    fn key(&self) -> &Key {
        &self.key
    }

    fn claim(&self) -> bool {
        self.claim.take()
    }

    fn decide(&mut self, slot: &mut Slot, now: Timestamp) {
        self.outcome = self.decide.take().map(|decide| decide(slot, now));
    }

    fn answer(self: Box<Self>, written: Result<(), StoreError>) {
        let undecided = || StoreError::Unavailable("the change was not decided".into());
        let Self { outcome, reply, .. } = *self;
        // Nobody may be waiting any more: the answer is then of no use.
        let _ = reply.send(written.and_then(|()| outcome.ok_or_else(undecided)));
    }
}

/// The writer.
pub(super) struct Writer {
    pub(super) connection: SqliteConnection,
    pub(super) shared: Arc<Shared>,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Held while the file is in use.
    pub(super) lock: File,
    /// Whether the last transaction failed.
    pub(super) failing: bool,
}

/// What a batch makes of the keys it is about.
type Draft = HashMap<Key, Sketch>;

/// One key of a batch.
struct Sketch {
    /// What the table holds.
    before: Option<Stored>,
    /// What is to be.
    slot: Slot,
}

impl Sketch {
    fn changes_record(&self) -> bool {
        self.before != self.slot.record
    }
}

impl Writer {
    /// Works until it is told to close, or until the store is gone.
    pub(super) async fn run(mut self) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut orders = Vec::with_capacity(BATCH);
        let closing = loop {
            tokio::select! {
                taken = self.orders.recv_many(&mut orders, BATCH) => {
                    if taken == 0 {
                        break None;
                    }
                    if let Some(closing) = self.serve(&mut orders).await {
                        break Some(closing);
                    }
                }
                _ = sweep.tick() => self.sweep(&mut sweep).await,
            }
        };
        self.finish(closing).await;
    }

    async fn finish(mut self, closing: Option<oneshot::Sender<()>>) {
        if let Err(error) = table::run(&mut self.connection, "PRAGMA wal_checkpoint(TRUNCATE)").await {
            warn!(%error, "the log of the database was not folded into it; that is done at the next start");
        }
        if let Err(error) = self.connection.close().await {
            warn!(%error, "the database was not closed in order");
        }
        drop(self.lock);
        if let Some(closing) = closing {
            let _ = closing.send(());
        }
    }

    /// Carries out `orders`. Those after a [`Order::Close`] are dropped: whoever sent them sees that.
    async fn serve(&mut self, orders: &mut Vec<Order>) -> Option<oneshot::Sender<()>> {
        let mut changes = Vec::with_capacity(orders.len());
        let mut discards = Vec::new();
        let mut probes = Vec::new();
        let mut closing = None;
        for order in orders.drain(..) {
            match order {
                Order::Change(change) if closing.is_none() => changes.push(change),
                Order::Discard(key, reply) if closing.is_none() => discards.push((key, reply)),
                Order::Probe(probe) => probes.push(probe),
                Order::Change(_) | Order::Discard(..) => {}
                Order::Close(told) => closing = Some(told),
            }
        }
        for (key, reply) in discards {
            // Such a row is never in memory, so there is nothing to forget.
            let _ = reply.send(table::discard(&mut self.connection, &key).await);
        }
        self.commit(changes).await;
        if !probes.is_empty() {
            let health = self.probe().await;
            probes.into_iter().for_each(|probe| drop(probe.send(health.clone())));
        }
        closing
    }

    async fn commit(&mut self, changes: Vec<Box<dyn Change>>) {
        let mut draft = Draft::new();
        let mut decided = Vec::with_capacity(changes.len());
        for mut change in changes.into_iter().filter(|change| change.claim()) {
            if let Err(error) = self.fetch(&mut draft, change.key()).await {
                change.answer(Err(error));
            } else if let Some(sketch) = draft.get_mut(change.key()) {
                change.decide(&mut sketch.slot, self.shared.clock.now());
                decided.push(change);
            }
        }
        let written = self.write(&draft).await;
        for change in decided {
            change.answer(written.clone());
        }
    }

    /// Puts the present state of `key` into the draft.
    async fn fetch(&mut self, draft: &mut Draft, key: &Key) -> Result<(), StoreError> {
        if draft.contains_key(key) {
            return Ok(());
        }
        let known = self.shared.shards.of(key).look(key);
        let before = match known {
            Lookup::Known(record) => record,
            Lookup::Unknown(_) => table::select(&mut self.connection, key).await?,
        };
        let slot = Slot {
            record: before.clone(),
            lease: self.shared.shards.of(key).lease(key),
        };
        draft.insert(*key, Sketch { before, slot });
        Ok(())
    }

    /// Writes the records that changed, and makes all of the draft visible when they are on the disk.
    async fn write(&mut self, draft: &Draft) -> Result<(), StoreError> {
        let changed = || draft.iter().filter(|(_, sketch)| sketch.changes_record());
        for (key, sketch) in changed() {
            self.shared.shards.of(key).pin(key, sketch.before.clone());
        }
        let rows: Vec<_> = changed()
            .map(|(key, sketch)| (key, &sketch.before, &sketch.slot.record))
            .collect();
        let outcome = if rows.is_empty() {
            Ok(())
        } else {
            self.transact(&rows).await
        };
        for (key, sketch) in draft {
            let mut shard = self.shared.shards.of(key);
            match &outcome {
                Ok(()) => {
                    shard.publish(key, sketch.slot.record.clone());
                    shard.set_lease(key, sketch.slot.lease);
                }
                Err(StoreError::Ambiguous(_)) => shard.forget(key),
                Err(_) => shard.publish(key, sketch.before.clone()),
            }
        }
        outcome
    }

    /// Writes each of `rows` (key, before, after) in one transaction.
    async fn transact(&mut self, rows: &[(&Key, &Option<Stored>, &Option<Stored>)]) -> Result<(), StoreError> {
        let connection = &mut self.connection;
        let written = async {
            table::run(connection, "BEGIN IMMEDIATE").await?;
            for (key, before, after) in rows {
                table::write(connection, key, before.as_ref(), after.as_ref()).await?;
            }
            Ok(())
        };
        let outcome = match written.await {
            Err(error) => Err(table::failed(&error)),
            Ok(()) => match table::run(&mut self.connection, "COMMIT").await {
                Err(error) if table::undone(&error) => Err(table::failed(&error)),
                // The disk failed in the middle of it: after a crash, the commit may turn out to be there.
                Err(error) => Err(StoreError::Ambiguous(table::reason(&error))),
                Ok(()) => Ok(()),
            },
        };
        self.failing = outcome.is_err();
        if self.failing {
            self.roll_back().await;
        }
        outcome
    }

    /// Whether changes can be written. While they can, that is known without writing anything.
    async fn probe(&mut self) -> Result<(), StoreError> {
        if self.failing {
            let connection = &mut self.connection;
            let written = async {
                table::run(connection, "BEGIN IMMEDIATE").await?;
                table::run(connection, table::PROBE).await?;
                table::run(connection, "COMMIT").await
            };
            if let Err(error) = written.await {
                self.roll_back().await;
                return Err(table::failed(&error));
            }
            self.failing = false;
        }
        Ok(())
    }

    /// Ends a transaction that failed. Some errors have ended it already, which is then an error here.
    async fn roll_back(&mut self) {
        let _ = table::run(&mut self.connection, "ROLLBACK").await;
    }

    /// Deletes one batch of what has expired; the next one at once if there may be more.
    async fn sweep(&mut self, interval: &mut Interval) {
        let now = self.shared.clock.now();
        match table::sweep(&mut self.connection, now, SWEEP_BATCH).await {
            Ok(gone) => {
                gone.iter().for_each(|key| self.shared.shards.of(key).swept(key));
                if gone.len() >= SWEEP_BATCH as usize {
                    interval.reset_immediately();
                    return;
                }
            }
            Err(error) => warn!(%error, "what has expired could not be deleted; it is tried again"),
        }
        self.shared.shards.each().for_each(|mut shard| shard.sweep_leases(now));
    }
}
