//! Minutes of any instrument on any day, as the chart calls of both brokers show them.
//!
//! What the tape plays is folded from its trades, as far as they have happened. Every other day and code is made up minute by minute from the
//! seed, the code and the date, so that 97 instruments over 30 days need no memory: prices stand on the tick table within 30 % of the close of
//! the session before, which is what the neighbouring day says too.
//!
//! Next: `quotations.rs`, `../kiwoom/rest.rs`.

use super::{limits, master, on_tick, tick};
use crate::config::{Config, KisConfig};
use crate::market::{Market, Ohlc, within};
use crate::seed;
use crate::simulation::Simulation;
use jiff::civil::{Date, Weekday};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Korea's clock is so far ahead of UTC, in seconds.
const KST: i64 = 9 * 3_600;
/// No history goes back further.
pub const FIRST: Date = jiff::civil::date(2000, 1, 4);
const MINUTE: i64 = 60;
const MINUTE_US: i64 = 60_000_000;

/// One minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinuteRow {
    /// Its first second, counted from midnight in Korea.
    pub second: i64,
    /// Open, high, low, close, whole won.
    pub prices: [i64; 4],
    /// Shares.
    pub volume: i64,
    /// Of the day, up to the minute's end, whole won.
    pub day_turnover: i64,
}

/// One day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayRow {
    /// Which.
    pub date: Date,
    /// Open, high, low, close, whole won; without a trade the close before, and zeros.
    pub prices: [i64; 4],
    /// Shares.
    pub volume: i64,
    /// Whole won.
    pub turnover: i64,
}

/// When trading goes on, in seconds from midnight in Korea.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    /// The opening auction.
    pub open: i64,
    /// The last minute before the closing auction ends here.
    pub continuous_to: i64,
    /// The closing auction.
    pub close: i64,
}

impl Hours {
    /// Of a date; `None` when the exchange is closed.
    pub fn of(config: &KisConfig, date: Date) -> Option<Hours> {
        let text = date.to_string();
        if matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday) || config.holidays.contains(&text) {
            return None;
        }
        let late = |days: &[String]| if days.contains(&text) { 3_600 } else { 0 };
        let (open, close) = (late(&config.late_opens) + late(&config.later_days), late(&config.later_days));
        Some(Hours { open: 9 * 3_600 + open, continuous_to: 15 * 3_600 + 1_200 + close, close: 15 * 3_600 + 1_800 + close })
    }
}

/// The instant a Korean day begins, UTC microseconds.
fn midnight_us(date: Date) -> i64 {
    let utc = date.to_zoned(jiff::tz::TimeZone::UTC).map_or(0, |at| at.timestamp().as_second());
    (utc - KST) * 1_000_000
}

