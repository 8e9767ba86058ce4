//! `marketflow backup`: every table's rows, with what the sink needs to go on from them, to a folder or a bucket.
//!
//! A table is frozen by attaching its parts to a table beside it: hard links, done in an instant and not waited for by anyone. Each partition is
//! then read from there as a stream. Where the sink had committed to is asked before anything is frozen, so every record before those positions
//! is in the backup; what it landed since is partly there, and its marks tell.
//!
//! Next: `manifest.rs`, then `../restore.rs`.

pub(super) mod manifest;

use super::connection::{self, with_exit};
use super::query::{self, texts};
use crate::console::{block_on, line, say};
use anyhow::{Context, bail};
use manifest::{FORMAT, File, Manifest, Position, Table, marks};
use marketflow_archive::Place;
use marketflow_clickhouse::{ClickHouse, migrations};
use marketflow_contract::topics;
use marketflow_kafka::{KafkaConfig, TopicPartition, admin, committed};
use marketflow_runtime::{Exit, ExitContext};
use std::time::Duration;

pub(super) const SINK_GROUP: &str = "marketflow-sink";
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Filled by whoever lays the tables out, from what the program carries.
const OF_THE_PROGRAM: [&str; 1] = ["sessions_log"];

/// Writes every table's rows, and what the sink needs to go on from them, to a folder or a bucket
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
The services may go on meanwhile. The manifest is written last: what has none is no backup. One backup at a time.
A bucket of Amazon S3 or of a server like it is named by s3://BUCKET/PREFIX and the variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, and AWS_ENDPOINT (with AWS_ALLOW_HTTP=true for http://) where it is not Amazon's.

Examples:
  marketflow backup /var/backups/marketflow/2026-11-21
  marketflow backup --verify /var/backups/marketflow/2026-11-21
  marketflow backup s3://my-bucket/marketflow/2026-11-21")]
pub struct Args {
    /// Folder, or s3://bucket/prefix
    to: String,
    /// Write nothing: check the backup that is there against its manifest
    #[arg(long)]
    verify: bool,
    /// Do not ask Kafka where the sink is: a sink that goes on after the restore reads its topics from their start
    #[arg(long, conflicts_with = "verify")]
    rows_only: bool,
    /// Consumer group of the sink
    #[arg(long, default_value = SINK_GROUP)]
    group: String,
}

/// Runs the command.
///
/// # Errors
/// 2 when a backup is not as its manifest says, 64 when there is one already, 69 when Kafka or ClickHouse does not answer.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let place = Place::open(&args.to, !args.verify)?;
    if args.verify {
        let manifest = block_on(verified(&place, &args.to))?;
        told(&manifest, say("whole", "이상 없음"));
        return Ok(Exit::Ok);
    }
    if block_on(Manifest::read(&place))?.is_some() {
        return Err(anyhow::anyhow!("there is a backup at {} already", args.to)).exit(Exit::Usage);
    }
    let positions = if args.rows_only { Vec::new() } else { positions(&connection::kafka()?, &args.group)? };
    let clickhouse = query::clickhouse()?;
    not_spread(&clickhouse)?;
    let manifest = block_on(async {
        let taken = take(&clickhouse, &place, positions).await;
        let thawed = thaw(&clickhouse).await;
        taken.and_then(|manifest| thawed.map(|()| manifest))
    })?;
    told(&manifest, say("written", "기록 완료"));
    Ok(Exit::Ok)
}

/// Our way of freezing and filling tables is one server's.
pub(super) fn not_spread(clickhouse: &ClickHouse) -> anyhow::Result<()> {
    if clickhouse.layout().is_spread() {
        return Err(anyhow::anyhow!(
            "tables that are spread over shards are backed up and restored by ClickHouse's own BACKUP … ON CLUSTER"
        ))
        .exit(Exit::Usage);
    }
    Ok(())
}

/// The manifest of a backup whose files are all as it says.
pub(super) async fn verified(place: &Place, at: &str) -> anyhow::Result<Manifest> {
    let Some(manifest) = Manifest::read(place).await? else {
        return Err(anyhow::anyhow!("there is no backup at {at}: it has no manifest, so writing it was not finished"))
            .exit(Exit::CheckSaidNo);
    };
    if manifest.format != FORMAT {
        return Err(anyhow::anyhow!("the backup at {at} has layout {}, this program reads {FORMAT}", manifest.format))
            .exit(Exit::Usage);
    }
    for file in manifest.files() {
        place.verify(&file.stored()).await?;
    }
    Ok(manifest)
}

