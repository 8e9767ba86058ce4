//! Seeded simulation: an in-memory log with disorder, duplicates, gaps and lateness; crashes at any commit; the result judged by the oracle.
//! The seed of a failing run is in the assertion message; `SEEDS=n` runs more.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
#![expect(clippy::disallowed_methods, reason = "a person may ask for more seeds")]

mod protocol;

use marketflow_engine::{Change, Config, Outcome, Partition, repartition};
use marketflow_model::{
    Bar, BarSource, Conditions, Control, ControlKind, Feed, FeedState, Instrument, Interval, Quality, Side, Source, Timestamp,
    Trade,
};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

const START: i64 = 1_385_337_600_000_000;
const SECOND: i64 = 1_000_000;

#[derive(Clone)]
enum Record {
    Trade(Trade),
    Control(Control),
}

fn feed() -> Feed {
    Feed::new("bitstamp")
}

fn trade(symbol: &str, id: i64, at: i64, price: &str, size: &str, side: Side) -> Trade {
    Trade {
        instrument: Instrument::new("BITSTAMP", symbol).unwrap(),
        feed: feed(),
        event_time: Timestamp::from_micros(at),
        receive_time: Timestamp::from_micros(at),
        price: price.parse().unwrap(),
        size: Some(size.parse().unwrap()),
        side,
        trade_id: Some(id.to_string()),
        sequence: Some(id),
        import_row: None,
        conditions: Conditions::NONE,
        source: Source::Websocket,
    }
}

fn control(kind: ControlKind, clock: i64) -> Control {
    Control::new(kind, feed(), Timestamp::from_micros(clock))
}

fn up(from: i64) -> Record {
    let mut c = control(ControlKind::FeedState, from);
    c.state = FeedState::Up;
    c.from = Some(Timestamp::from_micros(from));
    Record::Control(c)
}

fn heartbeat(through: i64) -> Record {
    let mut c = control(ControlKind::Heartbeat, through);
    c.complete_through = Some(Timestamp::from_micros(through));
    Record::Control(c)
}

fn gap(kind: ControlKind, id: &str, from: i64, to: Option<i64>) -> Record {
    let mut c = control(kind, from);
    c.gap_id = Some(id.into());
    c.from = Some(Timestamp::from_micros(from));
    c.to = to.map(Timestamp::from_micros);
    Record::Control(c)
}

fn apply(partition: &mut Partition, offset: i64, record: &Record, out: &mut Vec<Bar>) -> Option<Outcome> {
    match record {
        Record::Trade(t) => Some(partition.on_trade(t, offset, out)),
        Record::Control(c) => {
            partition.on_control(BarSource::Trades, c, offset, out);
            None
        }
    }
}

fn run(log: &[Record]) -> (Vec<Bar>, Vec<Outcome>) {
    run_as(Config::default(), log)
}

fn run_as(config: Config, log: &[Record]) -> (Vec<Bar>, Vec<Outcome>) {
    let mut partition = Partition::new(config);
    let mut bars = Vec::new();
    let outcomes = log.iter().zip(0..).filter_map(|(r, offset)| apply(&mut partition, offset, r, &mut bars)).collect();
    (bars, outcomes)
}

/// Runs the log with crashes: what was not committed is lost, state comes back from the changelog alone.
fn run_with_crashes(log: &[Record], random: &mut ChaCha8Rng) -> Vec<Bar> {
    let (mut committed_bars, mut changelog, mut committed) = (Vec::new(), Vec::<Change>::new(), 0usize);
    let mut partition = Partition::new(Config::default());
    while committed < log.len() {
        let end = (committed + random.random_range(1..200)).min(log.len());
        let mut bars = Vec::new();
        for (at, record) in log.iter().enumerate().take(end).skip(committed) {
            apply(&mut partition, i64::try_from(at).unwrap(), record, &mut bars);
        }
        let changes = partition.take_changes();
        if random.random_bool(0.3) {
            partition = Partition::restore(Config::default(), changelog.iter().cloned()).unwrap();
            continue;
        }
        changelog.extend(changes);
        committed_bars.extend(bars);
        committed = end;
    }
    committed_bars
}

