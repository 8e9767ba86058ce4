//! The check at the end of the demo, pure: the venue's truth, what stands in Kafka, what ClickHouse shows, and where they differ.
//!
//! Counters of running parts play no role in it (they start anew when a part is killed): every number is counted in the truth file, the topics or
//! the tables. Bars are judged by `crates/oracle`, which shares no code with the engine.
//!
//! Next: `statement.rs`.

use anyhow::{Context, bail};
use marketflow_model::{
    Bar, Calendar, Control, ControlKind, DecimalError, Feed, Instrument, Interval, Price, Quality, Quantity, Side, Source,
    Timestamp, Trade,
};
use marketflow_oracle::{BarKey, ExpectedBar, differences, recompute};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::BufRead;

/// Differences shown; the rest is counted.
const SHOWN: usize = 5;

/// What the simulator says it sent.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// Every trade that happened at the venue and can be a trade, in the venue's order.
    pub(super) trades: Vec<Trade>,
    /// Those among them that a bar must not count: size 0.
    pub(super) zero_sizes: u64,
    /// Trades with more decimals than we keep: they never become a record of `market.trades.v1`.
    pub(super) too_precise: u64,
    /// Copies sent on top.
    pub(super) copies: u64,
    /// Trades of the tape that were not played.
    pub(super) not_played: u64,
    /// Faults that struck.
    pub(super) faults: u64,
}

/// A line of the truth file, as far as the check needs it; `docs/simulator.md` lists all fields.
#[derive(Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
enum Line {
    Trade {
        instrument: String,
        id: String,
        event_time_us: i64,
        price: String,
        size: String,
        side: String,
    },
    Totals {
        copies: u64,
        faults: u64,
        not_played: u64,
    },
    #[serde(other)]
    Other,
}

impl Truth {
    /// Reads a truth file (NDJSON).
    ///
    /// # Errors
    /// A line that is none of its kinds, or a file that ends before its totals.
    pub(super) fn read(source: impl BufRead) -> anyhow::Result<Self> {
        let mut truth = Self::default();
        let mut whole = false;
        for (index, text) in source.lines().enumerate() {
            let text = text.context("cannot read the truth file")?;
            let line = serde_json::from_str(&text).with_context(|| format!("truth file, line {}", index + 1))?;
            match line {
                Line::Trade { instrument, id, event_time_us, price, size, side } => {
                    let trade = trade(&instrument, &id, event_time_us, &price, &size, &side);
                    match trade.with_context(|| format!("truth file, line {}", index + 1))? {
                        Some(trade) => truth.take(trade),
                        None => truth.too_precise += 1,
                    }
                }
                Line::Totals { copies, faults, not_played } => {
                    (truth.copies, truth.faults, truth.not_played) = (copies, faults, not_played);
                    whole = true;
                }
                Line::Other => {}
            }
        }
        if whole { Ok(truth) } else { bail!("the truth file ends before its totals") }
    }

    fn take(&mut self, trade: Trade) {
        self.zero_sizes += u64::from(trade.size.is_some_and(Quantity::is_zero));
        self.trades.push(trade);
    }
}

fn trade(instrument: &str, id: &str, event_time_us: i64, price: &str, size: &str, side: &str) -> anyhow::Result<Option<Trade>> {
    let (price, size) = match (price.parse::<Price>(), size.parse::<Quantity>()) {
        (Err(DecimalError::TooPrecise), _) | (_, Err(DecimalError::TooPrecise)) => return Ok(None),
        (price, size) => (price.context("price")?, size.context("size")?),
    };
    let event_time = Timestamp::from_micros(event_time_us);
    Ok(Some(Trade {
        instrument: instrument.parse()?,
        feed: Feed::new("truth"),
        event_time,
        receive_time: event_time,
        price,
        size: Some(size),
        side: match side {
            "buy" => Side::Buy,
            "sell" => Side::Sell,
            _ => Side::Unknown,
        },
        trade_id: Some(id.to_owned()),
        sequence: Some(id.parse().with_context(|| format!("id {id:?}"))?),
        import_row: None,
        conditions: marketflow_model::Conditions::NONE,
        source: Source::Unknown,
    }))
}

