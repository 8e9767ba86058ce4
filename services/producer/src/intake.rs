//! Between socket and feed: a bounded queue that never makes the socket wait.
//!
//! Order is kept. Quotes are conflated (only the latest of a feed and instrument counts). Trades are never conflated: when the bound is reached a
//! trade is dropped and the place is marked, so that the feed opens a gap there and asks for what was dropped.
//!
//! Next: `feed.rs`, which takes it from here.

use marketflow_model::{Feed, Instrument, Quote, Timestamp};
use marketflow_providers::{Event, Malformed};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Number of a connection, rising.
pub type ConnectionNumber = u64;

/// What a connection hands to the feed, in order.
#[derive(Debug)]
pub enum Item {
    /// As the provider's state machine told it (never a quote, which goes beside the queue, nor anything for the socket).
    Event(Event),
    /// A frame that cannot be used, with the frame.
    Malformed {
        /// For counting.
        reason: Malformed,
        /// In words.
        detail: String,
        /// The frame as it came, cut.
        raw: Vec<u8>,
        /// The trade it speaks of, when that much can be read.
        trade: Option<(Instrument, i64)>,
    },
    /// Trades of an instrument were dropped here for want of room, the first of this event time.
    Dropped {
        /// Of which instrument.
        instrument: Instrument,
        /// Event time of the earliest.
        from: Timestamp,
    },
    /// Every subscription wanted was acknowledged, or waiting longer makes no sense.
    Settled {
        /// On the venue's clock.
        at: Timestamp,
    },
    /// The connection is gone.
    Closed {
        /// Bounded, for counting.
        reason: &'static str,
        /// Whether another one had taken over before.
        planned: bool,
    },
}

/// The queue.
#[derive(Debug)]
pub struct Intake {
    queue: Mutex<Queue>,
    filled: Notify,
    trades_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<(ConnectionNumber, Item)>,
    trades: usize,
    quotes: BTreeMap<(Instrument, Feed), Quote>,
    dropping: BTreeSet<(ConnectionNumber, Instrument)>,
    dropped: u64,
    conflated: u64,
}

/// What was taken out at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order.
    pub items: Vec<(ConnectionNumber, Item)>,
    /// The latest quote of each instrument that has a new one.
    pub quotes: Vec<Quote>,
    /// Trades dropped since the last time.
    pub dropped: u64,
    /// Quotes replaced by later ones since the last time.
    pub conflated: u64,
}

impl Intake {
    /// Holds `trades_max` trades at most.
    pub fn new(trades_max: usize) -> Self {
        Self { queue: Mutex::default(), filled: Notify::new(), trades_max }
    }

    /// Takes an item in; never waits.
    pub fn push(&self, from: ConnectionNumber, item: Item) {
        let mut queue = self.lock();
        match item {
            Item::Event(Event::Quote(quote)) => {
                if queue.quotes.insert((quote.instrument.clone(), quote.feed.clone()), quote).is_some() {
                    queue.conflated += 1;
                }
            }
            Item::Event(Event::Trade(trade)) if queue.trades >= self.trades_max => {
                queue.dropped += 1;
                if queue.dropping.insert((from, trade.instrument.clone())) {
                    queue.items.push_back((from, Item::Dropped { instrument: trade.instrument, from: trade.event_time }));
                }
            }
            Item::Event(Event::Evidence { through }) => {
                // Evidence only grows: what stands last and unread is brought up to date instead of queued again.
                match queue.items.back_mut() {
                    Some((number, Item::Event(Event::Evidence { through: last }))) if *number == from => {
                        *last = (*last).max(through)
                    }
                    _ => queue.items.push_back((from, Item::Event(Event::Evidence { through }))),
                }
            }
            item @ (Item::Event(_)
            | Item::Malformed { .. }
            | Item::Dropped { .. }
            | Item::Settled { .. }
            | Item::Closed { .. }) => {
                if matches!(item, Item::Event(Event::Trade(_))) {
                    queue.trades += 1;
                }
                queue.items.push_back((from, item));
            }
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// Returns once something was pushed since it last returned.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes out at most `items_max` items and all quotes.
    pub fn take(&self, items_max: usize) -> Batch {
        let mut queue = self.lock();
        let count = queue.items.len().min(items_max);
        let items: Vec<_> = queue.items.drain(..count).collect();
        for (from, item) in &items {
            if let Item::Event(Event::Trade(_)) = item {
                queue.trades -= 1;
            }
            if let Item::Dropped { instrument, .. } = item {
                queue.dropping.remove(&(*from, instrument.clone()));
            }
        }
        if !queue.items.is_empty() {
            self.filled.notify_one();
        }
        Batch {
            items,
            quotes: std::mem::take(&mut queue.quotes).into_values().collect(),
            dropped: std::mem::take(&mut queue.dropped),
            conflated: std::mem::take(&mut queue.conflated),
        }
    }

    /// Trades waiting.
    pub fn trades(&self) -> usize {
        self.lock().trades
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::{trade, trade_event};

    #[test]
    fn trades_beyond_the_bound_are_dropped_and_marked_once_at_their_place() {
        let intake = Intake::new(2);
        for id in 1..=5 {
            intake.push(1, trade_event("V:A", id, id));
        }
        intake.push(1, trade_event("V:B", 9, 9));
        let batch = intake.take(100);
        assert_eq!((batch.items.len(), batch.dropped), (4, 4));
        assert!(matches!(&batch.items[2].1, Item::Dropped { from, .. } if *from == trade("V:A", 3, 3).event_time));
        assert!(matches!(&batch.items[3].1, Item::Dropped { instrument, .. } if instrument.as_str() == "V:B"));
        intake.push(1, trade_event("V:A", 6, 6));
        assert_eq!(intake.take(100).items.len(), 1, "room again");
    }

    #[test]
    fn evidence_that_nothing_followed_is_brought_up_to_date() {
        let intake = Intake::new(2);
        let evidence = |s| Item::Event(Event::Evidence { through: Timestamp::from_seconds(s) });
        intake.push(1, evidence(1));
        intake.push(1, evidence(3));
        intake.push(1, trade_event("V:A", 1, 1));
        intake.push(1, evidence(4));
        let items = intake.take(100).items;
        assert_eq!(items.len(), 3);
        assert!(matches!(items[0].1, Item::Event(Event::Evidence { through }) if through == Timestamp::from_seconds(3)));
    }
}
