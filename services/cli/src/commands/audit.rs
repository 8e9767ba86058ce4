//! `marketflow audit`: where every record went, checked three ways against each other.
//!
//! The processor counts what became of each record in the transaction that has its effects; the log is counted again here, and so are the
//! records set aside. With `--day` the rows: trades that count against the trades in bars.

use super::connection::{self, STALLED_AFTER, with_exit};
use super::query::{self, texts};
use super::time::utc_instant;
use crate::console::{block_on, json, line, progress, say};
use anyhow::Context;
use comfy_table::{Table, presets};
use marketflow_contract::{AvroRecord, Schema, topics};
use marketflow_engine::{Change, RestoreError, Tally};
use marketflow_kafka::{DecodeError, Decoder, Reader, Record, Registry, TopicPartition};
use marketflow_model::{BarSource, Control, Envelope, Timestamp};
use marketflow_runtime::Exit;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

const DAY_MICROS: i64 = 86_400_000_000;
/// Who sets records aside on the way to bars.
pub(super) const CONSUMER: &str = "processor";

/// Checks where every record went: received = used + late + duplicate + quarantined + dead-lettered + not selected, per partition
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Exit code 0 when everything adds up, else 2.

Examples:
  marketflow audit
  marketflow audit --day 2013-11-30      also the day's trades against its bars, in ClickHouse
  marketflow audit --json")]
pub struct Args {
    /// Also compare this UTC day's trades with its bars
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = utc_instant)]
    day: Option<Timestamp>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What is known of one partition of an input topic.
#[derive(Serialize, Default, Debug)]
struct Account {
    topic: String,
    partition: i32,
    #[serde(flatten)]
    said: Said,
    counted: Counted,
    /// Records behind the last one the processor committed.
    waiting: i64,
    /// What does not add up; nothing = all does.
    wrong: Vec<String>,
}

/// The processor's own words.
#[derive(Serialize, Default, Debug, Clone, Copy)]
struct Said {
    received: u64,
    used: u64,
    late: u64,
    duplicate: u64,
    quarantined: u64,
    dead_lettered: u64,
    not_selected: u64,
    controls: u64,
}

/// What was counted here, without the processor.
#[derive(Serialize, Default, Debug, Clone, Copy)]
struct Counted {
    /// `None`: the log's beginning is gone, so it cannot be counted.
    data: Option<u64>,
    controls: Option<u64>,
    /// `None`: the beginning of the topic that keeps them is gone.
    late: Option<u64>,
    quarantined: Option<u64>,
    dead_lettered: Option<u64>,
}

/// Trades and bars of one instrument and feed on one day.
#[derive(Serialize, Debug)]
struct Day {
    instrument: String,
    feed: String,
    trades: u64,
    in_bars: u64,
    volume: String,
    volume_in_bars: String,
    equal: bool,
}

/// Runs the command.
///
/// # Errors
/// 69 when Kafka, the registry or ClickHouse does not answer.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let kafka = connection::kafka()?;
    let registry = with_exit(Registry::new(&connection::registry()?))?;
    let mut decoder = block_on(async { with_exit(registry.decoder().await) })?;
    let reader = with_exit(Reader::new(&kafka))?;

    let tallies = tallies(&reader)?;
    let (mut set_aside, whole) = set_aside(&reader, &mut decoder, &tallies)?;
    let mut accounts = Vec::new();
    for ((topic, partition), tally) in &tallies {
        let aside = set_aside.remove(&(topic.clone(), *partition)).unwrap_or_default();
        accounts.push(account(&reader, &mut decoder, topic, *partition, tally, (&aside, whole))?);
    }
    let midnight = |time: Timestamp| time.plus_micros(-time.micros().rem_euclid(DAY_MICROS));
    let days = args.day.map(|day| block_on(days(midnight(day)))).transpose()?.unwrap_or_default();
    let adds_up = accounts.iter().all(|account| account.wrong.is_empty()) && days.iter().all(|day| day.equal);
    if args.json {
        json(&serde_json::json!({ "adds_up": adds_up, "partitions": accounts, "day": days }))?;
    } else {
        print(&accounts, &days, args.day.is_some(), adds_up);
    }
    Ok(if adds_up { Exit::Ok } else { Exit::CheckSaidNo })
}

