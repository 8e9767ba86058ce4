//! `marketflow import trades|candles FILE`: history through the same operators as live.
//!
//! Read in this order: `layout.rs` (which column is what), `../time.rs`, `lines.rs` (the file), `row.rs` (one line to one row), `order.rs`
//! (first pass and sorting), `emission.rs` (what is written), `publish.rs` (writing and waiting). It lacks formats other than CSV.
//!
//! Next: `services/processor/src/processor.rs`, which folds the rows like any others.

mod emission;
mod layout;
mod lines;
mod order;
mod publish;
mod row;

use super::query::{self, Texts, texts};
use super::time::{self, TimeError, TimeReader, TimeUnit};
use crate::console::{block_on, json, line};
use anyhow::{Context, bail};
use emission::{Declared, Emission};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;
use layout::{CandleColumns, CandlesFormat, Columns, Layout, SideColumn, TradeColumns, TradesFormat, Wanted};
use lines::Lines;
use marketflow_kafka::TopicPartition;
use marketflow_model::{Feed, Instrument, Interval, Timestamp};
use marketflow_runtime::{Exit, ExitContext};
use order::{Items, Sorter, Survey};
use publish::{Target, Written};
use row::{Item, Rows, Values};
use serde_json::json as object;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows that `--dry-run` shows.
const SHOWN_ROWS: usize = 10;

/// Imports a file of trades or candles.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Examples:
  marketflow import trades btcusd.csv.gz --venue BITSTAMP --symbol BTCUSD --time-column timestamp --time-unit s \\
      --price-column price --size-column amount
  marketflow import trades BTCUSDT-trades-2025-01-01.zip --venue BINANCE --symbol BTCUSDT --format binance-trades
  marketflow import trades ticks.csv --venue OANDA --symbol EURUSD --time-column 1 --time-unit ms --price-column 2 --dry-run
  marketflow import candles BTCUSDT-1m-2025-01.zip --venue BINANCE --symbol BTCUSDT --format binance-klines --interval 1m
A second import of the same file changes nothing. docs/import.md has the rules.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// One row is one trade
    Trades(TradesArgs),
    /// One row is one candle as a provider sent it; 1m candles become bars
    Candles(CandlesArgs),
}

