//! One line to one row, exactly or with a reason why not.
//!
//! Next: `order.rs`.

use super::layout::{CandleColumns, Columns, Layout, TradeColumns};
use super::lines::{Line, Lines};
use crate::commands::time::TimeError;
use csv::ByteRecord;
use marketflow_model::{Amount, DecimalError, Interval, Price, Quantity, Side, Timestamp};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// A line that is a row, or one that is not.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Item {
    Row(Row),
    Bad(BadRow),
}

/// A row in exact values.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) line: u64,
    /// A candle's open time.
    pub(crate) event_time: Timestamp,
    pub(crate) values: Values,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Values {
    Trade {
        price: Price,
        size: Option<Quantity>,
        side: Side,
        trade_id: Option<String>,
        /// The id as a number, where it is one.
        number: Option<i64>,
    },
    Candle {
        interval: Interval,
        open: Price,
        high: Price,
        low: Price,
        close: Price,
        volume: Option<Quantity>,
        turnover: Option<Amount>,
        trade_count: Option<i64>,
        buy_volume: Option<Quantity>,
    },
}

/// A line that cannot be a row, byte for byte.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct BadRow {
    pub(crate) line: u64,
    pub(crate) reason: String,
    pub(crate) raw: Vec<u8>,
}

/// What ends the reading of a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("cannot read {path} behind line {line}", path = path.display())]
    Read { path: PathBuf, line: u64, source: io::Error },
    #[error(
        "line {line}: the time {text:?} has no zone; say which one it is in, such as --time-zone UTC or --time-zone Asia/Seoul"
    )]
    NoZone { line: u64, text: String },
}

/// The rows of a file in file order.
pub(crate) struct Rows {
    pub(crate) lines: Lines,
    path: PathBuf,
    layout: Arc<Layout>,
    /// Half-open range of event times that is taken.
    range: Range<Timestamp>,
    cells: ByteRecord,
    last_line: u64,
    /// Rows outside the range.
    pub(crate) outside: u64,
}

impl Rows {
    pub(crate) fn new(lines: Lines, path: PathBuf, layout: Arc<Layout>, range: Range<Timestamp>) -> Self {
        Self { lines, path, layout, range, cells: ByteRecord::new(), last_line: 0, outside: 0 }
    }

    /// The next row inside the range, or the next bad one; blank lines are nothing.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, ReadError> {
        loop {
            let line =
                self.lines.next().map_err(|source| ReadError::Read { path: self.path.clone(), line: self.last_line, source })?;
            let Some(line) = line else { return Ok(None) };
            self.last_line = line.number;
            if (line.number == 1 && self.layout.header) || line.bytes.trim_ascii().is_empty() {
                continue;
            }
            match read_row(&line, &self.layout, &mut self.cells) {
                Ok(row) if self.range.contains(&row.event_time) => return Ok(Some(Item::Row(row))),
                Ok(_) => self.outside += 1,
                Err(NotARow::Bad(reason)) => {
                    return Ok(Some(Item::Bad(BadRow { line: line.number, reason, raw: line.bytes.to_vec() })));
                }
                Err(NotARow::NoZone(text)) => return Err(ReadError::NoZone { line: line.number, text }),
            }
        }
    }
}

enum NotARow {
    Bad(String),
    NoZone(String),
}

impl From<String> for NotARow {
    fn from(reason: String) -> Self {
        Self::Bad(reason)
    }
}

/// Splits a line into cells without blanks around them; quotes as in RFC 4180.
pub(super) fn split(line: &[u8], delimiter: u8, cells: &mut ByteRecord) {
    cells.clear();
    if line.contains(&b'"') {
        let mut csv = csv::ReaderBuilder::new().has_headers(false).delimiter(delimiter).from_reader(line);
        // reading from memory does not fail; a line of which nothing can be read has no cells, and is bad for that
        if !csv.read_byte_record(cells).unwrap_or(false) {
            cells.clear();
        }
        cells.trim();
        return;
    }
    for cell in line.split(|&b| b == delimiter) {
        cells.push_field(cell.trim_ascii());
    }
}

