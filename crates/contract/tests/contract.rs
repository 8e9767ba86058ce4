//! Our codec against apache-avro's, for every record type: the canonical examples, generated records, damaged bytes, and bytes written
//! under an older or newer version of the schema.
//!
//! What is expected comes from the record's JSON form and the schema, field by *name*, so it shares nothing with the codec, which goes by position.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a panic is how a test fails")]

mod agreement;

use agreement::{check_agreement, read, write};
use apache_avro::Schema as AvroSchema;
use apache_avro::types::Value;
use marketflow_contract::{AvroRecord, DecodeError, Schema, resolve};
use marketflow_model::{
    Amount, Bar, BarKind, BarSource, Candle, Condition, Conditions, Control, ControlKind, Envelope, EnvelopeClass, Feed,
    FeedState, FlowAggregate, FundFlow, Instrument, Interval, InvestorClass, Observation, Price, Quality, Quantity, Quote,
    Reference, ReferenceKind, SeriesValue, Side, Source, Timestamp, Trade, parse_scaled,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::fmt::Debug;

trait Record: AvroRecord + PartialEq + Debug + serde::Serialize + serde::de::DeserializeOwned {
    const EXAMPLE: &'static str;

    fn example() -> Json {
        serde_json::from_str(Self::EXAMPLE).unwrap()
    }

    fn any() -> BoxedStrategy<Self>;
}

macro_rules! every_record {
    ($($module:ident: $record:ident, $example:literal, $any:expr;)*) => {
        impl_records!($($record, $example, $any;)*);
        $(mod $module {
            use super::*;

            #[test]
            fn example_is_the_same_in_both_codecs() {
                check_example::<$record>();
            }

            #[test]
            fn older_and_newer_writers_resolve() {
                check_resolution::<$record>();
            }

            proptest! {
                #[test]
                fn any_record_is_the_same_in_both_codecs(record in $record::any()) {
                    check_record(&record);
                }

                #[test]
                fn damaged_bytes_are_refused_as_apache_avro_refuses_them(record in $record::any(), damage in vec(damage(), 1..20)) {
                    check_damage(&record, &damage);
                }
            }
        })*

        #[test]
        fn every_schema_is_tested() {
            assert_eq!(Schema::ALL.len(), [$($record::SCHEMA),*].len());
        }
    };
}

macro_rules! impl_records {
    ($($record:ident, $example:literal, $any:expr;)*) => {
        $(impl Record for $record {
            const EXAMPLE: &'static str = include_str!(concat!("../../../schemas/examples/", $example, ".json"));

            fn any() -> BoxedStrategy<Self> {
                $any.boxed()
            }
        })*
    };
}

every_record! {
    trade: Trade, "trade.v1", trades();
    quote: Quote, "quote.v1", quotes();
    candle: Candle, "candle.v1", candles();
    control: Control, "control.v1", controls();
    bar: Bar, "bar.v1", bars();
    envelope: Envelope, "envelope.v1", envelopes();
    observation: Observation, "observation.v1", observations();
    fund_flow: FundFlow, "fund_flow.v1", fund_flows();
    flow_aggregate: FlowAggregate, "flow_aggregate.v1", flow_aggregates();
    reference: Reference, "reference.v1", references();
}

// ---- what is checked

fn check_example<R: Record>() {
    let json = R::example();
    let record: R = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(serde_json::to_value(&record).unwrap(), json, "the example is in canonical form");
    assert!(json.as_object().unwrap().values().all(|v| !v.is_null()), "every optional field is set");
    check_record(&record);
}

fn check_record<R: Record>(record: &R) {
    let expected = avro_value(R::SCHEMA.parsed(), &serde_json::to_value(record).unwrap());
    let mut ours = Vec::new();
    record.encode(&mut ours);
    assert_eq!(read(R::SCHEMA.parsed(), &ours).unwrap(), expected);

    let theirs = write(R::SCHEMA.parsed(), expected);
    assert_eq!(ours, theirs);
    assert_eq!(&R::decode(&theirs).unwrap(), record);
}

/// A change to a byte string; positions are taken modulo its length.
#[derive(Clone, Debug)]
enum Damage {
    Cut(usize),
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<usize>().prop_map(Damage::Cut),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        any::<usize>().prop_map(Damage::Remove),
    ]
}