/// A record of `market.trades.v1`.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) trade: Trade,
    /// Whether an envelope in one of the topics for set-aside records names its place.
    pub(super) set_aside: bool,
}

/// What stands in the topics when everything has settled, read back `read_committed`.
#[derive(Debug, Default)]
pub(super) struct Topics {
    /// Every trade of `market.trades.v1`, in log order per partition.
    pub(super) trades: Vec<Received>,
    /// What became of each gap, by its id.
    pub(super) gaps: BTreeMap<String, Control>,
    /// Per instrument: complete up to this venue time, by the newest control of its partition.
    pub(super) complete_through: BTreeMap<Instrument, Timestamp>,
    /// Every record of `market.bars.v1`, revisions too, in log order per partition.
    pub(super) bars: Vec<Bar>,
    /// What was set aside: class → count, only records that came from `market.trades.v1`.
    pub(super) late: u64,
    pub(super) quarantined: u64,
    pub(super) dead_lettered: u64,
    /// Records set aside before they became one of `market.trades.v1`: frames that could not be read or held.
    pub(super) refused_frames: u64,
    /// Why, and how often.
    pub(super) reasons: BTreeMap<String, u64>,
}

impl Topics {
    /// The trades that were not set aside.
    fn believed(&self) -> Vec<Trade> {
        self.trades.iter().filter(|received| !received.set_aside).map(|received| received.trade.clone()).collect()
    }
}

/// Where every received trade went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Ledger {
    pub(super) received: u64,
    pub(super) used: u64,
    pub(super) late: u64,
    pub(super) duplicate: u64,
    pub(super) quarantined: u64,
    pub(super) dead_lettered: u64,
    pub(super) not_selected: u64,
}

impl Ledger {
    /// received = used + late + duplicate + quarantined + dead-lettered + not selected.
    pub(super) fn adds_up(&self) -> bool {
        self.received == self.used + self.late + self.duplicate + self.quarantined + self.dead_lettered + self.not_selected
    }
}

/// Bars of one interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct IntervalCount {
    pub(super) interval: Interval,
    /// Bars in ClickHouse (`bars_final`).
    pub(super) bars: u64,
    /// Records of `market.bars.v1` that revise an earlier one.
    pub(super) revisions: u64,
}

/// Two descriptions of the same thing, compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Comparison {
    /// How many were compared.
    pub(super) compared: usize,
    /// How many differ.
    pub(super) different: usize,
    /// The first of those, in words.
    pub(super) first: Vec<String>,
}

impl Comparison {
    pub(super) fn equal(&self) -> bool {
        self.different == 0
    }

    /// From the words on each difference.
    pub(super) fn of(compared: usize, mut lines: Vec<String>) -> Self {
        let different = lines.len();
        lines.truncate(SHOWN);
        Self { compared, different, first: lines }
    }
}

/// What never arrived, where the venue cannot be asked for it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Holes {
    /// Gaps that ended with nothing missing.
    pub(super) filled: u64,
    /// Gaps that were given up, aloud.
    pub(super) abandoned: u64,
    /// Trades that happened and never arrived.
    pub(super) missing: u64,
    /// Each of those lies in an abandoned gap, and each abandoned gap misses some.
    pub(super) told: Comparison,
    /// The bars that an abandoned gap touches say so, and no others do.
    pub(super) marked: Comparison,
}

/// The bar of a closing auction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ClosingBar {
    pub(super) instrument: Instrument,
    pub(super) open_time: Timestamp,
    pub(super) close: Price,
    pub(super) volume: Quantity,
}

