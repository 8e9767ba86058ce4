//! Topic partitions → files of offset ranges, record by record.
//!
//! A file is written, then the manifest that names it; the manifest is where the next run goes on. A file that a killed run left unnamed says by
//! its name where that run cut: the next one cuts there too, and writes the same file in its stead. So no offset is ever in two files.
//!
//! Next: `crates/archive/src/manifest.rs`.

use crate::said::PartitionResult;
use crate::{Archiver, STALLED_AFTER, of_kafka};
use anyhow::{Context, anyhow};
use marketflow_archive::{ArchivedFile, FileWriter, Layout, Manifest, Skipped, Stored};
use marketflow_kafka::{Decoder, Reader, Record, TopicPartition, admin, fail_point};
use marketflow_model::Timestamp;
use marketflow_runtime::{Exit, ExitContext};
use std::ops::ControlFlow;
use tracing::warn;

/// The name by which a record is redriven for this service.
const CONSUMER: &str = "archiver";
/// Records between two words about progress.
const SAID_EVERY: i64 = 50_000;

impl Archiver {
    /// Archives every topic up to its end.
    pub(crate) fn archive_partitions(&mut self, reader: &Reader) -> anyhow::Result<Vec<PartitionResult>> {
        let cluster = admin::describe(&self.kafka, STALLED_AFTER).map_err(of_kafka)?;
        let mut results = Vec::new();
        for (topic, layout) in self.layouts.clone() {
            let epoch = cluster.epoch(&topic).with_context(|| format!("there is no topic {topic}")).exit(Exit::Usage)?;
            for partition in 0..reader.partition_count(&topic).map_err(of_kafka)? {
                if self.stop.requested() {
                    return Ok(results);
                }
                let of = TopicPartition::new(&topic, partition);
                let (before, manifest) = self.archive(reader, &of, &epoch, layout)?;
                if manifest.next().is_some() {
                    results.push(PartitionResult {
                        place: of.to_string(),
                        files: manifest.files.len(),
                        new_files: manifest.files.len() - before.files.len(),
                        rows: manifest.rows(),
                        new_rows: manifest.rows() - before.rows(),
                    });
                }
            }
        }
        Ok(results)
    }

    /// Archives a partition; returns its manifest before and after.
    fn archive(
        &mut self,
        reader: &Reader,
        of: &TopicPartition,
        epoch: &str,
        layout: &'static Layout,
    ) -> anyhow::Result<(Manifest, Manifest)> {
        let there = self.handle.block_on(Manifest::read(&self.place, &of.topic, of.partition))?;
        let before = there.unwrap_or_else(|| Manifest::new(&of.topic, of.partition, epoch));
        if before.stream_epoch != epoch {
            let cure = "the topic was created again; archive it to another place";
            return Err(anyhow!("{of} is archived as {}, and is {epoch} now: {cure}", before.stream_epoch)).exit(Exit::Usage);
        }
        let (oldest, end) = reader.range(of).map_err(of_kafka)?;
        let mut manifest = before.clone();
        let mut next = manifest.next().unwrap_or(oldest);
        if end < next {
            return Err(anyhow!("{of} ends at {end}, but {next} offsets of it are archived")).exit(Exit::CheckSaidNo);
        }
        if next < oldest {
            if !self.accept_loss {
                let what = format!("Kafka dropped the offsets {next} to {} of {of} before they were archived", oldest - 1);
                return Err(anyhow!("{what}; --set archive.accept_loss=true goes on without them")).exit(Exit::CheckSaidNo);
            }
            warn!(%of, first = next, last = oldest - 1, "these were dropped before they were archived");
            manifest.lost.push((next, oldest - 1));
            next = oldest;
        }
        let mut cut = None;
        for path in self.handle.block_on(manifest.strays(&self.place))? {
            match Manifest::offsets_of(&path) {
                Some((first, last)) if first == next && last < end => cut = Some((path, last)),
                _ => self.handle.block_on(self.place.remove(&path))?,
            }
        }

        let mut decoder = self.decoder.clone();
        let mut writing = Writing { archiver: self, layout, manifest, next, skipped: Skipped::default(), open: None, cut };
        let take = |record: Record<'_>| {
            if writing.archiver.stop.requested() {
                return Ok(ControlFlow::Break(()));
            }
            if (record.offset() - oldest) % SAID_EVERY == 0 {
                writing.archiver.progress(of, record.offset() - oldest, end - oldest);
            }
            writing.take(&record, &mut decoder).map(ControlFlow::Continue)
        };
        reader.try_read_to_end(of, next, STALLED_AFTER, take).map_err(of_kafka)??;
        let manifest = writing.end()?;
        self.progress(of, end - oldest, end - oldest);
        self.decoder = decoder;
        Ok((before, manifest))
    }
}

