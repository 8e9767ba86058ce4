//! What the demo shows while it runs: a pure function from a snapshot to lines.
//!
//! On a terminal the lines replace the ones drawn before (`screen.rs`); elsewhere [`one_line`] is printed now and then.
//! Next: `check.rs`.

use super::chart;
use super::text::{Paint, Tone, columns, cut, grouped, local, padded, stretch};
use jiff::tz::TimeZone;
use marketflow_model::{Bar, Quality, Timestamp};
use marketflow_stack::Language;
use std::time::Duration;

/// Lines of the candlestick drawing.
pub(super) const CHART_LINES: usize = 10;
/// Columns kept free for the prices beside it.
const PRICE_COLUMNS: usize = 14;
/// The widest picture; wider terminals stay empty at the right.
const WIDEST: usize = 110;
const STAGE_COLUMNS: usize = 22;
const COUNT_COLUMNS: usize = 12;
const NAME_COLUMNS: usize = 26;

/// How far the demo is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Trades are being sent.
    Playing,
    /// All were sent; what is on its way arrives.
    Draining,
}

/// Everything the live view shows, as it stood at one moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// The one that is drawn: `BITSTAMP:BTCUSD`.
    pub(super) instrument: String,
    /// All of them with the names people know them by; empty where there is only that one.
    pub(super) names: Vec<(String, String)>,
    /// The zone its people read times in.
    pub(super) zone: TimeZone,
    /// Who sends: the simulator, or the exchange itself.
    pub(super) venue: String,
    pub(super) phase: Phase,
    /// Wall time since the first trade could be sent.
    pub(super) elapsed: Duration,
    /// First and last instant of the session, and where its clock stands, all in the venue's time.
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) now: Timestamp,
    pub(super) counts: Counts,
    pub(super) latency: Option<Latency>,
    /// Parts that are not as they should be, in words.
    pub(super) troubles: Vec<String>,
    /// The last bars that ClickHouse shows, oldest first.
    pub(super) bars: Vec<Bar>,
    /// The last one-minute bar of each instrument that has a name.
    pub(super) latest: Vec<Bar>,
}

/// The stage counters. They come from the parts' metrics; what is checked at the end is counted in Kafka and ClickHouse themselves.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) in_kafka: u64,
    pub(super) used: u64,
    /// Late, duplicate, quarantined, dead-lettered and not selected together.
    pub(super) set_aside: u64,
    pub(super) bars_in_kafka: u64,
    pub(super) trade_rows: u64,
    pub(super) bar_rows: u64,
}

/// How long a trade took from being sent until its row could be read in ClickHouse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Latency {
    pub(super) median: Duration,
    /// 95 of 100 were at most this late.
    pub(super) p95: Duration,
}

/// The picture for a terminal of `width` columns.
pub(super) fn picture(snapshot: &Snapshot, width: usize, language: Language, paint: Paint) -> Vec<String> {
    let width = width.clamp(40, WIDEST);
    let mut lines = vec![progress(snapshot, width, paint), String::new()];
    lines.extend(stages(snapshot, language, paint));
    lines.push(latency(snapshot, language));
    lines.push(String::new());
    lines.extend(drawing(snapshot, width, language, paint));
    lines.extend(snapshot.names.iter().map(|(instrument, name)| latest(snapshot, instrument, name, language, paint)));
    lines.extend(snapshot.troubles.iter().map(|trouble| paint.apply(Tone::Bad, &format!("  ! {trouble}"))));
    lines.into_iter().map(|line| cut(&line, width)).collect()
}

/// The same in one line, for logs and pipes.
pub(super) fn one_line(snapshot: &Snapshot, language: Language) -> String {
    let counts = snapshot.counts;
    let latency = snapshot
        .latency
        .map_or(String::new(), |latency| format!(", {} {}", language.pick("sent to row", "송신→행"), stretch(latency.median)));
    let troubles: String = snapshot.troubles.iter().map(|trouble| format!(" ! {trouble}")).collect();
    format!(
        "{:>4}  {:>3} %  {}  {} {}, Kafka {}, {} {}, {} {}, ClickHouse {}+{}{latency}{troubles}",
        stretch(Duration::from_secs(snapshot.elapsed.as_secs())),
        permille(snapshot) / 10,
        minute(snapshot.now, &snapshot.zone),
        language.pick("sent", "송신"),
        grouped(counts.sent),
        grouped(counts.in_kafka),
        language.pick("used", "반영"),
        grouped(counts.used),
        language.pick("bars", "봉"),
        grouped(counts.bars_in_kafka),
        grouped(counts.trade_rows),
        grouped(counts.bar_rows),
    )
}

