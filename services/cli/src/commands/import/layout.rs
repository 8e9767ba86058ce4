//! What stands in which column: from the command line or a named format, settled against the file's first line.
//!
//! Next: `row.rs`.

use super::row::split;
use crate::commands::time::{TimeReader, TimeUnit};
use anyhow::{Context, bail};
use csv::ByteRecord;
use jiff::tz::TimeZone;
use marketflow_model::{Interval, Price};

/// Formats of public trade files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum TradesFormat {
    /// Binance public data, trades: id, price, qty, quote qty, time (ms or µs), buyer is maker
    BinanceTrades,
    /// Binance public data, aggTrades: id, price, qty, first id, last id, time (ms or µs), buyer is maker
    BinanceAggtrades,
    /// Bitcoincharts: unix seconds, price, amount
    Bitcoincharts,
}

/// Formats of public candle files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum CandlesFormat {
    /// Binance public data, klines: open time (ms or µs), OHLC, volume, close time, quote volume, trades, taker base volume
    BinanceKlines,
}

/// Columns of a file, each as the user names it: by header, or by number from 1.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) delimiter: u8,
    /// `None` = look at the first line.
    pub(crate) header: Option<bool>,
    pub(crate) time: String,
    pub(crate) reader: TimeReader,
    pub(crate) columns: Columns<String>,
}

/// Columns by position from 0.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) delimiter: u8,
    /// Whether the first line names the columns.
    pub(crate) header: bool,
    pub(crate) time: usize,
    pub(crate) reader: TimeReader,
    pub(crate) columns: Columns<usize>,
}

/// The columns beside the time; `C` says how a column is named.
#[derive(Clone, Debug)]
pub(crate) enum Columns<C> {
    Trades(TradeColumns<C>),
    Candles(CandleColumns<C>),
}

#[derive(Clone, Debug)]
pub(crate) struct TradeColumns<C> {
    pub(crate) price: C,
    pub(crate) size: Option<C>,
    /// A negative size means that the seller was the aggressor.
    pub(crate) signed_size: bool,
    pub(crate) side: Option<SideColumn<C>>,
    pub(crate) id: Option<C>,
}

#[derive(Clone, Debug)]
pub(crate) struct SideColumn<C> {
    pub(crate) column: C,
    /// Cell that means the buyer was the aggressor; case does not matter.
    pub(crate) buy: String,
    /// Cell that means the seller was; `None` = every other one.
    pub(crate) sell: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct CandleColumns<C> {
    pub(crate) interval: Interval,
    pub(crate) open: C,
    pub(crate) high: C,
    pub(crate) low: C,
    pub(crate) close: C,
    pub(crate) volume: Option<C>,
    pub(crate) turnover: Option<C>,
    pub(crate) trade_count: Option<C>,
    pub(crate) buy_volume: Option<C>,
    /// Last instant of the window, where the file says it: the interval is checked against it.
    pub(crate) last_instant: Option<C>,
}

/// The zone's name, or its offset from UTC.
fn zone_name(zone: &TimeZone) -> String {
    match (zone.iana_name(), zone.to_fixed_offset()) {
        (Some(name), _) => name.to_owned(),
        (None, Ok(offset)) => offset.to_string(),
        (None, Err(_)) => "unnamed".to_owned(),
    }
}

fn number(column: u32) -> String {
    column.to_string()
}

impl TradesFormat {
    /// Where this format keeps what.
    pub(crate) fn wanted(self) -> Wanted {
        let binance = |time: u32, maker: u32| {
            let side = SideColumn { column: number(maker), buy: "false".to_owned(), sell: Some("true".to_owned()) };
            let columns = TradeColumns {
                price: number(2),
                size: Some(number(3)),
                signed_size: false,
                side: Some(side),
                id: Some(number(1)),
            };
            (time, TimeUnit::MsOrUs, columns)
        };
        let (time, unit, columns) = match self {
            Self::BinanceTrades => binance(5, 6),
            Self::BinanceAggtrades => binance(6, 7),
            Self::Bitcoincharts => {
                let columns = TradeColumns { price: number(2), size: Some(number(3)), signed_size: false, side: None, id: None };
                (1, TimeUnit::S, columns)
            }
        };
        let reader = TimeReader { unit, zone: None };
        Wanted { delimiter: b',', header: None, time: number(time), reader, columns: Columns::Trades(columns) }
    }
}

impl CandlesFormat {
    /// Where this format keeps what.
    pub(crate) fn wanted(self, interval: Interval) -> Wanted {
        let Self::BinanceKlines = self;
        let columns = CandleColumns {
            interval,
            open: number(2),
            high: number(3),
            low: number(4),
            close: number(5),
            volume: Some(number(6)),
            turnover: Some(number(8)),
            trade_count: Some(number(9)),
            buy_volume: Some(number(10)),
            last_instant: Some(number(7)),
        };
        let reader = TimeReader { unit: TimeUnit::MsOrUs, zone: None };
        Wanted { delimiter: b',', header: None, time: number(1), reader, columns: Columns::Candles(columns) }
    }
}

impl Wanted {
    /// Finds every column in the file whose first line is `first_line`.
    ///
    /// # Errors
    /// A column that is not there, or a name where no header is.
    pub(crate) fn settle(&self, first_line: &[u8]) -> anyhow::Result<Layout> {
        let mut first = ByteRecord::new();
        split(first_line, self.delimiter, &mut first);
        let mut layout = Layout {
            delimiter: self.delimiter,
            header: self.header.unwrap_or(false),
            time: self.find(&self.time, &first).context("--time-column")?,
            reader: self.reader.clone(),
            columns: self.columns.try_map(|column| self.find(column, &first))?,
        };
        if self.header.is_none() {
            layout.header = self.names_a_column() || layout.holds_no_values(&first);
        }
        Ok(layout)
    }

