//! Flows of markets from observations and reports: formulas, vintages, staleness, order of arrival, state, and a rotation that was scripted.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use marketflow_engine::{Change, FlowOutcome, LeadLag, MarketFlows, MarketSettings, MonthlyFlows};
use marketflow_model::{FlowAggregate, FundFlow, InvestorClass, Month, Observation, Timestamp};
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

const SETTINGS: &str = r#"
version = 1
base_currency = "USD"
rate_stale_after_days = 10

[markets]
stocks = "SIGNED_TURNOVER"
commodities = "SIGNED_TURNOVER"
bonds = "VALUE_CHANGE"
forex = "VALUE_CHANGE"

[[rate]]
currency = "KRW"
series = "P:KRW"
inverse = true

[[rate]]
currency = "USDT"
fixed = "0.99"

[[reported]]
market = "stocks"
asset_class = "fund"
currency = "USD"
value = "P:FUND"
factor = "1000000"

[[reported_venue]]
venue = "KRX"
market = "stocks"
asset_class = "equity"

[[signed_turnover]]
market = "stocks"
asset_class = "equity"
currency = "USD"
price = "P:SPY/close"
volume = "P:SPY/volume"

[[signed_turnover]]
market = "stocks"
asset_class = "equity"
currency = "KRW"
price = "P:KOSPI/close"
high = "P:KOSPI/high"
low = "P:KOSPI/low"
volume = "P:KOSPI/volume"

[[signed_turnover]]
market = "commodities"
asset_class = "metal"
currency = "USD"
price = "P:GOLD/close"
volume = "P:GOLD/volume"
factor = "100"

[[value_change]]
market = "bonds"
asset_class = "government_bond"
currency = "USD"
level = "P:YIELD"
duration = "6.5"
size = [{ from = "2020-01", amount = "1000", source = "test" }, { from = "2020-03", amount = "2000", source = "test" }]

[[value_change]]
market = "forex"
asset_class = "currency"
currency = "KRW"
level = "P:KRW"
inverse = true
size = [{ from = "2020-01", amount = "300000", source = "test" }]
"#;

fn settings() -> MarketSettings {
    let settings: MarketSettings = toml::from_str(SETTINGS).unwrap();
    assert_eq!(settings.validate(), Ok(()));
    settings
}

fn month(text: &str) -> Month {
    text.parse().unwrap()
}

fn said(series: &str, of: &str, value: &str) -> Observation {
    let of = month(of);
    Observation {
        provider: "P".to_owned(),
        series: series.to_owned(),
        period_start: of.start(),
        period_end: of.end(),
        value: (!value.is_empty()).then(|| value.parse().unwrap()),
        unit: String::new(),
        published_at: None,
        vintage: None,
        receive_time: Timestamp::from_seconds(1),
    }
}

fn bought(day: &str, class: InvestorClass, amount: &str) -> FundFlow {
    let period_start = Timestamp::parse(&format!("{day}T00:00:00+09:00")).unwrap();
    FundFlow {
        instrument: "KRX:005930".parse().unwrap(),
        provider: "KIS".to_owned(),
        investor_class: class,
        period_start,
        period_end: period_start.plus_micros(86_400_000_000),
        net_amount: (!amount.is_empty()).then(|| amount.parse().unwrap()),
        net_quantity: None,
        currency: "KRW".to_owned(),
        vintage: None,
        receive_time: Timestamp::from_seconds(1),
    }
}

fn published(flows: &mut MarketFlows) -> Vec<FlowAggregate> {
    let mut out = Vec::new();
    flows.publish(&mut out);
    out
}

fn after(observations: &[Observation]) -> Vec<FlowAggregate> {
    let mut flows = MarketFlows::new(settings());
    for observation in observations {
        assert_eq!(flows.on_observation(observation), FlowOutcome::Used);
    }
    published(&mut flows)
}

