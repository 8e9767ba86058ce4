//! Rows gathered column by column, and inserts: one block each, as ClickHouse's Native format has it, which the server takes as it is.
//!
//! **Source**: `src/Formats/NativeReader.cpp` and `src/DataTypes/Serializations` of ClickHouse 26.7, without a protocol revision, as over HTTP.
//!
//! Next: `client.rs`.

use bytes::Bytes;
use marketflow_model::Timestamp;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// A column's name and ClickHouse type, as `system.columns` spells it.
pub type Column = (&'static str, &'static str);

/// One block of one table, with the token that names it.
#[derive(Clone, Debug)]
pub struct Insert {
    table: &'static str,
    columns: Arc<str>,
    token: String,
    body: Bytes,
    rows: usize,
}

impl Insert {
    /// Some of the rows, in this order. The token must never be used for other rows.
    pub fn new(table: &'static str, token: String, columns: &Columns, rows: &[u32]) -> Self {
        Self { table, columns: columns.list.clone(), token, body: columns.native(rows).into(), rows: rows.len() }
    }

    /// Into which table.
    pub fn table(&self) -> &'static str {
        self.table
    }

    /// The name of these rows.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The statement; a column that is not named in it takes its default.
    pub(crate) fn sql(&self) -> String {
        format!("INSERT INTO {} ({}) FORMAT Native", self.table, self.columns)
    }

    pub(crate) fn body(&self) -> Bytes {
        self.body.clone()
    }
}

/// Rows of one table.
pub struct Columns {
    names: Vec<Column>,
    /// Names as an INSERT lists them.
    list: Arc<str>,
    values: Vec<Values>,
    rows: usize,
    bytes: usize,
}

