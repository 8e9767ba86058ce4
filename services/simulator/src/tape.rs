//! Tapes: recorded CSV files and generated sessions become markets with their trades.
//!
//! What a tape does not say is made up by fixed rules, which the truth file repeats:
//! - **ids**: on Bitstamp row *n* gets a rising 19-digit id with seeded holes of 2–31; on Binance consecutive numbers; on Upbit the trade's
//!   millisecond times 10,000 and a count within it. They are counted over the whole file, so a part of it keeps the ids it has in the whole;
//! - **side**: by the tick rule: price up → buy, down → sell, unchanged → as before, the first: buy.
//!
//! Rows are kept in file order; where their times go back they are sorted by time, file order deciding ties. A row that cannot be read stops the
//! start with its line number. Next: `market.rs`.

use crate::config::{Config, CsvTape, GeneratedTape, RangeConfig, TapeConfig, TimeUnit, instant_us};
use crate::decimal::Decimal;
use crate::kis;
use crate::market::{Market, Trade, Venue};
use crate::seed;
use crate::upbit;
use anyhow::{Context, anyhow, bail};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use tracing::{info, warn};

/// The rules by which missing ids and sides are made up, as the truth file states them.
pub const MAPPING: &[(&str, &str)] = &[
    (
        "id",
        "the tape's own id column where it has one; else on Bitstamp a rising 19-digit id per row with seeded holes of 2-31, on Binance consecutive, on Upbit milliseconds times 10,000 and a count, on the Korea Exchange the date and the day's volume",
    ),
    (
        "side",
        "the tape's own side column where it has one; else the tick rule: price up = buy, down = sell, unchanged = as before, first = buy",
    ),
    ("event_time", "as recorded; several trades may share it, the id then gives the order"),
];

/// Loads every tape of the configuration.
///
/// # Errors
/// A file that cannot be read, a row that is no trade (with its line), two tapes for one market.
pub fn load(config: &Config) -> anyhow::Result<Vec<Market>> {
    let mut markets: Vec<Market> = Vec::new();
    for tape in &config.tapes {
        let loaded = match tape {
            TapeConfig::Csv(tape) => load_csv(tape, &config.range, config.seed)?,
            TapeConfig::Generated(tape) => generate(tape, &config.range, config.seed)?,
            TapeConfig::KrxDay(tape) => kis::day::generate(tape, &config.range, config.seed)?,
        };
        for market in loaded {
            info!(instrument = market.instrument, trades = market.count(), "tape loaded");
            if markets.iter().any(|other| other.instrument == market.instrument) {
                bail!("two tapes for {}: one market is played from one tape", market.instrument);
            }
            markets.push(market);
        }
    }
    if !config.tapes.is_empty() && markets.iter().all(|market| market.count() == 0) {
        bail!("no trade lies within the range given; see range.from, range.to");
    }
    Ok(markets)
}

/// What is remembered from row to row of one market.
struct Series {
    base: String,
    quote: String,
    next_id: i64,
    id_seed: u64,
    rows: u64,
    last_price: Option<Decimal>,
    taker_sells: bool,
    trades: Vec<Trade>,
}

impl Series {
    fn new(venue: Venue, base: &str, quote: &str, seed: u64) -> Series {
        let id_seed = seed::mix(seed, &[seed::of_text(base), seed::of_text(quote)]);
        let next_id = match venue {
            Venue::Bitstamp => 1_900_000_000_000_000_000 + seed::pick_i64(id_seed, &[0], 1_000_000_000) * 1_000_000,
            Venue::Binance => 1_000_000 + seed::pick_i64(id_seed, &[0], 1_000_000),
            Venue::Upbit | Venue::Kis | Venue::Kiwoom => 0,
        };
        let (base, quote) = (base.to_owned(), quote.to_owned());
        Series { base, quote, next_id, id_seed, rows: 0, last_price: None, taker_sells: false, trades: Vec::new() }
    }