    fn find(&self, column: &str, first: &ByteRecord) -> anyhow::Result<usize> {
        if let Ok(number) = column.parse::<usize>() {
            return number.checked_sub(1).context("columns are counted from 1");
        }
        if self.header == Some(false) {
            bail!("column {column:?} is given by name, but the file has no header line; give its number, from 1");
        }
        let names: Vec<String> = first.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let same = |name: &String| name == column;
        let alike = |name: &String| name.eq_ignore_ascii_case(column);
        names.iter().position(same).or_else(|| names.iter().position(alike)).with_context(|| {
            let hint = if names.len() == 1 { "; is --delimiter right?" } else { "; columns can also be given by number, from 1" };
            format!("no column {column:?} in the first line, which has {}{hint}", names.join(", "))
        })
    }

    fn names_a_column(&self) -> bool {
        let mut named = self.time.parse::<usize>().is_err();
        let looked_at = self.columns.try_map(|column| {
            named |= column.parse::<usize>().is_err();
            Ok(0)
        });
        named && looked_at.is_ok()
    }
}

impl Layout {
    /// Whether neither the time nor the price of this line can be read: then it is a header. A line with one bad cell is a bad row.
    fn holds_no_values(&self, line: &ByteRecord) -> bool {
        let cell = |at: usize| line.get(at).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
        let price = match &self.columns {
            Columns::Trades(trades) => trades.price,
            Columns::Candles(candles) => candles.open,
        };
        let zoneless = matches!(self.reader.read(cell(self.time)), Err(crate::commands::time::TimeError::NoZone));
        !zoneless && self.reader.read(cell(self.time)).is_err() && cell(price).parse::<Price>().is_err()
    }

