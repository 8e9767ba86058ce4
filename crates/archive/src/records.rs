//! Records as rows, one block a record: the columns of its Avro schema in the same order, behind the place of the record in its log.
//!
//! Next: `market.rs`.

use crate::columns::{Column, FileWriter, Kind, Row};
use marketflow_contract::{AvroRecord, DecodeError, Schema, decode_trade};
use marketflow_model::{
    Amount, Bar, BarSource, Condition, FlowAggregate, FundFlow, InvestorClass, Observation, Price, Quality, Quantity,
    SeriesValue, Side, Source, Timestamp, TradeRef,
};

/// A record that becomes a row.
pub(crate) trait Archived {
    /// After the place in the log.
    const COLUMNS: &'static [Column];
    /// Appends [`Archived::COLUMNS`].
    fn write(&self, row: &mut Row<'_>);
}

const fn text(name: &'static str) -> Column {
    Column::new(name, Kind::Text)
}
const fn micros(name: &'static str) -> Column {
    Column::new(name, Kind::Micros)
}
/// A price: 18 digits, 8 of them decimals.
const fn price(name: &'static str) -> Column {
    Column::new(name, Kind::Decimal(18, 8))
}
/// A quantity or an amount: 38 digits, 8 of them decimals.
const fn amount(name: &'static str) -> Column {
    Column::new(name, Kind::Decimal(38, 8))
}
const fn long(name: &'static str) -> Column {
    Column::new(name, Kind::Long)
}
const fn int(name: &'static str) -> Column {
    Column::new(name, Kind::Int)
}

/// Where the record stands in its log: offset and append time. Topic and partition are the folder's.
const PLACE: &[Column] = &[long("offset"), micros("append_time")];

impl Archived for TradeRef<'_> {
    const COLUMNS: &'static [Column] = &[
        text("instrument"),
        text("feed"),
        micros("event_time"),
        micros("receive_time"),
        price("price"),
        amount("size").nullable(),
        text("side"),
        text("trade_id").nullable(),
        long("sequence").nullable(),
        long("import_row").nullable(),
        Column::new("conditions", Kind::Texts),
        text("source"),
    ];

    fn write(&self, row: &mut Row<'_>) {
        row.text(self.instrument.as_str());
        row.text(self.feed);
        row.micros(self.event_time);
        row.micros(self.receive_time);
        row.decimal(of_price(self.price));
        row.decimal(self.size.map(Quantity::scaled));
        row.text(side(self.side));
        row.text(self.trade_id);
        row.long(self.sequence);
        row.long(self.import_row);
        row.texts(self.conditions.iter().map(condition));
        row.text(source(self.source));
    }
}

impl Archived for Bar {
    const COLUMNS: &'static [Column] = &[
        text("instrument"),
        text("interval"),
        micros("open_time"),
        micros("close_time"),
        price("open"),
        price("high"),
        price("low"),
        price("close"),
        amount("volume"),
        amount("turnover"),
        price("vwap").nullable(),
        long("trade_count"),
        amount("buy_volume"),
        amount("sell_volume"),
        int("revision"),
        text("quality"),
        text("feed"),
        text("source"),
        text("revision_reason").nullable(),
    ];

    fn write(&self, row: &mut Row<'_>) {
        row.text(self.instrument.as_str());
        row.text(self.interval.to_string().as_str());
        row.micros(self.open_time);
        row.micros(self.close_time);
        for price in [self.open, self.high, self.low, self.close] {
            row.decimal(of_price(price));
        }
        row.decimal(self.volume.scaled());
        row.decimal(self.turnover.scaled());
        row.decimal(self.vwap.map(of_price));
        row.long(self.trade_count);
        row.decimal(self.buy_volume.scaled());
        row.decimal(self.sell_volume.scaled());
        row.int(self.revision);
        row.text(quality(self.quality));
        row.text(self.feed.as_str());
        row.text(bar_source(self.source));
        row.text(self.revision_reason.as_deref());
    }
}

impl Archived for Observation {
    const COLUMNS: &'static [Column] = &[
        text("provider"),
        text("series"),
        micros("period_start"),
        micros("period_end"),
        Column::new("value", Kind::Decimal(38, 12)).nullable(),
        text("unit"),
        micros("published_at").nullable(),
        text("vintage").nullable(),
        micros("receive_time"),
    ];

    fn write(&self, row: &mut Row<'_>) {
        row.text(self.provider.as_str());
        row.text(self.series.as_str());
        row.micros(self.period_start);
        row.micros(self.period_end);
        row.decimal(self.value.map(SeriesValue::scaled));
        row.text(self.unit.as_str());
        row.micros(self.published_at);
        row.text(self.vintage.as_deref());
        row.micros(self.receive_time);
    }
}

