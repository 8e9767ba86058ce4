//! The Native format as a client with a protocol version reads it (`client_protocol_version`, sent by Go clients and Grafana).
//!
//! The engine writes Native without a version. A versioned reader expects a block information record before each block and, from 54454
//! on, a byte after each column's type that says it is serialised in the ordinary way. To place that byte the columns' lengths must be
//! known: they follow from the types. Types whose length only their own reader knows (JSON, Dynamic, Variant, AggregateFunction) are
//! refused with the way around.
//!
//! Next: `output.rs`.

use crate::fault::{Fault, code};

/// From this version on each column says how it is serialised.
const WITH_CUSTOM_SERIALIZATION: u32 = 54454;
/// Field 1: overflow rows, no. Field 2: bucket, -1. End.
const BLOCK_INFO: [u8; 8] = [1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0];

/// Rewrites a piece of the engine's Native output for a reader of this protocol version. A piece is whole blocks; one that has columns of
/// unmeasurable types is one block, which is all an older reader needs to know.
pub(crate) fn reframe(piece: &[u8], version: u32) -> Result<Vec<u8>, Fault> {
    match reframe_blocks(piece, version) {
        Err(fault) if fault.code == code::NOT_IMPLEMENTED && version < WITH_CUSTOM_SERIALIZATION => {
            Ok([&BLOCK_INFO, piece].concat())
        }
        other => other,
    }
}