/// By topic and partition.
type Tallies = BTreeMap<(String, i32), Tally>;
/// Offsets that were set aside, by topic and partition of origin: late, quarantined, dead-lettered.
type SetAside = BTreeMap<(String, i32), [BTreeSet<i64>; 3]>;
/// Whether the topics of late, quarantined and dead-lettered records still begin where they began.
type Whole = [bool; 3];

/// The last tally of every input partition, out of the processor's changelog; an empty one where it has read nothing.
fn tallies(reader: &Reader) -> anyhow::Result<Tallies> {
    let mut tallies = Tallies::new();
    for topic in [topics::TRADES, topics::CANDLES] {
        let partitions = with_exit(reader.partition_count(topic))?;
        tallies.extend((0..partitions).map(|partition| ((topic.to_owned(), partition), Tally::default())));
    }
    for partition in 0..with_exit(reader.partition_count(topics::CHANGELOG))? {
        let place = TopicPartition::new(topics::CHANGELOG, partition);
        let (oldest, _) = with_exit(reader.range(&place))?;
        let take = |record: Record<'_>| {
            let key = record.key().unwrap_or_default().to_vec();
            let change = Change { key, value: record.value().map(<[u8]>::to_vec) };
            if let Some((source, tally)) = Tally::of_change(&change)? {
                let topic = if source == BarSource::Candles { topics::CANDLES } else { topics::TRADES };
                tallies.insert((topic.to_owned(), partition), tally.unwrap_or_default());
            }
            Ok::<_, RestoreError>(ControlFlow::Continue(()))
        };
        with_exit(reader.try_read_to_end(&place, oldest, STALLED_AFTER, take))?
            .with_context(|| format!("{place}: the processor's counts cannot be read"))?;
    }
    Ok(tallies)
}

/// Records the processor set aside, by where they came from; each once, however often it was said.
fn set_aside(reader: &Reader, decoder: &mut Decoder, tallies: &Tallies) -> anyhow::Result<(SetAside, Whole)> {
    let mut aside = SetAside::new();
    let mut whole = [true; 3];
    for (class, topic) in [topics::LATE, topics::QUARANTINE, topics::DEAD_LETTERS].into_iter().enumerate() {
        for partition in 0..with_exit(reader.partition_count(topic))? {
            let place = TopicPartition::new(topic, partition);
            let (oldest, _) = with_exit(reader.range(&place))?;
            whole[class] &= oldest == 0;
            let take = |record: Record<'_>| {
                if let Ok(envelope) = decoder.decode::<Envelope>(record.value().unwrap_or_default())
                    && !envelope.class.is_decision()
                {
                    let origin = (envelope.origin_topic, envelope.origin_partition);
                    let is_counted = tallies.get(&origin).is_some_and(|tally| envelope.origin_offset < tally.next);
                    if envelope.consumer == CONSUMER && is_counted {
                        aside.entry(origin).or_default()[class].insert(envelope.origin_offset);
                    }
                }
                ControlFlow::Continue(())
            };
            with_exit(reader.read_to_end(&place, oldest, STALLED_AFTER, take))?;
        }
    }
    Ok((aside, whole))
}

