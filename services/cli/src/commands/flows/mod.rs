//! `marketflow flows`: months of fund flows from ClickHouse as a table, CSV, JSON or a picture; who leads whom, from where to where, and what may come.
//!
//! Next: `views.rs`, `picture.rs`, `rotation_map.rs`.

pub(crate) mod picture;
mod rotation_map;
mod views;

use super::bars::plain;
use super::query::{self, Texts, texts};
use crate::console::{block_on, drawn, json, line};
use anyhow::{Context, ensure};
use marketflow_clickhouse::ClickHouse;
use marketflow_model::Month;
use marketflow_runtime::{Exit, ExitContext};
use serde::Serialize;

/// Shows the fund flows of markets: months, who leads whom, rotation, a forecast
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Each market by the method that speaks for it (COMBINED), in the base currency; --method and --currency show other rows. share is the net flow
in relation to all that flowed in the month; the z-score holds the net flow against the 36 months before. What the numbers mean and what
they do not: docs/methodology/fund-flows.md.

lead-lag: how each market's net flow goes with another's 0 to 6 months later (Pearson's correlation, n, p-value), the closest first. Six markets
make 195 pairs and lags: at p < 0.05 ten of them are chance.
rotation: net outflows of each month matched to its net inflows in proportion; nobody saw the money on its way.
forecast: FORECAST, not observed: simple exponential smoothing with a 95 % interval, and how such forecasts would have done at every earlier month
against the naive one, that each month will be as the last (mase below 1 is better than naive).

svg is a picture. Of months: each month of each market by colour, orange for outflow and violet for inflow, and each market's net flow below. Of rotation: a
map from each market to each, summed over the months chosen. Browsers show it, and turn it into PNG: chromium --headless --window-size=1280,1060 --screenshot=flows.png flows.svg

Examples:
  marketflow flows --from 2020-01 --to 2020-12
  marketflow flows --market stocks --market bonds --format csv > flows.csv
  marketflow flows --format svg > flows.svg
  marketflow flows --format svg --measure share --scope asset_class > classes.svg
  marketflow flows --scope investor_class --method REPORTED --currency KRW
  marketflow flows lead-lag --market stocks
  marketflow flows rotation --from 2020-01 --format csv > rotation.csv
  marketflow flows rotation --from 2020-01 --to 2020-12 --format svg > rotation.svg
  marketflow flows forecast --market crypto --months 3")]
pub struct Args {
    /// What of them
    #[arg(value_enum, default_value_t = View::Months)]
    view: View,
    /// Only this market (or name in --scope); may be given more than once
    #[arg(long, value_name = "NAME")]
    market: Vec<String>,
    /// First month, such as 2020-01
    #[arg(long, value_name = "MONTH")]
    from: Option<Month>,
    /// Last month
    #[arg(long, value_name = "MONTH")]
    to: Option<Month>,
    /// What is aggregated: market, asset_class, investor_class, global
    #[arg(long, default_value = "market")]
    scope: String,
    /// REPORTED, SIGNED_TURNOVER, VALUE_CHANGE or COMBINED
    #[arg(long, default_value = "COMBINED")]
    method: String,
    /// Of the amounts
    #[arg(long, default_value = "USD")]
    currency: String,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// What the colours of a picture say; z-score unless given
    #[arg(long, value_enum)]
    measure: Option<Measure>,
    /// Months to forecast; 6 unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=24))]
    months: Option<u8>,
}

/// What is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum View {
    /// Each month of each market
    Months,
    /// Who leads whom by how many months
    LeadLag,
    /// From where to where, month by month
    Rotation,
    /// The months to come
    Forecast,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
    Svg,
}

/// What months are compared by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Measure {
    /// The month against the 36 before it
    ZScore,
    /// The month in relation to all that flowed in it
    Share,
}

/// A month as it is printed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct PrintedFlow {
    pub(crate) month: String,
    pub(crate) name: String,
    pub(crate) inflow: String,
    pub(crate) outflow: String,
    pub(crate) net: String,
    pub(crate) currency: String,
    /// −1 to 1.
    pub(crate) share: Option<f64>,
    pub(crate) z_score: Option<f64>,
    pub(crate) input_count: i64,
    pub(crate) stale: bool,
    pub(crate) revision: i32,
}

/// What is read, in the order of [`PrintedFlow::read`].
const COLUMNS: &str = "formatDateTime(month, '%Y-%m'), name, toString(inflow), toString(outflow), toString(net), toString(currency), \
     toString(share), toString(z_score), toString(input_count), toString(toUInt8(stale)), toString(revision)";

