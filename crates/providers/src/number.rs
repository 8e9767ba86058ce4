//! Exact numbers out of JSON: digits are taken from the text itself, never through a float.

use crate::Malformed;
use marketflow_model::{DecimalError, Price, Quantity, Timestamp};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::str::FromStr;

/// A number written as a JSON number or as a string of digits.
pub(crate) type Number<'a> = &'a RawValue;

/// Why a field cannot be used, and what it held.
pub(crate) type FieldError = (Malformed, String);

/// The digits of a number, with or without quotes. No documented number holds an escape.
pub(crate) fn digits(number: &RawValue) -> &str {
    let text = number.get();
    text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text)
}

pub(crate) fn integer(field: &str, text: &str) -> Result<i64, FieldError> {
    text.parse().map_err(|_| (Malformed::BadNumber, format!("{field}: not an integer: {}", shown(text))))
}

pub(crate) fn price(field: &str, text: &str) -> Result<Price, FieldError> {
    decimal(field, text)
}

pub(crate) fn quantity(field: &str, text: &str) -> Result<Quantity, FieldError> {
    decimal(field, text)
}

fn decimal<T: FromStr<Err = DecimalError>>(field: &str, text: &str) -> Result<T, FieldError> {
    // No venue writes such numbers; the bound keeps absurd exponents away from the arithmetic.
    let exponent_digits = text.bytes().position(|b| b == b'e' || b == b'E').map_or(0, |at| text.len() - at - 1);
    if text.len() > 80 || exponent_digits > 5 {
        return Err((Malformed::BadNumber, format!("{field}: not a decimal number: {}", shown(text))));
    }
    text.parse().map_err(|error| {
        let reason = match error {
            DecimalError::TooPrecise => Malformed::TooPrecise,
            DecimalError::NotANumber | DecimalError::OutOfRange => Malformed::BadNumber,
        };
        (reason, format!("{field}: {error}: {}", shown(text)))
    })
}

/// A time in `unit_micros`, believed when it lies between 2009 and 2100.
pub(crate) fn time(field: &str, count: i64, unit_micros: i64) -> Result<Timestamp, FieldError> {
    const FIRST: i64 = 1_230_768_000_000_000;
    const LAST: i64 = 4_102_444_800_000_000;
    match count.checked_mul(unit_micros) {
        Some(micros) if (FIRST..LAST).contains(&micros) => Ok(Timestamp::from_micros(micros)),
        _ => Err((Malformed::BadTime, format!("{field}: {count} is no time between 2009 and 2100"))),
    }
}

/// Enough of a field for a message.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    if text.chars().nth(48).is_none() { text.into() } else { text.chars().take(48).chain(['…']).collect::<String>().into() }
}

/// Tells text that is no JSON from JSON of another shape.
pub(crate) fn shape_error(text: &str, error: &serde_json::Error) -> FieldError {
    let reason = match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Err(_) => Malformed::NotJson,
        Ok(_) => Malformed::BadField,
    };
    (reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_every_digit_or_say_why_not() {
        let id: Number<'_> = serde_json::from_str("2001939623936278528").unwrap();
        assert_eq!(integer("id", digits(id)), Ok(2_001_939_623_936_278_528));
        let quoted: Number<'_> = serde_json::from_str("\"0.07920000\"").unwrap();
        assert_eq!(quantity("amount", digits(quoted)).unwrap().to_string(), "0.0792");
        let reason = |text: &str| price("price", text).unwrap_err().0;
        assert_eq!(reason("0.0016429999999999999"), Malformed::TooPrecise);
        for bad in ["", "NaN", "1e-9223372036854775808", "12,5", "99999999999999", &"9".repeat(500)] {
            assert_eq!(reason(bad), Malformed::BadNumber, "{bad}");
        }
        assert_eq!(time("t", 0, 1).unwrap_err().0, Malformed::BadTime);
        assert_eq!(time("t", i64::MAX, 1_000).unwrap_err().0, Malformed::BadTime);
    }
}