/// Counts a partition of the log up to where the processor has come, and compares.
fn account(
    reader: &Reader,
    decoder: &mut Decoder,
    topic: &str,
    partition: i32,
    tally: &Tally,
    (aside, whole): (&[BTreeSet<i64>; 3], Whole),
) -> anyhow::Result<Account> {
    let place = TopicPartition::new(topic, partition);
    let (oldest, end) = with_exit(reader.range(&place))?;
    let first = tally.first.unwrap_or(tally.next);
    let bar = progress(&place.to_string(), tally.next - oldest);
    let (mut data, mut controls) = (0, 0);
    let take = |record: Record<'_>| {
        if record.offset() >= tally.next {
            return Ok(ControlFlow::Break(()));
        }
        *(if is_control(&record, decoder)? { &mut controls } else { &mut data }) += 1;
        bar.inc(1);
        Ok::<_, DecodeError>(ControlFlow::Continue(()))
    };
    if oldest < tally.next {
        with_exit(reader.try_read_to_end(&place, first, STALLED_AFTER, take))?
            .with_context(|| format!("cannot count {place}"))?;
    }
    bar.finish_and_clear();
    let is_whole = oldest <= first;
    let count = |class: usize| whole[class].then(|| u64::try_from(aside[class].len()).unwrap_or(u64::MAX));
    let (late, quarantined, dead_lettered) = (count(0), count(1), count(2));
    let counted =
        Counted { data: is_whole.then_some(data), controls: is_whole.then_some(controls), late, quarantined, dead_lettered };
    let said = Said {
        received: tally.received(),
        used: tally.used,
        late: tally.late,
        duplicate: tally.duplicate,
        quarantined: tally.quarantined,
        dead_lettered: tally.dead_lettered,
        not_selected: tally.not_selected,
        controls: tally.controls,
    };
    let wrong = differences(&said, &counted);
    let waiting = (end - tally.next.max(oldest)).max(0);
    Ok(Account { topic: topic.to_owned(), partition, said, counted, waiting, wrong })
}

/// Whether the processor takes a record for a control: what it cannot read, or leaves to others, counts as data.
fn is_control(record: &Record<'_>, decoder: &mut Decoder) -> Result<bool, DecodeError> {
    let Some(value) = record.value().filter(|_| !record.is_for_another(CONSUMER)) else { return Ok(false) };
    match decoder.body(value) {
        Ok((schema, body)) => Ok(schema == Schema::Control && Control::decode(&body).is_ok()),
        Err(error) if error.is_retriable() => Err(error),
        Err(_) => Ok(false),
    }
}

fn differences(said: &Said, counted: &Counted) -> Vec<String> {
    let pairs = [
        ("received", said.received, counted.data),
        ("controls", said.controls, counted.controls),
        ("late", said.late, counted.late),
        ("quarantined", said.quarantined, counted.quarantined),
        ("dead-lettered", said.dead_lettered, counted.dead_lettered),
    ];
    let wrong = pairs.into_iter().filter_map(|(name, said, counted)| Some((name, said, counted.filter(|n| *n != said)?)));
    wrong.map(|(name, said, counted)| format!("{name}: the processor says {said}, the log {counted}")).collect()
}

/// The trades of a day that count, and how many of them its bars hold: up to where their feed has published bars of any instrument.
async fn days(day: Timestamp) -> anyhow::Result<Vec<Day>> {
    const SQL: &str = "\
        WITH fromUnixTimestamp64Micro({from:Int64}, 'UTC') AS day_from, fromUnixTimestamp64Micro({to:Int64}, 'UTC') AS day_to, \
        feeds AS (SELECT feed, max(close_time) AS through FROM bars_log WHERE interval = '1m' GROUP BY feed), \
        published AS (SELECT instrument, feed, sum(trade_count) AS in_bars, sum(volume) AS volume_in_bars \
            FROM bars WHERE interval = '1m' AND source = 'trades' AND open_time >= day_from AND open_time < day_to GROUP BY instrument, feed), \
        counted AS (SELECT t.instrument AS instrument, t.feed AS feed, count() AS trades, sum(ifNull(t.size, 0)) AS volume \
            FROM trades AS t INNER JOIN feeds AS f ON t.feed = f.feed \
            WHERE t.event_date = toDate(day_from) AND t.event_time < f.through GROUP BY t.instrument, t.feed) \
        SELECT toString(c.instrument), toString(c.feed), toString(c.trades), toString(p.in_bars), toString(c.volume), toString(p.volume_in_bars) \
        FROM counted AS c LEFT JOIN published AS p ON c.instrument = p.instrument AND c.feed = p.feed \
        ORDER BY c.instrument, c.feed";
    let clickhouse = query::clickhouse()?;
    let parameters = [("from", day.micros().to_string()), ("to", day.plus_micros(DAY_MICROS).micros().to_string())];
    let rows = texts(&clickhouse, "compare the day's trades with its bars", SQL, &parameters).await?;
    rows.into_iter()
        .map(|row| {
            let row: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
            let [instrument, feed, trades, in_bars, volume, volume_in_bars] =
                <[String; 6]>::try_from(row).ok().context("cannot read an answer: a row of another shape")?;
            let (trades, in_bars) = (trades.parse()?, in_bars.parse()?);
            let equal = trades == in_bars && volume == volume_in_bars;
            Ok(Day { instrument, feed, trades, in_bars, volume, volume_in_bars, equal })
        })
        .collect()
}