const CSV_HEADER: &str = "month,name,inflow,outflow,net,currency,share,z_score,input_count,stale,revision";

/// Runs the command.
///
/// # Errors
/// 2 when there is nothing to draw, 69 when ClickHouse does not answer.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    args.check().exit(Exit::Usage)?;
    let clickhouse = query::clickhouse()?;
    match args.view {
        View::Months => months(&clickhouse, &args),
        View::LeadLag => views::lead_lag(&clickhouse, &args),
        View::Rotation => views::rotation(&clickhouse, &args),
        View::Forecast => views::forecast(&clickhouse, &args),
    }
}

impl Args {
    /// What cannot be together.
    fn check(&self) -> anyhow::Result<()> {
        let is_picture = self.format == Format::Svg;
        ensure!(
            !is_picture || matches!(self.view, View::Months | View::Rotation),
            "--format svg draws months and rotation; lead-lag and forecast are table, csv or json"
        );
        let is_months = is_picture && self.view == View::Months;
        ensure!(
            self.measure.is_none() || is_months,
            "--measure says what the colours of the months in --format svg mean; give both"
        );
        ensure!(
            self.months.is_none() || self.view == View::Forecast,
            "--months says how many months to forecast: marketflow flows forecast"
        );
        let is_bounded = self.from.is_some() || self.to.is_some();
        let of_all = matches!(self.view, View::LeadLag | View::Forecast);
        ensure!(!is_bounded || !of_all, "lead-lag and forecast are of all months; --from and --to choose months and rotation");
        Ok(())
    }
}

fn months(clickhouse: &ClickHouse, args: &Args) -> anyhow::Result<Exit> {
    let (sql, parameters) = question(args);
    let flows = block_on(read(clickhouse, &sql, &parameters))?;
    if flows.is_empty() {
        eprintln!(
            "no such flows there; `marketflow sql \"SELECT scope, name, method, currency, count() FROM flow_monthly GROUP BY ALL\"` shows what is"
        );
    }
    match args.format {
        Format::Table => line(&table(&flows)),
        Format::Json => json(&flows)?,
        Format::Csv => {
            line(CSV_HEADER);
            flows.iter().for_each(|flow| line(&flow.cells().join(",")));
        }
        Format::Svg => {
            let what = format!("{}, {}, {}", args.scope, args.method, args.currency);
            line(&picture::svg(&flows, &what, args.measure.unwrap_or(Measure::ZScore)).exit(Exit::CheckSaidNo)?);
        }
    }
    Ok(Exit::Ok)
}

/// Months of markets as they are compared by default.
///
/// # Errors
/// 69 when ClickHouse does not answer.
pub(crate) async fn of_markets(clickhouse: &ClickHouse) -> anyhow::Result<Vec<PrintedFlow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM flow_monthly WHERE scope = 'market' AND method = 'COMBINED' AND currency = 'USD' ORDER BY month, name"
    );
    read(clickhouse, &sql, &[]).await
}

async fn read(clickhouse: &ClickHouse, sql: &str, parameters: &[(&str, String)]) -> anyhow::Result<Vec<PrintedFlow>> {
    let rows = texts(clickhouse, "read flows", sql, parameters).await?;
    rows.into_iter().map(PrintedFlow::read).collect()
}

