//! The checked statement at the end: findings as text people read.

use super::check::{ClosingBar, Comparison, Findings, Holes};
use super::render::{Latency, minute};
use super::text::{Paint, Tone, grouped, local, padded, stretch};
use jiff::tz::TimeZone;
use marketflow_model::Timestamp;
use marketflow_stack::{Language, Ports};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const NAME_COLUMNS: usize = 34;
const COUNT_COLUMNS: usize = 12;
/// open, high, low, close, volume, turnover, vwap, trade_count, buy_volume, sell_volume.
const VALUE_COLUMNS: usize = 10;

/// What was played, and how long it took.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) instrument: String,
    /// The instruments with the names people know them by; empty where there is only one.
    pub(super) names: Vec<(String, String)>,
    /// The zone people of this market read times in.
    pub(super) zone: TimeZone,
    pub(super) live: bool,
    /// First and last instant played, in the venue's time.
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    /// Wall time from an empty home until everything ran, of the session itself, and from its end until all of it was checked.
    pub(super) starting: Duration,
    pub(super) playing: Duration,
    pub(super) checking: Duration,
    pub(super) latency: Option<Latency>,
    /// Parts that ended by themselves and were started again: name and how often.
    pub(super) restarts: Vec<(String, u32)>,
}

/// The statement as JSON; durations in milliseconds.
pub(super) fn as_json(session: &Session, findings: &Findings) -> anyhow::Result<Value> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let latency = session.latency.map(|latency| json!({ "median_ms": millis(latency.median), "p95_ms": millis(latency.p95) }));
    let restarts: serde_json::Map<String, Value> =
        session.restarts.iter().map(|(part, times)| (part.clone(), json!(times))).collect();
    Ok(json!({
        "ok": findings.hold(),
        "instrument": session.instrument,
        "live": session.live,
        "from": session.from.to_string(),
        "to": session.to.to_string(),
        "starting_ms": millis(session.starting),
        "playing_ms": millis(session.playing),
        "checking_ms": millis(session.checking),
        "sent_to_row_readable": latency,
        "restarts": restarts,
        "findings": serde_json::to_value(findings)?,
    }))
}

/// The statement as lines.
pub(super) fn lines(session: &Session, findings: &Findings, language: Language, paint: Paint) -> Vec<String> {
    let mut lines = vec![paint.apply(Tone::Strong, language.pick("Checked statement", "검증 결과")), played(session, language)];
    lines.extend(where_trades_went(findings, language, paint));
    lines.extend(bars(findings, language));
    lines.extend(findings.closing.iter().map(|bar| closing(bar, session, language)));
    lines.push(String::new());
    if let Some(holes) = &findings.holes {
        lines.extend(what_is_missing(holes, language, paint));
    }
    if let Some(trades) = &findings.trades_in_kafka {
        lines.extend(answer(
            match &findings.holes {
                None => language.pick(
                    "Kafka holds every trade the exchange sent, unchanged",
                    "거래소가 보낸 모든 체결이 변형 없이 Kafka에 있음",
                ),
                Some(_) => {
                    language.pick("Kafka holds every other trade, unchanged", "그 밖의 모든 체결이 변형 없이 Kafka에 있음")
                }
            },
            trades,
            &format!("{} {}", grouped(trades.compared as u64), language.pick("trades", "건")),
            language,
            paint,
        ));
    }
    let cells = format!("{} × {VALUE_COLUMNS} {}", language.pick("bars", "개 봉"), language.pick("value columns", "개 값 컬럼"));
    let size = |comparison: &Comparison| format!("{} {cells}", grouped(comparison.compared as u64));
    let (in_kafka, in_clickhouse) = (&findings.bars_in_kafka, &findings.bars_in_clickhouse);
    lines.extend(answer(
        match session.live {
            false => language.pick(
                "Kafka's bars equal an independent batch recomputation of the tape, bar for bar",
                "Kafka의 봉이 테이프를 독립적으로 일괄 재계산한 결과와 봉 단위로 일치",
            ),
            true => language.pick(
                "Kafka's bars equal an independent batch recomputation of the trades in Kafka, bar for bar",
                "Kafka의 봉이 Kafka의 체결을 독립적으로 일괄 재계산한 결과와 봉 단위로 일치",
            ),
        },
        in_kafka,
        &size(in_kafka),
        language,
        paint,
    ));
    lines.extend(answer(
        match session.live {
            false => language.pick(
                "ClickHouse equals an independent batch recomputation of the tape, bar for bar",
                "ClickHouse가 테이프를 독립적으로 일괄 재계산한 결과와 봉 단위로 일치",
            ),
            true => language.pick(
                "ClickHouse equals an independent batch recomputation of the trades in Kafka, bar for bar",
                "ClickHouse가 Kafka의 체결을 독립적으로 일괄 재계산한 결과와 봉 단위로 일치",
            ),
        },
        in_clickhouse,
        &size(in_clickhouse),
        language,
        paint,
    ));
    if findings.nothing_was_checked() {
        let words = language.pick(
            "no trade came, or no window was complete at the end: nothing was checked",
            "체결이 없었거나 완결된 구간이 없어 검증한 것이 없습니다",
        );
        lines.push(paint.apply(Tone::Bad, &format!("  {words}")));
    }
    lines
}

