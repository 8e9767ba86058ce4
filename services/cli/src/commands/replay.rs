//! `marketflow replay`: a range of the log through the same engine again, beside what was published; what differs is listed, and published as
//! revisions on request.
//!
//! The log is the truth and the engine decides by it alone: read from its beginning, with the processor's own settings, a replay differs only
//! where the engine or its calendars do.

use super::audit;
use super::connection::{self, STALLED_AFTER, with_exit};
use super::query::{self, Texts, texts};
use super::time::utc_instant;
use crate::console::{block_on, json, line, progress, say};
use anyhow::{Context, anyhow, ensure};
use comfy_table::{Table, presets};
use marketflow_clickhouse::{ClickHouse, Column, Columns, Insert};
use marketflow_contract::{AvroRecord, Schema, decode_trade, encode_value, topics};
use marketflow_engine::{Config, Partition};
use marketflow_kafka::{Decoder, Outgoing, Producer, ProducerSettings, Reader, Record, Registry, TopicPartition};
use marketflow_model::{Bar, BarSource, Candle, Control, Instrument, Interval, Timestamp};
use marketflow_runtime::{Exit, ExitContext};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Duration;

/// Candles read ahead of the trades.
const CANDLES_AHEAD: usize = 1_000;
const INSERT_WITHIN: Duration = Duration::from_secs(120);
const SEND_WITHIN: Duration = Duration::from_secs(30);
/// Where the log's beginning is gone, the range begins so long after what is left of it at the earliest.
const BEFORE_MICROS: i64 = 86_400_000_000;
/// Bars whose feed has not published so much beyond them are left to the processor, which may still revise them.
const SETTLED_AFTER_MICROS: i64 = 3_600_000_000;
/// A hole is open at most this long: until then the processor may fill it.
const GAP_LIMIT_MICROS: i64 = 7 * 86_400_000_000;
const ROWS_PER_INSERT: usize = 50_000;
/// Differences shown at most, unless as JSON.
const SHOWN: usize = 50;

/// Computes bars again from the log, lists what differs from what was published, and publishes it as revisions
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_long_help = "\
The log is read from its beginning; the bars go to the table bars_shadow under the name given. Give the processor's own bars.allowed_lateness,
bars.intervals and bars.emit_empty: then a replay differs only after a change of the engine or its calendars. A longer lateness counts trades that
came too late.

Examples:
  marketflow replay --from 2013-11-30 --to 2013-12-01 --into check
  marketflow replay --from 2026-11-20T00:00:00Z --to 2026-11-20T06:31:00Z --into late --allowed-lateness-minutes 120
  marketflow replay diff late
  marketflow replay swap late")]
pub struct Args {
    #[command(subcommand)]
    then: Option<Then>,
    /// Bars that open at or after this time (ISO; UTC where it has no offset)
    #[arg(long, value_name = "TIME", value_parser = utc_instant)]
    from: Option<Timestamp>,
    /// Bars that open before this time
    #[arg(long, value_name = "TIME", value_parser = utc_instant)]
    to: Option<Timestamp>,
    /// Name of the replay; what was computed under it before is replaced
    #[arg(long, value_name = "NAME", default_value = "shadow")]
    into: String,
    /// Whether minutes of an open market without a trade make bars, as bars.emit_empty
    #[arg(long)]
    emit_empty: bool,
    /// How long a closed window takes late trades, as bars.allowed_lateness
    #[arg(long, value_name = "MINUTES", default_value_t = 5)]
    allowed_lateness_minutes: u32,
    /// Lengths of bars, 1m first
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = Interval::STANDARD)]
    intervals: Vec<Interval>,
    /// Print as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand, Debug)]
enum Then {
    /// Lists the bars that differ from what was published
    Diff {
        /// Name of the replay
        name: String,
    },
    /// Publishes the bars that differ as revisions
    Swap {
        /// Name of the replay
        name: String,
        /// Also bars with fewer trades or a worse quality than were published
        #[arg(long)]
        also_worse: bool,
    },
}

/// A bar's identity as texts: instrument, interval, open time in microseconds, feed.
type Key = (String, String, i64, String);

