//! What can be read in ClickHouse.
//!
//! Next: `check.rs`.

use anyhow::{Context, bail};
use marketflow_clickhouse::ClickHouse;
use marketflow_model::{Bar, BarSource, Feed, Interval, Quality, Timestamp};
use std::str::FromStr;
use std::time::Duration;

/// The whole session is some ten thousand bars; a busy engine answers within this time or is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Columns of `bars_final` in the order [`bar`] takes them; times as microseconds, so that no text of a zone is read.
const COLUMNS: &str = "instrument, interval, toUnixTimestamp64Micro(open_time), open, high, low, close, volume, turnover, vwap, trade_count, \
                       buy_volume, sell_volume, revision, quality, feed";

/// Questions to one ClickHouse.
#[derive(Clone)]
pub(super) struct Rows(ClickHouse);

impl Rows {
    pub(super) fn new(clickhouse: ClickHouse) -> Self {
        Self(clickhouse)
    }

    /// Trade rows and bar rows; `None` while ClickHouse does not answer.
    pub(super) async fn counts(&self) -> Option<(u64, u64)> {
        let text = self.ask("SELECT (SELECT count() FROM trades_log), (SELECT count() FROM bars_log)").await.ok()?;
        let (trades, bars) = text.trim().split_once('\t')?;
        Some((trades.parse().ok()?, bars.parse().ok()?))
    }

    /// The newest bars of an instrument, oldest first.
    pub(super) async fn last_bars(&self, instrument: &str, interval: Interval, limit: usize) -> anyhow::Result<Vec<Bar>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM bars_final WHERE instrument = '{instrument}' AND interval = '{interval}' ORDER BY open_time DESC LIMIT {limit}"
        );
        let mut bars = bars(&self.ask(&sql).await?)?;
        bars.reverse();
        Ok(bars)
    }

    /// The newest one-minute bar of each of these instruments.
    pub(super) async fn latest_bars(&self, instruments: &[&str]) -> anyhow::Result<Vec<Bar>> {
        let names = instruments.join("', '");
        let minute = Interval::ONE_MINUTE;
        let sql = format!(
            "SELECT {COLUMNS} FROM bars_final WHERE instrument IN ('{names}') AND interval = '{minute}' ORDER BY open_time DESC LIMIT 1 BY instrument"
        );
        bars(&self.ask(&sql).await?)
    }

    /// Every bar.
    pub(super) async fn all_bars(&self) -> anyhow::Result<Vec<Bar>> {
        bars(&self.ask(&format!("SELECT {COLUMNS} FROM bars_final ORDER BY instrument, interval, open_time")).await?)
    }

    async fn ask(&self, sql: &str) -> anyhow::Result<String> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.0.text("read the demo's rows", sql, "TabSeparated")).await;
        Ok(answer.context("ClickHouse does not answer")??)
    }
}

/// Tab-separated rows.
fn bars(text: &str) -> anyhow::Result<Vec<Bar>> {
    text.lines().map(|row| bar(row).with_context(|| format!("row {row:?}"))).collect()
}

fn bar(row: &str) -> anyhow::Result<Bar> {
    let fields: Vec<&str> = row.split('\t').collect();
    let [
        instrument,
        interval,
        open_time,
        open,
        high,
        low,
        close,
        volume,
        turnover,
        vwap,
        trade_count,
        buy_volume,
        sell_volume,
        revision,
        quality,
        feed,
    ] = fields[..]
    else {
        bail!("{} fields", fields.len())
    };
    let interval: Interval = interval.parse()?;
    let open_time = Timestamp::from_micros(read("open_time", open_time)?);
    Ok(Bar {
        instrument: instrument.parse()?,
        interval: interval.into(),
        open_time,
        close_time: open_time.plus_micros(interval.micros()),
        open: read("open", open)?,
        high: read("high", high)?,
        low: read("low", low)?,
        close: read("close", close)?,
        volume: read("volume", volume)?,
        turnover: read("turnover", turnover)?,
        vwap: if vwap == "\\N" { None } else { Some(read("vwap", vwap)?) },
        trade_count: read("trade_count", trade_count)?,
        buy_volume: read("buy_volume", buy_volume)?,
        sell_volume: read("sell_volume", sell_volume)?,
        revision: read("revision", revision)?,
        quality: serde_json::from_value::<Quality>(quality.to_lowercase().into()).context("quality")?,
        feed: Feed::new(feed),
        source: BarSource::Trades,
        revision_reason: None,
    })
}

fn read<T: FromStr>(column: &str, text: &str) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().with_context(|| format!("{column} {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_with_every_digit() {
        let row = "BITSTAMP:BTCUSD\t5m\t1385337600000000\t799.99\t800\t799.5\t799.98\t12.34567891\t9876.5\t\\N\t42\t10\t2.34567891\t1\tBACKFILLED\tbitstamp";
        let bar = bar(row).unwrap();
        assert_eq!((bar.volume.to_string().as_str(), bar.vwap, bar.quality), ("12.34567891", None, Quality::Backfilled));
        assert_eq!(bar.close_time.to_string(), "2013-11-25T00:05:00Z");
        assert!(bars("one\tfield\n").is_err());
    }
}
