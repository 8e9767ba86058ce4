//! `marketflow archive`: topics to Parquet files in a folder or a bucket.
//!
//! The archiver writes (`services/archiver`); this shows its progress and its result, and checks what lies there against ClickHouse.

use super::connection;
use super::query::{self, texts};
use super::sibling::{exit_of, sibling};
use crate::console::{block_on, json, line, progress, say};
use anyhow::Context;
use indicatif::ProgressBar;
use marketflow_archive::{ArchivedFile, Manifest, Place, Stored, row_count};
use marketflow_clickhouse::ClickHouse;
use marketflow_contract::topics;
use marketflow_runtime::Exit;
use marketflow_stack::home_folder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

/// Writes topics as Parquet and checks what lies there, for pandas, polars, DuckDB and whoever comes
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
data/<market>.parquet holds the months of a market (stocks, bonds, forex, crypto, commodities, real_estate): each series, each period, the last
vintage. archive/<topic>/partition=<n>/ holds every trade, bar, observation and flow in files of offset ranges, named by a manifest.
Stopped or killed, the same command goes on; run again without news, it changes nothing. docs/archive.md has the columns.
A bucket of Amazon S3 or of a server like it is named by s3://BUCKET/PREFIX and the variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, and AWS_ENDPOINT (with AWS_ALLOW_HTTP=true for http://) where it is not Amazon's.

Examples:
  marketflow archive run
  marketflow archive run --to s3://my-bucket/marketflow
  marketflow archive run --series my-series.toml --json
  marketflow archive verify
  marketflow archive verify --from s3://my-bucket/marketflow --files-only")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Writes what came since the last time
    Run(Run),
    /// Checks every file against its manifest, and its rows against ClickHouse; 2 when something differs
    Verify(Verify),
}

