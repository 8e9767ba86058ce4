//! Where a backup lies: a folder or a bucket. Files are compressed and hashed as they are written, and hashed again as they are read.

use super::manifest::{File, Manifest};
use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use marketflow_runtime::{Exit, ExitContext};
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutPayload, parse_url_opts};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

const MANIFEST: &str = "manifest.json";
/// Bytes of one part of an upload; a store takes 10,000 parts, which makes 320 GB of a compressed file.
const PART_BYTES: usize = 32 << 20;
const PARTS_AT_ONCE: usize = 2;
const ZSTD_LEVEL: i32 = 1;

/// A folder, or a prefix in a bucket.
pub(crate) struct Place {
    store: Arc<dyn ObjectStore>,
    root: Path,
}

impl Place {
    /// `s3://bucket/prefix` (with the usual `AWS_…` variables) or a folder, which is created when `new`.
    ///
    /// # Errors
    /// 64 when it is neither.
    pub(crate) fn open(at: &str, new: bool) -> anyhow::Result<Self> {
        if at.contains("://") {
            let url = reqwest::Url::parse(at).with_context(|| format!("{at} is no URL")).exit(Exit::Usage)?;
            let variables = std::env::vars().filter(|(name, _)| name.starts_with("AWS_"));
            let (store, root) = parse_url_opts(&url, variables).with_context(|| format!("cannot use {at}")).exit(Exit::Usage)?;
            return Ok(Self { store: store.into(), root });
        }
        if new {
            std::fs::create_dir_all(at).with_context(|| format!("cannot create {at}"))?;
        }
        let store = LocalFileSystem::new_with_prefix(at)
            .map(|store| store.with_fsync(true))
            .with_context(|| format!("there is no backup at {at}"))
            .exit(Exit::Usage)?;
        Ok(Self { store: Arc::new(store), root: Path::default() })
    }

    /// What stands here; `None` without a manifest, which is written last: then nothing here is a backup.
    pub(crate) async fn manifest(&self) -> anyhow::Result<Option<Manifest>> {
        match self.store.get(&self.path(MANIFEST)).await {
            Ok(found) => {
                let manifest = serde_json::from_slice(&found.bytes().await?).context("the manifest is not readable");
                manifest.map(Some).exit(Exit::CheckSaidNo)
            }
            Err(Error::NotFound { .. }) => Ok(None),
            Err(problem) => Err(problem).context("cannot read the manifest").exit(Exit::Unreachable),
        }
    }

    pub(crate) async fn seal(&self, manifest: &Manifest) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(manifest)?;
        self.store.put(&self.path(MANIFEST), PutPayload::from(text)).await.context("cannot write the manifest")?;
        Ok(())
    }

    pub(crate) fn create(&self, path: &str) -> anyhow::Result<Writer> {
        let upload =
            BufWriter::with_capacity(self.store.clone(), self.path(path), PART_BYTES).with_max_concurrency(PARTS_AT_ONCE);
        let encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
        Ok(Writer { upload, encoder, hash: Sha256::new(), bytes: 0 })
    }

    pub(crate) async fn read(&self, file: &File) -> anyhow::Result<Reader> {
        let found = self.store.get(&self.path(&file.path)).await.with_context(|| format!("cannot read {}", file.path));
        Ok(Reader { file: file.clone(), pieces: found.exit(Exit::CheckSaidNo)?.into_stream(), hash: Sha256::new(), bytes: 0 })
    }

    /// Reads a file to its end.
    ///
    /// # Errors
    /// 2 when it is missing or not as the manifest says.
    pub(crate) async fn verify(&self, file: &File) -> anyhow::Result<()> {
        let mut reader = self.read(file).await?;
        while reader.next().await?.is_some() {}
        reader.check()
    }

    fn path(&self, file: &str) -> Path {
        Path::from_iter(self.root.parts().chain(Path::from(file).parts()))
    }
}

/// A file being written.
pub(crate) struct Writer {
    upload: BufWriter,
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    hash: Sha256,
    bytes: u64,
}

impl Writer {
    pub(crate) async fn write(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.encoder.write_all(piece)?;
        let packed = std::mem::take(self.encoder.get_mut());
        self.put(packed).await
    }

    /// Bytes written and their SHA-256.
    pub(crate) async fn finish(mut self) -> anyhow::Result<(u64, String)> {
        self.encoder.do_finish()?;
        let packed = std::mem::take(self.encoder.get_mut());
        self.put(packed).await?;
        self.upload.shutdown().await.context("cannot end a file")?;
        Ok((self.bytes, hex::encode(self.hash.finalize())))
    }

    async fn put(&mut self, packed: Vec<u8>) -> anyhow::Result<()> {
        if !packed.is_empty() {
            self.hash.update(&packed);
            self.bytes += packed.len() as u64;
            self.upload.put(packed.into()).await.context("cannot write a file")?;
        }
        Ok(())
    }
}

/// A file being read, as it lies there: packed.
pub(crate) struct Reader {
    file: File,
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    hash: Sha256,
    bytes: u64,
}

impl Reader {
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        let Some(piece) = self.pieces.next().await else { return Ok(None) };
        let piece = piece.with_context(|| format!("cannot read {}", self.file.path))?;
        self.hash.update(&piece);
        self.bytes += piece.len() as u64;
        Ok(Some(piece))
    }

    /// After the last piece: whether the file is the one that was written.
    pub(crate) fn check(self) -> anyhow::Result<()> {
        let Self { file, hash, bytes, .. } = self;
        let check = || {
            ensure!(bytes == file.bytes, "{} has {bytes} bytes, the manifest says {}", file.path, file.bytes);
            let found = hex::encode(hash.finalize());
            ensure!(found == file.sha256, "{} has SHA-256 {found}, the manifest says {}", file.path, file.sha256);
            Ok(())
        };
        check().exit(Exit::CheckSaidNo)
    }
}

/// Unpacks what a [`Reader`] gives.
pub(crate) struct Unpacked(zstd::stream::write::Decoder<'static, Vec<u8>>);

impl Unpacked {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(zstd::stream::write::Decoder::new(Vec::new())?))
    }

    pub(crate) fn unpack(&mut self, piece: &[u8]) -> anyhow::Result<Bytes> {
        self.0.write_all(piece)?;
        self.0.flush()?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }
}