/// A bar that is not what was published.
#[derive(Serialize, Debug)]
struct Difference {
    instrument: String,
    interval: String,
    open_time: Timestamp,
    feed: String,
    /// `changed`; `new`: not published; `gone`: published, not computed.
    what: &'static str,
    /// Column, published value, computed value.
    columns: Vec<(&'static str, Option<String>, Option<String>)>,
    /// Why the processor may still publish it itself.
    unsettled: Option<&'static str>,
    /// Fewer trades, or a worse quality.
    is_worse: bool,
    #[serde(skip)]
    bar: Option<Bar>,
}

/// Runs the command.
///
/// # Errors
/// 64 for a range that is none, 69 when Kafka, the registry or ClickHouse does not answer; 1 when a replay of that name does not exist.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let clickhouse = query::clickhouse()?;
    match &args.then {
        None => {
            let (Some(from), Some(to)) = (args.from, args.to) else {
                return Err(anyhow!("which range? --from TIME --to TIME; or: marketflow replay diff|swap NAME"))
                    .exit(Exit::Usage);
            };
            compute(&args, &clickhouse, from, to)
        }
        Some(Then::Diff { name }) => {
            let differences = block_on(differences(&clickhouse, name))?;
            show(&differences, args.json)?;
            Ok(if differences.is_empty() { Exit::Ok } else { Exit::CheckSaidNo })
        }
        Some(Then::Swap { name, also_worse }) => swap(&clickhouse, name, *also_worse, args.json),
    }
}

fn compute(args: &Args, clickhouse: &ClickHouse, from: Timestamp, to: Timestamp) -> anyhow::Result<Exit> {
    let check = || {
        ensure!(from < to, "--from {from} is not before --to {to}");
        ensure!(
            args.intervals.first() == Some(&Interval::ONE_MINUTE) && args.intervals.is_sorted(),
            "--intervals starts with 1m and rises"
        );
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(!args.into.is_empty() && args.into.chars().all(is_name), "--into takes letters, digits, - and _");
        Ok(())
    };
    check().exit(Exit::Usage)?;
    let config = Config {
        intervals: args.intervals.clone(),
        allowed_lateness_micros: i64::from(args.allowed_lateness_minutes) * 60_000_000,
        emit_empty: args.emit_empty,
        flows: false,
        ..Config::default()
    };
    let registry = with_exit(Registry::new(&connection::registry()?))?;
    let mut decoder = block_on(async { with_exit(registry.decoder().await) })?;
    let reader = with_exit(Reader::new(&connection::kafka()?))?;
    let mut bars: BTreeMap<Key, Bar> = BTreeMap::new();
    for partition in 0..with_exit(reader.partition_count(topics::TRADES))? {
        compute_bars(&reader, &mut decoder, &config, partition, from, |bar| {
            if from <= bar.open_time && bar.open_time < to {
                let key = (bar.instrument.to_string(), bar.interval.to_string(), bar.open_time.micros(), bar.feed.to_string());
                bars.insert(key, bar);
            }
        })?;
    }
    block_on(store(clickhouse, &args.into, (from, to), &bars))?;
    let differences = block_on(differences(clickhouse, &args.into))?;
    if args.json {
        json(&serde_json::json!({ "shadow": args.into, "bars": bars.len(), "differences": differences }))?;
    } else {
        line(&say(
            format!("{} bars computed into bars_shadow as {:?}", bars.len(), args.into),
            format!("봉 {}개를 다시 계산해 bars_shadow 에 {:?} 이름으로 저장했습니다", bars.len(), args.into),
        ));
        show(&differences, false)?;
    }
    Ok(Exit::Ok)
}

