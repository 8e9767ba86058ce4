//! Flows of markets against pandas: the same observations through the engine and through `tests/python/market_flows_check.py`, which shares
//! nothing with it but the methodology.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use marketflow_engine::{MarketFlows, MarketSettings, MonthlyFlows};
use marketflow_model::{FundFlow, InvestorClass, Month, Observation, SeriesValue, Timestamp};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const DAY: i64 = 86_400_000_000;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn month(text: &str) -> Month {
    text.parse().unwrap()
}

fn observation(name: &str, of: Month, value: Option<SeriesValue>) -> Observation {
    let (provider, series) = name.split_once(':').unwrap();
    Observation {
        provider: provider.to_owned(),
        series: series.to_owned(),
        period_start: of.start(),
        period_end: of.end(),
        value,
        unit: String::new(),
        published_at: None,
        vintage: None,
        receive_time: Timestamp::from_seconds(1_700_000_000),
    }
}

/// Feeds the engine and the Python script, and lets the script compare.
fn agrees_with_pandas(settings: &str, observations: &[Observation], funds: &[FundFlow]) {
    let parsed: MarketSettings = toml::from_str(settings).unwrap();
    assert_eq!(parsed.validate(), Ok(()));
    let mut flows = MarketFlows::new(parsed);
    let mut published = Vec::new();
    for (place, observation) in observations.iter().enumerate() {
        flows.on_observation(observation);
        if place % 97 == 0 {
            flows.publish(&mut published);
        }
    }
    funds.iter().for_each(|fund| {
        flows.on_fund_flow(fund);
    });
    flows.publish(&mut published);

    let markets = MonthlyFlows::of(&published, "market", "COMBINED", "USD");
    let ratios: Vec<_> = markets
        .ratios()
        .into_iter()
        .map(|((name, month), ratios)| json!({"name": name, "month": month, "share": ratios.share, "z_score": ratios.z_score}))
        .collect();
    let mut rotations = Vec::new();
    for month in markets.months() {
        let of_month = markets.rotation(month).into_iter();
        rotations.extend(of_month.map(|r| json!({"month": month, "from": r.from, "to": r.to, "amount": r.amount})));
    }
    let results = json!({"aggregates": published, "ratios": ratios, "lead_lags": markets.lead_lags(), "rotations": rotations});

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let python = marketflow_stack::tools_folder().join("python/bin/python");
    assert!(python.exists(), "{} is missing; run `make setup`", python.display());
    let output = Command::new(python)
        .current_dir(root())
        .arg("tests/python/market_flows_check.py")
        .arg(file("settings.toml", settings.to_owned()))
        .arg(file("observations.jsonl", json_lines(observations)))
        .arg(file("fund_flows.jsonl", json_lines(funds)))
        .arg(file("results.json", results.to_string()))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    eprintln!("{}", String::from_utf8_lossy(&output.stdout).trim());
}

fn json_lines<T: Serialize>(records: &[T]) -> String {
    let mut text = String::new();
    for record in records {
        writeln!(text, "{}", serde_json::to_string(record).unwrap()).unwrap();
    }
    text
}

/// The settings of the product; eight years of months of every series they name, with holes and revisions, days of investors' flows, in no order.
#[test]
fn generated_observations_give_what_pandas_gives() {
    let settings = include_str!("../schemas/market_flows.toml");
    let mut random = ChaCha8Rng::seed_from_u64(20);
    let names: BTreeSet<String> = series_named(settings);
    assert_eq!(names.len(), 19, "{names:?}");
    let mut observations = Vec::new();
    for name in names {
        let mut thousandths: i64 = random.random_range(10_000..5_000_000);
        for of in month("2016-01").through(month("2023-12")) {
            thousandths = (thousandths * random.random_range(900..1_112) / 1_000).max(100);
            let value = format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000).parse().unwrap();
            let first = observation(&name, of, Some(value).filter(|_| random.random_range(0..40) > 0));
            if random.random_range(0..10) == 0 {
                let revised = first.value.map(|value| SeriesValue::from_scaled(value.scaled() + 1_234_567_890).unwrap());
                let vintage = Some("2024-05-31".to_owned());
                observations.push(Observation { vintage, value: revised, ..first.clone() });
            }
            if random.random_range(0..30) > 0 {
                observations.push(first);
            }
        }
    }
    let (mut funds, start) = (Vec::new(), Timestamp::parse("2023-10-15T00:00:00+09:00").unwrap());
    for day in 0..60 {
        for instrument in ["KRX:005930", "KRX:000660", "NOWHERE:X"] {
            for class in [InvestorClass::Foreign, InvestorClass::Institution, InvestorClass::Individual, InvestorClass::Total] {
                let amount = random.random_range(-90_000_000_000_i64..90_000_000_000);
                let period_start = start.plus_micros(day * DAY);
                let flow = FundFlow {
                    instrument: instrument.parse().unwrap(),
                    provider: "kis".to_owned(),
                    investor_class: class,
                    period_start,
                    period_end: period_start.plus_micros(DAY),
                    net_amount: (amount % 50 != 0).then(|| amount.to_string().parse().unwrap()),
                    net_quantity: None,
                    currency: "KRW".to_owned(),
                    vintage: None,
                    receive_time: Timestamp::from_seconds(1_700_000_000 + day % 3),
                };
                // a second reporter, on some days the only one
                if day % 5 < 2 {
                    let other = flow.net_amount.map(|_| (amount / 2).to_string().parse().unwrap());
                    funds.push(FundFlow { provider: "kiwoom".to_owned(), net_amount: other, ..flow.clone() });
                }
                if day % 5 != 0 {
                    funds.push(flow);
                }
            }
        }
    }
    observations.shuffle(&mut random);
    funds.shuffle(&mut random);
    agrees_with_pandas(settings, &observations, &funds);
}

