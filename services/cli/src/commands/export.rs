//! `marketflow export`: a market's months as a file to take along.

use super::archive::At;
use crate::console::{block_on, json, line, say};
use anyhow::{Context, anyhow};
use clap::ValueEnum;
use clap::builder::PossibleValuesParser;
use marketflow_archive::{Place, Stored, market_path, row_count, to_csv};
use marketflow_providers::series::Market;
use marketflow_runtime::{Exit, ExitContext};
use serde::Serialize;
use std::path::PathBuf;

/// Copies a market's file out of the archive, as Parquet or CSV
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
It reads what `marketflow archive run` wrote and asks nothing else. CSV has exact decimals, RFC 3339 times in UTC, and nothing where a value is
missing; a text that a spreadsheet would take for a formula begins with '.

Examples:
  marketflow export --market bonds --format csv | head
  marketflow export --market crypto --format parquet --output crypto.parquet
  marketflow export --market stocks --format csv --output stocks.csv --json")]
pub struct Args {
    /// Which market
    #[arg(long, value_parser = PossibleValuesParser::new(Market::ALL.map(Market::as_str)))]
    market: String,
    /// Which format
    #[arg(long, default_value = "csv")]
    format: Format,
    /// Where to; without it CSV goes to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    place: At,
    /// Print what was written as JSON: file, rows, bytes, SHA-256
    #[arg(long, requires = "output")]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Parquet,
    Csv,
}

#[derive(Serialize)]
struct Receipt {
    file: String,
    rows: u64,
    bytes: u64,
    sha256: String,
}

/// Runs the command.
///
/// # Errors
/// 2 when the market is not archived yet, 64 for Parquet on a terminal.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let path = market_path(&args.market);
    let place = args.place.place();
    let archived = block_on(async { Place::open(&place, false)?.get(&path).await })?;
    let archived = archived
        .ok_or_else(|| anyhow!("there is no {path} in {place}; `marketflow archive run` writes it"))
        .exit(Exit::CheckSaidNo)?;
    let rows = row_count(archived.clone()).with_context(|| path.clone()).exit(Exit::CheckSaidNo)?;
    let bytes = match args.format {
        Format::Parquet => archived.to_vec(),
        Format::Csv => {
            let mut text = Vec::new();
            to_csv(archived, &mut text).with_context(|| path.clone()).exit(Exit::CheckSaidNo)?;
            text
        }
    };
    match args.output {
        None if args.format == Format::Parquet => {
            Err(anyhow!("Parquet is not for reading: name a file by --output")).exit(Exit::Usage)
        }
        None => {
            line(String::from_utf8(bytes)?.trim_end());
            Ok(Exit::Ok)
        }
        Some(output) => {
            let file = output.display().to_string();
            let part = PathBuf::from(format!("{file}.part"));
            std::fs::write(&part, &bytes)
                .and_then(|()| std::fs::rename(&part, &output))
                .with_context(|| format!("cannot write {file}"))?;
            let stored = Stored::of(file, &bytes);
            if args.json {
                json(&Receipt { file: stored.path, rows, bytes: stored.bytes, sha256: stored.sha256 })?;
            } else {
                let (file, bytes) = (stored.path, stored.bytes);
                line(&say(format!("{file}: {rows} rows, {bytes} bytes"), format!("{file}: {rows}행, {bytes}바이트")));
            }
            Ok(Exit::Ok)
        }
    }
}
