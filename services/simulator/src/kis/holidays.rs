//! Whether the exchange opens on a day: `chk-holiday` (CTCA0903R), day after day, not on paper hosts. Closed are weekends and `kis.holidays`, so a
//! further day there is a holiday that nobody else knows of yet.
//!
//! Next: `rest.rs`.

use super::history::Hours;
use super::quotations::{Parameters, Shared, asked, of, wrong_date};
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use jiff::ToSpan;
use jiff::civil::{Date, Weekday};
use serde_json::{Value, json};

/// Days of an answer.
const ROWS: i64 = 24;

/// The days from one on; further ones by the names that the answer gives.
pub async fn holidays(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Response {
    let first = match asked(&simulation, &headers, "CTCA0903R", &parameters, "BASS_DT").await {
        Ok(first) => first,
        Err(refusal) => return refusal.into_response(),
    };
    simulation.kis_ledger.count_days();
    let further = of(&parameters, "CTX_AREA_NK").trim();
    let Ok(from) = Date::strptime("%Y%m%d", if further.is_empty() { &first } else { further }) else { return wrong_date() };
    let text = |date: Date| date.strftime("%Y%m%d").to_string();
    let yes = |flag: bool| if flag { "Y" } else { "N" };
    let shown = |date: Date| -> Value {
        let is_open = Hours::of(&simulation.config.kis, date).is_some();
        let weekday = date.weekday().to_sunday_one_offset();
        json!({
            "bass_dt": text(date), "wday_dvsn_cd": format!("{weekday:02}"), "bzdy_yn": yes(is_open),
            "tr_day_yn": yes(is_open || date.weekday() == Weekday::Saturday), "opnd_yn": yes(is_open), "sttl_day_yn": yes(is_open),
        })
    };
    let rows: Vec<Value> = (0..ROWS).map(|place| shown(from.saturating_add(place.days()))).collect();
    let next = text(from.saturating_add(ROWS.days()));
    axum::Json(json!({
        "ctx_area_nk": format!("{next:20}"), "ctx_area_fk": format!("{:20}", text(from)), "output": rows,
        "rt_cd": "0", "msg_cd": "MCA00000", "msg1": "정상처리 되었습니다.",
    }))
    .into_response()
}
