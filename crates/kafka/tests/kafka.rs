//! Against a real broker and a real registry.

use anyhow::{Context, ensure};
use marketflow_contract::{Schema, encode_value, topics};
use marketflow_kafka::{
    Consumer, DecodeError, Disposition, Ends, GroupSettings, Outgoing, Producer, ProducerSettings, Reader, Rebalance,
    TopicPartition, TransactionSettings, TransactionalProducer, admin, partition_for,
};
use marketflow_model::{Control, ControlKind, Feed, Timestamp};
use marketflow_testkit::TestStack;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

/// One stack for all: each part uses topics of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_and_registry() -> anyhow::Result<()> {
    let stack = TestStack::start_with(&["kafka", "registry"]).await?;
    topics_are_as_the_file_says(&stack).await?;
    values_are_decoded_by_their_id(&stack).await?;
    let kafka = stack.kafka();
    tokio::task::spawn_blocking(move || {
        keys_land_where_java_puts_them(&kafka)?;
        a_transaction_is_seen_whole_or_not_at_all(&kafka)?;
        a_second_producer_of_the_same_id_fences_the_first(&kafka)?;
        rebalances_are_told_between_batches(&kafka)
    })
    .await?
}

async fn topics_are_as_the_file_says(stack: &TestStack) -> anyhow::Result<()> {
    let kafka = stack.kafka();
    assert!(admin::create_topics(&kafka, &admin::TopicOptions::default(), PATIENCE).await?.is_empty(), "all exist already");
    assert_eq!(admin::differences(&kafka, PATIENCE).await?, Vec::<String>::new());
    let cluster = tokio::task::spawn_blocking(move || admin::describe(&kafka, PATIENCE)).await??;
    assert!(!cluster.id.is_empty() && cluster.brokers == 1, "{cluster:?}");
    let trades = &cluster.topics[topics::TRADES];
    assert!(trades.partitions == 4 && trades.id.len() >= 20 && trades.id != cluster.topics[topics::BARS].id, "{trades:?}");
    Ok(())
}

async fn values_are_decoded_by_their_id(stack: &TestStack) -> anyhow::Result<()> {
    let registry = stack.registry()?;
    let ids = registry.ids().await?;
    assert_eq!(registry.register_all().await?, ids, "registering again changes nothing");
    let id = ids.id(topics::TRADES, Schema::Control).context("trades carry controls")?;
    assert_ne!(ids.id(topics::TRADES, Schema::Trade), Some(id));

    let control = Control::new(ControlKind::Heartbeat, Feed::new("bitstamp"), Timestamp::from_seconds(1));
    let mut decoder = registry.decoder().await?;
    let value = |id: u32| {
        let mut value = Vec::new();
        encode_value(&control, id, &mut value);
        value
    };
    assert_eq!(decoder.schema_of(&value(id))?, Schema::Control);
    assert_eq!(decoder.decode::<Control>(&value(id))?, control);
    let unknown = decoder.decode::<Control>(&value(999_999));
    assert!(matches!(unknown, Err(DecodeError::Value(marketflow_contract::DecodeError::UnknownSchema(999_999)))), "{unknown:?}");
    Ok(())
}

fn keys_land_where_java_puts_them(kafka: &marketflow_kafka::KafkaConfig) -> anyhow::Result<()> {
    let producer = Producer::new(kafka, &ProducerSettings::default())?;
    let keys: Vec<String> = (0..1_000).map(|n| format!("KRX:{:06}", n * 7_919 % 1_000_000)).collect();
    for key in &keys {
        producer.send(Outgoing::new(topics::QUOTES, key.as_bytes(), b"x"), PATIENCE)?;
    }
    producer.flush(PATIENCE)?;
    ensure!((producer.delivered(), producer.failed()) == (1_000, 0));

    let reader = Reader::new(kafka)?;
    let mut seen = 0;
    for partition in 0..reader.partition_count(topics::QUOTES)? {
        let next = reader.read_to_end(&TopicPartition::new(topics::QUOTES, partition), 0, PATIENCE, |record| {
            assert_eq!(partition_for(record.key().unwrap_or_default(), 4), partition);
            seen += 1;
            ControlFlow::Continue(())
        })?;
        ensure!(next > 0);
    }
    ensure!(seen == 1_000, "{seen} of 1000 read back");
    Ok(())
}

fn consumer(kafka: &marketflow_kafka::KafkaConfig, group: &str, instance: &str, topic: &str) -> anyhow::Result<Consumer> {
    let settings = GroupSettings { instance_id: Some(instance.to_owned()), ..GroupSettings::new(group) };
    Ok(Consumer::subscribe(kafka, &settings, &[topic])?)
}

fn until_assigned(consumer: &Consumer) -> anyhow::Result<Vec<TopicPartition>> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        for event in consumer.poll_batch(POLL, 1)?.rebalances {
            if let Rebalance::Assigned(partitions) = event {
                return Ok(partitions);
            }
        }
    }
    anyhow::bail!("no assignment within {PATIENCE:?}")
}

fn committed_values(kafka: &marketflow_kafka::KafkaConfig, topic: &str, partition: i32) -> anyhow::Result<(Vec<String>, i64)> {
    let mut values = Vec::new();
    let next = Reader::new(kafka)?.read_to_end(&TopicPartition::new(topic, partition), 0, PATIENCE, |record| {
        values.push(String::from_utf8_lossy(record.value().unwrap_or_default()).into_owned());
        ControlFlow::Continue(())
    })?;
    Ok((values, next))
}