/// Where the group has committed to in every partition that the sink reads.
fn positions(kafka: &KafkaConfig, group: &str) -> anyhow::Result<Vec<Position>> {
    let cluster = with_exit(admin::describe(kafka, ANSWER_WITHIN))?;
    let read = topics::all().into_iter().filter(|topic| topic.readers.iter().any(|reader| reader == "sink"));
    let partitions: Vec<TopicPartition> = read
        .filter_map(|topic| cluster.topics.get(&topic.name).map(|found| (topic.name, found.partitions)))
        .flat_map(|(topic, count)| (0..count).map(move |partition| TopicPartition::new(&topic, partition)))
        .collect();
    let committed = with_exit(committed(kafka, group, &partitions, ANSWER_WITHIN))?;
    Ok(committed
        .into_iter()
        .filter_map(|(of, offset)| {
            Some(Position { epoch: cluster.epoch(&of.topic)?, topic: of.topic, partition: of.partition, offset })
        })
        .collect())
}

async fn take(clickhouse: &ClickHouse, place: &Place, positions: Vec<Position>) -> anyhow::Result<Manifest> {
    let taken_at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    query::with_exit(migrations::check(clickhouse).await)?;
    thaw(clickhouse).await?;
    let mut frozen = Vec::new();
    for table in tables() {
        frozen.push(freeze(clickhouse, table).await?);
    }
    let mut tables = Vec::new();
    for table in frozen {
        tables.push(write(clickhouse, place, table).await?);
    }
    let manifest = Manifest {
        format: FORMAT,
        taken_at,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        clickhouse: query::with_exit(clickhouse.version().await)?,
        database: clickhouse.database().to_owned(),
        migrations: query::with_exit(migrations::history(clickhouse).await)?,
        positions,
        tables,
    };
    manifest.seal(place).await?;
    Ok(manifest)
}

/// Tables that hold what cannot be had elsewhere.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    let tables = migrations::objects().into_iter().filter(|(kind, _)| *kind == migrations::Kind::Table);
    tables.map(|(_, name)| name).filter(|name| !OF_THE_PROGRAM.contains(name))
}

/// A table beside `table`, of the same columns and keys, that neither replaces rows nor forgets them.
pub(super) async fn table_beside(clickhouse: &ClickHouse, table: &str, name: &str, settings: &str) -> anyhow::Result<()> {
    let sql = "SELECT partition_key, sorting_key FROM system.tables WHERE database = currentDatabase() AND name = {table:String}";
    let keys = texts(clickhouse, &format!("read the keys of {table}"), sql, &[("table", table.to_owned())]).await?;
    let Some([Some(partition), Some(sorting)]) = keys.first().map(Vec::as_slice) else { bail!("there is no table {table}") };
    let partition = if partition.is_empty() { String::new() } else { format!("PARTITION BY {partition} ") };
    let create = format!("CREATE TABLE {name} AS {table} ENGINE = MergeTree {partition}ORDER BY ({sorting}){settings}");
    query::with_exit(clickhouse.execute(&format!("create {name}"), &create).await)
}

/// The partitions of a table, by their ids.
pub(super) async fn partitions(clickhouse: &ClickHouse, table: &str) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT DISTINCT partition_id FROM system.parts WHERE database = currentDatabase() AND table = {table:String} AND active \
               ORDER BY partition_id";
    let found = texts(clickhouse, &format!("read the partitions of {table}"), sql, &[("table", table.to_owned())]).await?;
    Ok(found.into_iter().flatten().flatten().collect())
}

/// Moves nothing, copies nothing: the parts are in both tables.
pub(super) async fn attach(clickhouse: &ClickHouse, partition: &str, from: &str, to: &str) -> anyhow::Result<()> {
    let sql = format!("ALTER TABLE {to} ATTACH PARTITION ID '{partition}' FROM {from}");
    query::with_exit(clickhouse.execute(&format!("attach a partition of {from} to {to}"), &sql).await)
}

