//! Compression of requests and responses: HTTP content codings, and ClickHouse's own compressed blocks (`compress=1`, `decompress=1`).
//!
//! Plain blocking readers and writers, used on a query's own thread. Brotli, xz, bzip2 and snappy are not offered.
//!
//! A ClickHouse block is `checksum (16) · method (1) · compressed size with these nine bytes (4) · size (4) · bytes`; the checksum is
//! CityHash128 as of version 1.0.2 over all that follows it.
//!
//! Next: `native.rs`.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use lz4_flex::frame::{FrameDecoder, FrameEncoder};

/// A content coding of HTTP that both sides know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Deflate,
    Zstd,
    Lz4,
}

impl Coding {
    const ALL: [Self; 4] = [Self::Zstd, Self::Lz4, Self::Gzip, Self::Deflate];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// The coding of this name, in any case.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|coding| coding.name().eq_ignore_ascii_case(name.trim()))
    }

    /// The best coding a client accepts; one it weighs with `q=0` is not.
    pub(crate) fn accepted(header: &str) -> Option<Self> {
        let accepts = |coding: &Self| {
            header.split(',').any(|offer| {
                let (name, weight) = offer.split_once(';').unwrap_or((offer, ""));
                let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse::<f32>().is_ok_and(|q| q <= 0.0));
                name.trim().eq_ignore_ascii_case(coding.name()) && !refused
            })
        };
        Self::ALL.into_iter().find(accepts)
    }

    /// Undoes this coding.
    pub(crate) fn reader(self, inner: Box<dyn Read>) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(inner)),
            Self::Deflate => Box::new(ZlibDecoder::new(inner)),
            Self::Zstd => Box::new(zstd::Decoder::new(inner)?),
            Self::Lz4 => Box::new(Lz4Reader { decoder: FrameDecoder::new(Lz4Frames::new(inner)) }),
        })
    }
}

/// Writes to `W` through the compression a client asked for.
pub(crate) enum Encoder<W: Write> {
    Plain(W),
    Gzip(GzEncoder<W>),
    Deflate(ZlibEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
    Lz4(Box<FrameEncoder<W>>),
    Blocks(BlockWriter<W>),
}

impl<W: Write> Encoder<W> {
    pub(crate) fn coded(coding: Coding, inner: W) -> io::Result<Self> {
        Ok(match coding {
            Coding::Gzip => Self::Gzip(GzEncoder::new(inner, Compression::fast())),
            Coding::Deflate => Self::Deflate(ZlibEncoder::new(inner, Compression::fast())),
            Coding::Zstd => Self::Zstd(zstd::Encoder::new(inner, 1)?),
            Coding::Lz4 => Self::Lz4(Box::new(FrameEncoder::new(inner))),
        })
    }

    /// Ends the compressed stream.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(inner) => Ok(inner),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Deflate(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::other),
            Self::Blocks(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(inner) => inner.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Deflate(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
            Self::Lz4(encoder) => encoder.write(bytes),
            Self::Blocks(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(inner) => inner.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Deflate(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
            Self::Lz4(encoder) => encoder.flush(),
            Self::Blocks(encoder) => encoder.flush(),
        }
    }
}

/// Reads LZ4 frames to the end of the last one. `FrameDecoder` alone takes a stream cut between two blocks for a whole one.
struct Lz4Reader<R: Read> {
    decoder: FrameDecoder<Lz4Frames<R>>,
}

impl<R: Read> Read for Lz4Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() || self.decoder.get_ref().ended {
                return Ok(read);
            }
        }
    }
}

/// Passes LZ4 frames through, following their structure just far enough to tell a whole stream from a cut one.
struct Lz4Frames<R> {
    inner: R,
    field: Lz4Field,
    /// Bytes of the field still to come, and the field's last four bytes.
    missing: usize,
    last: [u8; 4],
    block_checksums: bool,
    content_checksum: bool,
    ended: bool,
}

enum Lz4Field {
    /// Magic number and the flags after it.
    Start,
    /// What the flags announce.
    Descriptor,
    BlockSize,
    Block,
    ContentChecksum,
}

impl<R> Lz4Frames<R> {
    const START: usize = 5;

