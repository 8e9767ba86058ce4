//! Months of flows as a picture: a heat map of all names beside each other, and below it what each name's net flow was, on the same months.
//!
//! It draws what the table says and computes nothing but places and colours. A month that is not there, one that cannot be compared, and one
//! that is stale look different from each other and from a flow of zero.

use super::{Measure, PrintedFlow};
use crate::console::say;
use anyhow::{Context, ensure};
use marketflow_model::Month;
use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, Cross, PathElement, Rectangle, Text};
use plotters::prelude::SVGBackend;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, RGBColor, ShapeStyle, TextStyle, WHITE};
use std::collections::BTreeMap;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Pixels.
const WIDTH: u32 = 1280;
pub(super) const MARGIN: u32 = 16;
const LEFT: u32 = 170;
const RIGHT: u32 = 30;
const HEADER: u32 = 112;
const ROW: u32 = 30;
const YEARS: u32 = 34;
const PANEL: u32 = 112;
const TITLE: u32 = 26;
/// Numbers on the scale of a panel.
const MARKS_AT_MOST: usize = 5;
/// More names would make a picture that nobody reads.
const NAMES_AT_MOST: usize = 40;

/// ColorBrewer's PuOr, which people with any colour vision tell apart: from the strongest outflow over nothing to the strongest inflow.
const COLOURS: [RGBColor; 9] = [
    RGBColor(179, 88, 6),
    RGBColor(224, 130, 20),
    RGBColor(253, 184, 99),
    RGBColor(254, 224, 182),
    RGBColor(247, 247, 247),
    RGBColor(216, 218, 235),
    RGBColor(178, 171, 210),
    RGBColor(128, 115, 172),
    RGBColor(84, 39, 136),
];
const OUTFLOW: RGBColor = COLOURS[0];
pub(super) const INFLOW: RGBColor = COLOURS[8];
/// A month that cannot be compared.
const NO_VALUE: RGBColor = RGBColor(205, 205, 205);
pub(super) const INK: RGBColor = RGBColor(45, 45, 45);
pub(super) const FAINT: RGBColor = RGBColor(120, 120, 120);
pub(super) const GRID: RGBColor = RGBColor(225, 225, 225);

/// The order in which people list the markets; other names follow by the alphabet.
const MARKETS: [&str; 6] = ["stocks", "bonds", "forex", "crypto", "commodities", "real_estate"];

/// What is drawn.
struct Shown<'a> {
    names: Vec<&'a str>,
    first: Month,
    months: Vec<Month>,
    flows: BTreeMap<(&'a str, Month), &'a PrintedFlow>,
    measure: Measure,
    /// The value of the strongest colour.
    limit: f64,
    /// What is summed, by which method, in which currency.
    what: String,
}

/// The picture as SVG.
///
/// # Errors
/// No flows, or more names than can be read.
pub(crate) fn svg(flows: &[PrintedFlow], what: &str, measure: Measure) -> anyhow::Result<String> {
    let shown = Shown::of(flows, what, measure)?;
    let names = u32::try_from(shown.names.len())?;
    let height = HEADER + names * ROW + YEARS + TITLE + names * PANEL + YEARS;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (header, below) = root.split_vertically(HEADER);
        let (heat_map, below) = below.split_vertically(names * ROW + YEARS);
        shown.draw_header(&header)?;
        shown.draw_heat_map(&heat_map)?;
        let (title, mut below) = below.split_vertically(TITLE);
        let net = say(
            "Net flow of each month (+ = into the market; hollow = stale; × = no row)",
            "월별 순유입 (+ = 유입, 빈 막대 = 지연, × = 데이터 없음)",
        );
        write(&title, net, (LEFT, 18), 15, INK, HPos::Left)?;
        for name in &shown.names {
            let (panel, rest) = below.split_vertically(PANEL);
            shown.draw_panel(&panel, name)?;
            below = rest;
        }
        shown.draw_years(&below, 4)?;
        root.present()?;
    }
    Ok(text)
}

impl<'a> Shown<'a> {
    fn of(flows: &'a [PrintedFlow], what: &str, measure: Measure) -> anyhow::Result<Self> {
        let mut by_month = BTreeMap::new();
        for flow in flows {
            let month: Month = flow.month.parse().with_context(|| format!("a month {:?}", flow.month))?;
            by_month.insert((flow.name.as_str(), month), flow);
        }
        let first = by_month.keys().map(|(_, month)| *month).min().context("there are no flows to draw")?;
        let last = by_month.keys().map(|(_, month)| *month).max().unwrap_or(first);
        let names = in_order(by_month.keys().map(|(name, _)| *name).collect());
        ensure!(names.len() <= NAMES_AT_MOST, "{} names are too many for a picture; choose some by --market", names.len());
        let limit = match measure {
            Measure::ZScore => 3.0,
            Measure::Share => {
                let greatest = flows.iter().filter_map(|flow| flow.share).map(f64::abs).fold(0.0, f64::max);
                ((greatest * 10.0).ceil() / 10.0).clamp(0.1, 1.0)
            }
        };
        let months = first.through(last).collect();
        Ok(Self { names, first, months, flows: by_month, measure, limit, what: what.to_owned() })
    }