    fn take_id(&mut self, venue: Venue, time_us: i64) -> i64 {
        let id = match venue {
            Venue::Bitstamp | Venue::Binance | Venue::Kis | Venue::Kiwoom => self.next_id,
            Venue::Upbit => self.next_id.max(time_us.div_euclid(1_000).saturating_mul(10_000)),
        };
        self.rows += 1;
        self.next_id = id
            + match venue {
                Venue::Bitstamp => 2 + seed::pick_i64(self.id_seed, &[self.rows], 30),
                Venue::Binance | Venue::Upbit | Venue::Kis | Venue::Kiwoom => 1,
            };
        id
    }

    /// The tick rule.
    fn take_side(&mut self, price: Decimal) -> bool {
        let scaled = |price: Decimal| price.at_scale(18);
        if let Some(last) = self.last_price {
            match scaled(price).cmp(&scaled(last)) {
                std::cmp::Ordering::Greater => self.taker_sells = false,
                std::cmp::Ordering::Less => self.taker_sells = true,
                std::cmp::Ordering::Equal => {}
            }
        }
        self.last_price = Some(price);
        self.taker_sells
    }

    fn into_market(mut self, venue: Venue, decimals: (u8, u8)) -> Market {
        if !self.trades.is_sorted_by_key(|trade| trade.time_us) {
            warn!(base = self.base, quote = self.quote, "the tape's times go back here and there: sorted by time");
            self.trades.sort_by_key(|trade| trade.time_us);
        }
        self.trades.shrink_to_fit();
        Market::new(venue, &self.base, &self.quote, decimals, self.trades)
    }
}

fn load_csv(tape: &CsvTape, range: &RangeConfig, seed: u64) -> anyhow::Result<Vec<Market>> {
    let path = expand(&tape.path)?;
    let file = File::open(&path).with_context(|| {
        format!("cannot read tape {}; `make setup` fetches the recorded one, tapes.path names another", path.display())
    })?;
    let reader: Box<dyn Read> = if path.extension().is_some_and(|extension| extension == "gz") {
        Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(BufReader::new(file))
    };
    read_csv(tape, range, seed, reader).with_context(|| format!("tape {}", path.display()))
}

fn read_csv(tape: &CsvTape, range: &RangeConfig, seed: u64, reader: impl Read) -> anyhow::Result<Vec<Market>> {
    if tape.venue.exchange() == Venue::Kis {
        bail!("the Korea Exchange is played from tapes of kind krx-day only");
    }
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(reader);
    let columns = Columns::find(tape, &reader.headers()?.clone())?;
    let (mut series, by_symbol) = series_of(tape, seed)?;
    let (from_us, to_us) = range.bounds()?;
    let limit = if range.limit == 0 { usize::MAX } else { range.limit };
    let mut kept = 0;
    let mut record = csv::StringRecord::new();
    while kept < limit && reader.read_record(&mut record)? {
        let line = record.position().map_or(0, csv::Position::line);
        let index = match columns.symbol {
            None => 0,
            Some(column) => match by_symbol.get(record.get(column).unwrap_or_default()) {
                Some(index) => *index,
                None => continue, // a symbol the configuration does not play
            },
        };
        let row = columns.read(tape, &record).with_context(|| format!("line {line}"))?;
        let series = &mut series[index];
        let id = row.id.unwrap_or_else(|| series.take_id(tape.venue, row.time_us));
        let by_tick = series.take_side(row.price);
        if (from_us..to_us).contains(&row.time_us) {
            series.trades.push(Trade::new(row.time_us, id, row.price, row.size, row.taker_sells.unwrap_or(by_tick)));
            kept += 1;
        }
    }
    Ok(series.into_iter().map(|series| series.into_market(tape.venue, (tape.price_decimals, tape.size_decimals))).collect())
}

