//! Crashes, outages and broken records against the real processor, Kafka and registry, judged by the batch oracle: after every fault each
//! expected bar is there exactly once with the right values, which includes the number of its trades, and what cannot be a trade is in exactly
//! one dead letter.
//!
//! `make test-fault SEED=n` repeats a run; the seed decides trades and kill points, the machine's scheduling does not repeat. `SOAK=1` runs the
//! full counts. One stack serves all cases; each case has a feed of its own, so none hides behind another.

#![expect(clippy::print_stdout, reason = "the seed is printed, so that a failure can be repeated")]

use anyhow::{Context, ensure};
use marketflow_contract::topics;
use marketflow_kafka::{Outgoing, Producer, ProducerSettings, Reader, TopicPartition, admin, committed, partition_for};
use marketflow_model::{
    Bar, Control, ControlKind, Envelope, Feed, FeedState, FlowAggregate, Instrument, Interval, Quality, Timestamp, Trade,
};
use marketflow_testkit::{KafkaProxy, RandomWalk, TestStack, eventually};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Without `SEED`: what runs with every change repeats itself as far as it can.
const USUAL_SEED: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(120);
const START: Timestamp = Timestamp::from_seconds(1_700_000_100);
const MINUTE: i64 = 60_000_000;
const PROCESSOR: &str = "processor";
/// The feeds of these cases do not speak each second.
const PATIENT: [(&str, &str); 1] = [("clock.down_after", "1day")];
/// Exit codes of a processor that cannot go on, as one whose slot was taken over; and of one whose configuration cannot be.
const FATAL: i32 = 70;
const USAGE: i32 = 64;
/// Of the inputs, before some are added.
const PARTITIONS: i32 = 4;
/// Too long for every run.
const ON_DEMAND: [&str; 2] = ["rebalance-storm", "slow-restore"];
/// Longer than the session time-out (6 s) and the transaction time-out (10 s), so that the cluster acts on both.
const PAST_EVERY_TIMEOUT: Duration = Duration::from_secs(13);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_lose_nothing_and_double_nothing() -> anyhow::Result<()> {
    let mut bench = Bench::start().await?;
    for case in bench.cases() {
        println!("fault: {case}");
        bench.run(case).await.with_context(|| format!("{case}, SEED={}", bench.seed))?;
    }
    bench.stack.stop().await;
    Ok(())
}

/// The stack under test, and what decides the faults.
struct Bench {
    stack: TestStack,
    seed: u64,
    random: ChaCha8Rng,
    soak: bool,
    fail_points: PathBuf,
}

impl Bench {
    async fn start() -> anyhow::Result<Self> {
        let seed = match std::env::var("SEED") {
            Ok(seed) => seed.parse().context("SEED is a whole number")?,
            Err(_) => USUAL_SEED,
        };
        println!("SEED={seed}");
        let mut stack = TestStack::start_with(&["kafka", "registry"]).await?;
        let fail_points = stack.home().join("fail-points");
        std::fs::create_dir_all(&fail_points)?;
        let mut processor = stack.service(PROCESSOR, &PATIENT)?;
        processor.env.push(("FAIL_AT".to_owned(), fail_points.display().to_string()));
        stack.parts.start_service(processor).await?;
        let soak = std::env::var_os("SOAK").is_some();
        Ok(Self { stack, seed, random: ChaCha8Rng::seed_from_u64(seed), soak, fail_points })
    }