    fn measured(&self, flow: &PrintedFlow) -> Option<f64> {
        match self.measure {
            Measure::ZScore => flow.z_score,
            Measure::Share => flow.share,
        }
    }

    /// What the colours and marks mean.
    fn draw_header(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let (first, last) = (self.first, self.months.last().copied().unwrap_or(self.first));
        let title = say(format!("Fund flows {first} to {last}"), format!("자금 흐름 {first} ~ {last}"));
        write(area, &title, (LEFT, 24), 22, INK, HPos::Left)?;
        write(area, &self.what, (WIDTH - RIGHT, 24), 14, FAINT, HPos::Right)?;
        let measure = match self.measure {
            Measure::ZScore => say(
                "Colour: z-score, the month's net flow against the 36 months before, in standard deviations",
                "색: z-점수, 직전 36개월 대비 순유입(표준편차 단위)",
            ),
            Measure::Share => say(
                "Colour: share, the month's net flow in relation to all that flowed in and out of all of them",
                "색: 비중, 그달 전체 유입·유출 총액 대비 순유입",
            ),
        };
        write(area, measure, (LEFT, 48), 14, INK, HPos::Left)?;

        const BAR: (u32, u32, u32) = (14, 61, 330);
        let (high, top, wide) = BAR;
        let (steps, left) = (66, LEFT);
        for step in 0..steps {
            let colour = self.colour(self.limit * (2.0 * (f64::from(step) + 0.5) / f64::from(steps) - 1.0));
            let x = |step: u32| left + step * wide / steps;
            area.draw(&Rectangle::new([at(x(step), top), at(x(step + 1), top + high)], colour.filled()))?;
        }
        area.draw(&Rectangle::new([at(left, top), at(left + wide, top + high)], thin(FAINT)))?;
        let unit = |value: f64| match self.measure {
            Measure::ZScore => format!("{value:+.0}").replace('-', "−"),
            Measure::Share => format!("{:+.0}%", value * 100.0).replace('-', "−"),
        };
        let end = say(("outflow", "inflow"), ("유출", "유입"));
        let beyond = if self.measure == Measure::ZScore { ("≤ ", "≥ ") } else { ("", "") };
        let labels = [
            (format!("{}{} {}", beyond.0, unit(-self.limit), end.0), left, HPos::Left),
            ("0".to_owned(), left + wide / 2, HPos::Center),
            (format!("{}{} {}", beyond.1, unit(self.limit), end.1), left + wide, HPos::Right),
        ];
        for (label, x, anchor) in labels {
            write(area, &label, (x, top + high + 13), 13, INK, anchor)?;
        }

        let mut x = left + wide + 50;
        let not_compared = match self.measure {
            Measure::ZScore => say("fewer than 24 months to compare with", "비교할 달이 24개월 미만"),
            Measure::Share => say("nothing flowed", "흐름 없음"),
        };
        let keys = [
            (say("stale: an input is late or has a hole", "지연: 입력값이 늦거나 빠짐"), Key::Stale),
            (not_compared, Key::NoValue),
            (say("no row for the month", "해당 월 데이터 없음"), Key::Missing),
        ];
        for (words, key) in keys {
            let corners = [at(x, top), at(x + 14, top + high)];
            match key {
                Key::Stale => {
                    area.draw(&Rectangle::new(corners, COLOURS[5].filled()))?;
                    draw_stale(area, corners)?;
                }
                Key::NoValue => area.draw(&Rectangle::new(corners, NO_VALUE.filled()))?,
                Key::Missing => draw_missing(area, corners)?,
            }
            area.draw(&Rectangle::new(corners, thin(FAINT)))?;
            write(area, words, (x + 20, top + high / 2), 13, INK, HPos::Left)?;
            x += 36 + u32::try_from(words.chars().count())? * if words.is_ascii() { 6 } else { 11 };
        }
        Ok(())
    }