/// `scope/name method currency open: inflow outflow inputs stale revision`.
fn line(flow: &FlowAggregate) -> String {
    let FlowAggregate { scope, name, method, currency, inflow, outflow, input_count, stale, revision, .. } = flow;
    assert_eq!(flow.net.scaled(), inflow.scaled() - outflow.scaled());
    let open = flow.open_time.to_string();
    let stale = if *stale { " stale" } else { "" };
    format!("{scope}/{name} {method} {currency} {}: {inflow} {outflow} {input_count}{stale} r{revision}", &open[..10])
}

fn lines(flows: &[FlowAggregate], start: &str) -> Vec<String> {
    flows.iter().map(line).filter(|line| line.starts_with(start)).collect()
}

#[test]
fn turnover_flows_where_the_price_went() {
    let flows = after(&[
        said("SPY/close", "2020-01", "100"),
        said("SPY/close", "2020-02", "101.5"),
        said("SPY/close", "2020-03", "90.25"),
        said("SPY/close", "2020-04", "90.25"),
        said("SPY/volume", "2020-01", "7"),
        said("SPY/volume", "2020-02", "10"),
        said("SPY/volume", "2020-03", "4.000000001"),
        said("SPY/volume", "2020-04", "5"),
    ]);
    // 90.25 × 4.000000001 = 361.00000009025
    assert_eq!(
        lines(&flows, "market/stocks SIGNED"),
        [
            "market/stocks SIGNED_TURNOVER USD 2020-02-01: 1015 0 1 r0",
            "market/stocks SIGNED_TURNOVER USD 2020-03-01: 0 361.00000009 1 r0",
            "market/stocks SIGNED_TURNOVER USD 2020-04-01: 0 0 1 r0",
        ]
    );
    // the market's own method speaks for it, and is in the sum over all
    assert_eq!(lines(&flows, "market/stocks COMBINED").len(), 3);
    assert_eq!(lines(&flows, "global/all")[1], "global/all COMBINED USD 2020-03-01: 0 361.00000009 1 r0");
    assert_eq!(lines(&flows, "asset_class/equity").len(), 3);
}

#[test]
fn the_typical_price_counts_and_other_currencies_stand_beside_the_base() {
    let flows = after(&[
        said("KOSPI/close", "2020-01", "100"),
        said("KOSPI/close", "2020-02", "110"),
        said("KOSPI/high", "2020-02", "120"),
        said("KOSPI/low", "2020-02", "100.000000000001"),
        said("KOSPI/volume", "2020-02", "1000"),
        said("KRW", "2020-01", "1000"),
        said("KRW", "2020-02", "1100"),
    ]);
    // (120 + 100.000000000001 + 110) ÷ 3 × 1000 = 110000.00000000033…
    assert_eq!(
        lines(&flows, "market/stocks SIGNED_TURNOVER KRW"),
        ["market/stocks SIGNED_TURNOVER KRW 2020-02-01: 110000 0 1 r0"]
    );
    assert_eq!(lines(&flows, "market/stocks SIGNED_TURNOVER USD"), ["market/stocks SIGNED_TURNOVER USD 2020-02-01: 100 0 1 r0"]);
    // the won lost 1000 ÷ 1100 − 1 = −1 ÷ 11 of 300,000 KRW
    assert_eq!(
        lines(&flows, "market/forex VALUE_CHANGE KRW"),
        ["market/forex VALUE_CHANGE KRW 2020-02-01: 0 27272.72727273 1 r0"]
    );
    assert_eq!(lines(&flows, "market/forex VALUE_CHANGE USD"), ["market/forex VALUE_CHANGE USD 2020-02-01: 0 24.79338843 1 r0"]);
}

#[test]
fn a_rising_yield_is_an_outflow_of_duration_times_size() {
    let flows = after(&[
        said("YIELD", "2020-01", "1.5"),
        said("YIELD", "2020-02", "1.75"),
        said("YIELD", "2020-03", ""),
        said("YIELD", "2020-04", "1.65"),
    ]);
    // 6.5 × 0.25 ÷ 100 × 1000; then, over a missing month, 6.5 × 0.10 ÷ 100 × 2000
    assert_eq!(
        lines(&flows, "market/bonds VALUE"),
        ["market/bonds VALUE_CHANGE USD 2020-02-01: 0 16.25 1 r0", "market/bonds VALUE_CHANGE USD 2020-04-01: 13 0 1 stale r0"]
    );
}