pub(super) async fn count(clickhouse: &ClickHouse, table: &str, filter: &str) -> anyhow::Result<u64> {
    let sql = format!("SELECT toString(count()) FROM {table}{filter}");
    let rows = texts(clickhouse, &format!("count the rows of {table}"), &sql, &[]).await?;
    let count = rows.into_iter().flatten().flatten().next().context("a number")?;
    Ok(count.parse()?)
}

fn clone_of(table: &str) -> String {
    format!("backup_of_{table}")
}

async fn freeze(clickhouse: &ClickHouse, table: &'static str) -> anyhow::Result<&'static str> {
    let clone = clone_of(table);
    table_beside(clickhouse, table, &clone, " SETTINGS max_bytes_to_merge_at_max_space_in_pool = 1").await?;
    for partition in partitions(clickhouse, table).await? {
        attach(clickhouse, &partition, table, &clone).await?;
    }
    Ok(table)
}

/// Drops what a backup froze, also one that broke off.
async fn thaw(clickhouse: &ClickHouse) -> anyhow::Result<()> {
    for table in tables() {
        let clone = clone_of(table);
        query::with_exit(clickhouse.execute(&format!("drop {clone}"), &format!("DROP TABLE IF EXISTS {clone} SYNC")).await)?;
    }
    Ok(())
}

/// Streams the partitions of a frozen table, one after the other.
async fn write(clickhouse: &ClickHouse, place: &Place, table: &str) -> anyhow::Result<Table> {
    const OF_TABLE: &str = "FROM system.columns WHERE database = currentDatabase() AND table = {table:String} \
                            AND default_kind NOT IN ('ALIAS', 'MATERIALIZED') ORDER BY position";
    let of_table = [("table", table.to_owned())];
    let doing = format!("read the columns of {table}");
    let columns = texts(clickhouse, &doing, &format!("SELECT name {OF_TABLE}"), &of_table).await?;
    let columns: Vec<String> = columns.into_iter().flatten().flatten().collect();
    let create = "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = {table:String}";
    let create = texts(clickhouse, &format!("read how {table} was created"), create, &of_table).await?;
    let create = create.into_iter().flatten().flatten().next().unwrap_or_default();

    let clone = clone_of(table);
    let mut files = Vec::new();
    for partition in partitions(clickhouse, &clone).await? {
        let rows = count(clickhouse, &clone, &format!(" WHERE _partition_id = '{partition}'")).await?;
        let path = format!("{table}/{partition}.native.zst");
        let mut file = place.create(&path)?;
        let sql =
            format!("SELECT {} FROM {clone} WHERE _partition_id = '{partition}' SETTINGS max_threads = 1", listed(&columns));
        let mut pieces = query::with_exit(clickhouse.pieces(&format!("read {table}"), &sql, "Native"))?;
        while let Some(piece) = query::with_exit(pieces.next().await)? {
            file.write(&piece).await?;
        }
        let (bytes, sha256) = file.finish().await?;
        files.push(File { path, partition, rows, bytes, sha256 });
    }
    let marks = marks(clickhouse, &clone, &columns).await?;
    Ok(Table { name: table.to_owned(), create, columns, rows: files.iter().map(|file| file.rows).sum(), files, marks })
}

/// Names as a statement lists them.
pub(super) fn listed(columns: &[String]) -> String {
    columns.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

pub(super) fn told(manifest: &Manifest, how: &str) {
    for table in manifest.tables.iter().filter(|table| table.rows > 0) {
        let bytes: u64 = table.files.iter().map(|file| file.bytes).sum();
        line(&say(
            format!("{:<22} {:>14} rows {:>16} bytes", table.name, table.rows, bytes),
            format!("{:<22} {:>14}행 {:>16}바이트", table.name, table.rows, bytes),
        ));
    }
    let (rows, bytes, files) = (manifest.rows(), manifest.bytes(), manifest.files().count());
    line(&say(
        format!("backup of {}: {how}, {rows} rows in {files} files, {bytes} bytes", manifest.taken_at),
        format!("{} 백업: {how}, {rows}행, 파일 {files}개, {bytes}바이트", manifest.taken_at),
    ));
}