/// A session with disorder inside 2 s, duplicates, and one hole that is filled later.
fn session(random: &mut ChaCha8Rng) -> (Vec<Record>, Vec<Trade>) {
    let symbols = ["BTCUSD", "ETHUSD", "XRPUSD"];
    let mut now = START;
    let mut truth = Vec::new();
    for id in 0..random.random_range(200..1500) {
        now += random.random_range(0..4 * SECOND);
        let side = *[Side::Buy, Side::Sell, Side::Unknown].get(random.random_range(0..3)).unwrap();
        let symbol = symbols[random.random_range(0..3)];
        truth.push(trade(
            symbol,
            id,
            now,
            &format!("{}.{:02}", random.random_range(90..110), random.random_range(0..100)),
            "0.25",
            side,
        ));
    }
    let (hole_from, hole_to) = (START + (now - START) / 3, START + (now - START) / 3 + random.random_range(1..900) * SECOND);
    let in_hole = |t: &Trade| (hole_from..hole_to).contains(&t.event_time.micros());
    // arrival = event time + disorder below the heartbeat's 2 s
    let mut arrivals: Vec<(i64, Record)> = Vec::new();
    for t in truth.iter().filter(|t| !in_hole(t)) {
        let at = t.event_time.micros() + random.random_range(0..2 * SECOND - 1);
        arrivals.push((at, Record::Trade(t.clone())));
        if random.random_bool(0.05) {
            arrivals.push((at + random.random_range(0..60 * SECOND), Record::Trade(t.clone())));
        }
    }
    let fill_at = hole_to + random.random_range(1..4000) * SECOND;
    let mut missing: Vec<Trade> = truth.iter().filter(|t| in_hole(t)).cloned().collect();
    missing.shuffle(random);
    arrivals.extend(missing.into_iter().map(|t| (fill_at, Record::Trade(t))));
    arrivals.push((hole_from + 2 * SECOND - 1, gap(ControlKind::GapOpened, "hole", hole_from, None)));
    arrivals.push((fill_at + 1, gap(ControlKind::GapFilled, "hole", hole_from, Some(hole_to))));
    let end = now.max(fill_at) + 2000 * SECOND;
    let mut beat = START;
    while beat < end {
        arrivals.push((beat, heartbeat(beat - 2 * SECOND)));
        beat += SECOND;
    }
    arrivals.sort_by_key(|(at, _)| *at);
    let mut log = vec![up(START)];
    log.extend(arrivals.into_iter().map(|(_, r)| r));
    (log, truth)
}

fn seeds(usual: u64) -> u64 {
    std::env::var("SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(usual)
}

#[test]
fn every_seed_gives_the_oracles_bars_with_or_without_crashes() {
    for seed in 0..seeds(60) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (log, truth) = session(&mut random);
        let (bars, outcomes) = run(&log);
        let used = outcomes.iter().filter(|o| **o == Outcome::Used).count();
        assert_eq!(used, truth.len(), "seed {seed}: every trade is used once");
        assert!(outcomes.iter().all(|o| matches!(o, Outcome::Used | Outcome::Duplicate)), "seed {seed}");
        let expected = marketflow_oracle::recompute(&truth, &Interval::STANDARD);
        assert_eq!(marketflow_oracle::differences(&expected, &bars, 5), Vec::<String>::new(), "seed {seed}");
        let mut revisions: BTreeMap<_, i32> = BTreeMap::new();
        for bar in &bars {
            let next = revisions.entry((bar.instrument.clone(), bar.interval, bar.open_time)).or_insert(0);
            assert_eq!(bar.revision, *next, "seed {seed}: revisions rise by one: {bar:?}");
            *next += 1;
            assert!(bar.revision <= 1, "seed {seed}: one revision per touched bar: {bar:?}");
        }
        let crashed = run_with_crashes(&log, &mut random);
        assert_eq!(crashed, bars, "seed {seed}: crashes change nothing");
    }
}