/// Each damage alone, then all of them one upon the other.
fn check_damage<R: Record>(record: &R, damages: &[Damage]) {
    let mut intact = Vec::new();
    record.encode(&mut intact);
    let mut worn = intact.clone();
    for damage in damages {
        let mut once = intact.clone();
        apply(damage, &mut once);
        check_agreement::<R>(&once);
        apply(damage, &mut worn);
        check_agreement::<R>(&worn);
    }
}

fn apply(damage: &Damage, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match damage {
        Damage::Cut(at) => bytes.truncate(at % length),
        Damage::Set(at, byte) => bytes[at % length] = *byte,
        Damage::Insert(at, byte) => bytes.insert(at % length, *byte),
        Damage::Remove(at) => drop(bytes.remove(at % length)),
    }
}

fn check_resolution<R: Record>() {
    let schema: Json = serde_json::from_str(R::SCHEMA.text()).unwrap();
    let example = R::example();
    for (index, field) in schema["fields"].as_array().unwrap().iter().enumerate() {
        let name = field["name"].as_str().unwrap();
        if field.get("default").is_some() {
            let mut older = schema.clone();
            older["fields"].as_array_mut().unwrap().remove(index);
            let mut written = example.clone();
            written.as_object_mut().unwrap().remove(name);
            let mut expected = example.clone();
            expected[name] = default_as_json(field);
            check_resolved::<R>(&older, &written, &expected);
        }
        if field["type"]["type"] == "enum" {
            let mut newer = schema.clone();
            newer["fields"][index]["type"]["symbols"].as_array_mut().unwrap().push(json!("NEWER"));
            let (mut written, mut expected) = (example.clone(), example.clone());
            written[name] = json!("newer");
            expected[name] = json!("unknown");
            check_resolved::<R>(&newer, &written, &expected);
        }
        let mut newer = schema.clone();
        let added = json!({"name": "added_later", "type": ["null", "string"], "default": null});
        newer["fields"].as_array_mut().unwrap().insert(index, added);
        let mut written = example.clone();
        written["added_later"] = json!("값");
        check_resolved::<R>(&newer, &written, &example);
    }
}

fn check_resolved<R: Record>(writer: &Json, written: &Json, expected: &Json) {
    let writer = AvroSchema::parse_str(&writer.to_string()).unwrap();
    let body = write(&writer, avro_value(&writer, written));
    let resolved = resolve(&writer, R::SCHEMA, &body).unwrap();
    assert_eq!(R::decode(&resolved).unwrap(), serde_json::from_value(expected.clone()).unwrap());

    for length in 0..body.len() {
        assert!(resolve(&writer, R::SCHEMA, &body[..length]).is_err(), "cut to {length} bytes");
    }
    assert_eq!(resolve(&writer, R::SCHEMA, &[&body[..], &[0]].concat()), Err(DecodeError::TrailingBytes(1)));
}

#[test]
fn unknown_conditions_are_left_out() {
    let writer = AvroSchema::parse_str(&Schema::Trade.text().replace("\"ODD_LOT\"", "\"ODD_LOT\", \"NEWER\"")).unwrap();
    let mut written = Trade::example();
    written["conditions"] = json!(["newer", "odd_lot"]);
    let resolved = resolve(&writer, Schema::Trade, &write(&writer, avro_value(&writer, &written))).unwrap();
    assert_eq!(Trade::decode(&resolved).unwrap().conditions, Conditions::NONE.with(Condition::OddLot));
}

#[test]
fn a_writer_with_another_scale_is_refused() {
    let writer = AvroSchema::parse_str(&Schema::Trade.text().replace("\"scale\": 8", "\"scale\": 10")).unwrap();
    let body = write(&writer, avro_value(&writer, &Trade::example()));
    assert!(matches!(resolve(&writer, Schema::Trade, &body), Err(DecodeError::Resolution(_))));
}