fn read_row(line: &Line<'_>, layout: &Layout, cells: &mut ByteRecord) -> Result<Row, NotARow> {
    if line.cut {
        return Err(NotARow::Bad(format!("the line is longer than {} bytes", super::lines::MAX_LINE_BYTES)));
    }
    split(line.bytes, layout.delimiter, cells);
    let cells = Cells(cells);
    let time = cells.text(layout.time, "time")?;
    let event_time = layout.reader.read(time).map_err(|error| match error {
        TimeError::NoZone => NotARow::NoZone(time.to_owned()),
        TimeError::Bad(reason) => NotARow::Bad(reason),
    })?;
    let values = match &layout.columns {
        Columns::Trades(columns) => trade(&cells, columns)?,
        Columns::Candles(columns) => candle(&cells, columns, layout, event_time)?,
    };
    Ok(Row { line: line.number, event_time, values })
}

fn trade(cells: &Cells<'_>, columns: &TradeColumns<usize>) -> Result<Values, String> {
    let price = cells.decimal(columns.price, "price")?;
    let (size, mut side) = match cells.optional_decimal(columns.size, "size")? {
        Some(size) if columns.signed_size => signed(size),
        Some(size) if size < Quantity::ZERO => return Err(format!("size {size} is negative; is --signed-size meant?")),
        size => (size, Side::Unknown),
    };
    if let Some(column) = &columns.side {
        let cell = cells.text(column.column, "side")?;
        let is = |value: &str| cell.eq_ignore_ascii_case(value);
        side = match &column.sell {
            _ if cell.is_empty() => Side::Unknown,
            _ if is(&column.buy) => Side::Buy,
            Some(sell) if !is(sell) => return Err(format!("side {cell:?} is neither {:?} nor {sell:?}", column.buy)),
            Some(_) | None => Side::Sell,
        };
    }
    let id = columns.id.map(|at| cells.text(at, "id")).transpose()?.filter(|id| !id.is_empty());
    Ok(Values::Trade { price, size, side, trade_id: id.map(str::to_owned), number: id.and_then(|id| id.parse().ok()) })
}

/// A negative size means that the seller was the aggressor; the sign of a zero means nothing.
fn signed(size: Quantity) -> (Option<Quantity>, Side) {
    match size.cmp(&Quantity::ZERO) {
        Ordering::Less => (Quantity::from_scaled(-size.scaled()), Side::Sell),
        Ordering::Equal => (Some(size), Side::Unknown),
        Ordering::Greater => (Some(size), Side::Buy),
    }
}

fn candle(cells: &Cells<'_>, columns: &CandleColumns<usize>, layout: &Layout, open_time: Timestamp) -> Result<Values, String> {
    let interval = columns.interval;
    if open_time.window_open(interval) != open_time {
        return Err(format!("open time {open_time} is not on an edge of {interval}"));
    }
    if let Some(at) = columns.last_instant {
        let text = cells.text(at, "close time")?;
        let last = layout.reader.read(text).map_err(|_| format!("close time {text:?} is not a time"))?;
        // the venue's last millisecond or microsecond of the window
        if last.window_open(interval) != open_time || last.plus_micros(1_000).window_open(interval) == open_time {
            return Err(format!("open {open_time} to close {last} is not a candle of {interval}"));
        }
    }
    let open: Price = cells.decimal(columns.open, "open")?;
    let high: Price = cells.decimal(columns.high, "high")?;
    let low: Price = cells.decimal(columns.low, "low")?;
    let close: Price = cells.decimal(columns.close, "close")?;
    if low > open.min(close) || high < open.max(close) {
        return Err(format!("open {open}, high {high}, low {low}, close {close} contradict each other"));
    }
    let volume: Option<Quantity> = cells.optional_decimal(columns.volume, "volume")?;
    let buy_volume: Option<Quantity> = cells.optional_decimal(columns.buy_volume, "buy volume")?;
    if volume.is_some_and(|v| v < Quantity::ZERO) || buy_volume.is_some_and(|v| v < Quantity::ZERO) {
        return Err("a volume is negative".to_owned());
    }
    let trade_count = match columns.trade_count.map(|at| cells.text(at, "trade count")).transpose()? {
        None | Some("") => None,
        Some(text) => match text.parse::<i64>() {
            Ok(count) if count >= 0 => Some(count),
            Ok(_) | Err(_) => return Err(format!("trade count {text:?} is not a whole number from 0")),
        },
    };
    let turnover = cells.optional_decimal(columns.turnover, "turnover")?;
    Ok(Values::Candle { interval, open, high, low, close, volume, turnover, trade_count, buy_volume })
}