/// In the order each instrument's came out.
fn by_instrument(bars: &[Bar]) -> Vec<Bar> {
    let mut sorted = bars.to_vec();
    sorted.sort_by(|a, b| a.instrument.cmp(&b.instrument));
    sorted
}

#[test]
fn partitions_added_between_any_two_records_change_no_bar() {
    let place = |instrument: &Instrument, count: usize| usize::from(instrument.symbol().as_bytes()[0] % 4) % count;
    for seed in 0..seeds(30) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut log, _) = session(&mut random);
        if seed % 2 == 1 {
            // the hole is one instrument's, and so known in its partition only
            let hole = log.iter_mut().filter_map(|record| match record {
                Record::Control(control) if control.gap_id.is_some() => Some(control),
                Record::Trade(_) | Record::Control(_) => None,
            });
            hole.for_each(|control| control.instrument = Some(Instrument::new("BITSTAMP", "BTCUSD").unwrap()));
        }
        let new = || (Partition::new(Config::default()), Vec::<Change>::new());
        let (mut partitions, mut bars) = (vec![new(), new()], Vec::new());
        let added_at = random.random_range(0..log.len());
        for (at, record) in log.iter().enumerate() {
            if at == added_at {
                let old: Vec<Vec<Change>> = partitions
                    .iter_mut()
                    .map(|(partition, changelog)| {
                        changelog.extend(partition.take_changes());
                        changelog.clone()
                    })
                    .collect();
                let moved = repartition(old.clone(), 3, |instrument| i32::try_from(place(instrument, 3)).unwrap()).unwrap();
                let rebuilt = (0..3).map(|to| {
                    let moved = moved.iter().filter(|(of, _)| usize::try_from(*of) == Ok(to)).map(|(_, change)| change.clone());
                    let changelog: Vec<Change> = old.get(to).into_iter().flatten().cloned().chain(moved).collect();
                    (Partition::restore(Config::default(), changelog.clone()).unwrap(), changelog)
                });
                partitions = rebuilt.collect();
            }
            let instrument = match record {
                Record::Trade(trade) => Some(&trade.instrument),
                Record::Control(control) => control.instrument.as_ref(),
            };
            let only = instrument.map(|instrument| place(instrument, partitions.len()));
            for (number, (partition, _)) in partitions.iter_mut().enumerate() {
                if only.is_none_or(|only| only == number) {
                    apply(partition, i64::try_from(at).unwrap(), record, &mut bars);
                }
            }
        }
        assert_eq!(by_instrument(&bars), by_instrument(&run(&log).0), "seed {seed}");
    }
}

fn bars_of(bars: &[Bar], interval: Interval) -> Vec<(i64, String, i64, i32, Quality)> {
    let minute = |t: Timestamp| (t.micros() - START) / (60 * SECOND);
    bars.iter()
        .filter(|b| b.interval == interval)
        .map(|b| (minute(b.open_time), b.close.to_string(), b.trade_count, b.revision, b.quality))
        .collect()
}

#[test]
fn late_trade_within_lateness_revises_each_interval_once_at_the_next_control() {
    let t = |id, second, price: &str| Record::Trade(trade("BTCUSD", id, START + second * SECOND, price, "1", Side::Buy));
    let log = [
        up(START),
        t(1, 10, "100"),
        heartbeat(START + 900 * SECOND),
        t(2, 50, "101"),
        heartbeat(START + 901 * SECOND),
        heartbeat(START + 902 * SECOND),
    ];
    let (bars, outcomes) = run(&log);
    assert_eq!(outcomes, [Outcome::Used, Outcome::Late("850 s behind the watermark".into())]);
    assert_eq!(bars.len(), 3);

    let log = [
        up(START),
        t(1, 10, "100"),
        heartbeat(START + 90 * SECOND),
        t(2, 50, "101"),
        heartbeat(START + 91 * SECOND),
        heartbeat(START + 960 * SECOND),
    ];
    let (bars, _) = run(&log);
    assert_eq!(
        bars_of(&bars, Interval::ONE_MINUTE),
        [(0, "100".into(), 1, 0, Quality::Complete), (0, "101".into(), 2, 1, Quality::Complete)]
    );
    assert_eq!(bars[1].revision_reason.as_deref(), Some("late records"));
    assert_eq!(bars_of(&bars, Interval::FIFTEEN_MINUTES), [(0, "101".into(), 2, 0, Quality::Complete)]);
}

