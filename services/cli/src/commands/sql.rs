//! `marketflow sql "…"`: one query to ClickHouse, its answer as text.

use super::query::{self, with_exit};
use crate::console::{block_on, line};
use anyhow::Context;
use marketflow_runtime::Exit;
use std::io::Read;

/// Asks ClickHouse one query
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Examples:
  marketflow sql \"SELECT instrument, interval, count() FROM bars_final GROUP BY ALL\"
  marketflow sql --format csv \"SELECT * FROM trades WHERE instrument = 'BITSTAMP:BTCUSD' LIMIT 100\"
  echo \"SELECT version()\" | marketflow sql -
Views to ask: trades, candles, bars, bars_final, quotes, feed_status, set_aside.")]
pub struct Args {
    /// The query; - reads it from standard input
    sql: String,
    /// table, csv, json, or any output format of ClickHouse, such as Vertical or JSONEachRow
    #[arg(long, default_value = "table")]
    format: String,
}

/// Runs the command.
///
/// # Errors
/// 1 with ClickHouse's words when it refuses the query, 69 when it does not answer.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let mut sql = args.sql;
    if sql == "-" {
        sql.clear();
        std::io::stdin().read_to_string(&mut sql).context("cannot read the query from standard input")?;
    }
    let clickhouse = query::clickhouse()?;
    let format = clickhouse_format(&args.format);
    let answer = block_on(async { with_exit(clickhouse.text("ask ClickHouse", &sql, format).await) })?;
    if !answer.trim().is_empty() {
        line(answer.trim_end_matches('\n'));
    }
    Ok(Exit::Ok)
}

fn clickhouse_format(name: &str) -> &str {
    match name {
        "table" => "PrettyCompactMonoBlock",
        "csv" => "CSVWithNames",
        "json" => "JSON",
        other => other,
    }
}