/// Where to look next: the kept stack, or how to keep one.
pub(super) fn where_next(home: &Path, ports: &Ports, session: &Session, kept: bool, language: Language) -> Vec<String> {
    let interval = if session.live { "1m" } else { "15m" };
    // as it was called, so that it can be pasted
    let marketflow = std::env::args().next().unwrap_or_else(|| "marketflow".to_owned());
    let with_home = format!("MARKETFLOW_HOME={} {marketflow}", home.display());
    let mut lines = vec![language.pick("Where to look next", "다음으로 볼 것").to_owned()];
    if kept {
        lines.extend([
            format!(
                "  ClickHouse  http://127.0.0.1:{}   Kafka  127.0.0.1:{}   registry  http://127.0.0.1:{}",
                ports.clickhouse, ports.kafka, ports.registry
            ),
            format!("  {with_home} bars --instrument {} --interval {interval}", session.instrument),
            format!("  {with_home} sql \"{}\"", query(&session.instrument, interval)),
            format!("  {with_home} status"),
            language.pick(
                format!("It keeps running. Stop it: {with_home} down"),
                format!("계속 실행 중입니다. 끝내려면: {with_home} down"),
            ),
        ]);
    } else {
        lines.extend([
            language.pick(
                "  make demo KEEP=1 (or --keep) leaves it running, to be asked:".to_owned(),
                "  make demo KEEP=1 (또는 --keep)로 실행하면 스택을 남겨 두고 직접 조회할 수 있습니다:".to_owned(),
            ),
            format!("    {with_home} bars --instrument {} --interval {interval}", session.instrument),
            format!("    {with_home} sql \"{}\"", query(&session.instrument, interval)),
            language.pick(
                format!("  nothing runs any more; the logs are in {}/logs", home.display()),
                format!("  실행 중인 프로세스는 없습니다. 로그: {}/logs", home.display()),
            ),
        ]);
    }
    lines
}

/// The bars with the highest prices.
fn query(instrument: &str, interval: &str) -> String {
    format!(
        "SELECT open_time, high, volume, vwap, quality FROM bars_final WHERE instrument = '{instrument}' AND interval = '{interval}' ORDER BY high DESC LIMIT 5"
    )
}

fn played(session: &Session, language: Language) -> String {
    let mut text = format!(
        "  {}, {} – {}; {} {}, {} {}, {} {}",
        if session.names.is_empty() { session.instrument.clone() } else { names(session) },
        minute(session.from, &session.zone),
        minute(session.to, &session.zone),
        language.pick("start-up", "기동"),
        stretch(session.starting),
        language.pick("session", "재생"),
        stretch(session.playing),
        language.pick("settling and checking", "마무리·검증"),
        stretch(session.checking),
    );
    if let Some(latency) = session.latency {
        let what = if session.live {
            language.pick("received → row readable", "수신 → 행 조회 가능")
        } else {
            language.pick("sent → row readable", "송신 → 행 조회 가능")
        };
        text += &format!(
            "\n  {what}: {} {}, 95 % ≤ {}",
            language.pick("median", "중앙값"),
            stretch(latency.median),
            stretch(latency.p95)
        );
    }
    for (part, times) in &session.restarts {
        text +=
            &format!("\n  {part}: {} {times}×", language.pick("ended by itself and was started again", "비정상 종료 후 재기동"));
    }
    text
}