#[test]
fn a_gap_marks_the_touched_bars_then_backfills_them_once() {
    let t = |id, second, price: &str| Record::Trade(trade("BTCUSD", id, START + second * SECOND, price, "1", Side::Buy));
    let log = [
        up(START),
        t(1, 10, "100"),
        t(2, 70, "101"),
        gap(ControlKind::GapOpened, "g", START + 75 * SECOND, None),
        t(5, 190, "104"),
        t(6, 250, "105"),
        heartbeat(START + 300 * SECOND),
        heartbeat(START + 301 * SECOND),
        t(3, 80, "102"),
        heartbeat(START + 302 * SECOND),
        t(4, 130, "103"),
        gap(ControlKind::GapFilled, "g", START + 75 * SECOND, Some(START + 165 * SECOND)),
        heartbeat(START + 303 * SECOND),
    ];
    let (bars, outcomes) = run(&log);
    assert!(outcomes.iter().all(|o| *o == Outcome::Used));
    assert_eq!(
        bars_of(&bars, Interval::ONE_MINUTE),
        [
            (0, "100".into(), 1, 0, Quality::Complete),
            (1, "101".into(), 1, 0, Quality::Gap),
            (3, "104".into(), 1, 0, Quality::Gap),
            (4, "105".into(), 1, 0, Quality::Gap),
            (1, "102".into(), 2, 1, Quality::Backfilled),
            (2, "103".into(), 1, 0, Quality::Backfilled),
            (3, "104".into(), 1, 1, Quality::Complete),
            (4, "105".into(), 1, 1, Quality::Complete),
        ]
    );
}

#[test]
fn a_second_gap_in_a_backfilled_window_loses_no_trade() {
    let t = |id, second, price: &str| Record::Trade(trade("BTCUSD", id, START + second * SECOND, price, "1", Side::Buy));
    let log = [
        up(START),
        t(1, 10, "100"),
        t(5, 40, "104"),
        gap(ControlKind::GapOpened, "first", START + 11 * SECOND, Some(START + 15 * SECOND)),
        t(2, 12, "101"),
        gap(ControlKind::GapFilled, "first", START + 11 * SECOND, Some(START + 15 * SECOND)),
        heartbeat(START + 60 * SECOND),
        gap(ControlKind::GapOpened, "second", START + 20 * SECOND, Some(START + 25 * SECOND)),
        t(3, 21, "99"),
        gap(ControlKind::GapFilled, "second", START + 20 * SECOND, Some(START + 25 * SECOND)),
        heartbeat(START + 61 * SECOND),
    ];
    let (bars, _) = run(&log);
    assert_eq!(
        bars_of(&bars, Interval::ONE_MINUTE),
        [(0, "104".into(), 3, 0, Quality::Backfilled), (0, "104".into(), 4, 1, Quality::Backfilled)]
    );
}

#[test]
fn an_abandoned_gap_leaves_the_bar_marked() {
    let t = |id, second, price: &str| Record::Trade(trade("BTCUSD", id, START + second * SECOND, price, "1", Side::Buy));
    let log = [
        up(START),
        t(1, 10, "100"),
        gap(ControlKind::GapOpened, "g", START + 20 * SECOND, Some(START + 30 * SECOND)),
        heartbeat(START + 60 * SECOND),
        gap(ControlKind::GapAbandoned, "g", START + 20 * SECOND, Some(START + 30 * SECOND)),
        heartbeat(START + 61 * SECOND),
    ];
    let (bars, _) = run(&log);
    assert_eq!(bars_of(&bars, Interval::ONE_MINUTE), [(0, "100".into(), 1, 0, Quality::Gap)]);
}

