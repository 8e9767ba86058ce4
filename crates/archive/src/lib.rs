//! Records as Parquet in a folder or a bucket: exact decimals, UTC microseconds, UTF-8, and nothing a reader has to be told.
//!
//! It lacks Kafka and any schedule: what is written when is `services/archiver`; what a person asks of the files is `services/cli`.
//!
//! Next: `place.rs`.

mod columns;
mod csv;
mod manifest;
mod market;
mod place;
mod records;

pub use self::csv::to_csv;
pub use columns::{FileWriter, row_count};
pub use manifest::{ArchivedFile, Manifest, Skipped};
pub use market::{MarketFile, market_path};
pub use place::{Place, Reader, Stored, Unpacked, Writer};
pub use records::{Layout, layout_of};
