//! `marketflow explain`: one bar with its revisions, its trades, and the gaps that touch it.

use super::bars::{COLUMNS, PrintedBar, plain, utc_and_kst};
use super::query::{self, Texts, texts};
use super::time::utc_instant;
use crate::console::{block_on, json, line};
use anyhow::{Context, bail};
use marketflow_clickhouse::ClickHouse;
use marketflow_model::{Instrument, Interval, Quantity, Timestamp};
use marketflow_runtime::{Exit, ExitContext};
use serde::Serialize;

/// Explains one bar: its trades, its revisions, the gaps that touch it
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Examples:
  marketflow explain --instrument BITSTAMP:BTCUSD --interval 5m --open-time 2013-11-30T03:35:00Z
  marketflow explain --instrument BITSTAMP:BTCUSD --open-time 2013-11-30T03:36:00Z --json")]
pub struct Args {
    /// Which instrument
    #[arg(long, value_name = "VENUE:SYMBOL")]
    instrument: Instrument,
    /// Length of the bar: 1m, 5m or 15m
    #[arg(long, default_value = "1m")]
    interval: Interval,
    /// When it opens (ISO; UTC where it has no offset)
    #[arg(long, value_name = "TIME", value_parser = utc_instant)]
    open_time: Timestamp,
    /// The bar of this feed instead of the best one
    #[arg(long)]
    feed: Option<String>,
    /// At most so many trades
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Explanation {
    instrument: Instrument,
    interval: Interval,
    close_time: String,
    bar: PrintedBar,
    /// Of this feed, first to last.
    revisions: Vec<PrintedBar>,
    /// Other feeds that published the same window.
    other_feeds: Vec<PrintedBar>,
    /// What the trades of the window add up to, and the first of them in order.
    trade_count: i64,
    volume: String,
    trades: Vec<PrintedTrade>,
    gaps: Vec<Gap>,
}

#[derive(Serialize)]
struct PrintedTrade {
    event_time: String,
    price: String,
    /// Nothing = not reported.
    size: Option<String>,
    side: String,
    trade_id: Option<String>,
    sequence: Option<String>,
}

#[derive(Serialize)]
struct Gap {
    kind: String,
    feed: String,
    gap_id: Option<String>,
    from: Option<String>,
    to: Option<String>,
    reason: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// 1 when there is no such bar, 69 when ClickHouse does not answer.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let open = args.open_time.window_open(args.interval);
    if open != args.open_time {
        let words = format!("no {} bar opens at {}; the window that holds it opens at {open}", args.interval, args.open_time);
        return Err(anyhow::anyhow!(words)).exit(Exit::Usage);
    }
    let clickhouse = query::clickhouse()?;
    let explanation = block_on(explain(&clickhouse, &args))?;
    if args.json {
        json(&explanation)?;
    } else {
        explanation.print();
    }
    Ok(Exit::Ok)
}

async fn explain(clickhouse: &ClickHouse, args: &Args) -> anyhow::Result<Explanation> {
    const WINDOW: &str = "instrument = {instrument:String} AND interval = {interval:String} \
                          AND open_time = fromUnixTimestamp64Micro({open:Int64}, 'UTC')";
    let close = args.open_time.plus_micros(args.interval.micros());
    let mut parameters = vec![
        ("instrument", args.instrument.to_string()),
        ("interval", args.interval.to_string()),
        ("open", args.open_time.micros().to_string()),
        ("close", close.micros().to_string()),
    ];
    let read = async |what: &str, sql: String, parameters: &[(&str, String)]| -> anyhow::Result<Vec<PrintedBar>> {
        texts(clickhouse, what, &sql, parameters).await?.into_iter().map(PrintedBar::read).collect()
    };
    let best = format!("SELECT {COLUMNS} FROM bars_final WHERE {WINDOW}");
    let feeds = format!("SELECT {COLUMNS} FROM bars WHERE {WINDOW} ORDER BY feed");
    let mut feeds = read("read the feeds of the window", feeds, &parameters).await?;
    let bar = match &args.feed {
        Some(feed) => feeds.iter().find(|bar| bar.feed == *feed).cloned(),
        None => read("read the bar", best, &parameters).await?.pop(),
    };
    let Some(bar) = bar else {
        bail!(
            "{} has no {} bar at {}; nothing traded then, or it has not closed yet",
            args.instrument,
            args.interval,
            args.open_time
        );
    };
    feeds.retain(|other| other.feed != bar.feed);
    parameters.push(("feed", bar.feed.clone()));

    let revisions =
        format!("SELECT {COLUMNS} FROM bars_log WHERE {WINDOW} AND feed = {{feed:String}} ORDER BY revision LIMIT 1 BY revision");
    let revisions = read("read the revisions", revisions, &parameters).await?;
    let (trade_count, volume, trades) = trades(clickhouse, args.limit, &parameters).await?;
    let gaps = gaps(clickhouse, &parameters).await?;
    Ok(Explanation {
        instrument: args.instrument.clone(),
        interval: args.interval,
        close_time: close.to_string(),
        bar,
        revisions,
        other_feeds: feeds,
        trade_count,
        volume,
        trades,
        gaps,
    })
}

async fn trades(
    clickhouse: &ClickHouse,
    limit: u32,
    parameters: &[(&str, String)],
) -> anyhow::Result<(i64, String, Vec<PrintedTrade>)> {
    // the window in event_date as well: that is what the table is kept by
    const WINDOW: &str = "instrument = {instrument:String} AND feed = {feed:String} \
         AND event_date >= toDate(fromUnixTimestamp64Micro({open:Int64}, 'UTC')) \
         AND event_date <= toDate(fromUnixTimestamp64Micro({close:Int64}, 'UTC')) \
         AND event_time >= fromUnixTimestamp64Micro({open:Int64}, 'UTC') AND event_time < fromUnixTimestamp64Micro({close:Int64}, 'UTC')";
    let sums = format!("SELECT toString(count()), toString(sum(ifNull(size, 0))) FROM trades WHERE {WINDOW}");
    let sums = texts(clickhouse, "add up the trades", &sums, parameters).await?.pop().context("a sum has one row")?;
    let [count, volume] = shape(sums)?;
    let rows = format!(
        "SELECT toString(toUnixTimestamp64Micro(event_time)), toString(price), toString(size), toString(side), trade_id, \
         toString(sequence) FROM trades WHERE {WINDOW} ORDER BY sequence, event_time, import_row LIMIT {limit}"
    );
    let mut trades = Vec::new();
    for row in texts(clickhouse, "read the trades", &rows, parameters).await? {
        let [event_time, price, size, side, trade_id, sequence] = shape(row)?;
        trades.push(PrintedTrade {
            event_time: instant(event_time)?.context("a trade has a time")?,
            price: plain(price)?,
            size: size.map(|size| plain(Some(size))).transpose()?,
            side: side.unwrap_or_default(),
            trade_id,
            sequence,
        });
    }
    Ok((count.unwrap_or_default().parse()?, plain(volume)?, trades))
}

async fn gaps(clickhouse: &ClickHouse, parameters: &[(&str, String)]) -> anyhow::Result<Vec<Gap>> {
    let sql = "SELECT toString(kind), toString(feed), gap_id, toString(toUnixTimestamp64Micro(from_time)), \
         toString(toUnixTimestamp64Micro(to_time)), reason FROM feed_status \
         WHERE feed = {feed:String} AND startsWith(kind, 'gap_') AND (instrument IS NULL OR instrument = {instrument:String}) \
         AND from_time < fromUnixTimestamp64Micro({close:Int64}, 'UTC') \
         AND (to_time IS NULL OR to_time > fromUnixTimestamp64Micro({open:Int64}, 'UTC')) ORDER BY clock, kind DESC";
    let mut gaps = Vec::new();
    for row in texts(clickhouse, "read the gaps", sql, parameters).await? {
        let [kind, feed, gap_id, from, to, reason] = shape(row)?;
        let (kind, feed) = (kind.unwrap_or_default(), feed.unwrap_or_default());
        gaps.push(Gap { kind, feed, gap_id, from: instant(from)?, to: instant(to)?, reason });
    }
    Ok(gaps)
}

fn shape<const N: usize>(row: Texts) -> anyhow::Result<[Option<String>; N]> {
    <[Option<String>; N]>::try_from(row).ok().context("cannot read an answer: a row of another shape")
}

fn instant(micros: Option<String>) -> anyhow::Result<Option<String>> {
    micros.map(|micros| Ok(Timestamp::from_micros(micros.parse()?).to_string())).transpose()
}

impl Explanation {
    fn print(&self) {
        let bar = &self.bar;
        line(&format!(
            "{} {} {} to {}",
            self.instrument,
            self.interval,
            utc_and_kst(&bar.open_time),
            utc_and_kst(&self.close_time)
        ));
        line(&format!("  open {}  high {}  low {}  close {}", bar.open, bar.high, bar.low, bar.close));
        line(&format!(
            "  volume {} (bought {}, sold {})  turnover {}  vwap {}  {} trades",
            bar.volume,
            bar.buy_volume,
            bar.sell_volume,
            bar.turnover,
            bar.vwap.as_deref().unwrap_or("-"),
            bar.trade_count
        ));
        line(&format!("  quality {}: {}", bar.quality, quality_words(&bar.quality)));
        line(&format!("  built from {} of feed {}, revision {}", bar.source, bar.feed, bar.revision));

        if self.revisions.len() > 1 {
            line("\nrevisions");
            for revision in &self.revisions {
                line(&format!(
                    "  {}: close {}  volume {}  {} trades  {}{}",
                    revision.revision,
                    revision.close,
                    revision.volume,
                    revision.trade_count,
                    revision.quality,
                    revision.revision_reason.as_ref().map(|reason| format!("  because of {reason}")).unwrap_or_default()
                ));
            }
        }
        for other in &self.other_feeds {
            line(&format!(
                "\nfeed {} has it too: close {}  volume {}  {}  revision {}",
                other.feed, other.close, other.volume, other.quality, other.revision
            ));
        }
        line(if self.gaps.is_empty() { "\nno gap touches it" } else { "\ngaps that touch it" });
        for gap in &self.gaps {
            line(&format!(
                "  {} {} from {} to {}  {}",
                gap.kind,
                gap.gap_id.as_deref().unwrap_or("-"),
                gap.from.as_deref().unwrap_or("-"),
                gap.to.as_deref().unwrap_or("now"),
                gap.reason.as_deref().unwrap_or_default()
            ));
        }
        self.print_trades();
    }