fn reframe_blocks(blocks: &[u8], version: u32) -> Result<Vec<u8>, Fault> {
    let mut output = Vec::with_capacity(blocks.len() + 64);
    let mut reader = Reader { bytes: blocks, at: 0 };
    while reader.at < blocks.len() {
        output.extend(BLOCK_INFO);
        let start = reader.at;
        let (columns, rows) = (reader.varint()?, reader.varint()?);
        output.extend(&blocks[start..reader.at]);
        for _ in 0..columns {
            let start = reader.at;
            reader.text()?; // the name
            let kind = reader.text()?;
            output.extend(&blocks[start..reader.at]);
            if version >= WITH_CUSTOM_SERIALIZATION {
                output.push(0);
            }
            let start = reader.at;
            if rows > 0 {
                reader.prefix(kind)?;
                reader.column(kind, rows)?;
            }
            output.extend(&blocks[start..reader.at]);
        }
    }
    Ok(output)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn skip(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| Fault::internal("a Native block of the engine ends early"))?;
        let skipped = &self.bytes[self.at..end];
        self.at = end;
        Ok(skipped)
    }

    fn varint(&mut self) -> Result<usize, Fault> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.skip(1)?[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::internal("a number in a Native block of the engine is too long"))
    }

    fn text(&mut self) -> Result<&'a str, Fault> {
        let length = self.varint()?;
        std::str::from_utf8(self.skip(length)?)
            .map_err(|_| Fault::internal("a name in a Native block of the engine is not UTF-8"))
    }

    fn fixed(&mut self, rows: usize, width: usize) -> Result<(), Fault> {
        let length = rows.checked_mul(width).ok_or_else(|| Fault::internal("a column of the engine is too long"))?;
        self.skip(length).map(drop)
    }

    /// Steps over what types say once before all values: LowCardinality its version, wherever it is nested.
    fn prefix(&mut self, kind: &str) -> Result<(), Fault> {
        let (name, arguments) = split(kind);
        match name {
            "LowCardinality" => self.fixed(1, 8),
            "Array" | "Map" | "Nested" | "Nullable" | "SimpleAggregateFunction" | "Tuple" => {
                arguments.iter().try_for_each(|element| self.prefix(unnamed(element)))
            }
            _ => Ok(()),
        }
    }

    /// Steps over the values of a column.
    fn column(&mut self, kind: &str, rows: usize) -> Result<(), Fault> {
        let (name, arguments) = split(kind);
        match name {
            "UInt8" | "Int8" | "Bool" | "Enum8" | "Nothing" => self.fixed(rows, 1),
            "UInt16" | "Int16" | "Date" | "Enum16" | "BFloat16" => self.fixed(rows, 2),
            "UInt32" | "Int32" | "Float32" | "Date32" | "DateTime" | "DateTime32" | "IPv4" | "Time" | "Decimal32" => {
                self.fixed(rows, 4)
            }
            "UInt64" | "Int64" | "Float64" | "DateTime64" | "Time64" | "Decimal64" => self.fixed(rows, 8),
            "UInt128" | "Int128" | "UUID" | "IPv6" | "Decimal128" => self.fixed(rows, 16),
            "UInt256" | "Int256" | "Decimal256" => self.fixed(rows, 32),
            _ if name.starts_with("Interval") => self.fixed(rows, 8),
            "Decimal" => match arguments.first().and_then(|digits| digits.parse::<u32>().ok()) {
                Some(..=9) => self.fixed(rows, 4),
                Some(..=18) => self.fixed(rows, 8),
                Some(..=38) => self.fixed(rows, 16),
                _ => self.fixed(rows, 32),
            },
            "FixedString" => match arguments.first().and_then(|width| width.parse().ok()) {
                Some(width) => self.fixed(rows, width),
                None => Err(unknown(kind)),
            },
            "String" => {
                for _ in 0..rows {
                    let length = self.varint()?;
                    self.skip(length)?;
                }
                Ok(())
            }
            "Nullable" => {
                self.fixed(rows, 1)?;
                self.column(arguments.first().ok_or_else(|| unknown(kind))?, rows)
            }
            "LowCardinality" => self.dictionary(arguments.first().ok_or_else(|| unknown(kind))?, rows),
            "Array" => {
                let inner = self.offsets(rows)?;
                self.column(arguments.first().ok_or_else(|| unknown(kind))?, inner)
            }
            "Map" | "Nested" => {
                let inner = self.offsets(rows)?;
                arguments.iter().try_for_each(|element| self.column(unnamed(element), inner))
            }
            "Tuple" if arguments.is_empty() => self.fixed(rows, 1),
            "Tuple" => arguments.iter().try_for_each(|element| self.column(unnamed(element), rows)),
            "SimpleAggregateFunction" => self.column(arguments.get(1).ok_or_else(|| unknown(kind))?, rows),
            "Point" => self.fixed(rows, 16),
            "Ring" | "LineString" => self.column("Array(Point)", rows),
            "Polygon" | "MultiLineString" => self.column("Array(Array(Point))", rows),
            "MultiPolygon" => self.column("Array(Array(Array(Point)))", rows),
            _ => Err(unknown(kind)),
        }
    }

    /// Steps over a block's own dictionary and the indexes into it.
    fn dictionary(&mut self, kind: &str, rows: usize) -> Result<(), Fault> {
        const INDEX_WIDTH: u64 = 0xff;
        const SHARED_DICTIONARY: u64 = 1 << 8;
        const OWN_KEYS: u64 = 1 << 9;
        if rows == 0 {
            return Ok(());
        }
        let flags = self.number()?;
        if flags & SHARED_DICTIONARY != 0 || flags & OWN_KEYS == 0 || flags & INDEX_WIDTH > 3 {
            return Err(unknown(&format!("LowCardinality({kind})")));
        }
        let keys = self.length()?;
        let (name, arguments) = split(kind);
        let key = if name == "Nullable" { arguments.first().copied().unwrap_or(kind) } else { kind };
        self.column(key, keys)?;
        let indexes = self.length()?;
        self.fixed(indexes, 1 << (flags & INDEX_WIDTH))
    }

    fn number(&mut self) -> Result<u64, Fault> {
        let bytes = self.skip(8)?.first_chunk::<8>().expect("eight bytes were skipped");
        Ok(u64::from_le_bytes(*bytes))
    }

    fn length(&mut self) -> Result<usize, Fault> {
        usize::try_from(self.number()?).map_err(|_| Fault::internal("a length in a Native block of the engine is too long"))
    }

    /// Steps over array offsets and says how many elements they span.
    fn offsets(&mut self, rows: usize) -> Result<usize, Fault> {
        self.fixed(rows, 8)?;
        let Some(last) = self.bytes[..self.at].last_chunk::<8>().filter(|_| rows > 0) else { return Ok(0) };
        usize::try_from(u64::from_le_bytes(*last)).map_err(|_| Fault::internal("an array of the engine is too long"))
    }
}