#[test]
fn joining_mid_window_is_partial_open() {
    let t = |id, second, price: &str| Record::Trade(trade("BTCUSD", id, START + second * SECOND, price, "1", Side::Buy));
    let (bars, _) = run(&[up(START + 20 * SECOND), t(1, 30, "100"), t(2, 70, "101"), heartbeat(START + 960 * SECOND)]);
    assert_eq!(
        bars_of(&bars, Interval::ONE_MINUTE),
        [(0, "100".into(), 1, 0, Quality::PartialOpen), (1, "101".into(), 1, 0, Quality::Complete)]
    );
    assert_eq!(bars_of(&bars, Interval::FIFTEEN_MINUTES), [(0, "101".into(), 2, 0, Quality::PartialOpen)]);
}

#[test]
fn an_import_repeated_changes_nothing_and_its_end_closes_every_window() {
    let import = Feed::import("abc");
    let row = |row: i64, second: i64, price: &str| {
        let mut t = trade("BTCUSD", row, START + second * SECOND, price, "1", Side::Unknown);
        (t.feed, t.trade_id, t.import_row, t.source) = (import.clone(), None, Some(row), Source::Import);
        Record::Trade(t)
    };
    let state = {
        let mut c = Control::new(ControlKind::FeedState, import.clone(), Timestamp::from_micros(START));
        c.state = FeedState::Up;
        Record::Control(c)
    };
    let end = Record::Control(Control::new(ControlKind::End, import.clone(), Timestamp::from_micros(START)));
    let once = [state.clone(), row(1, 10, "100"), row(2, 10, "100"), row(3, 70, "101"), end.clone()];
    let twice: Vec<Record> = once.iter().chain(&once).cloned().collect();
    let (bars, outcomes) = run(&twice);
    assert_eq!(
        outcomes,
        [Outcome::Used, Outcome::Used, Outcome::Used, Outcome::Duplicate, Outcome::Duplicate, Outcome::Duplicate]
    );
    assert_eq!(bars, run(&once).0);
    assert_eq!(
        bars_of(&bars, Interval::ONE_MINUTE),
        [(0, "100".into(), 2, 0, Quality::Complete), (1, "101".into(), 1, 0, Quality::Complete)]
    );
    // interrupted after two rows, then run again from the start
    let resumed: Vec<Record> = once[..3].iter().chain(&once).cloned().collect();
    assert_eq!(run(&resumed).0, bars);
}

#[test]
fn what_is_not_believable_is_set_aside_with_its_reason() {
    let check = |change: fn(&mut Trade), expected: &str| {
        let mut t = trade("BTCUSD", 1, START, "100", "1", Side::Buy);
        change(&mut t);
        let (bars, outcomes) = run(&[up(START), Record::Trade(t), heartbeat(START + 960 * SECOND)]);
        assert_eq!(outcomes, [Outcome::Quarantined(expected.to_owned().into())]);
        assert!(bars.is_empty());
    };
    check(|t| t.size = Some("0".parse().unwrap()), "size is zero");
    check(|t| t.price = "-1".parse().unwrap(), "price is negative");
    check(|t| t.event_time = t.receive_time.plus_micros(6 * SECOND), "event time is ahead of receive time");
}

