//! A file as lines: opened, decompressed by its first bytes, hashed on the way, memory bounded.
//!
//! Lines and not CSV records are the unit, so that a stray quote ruins its own line and not the rest of the file, and a bad row can be
//! kept byte for byte. A quoted cell that spans lines is not supported.
//!
//! Next: `row.rs`.

use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Longest line that can be a row, in bytes. Longer ones are cut, and bad.
pub(crate) const MAX_LINE_BYTES: usize = 64 * 1024;
const BUFFER_BYTES: usize = 256 * 1024;

/// The lines of a file, from 1.
pub(crate) struct Lines {
    input: Box<dyn BufRead>,
    hash: Sha256,
    number: u64,
    line: Vec<u8>,
}

/// One line, without its end.
pub(crate) struct Line<'a> {
    /// From 1.
    pub(crate) number: u64,
    /// At most [`MAX_LINE_BYTES`].
    pub(crate) bytes: &'a [u8],
    /// Whether bytes were left out.
    pub(crate) cut: bool,
}

impl Lines {
    /// Opens a plain, gzip, zstd or zip file; `progress` counts the bytes read from disk.
    pub(crate) fn open(path: &Path, progress: &ProgressBar) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(BUFFER_BYTES, progress.wrap_read(File::open(path)?));
        let magic = file.fill_buf()?;
        let input: Box<dyn BufRead> = if magic.starts_with(&[0x1f, 0x8b]) {
            buffered(flate2::bufread::MultiGzDecoder::new(file))
        } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            buffered(zstd::stream::read::Decoder::with_buffer(file)?)
        } else if magic.starts_with(b"PK\x03\x04") {
            buffered(first_zip_entry(file)?)
        } else {
            Box::new(file)
        };
        Ok(Self { input, hash: Sha256::new(), number: 0, line: Vec::new() })
    }

    /// The next line; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let mut cut = false;
        let mut ended = false;
        let mut read_any = false;
        while !ended {
            let chunk = self.input.fill_buf()?;
            if chunk.is_empty() {
                break;
            }
            read_any = true;
            let length = match chunk.iter().position(|&b| b == b'\n') {
                Some(end) => {
                    ended = true;
                    end + 1
                }
                None => chunk.len(),
            };
            let room = MAX_LINE_BYTES.saturating_add(2).saturating_sub(self.line.len());
            cut |= length > room;
            self.line.extend_from_slice(&chunk[..length.min(room)]);
            self.hash.update(&chunk[..length]);
            self.input.consume(length);
        }
        if !read_any {
            return Ok(None);
        }
        self.number += 1;
        let mut bytes = self.line.as_slice();
        bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if self.number == 1 {
            bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        }
        if bytes.len() > MAX_LINE_BYTES {
            cut = true;
            bytes = &bytes[..MAX_LINE_BYTES];
        }
        Ok(Some(Line { number: self.number, bytes, cut }))
    }

    /// SHA-256 of everything read so far, decompressed.
    pub(crate) fn hash(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }
}

fn buffered(read: impl Read + 'static) -> Box<dyn BufRead> {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, read))
}

/// The one entry of a zip, read as a stream: exchanges publish one file per zip.
fn first_zip_entry(mut file: impl BufRead) -> io::Result<impl Read> {
    let mut header = [0; 30];
    file.read_exact(&mut header)?;
    let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (flags, method) = (short(6), short(8));
    let (encrypted, sizes_follow, deflated) = (flags & 1 != 0, flags & 8 != 0, method == 8);
    if encrypted || !deflated {
        return Err(io::Error::other("this zip is stored or encrypted; unpack it and import the file inside"));
    }
    let crc = (!sizes_follow).then(|| u32::from_le_bytes([header[14], header[15], header[16], header[17]]));
    let name_and_extra = u64::from(short(26)) + u64::from(short(28));
    io::copy(&mut file.by_ref().take(name_and_extra), &mut io::sink())?;
    Ok(ZipEntry { unpacked: Some(flate2::bufread::DeflateDecoder::new(file)), sum: flate2::Crc::new(), crc })
}

/// Unpacks, then checks the CRC and that no second file follows: a zip of several is refused, not cut short.
struct ZipEntry<R> {
    unpacked: Option<flate2::bufread::DeflateDecoder<R>>,
    sum: flate2::Crc,
    /// `None` = it stands behind the data.
    crc: Option<u32>,
}

impl<R: BufRead> Read for ZipEntry<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(unpacked) = &mut self.unpacked else { return Ok(0) };
        let length = unpacked.read(buffer)?;
        self.sum.update(&buffer[..length]);
        if length == 0
            && !buffer.is_empty()
            && let Some(unpacked) = self.unpacked.take()
        {
            self.check_end(unpacked.into_inner())?;
        }
        Ok(length)
    }
}

