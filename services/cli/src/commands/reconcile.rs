//! `marketflow reconcile`: one-minute bars built from trades against the broker's own candles, each difference with its class.
//!
//! The broker's candles are fetched first, as a back-fill does; then both are read from ClickHouse. It changes nothing.

use super::candle_producer::{self, RunResult, Wanted};
use super::query::{self, Texts, texts};
use crate::console::{block_on, json, line, say};
use anyhow::{Context, bail};
use jiff::civil::Date;
use marketflow_model::{Calendar, Interval, Session, SessionKind, Timestamp};
use marketflow_runtime::{Exit, ExitContext};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const ASK_EVERY: Duration = Duration::from_millis(200);
/// Differences shown one by one, at most.
const SHOWN: usize = 40;

/// Compares bars built from trades with a broker's candles
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Classes of differences: missing_here, missing_there, gap_here (our feed had a hole and says so), halted, auction_print (the minutes of the
opening and closing auction), price, volume. Ends with 2 where anything differs but gap_here and halted.

Examples:
  marketflow reconcile --day 2026-11-20 --against kis --symbols @krx10
  marketflow reconcile --day 2026-11-20 --symbols 005930 --no-fetch --json")]
pub struct Args {
    /// Which day, such as 2026-11-20
    #[arg(long, value_name = "DAY")]
    day: Date,
    /// Whose candles: kis, kiwoom
    #[arg(long, default_value = "kis")]
    against: String,
    #[command(flatten)]
    wanted: Wanted,
    /// Compare with the candles that are there, without fetching any
    #[arg(long)]
    no_fetch: bool,
    /// How long to wait until fetched candles can be read
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A minute as either side states it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Minute {
    /// Open, high, low, close.
    prices: [String; 4],
    volume: String,
    /// Of our bars only.
    quality: String,
}

/// What differs, and why as far as it can be told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Class {
    MissingHere,
    MissingThere,
    GapHere,
    Halted,
    AuctionPrint,
    Price,
    Volume,
}

impl Class {
    const fn as_str(self) -> &'static str {
        match self {
            Self::MissingHere => "missing_here",
            Self::MissingThere => "missing_there",
            Self::GapHere => "gap_here",
            Self::Halted => "halted",
            Self::AuctionPrint => "auction_print",
            Self::Price => "price",
            Self::Volume => "volume",
        }
    }

    /// Whether our own bars say so themselves.
    const fn is_known(self) -> bool {
        matches!(self, Self::GapHere | Self::Halted)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Difference {
    instrument: String,
    open_time: String,
    class: Class,
    detail: String,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    day: String,
    against: String,
    instruments: usize,
    minutes: usize,
    equal: usize,
    by_class: BTreeMap<&'static str, usize>,
    differences: Vec<Difference>,
}

type Minutes = BTreeMap<String, BTreeMap<i64, Minute>>;

/// Runs the command.
///
/// # Errors
/// 64 for a day without a session, 69 for a part that is not reachable, 75 where candles are missing.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let session = session(args.day).exit(Exit::Usage)?;
    if !args.no_fetch {
        let settings = [("backfill.days", "1".to_owned()), ("backfill.until", format!("{:?}", args.day.to_string()))];
        let left = candle_producer::run("backfill", &args.against, &args.wanted, &settings, |_| ())?;
        let Some(result) = left.result.filter(|_| left.exit == Exit::Ok) else { return Ok(left.exit) };
        wait_for_candles(&result, &session, &args.against, Duration::from_secs(args.timeout))?;
    }
    let theirs = minutes(CANDLES, &session, &args.against)?;
    let ours = minutes(BARS, &session, &args.against)?;
    let report = compare(&args.day.to_string(), &args.against, &session, &ours, &theirs);
    if report.instruments == 0 {
        bail!("nothing to compare on {}: no instrument has bars built from trades and candles too", args.day);
    }
    if args.json {
        json(&report)?
    } else {
        show(&report)
    }
    let unknown = report.differences.iter().any(|difference| !difference.class.is_known());
    Ok(if unknown { Exit::CheckSaidNo } else { Exit::Ok })
}

fn session(day: Date) -> anyhow::Result<Session> {
    let sessions = Calendar::of_venue("KRX").sessions(day, day);
    sessions
        .into_iter()
        .find(|session| session.kind == SessionKind::Regular)
        .with_context(|| format!("the exchange is closed on {day}"))
}

const BARS: &str = "SELECT instrument, toString(toUnixTimestamp64Micro(open_time)), toString(open), toString(high), toString(low), \
     toString(close), toString(volume), quality FROM bars WHERE source = 'trades' AND interval = '1m' AND NOT startsWith(feed, 'import:') \
     AND startsWith(instrument, 'KRX:') AND open_time >= fromUnixTimestamp64Micro({from:Int64}) \
     AND open_time < fromUnixTimestamp64Micro({to:Int64}) \
     ORDER BY transform(quality, ['complete', 'backfilled', 'halted', 'partial_open', 'gap', 'no_trades'], [6, 5, 4, 3, 2, 1], 0)";
