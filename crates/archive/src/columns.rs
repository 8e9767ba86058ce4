//! Columns and rows of a Parquet file: decimals stay decimals, times are UTC microseconds, text is UTF-8.
//!
//! Next: `records.rs`.

use anyhow::Context;
use arrow_array::builder::{
    BooleanBuilder, Decimal128Builder, Int32Builder, Int64Builder, ListBuilder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use marketflow_model::Timestamp;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use std::sync::Arc;

const UTC: &str = "UTC";
const ZSTD_LEVEL: i32 = 3;
/// Rows gathered before they are encoded.
const ROWS_AT_ONCE: usize = 16_384;

/// What a column holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Text,
    Texts,
    Micros,
    /// Precision and scale.
    Decimal(u8, i8),
    Long,
    Int,
    Boolean,
}

/// A column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) nullable: bool,
}

impl Column {
    pub(crate) const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, nullable: false }
    }

    pub(crate) const fn nullable(self) -> Self {
        Self { nullable: true, ..self }
    }

    fn field(&self) -> Field {
        let kind = match self.kind {
            Kind::Text => DataType::Utf8,
            Kind::Texts => DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))),
            Kind::Micros => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            Kind::Decimal(precision, scale) => DataType::Decimal128(precision, scale),
            Kind::Long => DataType::Int64,
            Kind::Int => DataType::Int32,
            Kind::Boolean => DataType::Boolean,
        };
        Field::new(self.name, kind, self.nullable)
    }
}

/// The cells of one column that are not encoded yet.
enum Cells {
    Text(StringBuilder),
    Texts(ListBuilder<StringBuilder>),
    Micros(TimestampMicrosecondBuilder),
    Decimal(Decimal128Builder),
    Long(Int64Builder),
    Int(Int32Builder),
    Boolean(BooleanBuilder),
}

impl Cells {
    fn new(kind: Kind) -> anyhow::Result<Self> {
        Ok(match kind {
            Kind::Text => Self::Text(StringBuilder::new()),
            Kind::Texts => Self::Texts(ListBuilder::new(StringBuilder::new())),
            Kind::Micros => Self::Micros(TimestampMicrosecondBuilder::new().with_timezone(UTC)),
            Kind::Decimal(precision, scale) => {
                Self::Decimal(Decimal128Builder::new().with_precision_and_scale(precision, scale)?)
            }
            Kind::Long => Self::Long(Int64Builder::new()),
            Kind::Int => Self::Int(Int32Builder::new()),
            Kind::Boolean => Self::Boolean(BooleanBuilder::new()),
        })
    }

    fn take(&mut self) -> ArrayRef {
        match self {
            Self::Text(cells) => Arc::new(cells.finish()),
            Self::Texts(cells) => Arc::new(cells.finish()),
            Self::Micros(cells) => Arc::new(cells.finish()),
            Self::Decimal(cells) => Arc::new(cells.finish()),
            Self::Long(cells) => Arc::new(cells.finish()),
            Self::Int(cells) => Arc::new(cells.finish()),
            Self::Boolean(cells) => Arc::new(cells.finish()),
        }
    }
}

/// One row being written, cell by cell in the order of the columns.
pub(crate) struct Row<'a> {
    cells: std::slice::IterMut<'a, Cells>,
}

macro_rules! cell {
    ($name:ident, $variant:ident, $value:ty $(, $convert:expr)?) => {
        pub(crate) fn $name(&mut self, value: impl Into<Option<$value>>) {
            match self.cells.next() {
                Some(Cells::$variant(cells)) => {
                    let value: Option<$value> = value.into();
                    cells.append_option(value$(.map($convert))?);
                }
                _ => unreachable!(concat!("the next column holds no ", stringify!($name), "; a unit test writes every record")),
            }
        }
    };
}