fn a_transaction_is_seen_whole_or_not_at_all(kafka: &marketflow_kafka::KafkaConfig) -> anyhow::Result<()> {
    let (input, output) = (topics::FUND_FLOWS, topics::FLOW_AGGREGATES);
    let consumer = consumer(kafka, "copier", "copier-0", input)?;
    until_assigned(&consumer)?;
    let producer = TransactionalProducer::connect(kafka, "copier-0", TransactionSettings::default())?;
    let to = |value: &'static str| Outgoing { partition: Some(0), ..Outgoing::new(output, b"k", value.as_bytes()) };
    let at = |offset: i64| vec![(TopicPartition::new(input, 0), offset)];

    producer.begin()?;
    producer.send(to("kept"))?;
    producer.commit(&at(3), &consumer)?;
    producer.begin()?;
    producer.send(to("thrown away"))?;
    producer.abort()?;
    let (values, next) = committed_values(kafka, output, 0)?;
    ensure!(values == ["kept"] && next >= 1, "{values:?}, up to {next}");
    ensure!(consumer.committed(&[TopicPartition::new(input, 0)], PATIENCE)? == at(3));

    let mut times = Vec::new();
    for round in 0..40 {
        let start = Instant::now();
        producer.begin()?;
        producer.send(to("again"))?;
        producer.commit(&at(4 + round), &consumer)?;
        times.push(start.elapsed());
    }
    times.sort();
    eprintln!("transaction of one record: median {:?}, worst {:?}", times[20], times[39]);
    ensure!(times[0] < Duration::from_millis(100), "not even the fastest commit was without a wait for a poll: {:?}", times[0]);
    Ok(())
}

fn a_second_producer_of_the_same_id_fences_the_first(kafka: &marketflow_kafka::KafkaConfig) -> anyhow::Result<()> {
    let consumer = consumer(kafka, "fenced", "fenced-0", topics::FUND_FLOWS)?;
    until_assigned(&consumer)?;
    let first = TransactionalProducer::connect(kafka, "fenced-0", TransactionSettings::default())?;
    first.begin()?;
    first.send(Outgoing { partition: Some(0), ..Outgoing::new(topics::OBSERVATIONS, b"k", b"of a zombie") })?;
    let second = TransactionalProducer::connect(kafka, "fenced-0", TransactionSettings::default())?;
    let refused = first.commit(&[(TopicPartition::new(topics::FUND_FLOWS, 0), 1)], &consumer);
    match refused {
        Err(problem) => ensure!(problem.disposition() == Disposition::Fatal, "{problem:?}"),
        Ok(()) => anyhow::bail!("a fenced producer committed"),
    }
    second.begin()?;
    second.send(Outgoing { partition: Some(0), ..Outgoing::new(topics::OBSERVATIONS, b"k", b"of the living") })?;
    second.commit(&[], &consumer)?;
    let (values, _) = committed_values(kafka, topics::OBSERVATIONS, 0)?;
    ensure!(values == ["of the living"], "{values:?}");
    Ok(())
}

fn rebalances_are_told_between_batches(kafka: &marketflow_kafka::KafkaConfig) -> anyhow::Result<()> {
    let topic = topics::CANDLES;
    let producer = Producer::new(kafka, &ProducerSettings::default())?;
    for n in 0..400 {
        producer.send(Outgoing { partition: Some(n % 4), ..Outgoing::new(topic, b"k", b"v") }, PATIENCE)?;
    }
    producer.flush(PATIENCE)?;

    let first = consumer(kafka, "pair", "pair-0", topic)?;
    ensure!(until_assigned(&first)?.len() == 4);
    let mut next = std::collections::BTreeMap::new();
    while next.values().sum::<i64>() < 400 {
        for record in first.poll_batch(POLL, 1_000)?.records() {
            next.insert(TopicPartition::new(record.topic(), record.partition()), record.offset() + 1);
        }
    }
    first.commit(&next.into_iter().collect::<Vec<_>>())?;

    // the second takes half of it: the first hears of it at a poll, in that order
    let second = consumer(kafka, "pair", "pair-1", topic)?;
    let (mut revoked, mut first_has, mut second_has) = (0, 4, 0);
    let start = Instant::now();
    while (first_has, second_has) != (2, 2) {
        ensure!(start.elapsed() < PATIENCE, "first has {first_has}, second {second_has}");
        for event in first.poll_batch(POLL, 10)?.rebalances {
            match event {
                Rebalance::Revoked(gone) | Rebalance::Lost(gone) => revoked += gone.len(),
                Rebalance::Assigned(now) => first_has = now.len(),
            }
        }
        for event in second.poll_batch(POLL, 10)?.rebalances {
            if let Rebalance::Assigned(now) = event {
                second_has = now.len();
            }
        }
    }
    ensure!(revoked == 4, "range assignment takes all back before it deals them out: {revoked}");
    ensure!(second.poll_batch(POLL, 10)?.is_empty(), "everything was committed before");

    let mine = second.assignment()?;
    second.seek(&mine[0], 40, PATIENCE)?;
    let batch = second.poll_batch(PATIENCE, 1_000)?;
    ensure!(batch.records().next().map(|record| record.offset()) == Some(40));
    ensure!(second.watermarks(&mine[0], PATIENCE)? == (0, 100));

    let mut ends = Ends::new(kafka)?;
    ensure!(ends.answer().is_none(), "nothing was asked");
    ends.ask(mine.clone());
    ends.ask(Vec::new()); // the first question is still open
    let asked = Instant::now();
    let answer = loop {
        if let Some(answer) = ends.answer() {
            break answer;
        }
        ensure!(asked.elapsed() < PATIENCE, "no answer");
        std::thread::sleep(POLL);
    };
    ensure!(answer == mine.iter().map(|of| (of.clone(), 0..100)).collect::<Vec<_>>(), "{answer:?}");
    Ok(())
}
