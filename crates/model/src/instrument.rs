//! What is traded, where; and who told us.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// An instrument: `VENUE:SYMBOL`, such as `KRX:005930` or `BITSTAMP:BTCUSD`. Cheap to clone. The record key on every topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instrument(Arc<str>);

/// Why a text is not an instrument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an instrument: {0:?}; write VENUE:SYMBOL, such as KRX:005930")]
pub struct InstrumentError(String);

impl Instrument {
    /// Longest accepted text, in bytes.
    pub const MAX_LENGTH_BYTES: usize = 96;

    /// From venue and symbol.
    ///
    /// # Errors
    /// An empty part, a colon or control character or blank in either, or more than [`Instrument::MAX_LENGTH_BYTES`] in all.
    pub fn new(venue: &str, symbol: &str) -> Result<Self, InstrumentError> {
        Self::from_str(&format!("{venue}:{symbol}"))
    }

    /// `VENUE:SYMBOL`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where it trades.
    pub fn venue(&self) -> &str {
        self.0.split_once(':').map_or("", |(venue, _)| venue)
    }

    /// What the venue calls it.
    pub fn symbol(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, symbol)| symbol)
    }
}

impl FromStr for Instrument {
    type Err = InstrumentError;

    fn from_str(text: &str) -> Result<Self, InstrumentError> {
        InstrumentRef::new(text).map(InstrumentRef::to_owned)
    }
}

impl Borrow<str> for Instrument {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// An [`Instrument`] that stands in somebody else's text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InstrumentRef<'a>(&'a str);

impl<'a> InstrumentRef<'a> {
    /// Checks a text `VENUE:SYMBOL`.
    ///
    /// # Errors
    /// As [`Instrument::new`].
    pub fn new(text: &'a str) -> Result<Self, InstrumentError> {
        let plain = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| byte.is_ascii_graphic() && *byte != b':');
        let fits = text.len() <= Instrument::MAX_LENGTH_BYTES;
        match text.as_bytes().iter().position(|byte| *byte == b':') {
            Some(colon) if fits && plain(&text.as_bytes()[..colon]) && plain(&text.as_bytes()[colon + 1..]) => Ok(Self(text)),
            _ => Self::beyond_ascii(text),
        }
    }

    #[cold]
    fn beyond_ascii(text: &'a str) -> Result<Self, InstrumentError> {
        let part = |s: &str| !s.is_empty() && !s.contains(|c: char| c == ':' || c.is_control() || c.is_whitespace());
        match text.split_once(':') {
            Some((venue, symbol)) if text.len() <= Instrument::MAX_LENGTH_BYTES && part(venue) && part(symbol) => Ok(Self(text)),
            _ => Err(InstrumentError(text.chars().take(128).collect())),
        }
    }

    /// `VENUE:SYMBOL`.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// One that stands by itself.
    pub fn to_owned(self) -> Instrument {
        Instrument(self.0.into())
    }
}

impl<'a> From<&'a Instrument> for InstrumentRef<'a> {
    fn from(instrument: &'a Instrument) -> Self {
        Self(instrument.as_str())
    }
}

impl fmt::Display for Instrument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Instrument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Instrument {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Instrument {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A provider's logical stream (`bitstamp`, `kis`) or an import (`import:<id>`). Cheap to clone. Watermarks are kept per feed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Feed(Arc<str>);

impl Feed {
    /// Any non-empty name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The feed of an import.
    pub fn import(id: &str) -> Self {
        Self(format!("import:{id}").into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the records come from a file and not from a provider.
    pub fn is_import(&self) -> bool {
        Self::names_import(&self.0)
    }

    /// Whether a name is that of an import.
    pub fn names_import(name: &str) -> bool {
        name.starts_with("import:")
    }
}

impl Borrow<str> for Feed {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Feed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Feed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(&<std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instrument_has_a_venue_and_a_symbol() {
        let samsung: Instrument = "KRX:005930".parse().unwrap();
        assert_eq!((samsung.venue(), samsung.symbol()), ("KRX", "005930"));
        for bad in ["", ":", "KRX:", ":005930", "KRX", "A:B:C", "A:B C", "A:\n"] {
            assert!(bad.parse::<Instrument>().is_err(), "{bad:?}");
        }
    }
}
