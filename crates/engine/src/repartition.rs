//! Partitions were added: keys are dealt out anew, so state moves to where its instruments' records go from now on. Done offline, on changelogs.

use crate::builder::Slot;
use crate::changelog::{Change, Key, RestoreError, decode_key, encode, encode_key, live};
use crate::feed::FeedTrack;
use crate::kept::{KeptRun, KeptTrade};
use crate::minute::Minute;
use marketflow_model::{BarSource, Feed, Instrument, InstrumentRef};
use std::collections::BTreeMap;

/// What to write to which partition's changelog, so that each of `count` partitions has the state of the instruments that `partition_of` gives it.
/// `old`: the records of each partition's changelog, in log order. Everything in the input has to be worked through.
///
/// # Errors
/// As [`crate::Partition::restore`].
pub fn repartition(
    old: Vec<Vec<Change>>,
    count: i32,
    partition_of: impl Fn(&Instrument) -> i32,
) -> Result<Vec<(i32, Change)>, RestoreError> {
    let mut moved = Vec::new();
    let mut tracks: BTreeMap<(BarSource, Feed), BTreeMap<i32, FeedTrack>> = BTreeMap::new();
    // what every partition was told
    let mut common: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (from, records) in (0..).zip(old) {
        let place = |name| {
            let instrument = InstrumentRef::new(name).map_err(|_| postcard::Error::SerdeDeCustom)?;
            Ok::<i32, RestoreError>(partition_of(&instrument.to_owned()))
        };
        for (key, value) in live(&records) {
            let (to, value) = match decode_key(key)? {
                Key::Feed(source, feed) => {
                    tracks.entry((source, Feed::new(feed))).or_default().insert(from, postcard::from_bytes(value)?);
                    continue;
                }
                Key::Intervals | Key::Calendar(..) => {
                    common.insert(key.to_vec(), value.to_vec());
                    continue;
                }
                // counts records of this partition
                Key::Tally(_) => continue,
                Key::Slot(.., instrument, _) => {
                    let mut slot: Slot = postcard::from_bytes(value)?;
                    slot.minute.iter_mut().for_each(Minute::precede);
                    (place(instrument)?, encode(&slot))
                }
                Key::Kept(.., instrument, _, _) => {
                    let mut run: KeptRun = postcard::from_bytes(value)?;
                    run.iter_mut().for_each(KeptTrade::precede);
                    (place(instrument)?, encode(&run))
                }
                Key::Head(.., instrument) | Key::Ids(.., instrument, _, _) | Key::Traded(.., instrument) => {
                    (place(instrument)?, value.to_vec())
                }
            };
            if to != from {
                moved.push((from, Change { key: key.to_vec(), value: None }));
                moved.push((to, Change { key: key.to_vec(), value: Some(value) }));
            }
        }
    }
    for to in 0..count {
        moved.extend(common.iter().map(|(key, value)| (to, Change { key: key.clone(), value: Some(value.clone()) })));
    }
    for ((source, feed), by_partition) in tracks {
        let key = encode_key(&Key::Feed(source, feed.as_str()));
        for (to, track) in dealt(&by_partition, count, &partition_of) {
            moved.push((to, Change { key: key.clone(), value: Some(encode(&track)) }));
        }
    }
    Ok(moved)
}

/// A feed in every partition. What it declared for all instruments stands in each partition already, and a new one takes it from the one that is
/// least far; what it declared for one instrument follows the instrument.
fn dealt(
    by_partition: &BTreeMap<i32, FeedTrack>,
    count: i32,
    partition_of: impl Fn(&Instrument) -> i32,
) -> impl Iterator<Item = (i32, FeedTrack)> {
    let least = by_partition.values().min_by_key(|track| track.watermark);
    (0..count).filter_map(move |to| {
        let mut track = by_partition.get(&to).or(least)?.clone();
        track.gaps.retain(|gap| gap.instrument.is_none());
        track.halts.retain(|halt| halt.instrument.is_none());
        let is_here = |instrument: Option<&Instrument>| instrument.is_some_and(|instrument| partition_of(instrument) == to);
        for known in by_partition.values() {
            track.gaps.extend(known.gaps.iter().filter(|gap| is_here(gap.instrument.as_ref())).cloned());
            track.halts.extend(known.halts.iter().filter(|halt| is_here(halt.instrument.as_ref())).cloned());
        }
        Some((to, track))
    })
}
