//! Upbit: WebSocket v1 and REST v1 as they are on the wire.
//!
//! Played: `trade`, `orderbook` in the four formats; `market/all`, `trades/ticks`, `candles/minutes`, `orderbook`. Not played: `ticker` and
//! `candle.<unit>` streams are accepted and stay silent, other calls are 404, private channels, compression. Next: `socket.rs`, then `rest.rs`.

pub mod rest;
pub mod socket;

use crate::decimal::{Decimal, write_integer};
use crate::market::Trade;

const DAY_US: i64 = 86_400_000_000;

/// The price step of KRW markets at a price in whole won, from 100 won up (since 2025-07-31).
pub fn tick(price: i64) -> i64 {
    match price {
        1_000_000.. => 1_000,
        500_000.. => 500,
        100_000.. => 100,
        50_000.. => 50,
        10_000.. => 10,
        5_000.. => 5,
        _ => 1,
    }
}

/// The close of the day before the trade's; days begin at 00:00 UTC. On the first day of a tape its first price.
fn previous_close(trades: &[Trade], trade: &Trade) -> Decimal {
    let today = trades.partition_point(|other| other.time_us < trade.time_us.div_euclid(DAY_US) * DAY_US);
    trades.get(today.saturating_sub(1)).map_or(trade.price(), Trade::price)
}

/// Appends a number as Java's `BigDecimal` does: small ones with an exponent (`6E-8`).
fn write_java(number: Decimal, out: &mut Vec<u8>) {
    let digits = number.mantissa.unsigned_abs().to_string();
    let exponent = i64::try_from(digits.len()).unwrap_or(0) - 1 - i64::from(number.scale);
    if number.is_zero() || exponent >= -3 {
        return number.write(8, out);
    }
    if number.mantissa < 0 {
        out.push(b'-');
    }
    let (first, rest) = digits.split_at(1);
    out.extend_from_slice(first.as_bytes());
    if !rest.is_empty() {
        out.push(b'.');
        out.extend_from_slice(rest.as_bytes());
    }
    out.push(b'E');
    write_integer(exponent, out);
}

/// Date and time of an instant, UTC.
fn utc(time_us: i64, format: &str) -> String {
    jiff::Timestamp::from_microsecond(time_us).map(|time| time.strftime(format).to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spelled_as_java_spells_them() {
        for (text, expected) in [
            ("0.00000006", "6E-8"),
            ("0.00014208", "1.4208E-4"),
            ("0.5", "0.50000000"),
            ("0.001", "0.00100000"),
            ("0", "0.00000000"),
        ] {
            let mut out = Vec::new();
            write_java(Decimal::parse(text).unwrap(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
