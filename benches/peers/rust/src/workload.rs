//! The workload: the same trades from the same seed on any machine, and the bars they make.
//!
//! Trades happen on 500 instruments at an even pace (5,000,000 in three hours; 20,000,000 in twelve) and arrive up to two seconds later, so
//! they come out of order, as much as a network makes them. Ids and sequences are the venue's: they follow event time.
//!
//! Next: `load.rs`.

use marketflow_model::{Interval, Timestamp};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Instruments.
pub(crate) const INSTRUMENTS: usize = 500;
/// 2026-11-02T14:30:00Z: no bar of any interval is cut at the start.
pub(crate) const START: Timestamp = Timestamp::from_seconds(1_793_629_800);
/// Between two trades, of whatever instruments: 5,000,000 fill three hours.
const STEP_MICROS: i64 = 2_160;
/// Longest way from venue to us, exclusive.
pub(crate) const DISORDER_MICROS: i64 = 2_000_000;
const VENUES: [&str; 6] = ["XNYS", "XNAS", "XLON", "XETR", "XHKG", "XSHG"];
/// A cent, and a unit of size, at scale 8.
const CENT: i64 = 1_000_000;
const UNIT: i64 = 100_000_000;

/// A trade; prices and sizes at scale 8.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Event {
    /// Microseconds at which it reaches us; first, so that it orders arrivals.
    pub(crate) arrival: i64,
    pub(crate) event_time: i64,
    pub(crate) instrument: usize,
    /// The venue's, rising within the instrument.
    pub(crate) id: i64,
    pub(crate) price: i64,
    pub(crate) size: i64,
    pub(crate) is_buy: bool,
}

/// `VENUE:SYMBOL` of each instrument: three to five letters, as tickers are.
pub(crate) fn instruments() -> Vec<String> {
    let letter = |x: usize| char::from(b'A' + u8::try_from(x % 26).expect("below 26"));
    let symbol = |i: usize| {
        let mut rest = i * 7919 + 12_345;
        let mut symbol = String::new();
        for _ in 0..1 + i % 3 {
            symbol.push(letter(rest));
            rest /= 26;
        }
        symbol.push(letter(i / 26));
        symbol.push(letter(i));
        symbol
    };
    (0..INSTRUMENTS).map(|i| format!("{}:{}", VENUES[i % VENUES.len()], symbol(i))).collect()
}

/// Trades in the order in which they happen; endless.
pub(crate) struct Events {
    random: u64,
    happened: i64,
    /// Price in cents and last id of each instrument.
    walks: Vec<(i64, i64)>,
    /// Running sum of the instruments' weights: some trade more than others.
    weights: Vec<u64>,
}

impl Events {
    pub(crate) fn new() -> Self {
        let mut random = 42;
        let weights = (0..500).scan(0, |sum, rank| {
            *sum += 2_000_000 / (rank + 40);
            Some(*sum)
        });
        let weights = weights.collect();
        let mut draw = |below: i64| next(&mut random, below);
        let walks = (0..INSTRUMENTS).map(|_| (500 + draw(50_000), draw(1_000_000_000))).collect();
        Self { random, happened: 0, walks, weights }
    }

    fn draw(&mut self, below: i64) -> i64 {
        next(&mut self.random, below)
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let total = *self.weights.last()?;
        let at = u64::try_from(self.draw(i64::try_from(total).ok()?)).ok()?;
        let instrument = self.weights.partition_point(|sum| *sum <= at);
        let event_time = START.micros() + self.happened * STEP_MICROS + self.draw(STEP_MICROS);
        self.happened += 1;
        let (step, skipped) = (self.draw(7) - 3, self.draw(3));
        let (cents, id) = &mut self.walks[instrument];
        *cents = (*cents + step).max(100);
        *id += 1 + skipped;
        let (price, id) = (*cents * CENT, *id);
        Some(Event {
            arrival: event_time + self.draw(DISORDER_MICROS),
            event_time,
            instrument,
            id,
            price,
            size: (1 + self.draw(500)) * UNIT,
            is_buy: self.draw(2) == 0,
        })
    }
}

/// splitmix64, reduced to `0..below`.
fn next(state: &mut u64, below: i64) -> i64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    i64::try_from(z >> 1).expect("63 bits") % below
}

/// The first `count` trades in the order in which they arrive.
pub(crate) struct Arrivals {
    events: std::iter::Peekable<std::iter::Take<Events>>,
    underway: BinaryHeap<Reverse<Event>>,
}

impl Arrivals {
    pub(crate) fn new(count: usize) -> Self {
        Self { events: Events::new().take(count).peekable(), underway: BinaryHeap::new() }
    }
}

impl Iterator for Arrivals {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        // nothing arrives before it happened
        while let Some(event) = self.events.peek() {
            if self.underway.peek().is_some_and(|Reverse(first)| first.arrival < event.event_time) {
                break;
            }
            self.underway.push(Reverse(*event));
            self.events.next();
        }
        self.underway.pop().map(|Reverse(event)| event)
    }
}

/// What tells bars apart: instrument, seconds, open time in microseconds.
pub(crate) type Key = (String, i64, i64);

/// A bar as every peer should build it; prices and volume at scale 8, turnover at scale 16.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) open: i64,
    pub(crate) high: i64,
    pub(crate) low: i64,
    pub(crate) close: i64,
    pub(crate) volume: i64,
    pub(crate) turnover: i128,
    pub(crate) trade_count: i64,
}

/// Every bar of the first `count` trades, from the generator: no Kafka, no windows, no order of arrival.
pub(crate) fn answer(count: usize) -> HashMap<Key, Bar> {
    let mut bars: HashMap<(usize, i64, i64), Bar> = HashMap::new();
    for event in Events::new().take(count) {
        let Event { event_time, instrument, price, size, .. } = event;
        for interval in Interval::STANDARD {
            let open_time = Timestamp::from_micros(event_time).window_open(interval).micros();
            let seconds = interval.micros() / 1_000_000;
            let turnover = i128::from(price) * i128::from(size);
            bars.entry((instrument, seconds, open_time))
                .and_modify(|bar| {
                    bar.high = bar.high.max(price);
                    bar.low = bar.low.min(price);
                    bar.close = price;
                    bar.volume += size;
                    bar.turnover += turnover;
                    bar.trade_count += 1;
                })
                .or_insert(Bar { open: price, high: price, low: price, close: price, volume: size, turnover, trade_count: 1 });
        }
    }
    let names = instruments();
    bars.into_iter().map(|((i, seconds, open_time), bar)| ((names[i].clone(), seconds, open_time), bar)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn arrivals_are_the_events_up_to_two_seconds_out_of_order() {
        let arrivals: Vec<Event> = Arrivals::new(20_000).collect();
        let mut events: Vec<Event> = Events::new().take(20_000).collect();
        assert!(arrivals.windows(2).all(|pair| pair[0].arrival <= pair[1].arrival));
        assert!(arrivals.windows(2).any(|pair| pair[0].event_time > pair[1].event_time));
        assert!(events.iter().all(|e| (0..DISORDER_MICROS).contains(&(e.arrival - e.event_time))));
        events.sort();
        assert_eq!(events.len(), arrivals.len());
        assert!(events.iter().zip(&arrivals).all(|(a, b)| a == b));
        assert_eq!(instruments().into_iter().collect::<BTreeSet<_>>().len(), INSTRUMENTS);
    }
}