fn print(accounts: &[Account], days: &[Day], has_day: bool, adds_up: bool) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(say(
        [
            "partition",
            "received",
            "used",
            "late",
            "duplicate",
            "quarantined",
            "dead-lettered",
            "not selected",
            "controls",
            "waiting",
            "adds up",
        ],
        ["파티션", "수신", "사용", "지연", "중복", "격리", "데드레터", "미선택", "제어", "대기", "일치"],
    ));
    for Account { topic, partition, said, waiting, wrong, .. } in accounts {
        let numbers = [
            said.received,
            said.used,
            said.late,
            said.duplicate,
            said.quarantined,
            said.dead_lettered,
            said.not_selected,
            said.controls,
        ];
        let yes = if wrong.is_empty() { say("yes", "예") } else { say("NO", "아니오") };
        let row = [format!("{topic}/{partition}")].into_iter().chain(numbers.map(|n| n.to_string()));
        table.add_row(row.chain([waiting.to_string(), yes.to_owned()]));
    }
    line(&table.to_string());
    for Account { topic, partition, counted, wrong, .. } in accounts {
        if counted.data.is_none() {
            line(&say(
                format!(
                    "{topic}/{partition}: the log no longer begins where the processor began, so received is not counted again"
                ),
                format!("{topic}/{partition}: 로그의 처음이 보존 기간을 지나 수신 건수는 다시 세지 못했습니다"),
            ));
        }
        wrong.iter().for_each(|words| line(&format!("{topic}/{partition}: {words}")));
    }
    if has_day {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(say(
            ["instrument", "feed", "trades", "in bars", "volume", "in bars", "equal"],
            ["종목", "피드", "체결", "봉 안의 체결", "거래량", "봉 안의 거래량", "일치"],
        ));
        for day in days {
            let equal = if day.equal { say("yes", "예") } else { say("NO", "아니오") }.to_owned();
            let (trades, in_bars) = (day.trades.to_string(), day.in_bars.to_string());
            table.add_row([&day.instrument, &day.feed, &trades, &in_bars, &day.volume, &day.volume_in_bars, &equal]);
        }
        line(&table.to_string());
    }
    let answer = if adds_up { say("yes", "예") } else { say("NO", "아니오") };
    line(&say(
        format!(
            "received = used + late + duplicate + quarantined + dead-lettered + not selected, counted by the processor and in the log: {answer}"
        ),
        format!("수신 = 사용 + 지연 + 중복 + 격리 + 데드레터 + 미선택 (프로세서와 로그에서 각각 계산): {answer}"),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_otherwise_is_named_and_what_cannot_be_counted_is_not() {
        let said = Said { received: 10, used: 7, late: 2, quarantined: 1, controls: 4, ..Said::default() };
        let counted = Counted { data: Some(10), controls: Some(4), late: Some(2), quarantined: Some(1), dead_lettered: Some(0) };
        assert_eq!(differences(&said, &counted), Vec::<String>::new());
        let lost = Counted { data: Some(11), late: Some(1), ..counted };
        assert_eq!(
            differences(&said, &lost),
            ["received: the processor says 10, the log 11", "late: the processor says 2, the log 1"]
        );
        assert_eq!(differences(&said, &Counted { data: None, controls: None, late: None, ..counted }), Vec::<String>::new());
    }
}
