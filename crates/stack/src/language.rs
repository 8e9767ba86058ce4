//! The language people read: English, or Korean where `LANG` says so.

use std::env;

/// A language of the texts people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English.
    English,
    /// Korean.
    Korean,
}

impl Language {
    /// As `LC_ALL`, `LC_MESSAGES` or `LANG` says, the first that is set.
    #[must_use]
    pub fn of_user() -> Self {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let locale = set("LC_ALL").or_else(|| set("LC_MESSAGES")).or_else(|| set("LANG")).unwrap_or_default();
        if locale.starts_with("ko") { Self::Korean } else { Self::English }
    }

    /// The text in this language.
    pub fn pick<T>(self, english: T, korean: T) -> T {
        match self {
            Self::English => english,
            Self::Korean => korean,
        }
    }
}
