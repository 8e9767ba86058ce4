//! What goes wrong with a request, as ClickHouse says it: an error code, a text, and the HTTP status that goes with the code.
//!
//! Codes we raise ourselves carry ClickHouse's own names; a test compares them with the engine's table.
//!
//! Next: `sql.rs`.

use http::StatusCode;

/// An error with ClickHouse's code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fault {
    pub(crate) code: i32,
    pub(crate) message: String,
}

/// Codes this server raises itself, with ClickHouse's names.
pub(crate) mod code {
    pub(crate) const CANNOT_READ_ALL_DATA: i32 = 33;
    pub(crate) const BAD_ARGUMENTS: i32 = 36;
    pub(crate) const NOT_IMPLEMENTED: i32 = 48;
    pub(crate) const SYNTAX_ERROR: i32 = 62;
    pub(crate) const UNKNOWN_SETTING: i32 = 115;
    pub(crate) const READONLY: i32 = 164;
    pub(crate) const REQUIRED_PASSWORD: i32 = 194;
    pub(crate) const TOO_MANY_SIMULTANEOUS_QUERIES: i32 = 202;
    pub(crate) const SOCKET_TIMEOUT: i32 = 209;
    pub(crate) const INVALID_SESSION_TIMEOUT: i32 = 374;
    pub(crate) const SESSION_NOT_FOUND: i32 = 372;
    pub(crate) const SESSION_IS_LOCKED: i32 = 373;
    pub(crate) const TOO_MANY_ROWS_OR_BYTES: i32 = 396;
    pub(crate) const ACCESS_DENIED: i32 = 497;
    pub(crate) const AUTHENTICATION_FAILED: i32 = 516;
    pub(crate) const STD_EXCEPTION: i32 = 1001;

    pub(crate) const NAMES: &[(i32, &str)] = &[
        (CANNOT_READ_ALL_DATA, "CANNOT_READ_ALL_DATA"),
        (BAD_ARGUMENTS, "BAD_ARGUMENTS"),
        (NOT_IMPLEMENTED, "NOT_IMPLEMENTED"),
        (SYNTAX_ERROR, "SYNTAX_ERROR"),
        (UNKNOWN_SETTING, "UNKNOWN_SETTING"),
        (READONLY, "READONLY"),
        (REQUIRED_PASSWORD, "REQUIRED_PASSWORD"),
        (TOO_MANY_SIMULTANEOUS_QUERIES, "TOO_MANY_SIMULTANEOUS_QUERIES"),
        (SOCKET_TIMEOUT, "SOCKET_TIMEOUT"),
        (INVALID_SESSION_TIMEOUT, "INVALID_SESSION_TIMEOUT"),
        (SESSION_NOT_FOUND, "SESSION_NOT_FOUND"),
        (SESSION_IS_LOCKED, "SESSION_IS_LOCKED"),
        (TOO_MANY_ROWS_OR_BYTES, "TOO_MANY_ROWS_OR_BYTES"),
        (ACCESS_DENIED, "ACCESS_DENIED"),
        (AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED"),
        (STD_EXCEPTION, "STD_EXCEPTION"),
    ];
}

impl Fault {
    /// A fault of our own, worded as ClickHouse words its own.
    pub(crate) fn new(code: i32, what: impl AsRef<str>) -> Self {
        let name = code::NAMES.iter().find(|(known, _)| *known == code).map_or("STD_EXCEPTION", |(_, name)| name);
        Self { code, message: format!("Code: {code}. DB::Exception: {}. ({name})", what.as_ref()) }
    }

    /// Something that should not happen.
    pub(crate) fn internal(what: impl AsRef<str>) -> Self {
        Self::new(code::STD_EXCEPTION, what)
    }

    /// The engine's text, `Code: N. DB::Exception: …`; its code is read back from it. The engine sometimes says its prefix twice.
    pub(crate) fn of_engine(text: &str) -> Self {
        let text = text.trim_end();
        let Some((code, rest)) = parse_code(text) else { return Self::internal(text) };
        let prefix = &text[..text.len() - rest.len()];
        let message = if rest.starts_with(prefix) { rest } else { text };
        Self { code, message: message.to_owned() }
    }

    /// The status ClickHouse's HTTP handler answers with for this code (`exceptionCodeToHTTPStatus.cpp`).
    pub(crate) fn status(&self) -> StatusCode {
        match self.code {
            194 => StatusCode::UNAUTHORIZED,
            // unknown user, wrong password, access denied, role not granted, authentication failed
            192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
            // bad arguments, texts that do not parse, syntax, wrong types and values, odd syntax trees
            6 | 8 | 15 | 25 | 26 | 27 | 36 | 37 | 38 | 41 | 44 | 53 | 62 | 72 | 117 | 123 | 167 | 168 | 223 | 321 | 376 | 427
            | 441 | 675 | 676 => StatusCode::BAD_REQUEST,
            // unknown: table, function, identifier, type, storage, database, setting, sorting, aggregate, format, engine, kind, role
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => StatusCode::NOT_FOUND,
            159 => StatusCode::REQUEST_TIMEOUT,
            381 => StatusCode::LENGTH_REQUIRED,
            229 => StatusCode::PAYLOAD_TOO_LARGE,
            48 => StatusCode::NOT_IMPLEMENTED,
            779 => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            76 | 209 | 439 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

fn parse_code(text: &str) -> Option<(i32, &str)> {
    let (code, rest) = text.strip_prefix("Code: ")?.split_once(". DB::Exception: ")?;
    Some((code.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_read_from_the_engines_text() {
        let fault = Fault::of_engine("Code: 60. DB::Exception: Table default.t does not exist. (UNKNOWN_TABLE)\n");
        assert_eq!((fault.code, fault.status()), (60, StatusCode::NOT_FOUND));
        let twice = Fault::of_engine("Code: 115. DB::Exception: Code: 115. DB::Exception: Unknown setting. (UNKNOWN_SETTING)");
        assert_eq!(twice.message, "Code: 115. DB::Exception: Unknown setting. (UNKNOWN_SETTING)");
        assert_eq!(Fault::of_engine("Query processing failed").code, code::STD_EXCEPTION);
    }

    #[test]
    fn our_own_faults_read_like_the_engines() {
        let fault = Fault::new(code::READONLY, "cannot write");
        assert_eq!(fault.message, "Code: 164. DB::Exception: cannot write. (READONLY)");
        assert_eq!(fault.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
