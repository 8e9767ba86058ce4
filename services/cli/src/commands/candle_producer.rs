//! The candle-producer as a helper of `plan`, `backfill`, `reconcile`, `reference` and `price`: started beside this program, it says what it does line by line.
//!
//! Next: `services/producer/src/candles/mod.rs`.

use super::connection;
use super::sibling::{exit_of, sibling};
use crate::console::say;
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use marketflow_runtime::Exit;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

/// Of which symbols and days; the same for all verbs.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Wanted {
    /// Codes, VENUE:CODE, or @NAME for a set (@krx97, @krx10, or symbols/NAME.toml below MARKETFLOW_HOME); the most active first
    #[arg(long, value_name = "SYMBOL", num_args = 1.., value_delimiter = ',', default_value = "@krx97")]
    pub(crate) symbols: Vec<String>,
    /// Request endpoint, such as the paper host or a simulator
    #[arg(long, value_name = "URL")]
    pub(crate) rest_url: Option<String>,
    /// Virtual clock, such as http://127.0.0.1:8091/clock
    #[arg(long, value_name = "URL")]
    pub(crate) clock: Option<String>,
    /// Any key of the candle-producer
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) settings: Vec<String>,
}

/// What it says.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", content = "of", rename_all = "snake_case")]
enum Said {
    Plan(Plan),
    Progress(Progress),
    Result(Box<RunResult>),
    Days(Box<DaysResult>),
    Price(Priced),
    Reference(Refreshed),
    Holidays(Compared),
}

/// What it is going to cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) provider: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) symbols: usize,
    pub(crate) active_first: usize,
    pub(crate) not_listed: usize,
    pub(crate) sessions: usize,
    pub(crate) calls: u64,
    pub(crate) rows_at_most: u64,
    pub(crate) calls_per_second: f64,
    pub(crate) calls_per_day: Option<u64>,
    pub(crate) seconds_at_least: f64,
}

#[derive(Debug, Deserialize)]
struct Progress {
    done: u64,
    calls: u64,
    candles: u64,
    symbols_done: u64,
    seconds_left: Option<f64>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunResult {
    pub(crate) plan: Plan,
    pub(crate) complete: bool,
    pub(crate) answers: u64,
    pub(crate) calls: u64,
    pub(crate) success_ratio: f64,
    pub(crate) candles: u64,
    pub(crate) seconds: f64,
    pub(crate) seconds_at_least: f64,
    pub(crate) ratio: Option<f64>,
    pub(crate) symbols: Vec<SymbolResult>,
}

/// Of one symbol.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SymbolResult {
    pub(crate) symbol: String,
    pub(crate) feed: Option<String>,
    pub(crate) complete: bool,
    pub(crate) problem: Option<String>,
    pub(crate) sessions: Vec<SessionResult>,
}

/// Of one session of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SessionResult {
    pub(crate) day: String,
    pub(crate) state: String,
    pub(crate) counts: Vec<Count>,
    pub(crate) quiet: usize,
    pub(crate) set_aside: usize,
    pub(crate) new_base: bool,
}

/// Bars expected and there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) interval: String,
    pub(crate) expected: usize,
    pub(crate) actual: usize,
}

/// What an instrument costs now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Priced {
    pub(crate) symbol: String,
    pub(crate) last: Option<String>,
    pub(crate) base: Option<String>,
    pub(crate) open: Option<String>,
    pub(crate) high: Option<String>,
    pub(crate) low: Option<String>,
    pub(crate) upper_limit: Option<String>,
    pub(crate) lower_limit: Option<String>,
    pub(crate) volume: Option<String>,
    pub(crate) turnover: Option<String>,
    pub(crate) halted: Option<bool>,
    pub(crate) problem: Option<String>,
}

/// What came of daily candles.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DaysResult {
    pub(crate) provider: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) candles: u64,
    pub(crate) set_aside: u64,
    pub(crate) calls: u64,
    pub(crate) seconds: f64,
    pub(crate) symbols: Vec<SymbolDays>,
}

/// Of one symbol.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SymbolDays {
    pub(crate) symbol: String,
    pub(crate) first: Option<String>,
    pub(crate) candles: usize,
    pub(crate) quiet: usize,
    pub(crate) problem: Option<String>,
}

/// What came of a look at a broker's instruments.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Refreshed {
    pub(crate) provider: String,
    pub(crate) day: String,
    pub(crate) instruments: usize,
    pub(crate) unknown: usize,
    pub(crate) set_aside: usize,
    pub(crate) published: usize,
    pub(crate) new: usize,
    pub(crate) delisted: usize,
    pub(crate) halted: usize,
    pub(crate) resumed: usize,
    pub(crate) changed: usize,
}

/// What came of a look at the exchange's days.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Compared {
    pub(crate) provider: String,
    pub(crate) day: String,
    pub(crate) days: usize,
    pub(crate) differences: Vec<Difference>,
}

/// A day of which the broker says something else than the calendar.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Difference {
    pub(crate) date: String,
    pub(crate) calendar: String,
    pub(crate) broker: String,
    pub(crate) published: bool,
}