fn names(session: &Session) -> String {
    session.names.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// A closing auction's bar: `15:30 005930 삼성전자 71,300 × 54,321`.
fn closing(bar: &ClosingBar, session: &Session, language: Language) -> String {
    let name = session.names.iter().find(|(instrument, _)| *instrument == bar.instrument.as_str());
    let name = name.map_or(bar.instrument.as_str(), |(_, name)| name.as_str());
    let what = format!("{} {}", local(bar.open_time, &session.zone, "%H:%M"), language.pick("closing auction", "종가 단일가"));
    format!("  {}{}   {} × {}", padded(&what, NAME_COLUMNS), padded(name, NAME_COLUMNS), bar.close, bar.volume)
}

/// What never arrived, and whether the gaps and the bars tell of it.
fn what_is_missing(holes: &Holes, language: Language, paint: Paint) -> Vec<String> {
    let (missing, abandoned) = (grouped(holes.missing), grouped(holes.abandoned));
    let mut lines = vec![language.pick(
        format!(
            "  {missing} trades happened while the connection was lost. The broker tells no past trades, so their {abandoned} gaps were given up \
             (gap_abandoned; {} others were found harmless)",
            grouped(holes.filled)
        ),
        format!(
            "  연결이 끊긴 동안 체결 {missing}건이 있었습니다. 증권사는 지난 체결을 다시 주지 않으므로 갭 {abandoned}개를 포기로 기록했습니다(gap_abandoned, \
             그 밖의 {}개는 누락 없음)",
            grouped(holes.filled)
        ),
    )];
    lines.extend(answer(
        language
            .pick("Each of them lies in such a gap, and no such gap is empty", "누락된 체결마다 그런 갭이 있고, 빈 갭은 없음"),
        &holes.told,
        &format!("{} {}", grouped(holes.told.compared as u64), language.pick("trades and gaps", "건의 체결과 갭")),
        language,
        paint,
    ));
    lines.extend(answer(
        language.pick("Every bar they touch says gap, and no other does", "갭이 걸친 봉은 모두 gap으로 표시되고, 다른 봉은 아님"),
        &holes.marked,
        &format!("{} {}", grouped(holes.marked.compared as u64), language.pick("bars", "개 봉")),
        language,
        paint,
    ));
    lines
}

fn where_trades_went(findings: &Findings, language: Language, paint: Paint) -> Vec<String> {
    let line = |name: &str, count: u64, remark: String| {
        format!("  {}{:>COUNT_COLUMNS$}{remark}", padded(name, NAME_COLUMNS), grouped(count)).trim_end().to_owned()
    };
    let mut lines = vec![String::new()];
    if let Some(sent) = &findings.sent {
        let mut remarks = Vec::new();
        for (count, what) in [
            (sent.copies, language.pick("sent twice", "중복 송신")),
            (sent.not_played, language.pick("not played", "재생 안 함")),
            (sent.faults, language.pick("faults", "장애 주입")),
        ] {
            if count > 0 {
                remarks.push(format!("{} {what}", grouped(count)));
            }
        }
        let remark = if remarks.is_empty() { String::new() } else { format!("   ({})", remarks.join(", ")) };
        lines.push(line(language.pick("trades sent by the exchange", "거래소가 보낸 체결"), sent.trades, remark));
    }
    let ledger = &findings.ledger;
    let reasons: Vec<String> = findings.reasons.iter().map(|(reason, count)| format!("{} {reason}", grouped(*count))).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!("   ({})", reasons.join(", ")) };
    lines.push(line(language.pick("trades received in Kafka", "Kafka에 수신된 체결"), ledger.received, String::new()));
    lines.push(line(language.pick("  used", "  반영(used)"), ledger.used, String::new()));
    lines.push(line(language.pick("  late", "  지연(late)"), ledger.late, String::new()));
    lines.push(line(language.pick("  duplicate", "  중복(duplicate)"), ledger.duplicate, String::new()));
    lines.push(line(language.pick("  quarantined", "  격리(quarantined)"), ledger.quarantined, reasons));
    lines.push(line(language.pick("  dead-lettered", "  데드레터(dead-lettered)"), ledger.dead_lettered, String::new()));
    lines.push(line(language.pick("  not selected", "  미선택(not selected)"), ledger.not_selected, String::new()));
    if findings.refused_frames > 0 {
        let name = language.pick("frames that were no trade", "체결로 읽을 수 없던 프레임");
        lines.push(line(name, findings.refused_frames, String::new()));
    }
    let verdict = yes_or_no(findings.adds_up, language, paint);
    lines.push(format!("  received = used + late + duplicate + quarantined + dead-lettered + not selected: {verdict}"));
    lines
}

fn bars(findings: &Findings, language: Language) -> Vec<String> {
    let mut lines = vec![String::new()];
    for count in &findings.intervals {
        lines.push(format!(
            "  {}{:>COUNT_COLUMNS$}   {} {}",
            padded(&format!("{} {}", count.interval, language.pick("bars", "봉")), NAME_COLUMNS),
            grouped(count.bars),
            grouped(count.revisions),
            language.pick("revisions", "정정"),
        ));
    }
    let qualities: Vec<String> = findings.qualities.iter().map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
    lines.push(format!(
        "  {}{}",
        padded(language.pick("quality", "품질"), NAME_COLUMNS + COUNT_COLUMNS - 11),
        qualities.join(", ")
    ));
    lines
}