    fn print_trades(&self) {
        if self.bar.source == "candles" {
            line("\nit was made from a provider's candles: there are no trades");
            return;
        }
        let shown = if i64::try_from(self.trades.len()).is_ok_and(|shown| shown < self.trade_count) {
            format!(", the first {}; --limit shows more", self.trades.len())
        } else {
            String::new()
        };
        line(&format!("\n{} trades with a volume of {}{}{shown}", self.trade_count, self.volume, self.agreement()));
        for trade in &self.trades {
            line(&format!(
                "  {}  {} x {}  {}  {}",
                trade.event_time,
                trade.price,
                trade.size.as_deref().unwrap_or("not reported"),
                trade.side,
                trade.trade_id.as_deref().or(trade.sequence.as_deref()).unwrap_or_default()
            ));
        }
    }

    fn agreement(&self) -> &'static str {
        let same = self.volume.parse::<Quantity>() == self.bar.volume.parse::<Quantity>();
        if same && self.trade_count == self.bar.trade_count { ", as in the bar" } else { ", UNLIKE the bar" }
    }
}

fn quality_words(quality: &str) -> &'static str {
    match quality {
        "complete" => "everything the venue published is in it",
        "backfilled" => "there was a hole, and it was filled",
        "halted" => "trading was halted during it",
        "partial_open" => "we joined in the middle of it, or the import was cut there",
        "gap" => "records are missing and have not come yet",
        "no_trades" => "nothing traded in an open market; it carries the last close",
        _ => "written by something newer than this program",
    }
}
