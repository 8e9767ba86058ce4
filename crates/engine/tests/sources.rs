//! `bars.source = auto`: trades where a feed of trades covers the window, else the provider's candles; judged by the oracle over all trades there were,
//! delivered or not.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use marketflow_engine::{Change, Config, Outcome, Partition, SourceChoice};
use marketflow_model::{
    Amount, Bar, BarSource, Candle, Conditions, Control, ControlKind, Feed, FeedState, Instrument, Interval, Price, Quality,
    Quantity, Side, Source, Timestamp, Trade,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const START: Timestamp = Timestamp::from_seconds(1_700_000_100);
const CANDLES_ONLY: &str = "UPBIT:KRWXRP";

#[derive(Clone)]
enum Record {
    Trade(Trade),
    Candle(Candle),
    Control(BarSource, Control),
}

fn feed() -> Feed {
    Feed::new("upbit")
}

fn at(seconds: i64) -> Timestamp {
    START.plus_micros(seconds * SECOND)
}

fn control(kind: ControlKind, clock: Timestamp) -> Control {
    Control::new(kind, feed(), clock)
}

fn heartbeat(clock: Timestamp, behind_seconds: i64) -> Control {
    Control { complete_through: Some(clock.plus_micros(-behind_seconds * SECOND)), ..control(ControlKind::Heartbeat, clock) }
}

fn up(from: Timestamp) -> Control {
    Control { state: FeedState::Up, from: Some(from), ..control(ControlKind::FeedState, from) }
}

fn outage(kind: ControlKind, clock: i64, from: i64, to: i64) -> Control {
    Control { gap_id: Some("outage".into()), from: Some(at(from)), to: Some(at(to)), ..control(kind, at(clock)) }
}

/// An hour of trades in whole numbers, so that a sum of rounded turnovers is exact.
fn truth(random: &mut ChaCha8Rng) -> Vec<Trade> {
    let mut trades = Vec::new();
    let mut now = 0;
    while now < 3_600 * SECOND {
        let id = i64::try_from(trades.len()).unwrap();
        let name = ["UPBIT:KRWBTC", "UPBIT:KRWETH", CANDLES_ONLY][random.random_range(0..3)];
        trades.push(Trade {
            instrument: name.parse().unwrap(),
            feed: feed(),
            event_time: START.plus_micros(now),
            receive_time: START.plus_micros(now),
            price: random.random_range(100..120).to_string().parse().unwrap(),
            size: Some(random.random_range(1..9).to_string().parse().unwrap()),
            side: [Side::Buy, Side::Sell][random.random_range(0..2)],
            trade_id: Some(id.to_string()),
            sequence: Some(id),
            import_row: None,
            conditions: Conditions::NONE,
            source: Source::Websocket,
        });
        now += random.random_range(1..20 * SECOND);
    }
    trades
}

/// The provider's candles of all trades.
fn candles(trades: &[Trade]) -> Vec<Candle> {
    let quantity = |scaled| Quantity::from_scaled(scaled);
    let bars = marketflow_oracle::recompute(trades, &[Interval::ONE_MINUTE]);
    bars.into_iter()
        .map(|((instrument, _, open_time), bar)| Candle {
            instrument,
            feed: feed(),
            interval: Interval::ONE_MINUTE,
            open_time,
            receive_time: open_time.plus_micros(MINUTE),
            open: Price::from_scaled(bar.open).unwrap(),
            high: Price::from_scaled(bar.high).unwrap(),
            low: Price::from_scaled(bar.low).unwrap(),
            close: Price::from_scaled(bar.close).unwrap(),
            volume: quantity(bar.volume),
            turnover: Amount::from_scaled(bar.turnover),
            trade_count: Some(bar.trade_count),
            buy_volume: quantity(bar.buy_volume),
            import_row: None,
            closed: true,
            source: Source::Rest,
        })
        .collect()
}

struct Session {
    log: Vec<Record>,
    truth: Vec<Trade>,
    /// From when to when trades were not delivered, in seconds.
    dead: (i64, i64),
}

/// Trades of two instruments and candles of three; the feed of trades dies and comes back, with what it missed or without.
fn session(random: &mut ChaCha8Rng, repaired: bool) -> Session {
    let truth = truth(random);
    let dead = (random.random_range(900..1_300), random.random_range(1_900..2_400));
    let is_delivered = |trade: &&Trade| {
        let second = trade.event_time.micros_since(START) / SECOND;
        trade.instrument.as_str() != CANDLES_ONLY && !(dead.0..dead.1).contains(&second)
    };
    let mut arrivals: Vec<(Timestamp, u8, Record)> = Vec::new();
    for trade in truth.iter().filter(is_delivered) {
        arrivals.push((trade.event_time.plus_micros(random.random_range(0..SECOND)), 1, Record::Trade(trade.clone())));
    }
    for candle in candles(&truth) {
        let after = random.random_range(61 * SECOND..70 * SECOND);
        arrivals.push((candle.open_time.plus_micros(after), 1, Record::Candle(candle)));
    }
    for second in 0..5_000 {
        let now = at(second);
        arrivals.push((now, 2, Record::Control(BarSource::Candles, heartbeat(now, 12))));
        if !(dead.0..dead.1).contains(&second) {
            arrivals.push((now, 2, Record::Control(BarSource::Trades, heartbeat(now, 2))));
        } else if second % 5 == 0 {
            arrivals.push((now, 2, Record::Control(BarSource::Trades, control(ControlKind::Clock, now))));
        }
    }
    let back = at(dead.1);
    arrivals.push((back, 0, Record::Control(BarSource::Trades, outage(ControlKind::GapOpened, dead.1, dead.0, dead.1))));
    let mended = dead.1 + random.random_range(1..200);
    if repaired {
        let missed = truth.iter().filter(|trade| trade.instrument.as_str() != CANDLES_ONLY && !is_delivered(trade));
        arrivals.extend(missed.map(|trade| (at(mended), 0, Record::Trade(trade.clone()))));
    }
    let kind = if repaired { ControlKind::GapFilled } else { ControlKind::GapAbandoned };
    arrivals.push((at(mended), 1, Record::Control(BarSource::Trades, outage(kind, mended, dead.0, dead.1))));
    arrivals.sort_by_key(|(at, rank, _)| (*at, *rank));
    let begin = [BarSource::Trades, BarSource::Candles].map(|source| Record::Control(source, up(START)));
    Session { log: begin.into_iter().chain(arrivals.into_iter().map(|(.., record)| record)).collect(), truth, dead }
}

fn run(config: &Config, log: &[Record], mut crashes: Option<&mut ChaCha8Rng>) -> Vec<Bar> {
    let (mut partition, mut changelog, mut bars, mut committed) =
        (Partition::new(config.clone()), Vec::<Change>::new(), Vec::new(), 0);
    while committed < log.len() {
        let end = (committed + crashes.as_mut().map_or(log.len(), |random| random.random_range(1..300))).min(log.len());
        let mut out = Vec::new();
        for (record, offset) in log[committed..end].iter().zip(i64::try_from(committed).unwrap()..) {
            match record {
                Record::Trade(trade) => {
                    let outcome = partition.on_trade(trade, offset, &mut out);
                    assert!(matches!(outcome, Outcome::Used | Outcome::NotSelected(_)), "{outcome:?}: {trade:?}");
                }
                Record::Candle(candle) => {
                    let outcome = partition.on_candle(candle, offset, &mut out);
                    assert!(matches!(outcome, Outcome::Used | Outcome::NotSelected(_)), "{outcome:?}: {candle:?}");
                }
                Record::Control(source, control) => drop(partition.on_control(*source, control, offset, &mut out)),
            }
        }
        let changes = partition.take_changes();
        if crashes.as_mut().is_some_and(|random| random.random_bool(0.3)) {
            partition = Partition::restore(config.clone(), changelog.iter().cloned()).unwrap();
            continue;
        }
        changelog.extend(changes);
        bars.extend(out);
        committed = end;
    }
    bars
}

/// First seconds of the one-minute windows a source published.
fn minutes<'b>(bars: &'b [Bar], source: BarSource, name: &'b str) -> impl Iterator<Item = (i64, &'b Bar)> {
    let is_of = move |bar: &&Bar| bar.source == source && bar.interval == Interval::ONE_MINUTE && bar.instrument.as_str() == name;
    bars.iter().filter(is_of).map(|bar| (bar.open_time.micros_since(START) / SECOND, bar))
}