#[test]
fn a_rate_older_than_stated_is_marked_and_none_at_all_leaves_the_flow_out() {
    let mut flows = MarketFlows::new(settings());
    for (of, close) in [("2020-01", "100"), ("2020-02", "101"), ("2020-03", "102")] {
        flows.on_observation(&said("KOSPI/close", of, close));
        for part in ["high", "low", "volume"] {
            flows.on_observation(&said(&format!("KOSPI/{part}"), of, close));
        }
    }
    let before = published(&mut flows);
    assert_eq!(
        lines(&before, "market/stocks SIGNED_TURNOVER USD"),
        [
            "market/stocks SIGNED_TURNOVER USD 2020-02-01: 0 0 0 stale r0",
            "market/stocks SIGNED_TURNOVER USD 2020-03-01: 0 0 0 stale r0"
        ]
    );
    assert!(lines(&before, "market/stocks SIGNED_TURNOVER KRW").iter().all(|line| !line.contains("stale")), "{before:?}");

    flows.on_observation(&said("KRW", "2020-02", "1000"));
    let after = published(&mut flows);
    assert_eq!(
        lines(&after, "market/stocks SIGNED_TURNOVER USD"),
        [
            "market/stocks SIGNED_TURNOVER USD 2020-02-01: 10.201 0 1 r1",
            "market/stocks SIGNED_TURNOVER USD 2020-03-01: 10.404 0 1 stale r1",
        ]
    );
    assert!(lines(&after, "market/stocks SIGNED_TURNOVER KRW").is_empty(), "the won's own rows have not changed");

    flows.on_observation(&said("KRW", "2020-03", "1020"));
    let last = published(&mut flows);
    assert_eq!(lines(&last, "market/stocks SIGNED"), ["market/stocks SIGNED_TURNOVER USD 2020-03-01: 10.2 0 1 r2"]);
}

#[test]
fn a_new_vintage_revises_exactly_what_it_touches() {
    let mut flows = MarketFlows::new(settings());
    let all = ["2020-01", "2020-02", "2020-03", "2020-04", "2020-05"];
    for (of, value) in all.iter().zip(["1", "2", "3", "4", "5"]) {
        flows.on_observation(&said("YIELD", of, value));
    }
    assert_eq!(lines(&published(&mut flows), "market/bonds VALUE").len(), 4);
    let vintage =
        |value: &str, vintage: &str| Observation { vintage: Some(vintage.to_owned()), ..said("YIELD", "2020-03", value) };
    assert_eq!(flows.on_observation(&vintage("2.5", "2020-06-01")), FlowOutcome::Used);
    assert_eq!(
        lines(&published(&mut flows), "market/bonds VALUE"),
        // 6.5 × 0.5 ÷ 100 × 2000, and 6.5 × 1.5 ÷ 100 × 2000
        ["market/bonds VALUE_CHANGE USD 2020-03-01: 0 65 1 r1", "market/bonds VALUE_CHANGE USD 2020-04-01: 0 195 1 r1"]
    );
    assert_eq!(flows.on_observation(&vintage("2.5", "2020-06-01")), FlowOutcome::Known, "the same again");
    assert_eq!(flows.on_observation(&vintage("9", "2020-05-01")), FlowOutcome::Known, "an older vintage that comes later");
    assert_eq!(flows.on_observation(&vintage("2.5", "2020-07-01")), FlowOutcome::Used, "a newer one that says the same");
    assert_eq!(published(&mut flows), []);
}

