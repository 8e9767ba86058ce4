//! The sink against real Kafka, registry and ClickHouse: rows land once, also when it is killed; what cannot land is set aside.

use anyhow::{Context, ensure};
use marketflow_contract::topics;
use marketflow_kafka::{Outgoing, Producer, ProducerSettings};
use marketflow_model::{
    Bar, BarSource, Envelope, EnvelopeClass, Feed, FlowAggregate, Interval, Quality, Side, Source, Timestamp, Trade,
};
use marketflow_testkit::{TestStack, eventually};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(240);

fn trade(instrument: &str, id: i64, second: i64) -> Trade {
    Trade {
        instrument: instrument.parse().expect("the test wrote it well"),
        feed: Feed::new("bitstamp"),
        // the end of November: a batch has blocks of two months
        event_time: Timestamp::from_seconds(1_385_855_000 + second),
        receive_time: Timestamp::from_seconds(1_385_855_001 + second),
        price: "1163.01".parse().expect("the test wrote it well"),
        size: Some("0.5".parse().expect("the test wrote it well")),
        side: Side::Buy,
        trade_id: Some(id.to_string()),
        sequence: Some(id),
        import_row: None,
        conditions: marketflow_model::Conditions::NONE,
        source: Source::Websocket,
    }
}

fn bar(feed: &str, quality: Quality, revision: i32, close: &str) -> Bar {
    let price = |text: &str| text.parse().expect("the test wrote it well");
    Bar {
        instrument: "BITSTAMP:BTCUSD".parse().expect("the test wrote it well"),
        interval: Interval::ONE_MINUTE.into(),
        open_time: Timestamp::from_seconds(1_385_337_600),
        close_time: Timestamp::from_seconds(1_385_337_660),
        open: price("1"),
        high: price("9"),
        low: price("1"),
        close: price(close),
        volume: "2".parse().expect("the test wrote it well"),
        turnover: "4".parse().expect("the test wrote it well"),
        vwap: Some(price("2")),
        trade_count: 2,
        buy_volume: "2".parse().expect("the test wrote it well"),
        sell_volume: "0".parse().expect("the test wrote it well"),
        revision,
        quality,
        feed: Feed::new(feed),
        source: BarSource::Trades,
        revision_reason: None,
    }
}

/// One stack for all: starting it takes longer than what is tested.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sink() -> anyhow::Result<()> {
    let mut stack = TestStack::start().await?;
    stack.start_service("sink", &[("batch.max_rows", "700"), ("audit.every", "1s")]).await?;
    rows_land_and_the_views_choose(&stack).await?;
    rows_that_went_are_missed(&stack).await?;
    what_cannot_land_is_set_aside(&stack).await?;
    a_killed_sink_lands_every_row_once(&stack).await?;
    a_topic_created_again_is_not_mixed_in(&stack).await
}

async fn until(stack: &TestStack, sql: &str, expected: i64) -> anyhow::Result<()> {
    eventually(PATIENCE, async || {
        let found = count(stack, sql).await?;
        ensure!(found == expected, "{sql}: {found}, not {expected}");
        Ok(())
    })
    .await
}

async fn count(stack: &TestStack, sql: &str) -> anyhow::Result<i64> {
    let text = stack.query(sql).await?;
    text.trim().parse().with_context(|| format!("{sql}: {text}"))
}

