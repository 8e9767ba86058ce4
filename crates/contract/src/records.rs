//! One encoder and decoder per record type, fields in schema order: a trade leaves the producer as these bytes. What is expected of them is in
//! `crates/contract/tests/contract.rs`.
//!
//! Next: `services/processor/src/processor.rs`, which reads them back.

use crate::Schema;
use crate::codec::{DecodeError, Reader, Writer};
use marketflow_model::{
    Amount, Bar, BarKind, BarSource, Candle, Condition, Conditions, Control, ControlKind, Envelope, EnvelopeClass, Feed,
    FeedState, FlowAggregate, FundFlow, Instrument, InstrumentRef, Interval, InvestorClass, Observation, Price, Quality,
    Quantity, Quote, Reference, ReferenceKind, SeriesValue, Side, Source, Trade, TradeRef,
};

/// A record type of the contract.
pub trait AvroRecord: Sized {
    /// Its schema.
    const SCHEMA: Schema;

    /// Appends the Avro body.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads an Avro body written under exactly the embedded schema.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else; never panics, never reads past the body.
    fn decode(body: &[u8]) -> Result<Self, DecodeError>;
}

/// Enum symbols by position; position 0 is `UNKNOWN`.
trait Symbols: Sized + Copy + PartialEq + 'static {
    const SYMBOLS: &'static [Self];
}

macro_rules! symbols {
    ($($name:ident: $($variant:ident),*;)*) => {
        $(impl Symbols for $name { const SYMBOLS: &'static [Self] = &[$($name::$variant),*]; })*
    };
}

symbols! {
    Side: Unknown, Buy, Sell;
    Source: Unknown, Websocket, Rest, Replay, Import;
    ControlKind: Unknown, Heartbeat, FeedState, GapOpened, GapFilled, GapAbandoned, Halt, CalendarChange, End, Clock;
    FeedState: Unknown, Up, Down;
    Quality: Unknown, Complete, Backfilled, Halted, PartialOpen, Gap, NoTrades;
    BarSource: Unknown, Trades, Candles;
    EnvelopeClass: Unknown, Late, Quarantine, Undecodable, Refused, Redriven, Discarded;
    InvestorClass: Unknown, Foreign, Institution, Individual, OtherCorporation, Total;
    ReferenceKind: Unknown, Instrument, Halt, EtfConstituent, CorporateAction;
}

impl Writer<'_> {
    fn symbol<S: Symbols>(&mut self, value: S) {
        let index = S::SYMBOLS.iter().position(|s| *s == value).expect("every variant is listed");
        self.long(i64::try_from(index).expect("few symbols"));
    }

    fn price(&mut self, value: Price) {
        self.decimal(i128::from(value.scaled()));
    }

    fn quantity(&mut self, value: Quantity) {
        self.decimal(value.scaled());
    }

    fn amount(&mut self, value: Amount) {
        self.decimal(value.scaled());
    }

    fn conditions(&mut self, conditions: Conditions) {
        if !conditions.is_empty() {
            self.long(i64::try_from(conditions.iter().count()).expect("four at most"));
            for condition in conditions.iter() {
                self.long(condition as i64 + 1);
            }
        }
        self.long(0);
    }
}

impl<'a> Reader<'a> {
    fn symbol<S: Symbols>(&mut self, field: &'static str) -> Result<S, DecodeError> {
        usize::try_from(self.long(field)?).ok().and_then(|i| S::SYMBOLS.get(i)).copied().ok_or(DecodeError::BadBranch(field))
    }

    fn price(&mut self, field: &'static str) -> Result<Price, DecodeError> {
        i64::try_from(self.decimal(field)?).ok().and_then(Price::from_scaled).ok_or(DecodeError::BadDecimal(field))
    }

    fn quantity(&mut self, field: &'static str) -> Result<Quantity, DecodeError> {
        Quantity::from_scaled(self.decimal(field)?).ok_or(DecodeError::BadDecimal(field))
    }

    fn amount(&mut self, field: &'static str) -> Result<Amount, DecodeError> {
        Amount::from_scaled(self.decimal(field)?).ok_or(DecodeError::BadDecimal(field))
    }

    fn series_value(&mut self) -> Result<SeriesValue, DecodeError> {
        SeriesValue::from_scaled(self.decimal("value")?).ok_or(DecodeError::BadDecimal("value"))
    }

    fn text(&mut self, field: &'static str) -> Result<String, DecodeError> {
        self.string(field).map(str::to_owned)
    }

    fn instrument(&mut self) -> Result<Instrument, DecodeError> {
        self.instrument_ref().map(InstrumentRef::to_owned)
    }

    fn instrument_ref(&mut self) -> Result<InstrumentRef<'a>, DecodeError> {
        InstrumentRef::new(self.string("instrument")?)
            .map_err(|error| DecodeError::BadText { field: "instrument", error: error.to_string() })
    }

    fn interval(&mut self) -> Result<Interval, DecodeError> {
        let text = self.string("interval")?;
        text.parse()
            .map_err(|e: marketflow_model::IntervalError| DecodeError::BadText { field: "interval", error: e.to_string() })
    }

    fn bar_kind(&mut self) -> Result<BarKind, DecodeError> {
        let text = self.string("interval")?;
        text.parse().map_err(|e: marketflow_model::BarKindError| DecodeError::BadText { field: "interval", error: e.to_string() })
    }

    fn feed(&mut self) -> Result<Feed, DecodeError> {
        self.string("feed").map(Feed::new)
    }

    fn conditions(&mut self) -> Result<Conditions, DecodeError> {
        let mut conditions = Conditions::NONE;
        self.array("conditions", |r| {
            let condition = match usize::try_from(r.long("conditions")?) {
                Ok(0) => return Ok(()),
                Ok(index) => Condition::ALL.get(index - 1),
                Err(_) => None,
            };
            conditions = conditions.with(*condition.ok_or(DecodeError::BadBranch("conditions"))?);
            Ok(())
        })?;
        Ok(conditions)
    }
}