    /// The options that decide what the rows mean, as one text: part of the import id, so its spelling must not change.
    pub(crate) fn identity(&self) -> String {
        let optional = |column: Option<usize>| column.map_or("-".to_owned(), |c| c.to_string());
        let zone = self.reader.zone.as_ref().map_or_else(|| "-".to_owned(), zone_name);
        let unit = match self.reader.unit {
            TimeUnit::S => "s",
            TimeUnit::Ms => "ms",
            TimeUnit::Us => "us",
            TimeUnit::Ns => "ns",
            TimeUnit::Iso => "iso",
            TimeUnit::MsOrUs => "ms-or-us",
        };
        let columns = match &self.columns {
            Columns::Trades(t) => {
                let side = t.side.as_ref().map_or_else(
                    || "-".to_owned(),
                    |s| {
                        format!(
                            "{}={:?}/{:?}",
                            s.column,
                            s.buy.to_ascii_lowercase(),
                            s.sell.as_deref().map(str::to_ascii_lowercase)
                        )
                    },
                );
                let (size, id) = (optional(t.size), optional(t.id));
                format!("trades price={} size={size} signed={} side={side} id={id}", t.price, t.signed_size)
            }
            Columns::Candles(c) => {
                let rest = [c.volume, c.turnover, c.trade_count, c.buy_volume, c.last_instant].map(optional).join(" ");
                format!("candles {} {} {} {} {} {rest}", c.interval, c.open, c.high, c.low, c.close)
            }
        };
        format!("{} {} time={} {unit} {zone} {columns}", self.delimiter, self.header, self.time)
    }
}

impl<C> Columns<C> {
    fn try_map<D>(&self, mut find: impl FnMut(&C) -> anyhow::Result<D>) -> anyhow::Result<Columns<D>> {
        let mut optional = |column: &Option<C>, option| column.as_ref().map(&mut find).transpose().context(option);
        Ok(match self {
            Self::Trades(t) => {
                let size = optional(&t.size, "--size-column")?;
                let id = optional(&t.id, "--id-column")?;
                let side = match &t.side {
                    Some(side) => {
                        let column = find(&side.column).context("--side-column")?;
                        Some(SideColumn { column, buy: side.buy.clone(), sell: side.sell.clone() })
                    }
                    None => None,
                };
                let price = find(&t.price).context("--price-column")?;
                Columns::Trades(TradeColumns { price, size, signed_size: t.signed_size, side, id })
            }
            Self::Candles(c) => Columns::Candles(CandleColumns {
                interval: c.interval,
                volume: optional(&c.volume, "--volume-column")?,
                turnover: optional(&c.turnover, "--turnover-column")?,
                trade_count: optional(&c.trade_count, "--count-column")?,
                buy_volume: optional(&c.buy_volume, "--buy-volume-column")?,
                last_instant: optional(&c.last_instant, "close time")?,
                open: find(&c.open).context("--open-column")?,
                high: find(&c.high).context("--high-column")?,
                low: find(&c.low).context("--low-column")?,
                close: find(&c.close).context("--close-column")?,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(time: &str, price: &str) -> Wanted {
        let columns = TradeColumns { price: price.to_owned(), size: None, signed_size: false, side: None, id: None };
        Wanted {
            delimiter: b',',
            header: None,
            time: time.to_owned(),
            reader: TimeReader { unit: TimeUnit::S, zone: None },
            columns: Columns::Trades(columns),
        }
    }

    fn positions(layout: &Layout) -> (bool, usize, usize) {
        let Columns::Trades(trades) = &layout.columns else { panic!("trades were wanted") };
        (layout.header, layout.time, trades.price)
    }

    #[test]
    fn columns_are_found_by_name_or_number() {
        let header = b"id, Price ,\"time, UTC\"";
        assert_eq!(positions(&by("time, UTC", "price").settle(header).unwrap()), (true, 2, 1));
        assert_eq!(positions(&by("3", "2").settle(header).unwrap()), (true, 2, 1));
        assert_eq!(positions(&by("3", "2").settle(b"17,800.01,1385337600").unwrap()), (false, 2, 1));
    }

    #[test]
    fn a_first_line_with_one_bad_cell_is_a_row_and_not_a_header() {
        assert!(!by("1", "2").settle(b"1385337600,oops").unwrap().header);
        assert!(!by("1", "2").settle(b"oops,800.01").unwrap().header);
        assert!(by("1", "2").settle(b"time,price").unwrap().header);
    }

    #[test]
    fn a_column_that_is_not_there_is_said_with_the_cure() {
        let check = |wanted: Wanted, line: &[u8], part: &str| {
            let error = format!("{:#}", wanted.settle(line).unwrap_err());
            assert!(error.contains(part), "{error}");
        };
        check(by("when", "price"), b"time,price", "--time-column: no column \"when\" in the first line, which has time, price");
        check(by("time", "cost"), b"time;price", "is --delimiter right?");
        check(by("0", "2"), b"time,price", "from 1");
        check(Wanted { header: Some(false), ..by("time", "price") }, b"1,2", "no header line");
    }

    #[test]
    fn the_identity_tells_layouts_apart_and_names_from_numbers_not() {
        let header = b"time,price,size";
        let identity = |wanted: &Wanted| wanted.settle(header).unwrap().identity();
        assert_eq!(identity(&by("time", "price")), identity(&by("1", "2")));
        assert_eq!(identity(&by("time", "price")), "44 true time=0 s - trades price=1 size=- signed=false side=- id=-");
        assert_ne!(identity(&by("time", "price")), identity(&by("time", "size")));
    }
}