/// Hands on every bar the records of a partition make, revisions after what they revise.
fn compute_bars(
    reader: &Reader,
    decoder: &mut Decoder,
    config: &Config,
    partition: i32,
    from: Timestamp,
    mut take_bar: impl FnMut(Bar),
) -> anyhow::Result<()> {
    let mut engine = Partition::new(config.clone());
    let mut bars = Vec::new();
    let (trades, candles) = (TopicPartition::new(topics::TRADES, partition), TopicPartition::new(topics::CANDLES, partition));
    let (mut begins, mut records) = (Vec::new(), 0);
    for place in [&trades, &candles] {
        let (oldest, end) = with_exit(reader.range(place))?;
        if oldest > 0 {
            begins_early_enough(reader, place, oldest, from)?;
        }
        begins.push(oldest);
        records += end - oldest;
    }
    let progress = progress(&format!("{trades} and {candles}"), records);
    let candle_reader = with_exit(Reader::new(&connection::kafka()?))?;
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(CANDLES_AHEAD);
        let (place, begin) = (candles.clone(), begins[1]);
        let reading = scope.spawn(move || {
            candle_reader.read_to_end(&place, begin, STALLED_AFTER, |record| match sender.send(Logged::of(&record)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        let mut waiting = receiver.iter().peekable();
        let mut take = |source, record: &Logged| {
            progress.inc(1);
            let place = if source == BarSource::Candles { &candles } else { &trades };
            apply(&mut engine, source, record, decoder, &mut bars).with_context(|| format!("{place} at {}", record.offset))?;
            bars.drain(..).for_each(&mut take_bar);
            Ok::<_, anyhow::Error>(())
        };
        // in the order in which they were appended, as the processor met them: candles make way for trades, and stand in for them
        let read = with_exit(reader.try_read_to_end(&trades, begins[0], STALLED_AFTER, |record| {
            let record = Logged::of(&record);
            while let Some(candle) = waiting.next_if(|candle| candle.appended <= record.appended) {
                take(BarSource::Candles, &candle)?;
            }
            take(BarSource::Trades, &record)?;
            Ok::<_, anyhow::Error>(ControlFlow::Continue(()))
        }));
        read??;
        waiting.try_for_each(|candle| take(BarSource::Candles, &candle))?;
        with_exit(reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))?;
        Ok::<_, anyhow::Error>(())
    })?;
    progress.finish_and_clear();
    Ok(())
}

/// A record of an input, taken out of the reader.
struct Logged {
    appended: Timestamp,
    offset: i64,
    /// `None`: nothing the processor uses.
    value: Option<Vec<u8>>,
}

impl Logged {
    fn of(record: &Record<'_>) -> Self {
        let value = record.value().filter(|_| !record.is_for_another(audit::CONSUMER));
        Self { appended: record.timestamp().unwrap_or_default(), offset: record.offset(), value: value.map(<[u8]>::to_vec) }
    }
}

/// What is left of a log tells nothing of holes, halts and coverage that were declared before it.
fn begins_early_enough(reader: &Reader, place: &TopicPartition, oldest: i64, from: Timestamp) -> anyhow::Result<()> {
    let mut begins = None;
    let take = |record: Record<'_>| {
        begins = record.timestamp();
        ControlFlow::Break(())
    };
    with_exit(reader.read_to_end(place, oldest, STALLED_AFTER, take))?;
    let earliest = begins.map(|begins| begins.plus_micros(BEFORE_MICROS)).filter(|earliest| from < *earliest);
    match earliest {
        None => Ok(()),
        Some(earliest) => Err(anyhow!("the beginning of {place} has expired: a replay can begin at {earliest} at the earliest"))
            .exit(Exit::Usage),
    }
}

/// As the processor does it; what it sets aside makes no bar here either.
fn apply(
    engine: &mut Partition,
    source: BarSource,
    record: &Logged,
    decoder: &mut Decoder,
    bars: &mut Vec<Bar>,
) -> anyhow::Result<()> {
    let Some(value) = &record.value else { return Ok(()) };
    let (schema, body) = match decoder.body(value) {
        Ok(body) => body,
        Err(error) if error.is_retriable() => return Err(error.into()),
        Err(_) => return Ok(()),
    };
    let offset = record.offset;
    match (schema, source) {
        (Schema::Trade, BarSource::Trades) => {
            if let Ok(trade) = decode_trade(&body) {
                engine.on_trade(trade, offset, bars);
            }
        }
        (Schema::Candle, BarSource::Candles) => {
            if let Ok(candle) = Candle::decode(&body) {
                engine.on_candle(&candle, offset, bars);
            }
        }
        (Schema::Control, _) => {
            if let Ok(control) = Control::decode(&body) {
                engine.on_control(source, &control, offset, bars);
            }
        }
        _ => {}
    }
    Ok(())
}