#[test]
fn candles_stand_in_where_no_trades_feed_covers_the_window_and_nowhere_else() {
    for seed in 0..12 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let repaired = seed % 2 == 0;
        let Session { log, truth, dead } = session(&mut random, repaired);
        let config = Config::default();
        let bars = run(&config, &log, None);
        let expected = marketflow_oracle::recompute(&truth, &Interval::STANDARD);
        let best = marketflow_oracle::one_per_window(&bars);
        assert_eq!(marketflow_oracle::differences(&expected, best, 5), Vec::<String>::new(), "seed {seed}: the hour is whole");
        // 2 s: what its last word did not cover
        let is_touched = |second: i64| second < dead.1 && second + 60 > dead.0 - 2;
        for name in ["UPBIT:KRWBTC", "UPBIT:KRWETH"] {
            let instrument: Instrument = name.parse().unwrap();
            let stood_in: Vec<_> = minutes(&bars, BarSource::Candles, name).collect();
            for (second, bar) in &stood_in {
                assert!(is_touched(*second), "seed {seed}: trades cover {bar:?}, dead {dead:?}");
                assert_eq!((bar.revision, bar.quality), (0, Quality::Complete), "seed {seed}: {bar:?}");
                assert_eq!(bar.revision_reason.as_deref(), Some("no trades feed covers the window"), "seed {seed}");
            }
            let wanted = expected.keys().filter(|(of, minutes, open)| {
                let second = open.micros_since(START) / SECOND;
                *of == instrument && *minutes == 1 && second < dead.1 - 120 && second >= dead.0
            });
            let found: BTreeSet<i64> = stood_in.iter().map(|(second, _)| *second).collect();
            for (.., open) in wanted {
                assert!(found.contains(&(open.micros_since(START) / SECOND)), "seed {seed}: nothing stands in at {open}");
            }
            let trusted = minutes(&bars, BarSource::Trades, name)
                .filter(|(second, bar)| !is_touched(*second) && bar.quality == Quality::Complete);
            assert!(trusted.count() > 10, "seed {seed}: trades before and after");
            let untouched = bars.iter().filter(|bar| bar.source == BarSource::Candles && bar.instrument == instrument);
            assert!(untouched.clone().all(|bar| bar.revision_reason.is_some()), "seed {seed}: said on each");
            assert!(
                untouched.clone().any(|bar| bar.interval == Interval::FIFTEEN_MINUTES),
                "seed {seed}: whole windows change source"
            );
        }
        let alone = bars.iter().filter(|bar| bar.instrument.as_str() == CANDLES_ONLY);
        assert!(alone.clone().count() > 20 && alone.clone().all(|bar| bar.source == BarSource::Candles));
        assert!(alone.clone().all(|bar| bar.revision_reason.is_none()), "seed {seed}: no feed of trades has it");
        assert_eq!(run(&config, &log, Some(&mut random)), bars, "seed {seed}: crashes change nothing");
    }
}