/// The cells of a line, read with a reason when they are not what their column holds.
struct Cells<'a>(&'a ByteRecord);

impl<'a> Cells<'a> {
    fn text(&self, at: usize, what: &str) -> Result<&'a str, String> {
        let cell =
            self.0.get(at).ok_or_else(|| format!("{what} (column {}) is missing: the line has {}", at + 1, self.0.len()))?;
        std::str::from_utf8(cell).map_err(|_| format!("{what} is not UTF-8"))
    }

    fn decimal<T: FromStr<Err = DecimalError>>(&self, at: usize, what: &str) -> Result<T, String> {
        let text = self.text(at, what)?;
        text.parse().map_err(|error| match error {
            DecimalError::TooPrecise => format!("{what} {text:?} has more than 8 significant decimals"),
            DecimalError::NotANumber | DecimalError::OutOfRange => format!("{what} {text:?}: {error}"),
        })
    }

    /// An empty cell is a value not reported.
    fn optional_decimal<T: FromStr<Err = DecimalError>>(&self, at: Option<usize>, what: &str) -> Result<Option<T>, String> {
        match at {
            Some(at) if !self.text(at, what)?.is_empty() => self.decimal(at, what).map(Some),
            Some(_) | None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{CandlesFormat, SideColumn, TradesFormat, Wanted};
    use super::*;
    use crate::commands::time::{TimeReader, TimeUnit};

    fn read(layout: &Layout, line: &str) -> Result<Row, String> {
        let line = Line { number: 7, bytes: line.as_bytes(), cut: false };
        read_row(&line, layout, &mut ByteRecord::new()).map_err(|error| match error {
            NotARow::Bad(reason) => reason,
            NotARow::NoZone(text) => format!("no zone: {text}"),
        })
    }

    /// `time,price,size,side,id` with seconds.
    fn columns(signed_size: bool, sell: Option<&str>) -> Layout {
        let side = SideColumn { column: 3, buy: "B".to_owned(), sell: sell.map(str::to_owned) };
        let columns = TradeColumns { price: 1, size: Some(2), signed_size, side: Some(side), id: Some(4) };
        let reader = TimeReader { unit: TimeUnit::S, zone: None };
        Layout { delimiter: b',', header: false, time: 0, reader, columns: Columns::Trades(columns) }
    }

    /// Time, price, size, side, id, id as a number.
    type Expected<'a> = (&'a str, &'a str, &'a str, Side, Option<&'a str>, Option<i64>);

    fn check_trade(layout: &Layout, line: &str, expected: Result<Expected<'_>, &str>) {
        match (read(layout, line), expected) {
            (Ok(Row { event_time, values: Values::Trade { price, size, side, trade_id, number }, .. }), Ok(expected)) => {
                let size = size.map_or("-".to_owned(), |size| size.to_string());
                let read = (event_time.to_string(), price.to_string(), size, side, trade_id.as_deref(), number);
                let (time, price, size, side, id, number) = expected;
                assert_eq!(read, (time.to_owned(), price.to_owned(), size.to_owned(), side, id, number), "{line}");
            }
            (Err(reason), Err(part)) => assert!(reason.contains(part), "{line}: {reason}"),
            (read, expected) => panic!("{line}: {read:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn trades_are_read_exactly() {
        const T: &str = "2013-11-25T00:00:00Z";
        let check = |line, expected| check_trade(&columns(false, None), line, expected);
        check("1385337600,800.010000000000,0.100000000000,B,17", Ok((T, "800.01", "0.1", Side::Buy, Some("17"), Some(17))));
        check("1385337600 , 800.01 ,0.1, b , 17 ", Ok((T, "800.01", "0.1", Side::Buy, Some("17"), Some(17))));
        check("1385337600,\"800.01\",0.1,S,a-17", Ok((T, "800.01", "0.1", Side::Sell, Some("a-17"), None)));
        check("1385337600,800.01,,,", Ok((T, "800.01", "-", Side::Unknown, None, None)));
        check("1385337600,-37.63,0,S,017", Ok((T, "-37.63", "0", Side::Sell, Some("017"), Some(17))));
        check("1385337600,8E2,1e-8,B,1,further,cells", Ok((T, "800", "0.00000001", Side::Buy, Some("1"), Some(1))));
    }

    #[test]
    fn what_is_not_exact_or_not_clear_is_no_row() {
        let check = |line, part| check_trade(&columns(false, Some("S")), line, Err(part));
        check("1385337600,800.123456789,0.1,B,1", "price \"800.123456789\" has more than 8 significant decimals");
        check("1385337600,800,0.000000001,B,1", "size \"0.000000001\" has more than 8 significant decimals");
        check("1385337600,NaN,0.1,B,1", "price \"NaN\": not a decimal number");
        check("1385337600,\"1,163.00\",0.1,B,1", "price \"1,163.00\": not a decimal number");
        check("1385337600,99999999999,0.1,B,1", "out of range");
        check("1385337600,,0.1,B,1", "price");
        check("1385337600,800,-0.1,B,1", "is --signed-size meant?");
        check("1385337600,800,0.1,X,1", "side \"X\" is neither \"B\" nor \"S\"");
        check("1385337600,800,0.1,B", "id (column 5) is missing: the line has 4");
        check("1385337600123,800,0.1,B,1", "--time-unit");
        check("when,800,0.1,B,1", "time \"when\" is not a number");
        check("\"1385337600,800,0.1,B,1", "not a number");
    }

    #[test]
    fn the_sign_of_a_size_is_the_side_when_asked_for() {
        let mut layout = columns(true, None);
        if let Columns::Trades(trades) = &mut layout.columns {
            trades.side = None;
        }
        const T: &str = "2013-11-25T00:00:00Z";
        let check = |line, size, side| check_trade(&layout, line, Ok((T, "800", size, side, None, None)));
        check("1385337600,800,-0.25,,", "0.25", Side::Sell);
        check("1385337600,800,0.25,,", "0.25", Side::Buy);
        check("1385337600,800,-0,,", "0", Side::Unknown);
        check("1385337600,800,,,", "-", Side::Unknown);
    }

    fn settled(wanted: &Wanted, first: &str) -> Layout {
        wanted.settle(first.as_bytes()).unwrap()
    }

    #[test]
    fn public_dumps_are_read_in_old_and_new_shape() {
        let ms = "28457,61837.63000000,0.02000000,1236.75,1723161255342,True,True";
        let trades = settled(&TradesFormat::BinanceTrades.wanted(), ms);
        assert!(!trades.header);
        let expected = ("2024-08-08T23:54:15.342Z", "61837.63", "0.02", Side::Sell, Some("28457"), Some(28_457));
        check_trade(&trades, ms, Ok(expected));
        let us = "28458,4.15,50.00000000,207.5,1735689600010866,false,true";
        check_trade(&trades, us, Ok(("2025-01-01T00:00:00.010866Z", "4.15", "50", Side::Buy, Some("28458"), Some(28_458))));
        check_trade(&trades, "28459,4.15,1,4.15,1735689600010866,maybe,True", Err("side"));
        let header = "id,price,qty,quote_qty,time,is_buyer_maker,is_best_match";
        assert!(settled(&TradesFormat::BinanceTrades.wanted(), header).header);

        let line = "0,0.20000000,50.00000000,0,0,1735689600010866,False,True";
        let aggregated = settled(&TradesFormat::BinanceAggtrades.wanted(), line);
        check_trade(&aggregated, line, Ok(("2025-01-01T00:00:00.010866Z", "0.2", "50", Side::Buy, Some("0"), Some(0))));

        let line = "1385337600,800.010000000000,0.000000000000";
        let bitcoincharts = settled(&TradesFormat::Bitcoincharts.wanted(), line);
        check_trade(&bitcoincharts, line, Ok(("2013-11-25T00:00:00Z", "800.01", "0", Side::Unknown, None, None)));
    }

    #[test]
    fn klines_are_read_and_their_interval_is_checked() {
        let hour = Interval::from_minutes(60).unwrap();
        let line = "1735689600000000,4.1507,4.1587,4.1506,4.1554,539.23,1735693199999999,2240.399,13,401.82,1669.9,0";
        let layout = settled(&CandlesFormat::BinanceKlines.wanted(hour), line);
        let row = read(&layout, line).unwrap();
        assert_eq!(row.event_time.to_string(), "2025-01-01T00:00:00Z");
        let decimal = |text: &str| text.parse().unwrap();
        let expected = Values::Candle {
            interval: hour,
            open: decimal("4.1507"),
            high: decimal("4.1587"),
            low: decimal("4.1506"),
            close: decimal("4.1554"),
            volume: Some("539.23".parse().unwrap()),
            turnover: Some("2240.399".parse().unwrap()),
            trade_count: Some(13),
            buy_volume: Some("401.82".parse().unwrap()),
        };
        assert_eq!(row.values, expected);
        let in_ms = "1735689600000,4.1507,4.1587,4.1506,4.1554,,1735693199999,,,,,0";
        assert!(matches!(
            read(&layout, in_ms).unwrap().values,
            Values::Candle { volume: None, turnover: None, trade_count: None, .. }
        ));

        let refused = |layout: &Layout, line: &str, part: &str| {
            let reason = read(layout, line).unwrap_err();
            assert!(reason.contains(part), "{reason}");
        };
        let minutes = settled(&CandlesFormat::BinanceKlines.wanted(Interval::ONE_MINUTE), line);
        refused(&minutes, line, "is not a candle of 1m");
        refused(&layout, "1735689660000000,4,4,4,4,1,1735693199999999,4,1,1,4,0", "not on an edge of 60m");
        refused(&layout, "1735689600000000,4,3,4,4,1,1735693199999999,4,1,1,4,0", "contradict");
        refused(&layout, "1735689600000000,4,4,4,4,-1,1735693199999999,4,1,1,4,0", "negative");
        refused(&layout, "1735689600000000,4,4,4,4,1,1735693199999999,4,1.5,1,4,0", "trade count");
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn a_printed_trade_reads_back_as_itself(
                micros in -2_000_000_000_000_000i64..10_000_000_000_000_000,
                price in -999_999_999_999_999_999i64..1_000_000_000_000_000_000,
                size in proptest::option::of(0i128..1_000_000_000_000_000_000_000_000_000_000),
                side in 0usize..3,
                id in proptest::option::of("[a-z0-9-]{1,20}"),
                quoted in any::<bool>(),
                unit in 0usize..4,
            ) {
                let (unit, time) = match unit {
                    0 => (TimeUnit::S, format!("{}.{:06}", micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000))),
                    1 => (TimeUnit::Us, micros.to_string()),
                    2 => (TimeUnit::Ns, format!("{micros}000")),
                    _ => (TimeUnit::Iso, Timestamp::from_micros(micros).to_string()),
                };
                // -1.5 s is not -2 s + 0.5 s in text
                prop_assume!(unit != TimeUnit::S || micros >= 0);
                let side = [Side::Unknown, Side::Buy, Side::Sell][side];
                let price = Price::from_scaled(price).unwrap();
                let size = size.map(|size| Quantity::from_scaled(size).unwrap());
                let cells = [
                    time,
                    price.to_string(),
                    size.map(|size| size.to_string()).unwrap_or_default(),
                    ["", "B", "S"][side as usize].to_owned(),
                    id.clone().unwrap_or_default(),
                ];
                let line = cells.map(|cell| if quoted { format!("\"{cell}\"") } else { cell }).join(",");
                let mut layout = columns(false, Some("S"));
                layout.reader.unit = unit;
                let number = id.as_ref().and_then(|id| id.parse().ok());
                let values = Values::Trade { price, size, side, trade_id: id, number };
                let expected = Row { line: 7, event_time: Timestamp::from_micros(micros), values };
                prop_assert_eq!(read(&layout, &line), Ok(expected));
            }

            #[test]
            fn any_line_is_a_row_or_has_a_reason(line in "\\PC{0,60}") {
                if let Err(reason) = read(&columns(true, None), &line) {
                    prop_assert!(!reason.is_empty());
                }
            }
        }
    }
}