/// Everything the statement says.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Findings {
    /// Trades that happened at the venue; `None` where only the venue knows.
    pub(super) sent: Option<Sent>,
    pub(super) ledger: Ledger,
    pub(super) adds_up: bool,
    pub(super) refused_frames: u64,
    pub(super) reasons: BTreeMap<String, u64>,
    pub(super) intervals: Vec<IntervalCount>,
    pub(super) qualities: BTreeMap<String, u64>,
    /// The one-minute bars that hold only a closing auction's print.
    pub(super) closing: Vec<ClosingBar>,
    /// `None` where the venue can be asked for what was missed: there nothing may be missing.
    pub(super) holes: Option<Holes>,
    /// The venue's trades against the trades in Kafka, by id; `None` where only the venue knows.
    pub(super) trades_in_kafka: Option<Comparison>,
    /// The recomputed bars against the last revisions in Kafka.
    pub(super) bars_in_kafka: Comparison,
    /// The recomputed bars against `bars_final` in ClickHouse.
    pub(super) bars_in_clickhouse: Comparison,
}

/// What the venue sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Sent {
    pub(super) trades: u64,
    pub(super) zero_sizes: u64,
    pub(super) copies: u64,
    pub(super) not_played: u64,
    pub(super) faults: u64,
}

impl Findings {
    /// Whether every check said yes, and there was something to check.
    pub(super) fn hold(&self) -> bool {
        self.adds_up
            && !self.nothing_was_checked()
            && self.trades_in_kafka.as_ref().is_none_or(Comparison::equal)
            && self.holes.as_ref().is_none_or(|holes| holes.told.equal() && holes.marked.equal())
            && self.bars_in_kafka.equal()
            && self.bars_in_clickhouse.equal()
    }

    /// No trade came, or no window was complete when the session ended.
    pub(super) fn nothing_was_checked(&self) -> bool {
        self.ledger.received == 0 || self.bars_in_clickhouse.compared == 0
    }
}

/// Judges a session. With the venue's truth, all of its bars must be there; without, the trades in Kafka are the truth and the windows that
/// were complete at the end are judged. Where the venue does not tell the past, what was missed is left out and must lie in gaps that say so.
pub(super) fn judge(truth: Option<&Truth>, tells_the_past: bool, topics: &Topics, shown: &[Bar]) -> Findings {
    let (arrived, missing) = match truth {
        Some(truth) if !tells_the_past => {
            let received: HashSet<_> = topics.trades.iter().map(|r| (&r.trade.instrument, r.trade.sequence)).collect();
            truth.trades.iter().cloned().partition(|trade| received.contains(&(&trade.instrument, trade.sequence)))
        }
        Some(truth) => (truth.trades.clone(), Vec::new()),
        None => (Vec::new(), Vec::new()),
    };
    let mut expected = match truth {
        Some(_) => recompute(&arrived, &Interval::STANDARD),
        None => recompute(&topics.believed(), &Interval::STANDARD),
    };
    let mut published: Vec<&Bar> = topics.bars.iter().collect();
    let mut rows: Vec<&Bar> = shown.iter().collect();
    if truth.is_none() {
        let closed = |instrument: &Instrument, close: Timestamp| {
            topics.complete_through.get(instrument).is_some_and(|through| close <= *through)
        };
        expected.retain(|key, _| closed(&key.0, close_of(key)));
        published.retain(|bar| closed(&bar.instrument, bar.close_time));
        rows.retain(|bar| closed(&bar.instrument, bar.close_time));
    }
    let ledger = ledger(topics, shown);
    Findings {
        sent: truth.map(|truth| Sent {
            trades: truth.trades.len() as u64 + truth.too_precise,
            zero_sizes: truth.zero_sizes,
            copies: truth.copies,
            not_played: truth.not_played,
            faults: truth.faults,
        }),
        adds_up: ledger.adds_up(),
        ledger,
        refused_frames: topics.refused_frames,
        reasons: topics.reasons.clone(),
        intervals: Interval::STANDARD.iter().map(|interval| count(*interval, topics, shown)).collect(),
        qualities: qualities(shown),
        closing: shown.iter().filter(|bar| is_closing(bar)).map(closing).collect(),
        holes: (!tells_the_past).then(|| holes(&missing, topics, shown)),
        trades_in_kafka: truth.map(|_| same_trades(&arrived, &topics.trades)),
        bars_in_kafka: same_bars(&expected, published),
        bars_in_clickhouse: same_bars(&expected, rows),
    }
}