const COLUMNS: &[Column] = &[
    ("shadow", "LowCardinality(String)"),
    ("range_from", "DateTime64(6, 'UTC')"),
    ("range_to", "DateTime64(6, 'UTC')"),
    ("instrument", "String"),
    ("interval", "LowCardinality(String)"),
    ("open_time", "DateTime64(6, 'UTC')"),
    ("close_time", "DateTime64(6, 'UTC')"),
    ("open", "Decimal(18, 8)"),
    ("high", "Decimal(18, 8)"),
    ("low", "Decimal(18, 8)"),
    ("close", "Decimal(18, 8)"),
    ("volume", "Decimal(38, 8)"),
    ("turnover", "Decimal(38, 8)"),
    ("vwap", "Nullable(Decimal(18, 8))"),
    ("trade_count", "Int64"),
    ("buy_volume", "Decimal(38, 8)"),
    ("sell_volume", "Decimal(38, 8)"),
    ("quality", "LowCardinality(String)"),
    ("feed", "LowCardinality(String)"),
    ("source", "LowCardinality(String)"),
];

async fn store(
    clickhouse: &ClickHouse,
    name: &str,
    (from, to): (Timestamp, Timestamp),
    bars: &BTreeMap<Key, Bar>,
) -> anyhow::Result<()> {
    let drop = format!("ALTER TABLE bars_shadow DROP PARTITION '{name}'");
    query::with_exit(clickhouse.execute("empty the replay's partition", &drop).await)?;
    // a token names one block for good, and this replay's are new ones
    let run = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH)?.as_micros();
    let all: Vec<&Bar> = bars.values().collect();
    for (number, block) in all.chunks(ROWS_PER_INSERT).enumerate() {
        let mut columns = Columns::new(COLUMNS);
        for bar in block {
            let (quality, source) = (text_of(&bar.quality)?, text_of(&bar.source)?);
            columns.append(|row| {
                row.string(name);
                row.micros(from);
                row.micros(to);
                row.string(bar.instrument.as_str());
                row.string(&bar.interval.to_string());
                row.micros(bar.open_time);
                row.micros(bar.close_time);
                [bar.open, bar.high, bar.low, bar.close].iter().for_each(|price| row.int64(price.scaled()));
                row.decimal38(bar.volume.scaled());
                row.decimal38(bar.turnover.scaled());
                row.nullable(bar.vwap, |row, vwap| row.int64(vwap.scaled()));
                row.int64(bar.trade_count);
                row.decimal38(bar.buy_volume.scaled());
                row.decimal38(bar.sell_volume.scaled());
                row.string(&quality);
                row.string(bar.feed.as_str());
                row.string(&source);
            });
        }
        let rows: Vec<u32> = (0..).take(block.len()).collect();
        let insert = Insert::new("bars_shadow", format!("{name}-{run}-{number}"), &columns, &rows);
        query::with_exit(clickhouse.insert(&insert, INSERT_WITHIN).await)?;
    }
    Ok(())
}

/// A value that serializes to a text, as that text.
fn text_of(value: &impl Serialize) -> anyhow::Result<String> {
    serde_json::to_value(value)?.as_str().map(str::to_owned).context("a value with a name")
}

/// Value columns, in the order they are compared.
const COMPARED: [&str; 13] = [
    "close_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "turnover",
    "vwap",
    "trade_count",
    "buy_volume",
    "sell_volume",
    "quality",
    "source",
];

/// Qualities, the better first.
const RANKS: [&str; 6] = ["complete", "backfilled", "halted", "partial_open", "gap", "no_trades"];