    /// `FAULT=<part of a name>` runs only the cases it is part of; those on demand run when they are named, and with `SOAK=1`.
    fn cases(&self) -> Vec<&'static str> {
        let all = [
            "killed-at-random",
            "killed-at-each-fail-point",
            "broker-killed",
            "broker-paused",
            "processor-paused",
            "processor-stalled",
            "two-with-one-slot",
            "workers-come-and-go",
            "registry-down",
            "poison",
            "commit-answer-lost",
            "rebalance-storm",
            "slow-restore",
            // what the inputs are is changed by these, for those that follow as well
            "records-expired",
            "topic-created-again",
            "partitions-added",
        ];
        let wanted = std::env::var("FAULT").unwrap_or_default();
        let is_due = |case: &&str| self.soak || !wanted.is_empty() || !ON_DEMAND.contains(case);
        all.into_iter().filter(|case| case.contains(&wanted)).filter(is_due).collect()
    }

    async fn run(&mut self, case: &'static str) -> anyhow::Result<()> {
        match case {
            "killed-at-random" => self.killed_at_random(case).await,
            "killed-at-each-fail-point" => self.killed_at_each_fail_point(case).await,
            "broker-killed" => self.broker_killed(case).await,
            "broker-paused" => self.broker_paused(case).await,
            "processor-paused" => self.processor_paused(case).await,
            "processor-stalled" => self.processor_stalled(case).await,
            "two-with-one-slot" => self.two_with_one_slot(case).await,
            "workers-come-and-go" => self.workers_come_and_go(case).await,
            "registry-down" => self.registry_down(case).await,
            "poison" => self.poison(case).await,
            "commit-answer-lost" => self.commit_answer_lost(case).await,
            "rebalance-storm" => self.rebalance_storm(case).await,
            "slow-restore" => self.slow_restore(case).await,
            "records-expired" => self.records_expired(case).await,
            "topic-created-again" => self.topic_created_again(case).await,
            _ => self.partitions_added(case).await,
        }
    }

    async fn killed_at_random(&mut self, case: &str) -> anyhow::Result<()> {
        let rounds = if self.soak { 30 } else { 5 };
        let mut session = Session::open(self, case).await?;
        for _ in 0..rounds {
            session.trade(&self.stack, 2_000).await?;
            // anywhere in the transactions that follow: this wait is the random point itself
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..600))).await;
            self.stack.parts.kill(PROCESSOR).await?;
            self.stack.parts.restart(PROCESSOR).await?;
        }
        session.judge(&self.stack).await
    }

    async fn killed_at_each_fail_point(&mut self, case: &str) -> anyhow::Result<()> {
        let mut session = Session::open(self, case).await?;
        for point in ["after-begin", "before-offsets", "before-commit", "after-commit", "during-restore"] {
            let armed = self.fail_points.join(point);
            let before = self.restarts()?;
            std::fs::write(&armed, "")?;
            session.trade(&self.stack, 2_000).await?;
            if point == "during-restore" {
                self.stack.parts.crash(PROCESSOR)?;
            }
            eventually(PATIENCE, async || {
                ensure!(!armed.exists(), "{point} was never reached");
                ensure!(self.restarts()? > before, "{point} did not end the process");
                Ok(())
            })
            .await?;
            // by hand: the supervisor leaves alone what ends again and again within a minute
            self.stack.parts.restart(PROCESSOR).await?;
        }
        session.judge(&self.stack).await
    }

    async fn broker_killed(&mut self, case: &str) -> anyhow::Result<()> {
        let before = self.restarts()?;
        let mut session = Session::open(self, case).await?;
        let kills = if self.soak { 10 } else { 2 };
        for _ in 0..kills {
            session.trade(&self.stack, 2_000).await?;
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..300))).await;
            self.stack.parts.kill("kafka").await?;
            self.stack.parts.restart("kafka").await?;
        }
        session.judge(&self.stack).await?;
        // fenced by itself as in `broker_paused`, and once more because the next kill came while it was starting
        self.restarted_at_most(2 * kills, before)
    }

    async fn broker_paused(&mut self, case: &str) -> anyhow::Result<()> {
        let before = self.restarts()?;
        let mut session = Session::open(self, case).await?;
        session.trade(&self.stack, 2_000).await?;
        self.stack.parts.pause("kafka")?;
        tokio::time::sleep(PAST_EVERY_TIMEOUT).await;
        self.stack.parts.resume("kafka")?;
        session.trade(&self.stack, 2_000).await?;
        session.judge(&self.stack).await?;
        // A join that queued up while the cluster stood still may be answered twice; a static member is then fenced by itself, which is fatal to
        // librdkafka, and the supervisor starts the process again: once.
        self.restarted_at_most(1, before)
    }

    /// Also when the cluster has ended its transaction and the group gone on without it: it is refused, and begins anew by itself.
    async fn processor_paused(&mut self, case: &str) -> anyhow::Result<()> {
        let before = self.restarts()?;
        let mut session = Session::open(self, case).await?;
        session.trade(&self.stack, 2_000).await?;
        self.stack.parts.pause(PROCESSOR)?;
        session.trade(&self.stack, 2_000).await?;
        tokio::time::sleep(PAST_EVERY_TIMEOUT).await;
        self.stack.parts.resume(PROCESSOR)?;
        session.judge(&self.stack).await?;
        self.resumed_alone(before)
    }

    /// A worker that stands still in a transaction is ended by its watchdog.
    async fn processor_stalled(&mut self, case: &str) -> anyhow::Result<()> {
        let before = self.restarts()?;
        let armed = self.fail_points.join("after-begin");
        std::fs::write(&armed, "stall")?;
        let mut session = Session::open(self, case).await?;
        session.trade(&self.stack, 2_000).await?;
        session.judge(&self.stack).await?;
        ensure!(!armed.exists() && self.restarts()? == before + 1, "{} restarts", self.restarts()? - before);
        Ok(())
    }

    /// The later one has the slot, the earlier one ends, and neither comes back.
    async fn two_with_one_slot(&mut self, case: &str) -> anyhow::Result<()> {
        self.stack.parts.stop_part(PROCESSOR).await?;
        let mut session = Session::open(self, case).await?;
        let mut earlier = Unsupervised::start(&self.stack, "earlier", 0, &[])?;
        session.trade(&self.stack, 2_000).await?;
        earlier.works().await?;
        let mut later = Unsupervised::start(&self.stack, "later", 0, &[])?;
        session.trade(&self.stack, 2_000).await?;
        let code = eventually(PATIENCE, async || earlier.exit_code()?.context("both go on")).await?;
        ensure!(code == FATAL, "the earlier one ended with {code}");
        later.works().await?;
        session.trade(&self.stack, 2_000).await?;
        session.judge(&self.stack).await?;
        ensure!(later.exit_code()?.is_none(), "the later one ended too");
        drop(later);
        Ok(self.stack.parts.restart(PROCESSOR).await?)
    }

    /// Others join and leave, in turn by a crash and in good order.
    async fn workers_come_and_go(&mut self, case: &str) -> anyhow::Result<()> {
        let before = self.restarts()?;
        let mut session = Session::open(self, case).await?;
        for round in 0..if self.soak { 20 } else { 2 } {
            session.trade(&self.stack, 1_000).await?;
            let mut other = Unsupervised::start(&self.stack, &format!("other-{round}"), 1, &[])?;
            session.trade(&self.stack, 1_000).await?;
            other.works().await?;
            session.trade(&self.stack, 1_000).await?;
            if round % 2 == 1 {
                other.terminate()?;
                let code = eventually(PATIENCE, async || other.exit_code()?.context("it goes on")).await?;
                ensure!(code == 0, "ended with {code} when asked to");
            }
        }
        session.judge(&self.stack).await?;
        self.resumed_alone(before)
    }

    /// Known schema ids need no registry.
    async fn registry_down(&mut self, case: &str) -> anyhow::Result<()> {
        let before = self.restarts()?;
        let mut session = Session::open(self, case).await?;
        let published = self.bars_published().await?;
        self.stack.parts.kill("registry").await?;
        session.trade(&self.stack, 2_000).await?;
        session.close(&self.stack).await?;
        // counted and not read: reading needs the registry
        let wanted = published + session.expected().len() as f64;
        eventually(PATIENCE, async || {
            let published = self.bars_published().await?;
            ensure!(published >= wanted, "{published} of {wanted} bars without the registry");
            Ok(())
        })
        .await?;
        self.stack.parts.restart("registry").await?;
        session.judge(&self.stack).await?;
        self.resumed_alone(before)
    }

    /// Bytes that are no record go to the dead letters, each once, and neither stop the processor nor fill its memory.
    async fn poison(&mut self, case: &str) -> anyhow::Result<()> {
        let before = self.restarts()?;
        let known = self.dead_letters().await?.len();
        let mut session = Session::open(self, case).await?;
        session.trade(&self.stack, 1_000).await?;
        let resident = self.stack.metrics(PROCESSOR).await?.sum("process_resident_memory_bytes", &[]);
        let poison: Vec<Vec<u8>> = vec![
            b"garbage".to_vec(),
            Vec::new(),
            [&[0][..], &9_999_999_u32.to_be_bytes(), b"of a schema nobody registered"].concat(),
            // a known schema, then a string whose length claims 1 GiB (zig-zag varint of 2^30)
            [&[0][..], &session.schema_id(&self.stack).await?.to_be_bytes(), &[0x80, 0x80, 0x80, 0x80, 0x08, b'x']].concat(),
            self.random.random::<[u8; 32]>().to_vec(),
        ];
        let producer = Producer::new(&self.stack.kafka(), &ProducerSettings::default())?;
        for value in &poison {
            producer.send(Outgoing::new(topics::TRADES, b"POISON:A0000", value), PATIENCE)?;
        }
        producer.flush(PATIENCE)?;
        session.trade(&self.stack, 1_000).await?;
        session.judge(&self.stack).await?;

        let letters = self.dead_letters().await?;
        let origins: BTreeSet<_> =
            letters.iter().map(|l| (l.origin_topic.as_str(), l.origin_partition, l.origin_offset)).collect();
        ensure!(letters.len() == known + poison.len(), "{} dead letters, {} expected", letters.len(), known + poison.len());
        ensure!(origins.len() == letters.len(), "a record has two dead letters");
        for value in &poison {
            ensure!(letters.iter().any(|letter| letter.value == *value), "{value:?} vanished");
        }
        let grown = self.stack.metrics(PROCESSOR).await?.sum("process_resident_memory_bytes", &[]) - resident;
        ensure!(grown < 256e6, "memory grew by {grown} bytes");
        self.resumed_alone(before)
    }

    /// The broker commits, and its answer is lost with the connection: asked again, it says so again.
    async fn commit_answer_lost(&mut self, case: &str) -> anyhow::Result<()> {
        self.stack.parts.stop_part(PROCESSOR).await?;
        let proxy = KafkaProxy::start(&self.stack.addresses().kafka).await?;
        let address = proxy.address().to_string();
        let mut session = Session::open(self, case).await?;
        let mut behind_proxy = Unsupervised::start(&self.stack, case, 0, &[("kafka.bootstrap_servers", address.as_str())])?;
        session.trade(&self.stack, 2_000).await?;
        behind_proxy.works().await?;
        proxy.lose_answers(KafkaProxy::END_TXN, 3);
        session.trade(&self.stack, 2_000).await?;
        eventually(PATIENCE, async || {
            ensure!(proxy.lost() == 3, "{} answers were lost", proxy.lost());
            Ok(())
        })
        .await?;
        session.trade(&self.stack, 2_000).await?;
        session.judge(&self.stack).await?;
        ensure!(behind_proxy.exit_code()?.is_none(), "it ended");
        drop(behind_proxy);
        Ok(self.stack.parts.restart(PROCESSOR).await?)
    }

    /// Three others come and go faster than a group settles.
    async fn rebalance_storm(&mut self, case: &str) -> anyhow::Result<()> {
        let before = self.restarts()?;
        let mut session = Session::open(self, case).await?;
        let mut others: BTreeMap<u32, Unsupervised> = BTreeMap::new();
        for round in 0..if self.soak { 150 } else { 10 } {
            let ordinal = self.random.random_range(1..=3);
            match others.remove(&ordinal) {
                // dropped: killed; or asked to end, and then left to it
                Some(other) if self.random.random() => other.terminate()?,
                Some(other) => drop(other),
                None => {
                    let other = Unsupervised::start(&self.stack, &format!("storm-{round}"), ordinal, &[])?;
                    others.insert(ordinal, other);
                }
            }
            session.trade(&self.stack, 300).await?;
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..1_000))).await;
        }
        drop(others);
        session.judge(&self.stack).await?;
        self.resumed_alone(before)
    }

    /// A restore that takes longer than the session time-out, with another worker joining meanwhile.
    async fn slow_restore(&mut self, case: &str) -> anyhow::Result<()> {
        let before = self.restarts()?;
        let mut session = Session::open(self, case).await?;
        session.trade(&self.stack, 2_000).await?;
        let armed = self.fail_points.join("during-restore");
        std::fs::write(&armed, "wait 8")?;
        self.stack.parts.crash(PROCESSOR)?;
        eventually(PATIENCE, async || {
            ensure!(!armed.exists(), "nothing is restored");
            Ok(())
        })
        .await?;
        let mut other = Unsupervised::start(&self.stack, case, 1, &[])?;
        session.trade(&self.stack, 2_000).await?;
        other.works().await?;
        session.trade(&self.stack, 2_000).await?;
        session.judge(&self.stack).await?;
        ensure!(self.restarts()? == before + 1 && other.exit_code()?.is_none(), "one of them ended");
        Ok(())
    }

    /// Records that expired unread stop the processor; told to, it goes on without them, and everything else is right.
    async fn records_expired(&mut self, case: &str) -> anyhow::Result<()> {
        let mut session = Session::open(self, case).await?;
        session.trade(&self.stack, 2_000).await?;
        self.worked_through().await?;
        self.stack.parts.stop_part(PROCESSOR).await?;
        let (known, partition) = (session.sent.len(), 0);
        session.trade(&self.stack, 2_000).await?;
        let expired = TopicPartition::new(topics::TRADES, partition);
        let end = self.ends().await?[&expired];
        admin::delete_records(&self.stack.kafka(), &expired, end, PATIENCE).await?;
        session.lost(known, |trade| partition_for(trade.instrument.as_str().as_bytes(), PARTITIONS) == partition);

        self.refuses(case, "expired before they were read", &[]).await?;
        let accepting = Unsupervised::start(&self.stack, case, 0, &[("stream.accept_loss", "true")])?;
        accepting.works().await?;
        session.trade(&self.stack, 2_000).await?;
        session.judge(&self.stack).await?;
        drop(accepting);
        Ok(self.stack.parts.restart(PROCESSOR).await?)
    }

    /// A topic that is deleted stops the processor, and so does one of the same name; told which one is meant, it begins anew with that.
    async fn topic_created_again(&mut self, case: &str) -> anyhow::Result<()> {
        self.stack.parts.stop_part(PROCESSOR).await?;
        let mut first = Session::open(self, "deleted-later").await?;
        let mut running = Unsupervised::start(&self.stack, case, 0, &[])?;
        first.trade(&self.stack, 2_000).await?;
        first.judge(&self.stack).await?;
        let kafka = self.stack.kafka();
        admin::delete_topics(&kafka, &[topics::TRADES], PATIENCE).await?;
        let code = eventually(PATIENCE, async || running.exit_code()?.context("it goes on")).await?;
        ensure!(code == FATAL, "it ended with {code}");
        self.refuses(case, "does not exist", &[]).await?;

        eventually(PATIENCE, async || Ok(admin::create_topics(&kafka, &admin::TopicOptions::default(), PATIENCE).await?)).await?;
        let mut second = Session::open(self, case).await?;
        second.trade(&self.stack, 2_000).await?;
        let cluster = tokio::task::spawn_blocking(move || admin::describe(&kafka, PATIENCE)).await??;
        let epoch = cluster.epoch(topics::TRADES).context("the topic is there again")?;
        self.refuses(case, &format!("has epoch {epoch}"), &[]).await?;
        let epochs = format!(r#"["{epoch}"]"#);
        let accepting = Unsupervised::start(&self.stack, case, 0, &[("stream.accept_epochs", epochs.as_str())])?;
        accepting.works().await?;
        second.trade(&self.stack, 2_000).await?;
        second.judge(&self.stack).await?;
        drop(accepting);
        Ok(self.stack.parts.restart(PROCESSOR).await?)
    }

    /// The procedure of `docs/runbook/processor.md`, in the middle of every window; without it the processor refuses.
    async fn partitions_added(&mut self, case: &str) -> anyhow::Result<()> {
        let mut session = Session::open(self, case).await?;
        session.trade(&self.stack, 2_000).await?;
        self.worked_through().await?;
        self.stack.parts.stop_part(PROCESSOR).await?;
        let (kafka, more) = (self.stack.kafka(), PARTITIONS + 2);
        admin::add_partitions(&kafka, &[topics::TRADES], more, PATIENCE).await?;
        self.refuses(case, "they must be equal", &[]).await?;
        admin::add_partitions(&kafka, &[topics::CANDLES, topics::CHANGELOG], more, PATIENCE).await?;
        self.refuses(case, "but state was built from 4", &[]).await?;

        let more = more.to_string();
        let accepting = Unsupervised::start(&self.stack, case, 0, &[("stream.accept_partitions", more.as_str())])?;
        accepting.says("state moved to the partitions added").await?;
        session.trade(&self.stack, 2_000).await?;
        session.judge(&self.stack).await?;
        drop(accepting);
        self.stack.parts.restart(PROCESSOR).await?;
        if !self.soak && std::env::var_os("FAULT").is_none() {
            return Ok(());
        }
        // and added too early: what waits is worked through first
        let mut early = Session::open(self, "partitions-added-early").await?;
        early.trade(&self.stack, 2_000).await?;
        self.stack.parts.kill(PROCESSOR).await?;
        early.trade(&self.stack, 2_000).await?;
        admin::add_partitions(&kafka, &[topics::TRADES, topics::CANDLES, topics::CHANGELOG], PARTITIONS + 4, PATIENCE).await?;
        let more = (PARTITIONS + 4).to_string();
        let working_through = Unsupervised::start(&self.stack, case, 0, &[("stream.accept_partitions", more.as_str())])?;
        working_through.says("are worked through first").await?;
        self.worked_through().await?;
        drop(working_through);
        let accepting = Unsupervised::start(&self.stack, case, 0, &[("stream.accept_partitions", more.as_str())])?;
        accepting.says("state moved to the partitions added").await?;
        early.trade(&self.stack, 2_000).await?;
        early.judge(&self.stack).await?;
        drop(accepting);
        Ok(self.stack.parts.restart(PROCESSOR).await?)
    }

    /// A processor started now ends, and says why.
    async fn refuses(&self, case: &str, why: &str, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut refusing = Unsupervised::start(&self.stack, &format!("{case}-refused"), 0, settings)?;
        let code = eventually(PATIENCE, async || refusing.exit_code()?.context("it goes on")).await?;
        let log = std::fs::read_to_string(&refusing.log)?;
        ensure!(code == FATAL || code == USAGE, "it ended with {code}; its log:\n{log}");
        ensure!(log.contains(why), "it does not say {why:?}; its log:\n{log}");
        Ok(())
    }

    /// Waits until the processor has committed everything there is.
    async fn worked_through(&self) -> anyhow::Result<()> {
        let ends = self.ends().await?;
        let kafka = self.stack.kafka();
        eventually(PATIENCE, async || {
            let (kafka, partitions) = (kafka.clone(), ends.keys().cloned().collect::<Vec<_>>());
            let done = move || committed(&kafka, "marketflow-processor", &partitions, PATIENCE);
            let done: BTreeMap<TopicPartition, i64> = tokio::task::spawn_blocking(done).await??.into_iter().collect();
            for (of, end) in &ends {
                let next = done.get(of).copied().unwrap_or(0);
                ensure!(next >= *end, "{of} is committed to {next} of {end}");
            }
            Ok(())
        })
        .await
    }

    /// Ends of the trades topic.
    async fn ends(&self) -> anyhow::Result<BTreeMap<TopicPartition, i64>> {
        let kafka = self.stack.kafka();
        let ask = move || -> anyhow::Result<_> {
            let reader = Reader::new(&kafka)?;
            let all = (0..reader.partition_count(topics::TRADES)?).map(|number| TopicPartition::new(topics::TRADES, number));
            all.map(|of| Ok((of.clone(), reader.range(&of)?.1))).collect()
        };
        tokio::task::spawn_blocking(ask).await?
    }

    async fn bars_published(&self) -> anyhow::Result<f64> {
        Ok(self.stack.metrics(PROCESSOR).await?.sum("marketflow_bars_total", &[]))
    }

    async fn dead_letters(&self) -> anyhow::Result<Vec<Envelope>> {
        Ok(self.stack.read::<Envelope>(topics::DEAD_LETTERS).await?.into_iter().map(|l| l.record).collect())
    }

    fn restarts(&self) -> anyhow::Result<u32> {
        let part = self.stack.parts.status().into_iter().find(|part| part.name == PROCESSOR).context("no processor")?;
        Ok(part.restarts)
    }

    fn resumed_alone(&self, before: u32) -> anyhow::Result<()> {
        self.restarted_at_most(0, before)
    }

    fn restarted_at_most(&self, times: u32, before: u32) -> anyhow::Result<()> {
        let restarts = self.restarts()? - before;
        ensure!(restarts <= times, "the processor was started again {restarts} times");
        Ok(())
    }
}