impl<R: BufRead> ZipEntry<R> {
    fn check_end(&self, mut file: R) -> io::Result<()> {
        let mut word = || -> io::Result<[u8; 4]> {
            let mut word = [0; 4];
            file.read_exact(&mut word)?;
            Ok(word)
        };
        let mut next = word()?;
        let mut crc = self.crc;
        if crc.is_none() {
            if &next == b"PK\x07\x08" {
                next = word()?;
            }
            crc = Some(u32::from_le_bytes(next));
            // two sizes of 4 bytes, of 8 in a zip64
            for _ in 0..2 {
                word()?;
            }
            next = word()?;
            if !next.starts_with(b"PK") {
                word()?;
                next = word()?;
            }
        }
        if crc != Some(self.sum.sum()) {
            return Err(io::Error::other("this zip is damaged: its checksum is not that of its content"));
        }
        if &next != b"PK\x01\x02" {
            return Err(io::Error::other("this zip holds several files; unpack it and import them one by one"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[derive(PartialEq, Debug)]
    struct Content {
        lines: Vec<(u64, String)>,
        hash: [u8; 32],
    }

    fn read_all(content: &[u8]) -> io::Result<Content> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let mut lines = Lines::open(file.path(), &ProgressBar::hidden())?;
        let mut content = Content { lines: Vec::new(), hash: [0; 32] };
        while let Some(line) = lines.next()? {
            content.lines.push((line.number, String::from_utf8_lossy(line.bytes).into_owned()));
        }
        content.hash = lines.hash();
        Ok(content)
    }

    fn zip(files: &[&[u8]], sizes_follow: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for content in files {
            let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
            deflate.write_all(content).unwrap();
            let packed = deflate.finish().unwrap();
            let mut sum = flate2::Crc::new();
            sum.update(content);
            let mut sizes = sum.sum().to_le_bytes().to_vec();
            sizes.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
            sizes.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
            out.extend(b"PK\x03\x04\x14\x00");
            out.extend(if sizes_follow { [8, 0] } else { [0, 0] });
            out.extend([8, 0, 0, 0, 0, 0]);
            out.extend(if sizes_follow { &[0; 12] } else { sizes.as_slice() });
            out.extend([5, 0, 0, 0]);
            out.extend(b"a.csv");
            out.extend(packed);
            if sizes_follow {
                out.extend(b"PK\x07\x08");
                out.extend(sizes);
            }
        }
        out.extend(b"PK\x01\x02 the directory is not read");
        out
    }

    #[test]
    fn every_packing_gives_the_same_lines_and_hash() {
        let text = b"\xef\xbb\xbftime,price\r\n1,2\n\n3,4";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&text[..9]).unwrap();
        let mut gzip_in_two = gzip.finish().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&text[9..]).unwrap();
        gzip_in_two.extend(gzip.finish().unwrap());

        let plain = read_all(text).unwrap();
        let expected = [(1, "time,price"), (2, "1,2"), (3, ""), (4, "3,4")];
        assert_eq!(plain.lines, expected.map(|(n, t)| (n, t.to_owned())));
        assert_eq!(read_all(&gzip_in_two).unwrap(), plain);
        assert_eq!(read_all(&zstd::encode_all(&text[..], 3).unwrap()).unwrap(), plain);
        assert_eq!(read_all(&zip(&[text], false)).unwrap(), plain);
        assert_eq!(read_all(&zip(&[text], true)).unwrap(), plain);
    }

    #[test]
    fn a_cut_or_damaged_packing_is_an_error() {
        let check = |content: &[u8], part: &str| {
            let error = read_all(content).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(b"1,2\n3,4\n").unwrap();
        let gzip = gzip.finish().unwrap();
        check(&gzip[..gzip.len() - 6], "");
        check(&zip(&[b"1,2\n", b"3,4\n"], false), "several files");
        check(&zip(&[b"1,2\n", b"3,4\n"], true), "several files");
        let mut damaged = zip(&[b"1,2\n"], false);
        damaged[14] ^= 1;
        check(&damaged, "damaged");
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let mut content = vec![b'7'; 3 * MAX_LINE_BYTES];
        content.extend(b"\n1,2\n");
        let lines = read_all(&content).unwrap().lines;
        assert_eq!(lines[0].1.len(), MAX_LINE_BYTES);
        assert_eq!(lines[1], (2, "1,2".to_owned()));
    }
}