/// What was published and what was computed, bar by bar.
async fn differences(clickhouse: &ClickHouse, name: &str) -> anyhow::Result<Vec<Difference>> {
    let shadow = [("name", name.to_owned())];
    const RANGE: &str = "SELECT toString(toUnixTimestamp64Micro(any(range_from))), toString(toUnixTimestamp64Micro(any(range_to))), \
         toString(count()) FROM bars_shadow WHERE shadow = {name:String}";
    let range = texts(clickhouse, "find the replay", RANGE, &shadow).await?.pop().unwrap_or_default();
    let [Some(from), Some(to), Some(count)] = <[Option<String>; 3]>::try_from(range).unwrap_or_default() else {
        return Err(anyhow!("no replay is named {name:?}"));
    };
    ensure!(
        count != "0",
        "no replay is named {name:?}, or it made no bar; first: marketflow replay --from TIME --to TIME --into {name}"
    );

    let parameters = [("name", name.to_owned()), ("from", from), ("to", to)];
    let compared: String = COMPARED
        .iter()
        .map(|column| match *column {
            "close_time" => ", toString(toUnixTimestamp64Micro(close_time))".to_owned(),
            column => format!(", toString({column})"),
        })
        .collect();
    let keys = "toString(instrument), toString(interval), toString(toUnixTimestamp64Micro(open_time)), toString(feed)";
    let computed = format!("SELECT {keys}{compared} FROM bars_shadow FINAL WHERE shadow = {{name:String}}");
    let published = format!(
        "SELECT {keys}{compared}, toString(revision), toString(append_time > (SELECT min(insert_time) FROM bars_shadow \
             WHERE shadow = {{name:String}})) FROM bars \
         WHERE open_time >= fromUnixTimestamp64Micro({{from:Int64}}, 'UTC') AND open_time < fromUnixTimestamp64Micro({{to:Int64}}, 'UTC') \
         AND interval IN (SELECT DISTINCT interval FROM bars_shadow WHERE shadow = {{name:String}})"
    );
    const NEWEST: &str = "SELECT toString(feed), toString(toUnixTimestamp64Micro(max(close_time))) FROM bars_log WHERE interval = '1m' GROUP BY feed";
    let computed = by_key(texts(clickhouse, "read the replay's bars", &computed, &parameters).await?)?;
    let published = by_key(texts(clickhouse, "read the published bars", &published, &parameters).await?)?;
    let newest = texts(clickhouse, "see how far each feed has come", NEWEST, &[]).await?;
    let newest: BTreeMap<String, i64> = newest
        .into_iter()
        .filter_map(|row| <[Option<String>; 2]>::try_from(row).ok())
        .filter_map(|[feed, micros]| Some((feed?, micros?.parse().ok()?)))
        .collect();
    compare(name, &published, &computed, &newest)
}

fn by_key(rows: Vec<Texts>) -> anyhow::Result<BTreeMap<Key, Texts>> {
    let rows = rows.into_iter().map(|mut row| {
        let values = row.split_off(4);
        let [instrument, interval, open, feed] = row.try_into().ok().context("a row of another shape")?;
        let name = |text: Option<String>| text.context("a bar without its key");
        Ok(((name(instrument)?, name(interval)?, name(open)?.parse()?, name(feed)?), values))
    });
    rows.collect()
}

fn compare(
    name: &str,
    published: &BTreeMap<Key, Texts>,
    computed: &BTreeMap<Key, Texts>,
    newest: &BTreeMap<String, i64>,
) -> anyhow::Result<Vec<Difference>> {
    let width = COMPARED.len();
    let mut differences = Vec::new();
    let gone = published.keys().filter(|key| !computed.contains_key(*key)).map(|key| (key, None));
    for (key, values) in computed.iter().map(|(key, values)| (key, Some(values))).chain(gone) {
        let known = published.get(key);
        if values.is_some_and(|values| known.is_some_and(|known| known[..width] == values[..])) {
            continue;
        }
        let cell = |row: Option<&Texts>, at: usize| row.and_then(|row| row[at].clone());
        let columns = COMPARED.iter().enumerate().map(|(at, column)| (*column, cell(known, at), cell(values, at)));
        let columns: Vec<_> = columns.filter(|(_, known, computed)| known != computed).collect();
        let (instrument, interval, open, feed) = key.clone();
        let is_newer = known.is_some_and(|row| row[width + 1].as_deref() == Some("1"));
        let is_gap = [known, values].iter().any(|row| cell(*row, 11).as_deref() == Some("gap"));
        let close: i64 = cell(values.or(known), 0).context("a bar without its end")?.parse()?;
        let beyond = newest.get(&feed).copied().unwrap_or(i64::MAX).saturating_sub(close);
        let unsettled = match (feed.starts_with("import:"), is_gap) {
            _ if is_newer => Some("it was published again since the replay"),
            (false, _) if beyond < SETTLED_AFTER_MICROS => Some("it is less than an hour old in its feed"),
            (false, true) if beyond < GAP_LIMIT_MICROS => Some("its hole may still be filled"),
            _ => None,
        };
        let number = |row: Option<&Texts>, at: usize| cell(row, at).and_then(|text| text.parse::<i64>().ok());
        let rank = |row: Option<&Texts>| cell(row, 11).and_then(|quality| RANKS.iter().position(|name| *name == quality));
        let is_worse =
            known.is_some() && values.is_some() && (number(values, 8) < number(known, 8) || rank(values) > rank(known));
        let revision = known.and_then(|row| row[width].as_deref()).map(str::parse::<i32>).transpose()?;
        let bar = values.map(|values| bar_of(name, key, values, revision)).transpose()?;
        let what = match (known, values) {
            (Some(_), Some(_)) => "changed",
            (None, _) => "new",
            (Some(_), None) => "gone",
        };
        let open_time = Timestamp::from_micros(open);
        differences.push(Difference { instrument, interval, open_time, feed, what, columns, unsettled, is_worse, bar });
    }
    Ok(differences)
}

