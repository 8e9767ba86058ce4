//! A day of the Korea Exchange, made up from the seed: opening auction, continuous trading, volatility interruptions, closing auction.
//!
//! - the opening auction prints once within 30 s after 09:00, the closing auction once within 30 s after 15:30, and nothing from 15:20 until then;
//! - between them prices walk on the tick table within the daily limits;
//! - every third instrument has a static volatility interruption: a trade 10 % off the last auction's price, two minutes and up to 30 s without a
//!   print, then the auction's one print, which is the new reference;
//! - a listing may be halted: nothing prints until the halt ends, then an auction's one print;
//! - times are whole seconds, as the wire tells no more; the id of a trade is its date and the day's volume after it.
//!
//! Next: `socket.rs`.

use super::{limits, on_tick, tick};
use crate::config::{KrxDayTape, KrxListing, RangeConfig};
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
/// Halts and interruptions are told so long after the second in which they begin and end.
const TOLD_AFTER_US: i64 = SECOND_US / 2;
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

/// What the market status says from an instant on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// UTC microseconds.
    pub(crate) time_us: i64,
    /// Trading is halted.
    pub(crate) halted: bool,
    /// A volatility interruption goes on.
    pub(crate) interrupted: bool,
}

/// One instrument's day.
#[derive(Debug, Default)]
pub struct Day {
    /// The instrument's name in Korean.
    pub(crate) name: String,
    /// Halts and interruptions, in the order they begin and end.
    pub(crate) statuses: Vec<Status>,
    /// The close of the day before.
    pub(crate) base: i64,
    totals: Vec<Totals>,
}

