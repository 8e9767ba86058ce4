//! Once a minute: are the rows there that we landed lately? What ClickHouse says beside what we know, as metrics.
//!
//! Next: `metrics.rs`.

use crate::batch::Stream;
use crate::metrics::Metrics;
use clickhouse::Row;
use marketflow_clickhouse::{ClickHouse, Error};
use prometheus::core::MetricVec;
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far back an audit looks.
const LOOKS_BACK: Duration = Duration::from_secs(600);

/// The batches of one topic partition that landed lately, oldest first.
#[derive(Default)]
pub(crate) struct History(VecDeque<Landed>);

struct Landed {
    at: Instant,
    /// Its records stand within these offsets, and this many of them are rows.
    first: i64,
    next: i64,
    rows: u64,
}

/// What should be in a table: this many rows of a stream within these offsets.
pub(crate) struct Expected {
    pub(crate) stream: Stream,
    first: i64,
    next: i64,
    rows: u64,
}

impl History {
    pub(crate) fn push(&mut self, first: i64, next: i64, rows: u64) {
        while self.0.front().is_some_and(|oldest| oldest.at.elapsed() > LOOKS_BACK) {
            self.0.pop_front();
        }
        self.0.push_back(Landed { at: Instant::now(), first, next, rows });
    }

    pub(crate) fn expected(&self, stream: &Stream) -> Option<Expected> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let rows = self.0.iter().map(|landed| landed.rows).sum();
        Some(Expected { stream: stream.clone(), first: first.first, next: last.next, rows })
    }
}

/// Asks every table and sets the gauges; partitions that are not ours any more are gone from them.
pub(crate) async fn audit(clickhouse: &ClickHouse, metrics: &Metrics, expected: Vec<Expected>) -> Result<(), Error> {
    #[derive(Row, Deserialize)]
    struct Found {
        topic: String,
        partition: i32,
        rows: u64,
        offsets: u64,
    }
    let mut found: BTreeMap<(String, i32), (u64, u64)> = BTreeMap::new();
    let mut by_table: BTreeMap<&str, Vec<&Expected>> = BTreeMap::new();
    for one in &expected {
        by_table.entry(one.stream.table.name).or_default().push(one);
    }
    for (table, streams) in by_table {
        let places = vec!["(stream_epoch = ? AND topic = ? AND partition = ? AND offset >= ? AND offset < ?)"; streams.len()];
        let sql = format!(
            "SELECT topic, partition, count() AS rows, uniqExact(offset) AS offsets FROM {table} WHERE {} GROUP BY topic, partition",
            places.join(" OR ")
        );
        let query = streams.iter().fold(clickhouse.query(&sql), |query, one| {
            let Stream { epoch, topic, partition, .. } = &one.stream;
            query.bind(&**epoch).bind(&**topic).bind(partition).bind(one.first).bind(one.next)
        });
        for one in clickhouse.rows::<Found>(&format!("audit {table}"), query).await? {
            found.insert((one.topic, one.partition), (one.rows, one.offsets));
        }
    }
    metrics.audited.iter().for_each(MetricVec::reset);
    for one in expected {
        let (topic, partition) = (&*one.stream.topic, one.stream.partition);
        let (rows, offsets) = found.get(&(topic.to_owned(), partition)).copied().unwrap_or_default();
        let missing = one.rows.saturating_sub(offsets);
        if missing > 0 {
            tracing::error!(
                topic,
                partition,
                first = one.first,
                last = one.next - 1,
                expected = one.rows,
                offsets,
                "rows that were landed are not in the table"
            );
        }
        let [there, duplicate, gone] = &metrics.audited;
        for (gauge, value) in [(there, rows), (duplicate, rows - offsets), (gone, missing)] {
            gauge.with_label_values(&[topic, &partition.to_string()]).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics.audit_time.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    Ok(())
}
