//! `marketflow price`: what instruments cost now, and their day so far, asked of a broker.
//!
//! The candle-producer asks (`services/producer/src/candles/prices.rs`), within the key's budget; nothing is stored and no stack is needed.

use super::candle_producer::{self, Priced, Wanted};
use crate::console::{json, line, say};
use comfy_table::{CellAlignment, Table, presets};
use marketflow_runtime::Exit;

/// Asks a broker what instruments cost now (현재가)
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Last price, change from the base price, the day's open, high, low, limits, volume and turnover. Nothing is stored: bars and candles come by the
services. Credentials come from the environment or from .env (KIS_APP_KEY, KIS_APP_SECRET; KIWOOM_APP_KEY, KIWOOM_SECRET_KEY).

Examples:
  marketflow price --symbols 005930 000660
  marketflow price --provider kiwoom --symbols @krx10 --json")]
pub struct Args {
    /// Which broker: kis, kiwoom
    #[arg(long, default_value = "kis")]
    provider: String,
    #[command(flatten)]
    wanted: Wanted,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// 64 for what cannot be asked for, 69 for a broker that is not reachable, 2 where an instrument has no price.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let left = candle_producer::run("price", &args.provider, &args.wanted, &[], |_| ())?;
    if args.json {
        json(&left.prices)?;
    } else if !left.prices.is_empty() {
        line(&table(&left.prices));
    }
    let is_missing = left.prices.iter().any(|priced| priced.problem.is_some());
    Ok(if left.exit == Exit::Ok && is_missing { Exit::CheckSaidNo } else { left.exit })
}

fn table(prices: &[Priced]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(say(
        ["symbol", "last", "change", "%", "open", "high", "low", "lowest", "highest", "volume", "turnover", ""],
        ["종목", "현재가", "전일대비", "%", "시가", "고가", "저가", "하한가", "상한가", "거래량", "거래대금", ""],
    ));
    for priced in prices {
        let [change, percent] = changes(priced).unwrap_or_default();
        let of = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let remark = match (&priced.problem, priced.halted) {
            (Some(problem), _) => problem.clone(),
            (None, Some(true)) => say("halted", "거래정지").to_owned(),
            (None, _) => String::new(),
        };
        table.add_row([
            priced.symbol.clone(),
            of(&priced.last),
            change,
            percent,
            of(&priced.open),
            of(&priced.high),
            of(&priced.low),
            of(&priced.lower_limit),
            of(&priced.upper_limit),
            of(&priced.volume),
            of(&priced.turnover),
            remark,
        ]);
    }
    for column in 1..11 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// From the base price, in won and in percent. Prices of the exchange are whole won.
fn changes(priced: &Priced) -> Option<[String; 2]> {
    let (last, base): (i64, i64) = (priced.last.as_ref()?.parse().ok()?, priced.base.as_ref()?.parse().ok()?);
    let change = last - base;
    // Hundredths of a percent, rounded half away from zero.
    let hundredths = (change.checked_mul(10_000)?.abs() + base / 2).checked_div(base)?;
    let sign = if change < 0 { "-" } else { "" };
    Some([format!("{change:+}"), format!("{sign}{}.{:02}", hundredths / 100, hundredths % 100)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_change_counts_from_the_base_price() {
        let priced = |last: Option<&str>, base: &str| Priced {
            symbol: "KRX:005930".into(),
            last: last.map(str::to_owned),
            base: Some(base.to_owned()),
            ..Priced::default()
        };
        assert_eq!(changes(&priced(Some("70000"), "70600")), Some(["-600".into(), "-0.85".into()]));
        assert_eq!(changes(&priced(Some("70600"), "70000")), Some(["+600".into(), "0.86".into()]));
        assert_eq!(changes(&priced(Some("70000"), "70000")), Some(["+0".into(), "0.00".into()]));
        assert_eq!((changes(&priced(None, "70000")), changes(&priced(Some("1"), "0"))), (None, None));
    }
}