#[test]
fn open_windows_show_what_they_hold_and_closed_ones_do_not() {
    let t = |id, second, price: &str| Record::Trade(trade("BTCUSD", id, START + second * SECOND, price, "1", Side::Buy));
    let mut partition = Partition::new(Config::default());
    let mut results = Vec::new();
    let log = [up(START), t(1, 10, "100"), t(2, 70, "101"), heartbeat(START + 65 * SECOND), t(3, 75, "99")];
    for (record, offset) in log.iter().zip(0..) {
        apply(&mut partition, offset, record, &mut results);
    }
    assert_eq!(partition.touched(), [0]);
    let shown = |partition: &Partition| {
        let mut open = Vec::new();
        partition.open_bars(0, &mut open);
        assert!(open.iter().all(|bar| bar.revision == Bar::UNFINISHED && bar.revision_reason.is_none()));
        open
    };
    let open = shown(&partition);
    let of_minute = [(1, "99".to_owned(), 2, Bar::UNFINISHED, Quality::Complete)];
    assert_eq!(bars_of(&open, Interval::ONE_MINUTE), of_minute, "the minute before is a result already");
    assert_eq!(bars_of(&open, Interval::FIFTEEN_MINUTES), [(0, "99".to_owned(), 3, Bar::UNFINISHED, Quality::Complete)]);
    assert_eq!(results.len(), 1, "looking publishes nothing");
    let changes = partition.take_changes();
    assert_eq!(partition.touched(), [0usize; 0]);
    assert_eq!(shown(&Partition::restore(Config::default(), changes).unwrap()), open);

    apply(&mut partition, 5, &heartbeat(START + 900 * SECOND), &mut results);
    assert_eq!(shown(&partition), []);
    let last_of_minute = results.iter().rfind(|bar| bar.interval == Interval::ONE_MINUTE).unwrap();
    let unfinished = open.iter().find(|bar| bar.interval == Interval::ONE_MINUTE).unwrap();
    assert_eq!(Bar { revision: 0, ..unfinished.clone() }, *last_of_minute, "the result is what was shown last");
}

fn clock(at: i64) -> Record {
    Record::Control(control(ControlKind::Clock, at))
}

#[test]
fn a_silent_feed_closes_as_gap_and_is_backfilled_when_it_is_complete_again() {
    let t = |id, second, price: &str| Record::Trade(trade("BTCUSD", id, START + second * SECOND, price, "1", Side::Buy));
    let log = [
        up(START),
        t(1, 10, "100"),
        t(2, 40, "101"),
        heartbeat(START + 30 * SECOND), // the last word, at clock START + 30 s
        clock(START + 59 * SECOND),     // 29 s: not yet
        clock(START + 65 * SECOND),     // down: minute 0 closes without what came after 30 s
        clock(START + 70 * SECOND),     // nothing new
        t(3, 45, "99"),                 // comes back, and brings what it kept
        heartbeat(START + 50 * SECOND), // not as far as what was closed
        t(4, 62, "98"),
        heartbeat(START + 300 * SECOND),
    ];
    let (bars, outcomes) = run(&log);
    assert!(outcomes.iter().all(|o| *o == Outcome::Used), "{outcomes:?}");
    assert_eq!(
        bars_of(&bars, Interval::ONE_MINUTE),
        [
            (0, "101".into(), 2, 0, Quality::Gap),
            (0, "99".into(), 3, 1, Quality::Backfilled),
            (1, "98".into(), 1, 0, Quality::Backfilled),
        ]
    );
    for seed in 0..20 {
        assert_eq!(run_with_crashes(&log, &mut ChaCha8Rng::seed_from_u64(seed)), bars, "seed {seed}: crashes change nothing");
    }
}

#[test]
fn silence_makes_no_bar_of_nothing_and_what_it_closes_late_is_not_late() {
    let t = |id, second, price: &str| Record::Trade(trade("BTCUSD", id, START + second * SECOND, price, "1", Side::Buy));
    let hour = 3_600 * SECOND;
    let mut partition = Partition::new(Config { emit_empty: true, ..Config::default() });
    let (mut bars, mut listened) = (Vec::new(), Vec::new());
    let log = [
        up(START),
        t(1, 10, "100"),
        heartbeat(START + 60 * SECOND),
        clock(START + hour),
        t(2, 70, "101"),
        heartbeat(START + hour),
    ];
    for (record, offset) in log.iter().zip(0..) {
        assert!(matches!(apply(&mut partition, offset, record, &mut bars), None | Some(Outcome::Used)), "record {offset}");
        listened.push(partition.listened_to().count());
    }
    let minutes = bars_of(&bars, Interval::ONE_MINUTE);
    assert_eq!(minutes[..2], [(0, "100".into(), 1, 0, Quality::Complete), (1, "101".into(), 1, 0, Quality::Backfilled)]);
    assert_eq!(minutes.len(), 2, "no minute of the silence was quiet for sure: {minutes:?}");
    assert_eq!(listened, [1, 1, 1, 0, 0, 1], "down, and nothing left to close: nothing to say");
}