/// A processor beside the supervised one, which nobody starts again; killed when dropped.
struct Unsupervised {
    child: Child,
    log: PathBuf,
}

impl Unsupervised {
    /// `ordinal` 0 is the supervised processor's.
    fn start(stack: &TestStack, name: &str, ordinal: u32, more: &[(&str, &str)]) -> anyhow::Result<Self> {
        let ordinal = ordinal.to_string();
        let usual = [PATIENT[0], ("worker.ordinal", ordinal.as_str()), ("admin.listen", "127.0.0.1:0")];
        let spec = stack.service(PROCESSOR, &[&usual, more].concat())?;
        let log = stack.home().join("logs").join(format!("{name}.log"));
        let output = std::fs::File::create(&log)?;
        let mut command = Command::new(&spec.program);
        command.args(&spec.args).envs(spec.env).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Self { child: command.spawn()?, log })
    }

    /// Waits until it has a partition.
    async fn works(&self) -> anyhow::Result<()> {
        self.logs(|line| line.contains("partition rebuilt") && line.contains(topics::CHANGELOG)).await
    }

    /// Waits until its log says this.
    async fn says(&self, what: &str) -> anyhow::Result<()> {
        self.logs(|line| line.contains(what)).await
    }

    async fn logs(&self, is_it: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        eventually(PATIENCE, async || {
            let log = std::fs::read_to_string(&self.log)?;
            ensure!(log.lines().any(&is_it), "it does not; its log:\n{log}");
            Ok(())
        })
        .await
    }

    /// `None` while it runs; a signal counts as -1.
    fn exit_code(&mut self) -> anyhow::Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    fn terminate(&self) -> anyhow::Result<()> {
        ensure!(Command::new("kill").arg(self.child.id().to_string()).status()?.success(), "cannot signal it");
        Ok(())
    }
}