impl Columns {
    /// None yet.
    ///
    /// # Panics
    /// At a type that no table of ours has.
    pub fn new(columns: &[Column]) -> Self {
        Self {
            names: columns.to_vec(),
            list: columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ").into(),
            values: columns.iter().map(|(_, kind)| Values::of(kind)).collect(),
            rows: 0,
            bytes: 0,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// About what they take in memory, and as an insert.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends one row, every column of it.
    ///
    /// # Panics
    /// When `write` leaves a column out or gives it what it does not hold.
    pub fn append(&mut self, write: impl FnOnce(&mut RowWriter<'_>)) {
        let mut row = RowWriter { columns: self.values.iter_mut(), bytes: 0 };
        write(&mut row);
        assert!(row.columns.next().is_none(), "a row has every column of its table");
        self.bytes += row.bytes;
        self.rows += 1;
    }

    /// These rows sorted by a `String` and then a 64-bit column, equals as they came. A server whose sort key begins so need not sort.
    ///
    /// # Panics
    /// When the columns are not of these types.
    pub fn sorted(&self, rows: Range<usize>, text: &str, number: &str) -> Vec<u32> {
        let (Values::Text(texts), Values::Int64(numbers)) = (self.column(text), self.column(number)) else {
            panic!("{text} is a String and {number} has 64 bits")
        };
        // few texts, each in rows that are nearly in order: rows are dealt out to their texts
        let mut groups: Vec<(&[u8], Vec<u32>)> = Vec::new();
        let mut known: HashMap<&[u8], usize> = HashMap::new();
        for row in rows {
            let text = texts.get(row);
            let group = *known.entry(text).or_insert_with(|| {
                groups.push((text, Vec::new()));
                groups.len() - 1
            });
            groups[group].1.push(row_number(row));
        }
        groups.sort_unstable_by_key(|(text, _)| *text);
        for (_, rows) in &mut groups {
            rows.sort_by_key(|row| numbers[*row as usize]);
        }
        groups.into_iter().flat_map(|(_, rows)| rows).collect()
    }

    /// A row for people: `name=value`, numbers and times as they are stored.
    pub fn text(&self, row: usize) -> String {
        let values = self.names.iter().zip(&self.values).map(|((name, _), values)| format!("{name}={}", values.text(row)));
        values.collect::<Vec<_>>().join(" ")
    }

    fn column(&self, name: &str) -> &Values {
        let at = self.names.iter().position(|(column, _)| *column == name).expect("a column of the table");
        &self.values[at]
    }

    /// These rows as one block.
    fn native(&self, rows: &[u32]) -> Vec<u8> {
        let share = self.bytes.checked_div(self.rows).unwrap_or(0);
        let mut out = Vec::with_capacity(4_096 + (share + 2) * rows.len());
        length(&mut out, self.names.len());
        length(&mut out, rows.len());
        for ((name, kind), values) in self.names.iter().zip(&self.values) {
            text(&mut out, name.as_bytes());
            text(&mut out, kind.as_bytes());
            if !rows.is_empty() {
                values.write_prefix(&mut out);
                values.write(rows, &mut out);
            }
        }
        out
    }
}

/// Takes one row's values, in the order of the columns.
pub struct RowWriter<'a> {
    columns: std::slice::IterMut<'a, Values>,
    bytes: usize,
}

impl RowWriter<'_> {
    /// `String` or `LowCardinality(String)`, from text.
    pub fn string(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// `String` or `LowCardinality(String)`, from bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.bytes += self.next().push_text(value);
    }

    /// `Bool`.
    pub fn boolean(&mut self, value: bool) {
        self.next().bools().push(u8::from(value));
        self.bytes += 1;
    }

    /// `Int32`; also `Date32`, in days.
    pub fn int32(&mut self, value: i32) {
        self.next().int32s().push(value);
        self.bytes += 4;
    }

    /// `Int64`; also `Decimal(18, s)`, scaled.
    pub fn int64(&mut self, value: i64) {
        self.next().int64s().push(value);
        self.bytes += 8;
    }

    /// `Decimal(38, s)`, scaled.
    pub fn decimal38(&mut self, value: i128) {
        self.next().int128s().push(value);
        self.bytes += 16;
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
        let (nulls, values) = self.next().nullable();
        nulls.push(u8::from(value.is_none()));
        let bytes = match value {
            Some(value) => {
                let mut inner = Self { columns: std::slice::from_mut(values).iter_mut(), bytes: 0 };
                write(&mut inner, value);
                inner.bytes
            }
            None => values.push_default(),
        };
        self.bytes += 1 + bytes;
    }

    /// `Array(T)`, also `Map(K, V)`; a tuple's values are written one after the other.
    pub fn array<T>(&mut self, items: impl Iterator<Item = T>, mut write: impl FnMut(&mut RowWriter<'_>, T)) {
        let (ends, values) = self.next().array();
        let mut end = ends.last().copied().unwrap_or(0);
        let mut bytes = 8;
        for item in items {
            let columns = if let Values::Tuple(columns) = &mut *values {
                columns.iter_mut()
            } else {
                std::slice::from_mut(&mut *values).iter_mut()
            };
            let mut inner = RowWriter { columns, bytes: 0 };
            write(&mut inner, item);
            bytes += inner.bytes;
            end += 1;
        }
        ends.push(end);
        self.bytes += bytes;
    }
}

impl<'a> RowWriter<'a> {
    fn next(&mut self) -> &'a mut Values {
        self.columns.next().expect("a row has no more columns than its table")
    }
}

/// The values of a column, by how they are stored.
#[derive(Debug)]
enum Values {
    Bool(Vec<u8>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Int128(Vec<i128>),
    Text(Texts),
    Dictionary(Dictionary),
    /// 1 where null, and the values, with a default where null.
    Nullable(Vec<u8>, Box<Values>),
    /// Where each row's items end, and the items of all rows.
    Array(Vec<u32>, Box<Values>),
    Tuple(Vec<Values>),
}

impl Values {
    /// None yet, for a type as `system.columns` spells it.
    fn of(kind: &str) -> Self {
        let within = |outer: &str| kind.strip_prefix(outer)?.strip_prefix('(')?.strip_suffix(')');
        if let Some(inner) = within("Nullable") {
            return Self::Nullable(Vec::new(), Box::new(Self::of(inner)));
        }
        if let Some(inner) = within("Array") {
            return Self::Array(Vec::new(), Box::new(Self::of(inner)));
        }
        // a map lies as an array of pairs does
        if let Some(inner) = within("Map") {
            return Self::Array(Vec::new(), Box::new(Self::Tuple(inner.split(", ").map(Self::of).collect())));
        }
        if let Some(inner) = within("Tuple") {
            return Self::Tuple(inner.split(", ").map(Self::of).collect());
        }
        match kind {
            "Bool" => Self::Bool(Vec::new()),
            "Int32" | "Date32" => Self::Int32(Vec::new()),
            "String" => Self::Text(Texts::default()),
            "LowCardinality(String)" => Self::Dictionary(Dictionary::default()),
            _ if kind == "Int64" || kind.starts_with("Decimal(18,") || kind.starts_with("DateTime64(") => Self::Int64(Vec::new()),
            _ if kind.starts_with("Decimal(38,") => Self::Int128(Vec::new()),
            _ => panic!("no table of ours has a column of type {kind}"),
        }
    }