impl AvroRecord for Trade {
    const SCHEMA: Schema = Schema::Trade;

    fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.string(self.instrument.as_str());
        w.string(self.feed.as_str());
        w.timestamp(self.event_time);
        w.timestamp(self.receive_time);
        w.price(self.price);
        w.option(self.size, Writer::quantity);
        w.symbol(self.side);
        w.option(self.trade_id.as_deref(), Writer::string);
        w.option(self.sequence, Writer::long);
        w.option(self.import_row, Writer::long);
        w.conditions(self.conditions);
        w.symbol(self.source);
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        decode_trade(body).map(TradeRef::to_owned)
    }
}

/// Reads a trade in place: its texts stay in the body.
///
/// # Errors
/// As [`AvroRecord::decode`].
pub fn decode_trade(body: &[u8]) -> Result<TradeRef<'_>, DecodeError> {
    let mut r = Reader::new(body);
    let record = TradeRef {
        instrument: r.instrument_ref()?,
        feed: r.string("feed")?,
        event_time: r.timestamp("event_time")?,
        receive_time: r.timestamp("receive_time")?,
        price: r.price("price")?,
        size: r.option("size", |r| r.quantity("size"))?,
        side: r.symbol("side")?,
        trade_id: r.option("trade_id", |r| r.string("trade_id"))?,
        sequence: r.option("sequence", |r| r.long("sequence"))?,
        import_row: r.option("import_row", |r| r.long("import_row"))?,
        conditions: r.conditions()?,
        source: r.symbol("source")?,
    };
    r.finish()?;
    Ok(record)
}

impl AvroRecord for Quote {
    const SCHEMA: Schema = Schema::Quote;

    fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.string(self.instrument.as_str());
        w.string(self.feed.as_str());
        w.timestamp(self.event_time);
        w.timestamp(self.receive_time);
        w.option(self.bid_price, Writer::price);
        w.option(self.bid_size, Writer::quantity);
        w.option(self.ask_price, Writer::price);
        w.option(self.ask_size, Writer::quantity);
        w.option(self.sequence, Writer::long);
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let record = Self {
            instrument: r.instrument()?,
            feed: r.feed()?,
            event_time: r.timestamp("event_time")?,
            receive_time: r.timestamp("receive_time")?,
            bid_price: r.option("bid_price", |r| r.price("bid_price"))?,
            bid_size: r.option("bid_size", |r| r.quantity("bid_size"))?,
            ask_price: r.option("ask_price", |r| r.price("ask_price"))?,
            ask_size: r.option("ask_size", |r| r.quantity("ask_size"))?,
            sequence: r.option("sequence", |r| r.long("sequence"))?,
        };
        r.finish()?;
        Ok(record)
    }
}

impl AvroRecord for Candle {
    const SCHEMA: Schema = Schema::Candle;

    fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.string(self.instrument.as_str());
        w.string(self.feed.as_str());
        w.string(&self.interval.to_string());
        w.timestamp(self.open_time);
        w.timestamp(self.receive_time);
        w.price(self.open);
        w.price(self.high);
        w.price(self.low);
        w.price(self.close);
        w.option(self.volume, Writer::quantity);
        w.option(self.turnover, Writer::amount);
        w.option(self.trade_count, Writer::long);
        w.option(self.buy_volume, Writer::quantity);
        w.option(self.import_row, Writer::long);
        w.boolean(self.closed);
        w.symbol(self.source);
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let record = Self {
            instrument: r.instrument()?,
            feed: r.feed()?,
            interval: r.interval()?,
            open_time: r.timestamp("open_time")?,
            receive_time: r.timestamp("receive_time")?,
            open: r.price("open")?,
            high: r.price("high")?,
            low: r.price("low")?,
            close: r.price("close")?,
            volume: r.option("volume", |r| r.quantity("volume"))?,
            turnover: r.option("turnover", |r| r.amount("turnover"))?,
            trade_count: r.option("trade_count", |r| r.long("trade_count"))?,
            buy_volume: r.option("buy_volume", |r| r.quantity("buy_volume"))?,
            import_row: r.option("import_row", |r| r.long("import_row"))?,
            closed: r.boolean("closed")?,
            source: r.symbol("source")?,
        };
        r.finish()?;
        Ok(record)
    }
}

impl AvroRecord for Control {
    const SCHEMA: Schema = Schema::Control;

    fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.symbol(self.kind);
        w.string(self.feed.as_str());
        w.option(self.instrument.as_ref(), |w, i| w.string(i.as_str()));
        w.timestamp(self.clock);
        w.option(self.complete_through, Writer::timestamp);
        w.option(self.gap_id.as_deref(), Writer::string);
        w.option(self.from, Writer::timestamp);
        w.option(self.to, Writer::timestamp);
        w.symbol(self.state);
        w.option(self.reason.as_deref(), Writer::string);
        w.option(self.connection_id.as_deref(), Writer::string);
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let record = Self {
            kind: r.symbol("kind")?,
            feed: r.feed()?,
            instrument: r.option("instrument", Reader::instrument)?,
            clock: r.timestamp("clock")?,
            complete_through: r.option("complete_through", |r| r.timestamp("complete_through"))?,
            gap_id: r.option("gap_id", |r| r.text("gap_id"))?,
            from: r.option("from", |r| r.timestamp("from"))?,
            to: r.option("to", |r| r.timestamp("to"))?,
            state: r.symbol("state")?,
            reason: r.option("reason", |r| r.text("reason"))?,
            connection_id: r.option("connection_id", |r| r.text("connection_id"))?,
        };
        r.finish()?;
        Ok(record)
    }
}

