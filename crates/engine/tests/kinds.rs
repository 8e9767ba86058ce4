//! Longer intervals, and bars that what was traded ends: equal to the oracle's, the same after crashes, never across sessions.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use marketflow_engine::{Change, Config, Outcome, Partition};
use marketflow_model::{
    Bar, BarKind, BarSource, Conditions, Control, ControlKind, Feed, FeedState, Instrument, Interval, Quality, Side, Source,
    Timestamp, Trade,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// 2026-11-20T00:00:00Z, a Friday = 09:00 in Seoul, a normal day.
const START: i64 = 1_795_132_800_000_000;
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

fn trade(instrument: &str, id: i64, at: i64, price: &str, size: &str) -> Trade {
    Trade {
        instrument: instrument.parse().unwrap(),
        feed: Feed::new("any"),
        event_time: Timestamp::from_micros(at),
        receive_time: Timestamp::from_micros(at),
        price: price.parse().unwrap(),
        size: Some(size.parse().unwrap()),
        side: [Side::Buy, Side::Sell, Side::Unknown][usize::try_from(id % 3).unwrap()],
        trade_id: Some(id.to_string()),
        sequence: Some(id),
        import_row: None,
        conditions: Conditions::NONE,
        source: Source::Websocket,
    }
}

fn control(kind: ControlKind, at: i64) -> Control {
    Control::new(kind, Feed::new("any"), Timestamp::from_micros(at))
}

fn up() -> Control {
    Control { state: FeedState::Up, from: Some(Timestamp::from_micros(START)), ..control(ControlKind::FeedState, START) }
}

fn heartbeat(through: i64) -> Control {
    Control { complete_through: Some(Timestamp::from_micros(through)), ..control(ControlKind::Heartbeat, through) }
}

fn config(intervals: &[&str], kinds: &[&str]) -> Config {
    let intervals = intervals.iter().map(|text| text.parse().unwrap()).collect();
    let kinds = kinds.iter().map(|text| text.parse().unwrap()).collect();
    Config { intervals, kinds, ..Config::default() }
}

/// Feed up, then the trades in their order, then a heartbeat; crashes where there is a random number.
fn run(config: &Config, trades: &[Trade], through: i64, mut crashes: Option<&mut ChaCha8Rng>) -> Vec<Bar> {
    let mut partition = Partition::new(config.clone());
    let (mut changelog, mut bars, mut committed) = (Vec::<Change>::new(), Vec::new(), 0);
    let length = trades.len() + 2;
    while committed < length {
        let end = (committed + crashes.as_mut().map_or(length, |random| random.random_range(1..60))).min(length);
        let mut out = Vec::new();
        for at in committed..end {
            let offset = i64::try_from(at).unwrap();
            match at {
                0 => drop(partition.on_control(BarSource::Trades, &up(), offset, &mut out)),
                at if at == length - 1 => {
                    partition.on_control(BarSource::Trades, &heartbeat(through), offset, &mut out);
                }
                at => {
                    assert!(matches!(partition.on_trade(&trades[at - 1], offset, &mut out), Outcome::Used | Outcome::Duplicate))
                }
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

fn of<'a>(bars: &'a [Bar], kind: &str) -> Vec<&'a Bar> {
    let kind: BarKind = kind.parse().unwrap();
    bars.iter().filter(|bar| bar.interval == kind).collect()
}

#[test]
fn bars_that_trades_end_are_the_oracles_with_crashes_or_without() {
    const KINDS: [&str; 5] = ["t1", "t7", "v2.5", "d250", "d100000000"];
    for seed in 0..40 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut trades = Vec::new();
        for id in 0..random.random_range(50..500) {
            // disorder, repeats, and trades of the same microsecond
            let at = START + (id + random.random_range(-20..20)).max(0) / 3 * SECOND;
            let instrument = ["BITSTAMP:BTCUSD", "BITSTAMP:ETHUSD"][random.random_range(0..2)];
            let price = format!("{}.5", random.random_range(90..110));
            let size = format!("0.{:03}", random.random_range(1..1000));
            trades.push(trade(instrument, id, at, &price, &size));
            if random.random_bool(0.05) {
                trades.push(trades[random.random_range(0..trades.len())].clone());
            }
        }
        let config = config(&["1m"], &KINDS);
        let bars = run(&config, &trades, START + 900 * SECOND, None);
        assert_eq!(run(&config, &trades, START + 900 * SECOND, Some(&mut random)), bars, "seed {seed}: crashes change nothing");
        for kind in KINDS {
            let mut published: BTreeMap<Instrument, Vec<_>> = BTreeMap::new();
            let mut opens: BTreeMap<&Instrument, Timestamp> = BTreeMap::new();
            for bar in of(&bars, kind) {
                published.entry(bar.instrument.clone()).or_default().push(marketflow_oracle::values(bar));
                let last = opens.insert(&bar.instrument, bar.open_time);
                assert!(last.is_none_or(|last| last < bar.open_time), "seed {seed}: open times identify bars: {bar:?}");
                assert!(
                    bar.open_time < bar.close_time && bar.revision == 0 && bar.quality == Quality::Complete,
                    "seed {seed}: {bar:?}"
                );
            }
            let mut expected = marketflow_oracle::recompute_traded(&trades, kind.parse().unwrap());
            expected.retain(|_, bars| !bars.is_empty());
            assert_eq!(published, expected, "seed {seed}: {kind}");
        }
    }
}

#[test]
fn a_late_trade_counts_in_the_bar_that_is_open_and_revises_none() {
    let t = |id, second, price: &str| trade("BITSTAMP:BTCUSD", id, START + second * SECOND, price, "1");
    let trades = [t(1, 10, "100"), t(2, 70, "101"), t(4, 200, "103"), t(3, 50, "90")];
    let bars = run(&config(&["1m"], &["t2"]), &trades, START + 900 * SECOND, None);
    let shape = |bar: &&Bar| (bar.open.to_string(), bar.low.to_string(), bar.close.to_string(), bar.revision);
    assert_eq!(
        of(&bars, "t2").iter().map(shape).collect::<Vec<_>>(),
        [("100".into(), "100".into(), "101".into(), 0), ("103".into(), "90".into(), "90".into(), 0)]
    );
    let second = of(&bars, "t2")[1];
    assert_eq!(second.open_time, Timestamp::from_micros(START + 200 * SECOND));
    assert_eq!(second.close_time, Timestamp::from_micros(START + 200 * SECOND + 1));
}

#[test]
fn a_hole_marks_the_bar_it_lies_in() {
    let mut partition = Partition::new(config(&["1m"], &["t2"]));
    let mut bars = Vec::new();
    let t = |id, second| trade("BITSTAMP:BTCUSD", id, START + second * SECOND, "100", "1");
    let gap = Control {
        gap_id: Some("g".into()),
        from: Some(Timestamp::from_micros(START + 20 * SECOND)),
        to: Some(Timestamp::from_micros(START + 30 * SECOND)),
        ..control(ControlKind::GapOpened, START + 31 * SECOND)
    };
    partition.on_control(BarSource::Trades, &up(), 0, &mut bars);
    partition.on_trade(&t(1, 10), 1, &mut bars);
    partition.on_control(BarSource::Trades, &gap, 2, &mut bars);
    partition.on_trade(&t(2, 31), 3, &mut bars);
    partition.on_trade(&t(3, 40), 4, &mut bars);
    partition.on_trade(&t(4, 41), 5, &mut bars);
    assert_eq!(of(&bars, "t2").iter().map(|bar| bar.quality).collect::<Vec<_>>(), [Quality::Gap, Quality::Complete]);
}

#[test]
fn no_bar_spans_two_sessions() {
    let t = |id, at| trade("KRX:005930", id, at, "70000", "1");
    // the regular session, the after-market (16:00 KST = 07:00 UTC), the next trading day, Monday
    let trades = [t(1, START), t(2, START + SECOND), t(3, START + 7 * 3600 * SECOND), t(4, START + 3 * DAY)];
    let config = config(&["1m", "30m", "1h", "1d"], &["t3"]);
    let bars = run(&config, &trades, START + 4 * DAY, None);
    assert_eq!(of(&bars, "t3").iter().map(|bar| bar.trade_count).collect::<Vec<_>>(), [2, 1], "the last one is not full");
    let expected = marketflow_oracle::recompute_traded(&trades, "t3".parse().unwrap());
    assert_eq!(expected.values().next().unwrap().len(), 2);
    let days: Vec<_> = of(&bars, "1d").iter().map(|bar| (bar.open_time.micros() - START, bar.trade_count)).collect();
    assert_eq!(days, [(0, 2), (7 * 3600 * SECOND, 1), (3 * DAY, 1)], "a day of KRX is its sessions, each for itself");
    assert!(of(&bars, "1d").iter().all(|bar| bar.quality == Quality::Complete));
}

#[test]
fn longer_intervals_are_the_oracles_bars() {
    let intervals = ["1m", "30m", "1h", "4h", "1d"];
    let parsed: Vec<Interval> = intervals.iter().map(|text| text.parse().unwrap()).collect();
    for seed in 0..5 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut trades: Vec<Trade> = (0..600)
            .map(|id| {
                let at = START + id * 300 * SECOND + random.random_range(0..300 * SECOND);
                let instrument = ["BITSTAMP:BTCUSD", "KRX:005930"][random.random_range(0..2)];
                trade(instrument, id, at, &format!("{}.25", random.random_range(90..110)), "0.5")
            })
            .collect();
        trades.sort_by_key(|t| t.event_time);
        let config = config(&intervals, &[]);
        let bars = run(&config, &trades, START + 4 * DAY, Some(&mut random));
        let expected = marketflow_oracle::recompute(&trades, &parsed);
        assert_eq!(marketflow_oracle::differences(&expected, &bars, 5), Vec::<String>::new(), "seed {seed}");
        assert!(bars.iter().all(|bar| bar.revision == 0), "seed {seed}");
    }
}

#[test]
fn state_of_other_kinds_is_refused() {
    let mut partition = Partition::new(config(&["1m"], &["t2"]));
    partition.on_trade(&trade("BITSTAMP:BTCUSD", 1, START, "100", "1"), 0, &mut Vec::new());
    let changes = partition.take_changes();
    assert!(Partition::restore(config(&["1m"], &["t2"]), changes.clone()).is_ok());
    for other in [config(&["1m"], &["t3"]), config(&["1m"], &[]), config(&["1m", "1d"], &["t2"])] {
        assert!(Partition::restore(other, changes.clone()).is_err());
    }
}
