//! What ClickHouse answers, and what to do about it.

/// What a writer does about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// The same bytes again, later: it may or may not have been done.
    Retry,
    /// A row is at fault: find it, put it aside.
    DeadLetter,
    /// Stop and say so: a person is needed (access, missing table, disagreement). Never skip.
    Fatal,
}

/// An error of ClickHouse or on the way to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call did not give what was asked for.
    #[error("cannot {doing}")]
    Call {
        /// What was being attempted.
        doing: String,
        /// The answer.
        #[source]
        source: clickhouse::error::Error,
    },
    /// No answer in time.
    #[error("cannot {doing}: no answer within {seconds} s")]
    Timeout {
        /// What was being attempted.
        doing: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The tables are not as `schemas/clickhouse` says; one line per difference.
    #[error("the database disagrees with schemas/clickhouse: {}", .0.join("; "))]
    Disagrees(Vec<String>),
}

impl Error {
    pub(crate) fn call(doing: impl Into<String>) -> impl FnOnce(clickhouse::error::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Call { doing, source }
    }

    /// What to do about it.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Timeout { .. } => Disposition::Retry,
            Self::Disagrees(_) => Disposition::Fatal,
            Self::Call { source, .. } => of_source(source),
        }
    }

    /// ClickHouse's own number for the error, when it said one.
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Call { source: clickhouse::error::Error::BadResponse(text), .. } => code_in(text),
            Self::Call { .. } | Self::Timeout { .. } | Self::Disagrees(_) => None,
        }
    }

    /// Whether the server cannot be reached (exit 69).
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Call { source, .. } => {
                matches!(source, clickhouse::error::Error::Network(_) | clickhouse::error::Error::TimedOut)
            }
            Self::Disagrees(_) => false,
        }
    }
}

fn of_source(source: &clickhouse::error::Error) -> Disposition {
    use clickhouse::error::Error as E;
    if let E::BadResponse(text) = source {
        return of_answer(text);
    }
    let lost_on_the_way = matches!(source, E::Network(_) | E::TimedOut | E::NotEnoughData | E::Decompression(_));
    if lost_on_the_way { Disposition::Retry } else { Disposition::Fatal }
}

/// **Source**: `src/Common/ErrorCodes.cpp` of ClickHouse 26.7.
fn of_answer(text: &str) -> Disposition {
    let Some(code) = code_in(text) else {
        // not ClickHouse itself: a proxy in between, or a body lost; what stands at the front may be a status line
        let refused = ["401", "403", "404"].iter().any(|status| text.trim_start().starts_with(status));
        return if refused { Disposition::Fatal } else { Disposition::Retry };
    };
    match code {
        // TOO_MANY_PARTS, but said of one block: our own table partition is wrong, and trying again will not mend it
        252 if text.contains("single INSERT block") => Disposition::Fatal,
        // TIMEOUT_EXCEEDED, TOO_MANY_SIMULTANEOUS_QUERIES, NO_FREE_CONNECTION, SOCKET_TIMEOUT, NETWORK_ERROR, ABORTED, MEMORY_LIMIT_EXCEEDED,
        // TABLE_IS_READ_ONLY, NOT_ENOUGH_SPACE, TOO_MANY_PARTS, TOO_FEW_LIVE_REPLICAS, UNKNOWN_STATUS_OF_INSERT, QUERY_WAS_CANCELLED,
        // ALL_CONNECTION_TRIES_FAILED, SYSTEM_ERROR, KEEPER_EXCEPTION
        159 | 202 | 203 | 209 | 210 | 236 | 241 | 242 | 243 | 252 | 279 | 285 | 319 | 394 | 425 | 999 => Disposition::Retry,
        // CANNOT_PARSE_TEXT, CANNOT_PARSE_INPUT_ASSERTION_FAILED, ATTEMPT_TO_READ_AFTER_EOF, CANNOT_READ_ALL_DATA, ARGUMENT_OUT_OF_BOUND,
        // INCORRECT_DATA, TOO_LARGE_STRING_SIZE, VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE, DECIMAL_OVERFLOW, VIOLATED_CONSTRAINT
        6 | 27 | 32 | 33 | 69 | 117 | 131 | 321 | 407 | 469 => Disposition::DeadLetter,
        // access, missing tables and columns, and everything unknown
        _ => Disposition::Fatal,
    }
}

fn code_in(text: &str) -> Option<u32> {
    let digits = text.split_once("Code: ")?.1;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_a_disposition() {
        for (text, expected) in [
            ("Code: 252. DB::Exception: Too many parts (3000). Merges are processing slower", Disposition::Retry),
            ("Code: 252. DB::Exception: Too many partitions for single INSERT block (more than 1)", Disposition::Fatal),
            ("Code: 241. DB::Exception: Memory limit", Disposition::Retry),
            ("Code: 469. DB::Exception: Constraint `c` violated", Disposition::DeadLetter),
            ("Code: 60. DB::Exception: Table default.trades_log does not exist", Disposition::Fatal),
            ("Code: 516. DB::Exception: Authentication failed", Disposition::Fatal),
            ("Code: 7777. DB::Exception: something new", Disposition::Fatal),
            ("502 Bad Gateway", Disposition::Retry),
            ("403 Forbidden", Disposition::Fatal),
            ("", Disposition::Retry),
        ] {
            assert_eq!(of_answer(text), expected, "{text}");
        }
    }
}