/// The date in Korea.
pub fn date_of(time_us: i64) -> Date {
    let shifted = jiff::Timestamp::from_microsecond(time_us + KST * 1_000_000).unwrap_or_default();
    shifted.to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// The minutes of a day up to `now_us`, oldest first; none when the exchange is closed, or nothing is traded in the instrument.
pub fn minutes(config: &Config, markets: &[Market], code: &str, date: Date, now_us: i64) -> Vec<MinuteRow> {
    let Some(hours) = Hours::of(&config.kis, date).filter(|_| !master::is_silent(config, code, date)) else { return Vec::new() };
    let midnight = midnight_us(date);
    let market = markets.iter().find(|market| market.venue == crate::market::Venue::Kis && market.upper == code);
    if let Some(market) = market {
        let rows = of_tape(market, midnight);
        if rows.1 {
            return rows.0;
        }
    }
    let now = (now_us - midnight).div_euclid(1_000_000);
    let mut rows = made_up(&config.kis, config.seed, market, code, date, hours);
    rows.retain(|row| row.second <= now);
    rows
}

/// Days from `first` to `last` as far as they have happened, newest first, at most so many: what their minutes make. A session in which nothing was
/// traded has a row; none of a code that is not known.
pub fn days(simulation: &Simulation, code: &str, first: Date, last: Date, most: usize) -> Vec<DayRow> {
    let (config, markets, now_us) = (&simulation.config, &simulation.hub.markets, simulation.clock.now_us());
    let mut days = Vec::new();
    if code.len() != 6 || config.kis.unlisted.iter().any(|unlisted| unlisted == code) {
        return days;
    }
    let market = markets.iter().find(|market| market.venue == crate::market::Venue::Kis && market.upper == code);
    let mut date = last.min(date_of(now_us));
    while days.len() < most && date >= first.max(FIRST) {
        if Hours::of(&config.kis, date).is_some() {
            let minutes = minutes(config, markets, code, date, now_us);
            let close = minutes.last().map_or_else(|| base(&config.kis, config.seed, market, code, date), |last| last.prices[3]);
            days.push(DayRow {
                date,
                prices: [
                    minutes.first().map_or(0, |first| first.prices[0]),
                    minutes.iter().map(|minute| minute.prices[1]).max().unwrap_or(0),
                    minutes.iter().map(|minute| minute.prices[2]).min().unwrap_or(0),
                    close,
                ],
                volume: minutes.iter().map(|minute| minute.volume).sum(),
                turnover: minutes.last().map_or(0, |last| last.day_turnover),
            });
        }
        let Ok(before) = date.yesterday() else { break };
        date = before;
    }
    days
}

/// The tape's minutes that have happened, and whether the tape plays this day at all.
fn of_tape(market: &Market, midnight: i64) -> (Vec<MinuteRow>, bool) {
    let day = |trade: &crate::market::Trade| (midnight..midnight + 86_400_000_000).contains(&trade.time_us);
    if !market.trades().first().is_some_and(day) {
        return (Vec::new(), false);
    }
    let won = |price: crate::decimal::Decimal| i64::try_from(price.at_scale(0)).unwrap_or(i64::MAX);
    let rows = market.happened(|trades| {
        let (mut rows, mut day_turnover) = (Vec::new(), 0);
        let mut minute = midnight;
        while minute < midnight + 86_400_000_000 {
            let traded: Vec<_> =
                within(trades, minute, minute + MINUTE_US).iter().filter(|trade| !trade.size().is_zero()).copied().collect();
            if let Some(bar) = Ohlc::of(&traded) {
                let (volume, turnover) = (bar.volume / 100_000_000, bar.turnover / 10_i128.pow(16));
                day_turnover += i64::try_from(turnover).unwrap_or(0);
                rows.push(MinuteRow {
                    second: (minute - midnight) / 1_000_000,
                    prices: [bar.open, bar.high, bar.low, bar.close].map(won),
                    volume: i64::try_from(volume).unwrap_or(0),
                    day_turnover,
                });
            }
            minute += MINUTE_US;
        }
        rows
    });
    (rows, true)
}

fn made_up(config: &KisConfig, seed: u64, market: Option<&Market>, code: &str, date: Date, hours: Hours) -> Vec<MinuteRow> {
    let place = [seed::of_text(code), seed::of_text(&date.to_string())];
    let mut random = ChaCha8Rng::seed_from_u64(seed::mix(seed, &[11, place[0], place[1]]));
    let base = base(config, seed, market, code, date);
    let target = close(config, seed, market, code, date);
    let (highest, lowest) = limits(base);
    // Busy instruments trade each minute, quiet ones leave some out.
    let quiet = f64::from(u32::try_from(seed::pick(seed, &[12, place[0]], 8)).unwrap_or(0)) / 100.0;
    let (mut price, mut day_turnover, mut rows) = (base, 0, Vec::new());
    let mut push = |random: &mut ChaCha8Rng, second: i64, prices: [i64; 4], busy: i64| {
        let volume = random.random_range(1..2_000) * busy;
        let typical = prices.iter().sum::<i64>() / 4;
        day_turnover += typical * volume;
        rows.push(MinuteRow { second, prices, volume, day_turnover });
    };
    let mut second = hours.open;
    while second < hours.continuous_to {
        let left = (hours.continuous_to - second) / MINUTE;
        if second == hours.open || !random.random_bool(quiet) {
            let on = |price: i64| on_tick(price.clamp(lowest, highest)).max(lowest);
            let open = on(price + random.random_range(-1..=1) * tick(price));
            let closing = on(open + (target - open) / left.max(8) + random.random_range(-2..=2) * tick(open));
            let high = on(open.max(closing) + random.random_range(0..=2) * tick(open));
            let low = on(open.min(closing) - random.random_range(0..=2) * tick(open));
            push(
                &mut random,
                second,
                [open, high.max(open).max(closing), low.min(open).min(closing), closing],
                if second == hours.open { 20 } else { 1 },
            );
            price = closing;
        }
        second += MINUTE;
    }
    push(&mut random, hours.close, [target; 4], 50);
    rows
}

/// The close of the session before a date, by which the day's limits and signs go.
pub fn base(config: &KisConfig, seed: u64, market: Option<&Market>, code: &str, date: Date) -> i64 {
    close(config, seed, market, code, before(config, date))
}

/// The session before a date.
fn before(config: &KisConfig, date: Date) -> Date {
    let mut earlier = date;
    while let Ok(day) = earlier.yesterday() {
        earlier = day;
        if Hours::of(config, day).is_some() {
            break;
        }
    }
    earlier
}

/// The close of a session: within 3 % of the instrument's usual price, and what the tape says was the close before its own day.
pub fn close(config: &KisConfig, seed: u64, market: Option<&Market>, code: &str, date: Date) -> i64 {
    let place = seed::of_text(code);
    let anchor = match market {
        Some(market) => market.day.base,
        None => 1_500 + i64::try_from(seed::pick(seed, &[13, place], 398_500)).unwrap_or(0),
    };
    let played = market.and_then(|market| market.trades().first().map(|trade| date_of(trade.time_us)));
    if played.is_some_and(|played| before(config, played) == date) {
        return anchor;
    }
    let per_mille = i64::try_from(seed::pick(seed, &[14, place, seed::of_text(&date.to_string())], 61)).unwrap_or(30) - 30;
    on_tick(anchor * (1_000 + per_mille) / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        crate::DEFAULTS.parse::<toml::Table>().unwrap().try_into().unwrap()
    }

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn day(code: &str, day: &str) -> Vec<MinuteRow> {
        minutes(&config(), &[], code, date(day), i64::MAX / 2)
    }

    #[test]
    fn days_have_their_hours_and_closed_days_none() {
        for (text, first, last) in [
            ("2026-11-20", "09:00", "15:30"),
            ("2026-11-19", "10:00", "16:30"), // entrance exam
            ("2026-01-02", "10:00", "15:30"), // first session of the year
        ] {
            let rows = day("005930", text);
            let clock = |second: i64| format!("{:02}:{:02}", second / 3_600, second / 60 % 60);
            assert_eq!((clock(rows[0].second), clock(rows.last().unwrap().second)), (first.into(), last.into()), "{text}");
        }
        for closed in ["2026-11-21", "2026-07-17", "2026-12-25"] {
            assert_eq!(day("005930", closed), [], "{closed}");
        }
    }

    #[test]
    fn prices_stand_on_ticks_within_the_limits_of_the_day_before() {
        for code in ["005930", "000660", "0080G0", "035420", "123456"] {
            let mut base = close(&config().kis, 1, None, code, date("2026-11-13"));
            for text in ["2026-11-16", "2026-11-17", "2026-11-18", "2026-11-19", "2026-11-20"] {
                let rows = day(code, text);
                let (highest, lowest) = limits(base);
                let mut turnover = 0;
                for row in &rows {
                    let [open, high, low, closing] = row.prices;
                    assert!(low <= open && open <= high && low <= closing && closing <= high, "{code} {text} {row:?}");
                    assert!(
                        row.prices.iter().all(|p| p % tick(*p) == 0 && (lowest..=highest).contains(p)),
                        "{code} {text} {row:?} of {base}"
                    );
                    let own = row.day_turnover - turnover;
                    assert!((low * row.volume..=high * row.volume).contains(&own), "{row:?}");
                    turnover = row.day_turnover;
                }
                assert!((340..=381).contains(&rows.len()), "{code} {text}: {}", rows.len());
                base = rows.last().unwrap().prices[3];
            }
        }
    }

    #[test]
    fn the_same_seed_tells_the_same_day_and_now_cuts_it() {
        assert_eq!(day("005930", "2026-11-20"), day("005930", "2026-11-20"));
        let now = midnight_us(date("2026-11-20")) + (9 * 3_600 + 90) * 1_000_000;
        let rows = minutes(&config(), &[], "005930", date("2026-11-20"), now);
        assert_eq!(rows.iter().map(|row| row.second).collect::<Vec<_>>(), [9 * 3_600, 9 * 3_600 + 60]);
        assert_eq!(rows, day("005930", "2026-11-20")[..2]);
    }
}