/// Whether the rows alone are as they should be: cheaper than reading the topics.
pub(super) fn rows_hold(truth: &Truth, shown: &[Bar]) -> bool {
    differences(&recompute(&truth.trades, &Interval::STANDARD), shown, 1).is_empty()
}

fn is_closing(bar: &Bar) -> bool {
    let calendar = Calendar::of_venue(bar.instrument.venue());
    let session = calendar.session_of(bar.open_time);
    bar.interval == Interval::ONE_MINUTE && session.is_some_and(|session| session.is_closing_print(bar.open_time))
}

fn closing(bar: &Bar) -> ClosingBar {
    ClosingBar { instrument: bar.instrument.clone(), open_time: bar.open_time, close: bar.close, volume: bar.volume }
}

/// The gap ledger against what is missing, and the bars against the gap ledger.
fn holes(missing: &[Trade], topics: &Topics, shown: &[Bar]) -> Holes {
    let became = |kind: ControlKind| topics.gaps.values().filter(move |gap| gap.kind == kind);
    // What is still open says as much as what was given up.
    let lost: Vec<&Control> = topics.gaps.values().filter(|gap| gap.kind != ControlKind::GapFilled).collect();
    let of = |gap: &Control, instrument: &Instrument| gap.instrument.as_ref().is_none_or(|of| of == instrument);
    let (from, to) = (|gap: &Control| gap.from.unwrap_or(Timestamp::MIN), |gap: &Control| gap.to.unwrap_or(Timestamp::MAX));
    let holds =
        |gap: &Control, trade: &Trade| of(gap, &trade.instrument) && from(gap) <= trade.event_time && trade.event_time < to(gap);
    let untold = missing.iter().filter(|trade| !lost.iter().any(|gap| holds(gap, trade)));
    let mut told: Vec<String> = untold
        .map(|trade| format!("{} trade {} of {} lies in no gap", trade.instrument, trade.sequence.unwrap_or(0), trade.event_time))
        .collect();
    // A stretch that may miss something need not.
    let sure = |gap: &Control| gap.reason.as_deref().is_none_or(|reason| !reason.contains("maybe"));
    let vain = lost.iter().filter(|gap| sure(gap) && !missing.iter().any(|trade| holds(gap, trade)));
    told.extend(vain.map(|gap| format!("the gap from {} to {} misses nothing", from(gap), to(gap))));

    let end = |bar: &Bar| bar.close_time.min(Calendar::of_venue(bar.instrument.venue()).stretch_of(bar.open_time).to);
    let touched = |bar: &Bar| lost.iter().any(|gap| of(gap, &bar.instrument) && from(gap) < end(bar) && to(gap) > bar.open_time);
    let wrong = shown.iter().filter(|bar| (bar.quality == Quality::Gap) != touched(bar));
    let marked =
        wrong.map(|bar| format!("{} {} {} says {:?}", bar.instrument, bar.interval, bar.open_time, bar.quality)).collect();
    Holes {
        filled: became(ControlKind::GapFilled).count() as u64,
        abandoned: became(ControlKind::GapAbandoned).count() as u64,
        missing: missing.len() as u64,
        told: Comparison::of(missing.len() + lost.len(), told),
        marked: Comparison::of(shown.len(), marked),
    }
}

fn close_of((_, minutes, open_time): &BarKey) -> Timestamp {
    open_time.plus_micros(i64::from(*minutes) * 60_000_000)
}

