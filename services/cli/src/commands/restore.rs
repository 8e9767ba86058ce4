//! `marketflow restore`: tables as a backup has them, and the sink's group back to where it can go on from them.
//!
//! Rows of each table partition gather in a table beside, are counted there, and come into the table in one step. The sink then reads again
//! from the positions of the backup; what the tables hold of it already it skips by its marks, which are the rows themselves.
//!
//! Next: `../../../sink/src/assignment.rs`.

use super::backup::manifest::{Manifest, Table, marks};
use super::backup::{ANSWER_WITHIN, SINK_GROUP, attach, count, listed, not_spread, table_beside, tables, told, verified};
use super::connection::{self, with_exit};
use super::query;
use crate::console::{block_on, line, say};
use anyhow::{Context, anyhow, ensure};
use marketflow_archive::{Place, Unpacked};
use marketflow_clickhouse::{ClickHouse, migrations};
use marketflow_contract::topics;
use marketflow_kafka::{KafkaConfig, Reader, TopicPartition, admin, members, set_committed};
use marketflow_runtime::{Exit, ExitContext};
use std::collections::BTreeMap;

/// Fills the tables from a backup, and puts the sink back to where it goes on from there
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Stop the sink first. Every file is checked against the manifest before anything is changed. What Kafka still has of the time since the backup
comes back when the sink is started again.

Examples:
  marketflow restore /var/backups/marketflow/2026-11-21
  marketflow restore --replace s3://my-bucket/marketflow/2026-11-21
  MARKETFLOW__CLICKHOUSE__DATABASE=as_of_friday marketflow restore --rows-only /var/backups/marketflow/2026-11-20")]
pub struct Args {
    /// Folder, or s3://bucket/prefix
    from: String,
    /// Drop the rows that are in the tables
    #[arg(long)]
    replace: bool,
    /// Leave Kafka alone: for looking at the rows, not for a sink to go on from
    #[arg(long)]
    rows_only: bool,
    /// Consumer group of the sink
    #[arg(long, default_value = SINK_GROUP)]
    group: String,
}

/// Runs the command.
///
/// # Errors
/// 2 when the backup is not as its manifest says, 64 when the tables hold rows or the sink runs, 69 when Kafka or ClickHouse does not answer.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let place = Place::open(&args.from, false)?;
    let clickhouse = query::clickhouse()?;
    not_spread(&clickhouse)?;
    let manifest = block_on(async {
        let manifest = verified(&place, &args.from).await?;
        agree(&manifest)?;
        if !args.replace {
            empty(&clickhouse).await?;
        }
        Ok(manifest)
    })?;
    if !args.rows_only {
        go_back(&connection::kafka()?, &args.group, &manifest)?;
    }
    block_on(fill(&clickhouse, &place, &manifest, &args))?;
    told(&manifest, say("restored", "복원 완료"));
    Ok(Exit::Ok)
}

/// A backup of tables that this program does not know cannot be restored by it; one of older tables can.
fn agree(manifest: &Manifest) -> anyhow::Result<()> {
    let ours: BTreeMap<&str, String> = migrations::ALL.iter().map(|file| (file.name, file.checksum())).collect();
    for (name, checksum) in &manifest.migrations {
        let agrees = ours.get(name.as_str()).is_some_and(|known| known == checksum);
        if !agrees {
            let what = format!("the backup was made with another {name}: restore it with marketflow {}", manifest.version);
            return Err(anyhow!(what)).exit(Exit::Usage);
        }
    }
    Ok(())
}

async fn empty(clickhouse: &ClickHouse) -> anyhow::Result<()> {
    let sql = "SELECT name, toString(total_rows) FROM system.tables WHERE database = currentDatabase() AND total_rows > 0 ORDER BY name";
    let filled = query::texts(clickhouse, "look what the tables hold", sql, &[]).await?;
    let ours = |name: &Option<String>| tables().any(|table| name.as_deref() == Some(table));
    let filled: Vec<String> = filled
        .iter()
        .filter_map(|row| row.first().filter(|name| ours(name)).and(Some(row)))
        .map(|row| row.iter().flatten().cloned().collect::<Vec<_>>().join(": "))
        .collect();
    if filled.is_empty() {
        return Ok(());
    }
    Err(anyhow!("the tables hold rows ({}); --replace drops them", filled.join(", "))).exit(Exit::Usage)
}