async fn rows_land_and_the_views_choose(stack: &TestStack) -> anyhow::Result<()> {
    let keyed = |bars: Vec<Bar>| bars.into_iter().map(|bar| (bar.instrument.as_str().to_owned(), bar)).collect();
    stack
        .send(
            topics::BARS,
            keyed(vec![
                bar("bitstamp", Quality::Gap, 0, "2"),
                bar("import:a", Quality::Complete, 0, "3"),
                bar("bitstamp", Quality::Backfilled, 1, "4"),
            ]),
        )
        .await?;
    until(stack, "SELECT count() FROM bars_log", 3).await?;
    let shown = "SELECT feed, revision, close, quality FROM bars ORDER BY feed";
    assert_eq!(stack.query(shown).await?, "bitstamp\t1\t4\tbackfilled\nimport:a\t0\t3\tcomplete\n");
    assert_eq!(stack.query("SELECT feed, close, vwap FROM bars_final").await?, "import:a\t3\t2\n", "complete beats backfilled");
    stack.send(topics::BARS, keyed(vec![bar("bitstamp", Quality::Complete, 2, "5")])).await?;
    until(stack, "SELECT count() FROM bars_log", 4).await?;
    assert_eq!(stack.query("SELECT feed, close, revision FROM bars_final").await?, "bitstamp\t5\t2\n", "live beats import");

    // a minute of a venue in two currencies, one of them revised
    let flow = |currency: &str, revision, inflow: &str| -> anyhow::Result<(String, FlowAggregate)> {
        let flow = FlowAggregate {
            scope: "venue".to_owned(),
            name: "BITSTAMP".to_owned(),
            open_time: Timestamp::from_seconds(1_385_337_600),
            close_time: Timestamp::from_seconds(1_385_337_660),
            method: "AGGRESSOR_TURNOVER".to_owned(),
            inflow: inflow.parse()?,
            outflow: "1.5".parse()?,
            net: "0".parse()?,
            currency: currency.to_owned(),
            input_count: 2,
            stale: revision == 0,
            revision,
        };
        Ok(("venue/BITSTAMP".to_owned(), flow))
    };
    stack.send(topics::FLOW_AGGREGATES, vec![flow("USD", 0, "2")?, flow("EUR", 0, "3")?, flow("USD", 1, "2.25")?]).await?;
    until(stack, "SELECT count() FROM flow_aggregates_log", 3).await?;
    let seen = stack.query("SELECT currency, inflow, outflow, revision, stale FROM flow_aggregates ORDER BY currency").await?;
    assert_eq!(seen, "EUR\t3\t1.5\t0\ttrue\nUSD\t2.25\t1.5\t1\tfalse\n");

    // the same trade twice, a cancelled one, one without id twice (two fills), a reported zero
    let mut cancel = trade("BITSTAMP:ETHUSD", 2, 0);
    cancel.conditions = cancel.conditions.with(marketflow_model::Condition::Cancel);
    let mut nameless = trade("BITSTAMP:ETHUSD", 3, 0);
    nameless.trade_id = None;
    let mut zero = trade("BITSTAMP:ETHUSD", 4, 0);
    zero.size = Some("0".parse()?);
    let (one, two) = (trade("BITSTAMP:ETHUSD", 1, 0), trade("BITSTAMP:ETHUSD", 2, 0));
    stack.send_trades(vec![one.clone(), two, one, cancel, nameless.clone(), nameless, zero]).await?;
    until(stack, "SELECT count() FROM trades_log", 7).await?;
    let seen = stack.query("SELECT count(), sum(size) FROM trades WHERE instrument = 'BITSTAMP:ETHUSD'").await?;
    assert_eq!(seen, "3\t1.5\n", "once by id, not the cancelled one, twice without an id, not the zero");
    Ok(())
}

/// The audit counts what it landed, and sees when it is gone.
async fn rows_that_went_are_missed(stack: &TestStack) -> anyhow::Result<()> {
    let audited = async |name: &str, topic: &str| -> anyhow::Result<f64> {
        Ok(stack.metrics("sink").await?.sum(&format!("marketflow_audit_{name}"), &[("topic", topic)]))
    };
    let expected = async |name: &str, topic: &str, expected: f64| {
        eventually(PATIENCE, async || {
            let found = audited(name, topic).await?;
            ensure!((found - expected).abs() < f64::EPSILON, "{name} of {topic}: {found}, not {expected}");
            Ok(())
        })
        .await
    };
    expected("rows", topics::TRADES, 7.0).await?;
    expected("rows", topics::BARS, 4.0).await?;
    ensure!(
        audited("missing_rows", topics::TRADES).await? + audited("missing_rows", topics::BARS).await? == 0.0,
        "all are there"
    );
    stack.query("ALTER TABLE bars_log DELETE WHERE feed = 'import:a' SETTINGS mutations_sync = 2").await?;
    expected("missing_rows", topics::BARS, 1.0).await?;
    expected("rows", topics::BARS, 3.0).await?;
    // what a zombie would leave behind
    stack.query("SYSTEM STOP MERGES bars_log").await?;
    stack
        .query("INSERT INTO bars_log SETTINGS insert_deduplicate = 0 SELECT * FROM bars_log WHERE feed = 'bitstamp' LIMIT 1")
        .await?;
    expected("duplicate_rows", topics::BARS, 1.0).await?;
    stack.query("SYSTEM START MERGES bars_log").await.map(drop)
}

