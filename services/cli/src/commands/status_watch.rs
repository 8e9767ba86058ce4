//! `marketflow status --watch`: how fast, how far behind, how whole and how healthy, off the services' own metrics.

use super::metrics::{samples, sum};
use crate::console::{block_on, line, problem, say};
use anyhow::Context;
use comfy_table::{Table, presets};
use marketflow_model::Timestamp;
use marketflow_runtime::Exit;
use marketflow_stack::{Error, Snapshot, supervisor};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Services whose metrics are read, by their key under `[ports]`.
const SERVICES: [&str; 3] = ["tick_producer", "processor", "sink"];

/// One look. What does not run or does not answer is left out.
#[derive(Serialize, Debug, PartialEq, Default)]
struct Look {
    at: String,
    /// Parts that are not ready, with what they are doing.
    not_ready: BTreeMap<String, String>,
    feed: Option<Feed>,
    processor: Option<Processor>,
    sink: Option<Sink>,
}

#[derive(Serialize, Debug, PartialEq)]
struct Feed {
    trades_per_second: Option<f64>,
    /// How long ago the feed was complete, open gaps excepted.
    complete_seconds_ago: Option<f64>,
    gaps_open: u64,
    acknowledged: u64,
    wanted: u64,
    reconnects: u64,
    malformed: u64,
    undelivered: u64,
}

#[derive(Serialize, Debug, PartialEq)]
struct Processor {
    trades_per_second: Option<f64>,
    lag_records: u64,
    /// Newest watermark of a live feed.
    watermark_seconds_ago: Option<f64>,
    bars: u64,
    used: u64,
    late: u64,
    duplicate: u64,
    quarantined: u64,
    dead_lettered: u64,
    not_selected: u64,
    aborted: u64,
}

#[derive(Serialize, Debug, PartialEq)]
struct Sink {
    rows_per_second: Option<f64>,
    lag_records: u64,
    rows: u64,
    /// From append to readable row, mean over what landed since the look before.
    append_to_row_seconds: Option<f64>,
    retried: u64,
    dead_lettered: u64,
}

/// The counters of the look before, from which rates follow.
#[derive(Default)]
struct Before {
    counters: BTreeMap<&'static str, f64>,
    at: Option<Instant>,
}

impl Before {
    /// Growth since the look before; nothing at the first look or when the counter began anew.
    fn growth(&mut self, name: &'static str, now: f64) -> Option<f64> {
        let before = self.counters.insert(name, now)?;
        (now >= before).then_some(now - before)
    }
}

/// Looks again and again.
///
/// # Errors
/// 69 when no stack runs.
pub(super) fn run(home: &Path, every: Duration, count: Option<u64>, as_json: bool) -> anyhow::Result<Exit> {
    let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().build().context("cannot ask the services")?;
    let is_terminal = std::io::stdout().is_terminal() && !as_json;
    let (mut before, mut drawn) = (Before::default(), 0);
    let mut looks = 0;
    loop {
        let begun = Instant::now();
        let Some(state) = supervisor(home).and_then(|_| Snapshot::read(home)) else {
            return Err(problem(&Error::NotRunning { home: home.to_owned() }));
        };
        let pages = block_on(pages(&http, &state))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let look = look(&state, &pages, now, begun, &mut before);
        if as_json {
            line(&serde_json::to_string(&look)?);
        } else {
            let text = picture(&look);
            // what was drawn before is replaced, and the rest below cleared
            let up = if is_terminal && drawn > 0 { format!("\u{1b}[{drawn}A\r\u{1b}[0J") } else { String::new() };
            drawn = text.lines().count();
            line(&format!("{up}{text}"));
        }
        looks += 1;
        if count.is_some_and(|count| looks >= count) {
            return Ok(if look.not_ready.is_empty() { Exit::Ok } else { Exit::Unreachable });
        }
        std::thread::sleep(every.saturating_sub(begun.elapsed()));
    }
}