fn series_of(tape: &CsvTape, seed: u64) -> anyhow::Result<(Vec<Series>, HashMap<String, usize>)> {
    if tape.symbol_column.is_empty() && tape.symbols.len() != 1 {
        bail!("tapes.symbols names {} markets, but without symbol_column a tape holds one", tape.symbols.len());
    }
    let mut series = Vec::new();
    let mut by_symbol = HashMap::new();
    for symbol in &tape.symbols {
        let (base, quote) =
            symbol.split_once('/').ok_or_else(|| anyhow!("tapes.symbols {symbol:?} is not written BASE/QUOTE"))?;
        by_symbol.insert(format!("{base}{quote}"), series.len());
        series.push(Series::new(tape.venue, base, quote, seed));
    }
    Ok((series, by_symbol))
}

/// Where the columns stand.
struct Columns {
    symbol: Option<usize>,
    time: usize,
    price: usize,
    size: usize,
    id: Option<usize>,
    side: Option<usize>,
}

struct Row {
    time_us: i64,
    price: Decimal,
    size: Decimal,
    id: Option<i64>,
    taker_sells: Option<bool>,
}

impl Columns {
    fn find(tape: &CsvTape, headers: &csv::StringRecord) -> anyhow::Result<Columns> {
        let position = |name: &str| {
            let found = headers.iter().position(|header| header == name);
            found.ok_or_else(|| anyhow!("no column {name:?}; there are {}", headers.iter().collect::<Vec<_>>().join(", ")))
        };
        let optional = |name: &str| if name.is_empty() { Ok(None) } else { position(name).map(Some) };
        Ok(Columns {
            symbol: optional(&tape.symbol_column)?,
            time: position(&tape.time_column)?,
            price: position(&tape.price_column)?,
            size: position(&tape.size_column)?,
            id: optional(&tape.id_column)?,
            side: optional(&tape.side_column)?,
        })
    }

    fn read(&self, tape: &CsvTape, record: &csv::StringRecord) -> anyhow::Result<Row> {
        let field = |column: usize| record.get(column).unwrap_or_default();
        let number = |column: usize, what: &str| {
            Decimal::parse(field(column)).ok_or_else(|| anyhow!("{what} {:?} is no decimal number", field(column)))
        };
        let units = match tape.time_unit {
            TimeUnit::S => 6,
            TimeUnit::Ms => 3,
            TimeUnit::Us => 0,
        };
        let time_us = i64::try_from(number(self.time, "time")?.at_scale(units)).context("time out of range")?;
        let id = self.id.map(|column| field(column).parse().with_context(|| format!("id {:?}", field(column)))).transpose()?;
        let taker_sells = self.side.map(|column| field(column) != tape.side_buy_value);
        Ok(Row { time_us, price: number(self.price, "price")?, size: number(self.size, "size")?, id, taker_sells })
    }
}

/// The path with `{tools}` and `~` filled in.
fn expand(path: &str) -> anyhow::Result<PathBuf> {
    let home = || std::env::var("HOME").context("HOME is not set");
    let mut path = path.to_owned();
    if path.contains("{tools}") {
        let tools = match std::env::var("MARKETFLOW_TOOLS") {
            Ok(tools) => tools,
            Err(_) => format!("{}/.cache/marketflow/tools", home()?),
        };
        path = path.replace("{tools}", &tools);
    }
    Ok(match path.strip_prefix("~/") {
        Some(rest) => PathBuf::from(home()?).join(rest),
        None => PathBuf::from(path),
    })
}

/// Price and size decimals of a generated market.
const fn generated_decimals(venue: Venue) -> (u8, u8) {
    match venue {
        Venue::Bitstamp | Venue::Binance => (2, 5),
        // Won without a fraction, and sizes small enough for exponents.
        Venue::Upbit => (0, 8),
        Venue::Kis | Venue::Kiwoom => (0, 0),
    }
}

