//! One file per record type: its table, columns and row. This file is the list, and what all rows share.
//!
//! Next: `trade.rs`.

mod bar;
mod candle;
mod control;
mod envelope;
mod flow_aggregate;
mod fund_flow;
mod observation;
mod quote;
mod reference;
mod trade;

use crate::batch::{Batch, Marks};
use marketflow_clickhouse::{Column, RowWriter};
use marketflow_contract::{AvroRecord, Schema, decode_trade};
use marketflow_kafka::DecodeError;
use marketflow_model::{
    Bar, Candle, Control, Envelope, FlowAggregate, FundFlow, Observation, Quote, Reference, Timestamp, TradeRef,
};

/// How a record becomes a row.
pub(crate) trait Row {
    /// Into which table.
    const TABLE: &'static str;
    /// Raised whenever a row holds something else; part of the deduplication token.
    const VERSION: u32;
    /// The columns after [`PLACE`], as `system.columns` spells them.
    const COLUMNS: &'static [Column];
    /// The column whose month is the table partition and that follows `instrument` in the sort key; `None` where the table has one partition.
    const MONTH_OF: Option<&'static str>;

    /// The time that places the row in its table; the column of [`Row::MONTH_OF`] where there is one.
    fn time(&self) -> Timestamp;
    /// Appends [`Row::COLUMNS`].
    fn write(&self, row: &mut RowWriter<'_>);
}

/// Where a record stands; the first columns of every table.
pub(crate) struct Place<'a> {
    pub(crate) epoch: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) append_time: Timestamp,
}

const PLACE: &[Column] = &[
    ("stream_epoch", "LowCardinality(String)"),
    ("topic", "LowCardinality(String)"),
    ("partition", "Int32"),
    ("offset", "Int64"),
    ("append_time", "DateTime64(3, 'UTC')"),
];

/// Why a value became no row.
pub(crate) enum Refused {
    /// Not a record of this table.
    Decode(DecodeError),
    /// A record, but outside what a column holds.
    OutOfRange(String),
}

/// What became of a record.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// A row of the batch.
    Row,
    /// Its row was there already.
    Landed,
}

type Append = fn(&[u8], &Place<'_>, &Marks, &mut Batch) -> Result<Taken, Refused>;

/// A table and how its rows are made.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) schema: Schema,
    pub(crate) version: u32,
    pub(crate) month_of: Option<&'static str>,
    columns: &'static [Column],
    append: Append,
}

/// Every table, by record type.
const ALL: &[Table] = &[
    Table::of::<Bar>(),
    Table::of::<Candle>(),
    Table::of::<Control>(),
    Table::of::<Envelope>(),
    Table::of::<FlowAggregate>(),
    Table::of::<FundFlow>(),
    Table::of::<Observation>(),
    Table::of::<Quote>(),
    Table::of::<Reference>(),
    // the many: their texts are read where they stand
    Table::new::<TradeRef<'static>>(Schema::Trade, |body, place, marks, batch| {
        append(&decode_trade(body).map_err(not_ours)?, place, marks, batch)
    }),
];

/// The table for a topic's main record type.
pub(crate) fn table_for(schema: Schema) -> Option<&'static Table> {
    ALL.iter().find(|table| table.schema == schema)
}

impl Table {
    const fn of<R: Row + AvroRecord>() -> Self {
        Self::new::<R>(R::SCHEMA, |body, place, marks, batch| append(&R::decode(body).map_err(not_ours)?, place, marks, batch))
    }

    const fn new<R: Row>(schema: Schema, append: Append) -> Self {
        Self { name: R::TABLE, schema, version: R::VERSION, month_of: R::MONTH_OF, columns: R::COLUMNS, append }
    }

    /// All columns of a row, in order.
    pub(crate) fn columns(&self) -> Vec<Column> {
        [PLACE, self.columns].concat()
    }

    /// Adds the row of a value's body to the batch, unless a mark says it landed. Adds nothing when it refuses.
    pub(crate) fn append(&self, body: &[u8], place: &Place<'_>, marks: &Marks, batch: &mut Batch) -> Result<Taken, Refused> {
        (self.append)(body, place, marks, batch)
    }
}

fn not_ours(problem: marketflow_contract::DecodeError) -> Refused {
    Refused::Decode(problem.into())
}

fn append<R: Row>(record: &R, place: &Place<'_>, marks: &Marks, batch: &mut Batch) -> Result<Taken, Refused> {
    let time = record.time();
    let Some(month) = month(time) else {
        return Err(Refused::OutOfRange(format!("{time} is outside the years 1900 to 2299, which DateTime64 holds")));
    };
    let table_partition = if R::MONTH_OF.is_some() { month } else { 0 };
    if marks.get(&table_partition).is_some_and(|mark| place.offset <= *mark) {
        return Ok(Taken::Landed);
    }
    batch.append(table_partition, place, |row| {
        row.string(place.epoch);
        row.string(place.topic);
        row.int32(place.partition);
        row.int64(place.offset);
        row.millis(place.append_time);
        record.write(row);
    });
    Ok(Taken::Row)
}

