//! A stack for one test: real Kafka, registry and ClickHouse in a folder of their own on free ports, with topics, schemas and tables laid out.
//!
//! Starting, stopping, killing and pausing parts is `marketflow_stack`, reached through [`TestStack::parts`]; this adds what tests ask of it:
//! records in, records and rows out, metrics. The folder is deleted at the end unless the test panics; then its path is printed.
//!
//! Next: `faultproxy.rs`.

use crate::Metrics;
use anyhow::{Context, ensure};
use marketflow_clickhouse::{ClickHouse, ClickHouseConfig, migrations};
use marketflow_contract::{AvroRecord, encode_value, headers, topics};
use marketflow_kafka::{
    KafkaConfig, Outgoing, Producer, ProducerSettings, Reader, Registry, RegistryConfig, SchemaIds, TopicPartition, admin,
};
use marketflow_model::{Control, Trade};
use marketflow_stack::{Addresses, INFRASTRUCTURE, PartSpec, Stack, StackConfig};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// How long one step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// One record of a topic and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<R> {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Kafka key.
    pub key: Vec<u8>,
    /// The record.
    pub record: R,
}

/// A running stack; ends with everything in it when dropped.
pub struct TestStack {
    /// The parts: start, stop, kill, crash, pause.
    pub parts: Stack,
    ids: SchemaIds,
    http: reqwest::Client,
    // after the parts, so that the folder outlives them
    home: Home,
}

