//! What follows from months of flows: who leads whom, from where to where, and what may come.
//!
//! Correlations and rotation are read from the views, where boards read them too; forecasts are computed here, from the months of `flow_monthly`.
//!
//! Next: `schemas/clickhouse/018_investors_and_lead_lag.sql`, `crates/engine/src/forecast.rs`.

use super::{Args, Format, rotation_map};
use crate::commands::bars::plain;
use crate::commands::query::{Texts, texts};
use crate::console::{block_on, drawn, json, line};
use anyhow::{Context, bail};
use marketflow_clickhouse::ClickHouse;
use marketflow_engine::{MONTHS_AT_LEAST, forecast as forecast_of};
use marketflow_model::Month;
use marketflow_runtime::{Exit, ExitContext};
use serde::Serialize;
use std::collections::BTreeMap;

const MONTHS_AHEAD: u8 = 6;

/// A row that is printed in each format.
trait Printed: Serialize {
    /// Names of the columns, as in JSON.
    const COLUMNS: &'static [&'static str];
    /// In their order, every digit.
    fn cells(&self) -> Vec<String>;
    /// The same for people.
    fn shown(&self) -> Vec<String>;
}

fn print<P: Printed>(rows: &[P], format: Format) -> anyhow::Result<Exit> {
    match format {
        Format::Json => json(&rows)?,
        Format::Csv => {
            line(&P::COLUMNS.join(","));
            rows.iter().for_each(|row| line(&row.cells().join(",")));
        }
        Format::Table => {
            let mut table = comfy_table::Table::new();
            table.load_preset(comfy_table::presets::NOTHING).set_header(P::COLUMNS);
            for (place, column) in P::COLUMNS.iter().enumerate() {
                let is_text = ["month", "name", "leader", "follower", "from", "to", "stale", "verdict"].contains(column);
                if let Some(column) = table.column_mut(place).filter(|_| !is_text) {
                    column.set_cell_alignment(comfy_table::CellAlignment::Right);
                }
            }
            rows.iter().for_each(|row| {
                table.add_row(row.shown());
            });
            line(&drawn(&table));
        }
        Format::Svg => bail!("only months and rotation are drawn"),
    }
    Ok(Exit::Ok)
}

fn read(clickhouse: &ClickHouse, args: &Args, sql: &str) -> anyhow::Result<Vec<Texts>> {
    let mut parameters = vec![
        ("scope", args.scope.clone()),
        ("method", args.method.clone()),
        ("currency", args.currency.clone()),
        ("markets", args.market.join(",")),
    ];
    let edge = |month: Option<Month>, otherwise: &str| month.map_or_else(|| otherwise.to_owned(), |month| format!("{month}-01"));
    parameters.extend([("from", edge(args.from, "1970-01-01")), ("to", edge(args.to, "2149-06-01"))]);
    let used: Vec<_> = parameters.into_iter().filter(|(name, _)| sql.contains(&format!("{{{name}:"))).collect();
    let rows = block_on(texts(clickhouse, "read flows", sql, &used))?;
    if rows.is_empty() {
        eprintln!(
            "no such flows there; `marketflow sql \"SELECT scope, name, method, currency, count() FROM flow_monthly GROUP BY ALL\"` shows what is"
        );
    }
    Ok(rows)
}

fn columns<const N: usize>(row: Texts) -> anyhow::Result<[String; N]> {
    let cells: Option<Vec<String>> = row.into_iter().collect();
    let cells = cells.context("cannot read flows: a null where a value must be")?;
    <[String; N]>::try_from(cells).ok().context("cannot read flows: a row of another shape")
}

// ---- who leads whom

#[derive(Debug, Serialize)]
struct LeadLag {
    leader: String,
    follower: String,
    lag_months: i32,
    n: u64,
    correlation: f64,
    /// Units into the follower for one into the leader.
    slope: f64,
    p_value: f64,
}

const LEAD_LAG: &str = "SELECT leader, follower, toString(lag_months), toString(n), toString(correlation), toString(slope), toString(p_value) \
     FROM flow_lead_lag WHERE scope = {scope:String} AND method = {method:String} AND currency = {currency:String} \
     AND ({markets:String} = '' OR hasAny(splitByChar(',', {markets:String}), [leader, follower])) \
     ORDER BY p_value, abs(correlation) DESC, leader, follower, lag_months";

