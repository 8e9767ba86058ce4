//! The sink and ClickHouse killed, cut off, out of step and refused, judged by what stands in Kafka: after every fault each trade of the topic is one
//! row of the view and has one row per offset behind it; what ClickHouse refuses is in one dead letter. Physical repeats are allowed, counted and
//! printed.
//!
//! `SEED=n` repeats a run's trades and kill points; `FAULT=<part of a name>` runs some cases; `SOAK=1` runs the full counts and times: 30 kills, five
//! minutes without ClickHouse, twenty records of an idle topic with the time to their rows.

#![expect(clippy::print_stdout, reason = "the seed and the repeats are for whoever reads the run")]

use anyhow::{Context, ensure};
use marketflow_contract::topics;
use marketflow_model::{Envelope, Feed, Timestamp, Trade};
use marketflow_testkit::{FaultProxy, Faults, RandomWalk, TestStack, eventually};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Without `SEED`: what runs with every change repeats itself as far as it can.
const USUAL_SEED: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(240);
/// The end of November 2013: batches have blocks of two months.
const START: Timestamp = Timestamp::from_seconds(1_385_855_000);
const FATAL: i32 = 70;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_lose_no_row_and_show_none_twice() -> anyhow::Result<()> {
    let mut bench = Bench::start().await?;
    let wanted = std::env::var("FAULT").unwrap_or_default();
    for case in [
        "idle-topic",
        "killed-at-random",
        "answer-swallowed",
        "clickhouse-gone",
        "too-many-parts",
        "window-passed",
        "bad-row",
        "zombie",
        "forbidden",
    ] {
        if case.contains(&wanted) {
            println!("fault: {case}");
            bench.run(case).await.with_context(|| format!("{case}, SEED={}", bench.seed))?;
        }
    }
    bench.stack.stop().await;
    Ok(())
}

/// The stack under test; ClickHouse stands behind a proxy for the sink, and before us directly.
struct Bench {
    stack: TestStack,
    proxy: FaultProxy,
    seed: u64,
    random: ChaCha8Rng,
    walk: RandomWalk,
    soak: bool,
}

impl Bench {
    async fn start() -> anyhow::Result<Self> {
        let seed = match std::env::var("SEED") {
            Ok(seed) => seed.parse().context("SEED is a whole number")?,
            Err(_) => USUAL_SEED,
        };
        println!("SEED={seed}");
        let mut stack = TestStack::start().await?;
        let clickhouse = stack.addresses().clickhouse;
        let proxy = FaultProxy::start(clickhouse.trim_start_matches("http://")).await?;
        let url = format!("http://{}", proxy.address());
        // as by default, but for what makes an outage shorter
        let settings =
            [("clickhouse.url", url.as_str()), ("insert.timeout", "10s"), ("insert.retry_max", "500ms"), ("audit.every", "1s")];
        stack.start_service("sink", &settings).await?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let walk = RandomWalk::new(random.random(), Feed::new("faults"), &RandomWalk::instruments(40), START, 20);
        Ok(Self { stack, proxy, seed, random, walk, soak: std::env::var_os("SOAK").is_some() })
    }

    async fn run(&mut self, case: &str) -> anyhow::Result<()> {
        // the sink has its partitions: it prepares them with ClickHouse's help
        self.trade(1).await?;
        self.judge().await?;
        match case {
            "idle-topic" => self.idle_topic().await,
            "killed-at-random" => self.killed_at_random().await,
            "answer-swallowed" => self.answer_swallowed().await,
            "clickhouse-gone" => self.clickhouse_gone().await,
            "too-many-parts" => self.too_many_parts().await,
            "window-passed" => self.window_passed().await,
            "bad-row" => self.bad_row().await,
            "zombie" => self.zombie().await,
            _ => self.forbidden().await,
        }?;
        self.judge().await
    }