impl Archived for FundFlow {
    const COLUMNS: &'static [Column] = &[
        text("instrument"),
        text("provider"),
        text("investor_class"),
        micros("period_start"),
        micros("period_end"),
        amount("net_amount").nullable(),
        amount("net_quantity").nullable(),
        text("currency"),
        text("vintage").nullable(),
        micros("receive_time"),
    ];

    fn write(&self, row: &mut Row<'_>) {
        row.text(self.instrument.as_str());
        row.text(self.provider.as_str());
        row.text(investor_class(self.investor_class));
        row.micros(self.period_start);
        row.micros(self.period_end);
        row.decimal(self.net_amount.map(Amount::scaled));
        row.decimal(self.net_quantity.map(Quantity::scaled));
        row.text(self.currency.as_str());
        row.text(self.vintage.as_deref());
        row.micros(self.receive_time);
    }
}

impl Archived for FlowAggregate {
    const COLUMNS: &'static [Column] = &[
        text("scope"),
        text("name"),
        micros("open_time"),
        micros("close_time"),
        text("method"),
        amount("inflow"),
        amount("outflow"),
        amount("net"),
        text("currency"),
        long("input_count"),
        Column::new("stale", Kind::Boolean),
        int("revision"),
    ];

    fn write(&self, row: &mut Row<'_>) {
        row.text(self.scope.as_str());
        row.text(self.name.as_str());
        row.micros(self.open_time);
        row.micros(self.close_time);
        row.text(self.method.as_str());
        row.decimal(self.inflow.scaled());
        row.decimal(self.outflow.scaled());
        row.decimal(self.net.scaled());
        row.text(self.currency.as_str());
        row.long(self.input_count);
        row.boolean(self.stale);
        row.int(self.revision);
    }
}

fn of_price(price: Price) -> i128 {
    price.scaled().into()
}

/// Lower-case names of symbols, as tables and JSON have them.
macro_rules! names {
    ($function:ident, $kind:ty, { $($variant:ident => $name:literal),* $(,)? }) => {
        const fn $function(value: $kind) -> &'static str {
            match value { $(<$kind>::$variant => $name),* }
        }
    };
}

names!(side, Side, { Unknown => "unknown", Buy => "buy", Sell => "sell" });
names!(condition, Condition, { Auction => "auction", Correction => "correction", Cancel => "cancel", OddLot => "odd_lot" });
names!(source, Source, {
    Unknown => "unknown", Websocket => "websocket", Rest => "rest", Replay => "replay", Import => "import",
});
names!(quality, Quality, {
    Unknown => "unknown", Complete => "complete", Backfilled => "backfilled", Halted => "halted",
    PartialOpen => "partial_open", Gap => "gap", NoTrades => "no_trades",
});
names!(bar_source, BarSource, { Unknown => "unknown", Trades => "trades", Candles => "candles" });
names!(investor_class, InvestorClass, {
    Unknown => "unknown", Foreign => "foreign", Institution => "institution", Individual => "individual",
    OtherCorporation => "other_corporation", Total => "total",
});

type Append = fn(&[u8], i64, Timestamp, &mut FileWriter) -> anyhow::Result<Result<(), DecodeError>>;

/// How the records of one schema become a file.
#[derive(Clone, Copy)]
pub struct Layout {
    schema: Schema,
    columns: &'static [Column],
    append: Append,
}

const ALL: &[Layout] = &[
    Layout::of::<Bar>(),
    Layout::of::<FlowAggregate>(),
    Layout::of::<FundFlow>(),
    Layout::of::<Observation>(),
    // the many: their texts are read where they stand
    Layout::new::<TradeRef<'static>>(Schema::Trade, |body, offset, append_time, file| match decode_trade(body) {
        Ok(trade) => append(&trade, offset, append_time, file).map(Ok),
        Err(problem) => Ok(Err(problem)),
    }),
];

/// The layout of a topic's main record type; `None` where it is not archived.
pub fn layout_of(schema: Schema) -> Option<&'static Layout> {
    ALL.iter().find(|layout| layout.schema == schema)
}

impl Layout {
    const fn of<R: Archived + AvroRecord>() -> Self {
        Self::new::<R>(R::SCHEMA, |body, offset, append_time, file| match R::decode(body) {
            Ok(record) => append(&record, offset, append_time, file).map(Ok),
            Err(problem) => Ok(Err(problem)),
        })
    }

    const fn new<R: Archived>(schema: Schema, append: Append) -> Self {
        Self { schema, columns: R::COLUMNS, append }
    }

    /// The record type.
    pub fn schema(&self) -> Schema {
        self.schema
    }

    /// Begins a file; `about` goes into its own metadata.
    ///
    /// # Errors
    /// None in practice: the columns are tested.
    pub fn file(&self, about: &[(&str, &str)]) -> anyhow::Result<FileWriter> {
        FileWriter::new(&[PLACE, self.columns].concat(), about)
    }

    /// Adds the row of a body, or says why it is no record and adds nothing.
    ///
    /// # Errors
    /// A row that its columns cannot hold.
    pub fn append(
        &self,
        body: &[u8],
        offset: i64,
        append_time: Timestamp,
        file: &mut FileWriter,
    ) -> anyhow::Result<Result<(), DecodeError>> {
        (self.append)(body, offset, append_time, file)
    }
}