/// The record that publishes a computed bar: the next revision of what was published.
fn bar_of(name: &str, (instrument, interval, open, feed): &Key, values: &Texts, published: Option<i32>) -> anyhow::Result<Bar> {
    let text = |at: usize| values[at].as_deref().context("a bar without a value");
    let of_name = |at: usize| Ok::<_, anyhow::Error>(serde_json::Value::String(text(at)?.to_owned()));
    let revision = published.map_or(0, |revision| revision + 1);
    Ok(Bar {
        instrument: instrument.parse::<Instrument>()?,
        interval: interval.parse().map_err(|_| anyhow!("no kind of bar: {interval}"))?,
        open_time: Timestamp::from_micros(*open),
        close_time: Timestamp::from_micros(text(0)?.parse()?),
        open: text(1)?.parse()?,
        high: text(2)?.parse()?,
        low: text(3)?.parse()?,
        close: text(4)?.parse()?,
        volume: text(5)?.parse()?,
        turnover: text(6)?.parse()?,
        vwap: values[7].as_deref().map(str::parse).transpose()?,
        trade_count: text(8)?.parse()?,
        buy_volume: text(9)?.parse()?,
        sell_volume: text(10)?.parse()?,
        quality: serde_json::from_value(of_name(11)?)?,
        source: serde_json::from_value(of_name(12)?)?,
        feed: marketflow_model::Feed::new(feed),
        revision,
        revision_reason: (revision > 0).then(|| format!("replay {name}")),
    })
}

fn swap(clickhouse: &ClickHouse, name: &str, also_worse: bool, as_json: bool) -> anyhow::Result<Exit> {
    let differences = block_on(differences(clickhouse, name))?;
    let is_wanted = |d: &&Difference| d.unsettled.is_none() && d.bar.is_some() && (also_worse || !d.is_worse);
    let (settled, left): (Vec<_>, Vec<_>) = differences.iter().partition(is_wanted);
    if !settled.is_empty() {
        connection::room()?;
        let kafka = connection::kafka()?;
        let registry = with_exit(Registry::new(&connection::registry()?))?;
        let ids = block_on(async { with_exit(registry.ids().await) })?;
        let id = ids.id(topics::BARS, Schema::Bar).context("no schema of bars is registered; is the stack set up?")?;
        let producer = with_exit(Producer::new(&kafka, &ProducerSettings::default()))?;
        let mut value = Vec::new();
        for bar in settled.iter().filter_map(|difference| difference.bar.as_ref()) {
            value.clear();
            encode_value(bar, id, &mut value);
            with_exit(producer.send(Outgoing::new(topics::BARS, bar.instrument.as_str().as_bytes(), &value), SEND_WITHIN))?;
        }
        with_exit(producer.flush(SEND_WITHIN))?;
        let failed = producer.take_failed();
        ensure!(failed.is_empty(), "Kafka did not take {} of {} bars; run it again", failed.len(), settled.len());
    }
    let gone = left.iter().filter(|difference| difference.what == "gone").count();
    if as_json {
        json(&serde_json::json!({ "published": settled.len(), "left": left.len() - gone, "gone": gone }))?;
        return Ok(Exit::Ok);
    }
    line(&say(
        format!("{} bars published as revisions; readable in ClickHouse within seconds", settled.len()),
        format!("봉 {}개를 수정판으로 발행했습니다. 몇 초 안에 ClickHouse 에서 조회됩니다", settled.len()),
    ));
    for difference in left.iter().filter(|difference| difference.what != "gone").take(SHOWN) {
        let why = difference.unsettled.unwrap_or("it would lose trades or quality; --also-worse publishes it all the same");
        line(&format!("left as it is: {} {} {}: {why}", difference.instrument, difference.interval, difference.open_time));
    }
    if gone > 0 {
        line(&say(
            format!("{gone} published bars were not computed again; they stay"),
            format!("발행된 봉 {gone}개는 다시 계산되지 않아 그대로 둡니다"),
        ));
    }
    Ok(Exit::Ok)
}

