//! KIS (한국투자증권 Open API): token and approval calls and the real-time WebSocket as they are on the wire, over a day of the Korea Exchange.
//!
//! Played: `tokenP`, `revokeP`, `Approval` with their limits; registrations (41 of a key, one session of a key), `PINGPONG`, `H0STCNT0` (several
//! records in a frame too), `H0STASP0`, `H0STMKO0` when a halt or an interruption begins and ends, the minute candles of any day, what investors bought
//! of an instrument, what instruments are and are warned of, which are the most active, and on which days it
//! opens. Not played: other quotation calls and trading (404), other registrations (acknowledged, then silent),
//! expected prices in auctions. Next: `day.rs`, then `socket.rs` and `rest.rs`.

pub mod day;
pub mod history;
pub mod holidays;
pub mod investors;
pub mod master;
pub mod quotations;
pub mod ranking;
pub mod rest;
pub mod socket;

use crate::config::Config;
use crate::market::{Market, Venue};
use crate::seed;

/// The price step of shares (since 2023-01-25), whole won.
pub fn tick(price: i64) -> i64 {
    match price {
        500_000.. => 1_000,
        200_000.. => 500,
        50_000.. => 100,
        20_000.. => 50,
        5_000.. => 10,
        2_000.. => 5,
        _ => 1,
    }
}

/// Cut down to the price steps.
fn on_tick(price: i64) -> i64 {
    price - price % tick(price)
}

/// Highest and lowest price of a day: 30 % off the base price, each cut to steps towards it.
pub(crate) fn limits(base: i64) -> (i64, i64) {
    let width = base * 3 / 10;
    let width = width - width % tick(base);
    let lowest = base - width;
    (on_tick(base + width), lowest + (tick(lowest) - lowest % tick(lowest)) % tick(lowest))
}

/// Whether a trade waits for the next one, which happens in the same second, to share its frame.
pub(crate) fn shares_frame(config: &Config, market: &Market, at: usize) -> bool {
    if market.venue != Venue::Kis {
        return false;
    }
    let trades = market.trades();
    let (trade, Some(next)) = (&trades[at], trades.get(at + 1)) else { return false };
    let place = [seed::of_text(&market.lower), trade.id.unsigned_abs()];
    next.time_us == trade.time_us && seed::happens(config.seed, &place, config.kis.shared_frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn price_limits_are_those_of_the_exchanges_example() {
        assert_eq!(limits(9_980), (12_970, 6_990));
    }
}
