//! Exact decimals: prices, quantities, amounts and unrounded turnover. No float between frame and row.

use std::fmt;
use std::str::FromStr;

/// Why a text is not a decimal of the wanted scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// The text is not a plain or exponent decimal number.
    #[error("not a decimal number")]
    NotANumber,
    /// The text has more significant decimals than the scale holds; it is never rounded.
    #[error("more significant decimals than the scale holds")]
    TooPrecise,
    /// The value does not fit the declared precision.
    #[error("out of range")]
    OutOfRange,
}

const POW10: [i128; 39] = {
    let mut table = [1i128; 39];
    let mut i = 1;
    while i < 39 {
        table[i] = table[i - 1] * 10;
        i += 1;
    }
    table
};

/// Parses a decimal text (`-12.50`, `3800`, `1E-7`) into an integer scaled by `10^scale`.
///
/// # Errors
/// [`DecimalError::NotANumber`] for anything that is not a decimal number (also `NaN`, `inf`, empty), [`DecimalError::TooPrecise`] when a
/// non-zero digit lies beyond the scale, [`DecimalError::OutOfRange`] when the result exceeds 38 digits.
pub fn parse_scaled(text: &str, scale: u32) -> Result<i128, DecimalError> {
    let bytes = text.as_bytes();
    let (negative, mut at) = match bytes.first() {
        Some(b'-') => (true, 1),
        Some(b'+') => (false, 1),
        Some(_) => (false, 0),
        None => return Err(DecimalError::NotANumber),
    };
    let mut mantissa: i128 = 0;
    let mut fraction_digits: i64 = 0;
    let mut seen_digit = false;
    let mut seen_point = false;
    while at < bytes.len() {
        match bytes[at] {
            digit @ b'0'..=b'9' => {
                seen_digit = true;
                mantissa = mantissa
                    .checked_mul(10)
                    .and_then(|m| m.checked_add(i128::from(digit - b'0')))
                    .ok_or(DecimalError::OutOfRange)?;
                if seen_point {
                    fraction_digits += 1;
                }
            }
            b'.' if !seen_point => seen_point = true,
            b'e' | b'E' if seen_digit => break,
            _ => return Err(DecimalError::NotANumber),
        }
        at += 1;
    }
    if !seen_digit {
        return Err(DecimalError::NotANumber);
    }
    let exponent: i64 = if at < bytes.len() {
        let exponent = text[at + 1..].parse::<i64>().map_err(|_| DecimalError::NotANumber)?;
        if exponent.unsigned_abs() > 1_000 {
            return if mantissa == 0 { Ok(0) } else { Err(DecimalError::OutOfRange) };
        }
        exponent
    } else {
        0
    };
    let shift = i64::from(scale) + exponent - fraction_digits;
    let magnitude = if mantissa == 0 {
        0
    } else if shift >= 0 {
        let factor = usize::try_from(shift).ok().and_then(|s| POW10.get(s)).ok_or(DecimalError::OutOfRange)?;
        mantissa.checked_mul(*factor).ok_or(DecimalError::OutOfRange)?
    } else {
        let divisor = usize::try_from(-shift).ok().and_then(|s| POW10.get(s)).ok_or(DecimalError::TooPrecise)?;
        if mantissa % divisor != 0 {
            return Err(DecimalError::TooPrecise);
        }
        mantissa / divisor
    };
    if magnitude >= POW10[38] {
        return Err(DecimalError::OutOfRange);
    }
    Ok(if negative { -magnitude } else { magnitude })
}

/// Writes a scaled integer as a plain decimal: no exponent, no trailing zeros.
fn format_scaled(value: i128, scale: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let unit = POW10[scale as usize].unsigned_abs();
    let magnitude = value.unsigned_abs();
    let (whole, fraction) = (magnitude / unit, magnitude % unit);
    if value < 0 {
        f.write_str("-")?;
    }
    if fraction == 0 {
        return write!(f, "{whole}");
    }
    let digits = format!("{fraction:0width$}", width = scale as usize);
    write!(f, "{whole}.{}", digits.trim_end_matches('0'))
}

/// Divides rounding half to even. `denominator` must be positive.
fn divide_half_even(numerator: i128, denominator: i128) -> i128 {
    let quotient = numerator.div_euclid(denominator);
    let remainder = numerator.rem_euclid(denominator);
    match (remainder * 2).cmp(&denominator) {
        std::cmp::Ordering::Less => quotient,
        std::cmp::Ordering::Greater => quotient + 1,
        std::cmp::Ordering::Equal => quotient + (quotient & 1),
    }
}

