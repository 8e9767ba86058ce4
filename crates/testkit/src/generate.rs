//! Trades that never happened: a random walk per instrument, the same for the same seed.

use marketflow_model::{Conditions, Feed, Instrument, Price, Quantity, Side, Source, Timestamp, Trade};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// 0.01 at scale 8.
const TICK: i64 = 1_000_000;

/// An endless, reproducible stream of trades in event-time order, with rising ids per instrument. Made for `take(n)`.
pub struct RandomWalk {
    random: ChaCha8Rng,
    feed: Feed,
    walks: Vec<Walk>,
    now: Timestamp,
    mean_pause_us: i64,
}

struct Walk {
    instrument: Instrument,
    price: i64,
    id: i64,
}

impl RandomWalk {
    /// Walks of `instruments` from `start` on, `trades_per_second` (at least 1) in all.
    pub fn new(seed: u64, feed: Feed, instruments: &[Instrument], start: Timestamp, trades_per_second: u32) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let walks = instruments.iter().cloned().map(|instrument| Walk {
            instrument,
            price: random.random_range(100..100_000) * TICK * 100,
            id: random.random_range(1..1_000_000_000),
        });
        let walks = walks.collect();
        Self { random, feed, walks, now: start, mean_pause_us: 1_000_000 / i64::from(trades_per_second.max(1)) }
    }

    /// `SIM:A0000`, `SIM:A0001` … for tests that need many instruments.
    ///
    /// # Panics
    /// Never: the names follow the grammar.
    pub fn instruments(count: usize) -> Vec<Instrument> {
        (0..count).map(|n| Instrument::new("SIM", &format!("A{n:04}")).expect("letters and digits")).collect()
    }
}

impl Iterator for RandomWalk {
    type Item = Trade;

    fn next(&mut self) -> Option<Trade> {
        let random = &mut self.random;
        self.now = self.now.plus_micros(random.random_range(0..=2 * self.mean_pause_us));
        let index = random.random_range(0..self.walks.len().max(1));
        let walk = self.walks.get_mut(index)?;
        walk.price = (walk.price + random.random_range(-5..=5) * TICK).max(TICK);
        walk.id += random.random_range(1..=3);
        Some(Trade {
            instrument: walk.instrument.clone(),
            feed: self.feed.clone(),
            event_time: self.now,
            receive_time: self.now.plus_micros(random.random_range(1_000..50_000)),
            price: Price::from_scaled(walk.price)?,
            size: Quantity::from_scaled(random.random_range(1..1_000_000_000)),
            side: if random.random() { Side::Buy } else { Side::Sell },
            trade_id: Some(walk.id.to_string()),
            sequence: Some(walk.id),
            import_row: None,
            conditions: Conditions::NONE,
            source: Source::Websocket,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_walk_is_ordered_reproducible_and_has_rising_ids() {
        let walk = |seed| {
            let instruments = RandomWalk::instruments(7);
            RandomWalk::new(seed, Feed::new("sim"), &instruments, Timestamp::from_seconds(1_700_000_000), 100).take(5_000)
        };
        let trades: Vec<Trade> = walk(1).collect();
        assert_eq!(trades.len(), 5_000);
        assert_eq!(trades, walk(1).collect::<Vec<_>>());
        assert_ne!(trades, walk(2).collect::<Vec<_>>());
        assert!(trades.windows(2).all(|pair| pair[0].event_time <= pair[1].event_time));
        let mut last = BTreeMap::new();
        assert!(trades.iter().all(|t| last.insert(t.instrument.clone(), t.sequence).is_none_or(|before| before < t.sequence)));
        assert_eq!(last.len(), 7);
        let seconds = trades[4_999].event_time.micros_since(trades[0].event_time) / 1_000_000;
        assert!((45..55).contains(&seconds), "{seconds} s at 100 trades a second");
    }
}
