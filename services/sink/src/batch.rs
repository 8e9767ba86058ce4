//! Rows gathered for one topic partition: a block per table partition, each insert's bytes and token.

use crate::tables::Table;
use bytes::Bytes;
use marketflow_clickhouse::Insert;
use marketflow_model::Timestamp;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

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
    /// Blocks by table partition.
    pub(crate) blocks: BTreeMap<u32, Gathering>,
    /// The offset to commit once all of it has landed.
    pub(crate) next_offset: i64,
    /// When its last record was appended.
    pub(crate) last_append: Timestamp,
    /// When its first record came to us.
    pub(crate) begun: Instant,
    /// Records of it that were set aside and must be confirmed before the commit.
    pub(crate) set_aside: u64,
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

/// Rows of one table partition, in offset order.
#[derive(Default)]
pub(crate) struct Gathering {
    bytes: Vec<u8>,
    /// Offset of each row, and where its bytes end.
    rows: Vec<(i64, usize)>,
}

impl Batch {
    pub(crate) fn new(next_offset: i64) -> Self {
        Self {
            blocks: BTreeMap::new(),
            next_offset,
            last_append: Timestamp::from_micros(0),
            begun: Instant::now(),
            set_aside: 0,
            rows: 0,
            bytes: 0,
        }
    }

    /// Takes the row in `row` for `offset`.
    pub(crate) fn push(&mut self, table_partition: u32, offset: i64, row: &[u8]) {
        let block = self.blocks.entry(table_partition).or_default();
        block.bytes.extend_from_slice(row);
        block.rows.push((offset, block.bytes.len()));
        self.rows += 1;
        self.bytes += row.len();
    }
}

/// A block that will not change any more: what is inserted, or halves of it.
pub(crate) struct Block {
    table_partition: u32,
    bytes: Bytes,
    rows: Vec<(i64, usize)>,
}

impl Block {
    pub(crate) fn new(table_partition: u32, gathering: Gathering) -> Self {
        Self { table_partition, bytes: gathering.bytes.into(), rows: gathering.rows }
    }

    pub(crate) fn all(&self) -> Range<usize> {
        0..self.rows.len()
    }

    /// Offset of a row.
    pub(crate) fn offset(&self, row: usize) -> i64 {
        self.rows[row].0
    }

    /// The insert of some rows: bytes and token depend on nothing but the rows.
    pub(crate) fn insert(&self, stream: &Stream, header: &Bytes, rows: &Range<usize>) -> Insert {
        let start = if rows.start == 0 { 0 } else { self.rows[rows.start - 1].1 };
        let end = self.rows[rows.end - 1].1;
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
        Insert::new(stream.table.name, token, header.clone(), self.bytes.slice(start..end), rows.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::table_for;
    use marketflow_contract::Schema;

    #[test]
    fn halves_have_their_own_bytes_and_tokens() {
        let mut batch = Batch::new(0);
        for (partition, offset, row) in [(202_401, 5, "aa"), (202_402, 6, "b"), (202_401, 9, "cc")] {
            batch.push(partition, offset, row.as_bytes());
        }
        assert_eq!((batch.rows, batch.bytes), (3, 5));
        let stream =
            Stream { epoch: "c/t".into(), topic: "trades".into(), partition: 3, table: table_for(Schema::Trade).unwrap() };
        let (partition, gathering) = batch.blocks.pop_first().unwrap();
        let block = Block::new(partition, gathering);
        let whole = block.insert(&stream, &Bytes::new(), &block.all());
        assert_eq!((whole.token(), whole.rows()), ("c/t|trades|3|5|9|1|202401", 2));
        let second = block.insert(&stream, &Bytes::new(), &(1..2));
        assert_eq!((second.token(), second.rows()), ("c/t|trades|3|9|9|1|202401", 1));
        assert_ne!(format!("{whole:?}"), format!("{second:?}"));
    }
}