#[test]
fn a_gap_that_is_given_up_afterwards_hands_its_windows_to_candles() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let truth = truth(&mut random);
    let name = "UPBIT:KRWBTC";
    let of_name = |instrument: &Instrument| instrument.as_str() == name;
    let mut log = [BarSource::Trades, BarSource::Candles].map(|source| Record::Control(source, up(START))).to_vec();
    log.extend(truth.iter().filter(|trade| of_name(&trade.instrument) && trade.event_time < at(300)).cloned().map(Record::Trade));
    log.push(Record::Control(BarSource::Trades, heartbeat(at(302), 2)));
    let early = candles(&truth).into_iter().filter(|candle| of_name(&candle.instrument) && candle.open_time < at(300));
    log.extend(early.map(Record::Candle));
    log.push(Record::Control(BarSource::Candles, heartbeat(at(312), 12)));
    let covered = run(&Config::default(), &log, None);
    assert!(!covered.is_empty() && covered.iter().all(|bar| bar.source == BarSource::Trades), "{covered:?}");
    log.push(Record::Control(BarSource::Trades, outage(ControlKind::GapOpened, 313, 65, 70)));
    log.push(Record::Control(BarSource::Candles, heartbeat(at(314), 12)));
    log.push(Record::Control(BarSource::Trades, outage(ControlKind::GapAbandoned, 315, 65, 70)));
    log.push(Record::Control(BarSource::Candles, heartbeat(at(316), 12)));
    let bars = run(&Config::default(), &log, None);
    let handed: Vec<_> = bars.iter().filter(|bar| bar.source == BarSource::Candles).map(|bar| bar.open_time).collect();
    let touched: Vec<_> = bars.iter().filter(|bar| bar.quality == Quality::Gap).map(|bar| bar.open_time).collect();
    assert!(!touched.is_empty() && handed == touched, "{handed:?} instead of {touched:?}");
    for seed in 0..20 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        assert_eq!(run(&Config::default(), &log, Some(&mut random)), bars, "seed {seed}: crashes change nothing");
    }
}

