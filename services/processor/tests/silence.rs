//! A feed that says nothing any more, against the real broker: what the processor noticed stands in the log, the bars close as `gap`, and a feed
//! that comes back repairs them.

use anyhow::ensure;
use marketflow_contract::topics;
use marketflow_model::{Bar, Control, ControlKind, Feed, FeedState, Interval, Quality, Timestamp, Trade};
use marketflow_testkit::{RandomWalk, TestStack, eventually};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(240);
const START: Timestamp = Timestamp::from_seconds(1_700_000_100);
const SECOND: i64 = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_feed_closes_its_bars_as_gap_and_repairs_them_when_it_is_back() -> anyhow::Result<()> {
    let mut stack = TestStack::start_with(&["kafka", "registry"]).await?;
    stack.start_service("processor", &[("clock.silent_after", "1s"), ("clock.down_after", "3s")]).await?;
    let feed = Feed::new("silent");
    let control = |kind, at| Control::new(kind, feed.clone(), at);
    stack.send_control(&Control { state: FeedState::Up, from: Some(START), ..control(ControlKind::FeedState, START) }).await?;
    // half a minute of trades; the feed falls silent before it delivered the last ones
    let trades: Vec<Trade> = RandomWalk::new(3, feed.clone(), &RandomWalk::instruments(3), START, 10).take(300).collect();
    let (sent, kept_back) = trades.split_at(290);
    stack.send_trades(sent.to_vec()).await?;
    let silent_from = START.plus_micros(58 * SECOND);
    let beat = Control { complete_through: Some(START.plus_micros(20 * SECOND)), ..control(ControlKind::Heartbeat, silent_from) };
    stack.send_control(&beat).await?;

    let of_minute = async || -> anyhow::Result<Vec<Bar>> {
        let bars = stack.read::<Bar>(topics::BARS).await?.into_iter().map(|located| located.record);
        Ok(bars.filter(|bar| bar.interval == Interval::ONE_MINUTE).collect())
    };
    let holds = |bars: &[Bar], trades: &[Trade], revision: i32| {
        let expected = marketflow_oracle::recompute(trades, &[Interval::ONE_MINUTE]);
        let of_revision: Vec<&Bar> = bars.iter().filter(|bar| bar.revision == revision).collect();
        let differences = marketflow_oracle::differences(&expected, of_revision.iter().copied(), 3);
        ensure!(of_revision.len() == expected.len() && differences.is_empty(), "{differences:?}");
        Ok(())
    };
    let closed = eventually(PATIENCE, async || {
        let bars = of_minute().await?;
        holds(&bars, sent, 0)?;
        Ok(bars)
    })
    .await?;
    ensure!(closed.iter().all(|bar| bar.quality == Quality::Gap && bar.revision == 0), "{closed:?}");
    let clocks: Vec<Control> = stack.read::<Control>(topics::TRADES).await?.into_iter().map(|l| l.record).collect();
    let down = |control: &&Control| control.kind == ControlKind::Clock && control.state == FeedState::Down;
    ensure!(clocks.iter().any(|c| down(&c) && c.feed == feed && c.clock.micros_since(silent_from) >= 3 * SECOND), "{clocks:?}");
    let told = stack.read::<Control>(topics::FEED_STATUS).await?;
    ensure!(told.iter().any(|located| down(&&located.record)), "people are told too: {told:?}");

    stack.send_trades(kept_back.to_vec()).await?;
    let later = silent_from.plus_micros(3_600 * SECOND);
    stack.send_control(&Control { complete_through: Some(later), ..control(ControlKind::Heartbeat, later) }).await?;
    let repaired = eventually(PATIENCE, async || {
        let bars = of_minute().await?;
        holds(&bars, &trades, 1)?;
        Ok(bars)
    })
    .await?;
    let revised: Vec<&Bar> = repaired.iter().filter(|bar| bar.revision > 0).collect();
    ensure!(revised.iter().all(|bar| bar.quality == Quality::Backfilled && bar.revision == 1), "{revised:?}");
    stack.stop().await;
    Ok(())
}