impl Row<'_> {
    cell!(micros, Micros, Timestamp, Timestamp::micros);
    cell!(decimal, Decimal, i128);
    cell!(long, Long, i64);
    cell!(int, Int, i32);
    cell!(boolean, Boolean, bool);

    pub(crate) fn text<'v>(&mut self, value: impl Into<Option<&'v str>>) {
        match self.cells.next() {
            Some(Cells::Text(cells)) => cells.append_option(value.into()),
            _ => unreachable!("the next column holds no text; a unit test writes every record"),
        }
    }

    pub(crate) fn texts<'v>(&mut self, values: impl Iterator<Item = &'v str>) {
        match self.cells.next() {
            Some(Cells::Texts(cells)) => cells.append_value(values.map(Some)),
            _ => unreachable!("the next column holds no texts; a unit test writes every record"),
        }
    }
}

/// A Parquet file being written, in memory: it is small when it is whole. The same rows give the same bytes.
pub struct FileWriter {
    schema: SchemaRef,
    cells: Vec<Cells>,
    waiting: usize,
    rows: u64,
    file: ArrowWriter<Vec<u8>>,
}

impl FileWriter {
    /// `about` goes into the file's own metadata.
    pub(crate) fn new(columns: &[Column], about: &[(&str, &str)]) -> anyhow::Result<Self> {
        let schema = Arc::new(Schema::new(columns.iter().map(Column::field).collect::<Vec<_>>()));
        let about = about.iter().map(|(key, value)| KeyValue::new(format!("marketflow.{key}"), (*value).to_owned())).collect();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            .set_created_by("marketflow".to_owned())
            .set_key_value_metadata(Some(about))
            .build();
        let file = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?;
        let cells = columns.iter().map(|column| Cells::new(column.kind)).collect::<anyhow::Result<_>>()?;
        Ok(Self { schema, cells, waiting: 0, rows: 0, file })
    }

    pub(crate) fn append(&mut self, write: impl FnOnce(&mut Row<'_>)) -> anyhow::Result<()> {
        let mut row = Row { cells: self.cells.iter_mut() };
        write(&mut row);
        self.rows += 1;
        self.waiting += 1;
        if self.waiting == ROWS_AT_ONCE { self.encode() } else { Ok(()) }
    }

    /// Columns and types in words, such as `price decimal(18,8), size decimal(38,8) null`.
    pub fn schema(&self) -> String {
        self.schema.fields().iter().map(|field| in_words(field)).collect::<Vec<_>>().join(", ")
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The whole file.
    ///
    /// # Errors
    /// A row that its columns cannot hold.
    pub fn finish(mut self) -> anyhow::Result<Bytes> {
        self.encode()?;
        Ok(self.file.into_inner().context("cannot end a Parquet file")?.into())
    }

    fn encode(&mut self) -> anyhow::Result<()> {
        if self.waiting > 0 {
            let batch = RecordBatch::try_new(self.schema.clone(), self.cells.iter_mut().map(Cells::take).collect())?;
            self.file.write(&batch).context("cannot write rows as Parquet")?;
            self.waiting = 0;
        }
        Ok(())
    }
}

fn in_words(field: &Field) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "what files of ours hold")]
    let kind = match field.data_type() {
        DataType::Utf8 => "text".to_owned(),
        DataType::List(_) => "texts".to_owned(),
        DataType::Timestamp(..) => "micros".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        other => other.to_string().to_lowercase(),
    };
    format!("{} {kind}{}", field.name(), if field.is_nullable() { " null" } else { "" })
}

/// The rows of a Parquet file, in batches.
pub(crate) fn read(file: Bytes) -> anyhow::Result<impl Iterator<Item = anyhow::Result<RecordBatch>>> {
    let batches =
        ParquetRecordBatchReaderBuilder::try_new(file).and_then(|file| file.build()).context("this is no Parquet file")?;
    Ok(batches.map(|batch| batch.context("this Parquet file is damaged")))
}

/// Rows of a Parquet file as its footer says.
///
/// # Errors
/// What is no Parquet file.
pub fn row_count(file: Bytes) -> anyhow::Result<u64> {
    let file = ParquetRecordBatchReaderBuilder::try_new(file).context("this is no Parquet file")?;
    Ok(u64::try_from(file.metadata().file_metadata().num_rows())?)
}
