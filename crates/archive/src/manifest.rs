//! `_manifest.json`: which offsets of a topic partition lie in which file. It is written after the file: what it does not name is not archived.
//!
//! A file covers every offset from `first` to `last`, and the next file begins at `last + 1`; so no record is in two of them and none between.
//! Offsets that are no row are counted: controls, transaction markers, what is no record. `last` is a row's.
//!
//! Next: `csv.rs`.

use crate::Place;
use anyhow::{Context, ensure};
use marketflow_runtime::{Exit, ExitContext};
use serde::{Deserialize, Serialize};

/// Of this layout.
const FORMAT: u32 = 1;
/// The folder of all topics. A name that begins with an underscore is no data to whoever opens the folder as a whole.
const ARCHIVE: &str = "archive";
const NAME: &str = "_manifest.json";

/// What is archived of a topic partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Cluster id and topic id: a topic that was created again is another one.
    pub stream_epoch: String,
    /// Files in the order of their offsets.
    pub files: Vec<ArchivedFile>,
    /// Offsets that Kafka dropped before they were archived, where that was accepted: first and last.
    #[serde(default)]
    pub lost: Vec<(i64, i64)>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedFile {
    /// Below the place.
    pub path: String,
    /// First offset covered.
    pub first: i64,
    /// Last offset covered: that of the last row.
    pub last: i64,
    /// Rows in it.
    pub rows: u64,
    /// What lies between the rows.
    pub skipped: Skipped,
    /// Its length.
    pub bytes: u64,
    /// Of its bytes.
    pub sha256: String,
    /// Its columns and their types.
    pub schema: String,
}

/// Records that are no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Other record types on the topic: controls beside trades.
    pub controls: u64,
    /// Written again for another consumer.
    pub redriven: u64,
    /// No record; the sink sets them aside with their bytes.
    pub undecodable: u64,
}

impl Manifest {
    /// Of a partition that nothing is archived of yet.
    pub fn new(topic: &str, partition: i32, stream_epoch: &str) -> Self {
        let (topic, stream_epoch) = (topic.to_owned(), stream_epoch.to_owned());
        Self { format: FORMAT, topic, partition, stream_epoch, files: Vec::new(), lost: Vec::new() }
    }

    /// The folder of a topic partition.
    pub fn folder(topic: &str, partition: i32) -> String {
        format!("{ARCHIVE}/{topic}/partition={partition}")
    }

    /// Where the file of these offsets lies; `day` is the UTC day in which Kafka took its rows.
    pub fn file_path(&self, day: &str, first: i64, last: i64) -> String {
        format!("{}/day={day}/{first:020}-{last:020}.parquet", Self::folder(&self.topic, self.partition))
    }

    /// The offsets a file's name says it covers.
    pub fn offsets_of(path: &str) -> Option<(i64, i64)> {
        let (first, last) = path.rsplit('/').next()?.strip_suffix(".parquet")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }

    /// The offset after those that are archived or lost; `None` when there are none.
    pub fn next(&self) -> Option<i64> {
        let ends = self.files.iter().map(|file| file.last).chain(self.lost.iter().map(|(_, last)| *last));
        ends.max().map(|last| last + 1)
    }