#[test]
fn an_array_in_several_sized_blocks_is_read() {
    let trade: Trade = serde_json::from_value(Trade::example()).unwrap();
    let mut body = Vec::new();
    trade.encode(&mut body);
    let one_block = [4, 2, 8, 0, 2]; // two items, AUCTION, ODD_LOT, end; source WEBSOCKET
    assert!(body.ends_with(&one_block));
    body.truncate(body.len() - one_block.len());
    body.extend([1, 2, 2, 1, 2, 8, 0, 2]); // twice: one item, one byte long
    assert_eq!(Trade::decode(&body).unwrap(), trade);
}

#[test]
fn series_values_have_38_digits() {
    let mut observation: Observation = serde_json::from_value(Observation::example()).unwrap();
    let limit = 10i128.pow(38);
    assert_eq!(SeriesValue::from_scaled(limit), None);
    assert_eq!(SeriesValue::from_scaled(i128::MIN), None);
    for value in [limit - 1, 1 - limit] {
        observation.value = SeriesValue::from_scaled(value);
        let mut body = Vec::new();
        observation.encode(&mut body);
        assert_eq!(Observation::decode(&body), Ok(observation.clone()));
    }
}

// ---- the other side: apache-avro

/// The Avro value of a record's JSON form.
fn avro_value(schema: &AvroSchema, json: &Json) -> Value {
    match schema {
        AvroSchema::String => Value::String(json.as_str().unwrap().to_owned()),
        AvroSchema::Boolean => Value::Boolean(json.as_bool().unwrap()),
        AvroSchema::Int => Value::Int(i32::try_from(json.as_i64().unwrap()).unwrap()),
        AvroSchema::Long => Value::Long(json.as_i64().unwrap()),
        AvroSchema::TimestampMicros => Value::TimestampMicros(json.as_i64().unwrap()),
        AvroSchema::Bytes => {
            Value::Bytes(json.as_array().unwrap().iter().map(|b| u8::try_from(b.as_u64().unwrap()).unwrap()).collect())
        }
        AvroSchema::Decimal(decimal) => {
            let scaled = match json {
                Json::String(text) => parse_scaled(text, u32::try_from(decimal.scale).unwrap()).unwrap(),
                number => i128::from(number.as_i64().unwrap()),
            };
            Value::Decimal(shortest(scaled).into())
        }
        AvroSchema::Enum(listed) => {
            let symbol = json.as_str().unwrap().to_uppercase();
            let index = listed.symbols.iter().position(|s| *s == symbol).unwrap();
            Value::Enum(u32::try_from(index).unwrap(), symbol)
        }
        AvroSchema::Union(_) if json.is_null() => Value::Union(0, Box::new(Value::Null)),
        AvroSchema::Union(union) => Value::Union(1, Box::new(avro_value(&union.variants()[1], json))),
        AvroSchema::Array(array) => Value::Array(json.as_array().unwrap().iter().map(|i| avro_value(&array.items, i)).collect()),
        AvroSchema::Record(record) => {
            let named = |(index, name): (usize, &str)| match json {
                Json::Array(pair) => pair[index].clone(),
                object => object.get(name).unwrap_or_else(|| panic!("no {name} in {object}")).clone(),
            };
            let fields = record.fields.iter().enumerate();
            let values = fields.map(|(i, f)| (f.name.clone(), avro_value(&f.schema, &named((i, &f.name))))).collect::<Vec<_>>();
            assert_eq!(values.len(), json.as_object().map_or_else(|| json.as_array().unwrap().len(), serde_json::Map::len));
            Value::Record(values)
        }
        other => panic!("the contract has no {other:?}"),
    }
}

