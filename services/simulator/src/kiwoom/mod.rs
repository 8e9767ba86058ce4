//! Kiwoom (키움증권 REST API): token calls, charts and lists, and the real-time WebSocket as they are on the wire, over the same day of the Korea
//! Exchange as KIS (`../kis/day.rs`): one market, told by two brokers.
//!
//! Played: `au10001`, `au10002`; `ka10001`, `ka10080`, `ka10030`, `ka10032`, `ka10099`, `ka10100` with their limits, paging and errors; LOGIN, REG, REMOVE, PING, and the
//! real-time types `0B` (several entries in a frame too), `0D`, `1h`. Not played: other calls (1505), other real-time types (registered, then
//! silent), NXT. Next: `socket.rs`, then `rest.rs`.

pub mod rest;
pub mod socket;

/// A price as Kiwoom shows it: signed by how it stands to the close of the day before.
pub(crate) fn signed(price: i64, base: i64) -> String {
    match price.cmp(&base) {
        std::cmp::Ordering::Greater => format!("+{price}"),
        std::cmp::Ordering::Less => format!("-{price}"),
        std::cmp::Ordering::Equal => price.to_string(),
    }
}

/// 1 upper limit, 2 up, 3 flat, 4 lower limit, 5 down; and the change, truly signed.
fn change(price: i64, base: i64) -> (&'static str, String) {
    match price - base {
        0 => ("3", "0".to_owned()),
        up @ 1.. => ("2", format!("+{up}")),
        down => ("5", down.to_string()),
    }
}
