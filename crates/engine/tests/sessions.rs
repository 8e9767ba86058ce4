//! A KRX day: the closing bar, halts, the outage, quiet minutes; live with controls and as an import.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use marketflow_engine::{Change, Config, Heard, Outcome, Partition, repartition};
use marketflow_model::{
    Bar, BarSource, Calendar, CalendarChange, Condition, Conditions, Control, ControlKind, DayHours, Feed, FeedState, Instrument,
    Interval, Quality, Side, Source, Timestamp, Trade,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

const SECOND: i64 = 1_000_000;

/// Local time of 2026-11-20, a normal Friday.
fn kst(time: &str) -> Timestamp {
    Timestamp::parse(&format!("2026-11-20T{time}+09:00")).unwrap()
}

fn trade(symbol: &str, id: i64, at: Timestamp, price: i64) -> Trade {
    Trade {
        instrument: Instrument::new("KRX", symbol).unwrap(),
        feed: Feed::new("kis"),
        event_time: at,
        receive_time: at,
        price: price.to_string().parse().unwrap(),
        size: Some("10".parse().unwrap()),
        side: Side::Buy,
        trade_id: Some(id.to_string()),
        sequence: Some(id),
        import_row: None,
        conditions: Conditions::NONE,
        source: Source::Websocket,
    }
}

fn control(kind: ControlKind, at: Timestamp) -> Control {
    Control::new(kind, Feed::new("kis"), at)
}

fn up(at: Timestamp) -> Control {
    Control { state: FeedState::Up, from: Some(at), ..control(ControlKind::FeedState, at) }
}

fn heartbeat(through: Timestamp) -> Control {
    Control { complete_through: Some(through), ..control(ControlKind::Heartbeat, through.plus_micros(2 * SECOND)) }
}

fn halt(state: FeedState, symbol: &str, at: Timestamp) -> Control {
    let instrument = Some(Instrument::new("KRX", symbol).unwrap());
    Control { state, instrument, from: Some(at), ..control(ControlKind::Halt, at) }
}

fn gap(kind: ControlKind, from: Timestamp, to: Option<Timestamp>) -> Control {
    Control { gap_id: Some("outage".into()), from: Some(from), to, ..control(kind, from) }
}

#[derive(Clone)]
enum Record {
    Trade(Trade),
    Control(Control),
}

/// Runs a log; each bar comes with the number of the record that published it. The state goes through the changelog every `restart` records.
fn run_with(config: &Config, log: &[Record], restart: usize) -> Vec<(usize, Bar)> {
    let mut partition = Partition::new(config.clone());
    let mut changelog: Vec<Change> = Vec::new();
    let mut bars = Vec::new();
    for (at, record) in log.iter().enumerate() {
        let mut out = Vec::new();
        match record {
            Record::Trade(t) => {
                let outcome = partition.on_trade(t, i64::try_from(at).unwrap(), &mut out);
                assert_eq!(outcome, Outcome::Used, "{t:?}");
            }
            Record::Control(c) => {
                partition.on_control(BarSource::Trades, c, i64::try_from(at).unwrap(), &mut out);
            }
        }
        bars.extend(out.into_iter().map(|bar| (at, bar)));
        changelog.extend(partition.take_changes());
        if at % restart == restart - 1 {
            partition = Partition::restore(config.clone(), changelog.iter().cloned()).unwrap();
        }
    }
    bars
}

fn run(config: &Config, log: &[Record]) -> Vec<(usize, Bar)> {
    let bars = run_with(config, log, usize::MAX);
    assert_eq!(run_with(config, log, 7), bars, "restarts change nothing");
    bars
}

/// From 15:00 to 15:45 with a heartbeat each second: a busy symbol, a quiet one, the closing prints, then trades at the closing price.
fn closing_hour() -> (Vec<Record>, Vec<Trade>) {
    let mut trades = Vec::new();
    let mut at = kst("15:00:00.5");
    while at < kst("15:20:00") {
        let id = i64::try_from(trades.len()).unwrap();
        trades.push(trade("005930", id, at, 70_000 + (id * 37) % 900));
        at = at.plus_micros(7 * SECOND);
    }
    trades.push(trade("000660", 5_000, kst("15:03:10"), 200_000));
    trades.push(trade("005930", 9_000, kst("15:30:12"), 71_000));
    trades.push(trade("000660", 9_001, kst("15:30:29"), 201_000));
    trades.push(trade("005930", 9_002, kst("15:41:00"), 71_000));
    trades.sort_by_key(|t| t.event_time);
    let mut log = vec![Record::Control(up(kst("09:00:00")))];
    let mut waiting = trades.iter().peekable();
    let mut beat = kst("15:00:00");
    while beat <= kst("15:46:00") {
        while let Some(t) = waiting.next_if(|t| t.event_time <= beat.plus_micros(2 * SECOND)) {
            log.push(Record::Trade(t.clone()));
        }
        log.push(Record::Control(heartbeat(beat)));
        beat = beat.plus_micros(SECOND);
    }
    (log, trades)
}

fn named(bars: &[(usize, Bar)], symbol: &str, interval: Interval) -> Vec<(String, i64, i32, Quality)> {
    let selected = bars.iter().filter(|(_, b)| b.instrument.symbol() == symbol && b.interval == interval);
    selected
        .map(|(_, b)| {
            let minutes = b.open_time.micros_since(kst("00:00:00")) / (60 * SECOND);
            (format!("{:02}:{:02}", minutes / 60, minutes % 60), b.trade_count, b.revision, b.quality)
        })
        .collect()
}

#[test]
fn the_closing_bars_are_out_at_close_plus_grace() {
    let (log, trades) = closing_hour();
    let bars = run(&Config::default(), &log);
    let expected = marketflow_oracle::recompute(&trades, &Interval::STANDARD);
    assert_eq!(marketflow_oracle::differences(&expected, bars.iter().map(|(_, b)| b), 5), Vec::<String>::new());
    let closing: Vec<_> = bars.iter().filter(|(_, b)| b.open_time == kst("15:30:00")).collect();
    assert_eq!(closing.len(), 6, "two symbols in three intervals: {closing:?}");
    for (at, bar) in closing {
        let Record::Control(c) = &log[*at] else { panic!("published by a trade") };
        assert_eq!(c.complete_through, Some(kst("15:30:35")), "{bar:?}");
        assert_eq!((bar.trade_count, bar.quality, bar.revision), (1, Quality::Complete, 0), "only the closing print: {bar:?}");
    }
    let after = bars.iter().filter(|(_, b)| b.open_time == kst("15:40:00") || b.open_time == kst("15:41:00"));
    let after: Vec<_> = after.map(|(_, b)| (b.interval.interval().unwrap().minutes(), b.trade_count, b.close_time)).collect();
    assert_eq!(after, [(1, 1, kst("15:42:00")), (5, 1, kst("15:45:00")), (15, 1, kst("15:45:00"))], "a session of its own");
    assert!(bars.iter().all(|(_, b)| b.quality == Quality::Complete), "a quiet symbol has no gap");
    let busy = bars.iter().filter(|(_, b)| b.instrument.symbol() == "005930" && b.interval == Interval::ONE_MINUTE).count();
    assert_eq!(busy, 22);
    assert_eq!(named(&bars, "000660", Interval::ONE_MINUTE).len(), 2);
}

#[test]
fn the_same_day_imported_gives_the_same_bars_once() {
    let (log, trades) = closing_hour();
    let feed = Feed::import("day");
    let mut import = vec![Record::Control(Control { feed: feed.clone(), ..up(kst("09:00:00")) })];
    import.extend(
        trades
            .into_iter()
            .zip(1..)
            .map(|(t, row)| Record::Trade(Trade { feed: feed.clone(), source: Source::Import, import_row: Some(row), ..t })),
    );
    import.push(Record::Control(Control { feed: feed.clone(), ..control(ControlKind::End, kst("20:00:00")) }));
    let plain = |bars: Vec<(usize, Bar)>| {
        let mut bars: Vec<Bar> = bars.into_iter().map(|(_, b)| Bar { feed: feed.clone(), ..b }).collect();
        bars.sort_by(|a, b| (&a.instrument, a.interval, a.open_time).cmp(&(&b.instrument, b.interval, b.open_time)));
        bars
    };
    assert_eq!(plain(run(&Config::default(), &import)), plain(run(&Config::default(), &log)));
}

#[test]
fn a_halt_at_the_close_waits_longer_for_the_closing_print() {
    let mut log = vec![Record::Control(up(kst("09:00:00")))];
    let mut push = |c: Control| log.push(Record::Control(c));
    push(heartbeat(kst("15:19:00")));
    push(halt(FeedState::Down, "005930", kst("15:29:30")));
    push(heartbeat(kst("15:31:40")));
    log.push(Record::Trade(trade("005930", 1, kst("15:32:10"), 70_000)));
    for beat in ["15:33:19", "15:33:20", "15:50:00"] {
        log.push(Record::Control(heartbeat(kst(beat))));
    }
    let bars = run(&Config::default(), &log);
    assert_eq!(bars.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [6, 6, 6], "all of them at close + 200 s");
    assert_eq!(named(&bars, "005930", Interval::ONE_MINUTE), [("15:30".into(), 1, 0, Quality::Halted)]);

    // without a halt on record the print is a late record of the same bar
    let log: Vec<Record> = log.into_iter().filter(|r| !matches!(r, Record::Control(c) if c.kind == ControlKind::Halt)).collect();
    let bars = run(&Config::default(), &log);
    assert_eq!(named(&bars, "005930", Interval::ONE_MINUTE), [("15:30".into(), 1, 0, Quality::Complete)]);
}

#[test]
fn a_halt_marks_the_bars_it_touches_and_no_other() {
    let mut log = vec![Record::Control(up(kst("09:00:00")))];
    for (id, time) in ["10:00:30", "10:01:10"].into_iter().enumerate() {
        log.push(Record::Trade(trade("005930", i64::try_from(id).unwrap(), kst(time), 70_000)));
        log.push(Record::Trade(trade("000660", i64::try_from(id).unwrap(), kst(time), 70_000)));
    }
    log.push(Record::Control(halt(FeedState::Down, "005930", kst("10:01:20"))));
    log.push(Record::Control(heartbeat(kst("10:03:00"))));
    log.push(Record::Control(halt(FeedState::Up, "005930", kst("10:03:25"))));
    log.push(Record::Trade(trade("005930", 5, kst("10:03:25"), 75_000)));
    log.push(Record::Trade(trade("005930", 6, kst("10:04:25"), 75_000)));
    log.push(Record::Control(heartbeat(kst("10:05:00"))));
    let bars = run(&Config::default(), &log);
    let minute = |time: &str, quality| (time.to_owned(), 1, 0, quality);
    assert_eq!(
        named(&bars, "005930", Interval::ONE_MINUTE),
        [
            minute("10:00", Quality::Complete),
            minute("10:01", Quality::Halted),
            minute("10:03", Quality::Halted),
            minute("10:04", Quality::Complete)
        ]
    );
    assert!(bars.iter().all(|(_, b)| b.instrument.symbol() == "005930" || b.quality == Quality::Complete));
}

#[test]
fn an_outage_of_90_s_marks_the_touched_bars_gap_then_backfilled() {
    let (log, _) = closing_hour();
    let (from, to) = (kst("15:05:30"), kst("15:07:00"));
    let lost = |r: &Record| matches!(r, Record::Trade(t) if from <= t.event_time && t.event_time < to);
    let silent = |r: &Record| matches!(r, Record::Control(c) if c.complete_through.is_some_and(|t| from < t && t < to));
    let mut broken = Vec::new();
    for record in &log {
        if let Record::Control(c) = record {
            if c.complete_through == Some(from) {
                broken.push(Record::Control(gap(ControlKind::GapOpened, from, None)));
            }
            if c.complete_through == Some(to) {
                broken.push(Record::Control(gap(ControlKind::GapOpened, from, Some(to))));
            }
            if c.complete_through == Some(kst("15:08:30")) {
                broken.extend(log.iter().filter(|r| lost(r)).cloned());
                broken.push(Record::Control(gap(ControlKind::GapFilled, from, Some(to))));
            }
        }
        if !lost(record) && !silent(record) {
            broken.push(record.clone());
        }
    }
    let bars = run(&Config::default(), &broken);
    let of = |quality| {
        let marked: Vec<(usize, Bar)> = bars.iter().filter(|(_, b)| b.quality == quality).cloned().collect();
        (named(&marked, "005930", Interval::ONE_MINUTE), named(&marked, "005930", Interval::FIFTEEN_MINUTES), marked.len())
    };
    let (minutes, quarters, all) = of(Quality::Gap);
    assert_eq!(minutes.iter().map(|m| (m.0.as_str(), m.2)).collect::<Vec<_>>(), [("15:05", 0)], "nothing came of 15:06");
    assert_eq!((quarters.len(), all), (0, 1), "the longer windows were still open");
    let (minutes, quarters, _) = of(Quality::Backfilled);
    assert_eq!(minutes.iter().map(|m| (m.0.as_str(), m.2)).collect::<Vec<_>>(), [("15:05", 1), ("15:06", 0)]);
    assert_eq!(quarters.iter().map(|m| (m.0.as_str(), m.2)).collect::<Vec<_>>(), [("15:00", 0)]);
    let healed = run(&Config::default(), &log);
    let values = |bars: &[(usize, Bar)]| {
        let mut last = BTreeMap::new();
        for (_, b) in bars {
            last.insert((b.instrument.clone(), b.interval, b.open_time), marketflow_oracle::values(b));
        }
        last
    };
    assert_eq!(values(&bars), values(&healed), "in the end nothing is missing");
}

#[test]
fn quiet_minutes_of_an_open_market_carry_the_close_on_request() {
    let (log, _) = closing_hour();
    let config = Config { emit_empty: true, ..Config::default() };
    let bars = run(&config, &log);
    let quiet: Vec<_> = named(&bars, "000660", Interval::ONE_MINUTE);
    let expected: Vec<_> = (3..20)
        .map(|m| (format!("15:{m:02}"), i64::from(m == 3), 0, if m == 3 { Quality::Complete } else { Quality::NoTrades }))
        .chain([("15:30".to_owned(), 1, 0, Quality::Complete)])
        .collect();
    assert_eq!(quiet, expected, "none in the auction, none after the close");
    let carried = bars.iter().filter(|(_, b)| b.quality == Quality::NoTrades);
    for (_, bar) in carried {
        let prices = [bar.open, bar.high, bar.low, bar.close].map(|p| p.to_string());
        assert_eq!(prices, ["200000"; 4].map(str::to_owned), "{bar:?}");
        assert_eq!((bar.trade_count, bar.vwap), (0, None));
    }
    let five: Vec<_> =
        named(&bars, "000660", Interval::FIVE_MINUTES).into_iter().map(|(open, count, ..)| (open, count)).collect();
    let five: Vec<_> = five.iter().map(|(open, count)| (open.as_str(), *count)).collect();
    assert_eq!(five, [("15:00", 1), ("15:05", 0), ("15:10", 0), ("15:15", 0), ("15:30", 1)]);
    let with_trades: Vec<_> = bars.into_iter().filter(|(_, b)| b.quality != Quality::NoTrades).map(|(_, b)| b).collect();
    let without: Vec<_> = run(&Config::default(), &log).into_iter().map(|(_, b)| b).collect();
    assert_eq!(with_trades, without);
}

#[test]
fn a_late_trade_replaces_an_empty_bar() {
    let config = Config { emit_empty: true, ..Config::default() };
    let log = [
        Record::Control(up(kst("09:00:00"))),
        Record::Trade(trade("005930", 1, kst("10:00:30"), 70_000)),
        Record::Control(heartbeat(kst("10:02:00"))),
        Record::Trade(trade("005930", 2, kst("10:01:30"), 70_500)),
        Record::Control(heartbeat(kst("10:02:01"))),
    ];
    assert_eq!(
        named(&run(&config, &log), "005930", Interval::ONE_MINUTE),
        [
            ("10:00".into(), 1, 0, Quality::Complete),
            ("10:01".into(), 0, 0, Quality::NoTrades),
            ("10:01".into(), 1, 1, Quality::Complete)
        ]
    );
}

#[test]
fn a_late_trade_alone_in_its_windows_makes_all_of_them() {
    let log = [
        Record::Control(up(kst("09:00:00"))),
        Record::Trade(trade("005930", 1, kst("09:59:30"), 70_000)),
        Record::Control(heartbeat(kst("10:02:00"))),
        Record::Trade(trade("005930", 2, kst("10:01:30"), 70_500)),
        Record::Control(heartbeat(kst("10:20:00"))),
    ];
    let bars = run(&Config::default(), &log);
    for interval in Interval::STANDARD {
        assert!(bars.iter().any(|(_, b)| b.interval == interval && b.close.to_string() == "70500"), "{interval}");
    }
}

/// The same trade, taken back or said anew.
fn amended(of: &Trade, condition: Condition, price: i64) -> Record {
    let price = price.to_string().parse().unwrap();
    Record::Trade(Trade { price, conditions: Conditions::NONE.with(condition), ..of.clone() })
}

#[test]
fn a_cancel_takes_the_high_out_of_every_bar_that_held_it() {
    let high = trade("005930", 2, kst("10:00:30"), 71_000);
    let log = [
        Record::Control(up(kst("09:00:00"))),
        Record::Trade(trade("005930", 1, kst("10:00:10"), 70_000)),
        Record::Trade(high.clone()),
        Record::Trade(trade("005930", 3, kst("10:00:50"), 70_500)),
        Record::Control(heartbeat(kst("10:15:00"))),
        Record::Control(gap(ControlKind::GapOpened, kst("10:00:00"), Some(kst("10:01:00")))),
        amended(&high, Condition::Cancel, 71_000),
        Record::Control(gap(ControlKind::GapFilled, kst("10:00:00"), Some(kst("10:01:00")))),
    ];
    let bars = run(&Config::default(), &log);
    for interval in Interval::STANDARD {
        let of_interval = bars.iter().map(|(_, bar)| bar).filter(|bar| bar.interval == interval);
        let told: Vec<_> = of_interval
            .map(|b| (b.revision, b.high.to_string(), b.close.to_string(), b.volume.to_string(), b.trade_count))
            .collect();
        let last = told.last().unwrap();
        assert_eq!(told[0], (0, "71000".to_owned(), "70500".to_owned(), "30".to_owned(), 3), "{interval}");
        assert_eq!((&last.1[..], &last.2[..], &last.3[..], last.4), ("70500", "70500", "20", 2), "{interval}");
    }
}

#[test]
fn a_cancel_within_the_lateness_is_one_revision_that_says_so() {
    let high = trade("005930", 2, kst("10:00:30"), 71_000);
    let log = [
        Record::Control(up(kst("09:00:00"))),
        Record::Trade(trade("005930", 1, kst("10:00:10"), 70_000)),
        Record::Trade(high.clone()),
        Record::Control(heartbeat(kst("10:01:00"))),
        amended(&high, Condition::Cancel, 71_000),
        Record::Control(heartbeat(kst("10:01:01"))),
        Record::Control(heartbeat(kst("10:16:00"))),
    ];
    let bars = run(&Config::default(), &log);
    let told: Vec<_> = bars
        .iter()
        .map(|(at, b)| (*at, b.interval.to_string(), b.revision, b.high.to_string(), b.revision_reason.as_deref()))
        .collect();
    let bar = |at, interval: &str, revision, high: &str, reason| (at, interval.to_owned(), revision, high.to_owned(), reason);
    assert_eq!(
        told,
        [
            bar(3, "1m", 0, "71000", None),
            bar(5, "1m", 1, "70000", Some("cancel")),
            bar(6, "5m", 0, "70000", None),
            bar(6, "15m", 0, "70000", None)
        ]
    );
}

#[test]
fn a_bar_whose_every_trade_was_taken_back_is_published_once_more_without_any() {
    for emit_empty in [false, true] {
        let config = Config { emit_empty, ..Config::default() };
        let only = trade("005930", 2, kst("10:01:30"), 71_000);
        let log = [
            Record::Control(up(kst("09:00:00"))),
            Record::Trade(trade("005930", 1, kst("10:00:10"), 70_000)),
            Record::Trade(only.clone()),
            Record::Control(heartbeat(kst("10:02:00"))),
            amended(&only, Condition::Cancel, 71_000),
            Record::Control(heartbeat(kst("10:02:01"))),
            Record::Trade(trade("005930", 3, kst("10:01:40"), 70_300)),
            Record::Control(heartbeat(kst("10:02:02"))),
        ];
        let bars = run(&config, &log);
        let minute = |open: &str, count, revision, quality| (open.to_owned(), count, revision, quality);
        assert_eq!(
            named(&bars, "005930", Interval::ONE_MINUTE),
            [
                minute("10:00", 1, 0, Quality::Complete),
                minute("10:01", 1, 0, Quality::Complete),
                minute("10:01", 0, 1, Quality::NoTrades),
                minute("10:01", 1, 2, Quality::Complete)
            ]
        );
        let empty = &bars[2].1;
        let price = if emit_empty { "70000" } else { "71000" };
        assert_eq!((empty.close.to_string().as_str(), empty.volume.to_string().as_str()), (price, "0"), "{emit_empty}");
    }
}

#[test]
fn corrections_replace_and_repeats_of_any_of_it_are_duplicates() {
    let mut partition = Partition::new(Config::default());
    let mut out = Vec::new();
    let mut offset = 0;
    let mut say = |record: Record, bars: &mut Vec<Bar>| {
        offset += 1;
        match record {
            Record::Trade(trade) => Some(partition.on_trade(&trade, offset, bars)),
            Record::Control(control) => {
                partition.on_control(BarSource::Trades, &control, offset, bars);
                None
            }
        }
    };
    let first = trade("005930", 1, kst("10:00:10"), 70_000);
    let second = trade("005930", 2, kst("10:00:20"), 70_100);
    assert_eq!(say(Record::Control(up(kst("09:00:00"))), &mut out), None);
    assert_eq!(say(Record::Trade(first.clone()), &mut out), Some(Outcome::Used));
    assert_eq!(say(amended(&first, Condition::Correction, 69_000), &mut out), Some(Outcome::Used));
    assert_eq!(say(amended(&first, Condition::Correction, 69_000), &mut out), Some(Outcome::Duplicate), "said before");
    assert_eq!(say(Record::Trade(first.clone()), &mut out), Some(Outcome::Duplicate), "the trade that was corrected");
    assert_eq!(say(amended(&second, Condition::Cancel, 70_100), &mut out), Some(Outcome::Used), "it overtook its trade");
    assert_eq!(say(Record::Trade(second.clone()), &mut out), Some(Outcome::Duplicate));
    assert_eq!(say(amended(&second, Condition::Cancel, 70_100), &mut out), Some(Outcome::Duplicate));
    assert_eq!(
        say(amended(&second, Condition::Correction, 69_500), &mut out),
        Some(Outcome::Duplicate),
        "taken back is taken back"
    );
    say(Record::Control(heartbeat(kst("10:01:00"))), &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].open.to_string().as_str(), out[0].trade_count, out[0].revision), ("69000", 1, 0));

    say(Record::Control(heartbeat(kst("10:10:00"))), &mut out);
    let late = say(amended(&first, Condition::Cancel, 69_000), &mut out);
    assert!(matches!(late, Some(Outcome::Late(_))), "{late:?}");
    let nameless = Trade { trade_id: None, ..trade("005930", 3, kst("10:10:00"), 1) };
    assert!(matches!(say(amended(&nameless, Condition::Cancel, 1), &mut out), Some(Outcome::Quarantined(_))));
    let coin = Trade { instrument: Instrument::new("BITSTAMP", "BTCUSD").unwrap(), ..trade("005930", 3, kst("10:10:00"), 1) };
    let unexpected = say(amended(&coin, Condition::Cancel, 1), &mut out);
    assert!(matches!(&unexpected, Some(Outcome::Quarantined(why)) if why.contains("venues.toml")), "{unexpected:?}");
}