    fn draw_heat_map(&self, area: &Area<'_>) -> anyhow::Result<()> {
        for (row, name) in (0..).zip(&self.names) {
            let (top, bottom) = (row * ROW + 1, (row + 1) * ROW - 1);
            write(area, &words(name), (MARGIN, (top + bottom) / 2), 15, INK, HPos::Left)?;
            for month in &self.months {
                let corners = [at(self.x(*month), top), at(self.x(month.plus(1)), bottom)];
                let Some(flow) = self.flows.get(&(*name, *month)) else {
                    draw_missing(area, corners)?;
                    continue;
                };
                let colour = self.measured(flow).map_or(NO_VALUE, |value| self.colour(value));
                area.draw(&Rectangle::new(corners, colour.filled()))?;
                if flow.stale {
                    draw_stale(area, corners)?;
                }
            }
        }
        self.draw_years(area, u32::try_from(self.names.len())? * ROW + 2)
    }

    /// A name's months as bars on an axis of its own: markets differ a thousandfold.
    fn draw_panel(&self, area: &Area<'_>, name: &str) -> anyhow::Result<()> {
        let net = |flow: &PrintedFlow| flow.net.parse::<f64>().with_context(|| format!("a net flow {:?}", flow.net));
        let flows: Vec<(Month, bool, f64)> = (self.months.iter())
            .filter_map(|month| self.flows.get(&(name, *month)).map(|flow| Ok((*month, flow.stale, net(flow)?))))
            .collect::<anyhow::Result<_>>()?;
        let greatest = flows.iter().map(|(_, _, net)| net.abs()).fold(0.0, f64::max);
        let (unit, scale) = unit_of(greatest);
        let currency = self.flows.values().find(|flow| flow.name == name).map_or("", |flow| flow.currency.as_str());
        let (low, high) = flows.iter().fold((0.0_f64, 0.0_f64), |(low, high), (_, _, net)| (low.min(*net), high.max(*net)));
        let room = if high > low { (high - low) * 0.06 / scale } else { 1.0 };

        write(area, &words(name), (MARGIN, PANEL / 2 - 8), 15, INK, HPos::Left)?;
        write(area, format!("{unit} {currency}").trim(), (MARGIN, PANEL / 2 + 11), 13, FAINT, HPos::Left)?;
        let months = self.months.len() as f64;
        let mut chart = ChartBuilder::on(area)
            .margin_right(RIGHT)
            .margin_top(6)
            .margin_bottom(6)
            .set_label_area_size(LabelAreaPosition::Left, LEFT)
            .build_cartesian_2d(0.0..months, low / scale - room..high / scale + room)?;
        // the library's own choice can be the 0 alone
        let top = area.get_pixel_range().1.start;
        for mark in scale_marks(low / scale, high / scale) {
            chart.draw_series([PathElement::new([(0.0, mark), (months, mark)], GRID)])?;
            let (_, y) = chart.backend_coord(&(0.0, mark));
            write(area, &plain_number(mark), (LEFT - 10, u32::try_from(y - top).unwrap_or_default()), 12, FAINT, HPos::Right)?;
        }
        let bars = flows.iter().map(|(month, stale, net)| {
            let x = f64::from(month.months_since(self.first));
            let style = if *net < 0.0 { OUTFLOW } else { INFLOW };
            let style = if *stale { thin(style) } else { style.filled() };
            Rectangle::new([(x + 0.12, 0.0), (x + 0.88, net / scale)], style)
        });
        chart.draw_series(bars)?;
        chart.draw_series([PathElement::new([(0.0, 0.0), (months, 0.0)], INK)])?;
        let missing = self.months.iter().filter(|month| !self.flows.contains_key(&(name, **month)));
        for month in missing {
            let x = f64::from(month.months_since(self.first)) + 0.5;
            chart.draw_series([Cross::new((x, 0.0), 3, FAINT)])?;
        }
        Ok(())
    }

    /// Lines and words below a row of months.
    fn draw_years(&self, area: &Area<'_>, top: u32) -> anyhow::Result<()> {
        let step = [1, 3, 6, 12, 24, 60, 120, 240].into_iter().find(|step| self.months.len() / step <= 14).unwrap_or(1200);
        for month in &self.months {
            let since = month.year() * 12 + i32::from(month.month()) - 1;
            if since % i32::try_from(step)? == 0 {
                let words = if step < 12 { month.to_string() } else { month.year().to_string() };
                let x = self.x(*month);
                area.draw(&PathElement::new([at(x, top), at(x, top + 6)], FAINT))?;
                write(area, &words, (x, top + 15), 13, INK, HPos::Left)?;
            }
        }
        Ok(())
    }