fn same_bars(expected: &BTreeMap<BarKey, ExpectedBar>, bars: Vec<&Bar>) -> Comparison {
    Comparison::of(expected.len(), differences(expected, bars, usize::MAX))
}

/// Each number is counted where it stands: received, set aside and repeated in Kafka, used in the one-minute bars that ClickHouse shows. Trades
/// of windows that are still open count as used.
fn ledger(topics: &Topics, shown: &[Bar]) -> Ledger {
    let minutes = || shown.iter().filter(|bar| bar.interval == Interval::ONE_MINUTE);
    let published: BTreeSet<(&Instrument, Timestamp)> = minutes().map(|bar| (&bar.instrument, bar.open_time)).collect();
    let is_open = |trade: &Trade| {
        let open = trade.event_time.window_open(Interval::ONE_MINUTE);
        let through = topics.complete_through.get(&trade.instrument).copied().unwrap_or(Timestamp::MIN);
        open.plus_micros(Interval::ONE_MINUTE.micros()) > through && !published.contains(&(&trade.instrument, open))
    };
    let mut seen = HashSet::new();
    let (mut duplicate, mut in_open_windows) = (0, 0);
    for Received { trade, .. } in topics.trades.iter().filter(|received| !received.set_aside) {
        if trade.trade_id.as_ref().is_some_and(|id| !seen.insert((&trade.instrument, id))) {
            duplicate += 1;
        } else if is_open(trade) {
            in_open_windows += 1;
        }
    }
    let in_bars: i64 = minutes().map(|bar| bar.trade_count).sum();
    Ledger {
        received: topics.trades.len() as u64,
        used: u64::try_from(in_bars).unwrap_or(0) + in_open_windows,
        late: topics.late,
        duplicate,
        quarantined: topics.quarantined,
        dead_lettered: topics.dead_lettered,
        // only candles, and rows meant for another consumer, are ever passed over
        not_selected: 0,
    }
}

fn count(interval: Interval, topics: &Topics, shown: &[Bar]) -> IntervalCount {
    let number = |bars: &mut dyn Iterator<Item = &Bar>| bars.filter(|bar| bar.interval == interval).count() as u64;
    IntervalCount {
        interval,
        bars: number(&mut shown.iter()),
        revisions: number(&mut topics.bars.iter().filter(|bar| bar.revision > 0)),
    }
}