/// What a run left.
pub(crate) struct Left {
    pub(crate) exit: Exit,
    pub(crate) plan: Option<Plan>,
    pub(crate) result: Option<RunResult>,
    pub(crate) days: Option<DaysResult>,
    pub(crate) prices: Vec<Priced>,
    pub(crate) reference: Option<Refreshed>,
    pub(crate) holidays: Option<Compared>,
}

/// Runs it to its end; `plan_said` hears the plan before the first call is made.
pub(crate) fn run(
    mode: &str,
    provider: &str,
    wanted: &Wanted,
    settings: &[(&str, String)],
    mut plan_said: impl FnMut(&Plan),
) -> anyhow::Result<Left> {
    let mut command = sibling("candle-producer")?;
    let symbols = format!("[{}]", wanted.symbols.iter().map(|symbol| format!("{symbol:?}")).collect::<Vec<_>>().join(","));
    let given = [("provider.rest_url", &wanted.rest_url), ("clock.source", &wanted.clock)];
    let mut all = vec![
        ("mode", mode.to_owned()),
        ("provider.name", provider.to_owned()),
        ("provider.symbols", symbols),
        // the service itself may run beside this
        ("admin.listen", "127.0.0.1:0".to_owned()),
        ("log.level", "warn".to_owned()),
    ];
    all.extend(given.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))));
    all.extend(settings.iter().cloned());
    let all = all.into_iter().map(|(key, value)| format!("{key}={value}"));
    for setting in all.chain(wanted.settings.iter().cloned()) {
        command.arg("--set").arg(setting);
    }
    if !["plan", "price"].contains(&mode) {
        connection::room()?;
        command.env("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", connection::kafka()?.bootstrap_servers);
        command.env("MARKETFLOW__REGISTRY__URL", connection::registry()?.url);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the candle-producer")?;
    let lines = BufReader::new(child.stdout.take().context("its output was asked for")?).lines();
    let bar = ProgressBar::hidden();
    let mut left =
        Left { exit: Exit::Failed, plan: None, result: None, days: None, prices: Vec::new(), reference: None, holidays: None };
    for line in lines {
        let Ok(said) = serde_json::from_str::<Said>(&line?) else { continue };
        match said {
            Said::Plan(plan) => {
                plan_said(&plan);
                left.plan = Some(plan);
            }
            Said::Progress(progress) => show(&bar, &progress),
            Said::Result(result) => left.result = Some(*result),
            Said::Price(priced) => left.prices.push(priced),
            Said::Days(days) => left.days = Some(*days),
            Said::Reference(seen) => left.reference = Some(seen),
            Said::Holidays(seen) => left.holidays = Some(seen),
        }
    }
    bar.finish_and_clear();
    left.exit = exit_of(child.wait()?);
    Ok(left)
}

fn show(bar: &ProgressBar, progress: &Progress) {
    if bar.is_hidden() && bar.length().is_none_or(|length| length == 0) {
        bar.set_style(ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} {msg}").expect("a fixed template"));
        bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
    }
    bar.set_length(progress.calls);
    bar.set_position(progress.done);
    let left = progress.seconds_left.map_or_else(|| "-".to_owned(), spell);
    let (symbols, candles) = (progress.symbols_done, progress.candles);
    bar.set_message(say(
        format!("calls, {symbols} symbols, {candles} candles, {left} left"),
        format!("호출, 종목 {symbols}개, 분봉 {candles}개, 남은 시간 {left}"),
    ));
}

/// Seconds as people read them.
pub(crate) fn spell(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds.max(0.0).ceil()).unwrap_or(Duration::MAX).as_secs();
    match (duration / 3_600, duration / 60 % 60, duration % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

/// What a plan says, for people.
pub(crate) fn words(plan: &Plan) -> String {
    let Plan { symbols, sessions, calls, rows_at_most, from, to, active_first, not_listed, .. } = plan;
    let time = spell(plan.seconds_at_least);
    let per_second = plan.calls_per_second;
    let share = |most: u64| format!("{:.2} %", *calls as f64 * 100.0 / most as f64);
    let (quota, quota_ko) = match plan.calls_per_day.map(share) {
        Some(share) => (format!(" ({share} of the day's)"), format!(" (일일 한도의 {share})")),
        None => (String::new(), String::new()),
    };
    let (gone, gone_ko) = match not_listed {
        0 => (String::new(), String::new()),
        count => (format!(", {count} not listed then left out"), format!(", 미상장 {count}개 제외")),
    };
    say(
        format!(
            "{symbols} symbols ({active_first} most active first{gone}), {from} to {to}, {sessions} sessions\n\
             {calls} calls{quota}, at most {rows_at_most} one-minute candles; 5m and 15m are folded from them\n\
             at {per_second} calls a second no less than {time}"
        ),
        format!(
            "종목 {symbols}개 (활성 종목 {active_first}개 우선{gone_ko}), {from} ~ {to}, 거래일 {sessions}일\n\
             호출 {calls}회{quota_ko}, 1분봉 최대 {rows_at_most}개; 5분봉·15분봉은 1분봉에서 만듭니다\n\
             초당 {per_second}회로 최소 {time}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_spelled_rounded_up() {
        for (seconds, text) in [(0.0, "0 s"), (0.2, "1 s"), (59.0, "59 s"), (452.6, "7 min 33 s"), (7_500.0, "2 h 05 min")] {
            assert_eq!(spell(seconds), text);
        }
    }
}