impl AvroRecord for Bar {
    const SCHEMA: Schema = Schema::Bar;

    fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.string(self.instrument.as_str());
        w.string(&self.interval.to_string());
        w.timestamp(self.open_time);
        w.timestamp(self.close_time);
        w.price(self.open);
        w.price(self.high);
        w.price(self.low);
        w.price(self.close);
        w.quantity(self.volume);
        w.amount(self.turnover);
        w.option(self.vwap, Writer::price);
        w.long(self.trade_count);
        w.quantity(self.buy_volume);
        w.quantity(self.sell_volume);
        w.int(self.revision);
        w.symbol(self.quality);
        w.string(self.feed.as_str());
        w.symbol(self.source);
        w.option(self.revision_reason.as_deref(), Writer::string);
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let record = Self {
            instrument: r.instrument()?,
            interval: r.bar_kind()?,
            open_time: r.timestamp("open_time")?,
            close_time: r.timestamp("close_time")?,
            open: r.price("open")?,
            high: r.price("high")?,
            low: r.price("low")?,
            close: r.price("close")?,
            volume: r.quantity("volume")?,
            turnover: r.amount("turnover")?,
            vwap: r.option("vwap", |r| r.price("vwap"))?,
            trade_count: r.long("trade_count")?,
            buy_volume: r.quantity("buy_volume")?,
            sell_volume: r.quantity("sell_volume")?,
            revision: r.int("revision")?,
            quality: r.symbol("quality")?,
            feed: r.feed()?,
            source: r.symbol("source")?,
            revision_reason: r.option("revision_reason", |r| r.text("revision_reason"))?,
        };
        r.finish()?;
        Ok(record)
    }
}

impl AvroRecord for Envelope {
    const SCHEMA: Schema = Schema::Envelope;

    fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.string(&self.consumer);
        w.symbol(self.class);
        w.string(&self.reason);
        w.string(&self.origin_topic);
        w.int(self.origin_partition);
        w.long(self.origin_offset);
        w.timestamp(self.receive_time);
        w.option(self.schema_id, Writer::int);
        w.option(self.key.as_deref(), Writer::bytes);
        w.bytes(&self.value);
        if !self.headers.is_empty() {
            w.long(i64::try_from(self.headers.len()).expect("few headers"));
            for (name, value) in &self.headers {
                w.string(name);
                w.bytes(value);
            }
        }
        w.long(0);
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let record = Self {
            consumer: r.text("consumer")?,
            class: r.symbol("class")?,
            reason: r.text("reason")?,
            origin_topic: r.text("origin_topic")?,
            origin_partition: r.int("origin_partition")?,
            origin_offset: r.long("origin_offset")?,
            receive_time: r.timestamp("receive_time")?,
            schema_id: r.option("schema_id", |r| r.int("schema_id"))?,
            key: r.option("key", |r| r.bytes("key").map(<[u8]>::to_vec))?,
            value: r.bytes("value")?.to_vec(),
            headers: r.array("headers", |r| Ok((r.text("headers")?, r.bytes("headers")?.to_vec())))?,
        };
        r.finish()?;
        Ok(record)
    }
}

impl AvroRecord for Observation {
    const SCHEMA: Schema = Schema::Observation;

    fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.string(&self.provider);
        w.string(&self.series);
        w.timestamp(self.period_start);
        w.timestamp(self.period_end);
        w.option(self.value, |w, v| w.decimal(v.scaled()));
        w.string(&self.unit);
        w.option(self.published_at, Writer::timestamp);
        w.option(self.vintage.as_deref(), Writer::string);
        w.timestamp(self.receive_time);
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let record = Self {
            provider: r.text("provider")?,
            series: r.text("series")?,
            period_start: r.timestamp("period_start")?,
            period_end: r.timestamp("period_end")?,
            value: r.option("value", Reader::series_value)?,
            unit: r.text("unit")?,
            published_at: r.option("published_at", |r| r.timestamp("published_at"))?,
            vintage: r.option("vintage", |r| r.text("vintage"))?,
            receive_time: r.timestamp("receive_time")?,
        };
        r.finish()?;
        Ok(record)
    }
}

