//! What a candle must be to be believed: on the exchange's price steps and within the day's price limits.
//!
//! The producer judges it and not the processor, because it knows the close of the session before and the broker's row. What any candle must be
//! (open and close between low and high, an open time on a minute) the processor checks for every source. A candle that is not believed goes to
//! `market.quarantine.v1` as it would have been written, with the reason.
//!
//! Next: `publish.rs`.

use marketflow_model::{Candle, Price};

const ONE: i64 = 10_i64.pow(Price::SCALE);

/// What is known of an instrument's day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Close of the session before, whole won; `None` before the first.
    base: Option<i64>,
    /// Whether a candle of the day was seen.
    begun: bool,
}

/// The verdict on one candle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Believed.
    Fine,
    /// Believed, although the whole day is beyond the limits of the close before: that close was adjusted (a split, a capital change), or trading
    /// has no limits (a first day, a liquidation).
    NewBase,
    /// Not believed, and why.
    Quarantined(String),
}

impl Limits {
    /// A session begins; `close` is that of the session before.
    pub fn of_session(close: Option<Price>) -> Self {
        Self { base: close.map(|price| price.scaled() / ONE), begun: false }
    }

    /// The same, somewhere in the middle of it.
    pub fn begun(self) -> Self {
        Self { begun: true, ..self }
    }

    /// Judges a candle; the day's come oldest first.
    pub fn judge(&mut self, candle: &Candle) -> Verdict {
        let prices = [candle.open, candle.high, candle.low, candle.close];
        if let Some(odd) = prices.iter().find(|price| !on_a_step(**price)) {
            return Verdict::Quarantined(format!("price {odd} is on no price step of the exchange"));
        }
        let begun = std::mem::replace(&mut self.begun, true);
        let Some(base) = self.base else { return Verdict::Fine };
        let (highest, lowest) = limits(base);
        let Some(outlier) = prices.iter().find(|price| !(lowest..=highest).contains(&(price.scaled() / ONE))) else {
            return Verdict::Fine;
        };
        if begun {
            return Verdict::Quarantined(format!(
                "price {outlier} is outside {lowest} to {highest}, 30 % of {base}, the close before"
            ));
        }
        self.base = None;
        Verdict::NewBase
    }
}

/// Whether a price can be one: shares and funds differ in their steps, so it is on the finer ones. (Since 2023-01-25, funds since 2023-12.)
fn on_a_step(price: Price) -> bool {
    let (won, rest) = (price.scaled() / ONE, price.scaled() % ONE);
    rest == 0 && won > 0 && (won < 2_000 || won % 5 == 0)
}

/// Highest and lowest price of a day: 30 % off the base price, cut to the base's steps, each then to its own. Where the base was rounded
/// otherwise one step more is believed.
fn limits(base: i64) -> (i64, i64) {
    let width = base * 3 / 10;
    let width = width - width % tick(base);
    let (highest, lowest) = (base + width, base - width);
    (highest + tick(highest), lowest - tick(lowest))
}

/// The price step of shares, whole won.
fn tick(price: i64) -> i64 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use marketflow_model::{Feed, Interval, Source, Timestamp};

    fn candle(prices: [&str; 4]) -> Candle {
        let [open, high, low, close] = prices.map(|price| price.parse().unwrap());
        Candle {
            instrument: "KRX:005930".parse().unwrap(),
            feed: Feed::new("kis"),
            interval: Interval::ONE_MINUTE,
            open_time: Timestamp::from_seconds(60),
            receive_time: Timestamp::from_seconds(70),
            open,
            high,
            low,
            close,
            volume: None,
            turnover: None,
            trade_count: None,
            buy_volume: None,
            import_row: None,
            closed: true,
            source: Source::Rest,
        }
    }

    fn judge(limits: &mut Limits, price: &str) -> &'static str {
        match limits.judge(&candle([price; 4])) {
            Verdict::Fine => "fine",
            Verdict::NewBase => "new base",
            Verdict::Quarantined(_) => "quarantined",
        }
    }

    #[test]
    fn a_price_beyond_the_limits_of_the_day_is_quarantined() {
        let mut day = Limits::of_session(Some("10000".parse().unwrap()));
        for (price, verdict) in [
            ("10000", "fine"),
            ("13000", "fine"),
            ("13020", "quarantined"),
            ("7000", "fine"),
            ("6980", "quarantined"),
            ("12990", "fine"),
        ] {
            assert_eq!(judge(&mut day, price), verdict, "{price}");
        }
        let Verdict::Quarantined(reason) = day.judge(&candle(["10000", "100000", "10000", "10000"])) else {
            panic!("ten times the price")
        };
        assert!(reason.contains("100000") && reason.contains("the close before"), "{reason}");
    }

    #[test]
    fn a_day_that_begins_elsewhere_has_another_base() {
        let mut split = Limits::of_session(Some("2500000".parse().unwrap()));
        assert_eq!((judge(&mut split, "53000"), judge(&mut split, "51900")), ("new base", "fine"));
        let mut first = Limits::of_session(None);
        assert_eq!((judge(&mut first, "10000"), judge(&mut first, "40000")), ("fine", "fine"));
    }

    #[test]
    fn prices_are_whole_won_on_the_steps() {
        let mut day = Limits::of_session(None);
        for (price, verdict) in [
            ("1999", "fine"),
            ("2001", "quarantined"),
            ("2005", "fine"),
            ("77905", "fine"),
            ("77901", "quarantined"),
            ("100.5", "quarantined"),
            ("0", "quarantined"),
        ] {
            assert_eq!(judge(&mut day, price), verdict, "{price}");
        }
    }
}
