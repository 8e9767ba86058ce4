//! Which instruments of the tapes are the most active of the day so far, as the calls of both brokers show it.
//!
//! Played: `volume-rank` (FHPST01710000), thirty rows at most, by volume (`FID_BLNG_CLS_CODE` 0) or money (3), not on paper hosts.
//!
//! Next: `../kiwoom/rest.rs`.

use super::quotations::{Parameters, Shared, admitted, of, wrong_input};
use super::socket::{percent, whole};
use crate::market::{Market, Venue};
use crate::simulation::Simulation;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::cmp::Reverse;

/// Rows of an answer.
const ROWS: usize = 30;

/// An instrument's day so far.
pub struct Active<'a> {
    /// Which.
    pub market: &'a Market,
    /// The last price, whole won.
    pub price: i64,
    /// Shares.
    pub volume: i64,
    /// Whole won.
    pub turnover: i64,
}

/// The instruments that were traded today, the most active first; of equals the lower code.
pub fn most_active(simulation: &Simulation, by_volume: bool) -> Vec<Active<'_>> {
    let markets = simulation.hub.markets.iter().filter(|market| market.venue == Venue::Kis);
    let active = markets.filter_map(|market| {
        let (price, last) = market.happened(|trades| Some((whole(trades.last()?.price()), trades.len() - 1)))?;
        let totals = market.day.after(last)?;
        Some(Active { market, price, volume: totals.volume, turnover: totals.turnover })
    });
    let mut active: Vec<Active<'_>> = active.collect();
    active.sort_by_key(|of| (Reverse(if by_volume { of.volume } else { of.turnover }), of.market.upper.clone()));
    active
}

/// `volume-rank`.
pub async fn volume_rank(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Response {
    let parameters = match admitted(&simulation, &headers, "FHPST01710000", parameters).await {
        Ok(parameters) => parameters,
        Err(refused) => return refused,
    };
    let by_volume = match (of(&parameters, "FID_COND_SCR_DIV_CODE"), of(&parameters, "FID_BLNG_CLS_CODE")) {
        ("20171", "0") => true,
        ("20171", "3") => false,
        _ => return wrong_input(),
    };
    let rows: Vec<Value> = (1..).zip(most_active(&simulation, by_volume)).take(ROWS).map(|(rank, of)| shown(rank, &of)).collect();
    axum::Json(json!({"output": rows, "rt_cd": "0", "msg_cd": "MCA00000", "msg1": "정상처리 되었습니다."})).into_response()
}

fn shown(rank: u32, of: &Active<'_>) -> Value {
    let base = of.market.day.base;
    json!({
        "hts_kor_isnm": of.market.day.name, "mksc_shrn_iscd": of.market.upper, "data_rank": rank.to_string(), "stck_prpr": of.price.to_string(),
        "prdy_vrss_sign": if of.price > base { "2" } else if of.price < base { "5" } else { "3" }, "prdy_vrss": (of.price - base).to_string(),
        "prdy_ctrt": percent(of.price - base, base), "acml_vol": of.volume.to_string(), "prdy_vol": "0", "lstn_stcn": "5919638000",
        "avrg_vol": of.volume.to_string(), "vol_inrt": "0.00", "vol_tnrt": percent(of.volume, 5_919_638_000),
        "avrg_tr_pbmn": of.turnover.to_string(), "acml_tr_pbmn": of.turnover.to_string(),
    })
}

/// Kiwoom's row of it: `ka10030` by volume, else `ka10032`.
pub fn kiwoom_row(rank: usize, of: &Active<'_>, by_volume: bool) -> Value {
    let price = crate::kiwoom::signed(of.price, of.market.day.base);
    let millions = (of.turnover / 1_000_000).to_string();
    let mut row = json!({"stk_cd": of.market.upper, "stk_nm": of.market.day.name, "cur_prc": price, "flu_rt": percent(of.price - of.market.day.base, of.market.day.base)});
    if by_volume {
        row["trde_qty"] = of.volume.to_string().into();
        row["trde_amt"] = millions.into();
    } else {
        row["now_rank"] = rank.to_string().into();
        row["pred_rank"] = rank.to_string().into();
        row["now_trde_qty"] = of.volume.to_string().into();
        row["trde_prica"] = millions.into();
    }
    row
}