impl Day {
    /// Adds up a day's trades.
    pub fn of(trades: &[Trade]) -> Day {
        let price = |trade: &Trade| i64::try_from(trade.price().at_scale(0)).unwrap_or(i64::MAX);
        let mut day = Day { base: trades.first().map_or(0, price), totals: Vec::with_capacity(trades.len()), ..Day::default() };
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

    /// What is left of it when only these of its trades are played.
    fn part(mut self, trades: std::ops::Range<usize>, from_us: i64, to_us: i64) -> Day {
        self.totals = self.totals[trades].to_vec();
        self.statuses.retain(|status| (from_us..to_us).contains(&status.time_us));
        self
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
pub fn generate(tape: &KrxDayTape, range: &RangeConfig, seed: u64) -> anyhow::Result<Vec<Market>> {
    let date: jiff::civil::Date = tape.date.parse().with_context(|| format!("tapes.date {:?}", tape.date))?;
    let listings = if tape.listings.is_empty() {
        (1..=tape.symbols).map(|number| KrxListing { code: code(number), ..KrxListing::default() }).collect()
    } else {
        tape.listings.clone()
    };
    if listings.is_empty() || tape.trades < listings.len() * 2 {
        bail!("a krx-day tape needs symbols above 0 and at least two trades for each");
    }
    let (from_us, to_us) = range.bounds()?;
    let midnight = date.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp().as_second() - KST;
    let number = i64::from(date.year()) * 10_000 + i64::from(date.month()) * 100 + i64::from(date.day());
    let count = tape.trades / listings.len();
    (1..)
        .zip(listings)
        .map(|(symbol, listing)| {
            let own_seed = seed::mix(seed, &[seed::of_text(&tape.date), symbol]);
            let halts: Vec<(i64, i64)> = listing.halts.iter().map(halt).collect::<anyhow::Result<_>>()?;
            let printed = one_day(own_seed, symbol % 3 == 0, listing.base, &halts, count, midnight, number);
            let trades = printed.trades;
            let (first, last) = (before(&trades, from_us), before(&trades, to_us));
            let whole = Day { name: listing.name, statuses: printed.statuses, ..Day::of(&trades) };
            let mut market = Market::new(Venue::Kis, &listing.code, "KRW", (0, 0), trades[first..last].to_vec());
            market.day = whole.part(first..last, from_us, to_us);
            Ok(market)
        })
        .collect()
}

/// How many trades happened before an instant.
fn before(trades: &[Trade], at_us: i64) -> usize {
    trades.partition_point(|trade| trade.time_us < at_us)
}

/// A halt in seconds of the day; both ends lie in continuous trading.
fn halt((from, until): &(String, String)) -> anyhow::Result<(i64, i64)> {
    let second = |text: &str| -> anyhow::Result<i64> {
        let time: jiff::civil::Time = text.parse().with_context(|| format!("tapes.listings.halts {text:?}"))?;
        Ok(i64::from(time.hour()) * HOUR + i64::from(time.minute()) * 60 + i64::from(time.second()))
    };
    let (from, until) = (second(from)?, second(until)?);
    if OPEN + RANDOM_END < from && from < until && until < LAST_CONTINUOUS {
        Ok((from, until))
    } else {
        bail!("tapes.listings.halts: a halt begins after 09:00:30, ends before 15:20 and lasts")
    }
}

fn one_day(seed: u64, interrupted: bool, base: i64, halts: &[(i64, i64)], trades: usize, midnight: i64, date: i64) -> Printer {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let made_up = on_tick(random.random_range(1_500..400_000));
    let base = if base > 0 { on_tick(base) } else { made_up };
    let (highest, lowest) = limits(base);
    let mut price = on_tick(base + random.random_range(-2..=2) * tick(base)).clamp(lowest, highest);
    let mut day = Printer { midnight, date, volume: 0, trades: Vec::with_capacity(trades), statuses: Vec::new() };
    let opened = OPEN + random.random_range(0..=RANDOM_END);
    day.print(opened, price, random.random_range(1_000..50_000), false, Origin::Auction);
    let mut reference = price;

    let interruption = interrupted.then(|| OPEN + random.random_range(HOUR..4 * HOUR));
    // Nobody interrupts what is halted.
    let is_free = |at: i64| halts.iter().all(|(from, until)| at + INTERRUPTION + RANDOM_END < *from || *until < at);
    let interruption = interruption.filter(|at| is_free(*at));
    let mut resume = None;
    let mut seconds: Vec<i64> = (0..trades.saturating_sub(2)).map(|_| random.random_range(opened..LAST_CONTINUOUS)).collect();
    seconds.retain(|second| !halts.iter().any(|(from, until)| from < second && second < until));
    seconds.extend(halts.iter().map(|(_, until)| *until));
    seconds.sort_unstable();
    let mut halts = halts.iter().peekable();
    for second in seconds {
        if let Some((from, until)) = halts.next_if(|(_, until)| *until <= second) {
            // The auction after the halt, and the new reference with it.
            day.tell(*from, true, false);
            price = on_tick((price + random.random_range(-2..=2) * tick(price)).clamp(lowest, highest));
            day.print(*until, price, random.random_range(500..20_000), false, Origin::Auction);
            day.tell(*until, false, false);
            reference = price;
            continue;
        }
        if let (Some(at), None) = (interruption, resume)
            && second >= at
        {
            // The trade that triggers it, then the auction; whatever would have traded meanwhile does not.
            price = on_tick(reference + reference / 10 + tick(reference)).clamp(lowest, highest);
            day.print(second, price, random.random_range(1..500), false, Origin::Tape);
            let end = second + INTERRUPTION + random.random_range(0..=RANDOM_END);
            day.tell(second, false, true);
            price = (price + random.random_range(-2..=2) * tick(price)).clamp(lowest, highest);
            price = on_tick(price);
            day.print(end, price, random.random_range(500..20_000), false, Origin::Auction);
            day.tell(end, false, false);
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
    day
}

struct Printer {
    midnight: i64,
    date: i64,
    volume: i64,
    trades: Vec<Trade>,
    statuses: Vec<Status>,
}

impl Printer {
    fn tell(&mut self, second: i64, halted: bool, interrupted: bool) {
        let time_us = (self.midnight + second) * SECOND_US + TOLD_AFTER_US;
        self.statuses.push(Status { time_us, halted, interrupted });
    }

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
        generate(&KrxDayTape { date: "2026-11-20".into(), symbols, trades, listings: Vec::new() }, &ALL_DAY, 1).unwrap()
    }

    const ALL_DAY: RangeConfig = RangeConfig { from: String::new(), to: String::new(), limit: 0 };

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
    fn a_halt_is_silence_ended_by_an_auction_and_a_part_of_the_day_keeps_its_sums() {
        let halts = vec![("14:52:00".to_owned(), "14:57:00".to_owned())];
        let listings = vec![KrxListing { code: "005930".into(), name: "삼성전자".into(), base: 71_000, halts }];
        let tape = KrxDayTape { date: "2026-11-20".into(), symbols: 0, trades: 20_000, listings };
        let whole = generate(&tape, &ALL_DAY, 1).unwrap().remove(0);
        let (from, until) = (14 * HOUR + 52 * 60, 14 * HOUR + 57 * 60);
        let trades = whole.trades();
        assert_eq!(trades.iter().filter(|trade| from < clock(trade) && clock(trade) < until).count(), 0);
        let after = trades.iter().find(|trade| clock(trade) >= until).unwrap();
        assert_eq!((clock(after), after.origin), (until, Origin::Auction));
        let told: Vec<_> = whole.day.statuses.iter().map(|status| (status.halted, status.interrupted)).collect();
        assert_eq!(told, [(true, false), (false, false)]);

        let range = RangeConfig { from: "2026-11-20T05:45:00Z".into(), ..ALL_DAY };
        let part = generate(&tape, &range, 1).unwrap().remove(0);
        let skipped = trades.len() - part.count();
        assert!(skipped > 0 && part.count() > 0);
        assert_eq!(part.trades()[0].id, trades[skipped].id);
        assert_eq!(part.day.after(0).unwrap().volume, whole.day.after(skipped).unwrap().volume);
        let halts = vec![("15:10:00".to_owned(), "15:25:00".to_owned())];
        let listings = vec![KrxListing { code: "005930".into(), halts, ..KrxListing::default() }];
        assert!(generate(&KrxDayTape { listings, ..tape.clone() }, &ALL_DAY, 1).is_err(), "into the closing auction");
    }

    #[test]
    fn the_same_seed_makes_the_same_day() {
        let ids = |markets: Vec<Market>| markets.iter().map(|m| m.trades().last().unwrap().id).collect::<Vec<_>>();
        assert_eq!(ids(day(5, 1_000)), ids(day(5, 1_000)));
    }
}