/// The price step at a price, both in units of the generated decimals.
fn tick(venue: Venue, price: i64) -> i64 {
    match venue {
        Venue::Bitstamp | Venue::Binance => 1,
        Venue::Upbit => upbit::tick(price),
        Venue::Kis | Venue::Kiwoom => kis::tick(price),
    }
}

fn generate(tape: &GeneratedTape, range: &RangeConfig, seed: u64) -> anyhow::Result<Vec<Market>> {
    if tape.symbols == 0 || tape.trades_per_second <= 0.0 {
        bail!("a generated tape needs symbols and trades_per_second above 0");
    }
    let quote = match tape.venue {
        Venue::Bitstamp => "USD",
        Venue::Binance => "USDT",
        Venue::Upbit => "KRW",
        Venue::Kis | Venue::Kiwoom => bail!("the Korea Exchange has days: use a tape of kind krx-day"),
    };
    let decimals = generated_decimals(tape.venue);
    let mut series: Vec<Series> =
        (1..=tape.symbols).map(|number| Series::new(tape.venue, &format!("S{number:03}"), quote, seed)).collect();
    let mut prices: Vec<i64> =
        (0..tape.symbols).map(|symbol| 500 + seed::pick_i64(seed, &[1, symbol as u64], 5_000_000)).collect();
    prices.iter_mut().for_each(|price| *price -= *price % tick(tape.venue, *price));
    // Zipf: the n-th market trades 1/n as often as the first.
    let mut reach = 0.0;
    let shares: Vec<f64> = (1..=tape.symbols)
        .map(|rank| {
            reach += 1.0 / rank as f64;
            reach
        })
        .collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed::mix(seed, &[2, seed::of_text(tape.venue.name())]));
    let (from_us, to_us) = range.bounds()?;
    let limit = if range.limit == 0 { tape.trades } else { range.limit.min(tape.trades) };
    let mut time_us = instant_us(&tape.start).with_context(|| format!("tapes.start {:?}", tape.start))?;
    for _ in 0..limit {
        time_us += exponential_us(&mut random, tape.trades_per_second);
        let drawn = random.random_range(0.0..reach);
        let symbol = shares.partition_point(|share| *share <= drawn).min(tape.symbols - 1);
        let step = tick(tape.venue, prices[symbol]);
        let walked = (prices[symbol] + random.random_range(-3..=3) * step).max(step);
        // A step may end in a band of coarser ticks.
        prices[symbol] = walked - walked % tick(tape.venue, walked);
        let size = random.random_range(1..=500_000) / if random.random_range(0..10) == 0 { 1 } else { 100 };
        let (price, size) = (Decimal::new(prices[symbol], decimals.0), Decimal::new(size.max(1), decimals.1));
        let series = &mut series[symbol];
        // The venues stamp trades with milliseconds.
        let stamped_us = time_us / 1_000 * 1_000;
        let (id, taker_sells) = (series.take_id(tape.venue, stamped_us), random.random_bool(0.5));
        if (from_us..to_us).contains(&stamped_us) {
            series.trades.push(Trade::new(stamped_us, id, price, size, taker_sells));
        }
    }
    Ok(series.into_iter().map(|series| series.into_market(tape.venue, decimals)).collect())
}

