//! Rows as bytes: `RowBinaryWithNamesAndTypes`, whose header makes the server refuse a table that does not match.

use bytes::Bytes;
use marketflow_model::Timestamp;

/// A column's name and ClickHouse type, as `system.columns` spells it.
pub type Column = (&'static str, &'static str);

/// One block of one table, with the token that names it.
#[derive(Clone, Debug)]
pub struct Insert {
    table: &'static str,
    token: String,
    header: Bytes,
    body: Bytes,
    rows: usize,
}

impl Insert {
    /// `body` holds `rows` rows of exactly the header's columns. The token must never be used for other bytes.
    pub fn new(table: &'static str, token: String, header: Bytes, body: Bytes, rows: usize) -> Self {
        Self { table, token, header, body, rows }
    }

    /// Into which table.
    pub fn table(&self) -> &'static str {
        self.table
    }

    /// The name of these bytes.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn chunks(&self) -> [Bytes; 2] {
        [self.header.clone(), self.body.clone()]
    }
}

/// The header of a body with these columns.
pub fn header(columns: &[Column]) -> Bytes {
    let mut bytes = Vec::new();
    let mut out = RowWriter(&mut bytes);
    out.length(columns.len());
    for (name, _) in columns {
        out.string(name);
    }
    for (_, kind) in columns {
        out.string(kind);
    }
    bytes.into()
}

/// Appends one row's values, in the order of the header. `LowCardinality(T)` is written as `T`.
pub struct RowWriter<'a>(
    /// Where they are appended.
    pub &'a mut Vec<u8>,
);

impl RowWriter<'_> {
    /// `String`, from text.
    pub fn string(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// `String`, from bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.length(value.len());
        self.0.extend_from_slice(value);
    }

    /// `Bool`.
    pub fn boolean(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    /// `Int32`.
    pub fn int32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// `Int64`; also `Decimal(18, s)`, scaled.
    pub fn int64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// `Decimal(38, s)`, scaled.
    pub fn decimal38(&mut self, value: i128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// `DateTime64(6, 'UTC')`.
    pub fn micros(&mut self, value: Timestamp) {
        self.int64(value.micros());
    }

    /// `DateTime64(3, 'UTC')`; microseconds are cut off.
    pub fn millis(&mut self, value: Timestamp) {
        self.int64(value.micros().div_euclid(1_000));
    }

    /// `Nullable(T)`.
    pub fn nullable<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.boolean(value.is_none());
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// `Array(T)`.
    pub fn array<T>(&mut self, items: impl ExactSizeIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        self.length(items.len());
        for item in items {
            write(self, item);
        }
    }

    /// Unsigned LEB128.
    fn length(&mut self, length: usize) {
        let mut rest = length;
        loop {
            let seven = u8::try_from(rest & 0x7f).expect("seven bits fit a byte");
            rest >>= 7;
            self.0.push(if rest == 0 { seven } else { seven | 0x80 });
            if rest == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut RowWriter<'_>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut RowWriter(&mut bytes));
        bytes
    }

    #[test]
    fn values_are_little_endian_and_lengths_leb128() {
        assert_eq!(written(|w| w.string("ab")), [2, b'a', b'b']);
        assert_eq!(written(|w| w.bytes(&[7; 200]))[..3], [0xc8, 0x01, 7]);
        assert_eq!(written(|w| w.int32(-2)), [0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(written(|w| w.nullable(None::<i64>, RowWriter::int64)), [1]);
        assert_eq!(written(|w| w.nullable(Some(1), RowWriter::int64)), [0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(written(|w| w.decimal38(-1)), [0xff; 16]);
        assert_eq!(written(|w| w.array(["a", "b"].into_iter(), RowWriter::string)), [2, 1, b'a', 1, b'b']);
        assert_eq!(written(|w| w.millis(Timestamp::from_micros(-1))), [0xff; 8]);
    }

    #[test]
    fn a_header_names_columns_then_types() {
        assert_eq!(&header(&[("a", "Int32")])[..], b"\x01\x01a\x05Int32");
    }
}
