//! `data/<market>.parquet`: what is known of each series of a market and each of its periods, one row each.
//!
//! The row is that of the last vintage; within a vintage, and where a source has none, that which reached us last. So the order in which
//! observations are read changes nothing, and a file that is there is where the next merge begins: what Kafka has forgotten stays.
//!
//! Next: `manifest.rs`.

use crate::columns::{Column, FileWriter, Kind, read};
use crate::records::Archived;
use anyhow::{Context, ensure};
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use marketflow_model::{Observation, SeriesValue, Timestamp};
use std::collections::BTreeMap;

/// What becomes of a value that a source published as missing, as each file says of itself.
const MISSING: &str = "null: published as missing by the source; nothing is filled in or carried forward";

/// Where the file of a market lies.
pub fn market_path(market: &str) -> String {
    format!("data/{market}.parquet")
}

/// Provider, series and period.
type Key = (String, String, Timestamp, Timestamp);

/// The rows of one market, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarketFile {
    rows: BTreeMap<Key, Observation>,
}

impl MarketFile {
    /// Takes an observation in, unless a later one of the same period is there.
    pub fn take(&mut self, observation: Observation) {
        let Observation { provider, series, period_start, period_end, .. } = &observation;
        let key = (provider.clone(), series.clone(), *period_start, *period_end);
        if self.rows.get(&key).is_none_or(|known| rank(known) <= rank(&observation)) {
            self.rows.insert(key, observation);
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// What they hold, by provider, series and period.
    pub fn observations(&self) -> impl Iterator<Item = &Observation> {
        self.rows.values()
    }

    /// Number of rows without a value.
    pub fn missing(&self) -> usize {
        self.rows.values().filter(|row| row.value.is_none()).count()
    }

    /// The file of these rows; the same rows give the same bytes.
    ///
    /// # Errors
    /// None in practice: the columns are tested.
    pub fn write(&self, market: &str) -> anyhow::Result<Bytes> {
        let columns = [&[Column::new("market", Kind::Text)][..], Observation::COLUMNS].concat();
        let mut file = FileWriter::new(&columns, &[("market", market), ("missing", MISSING)])?;
        for observation in self.rows.values() {
            file.append(|row| {
                row.text(market);
                observation.write(row);
            })?;
        }
        file.finish()
    }

    /// Reads a file back.
    ///
    /// # Errors
    /// What [`MarketFile::write`] did not write.
    pub fn read(file: Bytes) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for batch in read(file)? {
            let batch = batch?;
            let columns = Columns(&batch);
            for row in 0..batch.num_rows() {
                let required = |name: &'static str, micros: Option<i64>| {
                    micros.map(Timestamp::from_micros).with_context(|| format!("a row without {name}"))
                };
                let value = columns.decimal("value", row)?;
                all.take(Observation {
                    provider: columns.text("provider", row)?.context("a row without provider")?,
                    series: columns.text("series", row)?.context("a row without series")?,
                    period_start: required("period_start", columns.micros("period_start", row)?)?,
                    period_end: required("period_end", columns.micros("period_end", row)?)?,
                    value: value.map(|scaled| SeriesValue::from_scaled(scaled).context("a value out of range")).transpose()?,
                    unit: columns.text("unit", row)?.unwrap_or_default(),
                    published_at: columns.micros("published_at", row)?.map(Timestamp::from_micros),
                    vintage: columns.text("vintage", row)?,
                    receive_time: required("receive_time", columns.micros("receive_time", row)?)?,
                });
            }
        }
        Ok(all)
    }
}

/// What decides between two observations of a period.
fn rank(observation: &Observation) -> (Option<&str>, Timestamp) {
    (observation.vintage.as_deref(), observation.receive_time)
}

/// Cells by name; a file that lacks a column, or holds something else in it, is none of ours.
struct Columns<'a>(&'a RecordBatch);

