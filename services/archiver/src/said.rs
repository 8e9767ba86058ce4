//! What a run that ends says on standard output, a JSON object a line, for the program that started it.

use serde::Serialize;
use std::io::Write;
use tracing::debug;

/// One line.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", content = "of", rename_all = "snake_case")]
pub(crate) enum Said {
    /// How far a topic partition is read.
    Progress(Progress),
    /// What a pass wrote.
    Result(PassResult),
}

/// Offsets of one topic partition.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Progress {
    /// The topic and its partition.
    pub(crate) place: String,
    /// Offsets behind.
    pub(crate) done: i64,
    /// Offsets in all.
    pub(crate) all: i64,
}

/// What a pass wrote.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct PassResult {
    /// The six files that hold something.
    pub(crate) markets: Vec<MarketResult>,
    /// The topic partitions that hold something.
    pub(crate) partitions: Vec<PartitionResult>,
    /// Series that belong to no market, `PROVIDER:SERIES`.
    pub(crate) unassigned: Vec<String>,
}

/// One topic partition.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PartitionResult {
    /// The topic and its partition.
    pub(crate) place: String,
    /// Files in all.
    pub(crate) files: usize,
    /// Of this pass.
    pub(crate) new_files: usize,
    /// Rows in all.
    pub(crate) rows: u64,
    /// Of this pass.
    pub(crate) new_rows: u64,
}

/// One market's file.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MarketResult {
    /// Its market.
    pub(crate) market: &'static str,
    /// Below the place.
    pub(crate) path: String,
    /// Its rows.
    pub(crate) rows: usize,
    /// Rows without a value.
    pub(crate) missing: usize,
    /// Its length.
    pub(crate) bytes: usize,
    /// Whether it was written: it is not when it would be what it is.
    pub(crate) written: bool,
}

impl Said {
    /// Says it. Nobody has to listen.
    pub(crate) fn say(&self) {
        let written = serde_json::to_string(self).map(|line| writeln!(std::io::stdout(), "{line}"));
        if !matches!(written, Ok(Ok(()))) {
            debug!("nobody reads what this says");
        }
    }
}