    fn push_text(&mut self, value: &[u8]) -> usize {
        if let Self::Text(texts) = self {
            texts.push(value)
        } else if let Self::Dictionary(dictionary) = self {
            dictionary.push(value)
        } else {
            panic!("no text for {self:?}")
        }
    }

    fn bools(&mut self) -> &mut Vec<u8> {
        if let Self::Bool(values) = self { values } else { panic!("no Bool for {self:?}") }
    }

    fn int32s(&mut self) -> &mut Vec<i32> {
        if let Self::Int32(values) = self { values } else { panic!("no 32 bits for {self:?}") }
    }

    fn int64s(&mut self) -> &mut Vec<i64> {
        if let Self::Int64(values) = self { values } else { panic!("no 64 bits for {self:?}") }
    }

    fn int128s(&mut self) -> &mut Vec<i128> {
        if let Self::Int128(values) = self { values } else { panic!("no 128 bits for {self:?}") }
    }

    fn nullable(&mut self) -> (&mut Vec<u8>, &mut Self) {
        if let Self::Nullable(nulls, values) = self { (nulls, values) } else { panic!("no null for {self:?}") }
    }

    fn array(&mut self) -> (&mut Vec<u32>, &mut Self) {
        if let Self::Array(ends, values) = self { (ends, values) } else { panic!("no items for {self:?}") }
    }

    /// Appends what stands where a value is null; returns its bytes.
    fn push_default(&mut self) -> usize {
        match self {
            Self::Bool(values) => values.push(0),
            Self::Int32(values) => values.push(0),
            Self::Int64(values) => values.push(0),
            Self::Int128(values) => values.push(0),
            Self::Text(texts) => return texts.push(b""),
            Self::Dictionary(_) | Self::Nullable(..) | Self::Array(..) | Self::Tuple(_) => panic!("cannot be null"),
        }
        16
    }

    fn text(&self, row: usize) -> String {
        match self {
            Self::Bool(values) => (values[row] == 1).to_string(),
            Self::Int32(values) => values[row].to_string(),
            Self::Int64(values) => values[row].to_string(),
            Self::Int128(values) => values[row].to_string(),
            Self::Text(texts) => String::from_utf8_lossy(texts.get(row)).into_owned(),
            Self::Dictionary(dictionary) => String::from_utf8_lossy(dictionary.get(row)).into_owned(),
            Self::Nullable(nulls, _) if nulls[row] == 1 => "null".to_owned(),
            Self::Nullable(_, values) => values.text(row),
            Self::Array(ends, values) => {
                let items: Vec<String> = items_of(ends, row).map(|item| values.text(item as usize)).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Tuple(columns) => {
                let values: Vec<String> = columns.iter().map(|values| values.text(row)).collect();
                format!("({})", values.join(", "))
            }
        }
    }

    /// What stands before a column's values, whatever they are.
    fn write_prefix(&self, out: &mut Vec<u8>) {
        match self {
            // shared dictionaries with additional keys
            Self::Dictionary(_) => out.extend_from_slice(&1_u64.to_le_bytes()),
            Self::Nullable(_, values) | Self::Array(_, values) => values.write_prefix(out),
            Self::Tuple(columns) => columns.iter().for_each(|values| values.write_prefix(out)),
            Self::Bool(_) | Self::Int32(_) | Self::Int64(_) | Self::Int128(_) | Self::Text(_) => {}
        }
    }

    /// The values of these rows.
    fn write(&self, rows: &[u32], out: &mut Vec<u8>) {
        match self {
            Self::Bool(values) => fixed(rows, out, |row| [values[row]]),
            Self::Int32(values) => fixed(rows, out, |row| values[row].to_le_bytes()),
            Self::Int64(values) => fixed(rows, out, |row| values[row].to_le_bytes()),
            Self::Int128(values) => fixed(rows, out, |row| values[row].to_le_bytes()),
            Self::Text(texts) => rows.iter().for_each(|row| text(out, texts.get(*row as usize))),
            Self::Dictionary(dictionary) => dictionary.write(rows, out),
            Self::Nullable(nulls, values) => {
                fixed(rows, out, |row| [nulls[row]]);
                values.write(rows, out);
            }
            Self::Array(ends, values) => {
                let mut items = Vec::new();
                for row in rows {
                    items.extend(items_of(ends, *row as usize));
                    out.extend_from_slice(&(items.len() as u64).to_le_bytes());
                }
                if !items.is_empty() {
                    values.write(&items, out);
                }
            }
            Self::Tuple(columns) => columns.iter().for_each(|values| values.write(rows, out)),
        }
    }
}

/// Texts end to end.
#[derive(Debug, Default)]
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    fn push(&mut self, value: &[u8]) -> usize {
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len());
        value.len() + 8
    }