fn append(record: &impl Archived, offset: i64, append_time: Timestamp, file: &mut FileWriter) -> anyhow::Result<()> {
    file.append(|row| {
        row.long(offset);
        row.micros(append_time);
        record.write(row);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{row_count, to_csv};
    use apache_avro::Schema as Avro;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value as Json;

    /// What a field of a committed schema becomes.
    fn column(name: &'static str, field: &Avro) -> Column {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a test")]
        let kind = match field {
            Avro::Union(union) => return column(name, &union.variants()[1]).nullable(),
            Avro::String | Avro::Enum(_) => Kind::Text,
            Avro::Array(_) => Kind::Texts,
            Avro::TimestampMicros => Kind::Micros,
            Avro::Decimal(decimal) => Kind::Decimal(decimal.precision.try_into().unwrap(), decimal.scale.try_into().unwrap()),
            Avro::Long => Kind::Long,
            Avro::Int => Kind::Int,
            Avro::Boolean => Kind::Boolean,
            other => panic!("{other:?}"),
        };
        Column::new(name, kind)
    }

    #[test]
    fn columns_are_the_fields_of_the_schemas() {
        assert!(ALL.is_sorted_by_key(|layout| layout.schema.record_name()));
        for layout in ALL {
            let Avro::Record(record) = layout.schema.parsed() else { panic!("no record") };
            let fields: Vec<Column> =
                record.fields.iter().map(|field| column(field.name.clone().leak(), &field.schema)).collect();
            assert_eq!(layout.columns, fields, "{:?}", layout.schema);
        }
    }

    /// Writes the canonical example, reads the file back, and compares the cells with the example's JSON.
    fn check<R: AvroRecord + Serialize + DeserializeOwned>(example: &str) {
        let example: Json = serde_json::from_str(example).unwrap();
        let record: R = serde_json::from_value(example.clone()).unwrap();
        let mut body = Vec::new();
        record.encode(&mut body);
        let layout = layout_of(R::SCHEMA).unwrap();
        let mut file = layout.file(&[]).unwrap();
        layout.append(&body, 42, Timestamp::from_micros(1_000_001), &mut file).unwrap().unwrap();
        body.truncate(body.len() / 2);
        layout.append(&body, 43, Timestamp::from_micros(1_000_002), &mut file).unwrap().unwrap_err();
        assert_eq!(file.rows(), 1, "what is no record adds nothing");
        let bytes = file.finish().unwrap();
        assert_eq!(row_count(bytes.clone()).unwrap(), 1);

        let mut text = Vec::new();
        to_csv(bytes, &mut text).unwrap();
        let mut rows = csv::Reader::from_reader(text.as_slice());
        let names = rows.headers().unwrap().clone();
        let cells = rows.records().next().unwrap().unwrap();
        let found: Vec<(&str, &str)> = names.iter().zip(&cells).collect();
        assert_eq!(found[..2], [("offset", "42"), ("append_time", "1970-01-01T00:00:01.000001Z")]);
        let fields = example.as_object().unwrap();
        assert_eq!(found.len(), fields.len() + 2);
        for ((name, cell), (field, value)) in found[2..].iter().zip(fields) {
            assert_eq!(name, field);
            #[expect(clippy::wildcard_enum_match_arm, reason = "a test")]
            let expected = match value {
                Json::String(text) => text.clone(),
                Json::Number(micros) if name.ends_with("_time") || name.starts_with("period_") || *name == "published_at" => {
                    Timestamp::from_micros(micros.as_i64().unwrap()).to_string()
                }
                Json::Array(items) => items.iter().map(|item| item.as_str().unwrap()).collect::<Vec<_>>().join(" "),
                other => other.to_string(),
            };
            assert_eq!(*cell, expected, "{name}");
        }
    }

    #[test]
    fn every_record_becomes_its_row() {
        check::<Bar>(include_str!("../../../schemas/examples/bar.v1.json"));
        check::<FlowAggregate>(include_str!("../../../schemas/examples/flow_aggregate.v1.json"));
        check::<FundFlow>(include_str!("../../../schemas/examples/fund_flow.v1.json"));
        check::<Observation>(include_str!("../../../schemas/examples/observation.v1.json"));
        check::<marketflow_model::Trade>(include_str!("../../../schemas/examples/trade.v1.json"));
    }

    #[test]
    fn symbols_have_the_names_json_gives_them() {
        fn check<S: Serialize + Copy>(values: &[S], name: impl Fn(S) -> &'static str) {
            for value in values {
                assert_eq!(serde_json::to_value(value).unwrap(), name(*value));
            }
        }
        check(&[Side::Unknown, Side::Buy, Side::Sell], side);
        check(&Condition::ALL, condition);
        check(&[Source::Unknown, Source::Websocket, Source::Rest, Source::Replay, Source::Import], source);
        check(&[Quality::Unknown, Quality::Complete, Quality::Backfilled, Quality::Halted], quality);
        check(&[Quality::PartialOpen, Quality::Gap, Quality::NoTrades], quality);
        check(&[BarSource::Unknown, BarSource::Trades, BarSource::Candles], bar_source);
        check(&[InvestorClass::Unknown, InvestorClass::Foreign, InvestorClass::Institution], investor_class);
        check(&[InvestorClass::Individual, InvestorClass::OtherCorporation, InvestorClass::Total], investor_class);
    }
}