#[test]
fn a_month_without_a_source_that_had_begun_is_stale_until_it_comes() {
    let mut flows = MarketFlows::new(settings());
    for (of, value) in [("2020-01", "1"), ("2020-02", "2"), ("2020-03", "3")] {
        flows.on_observation(&said("YIELD", of, value));
        flows.on_observation(&said("GOLD/close", of, value));
        if of != "2020-03" {
            flows.on_observation(&said("GOLD/volume", of, "1"));
        }
    }
    let first = published(&mut flows);
    assert_eq!(
        lines(&first, "global"),
        ["global/all COMBINED USD 2020-02-01: 200 65 2 r0", "global/all COMBINED USD 2020-03-01: 0 130 1 stale r0"]
    );
    flows.on_observation(&said("GOLD/volume", "2020-03", "1"));
    assert_eq!(lines(&published(&mut flows), "global"), ["global/all COMBINED USD 2020-03-01: 300 130 2 r1"]);
}

#[test]
fn reported_flows_are_by_day_and_month_and_class_and_sum_to_the_residual() {
    let mut flows = MarketFlows::new(settings());
    flows.on_observation(&said("KRW", "2020-01", "1000"));
    flows.on_observation(&said("FUND", "2020-01", "-12.5"));
    for (day, foreign, institution, individual) in [("2020-01-30", "1000", "500", "-1500"), ("2020-01-31", "-2000", "", "2000")] {
        for (class, amount) in [
            (InvestorClass::Foreign, foreign),
            (InvestorClass::Institution, institution),
            (InvestorClass::Individual, individual),
            (InvestorClass::Total, "77"),
        ] {
            assert_eq!(flows.on_fund_flow(&bought(day, class, amount)), FlowOutcome::Used);
        }
    }
    let out = published(&mut flows);
    let krw = |start: &str| lines(&out, start).into_iter().filter(|line| line.contains("KRW")).collect::<Vec<_>>();
    assert_eq!(
        krw("investor_class/stocks/foreign"),
        [
            "investor_class/stocks/foreign REPORTED KRW 2020-01-30: 1000 0 1 r0",
            "investor_class/stocks/foreign REPORTED KRW 2020-01-31: 0 2000 1 r0",
            "investor_class/stocks/foreign REPORTED KRW 2020-01-01: 1000 2000 2 r0",
        ]
    );
    assert_eq!(
        krw("market/stocks REPORTED"),
        [
            "market/stocks REPORTED KRW 2020-01-30: 1500 1500 3 r0",
            "market/stocks REPORTED KRW 2020-01-31: 2000 2000 2 stale r0",
            "market/stocks REPORTED KRW 2020-01-01: 3500 3500 5 stale r0",
        ]
    );
    assert_eq!(
        lines(&out, "asset_class/fund"),
        ["asset_class/fund REPORTED USD 2020-01-01: 0 12500000 1 r0"],
        "a series that is a flow, in millions"
    );
    assert!(lines(&out, "global").is_empty(), "REPORTED does not speak for stocks here");
}

#[test]
fn quarters_and_hours_are_not_selected() {
    let mut flows = MarketFlows::new(settings());
    let quarter = Observation { period_end: month("2020-03").end(), ..said("YIELD", "2020-01", "1") };
    let hour = Observation { period_end: month("2020-01").start().plus_micros(3_600_000_000), ..said("YIELD", "2020-01", "1") };
    for strange in [quarter, hour] {
        assert_eq!(flows.on_observation(&strange), FlowOutcome::NotSelected);
    }
    assert!(flows.take_changes().is_empty());
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let check = |from: &str, to: &str, expected: &str| {
        let settings: MarketSettings = toml::from_str(&SETTINGS.replacen(from, to, 1)).unwrap();
        let problem = settings.validate().unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    };
    check("market = \"bonds\"", "market = \"bond\"", "market \"bond\" is none of markets");
    check("currency = \"USDT\"", "currency = \"KRW\"", "rate KRW: it is there twice");
    check("fixed = \"0.99\"", "fixed = \"0\"", "fixed is not positive");
    check("fixed = \"0.99\"", "", "name either series or fixed");
    check("high = \"P:KOSPI/high\"", "", "high and low come together");
    check("volume = \"P:SPY/volume\"", "", "name either volume or turnover");
    check("from = \"2020-03\"", "from = \"2019-03\"", "not in order");
    check("bonds = \"VALUE_CHANGE\"", "bonds = \"COMBINED\"", "COMBINED is what is made");
    let built_in: MarketSettings = toml::from_str(include_str!("../../../schemas/market_flows.toml")).unwrap();
    assert_eq!(built_in.validate(), Ok(()));
}

