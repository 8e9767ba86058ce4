//! Observations → `data/<market>.parquet`: what is there, what the topic holds, and of each period what was said last.
//!
//! The topic is read from its oldest record each time: it is small, months of some series. A file that would be what it is, is not written.
//!
//! Next: `crates/archive/src/market.rs`.

use crate::said::{MarketResult, PassResult};
use crate::{Archiver, STALLED_AFTER, of_kafka};
use anyhow::Context;
use marketflow_archive::{MarketFile, market_path};
use marketflow_contract::topics::OBSERVATIONS;
use marketflow_kafka::{Reader, TopicPartition, fail_point};
use marketflow_model::Observation;
use marketflow_providers::series::Market;
use marketflow_runtime::{Exit, ExitContext};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use tracing::warn;

/// Records between two words about progress.
const SAID_EVERY: i64 = 10_000;

impl Archiver {
    /// Brings the files of all markets up to the end of the topic.
    pub(crate) fn merge_markets(&mut self, reader: &Reader, result: &mut PassResult) -> anyhow::Result<()> {
        let mut files = BTreeMap::new();
        for market in Market::ALL {
            let path = market_path(market.as_str());
            let there = self.handle.block_on(self.place.get(&path))?;
            let cure = || format!("{path} is none that the archiver wrote; move it away: it is written anew then");
            let file = there.clone().map(MarketFile::read).transpose().with_context(cure).exit(Exit::Usage)?.unwrap_or_default();
            files.insert(market, (path, there, file));
        }
        let mut unassigned = BTreeSet::new();
        for partition in 0..reader.partition_count(OBSERVATIONS).map_err(of_kafka)? {
            let of = TopicPartition::new(OBSERVATIONS, partition);
            for observation in self.observations(reader, &of)? {
                let key = (observation.provider.clone(), observation.series.clone());
                match self.markets.get(&key).and_then(|market| files.get_mut(market)) {
                    Some((_, _, file)) => file.take(observation),
                    None => {
                        unassigned.insert(format!("{}:{}", key.0, key.1));
                    }
                }
            }
        }
        result.unassigned = unassigned.into_iter().collect();
        self.metrics.unassigned.set(i64::try_from(result.unassigned.len())?);
        for (market, (path, there, file)) in files {
            self.metrics.market_rows.with_label_values(&[market.as_str()]).set(i64::try_from(file.rows())?);
            if self.stop.requested() || file.rows() == 0 {
                continue;
            }
            let bytes = file.write(market.as_str())?;
            let written = there.is_none_or(|there| there != bytes);
            result.markets.push(MarketResult {
                market: market.as_str(),
                path: path.clone(),
                rows: file.rows(),
                missing: file.missing(),
                bytes: bytes.len(),
                written,
            });
            if written {
                self.handle.block_on(self.place.put(&path, bytes))?;
                self.metrics.files.with_label_values(&["market"]).inc();
                fail_point("archiver.market-written");
            }
        }
        Ok(())
    }

    /// What a partition holds. What is no observation is the sink's to set aside; here it is counted.
    fn observations(&mut self, reader: &Reader, of: &TopicPartition) -> anyhow::Result<Vec<Observation>> {
        let (oldest, end) = reader.range(of).map_err(of_kafka)?;
        let mut all = Vec::new();
        let mut decoder = self.decoder.clone();
        let take = |record: marketflow_kafka::Record<'_>| {
            if self.stop.requested() {
                return Ok(ControlFlow::Break(()));
            }
            if (record.offset() - oldest) % SAID_EVERY == 0 {
                self.progress(of, record.offset() - oldest, end - oldest);
            }
            match decoder.decode::<Observation>(record.value().unwrap_or_default()) {
                Ok(observation) => all.push(observation),
                Err(problem) if problem.is_retriable() => return Err(anyhow::Error::from(problem).context(Exit::Unreachable)),
                Err(problem) => {
                    warn!(offset = record.offset(), %of, %problem, "no observation");
                    self.metrics.skipped.with_label_values(&[of.topic.as_str(), "undecodable"]).inc();
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        reader.try_read_to_end(of, oldest, STALLED_AFTER, take).map_err(of_kafka)??;
        self.progress(of, end - oldest, end - oldest);
        self.decoder = decoder;
        Ok(all)
    }
}