impl AvroRecord for FundFlow {
    const SCHEMA: Schema = Schema::FundFlow;

    fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.string(self.instrument.as_str());
        w.string(&self.provider);
        w.symbol(self.investor_class);
        w.timestamp(self.period_start);
        w.timestamp(self.period_end);
        w.option(self.net_amount, Writer::amount);
        w.option(self.net_quantity, Writer::quantity);
        w.string(&self.currency);
        w.option(self.vintage.as_deref(), Writer::string);
        w.timestamp(self.receive_time);
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let record = Self {
            instrument: r.instrument()?,
            provider: r.text("provider")?,
            investor_class: r.symbol("investor_class")?,
            period_start: r.timestamp("period_start")?,
            period_end: r.timestamp("period_end")?,
            net_amount: r.option("net_amount", |r| r.amount("net_amount"))?,
            net_quantity: r.option("net_quantity", |r| r.quantity("net_quantity"))?,
            currency: r.text("currency")?,
            vintage: r.option("vintage", |r| r.text("vintage"))?,
            receive_time: r.timestamp("receive_time")?,
        };
        r.finish()?;
        Ok(record)
    }
}

impl AvroRecord for FlowAggregate {
    const SCHEMA: Schema = Schema::FlowAggregate;

    fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.string(&self.scope);
        w.string(&self.name);
        w.timestamp(self.open_time);
        w.timestamp(self.close_time);
        w.string(&self.method);
        w.amount(self.inflow);
        w.amount(self.outflow);
        w.amount(self.net);
        w.string(&self.currency);
        w.long(self.input_count);
        w.boolean(self.stale);
        w.int(self.revision);
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let record = Self {
            scope: r.text("scope")?,
            name: r.text("name")?,
            open_time: r.timestamp("open_time")?,
            close_time: r.timestamp("close_time")?,
            method: r.text("method")?,
            inflow: r.amount("inflow")?,
            outflow: r.amount("outflow")?,
            net: r.amount("net")?,
            currency: r.text("currency")?,
            input_count: r.long("input_count")?,
            stale: r.boolean("stale")?,
            revision: r.int("revision")?,
        };
        r.finish()?;
        Ok(record)
    }
}

impl AvroRecord for Reference {
    const SCHEMA: Schema = Schema::Reference;

    fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.symbol(self.kind);
        w.string(self.instrument.as_str());
        w.string(&self.member);
        w.timestamp(self.valid_from);
        w.option(self.valid_to, Writer::timestamp);
        w.option(self.name.as_deref(), Writer::string);
        w.option(self.value, |w, v| w.decimal(v.scaled()));
        if !self.attributes.is_empty() {
            w.long(i64::try_from(self.attributes.len()).expect("few attributes"));
            for (name, value) in &self.attributes {
                w.string(name);
                w.string(value);
            }
        }
        w.long(0);
        w.string(&self.provider);
        w.timestamp(self.receive_time);
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let record = Self {
            kind: r.symbol("kind")?,
            instrument: r.instrument()?,
            member: r.text("member")?,
            valid_from: r.timestamp("valid_from")?,
            valid_to: r.option("valid_to", |r| r.timestamp("valid_to"))?,
            name: r.option("name", |r| r.text("name"))?,
            value: r.option("value", Reader::series_value)?,
            attributes: r.array("attributes", |r| Ok((r.text("attributes")?, r.text("attributes")?)))?,
            provider: r.text("provider")?,
            receive_time: r.timestamp("receive_time")?,
        };
        r.finish()?;
        Ok(record)
    }
}
