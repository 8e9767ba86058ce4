//! Rotation as a picture: from whom (rows) to whom (columns), summed over the months chosen, with the sums of each at the edges.
//!
//! It draws what the rows say and computes nothing but their sums.
//!
//! Next: `picture.rs`, whose pencils it uses.

use super::picture::{FAINT, GRID, INFLOW, INK, MARGIN, at, between, in_order, plain_number, thin, unit_of, words, write};
use super::views::Rotation;
use crate::console::say;
use anyhow::{Context, ensure};
use plotters::drawing::IntoDrawingArea;
use plotters::element::{PathElement, Rectangle};
use plotters::prelude::SVGBackend;
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, RGBColor, WHITE};
use std::collections::{BTreeMap, BTreeSet};

/// Pixels.
const CELL: (u32, u32) = (132, 56);
const LEFT: u32 = 150;
const TOP: u32 = 132;
/// More names would make a picture that nobody reads.
const NAMES_AT_MOST: usize = 12;

/// The picture as SVG.
///
/// # Errors
/// No rotation, or more names than can be read.
pub(super) fn svg(rows: &[Rotation]) -> anyhow::Result<String> {
    let mut sums: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for row in rows {
        let amount: f64 = row.amount.parse().with_context(|| format!("an amount {:?}", row.amount))?;
        *sums.entry((&row.from, &row.to)).or_default() += amount;
    }
    let months: BTreeSet<&str> = rows.iter().map(|row| row.month.as_str()).collect();
    let stale: BTreeSet<&str> = rows.iter().filter(|row| row.stale).map(|row| row.month.as_str()).collect();
    let (first, last) = months.first().zip(months.last()).context("there is no rotation to draw")?;
    let names = in_order(sums.keys().flat_map(|(from, to)| [*from, *to]).collect());
    ensure!(names.len() <= NAMES_AT_MOST, "{} names are too many for a picture; choose some by --market", names.len());
    let greatest = sums.values().copied().fold(0.0, f64::max);
    let total: f64 = sums.values().sum();
    let of_row = |name: &str| sums.iter().filter(|((from, _), _)| *from == name).map(|(_, amount)| amount).sum::<f64>();
    let of_column = |name: &str| sums.iter().filter(|((_, to), _)| *to == name).map(|(_, amount)| amount).sum::<f64>();
    let (unit, scale) = unit_of(greatest);
    let currency = rows.first().map_or("", |row| row.currency.as_str());

    let count = u32::try_from(names.len())?;
    // and a column and a row of sums
    let (width, height) = (LEFT + (count + 1) * CELL.0 + MARGIN, TOP + (count + 1) * CELL.1 + 40);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let title = say(format!("Rotation {first} to {last}"), format!("자금 이동 {first} ~ {last}"));
        write(&root, &title, (MARGIN, 26), 22, INK, HPos::Left)?;
        let what = say(
            format!("{unit} {currency}, sum of {} months: from the market of a row to that of a column", months.len()),
            format!("{unit} {currency}, {}개월 합계: 행의 시장에서 열의 시장으로", months.len()),
        );
        write(&root, what.trim_start(), (MARGIN, 52), 14, INK, HPos::Left)?;
        let caution = say(
            "Net outflows of each month matched to its net inflows in proportion: an accounting, nobody saw the money on its way",
            "매월 순유출을 순유입에 비례 배분한 계산값이며, 실제 자금 경로를 관측한 것은 아님",
        );
        write(&root, caution, (MARGIN, 74), 13, FAINT, HPos::Left)?;

        let corner = |row: u32, column: u32| (LEFT + column * CELL.0, TOP + row * CELL.1);
        let middle = |row: u32, column: u32| (corner(row, column).0 + CELL.0 / 2, corner(row, column).1 + CELL.1 / 2);
        let all = say("sum", "합계");
        for (place, name) in (0..).zip(names.iter().map(|name| words(name)).chain([all.to_owned()])) {
            write(&root, &name, (middle(0, place).0, TOP - 16), 15, INK, HPos::Center)?;
            write(&root, &name, (LEFT - 14, middle(place, 0).1), 15, INK, HPos::Right)?;
        }
        for (row, from) in (0..).zip(&names) {
            for (column, to) in (0..).zip(&names) {
                let amount = sums.get(&(*from, *to)).copied().unwrap_or_default();
                let part = if greatest > 0.0 { amount / greatest } else { 0.0 };
                let colour = RGBColor(between(255, INFLOW.0, part), between(255, INFLOW.1, part), between(255, INFLOW.2, part));
                let corners = [corner(row, column), corner(row + 1, column + 1)].map(|(x, y)| at(x, y));
                root.draw(&Rectangle::new(corners, colour.filled()))?;
                root.draw(&Rectangle::new(corners, thin(GRID)))?;
                if from == to {
                    root.draw(&PathElement::new([(corners[0].0, corners[1].1), (corners[1].0, corners[0].1)], GRID))?;
                    continue;
                }
                let is_dark = part > 0.6;
                let ink = if is_dark { WHITE } else { INK };
                let (x, y) = middle(row, column);
                write(&root, &number(amount / scale), (x, y - 8), 15, ink, HPos::Center)?;
                let percent = if total > 0.0 { amount / total * 100.0 } else { 0.0 };
                let faint = if is_dark { GRID } else { FAINT };
                write(&root, &format!("{percent:.1} %"), (x, y + 12), 12, faint, HPos::Center)?;
            }
            write(&root, &number(of_row(from) / scale), middle(row, count), 15, INK, HPos::Center)?;
            write(&root, &number(of_column(from) / scale), middle(count, row), 15, INK, HPos::Center)?;
        }
        write(&root, &number(total / scale), middle(count, count), 15, INK, HPos::Center)?;
        if !stale.is_empty() {
            let (stale, all) = (stale.len(), months.len());
            let words = say(
                format!("In {stale} of {all} months an input is late or has a hole"),
                format!("{all}개월 중 {stale}개월은 입력값이 늦거나 빠짐"),
            );
            write(&root, &words, (MARGIN, height - 18), 13, FAINT, HPos::Left)?;
        }
        root.present()?;
    }
    Ok(text)
}