#[test]
fn candles_that_ended_wait_for_the_trades_all_the_same() {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let truth = truth(&mut random);
    let name = "UPBIT:KRWBTC";
    let until_ten = |at_time: Timestamp| at_time < at(600);
    let mut log = [BarSource::Trades, BarSource::Candles].map(|source| Record::Control(source, up(START))).to_vec();
    let trades: Vec<Trade> =
        truth.into_iter().filter(|trade| trade.instrument.as_str() == name && until_ten(trade.event_time)).collect();
    log.extend(trades.iter().cloned().map(Record::Trade));
    log.push(Record::Control(BarSource::Trades, heartbeat(at(302), 2)));
    log.extend(candles(&trades).into_iter().map(Record::Candle));
    log.push(Record::Control(BarSource::Candles, heartbeat(at(612), 12)));
    log.push(Record::Control(BarSource::Candles, control(ControlKind::End, at(613))));
    let undecided = run(&Config::default(), &log, None);
    assert!(undecided.iter().all(|bar| bar.source == BarSource::Trades), "{undecided:?}");
    let then = |last: Vec<Control>, source| {
        let mut log = log.clone();
        log.extend(last.into_iter().map(|control| Record::Control(BarSource::Trades, control)));
        let bars = run(&Config::default(), &log, None);
        for seed in 0..10 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            assert_eq!(run(&Config::default(), &log, Some(&mut random)), bars, "seed {seed}: crashes change nothing");
        }
        let late = bars
            .iter()
            .filter(|bar| bar.open_time >= at(300) && bar.interval == Interval::ONE_MINUTE && bar.quality == Quality::Complete);
        assert!(late.clone().count() > 0 && late.clone().all(|bar| bar.source == source), "{bars:?}");
    };
    then(vec![heartbeat(at(2_000), 2)], BarSource::Trades);
    then(vec![control(ControlKind::Clock, at(332)), control(ControlKind::Clock, at(640))], BarSource::Candles);
}

#[test]
fn the_source_can_be_chosen() {
    let Session { log, .. } = session(&mut ChaCha8Rng::seed_from_u64(3), false);
    let sources = |choice| -> BTreeSet<&'static str> {
        let bars = run(&Config { source: choice, ..Config::default() }, &log, None);
        let of_both = bars.iter().filter(|bar| bar.instrument.as_str() != CANDLES_ONLY && bar.open_time < at(600));
        of_both.map(|bar| if bar.source == BarSource::Candles { "candles" } else { "trades" }).collect()
    };
    assert_eq!(sources(SourceChoice::Auto), BTreeSet::from(["trades"]));
    assert_eq!(sources(SourceChoice::Trades), BTreeSet::from(["trades"]));
    assert_eq!(sources(SourceChoice::Candles), BTreeSet::from(["candles"]));
    assert_eq!(sources(SourceChoice::Both), BTreeSet::from(["candles", "trades"]));
}
