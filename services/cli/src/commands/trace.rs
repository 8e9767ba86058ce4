//! `marketflow trace`: one trade from the venue's clock to the rows of its bars, with the time each step took.
//!
//! Nothing is stored for it: the trade's record says where it is, its row and those of its bars say when they were written.

use super::connection::{self, with_exit};
use super::query::{self, texts};
use crate::console::{block_on, json, line};
use anyhow::{Context, bail};
use marketflow_contract::{TraceId, headers, topics};
use marketflow_kafka::{Decoder, Reader, Record, Registry, TopicPartition};
use marketflow_model::{Timestamp, Trade};
use marketflow_runtime::Exit;
use serde::Serialize;
use std::ops::ControlFlow;
use std::str::FromStr;

/// Follows one trade from the venue's clock to the rows of its bars
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
The tick-producer gives one trade a second a trace id (trace.every): W3C trace context, in the header traceparent of its record and in the
producer's log at level debug. Any trade is found by its place, traced or not. A bar is made when its window ends, so its first step is mostly
waiting: the part after the window's end is said beside it. Of a recording played again the venue's clock is another than Kafka's.

Examples:
  marketflow trace                                     the newest trade with a trace id
  marketflow trace 019a9c41e2b17cf0a9d34b6ce1f0a8d3    the trade with this one
  marketflow trace market.trades.v1/2/1234 --json      the trade at this place")]
pub struct Args {
    /// A trace id, or topic/partition/offset; the newest trace id when neither is given
    #[arg(value_name = "ID|PLACE")]
    what: Option<What>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug)]
enum What {
    Trace(TraceId),
    Place(TopicPartition, i64),
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((partition, offset)) =
            text.strip_prefix(topics::TRADES).and_then(|rest| rest.strip_prefix('/')?.split_once('/'))
            && let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse())
        {
            return Ok(Self::Place(TopicPartition::new(topics::TRADES, partition), offset));
        }
        text.parse().map(Self::Trace).map_err(|no| format!("{no}; a place is {}/partition/offset", topics::TRADES))
    }
}

/// Records of a partition that are looked through for the newest trace id.
const NEWEST: i64 = 20_000;
/// A record is appended at most so long after its id was given: the producer's delivery time-out.
const APPENDED_WITHIN: i64 = 120_000_000;

/// A trade as its record holds it.
struct Found {
    place: TopicPartition,
    offset: i64,
    trace_id: Option<TraceId>,
    append_time: Option<Timestamp>,
    trade: Trade,
}

#[derive(Serialize)]
struct Trace {
    trace_id: Option<String>,
    place: String,
    instrument: String,
    feed: String,
    price: String,
    size: Option<String>,
    steps: Vec<Step>,
}

/// Something that happened to the trade.
#[derive(Serialize)]
struct Step {
    what: String,
    at: String,
    /// Since the step before; of a bar since its window's end.
    took_micros: Option<i64>,
    place: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// 1 when there is no such trade, 69 when Kafka or ClickHouse does not answer.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let kafka = connection::kafka()?;
    let registry = with_exit(Registry::new(&connection::registry()?))?;
    let mut decoder = block_on(async { with_exit(registry.decoder().await) })?;
    let found = find(&with_exit(Reader::new(&kafka))?, &mut decoder, args.what.as_ref())?;
    let clickhouse = query::clickhouse()?;
    let steps = block_on(steps(&clickhouse, &found))?;
    let trace = Trace {
        trace_id: found.trace_id.map(|id| id.to_string()),
        place: format!("{}/{}", found.place, found.offset),
        instrument: found.trade.instrument.to_string(),
        feed: found.trade.feed.to_string(),
        price: found.trade.price.to_string(),
        size: found.trade.size.map(|size| size.to_string()),
        steps,
    };
    if args.json {
        json(&trace)?;
    } else {
        trace.print();
    }
    Ok(Exit::Ok)
}