fn unknown(kind: &str) -> Fault {
    let what = format!(
        "the local server cannot send a column of type {kind} in the Native format to a client with a protocol version: convert it in \
         the query (toString, toJSONString) or ask for another format"
    );
    Fault::new(code::NOT_IMPLEMENTED, what)
}

/// `Map(String, Array(UInt8))` -> `Map`, [`String`, `Array(UInt8)`]
fn split(kind: &str) -> (&str, Vec<&str>) {
    let Some((name, rest)) = kind.split_once('(') else { return (kind, Vec::new()) };
    let rest = rest.strip_suffix(')').unwrap_or(rest);
    let (mut arguments, mut depth, mut start, mut quote) = (Vec::new(), 0_usize, 0, None);
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate() {
        match (quote, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'`' | b'"') => quote = Some(byte),
            (None, b'(') => depth += 1,
            (None, b')') => depth = depth.saturating_sub(1),
            (None, b',') if depth == 0 => {
                arguments.push(rest[start..at].trim());
                start = at + 1;
            }
            (None, _) => {}
        }
    }
    if !rest[start..].trim().is_empty() {
        arguments.push(rest[start..].trim());
    }
    (name, arguments)
}

/// The type of a tuple's element, which may have a name in front: ``a UInt8``, `` `a b` String ``.
fn unnamed(element: &str) -> &str {
    let after_name = match element.as_bytes().first() {
        Some(b'`') => element[1..].find('`').map(|end| element[end + 2..].trim_start()),
        _ => element.split_once(' ').filter(|(name, _)| !name.contains('(')).map(|(_, kind)| kind.trim_start()),
    };
    after_name.unwrap_or(element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_taken_apart() {
        assert_eq!(split("Map(String, Array(UInt8))"), ("Map", vec!["String", "Array(UInt8)"]));
        assert_eq!(split("Enum8('a,(' = 1, 'b\\'' = 2)"), ("Enum8", vec!["'a,(' = 1", "'b\\'' = 2"]));
        assert_eq!(split("UInt8"), ("UInt8", vec![]));
        assert_eq!(unnamed("a Nullable(String)"), "Nullable(String)");
        assert_eq!(unnamed("Decimal(9, 2)"), "Decimal(9, 2)");
        assert_eq!(unnamed("`a b` String"), "String");
    }

    #[test]
    fn a_block_gets_its_information_and_its_flags() {
        // One column `a` of type Array(UInt8), rows [1, 2] and [].
        let values = [2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 2];
        let block = [&[1, 2, 1, b'a', 12][..], b"Array(UInt8)", &values].concat();
        let twice = [block.clone(), block].concat();
        let once = [&BLOCK_INFO[..], &[1, 2, 1, b'a', 12], b"Array(UInt8)", &[0], &values].concat();
        assert_eq!(reframe(&twice, 54460).unwrap(), [once.clone(), once].concat());
        let old = reframe(&twice, 54405).unwrap();
        assert_eq!(old.len(), twice.len() + 16, "older readers expect no flag");
        assert!(reframe(&twice[..twice.len() - 1], 54460).is_err());
        assert_eq!(reframe(&[1, 1, 1, b'a', 4, b'J', b'S', b'O', b'N', 0], 54460).unwrap_err().code, code::NOT_IMPLEMENTED);
    }
}