#[test]
fn a_cancelled_minute_leaves_the_flows() {
    let mut partition = Partition::new(Config::default());
    let mut bars = Vec::new();
    partition.on_control(BarSource::Trades, &up(kst("09:00:00")), 0, &mut bars);
    let only = trade("005930", 1, kst("10:00:10"), 70_000);
    partition.on_trade(&only, 1, &mut bars);
    partition.on_control(BarSource::Trades, &heartbeat(kst("10:01:00")), 2, &mut bars);
    let bought: i128 = partition.take_flows().1.iter().map(|flow| flow.inflow.scaled()).sum();
    assert_eq!(bought, 700_000 * 100_000_000);
    let cancel = Trade { conditions: Conditions::NONE.with(Condition::Cancel), ..only };
    assert_eq!(partition.on_trade(&cancel, 3, &mut bars), Outcome::Used);
    partition.on_control(BarSource::Trades, &heartbeat(kst("10:01:01")), 4, &mut bars);
    let (partials, instruments) = partition.take_flows();
    assert_eq!(
        instruments.iter().map(|flow| (flow.inflow.scaled(), flow.input_count, flow.revision)).collect::<Vec<_>>(),
        [(0, 0, 1)]
    );
    assert!(
        partials.iter().flat_map(|partial| &partial.sums).all(|(_, _, sum)| sum.buy.scaled() < 0 && sum.inputs == -1),
        "{partials:?}"
    );
    assert!(!partials.is_empty());
}

