//! Avro's primitives: zig-zag varints, length-prefixed bytes, decimals as big-endian two's complement.

use marketflow_model::Timestamp;

/// Why bytes are not a record of the expected schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No Confluent header.
    #[error("value has no schema header")]
    NoHeader,
    /// The value exceeds the cap.
    #[error("value of {0} bytes is longer than allowed")]
    TooLong(usize),
    /// The bytes end inside a field.
    #[error("value ends inside {0}")]
    Truncated(&'static str),
    /// Bytes follow the last field.
    #[error("{0} bytes follow the last field")]
    TrailingBytes(usize),
    /// A length is negative or longer than the value.
    #[error("length of {0} is out of range")]
    BadLength(&'static str),
    /// A text is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// A union branch, enum symbol or boolean outside the schema.
    #[error("{0} has a branch or symbol outside the schema")]
    BadBranch(&'static str),
    /// A decimal does not fit its declared precision.
    #[error("{0} exceeds its precision")]
    BadDecimal(&'static str),
    /// A text is not what its field holds (instrument, interval).
    #[error("{field}: {error}")]
    BadText {
        /// Which field.
        field: &'static str,
        /// What was wrong with it.
        error: String,
    },
    /// The schema id is not one of this topic's.
    #[error("schema id {0} is unknown")]
    UnknownSchema(u32),
    /// The bytes could not be resolved from the writer's schema.
    #[error("schema resolution: {0}")]
    Resolution(String),
}

/// Appends Avro primitives.
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(crate) fn long(&mut self, value: i64) {
        #[expect(clippy::cast_sign_loss, reason = "zig-zag maps signed to unsigned bit by bit")]
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 0x80")]
        self.0.push(rest as u8);
    }

    pub(crate) fn int(&mut self, value: i32) {
        self.long(i64::from(value));
    }

    pub(crate) fn boolean(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.long(i64::try_from(value.len()).expect("no value exceeds i64::MAX bytes"));
        self.0.extend_from_slice(value);
    }

    pub(crate) fn string(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    pub(crate) fn timestamp(&mut self, value: Timestamp) {
        self.long(value.micros());
    }

    /// Shortest big-endian two's complement, as Java's `BigInteger.toByteArray`.
    pub(crate) fn decimal(&mut self, value: i128) {
        let bytes = value.to_be_bytes();
        let sign: u8 = if value < 0 { 0xff } else { 0 };
        let mut start = 0;
        while start < 15 && bytes[start] == sign && (bytes[start + 1] ^ sign) < 0x80 {
            start += 1;
        }
        self.bytes(&bytes[start..]);
    }

    /// `["null", T]`.
    pub(crate) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.long(0),
            Some(value) => {
                self.long(1);
                write(self, value);
            }
        }
    }
}

/// Takes Avro primitives off the front of a body.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes(self.rest.len())) }
    }

    pub(crate) fn long(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        // most lengths, branches and symbols take one byte
        if let [byte @ 0..=0x7f, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1));
        }
        let mut value: u64 = 0;
        for (index, byte) in self.rest.iter().take(10).enumerate() {
            if index == 9 && *byte > 1 {
                return Err(DecodeError::BadLength(field));
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                #[expect(clippy::cast_possible_wrap, reason = "zig-zag maps unsigned to signed bit by bit")]
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(DecodeError::Truncated(field))
    }

    pub(crate) fn int(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        i32::try_from(self.long(field)?).map_err(|_| DecodeError::BadLength(field))
    }

    pub(crate) fn boolean(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.rest {
            [value @ 0..=1, rest @ ..] => {
                self.rest = rest;
                Ok(*value == 1)
            }
            [] => Err(DecodeError::Truncated(field)),
            _ => Err(DecodeError::BadBranch(field)),
        }
    }

    pub(crate) fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(self.long(field)?).map_err(|_| DecodeError::BadLength(field))?;
        let (value, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated(field))?;
        self.rest = rest;
        Ok(value)
    }

    pub(crate) fn string(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| DecodeError::NotUtf8(field))
    }

    pub(crate) fn timestamp(&mut self, field: &'static str) -> Result<Timestamp, DecodeError> {
        self.long(field).map(Timestamp::from_micros)
    }

    pub(crate) fn decimal(&mut self, field: &'static str) -> Result<i128, DecodeError> {
        let bytes = self.bytes(field)?;
        // most fit a machine word: the sign is the first byte's
        if let ([first, ..], true) = (bytes, bytes.len() <= 8) {
            let sign = if first & 0x80 == 0 { 0 } else { -1 };
            return Ok(i128::from(bytes.iter().fold(sign, |value: i64, byte| (value << 8) | i64::from(*byte))));
        }
        if bytes.is_empty() || bytes.len() > 16 {
            return Err(DecodeError::BadDecimal(field));
        }
        let mut wide = if bytes[0] & 0x80 == 0 { [0; 16] } else { [0xff; 16] };
        wide[16 - bytes.len()..].copy_from_slice(bytes);
        Ok(i128::from_be_bytes(wide))
    }

    /// `["null", T]`.
    pub(crate) fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        match self.long(field)? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(DecodeError::BadBranch(field)),
        }
    }

    /// An array: blocks of items until an empty block; a negative count is followed by the block's size.
    pub(crate) fn array<T>(
        &mut self,
        field: &'static str,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let mut items = Vec::new();
        loop {
            let mut count = self.long(field)?;
            if count == 0 {
                return Ok(items);
            }
            if count < 0 {
                count = count.checked_neg().ok_or(DecodeError::BadLength(field))?;
                self.long(field)?;
            }
            for _ in 0..count {
                items.push(read(self)?);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_take_the_fewest_bytes() {
        for (value, expected) in [
            (0i128, &[0x00][..]),
            (1, &[0x01]),
            (-1, &[0xff]),
            (127, &[0x7f]),
            (128, &[0x00, 0x80]),
            (-128, &[0x80]),
            (-129, &[0xff, 0x7f]),
            (i128::MAX, &i128::MAX.to_be_bytes()),
            (i128::MIN, &i128::MIN.to_be_bytes()),
        ] {
            let mut bytes = Vec::new();
            Writer(&mut bytes).decimal(value);
            assert_eq!(&bytes[1..], expected, "{value}");
            assert_eq!(Reader::new(&bytes).decimal("value"), Ok(value));
        }
    }

    #[test]
    fn longs_round_trip_at_the_edges() {
        for value in [0, 1, -1, 63, 64, -64, -65, i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            Writer(&mut bytes).long(value);
            assert_eq!(Reader::new(&bytes).long("value"), Ok(value));
        }
        assert!(Reader::new(&[0xff; 10]).long("value").is_err());
        assert!(Reader::new(&[0x80]).long("value").is_err());
    }
}
