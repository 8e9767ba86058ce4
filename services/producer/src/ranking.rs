//! The most active instruments: who of them has a registration, by the broker's ranking, where registrations are few.
//!
//! What is configured or asked for is always followed; so many further registrations as are set aside for it go to the most active of the others.
//! The ranking is looked at every so often inside the regular session, in the key's budget that all processes of the machine share. An instrument
//! makes room only when another has taken its place among the first for several looks, and has been there for a while: it does not flap.
//!
//! Next: `feed.rs`, which takes them up and lets them go.

use crate::admin::Request;
use crate::config::RankingConfig;
use marketflow_access::{self as access, VenueClock};
use marketflow_model::{Calendar, Instrument, SessionKind, Timestamp};
use marketflow_pacing::Class;
use marketflow_providers::{ActiveBy, CallError, CallRequest, Credentials, Ranking, RankingCall, RestAnswer, Secret};
use marketflow_runtime::Stop;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Between two looks at the clock.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// When an instrument leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Registrations that are given by rank.
    pub slots: usize,
    /// An instrument leaves after so many looks in a row without it among the first.
    pub leaves_after: u32,
    /// And not before it was there for so long, in microseconds.
    pub stay_min_micros: i64,
}

/// What changes after a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Lets go of these.
    pub leave: Vec<Instrument>,
    /// Takes up these.
    pub enter: Vec<Instrument>,
}

/// Who holds the registrations that are given by rank. Pure: rankings in, changes out.
#[derive(Clone, Debug)]
pub struct Rotation {
    settings: Settings,
    members: BTreeMap<Instrument, Member>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    since: Timestamp,
    /// Looks in a row without it among the first.
    out: u32,
}

impl Rotation {
    /// Nobody holds any yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, members: BTreeMap::new() }
    }

    /// Decides on a ranking, the most active first. `holding` have a registration by rank now, `kept` are followed whatever their rank, and there is
    /// room for `room` registrations by rank. A ranking that names nobody says nothing.
    pub fn look(
        &mut self,
        ranked: &[Instrument],
        holding: &BTreeSet<Instrument>,
        kept: impl Fn(&Instrument) -> bool,
        room: usize,
        now: Timestamp,
    ) -> Change {
        // People may have changed it meanwhile, and a restart has only the names.
        self.members.retain(|instrument, _| holding.contains(instrument));
        for instrument in holding {
            self.members.entry(instrument.clone()).or_insert(Member { since: now, out: 0 });
        }
        if ranked.is_empty() {
            return Change::default();
        }
        let slots = self.settings.slots.min(room);
        let others: Vec<&Instrument> = ranked.iter().filter(|instrument| !kept(instrument)).collect();
        let place = |instrument: &Instrument| others.iter().position(|other| *other == instrument);
        let first = &others[..others.len().min(slots)];
        for (instrument, member) in &mut self.members {
            member.out = if first.contains(&instrument) { 0 } else { member.out.saturating_add(1) };
        }
        let mut change = Change::default();
        let mut by_rank: Vec<Instrument> = self.members.keys().cloned().collect();
        by_rank.sort_by_key(|instrument| place(instrument).unwrap_or(usize::MAX));
        // More than there is room for, as after a change of the configuration.
        while self.members.len() > slots
            && let Some(last) = by_rank.pop()
        {
            self.members.remove(&last);
            change.leave.push(last);
        }
        let may_leave = |member: &Member| {
            member.out >= self.settings.leaves_after && now.micros_since(member.since) >= self.settings.stay_min_micros
        };
        let mut leavers: Vec<Instrument> =
            by_rank.into_iter().filter(|instrument| may_leave(&self.members[instrument])).collect();
        let entrants: Vec<Instrument> =
            first.iter().filter(|instrument| !self.members.contains_key(**instrument)).map(|i| (*i).clone()).collect();
        for entrant in entrants {
            if self.members.len() >= slots {
                let Some(leaver) = leavers.pop() else { break };
                self.members.remove(&leaver);
                change.leave.push(leaver);
            }
            self.members.insert(entrant.clone(), Member { since: now, out: 0 });
            change.enter.push(entrant);
        }
        change
    }
}

/// One look.
pub struct Look {
    /// How it is asked.
    pub ranking: &'static dyn Ranking,
    /// By what.
    pub by: ActiveBy,
    /// By which call.
    pub call: RankingCall,
}

impl Look {
    /// Of this broker, as configured.
    pub fn new(ranking: &'static dyn Ranking, config: &RankingConfig) -> Self {
        let own = ranking.call(config.by);
        let or = |given: &str, own| if given.is_empty() { own } else { given.to_owned().into() };
        Self { ranking, by: config.by, call: RankingCall { path: or(&config.path, own.path), name: or(&config.call, own.name) } }
    }
}

impl access::Question for Look {
    type Answer = Vec<Instrument>;

    fn class(&self) -> Class {
        Class::Live
    }

    fn request(&self, credentials: &Credentials, pass: &Secret) -> CallRequest {
        self.ranking.request(self.by, &self.call, credentials, pass)
    }

    fn read<'a>(
        &self,
        answer: RestAnswer<'_>,
        _: &dyn Fn(&'static str) -> Option<&'a str>,
        _: Timestamp,
    ) -> Result<Vec<Instrument>, CallError> {
        self.ranking.read(self.by, answer)
    }
}