/// Every `PROVIDER:SERIES` of the settings.
fn series_named(settings: &str) -> BTreeSet<String> {
    let table: toml::Table = settings.parse().unwrap();
    let tables = table.values().filter_map(toml::Value::as_array).flatten().filter_map(toml::Value::as_table);
    let texts = tables.flat_map(|table| table.values().filter_map(toml::Value::as_str));
    texts.filter(|text| text.contains(':')).map(str::to_owned).collect()
}

/// Recorded months of seven series and the net flows of US mutual funds, where the folder with them is there.
#[test]
fn recorded_months_give_what_pandas_gives() {
    let folder = root().join("../shared/data");
    if !folder.exists() {
        eprintln!("SKIPPED: {} is not there, so recorded months were not compared with pandas", folder.display());
        return;
    }
    let mut observations = Vec::new();
    let mut read = |path: &str, date: &str, columns: &[(&str, &str)], only: Option<(&str, &str)>| {
        let text = std::fs::read_to_string(folder.join(path)).unwrap();
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap().split(',').collect();
        let place = |name: &str| header.iter().position(|column| *column == name).unwrap();
        for line in lines {
            let cells: Vec<&str> = line.split(',').collect();
            if only.is_some_and(|(column, wanted)| cells[place(column)] != wanted) {
                continue;
            }
            let of = Month::of_date(cells[place(date)]).unwrap();
            for (column, name) in columns {
                observations.push(observation(name, of, cells[place(column)].parse().ok()));
            }
        }
    };
    read("monthly/stocks_sp500_shiller.csv", "Date", &[("SP500", "M:SP500")], None);
    read("monthly/bonds_us10y_yield.csv", "Date", &[("Rate", "M:US10Y")], None);
    read("monthly/commodities_gold_usd_oz.csv", "Date", &[("Price", "M:GOLD")], None);
    read("monthly/commodities_wti_usd_bbl.csv", "Date", &[("Price", "M:WTI")], None);
    read("monthly/realestate_case_shiller_us.csv", "Date", &[("National-US", "M:HOUSES")], None);
    read(
        "monthly/crypto_btcusd.csv",
        "",
        &[("High", "M:BTC/h"), ("Low", "M:BTC/l"), ("Close", "M:BTC"), ("Volume", "M:BTC/v")],
        None,
    );
    for (country, name) in [("South Korea", "M:KRW"), ("Japan", "M:JPY"), ("Euro", "M:EUR")] {
        read("monthly/fx_usd_rates.csv", "Date", &[("Exchange rate", name)], Some(("Country", country)));
    }
    let funds = [("Total Equity", "ICI:EQUITY"), ("Total Bond", "ICI:BOND")];
    read("fundflow/ici_us_mutual_fund_net_flow_monthly.csv", "Date", &funds, None);
    assert!(observations.len() > 8_000, "{}", observations.len());
    agrees_with_pandas(RECORDED, &observations, &[]);
}

const RECORDED: &str = r#"
version = 1
base_currency = "USD"
rate_stale_after_days = 10

[markets]
stocks = "REPORTED"
bonds = "VALUE_CHANGE"
forex = "VALUE_CHANGE"
crypto = "SIGNED_TURNOVER"
commodities = "VALUE_CHANGE"
real_estate = "VALUE_CHANGE"

[[rate]]
currency = "KRW"
series = "M:KRW"
inverse = true

[[rate]]
currency = "JPY"
series = "M:JPY"
inverse = true

[[rate]]
currency = "EUR"
series = "M:EUR"
inverse = true

[[reported]]
market = "stocks"
asset_class = "equity"
currency = "USD"
value = "ICI:EQUITY"
factor = "1000000"

[[reported]]
market = "bonds"
asset_class = "bond"
currency = "USD"
value = "ICI:BOND"
factor = "1000000"

[[signed_turnover]]
market = "crypto"
asset_class = "crypto"
currency = "USD"
price = "M:BTC"
high = "M:BTC/h"
low = "M:BTC/l"
volume = "M:BTC/v"

[[value_change]]
market = "stocks"
asset_class = "equity"
currency = "USD"
level = "M:SP500"
size = [{ from = "1990-01", amount = "3000000000000", source = "of tests" }, { from = "2015-01", amount = "20000000000000", source = "of tests" }]

[[value_change]]
market = "bonds"
asset_class = "government_bond"
currency = "USD"
level = "M:US10Y"
duration = "6.25"
size = [{ from = "2010-01", amount = "10000000000000", source = "of tests" }]

[[value_change]]
market = "commodities"
asset_class = "metal"
currency = "USD"
level = "M:GOLD"
size = [{ from = "2010-01", amount = "9000000000000", source = "of tests" }]

[[value_change]]
market = "commodities"
asset_class = "energy"
currency = "USD"
level = "M:WTI"
size = [{ from = "2010-01", amount = "2000000000000", source = "of tests" }]

[[value_change]]
market = "real_estate"
asset_class = "housing"
currency = "USD"
level = "M:HOUSES"
size = [{ from = "2010-01", amount = "25000000000000", source = "of tests" }]

[[value_change]]
market = "forex"
asset_class = "currency"
currency = "KRW"
level = "M:KRW"
inverse = true
size = [{ from = "2010-01", amount = "2000000000000000", source = "of tests" }]

[[value_change]]
market = "forex"
asset_class = "currency"
currency = "JPY"
level = "M:JPY"
inverse = true
size = [{ from = "2010-01", amount = "900000000000000", source = "of tests" }]

[[value_change]]
market = "forex"
asset_class = "currency"
currency = "EUR"
level = "M:EUR"
inverse = true
size = [{ from = "2010-01", amount = "10000000000000", source = "of tests" }]
"#;