#[test]
fn a_crash_after_a_cancel_that_emptied_a_minute_changes_nothing() {
    let only = trade("005930", 1, kst("10:00:10"), 70_000);
    let log = [
        Record::Control(up(kst("09:00:00"))),
        Record::Trade(only.clone()),
        amended(&only, Condition::Cancel, 70_000),
        Record::Control(heartbeat(kst("10:01:30"))),
        Record::Trade(trade("005930", 2, kst("10:00:20"), 70_100)),
        Record::Control(heartbeat(kst("10:01:30"))),
        Record::Trade(trade("005930", 3, kst("10:00:40"), 70_200)),
        Record::Control(heartbeat(kst("10:02:00"))),
    ];
    let bars = run_with(&Config::default(), &log, usize::MAX);
    for restart in 1..log.len() {
        assert_eq!(run_with(&Config::default(), &log, restart), bars, "restarted every {restart} records");
    }
    assert_eq!(bars.last().map(|(_, bar)| bar.trade_count), Some(2));
}

#[test]
fn a_corrected_close_is_the_one_that_quiet_minutes_carry() {
    let config = Config { emit_empty: true, ..Config::default() };
    let last = trade("005930", 2, kst("10:00:10"), 100);
    let log = [
        Record::Control(up(kst("09:00:00"))),
        Record::Trade(trade("005930", 1, kst("09:59:10"), 95)),
        Record::Trade(last.clone()),
        Record::Control(heartbeat(kst("10:01:00"))),
        amended(&last, Condition::Correction, 101),
        Record::Control(heartbeat(kst("10:02:00"))),
    ];
    let bars = run(&config, &log);
    let quiet = bars.iter().map(|(_, bar)| bar).find(|bar| bar.quality == Quality::NoTrades).unwrap();
    assert_eq!((quiet.open_time, quiet.close.to_string().as_str()), (kst("10:01:00"), "101"));
}

