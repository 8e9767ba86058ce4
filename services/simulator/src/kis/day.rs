//! A day of the Korea Exchange, made up from the seed: opening auction, continuous trading, volatility interruptions, closing auction.
//!
//! - the opening auction prints once within 30 s after 09:00, the closing auction once within 30 s after 15:30, and nothing from 15:20 until then;
//! - between them prices walk on the tick table within the daily limits;
//! - every third instrument has a static volatility interruption: a trade 10 % off the last auction's price, two minutes and up to 30 s without a
//!   print, then the auction's one print, which is the new reference;
//! - times are whole seconds, as the wire tells no more; the id of a trade is its date and the day's volume after it.
//!
//! Next: `socket.rs`.

use super::{limits, on_tick, tick};
use crate::config::KrxDayTape;
use crate::decimal::Decimal;
use crate::market::{Market, Origin, Trade, Venue};
use crate::seed;
use anyhow::{Context, bail};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SECOND_US: i64 = 1_000_000;
const HOUR: i64 = 3_600;
/// Korea's clock is so far ahead of UTC.
const KST: i64 = 9 * HOUR;
const OPEN: i64 = 9 * HOUR;
const LAST_CONTINUOUS: i64 = 15 * HOUR + 20 * 60;
const CLOSE: i64 = 15 * HOUR + 30 * 60;
/// An auction ends at random within so many seconds.
const RANDOM_END: i64 = 30;
const INTERRUPTION: i64 = 120;
/// Shares of a day are counted behind the date.
const SHARES_PER_DAY_MAX: i64 = 100_000_000_000;

/// What the day adds up to after a trade.
#[derive(Debug, Clone, Copy)]
pub struct Totals {
    pub(crate) volume: i64,
    pub(crate) turnover: i64,
    pub(crate) open: (i64, i64),
    pub(crate) high: (i64, i64),
    pub(crate) low: (i64, i64),
    pub(crate) buys: (i64, i64),
    pub(crate) sells: (i64, i64),
    /// Reference of the volatility interruption.
    pub(crate) reference: i64,
}

/// One instrument's day.
#[derive(Debug, Default)]
pub struct Day {
    /// The close of the day before.
    pub(crate) base: i64,
    totals: Vec<Totals>,
}

impl Day {
    /// Adds up a day's trades.
    pub fn of(trades: &[Trade]) -> Day {
        let price = |trade: &Trade| i64::try_from(trade.price().at_scale(0)).unwrap_or(i64::MAX);
        let mut day = Day { base: trades.first().map_or(0, price), totals: Vec::with_capacity(trades.len()) };
        let mut running: Option<Totals> = None;
        for trade in trades {
            let (at, now) = (price(trade), (price(trade), trade.time_us));
            let size = i64::try_from(trade.size().at_scale(0)).unwrap_or(0);
            let mut totals = running.unwrap_or(Totals {
                volume: 0,
                turnover: 0,
                open: now,
                high: now,
                low: now,
                buys: (0, 0),
                sells: (0, 0),
                reference: day.base,
            });
            totals.volume += size;
            totals.turnover += at * size;
            if at > totals.high.0 {
                totals.high = now;
            }
            if at < totals.low.0 {
                totals.low = now;
            }
            if trade.origin == Origin::Auction {
                totals.reference = at;
            } else {
                let side = if trade.taker_sells { &mut totals.sells } else { &mut totals.buys };
                *side = (side.0 + 1, side.1 + size);
            }
            running = Some(totals);
            day.totals.push(totals);
        }
        day
    }

    /// What the day adds up to after the trade at this index.
    pub(crate) fn after(&self, index: usize) -> Option<&Totals> {
        self.totals.get(index)
    }
}

/// The n-th instrument's short code; the third has a letter, as new ones do.
pub fn code(number: usize) -> String {
    if number == 3 { "0080G0".to_owned() } else { format!("{number:05}0") }
}

/// Makes the day up.
///
/// # Errors
/// A date that is none, or nothing to trade.
pub fn generate(tape: &KrxDayTape, seed: u64) -> anyhow::Result<Vec<Market>> {
    let date: jiff::civil::Date = tape.date.parse().with_context(|| format!("tapes.date {:?}", tape.date))?;
    if tape.symbols == 0 || tape.trades < tape.symbols * 2 {
        bail!("a krx-day tape needs symbols above 0 and at least two trades for each");
    }
    let midnight = date.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp().as_second() - KST;
    let number = i64::from(date.year()) * 10_000 + i64::from(date.month()) * 100 + i64::from(date.day());
    let markets = (1..=tape.symbols).map(|symbol| {
        let own_seed = seed::mix(seed, &[seed::of_text(&tape.date), symbol as u64]);
        let trades = one_day(own_seed, symbol % 3 == 0, tape.trades / tape.symbols, midnight, number);
        Market::new(Venue::Kis, &code(symbol), "KRW", (0, 0), trades)
    });
    Ok(markets.collect())
}