impl Drop for Unsupervised {
    fn drop(&mut self) {
        if let Err(problem) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("cannot end a processor: {problem}");
        }
    }
}

/// One case's trades, each written twice now and then as an at-least-once producer does, and its controls.
struct Session {
    feed: Feed,
    walk: RandomWalk,
    sent: Vec<Trade>,
}

impl Session {
    async fn open(bench: &mut Bench, case: &str) -> anyhow::Result<Self> {
        let feed = Feed::new(case);
        // a venue of its own, so that its sums over instruments are its own too
        let instruments = RandomWalk::instruments(20);
        let instruments =
            instruments.iter().map(|i| Instrument::new(&case.to_uppercase(), i.symbol())).collect::<Result<Vec<_>, _>>()?;
        let walk = RandomWalk::new(bench.random.random(), feed.clone(), &instruments, START, 50);
        let session = Self { feed, walk, sent: Vec::new() };
        let up = Control { state: FeedState::Up, from: Some(START), ..session.control(ControlKind::FeedState, START) };
        bench.stack.send_control(&up).await?;
        Ok(session)
    }

    fn control(&self, kind: ControlKind, at: Timestamp) -> Control {
        Control::new(kind, self.feed.clone(), at)
    }

    async fn heartbeat(&self, stack: &TestStack, through: Timestamp) -> anyhow::Result<()> {
        stack.send_control(&Control { complete_through: Some(through), ..self.control(ControlKind::Heartbeat, through) }).await
    }