/// The fewest bytes of two's complement that hold the value.
fn shortest(value: i128) -> Vec<u8> {
    let width = (1..16).find(|width| (-(1i128 << (8 * width - 1))..1i128 << (8 * width - 1)).contains(&value)).unwrap_or(16);
    value.to_be_bytes()[16 - width..].to_vec()
}

/// A field's default in the record's JSON form.
fn default_as_json(field: &Json) -> Json {
    match (&field["type"]["logicalType"], &field["type"]["type"]) {
        (Json::String(decimal), _) if decimal == "decimal" => json!("0"),
        (_, Json::String(listed)) if listed == "enum" => json!(field["default"].as_str().unwrap().to_lowercase()),
        _ => field["default"].clone(),
    }
}

// ---- generated records

fn instruments() -> impl Strategy<Value = Instrument> {
    "[A-Z]{1,8}:[0-9A-Z가-힣._/-]{1,20}".prop_map(|text| text.parse().unwrap())
}

fn feeds() -> impl Strategy<Value = Feed> {
    texts().prop_map(|name| Feed::new(&name))
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), any::<String>(), "[가-힣 a-z]{0,200}"]
}

fn times() -> impl Strategy<Value = Timestamp> {
    prop_oneof![0..4_102_444_800_000_000i64, any::<i64>()].prop_map(Timestamp::from_micros)
}

fn longs() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), Just(i64::MIN), Just(i64::MAX), 0..1_000_000i64, any::<i64>()]
}

fn prices() -> impl Strategy<Value = Price> {
    const LIMIT: i64 = 1_000_000_000_000_000_000;
    prop_oneof![Just(0), Just(1 - LIMIT), Just(LIMIT - 1), -300..300i64, 1 - LIMIT..LIMIT]
        .prop_map(|s| Price::from_scaled(s).unwrap())
}

fn wide() -> impl Strategy<Value = i128> {
    const LIMIT: i128 = 10i128.pow(38);
    prop_oneof![
        Just(0),
        Just(1 - LIMIT),
        Just(LIMIT - 1),
        -70_000..70_000i128,
        (0..38u32).prop_map(|e| 10i128.pow(e)),
        1 - LIMIT..LIMIT
    ]
}

fn quantities() -> impl Strategy<Value = Quantity> {
    wide().prop_map(|s| Quantity::from_scaled(s).unwrap())
}

fn amounts() -> impl Strategy<Value = Amount> {
    wide().prop_map(|s| Amount::from_scaled(s).unwrap())
}

fn intervals() -> impl Strategy<Value = Interval> {
    (1..=1440u16).prop_filter_map("a divisor of a day", Interval::from_minutes)
}

fn bar_kinds() -> impl Strategy<Value = BarKind> {
    let positive = 1..i128::from(u64::MAX);
    prop_oneof![
        intervals().prop_map(BarKind::Time),
        (1..u32::MAX).prop_map(BarKind::Ticks),
        positive.clone().prop_map(|v| BarKind::Volume(Quantity::from_scaled(v).unwrap())),
        positive.prop_map(|v| BarKind::Turnover(Amount::from_scaled(v).unwrap())),
    ]
}

fn one_of<T: Copy + Debug + 'static>(variants: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(variants)
}

fn sources() -> impl Strategy<Value = Source> {
    one_of(&[Source::Unknown, Source::Websocket, Source::Rest, Source::Replay, Source::Import])
}

fn maybe<S: Strategy + 'static>(values: S) -> impl Strategy<Value = Option<S::Value>> {
    proptest::option::of(values)
}

fn trades() -> impl Strategy<Value = Trade> {
    let who = (instruments(), feeds(), times(), times(), prices(), maybe(quantities()));
    let side = one_of(&[Side::Unknown, Side::Buy, Side::Sell]);
    let conditions = vec(one_of(&Condition::ALL), 0..4).prop_map(Conditions::from);
    let how = (side, maybe(texts()), maybe(longs()), maybe(longs()), conditions, sources());
    (who, how).prop_map(|((instrument, feed, event_time, receive_time, price, size), how)| {
        let (side, trade_id, sequence, import_row, conditions, source) = how;
        Trade {
            instrument,
            feed,
            event_time,
            receive_time,
            price,
            size,
            side,
            trade_id,
            sequence,
            import_row,
            conditions,
            source,
        }
    })
}