/// `toYYYYMM` in UTC; `None` outside what `DateTime64(6)` holds.
///
/// **Source**: the civil-from-days algorithm, <https://howardhinnant.github.io/date_algorithms.html>.
fn month(time: Timestamp) -> Option<u32> {
    const FIRST: i64 = -2_208_988_800_000_000;
    const AFTER_LAST: i64 = 10_413_792_000_000_000;
    if !(FIRST..AFTER_LAST).contains(&time.micros()) {
        return None;
    }
    let days = time.micros().div_euclid(86_400_000_000) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    u32::try_from(year * 100 + month).ok()
}

/// Lower-case names of symbols, as tables hold them.
macro_rules! names {
    ($function:ident, $kind:ty, { $($variant:ident => $name:literal),* $(,)? }) => {
        pub(super) const fn $function(value: $kind) -> &'static str {
            match value { $(<$kind>::$variant => $name),* }
        }
    };
}
use names;

/// Symbols that several records share.
mod symbols {
    use marketflow_model::Source;

    names!(source, Source, {
        Unknown => "unknown", Websocket => "websocket", Rest => "rest", Replay => "replay", Import => "import",
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use marketflow_clickhouse::Columns;
    use marketflow_contract::topics;

    #[test]
    fn months_are_those_of_the_calendar() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 197_001),
            ("1969-12-31T23:59:59.999999Z", 196_912),
            ("2013-11-30T23:59:59.999999Z", 201_311),
            ("2013-12-01T00:00:00Z", 201_312),
            ("2024-02-29T12:00:00Z", 202_402),
            ("2100-03-01T00:00:00Z", 210_003),
            ("1900-01-01T00:00:00Z", 190_001),
            ("2299-12-31T23:59:59.999999Z", 229_912),
        ] {
            assert_eq!(month(Timestamp::parse(text).unwrap()), Some(expected), "{text}");
        }
        for text in ["1899-12-31T23:59:59.999999Z", "2300-01-01T00:00:00Z"] {
            assert_eq!(month(Timestamp::parse(text).unwrap()), None, "{text}");
        }
        assert_eq!((month(Timestamp::MIN), month(Timestamp::MAX)), (None, None));
    }

    #[test]
    fn every_topic_we_read_has_a_table_and_the_list_is_sorted() {
        for topic in topics::all().iter().filter(|topic| topic.readers.iter().any(|reader| reader == "sink")) {
            assert!(table_for(topic.values[0]).is_some(), "{}", topic.name);
        }
        assert!(ALL.is_sorted_by_key(|table| table.schema.record_name()));
        let live = topics::all().into_iter().find(|topic| topic.name == topics::BARS_LIVE).unwrap();
        assert!(!live.readers.iter().any(|reader| reader == "sink"), "unfinished bars are in no table");
    }

    /// The columns of `schemas/clickhouse` in order, without those the table fills itself.
    #[test]
    fn columns_are_those_of_the_schema_files() {
        for table in ALL {
            let sql = marketflow_clickhouse::migrations::ALL
                .iter()
                .find_map(|file| file.sql.split_once(&format!("CREATE TABLE IF NOT EXISTS {}\n(\n", table.name)))
                .map(|(_, rest)| rest.split_once("\n)\n").unwrap().0)
                .unwrap_or_else(|| panic!("no file creates {}", table.name));
            let columns: Vec<(String, String)> = sql
                .lines()
                .filter(|line| !line.contains(" DEFAULT "))
                .map(|line| {
                    let (name, rest) = line.trim().split_once(' ').unwrap();
                    let kind = rest.split(" COMMENT ").next().unwrap().trim().trim_end_matches(',');
                    (name.to_owned(), kind.to_owned())
                })
                .collect();
            let ours: Vec<(String, String)> = table.columns().iter().map(|(n, k)| ((*n).to_owned(), (*k).to_owned())).collect();
            assert_eq!(ours, columns, "{}", table.name);
            assert_eq!(Columns::new(&table.columns()).rows(), 0, "every type can be written");
            if let Some(column) = table.month_of {
                assert!(table.columns().iter().any(|(name, _)| *name == column));
            }
        }
    }

    /// The columns after [`PLACE`], as text.
    pub(super) fn row_of<R: Row>(record: &R) -> String {
        let mut columns = Columns::new(R::COLUMNS);
        columns.append(|row| record.write(row));
        columns.text(0)
    }
}