// ---- order of arrival, and state

/// Vintages, days, months, missing values and repeats of everything that is configured.
fn random_records(random: &mut ChaCha8Rng) -> (Vec<Observation>, Vec<FundFlow>) {
    let first = month("2019-11");
    let mut observations = Vec::new();
    let series = [
        "SPY/close",
        "SPY/volume",
        "KOSPI/close",
        "KOSPI/high",
        "KOSPI/low",
        "KOSPI/volume",
        "GOLD/close",
        "GOLD/volume",
        "YIELD",
    ];
    for name in series.into_iter().chain(["KRW", "FUND"]) {
        for of in first.through(first.plus(9)) {
            for vintage in 0..random.random_range(0..3) {
                let value = random.random_range(-2..2_000);
                let value = if value < 0 { String::new() } else { format!("{value}.{}", random.random_range(0..1_000)) };
                let vintage = Some(format!("2020-10-{:02}", vintage + 10)).filter(|_| vintage > 0);
                let receive_time = Timestamp::from_seconds(random.random_range(0..3));
                observations.push(Observation { vintage, receive_time, ..said(name, &of.to_string(), &value) });
            }
        }
    }
    for day in 0..20 {
        for name in ["SPY/close", "SPY/volume", "KRW"] {
            let period_start = month("2020-02").start().plus_micros(day * 86_400_000_000);
            let period_end = period_start.plus_micros(86_400_000_000);
            let value = random.random_range(1..2_000).to_string();
            if random.random_range(0..5) > 0 {
                observations.push(Observation { period_start, period_end, ..said(name, "2020-02", &value) });
            }
        }
    }
    let mut funds = Vec::new();
    for day in ["2019-12-31", "2020-01-01", "2020-01-31", "2020-02-28", "2020-03-02"] {
        for class in [InvestorClass::Foreign, InvestorClass::Individual, InvestorClass::Unknown, InvestorClass::Total] {
            for receive in 0..random.random_range(0..3) {
                let amount = random.random_range(-1_000_000..1_000_000).to_string();
                funds.push(FundFlow { receive_time: Timestamp::from_seconds(receive), ..bought(day, class, &amount) });
            }
        }
    }
    (observations, funds)
}

type Identity = (String, String, String, String, i64, i64);

/// The last revision of everything; each revision is one more than the one before and says something else.
fn last_words(published: &[FlowAggregate]) -> BTreeMap<Identity, FlowAggregate> {
    let mut last: BTreeMap<Identity, FlowAggregate> = BTreeMap::new();
    for flow in published {
        let FlowAggregate { scope, name, method, currency, open_time, close_time, .. } = flow.clone();
        let identity = (scope, name, method, currency, open_time.micros(), close_time.micros());
        if let Some(known) = last.insert(identity, flow.clone()) {
            assert_eq!(flow.revision, known.revision + 1, "{flow:?}");
            assert_ne!(FlowAggregate { revision: flow.revision, ..known.clone() }, *flow, "published twice");
        } else {
            assert_eq!(flow.revision, 0, "{flow:?}");
        }
    }
    // what was withdrawn says nothing any more
    last.values_mut().for_each(|flow| flow.revision = 0);
    last.retain(|_, flow| flow.input_count > 0);
    last
}