#[test]
fn a_correction_that_does_not_fit_leaves_its_trade() {
    // 1e8 shares at 1e9: the day's share of turnover holds a thousand of them, and not 1e19 more
    let sized =
        |id, price: i64, size: &str| Trade { size: Some(size.parse().unwrap()), ..trade("005930", id, kst("10:00:10"), price) };
    let mut partition = Partition::new(Config::default());
    let mut bars = Vec::new();
    partition.on_control(BarSource::Trades, &up(kst("09:00:00")), 0, &mut bars);
    let (large, small) = (sized(1, 9_000_000_000, "1300000000"), sized(2, 1, "1"));
    assert_eq!(partition.on_trade(&large, 1, &mut bars), Outcome::Used);
    assert_eq!(partition.on_trade(&small, 2, &mut bars), Outcome::Used);
    let correction = Trade { conditions: Conditions::NONE.with(Condition::Correction), ..sized(2, 9_000_000_000, "1300000000") };
    let refused = (3..2_000).map(|offset| {
        let more = Trade { trade_id: Some(offset.to_string()), sequence: Some(offset), ..large.clone() };
        partition.on_trade(&more, offset, &mut bars)
    });
    let fitted = refused.take_while(|outcome| *outcome == Outcome::Used).count();
    assert!(matches!(partition.on_trade(&correction, 5_000, &mut bars), Outcome::Refused(_)), "{fitted} fitted");
    partition.on_control(BarSource::Trades, &heartbeat(kst("10:01:00")), 5_001, &mut bars);
    assert_eq!(bars[0].trade_count, i64::try_from(fitted).unwrap() + 2, "the small one still counts");
}

