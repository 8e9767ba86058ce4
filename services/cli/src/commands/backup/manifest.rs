//! `manifest.json`: what a backup holds. It is written last, so that what has none is no backup.

use super::super::query::texts;
use anyhow::Context;
use marketflow_archive::{Place, Stored};
use marketflow_clickhouse::ClickHouse;
use marketflow_runtime::{Exit, ExitContext};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "manifest.json";
/// Of this layout.
pub(crate) const FORMAT: u32 = 1;

/// A backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    /// When it was begun, UTC.
    pub(crate) taken_at: String,
    /// marketflow's version.
    pub(crate) version: String,
    /// ClickHouse's version.
    pub(crate) clickhouse: String,
    pub(crate) database: String,
    /// Files of `schemas/clickhouse` applied, with their checksums.
    pub(crate) migrations: BTreeMap<String, String>,
    /// From where the sink has to go on after a restore; nothing when Kafka was not asked.
    pub(crate) positions: Vec<Position>,
    pub(crate) tables: Vec<Table>,
}

/// All records of a topic partition before `offset` were in the tables when the backup was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) topic: String,
    /// Cluster id and topic id.
    pub(crate) epoch: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// As the server wrote it, for whoever has to do without marketflow.
    pub(crate) create: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: u64,
    /// One for each table partition.
    pub(crate) files: Vec<File>,
    /// Highest offsets; see [`marks`].
    pub(crate) marks: BTreeSet<Mark>,
}

/// Rows of one table partition in ClickHouse's Native format, packed by zstd.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) partition: String,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// Highest offset of a stream in a table partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) stream_epoch: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) table_partition: String,
    pub(crate) offset: i64,
}

impl File {
    pub(crate) fn stored(&self) -> Stored {
        Stored { path: self.path.clone(), bytes: self.bytes, sha256: self.sha256.clone() }
    }
}

impl Manifest {
    /// What stands there; `None` without a manifest, which is written last: then nothing there is a backup.
    pub(crate) async fn read(place: &Place) -> anyhow::Result<Option<Self>> {
        let Some(text) = place.get(NAME).await? else { return Ok(None) };
        serde_json::from_slice(&text).context("the manifest is not readable").map(Some).exit(Exit::CheckSaidNo)
    }

    /// Makes a backup of what stands there.
    pub(crate) async fn seal(&self, place: &Place) -> anyhow::Result<()> {
        place.put(NAME, serde_json::to_vec_pretty(self)?.into()).await
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &File> {
        self.tables.iter().flat_map(|table| &table.files)
    }

    pub(crate) fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }
}

/// The sink's marks in a table: what it will skip. None in a table that holds no stream.
pub(crate) async fn marks(clickhouse: &ClickHouse, table: &str, columns: &[String]) -> anyhow::Result<BTreeSet<Mark>> {
    if ["stream_epoch", "topic", "partition", "offset"].iter().any(|name| !columns.iter().any(|column| column == name)) {
        return Ok(BTreeSet::new());
    }
    let sql = format!(
        "SELECT toString(stream_epoch), toString(topic), toString(partition), toString(_partition_id), toString(max(offset)) FROM {table} \
         GROUP BY ALL"
    );
    let rows = texts(clickhouse, &format!("read the marks of {table}"), &sql, &[]).await?;
    rows.into_iter()
        .map(|row| {
            let row: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
            let [stream_epoch, topic, partition, table_partition, offset] =
                <[String; 5]>::try_from(row).ok().context("a mark of another shape")?;
            Ok(Mark { stream_epoch, topic, partition: partition.parse()?, table_partition, offset: offset.parse()? })
        })
        .collect()
}