    async fn trade(&mut self, stack: &TestStack, count: usize) -> anyhow::Result<()> {
        let trades: Vec<Trade> = self.walk.by_ref().take(count).collect();
        stack.send_trades(trades.clone()).await?;
        stack.send_trades(trades.iter().step_by(37).cloned().collect()).await?;
        self.sent.extend(trades);
        self.heartbeat(stack, self.last().plus_micros(-2_000_000)).await
    }

    /// Of the trades sent since `known` were, these are in no topic any more.
    fn lost(&mut self, known: usize, is_lost: impl Fn(&Trade) -> bool) {
        let mut place = 0..;
        self.sent.retain(|trade| place.next().is_some_and(|at| at < known) || !is_lost(trade));
    }

    fn last(&self) -> Timestamp {
        self.sent.last().map_or(START, |trade| trade.event_time)
    }

    /// The watermark passes every window.
    async fn close(&self, stack: &TestStack) -> anyhow::Result<()> {
        self.heartbeat(stack, self.last().plus_micros(20 * MINUTE)).await
    }

    fn expected(&self) -> BTreeMap<marketflow_oracle::BarKey, marketflow_oracle::ExpectedBar> {
        marketflow_oracle::recompute(&self.sent, &Interval::STANDARD)
    }

    async fn schema_id(&self, stack: &TestStack) -> anyhow::Result<u32> {
        let ids = stack.registry()?.ids().await?;
        ids.id(topics::TRADES, marketflow_contract::Schema::Trade).context("trades have a schema")
    }