impl Columns<'_> {
    fn find(&self, name: &str) -> anyhow::Result<&dyn Array> {
        self.0.column_by_name(name).map(|cells| &**cells).with_context(|| format!("there is no column {name}"))
    }

    fn text(&self, name: &str, row: usize) -> anyhow::Result<Option<String>> {
        let cells = self.find(name)?.as_string_opt::<i32>().with_context(|| format!("{name} holds no texts"))?;
        Ok(cells.is_valid(row).then(|| cells.value(row).to_owned()))
    }

    fn micros(&self, name: &str, row: usize) -> anyhow::Result<Option<i64>> {
        let cells = self.find(name)?.as_primitive_opt::<TimestampMicrosecondType>();
        let cells = cells.with_context(|| format!("{name} holds no UTC microseconds"))?;
        Ok(cells.is_valid(row).then(|| cells.value(row)))
    }

    fn decimal(&self, name: &str, row: usize) -> anyhow::Result<Option<i128>> {
        let cells = self.find(name)?.as_primitive_opt::<Decimal128Type>().with_context(|| format!("{name} holds no decimals"))?;
        let scale = i8::try_from(SeriesValue::SCALE)?;
        ensure!(cells.scale() == scale, "{name} has {} decimals, not {scale}", cells.scale());
        Ok(cells.is_valid(row).then(|| cells.value(row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{row_count, to_csv};

    fn observation(series: &str, month: i64, value: Option<&str>, vintage: Option<&str>, received: i64) -> Observation {
        let start = Timestamp::from_seconds(month * 2_592_000);
        Observation {
            provider: "FRED".to_owned(),
            series: series.to_owned(),
            period_start: start,
            period_end: start.plus_micros(2_592_000_000_000),
            value: value.map(|value| value.parse().unwrap()),
            unit: "percent a year".to_owned(),
            published_at: (month % 2 == 0).then(|| start.plus_micros(1)),
            vintage: vintage.map(str::to_owned),
            receive_time: Timestamp::from_micros(received),
        }
    }

    #[test]
    fn the_last_vintage_stays_in_whatever_order_it_is_read() {
        let said = [
            observation("DGS10", 1, Some("4.1"), Some("2024-03-01"), 10),
            observation("DGS10", 1, Some("4.2"), Some("2024-04-01"), 11),
            // an old vintage that was fetched last
            observation("DGS10", 1, Some("3.9"), Some("2024-02-01"), 12),
            observation("DGS10", 2, None, None, 10),
            observation("DGS10", 3, Some("1"), None, 10),
            observation("DGS10", 3, None, None, 11),
            observation("DGS2", 1, Some("-99999999999999999999999999.999999999999"), None, 10),
        ];
        let expected = [&said[1], &said[3], &said[5], &said[6]];
        let mut forward = MarketFile::default();
        said.iter().for_each(|one| forward.take(one.clone()));
        let mut backward = MarketFile::default();
        said.iter().rev().for_each(|one| backward.take(one.clone()));
        assert!(forward.rows.values().eq(expected));
        assert_eq!(forward, backward);
        assert_eq!((forward.rows(), forward.missing()), (4, 2));

        let bytes = forward.write("bonds").unwrap();
        assert_eq!(bytes, backward.write("bonds").unwrap(), "the same rows give the same bytes");
        assert_eq!(row_count(bytes.clone()).unwrap(), 4);
        let read = MarketFile::read(bytes.clone()).unwrap();
        assert_eq!(read, forward);
        let mut text = Vec::new();
        assert_eq!(to_csv(bytes, &mut text).unwrap(), 4);
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("market,provider,series,period_start,"), "{text}");
        assert!(
            text.contains("bonds,FRED,DGS2,1970-01-31T00:00:00Z,1970-03-02T00:00:00Z,-99999999999999999999999999.999999999999,"),
            "{text}"
        );
    }

    #[test]
    fn what_is_none_of_ours_is_refused() {
        assert!(MarketFile::read(Bytes::from_static(b"no Parquet at all")).is_err());
        let mut other = FileWriter::new(&[Column::new("provider", Kind::Long)], &[]).unwrap();
        other.append(|row| row.long(1)).unwrap();
        let problem = MarketFile::read(other.finish().unwrap()).unwrap_err();
        assert!(problem.to_string().contains("value"), "{problem}");
    }
}
