//! A Parquet file as CSV: numbers exact, times RFC 3339 in UTC, nothing where there is no value.

use crate::columns::read;
use anyhow::{Context, bail};
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use bytes::Bytes;
use csv::Writer;
use marketflow_model::Timestamp;
use std::io::Write;

/// Writes the rows of a file of ours under its column names; returns how many.
///
/// # Errors
/// What is no file of ours, or cannot be written to.
pub fn to_csv(file: Bytes, out: impl Write) -> anyhow::Result<u64> {
    let mut out = Writer::from_writer(out);
    let mut rows = 0;
    for batch in read(file)? {
        let batch = batch?;
        if rows == 0 {
            out.write_record(batch.schema_ref().fields().iter().map(|field| field.name()))?;
        }
        for row in 0..batch.num_rows() {
            for column in 0..batch.num_columns() {
                out.write_field(cell(&batch, column, row)?)?;
            }
            out.write_record(None::<&[u8]>)?;
            rows += 1;
        }
    }
    out.flush()?;
    Ok(rows)
}

fn cell(batch: &RecordBatch, column: usize, row: usize) -> anyhow::Result<String> {
    let cells = batch.column(column);
    if cells.is_null(row) {
        return Ok(String::new());
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "what files of ours hold")]
    let text = match cells.data_type() {
        DataType::Utf8 => harmless(cells.as_string::<i32>().value(row)),
        DataType::List(_) => {
            let texts = cells.as_list::<i32>().value(row);
            let texts = texts.as_string_opt::<i32>().context("a list of something else than texts")?;
            harmless(&texts.iter().flatten().collect::<Vec<_>>().join(" "))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Timestamp::from_micros(cells.as_primitive::<TimestampMicrosecondType>().value(row)).to_string()
        }
        DataType::Decimal128(..) => shortest(cells.as_primitive::<Decimal128Type>().value_as_string(row)),
        DataType::Int64 => cells.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Int32 => cells.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Boolean => cells.as_boolean().value(row).to_string(),
        other => bail!("{} holds {other}, which no file of ours does", batch.schema_ref().field(column).name()),
    };
    Ok(text)
}

/// Without the zeros that only fill its scale.
fn shortest(decimal: String) -> String {
    if decimal.contains('.') { decimal.trim_end_matches('0').trim_end_matches('.').to_owned() } else { decimal }
}

/// A spreadsheet takes a text that begins so for a formula.
fn harmless(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\0']) { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_texts_and_decimals_keep_their_digits() {
        assert_eq!(["=1+1", "-x", "^GSPC", "삼성"].map(harmless), ["'=1+1", "'-x", "^GSPC", "삼성"]);
        let spelled = ["1.500", "-0.000000000001", "10", "7.000"].map(|text| shortest(text.to_owned()));
        assert_eq!(spelled, ["1.5", "-0.000000000001", "10", "7"]);
    }
}