impl Printed for LeadLag {
    const COLUMNS: &'static [&'static str] = &["leader", "follower", "lag_months", "n", "correlation", "slope", "p_value"];

    fn cells(&self) -> Vec<String> {
        let Self { leader, follower, lag_months, n, correlation, slope, p_value } = self;
        let numbers = [lag_months.to_string(), n.to_string(), correlation.to_string(), slope.to_string(), p_value.to_string()];
        [leader.clone(), follower.clone()].into_iter().chain(numbers).collect()
    }

    fn shown(&self) -> Vec<String> {
        let mut cells = self.cells();
        cells[4] = format!("{:+.3}", self.correlation);
        cells[5] = format!("{:+.3e}", self.slope);
        cells[6] = if self.p_value < 1e-4 { "< 0.0001".to_owned() } else { format!("{:.4}", self.p_value) };
        cells
    }
}

pub(super) fn lead_lag(clickhouse: &ClickHouse, args: &Args) -> anyhow::Result<Exit> {
    let rows = read(clickhouse, args, LEAD_LAG)?.into_iter().map(|row| {
        let [leader, follower, lag_months, n, correlation, slope, p_value] = columns(row)?;
        Ok(LeadLag {
            leader,
            follower,
            lag_months: lag_months.parse()?,
            n: n.parse()?,
            correlation: correlation.parse()?,
            slope: slope.parse()?,
            p_value: p_value.parse()?,
        })
    });
    print(&rows.collect::<anyhow::Result<Vec<_>>>()?, args.format)
}

// ---- from where to where

#[derive(Debug, Serialize)]
pub(super) struct Rotation {
    pub(super) month: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) amount: String,
    pub(super) currency: String,
    pub(super) stale: bool,
}

const ROTATION: &str = "SELECT formatDateTime(open_time, '%Y-%m'), from_name, to_name, toString(amount), toString(currency), toString(toUInt8(stale)) \
     FROM flow_rotation WHERE scope = {scope:String} AND method = {method:String} AND currency = {currency:String} \
     AND open_time = toStartOfMonth(open_time) AND close_time = addMonths(open_time, 1) \
     AND toDate(open_time) >= toDate({from:String}) AND toDate(open_time) <= toDate({to:String}) \
     AND ({markets:String} = '' OR hasAny(splitByChar(',', {markets:String}), [from_name, to_name])) \
     ORDER BY open_time, amount DESC, from_name, to_name";

impl Printed for Rotation {
    const COLUMNS: &'static [&'static str] = &["month", "from", "to", "amount", "currency", "stale"];

    fn cells(&self) -> Vec<String> {
        let Self { month, from, to, amount, currency, stale } = self;
        [month, from, to, amount, currency].into_iter().cloned().chain([stale.to_string()]).collect()
    }

    fn shown(&self) -> Vec<String> {
        let mut cells = self.cells();
        cells[5] = if self.stale { "stale".to_owned() } else { String::new() };
        cells
    }
}

pub(super) fn rotation(clickhouse: &ClickHouse, args: &Args) -> anyhow::Result<Exit> {
    let rows = read(clickhouse, args, ROTATION)?.into_iter().map(|row| {
        let [month, from, to, amount, currency, stale] = columns(row)?;
        Ok(Rotation { month, from, to, amount: plain(Some(amount))?, currency, stale: stale == "1" })
    });
    let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
    if args.format == Format::Svg {
        line(&rotation_map::svg(&rows).exit(Exit::CheckSaidNo)?);
        return Ok(Exit::Ok);
    }
    print(&rows, args.format)
}

// ---- what may come

/// One month of one market, forecast and not observed.
#[derive(Debug, Serialize)]
struct Forecast {
    name: String,
    month: String,
    /// Expected net flow, units of currency, and the edges of the 95 % interval.
    forecast: f64,
    low: f64,
    high: f64,
    currency: String,
    /// The last month known.
    after: String,
    /// Of the back-test of forecasts so many months ahead; null where there were too few months.
    mae: Option<f64>,
    mase: Option<f64>,
    coverage: Option<f64>,
    tested: usize,
    verdict: &'static str,
}

const MONTHS: &str = "SELECT name, formatDateTime(month, '%Y-%m'), toString(net), toString(toUInt8(stale)) FROM flow_monthly \
     WHERE scope = {scope:String} AND method = {method:String} AND currency = {currency:String} \
     AND ({markets:String} = '' OR has(splitByChar(',', {markets:String}), name)) ORDER BY name, month";