fn changed(hours: DayHours) -> Control {
    let calendar = Calendar::of_venue("KRX");
    CalendarChange { calendar, date: jiff::civil::date(2026, 11, 20), hours }.control(kst("08:00:00"))
}

fn hours(open: &str, close: &str) -> DayHours {
    DayHours::Regular { open: kst(open), close: kst(close) }
}

/// From 11:30 to 12:30, up to 1.5 s out of order: trades until 11:50, closing prints up to half a minute after 12:00, some trades later.
fn noon(random: &mut ChaCha8Rng) -> (Vec<Record>, Vec<Trade>) {
    let mut trades = Vec::new();
    let mut at = kst("11:30:00");
    while at < kst("12:25:00") {
        let id = i64::try_from(trades.len()).unwrap();
        let symbol = if id % 3 == 0 { "000660" } else { "005930" };
        if at < kst("11:50:00") || at > kst("12:03:30") {
            trades.push(trade(symbol, id, at, random.random_range(70_000..71_000)));
        }
        at = at.plus_micros(random.random_range(1..40 * SECOND));
    }
    for (id, symbol) in [(9_000, "005930"), (9_001, "000660")] {
        trades.push(trade(symbol, id, kst("12:00:00").plus_micros(random.random_range(0..30 * SECOND)), 70_500));
    }
    trades.sort_by_key(|trade| (trade.event_time, trade.sequence));
    let mut arrivals: Vec<(Timestamp, Record)> = Vec::new();
    for trade in &trades {
        arrivals.push((trade.event_time.plus_micros(random.random_range(0..3 * SECOND / 2)), Record::Trade(trade.clone())));
    }
    let mut beat = kst("11:30:00");
    while beat <= kst("12:40:00") {
        arrivals.push((beat, Record::Control(heartbeat(beat.plus_micros(-2 * SECOND)))));
        beat = beat.plus_micros(5 * SECOND);
    }
    arrivals.sort_by_key(|(at, _)| *at);
    let begin = Record::Control(up(kst("09:00:00")));
    (std::iter::once(begin).chain(arrivals.into_iter().map(|(_, record)| record)).collect(), trades)
}