    /// Nothing follows the record, and its row is there.
    async fn idle_topic(&mut self) -> anyhow::Result<()> {
        let mut waited = Vec::new();
        for _ in 0..if self.soak { 20 } else { 2 } {
            self.trade(1).await?;
            self.judge().await?;
            let newest =
                "SELECT dateDiff('millisecond', append_time, insert_time) FROM trades_log ORDER BY append_time DESC LIMIT 1";
            waited.push(self.number(newest).await?);
        }
        waited.sort_unstable();
        println!("milliseconds from an idle topic's record to its row: {waited:?}");
        Ok(())
    }

    async fn killed_at_random(&mut self) -> anyhow::Result<()> {
        for round in 0..if self.soak { 60 } else { 6 } {
            self.trade(1_500).await?;
            // anywhere between a record and its commit: this wait is the random point itself
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..1_500))).await;
            let killed = if round % 2 == 0 { "sink" } else { "clickhouse" };
            self.stack.parts.kill(killed).await?;
            self.stack.parts.restart(killed).await?;
        }
        Ok(())
    }

    /// The rows are there and nobody said so: the same bytes again under the same token do nothing.
    async fn answer_swallowed(&mut self) -> anyhow::Result<()> {
        self.swallowed(500).await?;
        self.proxy.cut();
        self.proxy.heal();
        self.landed().await?;
        ensure!(self.repeats().await? == 0, "a token was not remembered");
        Ok(())
    }

    async fn clickhouse_gone(&mut self) -> anyhow::Result<()> {
        let before = self.failed_tries().await?;
        self.proxy.set(Faults { refuse: true, ..Faults::default() });
        self.proxy.cut();
        self.trade(3_000).await?;
        eventually(PATIENCE, async || {
            ensure!(self.failed_tries().await? >= before + 5.0, "not tried again");
            Ok(())
        })
        .await?;
        if self.soak {
            let over = tokio::time::Instant::now() + Duration::from_secs(300);
            while tokio::time::Instant::now() < over {
                self.trade(20_000).await?;
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
        let resident = self.stack.metrics("sink").await?.sum("process_resident_memory_bytes", &[]);
        ensure!(resident < 1.5e9, "the sink holds {resident} bytes");
        self.proxy.heal();
        Ok(())
    }

    async fn too_many_parts(&mut self) -> anyhow::Result<()> {
        self.query("SYSTEM STOP MERGES trades_log").await?;
        self.query("ALTER TABLE trades_log MODIFY SETTING parts_to_delay_insert = 1, parts_to_throw_insert = 1").await?;
        let before = self.failed_tries().await?;
        self.trade(500).await?;
        eventually(PATIENCE, async || {
            ensure!(self.failed_tries().await? >= before + 2.0, "nothing was refused");
            Ok(())
        })
        .await?;
        self.query("ALTER TABLE trades_log RESET SETTING parts_to_delay_insert, parts_to_throw_insert").await?;
        self.query("SYSTEM START MERGES trades_log").await
    }

    /// The rows are there, nobody said so, and the token was forgotten meanwhile: physically they are there twice.
    async fn window_passed(&mut self) -> anyhow::Result<()> {
        self.query("SYSTEM STOP MERGES trades_log").await?;
        self.swallowed(500).await?;
        self.query("ALTER TABLE trades_log MODIFY SETTING non_replicated_deduplication_window = 1").await?;
        // a row that no view shows
        self.query("INSERT INTO trades_log (topic, size) SETTINGS insert_deduplication_token = 'another' VALUES ('none', 0)")
            .await?;
        self.proxy.cut();
        self.proxy.heal();
        self.landed().await?;
        ensure!(self.repeats().await? > 0, "no row came twice: the window did not pass");
        self.judge().await?;
        eventually(PATIENCE, async || {
            let counted = self.stack.metrics("sink").await?.sum("marketflow_audit_duplicate_rows", &[("topic", topics::TRADES)]);
            ensure!(counted > 0.0, "the audit does not see the repeats");
            Ok(())
        })
        .await?;
        self.query("ALTER TABLE trades_log MODIFY SETTING non_replicated_deduplication_window = 10000").await?;
        self.query("SYSTEM START MERGES trades_log").await?;
        self.query("ALTER TABLE trades_log DELETE WHERE topic = 'none' SETTINGS mutations_sync = 2").await?;
        self.query("OPTIMIZE TABLE trades_log FINAL").await?;
        ensure!(self.repeats().await? == 0, "repeats do not merge away");
        Ok(())
    }

    /// The block is halved down to the rows that ClickHouse refuses.
    async fn bad_row(&mut self) -> anyhow::Result<()> {
        self.query("ALTER TABLE trades_log ADD CONSTRAINT not_bad CHECK ifNull(trade_id, '') NOT LIKE 'bad%'").await?;
        let mut trades: Vec<Trade> = self.walk.by_ref().take(400).collect();
        for bad in [17, 200, 399] {
            trades[bad].trade_id = Some(format!("bad-{bad}"));
        }
        self.stack.send_trades(trades).await?;
        self.landed().await?;
        self.query("ALTER TABLE trades_log DROP CONSTRAINT not_bad").await?;
        let letters = self.dead_letters().await?;
        ensure!(letters.len() == 3, "{} letters", letters.len());
        ensure!(letters.iter().all(|letter| letter.reason.contains("not_bad")), "{letters:?}");
        Ok(())
    }

    /// A sink that stood still with an insert on its way, while another took over: it finishes what nobody waits for any more.
    async fn zombie(&mut self) -> anyhow::Result<()> {
        self.proxy.set(Faults { black_hole: true, ..Faults::default() });
        self.trade(1_000).await?;
        eventually(PATIENCE, async || {
            let flying = self.stack.metrics("sink").await?.sum("marketflow_batches_in_flight", &[]);
            ensure!(flying > 0.0, "nothing is on its way");
            Ok(())
        })
        .await?;
        self.stack.parts.pause("sink")?;
        let mut other = Unsupervised::start(&self.stack, "other-sink", &[])?;
        self.trade(1_000).await?;
        self.landed().await?;
        self.proxy.heal();
        self.stack.parts.resume("sink")?;
        self.trade(1_000).await?;
        self.landed().await?;
        ensure!(other.exit_code()?.is_none(), "the one that took over ended");
        Ok(())
    }

    /// Access refused: it stops, says so, and skips nothing.
    async fn forbidden(&mut self) -> anyhow::Result<()> {
        self.stack.parts.stop_part("sink").await?;
        self.trade(500).await?;
        let mut refused = Unsupervised::start(&self.stack, "refused-sink", &[("clickhouse.user", "reader")])?;
        let code = eventually(PATIENCE, async || refused.exit_code()?.context("it goes on")).await?;
        let log = std::fs::read_to_string(&refused.log)?;
        ensure!(code == FATAL, "it ended with {code}; its log:\n{log}");
        Ok(self.stack.parts.restart("sink").await?)
    }

    /// Trades whose rows came and whose sink was not told.
    async fn swallowed(&mut self, count: usize) -> anyhow::Result<()> {
        self.landed().await?;
        let before = self.number("SELECT count() FROM trades_log").await?;
        self.proxy.set(Faults { swallow_responses: true, ..Faults::default() });
        self.trade(count).await?;
        eventually(PATIENCE, async || {
            let rows = self.number("SELECT count() FROM trades_log").await?;
            ensure!(rows > before, "no insert came through");
            Ok(())
        })
        .await
    }

    async fn trade(&mut self, count: usize) -> anyhow::Result<()> {
        self.stack.send_trades(self.walk.by_ref().take(count).collect()).await
    }

    async fn query(&self, sql: &str) -> anyhow::Result<()> {
        self.stack.query(sql).await.map(drop)
    }

    async fn number(&self, sql: &str) -> anyhow::Result<i64> {
        let text = self.stack.query(sql).await?;
        text.trim().parse().with_context(|| format!("{sql}: {text}"))
    }

    /// Inserts that were not acknowledged.
    async fn failed_tries(&self) -> anyhow::Result<f64> {
        Ok(self.stack.metrics("sink").await?.sum("marketflow_insert_duration_seconds_count", &[("outcome", "retry")]))
    }

    async fn dead_letters(&self) -> anyhow::Result<Vec<Envelope>> {
        Ok(self.stack.read::<Envelope>(topics::DEAD_LETTERS).await?.into_iter().map(|letter| letter.record).collect())
    }

    /// Rows beyond one per offset.
    async fn repeats(&self) -> anyhow::Result<i64> {
        self.number("SELECT count() - uniqExact(partition, offset) FROM trades_log WHERE topic = 'market.trades.v1'").await
    }

    /// Waits until every trade of the topic has its row, or its dead letter.
    async fn landed(&self) -> anyhow::Result<()> {
        let sent = self.stack.read::<Trade>(topics::TRADES).await?.len();
        eventually(PATIENCE, async || {
            let rows =
                self.number("SELECT uniqExact(partition, offset) FROM trades_log WHERE topic = 'market.trades.v1'").await?;
            let rows = usize::try_from(rows)?;
            let letters = if rows < sent { self.dead_letters().await?.len() } else { 0 };
            ensure!(rows + letters == sent, "{rows} rows and {letters} letters for {sent} trades");
            Ok(())
        })
        .await
    }

    /// Row by row: what the tables hold is what the topic holds, and the view shows each trade once.
    async fn judge(&self) -> anyhow::Result<()> {
        self.landed().await?;
        let refused: BTreeSet<(i32, i64)> =
            self.dead_letters().await?.iter().map(|letter| (letter.origin_partition, letter.origin_offset)).collect();
        let sent = self.stack.read::<Trade>(topics::TRADES).await?;
        let mut expected: Vec<String> = Vec::new();
        let mut shown: Vec<String> = Vec::new();
        for found in sent.iter().filter(|found| !refused.contains(&(found.partition, found.offset))) {
            let trade = &found.record;
            let values = format!(
                "{}\t{}\t{}\t{}",
                trade.instrument,
                trade.event_time.micros(),
                trade.price,
                trade.size.as_ref().map_or_else(|| "\\N".to_owned(), ToString::to_string)
            );
            expected.push(format!("{}\t{}\t{values}", found.partition, found.offset));
            shown.push(values);
        }
        let values = "instrument, toUnixTimestamp64Micro(event_time), price, size";
        let rows = format!("SELECT DISTINCT partition, offset, {values} FROM trades_log WHERE topic = 'market.trades.v1'");
        same("the rows", expected, &self.stack.query(&rows).await?)?;
        same("the view", shown, &self.stack.query(&format!("SELECT {values} FROM trades")).await?)?;
        println!("  {} trades, {} physical repeats", sent.len(), self.repeats().await?);
        Ok(())
    }
}

fn same(what: &str, mut expected: Vec<String>, found: &str) -> anyhow::Result<()> {
    let mut found: Vec<&str> = found.lines().collect();
    expected.sort();
    found.sort_unstable();
    ensure!(found.len() == expected.len(), "{what}: {}, not {}", found.len(), expected.len());
    for (expected, found) in expected.iter().zip(found) {
        ensure!(expected == found, "{what}: {found}, not {expected}");
    }
    Ok(())
}

/// A sink beside the supervised one, which nobody starts again; killed when dropped.
struct Unsupervised {
    child: Child,
    log: PathBuf,
}

impl Unsupervised {
    fn start(stack: &TestStack, name: &str, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let spec = stack.service("sink", &[&[("admin.listen", "127.0.0.1:0")], settings].concat())?;
        let log = stack.home().join("logs").join(format!("{name}.log"));
        let output = std::fs::File::create(&log)?;
        let mut command = Command::new(&spec.program);
        command.args(&spec.args).envs(spec.env).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Self { child: command.spawn()?, log })
    }

    /// `None` while it runs; a signal counts as -1.
    fn exit_code(&mut self) -> anyhow::Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }
}

impl Drop for Unsupervised {
    fn drop(&mut self) {
        if let Err(problem) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("cannot end a sink: {problem}");
        }
    }
}