fn find(reader: &Reader, decoder: &mut Decoder, what: Option<&What>) -> anyhow::Result<Found> {
    let missing = match what {
        None => format!("none of the last {NEWEST} records of each partition carries a trace id; does a tick-producer run?"),
        Some(What::Trace(id)) => format!("no record of {} carries trace id {id}, or it has expired", topics::TRADES),
        Some(What::Place(place, offset)) => format!("{place}/{offset} holds no trade, or it has expired"),
    };
    let places = match what {
        Some(What::Place(place, _)) => vec![place.clone()],
        _ => (0..with_exit(reader.partition_count(topics::TRADES))?)
            .map(|number| TopicPartition::new(topics::TRADES, number))
            .collect(),
    };
    let mut found: Option<Found> = None;
    for place in places {
        let (low, end) = with_exit(reader.range(&place))?;
        let from = match what {
            None => end - NEWEST,
            Some(What::Trace(id)) => with_exit(reader.offset_at(&place, Timestamp::from_millis(id.millis())))?,
            Some(What::Place(_, offset)) if (low..end).contains(offset) => *offset,
            Some(What::Place(..)) => continue,
        };
        let take = |record: Record<'_>| {
            let trace_id = record.header(headers::TRACEPARENT).and_then(TraceId::of_traceparent);
            let (is_it, go_on) = match what {
                None => (trace_id.is_some_and(|id| found.as_ref().is_none_or(|best| newer(id, best.trace_id))), true),
                Some(What::Trace(id)) => (trace_id == Some(*id), !is_later(&record, *id)),
                Some(What::Place(_, offset)) => (record.offset() == *offset, false),
            };
            if is_it && let Ok(trade) = decoder.decode::<Trade>(record.value().unwrap_or_default()) {
                let (offset, append_time) = (record.offset(), record.timestamp());
                found = Some(Found { place: place.clone(), offset, trace_id, append_time, trade });
            }
            if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        with_exit(reader.read_to_end(&place, from.max(low), connection::STALLED_AFTER, take))?;
        if what.is_some() && found.is_some() {
            break;
        }
    }
    found.context(missing)
}

fn newer(id: TraceId, than: Option<TraceId>) -> bool {
    than.is_none_or(|than| id.millis() > than.millis())
}

fn is_later(record: &Record<'_>, id: TraceId) -> bool {
    record.timestamp().is_some_and(|at| at > Timestamp::from_millis(id.millis()).plus_micros(APPENDED_WITHIN))
}