fn plain(bars: &[(usize, Bar)]) -> Vec<Bar> {
    bars.iter().map(|(_, bar)| bar.clone()).collect()
}

#[test]
fn an_early_close_holds_from_wherever_it_stands_and_however_often() {
    let early = Record::Control(changed(hours("09:00:00", "12:00:00")));
    let krx = Calendar::of_venue("KRX");
    let by = krx.changed(&BTreeMap::from([(kst("00:00:00"), hours("09:00:00", "12:00:00"))])).unwrap();
    for seed in 0..4 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (log, trades) = noon(&mut random);
        let is_before = |record: &Record| match record {
            Record::Trade(trade) => trade.event_time < kst("11:49:00"),
            Record::Control(control) => control.clock < kst("11:49:00"),
        };
        let last = log.iter().rposition(is_before).unwrap();
        let with = |places: &[usize]| {
            let mut log = log.clone();
            for place in places {
                log.insert(*place, early.clone());
            }
            log
        };
        let once = with(&[0]);
        let bars = run(&Config::default(), &once);
        let expected = marketflow_oracle::recompute_by(&trades, &Interval::STANDARD, |_| &by);
        let differences = marketflow_oracle::differences(&expected, bars.iter().map(|(_, bar)| bar), 5);
        assert_eq!(differences, Vec::<String>::new(), "seed {seed}");
        for (at, bar) in bars.iter().filter(|(_, bar)| bar.open_time == kst("12:00:00")) {
            let Record::Control(control) = &once[*at] else { panic!("published by a trade: {bar:?}") };
            assert!(control.complete_through >= Some(kst("12:00:35")), "seed {seed}: before the grace of the close: {bar:?}");
            assert_eq!((bar.trade_count, bar.revision), (1, 0), "seed {seed}: the closing print alone: {bar:?}");
        }
        let place = random.random_range(0..=last);
        for places in [vec![place], vec![place, last, log.len()], vec![0, place, place + 1]] {
            assert_eq!(plain(&run(&Config::default(), &with(&places))), plain(&bars), "seed {seed}: said at {places:?}");
        }
        // said, taken back, and said again
        let mut undone = with(&[0, last]);
        undone.insert(place + 1, Record::Control(changed(DayHours::AsPlanned)));
        assert_eq!(plain(&run(&Config::default(), &undone)), plain(&bars), "seed {seed}: taken back at {place}");
        let without = run(&Config::default(), &log);
        assert_ne!(plain(&without), plain(&bars), "seed {seed}: the change changes nothing");
        // the other topic's calendar is its own
        let mut partition = Partition::new(Config::default());
        partition.on_control(BarSource::Candles, &changed(hours("09:00:00", "12:00:00")), 0, &mut Vec::new());
        let mut out = Vec::new();
        for (record, offset) in log.iter().zip(0..) {
            match record {
                Record::Trade(trade) => drop(partition.on_trade(trade, offset, &mut out)),
                Record::Control(control) => drop(partition.on_control(BarSource::Trades, control, offset, &mut out)),
            }
        }
        assert_eq!(out, plain(&without), "seed {seed}");
    }
}