    /// Rows in all files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// Whether files and losses follow each other without overlap and hole.
    ///
    /// # Errors
    /// The first place where they do not.
    pub fn check(&self) -> anyhow::Result<()> {
        let mut ranges: Vec<(i64, i64)> =
            self.files.iter().map(|file| (file.first, file.last)).chain(self.lost.clone()).collect();
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            ensure!(pair[1].0 == pair[0].1 + 1, "after offset {} comes {}", pair[0].1, pair[1].0);
        }
        let named = self.files.iter().find(|file| Self::offsets_of(&file.path) != Some((file.first, file.last)));
        ensure!(named.is_none(), "a file's name does not say its offsets: {named:?}");
        Ok(())
    }

    /// The manifest of a topic partition; `None` where nothing is archived.
    ///
    /// # Errors
    /// 2 when it is not readable, 69 when the place does not answer.
    pub async fn read(place: &Place, topic: &str, partition: i32) -> anyhow::Result<Option<Self>> {
        Self::read_at(place, &format!("{}/{NAME}", Self::folder(topic, partition))).await
    }

    /// Every manifest there is, by topic and partition.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub async fn read_all(place: &Place) -> anyhow::Result<Vec<Self>> {
        let mut all = Vec::new();
        for path in place.list(ARCHIVE).await?.iter().filter(|path| path.ends_with(NAME)) {
            all.extend(Self::read_at(place, path).await?);
        }
        all.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(all)
    }

    async fn read_at(place: &Place, path: &str) -> anyhow::Result<Option<Self>> {
        let Some(text) = place.get(path).await? else { return Ok(None) };
        let read = || -> anyhow::Result<Self> {
            let manifest: Self = serde_json::from_slice(&text).with_context(|| format!("{path} is not readable"))?;
            ensure!(manifest.format == FORMAT, "{path} has layout {}, this program reads {FORMAT}", manifest.format);
            Ok(manifest)
        };
        read().map(Some).exit(Exit::CheckSaidNo)
    }

    /// Writes it in the stead of the one before.
    ///
    /// # Errors
    /// The place's.
    pub async fn write(&self, place: &Place) -> anyhow::Result<()> {
        let path = format!("{}/{NAME}", Self::folder(&self.topic, self.partition));
        place.put(&path, serde_json::to_vec_pretty(self)?.into()).await
    }

    /// Files in the partition's folder that the manifest does not name: a run that was killed left them.
    ///
    /// # Errors
    /// The place's.
    pub async fn strays(&self, place: &Place) -> anyhow::Result<Vec<String>> {
        let there = place.list(&Self::folder(&self.topic, self.partition)).await?;
        let is_stray = |path: &String| path.ends_with(".parquet") && !self.files.iter().any(|file| file.path == *path);
        Ok(there.into_iter().filter(is_stray).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(manifest: &Manifest, first: i64, last: i64) -> ArchivedFile {
        let path = manifest.file_path("2026-11-22", first, last);
        let (sha256, schema) = (String::new(), String::new());
        ArchivedFile { path, first, last, rows: 1, skipped: Skipped::default(), bytes: 0, sha256, schema }
    }

    #[tokio::test]
    async fn a_manifest_says_what_follows_and_what_is_not_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::open(folder.path().to_str().unwrap(), false).unwrap();
        assert_eq!(Manifest::read(&place, "market.trades.v1", 3).await.unwrap(), None);
        let mut manifest = Manifest::new("market.trades.v1", 3, "cluster/topic");
        assert_eq!(manifest.next(), None);
        manifest.files.push(file(&manifest, 0, 9));
        manifest.lost.push((10, 14));
        manifest.files.push(file(&manifest, 15, 15));
        assert_eq!(manifest.next(), Some(16));
        manifest.check().unwrap();
        for one in [&manifest.files[0].path, &manifest.file_path("2026-11-22", 16, 20)] {
            place.put(one, "x".into()).await.unwrap();
        }
        manifest.write(&place).await.unwrap();
        assert_eq!(Manifest::read(&place, "market.trades.v1", 3).await.unwrap(), Some(manifest.clone()));
        assert_eq!(Manifest::read_all(&place).await.unwrap(), [manifest.clone()]);
        let strays = manifest.strays(&place).await.unwrap();
        assert_eq!(strays.iter().map(|path| Manifest::offsets_of(path)).collect::<Vec<_>>(), [Some((16, 20))]);
        place.remove(&strays[0]).await.unwrap();
        assert!(manifest.strays(&place).await.unwrap().is_empty());

        let mut holed = manifest.clone();
        holed.lost.clear();
        assert!(holed.check().unwrap_err().to_string().contains("after offset 9 comes 15"));
        manifest.files.push(file(&manifest, 14, 20));
        assert!(manifest.check().is_err(), "two files hold offset 14");
    }
}