/// Moves the sink's group to the positions of the backup, and to the log's start where it has none. Going back is always harmless.
fn go_back(kafka: &KafkaConfig, group: &str, manifest: &Manifest) -> anyhow::Result<()> {
    let running = with_exit(members(kafka, group, ANSWER_WITHIN))?;
    if running > 0 {
        return Err(anyhow!("{running} members of {group} are running: stop the sink first")).exit(Exit::Usage);
    }
    let cluster = with_exit(admin::describe(kafka, ANSWER_WITHIN))?;
    let reader = with_exit(Reader::new(kafka))?;
    let mut next = Vec::new();
    for topic in topics::all().into_iter().filter(|topic| topic.readers.iter().any(|reader| reader == "sink")) {
        let (Some(found), Some(epoch)) = (cluster.topics.get(&topic.name), cluster.epoch(&topic.name)) else { continue };
        for partition in 0..found.partitions {
            let of = TopicPartition::new(&topic.name, partition);
            let known = manifest.positions.iter().find(|p| (&p.topic, p.partition, &p.epoch) == (&topic.name, partition, &epoch));
            let offset = match known {
                Some(position) => position.offset,
                None => with_exit(reader.range(&of))?.0,
            };
            next.push((of, offset));
        }
    }
    with_exit(set_committed(kafka, group, &next))
}

async fn fill(clickhouse: &ClickHouse, place: &Place, manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    query::with_exit(migrations::begin_restore(clickhouse, &args.from).await)?;
    for table in &manifest.tables {
        // without them a sink takes its topics for new, and reads them from their start
        if table.name == "streams" && (args.rows_only || manifest.positions.is_empty()) {
            continue;
        }
        fill_table(clickhouse, place, table).await.with_context(|| format!("cannot restore {}", table.name))?;
        if table.rows > 0 {
            line(&say(format!("{}: {} rows", table.name, table.rows), format!("{}: {}행", table.name, table.rows)));
        }
    }
    query::with_exit(migrations::end_restore(clickhouse).await)
}

async fn fill_table(clickhouse: &ClickHouse, place: &Place, table: &Table) -> anyhow::Result<()> {
    let beside = format!("restore_of_{}", table.name);
    let drop = format!("DROP TABLE IF EXISTS {beside} SYNC");
    for file in &table.files {
        query::with_exit(clickhouse.execute(&format!("drop {beside}"), &drop).await)?;
        table_beside(clickhouse, &table.name, &beside, "").await?;
        let statement = format!("INSERT INTO {beside} ({}) FORMAT Native", listed(&table.columns));
        let mut upload = clickhouse.upload(&format!("insert the rows of {}", file.path), &statement);
        let (mut packed, mut unpacked) = (place.read(&file.stored()).await?, Unpacked::new()?);
        while let Some(piece) = packed.next().await? {
            let rows = unpacked.unpack(&piece)?;
            if !rows.is_empty() {
                query::with_exit(upload.send(rows).await)?;
            }
        }
        packed.check()?;
        query::with_exit(upload.end().await)?;
        let rows = count(clickhouse, &beside, "").await?;
        ensure!(rows == file.rows, "{} gave {rows} rows, the manifest says {}", file.path, file.rows);
        attach(clickhouse, &file.partition, &beside, &table.name).await?;
    }
    query::with_exit(clickhouse.execute(&format!("drop {beside}"), &drop).await)?;
    let found = marks(clickhouse, &table.name, &table.columns).await?;
    ensure!(found == table.marks, "the highest offsets are {found:?}, the manifest says {:?}", table.marks);
    Ok(())
}