    fn new(inner: R) -> Self {
        let (block_checksums, content_checksum) = (false, false);
        Self {
            inner,
            field: Lz4Field::Start,
            missing: Self::START,
            last: [0; 4],
            block_checksums,
            content_checksum,
            ended: false,
        }
    }

    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.missing.min(bytes.len());
            for &byte in &bytes[taken.saturating_sub(4)..taken] {
                self.last.rotate_left(1);
                self.last[3] = byte;
            }
            self.missing -= taken;
            bytes = &bytes[taken..];
            if self.missing == 0 {
                self.next_field();
            }
        }
    }

    fn next_field(&mut self) {
        let size = u32::from_le_bytes(self.last);
        (self.field, self.missing) = match self.field {
            Lz4Field::Start => {
                let flags = self.last[3];
                self.block_checksums = flags & 0x10 != 0;
                self.content_checksum = flags & 0x04 != 0;
                let announced = if flags & 0x08 != 0 { 8 } else { 0 } + if flags & 0x01 != 0 { 4 } else { 0 };
                (Lz4Field::Descriptor, announced + 2)
            }
            Lz4Field::Descriptor | Lz4Field::Block => (Lz4Field::BlockSize, 4),
            Lz4Field::BlockSize if size == 0 && self.content_checksum => (Lz4Field::ContentChecksum, 4),
            Lz4Field::BlockSize if size == 0 => (Lz4Field::Start, Self::START),
            Lz4Field::BlockSize => (Lz4Field::Block, (size & 0x7fff_ffff) as usize + if self.block_checksums { 4 } else { 0 }),
            Lz4Field::ContentChecksum => (Lz4Field::Start, Self::START),
        };
    }
}

impl<R: Read> Read for Lz4Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.follow(&buffer[..read]);
        if read == 0 && !buffer.is_empty() {
            if !matches!(self.field, Lz4Field::Start) || self.missing != Self::START {
                return Err(invalid("an LZ4 frame ends early"));
            }
            self.ended = true;
        }
        Ok(read)
    }
}

const CHECKSUM: usize = 16;
const HEADER: usize = 9;
const LZ4: u8 = 0x82;
const ZSTD: u8 = 0x90;
const NONE: u8 = 0x02;
/// What one block holds before compression; ClickHouse writes the same.
const BLOCK: usize = 1 << 20;
/// The largest block accepted from a client, compressed or not; ClickHouse draws the same line.
const BLOCK_MAX: usize = 1 << 30;

/// ClickHouse stores the two halves of the hash low half first.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    cityhash_rs::cityhash_102_128(bytes).rotate_right(64).to_le_bytes()
}

/// Writes ClickHouse's compressed blocks (LZ4).
pub(crate) struct BlockWriter<W: Write> {
    inner: W,
    held: Vec<u8>,
}

impl<W: Write> BlockWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, held: Vec::new() }
    }

    fn write_block(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let compressed = lz4_flex::block::compress(&self.held);
        let size = |length: usize| u32::try_from(length).expect("a block is far below 4 GiB").to_le_bytes();
        let mut body = Vec::with_capacity(HEADER + compressed.len());
        body.push(LZ4);
        body.extend(size(HEADER + compressed.len()));
        body.extend(size(self.held.len()));
        body.extend(compressed);
        self.held.clear();
        self.inner.write_all(&checksum(&body))?;
        self.inner.write_all(&body)
    }

    fn finish(mut self) -> io::Result<W> {
        self.write_block()?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for BlockWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.held.len());
        self.held.extend_from_slice(&bytes[..taken]);
        if self.held.len() == BLOCK {
            self.write_block()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_block()?;
        self.inner.flush()
    }
}