/// The broker's own feed, and the back-fills whose beginning says that they are of it (`services/producer/src/candles/backfill.rs`).
const CANDLES: &str = "SELECT instrument, toString(toUnixTimestamp64Micro(open_time)), toString(open), toString(high), toString(low), \
     toString(close), toString(volume), '' FROM candles WHERE interval = '1m' AND source = 'rest' \
     AND (feed = concat({against:String}, '-candles') OR feed IN (SELECT feed FROM feed_status WHERE kind = 'feed_state' \
     AND startsWith(feed, 'import:') AND position(coalesce(reason, ''), concat(' of ', {against:String}, ' from ')) > 0)) \
     AND startsWith(instrument, 'KRX:') AND open_time >= fromUnixTimestamp64Micro({from:Int64}) \
     AND open_time < fromUnixTimestamp64Micro({to:Int64}) ORDER BY receive_time";

/// The minutes of the session that a query tells; of several of one minute the last.
fn minutes(sql: &str, session: &Session, against: &str) -> anyhow::Result<Minutes> {
    let (from, to) = (session.open.micros().to_string(), session.last_minute_close().micros().to_string());
    let bounds = [("from", from), ("to", to), ("against", against.to_owned())];
    let rows = block_on(async { texts(&query::clickhouse()?, "read minutes", sql, &bounds).await })?;
    let mut minutes = Minutes::new();
    for row in rows {
        let (instrument, at, minute) = read(row)?;
        minutes.entry(instrument).or_default().insert(at, minute);
    }
    Ok(minutes)
}

fn read(row: Texts) -> anyhow::Result<(String, i64, Minute)> {
    let row: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
    let Ok([instrument, at, open, high, low, close, volume, quality]) = <[String; 8]>::try_from(row) else {
        bail!("a row of another shape")
    };
    Ok((instrument, at.parse()?, Minute { prices: [open, high, low, close], volume, quality }))
}

/// Waits until the sink has stored what was fetched.
fn wait_for_candles(result: &RunResult, session: &Session, against: &str, patience: Duration) -> anyhow::Result<()> {
    let wanted: BTreeMap<&str, usize> = result
        .symbols
        .iter()
        .filter_map(|symbol| Some((symbol.symbol.as_str(), symbol.sessions.first()?.counts.first()?.actual)))
        .collect();
    let started = Instant::now();
    loop {
        let there = minutes(CANDLES, session, against)?;
        let count = |symbol: &str| there.get(symbol).map_or(0, BTreeMap::len);
        let Some((symbol, count, wanted)) =
            wanted.iter().map(|(symbol, wanted)| (symbol, count(symbol), wanted)).find(|(_, count, wanted)| count < wanted)
        else {
            return Ok(());
        };
        if started.elapsed() > patience {
            return Err(anyhow::anyhow!(
                "{count} of {wanted} candles of {symbol} can be read after {} s; `marketflow status` shows whether the sink runs, and --no-fetch compares later",
                patience.as_secs()
            ))
            .exit(Exit::TryAgain);
        }
        std::thread::sleep(ASK_EVERY);
    }
}

/// Compares the instruments that both sides know.
fn compare(day: &str, against: &str, session: &Session, ours: &Minutes, theirs: &Minutes) -> Report {
    let mut report = Report {
        day: day.to_owned(),
        against: against.to_owned(),
        instruments: 0,
        minutes: 0,
        equal: 0,
        by_class: BTreeMap::new(),
        differences: Vec::new(),
    };
    for (instrument, ours) in ours {
        let Some(theirs) = theirs.get(instrument) else { continue };
        report.instruments += 1;
        let all: BTreeSet<i64> = ours.keys().chain(theirs.keys()).copied().collect();
        for at in all {
            report.minutes += 1;
            match class(session, Timestamp::from_micros(at), ours.get(&at), theirs.get(&at)) {
                None => report.equal += 1,
                Some((class, detail)) => {
                    *report.by_class.entry(class.as_str()).or_default() += 1;
                    let open_time = Timestamp::from_micros(at).to_string();
                    report.differences.push(Difference { instrument: instrument.clone(), open_time, class, detail });
                }
            }
        }
    }
    report
}

/// How the two states of a minute differ; `None`: not at all.
fn class(session: &Session, at: Timestamp, ours: Option<&Minute>, theirs: Option<&Minute>) -> Option<(Class, String)> {
    let is_auction = at == session.close || at == session.open.window_open(Interval::ONE_MINUTE);
    let ours = ours.filter(|minute| minute.quality != "no_trades");
    let (class, detail) = match (ours, theirs) {
        (None, None) => return None,
        (None, Some(theirs)) => (Class::MissingHere, format!("there {}", stated(theirs))),
        (Some(ours), None) => (Class::MissingThere, format!("here {}", stated(ours))),
        (Some(ours), Some(theirs)) => {
            let fields = ["open", "high", "low", "close"].into_iter().zip(ours.prices.iter().zip(&theirs.prices));
            let prices: Vec<String> =
                fields.filter(|(_, (a, b))| a != b).map(|(name, (a, b))| format!("{name} {a} here, {b} there")).collect();
            if !prices.is_empty() {
                (Class::Price, prices.join("; "))
            } else if ours.volume != theirs.volume {
                (Class::Volume, format!("{} here, {} there", ours.volume, theirs.volume))
            } else {
                return None;
            }
        }
    };
    // What our own bar says of itself explains more than what differs.
    let class = match ours.map(|minute| minute.quality.as_str()) {
        Some("gap" | "partial_open") => Class::GapHere,
        Some("halted") => Class::Halted,
        _ if is_auction => Class::AuctionPrint,
        _ => class,
    };
    Some((class, detail))
}