async fn what_cannot_land_is_set_aside(stack: &TestStack) -> anyhow::Result<()> {
    let kafka = stack.kafka();
    tokio::task::spawn_blocking(move || {
        let producer = Producer::new(&kafka, &ProducerSettings::default())?;
        producer.send(Outgoing::new(topics::TRADES, b"junk", b"no header"), PATIENCE)?;
        producer.send(Outgoing::new(topics::TRADES, b"junk", b"\0\0\x0f\xff\xff unknown schema"), PATIENCE)?;
        producer.flush(PATIENCE)
    })
    .await??;
    let mut future = trade("BITSTAMP:ETHUSD", 5, 0);
    future.event_time = Timestamp::from_seconds(99_999_999_999);
    stack.send_trades(vec![future]).await?;

    until(stack, "SELECT count() FROM set_aside", 3).await?;
    let mut letters: Vec<Envelope> =
        stack.read::<Envelope>(topics::DEAD_LETTERS).await?.into_iter().map(|located| located.record).collect();
    letters.sort_by_key(|letter| (letter.class, letter.origin_offset));
    let seen: Vec<(EnvelopeClass, &str, Option<i32>)> =
        letters.iter().map(|l| (l.class, l.consumer.as_str(), l.schema_id)).collect();
    ensure!(seen[0] == (EnvelopeClass::Undecodable, "sink", None) && letters[0].value == b"no header", "{letters:?}");
    ensure!(seen[1] == (EnvelopeClass::Undecodable, "sink", Some(0x0f_ffff)), "{letters:?}");
    ensure!(seen[2].0 == EnvelopeClass::Refused && letters[2].reason.contains("1900"), "{letters:?}");
    Ok(())
}

async fn a_killed_sink_lands_every_row_once(stack: &TestStack) -> anyhow::Result<()> {
    const TRADES: i64 = 40_000;
    let before = count(stack, "SELECT count() FROM trades_log").await?;
    let mut sent = 0;
    for round in 1..=8 {
        let until = TRADES * round / 8;
        let instruments = ["BITSTAMP:BTCUSD", "BITSTAMP:LTCUSD", "BITSTAMP:XRPUSD", "BITSTAMP:BTCEUR", "BITSTAMP:ETHBTC"];
        stack
            .send_trades(
                (sent..until)
                    .map(|n| trade(instruments[usize::try_from(n % 5).expect("the test wrote it well")], 1_000 + n, n % 2_000))
                    .collect(),
            )
            .await?;
        sent = until;
        if round % 2 == 0 {
            // somewhere between a row and its commit
            tokio::time::sleep(Duration::from_millis(u64::try_from(round * 137).expect("the test wrote it well") % 700)).await;
            stack.parts.kill("sink").await?;
            stack.parts.restart("sink").await?;
        }
    }
    let distinct = "SELECT uniqExact(partition, offset) FROM trades_log";
    until(stack, distinct, before + TRADES).await?;
    let visible = "SELECT count(), uniqExact(trade_id), sum(size) FROM trades WHERE instrument != 'BITSTAMP:ETHUSD'";
    assert_eq!(stack.query(visible).await?, "40000\t40000\t20000\n");
    let physical = count(stack, "SELECT count() FROM trades_log").await?;
    eprintln!("physical rows beyond one per offset after 4 kills: {}", physical - before - TRADES);
    assert_eq!(count(stack, "SELECT uniqExact(_partition_id) FROM trades_log").await?, 2, "rows of two months");
    Ok(())
}

/// The tables know the topic under another epoch: nothing is landed until a person accepts it.
async fn a_topic_created_again_is_not_mixed_in(stack: &TestStack) -> anyhow::Result<()> {
    stack.parts.stop_part("sink").await?;
    let clickhouse = stack.clickhouse();
    for sql in [
        "ALTER TABLE streams DELETE WHERE topic = 'market.quotes.v1' SETTINGS mutations_sync = 2",
        "INSERT INTO streams (topic, stream_epoch) VALUES ('market.quotes.v1', 'another/life')",
    ] {
        clickhouse.execute(sql, sql).await?;
    }
    let spec = stack.service("sink", &[])?;
    let output = tokio::process::Command::new(&spec.program).args(&spec.args).envs(spec.env.iter().cloned()).output();
    let output = tokio::time::timeout(PATIENCE, output).await.context("the sink went on")??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(70), "{:?}: {said}", output.status);
    ensure!(said.contains("stream.accept_epoch=") && said.contains("another/life"), "{said}");
    Ok(())
}