macro_rules! scaled {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $scale:expr, $limit:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($repr);

        impl $name {
            /// Decimals kept.
            pub const SCALE: u32 = $scale;
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// Takes an integer already scaled by `10^SCALE`; `None` outside the declared precision.
            pub const fn from_scaled(scaled: $repr) -> Option<Self> {
                const LIMIT: $repr = $limit;
                if scaled > -LIMIT && scaled < LIMIT { Some(Self(scaled)) } else { None }
            }

            /// The value times `10^SCALE`.
            pub const fn scaled(self) -> $repr {
                self.0
            }

            /// Whether the value is zero.
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }

            /// Adds, `None` outside the declared precision.
            pub const fn checked_add(self, other: Self) -> Option<Self> {
                match self.0.checked_add(other.0) {
                    Some(sum) => Self::from_scaled(sum),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                format_scaled(i128::from(self.0), $scale, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = DecimalError;

            fn from_str(text: &str) -> Result<Self, DecimalError> {
                let scaled = <$repr>::try_from(parse_scaled(text, $scale)?).map_err(|_| DecimalError::OutOfRange)?;
                Self::from_scaled(scaled).ok_or(DecimalError::OutOfRange)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serde::Serialize::serialize(&self.0, serializer)
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    let scaled = <$repr as serde::Deserialize>::deserialize(deserializer)?;
                    Self::from_scaled(scaled).ok_or_else(|| serde::de::Error::custom("decimal out of range"))
                }
            }
        }
    };
}

scaled!(
    /// A price in the instrument's quote currency: scale 8, `|price| < 10^10` (Avro `decimal(18,8)`, ClickHouse `Decimal(18,8)`).
    Price, i64, 8, 1_000_000_000_000_000_000
);
scaled!(
    /// A traded or quoted size in units of the instrument: scale 8, 38 digits (Avro `decimal(38,8)`).
    Quantity, i128, 8, POW10[38]
);
scaled!(
    /// An amount of money, rounded: scale 8, 38 digits.
    Amount, i128, 8, POW10[38]
);
scaled!(
    /// A value of a macro or reference series: scale 12, 38 digits (Avro `decimal(38,12)`).
    SeriesValue, i128, 12, POW10[38]
);
scaled!(
    /// Σ price × size, unrounded: scale 16. Folded exactly; rounded once, at emission, by [`Turnover::rounded`].
    Turnover, i128, 16, i128::MAX
);

impl Turnover {
    /// Price times size, exactly; `None` on overflow.
    pub const fn of(price: Price, size: Quantity) -> Option<Self> {
        match (price.0 as i128).checked_mul(size.0) {
            Some(product) => Self::from_scaled(product),
            None => None,
        }
    }

    /// Rounds to scale 8, half to even.
    pub fn rounded(self) -> Amount {
        Amount(divide_half_even(self.0, POW10[8]))
    }

    /// Volume-weighted average price, rounded half to even at scale 8; `None` when the volume is not positive or the result is no price.
    pub fn vwap(self, volume: Quantity) -> Option<Price> {
        if volume.0 <= 0 {
            return None;
        }
        i64::try_from(divide_half_even(self.0, volume.0)).ok().and_then(Price::from_scaled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_parse_exactly_or_not_at_all() {
        let check = |text: &str, expected: Result<i64, DecimalError>| {
            assert_eq!(text.parse::<Price>().map(Price::scaled), expected, "{text}");
        };
        check("3800.80", Ok(380_080_000_000));
        check("-0.5", Ok(-50_000_000));
        check("0.00000001", Ok(1));
        check("0.000000010", Ok(1));
        check("1E-8", Ok(1));
        check("7.7204e4", Ok(7_720_400_000_000));
        check("9999999999.99999999", Ok(999_999_999_999_999_999));
        check("10000000000", Err(DecimalError::OutOfRange));
        check("0.000000001", Err(DecimalError::TooPrecise));
        check("1e-400000", Err(DecimalError::OutOfRange));
        check("1e-9223372036854775808", Err(DecimalError::OutOfRange));
        check("0e400000", Ok(0));
        for bad in ["", "-", ".", "NaN", "inf", "1,5", "1.2.3", " 1", "1e", "0x10", "--1"] {
            check(bad, Err(DecimalError::NotANumber));
        }
    }

    #[test]
    fn decimals_print_without_exponent_or_trailing_zeros() {
        for text in ["0", "1", "-1", "0.5", "-0.00000001", "1163", "77204.12345678"] {
            assert_eq!(text.parse::<Price>().unwrap().to_string(), text);
        }
        assert_eq!("1.50".parse::<Quantity>().unwrap().to_string(), "1.5");
    }

    #[test]
    fn rounding_is_half_to_even() {
        let cases =
            [(150_000_000, 2), (250_000_000, 2), (250_000_001, 3), (-150_000_000, -2), (-250_000_000, -2), (50_000_000, 0)];
        for (scaled, expected) in cases {
            assert_eq!(Turnover::from_scaled(scaled).unwrap().rounded().scaled(), expected, "{scaled}");
        }
    }

    #[test]
    fn vwap_of_nothing_is_nothing() {
        assert_eq!(Turnover::ZERO.vwap(Quantity::ZERO), None);
        let turnover = Turnover::of("10".parse().unwrap(), "3".parse().unwrap()).unwrap();
        assert_eq!(turnover.vwap("3".parse().unwrap()).unwrap().to_string(), "10");
    }
}