/// Takes the records in this order, publishing now and then; at some of those places the state is rebuilt from its changelog.
fn run(
    observations: &[Observation],
    funds: &[FundFlow],
    random: &mut ChaCha8Rng,
    crashes: bool,
) -> BTreeMap<Identity, FlowAggregate> {
    let mut order: Vec<usize> = (0..observations.len() + funds.len()).collect();
    order.shuffle(random);
    let mut flows = MarketFlows::new(settings());
    let (mut out, mut changelog): (Vec<FlowAggregate>, Vec<Change>) = (Vec::new(), Vec::new());
    for place in order {
        match place.checked_sub(observations.len()) {
            None => flows.on_observation(&observations[place]),
            Some(place) => flows.on_fund_flow(&funds[place]),
        };
        if random.random_range(0..20) == 0 {
            flows.publish(&mut out);
            changelog.extend(flows.take_changes());
            if crashes && random.random_range(0..3) == 0 {
                flows = MarketFlows::restore(settings(), changelog.clone()).unwrap();
                let mut nothing = Vec::new();
                flows.publish(&mut nothing);
                assert_eq!(nothing, [], "a rebuilt state has nothing new to say");
            }
        }
    }
    flows.publish(&mut out);
    last_words(&out)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_arrival_and_crashes_change_no_final_value(seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (observations, funds) = random_records(&mut random);
        let expected = run(&observations, &funds, &mut random, false);
        prop_assert!(!expected.is_empty());
        for crashes in [false, true] {
            let found = run(&observations, &funds, &mut random, crashes);
            prop_assert_eq!(&found, &expected);
        }
    }
}

#[test]
fn other_settings_revise_what_they_change_and_nothing_else() {
    let mut flows = MarketFlows::new(settings());
    for (of, value) in [("2020-01", "1"), ("2020-02", "2"), ("2020-03", "3")] {
        flows.on_observation(&said("YIELD", of, value));
        flows.on_observation(&said("GOLD/close", of, value));
        flows.on_observation(&said("GOLD/volume", of, "1"));
    }
    published(&mut flows);
    let changelog = flows.take_changes();
    let larger: MarketSettings = toml::from_str(&SETTINGS.replacen("amount = \"2000\"", "amount = \"4000\"", 1)).unwrap();
    let mut flows = MarketFlows::restore(larger, changelog).unwrap();
    let revised = published(&mut flows);
    assert_eq!(lines(&revised, "market/bonds VALUE"), ["market/bonds VALUE_CHANGE USD 2020-03-01: 0 260 1 r1"]);
    assert_eq!(lines(&revised, "global"), ["global/all COMBINED USD 2020-03-01: 300 260 2 r1"]);
    assert!(revised.iter().all(|flow| flow.name != "commodities"), "{revised:?}");
}

// ---- between markets

/// What leaves stocks enters gold two months later, six tenths of it; the rest is noise of its own.
#[test]
fn a_scripted_rotation_is_recovered_in_sign_size_and_lag() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let first = month("2012-01");
    let stocks: Vec<i64> = (0..120).map(|_| random.random_range(-1_000_000..1_000_000)).collect();
    let gold = |at: usize, noise: i64| if at < 2 { noise } else { -6 * stocks[at - 2] / 10 + noise };
    let gold: Vec<i64> = (0..120).map(|at| gold(at, random.random_range(-50_000..50_000))).collect();
    let mut flows = MarketFlows::new(settings());
    for (name, nets, factor) in [("SPY", &stocks, 1_u128), ("GOLD", &gold, 100)] {
        // the price goes up and down between two levels or stays away from both, so that the wanted sign comes about
        let mut price = 1_000_000_i64;
        flows.on_observation(&said(&format!("{name}/close"), &first.plus(-1).to_string(), &price.to_string()));
        for (of, net) in first.through(first.plus(119)).zip(nets) {
            price += net.signum() * 1_000;
            // volume = |net| ÷ (price × factor), to twelve decimals
            let volume = u128::from(net.unsigned_abs()) * 1_000_000_000_000 / (u128::from(price.unsigned_abs()) * factor);
            let volume = format!("{}.{:012}", volume / 1_000_000_000_000, volume % 1_000_000_000_000);
            flows.on_observation(&said(&format!("{name}/close"), &of.to_string(), &price.to_string()));
            flows.on_observation(&said(&format!("{name}/volume"), &of.to_string(), &volume));
        }
    }
    let out = published(&mut flows);
    let months = MonthlyFlows::of(&out, "market", "COMBINED", "USD");
    let mut pairs = months.lead_lags();
    assert_eq!(pairs.len(), 13, "two markets, lags −6 to 6");
    pairs.sort_by(|a, b| b.correlation.abs().total_cmp(&a.correlation.abs()));
    let LeadLag { leader, follower, lag_months, n, correlation, slope, p_value } = &pairs[0];
    assert_eq!((leader.as_str(), follower.as_str(), *lag_months, *n), ("stocks", "commodities", 2, 118));
    assert!(*correlation < -0.95 && (slope + 0.6).abs() < 0.05 && *p_value < 1e-12, "{:?}", pairs[0]);
    assert!(pairs[1..].iter().all(|pair| pair.correlation.abs() < 0.5), "{:?}", pairs[1]);
}