fn quotes() -> impl Strategy<Value = Quote> {
    let bid_and_ask = (maybe(prices()), maybe(quantities()), maybe(prices()), maybe(quantities()), maybe(longs()));
    (instruments(), feeds(), times(), times(), bid_and_ask).prop_map(|(instrument, feed, event_time, receive_time, rest)| {
        let (bid_price, bid_size, ask_price, ask_size, sequence) = rest;
        Quote { instrument, feed, event_time, receive_time, bid_price, bid_size, ask_price, ask_size, sequence }
    })
}

fn candles() -> impl Strategy<Value = Candle> {
    let which = (instruments(), feeds(), intervals(), times(), times());
    let prices = (prices(), prices(), prices(), prices());
    let sums = (maybe(quantities()), maybe(amounts()), maybe(longs()), maybe(quantities()));
    (which, prices, sums, maybe(longs()), any::<bool>(), sources()).prop_map(
        |(which, prices, sums, import_row, closed, source)| {
            let (instrument, feed, interval, open_time, receive_time) = which;
            let (open, high, low, close) = prices;
            let (volume, turnover, trade_count, buy_volume) = sums;
            Candle {
                instrument,
                feed,
                interval,
                open_time,
                receive_time,
                open,
                high,
                low,
                close,
                volume,
                turnover,
                trade_count,
                buy_volume,
                import_row,
                closed,
                source,
            }
        },
    )
}

fn controls() -> impl Strategy<Value = Control> {
    let kind = one_of(&[
        ControlKind::Unknown,
        ControlKind::Heartbeat,
        ControlKind::FeedState,
        ControlKind::GapOpened,
        ControlKind::GapFilled,
        ControlKind::GapAbandoned,
        ControlKind::Halt,
        ControlKind::CalendarChange,
        ControlKind::End,
        ControlKind::Clock,
    ]);
    let state = one_of(&[FeedState::Unknown, FeedState::Up, FeedState::Down]);
    let times = (times(), maybe(times()), maybe(times()), maybe(times()));
    let texts = (maybe(texts()), maybe(texts()), maybe(texts()));
    (kind, feeds(), maybe(instruments()), times, state, texts).prop_map(|(kind, feed, instrument, times, state, texts)| {
        let (clock, complete_through, from, to) = times;
        let (gap_id, reason, connection_id) = texts;
        Control { kind, feed, instrument, clock, complete_through, gap_id, from, to, state, reason, connection_id }
    })
}

fn bars() -> impl Strategy<Value = Bar> {
    let quality = one_of(&[
        Quality::Unknown,
        Quality::Complete,
        Quality::Backfilled,
        Quality::Halted,
        Quality::PartialOpen,
        Quality::Gap,
        Quality::NoTrades,
    ]);
    let source = one_of(&[BarSource::Unknown, BarSource::Trades, BarSource::Candles]);
    let which = (instruments(), bar_kinds(), times(), times(), feeds());
    let prices = (prices(), prices(), prices(), prices(), maybe(prices()));
    let sums = (quantities(), amounts(), longs(), quantities(), quantities());
    (which, prices, sums, any::<i32>(), quality, source, maybe(texts())).prop_map(
        |(which, prices, sums, revision, quality, source, revision_reason)| {
            let (instrument, interval, open_time, close_time, feed) = which;
            let (open, high, low, close, vwap) = prices;
            let (volume, turnover, trade_count, buy_volume, sell_volume) = sums;
            Bar {
                instrument,
                interval,
                open_time,
                close_time,
                open,
                high,
                low,
                close,
                volume,
                turnover,
                vwap,
                trade_count,
                buy_volume,
                sell_volume,
                revision,
                quality,
                feed,
                source,
                revision_reason,
            }
        },
    )
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    let class = one_of(&[
        EnvelopeClass::Unknown,
        EnvelopeClass::Late,
        EnvelopeClass::Quarantine,
        EnvelopeClass::Undecodable,
        EnvelopeClass::Refused,
        EnvelopeClass::Redriven,
        EnvelopeClass::Discarded,
    ]);
    let bytes = || vec(any::<u8>(), 0..300);
    let origin = (texts(), any::<i32>(), longs(), times());
    let what = (maybe(any::<i32>()), maybe(bytes()), bytes(), vec((texts(), bytes()), 0..4));
    (texts(), class, texts(), origin, what).prop_map(|(consumer, class, reason, origin, what)| {
        let (origin_topic, origin_partition, origin_offset, receive_time) = origin;
        let (schema_id, key, value, headers) = what;
        Envelope {
            consumer,
            class,
            reason,
            origin_topic,
            origin_partition,
            origin_offset,
            receive_time,
            schema_id,
            key,
            value,
            headers,
        }
    })
}