impl Printed for Forecast {
    const COLUMNS: &'static [&'static str] =
        &["name", "month", "forecast", "low", "high", "currency", "after", "mae", "mase", "coverage", "tested", "verdict"];

    fn cells(&self) -> Vec<String> {
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        vec![
            self.name.clone(),
            self.month.clone(),
            self.forecast.to_string(),
            self.low.to_string(),
            self.high.to_string(),
            self.currency.clone(),
            self.after.clone(),
            number(self.mae),
            number(self.mase),
            number(self.coverage),
            self.tested.to_string(),
            self.verdict.to_owned(),
        ]
    }

    fn shown(&self) -> Vec<String> {
        let mut cells = self.cells();
        for (place, value) in [(2, Some(self.forecast)), (3, Some(self.low)), (4, Some(self.high)), (7, self.mae)] {
            cells[place] = value.map(|value| format!("{value:.0}")).unwrap_or_default();
        }
        cells[8] = self.mase.map(|mase| format!("{mase:.2}")).unwrap_or_default();
        cells[9] = self.coverage.map(|coverage| format!("{:.0} %", coverage * 100.0)).unwrap_or_default();
        cells
    }
}

pub(super) fn forecast(clickhouse: &ClickHouse, args: &Args) -> anyhow::Result<Exit> {
    let mut known: BTreeMap<String, BTreeMap<Month, (f64, bool)>> = BTreeMap::new();
    for row in read(clickhouse, args, MONTHS)? {
        let [name, month, net, stale] = columns(row)?;
        let month: Month = month.parse().with_context(|| format!("cannot read flows: month {month:?}"))?;
        known.entry(name).or_default().insert(month, (net.parse()?, stale == "1"));
    }
    let rows = forecasts(&known, usize::from(args.months.unwrap_or(MONTHS_AHEAD)), &args.currency);
    if args.format == Format::Table && !rows.is_empty() {
        line(
            "FORECAST of net flows, not observed: simple exponential smoothing, 95 % interval; mae, mase and coverage are of forecasts made before",
        );
    }
    print(&rows, args.format)
}

fn forecasts(known: &BTreeMap<String, BTreeMap<Month, (f64, bool)>>, ahead: usize, currency: &str) -> Vec<Forecast> {
    let mut rows = Vec::new();
    for (name, months) in known {
        let Some(found) = forecast_of(months, ahead) else {
            eprintln!("{name}: no forecast, fewer than {MONTHS_AT_LEAST} complete months in a row are known");
            continue;
        };
        rows.extend(found.ahead.into_iter().map(|ahead| Forecast {
            name: name.clone(),
            month: ahead.month.to_string(),
            forecast: ahead.value,
            low: ahead.low,
            high: ahead.high,
            currency: currency.to_owned(),
            after: found.after.to_string(),
            mae: ahead.tested.map(|tested| tested.mae),
            mase: ahead.tested.and_then(|tested| tested.mase),
            coverage: ahead.tested.map(|tested| tested.coverage),
            tested: ahead.tested.map_or(0, |tested| tested.forecasts),
            verdict: match ahead.tested {
                None => "not tested",
                Some(tested) if tested.beats_naive() => "better than naive",
                Some(_) => "no better than naive",
            },
        }));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_says_that_it_is_no_better_than_naive_when_it_is_not() {
        let first: Month = "2015-01".parse().unwrap();
        let months = |of: &dyn Fn(i32) -> f64| (0..60).map(|at| (first.plus(at), (of(at), false))).collect();
        let known = BTreeMap::from([
            ("rising".to_owned(), months(&|at| f64::from(at * at))),
            ("short".to_owned(), BTreeMap::from([(first, (1.0, false))])),
            ("to and fro".to_owned(), months(&|at| if at % 2 == 0 { 5.0 } else { -5.0 })),
        ]);
        let rows = forecasts(&known, 1, "USD");
        let verdicts: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.month.as_str(), row.verdict)).collect();
        assert_eq!(verdicts, [("rising", "2020-01", "no better than naive"), ("to and fro", "2020-01", "better than naive")]);
        assert!(rows.iter().all(|row| row.cells().len() == Forecast::COLUMNS.len() && row.shown().len() == row.cells().len()));
        assert_eq!((rows[0].tested, rows[0].after.as_str()), (36, "2019-12"));
    }

    #[test]
    fn rows_keep_every_digit_in_csv_and_are_rounded_for_people() {
        let row = LeadLag {
            leader: "stocks".to_owned(),
            follower: "commodities".to_owned(),
            lag_months: 2,
            n: 118,
            correlation: -0.990_181_663_723,
            slope: -0.6,
            p_value: 0.0,
        };
        assert_eq!(row.cells().join(","), "stocks,commodities,2,118,-0.990181663723,-0.6,0");
        assert_eq!(row.shown()[4..], ["-0.990", "-6.000e-1", "< 0.0001"]);
        assert_eq!(row.cells().len(), LeadLag::COLUMNS.len());
        assert!(columns::<2>(vec![Some("a".to_owned()), None]).is_err() && columns::<2>(vec![Some("a".to_owned())]).is_err());
    }
}
