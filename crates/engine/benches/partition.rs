//! Cost of one trade in the engine: 125 instruments of one partition, one heartbeat a second, state changes taken every 10,000 records.

#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use marketflow_engine::{Config, Partition};
use marketflow_model::{BarSource, Conditions, Control, ControlKind, Feed, Instrument, Side, Source, Timestamp, Trade};

const TRADES: i64 = 200_000;

fn load() -> Vec<Trade> {
    let instruments: Vec<Instrument> =
        (0..125).map(|i| Instrument::new("BENCH", &format!("S{i:03}")).expect("a plain name is an instrument")).collect();
    let feed = Feed::new("bench");
    (0..TRADES)
        .zip(instruments.iter().cycle())
        .map(|(id, instrument)| {
            let at = Timestamp::from_micros(1_700_000_000_000_000 + id * 2_160);
            Trade {
                instrument: instrument.clone(),
                feed: feed.clone(),
                event_time: at,
                receive_time: at,
                price: marketflow_model::Price::from_scaled(10_000_000_000 + (id * 7919 % 1000) * 1_000_000)
                    .expect("a small price"),
                size: marketflow_model::Quantity::from_scaled(i128::from(1 + id % 500) * 1_000_000),
                side: if id % 2 == 0 { Side::Buy } else { Side::Sell },
                trade_id: Some(id.to_string()),
                sequence: Some(id),
                import_row: None,
                conditions: Conditions::NONE,
                source: Source::Websocket,
            }
        })
        .collect()
}

fn partition(criterion: &mut Criterion) {
    let trades = load();
    let mut group = criterion.benchmark_group("partition");
    group.throughput(Throughput::Elements(TRADES.unsigned_abs())).sample_size(10);
    group.bench_function("on_trade", |bencher| {
        bencher.iter_batched(
            || (Partition::new(Config::default()), Vec::new()),
            |(mut partition, mut bars)| {
                let mut second = 0;
                for (trade, offset) in trades.iter().zip(0i64..) {
                    partition.on_trade(trade, offset, &mut bars);
                    if trade.event_time.micros() / 1_000_000 != second {
                        second = trade.event_time.micros() / 1_000_000;
                        let mut heartbeat = Control::new(ControlKind::Heartbeat, trade.feed.clone(), trade.event_time);
                        heartbeat.complete_through = Some(trade.event_time.plus_micros(-2_000_000));
                        partition.on_control(BarSource::Trades, &heartbeat, offset, &mut bars);
                    }
                    if offset % 10_000 == 0 {
                        std::hint::black_box(partition.take_changes());
                    }
                }
                bars
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, partition);
criterion_main!(benches);