#[test]
fn a_change_of_what_was_reached_already_is_refused_and_changes_nothing() {
    let early = changed(hours("09:00:00", "12:00:00"));
    let reached =
        |partition: &mut Partition, control: &Control| partition.on_control(BarSource::Trades, control, 100, &mut Vec::new());
    let after = |trade_at: &str, beat: &str| {
        let mut partition = Partition::new(Config::default());
        partition.on_control(BarSource::Trades, &up(kst("09:00:00")), 0, &mut Vec::new());
        partition.on_trade(&trade("005930", 1, kst(trade_at), 70_000), 1, &mut Vec::new());
        partition.on_control(BarSource::Trades, &heartbeat(kst(beat)), 2, &mut Vec::new());
        partition.take_changes();
        partition
    };
    // the auction of the early close begins at 11:50
    assert_eq!(reached(&mut after("11:49:59", "11:50:00"), &early), Heard::Followed);
    for (trade_at, beat) in [("11:50:01", "11:49:59"), ("11:49:59", "11:50:01"), ("11:49:59", "21:00:00")] {
        let mut partition = after(trade_at, beat);
        let refused = reached(&mut partition, &early);
        assert!(
            matches!(&refused, Heard::Refused(why) if why.starts_with("kis has reached 2026-11-20T02:50:00Z")),
            "{refused:?}"
        );
        assert_eq!(partition.take_changes(), [], "nothing of it is kept");
    }
    // one that is known already is followed at any time, and so is one of a day to come, in the state that was restored too
    let mut partition = after("09:30:00", "09:31:00");
    assert_eq!(reached(&mut partition, &early), Heard::Followed);
    let changes = partition.take_changes();
    let mut partition = Partition::restore(Config::default(), changes.clone()).unwrap();
    assert_eq!(partition.take_changes(), []);
    reached(&mut partition, &heartbeat(kst("21:00:00")));
    assert_eq!(reached(&mut partition, &early), Heard::Followed);
    let tomorrow = CalendarChange { date: jiff::civil::date(2026, 11, 23), ..CalendarChange::of_control(&early).unwrap() };
    let closed = CalendarChange { hours: DayHours::Closed, ..tomorrow };
    assert_eq!(reached(&mut partition, &closed.control(kst("08:00:00"))), Heard::Followed);
    // what no calendar can be
    let odd = Control { feed: Feed::new("calendar:nowhere"), ..early.clone() };
    assert_eq!(reached(&mut partition, &odd), Heard::Refused("calendar nowhere: there is no such calendar".into()));

    // a partition that is added knows it too
    let moved = repartition(vec![changes], 2, |_| 0).unwrap();
    let of_new = moved.into_iter().filter(|(to, _)| *to == 1).map(|(_, change)| change);
    let mut new = Partition::restore(Config::default(), of_new).unwrap();
    new.on_trade(&trade("000660", 1, kst("11:49:00"), 70_000), 0, &mut Vec::new());
    new.on_trade(&trade("000660", 2, kst("12:00:20"), 70_000), 1, &mut Vec::new());
    let mut out = Vec::new();
    new.on_control(BarSource::Trades, &heartbeat(kst("12:00:34")), 2, &mut out);
    assert!(out.iter().all(|bar| bar.open_time != kst("12:00:00")), "before the grace of its close: {out:?}");
}

#[test]
fn a_holiday_declared_makes_no_session_and_one_taken_back_makes_one() {
    let quiet = |log: &[Record]| {
        let config = Config { emit_empty: true, ..Config::default() };
        run(&config, log).iter().filter(|(_, bar)| bar.quality == Quality::NoTrades).count()
    };
    let mut log = vec![Record::Control(up(kst("07:00:00")))];
    log.push(Record::Trade(trade("005930", 1, kst("07:00:10"), 70_000)));
    log.push(Record::Control(heartbeat(kst("07:30:00"))));
    log.push(Record::Control(heartbeat(kst("21:00:00"))));
    assert!(quiet(&log) >= 381, "each minute without a trade of a normal day: {}", quiet(&log));
    log.insert(1, Record::Control(changed(DayHours::Closed)));
    assert_eq!(quiet(&log), 0);
    log.insert(2, Record::Control(changed(hours("09:00:00", "15:30:00"))));
    assert!(quiet(&log) >= 381);
}