/// All months are asked for before some are chosen, so that each is held against those before it.
fn question(args: &Args) -> (String, Vec<(&'static str, String)>) {
    let mut parameters =
        vec![("scope", args.scope.clone()), ("method", args.method.clone()), ("currency", args.currency.clone())];
    let mut sql = format!(
        "SELECT {COLUMNS} FROM flow_monthly \
         WHERE scope = {{scope:String}} AND method = {{method:String}} AND currency = {{currency:String}}"
    );
    let edges = [("from", ">=", args.from), ("to", "<=", args.to)];
    for (name, compare, month) in edges.into_iter().filter_map(|(name, compare, month)| Some((name, compare, month?))) {
        sql.push_str(&format!(" AND month {compare} toDate({{{name}:String}})"));
        parameters.push((name, format!("{month}-01")));
    }
    if !args.market.is_empty() {
        sql.push_str(" AND has(splitByChar(',', {markets:String}), name)");
        parameters.push(("markets", args.market.join(",")));
    }
    sql.push_str(" ORDER BY month, name");
    (sql, parameters)
}

impl PrintedFlow {
    fn read(row: Texts) -> anyhow::Result<Self> {
        let [month, name, inflow, outflow, net, currency, share, z_score, input_count, stale, revision] =
            <[Option<String>; 11]>::try_from(row).ok().context("cannot read flows: a row of another shape")?;
        let text = |value: Option<String>| value.context("cannot read flows: a null where a value must be");
        let ratio = |value: Option<String>| value.map(|value| value.parse::<f64>()).transpose();
        Ok(Self {
            month: text(month)?,
            name: text(name)?,
            inflow: plain(inflow)?,
            outflow: plain(outflow)?,
            net: plain(net)?,
            currency: text(currency)?,
            share: ratio(share)?,
            z_score: ratio(z_score)?,
            input_count: text(input_count)?.parse()?,
            stale: text(stale)? == "1",
            revision: text(revision)?.parse()?,
        })
    }

    fn cells(&self) -> [String; 11] {
        let ratio = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        [
            self.month.clone(),
            self.name.clone(),
            self.inflow.clone(),
            self.outflow.clone(),
            self.net.clone(),
            self.currency.clone(),
            ratio(self.share),
            ratio(self.z_score),
            self.input_count.to_string(),
            self.stale.to_string(),
            self.revision.to_string(),
        ]
    }
}

pub(crate) fn table(flows: &[PrintedFlow]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["month", "name", "inflow", "outflow", "net", "", "share %", "z-score", "stale"]);
    for place in [2, 3, 4, 6, 7] {
        if let Some(column) = table.column_mut(place) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    for flow in flows {
        table.add_row([
            flow.month.clone(),
            flow.name.clone(),
            flow.inflow.clone(),
            flow.outflow.clone(),
            flow.net.clone(),
            flow.currency.clone(),
            flow.share.map(|share| rounded(share * 100.0, 1)).unwrap_or_default(),
            flow.z_score.map(|score| rounded(score, 2)).unwrap_or_default(),
            if flow.stale { "stale".to_owned() } else { String::new() },
        ]);
    }
    drawn(&table)
}

/// No minus before what is rounded to nothing.
fn rounded(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.bytes().all(|byte| matches!(byte, b'0' | b'.')) => digits.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn row() -> Texts {
        let texts = ["2020-03", "stocks", "0", "361.00000009", "-361.00000009", "USD", "-0.25", "", "1", "1", "2"];
        let mut row: Texts = texts.iter().map(|text| Some((*text).to_owned())).collect();
        row[7] = None;
        row
    }

    #[test]
    fn months_are_printed_with_plain_decimals_and_empty_ratios_for_null() {
        let flow = PrintedFlow::read(row()).unwrap();
        assert_eq!(flow.cells().join(","), "2020-03,stocks,0,361.00000009,-361.00000009,USD,-0.25,,1,true,2");
        assert_eq!(CSV_HEADER.split(',').count(), flow.cells().len());
        let shown = table(&[flow]);
        assert!(shown.contains("-25.0") && shown.ends_with("stale"), "{shown}");
        assert_eq!([-0.04, -0.06, 0.0].map(|value| rounded(value, 1)), ["0.0", "-0.1", "0.0"]);
        assert!(PrintedFlow::read(vec![None; 3]).is_err() && PrintedFlow::read(vec![None; 11]).is_err());
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        let check = |line: &str| Line::parse_from(line.split(' ')).args.check().map_err(|problem| problem.to_string());
        for (line, named) in [
            ("flows --measure share", "--measure"),
            ("flows rotation --format svg --measure share", "--measure"),
            ("flows lead-lag --format svg", "svg"),
            ("flows forecast --from 2020-01", "--from"),
            ("flows rotation --months 3", "--months"),
        ] {
            assert!(check(line).unwrap_err().contains(named), "{line}");
        }
        for line in [
            "flows --format svg --measure share",
            "flows rotation --format svg",
            "flows forecast --months 3",
            "flows rotation --from 2020-01",
            "flows lead-lag",
        ] {
            assert_eq!(check(line), Ok(()), "{line}");
        }
    }

    #[test]
    fn values_travel_as_parameters() {
        let line = Line::parse_from(["flows", "--market", "stocks", "--market", "x'", "--from", "2020-01", "--to", "2020-12"]);
        let (sql, parameters) = question(&line.args);
        assert!(sql.contains("month >= toDate({from:String}) AND month <= toDate({to:String})"), "{sql}");
        assert!(parameters.contains(&("markets", "stocks,x'".to_owned())) && !sql.contains("x'"), "{sql}");
        assert!(parameters.contains(&("to", "2020-12-01".to_owned())), "{parameters:?}");
    }
}