fn progress(snapshot: &Snapshot, width: usize, paint: Paint) -> String {
    let done = permille(snapshot);
    let words = format!("  {:>3} %  {}  {:>8}", done / 10, minute(snapshot.now, &snapshot.zone), stretch(snapshot.elapsed));
    let room = width.saturating_sub(columns(&words) + 2).clamp(5, 60);
    let filled = room * done / 1000;
    let bar = format!("{}{}", paint.apply(Tone::Good, &"━".repeat(filled)), paint.apply(Tone::Faint, &"─".repeat(room - filled)));
    format!("  {bar}{}", paint.apply(Tone::Strong, &words))
}

/// How much of the session has been played, in thousandths.
fn permille(snapshot: &Snapshot) -> usize {
    let micros = |from: Timestamp, to: Timestamp| i128::from(to.micros()) - i128::from(from.micros());
    let whole = micros(snapshot.from, snapshot.to).max(1);
    usize::try_from((micros(snapshot.from, snapshot.now) * 1000 / whole).clamp(0, 1000)).unwrap_or(0)
}

fn stages(snapshot: &Snapshot, language: Language, paint: Paint) -> Vec<String> {
    let counts = snapshot.counts;
    let line = |stage: &str, what: &str, count: u64, more: String| {
        let number = paint.apply(Tone::Strong, &format!("{:>COUNT_COLUMNS$}", grouped(count)));
        format!("  {}{}{number}{more}", padded(stage, STAGE_COLUMNS), padded(what, STAGE_COLUMNS))
    };
    let set_aside = if counts.set_aside > 0 {
        format!("  + {} {}", grouped(counts.set_aside), language.pick("set aside", "따로 보관"))
    } else {
        String::new()
    };
    let trade_rows = format!("  + {} {}", grouped(counts.trade_rows), language.pick("trades", "체결"));
    vec![
        line(&snapshot.venue, language.pick("trades sent", "보낸 체결"), counts.sent, String::new()),
        line("→ Kafka", language.pick("trades in", "들어온 체결"), counts.in_kafka, String::new()),
        line("→ processor", language.pick("trades used", "반영한 체결"), counts.used, set_aside),
        line("→ Kafka", language.pick("bars 1m 5m 15m", "1·5·15분봉"), counts.bars_in_kafka, String::new()),
        line("→ ClickHouse", language.pick("bar rows", "봉 행"), counts.bar_rows, trade_rows),
    ]
}

fn latency(snapshot: &Snapshot, language: Language) -> String {
    let what = language.pick("sent → readable in ClickHouse", "송신 → ClickHouse에서 조회 가능");
    match (snapshot.latency, snapshot.phase) {
        (_, Phase::Draining) => {
            format!(
                "  {}",
                language.pick("all sent; waiting for what is on its way", "모두 보냄, 처리 중인 데이터를 기다리는 중")
            )
        }
        (None, Phase::Playing) => format!("  {what}: …"),
        (Some(latency), Phase::Playing) => {
            format!(
                "  {what}: {} {}, 95 % ≤ {}",
                language.pick("median", "중앙값"),
                stretch(latency.median),
                stretch(latency.p95)
            )
        }
    }
}

fn drawing(snapshot: &Snapshot, width: usize, language: Language, paint: Paint) -> Vec<String> {
    let room = width.saturating_sub(2 + PRICE_COLUMNS);
    let mut lines = chart::draw(&snapshot.bars, room, CHART_LINES, paint);
    if lines.is_empty() {
        lines = vec![String::new(); CHART_LINES];
        lines[CHART_LINES / 2] = language.pick("no bar yet", "아직 봉이 없습니다").to_owned();
    }
    let mut drawn: Vec<String> = lines.into_iter().map(|line| format!("  {line}")).collect();
    let shown = &snapshot.bars[snapshot.bars.len().saturating_sub(room)..];
    let range = match (shown.first(), shown.last()) {
        (Some(first), Some(last)) => {
            let at = |bar: &Bar| minute(bar.open_time, &snapshot.zone);
            format!("{} {}  {} … {}", label(snapshot), last.interval, at(first), at(last))
        }
        _ => label(snapshot).to_owned(),
    };
    drawn.push(paint.apply(Tone::Faint, &format!("  {range}")));
    drawn
}

/// The drawn instrument as people know it.
fn label(snapshot: &Snapshot) -> &str {
    let name = snapshot.names.iter().find(|(instrument, _)| *instrument == snapshot.instrument);
    name.map_or(&snapshot.instrument, |(_, name)| name)
}

/// An instrument's last bar in one line.
fn latest(snapshot: &Snapshot, instrument: &str, name: &str, language: Language, paint: Paint) -> String {
    let name = padded(name, NAME_COLUMNS);
    let Some(bar) = snapshot.latest.iter().find(|bar| bar.instrument.as_str() == instrument) else {
        return format!("  {name}  …");
    };
    let tone = if bar.close >= bar.open { Tone::Up } else { Tone::Down };
    let price = paint.apply(tone, &format!("{:>9}", bar.close.to_string()));
    let quality = quality(bar.quality, language);
    let good = matches!(bar.quality, Quality::Complete | Quality::Backfilled | Quality::NoTrades);
    let quality = if good { quality.to_owned() } else { paint.apply(Tone::Bad, quality) };
    let volume = format!("{:>8} {}", bar.volume.to_string(), language.pick("shares", "주"));
    format!("  {name}  {}  {price}  {volume}  {quality}", local(bar.open_time, &snapshot.zone, "%H:%M"))
}