/// Little is not nothing.
fn number(value: f64) -> String {
    if value > 0.0 && value < 0.01 { "< 0.01".to_owned() } else { plain_number(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(month: &str, from: &str, to: &str, amount: &str, stale: bool) -> Rotation {
        let [month, from, to, amount] = [month, from, to, amount].map(str::to_owned);
        Rotation { month, from, to, amount, currency: "USD".to_owned(), stale }
    }

    #[test]
    fn months_are_summed_by_pair_with_sums_at_the_edges() {
        let rows = [
            row("2020-01", "stocks", "bonds", "1500000000.5", false),
            row("2020-02", "stocks", "bonds", "500000000", true),
            row("2020-02", "stocks", "real_estate", "250000000", true),
            row("2020-03", "bonds", "stocks", "1000000000", false),
        ];
        let drawn = svg(&rows).unwrap();
        for words in ["Rotation 2020-01 to 2020-03", "billion USD, sum of 3 months", "real estate", "In 1 of 3 months"] {
            assert!(drawn.contains(words), "{words}: {drawn}");
        }
        // stocks gave 2 and 0.25, in all 3.25; more went from stocks to bonds than from anybody to anybody
        for number in ["\n2\n", "\n0.25\n", "\n2.25\n", "\n3.25\n", "\n61.5 %\n"] {
            assert!(drawn.contains(number), "{number}: {drawn}");
        }
        assert_eq!(drawn.matches("#542788").count(), 1, "the strongest colour");
        assert!(!svg(&rows[..1]).unwrap().contains("late"));
        assert_eq!([0.0, 0.004, 0.01].map(number), ["0", "< 0.01", "0.01"]);
    }

    #[test]
    fn nothing_is_no_picture_and_too_much_is_none() {
        assert!(svg(&[]).is_err());
        let many: Vec<Rotation> = (0..13).map(|name| row("2020-01", &format!("a{name}"), "b", "1", false)).collect();
        assert!(svg(&many).unwrap_err().to_string().contains("--market"));
    }
}