#[derive(clap::Args, Debug)]
struct FileArgs {
    /// CSV file, plain or packed by gzip, zstd or zip
    file: PathBuf,
    /// Where it traded, such as BITSTAMP
    #[arg(long)]
    venue: String,
    /// What the venue calls it, such as BTCUSD
    #[arg(long)]
    symbol: String,
    /// Column of the time: header name, or number from 1
    #[arg(long, value_name = "COLUMN", required_unless_present = "format", conflicts_with = "format")]
    time_column: Option<String>,
    /// What the time column holds
    #[arg(long, value_name = "UNIT", required_unless_present = "format", conflicts_with = "format")]
    time_unit: Option<TimeUnit>,
    /// Zone of ISO times without an offset, and of --from and --to: UTC, Asia/Seoul, +09:00
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    time_zone: Option<TimeZone>,
    /// Only rows from this time on (ISO)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only rows before this time (ISO)
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// The file was cut out of something longer: bars at its edges are marked partial_open
    #[arg(long)]
    partial: bool,
    /// Sort rows by time first, in a temporary file; equal times by id where it is a number, else as in the file
    #[arg(long)]
    sort: bool,
    /// How far a row may lie behind an earlier one before the import is refused; the processor's allowed lateness
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    allowed_lateness: Duration,
    /// What stands between columns: one character, or tab
    #[arg(long, value_name = "CHARACTER", default_value = ",", value_parser = delimiter, conflicts_with = "format")]
    delimiter: u8,
    /// The first line names the columns (otherwise the file is looked at)
    #[arg(long, alias = "header", conflicts_with = "no_header")]
    has_header: bool,
    /// The first line is a row
    #[arg(long)]
    no_header: bool,
    /// Show what would be imported, with ten rows, and write nothing; needs no stack
    #[arg(long)]
    dry_run: bool,
    /// Return once the rows are in Kafka; do not wait for their bars
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for the bars without progress
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    timeout: Duration,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct TradesArgs {
    #[command(flatten)]
    file: FileArgs,
    /// A public format, instead of columns
    #[arg(long)]
    format: Option<TradesFormat>,
    /// Column of the price
    #[arg(long, value_name = "COLUMN", required_unless_present = "format", conflicts_with = "format")]
    price_column: Option<String>,
    /// Column of the size; without it, and in empty cells, size is not reported
    #[arg(long, value_name = "COLUMN", conflicts_with = "format")]
    size_column: Option<String>,
    /// A negative size means that the seller was the aggressor
    #[arg(long, requires = "size_column", conflicts_with = "side_column")]
    signed_size: bool,
    /// Column that tells the aggressor
    #[arg(long, value_name = "COLUMN", requires = "side_buy_value", conflicts_with = "format")]
    side_column: Option<String>,
    /// Cell that means the buyer was the aggressor
    #[arg(long, value_name = "TEXT", requires = "side_column")]
    side_buy_value: Option<String>,
    /// Cell that means the seller was; without it every other one that is not empty
    #[arg(long, value_name = "TEXT", requires = "side_column")]
    side_sell_value: Option<String>,
    /// Column of the venue's trade id: the same id counts once, and numeric ids are the order
    #[arg(long, value_name = "COLUMN", conflicts_with = "format")]
    id_column: Option<String>,
}

#[derive(clap::Args, Debug)]
struct CandlesArgs {
    #[command(flatten)]
    file: FileArgs,
    /// A public format, instead of columns
    #[arg(long)]
    format: Option<CandlesFormat>,
    /// Length of the candles, such as 1m; the time column is their open time
    #[arg(long)]
    interval: Interval,
    /// Column of the first price
    #[arg(long, value_name = "COLUMN", required_unless_present = "format", conflicts_with = "format")]
    open_column: Option<String>,
    /// Column of the highest price
    #[arg(long, value_name = "COLUMN", required_unless_present = "format", conflicts_with = "format")]
    high_column: Option<String>,
    /// Column of the lowest price
    #[arg(long, value_name = "COLUMN", required_unless_present = "format", conflicts_with = "format")]
    low_column: Option<String>,
    /// Column of the last price
    #[arg(long, value_name = "COLUMN", required_unless_present = "format", conflicts_with = "format")]
    close_column: Option<String>,
    /// Column of the volume
    #[arg(long, value_name = "COLUMN", conflicts_with = "format")]
    volume_column: Option<String>,
    /// Column of the turnover in the quote currency
    #[arg(long, value_name = "COLUMN", conflicts_with = "format")]
    turnover_column: Option<String>,
    /// Column of the number of trades
    #[arg(long, value_name = "COLUMN", conflicts_with = "format")]
    count_column: Option<String>,
    /// Column of the volume bought by aggressors
    #[arg(long, value_name = "COLUMN", conflicts_with = "format")]
    buy_volume_column: Option<String>,
}

fn zone(text: &str) -> Result<TimeZone, String> {
    let reader = jiff::fmt::temporal::DateTimeParser::new();
    reader
        .parse_time_zone(text)
        .map_err(|_| "not a zone; write a name such as UTC or Asia/Seoul, or an offset such as +09:00".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text.parse().map_err(|_| "not a duration; write 90s, 5m or 1h".to_owned())?;
    Duration::try_from(duration).map_err(|_| "a duration is not negative".to_owned())
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [one] if one.is_ascii() && *one != b'"' && *one != b'\n' => Ok(*one),
        _ if text.eq_ignore_ascii_case("tab") || text == "\\t" => Ok(b'\t'),
        _ => Err("give one character, or tab".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
/// With the exit code of design.md §7: 64 for arguments that do not fit the file, 2 for a file out of order, 69 for a part not reachable.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let (file, wanted) = match args.what {
        What::Trades(trades) => trades.wanted().exit(Exit::Usage)?,
        What::Candles(candles) => candles.wanted().exit(Exit::Usage)?,
    };
    let mut prepared = prepare(&file, &wanted)?;
    if file.dry_run {
        return prepared.show(&file);
    }
    prepared.import(&file)
}

impl TradesArgs {
    fn wanted(self) -> anyhow::Result<(FileArgs, Wanted)> {
        let mut wanted = match self.format {
            Some(format) => format.wanted(),
            None => {
                let side = self.side_column.zip(self.side_buy_value).map(|(column, buy)| SideColumn {
                    column,
                    buy,
                    sell: self.side_sell_value,
                });
                let price = self.price_column.context("--price-column is missing")?;
                let (size, id) = (self.size_column, self.id_column);
                let columns = TradeColumns { price, size, signed_size: self.signed_size, side, id };
                self.file.wanted(Columns::Trades(columns))?
            }
        };
        wanted.header = self.file.header();
        Ok((self.file, wanted))
    }
}

impl CandlesArgs {
    fn wanted(self) -> anyhow::Result<(FileArgs, Wanted)> {
        let mut wanted = match self.format {
            Some(format) => format.wanted(self.interval),
            None => {
                let columns = CandleColumns {
                    interval: self.interval,
                    open: self.open_column.context("--open-column is missing")?,
                    high: self.high_column.context("--high-column is missing")?,
                    low: self.low_column.context("--low-column is missing")?,
                    close: self.close_column.context("--close-column is missing")?,
                    volume: self.volume_column,
                    turnover: self.turnover_column,
                    trade_count: self.count_column,
                    buy_volume: self.buy_volume_column,
                    last_instant: None,
                };
                self.file.wanted(Columns::Candles(columns))?
            }
        };
        wanted.header = self.file.header();
        Ok((self.file, wanted))
    }
}

impl FileArgs {
    fn wanted(&self, columns: Columns<String>) -> anyhow::Result<Wanted> {
        let time = self.time_column.clone().context("--time-column is missing")?;
        let unit = self.time_unit.context("--time-unit is missing")?;
        // a zone is part of what the rows mean only where it is looked at
        let zone = self.time_zone.clone().filter(|_| unit == TimeUnit::Iso);
        Ok(Wanted { delimiter: self.delimiter, header: None, time, reader: TimeReader { unit, zone }, columns })
    }

    fn header(&self) -> Option<bool> {
        if self.has_header { Some(true) } else { self.no_header.then_some(false) }
    }

    fn edge(&self, text: Option<&str>, option: &str) -> anyhow::Result<Option<Timestamp>> {
        let Some(text) = text else { return Ok(None) };
        match time::instant(text, self.time_zone.as_ref()) {
            Ok(instant) => Ok(Some(instant)),
            Err(TimeError::NoZone) => bail!("{option} {text:?} has no zone; write an offset, such as Z, or give --time-zone"),
            Err(TimeError::Bad(reason)) => bail!("{option}: {reason}"),
        }
    }
}

/// A file that was read through once and can be written.
struct Prepared {
    /// Names the import: content, instrument and everything that decides what the rows mean.
    id: String,
    layout: Arc<Layout>,
    survey: Survey,
    declared: Declared,
    items: Items,
}

fn prepare(file: &FileArgs, wanted: &Wanted) -> anyhow::Result<Prepared> {
    let instrument = Instrument::new(&file.venue, &file.symbol).exit(Exit::Usage)?;
    let from = file.edge(file.from.as_deref(), "--from").exit(Exit::Usage)?;
    let to = file.edge(file.to.as_deref(), "--to").exit(Exit::Usage)?;
    let range = from.unwrap_or(Timestamp::MIN)..to.unwrap_or(Timestamp::MAX);
    if range.is_empty() {
        return Err(anyhow::anyhow!("--from is not before --to")).exit(Exit::Usage);
    }
    let layout = Arc::new(settle(&file.file, wanted).exit(Exit::Usage)?);

    let progress = bytes_read(&file.file)?;
    let open = |progress| -> anyhow::Result<Rows> {
        let lines = Lines::open(&file.file, progress).with_context(|| cannot_open(&file.file))?;
        Ok(Rows::new(lines, file.file.clone(), Arc::clone(&layout), range.clone()))
    };
    let mut rows = open(&progress)?;
    let mut sorter = file.sort.then(|| Sorter::new(&std::env::temp_dir(), Sorter::RUN_LENGTH)).transpose()?;
    let allowed_micros = i64::try_from(file.allowed_lateness.as_micros()).unwrap_or(i64::MAX);
    let survey = order::survey(&mut rows, allowed_micros, |item| sorter.as_mut().map_or(Ok(()), |sorter| sorter.push(item)));
    progress.finish_and_clear();
    let survey = survey?;
    accept(&survey, file)?;

    let id = import_id(&survey, &instrument, &layout, file, &range);
    let declared = Declared {
        feed: Feed::import(&id),
        file: file_name(&file.file),
        from: if file.partial { survey.earliest } else { from },
        to: if file.partial { survey.latest.map(|latest| latest.plus_micros(1)) } else { to },
        disorder_micros: if file.sort { 0 } else { survey.disorder_micros },
        instrument,
    };
    let items = match sorter {
        Some(sorter) => Items::Sorted(sorter.finish()?),
        None => Items::File(Box::new(open(&ProgressBar::hidden())?)),
    };
    Ok(Prepared { id, layout, survey, declared, items })
}

fn settle(path: &Path, wanted: &Wanted) -> anyhow::Result<Layout> {
    let mut lines = Lines::open(path, &ProgressBar::hidden()).with_context(|| cannot_open(path))?;
    let first = lines.next().with_context(|| format!("cannot read {}", path.display()))?;
    let first = first.with_context(|| format!("{} is empty", path.display()))?;
    wanted.settle(first.bytes)
}

/// Refuses what cannot become honest bars.
fn accept(survey: &Survey, file: &FileArgs) -> anyhow::Result<()> {
    let path = file.file.display();
    if survey.rows == 0 {
        let examples: Vec<String> =
            survey.first_bad.iter().take(3).map(|(line, why)| format!("\n  line {line}: {why}")).collect();
        let (bad, outside) = (survey.bad, survey.outside);
        bail!("{path} has no row to import: {bad} bad, {outside} outside --from and --to{}", examples.concat());
    }
    if let Some(line) = survey.first_too_far_behind
        && !file.sort
    {
        let (count, limit) = (survey.too_far_behind, spell(file.allowed_lateness));
        let most = spell(Duration::from_micros(survey.disorder_micros.unsigned_abs()));
        return Err(anyhow::anyhow!(
            "{path} is out of order: {count} of {} rows lie more than {limit} behind an earlier row (the first is line {line}, the most is \
             {most}); nothing was sent. Import it with --sort",
            survey.rows
        ))
        .exit(Exit::CheckSaidNo);
    }
    Ok(())
}

fn import_id(
    survey: &Survey,
    instrument: &Instrument,
    layout: &Layout,
    file: &FileArgs,
    range: &std::ops::Range<Timestamp>,
) -> String {
    const LENGTH: usize = 16;
    let (from, to) = (range.start.micros(), range.end.micros());
    let options = format!("{instrument}\n{}\n{from}..{to} partial={} sort={}", layout.identity(), file.partial, file.sort);
    let hash = Sha256::new().chain_update(survey.hash).chain_update(options);
    let mut id = hex::encode(hash.finalize());
    id.truncate(LENGTH);
    id
}

impl Prepared {
    /// Writes everything, and waits for the bars unless told not to.
    fn import(mut self, file: &FileArgs) -> anyhow::Result<Exit> {
        let known = self.known_rows(file)?;
        let target = Target::connect(&self.declared.instrument, &self.declared.feed, &self.layout.columns)?;
        let now = jiff::Timestamp::now().as_microsecond();
        let mut emission = Emission::new(self.declared.clone(), Timestamp::from_micros(now));
        let started = Instant::now();
        let progress = rows_sent(self.survey.rows);
        let written = target.write(&mut self.items, &mut emission, self.survey.hash, &progress)?;
        progress.finish_and_clear();
        let sent_in = started.elapsed();
        let (mut bars, mut set_aside) = (Vec::new(), Vec::new());
        if !file.no_wait {
            let waiting = ProgressBar::new_spinner();
            target.wait_for_bars(&written, file.timeout, &waiting)?;
            waiting.finish_and_clear();
            bars = self.visible_bars()?;
            set_aside = self.set_aside(target.place(), &written)?;
        }
        if file.json {
            let mut report = self.report();
            report["sent"] = written.rows.into();
            report["known_before"] = known.into();
            if !file.no_wait {
                report["bars"] = object_of(bars);
                report["set_aside"] = object_of(set_aside);
            }
            json(&report)?;
            return Ok(Exit::Ok);
        }
        line(self.text().trim_end());
        line(&format!(
            "{} rows read, {} sent in {}, {} quarantined",
            self.survey.read(),
            written.rows,
            spell_roughly(sent_in),
            written.quarantined
        ));
        if let Some(known) = known.filter(|known| *known > 0) {
            line(&format!("{known} of them were known already: this file was imported before, and every row counts once"));
        }
        for (reason, count) in &set_aside {
            line(&format!("{count} of them were set aside by the processor: {reason}; the view set_aside has them"));
        }
        self.say_bars(file, &bars);
        Ok(Exit::Ok)
    }

    fn say_bars(&self, file: &FileArgs, bars: &[(String, u64)]) {
        let instrument = &self.declared.instrument;
        if let Columns::Candles(candles) = &self.layout.columns
            && candles.interval != Interval::ONE_MINUTE
        {
            line(&format!("bars are folded from 1m candles; these of {} are kept in the view candles", candles.interval));
        }
        if file.no_wait {
            line("the rows are in Kafka; their bars follow. Look at them with");
        } else {
            let words: Vec<String> = bars.iter().map(|(interval, count)| format!("{count} of {interval}")).collect();
            line(&format!(
                "bars visible of feed {}: {}. Look at them with",
                self.declared.feed,
                if words.is_empty() { "none".to_owned() } else { words.join(", ") }
            ));
        }
        line(&format!("  marketflow bars --instrument {instrument} --interval 1m"));
    }

    /// How many rows of this import ClickHouse holds already; `None` where it is not asked.
    fn known_rows(&self, file: &FileArgs) -> anyhow::Result<Option<u64>> {
        if file.no_wait {
            return Ok(None);
        }
        let table = self.table();
        let sql = format!(
            "SELECT toString(uniqExact(import_row)) FROM {table} WHERE instrument = {{instrument:String}} AND feed = {{feed:String}}"
        );
        let rows = block_on(texts(&query::clickhouse()?, "look for an earlier import", &sql, &self.parameters()))?;
        let count = rows.into_iter().flatten().flatten().next().context("a count has one row")?;
        Ok(Some(count.parse()?))
    }

    /// Number of bars of this import by interval, shortest first.
    fn visible_bars(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let sql = "SELECT toString(interval), toString(count()) FROM bars WHERE instrument = {instrument:String} AND feed = {feed:String} \
                   GROUP BY interval ORDER BY any(close_time - open_time)";
        let rows = block_on(texts(&query::clickhouse()?, "count the bars", sql, &self.parameters()))?;
        counts(rows)
    }

    /// Rows of this run that the processor did not use, by reason, most frequent first.
    fn set_aside(&self, place: &TopicPartition, written: &Written) -> anyhow::Result<Vec<(String, u64)>> {
        let table = self.table();
        let sql = format!(
            "SELECT concat(class, ', ', reason) AS why, toString(count()) FROM set_aside WHERE consumer = 'processor' \
             AND origin_topic = {{topic:String}} AND origin_partition = {{partition:Int64}} \
             AND origin_offset >= {{begin:Int64}} AND origin_offset < {{end:Int64}} AND origin_offset IN \
             (SELECT offset FROM {table} WHERE instrument = {{instrument:String}} AND feed = {{feed:String}} \
             AND topic = {{topic:String}} AND partition = {{partition:Int64}}) GROUP BY why ORDER BY count() DESC, why"
        );
        let mut parameters = self.parameters().to_vec();
        parameters.extend([
            ("topic", place.topic.clone()),
            ("partition", place.partition.to_string()),
            ("begin", written.begin.to_string()),
            ("end", written.end.to_string()),
        ]);
        counts(block_on(texts(&query::clickhouse()?, "read what was set aside", &sql, &parameters))?)
    }

    /// Where ClickHouse keeps the rows, one for each time they were sent.
    fn table(&self) -> &'static str {
        match self.layout.columns {
            Columns::Trades(_) => "trades_log",
            Columns::Candles(_) => "candles_log",
        }
    }

    fn parameters(&self) -> [(&'static str, String); 2] {
        [("instrument", self.declared.instrument.to_string()), ("feed", self.declared.feed.to_string())]
    }

    /// `--dry-run`: what was understood of the file, with its first rows.
    fn show(&mut self, file: &FileArgs) -> anyhow::Result<Exit> {
        let mut rows = Vec::new();
        while rows.len() < SHOWN_ROWS
            && let Some(item) = self.items.next()?
        {
            if let Item::Row(row) = item {
                rows.push(row);
            }
        }
        if file.json {
            let shown = |row: &row::Row| object!({ "line": row.line, "time": row.event_time.to_string(), "values": row.values });
            let mut report = self.report();
            report["first_rows"] = rows.iter().map(shown).collect();
            json(&report)?;
            return Ok(Exit::Ok);
        }
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header(match self.layout.columns {
            Columns::Trades(_) => vec!["line", "time (UTC)", "price", "size", "side", "id"],
            Columns::Candles(_) => {
                vec!["line", "open time (UTC)", "open", "high", "low", "close", "volume", "turnover", "trades"]
            }
        });
        for row in rows {
            let mut cells = vec![row.line.to_string(), row.event_time.to_string()];
            cells.extend(value_cells(row.values));
            table.add_row(cells);
        }
        line(&table.to_string());
        line(self.text().trim_end());
        line(&format!("nothing was written; without --dry-run these rows become feed {}", self.declared.feed));
        Ok(Exit::Ok)
    }

    /// What was found, for people.
    fn text(&self) -> String {
        let survey = &self.survey;
        let time = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.to_string());
        let mut text = format!(
            "{} rows of {} from {} to {}, first line {}, at most {} out of order{}\n",
            survey.rows,
            self.declared.instrument,
            time(survey.earliest),
            time(survey.latest),
            if self.layout.header { "is a header" } else { "is a row" },
            spell(Duration::from_micros(survey.disorder_micros.unsigned_abs())),
            if self.declared.disorder_micros == survey.disorder_micros { "" } else { " (sorted)" },
        );
        if survey.outside > 0 {
            text.push_str(&format!("{} rows lie outside --from and --to\n", survey.outside));
        }
        if survey.bad > 0 {
            text.push_str(&format!("{} bad rows go to {}:\n", survey.bad, marketflow_contract::topics::QUARANTINE));
            for (line, reason) in &survey.first_bad {
                text.push_str(&format!("  line {line}: {reason}\n"));
            }
        }
        text
    }

    fn report(&self) -> serde_json::Value {
        let survey = &self.survey;
        let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
        object!({
            "import_id": self.id,
            "feed": self.declared.feed,
            "instrument": self.declared.instrument,
            "header": self.layout.header,
            "rows": survey.rows,
            "quarantined": survey.bad,
            "outside": survey.outside,
            "first_quarantined": survey.first_bad.iter().map(|(line, why)| object!({ "line": line, "reason": why })).collect::<Vec<_>>(),
            "earliest": time(survey.earliest),
            "latest": time(survey.latest),
            "disorder_us": survey.disorder_micros,
        })
    }
}

/// Rows of a name and a number.
fn counts(rows: Vec<Texts>) -> anyhow::Result<Vec<(String, u64)>> {
    let counted = rows.into_iter().map(|row| match <[Option<String>; 2]>::try_from(row) {
        Ok([Some(name), Some(count)]) => Ok((name, count.parse()?)),
        Ok(_) | Err(_) => bail!("cannot count: a row of another shape"),
    });
    counted.collect()
}

fn object_of(counts: Vec<(String, u64)>) -> serde_json::Value {
    serde_json::Value::Object(counts.into_iter().map(|(name, count)| (name, count.into())).collect())
}

fn value_cells(values: Values) -> Vec<String> {
    fn optional(value: Option<impl ToString>) -> String {
        value.map_or_else(|| "-".to_owned(), |value| value.to_string())
    }
    match values {
        Values::Trade { price, size, side, trade_id, .. } => {
            vec![price.to_string(), optional(size), format!("{side:?}").to_lowercase(), optional(trade_id)]
        }
        Values::Candle { open, high, low, close, volume, turnover, trade_count, .. } => {
            let prices = [open, high, low, close].map(|price| price.to_string());
            prices.into_iter().chain([optional(volume), optional(turnover), optional(trade_count)]).collect()
        }
    }
}

fn bytes_read(path: &Path) -> anyhow::Result<ProgressBar> {
    let length = std::fs::metadata(path).with_context(|| cannot_open(path)).exit(Exit::Usage)?.len();
    let style = ProgressStyle::with_template("reading {bar:40} {bytes}/{total_bytes} {eta}").expect("the template is a constant");
    Ok(ProgressBar::new(length).with_style(style))
}

fn rows_sent(rows: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("sending {bar:40} {human_pos}/{human_len} rows {per_sec} {eta}");
    ProgressBar::new(rows).with_style(style.expect("the template is a constant"))
}

fn cannot_open(path: &Path) -> String {
    format!("cannot open {}", path.display())
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// To the hundredth of a second.
fn spell_roughly(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// A duration as people write it.
fn spell(duration: Duration) -> String {
    let span = jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX);
    format!("{span:#}")
}