/// Values within 64 bits: JSON numbers hold no more (see `series_values_have_38_digits` for the rest).
fn observations() -> impl Strategy<Value = Observation> {
    let value = maybe(longs().prop_map(|v| SeriesValue::from_scaled(v.into()).unwrap()));
    let times = (times(), times(), maybe(times()), times());
    (texts(), texts(), times, value, texts(), maybe(texts())).prop_map(|(provider, series, times, value, unit, vintage)| {
        let (period_start, period_end, published_at, receive_time) = times;
        Observation { provider, series, period_start, period_end, value, unit, published_at, vintage, receive_time }
    })
}

fn fund_flows() -> impl Strategy<Value = FundFlow> {
    let class = one_of(&[
        InvestorClass::Unknown,
        InvestorClass::Foreign,
        InvestorClass::Institution,
        InvestorClass::Individual,
        InvestorClass::OtherCorporation,
        InvestorClass::Total,
    ]);
    let texts = (texts(), texts(), maybe(texts()));
    (instruments(), class, (times(), times(), times()), maybe(amounts()), maybe(quantities()), texts).prop_map(
        |(instrument, investor_class, times, net_amount, net_quantity, texts)| {
            let (period_start, period_end, receive_time) = times;
            let (provider, currency, vintage) = texts;
            FundFlow {
                instrument,
                provider,
                investor_class,
                period_start,
                period_end,
                net_amount,
                net_quantity,
                currency,
                vintage,
                receive_time,
            }
        },
    )
}

fn flow_aggregates() -> impl Strategy<Value = FlowAggregate> {
    let texts = (texts(), texts(), texts(), texts());
    let amounts = (amounts(), amounts(), amounts());
    (texts, times(), times(), amounts, longs(), any::<bool>(), any::<i32>()).prop_map(
        |(texts, open_time, close_time, amounts, input_count, stale, revision)| {
            let (scope, name, method, currency) = texts;
            let (inflow, outflow, net) = amounts;
            FlowAggregate {
                scope,
                name,
                open_time,
                close_time,
                method,
                inflow,
                outflow,
                net,
                currency,
                input_count,
                stale,
                revision,
            }
        },
    )
}

fn references() -> impl Strategy<Value = Reference> {
    let kind = one_of(&[
        ReferenceKind::Unknown,
        ReferenceKind::Instrument,
        ReferenceKind::Halt,
        ReferenceKind::EtfConstituent,
        ReferenceKind::CorporateAction,
    ]);
    let value = maybe(longs().prop_map(|v| SeriesValue::from_scaled(v.into()).unwrap()));
    let texts_of = (texts(), maybe(texts()), texts(), vec((texts(), texts()), 0..4));
    (kind, instruments(), (times(), maybe(times()), times()), value, texts_of).prop_map(
        |(kind, instrument, times, value, texts)| {
            let (valid_from, valid_to, receive_time) = times;
            let (member, name, provider, attributes) = texts;
            Reference { kind, instrument, member, valid_from, valid_to, name, value, attributes, provider, receive_time }
        },
    )
}
