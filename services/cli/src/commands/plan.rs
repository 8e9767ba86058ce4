//! `marketflow plan`: what a back-fill would cost, without any call.

use super::candle_producer::{self, Wanted, words};
use crate::console::{json, line};
use marketflow_runtime::Exit;

/// Shows what a back-fill of minute candles would cost: calls, rows, time
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Nothing is asked and no stack is needed: sessions come from the exchange's calendar, limits from the broker's.

Examples:
  marketflow plan --provider kis --symbols @krx97 --days 30
  marketflow plan --provider kiwoom --symbols 005930 000660 --days 5 --json")]
pub struct Args {
    /// Which broker: kis, kiwoom
    #[arg(long, default_value = "kis")]
    provider: String,
    #[command(flatten)]
    wanted: Wanted,
    /// Calendar days back from the last one
    #[arg(long, default_value_t = 30)]
    days: u32,
    /// Last day, such as 2026-11-20; without it the last one whose session is over
    #[arg(long, value_name = "DAY")]
    until: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// 64 for symbols or days that are none.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let settings =
        [("backfill.days", args.days.to_string()), ("backfill.until", format!("{:?}", args.until.unwrap_or_default()))];
    let left = candle_producer::run("plan", &args.provider, &args.wanted, &settings, |_| ())?;
    if let Some(plan) = &left.plan {
        if args.json { json(plan)? } else { line(&words(plan)) }
    }
    Ok(left.exit)
}
