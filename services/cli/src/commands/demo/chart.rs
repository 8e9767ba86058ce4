//! Bars as a candlestick drawing of box characters: pure, one column a bar, two steps of price a line.
//!
//! Next: `render.rs`.

use super::text::{Paint, Tone};
use marketflow_model::{Bar, Price};

/// Draws the last `width` bars in `height` lines, highest price first, with the highest, last and lowest price at the right edge.
pub(super) fn draw(bars: &[Bar], width: usize, height: usize, paint: Paint) -> Vec<String> {
    let shown = &bars[bars.len().saturating_sub(width)..];
    let (Some(low), Some(high)) = (shown.iter().map(|bar| bar.low).min(), shown.iter().map(|bar| bar.high).max()) else {
        return Vec::new();
    };
    let scale = Scale { low: low.scaled(), high: high.scaled(), steps: i64::try_from(height * 2).unwrap_or(2).max(2) };
    let last = shown.last().map_or(low, |bar| bar.close);
    (0..height)
        .map(|line| {
            let bottom = scale.steps - 2 - i64::try_from(line * 2).unwrap_or(0);
            let drawn: String = shown.iter().map(|bar| column(bar, &scale, bottom, paint)).collect();
            let margin = " ".repeat(width - shown.len());
            let label = label(&scale, bottom, low, last, high).map_or(String::new(), |price| format!(" {price}"));
            format!("{margin}{drawn}{label}")
        })
        .collect()
}

/// Steps of half a line, 0 at the lowest price shown.
struct Scale {
    low: i64,
    high: i64,
    steps: i64,
}

impl Scale {
    fn step(&self, price: Price) -> i64 {
        let range = i128::from(self.high - self.low).max(1);
        let place = i128::from(price.scaled() - self.low) * i128::from(self.steps - 1);
        i64::try_from((place + range / 2) / range).unwrap_or(0)
    }
}

/// What fills half a cell.
#[derive(Clone, Copy)]
enum Half {
    Empty,
    Wick,
    Body,
}

fn column(bar: &Bar, scale: &Scale, bottom: i64, paint: Paint) -> String {
    let (lower, upper) = if bar.open <= bar.close { (bar.open, bar.close) } else { (bar.close, bar.open) };
    let half = |step: i64| {
        if (scale.step(lower)..=scale.step(upper)).contains(&step) {
            Half::Body
        } else if (scale.step(bar.low)..=scale.step(bar.high)).contains(&step) {
            Half::Wick
        } else {
            Half::Empty
        }
    };
    let cell = match (half(bottom + 1), half(bottom)) {
        (Half::Empty, Half::Empty) => return " ".to_owned(),
        (Half::Wick, Half::Wick) => "│",
        (Half::Body, Half::Body) => "┃",
        (Half::Wick, Half::Body) => "╽",
        (Half::Body, Half::Wick) => "╿",
        (Half::Empty, Half::Body) => "╻",
        (Half::Body, Half::Empty) => "╹",
        (Half::Empty, Half::Wick) => "╷",
        (Half::Wick, Half::Empty) => "╵",
    };
    paint.apply(if bar.close >= bar.open { Tone::Up } else { Tone::Down }, cell)
}

/// The price named beside a line: the highest at the top, the lowest at the bottom, the last where it is.
fn label(scale: &Scale, bottom: i64, low: Price, last: Price, high: Price) -> Option<String> {
    if bottom == scale.steps - 2 {
        Some(high.to_string())
    } else if bottom == 0 {
        Some(low.to_string())
    } else {
        (bottom..=bottom + 1).contains(&scale.step(last)).then(|| format!("{last} ◂"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::bar;
    use super::*;

    #[test]
    fn a_bar_has_its_body_between_open_and_close_and_its_wicks_around() {
        let lines = |open: &str, close: &str| draw(&[bar(0, open, "4", "0", close)], 1, 4, Paint::PLAIN);
        assert_eq!(lines("2", "2.66"), ["│ 4", "┃ 2.66 ◂", "│", "│ 0"]);
        assert_eq!(lines("3.2", "2.66"), ["╽ 4", "╿ 2.66 ◂", "│", "│ 0"]);
        assert_eq!(lines("0", "4"), ["┃ 4", "┃", "┃", "┃ 0"]);
    }

    #[test]
    fn only_the_last_bars_are_drawn_and_they_stand_at_the_right() {
        let bars: Vec<Bar> = (0..5).map(|minute| bar(minute, "1", "2", "1", "2")).collect();
        let lines = draw(&bars, 3, 2, Paint::PLAIN);
        assert_eq!(lines, ["┃┃┃ 2", "┃┃┃ 1"]);
        assert_eq!(draw(&bars[..1], 3, 2, Paint::PLAIN), ["  ┃ 2", "  ┃ 1"]);
        assert!(draw(&[], 3, 2, Paint::PLAIN).is_empty());
    }

    #[test]
    fn bars_at_one_price_are_a_line_at_the_bottom() {
        assert_eq!(draw(&[bar(0, "7", "7", "7", "7")], 1, 2, Paint::PLAIN), ["  7", "╻ 7"]);
    }
}