impl TestStack {
    /// Everything: Kafka with its topics, the registry with its schemas, ClickHouse with its tables.
    ///
    /// # Errors
    /// When a part does not start; the end of its log is in the error.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&INFRASTRUCTURE).await
    }

    /// Only these of `kafka`, `registry` and `clickhouse`. A registry comes with its schemas, Kafka with its topics, ClickHouse with its tables.
    ///
    /// # Errors
    /// As [`TestStack::start`].
    pub async fn start_with(parts: &[&str]) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("marketflow-test-").tempdir().context("cannot create a folder")?;
        let config = StackConfig::for_test(home.path())?.with_infrastructure(parts);
        let home = Home(home);
        let ids = SchemaIds::default();
        let mut stack = Self { parts: Stack::start(config).await?, ids, http: reqwest::Client::new(), home };
        if parts.contains(&"kafka") {
            admin::create_topics(&stack.kafka(), &admin::TopicOptions::default(), PATIENCE).await?;
        }
        if parts.contains(&"registry") {
            stack.ids = stack.registry()?.register_all().await?;
        }
        if parts.contains(&"clickhouse") {
            migrations::apply(&stack.clickhouse()).await?;
        }
        Ok(stack)
    }

    /// Ends everything in order. A stack that is dropped instead is killed.
    pub async fn stop(self) {
        self.parts.stop().await;
    }

    /// Where the parts answer.
    pub fn addresses(&self) -> Addresses {
        self.parts.addresses()
    }

    /// State folder of this stack (`MARKETFLOW_HOME`).
    pub fn home(&self) -> &Path {
        self.home.0.path()
    }

    /// Section `[kafka]` of this stack.
    pub fn kafka(&self) -> KafkaConfig {
        KafkaConfig::new(self.addresses().kafka)
    }

    /// A client of this stack's registry.
    ///
    /// # Errors
    /// Never in practice: the address is well-formed.
    pub fn registry(&self) -> anyhow::Result<Registry> {
        Ok(Registry::new(&RegistryConfig { url: self.addresses().registry })?)
    }

    /// One of our services with this stack's addresses and these settings laid over its defaults (`("commit.interval", "50ms")`), ready for
    /// [`Stack::start_service`].
    ///
    /// # Errors
    /// When the program is not built.
    pub fn service(&self, name: &str, settings: &[(&str, &str)]) -> anyhow::Result<PartSpec> {
        let mut spec = self.parts.service(name).with_context(|| format!("{name} is built by `make build`"))?;
        let variables = settings
            .iter()
            .map(|(key, value)| (format!("MARKETFLOW__{}", key.to_uppercase().replace('.', "__")), (*value).to_owned()));
        spec.env.extend(variables);
        Ok(spec)
    }

    /// Starts a service and waits until it is ready.
    ///
    /// # Errors
    /// When the program is not built or ends instead, with the end of its log.
    pub async fn start_service(&mut self, name: &str, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        let spec = self.service(name, settings)?;
        Ok(self.parts.start_service(spec).await?)
    }

    /// What a service's `/metrics` says now.
    ///
    /// # Errors
    /// When it does not run or does not answer.
    pub async fn metrics(&self, service: &str) -> anyhow::Result<Metrics> {
        let part =
            self.parts.status().into_iter().find(|part| part.name == service).with_context(|| format!("no part {service}"))?;
        let port = part.ports.first().with_context(|| format!("{service} has no port"))?.port;
        let answer = self.http.get(format!("http://127.0.0.1:{port}/metrics")).send().await?.error_for_status()?;
        Ok(Metrics::parse(&answer.text().await?))
    }

    /// Writes records under their keys and waits until Kafka has them.
    ///
    /// # Errors
    /// Kafka's, or a topic that does not hold such records.
    pub async fn send<R: AvroRecord + Send + 'static>(
        &self,
        topic: &'static str,
        records: Vec<(String, R)>,
    ) -> anyhow::Result<()> {
        self.publish(topic, records.into_iter().map(|(key, record)| (None, key, record)).collect(), None).await
    }

    /// Writes trades as a producer does and waits until Kafka has them.
    ///
    /// # Errors
    /// Kafka's.
    pub async fn send_trades(&self, trades: Vec<Trade>) -> anyhow::Result<()> {
        self.send(topics::TRADES, trades.into_iter().map(|trade| (trade.instrument.as_str().to_owned(), trade)).collect()).await
    }

    /// Writes a control as a producer does: into every partition, or into its instrument's.
    ///
    /// # Errors
    /// Kafka's.
    pub async fn send_control(&self, control: &Control) -> anyhow::Result<()> {
        let partitions = self.reader()?.partition_count(topics::TRADES)?;
        let to: Vec<i32> = match &control.instrument {
            Some(instrument) => vec![marketflow_kafka::partition_for(instrument.as_str().as_bytes(), partitions)],
            None => (0..partitions).collect(),
        };
        let records = to.into_iter().map(|partition| (Some(partition), control.feed.as_str().to_owned(), control.clone()));
        self.publish(topics::TRADES, records.collect(), Some(headers::CONTROL)).await
    }

    async fn publish<R>(
        &self,
        topic: &'static str,
        records: Vec<(Option<i32>, String, R)>,
        kind: Option<&'static str>,
    ) -> anyhow::Result<()>
    where
        R: AvroRecord + Send + 'static,
    {
        let id = self.ids.id(topic, R::SCHEMA).with_context(|| format!("{topic} holds no {}", R::SCHEMA.record_name()))?;
        let producer = Producer::new(&self.kafka(), &ProducerSettings::default())?;
        blocking(move || {
            let headers: Vec<(&str, &[u8])> = kind.iter().map(|kind| (headers::KIND, kind.as_bytes())).collect();
            let mut value = Vec::new();
            for (partition, key, record) in &records {
                value.clear();
                encode_value(record, id, &mut value);
                let outgoing =
                    Outgoing { partition: *partition, headers: &headers, ..Outgoing::new(topic, key.as_bytes(), &value) };
                producer.send(outgoing, PATIENCE)?;
            }
            producer.flush(PATIENCE)?;
            ensure!(producer.failed() == 0, "{} records were not delivered: {:?}", producer.failed(), producer.take_failed());
            Ok(())
        })
        .await
    }

    /// Everything committed on a topic that is an `R`, by partition and offset; other records (controls beside trades) are left out.
    ///
    /// # Errors
    /// Kafka's or the registry's, or a value that is no record of ours.
    pub async fn read<R: AvroRecord + Send + 'static>(&self, topic: &str) -> anyhow::Result<Vec<Located<R>>> {
        let mut decoder = self.registry()?.decoder().await?;
        let reader = self.reader()?;
        let topic = topic.to_owned();
        blocking(move || {
            let mut found = Vec::new();
            let mut wrong = None;
            for partition in 0..reader.partition_count(&topic)? {
                reader.read_to_end(&TopicPartition::new(&topic, partition), 0, PATIENCE, |record| {
                    let value = record.value().unwrap_or_default();
                    match decoder.schema_of(value).map(|schema| (schema == R::SCHEMA).then(|| decoder.decode(value))) {
                        Ok(None) => {}
                        Ok(Some(Ok(value))) => {
                            let key = record.key().unwrap_or_default().to_vec();
                            found.push(Located { partition, offset: record.offset(), key, record: value });
                        }
                        Ok(Some(Err(problem))) | Err(problem) => {
                            wrong =
                                Some(anyhow::Error::new(problem).context(format!("{topic}/{partition} at {}", record.offset())));
                            return ControlFlow::Break(());
                        }
                    }
                    ControlFlow::Continue(())
                })?;
                if let Some(problem) = wrong {
                    return Err(problem);
                }
            }
            Ok(found)
        })
        .await
    }

    fn reader(&self) -> anyhow::Result<Reader> {
        Ok(Reader::new(&self.kafka())?)
    }

    /// A client of this stack's ClickHouse.
    pub fn clickhouse(&self) -> ClickHouse {
        ClickHouse::new(&ClickHouseConfig::new(self.addresses().clickhouse))
    }

    /// Runs SQL on ClickHouse and returns its answer, tab-separated.
    ///
    /// # Errors
    /// ClickHouse's, in its words.
    pub async fn query(&self, sql: &str) -> anyhow::Result<String> {
        Ok(self.clickhouse().text(sql, sql, "TabSeparated").await?)
    }
}

/// The stack's folder: deleted when dropped, kept for whoever looks into a failure.
struct Home(TempDir);

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("the stack's folder is kept, logs are in {}", self.0.path().join("logs").display());
        }
    }
}

/// Runs what blocks beside the test's own thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("the work panicked")?
}