pub(super) fn answer(question: &str, comparison: &Comparison, size: &str, language: Language, paint: Paint) -> Vec<String> {
    let mut lines = vec![format!("  {question}: {} ({size})", yes_or_no(comparison.equal(), language, paint))];
    if !comparison.equal() {
        lines.push(format!(
            "    {} {}",
            grouped(comparison.different as u64),
            language.pick("differ; the first:", "개 불일치, 처음 몇 개:")
        ));
        lines.extend(comparison.first.iter().map(|difference| format!("    - {difference}")));
    }
    lines
}

fn yes_or_no(yes: bool, language: Language, paint: Paint) -> String {
    if yes {
        paint.apply(Tone::Good, language.pick("yes", "예"))
    } else {
        paint.apply(Tone::Bad, language.pick("no", "아니요"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{IntervalCount, Ledger, Sent};
    use super::*;
    use marketflow_model::Interval;

    fn session() -> Session {
        Session {
            instrument: "BITSTAMP:BTCUSD".to_owned(),
            names: Vec::new(),
            zone: TimeZone::UTC,
            live: false,
            from: Timestamp::from_seconds(1_385_337_600),
            to: Timestamp::from_seconds(1_385_913_726),
            starting: Duration::from_secs(9),
            playing: Duration::from_secs(23),
            checking: Duration::from_secs(3),
            latency: None,
            restarts: vec![("processor".to_owned(), 1)],
        }
    }

    fn findings() -> Findings {
        Findings {
            sent: Some(Sent { trades: 100_000, zero_sizes: 18, copies: 0, not_played: 0, faults: 0 }),
            ledger: Ledger { received: 100_000, used: 99_982, quarantined: 18, ..Ledger::default() },
            adds_up: true,
            refused_frames: 0,
            reasons: [("size is zero".to_owned(), 18)].into(),
            intervals: vec![IntervalCount { interval: Interval::ONE_MINUTE, bars: 7_000, revisions: 2 }],
            qualities: [("complete".to_owned(), 7_000)].into(),
            closing: Vec::new(),
            holes: None,
            trades_in_kafka: Some(Comparison { compared: 100_000, ..Comparison::default() }),
            bars_in_kafka: Comparison { compared: 7_000, ..Comparison::default() },
            bars_in_clickhouse: Comparison { compared: 7_000, ..Comparison::default() },
        }
    }

    #[test]
    fn the_statement_says_where_every_trade_went_and_answers_yes_or_no() {
        let text = lines(&session(), &findings(), Language::English, Paint::PLAIN).join("\n");
        for words in [
            "trades sent by the exchange            100,000",
            "    used                                  99,982",
            "    quarantined                               18   (18 size is zero)",
            "dead-lettered + not selected: yes",
            "processor: ended by itself and was started again 1×",
            "ClickHouse equals an independent batch recomputation of the tape, bar for bar: yes (7,000 bars × 10 value columns)",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        let mut wrong = findings();
        wrong.bars_in_clickhouse = Comparison { compared: 7_000, different: 2, first: vec!["missing X 1m T".to_owned()] };
        let text = lines(&session(), &wrong, Language::Korean, Paint::PLAIN).join("\n");
        assert!(text.contains("아니요") && text.contains("- missing X 1m T"), "{text}");
        assert!(!wrong.hold());
    }

    #[test]
    fn what_never_arrived_is_said_and_the_closing_auction_named() {
        let mut session = session();
        session.zone = marketflow_model::Calendar::of_venue("KRX").zone().clone();
        session.names = vec![("KRX:005930".to_owned(), "005930 삼성전자".to_owned())];
        let mut found = findings();
        found.holes = Some(Holes { missing: 217, abandoned: 3, filled: 1, ..Holes::default() });
        found.closing = vec![ClosingBar {
            instrument: "KRX:005930".parse().unwrap(),
            open_time: Timestamp::parse("2026-11-20T06:30:00Z").unwrap(),
            close: "71300".parse().unwrap(),
            volume: "54321".parse().unwrap(),
        }];
        let text = lines(&session, &found, Language::English, Paint::PLAIN).join("\n");
        for words in [
            "217 trades happened while",
            "3 gaps were given up",
            "15:30 closing auction",
            "71300 × 54321",
            "2013-11-25 09:00 KST",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        assert!(found.hold());
        found.holes = Some(Holes { told: Comparison { different: 1, ..Comparison::default() }, ..Holes::default() });
        assert!(!found.hold());
    }

    #[test]
    fn the_statement_as_json_carries_the_answer() {
        let json = as_json(&session(), &findings()).unwrap();
        assert_eq!((json["ok"].as_bool(), json["findings"]["ledger"]["used"].as_u64()), (Some(true), Some(99_982)));
    }
}