    /// Every trade is in the bars of its windows, once; each bar was published once and whole.
    async fn judge(&self, stack: &TestStack) -> anyhow::Result<()> {
        self.close(stack).await?;
        let expected = self.expected();
        let bars = eventually(PATIENCE, async || {
            let bars = stack.read::<Bar>(topics::BARS).await?.into_iter().map(|located| located.record);
            let bars: Vec<Bar> = bars.filter(|bar| bar.feed == self.feed).collect();
            ensure!(bars.len() >= expected.len(), "{} of {} bars", bars.len(), expected.len());
            Ok(bars)
        })
        .await?;
        let differences = marketflow_oracle::differences(&expected, &bars, 5);
        ensure!(differences.is_empty(), "{differences:?}");
        ensure!(bars.len() == expected.len(), "{} bars for {} windows: some were published twice", bars.len(), expected.len());
        for bar in &bars {
            ensure!(bar.revision == 0 && bar.quality == Quality::Complete, "{bar:?}");
        }
        self.judge_flows(stack).await
    }

    /// Turnover of each instrument and of the venue is in the flows of each minute, published once and whole.
    async fn judge_flows(&self, stack: &TestStack) -> anyhow::Result<()> {
        let (venue, prefix) = (self.feed.as_str().to_uppercase(), format!("{}:", self.feed.as_str().to_uppercase()));
        let mut expected = marketflow_oracle::recompute_flows(&self.sent);
        expected.retain(|(scope, ..), _| scope == "instrument" || scope == "venue");
        let flows = eventually(PATIENCE, async || {
            let flows = stack.read::<FlowAggregate>(topics::FLOW_AGGREGATES).await?.into_iter().map(|located| located.record);
            let flows: Vec<FlowAggregate> = flows.filter(|flow| flow.name == venue || flow.name.starts_with(&prefix)).collect();
            ensure!(flows.len() >= expected.len(), "{} of {} flows", flows.len(), expected.len());
            Ok(flows)
        })
        .await?;
        let differences = marketflow_oracle::flow_differences(&expected, &flows, 5);
        ensure!(differences.is_empty(), "{differences:?}");
        ensure!(flows.len() == expected.len(), "{} flows for {}: some were published twice", flows.len(), expected.len());
        Ok(())
    }
}
