//! What holds for every list of trades.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use marketflow_engine::{Change, Config, Partition};
use marketflow_model::{
    Bar, BarSource, Condition, Conditions, Control, ControlKind, Feed, FeedState, Instrument, Interval, Price, Quantity, Side,
    Source, Timestamp, Trade, Turnover,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// 2026-11-20T00:00:00Z = 09:00 in Seoul, a normal day.
const START: i64 = 1_795_132_800_000_000;
const SECOND: i64 = 1_000_000;

fn feed() -> Feed {
    Feed::new("any")
}

prop_compose! {
    /// Up to seven hours of trades of a market that closes and one that does not; venue numbers follow event time.
    fn trades()(parts in prop::collection::vec((0..7 * 3600 * SECOND, 1..10_000_000_000_000i64, prop::option::of(1..1_000_000_000_000i128), 0..3usize, any::<bool>()), 1..120)) -> Vec<Trade> {
        let mut parts = parts;
        parts.sort();
        parts.into_iter().zip(1i64..).map(|((at, price, size, side, is_krx), id)| Trade {
            instrument: if is_krx { Instrument::new("KRX", "005930").unwrap() } else { Instrument::new("BITSTAMP", "BTCUSD").unwrap() },
            feed: feed(),
            event_time: Timestamp::from_micros(START + at),
            receive_time: Timestamp::from_micros(START + at),
            price: Price::from_scaled(price).unwrap(),
            size: size.map(|s| Quantity::from_scaled(s).unwrap()),
            side: [Side::Buy, Side::Sell, Side::Unknown][side],
            trade_id: Some(id.to_string()),
            sequence: Some(id),
            import_row: None,
            conditions: Conditions::NONE,
            source: Source::Websocket,
        }).collect()
    }
}

fn control(kind: ControlKind, at: i64) -> Control {
    Control::new(kind, feed(), Timestamp::from_micros(at))
}

/// On time = not later than the watermark that data alone moves, so the order of arrival must not matter: one lateness covers the day.
fn patient() -> Config {
    Config { allowed_lateness_micros: 86_400 * SECOND, ..Config::default() }
}

/// Heartbeats between the trades close windows that later ones revise; the state goes through the changelog every `restart` records.
fn run_with_restarts(trades: &[Trade], restart: usize) -> Vec<Bar> {
    let mut partition = Partition::new(patient());
    let (mut bars, mut changelog) = (Vec::new(), Vec::new());
    let up =
        Control { state: FeedState::Up, from: Some(Timestamp::from_micros(START)), ..control(ControlKind::FeedState, START) };
    partition.on_control(BarSource::Trades, &up, 0, &mut bars);
    let beats = trades.len() / 5 + 1;
    for (trade, at) in trades.iter().zip(1usize..) {
        partition.on_trade(trade, i64::try_from(at * 2).unwrap(), &mut bars);
        if at % 5 == 0 {
            let hours = i64::try_from(8 * 3600 * at / 5 / beats).unwrap();
            let through = Timestamp::from_micros(START + hours * SECOND);
            let beat = Control { complete_through: Some(through), ..control(ControlKind::Heartbeat, through.micros()) };
            partition.on_control(BarSource::Trades, &beat, i64::try_from(at * 2 + 1).unwrap(), &mut bars);
        }
        if at % restart == 0 {
            changelog.extend(partition.take_changes());
            partition = Partition::restore(patient(), changelog.iter().cloned()).unwrap();
        }
    }
    let end = START + 86_400 * SECOND;
    let beat = Control { complete_through: Some(Timestamp::from_micros(end)), ..control(ControlKind::Heartbeat, end) };
    partition.on_control(BarSource::Trades, &beat, i64::MAX, &mut bars);
    bars
}

/// All trades on time, then one heartbeat past the end of the day.
fn run(trades: &[Trade]) -> (Vec<Bar>, Vec<Change>) {
    let mut partition = Partition::new(patient());
    let mut bars = Vec::new();
    let up =
        Control { state: FeedState::Up, from: Some(Timestamp::from_micros(START)), ..control(ControlKind::FeedState, START) };
    partition.on_control(BarSource::Trades, &up, 0, &mut bars);
    for (trade, offset) in trades.iter().zip(1..) {
        partition.on_trade(trade, offset, &mut bars);
    }
    let through = Some(Timestamp::from_micros(START + 86_400 * SECOND));
    let beat = Control { complete_through: through, ..control(ControlKind::Heartbeat, START + 86_400 * SECOND) };
    partition.on_control(BarSource::Trades, &beat, i64::MAX, &mut bars);
    let changes = partition.take_changes();
    (bars, changes)
}

fn of(bars: &[Bar], interval: Interval) -> impl Iterator<Item = &Bar> {
    bars.iter().filter(move |b| b.interval == interval)
}

proptest! {
    #[test]
    fn volume_and_count_are_conserved_in_every_interval(trades in trades()) {
        let (bars, _) = run(&trades);
        let volume: i128 = trades.iter().filter_map(|t| t.size).map(Quantity::scaled).sum();
        for interval in Interval::STANDARD {
            prop_assert_eq!(of(&bars, interval).map(|b| b.volume.scaled()).sum::<i128>(), volume);
            prop_assert_eq!(of(&bars, interval).map(|b| b.trade_count).sum::<i64>(), i64::try_from(trades.len()).unwrap());
        }
    }

    #[test]
    fn prices_and_sides_stay_inside_their_bounds(trades in trades()) {
        for bar in run(&trades).0 {
            prop_assert!(bar.low <= bar.open && bar.open <= bar.high, "{:?}", bar);
            prop_assert!(bar.low <= bar.close && bar.close <= bar.high, "{:?}", bar);
            prop_assert!(bar.buy_volume.scaled() + bar.sell_volume.scaled() <= bar.volume.scaled(), "{:?}", bar);
            prop_assert!(bar.vwap.is_none_or(|v| bar.low <= v && v <= bar.high), "{:?}", bar);
            prop_assert_eq!(bar.revision, 0);
        }
    }

    #[test]
    fn the_order_of_on_time_trades_is_irrelevant((trades, shuffled) in trades().prop_flat_map(|t| (Just(t.clone()), Just(t).prop_shuffle()))) {
        prop_assert_eq!(run(&shuffled).0, run(&trades).0);
    }

    #[test]
    fn longer_bars_are_folds_of_one_minute_bars(trades in trades()) {
        let (bars, _) = run(&trades);
        for interval in [Interval::FIVE_MINUTES, Interval::FIFTEEN_MINUTES] {
            for bar in of(&bars, interval) {
                // the longer bar that opened last at or before a minute holds it
                let mut holders: Vec<Timestamp> = of(&bars, interval).filter(|b| b.instrument == bar.instrument).map(|b| b.open_time).collect();
                holders.sort_unstable();
                let holder = |minute: Timestamp| holders.iter().rfind(|open| **open <= minute).copied();
                let minutes: BTreeMap<Timestamp, &Bar> = of(&bars, Interval::ONE_MINUTE)
                    .filter(|m| m.instrument == bar.instrument && holder(m.open_time) == Some(bar.open_time))
                    .map(|m| (m.open_time, m))
                    .collect();
                let (first, last) = (minutes.values().next().unwrap(), minutes.values().next_back().unwrap());
                prop_assert!(last.close_time <= bar.close_time);
                prop_assert_eq!((bar.open, bar.close), (first.open, last.close));
                prop_assert_eq!(Some(bar.high), minutes.values().map(|m| m.high).max());
                prop_assert_eq!(Some(bar.low), minutes.values().map(|m| m.low).min());
                prop_assert_eq!(bar.volume.scaled(), minutes.values().map(|m| m.volume.scaled()).sum::<i128>());
                prop_assert_eq!(bar.trade_count, minutes.values().map(|m| m.trade_count).sum::<i64>());
            }
        }
    }

    #[test]
    fn turnover_is_folded_unrounded(trades in trades()) {
        let exact = trades.iter().map(|t| Turnover::of(t.price, t.size.unwrap_or(Quantity::ZERO)).unwrap().scaled()).sum::<i128>();
        let bars = run(&trades).0;
        for interval in Interval::STANDARD {
            let (sum, count) = of(&bars, interval).fold((0, 0), |(sum, n), b| (sum + b.turnover.scaled(), n + 1));
            // each bar is rounded once: off by at most half a unit
            prop_assert!((sum * 100_000_000 - exact).abs() <= count * 50_000_000, "{} bars", count);
        }
    }

    #[test]
    fn trades_taken_back_and_corrected_count_as_if_they_had_always_been_so(
        (trades, amendments) in trades().prop_flat_map(|trades| {
            let amendment = (0..trades.len(), any::<prop::sample::Index>(), any::<bool>(), 1..10_000_000_000_000i64);
            (Just(trades), prop::collection::vec(amendment, 0..40))
        })
    ) {
        let mut log: Vec<Trade> = trades.into_iter().map(|trade| Trade { instrument: Instrument::new("KRX", "005930").unwrap(), ..trade }).collect();
        for (of, place, is_cancel, price) in amendments {
            let condition = if is_cancel { Condition::Cancel } else { Condition::Correction };
            let original = log.iter().filter(|trade| !trade.conditions.amends()).nth(of).unwrap().clone();
            let amendment = Trade { price: Price::from_scaled(price).unwrap(), conditions: Conditions::NONE.with(condition), ..original };
            log.insert(place.index(log.len() + 1), amendment);
        }
        let bars = run(&log).0;
        let expected = marketflow_oracle::recompute(&log, &Interval::STANDARD);
        prop_assert_eq!(marketflow_oracle::differences(&expected, &bars, 5), Vec::<String>::new());
        let revised = run_with_restarts(&log, usize::MAX);
        prop_assert_eq!(marketflow_oracle::differences(&expected, &revised, 5), Vec::<String>::new());
        for restart in [1, 3] {
            prop_assert_eq!(&run_with_restarts(&log, restart), &revised, "restarted every {} records", restart);
        }
    }

    #[test]
    fn a_replay_gives_the_same_bytes(trades in trades()) {
        prop_assert_eq!(run(&trades), run(&trades));
    }
}