/// A partition being archived.
struct Writing<'a> {
    archiver: &'a Archiver,
    layout: &'static Layout,
    manifest: Manifest,
    /// First offset that is in no file yet.
    next: i64,
    /// Since then.
    skipped: Skipped,
    open: Option<Open>,
    /// Where a run that was killed cut the file from `next` on.
    cut: Option<(String, i64)>,
}

/// A file being written; it holds at least one row.
struct Open {
    file: FileWriter,
    day: String,
    last: i64,
    skipped: Skipped,
}

impl Writing<'_> {
    fn take(&mut self, record: &Record<'_>, decoder: &mut Decoder) -> anyhow::Result<()> {
        if record.is_for_another(CONSUMER) {
            self.skipped.redriven += 1;
            return Ok(());
        }
        let body = match decoder.body(record.value().unwrap_or_default()) {
            Ok((schema, body)) if schema == self.layout.schema() => body,
            Ok(_) => {
                self.skipped.controls += 1;
                return Ok(());
            }
            Err(problem) if problem.is_retriable() => return Err(anyhow::Error::from(problem).context(Exit::Unreachable)),
            Err(problem) => {
                self.undecodable(record, &problem);
                return Ok(());
            }
        };
        let append_time = record.timestamp().unwrap_or_default();
        let day = day_of(append_time);
        let is_full = |open: &Open| self.cut.is_none() && open.file.rows() >= self.archiver.rows_per_file;
        if self.open.as_ref().is_some_and(|open| open.day != day || is_full(open)) {
            self.close()?;
        }
        if self.open.is_none() {
            let (topic, partition) = (&self.manifest.topic, self.manifest.partition.to_string());
            let epoch = self.manifest.stream_epoch.as_str();
            let about = [("topic", topic.as_str()), ("partition", partition.as_str()), ("stream_epoch", epoch)];
            self.open = Some(Open { file: self.layout.file(&about)?, day, last: record.offset(), skipped: self.skipped });
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        match self.layout.append(&body, record.offset(), append_time, &mut open.file)? {
            Ok(()) => {
                open.last = record.offset();
                open.skipped = self.skipped;
            }
            Err(problem) => self.undecodable(record, &problem),
        }
        if self.cut.as_ref().is_some_and(|(_, last)| record.offset() == *last) {
            self.close()?;
        }
        Ok(())
    }

    fn undecodable(&mut self, record: &Record<'_>, problem: &dyn std::fmt::Display) {
        warn!(topic = record.topic(), partition = record.partition(), offset = record.offset(), %problem, "no record");
        self.skipped.undecodable += 1;
    }

    /// Writes the file, then the manifest that names it.
    fn close(&mut self) -> anyhow::Result<()> {
        let Some(Open { file, day, last, skipped }) = self.open.take().filter(|open| open.file.rows() > 0) else { return Ok(()) };
        let Archiver { place, handle, metrics, .. } = self.archiver;
        let (first, rows, schema) = (self.next, file.rows(), file.schema());
        let bytes = file.finish()?;
        let Stored { path, bytes: length, sha256 } = Stored::of(self.manifest.file_path(&day, first, last), &bytes);
        handle.block_on(place.put(&path, bytes))?;
        fail_point("archiver.file-written");
        if let Some((stray, _)) = self.cut.take().filter(|(stray, _)| *stray != path) {
            handle.block_on(place.remove(&stray))?;
        }
        self.manifest.files.push(ArchivedFile { path, first, last, rows, skipped, bytes: length, sha256, schema });
        handle.block_on(self.manifest.write(place))?;
        fail_point("archiver.manifest-written");
        let topic = self.manifest.topic.as_str();
        metrics.files.with_label_values(&["archive"]).inc();
        metrics.rows.with_label_values(&[topic]).inc_by(rows);
        for (reason, count) in
            [("control", skipped.controls), ("redriven", skipped.redriven), ("undecodable", skipped.undecodable)]
        {
            metrics.skipped.with_label_values(&[topic, reason]).inc_by(count);
        }
        self.next = last + 1;
        // what came after the last row is counted in the next file
        self.skipped = Skipped {
            controls: self.skipped.controls - skipped.controls,
            redriven: self.skipped.redriven - skipped.redriven,
            undecodable: self.skipped.undecodable - skipped.undecodable,
        };
        Ok(())
    }

    /// What came up to the end is a file too; a read that was stopped leaves it to the next run.
    fn end(mut self) -> anyhow::Result<Manifest> {
        if !self.archiver.stop.requested() {
            self.close()?;
        }
        Ok(self.manifest)
    }
}

/// The UTC day of an instant, `2026-11-22`.
fn day_of(instant: Timestamp) -> String {
    instant.to_string().chars().take_while(|c| *c != 'T').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_utc() {
        let days = ["1969-12-31T23:59:59.999999Z", "2026-11-22T00:00:00+09:00"].map(|t| day_of(Timestamp::parse(t).unwrap()));
        assert_eq!(days, ["1969-12-31", "2026-11-21"]);
    }
}
