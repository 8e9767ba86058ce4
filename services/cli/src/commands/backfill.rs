//! `marketflow backfill`: a broker's minute or daily candles of past days, within what it allows, and the count of what is there.
//!
//! The candle-producer does it (`services/producer/src/candles`); this shows its progress and its result.

use super::candle_producer::{self, DaysResult, RunResult, SessionResult, SymbolResult, Wanted, spell, words};
use crate::console::{json, line, say};
use marketflow_runtime::Exit;
use std::path::PathBuf;

/// Lines about single sessions, at most.
const SHOWN: usize = 20;

/// Fetches a broker's minute or daily candles of past days
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
The plan is shown first. Candles go to market.candles.v1; the processor makes 1, 5 and 15-minute bars of them. A run that was stopped or
killed goes on where it was, with the same command; days that are there are not asked for again. Credentials come from the environment or
from .env (KIS_APP_KEY, KIS_APP_SECRET; KIWOOM_APP_KEY, KIWOOM_SECRET_KEY). MAX_API_CALLS_PER_SECOND lowers the pace. docs/backfill.md has the
rules. Daily candles (--interval 1d) stay what they are: rows of the view candles, as they were traded, unadjusted.

Examples:
  marketflow backfill --provider kis --symbols @krx97 --days 30 --result minute_data_collection_results.json
  marketflow backfill --provider kis --symbols @krx97 --active-by turnover
  marketflow backfill --provider kiwoom --symbols 005930 000660 --days 5 --until 2026-11-20
  marketflow backfill --provider kis --interval 1d --days 3650 --symbols @krx97")]
pub struct Args {
    /// Which broker: kis, kiwoom
    #[arg(long, default_value = "kis")]
    provider: String,
    #[command(flatten)]
    wanted: Wanted,
    /// Candles of a minute or of a day
    #[arg(long, default_value = "1m", value_parser = ["1m", "1d"])]
    interval: String,
    /// Calendar days back from the last one
    #[arg(long, default_value_t = 30)]
    days: u32,
    /// Last day, such as 2026-11-20; without it the last one whose session is over
    #[arg(long, value_name = "DAY")]
    until: Option<String>,
    /// Which symbols come first: as their set lists them (set), or by the broker's ranking of the day (turnover, volume)
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = First::Set)]
    active_by: First,
    /// Ask again for days that are there already
    #[arg(long)]
    again: bool,
    /// Write the result here as JSON, such as minute_data_collection_results.json
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Which symbols come first.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum First {
    /// As their set lists them
    Set,
    /// By the broker's ranking of the day's money
    Turnover,
    /// By its ranking of the day's shares
    Volume,
}

impl First {
    fn setting(self) -> String {
        match self {
            Self::Set => "set",
            Self::Turnover => "turnover",
            Self::Volume => "volume",
        }
        .to_owned()
    }
}

/// Runs the command.
///
/// # Errors
/// 64 for what cannot be asked for, 69 for a part that is not reachable, 75 where something is missing and the same command goes on.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let result = args.result.map(|path| path.display().to_string()).unwrap_or_default();
    let settings = [
        ("backfill.days", args.days.to_string()),
        ("backfill.until", format!("{:?}", args.until.unwrap_or_default())),
        ("backfill.active_by", args.active_by.setting()),
        ("backfill.again", args.again.to_string()),
        ("backfill.result", format!("{result:?}")),
    ];
    let mode = if args.interval == "1d" { "days" } else { "backfill" };
    let left = candle_producer::run(mode, &args.provider, &args.wanted, &settings, |plan| {
        if !args.json {
            line(&words(plan));
        }
    })?;
    if let Some(result) = &left.result {
        if args.json { json(result)? } else { report(result) }
    }
    if let Some(days) = &left.days {
        if args.json { json(days)? } else { report_days(days) }
    }
    Ok(left.exit)
}

fn report(result: &RunResult) {
    let (answers, calls, candles) = (result.answers, result.calls, result.candles);
    let (time, least) = (spell(result.seconds), spell(result.seconds_at_least));
    let success = result.success_ratio * 100.0;
    let ratio = result.ratio.map_or_else(String::new, |ratio| format!(" ({ratio:.3})"));
    line(&say(
        format!(
            "{candles} candles by {answers} answers of {calls} calls ({success:.1} % answered) in {time}; the limit allows no less than {least}{ratio}"
        ),
        format!(
            "분봉 {candles}개, 호출 {calls}회 중 응답 {answers}회 (성공률 {success:.1} %), {time} 걸림; 한도상 최소 {least}{ratio}"
        ),
    ));
    let sessions = || result.symbols.iter().flat_map(|symbol| symbol.sessions.iter().map(move |session| (symbol, session)));
    let complete = sessions().filter(|(_, session)| session.state == "complete").count();
    let all = sessions().count();
    line(&say(format!("{complete} of {all} sessions complete"), format!("세션 {all}개 중 {complete}개 완료")));
    for symbol in result.symbols.iter().filter(|symbol| symbol.problem.is_some()) {
        line(&format!("  {}: {}", symbol.symbol, symbol.problem.as_deref().unwrap_or_default()));
    }
    let odd: Vec<_> =
        sessions().filter(|(_, session)| session.state != "complete" || session.set_aside > 0 || session.new_base).collect();
    for (symbol, session) in odd.iter().take(SHOWN) {
        line(&format!("  {}", odd_words(symbol, session)));
    }
    if odd.len() > SHOWN {
        let more = odd.len() - SHOWN;
        line(&say(format!("  … and {more} more (--json shows all)"), format!("  … 외 {more}건 (--json에 전체)")));
    }
}

fn report_days(days: &DaysResult) {
    let DaysResult { from, to, candles, calls, set_aside, symbols, .. } = days;
    let (time, of) = (spell(days.seconds), symbols.len());
    let quiet: usize = symbols.iter().map(|symbol| symbol.quiet).sum();
    line(&say(
        format!(
            "{candles} daily candles of {of} symbols, {from} to {to}, by {calls} calls in {time}; {quiet} days without a trade, {set_aside} rows set aside"
        ),
        format!(
            "종목 {of}개의 일봉 {candles}개 ({from} ~ {to}), 호출 {calls}회, {time} 걸림; 거래 없는 날 {quiet}일, 격리 {set_aside}건"
        ),
    ));
    for symbol in symbols {
        if let Some(problem) = &symbol.problem {
            line(&format!("  {}: {problem}", symbol.symbol));
        }
    }
}

fn odd_words(symbol: &SymbolResult, session: &SessionResult) -> String {
    let counts: Vec<String> = session.counts.iter().map(|c| format!("{} {}/{}", c.interval, c.actual, c.expected)).collect();
    let mut words = format!("{} {}: {}, {}", symbol.symbol, session.day, session.state, counts.join(", "));
    if session.set_aside > 0 {
        words.push_str(&say(format!(", {} set aside", session.set_aside), format!(", {}건 격리", session.set_aside)));
    }
    if session.new_base {
        words.push_str(say(", beyond the limits of the close before (split?)", ", 전일 종가 대비 가격제한폭 밖 (액면분할 등?)"));
    }
    words
}