/// Reads ClickHouse's compressed blocks (LZ4, ZSTD, uncompressed).
pub(crate) struct BlockReader<R: Read> {
    inner: R,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> BlockReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, block: Vec::new(), at: 0 }
    }

    /// Reads the next block; `false` at a clean end.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut expected = [0; CHECKSUM];
        let first = loop {
            match self.inner.read(&mut expected) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if first == 0 {
            return Ok(false);
        }
        self.inner.read_exact(&mut expected[first..])?;
        let mut body = vec![0; HEADER];
        self.inner.read_exact(&mut body)?;
        let size = |at: usize| u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]) as usize;
        let (method, compressed, plain) = (body[0], size(1), size(5));
        if !(HEADER..=BLOCK_MAX).contains(&compressed) || plain > BLOCK_MAX {
            return Err(invalid(format!("a compressed block says it has {compressed} bytes for {plain}")));
        }
        (&mut self.inner).take((compressed - HEADER) as u64).read_to_end(&mut body)?;
        if body.len() != compressed {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a compressed block ends early"));
        }
        if checksum(&body) != expected {
            return Err(invalid("the checksum of a compressed block does not match its content"));
        }
        let payload = &body[HEADER..];
        self.block = match method {
            LZ4 => lz4_flex::block::decompress(payload, plain).map_err(invalid)?,
            ZSTD => zstd::bulk::decompress(payload, plain)?,
            NONE => payload.to_vec(),
            other => return Err(invalid(format!("compression method 0x{other:02x} is not supported"))),
        };
        if self.block.len() != plain {
            return Err(invalid(format!("a compressed block holds {} bytes and says {plain}", self.block.len())));
        }
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let taken = buffer.len().min(self.block.len() - self.at);
        buffer[..taken].copy_from_slice(&self.block[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Vec<u8> {
        (0..3_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    fn read(reader: impl Read) -> io::Result<Vec<u8>> {
        let mut reader = reader;
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn every_coding_gives_back_what_it_was_given_and_notices_a_torn_stream() {
        for coding in Coding::ALL {
            let mut encoder = Encoder::coded(coding, Vec::new()).unwrap();
            encoder.write_all(&payload()).unwrap();
            let coded = encoder.finish().unwrap();
            let decode = |bytes: &[u8]| read(coding.reader(Box::new(io::Cursor::new(bytes.to_vec()))).unwrap());
            assert_eq!(decode(&coded).unwrap(), payload(), "{coding:?}");
            for cut in [1, 4, 8, 1000, coded.len() / 2] {
                assert!(decode(&coded[..coded.len() - cut]).is_err(), "{coding:?} torn {cut} bytes before its end");
            }
        }
    }

    #[test]
    fn an_lz4_stream_cut_between_blocks_is_noticed_and_several_frames_are_one_stream() {
        let frame = |bytes: &[u8]| {
            let mut encoder = FrameEncoder::new(Vec::new());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let decode = |bytes: &[u8]| read(Coding::Lz4.reader(Box::new(io::Cursor::new(bytes.to_vec()))).unwrap());
        let one = frame(b"one");
        assert_eq!(decode(&[one.clone(), frame(b"two")].concat()).unwrap(), b"onetwo");
        assert!(decode(&one[..one.len() - 4]).is_err(), "its block is whole, its end mark is not there");
    }

    #[test]
    fn blocks_give_back_what_they_were_given_and_notice_damage() {
        let mut encoder = Encoder::Blocks(BlockWriter::new(Vec::new()));
        encoder.write_all(&payload()).unwrap();
        let blocks = encoder.finish().unwrap();
        assert_eq!(read(BlockReader::new(blocks.as_slice())).unwrap(), payload());
        assert!(read(BlockReader::new(&blocks[..blocks.len() - 1])).is_err());
        let mut damaged = blocks;
        damaged[100] ^= 1;
        assert!(read(BlockReader::new(damaged.as_slice())).unwrap_err().to_string().contains("checksum"));
    }

    #[test]
    fn a_block_written_by_clickhouse_is_read() {
        // `SELECT 1` in TabSeparated with compress=1: the two bytes "1\n", as ClickHouse frames them uncompressible small texts with LZ4.
        let body = [LZ4, 12, 0, 0, 0, 2, 0, 0, 0, 0x20, b'1', b'\n'];
        let mut block = checksum(&body).to_vec();
        block.extend(body);
        assert_eq!(read(BlockReader::new(block.as_slice())).unwrap(), b"1\n");
    }

    #[test]
    fn the_best_accepted_coding_is_taken() {
        assert_eq!(Coding::accepted("gzip, deflate, br, zstd"), Some(Coding::Zstd));
        assert_eq!(Coding::accepted("zstd;q=0, gzip"), Some(Coding::Gzip));
        assert_eq!(Coding::accepted("br"), None);
        assert_eq!(Coding::accepted(""), None);
    }
}
