//! `marketflow bars`: bars from ClickHouse as a table, CSV or JSON.

use super::query::{self, Texts, texts};
use super::time::utc_instant;
use crate::console::{block_on, drawn, json, line};
use anyhow::{Context, bail};
use jiff::tz::TimeZone;
use marketflow_model::{BarKind, Instrument, Quantity, Timestamp};
use marketflow_runtime::Exit;
use serde::Serialize;

/// Shows the bars of an instrument
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Where several feeds published the same window the better quality counts, then live before import, then the higher revision; --feed shows
one feed's bars.

Examples:
  marketflow bars --instrument BITSTAMP:BTCUSD --interval 5m --limit 20
  marketflow bars --instrument BITSTAMP:BTCUSD --from 2013-11-25T00:00:00Z --to 2013-11-26T00:00:00Z --format csv > day.csv")]
pub struct Args {
    /// Which instrument
    #[arg(long, value_name = "VENUE:SYMBOL")]
    instrument: Instrument,
    /// What ends a bar: 1m, 5m, 15m, or what bars.intervals and bars.kinds of the processor name (1d, t1000, v500, d1000000)
    #[arg(long, default_value = "1m")]
    interval: BarKind,
    /// Only bars that open at or after this time (ISO; UTC where it has no offset)
    #[arg(long, value_name = "TIME", value_parser = utc_instant)]
    from: Option<Timestamp>,
    /// Only bars that open before this time
    #[arg(long, value_name = "TIME", value_parser = utc_instant)]
    to: Option<Timestamp>,
    /// Only bars of this feed, such as bitstamp or import:0123456789abcdef
    #[arg(long)]
    feed: Option<String>,
    /// At most so many, the latest ones
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// How rows are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    Table,
    Csv,
    Json,
}

/// A bar as it is printed: decimals without exponent or trailing zeros.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct PrintedBar {
    pub(crate) open_time: String,
    pub(crate) open: String,
    pub(crate) high: String,
    pub(crate) low: String,
    pub(crate) close: String,
    pub(crate) volume: String,
    pub(crate) buy_volume: String,
    pub(crate) trade_count: i64,
    /// Nothing when volume is 0.
    pub(crate) vwap: Option<String>,
    pub(crate) revision: i32,
    pub(crate) quality: String,
    pub(crate) turnover: String,
    pub(crate) sell_volume: String,
    pub(crate) feed: String,
    pub(crate) source: String,
    pub(crate) revision_reason: Option<String>,
}

/// What is read of a bar, in the order of [`PrintedBar::read`].
pub(crate) const COLUMNS: &str = "toString(toUnixTimestamp64Micro(open_time)), toString(open), toString(high), toString(low), \
     toString(close), toString(volume), toString(buy_volume), toString(trade_count), toString(vwap), toString(revision), \
     toString(quality), toString(turnover), toString(sell_volume), toString(feed), toString(source), toString(revision_reason)";

const CSV_HEADER: &str = "open_time,open,high,low,close,volume,buy_volume,trade_count,vwap,revision,quality,turnover,sell_volume";

/// Runs the command.
///
/// # Errors
/// 69 when ClickHouse does not answer.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let clickhouse = query::clickhouse()?;
    let (sql, parameters) = question(&args);
    let rows = block_on(texts(&clickhouse, "read bars", &sql, &parameters))?;
    let mut bars = rows.into_iter().map(PrintedBar::read).collect::<anyhow::Result<Vec<_>>>()?;
    bars.reverse();
    match args.format {
        Format::Table => line(&table(&bars)),
        Format::Json => json(&bars)?,
        Format::Csv => {
            line(CSV_HEADER);
            bars.iter().for_each(|bar| line(&bar.csv()));
        }
    }
    if bars.is_empty() {
        eprintln!(
            "no {} bars of {} there; `marketflow sql \"SELECT instrument, interval, count() FROM bars_final GROUP BY ALL\"` shows what is",
            args.interval, args.instrument
        );
    }
    Ok(Exit::Ok)
}

