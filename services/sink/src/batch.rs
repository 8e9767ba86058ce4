//! Rows gathered for one topic partition: a block per table partition, each insert's rows and token.

use crate::tables::{Place, Table};
use marketflow_clickhouse::{Columns, Insert, RowWriter};
use marketflow_model::Timestamp;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Highest offset landed, by table partition; rows at or below it are there already.
pub(crate) type Marks = BTreeMap<u32, i64>;

/// A topic partition of one life of a topic, and the table it lands in.
#[derive(Clone)]
pub(crate) struct Stream {
    pub(crate) epoch: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) table: &'static Table,
}

/// What was read of a stream since its last batch.
pub(crate) struct Batch {
    table: &'static Table,
    /// Blocks by table partition.
    pub(crate) blocks: BTreeMap<u32, Block>,
    /// Its first record's offset, and the one to commit once all of it has landed.
    pub(crate) first_offset: i64,
    pub(crate) next_offset: i64,
    /// When its last record was appended.
    pub(crate) last_append: Timestamp,
    /// When its first record came to us.
    pub(crate) begun: Instant,
    /// Records of it that were set aside and must be confirmed before the commit.
    pub(crate) set_aside: u64,
    /// Records whose rows were there already.
    pub(crate) landed: u64,
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

impl Batch {
    pub(crate) fn new(table: &'static Table, first_offset: i64) -> Self {
        Self {
            table,
            blocks: BTreeMap::new(),
            first_offset,
            next_offset: first_offset,
            last_append: Timestamp::from_micros(0),
            begun: Instant::now(),
            set_aside: 0,
            landed: 0,
            rows: 0,
            bytes: 0,
        }
    }

    /// Adds the row of the record at `place`.
    pub(crate) fn append(&mut self, table_partition: u32, place: &Place<'_>, write: impl FnOnce(&mut RowWriter<'_>)) {
        let block = self.blocks.entry(table_partition).or_insert_with(|| Block {
            table_partition,
            columns: Columns::new(&self.table.columns()),
            offsets: Vec::new(),
        });
        let before = block.columns.bytes();
        block.columns.append(write);
        block.offsets.push(place.offset);
        self.last_append = place.append_time;
        self.rows += 1;
        self.bytes += block.columns.bytes() - before;
    }
}

/// Rows of one table partition, in offset order: what is inserted, or halves of it.
pub(crate) struct Block {
    table_partition: u32,
    columns: Columns,
    offsets: Vec<i64>,
}

impl Block {
    pub(crate) fn all(&self) -> Range<usize> {
        0..self.offsets.len()
    }

    /// Offset of a row.
    pub(crate) fn offset(&self, row: usize) -> i64 {
        self.offsets[row]
    }

    /// The insert of some rows, in the order of the table: bytes and token depend on nothing but the rows.
    pub(crate) fn insert(&self, stream: &Stream, rows: &Range<usize>) -> Insert {
        let token = format!(
            "{}|{}|{}|{}|{}|{}|{}",
            stream.epoch,
            stream.topic,
            stream.partition,
            self.offset(rows.start),
            self.offset(rows.end - 1),
            stream.table.version,
            self.table_partition,
        );
        let sorted = match stream.table.month_of {
            Some(time) => self.columns.sorted(rows.clone(), "instrument", time),
            None => (0..).skip(rows.start).take(rows.len()).collect(),
        };
        Insert::new(stream.table.name, token, &self.columns, &sorted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{Taken, table_for};
    use marketflow_contract::{AvroRecord, Schema};
    use marketflow_model::{Conditions, Feed, Side, Source, Trade};

    #[test]
    fn a_batch_is_a_block_per_month_and_halves_have_their_own_rows_and_tokens() {
        let table = table_for(Schema::Trade).unwrap();
        let mut batch = Batch::new(table, 0);
        let marks = Marks::from([(202_402, 6)]);
        for (offset, month, expected) in
            [(5, "01", Taken::Row), (6, "02", Taken::Landed), (7, "02", Taken::Row), (9, "01", Taken::Row)]
        {
            let time = Timestamp::parse(&format!("2024-{month}-01T00:00:00Z")).unwrap();
            let trade = Trade {
                instrument: "BITSTAMP:BTCUSD".parse().unwrap(),
                feed: Feed::new("bitstamp"),
                event_time: time,
                receive_time: time,
                price: "1".parse().unwrap(),
                size: None,
                side: Side::Sell,
                trade_id: None,
                sequence: None,
                import_row: None,
                conditions: Conditions::NONE,
                source: Source::Rest,
            };
            let mut body = Vec::new();
            trade.encode(&mut body);
            let place = Place { epoch: "c/t", topic: "trades", partition: 3, offset, append_time: time };
            let Ok(taken) = table.append(&body, &place, &marks, &mut batch) else { panic!("refused") };
            assert_eq!(taken, expected, "{offset}");
        }
        assert_eq!((batch.rows, batch.blocks.len()), (3, 2));
        let stream = Stream { epoch: "c/t".into(), topic: "trades".into(), partition: 3, table };
        let (_, block) = batch.blocks.pop_first().unwrap();
        let whole = block.insert(&stream, &block.all());
        assert_eq!((whole.token(), whole.rows()), ("c/t|trades|3|5|9|1|202401", 2));
        let second = block.insert(&stream, &(1..2));
        assert_eq!((second.token(), second.rows()), ("c/t|trades|3|9|9|1|202401", 1));
        assert_ne!(format!("{whole:?}"), format!("{second:?}"));
    }
}