fn flow(name: &str, of: &str, net: i64) -> FlowAggregate {
    let (inflow, outflow) = (net.max(0).to_string(), (-net).max(0).to_string());
    FlowAggregate {
        scope: "market".to_owned(),
        name: name.to_owned(),
        open_time: month(of).start(),
        close_time: month(of).end(),
        method: "COMBINED".to_owned(),
        inflow: inflow.parse().unwrap(),
        outflow: outflow.parse().unwrap(),
        net: net.to_string().parse().unwrap(),
        currency: "USD".to_owned(),
        input_count: 1,
        stale: false,
        revision: 0,
    }
}

#[test]
fn outflows_are_matched_to_inflows_in_proportion() {
    let nets = [("stocks", -300), ("bonds", -100), ("crypto", 90), ("commodities", 110), ("forex", 0)];
    let mut out: Vec<FlowAggregate> = nets.into_iter().map(|(name, net)| flow(name, "2020-01", net)).collect();
    out.push(FlowAggregate { revision: 1, stale: true, ..flow("crypto", "2020-01", 190) });
    let rotations = MonthlyFlows::of(&out, "market", "COMBINED", "USD").rotation(month("2020-01"));
    let lines: Vec<String> = rotations.iter().map(|r| format!("{}>{} {} {}", r.from, r.to, r.amount, r.stale)).collect();
    // 400 left and 300 came: 300 × 190 ÷ 400 …
    assert_eq!(
        lines,
        ["bonds>commodities 27.5 false", "bonds>crypto 47.5 true", "stocks>commodities 82.5 false", "stocks>crypto 142.5 true"]
    );
}

/// docs/methodology/fund-flows.md, "Worked example".
#[test]
fn the_documents_worked_example_comes_out() {
    let settings =
        SETTINGS.replace("duration = \"6.5\"", "duration = \"6\"").replace("amount = \"1000\"", "amount = \"10000000\"");
    let mut flows = MarketFlows::new(toml::from_str(&settings).unwrap());
    for (series, january, february) in [("SPY/close", "100", "90"), ("GOLD/close", "1500", "1600"), ("YIELD", "1.50", "1.40")] {
        flows.on_observation(&said(series, "2020-01", january));
        flows.on_observation(&said(series, "2020-02", february));
    }
    flows.on_observation(&said("SPY/volume", "2020-02", "1000"));
    flows.on_observation(&said("GOLD/volume", "2020-02", "1"));
    let out = published(&mut flows);
    assert_eq!(lines(&out, "global"), ["global/all COMBINED USD 2020-02-01: 220000 90000 3 r0"]);
    let months = MonthlyFlows::of(&out, "market", "COMBINED", "USD");
    let rotations: Vec<String> =
        months.rotation(month("2020-02")).iter().map(|r| format!("{}>{} {}", r.from, r.to, r.amount)).collect();
    assert_eq!(rotations, ["stocks>bonds 24545.45454545", "stocks>commodities 65454.54545454"]);
    let shares: Vec<String> = months.ratios().values().map(|ratios| format!("{:.3}", ratios.share.unwrap())).collect();
    assert_eq!(shares, ["0.194", "0.516", "-0.290"], "bonds, commodities, stocks");
    flows.on_observation(&Observation { vintage: Some("2020-04-01".to_owned()), ..said("YIELD", "2020-02", "1.45") });
    assert_eq!(lines(&published(&mut flows), "market/bonds VALUE"), ["market/bonds VALUE_CHANGE USD 2020-02-01: 30000 0 1 r1"]);
}

