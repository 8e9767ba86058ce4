//! A batch on its way into its table: the same bytes again until the answer is known, the bad row found and set aside.

use crate::batch::{Batch, Stream};
use crate::config::Tries;
use crate::dead_letters::DeadLetters;
use crate::metrics::Metrics;
use anyhow::{Context, anyhow};
use marketflow_clickhouse::{ClickHouse, Disposition, Error, Insert};
use marketflow_kafka::{KafkaConfig, Reader, TopicPartition};
use marketflow_model::EnvelopeClass;
use rand::Rng;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const READ_WITHIN: Duration = Duration::from_secs(30);

/// What every landing needs.
#[derive(Clone)]
pub(crate) struct Landing {
    pub(crate) clickhouse: ClickHouse,
    pub(crate) kafka: KafkaConfig,
    pub(crate) dead_letters: Arc<DeadLetters>,
    pub(crate) tries: Tries,
    pub(crate) metrics: Metrics,
}

impl Landing {
    /// Inserts a batch, block after block. When this returns, its offset may be committed; says how many rows are there.
    pub(crate) async fn land(&self, stream: &Stream, batch: Batch) -> anyhow::Result<u64> {
        let mut refused = 0;
        for block in batch.blocks.into_values() {
            // depth first, left before right: rows land in offset order, and no mark passes a row that is not settled
            let mut open = vec![block.all()];
            while let Some(rows) = open.pop() {
                let insert = block.insert(stream, &rows);
                let Err(refusal) = self.insert(&insert).await else { continue };
                if refusal.disposition() != Disposition::DeadLetter {
                    return Err(anyhow::Error::new(refusal));
                }
                if rows.len() == 1 {
                    let reason = chain(&refusal);
                    tracing::warn!(
                        topic = &*stream.topic,
                        partition = stream.partition,
                        offset = block.offset(rows.start),
                        reason,
                        "row refused"
                    );
                    self.set_aside(stream, block.offset(rows.start), reason).await?;
                    refused += 1;
                } else {
                    let middle = rows.start + rows.len() / 2;
                    open.push(middle..rows.end);
                    open.push(rows.start..middle);
                }
            }
        }
        if batch.set_aside + refused > 0 {
            let dead_letters = self.dead_letters.clone();
            tokio::task::spawn_blocking(move || dead_letters.confirm()).await??;
        }
        if batch.rows > 0 {
            let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let appended = Duration::from_micros(u64::try_from(batch.last_append.micros()).unwrap_or(0));
            self.metrics
                .append_to_row
                .with_label_values(&[stream.table.name])
                .observe(now_ms.saturating_sub(appended).as_secs_f64());
        }
        Ok(batch.rows as u64 + batch.landed - refused)
    }

    /// Tries until the answer is known: `Ok` when the rows are readable, an error that is not `Retry` otherwise.
    async fn insert(&self, insert: &Insert) -> Result<(), Error> {
        let mut pause = self.tries.retry_min;
        loop {
            let start = Instant::now();
            let result = self.clickhouse.insert(insert, self.tries.timeout).await;
            let outcome = match &result {
                Ok(()) => "ok",
                Err(problem) => match problem.disposition() {
                    Disposition::Retry => "retry",
                    Disposition::DeadLetter => "data",
                    Disposition::Fatal => "fatal",
                },
            };
            self.metrics.insert_duration.with_label_values(&[insert.table(), outcome]).observe(start.elapsed().as_secs_f64());
            match result {
                Ok(()) => {
                    self.metrics.inserted.with_label_values(&[insert.table()]).inc_by(insert.rows() as u64);
                    return Ok(());
                }
                Err(problem) if problem.disposition() == Disposition::Retry => {
                    tracing::warn!(
                        table = insert.table(),
                        token = insert.token(),
                        error = chain(&problem),
                        "the insert is tried again"
                    );
                    let jitter = rand::rng().random_range(0.5..1.0);
                    tokio::time::sleep(pause.mul_f64(jitter)).await;
                    pause = (pause * 2).min(self.tries.retry_max);
                }
                Err(problem) => return Err(problem),
            }
        }
    }

    /// Sets one record aside that the database refuses; it is read again, as its bytes were not kept.
    async fn set_aside(&self, stream: &Stream, offset: i64, reason: String) -> anyhow::Result<()> {
        self.metrics.discarded.with_label_values(&[&*stream.topic, "refused"]).inc();
        let (kafka, dead_letters) = (self.kafka.clone(), self.dead_letters.clone());
        let of = TopicPartition::new(&*stream.topic, stream.partition);
        tokio::task::spawn_blocking(move || {
            let mut sent = Err(anyhow!("{of} has no record at {offset} any more"));
            Reader::new(&kafka)?
                .read_to_end(&of, offset, READ_WITHIN, |record| {
                    if record.offset() == offset {
                        sent = dead_letters.send(EnvelopeClass::Refused, reason.clone(), &record);
                    }
                    ControlFlow::Break(())
                })
                .with_context(|| format!("cannot read the refused record {of} at {offset} again"))?;
            sent
        })
        .await?
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