/// The metrics pages of the services that run, by their key under `[ports]`.
async fn pages(http: &reqwest::Client, state: &Snapshot) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let mut pages = BTreeMap::new();
    for service in SERVICES {
        let ports = state.parts.iter().flat_map(|part| &part.ports);
        let Some(port) = ports.filter(|port| port.key == service).map(|port| port.port).next() else { continue };
        let answer = http.get(format!("http://127.0.0.1:{port}/metrics")).send().await;
        if let Ok(answer) = answer
            && let Ok(page) = answer.text().await
        {
            pages.insert(service, page);
        }
    }
    Ok(pages)
}

fn look(state: &Snapshot, pages: &BTreeMap<&'static str, String>, now: f64, begun: Instant, before: &mut Before) -> Look {
    let seconds = before.at.replace(begun).map(|at| begun.duration_since(at).as_secs_f64());
    let mut rate = |name: &'static str, value: f64| Some(before.growth(name, value)? / seconds?);
    let ago = |times: &mut dyn Iterator<Item = f64>| {
        let newest = times.fold(0.0, f64::max);
        (newest > 0.0).then_some((now - newest).max(0.0))
    };
    let total = |page: &str, name: &str, label| samples(page, name, label).sum::<f64>();

    let feed = pages.get("tick_producer").map(|page| Feed {
        trades_per_second: rate("sent", total(page, "marketflow_records_produced_total", Some(("topic", "market.trades.v1")))),
        complete_seconds_ago: ago(&mut samples(page, "marketflow_complete_through_timestamp_seconds", None)),
        gaps_open: sum(page, "marketflow_gaps_open", None),
        acknowledged: sum(page, "marketflow_subscriptions", Some(("state", "acknowledged"))),
        wanted: sum(page, "marketflow_subscriptions", Some(("state", "wanted"))),
        reconnects: sum(page, "marketflow_reconnects_total", None),
        malformed: sum(page, "marketflow_frames_malformed_total", None),
        undelivered: sum(page, "marketflow_records_undelivered_total", None),
    });
    let processor = pages.get("processor").map(|page| {
        let outcome = |outcome: &str| sum(page, "marketflow_trades_total", Some(("outcome", outcome)));
        Processor {
            trades_per_second: rate("trades", total(page, "marketflow_trades_total", None)),
            lag_records: sum(page, "marketflow_consumer_lag_records", None),
            watermark_seconds_ago: ago(&mut samples(page, "marketflow_watermark_timestamp_seconds", None)),
            bars: sum(page, "marketflow_bars_total", None),
            used: outcome("used"),
            late: outcome("late"),
            duplicate: outcome("duplicate"),
            quarantined: outcome("quarantined"),
            dead_lettered: outcome("dead_lettered"),
            not_selected: outcome("not_selected"),
            aborted: sum(page, "marketflow_transaction_duration_seconds_count", Some(("outcome", "aborted"))),
        }
    });
    let sink = pages.get("sink").map(|page| {
        let rows = total(page, "marketflow_rows_inserted_total", None);
        let discarded = |reason| sum(page, "marketflow_records_discarded_total", Some(("reason", reason)));
        let waited = rate("waited", total(page, "marketflow_append_to_row_seconds_sum", None));
        let landed = rate("landed", total(page, "marketflow_append_to_row_seconds_count", None));
        Sink {
            rows_per_second: rate("rows", rows),
            lag_records: sum(page, "marketflow_consumer_lag_records", None),
            rows: sum(page, "marketflow_rows_inserted_total", None),
            append_to_row_seconds: waited.zip(landed.filter(|landed| *landed > 0.0)).map(|(waited, landed)| waited / landed),
            retried: sum(page, "marketflow_insert_duration_seconds_count", Some(("outcome", "retry"))),
            dead_lettered: discarded("undecodable") + discarded("refused"),
        }
    });
    let not_ready = state.parts.iter().filter(|part| !part.state.is_well());
    let not_ready =
        not_ready.map(|part| (part.name.clone(), format!("{:?} {}", part.state, part.note).trim().to_owned())).collect();
    let at = Timestamp::from_seconds(i64::try_from(Duration::from_secs_f64(now).as_secs()).unwrap_or_default()).to_string();
    Look { at, not_ready, feed, processor, sink }
}

