//! What the masters of both brokers say of instruments on a day: made up of the seed and the date, so that it needs no memory.
//!
//! Beside what the tapes play stands a window of `kis.master` codes (`9dddd0`) that moves on by one each weekday: from one day to the next one is
//! newly listed, one is delisted, one is halted in place of another, and one warned of in place of another. Every other code that KIS is asked
//! about was listed long ago.
//! Next: `quotations.rs`, `../kiwoom/rest.rs`.

use crate::config::Config;
use crate::market::{Market, Venue};
use crate::seed;
use jiff::ToSpan;
use jiff::civil::Date;

/// A Monday: weekdays are counted from here.
const FIRST: Date = jiff::civil::date(2020, 1, 6);
/// Codes of the window come around after so many.
const CODES: i64 = 10_000;

/// An instrument on a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its short code.
    pub code: String,
    /// Its name in Korean.
    pub name: String,
    /// Of KOSDAQ; else of KOSPI.
    pub kosdaq: bool,
    /// The day it was listed.
    pub listed_on: Date,
    /// The day from which it is listed no more, once that has come.
    pub delisted_from: Option<Date>,
    /// 거래정지.
    pub halted: bool,
    /// 관리종목.
    pub administration: bool,
    /// 투자경고.
    pub warned: bool,
}

/// Every instrument that is listed on a date, those of the tapes first.
pub fn all(config: &Config, markets: &[Market], date: Date) -> Vec<Listed> {
    let played = markets.iter().filter(|market| market.venue == Venue::Kis);
    let day = number(date);
    let window = (day..day + config.kis.master).map(|serial| of_window(config, serial, day));
    played.map(|market| old(&market.upper, &market.day.name)).chain(window).collect()
}

/// What KIS says of a code on a date; `None`: it is not known, or not yet.
pub fn one(config: &Config, markets: &[Market], code: &str, date: Date) -> Option<Listed> {
    if code.len() != 6 || config.kis.unlisted.iter().any(|unlisted| unlisted == code) {
        return None;
    }
    let day = number(date);
    match serial(config, code, day) {
        Some(serial) => (serial < day + config.kis.master).then(|| of_window(config, serial, day)),
        None => {
            let market = markets.iter().find(|market| market.venue == Venue::Kis && market.upper == code);
            Some(old(code, market.map_or("", |market| &market.day.name)))
        }
    }
}

/// Whether a code is not traded on a date: halted, or not listed.
pub fn is_silent(config: &Config, code: &str, date: Date) -> bool {
    let day = number(date);
    serial(config, code, day)
        .is_some_and(|serial| !(day..day + config.kis.master).contains(&serial) || of_window(config, serial, day).halted)
}

fn of_window(config: &Config, serial: i64, day: i64) -> Listed {
    let chosen = |kind: u64| {
        let place = [kind, day.unsigned_abs()];
        // not the one that goes tomorrow, nor the one that came today
        day + 1 + seed::pick_i64(config.seed, &place, u32::try_from(config.kis.master - 2).unwrap_or(1).max(1))
    };
    let is_gone = serial < day;
    Listed {
        code: format!("9{:04}0", serial.rem_euclid(CODES)),
        name: format!("모의종목{serial}"),
        kosdaq: serial % 2 == 0,
        listed_on: weekday(serial - config.kis.master + 1),
        delisted_from: is_gone.then(|| weekday(serial + 1)),
        halted: !is_gone && serial == chosen(21),
        administration: seed::pick(config.seed, &[22, serial.unsigned_abs()], 10) == 0,
        warned: !is_gone && serial == chosen(23),
    }
}

fn old(code: &str, name: &str) -> Listed {
    let (kosdaq, listed_on) = (false, jiff::civil::date(1975, 6, 11));
    let name = if name.is_empty() { format!("종목{code}") } else { name.to_owned() };
    let code = code.to_owned();
    Listed { code, name, kosdaq, listed_on, delisted_from: None, halted: false, administration: false, warned: false }
}

/// The number of a code of the window, the one nearest to a day's; `None` for every other code.
fn serial(config: &Config, code: &str, day: i64) -> Option<i64> {
    let digits = code.strip_prefix('9')?.strip_suffix('0').filter(|digits| digits.len() == 4 && config.kis.master > 0)?;
    let ahead = (digits.parse::<i64>().ok()? - day).rem_euclid(CODES);
    Some(day + if ahead >= CODES / 2 { ahead - CODES } else { ahead })
}

/// How many weekdays there were before a date; a weekend's are those before its Friday.
fn number(date: Date) -> i64 {
    let days = date.since(FIRST).map_or(0, |span| i64::from(span.get_days()));
    days.div_euclid(7) * 5 + days.rem_euclid(7).min(4)
}

/// The reverse.
fn weekday(number: i64) -> Date {
    FIRST.saturating_add((number.div_euclid(5) * 7 + number.rem_euclid(5)).days())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn config() -> Config {
        crate::DEFAULTS.parse::<toml::Table>().unwrap().try_into().unwrap()
    }

    #[test]
    fn from_day_to_day_one_comes_one_goes_and_another_is_halted() {
        let config = config();
        let on = |day: &str| all(&config, &[], day.parse().unwrap());
        let codes = |of: &[Listed]| of.iter().map(|listed| listed.code.clone()).collect::<BTreeSet<_>>();
        for (before, after) in [("2026-11-18", "2026-11-19"), ("2026-11-20", "2026-11-23")] {
            let (first, second) = (on(before), on(after));
            let gone: Vec<_> = codes(&first).difference(&codes(&second)).cloned().collect();
            let new: Vec<_> = codes(&second).difference(&codes(&first)).cloned().collect();
            assert_eq!((gone.len(), new.len()), (1, 1), "{after}");
            let halted =
                |of: &[Listed]| of.iter().filter(|listed| listed.halted).map(|listed| listed.code.clone()).collect::<Vec<_>>();
            assert_eq!((halted(&first).len(), halted(&second).len()), (1, 1));
            let gone = one(&config, &[], &gone[0], after.parse().unwrap()).unwrap();
            assert_eq!(gone.delisted_from, Some(after.parse().unwrap()));
            assert_eq!(one(&config, &[], &new[0], before.parse().unwrap()), None, "not yet");
            assert_eq!(one(&config, &[], &new[0], after.parse().unwrap()).unwrap().listed_on, after.parse().unwrap());
            assert!(is_silent(&config, &halted(&first)[0], before.parse().unwrap()));
            assert!(is_silent(&config, &gone.code, after.parse().unwrap()));
            assert!(!is_silent(&config, &gone.code, before.parse().unwrap()));
        }
        assert_eq!(on("2026-11-20"), on("2026-11-21"), "a weekend says what its Friday said");
    }

    #[test]
    fn other_codes_were_listed_long_ago() {
        let config = config();
        let friday = "2026-11-20".parse().unwrap();
        assert_eq!(one(&config, &[], "005930", friday).unwrap().listed_on.year(), 1975);
        assert_eq!((one(&config, &[], "999999", friday), one(&config, &[], "5930", friday)), (None, None));
        assert!(!is_silent(&config, "005930", friday));
    }
}