/// Looks every `every` on the venue's clock while the regular session goes on, and tells the feed, until it is told to stop. The first look comes so
/// long after the open: before, the ranking is that of the session before.
pub async fn watch(
    look: Look,
    every: Duration,
    calendar: &'static Calendar,
    client: access::Client,
    clock: VenueClock,
    feed: mpsc::Sender<Request>,
    stop: Stop,
) {
    let every_micros = i64::try_from(every.as_micros()).unwrap_or(i64::MAX);
    let mut next = Timestamp::MIN;
    while !stop.requested() {
        let now = clock.now();
        let session = calendar.session_of(now).filter(|session| session.kind == SessionKind::Regular);
        if session.is_some_and(|session| now >= next.max(session.open.plus_micros(every_micros))) {
            next = now.plus_micros(every_micros);
            match client.ask(&look).await {
                Ok(ranked) => {
                    if feed.send(Request::Ranked(ranked)).await.is_err() {
                        return debug!("the feed has ended");
                    }
                }
                Err(problem) => {
                    warn!(problem = format!("{problem:#}"), "no ranking of the most active instruments; they stay as they are");
                }
            }
            continue;
        }
        tokio::select! {
            () = stop.wait() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { slots: 2, leaves_after: 3, stay_min_micros: 300 * 1_000_000 };

    fn named(names: &str) -> Vec<Instrument> {
        names.chars().map(|name| format!("V:{name}").parse().unwrap()).collect()
    }

    /// Looks a minute apart, each as the ranking it finds; what changed, as `-A+B`.
    struct Scene {
        rotation: Rotation,
        holding: BTreeSet<Instrument>,
        minute: i64,
    }

    impl Scene {
        fn new(settings: Settings) -> Self {
            Self { rotation: Rotation::new(settings), holding: BTreeSet::new(), minute: 0 }
        }

        fn look_with(&mut self, ranked: &str, kept: &str, room: usize) -> String {
            let (ranked, kept) = (named(ranked), named(kept));
            self.minute += 1;
            let now = Timestamp::from_seconds(self.minute * 60);
            let change = self.rotation.look(&ranked, &self.holding, |instrument| kept.contains(instrument), room, now);
            change.leave.iter().for_each(|instrument| assert!(self.holding.remove(instrument), "{instrument} was not there"));
            change.enter.iter().for_each(|instrument| assert!(self.holding.insert(instrument.clone()), "{instrument} twice"));
            assert!(self.holding.len() <= room.min(SETTINGS.slots), "{:?}", self.holding);
            let text = |sign: char, of: &[Instrument]| of.iter().map(|i| format!("{sign}{}", i.symbol())).collect::<String>();
            text('-', &change.leave) + &text('+', &change.enter)
        }

        fn look(&mut self, ranked: &str) -> String {
            self.look_with(ranked, "", 2)
        }
    }

    #[test]
    fn the_first_take_the_slots_and_what_is_kept_takes_none() {
        let mut scene = Scene::new(SETTINGS);
        assert_eq!(scene.look_with("KABC", "K", 2), "+A+B");
        assert_eq!(scene.look_with("BAKC", "K", 2), "");
    }

    #[test]
    fn an_instrument_leaves_only_after_so_many_looks_in_a_row_and_its_least_stay() {
        let mut scene = Scene::new(SETTINGS);
        assert_eq!(scene.look("ABC"), "+A+B");
        // Three looks in a row without A, but it came three minutes ago.
        assert_eq!([scene.look("BCA"), scene.look("BCA"), scene.look("BCA")], ["", "", ""]);
        // Back among the first for one look: counted from the beginning.
        assert_eq!(scene.look("ABC"), "");
        assert_eq!([scene.look("BCA"), scene.look("CBA")], ["", ""]);
        assert_eq!(scene.look("BCA"), "-A+C");
        // Two that stand next to one another and change places again and again stay as they are.
        for _ in 0..10 {
            assert_eq!([scene.look("BAC"), scene.look("BCA")], ["", ""]);
        }
    }

    #[test]
    fn the_last_in_rank_leaves_first_and_nobody_leaves_without_a_successor() {
        let mut scene = Scene::new(SETTINGS);
        scene.look("AB");
        for _ in 0..4 {
            assert_eq!(scene.look("C"), "", "one slot is wanted, but not before their time");
        }
        assert_eq!(scene.look(""), "", "a ranking of nobody says nothing");
        // Both are out for long; only one is replaced, the one that is not even ranked.
        assert_eq!(scene.look("CA"), "-B+C");
        assert_eq!(scene.look("CA"), "");
    }

    #[test]
    fn a_change_of_people_and_a_restart_are_taken_as_they_are() {
        let mut scene = Scene::new(SETTINGS);
        scene.look("AB");
        // Somebody unsubscribed A, and follows B for good; D was there before the restart.
        scene.holding = named("D").into_iter().collect();
        assert_eq!(scene.look_with("ABD", "B", 2), "+A");
        assert_eq!(scene.look_with("ABC", "B", 2), "", "D's stay begins with the restart");
    }

    #[test]
    fn fewer_slots_than_holders_are_made_true_at_once() {
        let mut scene = Scene::new(SETTINGS);
        scene.look("AB");
        assert_eq!(scene.look_with("BA", "", 1), "-A");
        assert_eq!(scene.look_with("AB", "", 0), "-B");
        assert_eq!(scene.look_with("AB", "", 0), "");
    }
}