fn stated(minute: &Minute) -> String {
    let [open, high, low, close] = &minute.prices;
    format!("O {open} H {high} L {low} C {close} V {}", minute.volume)
}

fn show(report: &Report) {
    let Report { instruments, minutes, equal, day, against, .. } = report;
    line(&say(
        format!("{day} against {against}: {instruments} instruments, {minutes} minutes, {equal} equal"),
        format!("{day} {against} 대조: 종목 {instruments}개, {minutes}분 중 {equal}분 일치"),
    ));
    for (class, count) in &report.by_class {
        line(&format!("  {class}: {count}"));
    }
    for difference in report.differences.iter().take(SHOWN) {
        line(&format!(
            "  {} {} {}: {}",
            difference.instrument,
            difference.open_time,
            difference.class.as_str(),
            difference.detail
        ));
    }
    if report.differences.len() > SHOWN {
        let more = report.differences.len() - SHOWN;
        line(&say(format!("  … and {more} more (--json shows all)"), format!("  … 외 {more}건 (--json에 전체)")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(close: &str, volume: &str, quality: &str) -> Minute {
        let prices = ["100", "110", "90", close].map(str::to_owned);
        Minute { prices, volume: volume.to_owned(), quality: quality.to_owned() }
    }

    #[test]
    fn each_difference_has_its_class() {
        let session = session("2026-11-20".parse().unwrap()).unwrap();
        let at = |text: &str| Timestamp::parse(&format!("2026-11-20T{text}+09:00")).unwrap();
        let fine = |quality| Some(minute("100", "5", quality));
        let there = |close, volume| Some(minute(close, volume, ""));
        for (time, ours, theirs, expected) in [
            ("10:00:00", fine("complete"), there("100", "5"), None),
            ("10:00:00", None, there("100", "5"), Some(Class::MissingHere)),
            ("10:00:00", fine("complete"), None, Some(Class::MissingThere)),
            ("10:00:00", fine("complete"), there("105", "6"), Some(Class::Price)),
            ("10:00:00", fine("complete"), there("100", "6"), Some(Class::Volume)),
            ("10:00:00", fine("gap"), there("105", "6"), Some(Class::GapHere)),
            ("10:00:00", fine("partial_open"), there("105", "6"), Some(Class::GapHere)),
            ("10:00:00", fine("halted"), None, Some(Class::Halted)),
            ("15:30:00", None, there("100", "5"), Some(Class::AuctionPrint)),
            ("09:00:00", fine("complete"), there("100", "6"), Some(Class::AuctionPrint)),
            ("10:00:00", Some(minute("100", "0", "no_trades")), None, None),
            ("10:00:00", fine("gap"), there("100", "5"), None),
        ] {
            let found = class(&session, at(time), ours.as_ref(), theirs.as_ref()).map(|(class, _)| class);
            assert_eq!(found, expected, "{time} {ours:?} {theirs:?}");
        }
    }

    #[test]
    fn only_instruments_that_both_know_are_compared_and_everything_is_counted() {
        let session = session("2026-11-20".parse().unwrap()).unwrap();
        let at = |minutes: i64| session.open.plus_micros(minutes * 60_000_000).micros();
        let of = |minutes: Vec<(i64, Minute)>| -> BTreeMap<i64, Minute> { minutes.into_iter().collect() };
        let ours = Minutes::from([
            ("KRX:005930".to_owned(), of(vec![(at(1), minute("100", "5", "complete")), (at(2), minute("100", "5", "complete"))])),
            ("KRX:000660".to_owned(), of(vec![(at(1), minute("100", "5", "complete"))])),
        ]);
        let theirs = Minutes::from([(
            "KRX:005930".to_owned(),
            of(vec![(at(1), minute("100", "5", "")), (at(2), minute("100", "7", "")), (at(3), minute("100", "1", ""))]),
        )]);
        let report = compare("2026-11-20", "kis", &session, &ours, &theirs);
        assert_eq!((report.instruments, report.minutes, report.equal), (1, 3, 1));
        assert_eq!(report.by_class, BTreeMap::from([("missing_here", 1), ("volume", 1)]));
        assert_eq!(report.differences[0].detail, "5 here, 7 there");
    }

    #[test]
    fn a_closed_day_is_no_day_to_compare() {
        assert!(session("2026-11-21".parse().unwrap()).is_err());
    }
}
