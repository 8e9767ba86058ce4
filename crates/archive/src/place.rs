//! Where files lie: a folder or a bucket. A file is there whole or not at all, and is hashed as it is written and as it is read.
//!
//! Next: `columns.rs`.

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use marketflow_runtime::{Exit, ExitContext};
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, parse_url_opts};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

/// Bytes of one part of an upload; a store takes 10,000 parts, which makes 320 GB of a compressed file.
const PART_BYTES: usize = 32 << 20;
const PARTS_AT_ONCE: usize = 2;
const ZSTD_LEVEL: i32 = 1;

/// A folder, or a prefix in a bucket.
pub struct Place {
    store: Arc<dyn ObjectStore>,
    root: Path,
}

/// A file as a manifest has it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Below the place.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Of its bytes, in hex.
    pub sha256: String,
}

impl Stored {
    /// What these bytes are, at this path.
    pub fn of(path: String, bytes: &[u8]) -> Self {
        Self { path, bytes: bytes.len() as u64, sha256: hex::encode(Sha256::digest(bytes)) }
    }
}

impl Place {
    /// `s3://bucket/prefix` (with the usual `AWS_…` variables) or a folder, which is created when `new`.
    ///
    /// # Errors
    /// 64 when it is neither.
    pub fn open(at: &str, new: bool) -> anyhow::Result<Self> {
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
            .with_context(|| format!("there is no folder {at}"))
            .exit(Exit::Usage)?;
        Ok(Self { store: Arc::new(store), root: Path::default() })
    }

    /// A whole file; `None` where there is none.
    ///
    /// # Errors
    /// 69 when the place does not answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<Option<Bytes>> {
        match self.store.get(&self.path(path)).await {
            Ok(found) => Ok(Some(found.bytes().await.with_context(|| format!("cannot read {path}")).exit(Exit::Unreachable)?)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(problem) => Err(problem).with_context(|| format!("cannot read {path}")).exit(Exit::Unreachable),
        }
    }

    /// Writes a whole file, in the stead of what is there.
    ///
    /// # Errors
    /// The place's.
    pub async fn put(&self, path: &str, bytes: Bytes) -> anyhow::Result<()> {
        self.store.put(&self.path(path), PutPayload::from(bytes)).await.with_context(|| format!("cannot write {path}"))?;
        Ok(())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// The place's.
    pub async fn remove(&self, path: &str) -> anyhow::Result<()> {
        self.store.delete(&self.path(path)).await.with_context(|| format!("cannot remove {path}"))
    }

    /// The paths of all files below a folder, sorted.
    ///
    /// # Errors
    /// The place's.
    pub async fn list(&self, folder: &str) -> anyhow::Result<Vec<String>> {
        let below = self.path(folder);
        let found: Vec<ObjectMeta> =
            self.store.list(Some(&below)).try_collect().await.with_context(|| format!("cannot list {folder}"))?;
        let depth = self.root.parts().count();
        let path = |whole: &Path| Path::from_iter(whole.parts().skip(depth)).to_string();
        let mut paths: Vec<String> = found.iter().map(|object| path(&object.location)).collect();
        paths.sort();
        Ok(paths)
    }

    /// Begins a file that is packed by zstd and written in parts.
    ///
    /// # Errors
    /// None in practice: packing begins with nothing.
    pub fn create(&self, path: &str) -> anyhow::Result<Writer> {
        let upload =
            BufWriter::with_capacity(self.store.clone(), self.path(path), PART_BYTES).with_max_concurrency(PARTS_AT_ONCE);
        let encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
        Ok(Writer { upload, encoder, hash: Sha256::new(), bytes: 0 })
    }

    /// Begins to read a file.
    ///
    /// # Errors
    /// 2 when it is not there.
    pub async fn read(&self, file: &Stored) -> anyhow::Result<Reader> {
        let found = self.store.get(&self.path(&file.path)).await.with_context(|| format!("cannot read {}", file.path));
        Ok(Reader { file: file.clone(), pieces: found.exit(Exit::CheckSaidNo)?.into_stream(), hash: Sha256::new(), bytes: 0 })
    }

    /// Reads a file to its end.
    ///
    /// # Errors
    /// 2 when it is missing or not as the manifest says.
    pub async fn verify(&self, file: &Stored) -> anyhow::Result<()> {
        let mut reader = self.read(file).await?;
        while reader.next().await?.is_some() {}
        reader.check()
    }

    fn path(&self, file: &str) -> Path {
        Path::from_iter(self.root.parts().chain(Path::from(file).parts()))
    }
}

/// A file being written.
pub struct Writer {
    upload: BufWriter,
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    hash: Sha256,
    bytes: u64,
}

impl Writer {
    /// Appends what is not packed yet.
    ///
    /// # Errors
    /// The place's.
    pub async fn write(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.encoder.write_all(piece)?;
        let packed = std::mem::take(self.encoder.get_mut());
        self.put(packed).await
    }

    /// Bytes written and their SHA-256.
    ///
    /// # Errors
    /// The place's.
    pub async fn finish(mut self) -> anyhow::Result<(u64, String)> {
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
pub struct Reader {
    file: Stored,
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    hash: Sha256,
    bytes: u64,
}

impl Reader {
    /// What comes next; `None` at the end.
    ///
    /// # Errors
    /// The place's.
    pub async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        let Some(piece) = self.pieces.next().await else { return Ok(None) };
        let piece = piece.with_context(|| format!("cannot read {}", self.file.path))?;
        self.hash.update(&piece);
        self.bytes += piece.len() as u64;
        Ok(Some(piece))
    }

    /// After the last piece: whether the file is the one that was written.
    ///
    /// # Errors
    /// 2 when it is not.
    pub fn check(self) -> anyhow::Result<()> {
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
pub struct Unpacked(zstd::stream::write::Decoder<'static, Vec<u8>>);

impl Unpacked {
    /// With nothing in it.
    ///
    /// # Errors
    /// None in practice.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(zstd::stream::write::Decoder::new(Vec::new())?))
    }

    /// What a piece unpacks to, as far as it goes.
    ///
    /// # Errors
    /// What is no zstd.
    pub fn unpack(&mut self, piece: &[u8]) -> anyhow::Result<Bytes> {
        self.0.write_all(piece)?;
        self.0.flush()?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }
}