fn show(differences: &[Difference], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return json(&differences);
    }
    if !differences.is_empty() {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(say(
            ["instrument", "interval", "open time", "feed", "what", "published → computed"],
            ["종목", "간격", "시가 시각", "피드", "구분", "발행값 → 계산값"],
        ));
        for difference in differences.iter().take(SHOWN) {
            let Difference { instrument, interval, open_time, feed, what, columns, .. } = difference;
            let none = "-".to_owned();
            let words = |(column, known, computed): &(&str, Option<String>, Option<String>)| {
                format!("{column} {} → {}", known.as_ref().unwrap_or(&none), computed.as_ref().unwrap_or(&none))
            };
            let columns: Vec<String> = if *what == "changed" { columns.iter().map(words).collect() } else { Vec::new() };
            table.add_row([instrument, interval, &open_time.to_string(), feed, &(*what).to_owned(), &columns.join(", ")]);
        }
        line(&table.to_string());
    }
    line(&say(
        format!("{} bars differ from what was published", differences.len()),
        format!("발행된 봉과 다른 봉: {}개", differences.len()),
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &str) -> Texts {
        values.split(' ').map(|value| (value != "-").then(|| value.to_owned())).collect()
    }

    fn bars(rows: &[(&str, &str, &str)]) -> BTreeMap<Key, Texts> {
        let key = |open: &str, feed: &str| ("TEST:A".to_owned(), "1m".to_owned(), open.parse().unwrap(), feed.to_owned());
        rows.iter().map(|(open, feed, values)| (key(open, feed), row(values))).collect()
    }

    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn only_settled_bars_that_differ_become_the_next_revision() {
        let same = "60000000 1 2 1 2 3 5 1.66666667 4 3 0 complete trades";
        let other = "60000000 1 9 1 2 3 5 1.66666667 4 3 0 complete trades";
        let hole = "60000000 1 9 1 2 3 5 - 4 3 0 gap trades";
        let fewer = "60000000 1 2 1 2 3 5 1.66666667 3 3 0 complete trades";
        let told = |values: &str| format!("{values} 2 0");
        let since = format!("{other} 3 1");
        let published = bars(&[
            ("0", "live", &told(same)),
            ("1", "live", &told(same)),
            ("2", "live", &told(hole)),
            ("3", "live", &told(same)),
            ("5", "live", &told(same)),
            ("6", "live", &since),
        ]);
        let computed = bars(&[
            ("0", "live", same),
            ("1", "live", other),
            ("2", "live", same),
            ("4", "live", same),
            ("5", "live", fewer),
            ("6", "live", same),
        ]);
        let newest = [("live".to_owned(), 60_000_000 + HOUR)].into();
        let found = compare("again", &published, &computed, &newest).unwrap();
        let told: Vec<_> = found.iter().map(|d| (d.open_time.micros(), d.what, d.unsettled.is_some(), d.is_worse)).collect();
        assert_eq!(
            told,
            [
                (1, "changed", false, false),
                (2, "changed", true, false),
                (4, "new", false, false),
                (5, "changed", false, true),
                (6, "changed", true, false),
                (3, "gone", false, false)
            ]
        );
        assert_eq!(found[0].columns, [("high", Some("2".to_owned()), Some("9".to_owned()))]);
        let bar = found[0].bar.as_ref().unwrap();
        assert_eq!((bar.revision, bar.revision_reason.as_deref(), bar.high.to_string().as_str()), (3, Some("replay again"), "9"));
        assert_eq!(found[2].bar.as_ref().unwrap().revision, 0);

        let young = [("live".to_owned(), 60_000_000 + HOUR - 1)].into();
        assert!(compare("again", &published, &computed, &young).unwrap().iter().all(|d| d.unsettled.is_some()));
    }
}