fn picture(look: &Look) -> String {
    let per_second = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.0}/s"));
    let seconds = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1} s"));
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let none = say("does not run, or does not answer", "실행 중이 아니거나 응답이 없습니다");
    let mut row = |name: &str, words: Option<String>| {
        table.add_row([name.to_owned(), words.unwrap_or_else(|| none.to_owned())]);
    };
    row(
        say("feed", "피드"),
        look.feed.as_ref().map(|feed| {
            let Feed { gaps_open, acknowledged, wanted, reconnects, malformed, undelivered, .. } = feed;
            let (rate, ago) = (per_second(feed.trades_per_second), seconds(feed.complete_seconds_ago));
            say(
                format!("{rate} trades and controls, complete {ago} ago, {gaps_open} gaps open, {acknowledged} of {wanted} subscribed, {reconnects} reconnects, {malformed} broken frames, {undelivered} undelivered"),
                format!("체결·제어 {rate}, {ago} 전까지 완전, 열린 공백 {gaps_open}, 구독 {acknowledged}/{wanted}, 재연결 {reconnects}, 깨진 프레임 {malformed}, 미전달 {undelivered}"),
            )
        }),
    );
    row(
        say("processor", "프로세서"),
        look.processor.as_ref().map(|processor| {
            let Processor { lag_records, bars, used, late, duplicate, quarantined, dead_lettered, not_selected, aborted, .. } = processor;
            let (rate, ago) = (per_second(processor.trades_per_second), seconds(processor.watermark_seconds_ago));
            say(
                format!("{rate} trades, {lag_records} waiting, watermark {ago} ago, {bars} bars; used {used}, late {late}, duplicate {duplicate}, quarantined {quarantined}, dead-lettered {dead_lettered}, not selected {not_selected}; {aborted} aborted"),
                format!("체결 {rate}, 대기 {lag_records}, 워터마크 {ago} 전, 봉 {bars}; 사용 {used}, 지연 {late}, 중복 {duplicate}, 격리 {quarantined}, 데드레터 {dead_lettered}, 미선택 {not_selected}; 중단된 트랜잭션 {aborted}"),
            )
        }),
    );
    row(
        say("sink", "싱크"),
        look.sink.as_ref().map(|sink| {
            let Sink { lag_records, rows, retried, dead_lettered, .. } = sink;
            let (rate, wait) = (per_second(sink.rows_per_second), seconds(sink.append_to_row_seconds));
            say(
                format!("{rate} rows, {lag_records} waiting, {rows} rows in all, readable after {wait}, {retried} inserts tried again, {dead_lettered} dead-lettered"),
                format!("행 {rate}, 대기 {lag_records}, 누적 {rows}행, 조회 가능까지 {wait}, 재시도 {retried}, 데드레터 {dead_lettered}"),
            )
        }),
    );
    let mut lines = vec![look.at.clone()];
    lines.extend(table.to_string().lines().map(|line| line.trim_end().to_owned()));
    lines.extend(look.not_ready.iter().map(|(part, what)| format!("{part}: {what}; marketflow doctor")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_growth_per_second_and_a_counter_that_began_anew_has_none() {
        let mut before = Before::default();
        assert_eq!(before.growth("rows", 10.0), None, "the first look");
        assert_eq!(before.growth("rows", 25.0), Some(15.0));
        assert_eq!(before.growth("rows", 3.0), None, "started again");
        assert_eq!(before.growth("rows", 4.0), Some(1.0));
    }

    #[test]
    fn what_does_not_answer_is_said_and_what_does_is_shown() {
        let sink = Sink {
            rows_per_second: Some(1234.4),
            lag_records: 5,
            rows: 99,
            append_to_row_seconds: None,
            retried: 1,
            dead_lettered: 0,
        };
        let look = Look { at: "now".to_owned(), sink: Some(sink), ..Look::default() };
        let text = picture(&look);
        assert!(text.contains("1234/s") && text.contains("99") && text.lines().count() == 4, "{text}");
    }
}