/// The time to the next of events that come so often a second, microseconds.
#[expect(clippy::cast_possible_truncation, reason = "at most 37 mean distances, cut to whole microseconds")]
fn exponential_us(random: &mut ChaCha8Rng, per_second: f64) -> i64 {
    let drawn: f64 = random.random_range(f64::EPSILON..1.0);
    (-drawn.ln() / per_second * 1e6) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitstamp() -> CsvTape {
        CsvTape {
            path: String::new(),
            venue: Venue::Bitstamp,
            symbols: vec!["BTC/USD".into()],
            symbol_column: String::new(),
            time_column: "timestamp".into(),
            time_unit: TimeUnit::S,
            price_column: "price".into(),
            size_column: "amount".into(),
            id_column: String::new(),
            side_column: String::new(),
            side_buy_value: String::new(),
            price_decimals: 2,
            size_decimals: 8,
        }
    }

    fn whole() -> RangeConfig {
        RangeConfig { from: String::new(), to: String::new(), limit: 0 }
    }

    const TAPE: &str = "timestamp,price,amount\n100,7.00,1\n100,7.10,2\n101,7.10,0\n102,7.05,0.5\n103,7.05,1\n";

    #[test]
    fn ids_rise_with_holes_and_sides_follow_the_tick_rule() {
        let markets = read_csv(&bitstamp(), &whole(), 1, TAPE.as_bytes()).unwrap();
        let trades = markets[0].trades();
        assert!(trades.windows(2).all(|pair| (2..=31).contains(&(pair[1].id - pair[0].id))));
        assert_eq!(trades[0].id.to_string().len(), 19);
        assert_eq!(trades.iter().map(|trade| trade.taker_sells).collect::<Vec<_>>(), [false, false, false, true, true]);
        assert_eq!(trades[2].time_us, 101_000_000);
    }

    #[test]
    fn a_part_of_the_tape_keeps_the_ids_of_the_whole() {
        let all = read_csv(&bitstamp(), &whole(), 1, TAPE.as_bytes()).unwrap();
        let range = RangeConfig { from: "1970-01-01T00:01:41Z".into(), to: String::new(), limit: 2 };
        let part = read_csv(&bitstamp(), &range, 1, TAPE.as_bytes()).unwrap();
        let ids = |market: &Market| market.trades().iter().map(|trade| trade.id).collect::<Vec<_>>();
        assert_eq!(ids(&part[0]), ids(&all[0])[2..4]);
    }

    #[test]
    fn columns_of_a_recorded_binance_tape_are_used() {
        let tape = CsvTape {
            venue: Venue::Binance,
            symbols: vec!["BTC/USDT".into(), "ETH/USDT".into()],
            symbol_column: "symbol".into(),
            time_column: "ts_ms".into(),
            time_unit: TimeUnit::Ms,
            size_column: "qty".into(),
            id_column: "trade_id".into(),
            side_column: "is_buyer_maker".into(),
            side_buy_value: "false".into(),
            ..bitstamp()
        };
        let text =
            "ts_ms,symbol,trade_id,price,qty,is_buyer_maker\n5,ETHUSDT,9,2,1,true\n7,BTCUSDT,4,3,1,false\n6,XRPUSDT,1,1,1,true\n";
        let markets = read_csv(&tape, &whole(), 1, text.as_bytes()).unwrap();
        assert_eq!((markets[0].instrument.as_str(), markets[0].trades()[0].id), ("BINANCE:BTCUSDT", 4));
        assert_eq!((markets[1].trades()[0].time_us, markets[1].trades()[0].taker_sells), (5_000, true));
    }

    #[test]
    fn a_bad_row_is_named_by_its_line() {
        let problem = read_csv(&bitstamp(), &whole(), 1, "timestamp,price,amount\n1,2,3\n1,x,3\n".as_bytes()).unwrap_err();
        assert!(format!("{problem:#}").contains("line 3: price \"x\""), "{problem:#}");
    }

    #[test]
    fn a_generated_tape_is_the_same_for_the_same_seed() {
        let tape = GeneratedTape {
            venue: Venue::Binance,
            symbols: 20,
            trades: 2_000,
            trades_per_second: 100.0,
            start: "2026-01-05T00:00:00Z".into(),
        };
        let all = |seed| {
            let markets = generate(&tape, &whole(), seed).unwrap();
            markets
                .iter()
                .flat_map(|market| market.trades().iter().map(|t| (t.time_us, t.id, t.price().mantissa)).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        };
        assert_eq!(all(3), all(3));
        assert_ne!(all(3), all(4));
        assert_eq!(all(3).len(), 2_000);
    }
}