    /// Where a month begins.
    fn x(&self, month: Month) -> u32 {
        let months = u32::try_from(self.months.len()).unwrap_or(u32::MAX);
        LEFT + u32::try_from(month.months_since(self.first)).unwrap_or_default() * (WIDTH - LEFT - RIGHT) / months.max(1)
    }

    fn colour(&self, value: f64) -> RGBColor {
        colour((value / self.limit).clamp(-1.0, 1.0))
    }
}

/// What a mark in a cell means.
enum Key {
    Stale,
    NoValue,
    Missing,
}

/// A dot in its middle, to be seen on any colour.
fn draw_stale(area: &Area<'_>, [(left, top), (right, bottom)]: [(i32, i32); 2]) -> anyhow::Result<()> {
    let middle = ((left + right) / 2, (top + bottom) / 2);
    area.draw(&Circle::new(middle, 3, WHITE.filled()))?;
    Ok(area.draw(&Circle::new(middle, 2, INK.filled()))?)
}

/// Nothing but a diagonal.
fn draw_missing(area: &Area<'_>, [(left, top), (right, bottom)]: [(i32, i32); 2]) -> anyhow::Result<()> {
    Ok(area.draw(&PathElement::new([(left + 1, bottom - 1), (right - 1, top + 1)], FAINT))?)
}

/// Between −1 and 1, on the way from one of the colours to the next.
fn colour(value: f64) -> RGBColor {
    let place = (value + 1.0) / 2.0 * (COLOURS.len() - 1) as f64;
    let below = place.floor().clamp(0.0, (COLOURS.len() - 2) as f64);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the list")]
    let (from, to) = (COLOURS[below as usize], COLOURS[below as usize + 1]);
    let part = place - below;
    RGBColor(between(from.0, to.0, part), between(from.1, to.1, part), between(from.2, to.2, part))
}

/// So much of the way from one part of a colour to another's.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a colour")]
pub(super) fn between(from: u8, to: u8, part: f64) -> u8 {
    (f64::from(from) + (f64::from(to) - f64::from(from)) * part).round() as u8
}

/// Each name once: markets as people list them, others by the alphabet.
pub(super) fn in_order(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_by_key(|name| (MARKETS.iter().position(|market| market == name).unwrap_or(MARKETS.len()), *name));
    names.dedup();
    names
}

pub(super) fn write(
    area: &Area<'_>,
    words: &str,
    (x, y): (u32, u32),
    size: u32,
    colour: RGBColor,
    anchor: HPos,
) -> anyhow::Result<()> {
    let style = text_style(size, colour).pos(Pos::new(anchor, VPos::Center));
    Ok(area.draw(&Text::new(words.to_owned(), at(x, y), style))?)
}

fn text_style(size: u32, colour: RGBColor) -> TextStyle<'static> {
    TextStyle { color: colour.to_backend_color(), ..("sans-serif", size).into_font().into() }
}

pub(super) fn thin(colour: RGBColor) -> ShapeStyle {
    colour.stroke_width(1)
}

/// Pixels as plotters counts them.
pub(super) fn at(x: u32, y: u32) -> (i32, i32) {
    (i32::try_from(x).unwrap_or(i32::MAX), i32::try_from(y).unwrap_or(i32::MAX))
}

/// `real_estate` as people write it.
pub(super) fn words(name: &str) -> String {
    let korean = match name {
        "stocks" => "주식",
        "bonds" => "채권",
        "forex" => "외환",
        "crypto" => "암호화폐",
        "commodities" => "원자재",
        "real_estate" => "부동산",
        "all" => "전체",
        _ => name,
    };
    say(name, korean).replace('_', " ")
}

/// In which unit amounts up to `greatest` are written, and how much it is.
pub(super) fn unit_of(greatest: f64) -> (&'static str, f64) {
    let units = [
        (say("trillion", "조"), 1e12),
        (say("billion", "십억"), 1e9),
        (say("million", "백만"), 1e6),
        (say("thousand", "천"), 1e3),
    ];
    units.into_iter().find(|(_, scale)| greatest >= *scale).unwrap_or(("", 1.0))
}

/// Round numbers from `low` to `high`, 0 among them: 1, 2 or 5 times a power of ten apart, as close as there is room for.
fn scale_marks(low: f64, high: f64) -> Vec<f64> {
    const HALF_OF_THEM: f64 = MARKS_AT_MOST as f64 / 2.0;
    let reach = high.max(-low);
    if reach <= 0.0 {
        return vec![0.0];
    }
    let power = 10_f64.powf((reach / HALF_OF_THEM).log10().floor());
    let marks = |step: f64| -> Vec<f64> {
        let (mut marks, mut mark) = (Vec::new(), (low / step).ceil());
        while mark * step <= high {
            marks.push(mark * step);
            mark += 1.0;
        }
        marks
    };
    [1.0, 2.0, 5.0, 10.0]
        .map(|times| marks(times * power))
        .into_iter()
        .find(|marks| marks.len() <= MARKS_AT_MOST)
        .unwrap_or_default()
}