async fn steps(clickhouse: &marketflow_clickhouse::ClickHouse, found: &Found) -> anyhow::Result<Vec<Step>> {
    let trade = &found.trade;
    let parameters = [
        ("instrument", trade.instrument.to_string()),
        ("feed", trade.feed.to_string()),
        ("event", trade.event_time.micros().to_string()),
        ("partition", found.place.partition.to_string()),
        ("offset", found.offset.to_string()),
    ];
    let mut steps = Vec::new();
    let mut last = None;
    let mut step = |what: &str, at: Option<Timestamp>, place: Option<String>| {
        let Some(at) = at else { return };
        let took_micros = last.replace(at).map(|before: Timestamp| at.micros() - before.micros());
        steps.push(Step { what: what.to_owned(), at: at.to_string(), took_micros, place });
    };
    step("traded, by the venue's clock", Some(trade.event_time), None);
    step("frame received", Some(trade.receive_time), None);
    step("appended to Kafka", found.append_time, Some(format!("{}/{}", found.place, found.offset)));

    const EVENT: &str = "fromUnixTimestamp64Micro({event:Int64}, 'UTC')";
    let row = format!(
        "SELECT toString(toUnixTimestamp64Milli(min(insert_time))) FROM trades_log WHERE instrument = {{instrument:String}} \
         AND event_time = {EVENT} AND partition = {{partition:Int64}} AND offset = {{offset:Int64}} HAVING count() > 0"
    );
    let inserted = texts(clickhouse, "find the trade's row", &row, &parameters).await?;
    step("row inserted into ClickHouse", inserted.first().and_then(|row| millis(row.first())), None);

    let bars = format!(
        "SELECT interval, toString(revision), toString(toUnixTimestamp64Micro(close_time)), toString(toUnixTimestamp64Milli(append_time)), \
         toString(toUnixTimestamp64Milli(insert_time)), concat(topic, '/', toString(partition), '/', toString(offset)) FROM bars_log \
         WHERE instrument = {{instrument:String}} AND feed = {{feed:String}} AND open_time <= {EVENT} AND close_time > {EVENT} \
         ORDER BY close_time, interval, revision LIMIT 1 BY interval, revision"
    );
    for row in texts(clickhouse, "find its bars", &bars, &parameters).await? {
        let [interval, revision, close, appended, inserted, place] = row.as_slice() else {
            bail!("cannot find its bars: a row of another shape");
        };
        let (interval, revision) = (interval.as_deref().unwrap_or_default(), revision.as_deref().unwrap_or_default());
        let close = close.as_ref().and_then(|micros| micros.parse().ok()).map(Timestamp::from_micros);
        let mut bar_step = |what: String, at: Option<Timestamp>, since: Option<Timestamp>, place: Option<String>| {
            if let Some(at) = at {
                let took_micros = since.map(|since| at.micros() - since.micros());
                steps.push(Step { what, at: at.to_string(), took_micros, place });
            }
        };
        let (appended, inserted) = (millis(Some(appended)), millis(Some(inserted)));
        bar_step(format!("{interval} bar, revision {revision}, appended to Kafka"), appended, close, place.clone());
        bar_step(format!("{interval} bar, revision {revision}, row inserted"), inserted, appended, None);
    }
    Ok(steps)
}

fn millis(text: Option<&Option<String>>) -> Option<Timestamp> {
    text?.as_ref()?.parse().ok().map(Timestamp::from_millis)
}

impl Trace {
    fn print(&self) {
        line(&format!(
            "{} {} x {}  feed {}",
            self.instrument,
            self.price,
            self.size.as_deref().unwrap_or("not reported"),
            self.feed
        ));
        line(&format!("record {}  trace {}\n", self.place, self.trace_id.as_deref().unwrap_or("none")));
        for step in &self.steps {
            let took = step.took_micros.map(took).unwrap_or_default();
            let place = step.place.as_ref().map(|place| format!("  {place}")).unwrap_or_default();
            line(&format!("  {:<27} {took:>12}  {}{place}", step.at, step.what));
        }
    }
}

/// A replay's clock is of another day than Kafka's.
const OTHER_CLOCK: u64 = 86_400_000_000;

/// `+1.234 s`.
fn took(micros: i64) -> String {
    if micros.unsigned_abs() >= OTHER_CLOCK {
        return "other clock".to_owned();
    }
    let sign = if micros < 0 { '-' } else { '+' };
    let millis = micros.unsigned_abs().div_ceil(1_000);
    format!("{sign}{}.{:03} s", millis / 1_000, millis % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_or_a_place_is_asked_for() {
        let id = TraceId::new(1_700_000_000_000, 7);
        assert!(matches!(id.to_string().parse(), Ok(What::Trace(same)) if same == id));
        let place = "market.trades.v1/2/1234".parse();
        assert!(matches!(place, Ok(What::Place(of, 1234)) if of == TopicPartition::new(topics::TRADES, 2)));
        for neither in ["", "market.bars.v1/2/1234", "market.trades.v1/x/1", "xyz"] {
            assert!(What::from_str(neither).is_err(), "{neither}");
        }
    }

    #[test]
    fn what_took_a_part_of_a_millisecond_took_one() {
        assert_eq!(took(-86_400_000_000), "other clock");
        assert_eq!(
            (took(0), took(1), took(1_234_567), took(-2_000)),
            ("+0.000 s".into(), "+0.001 s".into(), "+1.235 s".into(), "-0.002 s".into())
        );
    }
}
