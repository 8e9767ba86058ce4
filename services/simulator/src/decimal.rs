//! Exact decimals as the tape spells them: a mantissa and a scale, so that nothing between the recorded text and the frame rounds.
//!
//! The pipeline's own decimals are not used here on purpose: the simulator must also be able to send what they refuse.
//! Next: `market.rs`.

/// A decimal number: `mantissa · 10^-scale`, kept without trailing zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    /// The digits.
    pub mantissa: i64,
    /// How many of them stand behind the point, 0–18.
    pub scale: u8,
}

impl Decimal {
    /// Zero.
    pub const ZERO: Decimal = Decimal { mantissa: 0, scale: 0 };

    /// A decimal of `mantissa · 10^-scale`, brought to its shortest form.
    pub fn new(mut mantissa: i64, mut scale: u8) -> Decimal {
        while scale > 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            scale -= 1;
        }
        Decimal { mantissa, scale }
    }

    /// Reads plain decimal text (`-12.500`); `None` for anything else, also for more than 18 significant digits.
    pub fn parse(text: &str) -> Option<Decimal> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let fraction = fraction.trim_end_matches('0');
        if whole.is_empty() && fraction.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return None;
        }
        let mut mantissa: i64 = 0;
        for byte in whole.bytes().chain(fraction.bytes()) {
            if !byte.is_ascii_digit() {
                return None;
            }
            mantissa = mantissa.checked_mul(10)?.checked_add(i64::from(byte - b'0'))?;
        }
        let scale = u8::try_from(fraction.len()).ok().filter(|scale| *scale <= 18)?;
        Some(Decimal { mantissa: if negative { -mantissa } else { mantissa }, scale })
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.mantissa == 0
    }

    /// The number as an integer of `10^-scale` units; digits beyond are cut.
    pub fn at_scale(self, scale: u8) -> i128 {
        let mantissa = i128::from(self.mantissa);
        if scale >= self.scale {
            mantissa * 10_i128.pow(u32::from(scale - self.scale))
        } else {
            mantissa / 10_i128.pow(u32::from(self.scale - scale))
        }
    }

    /// Appends the number with at least `decimals` digits behind the point; more when it has more, never cut.
    pub fn write(self, decimals: u8, out: &mut Vec<u8>) {
        if decimals <= self.scale {
            write_scaled(i128::from(self.mantissa), self.scale, out);
        } else {
            write_scaled(i128::from(self.mantissa), self.scale, out);
            if self.scale == 0 {
                out.push(b'.');
            }
            out.resize(out.len() + usize::from(decimals - self.scale), b'0');
        }
    }

    /// The number as text with at least `decimals` digits behind the point.
    pub fn text(self, decimals: u8) -> String {
        let mut out = Vec::with_capacity(24);
        self.write(decimals, &mut out);
        into_text(out)
    }
}

const DIGITS: [u8; 10] = *b"0123456789";

/// Appends `units · 10^-scale` as plain decimal text with exactly `scale` digits behind the point.
pub fn write_scaled(units: i128, scale: u8, out: &mut Vec<u8>) {
    if units < 0 {
        out.push(b'-');
    }
    let mut digits = [b'0'; 60];
    let mut at = digits.len();
    let scale = usize::from(scale);
    let mut written = 0;
    let mut rest = units.unsigned_abs();
    while rest > 0 || written <= scale {
        if written == scale && scale > 0 {
            at -= 1;
            digits[at] = b'.';
        }
        at -= 1;
        // Almost every number on the wire fits 64 bits, whose division is several times faster.
        let digit = match u64::try_from(rest) {
            Ok(small) => {
                rest = u128::from(small / 10);
                small % 10
            }
            Err(_) => {
                let digit = rest % 10;
                rest /= 10;
                u64::try_from(digit).unwrap_or(0)
            }
        };
        digits[at] = DIGITS[usize::try_from(digit).unwrap_or(0)];
        written += 1;
    }
    out.extend_from_slice(&digits[at..]);
}

/// `units · 10^-scale` as text.
pub fn scaled_text(units: i128, scale: u8) -> String {
    let mut out = Vec::with_capacity(24);
    write_scaled(units, scale, &mut out);
    into_text(out)
}

/// Appends an integer.
pub fn write_integer(value: i64, out: &mut Vec<u8>) {
    write_scaled(i128::from(value), 0, out);
}

fn into_text(out: Vec<u8>) -> String {
    String::from_utf8(out).expect("digits, a point and a sign are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_the_round_trip_without_its_trailing_zeros() {
        for (text, decimals, expected) in [
            ("800.010000000000", 2, "800.01"),
            ("1163", 2, "1163.00"),
            ("0.100000000000", 8, "0.10000000"),
            ("0", 8, "0.00000000"),
            ("0.0000000001", 8, "0.0000000001"),
            ("-7.5", 0, "-7.5"),
            ("12", 0, "12"),
        ] {
            assert_eq!(Decimal::parse(text).expect(text).text(decimals), expected);
        }
    }

    #[test]
    fn text_that_is_no_plain_decimal_is_refused() {
        for text in ["", ".", "1e5", "abc", "1.2.3", "--1", "99999999999999999999"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn large_sums_are_written_in_full() {
        assert_eq!(scaled_text(123_456_789_012_345_678_901_234, 8), "1234567890123456.78901234");
        assert_eq!(scaled_text(-5, 2), "-0.05");
    }
}