    fn get(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.bytes[start..self.ends[row]]
    }
}

/// Few different texts, each named by its number.
#[derive(Debug, Default)]
struct Dictionary {
    keys: Vec<Arc<[u8]>>,
    numbers: HashMap<Arc<[u8]>, u32>,
    rows: Vec<u32>,
}

impl Dictionary {
    fn push(&mut self, value: &[u8]) -> usize {
        let number = match self.rows.last() {
            // mostly the same again
            Some(last) if *self.keys[*last as usize] == *value => *last,
            _ => self.number_of(value),
        };
        self.rows.push(number);
        4
    }

    fn get(&self, row: usize) -> &[u8] {
        &self.keys[self.rows[row] as usize]
    }

    fn number_of(&mut self, value: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let (number, key) = (row_number(self.keys.len()), Arc::<[u8]>::from(value));
        self.keys.push(key.clone());
        self.numbers.insert(key, number);
        number
    }

    fn write(&self, rows: &[u32], out: &mut Vec<u8>) {
        const HAS_KEYS: u64 = 1 << 9;
        const NEW_DICTIONARY: u64 = 1 << 10;
        let width = match self.keys.len() {
            0..=0x100 => 0,
            0x101..=0x1_0000 => 1,
            _ => 2,
        };
        out.extend_from_slice(&(HAS_KEYS | NEW_DICTIONARY | width).to_le_bytes());
        out.extend_from_slice(&(self.keys.len() as u64).to_le_bytes());
        self.keys.iter().for_each(|key| text(out, key));
        out.extend_from_slice(&(rows.len() as u64).to_le_bytes());
        let bytes_of = |row: usize| self.rows[row].to_le_bytes();
        match width {
            0 => fixed(rows, out, |row| [bytes_of(row)[0]]),
            1 => fixed(rows, out, |row| [bytes_of(row)[0], bytes_of(row)[1]]),
            _ => fixed(rows, out, bytes_of),
        }
    }
}

/// Which items are those of a row.
fn items_of(ends: &[u32], row: usize) -> Range<u32> {
    (if row == 0 { 0 } else { ends[row - 1] })..ends[row]
}

fn row_number(row: usize) -> u32 {
    u32::try_from(row).expect("a block holds fewer than 2^32 rows")
}

fn fixed<const WIDTH: usize>(rows: &[u32], out: &mut Vec<u8>, value: impl Fn(usize) -> [u8; WIDTH]) {
    let start = out.len();
    out.resize(start + rows.len() * WIDTH, 0);
    for (place, row) in out[start..].chunks_exact_mut(WIDTH).zip(rows) {
        place.copy_from_slice(&value(*row as usize));
    }
}

fn text(out: &mut Vec<u8>, value: &[u8]) {
    length(out, value.len());
    out.extend_from_slice(value);
}

/// Unsigned LEB128.
fn length(out: &mut Vec<u8>, length: usize) {
    let mut rest = length;
    loop {
        let seven = (rest & 0x7f).to_le_bytes()[0];
        rest >>= 7;
        out.push(if rest == 0 { seven } else { seven | 0x80 });
        if rest == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(kind: &'static str, rows: &[u32], write: impl Fn(&mut RowWriter<'_>, u32)) -> Vec<u8> {
        let mut columns = Columns::new(&[("c", kind)]);
        for row in 0..3 {
            columns.append(|writer| write(writer, row));
        }
        assert_eq!(columns.rows(), 3);
        let block = columns.native(rows);
        let mut head = Vec::new();
        length(&mut head, 1);
        length(&mut head, rows.len());
        text(&mut head, b"c");
        text(&mut head, kind.as_bytes());
        block.strip_prefix(&head[..]).expect("columns, rows, name, type").to_vec()
    }

    #[test]
    fn values_stand_column_by_column_in_the_order_asked_for() {
        let ints = native("Int32", &[2, 0], |w, row| w.int32(i32::try_from(row).unwrap() - 1));
        assert_eq!(ints, [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        let decimals = native("Decimal(38, 8)", &[1], |w, _| w.decimal38(-1));
        assert_eq!(decimals, [0xff; 16]);
        let millis = native("DateTime64(3, 'UTC')", &[0], |w, _| w.millis(Timestamp::from_micros(-1)));
        assert_eq!(millis, [0xff; 8]);
        let texts = native("String", &[1, 2], |w, row| w.string(&"ab"[..row as usize]));
        assert_eq!(texts, [1, b'a', 2, b'a', b'b']);
        let long = native("String", &[0], |w, _| w.bytes(&[7; 200]));
        assert_eq!((long.len(), &long[..3]), (202, &[0xc8, 0x01, 7][..]));
    }

    #[test]
    fn nulls_come_before_the_values() {
        let values = native("Nullable(Int64)", &[0, 1], |w, row| w.nullable((row == 1).then_some(5), RowWriter::int64));
        assert_eq!(values, [[1, 0, 0, 0, 0, 0, 0, 0, 0, 0].as_slice(), &[5, 0, 0, 0, 0, 0, 0, 0]].concat());
    }

    #[test]
    fn few_different_texts_are_written_once() {
        let kind = "LowCardinality(String)";
        let values = native(kind, &[2, 1, 0], |w, row| w.string(["x", "yy", "x"][row as usize]));
        let mut expected = 1_u64.to_le_bytes().to_vec();
        expected.extend((0x600_u64).to_le_bytes());
        expected.extend(2_u64.to_le_bytes());
        expected.extend(b"\x01x\x02yy");
        expected.extend(3_u64.to_le_bytes());
        expected.extend([0, 1, 0]);
        assert_eq!(values, expected);
    }

    #[test]
    fn items_follow_the_ends_of_their_rows() {
        let kind = "Array(Tuple(String, String))";
        let values = native(kind, &[2, 1], |w, row| {
            w.array((0..row).map(|n| n.to_string()), |w, n| {
                w.string(&n);
                w.string("v");
            });
        });
        let mut expected = [2_u64.to_le_bytes(), 3_u64.to_le_bytes()].concat();
        expected.extend(b"\x010\x011\x010\x01v\x01v\x01v");
        assert_eq!(values, expected);
    }

    #[test]
    fn rows_are_sorted_by_text_then_number_and_equals_stay() {
        let mut columns = Columns::new(&[("name", "String"), ("at", "DateTime64(6, 'UTC')")]);
        for (name, at) in [("b", 1), ("a", 9), ("b", 0), ("a", 9), ("a", 3), ("ab", 0)] {
            columns.append(|row| {
                row.string(name);
                row.int64(at);
            });
        }
        assert_eq!(columns.sorted(0..6, "name", "at"), [4, 1, 3, 5, 2, 0]);
        assert_eq!(columns.sorted(1..3, "name", "at"), [1, 2]);
    }

    #[test]
    #[should_panic(expected = "every column")]
    fn a_row_is_whole() {
        Columns::new(&[("a", "Int32"), ("b", "Int32")]).append(|row| row.int32(1));
    }
}
