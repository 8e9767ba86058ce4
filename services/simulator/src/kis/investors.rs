//! What investors bought net of any instrument on any day, as the calls of both brokers show it: made up from the seed, the code and the date.
//!
//! Shares and won add up to zero over all classes, as at the exchange; brokers tell won in millions, each class rounded by itself. Today's numbers
//! are told when the session is over.
//!
//! Next: `quotations.rs`, `../kiwoom/rest.rs`.

use super::history::{self, FIRST, Hours};
use super::quotations::{Parameters, Shared, admitted, of};
use crate::market::Venue;
use crate::seed;
use crate::simulation::Simulation;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use jiff::ToSpan;
use jiff::civil::Date;
use serde_json::{Value, json};

/// Rows of an answer.
const ROWS: usize = 30;
const CLASSES: usize = 5;

/// One day: shares and won of registered foreigners, resident foreigners, institutions, individuals and other corporations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvestorDay {
    /// The day.
    pub date: Date,
    /// In the order above.
    pub shares: [i64; CLASSES],
    /// Likewise.
    pub won: [i64; CLASSES],
    /// Whether it has been told.
    pub is_told: bool,
}

impl InvestorDay {
    /// Millions of won, rounded half away from zero.
    pub fn millions(&self) -> [i64; CLASSES] {
        self.won.map(|won| (won.abs() + 500_000) / 1_000_000 * won.signum())
    }
}

/// The days up to `last`, newest first, at most so many; none of a code that is not known.
pub fn days(simulation: &Simulation, code: &str, last: Date, most: usize) -> Vec<InvestorDay> {
    let (config, now_us) = (&simulation.config.kis, simulation.clock.now_us());
    let today = history::date_of(now_us);
    let mut days = Vec::new();
    if code.len() != 6 || config.unlisted.iter().any(|unlisted| unlisted == code) {
        return days;
    }
    let mut date = last.min(today);
    while days.len() < most && date >= FIRST {
        if let Some(hours) = Hours::of(config, date) {
            let second = (now_us / 1_000_000 + 9 * 3_600).rem_euclid(86_400);
            days.push(day(simulation, code, date, date < today || second > hours.close + 600));
        }
        date = date.saturating_sub(1.day());
    }
    days
}

fn day(simulation: &Simulation, code: &str, date: Date, is_told: bool) -> InvestorDay {
    let (seed, place) = (simulation.config.seed, [seed::of_text(code), seed::of_text(&date.to_string())]);
    let market = simulation.hub.find(Venue::Kis, code).map(|index| &simulation.hub.markets[index]);
    let close = history::close(&simulation.config.kis, seed, market, code, date);
    let (mut shares, mut won) = ([0; CLASSES], [0; CLASSES]);
    // Individuals take the other side.
    for (class, (widest, number)) in [(0, (600_000, 1)), (1, (9_000, 2)), (2, (500_000, 3)), (4, (40_000, 4))] {
        shares[class] = seed::pick_i64(seed, &[21, number, place[0], place[1]], 2 * widest + 1) - i64::from(widest);
        let per_mille = 995 + seed::pick_i64(seed, &[22, number, place[0], place[1]], 11);
        won[class] = shares[class] * close / 1_000 * per_mille;
    }
    (shares[3], won[3]) = (-shares.iter().sum::<i64>(), -won.iter().sum::<i64>());
    InvestorDay { date, shares, won, is_told }
}

/// `investor-trade-by-stock-daily` (FHPTJ04160001): newest first, numbers padded with zeros as the broker does now and then.
pub async fn daily(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Response {
    let parameters = match admitted(&simulation, &headers, "FHPTJ04160001", parameters).await {
        Ok(parameters) => parameters,
        Err(refused) => return refused,
    };
    let Ok(last) = of(&parameters, "FID_INPUT_DATE_1").parse::<Date>() else {
        return super::quotations::wrong_date();
    };
    let rows: Vec<Value> = days(&simulation, of(&parameters, "FID_INPUT_ISCD"), last, ROWS).iter().map(shown).collect();
    let body = json!({"output1": {}, "output2": rows, "rt_cd": "0", "msg_cd": "MCA00000", "msg1": "정상처리 되었습니다."});
    axum::Json(body).into_response()
}

fn shown(day: &InvestorDay) -> Value {
    let text = |number: i64| match (day.is_told, number < 0) {
        (false, _) => String::new(),
        (true, true) => format!("-{:017}", -number),
        (true, false) => format!("{number:018}"),
    };
    let (shares, millions) = (day.shares, day.millions());
    // Foreigners of both kinds together; the sum is rounded, not the parts.
    let foreign = (day.won[0] + day.won[1], shares[0] + shares[1]);
    let foreign_millions = (foreign.0.abs() + 500_000) / 1_000_000 * foreign.0.signum();
    json!({
        "stck_bsop_date": day.date.strftime("%Y%m%d").to_string(),
        "frgn_ntby_qty": text(foreign.1), "frgn_reg_ntby_qty": text(shares[0]), "frgn_nreg_ntby_qty": text(shares[1]),
        "orgn_ntby_qty": text(shares[2]), "prsn_ntby_qty": text(shares[3]), "etc_corp_ntby_vol": text(shares[4]),
        "frgn_ntby_tr_pbmn": text(foreign_millions), "orgn_ntby_tr_pbmn": text(millions[2]),
        "prsn_ntby_tr_pbmn": text(millions[3]), "etc_corp_ntby_tr_pbmn": text(millions[4]),
    })
}

/// Kiwoom's row of it (`ka10059`): shares, or millions of won.
pub fn kiwoom_row(day: &InvestorDay, is_shares: bool) -> Value {
    let numbers = if is_shares { day.shares } else { day.millions() };
    let text = |class: usize| if day.is_told { numbers[class].to_string() } else { String::new() };
    json!({
        "dt": day.date.strftime("%Y%m%d").to_string(), "frgnr_invsr": text(0), "natfor": text(1), "orgn": text(2),
        "ind_invsr": text(3), "etc_corp": text(4), "flu_rt": "+0", "natn": "0",
    })
}

/// The routes on the admin port: `GET /investors/{code}/{from}/{to}` tells what there is, a day a line, in whole won.
pub(crate) fn admin() -> axum::Router<std::sync::Arc<Simulation>> {
    axum::Router::new().route("/investors/{code}/{from}/{to}", axum::routing::get(truth))
}

async fn truth(State(simulation): Shared, Path((code, from, to)): Path<(String, Date, Date)>) -> String {
    let mut text = String::new();
    for day in days(&simulation, &code, to, usize::MAX).iter().rev().filter(|day| day.date >= from && day.is_told) {
        text.push_str(&json!({"date": day.date, "shares": day.shares, "won": day.won}).to_string());
        text.push('\n');
    }
    text
}
