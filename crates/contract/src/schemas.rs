//! The embedded Avro schemas, and resolution of bytes written under another version of one.

use crate::DecodeError;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
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
}

/// Rewrites an Avro body written under `writer` as a body of our own version of `reader`, by Avro's schema resolution.
///
/// # Errors
/// [`DecodeError::Resolution`] when the body does not match the writer's schema or the schemas cannot be resolved.
pub fn resolve(writer: &apache_avro::Schema, reader: Schema, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let text = |e: apache_avro::Error| DecodeError::Resolution(e.to_string());
    let mut rest = body;
    let value = GenericDatumReader::builder(writer)
        .reader_schema(reader.parsed())
        .build()
        .and_then(|datum| datum.read_value(&mut rest))
        .map_err(text)?;
    if !rest.is_empty() {
        return Err(DecodeError::TrailingBytes(rest.len()));
    }
    GenericDatumWriter::builder(reader.parsed()).build().and_then(|datum| datum.write_value_to_vec(value)).map_err(text)
}