#[test]
fn months_are_held_against_the_36_before_and_against_all_markets() {
    let start = month("2015-01");
    let mut out = Vec::new();
    for at in 0..40 {
        let of = start.plus(at).to_string();
        out.push(flow("stocks", &of, if at == 39 { 30 } else { 10 * i64::from(at % 2 == 0) - 5 }));
        out.push(flow("bonds", &of, 7));
    }
    let ratios = MonthlyFlows::of(&out, "market", "COMBINED", "USD").ratios();
    let of = |name: &str, at: i32| ratios[&(name.to_owned(), start.plus(at))];
    assert_eq!((of("stocks", 23).z_score, of("bonds", 39).z_score), (None, None), "23 months before; all equal before");
    // of the 36 before half are 5 and half −5: mean 0, deviation 5 × √(36 ÷ 35)
    let expected = 30.0 / (5.0 * (36.0_f64 / 35.0).sqrt());
    assert!((of("stocks", 39).z_score.unwrap() - expected).abs() < 1e-12);
    assert!(of("stocks", 24).z_score.is_some());
    assert!((of("stocks", 39).share.unwrap() - 30.0 / 37.0).abs() < 1e-15);
}

/// t = 1.4323 with 10 degrees of freedom; p by the finite series for whole degrees (Abramowitz and Stegun 26.7.4).
#[test]
fn the_p_value_is_students() {
    let x = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let y = [7, 3, 1, 12, 5, 2, 8, 4, 11, 6, 10, 9];
    let start = month("2015-01");
    let out: Vec<FlowAggregate> = (0..12)
        .flat_map(|at| {
            let of = start.plus(i32::try_from(at).unwrap()).to_string();
            [flow("a", &of, x[at]), flow("b", &of, y[at])]
        })
        .collect();
    let pairs = MonthlyFlows::of(&out, "market", "COMBINED", "USD").lead_lags();
    let LeadLag { n, correlation, p_value, .. } = pairs.iter().find(|pair| pair.lag_months == 0).unwrap();
    // Σxy = 566, so r = (566 − 12 × 6.5²) ÷ 143
    assert_eq!(*n, 12);
    assert!((correlation - 59.0 / 143.0).abs() < 1e-12, "{correlation}");
    assert!((p_value - 0.182_563_978_573).abs() < 1e-10, "{p_value}");
}

#[test]
fn of_two_who_report_the_same_the_first_by_name_counts_in_whatever_order() {
    let day = "2024-03-05";
    let kis = FundFlow { provider: "kis".to_owned(), ..bought(day, InvestorClass::Foreign, "100") };
    let kiwoom = FundFlow { provider: "kiwoom".to_owned(), ..bought(day, InvestorClass::Foreign, "101") };
    let individuals = FundFlow { provider: "kiwoom".to_owned(), ..bought(day, InvestorClass::Individual, "-101") };
    let net = |flows: &mut MarketFlows, name: &str| -> Option<String> {
        let of = |flow: &FlowAggregate| {
            (flow.scope.as_str(), flow.name.as_str(), flow.currency.as_str()) == ("investor_class", name, "KRW")
        };
        published(flows).iter().rfind(|flow| of(flow)).map(|flow| flow.net.to_string())
    };
    let mut flows = MarketFlows::new(settings());
    flows.on_fund_flow(&kiwoom);
    flows.on_fund_flow(&individuals);
    assert_eq!(net(&mut flows, "stocks/foreign").as_deref(), Some("101"));
    flows.on_fund_flow(&kis);
    assert_eq!(net(&mut flows, "stocks/foreign").as_deref(), Some("100"), "it gives way, as a revision");
    flows.on_fund_flow(&FundFlow { net_amount: "102".parse().ok(), receive_time: Timestamp::from_seconds(9), ..kiwoom });
    assert_eq!(net(&mut flows, "stocks/foreign"), None, "what gave way changes nothing");
}