#[derive(clap::Args, Debug)]
struct Run {
    #[command(flatten)]
    place: At,
    /// File of series in the shape of schemas/series.toml: which series belongs to which market
    #[arg(long, value_name = "FILE")]
    series: Option<PathBuf>,
    /// Any key of the archiver
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    settings: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct Verify {
    #[command(flatten)]
    place: At,
    /// Do not ask ClickHouse
    #[arg(long)]
    files_only: bool,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// Where the archive lies; the same for all verbs.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct At {
    /// Folder, or s3://bucket/prefix; without it MARKETFLOW_HOME
    #[arg(long = "to", visible_alias = "from", value_name = "PLACE")]
    place: Option<String>,
}

impl At {
    /// As the archiver takes it.
    pub(super) fn place(&self) -> String {
        self.place.clone().unwrap_or_else(|| home_folder().display().to_string())
    }
}

/// What the archiver says.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", content = "of", rename_all = "snake_case")]
enum Said {
    Progress(Progress),
    Result(RunResult),
}

#[derive(Debug, Deserialize)]
struct Progress {
    place: String,
    done: i64,
    all: i64,
}

/// What a run wrote.
#[derive(Debug, Serialize, Deserialize)]
struct RunResult {
    markets: Vec<MarketResult>,
    partitions: Vec<PartitionResult>,
    unassigned: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PartitionResult {
    place: String,
    files: u64,
    new_files: u64,
    rows: u64,
    new_rows: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct MarketResult {
    market: String,
    path: String,
    rows: u64,
    missing: u64,
    bytes: u64,
    written: bool,
}

/// Runs the command.
///
/// # Errors
/// 2 when a check says no, 64 for a place or a file of series that cannot be, 69 for a part that is not reachable.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    match args.what {
        What::Run(args) => archive(&args),
        What::Verify(args) => verify(&args),
    }
}

fn archive(args: &Run) -> anyhow::Result<Exit> {
    let mut command = sibling("archiver")?;
    let series = args.series.as_ref().map(|path| format!("archive.series={:?}", path.display().to_string()));
    let own = [
        Some(format!("archive.to={:?}", args.place.place())),
        series,
        Some("archive.every=0s".to_owned()),
        // the service itself may run beside this
        Some("admin.listen=127.0.0.1:0".to_owned()),
        // what ends a run is told at its end; what the client recovers from is nothing to a person
        Some(r#"log.level="warn,marketflow_kafka=error""#.to_owned()),
    ];
    for setting in own.into_iter().flatten().chain(args.settings.iter().cloned()) {
        command.arg("--set").arg(setting);
    }
    command.env("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", connection::kafka()?.bootstrap_servers);
    command.env("MARKETFLOW__REGISTRY__URL", connection::registry()?.url);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the archiver")?;
    let mut bar = ProgressBar::hidden();
    let mut result = None;
    for said in BufReader::new(child.stdout.take().context("its output was asked for")?).lines() {
        match serde_json::from_str(&said?) {
            Ok(Said::Progress(said)) => {
                if bar.prefix() != said.place {
                    bar.finish_and_clear();
                    bar = progress(&said.place, said.all);
                }
                bar.set_position(u64::try_from(said.done).unwrap_or_default());
            }
            Ok(Said::Result(said)) => result = Some(said),
            Err(_) => {}
        }
    }
    bar.finish_and_clear();
    let exit = exit_of(child.wait()?);
    if let Some(result) = result {
        if args.json { json(&result)? } else { report(&result) }
    }
    Ok(exit)
}

fn report(result: &RunResult) {
    for PartitionResult { place, files, new_files, rows, new_rows } in &result.partitions {
        line(&say(
            format!("{place:<30} {rows:>12} rows in {files:>5} files; new: {new_rows} in {new_files}"),
            format!("{place:<30} {rows:>12}행, 파일 {files:>5}개; 신규: {new_rows}행, {new_files}개"),
        ));
    }
    for MarketResult { path, rows, missing, bytes, written, .. } in &result.markets {
        let how = if *written { say("written", "기록") } else { say("unchanged", "변경 없음") };
        line(&say(
            format!("{path:<26} {rows:>8} rows, {missing:>5} of them missing, {bytes:>10} bytes  {how}"),
            format!("{path:<26} {rows:>8}행 (결측 {missing:>5}), {bytes:>10}바이트  {how}"),
        ));
    }
    if !result.unassigned.is_empty() {
        let series = result.unassigned.join(", ");
        line(&say(
            format!("of no market, and so in no file: {series}\nname the file of series they are collected by: --series FILE"),
            format!("시장이 정해지지 않아 제외됨: {series}\n수집에 쓰는 시계열 파일을 --series FILE로 지정하세요"),
        ));
    }
}

/// Where the sink keeps the records of a topic.
const TABLES: [(&str, &str); 5] = [
    (topics::TRADES, "trades_log"),
    (topics::BARS, "bars_log"),
    (topics::OBSERVATIONS, "observations_log"),
    (topics::FUND_FLOWS, "fund_flows_log"),
    (topics::FLOW_AGGREGATES, "flow_aggregates_log"),
];

/// What was found of a topic partition.
#[derive(Debug, Serialize)]
struct Found {
    place: String,
    files: usize,
    rows: u64,
    /// First and last offset covered.
    offsets: Option<(i64, i64)>,
    problems: Vec<String>,
}

fn verify(args: &Verify) -> anyhow::Result<Exit> {
    let at = args.place.place();
    let clickhouse = (!args.files_only).then(query::clickhouse).transpose()?;
    let found = block_on(look(&at, clickhouse.as_ref()))?;
    let problems: usize = found.iter().map(|one| one.problems.len()).sum();
    if args.json {
        json(&found)?;
    } else {
        for Found { place, files, rows, problems, .. } in &found {
            line(&say(
                format!("{place:<30} {rows:>12} rows in {files:>5} files"),
                format!("{place:<30} {rows:>12}행, 파일 {files:>5}개"),
            ));
            problems.iter().for_each(|problem| line(&format!("  {problem}")));
        }
        let (rows, places) = (found.iter().map(|one| one.rows).sum::<u64>(), found.len());
        line(&match problems {
            _ if found.is_empty() => say(format!("nothing is archived in {at}"), format!("{at}에 보관된 것이 없습니다")),
            0 => say(
                format!("every file is as it was written: {rows} rows of {places} topic partitions"),
                format!("모든 파일 이상 없음: 토픽 파티션 {places}개, {rows}행"),
            ),
            _ => say(format!("{problems} problems"), format!("문제 {problems}건")),
        });
    }
    Ok(if problems == 0 && !found.is_empty() { Exit::Ok } else { Exit::CheckSaidNo })
}

/// Checks everything that is archived there against ClickHouse: records, and what is wrong, in words.
pub(super) async fn verified(at: &str, clickhouse: &ClickHouse) -> anyhow::Result<(usize, Vec<String>)> {
    let found = look(at, Some(clickhouse)).await?;
    let rows: u64 = found.iter().map(|one| one.rows).sum();
    Ok((usize::try_from(rows)?, found.into_iter().flat_map(|one| one.problems).collect()))
}

async fn look(at: &str, clickhouse: Option<&ClickHouse>) -> anyhow::Result<Vec<Found>> {
    let place = Place::open(at, false)?;
    let mut found = Vec::new();
    for manifest in &Manifest::read_all(&place).await? {
        found.push(check(&place, clickhouse, manifest).await?);
    }
    Ok(found)
}

/// A partition's files against their manifest, and against the rows that the sink landed of the same offsets.
async fn check(place: &Place, clickhouse: Option<&ClickHouse>, manifest: &Manifest) -> anyhow::Result<Found> {
    let of = format!("{}/{}", manifest.topic, manifest.partition);
    let mut problems = Vec::new();
    if let Err(problem) = manifest.check() {
        problems.push(problem.to_string());
    }
    let bar = progress(&of, i64::try_from(manifest.files.len())?);
    for file in &manifest.files {
        problems.extend(wrong(place, file).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    for path in manifest.strays(place).await? {
        problems.push(format!("{path} is in no manifest: the run that wrote it was killed; the next one settles it"));
    }
    if let Some(clickhouse) = clickhouse {
        problems.extend(landed(clickhouse, manifest).await?);
    }
    let offsets = manifest.files.first().zip(manifest.files.last()).map(|(first, last)| (first.first, last.last));
    Ok(Found { place: of, files: manifest.files.len(), rows: manifest.rows(), offsets, problems })
}

/// What is wrong with a file: gone, other bytes, other rows than its manifest says.
async fn wrong(place: &Place, file: &ArchivedFile) -> anyhow::Result<Option<String>> {
    let ArchivedFile { path, rows, bytes, sha256, .. } = file;
    let Some(there) = place.get(path).await? else { return Ok(Some(format!("{path} is gone"))) };
    let found = Stored::of(path.clone(), &there);
    Ok(if (found.bytes, &found.sha256) != (*bytes, sha256) {
        Some(format!("{path} has {} bytes with SHA-256 {}, its manifest says {bytes} with {sha256}", found.bytes, found.sha256))
    } else {
        match row_count(there) {
            Ok(found) if found == *rows => None,
            Ok(found) => Some(format!("{path} holds {found} rows, its manifest says {rows}")),
            Err(problem) => Some(format!("{path}: {problem:#}")),
        }
    })
}

/// Where ClickHouse has another number of records in the range of a file.
async fn landed(clickhouse: &ClickHouse, manifest: &Manifest) -> anyhow::Result<Vec<String>> {
    let Some((_, table)) = TABLES.iter().find(|(topic, _)| *topic == manifest.topic) else { return Ok(Vec::new()) };
    let (Some(first), Some(last)) = (manifest.files.first(), manifest.files.last()) else { return Ok(Vec::new()) };
    let begins: Vec<String> = manifest.files.iter().map(|file| file.first.to_string()).collect();
    let sql = format!(
        "SELECT toString(roundDown(offset, CAST([{}], 'Array(Int64)')) AS first), toString(uniqExact(offset)), toString(max(offset)) FROM {table} \
         WHERE stream_epoch = {{epoch:String}} AND topic = {{topic:String}} AND partition = {{partition:Int64}} \
         AND offset BETWEEN {{first:Int64}} AND {{last:Int64}} GROUP BY first",
        begins.join(", ")
    );
    let parameters = [
        ("epoch", manifest.stream_epoch.clone()),
        ("topic", manifest.topic.clone()),
        ("partition", manifest.partition.to_string()),
        ("first", first.first.to_string()),
        ("last", last.last.to_string()),
    ];
    let mut there: BTreeMap<i64, (u64, i64)> = BTreeMap::new();
    for row in texts(clickhouse, &format!("count the records of {table}"), &sql, &parameters).await? {
        let [first, rows, highest] = <[String; 3]>::try_from(row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>())
            .ok()
            .context("a count of another shape")?;
        there.insert(first.parse()?, (rows.parse()?, highest.parse()?));
    }
    let mut problems = Vec::new();
    for ArchivedFile { path, first, last, rows, .. } in &manifest.files {
        let (landed, highest) = there.get(first).copied().unwrap_or((0, -1));
        if landed != *rows || highest != *last {
            let why = if landed < *rows { "not landed yet, or past its retention" } else { "the archive lacks them" };
            problems.push(format!("{path} holds {rows} records of the offsets {first} to {last}, {table} {landed}: {why}"));
        }
    }
    Ok(problems)
}