fn one_day(seed: u64, interrupted: bool, trades: usize, midnight: i64, date: i64) -> Vec<Trade> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let base = on_tick(random.random_range(1_500..400_000));
    let (highest, lowest) = limits(base);
    let mut price = on_tick(base + random.random_range(-2..=2) * tick(base)).clamp(lowest, highest);
    let mut day = Printer { midnight, date, volume: 0, trades: Vec::with_capacity(trades) };
    let opened = OPEN + random.random_range(0..=RANDOM_END);
    day.print(opened, price, random.random_range(1_000..50_000), false, Origin::Auction);
    let mut reference = price;

    let interruption = interrupted.then(|| OPEN + random.random_range(HOUR..4 * HOUR));
    let mut resume = None;
    let mut seconds: Vec<i64> = (0..trades.saturating_sub(2)).map(|_| random.random_range(opened..LAST_CONTINUOUS)).collect();
    seconds.sort_unstable();
    for second in seconds {
        if let (Some(at), None) = (interruption, resume)
            && second >= at
        {
            // The trade that triggers it, then the auction; whatever would have traded meanwhile does not.
            price = on_tick(reference + reference / 10 + tick(reference)).clamp(lowest, highest);
            day.print(second, price, random.random_range(1..500), false, Origin::Tape);
            let end = second + INTERRUPTION + random.random_range(0..=RANDOM_END);
            price = (price + random.random_range(-2..=2) * tick(price)).clamp(lowest, highest);
            price = on_tick(price);
            day.print(end, price, random.random_range(500..20_000), false, Origin::Auction);
            reference = price;
            resume = Some(end);
            continue;
        }
        if resume.is_some_and(|resume| second <= resume) {
            continue;
        }
        let walked = on_tick(price + random.random_range(-1..=1) * tick(price));
        // A walk that would trigger another interruption turns back.
        if (walked - reference).abs() * 12 < reference {
            price = walked.clamp(lowest, highest);
        }
        let size = random.random_range(1..=500) / if random.random_bool(0.1) { 1 } else { 10 };
        day.print(second, price, size.max(1), random.random_bool(0.5), Origin::Tape);
    }
    let closed = CLOSE + random.random_range(0..=RANDOM_END);
    day.print(closed, price, random.random_range(1_000..100_000), false, Origin::Auction);
    day.trades
}

struct Printer {
    midnight: i64,
    date: i64,
    volume: i64,
    trades: Vec<Trade>,
}

impl Printer {
    fn print(&mut self, second: i64, price: i64, size: i64, taker_sells: bool, origin: Origin) {
        self.volume += size;
        let (id, time_us) = (self.date * SHARES_PER_DAY_MAX + self.volume, (self.midnight + second) * SECOND_US);
        let mut trade = Trade::new(time_us, id, Decimal::new(price, 0), Decimal::new(size, 0), taker_sells);
        trade.origin = origin;
        self.trades.push(trade);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(symbols: usize, trades: usize) -> Vec<Market> {
        generate(&KrxDayTape { date: "2026-11-20".into(), symbols, trades }, 1).unwrap()
    }

    fn clock(trade: &Trade) -> i64 {
        (trade.time_us / SECOND_US + KST).rem_euclid(86_400)
    }

    #[test]
    fn the_day_has_its_auctions_and_its_silences() {
        for market in day(6, 12_000) {
            let trades = market.trades();
            let auctions: Vec<&Trade> = trades.iter().filter(|trade| trade.origin == Origin::Auction).collect();
            assert!((OPEN..=OPEN + RANDOM_END).contains(&clock(auctions[0])) && auctions[0].id == trades[0].id);
            let last = trades.last().unwrap();
            assert!((CLOSE..=CLOSE + RANDOM_END).contains(&clock(last)) && last.origin == Origin::Auction);
            let quiet = trades.iter().filter(|trade| (LAST_CONTINUOUS..CLOSE).contains(&clock(trade))).count();
            assert_eq!(quiet, 0, "no prints while the closing auction gathers");
            let interrupted = ["0080G0", "000060"].contains(&market.upper.as_str());
            assert_eq!(auctions.len(), if interrupted { 3 } else { 2 }, "{}", market.upper);
            if interrupted {
                let at = trades.iter().position(|trade| trade.id == auctions[1].id).unwrap();
                let silence = clock(&trades[at]) - clock(&trades[at - 1]);
                assert!((INTERRUPTION..=INTERRUPTION + RANDOM_END).contains(&silence), "{silence}");
            }
        }
    }

    #[test]
    fn volumes_add_up_prices_stand_on_ticks_within_the_limits_and_ids_are_the_volume() {
        for market in day(4, 4_000) {
            let trades = market.trades();
            let mut volume = 0;
            for trade in trades.iter() {
                volume += i64::try_from(trade.size().at_scale(0)).unwrap();
                assert_eq!(trade.id, 20_261_120 * SHARES_PER_DAY_MAX + volume);
                let price = i64::try_from(trade.price().at_scale(0)).unwrap();
                assert_eq!(price % tick(price), 0, "{price}");
            }
            let day = Day::of(&trades);
            assert_eq!(day.after(trades.len() - 1).unwrap().volume, volume);
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_day() {
        let ids = |markets: Vec<Market>| markets.iter().map(|m| m.trades().last().unwrap().id).collect::<Vec<_>>();
        assert_eq!(ids(day(5, 1_000)), ids(day(5, 1_000)));
    }
}