/// Without digits that say nothing.
pub(super) fn plain_number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.replace('-', "−") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(name: &str, month: &str, net: &str, z_score: Option<f64>) -> PrintedFlow {
        PrintedFlow {
            month: month.to_owned(),
            name: name.to_owned(),
            inflow: "0".to_owned(),
            outflow: "0".to_owned(),
            net: net.to_owned(),
            currency: "USD".to_owned(),
            share: Some(0.25),
            z_score,
            input_count: 1,
            stale: false,
            revision: 0,
        }
    }

    fn count(svg: &str, what: &str) -> usize {
        svg.matches(what).count()
    }

    #[test]
    fn each_month_of_each_name_has_its_colour_and_what_is_odd_its_mark() {
        let flows = [
            flow("stocks", "2020-01", "-1000000000", Some(-9.0)),
            flow("stocks", "2020-02", "5000000000", Some(0.0)),
            flow("a<b", "2020-01", "1", None),
            flow("a<b", "2020-03", "0", Some(9.0)),
        ];
        let plain = svg(&flows, "market, COMBINED, USD", Measure::ZScore).unwrap();
        for words in ["stocks", "a&lt;b", "billion USD", "2020-01", "2020-03", "market, COMBINED, USD"] {
            assert!(plain.contains(words), "{words}: {plain}");
        }
        assert!(!plain.contains("a<b"));
        // far beyond the scale is its end
        let ends = [colour(-1.0), colour(1.0)].map(|c| format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2));
        assert_eq!(ends, ["#B35806", "#542788"]);
        // a dot more, and nothing else, where the month is stale
        let mut stale = flows.clone();
        stale[1].stale = true;
        let stale = svg(&stale, "market, COMBINED, USD", Measure::ZScore).unwrap();
        assert_eq!(count(&stale, "<circle"), count(&plain, "<circle") + 2);
        // stocks have no March, a<b no February: a row more, a mark less in the heat map and in the panel
        let mut whole = flows.to_vec();
        whole.push(flow("stocks", "2020-03", "1", Some(0.5)));
        let whole = svg(&whole, "market, COMBINED, USD", Measure::ZScore).unwrap();
        assert!(count(&whole, "<polyline") < count(&plain, "<polyline"), "{plain}");
        let shares = svg(&flows, "market, COMBINED, USD", Measure::Share).unwrap();
        assert!(shares.contains("+30%"), "{shares}");
    }

    #[test]
    fn ten_years_are_labelled_by_years_and_nothing_is_no_picture() {
        let first: Month = "2016-11".parse().unwrap();
        let flows: Vec<PrintedFlow> =
            (0..120).map(|month| flow("bonds", &first.plus(month).to_string(), "0", Some(0.0))).collect();
        let ten_years = svg(&flows, "", Measure::ZScore).unwrap();
        assert_eq!(count(&ten_years, "\n2020\n"), 2, "below the heat map and below the panels: {ten_years}");
        assert_eq!(count(&ten_years, "2016-12"), 0);
        assert!(svg(&[], "", Measure::ZScore).is_err());
        let many: Vec<PrintedFlow> = (0..41).map(|name| flow(&name.to_string(), "2020-01", "0", None)).collect();
        assert!(svg(&many, "", Measure::Share).unwrap_err().to_string().contains("--market"));
    }

    #[test]
    fn amounts_are_written_short() {
        let scales = [3e12, 2e9, 1e6, 5_000.0, 999.0, 0.0].map(|greatest| plain_number(unit_of(greatest).1));
        assert_eq!(scales, ["1000000000000", "1000000000", "1000000", "1000", "1", "1"]);
        assert_eq!([1.5, -0.001, 20.0, -2.25].map(plain_number), ["1.5", "0", "20", "−2.25"]);
        for (low, high, expected) in [
            (-347.0, 425.0, vec!["−200", "0", "200", "400"]),
            (-25.0, 27.0, vec!["−20", "−10", "0", "10", "20"]),
            (0.0, 999.0, vec!["0", "200", "400", "600", "800"]),
            (-1.4, 0.0, vec!["−1", "−0.5", "0"]),
            (0.0, 0.0, vec!["0"]),
        ] {
            assert_eq!(scale_marks(low, high).into_iter().map(plain_number).collect::<Vec<_>>(), expected, "{low} to {high}");
        }
    }
}
