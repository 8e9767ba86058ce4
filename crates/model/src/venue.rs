//! What trades on a venue, and in which currency: data (`crates/model/venues.toml`), so that a trade need not carry it.
//!
//! Next: `crates/engine/src/flows.rs`, where turnover of one class and currency is summed.

use crate::Instrument;
use serde::Deserialize;
use std::sync::LazyLock;

/// A venue as its file describes it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Venue {
    name: String,
    asset_class: String,
    /// Of everything it trades.
    currency: Option<String>,
    /// Or those a symbol may be quoted in.
    #[serde(default)]
    quotes: Vec<String>,
    #[serde(default)]
    quotes_first: bool,
    #[serde(default)]
    cancels: bool,
}

static VENUES: LazyLock<Vec<Venue>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        venue: Vec<Venue>,
    }
    let file: File = toml::from_str(include_str!("../venues.toml")).expect("the file in this crate is checked by its tests");
    file.venue
});

/// What instruments of an unlisted venue are.
static OTHER: Venue = Venue {
    name: String::new(),
    asset_class: String::new(),
    currency: None,
    quotes: Vec::new(),
    quotes_first: false,
    cancels: false,
};

impl Venue {
    /// The venue of this name; one the file does not list trades something of unknown class and currency.
    pub fn named(name: &str) -> &'static Self {
        VENUES.iter().find(|venue| venue.name == name).unwrap_or(&OTHER)
    }

    /// `crypto`, `equity`, `fx` …; `other` where it is not known.
    pub fn asset_class(&self) -> &str {
        if self.asset_class.is_empty() { "other" } else { &self.asset_class }
    }

    /// Whether it takes trades back or corrects them afterwards: then every trade of a minute that may still change is kept.
    pub fn has_cancels(&self) -> bool {
        self.cancels
    }

    /// The currency an instrument's turnover is in: ISO 4217 or the ticker of a coin. Empty where it is not known.
    pub fn currency_of(&self, instrument: &Instrument) -> &str {
        if let Some(currency) = &self.currency {
            return currency;
        }
        let pair =
            instrument.symbol().rsplit_once('-').filter(|_| !self.quotes_first).map_or(instrument.symbol(), |(pair, _)| pair);
        let fits = |quote: &&String| {
            let matches = if self.quotes_first { pair.starts_with(quote.as_str()) } else { pair.ends_with(quote.as_str()) };
            matches && pair.len() > quote.len()
        };
        self.quotes.iter().filter(fits).max_by_key(|quote| quote.len()).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instrument_has_the_class_and_currency_of_its_venue_and_symbol() {
        for (instrument, class, currency) in [
            ("BITSTAMP:BTCUSD", "crypto", "USD"),
            ("BITSTAMP:BTCUSD-PERP", "crypto", "USD"),
            ("BITSTAMP:BTCPYUSD", "crypto", "PYUSD"),
            ("BITSTAMP:USDTUSD", "crypto", "USD"),
            ("BITSTAMP:USD", "crypto", ""),
            ("BINANCE:BTCUSDT", "crypto", "USDT"),
            ("BINANCE:ETHBTC", "crypto", "BTC"),
            ("BINANCE:BTCXYZ", "crypto", ""),
            ("UPBIT:KRWBTC", "crypto", "KRW"),
            ("UPBIT:BTC-ETH", "crypto", "BTC"),
            ("KRX:005930", "equity", "KRW"),
            ("FX:USDKRW", "fx", "KRW"),
            ("SIM:A0000", "other", ""),
        ] {
            let instrument: Instrument = instrument.parse().unwrap();
            let venue = Venue::named(instrument.venue());
            assert_eq!((venue.asset_class(), venue.currency_of(&instrument)), (class, currency), "{instrument}");
        }
    }

    #[test]
    fn every_venue_is_listed_once_with_one_way_to_its_currency() {
        let mut names: Vec<&str> = VENUES.iter().map(|v| v.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), VENUES.len());
        assert!(VENUES.iter().all(|v| v.currency.is_some() == v.quotes.is_empty() && !v.asset_class.is_empty()));
    }
}