/// Latest first, so that a limit keeps the latest.
fn question(args: &Args) -> (String, Vec<(&'static str, String)>) {
    let mut parameters = vec![("instrument", args.instrument.to_string()), ("interval", args.interval.to_string())];
    let mut sql = format!(
        "SELECT {COLUMNS} FROM {} WHERE instrument = {{instrument:String}} AND interval = {{interval:String}}",
        if args.feed.is_some() { "bars" } else { "bars_final" }
    );
    let edges = [("from", ">=", args.from), ("to", "<", args.to)];
    for (name, compare, time) in edges.into_iter().filter_map(|(name, compare, time)| Some((name, compare, time?))) {
        sql.push_str(&format!(" AND open_time {compare} fromUnixTimestamp64Micro({{{name}:Int64}}, 'UTC')"));
        parameters.push((name, time.micros().to_string()));
    }
    if let Some(feed) = &args.feed {
        sql.push_str(" AND feed = {feed:String}");
        parameters.push(("feed", feed.clone()));
    }
    sql.push_str(" ORDER BY open_time DESC");
    if let Some(limit) = args.limit {
        sql.push_str(&format!(" LIMIT {limit}"));
    }
    (sql, parameters)
}

impl PrintedBar {
    /// From a row of [`COLUMNS`].
    ///
    /// # Errors
    /// A row of another shape.
    pub(crate) fn read(row: Texts) -> anyhow::Result<Self> {
        let [
            open_time,
            open,
            high,
            low,
            close,
            volume,
            buy_volume,
            trade_count,
            vwap,
            revision,
            quality,
            turnover,
            sell_volume,
            feed,
            source,
            revision_reason,
        ] = <[Option<String>; 16]>::try_from(row).ok().context("cannot read bars: a row of another shape")?;
        let time = Timestamp::from_micros(text(open_time)?.parse()?);
        Ok(Self {
            open_time: time.to_string(),
            open: plain(open)?,
            high: plain(high)?,
            low: plain(low)?,
            close: plain(close)?,
            volume: plain(volume)?,
            buy_volume: plain(buy_volume)?,
            trade_count: text(trade_count)?.parse()?,
            vwap: vwap.map(|vwap| plain(Some(vwap))).transpose()?,
            revision: text(revision)?.parse()?,
            quality: text(quality)?,
            turnover: plain(turnover)?,
            sell_volume: plain(sell_volume)?,
            feed: text(feed)?,
            source: text(source)?,
            revision_reason,
        })
    }

    fn csv(&self) -> String {
        let vwap = self.vwap.as_deref().unwrap_or_default();
        format!(
            "{},{},{},{},{},{},{},{},{vwap},{},{},{},{}",
            self.open_time,
            self.open,
            self.high,
            self.low,
            self.close,
            self.volume,
            self.buy_volume,
            self.trade_count,
            self.revision,
            self.quality,
            self.turnover,
            self.sell_volume
        )
    }
}

fn text(value: Option<String>) -> anyhow::Result<String> {
    value.context("cannot read bars: a null where a value must be")
}

/// A decimal of scale 8 without exponent or trailing zeros.
pub(crate) fn plain(value: Option<String>) -> anyhow::Result<String> {
    let value = text(value)?;
    match value.parse::<Quantity>() {
        Ok(decimal) => Ok(decimal.to_string()),
        Err(error) => bail!("cannot read bars: {value:?}: {error}"),
    }
}

pub(crate) fn table(bars: &[PrintedBar]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["open time UTC (KST)", "open", "high", "low", "close", "volume", "vwap", "trades", "rev", "quality"]);
    for column in table.column_iter_mut().skip(1).take(8) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    for bar in bars {
        table.add_row([
            utc_and_kst(&bar.open_time),
            bar.open.clone(),
            bar.high.clone(),
            bar.low.clone(),
            bar.close.clone(),
            bar.volume.clone(),
            bar.vwap.clone().unwrap_or_default(),
            bar.trade_count.to_string(),
            bar.revision.to_string(),
            bar.quality.clone(),
        ]);
    }
    drawn(&table)
}

/// `2013-11-25 00:00 (11-25 09:00)`: Korean time by the zone database.
pub(crate) fn utc_and_kst(time: &str) -> String {
    let Ok(instant) = time.parse::<jiff::Timestamp>() else { return time.to_owned() };
    let utc = instant.to_zoned(TimeZone::UTC);
    let seconds = if utc.second() == 0 && utc.subsec_nanosecond() == 0 { "%Y-%m-%d %H:%M" } else { "%Y-%m-%d %H:%M:%S%.f" };
    match TimeZone::get("Asia/Seoul") {
        Ok(seoul) => format!("{} ({})", utc.strftime(seconds), instant.to_zoned(seoul).strftime("%m-%d %H:%M")),
        Err(_) => utc.strftime(seconds).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn row(vwap: Option<&str>) -> Texts {
        let texts =
            ["1385337600000000", "800.01000000", "801", "800", "800.5", "0.1", "0", "2", "", "0", "complete", "80.001", "1e-8"];
        let mut row: Texts = texts.iter().map(|text| Some((*text).to_owned())).collect();
        row[8] = vwap.map(str::to_owned);
        row.extend([Some("import:1".to_owned()), Some("trades".to_owned()), None]);
        row
    }

    #[test]
    fn csv_has_plain_decimals_and_an_empty_vwap_for_null() {
        let csv = |vwap| PrintedBar::read(row(vwap)).unwrap().csv();
        assert_eq!(csv(Some("800.10")), "2013-11-25T00:00:00Z,800.01,801,800,800.5,0.1,0,2,800.1,0,complete,80.001,0.00000001");
        assert_eq!(csv(None), "2013-11-25T00:00:00Z,800.01,801,800,800.5,0.1,0,2,,0,complete,80.001,0.00000001");
        assert_eq!(CSV_HEADER.split(',').count(), csv(None).split(',').count());
    }

    #[test]
    fn a_row_of_another_shape_is_an_error() {
        assert!(PrintedBar::read(vec![None; 3]).is_err());
        assert!(PrintedBar::read(vec![None; 16]).is_err());
    }

    #[test]
    fn values_travel_as_parameters() {
        let line = Line::parse_from(["bars", "--instrument", "X:Y'", "--interval", "5m", "--from", "2013-11-25", "--limit", "3"]);
        let (sql, parameters) = question(&line.args);
        assert!(sql.contains("FROM bars_final WHERE instrument = {instrument:String} AND interval = {interval:String}"), "{sql}");
        assert!(
            sql.ends_with("open_time >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') ORDER BY open_time DESC LIMIT 3"),
            "{sql}"
        );
        let expected = [("instrument", "X:Y'"), ("interval", "5m"), ("from", "1385337600000000")];
        assert_eq!(parameters, expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn people_see_utc_and_korean_time() {
        assert_eq!(utc_and_kst("2013-11-24T15:00:00Z"), "2013-11-24 15:00 (11-25 00:00)");
        assert_eq!(utc_and_kst("2013-11-24T15:00:00.5Z"), "2013-11-24 15:00:00.5 (11-25 00:00)");
    }
}
