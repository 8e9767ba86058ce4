//! The processor against real Kafka and registry: bars equal the oracle's, also when it is killed again and again; every record has one outcome.

use anyhow::{Context, ensure};
use marketflow_contract::topics;
use marketflow_engine::{MarketFlows, MarketSettings};
use marketflow_kafka::{Outgoing, Producer, ProducerSettings};
use marketflow_model::{
    Bar, BarKind, Calendar, CalendarChange, Control, ControlKind, DayHours, Envelope, EnvelopeClass, Feed, FeedState,
    FlowAggregate, FundFlow, Instrument, Interval, InvestorClass, Month, Observation, Quality, SeriesValue, Timestamp, Trade,
};
use marketflow_testkit::{RandomWalk, TestStack, eventually};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(240);
const START: Timestamp = Timestamp::from_seconds(1_700_000_100);
const MINUTE: i64 = 60_000_000;

/// Feeds of a test do not speak each second. Two kinds of bars that what was traded ends.
const SETTINGS: [(&str, &str); 2] = [("clock.down_after", "1day"), ("bars.kinds", r#"["t100","v50.5"]"#)];
const KINDS: [&str; 2] = ["t100", "v50.5"];

fn feed() -> Feed {
    Feed::new("sim")
}

fn control(kind: ControlKind, at: Timestamp) -> Control {
    Control::new(kind, feed(), at)
}

fn heartbeat(through: Timestamp) -> Control {
    Control { complete_through: Some(through), ..control(ControlKind::Heartbeat, through) }
}

/// One stack for all: starting it takes longer than what is tested.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processor() -> anyhow::Result<()> {
    let mut stack = TestStack::start_with(&["kafka", "registry"]).await?;
    stack.start_service("processor", &SETTINGS).await?;
    bars_equal_the_oracle_though_the_processor_is_killed(&stack).await?;
    what_is_not_used_is_set_aside_with_its_origin(&stack).await?;
    a_broker_that_is_killed_is_waited_for(&stack).await?;
    flows_equal_the_oracle_though_the_processor_is_killed(&stack).await?;
    flows_of_markets_are_the_pure_computations_though_the_processor_is_killed(&stack).await?;
    unfinished_bars_are_shown_and_are_no_results(&stack).await?;
    an_early_close_is_kept_though_the_processor_is_killed(&stack).await?;
    the_closing_bars_of_a_session_are_out_at_close_plus_grace(&stack).await?;
    stack.stop().await;
    Ok(())
}

async fn bars_equal_the_oracle_though_the_processor_is_killed(stack: &TestStack) -> anyhow::Result<()> {
    let instruments = RandomWalk::instruments(20);
    let trades: Vec<Trade> = RandomWalk::new(7, feed(), &instruments, START, 100).take(60_000).collect();
    stack.send_control(&Control { state: FeedState::Up, from: Some(START), ..control(ControlKind::FeedState, START) }).await?;
    for (round, part) in trades.chunks(6_000).enumerate() {
        stack.send_trades(part.to_vec()).await?;
        // the same records again: an at-least-once producer
        stack.send_trades(part.iter().step_by(37).cloned().collect()).await?;
        let last = part.last().map_or(START, |t| t.event_time);
        stack.send_control(&heartbeat(last.plus_micros(-2_000_000))).await?;
        if round % 2 == 0 {
            stack.parts.crash("processor")?;
        }
    }
    stack.send_control(&heartbeat(trades[trades.len() - 1].event_time.plus_micros(20 * MINUTE))).await?;

    let expected = marketflow_oracle::recompute(&trades, &Interval::STANDARD);
    let (bars, traded) = eventually(PATIENCE, async || {
        let bars = stack.read::<Bar>(topics::BARS).await?.into_iter().map(|l| l.record);
        let (bars, traded): (Vec<Bar>, Vec<Bar>) = bars.partition(|bar| bar.interval.interval().is_some());
        ensure!(bars.len() >= expected.len(), "{} of {} bars", bars.len(), expected.len());
        Ok((bars, traded))
    })
    .await?;
    ensure!(
        marketflow_oracle::differences(&expected, &bars, 5).is_empty(),
        "{:?}",
        marketflow_oracle::differences(&expected, &bars, 5)
    );
    let mut revisions: BTreeMap<(Instrument, BarKind, Timestamp), i32> = BTreeMap::new();
    for bar in &bars {
        let next = revisions.entry((bar.instrument.clone(), bar.interval, bar.open_time)).or_insert(0);
        ensure!(bar.revision == *next, "published twice or out of order: {bar:?}");
        ensure!(bar.quality == Quality::Complete, "{bar:?}");
        *next += 1;
    }
    // the topic keeps the order of each instrument
    for kind in KINDS {
        let kind: BarKind = kind.parse()?;
        for (instrument, expected) in marketflow_oracle::recompute_traded(&trades, kind) {
            let published = traded.iter().filter(|bar| bar.interval == kind && bar.instrument == instrument);
            let published: Vec<_> = published.map(marketflow_oracle::values).collect();
            ensure!(!expected.is_empty() && published == expected, "{instrument} {kind}: {published:?}, expected {expected:?}");
        }
    }
    Ok(())
}

async fn what_is_not_used_is_set_aside_with_its_origin(stack: &TestStack) -> anyhow::Result<()> {
    let instruments = RandomWalk::instruments(1);
    let at = START.plus_micros(86_400 * 1_000_000);
    let mut strange: Vec<Trade> = RandomWalk::new(8, Feed::new("strange"), &instruments, at, 1).take(3).collect();
    strange[0].size = Some("0".parse()?);
    strange[1].receive_time = strange[1].event_time.plus_micros(-10_000_000);
    strange[2].event_time = at.plus_micros(-3_600 * 1_000_000);
    let mut up = heartbeat(at.plus_micros(MINUTE));
    up.feed = Feed::new("strange");
    stack.send_control(&up).await?;
    stack.send_trades(strange).await?;
    let producer = Producer::new(&stack.kafka(), &ProducerSettings::default())?;
    producer.send(Outgoing::new(topics::TRADES, b"SIM:A0000", b"not avro"), Duration::from_secs(10))?;
    producer.flush(Duration::from_secs(10))?;
    let mut found = BTreeMap::new();
    for topic in [topics::LATE, topics::QUARANTINE, topics::DEAD_LETTERS] {
        let count = if topic == topics::QUARANTINE { 2 } else { 1 };
        let envelopes = eventually(PATIENCE, async || {
            let envelopes = stack.read::<Envelope>(topic).await?;
            ensure!(envelopes.len() >= count, "{} of {count} on {topic}", envelopes.len());
            Ok(envelopes)
        })
        .await?;
        ensure!(envelopes.len() == count);
        for Envelope { class, reason, origin_topic, value, .. } in envelopes.into_iter().map(|l| l.record) {
            ensure!(origin_topic == topics::TRADES && !value.is_empty());
            *found.entry((class, reason)).or_insert(0) += 1;
        }
    }
    let class = |class, reason: &str| found.contains_key(&(class, reason.to_owned()));
    ensure!(class(EnvelopeClass::Quarantine, "size is zero"), "{found:?}");
    ensure!(class(EnvelopeClass::Quarantine, "event time is ahead of receive time"), "{found:?}");
    ensure!(found.keys().any(|(c, _)| *c == EnvelopeClass::Late), "{found:?}");
    ensure!(class(EnvelopeClass::Undecodable, "value has no schema header"), "{found:?}");
    Ok(())
}

async fn a_broker_that_is_killed_is_waited_for(stack: &TestStack) -> anyhow::Result<()> {
    let instruments = RandomWalk::instruments(3);
    let later = Feed::new("later");
    let at = START.plus_micros(10 * 86_400 * 1_000_000);
    let mut trades: Vec<Trade> = RandomWalk::new(9, later.clone(), &instruments, at, 10).take(2_000).collect();
    let up = Control { feed: later.clone(), state: FeedState::Up, from: None, ..control(ControlKind::FeedState, at) };
    stack.send_control(&up).await?;
    let rest = trades.split_off(1_000);
    stack.send_trades(trades.clone()).await?;
    stack.parts.crash("kafka")?;
    let all: Vec<Trade> = trades.into_iter().chain(rest.clone()).collect();
    eventually(PATIENCE, async || stack.send_trades(rest.clone()).await).await?;
    let end = Control { feed: later.clone(), ..heartbeat(all[all.len() - 1].event_time.plus_micros(20 * MINUTE)) };
    stack.send_control(&end).await?;
    let expected = marketflow_oracle::recompute(&all, &Interval::STANDARD);
    eventually(PATIENCE, async || {
        let bars: Vec<Bar> =
            stack.read::<Bar>(topics::BARS).await?.into_iter().map(|l| l.record).filter(|b| b.feed == later).collect();
        let differences = marketflow_oracle::differences(&expected, &bars, 3);
        ensure!(differences.is_empty(), "{differences:?}");
        Ok(())
    })
    .await?;
    Ok(())
}

/// Instruments of three venues in all partitions; late trades revise; the processor is killed in between.
async fn flows_equal_the_oracle_though_the_processor_is_killed(stack: &TestStack) -> anyhow::Result<()> {
    let market = Feed::new("flows");
    let names = ["BITSTAMP:BTCUSD", "BITSTAMP:ETHUSD", "BITSTAMP:BTCEUR", "BINANCE:BTCUSDT", "BINANCE:ETHUSDT", "UPBIT:KRWBTC"];
    let instruments = names.iter().map(|name| name.parse()).collect::<Result<Vec<Instrument>, _>>()?;
    let at = START.plus_micros(20 * 86_400 * 1_000_000);
    let control = |control: Control| Control { feed: market.clone(), ..control };
    let up = Control { state: FeedState::Up, from: Some(at), ..Control::new(ControlKind::FeedState, market.clone(), at) };
    stack.send_control(&up).await?;
    let trades: Vec<Trade> = RandomWalk::new(11, market.clone(), &instruments, at, 20).take(12_000).collect();
    for part in trades.chunks(3_000) {
        // some come after the minutes they belong to were summed, about two minutes late
        let (late, on_time): (Vec<_>, Vec<_>) = part.iter().cloned().zip(0..).partition(|(_, place)| place % 101 == 50);
        let plain = |trades: Vec<(Trade, i32)>| trades.into_iter().map(|(trade, _)| trade).collect::<Vec<Trade>>();
        stack.send_trades(plain(on_time)).await?;
        stack.send_trades(part.iter().step_by(29).cloned().collect()).await?;
        let last = part.last().map_or(at, |trade| trade.event_time);
        stack.send_control(&control(heartbeat(last.plus_micros(-2_000_000)))).await?;
        stack.parts.crash("processor")?;
        stack.send_trades(plain(late)).await?;
    }
    let end = trades.last().map_or(at, |trade| trade.event_time).plus_micros(20 * MINUTE);
    stack.send_control(&control(heartbeat(end))).await?;

    let expected = marketflow_oracle::recompute_flows(&trades);
    let flows = eventually(PATIENCE, async || {
        let flows = stack.read::<FlowAggregate>(topics::FLOW_AGGREGATES).await?.into_iter().map(|l| l.record);
        // the other cases trade on other days
        let flows: Vec<FlowAggregate> = flows.filter(|flow| flow.open_time >= at).collect();
        let differences = marketflow_oracle::flow_differences(&expected, &flows, 3);
        ensure!(differences.is_empty(), "{differences:?}");
        Ok(flows)
    })
    .await?;
    let mut revisions: BTreeMap<_, i32> = BTreeMap::new();
    for flow in &flows {
        let next = revisions.entry((&flow.scope, &flow.name, &flow.currency, flow.open_time)).or_insert(0);
        ensure!(flow.revision == *next, "published twice or out of order: {flow:?}");
        *next += 1;
    }
    ensure!(revisions.values().any(|count| *count > 1), "no late trade revised a sum");
    Ok(())
}

/// Four years of months and ten days of investors' flows; vintages come after what they revise; the processor is killed while it works.
async fn flows_of_markets_are_the_pure_computations_though_the_processor_is_killed(stack: &TestStack) -> anyhow::Result<()> {
    let names =
        ["YAHOO:SPY/close", "YAHOO:SPY/volume", "YAHOO:GC=F/close", "YAHOO:GC=F/volume", "FRED:DGS10", "FRANKFURTER:USD/KRW"];
    let month = |at: i32| Month::new(2019, 1).map(|first| first.plus(at)).context("a month");
    let mut observations = Vec::new();
    for at in 0..48 {
        for (place, name) in (1_i64..).zip(names) {
            let (provider, series) = name.split_once(':').context("provider and series")?;
            // some pattern that goes up and down
            let value = 1_000 * place + (i64::from(at) * 7_919 * place) % 997;
            observations.push(Observation {
                provider: provider.to_owned(),
                series: series.to_owned(),
                period_start: month(at)?.start(),
                period_end: month(at)?.end(),
                value: Some(value.to_string().parse()?),
                unit: String::new(),
                published_at: None,
                vintage: None,
                receive_time: START,
            });
        }
    }
    let mut funds = Vec::new();
    for day in 0..10 {
        for (class, share) in [(InvestorClass::Foreign, 3), (InvestorClass::Institution, -5), (InvestorClass::Individual, 2)] {
            let period_start = month(24)?.start().plus_micros((day * 24 - 9) * 60 * MINUTE);
            funds.push(FundFlow {
                instrument: "KRX:005930".parse()?,
                provider: "KIS".to_owned(),
                investor_class: class,
                period_start,
                period_end: period_start.plus_micros(24 * 60 * MINUTE),
                net_amount: Some((share * (day - 4) * 1_000_000).to_string().parse()?),
                net_quantity: None,
                currency: "KRW".to_owned(),
                vintage: None,
                receive_time: START,
            });
        }
    }
    let vintage = |observation: &Observation| -> anyhow::Result<Observation> {
        let value = observation.value.context("a value")?.scaled() + 123_456_789_012;
        Ok(Observation { vintage: Some("2024-05-31".to_owned()), value: SeriesValue::from_scaled(value), ..observation.clone() })
    };
    let vintages = observations.iter().step_by(11).map(vintage).collect::<anyhow::Result<Vec<_>>>()?;

    let flows = async || -> anyhow::Result<Vec<FlowAggregate>> {
        let flows = stack.read::<FlowAggregate>(topics::FLOW_AGGREGATES).await?.into_iter().map(|located| located.record);
        Ok(flows.filter(|flow| flow.method != "AGGRESSOR_TURNOVER").collect())
    };
    let killed = async || -> anyhow::Result<()> {
        stack.parts.kill("processor").await?;
        Ok(stack.parts.restart("processor").await?)
    };
    let key = |observation: &Observation| format!("{}:{}", observation.provider, observation.series);
    let keyed = |part: &[Observation]| part.iter().map(|observation| (key(observation), observation.clone())).collect::<Vec<_>>();
    let fund_records = funds.iter().map(|fund| (fund.instrument.to_string(), fund.clone())).collect();
    stack.send(topics::FUND_FLOWS, fund_records).await?;
    let (first, rest) = observations.split_at(100);
    stack.send(topics::OBSERVATIONS, keyed(first)).await?;
    eventually(PATIENCE, async || {
        ensure!(!flows().await?.is_empty(), "nothing is published yet");
        Ok(())
    })
    .await?;
    stack.send(topics::OBSERVATIONS, keyed(rest)).await?;
    killed().await?;
    stack.send(topics::OBSERVATIONS, keyed(&vintages)).await?;
    // an at-least-once producer
    stack.send(topics::OBSERVATIONS, keyed(&observations[..50])).await?;
    killed().await?;

    let settings: MarketSettings = toml::from_str(include_str!("../../../schemas/market_flows.toml"))?;
    let mut pure = MarketFlows::new(settings);
    let mut expected = Vec::new();
    observations.iter().chain(&vintages).for_each(|observation| {
        pure.on_observation(observation);
    });
    funds.iter().for_each(|fund| {
        pure.on_fund_flow(fund);
    });
    pure.publish(&mut expected);
    let last_words = |flows: &[FlowAggregate]| -> anyhow::Result<BTreeMap<_, FlowAggregate>> {
        let mut last: BTreeMap<_, FlowAggregate> = BTreeMap::new();
        for flow in flows {
            let FlowAggregate { scope, name, method, currency, open_time, close_time, .. } = flow.clone();
            let known = last.insert((scope, name, method, currency, open_time, close_time), flow.clone());
            let next = known.as_ref().map_or(0, |known| known.revision + 1);
            ensure!(flow.revision == next, "published twice or out of order: {flow:?}");
            let says_the_same = known.is_some_and(|known| FlowAggregate { revision: next, ..known } == *flow);
            ensure!(!says_the_same, "a revision that says nothing new: {flow:?}");
        }
        last.values_mut().for_each(|flow| flow.revision = 0);
        Ok(last)
    };
    let expected = last_words(&expected)?;
    let markets: BTreeSet<&str> = expected.values().map(|flow| flow.name.as_str()).collect();
    ensure!(
        ["stocks", "bonds", "forex", "commodities", "all", "stocks/foreign"].iter().all(|name| markets.contains(name)),
        "{markets:?}"
    );
    let published = eventually(PATIENCE, async || {
        let published = flows().await?;
        let last = last_words(&published)?;
        let different = expected.iter().find(|(key, flow)| last.get(*key) != Some(*flow));
        ensure!(different.is_none(), "expected {:?}, published {:?}", different, different.and_then(|(key, _)| last.get(key)));
        ensure!(last.len() == expected.len(), "{} aggregates, not {}", last.len(), expected.len());
        Ok(published)
    })
    .await?;
    ensure!(published.iter().any(|flow| flow.revision > 0), "no vintage revised anything");
    Ok(())
}

async fn unfinished_bars_are_shown_and_are_no_results(stack: &TestStack) -> anyhow::Result<()> {
    let (screen, at) = (Feed::new("screen"), START.plus_micros(30 * 86_400 * 1_000_000));
    let up = Control { state: FeedState::Up, from: Some(at), ..Control::new(ControlKind::FeedState, screen.clone(), at) };
    stack.send_control(&up).await?;
    let trades: Vec<Trade> = RandomWalk::new(13, screen.clone(), &RandomWalk::instruments(5), at, 100).take(1_000).collect();
    for part in trades.chunks(250) {
        stack.send_trades(part.to_vec()).await?;
    }
    let expected = marketflow_oracle::recompute(&trades, &Interval::STANDARD);
    let of_screen = |bars: Vec<marketflow_testkit::Located<Bar>>| -> Vec<Bar> {
        bars.into_iter().map(|located| located.record).filter(|bar| bar.feed == screen).collect()
    };
    let shown = eventually(PATIENCE, async || {
        let shown = of_screen(stack.read::<Bar>(topics::BARS_LIVE).await?);
        let differences = marketflow_oracle::differences(&expected, &shown, 3);
        ensure!(differences.is_empty(), "{differences:?}");
        Ok(shown)
    })
    .await?;
    ensure!(shown.iter().all(|bar| bar.revision == Bar::UNFINISHED), "{shown:?}");
    let results = of_screen(stack.read::<Bar>(topics::BARS).await?);
    ensure!(results.iter().all(|bar| bar.interval.interval().is_none()), "no window has closed: {results:?}");
    ensure!(stack.metrics("processor").await?.sum("marketflow_live_bars_total", &[("outcome", "sent")]) > 0.0);
    Ok(())
}

/// Told twice before it holds, and once more when the day is over; a change that comes too late is refused and changes nothing.
async fn an_early_close_is_kept_though_the_processor_is_killed(stack: &TestStack) -> anyhow::Result<()> {
    let (krx, noon) = (Calendar::of_venue("KRX"), Feed::new("noon"));
    let at = |time: &str| Timestamp::parse(&format!("2026-12-30T{time}+09:00"));
    let early = |close: &str| -> anyhow::Result<CalendarChange> {
        let hours = DayHours::Regular { open: at("09:00:00")?, close: at(close)? };
        Ok(CalendarChange { calendar: krx, date: jiff::civil::date(2026, 12, 30), hours })
    };
    let change = early("12:00:00")?;
    let beat = async |through: Timestamp| stack.send_control(&Control { feed: noon.clone(), ..heartbeat(through) }).await;
    // by hand: the supervisor leaves alone what ends again and again within a minute
    let killed = async || -> anyhow::Result<()> {
        stack.parts.kill("processor").await?;
        Ok(stack.parts.restart("processor").await?)
    };
    let open = at("09:00:00")?;
    let up = Control { state: FeedState::Up, from: Some(open), ..Control::new(ControlKind::FeedState, noon.clone(), open) };
    stack.send_control(&up).await?;
    stack.send_control(&change.control(open)).await?;
    killed().await?;
    stack.send_control(&change.control(open)).await?;
    let instruments = [Instrument::new("KRX", "005930")?, Instrument::new("KRX", "000660")?];
    let trades: Vec<Trade> = RandomWalk::new(17, noon.clone(), &instruments, at("11:40:00")?, 2).take(3_000).collect();
    let (auction, close, print) = (at("11:50:00")?, at("12:00:00")?, at("12:00:30")?);
    let before: Vec<Trade> = trades.iter().filter(|trade| trade.event_time < auction).cloned().collect();
    let prints: Vec<Trade> = trades.into_iter().filter(|trade| close <= trade.event_time && trade.event_time < print).collect();
    ensure!(!before.is_empty() && !prints.is_empty());
    stack.send_trades(before.clone()).await?;
    beat(at("11:59:00")?).await?;
    killed().await?;
    stack.send_trades(prints.clone()).await?;
    beat(at("12:00:34")?).await?;
    beat(at("12:00:35")?).await?;
    // the day is over by now: what is known is followed, what is new is refused
    stack.send_control(&change.control(open)).await?;
    stack.send_control(&early("11:30:00")?.control(open)).await?;
    beat(at("13:00:00")?).await?;

    let all: Vec<Trade> = before.into_iter().chain(prints).collect();
    let changed = krx.changed(&BTreeMap::from([(krx.start_of(change.date), change.hours)]))?;
    let expected = marketflow_oracle::recompute_by(&all, &Interval::STANDARD, |_| &changed);
    let bars = eventually(PATIENCE, async || {
        let bars = stack.read::<Bar>(topics::BARS).await?.into_iter().map(|located| located.record);
        let bars: Vec<Bar> = bars.filter(|bar| bar.feed == noon && bar.interval.interval().is_some()).collect();
        let differences = marketflow_oracle::differences(&expected, &bars, 3);
        ensure!(differences.is_empty(), "{differences:?}");
        Ok(bars)
    })
    .await?;
    ensure!(bars.iter().all(|bar| bar.revision == 0), "{bars:?}");
    ensure!(bars.iter().filter(|bar| bar.open_time == close).count() == 6, "the print is in bars of its own: {bars:?}");
    eventually(PATIENCE, async || {
        let refused = [("kind", "calendar_change_refused")];
        let refused = stack.metrics("processor").await?.sum("marketflow_controls_total", &refused);
        ensure!(refused >= 1.0, "no partition has refused what came too late");
        Ok(())
    })
    .await
}

/// A control each second, as a producer sends them: the closing print's bars come with the one that is complete through 15:30:35, and none before.
async fn the_closing_bars_of_a_session_are_out_at_close_plus_grace(stack: &TestStack) -> anyhow::Result<()> {
    let feed = Feed::new("close");
    let at = |time: &str| Timestamp::parse(&format!("2026-11-20T{time}+09:00"));
    let (auction, close, print) = (at("15:20:00")?, at("15:30:00")?, at("15:30:30")?);
    let beat = async |through: Timestamp| stack.send_control(&Control { feed: feed.clone(), ..heartbeat(through) }).await;
    let from = at("15:15:00")?;
    stack
        .send_control(&Control {
            state: FeedState::Up,
            from: Some(from),
            ..Control::new(ControlKind::FeedState, feed.clone(), from)
        })
        .await?;
    let instruments = ["005930", "000660", "035420"].map(|symbol| Instrument::new("KRX", symbol));
    let instruments = instruments.into_iter().collect::<Result<Vec<_>, _>>()?;
    let trades: Vec<Trade> = RandomWalk::new(23, feed.clone(), &instruments, from, 3).take(3_000).collect();
    let in_session = |trade: &&Trade| trade.event_time < auction || (close <= trade.event_time && trade.event_time < print);
    let trades: Vec<Trade> = trades.iter().filter(in_session).cloned().collect();
    let (before, prints): (Vec<Trade>, Vec<Trade>) = trades.iter().cloned().partition(|trade| trade.event_time < auction);
    stack.send_trades(before).await?;
    beat(at("15:29:58")?).await?;
    stack.send_trades(prints).await?;

    let bars = async || -> anyhow::Result<Vec<Bar>> {
        let bars = stack.read::<Bar>(topics::BARS).await?.into_iter().map(|located| located.record);
        Ok(bars.filter(|bar| bar.feed == feed && bar.interval.interval().is_some()).collect())
    };
    let mut second = tokio::time::interval(Duration::from_secs(1));
    for through in ["15:30:31", "15:30:32", "15:30:33", "15:30:34"] {
        second.tick().await;
        beat(at(through)?).await?;
    }
    let early = bars().await?;
    ensure!(early.iter().all(|bar| bar.open_time < close), "before close + grace: {early:?}");
    second.tick().await;
    let over = Instant::now();
    beat(at("15:30:35")?).await?;
    let expected = marketflow_oracle::recompute(&trades, &Interval::STANDARD);
    let bars = eventually(PATIENCE, async || {
        let bars = bars().await?;
        ensure!(bars.len() >= expected.len(), "{} of {} bars", bars.len(), expected.len());
        Ok(bars)
    })
    .await?;
    eprintln!("the closing bars were read {} ms after close + grace", over.elapsed().as_millis());
    let differences = marketflow_oracle::differences(&expected, &bars, 3);
    ensure!(differences.is_empty() && bars.len() == expected.len(), "{differences:?}");
    let closing = bars.iter().filter(|bar| bar.open_time == close);
    ensure!(closing.filter(|bar| bar.revision == 0 && bar.quality == Quality::Complete).count() == 9, "{bars:?}");
    Ok(())
}