fn qualities(shown: &[Bar]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for bar in shown {
        let name = serde_json::to_value(bar.quality).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn same_trades(sent: &[Trade], received: &[Received]) -> Comparison {
    let known: BTreeMap<(&Instrument, Option<i64>), &Trade> =
        received.iter().map(|Received { trade, .. }| ((&trade.instrument, trade.sequence), trade)).collect();
    let mut lines = Vec::new();
    let mut expected = HashSet::new();
    for trade in sent {
        let key = (&trade.instrument, trade.sequence);
        expected.insert(key);
        let name = || format!("{} trade {}", trade.instrument, trade.trade_id.as_deref().unwrap_or("without id"));
        let values = |trade: &Trade| (trade.event_time, trade.price, trade.size, trade.side);
        match known.get(&key) {
            None => lines.push(format!("{} at {} is not in Kafka", name(), trade.event_time)),
            Some(found) if values(found) != values(trade) => {
                lines.push(format!("{}: sent {:?}, in Kafka {:?}", name(), values(trade), values(found)));
            }
            Some(_) => {}
        }
    }
    let unknown = known.keys().filter(|key| !expected.contains(*key));
    lines.extend(unknown.map(|(instrument, id)| format!("{instrument} trade {id:?} is in Kafka and was never sent")));
    Comparison::of(sent.len(), lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: &str = concat!(
        r#"{"line":"header","seed":1,"tapes":[],"mapping":{}}"#,
        "\n",
        r#"{"line":"fault","virtual_time_us":1,"fault":0,"name":"miss","effects":1}"#,
        "\n",
        r#"{"line":"trade","instrument":"BITSTAMP:BTCUSD","id":"11","event_time_us":1000000,"price":"800.5","size":"2","side":"buy","origin":"tape","delivery":"socket","frames":1,"copies":0,"late_by_us":0}"#,
        "\n",
        r#"{"line":"trade","instrument":"BITSTAMP:BTCUSD","id":"13","event_time_us":1000000,"price":"801","size":"0","side":"sell","origin":"tape","delivery":"socket","frames":1,"copies":0,"late_by_us":0}"#,
        "\n",
        r#"{"line":"trade","instrument":"BITSTAMP:BTCUSD","id":"17","event_time_us":61000000,"price":"799","size":"1.5","side":"sell","origin":"tape","delivery":"missed","frames":0,"copies":0,"late_by_us":0}"#,
        "\n",
        r#"{"line":"trade","instrument":"BITSTAMP:BTCUSD","id":"18","event_time_us":61000000,"price":"799.0000000001","size":"1.5","side":"sell","origin":"too_precise","delivery":"socket","frames":1,"copies":0,"late_by_us":0}"#,
        "\n",
        r#"{"line":"totals","trades":4,"socket":3,"missed":1,"late":0,"out_of_order":0,"rest_only":0,"copies":1,"faults":1,"not_played":0}"#,
        "\n",
    );

    /// A session in which everything went as it should: the second trade was quarantined, the first came twice.
    fn session() -> (Truth, Topics, Vec<Bar>) {
        let truth = Truth::read(TRUTH.as_bytes()).unwrap();
        let received = |trade: &Trade| Received { trade: trade.clone(), set_aside: trade.size.is_some_and(Quantity::is_zero) };
        let mut trades: Vec<Received> = truth.trades.iter().map(received).collect();
        trades.push(trades[0].clone());
        let bars: Vec<Bar> =
            recompute(&truth.trades, &Interval::STANDARD).iter().map(|(key, values)| published(key, values)).collect();
        let topics = Topics { trades, bars: bars.clone(), quarantined: 1, refused_frames: 1, ..Topics::default() };
        (truth, topics, bars)
    }

    fn published(key: &BarKey, values: &ExpectedBar) -> Bar {
        let price = |scaled| Price::from_scaled(scaled).unwrap();
        let quantity = |scaled| Quantity::from_scaled(scaled).unwrap();
        Bar {
            instrument: key.0.clone(),
            interval: Interval::from_minutes(key.1).unwrap().into(),
            open_time: key.2,
            close_time: close_of(key),
            open: price(values.open),
            high: price(values.high),
            low: price(values.low),
            close: price(values.close),
            volume: quantity(values.volume),
            turnover: marketflow_model::Amount::from_scaled(values.turnover).unwrap(),
            vwap: values.vwap.map(price),
            trade_count: values.trade_count,
            buy_volume: quantity(values.buy_volume),
            sell_volume: quantity(values.sell_volume),
            revision: 0,
            quality: Quality::Complete,
            feed: Feed::new("bitstamp"),
            source: marketflow_model::BarSource::Trades,
            revision_reason: None,
        }
    }

    #[test]
    fn a_session_that_went_well_holds() {
        let (truth, topics, shown) = session();
        let findings = judge(Some(&truth), true, &topics, &shown);
        assert!(findings.hold(), "{findings:?}");
        assert_eq!(findings.ledger, Ledger { received: 4, used: 2, duplicate: 1, quarantined: 1, ..Ledger::default() });
        assert_eq!((truth.zero_sizes, truth.too_precise, truth.copies), (1, 1, 1));
        assert_eq!(findings.bars_in_clickhouse.compared, 4);
        assert_eq!(findings.intervals.iter().map(|count| count.bars).collect::<Vec<_>>(), [2, 1, 1]);
    }

    #[test]
    fn one_wrong_digit_in_one_row_is_found() {
        let (truth, topics, mut shown) = session();
        shown[0].sell_volume = Quantity::from_scaled(1).unwrap();
        let findings = judge(Some(&truth), true, &topics, &shown);
        assert!(!findings.hold() && findings.bars_in_kafka.equal());
        assert_eq!((findings.bars_in_clickhouse.different, findings.bars_in_clickhouse.first.len()), (1, 1));
    }

    #[test]
    fn a_lost_trade_a_lost_bar_and_a_wrong_sum_are_found() {
        let (truth, mut topics, mut shown) = session();
        topics.trades.remove(2);
        shown.pop();
        let findings = judge(Some(&truth), true, &topics, &shown);
        assert!(findings.trades_in_kafka.as_ref().is_some_and(|trades| trades.first[0].contains("trade 17")), "{findings:?}");
        assert!(findings.bars_in_clickhouse.first[0].starts_with("missing"), "{findings:?}");
        assert!(!findings.adds_up);
    }

    #[test]
    fn live_only_windows_that_are_complete_are_judged() {
        let (_, mut topics, mut shown) = session();
        let instrument = topics.trades[0].trade.instrument.clone();
        topics.complete_through.insert(instrument, Timestamp::from_seconds(90));
        shown.retain(|bar| bar.close_time <= Timestamp::from_seconds(60));
        let findings = judge(None, true, &topics, &shown);
        assert_eq!(findings.bars_in_clickhouse.compared, 1);
        assert!(findings.hold(), "{findings:?}");
    }

    #[test]
    fn a_session_without_a_trade_proves_nothing() {
        assert!(!judge(None, true, &Topics::default(), &[]).hold());
    }

    #[test]
    fn what_a_venue_cannot_tell_again_must_lie_in_a_gap_that_its_bars_name() {
        let (truth, mut topics, mut shown) = session();
        // The trade of the second minute never arrives, and its bars are not made.
        let lost = topics.trades.remove(2).trade;
        shown.retain(|bar| bar.interval == Interval::ONE_MINUTE && bar.open_time != Timestamp::from_seconds(60));
        topics.bars = shown.clone();
        let expected = recompute(&topics.believed(), &Interval::STANDARD);
        let longer = expected.iter().filter(|(key, _)| key.1 > 1).map(|(key, values)| published(key, values));
        shown.extend(longer.map(|bar| Bar { quality: Quality::Gap, ..bar }));
        topics.bars.clone_from(&shown);
        let untold = judge(Some(&truth), false, &topics, &shown);
        assert!(untold.holes.as_ref().is_some_and(|holes| holes.told.different == 1 && holes.missing == 1), "{untold:?}");
        assert!(!untold.hold());

        let mut gap = Control::new(ControlKind::GapAbandoned, Feed::new("kis"), lost.event_time);
        gap.instrument = Some(lost.instrument.clone());
        (gap.from, gap.to) = (Some(Timestamp::from_seconds(60)), Some(Timestamp::from_seconds(62)));
        topics.gaps.insert("g".into(), gap.clone());
        let told = judge(Some(&truth), false, &topics, &shown);
        assert!(told.hold(), "{told:?}");
        gap.to = Some(Timestamp::from_seconds(61));
        topics.gaps.insert("h".into(), Control { instrument: Some("KRX:005930".parse().unwrap()), ..gap });
        let vain = judge(Some(&truth), false, &topics, &shown);
        assert!(vain.holes.is_some_and(|holes| holes.told.first[0].contains("misses nothing")));
        shown[0].quality = Quality::Gap;
        assert!(!judge(Some(&truth), false, &topics, &shown).hold(), "a bar that says gap without one");
    }

    #[test]
    fn a_truth_file_cut_short_is_an_error() {
        let cut = &TRUTH[..TRUTH.find(r#"{"line":"totals""#).unwrap()];
        assert!(Truth::read(cut.as_bytes()).unwrap_err().to_string().contains("totals"));
    }
}
