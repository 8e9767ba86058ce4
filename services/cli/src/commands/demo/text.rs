//! Numbers people can read, widths of text on a terminal, colour where there is one.

use jiff::tz::TimeZone;
use marketflow_model::Timestamp;
use marketflow_stack::Language;
use std::env;
use std::time::Duration;
use unicode_width::UnicodeWidthChar;

/// What a text is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tone {
    /// A bar that closed at or above its open.
    Up,
    /// A bar that closed below it.
    Down,
    Good,
    Bad,
    Faint,
    Strong,
}

/// Colours, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Paint {
    coloured: bool,
    /// In Korea red is up and blue is down.
    red_is_up: bool,
}

impl Paint {
    /// For tests and files.
    #[cfg(test)]
    pub(super) const PLAIN: Self = Self { coloured: false, red_is_up: false };

    /// Colours for a terminal, unless `NO_COLOR` asks for none.
    pub(super) fn of_terminal(is_terminal: bool, language: Language) -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { coloured: is_terminal && !unwanted, red_is_up: language == Language::Korean }
    }

    pub(super) fn apply(self, tone: Tone, text: &str) -> String {
        if !self.coloured {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Up if self.red_is_up => "31",
            Tone::Down if self.red_is_up => "34",
            Tone::Up | Tone::Good => "32",
            Tone::Down | Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A stretch of time, short: `340 ms`, `2.1 s`, `1 min 05 s`.
pub(super) fn stretch(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        _ => format!("{} min {:02} s", millis / 60_000, millis % 60_000 / 1_000),
    }
}

/// An instant in a zone, as `format` says (strftime).
pub(super) fn local(instant: Timestamp, zone: &TimeZone, format: &str) -> String {
    let at = jiff::Timestamp::from_microsecond(instant.micros());
    at.map_or_else(|_| instant.to_string(), |at| at.to_zoned(zone.clone()).strftime(format).to_string())
}

/// Columns a text takes on a terminal, colour codes not counted.
pub(super) fn columns(text: &str) -> usize {
    visible(text).map(|(_, letter)| letter.width().unwrap_or(0)).sum()
}

/// The text padded with spaces to `width` columns.
pub(super) fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

/// The text cut to `width` columns, colours closed.
pub(super) fn cut(text: &str, width: usize) -> String {
    let mut used = 0;
    for (at, letter) in visible(text) {
        used += letter.width().unwrap_or(0);
        if used > width {
            let kept = &text[..at];
            return if kept.contains('\u{1b}') { format!("{kept}\u{1b}[0m") } else { kept.to_owned() };
        }
    }
    text.to_owned()
}

/// The letters that are seen, with their byte positions.
fn visible(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut in_code = false;
    text.char_indices().filter(move |(_, letter)| {
        if *letter == '\u{1b}' {
            in_code = true;
            return false;
        }
        let seen = !in_code;
        if in_code && letter.is_ascii_alphabetic() {
            in_code = false;
        }
        seen
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_stretches_are_readable() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (millis, text) in [(340, "340 ms"), (2_190, "2.1 s"), (65_000, "1 min 05 s")] {
            assert_eq!(stretch(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn hangul_takes_two_columns_and_colours_take_none() {
        let painted = Paint { coloured: true, red_is_up: true }.apply(Tone::Up, "체결 3");
        assert_eq!((columns(&painted), columns("체결 3")), (6, 6));
        assert_eq!(cut("체결 3", 3), "체");
        assert_eq!(columns(&cut(&painted, 3)), 2);
        assert!(cut(&painted, 3).ends_with("\u{1b}[0m"));
        assert_eq!(padded("체", 4), "체  ");
    }
}
