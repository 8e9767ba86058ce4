//! Who is connected and who listens to what. Next: `connection.rs` for the frames, `player.rs` for what is sent.

use crate::binance::Interval;
use crate::connection::Connection;
use crate::market::{Market, Venue};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// A channel that carries data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Every trade: Bitstamp `live_trades_<pair>`, Binance `<symbol>@trade`, Upbit `trade`, KIS `H0STCNT0`.
    Trades,
    /// Levels of the book: Bitstamp `order_book_<pair>`, Upbit `orderbook`, KIS `H0STASP0`.
    Book,
    /// Halts: KIS `H0STMKO0`.
    Status,
    /// Binance `<symbol>@aggTrade`.
    AggTrade,
    /// Binance `<symbol>@bookTicker`.
    BookTicker,
    /// Binance `<symbol>@kline_<interval>`.
    Kline(Interval),
}

impl Channel {
    /// Whether every trade reaches the client through it.
    pub fn carries_trades(self) -> bool {
        matches!(self, Channel::Trades | Channel::AggTrade)
    }
}

/// One subscription of one connection.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// Whose.
    pub connection: Arc<Connection>,
    /// To what.
    pub channel: Channel,
}

/// The markets, the connections and the subscriptions between them.
#[derive(Debug)]
pub struct Hub {
    /// All markets, in the order of the tapes.
    pub markets: Vec<Market>,
    /// Told whenever a subscription comes or goes.
    pub changed: Notify,
    by_lower: HashMap<(Venue, String), usize>,
    connections: Mutex<Vec<Arc<Connection>>>,
    next_connection: AtomicU64,
    required: Vec<usize>,
    required_subscriptions: usize,
    complete: AtomicBool,
    trade_subscriptions: Vec<AtomicUsize>,
}

impl Hub {
    /// A hub that counts as complete once each of the `required` instruments (all when empty) has so many subscriptions to its trades.
    pub fn new(markets: Vec<Market>, required: &[String], required_subscriptions: usize) -> Hub {
        let by_lower = markets.iter().enumerate().map(|(index, market)| ((market.venue, market.lower.clone()), index)).collect();
        let is_required = |market: &Market| required.is_empty() || required.contains(&market.instrument);
        let required = (0..markets.len()).filter(|index| is_required(&markets[*index])).collect();
        Hub {
            changed: Notify::new(),
            by_lower,
            connections: Mutex::default(),
            next_connection: AtomicU64::new(1),
            required,
            required_subscriptions,
            complete: AtomicBool::new(required_subscriptions == 0),
            trade_subscriptions: markets.iter().map(|_| AtomicUsize::new(0)).collect(),
            markets,
        }
    }

    /// The market of that name in any spelling of case.
    pub fn find(&self, venue: Venue, symbol: &str) -> Option<usize> {
        self.by_lower.get(&(venue, symbol.to_lowercase())).copied()
    }

    /// Whether everyone the tape waits for is there.
    pub fn complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Takes in a new connection.
    pub fn join(&self, venue: Venue, opened_us: i64, combined: bool, microseconds: bool) -> Arc<Connection> {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(id, venue, opened_us, combined, microseconds));
        self.lock().push(connection.clone());
        connection
    }

    /// Forgets a connection and what it had subscribed.
    pub fn leave(&self, connection: &Connection) {
        self.lock().retain(|other| other.id != connection.id);
        self.unsubscribe_all(connection);
    }

    /// The connections there are now.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.lock().clone()
    }

    /// Adds a subscription.
    pub fn subscribe(&self, market: usize, connection: &Arc<Connection>, channel: Channel) {
        let mut subscribers = self.markets[market].subscribers.write().unwrap_or_else(PoisonError::into_inner);
        subscribers.push(Subscriber { connection: connection.clone(), channel });
        self.recount(market, &subscribers);
        drop(subscribers);
        self.look();
    }

    /// Takes one away.
    pub fn unsubscribe(&self, market: usize, connection: &Connection, channel: Channel) {
        self.remove(market, |other| other.connection.id == connection.id && other.channel == channel);
        self.look();
    }

    /// Takes all of a connection's away.
    pub fn unsubscribe_all(&self, connection: &Connection) {
        for market in 0..self.markets.len() {
            self.remove(market, |other| other.connection.id == connection.id);
        }
        self.look();
    }

    /// All subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        self.markets.iter().map(|market| market.subscribers.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn remove(&self, market: usize, gone: impl Fn(&Subscriber) -> bool) {
        let mut subscribers = self.markets[market].subscribers.write().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|other| !gone(other));
        self.recount(market, &subscribers);
    }

    fn recount(&self, market: usize, subscribers: &[Subscriber]) {
        let count = subscribers.iter().filter(|subscriber| subscriber.channel.carries_trades()).count();
        self.trade_subscriptions[market].store(count, Ordering::Release);
    }

    fn look(&self) {
        let has_enough =
            |market: &usize| self.trade_subscriptions[*market].load(Ordering::Acquire) >= self.required_subscriptions;
        self.complete.store(self.required.iter().all(has_enough), Ordering::Release);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