/// What a bar is worth, in a word.
pub(super) fn quality(quality: Quality, language: Language) -> &'static str {
    let (english, korean) = match quality {
        Quality::Unknown => ("unknown", "미상"),
        Quality::Complete => ("complete", "완전"),
        Quality::Backfilled => ("backfilled", "복구"),
        Quality::Halted => ("halted", "거래정지"),
        Quality::PartialOpen => ("partial_open", "중간 참여"),
        Quality::Gap => ("gap", "누락"),
        Quality::NoTrades => ("no_trades", "무거래"),
    };
    language.pick(english, korean)
}

/// `2013-11-25 00:00 UTC`, `2026-11-20 15:30 KST`.
pub(super) fn minute(instant: Timestamp, zone: &TimeZone) -> String {
    local(instant, zone, "%Y-%m-%d %H:%M %Z")
}

#[cfg(test)]
mod tests {
    use super::super::tests::bar;
    use super::*;

    fn snapshot() -> Snapshot {
        let hours = |hours: i64| Timestamp::from_seconds(1_385_337_600 + hours * 3_600);
        Snapshot {
            instrument: "BITSTAMP:BTCUSD".to_owned(),
            names: Vec::new(),
            zone: TimeZone::UTC,
            venue: "simulator".to_owned(),
            phase: Phase::Playing,
            elapsed: Duration::from_millis(12_340),
            from: hours(0),
            to: hours(160),
            now: hours(40),
            counts: Counts {
                sent: 25_000,
                in_kafka: 24_990,
                used: 24_980,
                set_aside: 4,
                bars_in_kafka: 900,
                trade_rows: 24_000,
                bar_rows: 890,
            },
            latency: Some(Latency { median: Duration::from_millis(310), p95: Duration::from_millis(640) }),
            troubles: Vec::new(),
            bars: (0..200).map(|minute| bar(minute, "800", "812.5", "799", "810")).collect(),
            latest: Vec::new(),
        }
    }

    #[test]
    fn every_line_fits_the_terminal_in_both_languages() {
        let mut snapshot = snapshot();
        snapshot.troubles = vec!["processor: ".repeat(30)];
        for language in [Language::English, Language::Korean] {
            for width in [40, 80, 200] {
                for line in picture(&snapshot, width, language, Paint::of_terminal(true, language)) {
                    assert!(columns(&line) <= width, "{width}: {line}");
                }
            }
        }
    }

    #[test]
    fn the_picture_keeps_its_height() {
        let height = |snapshot: &Snapshot| picture(snapshot, 80, Language::English, Paint::PLAIN).len();
        let mut empty = snapshot();
        (empty.bars, empty.latency, empty.phase) = (Vec::new(), None, Phase::Draining);
        assert_eq!(height(&snapshot()), height(&empty));
    }

    #[test]
    fn the_picture_names_each_stage_and_its_count() {
        let text = picture(&snapshot(), 80, Language::English, Paint::PLAIN).join("\n");
        for words in [
            "25 %",
            "2013-11-26 16:00 UTC",
            "25,000",
            "24,990",
            "24,980  + 4 set aside",
            "890",
            "median 310 ms, 95 % ≤ 640 ms",
            "812.5",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }

    #[test]
    fn instruments_with_names_have_a_line_each_in_their_own_time() {
        let mut snapshot = snapshot();
        snapshot.zone = marketflow_model::Calendar::of_venue("KRX").zone().clone();
        snapshot.names =
            vec![("BITSTAMP:BTCUSD".to_owned(), "005930 삼성전자".to_owned()), ("V:S".to_owned(), "000660".to_owned())];
        snapshot.latest = vec![Bar { quality: Quality::Halted, ..bar(5, "800", "812.5", "799", "810") }];
        let text = picture(&snapshot, 100, Language::Korean, Paint::PLAIN).join("\n");
        for words in ["2013-11-27 01:00 KST", "005930 삼성전자            ", "09:05        810         0 주  거래정지", "000660 "]
        {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        assert_eq!(text.matches("005930 삼성전자").count(), 2, "below the drawing too");
    }

    #[test]
    fn one_line_says_the_same_without_a_terminal() {
        assert_eq!(
            one_line(&snapshot(), Language::English),
            "12.0 s   25 %  2013-11-26 16:00 UTC  sent 25,000, Kafka 24,990, used 24,980, bars 900, ClickHouse 24,000+890, sent to row 310 ms"
        );
    }
}
