//! The embedded Avro schemas, and resolution of bytes written under another version of one.

use crate::DecodeError;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema_compatibility::SchemaCompatibility;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use std::io::{self, Read};
use std::sync::LazyLock;

macro_rules! schemas {
    ($($(#[$doc:meta])* $variant:ident = $file:literal;)*) => {
        /// A schema of `schemas/avro`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, serde::Deserialize)]
        pub enum Schema {
            $($(#[$doc])* #[serde(rename = $file)] $variant,)*
        }

        impl Schema {
            /// Every schema.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// File stem, such as `trade.v1`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $file,)* }
            }

            /// The Avro record's name without namespace, such as `Trade`.
            pub const fn record_name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }

            /// The schema as committed, JSON.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => include_str!(concat!("../../../schemas/avro/", $file, ".avsc")),)* }
            }

            /// The parsed schema.
            pub fn parsed(self) -> &'static apache_avro::Schema {
                match self {
                    $(Self::$variant => {
                        static PARSED: LazyLock<apache_avro::Schema> = LazyLock::new(|| {
                            apache_avro::Schema::parse_str(Schema::$variant.text()).expect("embedded schemas are tested to parse")
                        });
                        &PARSED
                    })*
                }
            }
        }
    };
}

schemas! {
    /// One execution.
    Trade = "trade.v1";
    /// Best bid and ask.
    Quote = "quote.v1";
    /// A provider's OHLCV.
    Candle = "candle.v1";
    /// In-band time, feed state and gaps.
    Control = "control.v1";
    /// Our OHLCV.
    Bar = "bar.v1";
    /// A record set aside.
    Envelope = "envelope.v1";
    /// One value of a series.
    Observation = "observation.v1";
    /// A reported flow.
    FundFlow = "fund_flow.v1";
    /// Flow over a window.
    FlowAggregate = "flow_aggregate.v1";
    /// A fact about an instrument.
    Reference = "reference.v1";
}

/// Rewrites an Avro body written under `writer` as a body of our own version of `reader`, by Avro's schema resolution.
///
/// For records of another version of a schema only: the hot path decodes its own version without it.
///
/// # Errors
/// [`DecodeError::Resolution`] when the body does not match the writer's schema or the schemas cannot be resolved.
pub fn resolve(writer: &apache_avro::Schema, reader: Schema, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let text = |e: &dyn std::fmt::Display| DecodeError::Resolution(e.to_string());
    SchemaCompatibility::can_read(writer, reader.parsed()).map_err(|e| text(&e))?;
    let mut rest = Whole(body);
    let value = GenericDatumReader::builder(writer)
        .build()
        .and_then(|datum| datum.read_value(&mut rest))
        .and_then(widened)
        .and_then(|value| value.resolve(reader.parsed()))
        .map_err(|e| text(&e))?;
    if !rest.0.is_empty() {
        return Err(DecodeError::TrailingBytes(rest.0.len()));
    }
    GenericDatumWriter::builder(reader.parsed()).build().and_then(|datum| datum.write_value_to_vec(value)).map_err(|e| text(&e))
}

/// Pads decimals to 16 bytes: apache-avro's resolution takes the bytes a value happens to have for all its type can hold, and refuses
/// `decimal(18, 8)` values that are shorter than 18 digits.
#[expect(clippy::wildcard_enum_match_arm, reason = "only what holds values can hold a decimal")]
fn widened(value: Value) -> Result<Value, apache_avro::Error> {
    Ok(match value {
        Value::Decimal(decimal) => {
            let short = Vec::<u8>::try_from(&decimal)?;
            let sign = if short.first().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
            let mut wide = vec![sign; 16usize.saturating_sub(short.len())];
            wide.extend_from_slice(&short);
            Value::Decimal(wide.into())
        }
        Value::Union(branch, inner) => Value::Union(branch, Box::new(widened(*inner)?)),
        Value::Array(items) => Value::Array(items.into_iter().map(widened).collect::<Result<_, _>>()?),
        Value::Record(fields) => Value::Record(
            fields.into_iter().map(|(name, inner)| Ok((name, widened(inner)?))).collect::<Result<_, apache_avro::Error>>()?,
        ),
        other => other,
    })
}

/// A body whose end is an error: apache-avro takes a plain end of input inside a union or text for null.
struct Whole<'a>(&'a [u8]);

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the value ends inside a field"));
        }
        self.0.read(buffer)
    }
}
