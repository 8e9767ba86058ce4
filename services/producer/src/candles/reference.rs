//! What the broker says of its instruments, asked once a day: new listings, delistings, halts and flags, and only what changed is published.
//!
//! What was published is read back from `market.reference.v1`, so the log alone decides what is new: a restart publishes nothing twice, and a look that
//! was killed half way goes on with the rest. A file keeps which day was looked at last, so a restart asks nothing again, and what is known, for the
//! plan, which needs no stack. One process of a key looks at a time.
//!
//! A fact holds from the start of the venue's day on which the broker first said it: brokers do not say when a flag was set.
//!
//! Next: `check.rs`.

use super::config::{Checked, Config};
use super::holidays::{self, Compared};
use super::publish::Publisher;
use anyhow::{Context, bail};
use jiff::civil::{Date, Time};
use marketflow_access::{self as access, VenueClock, date_of};
use marketflow_contract::topics;
use marketflow_kafka::calendar::{ChangedDay, ChangedDays, read_changes};
use marketflow_kafka::{Decoder, KafkaConfig, Reader, TopicPartition};
use marketflow_metadata::Store;
use marketflow_model::{Calendar, Instrument, Reference, ReferenceKind, Session, Timestamp};
use marketflow_pacing::Class;
use marketflow_providers::{
    CallError, CallRequest, Credentials, Holidays, Listing, MalformedRow, Master, MasterQuestion, MasterRows, RestAnswer, Secret,
    attribute,
};
use marketflow_runtime::{Exit, ExitContext, Stop, on_thread};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{info, warn};

/// Between two looks at the clock.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Between two looks at what people changed.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// A partition that gives nothing for so long, though it holds more, is an error.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// After a look that failed, on the venue's clock.
const RETRY_AFTER_MICROS: i64 = 10 * 60_000_000;
/// Of the instruments known so many in a hundred may be gone at once, and always this many; more are a broken list.
const GONE_PERCENT_MAX: usize = 10;
const GONE_AT_LEAST: usize = 10;

/// What was said of instruments by one provider: the last word on each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// The state that began last.
    instruments: BTreeMap<Instrument, Reference>,
    /// By the time they begin.
    halts: BTreeMap<Instrument, BTreeMap<Timestamp, Reference>>,
    /// Days of the exchange that are other than its calendar's file says.
    pub days: ChangedDays,
}

impl Known {
    /// Takes a record.
    pub fn apply(&mut self, said: Reference) {
        match said.kind {
            ReferenceKind::Instrument => {
                let newer = self.instruments.get(&said.instrument).is_none_or(|before| before.valid_from <= said.valid_from);
                if newer {
                    self.instruments.insert(said.instrument.clone(), said);
                }
            }
            ReferenceKind::Halt => {
                self.halts.entry(said.instrument.clone()).or_default().insert(said.valid_from, said);
            }
            ReferenceKind::Unknown | ReferenceKind::EtfConstituent | ReferenceKind::CorporateAction => {}
        }
    }

    /// The calendar with what was changed of it.
    pub fn calendar(&self, venue: &str) -> Arc<Calendar> {
        holidays::changed(Calendar::of_venue(venue), &self.days)
    }

    /// Whether something of it can have been traded in a session, as far as is known.
    pub fn is_listed(&self, instrument: &Instrument, session: &Session) -> bool {
        let Some(known) = self.instruments.get(instrument) else { return true };
        let calendar = Calendar::of_venue(instrument.venue());
        let listed = known.attribute(attribute::LISTED_ON).and_then(|day| day.parse::<Date>().ok());
        let from = listed.map_or(Timestamp::MIN, |day| calendar.start_of(day));
        from < session.close && known.valid_to.is_none_or(|end| session.open < end)
    }

    /// The halt that goes on at a time.
    pub fn halt(&self, instrument: &Instrument, at: Timestamp) -> Option<&Reference> {
        self.halts.get(instrument)?.values().rev().find(|halt| halt.overlaps(at, at.plus_micros(1)))
    }

    /// Whether it was halted all through a session.
    pub fn is_halted(&self, instrument: &Instrument, session: &Session) -> bool {
        let halt = self.halt(instrument, session.open);
        halt.is_some_and(|halt| halt.valid_to.is_none_or(|end| session.last_minute_close() <= end))
    }

    /// Whether its price has no limits now: the last days before it is delisted.
    pub fn is_liquidated(&self, instrument: &Instrument) -> bool {
        self.instruments.get(instrument).is_some_and(|known| known.attribute(attribute::LIQUIDATION).is_some())
    }

    /// What is new in what the broker says on a day that begins at `day`; `whole`: it says everything, so what it does not name is gone.
    ///
    /// # Errors
    /// A list that lacks too many instruments to be believed.
    pub fn changes(
        &self,
        provider: &str,
        listings: &BTreeMap<Instrument, Listing>,
        whole: bool,
        day: Timestamp,
        received: Timestamp,
    ) -> anyhow::Result<Vec<Reference>> {
        let mut changes = Vec::new();
        for (instrument, listing) in listings {
            let said = Reference {
                kind: ReferenceKind::Instrument,
                instrument: instrument.clone(),
                member: String::new(),
                valid_from: day,
                valid_to: listing.delisted_from,
                name: listing.name.clone(),
                value: None,
                attributes: listing.attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
                provider: provider.to_owned(),
                receive_time: received,
            };
            changes.extend(self.instrument_change(said, day));
            let is_gone = listing.delisted_from.is_some_and(|from| from <= day);
            changes.extend(self.halt_change(provider, instrument, listing.halted && !is_gone, day, received));
        }
        if whole {
            let there = |(_, known): &(&Instrument, &Reference)| known.valid_to.is_none();
            let (mut count, mut gone) = (0, Vec::new());
            for (instrument, known) in self.instruments.iter().filter(there) {
                count += 1;
                if !listings.contains_key(instrument) {
                    gone.push(Reference { valid_to: Some(day), receive_time: received, ..known.clone() });
                }
            }
            if gone.len() > GONE_AT_LEAST.max(count * GONE_PERCENT_MAX / 100) {
                bail!("the list lacks {} of {count} instruments: it is not believed, and nothing is published", gone.len());
            }
            for known in gone {
                changes.extend(self.halt_change(provider, &known.instrument, false, day, received));
                changes.push(known);
            }
        }
        Ok(changes)
    }

    fn instrument_change(&self, said: Reference, day: Timestamp) -> Option<Reference> {
        let Some(known) = self.instruments.get(&said.instrument) else {
            // Gone before we came: it was listed until then.
            let gone = said.valid_to.filter(|end| *end <= day);
            return Some(Reference { valid_from: gone.map_or(day, |end| end.plus_micros(-1)), ..said });
        };
        let is_back = known.valid_to.is_some_and(|end| end <= day) && said.valid_to.is_none();
        let is_same = (&known.name, &known.attributes) == (&said.name, &said.attributes);
        let is_over = said.valid_to.is_some_and(|end| end <= day);
        match (is_same || is_over) && !is_back {
            // The same state; only its end may be news.
            true if known.valid_to == said.valid_to => None,
            true => Some(Reference { valid_to: said.valid_to, receive_time: said.receive_time, ..known.clone() }),
            false => Some(said),
        }
    }

    fn halt_change(
        &self,
        provider: &str,
        of: &Instrument,
        halted: bool,
        day: Timestamp,
        received: Timestamp,
    ) -> Option<Reference> {
        let last = self.halts.get(of).and_then(|halts| halts.values().next_back());
        let lasting = last.filter(|halt| halt.valid_to.is_none());
        match (lasting, halted) {
            (None, true) => Some(Reference {
                kind: ReferenceKind::Halt,
                instrument: of.clone(),
                member: String::new(),
                valid_from: day,
                valid_to: None,
                name: None,
                value: None,
                attributes: Vec::new(),
                provider: provider.to_owned(),
                receive_time: received,
            }),
            (Some(halt), false) => {
                // One that was found today has ended since, not before the day.
                let end = if halt.valid_from < day { day } else { received };
                Some(Reference { valid_to: Some(end), receive_time: received, ..halt.clone() })
            }
            (None, false) | (Some(_), true) => None,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Reference> {
        self.instruments.values().chain(self.halts.values().flat_map(BTreeMap::values))
    }
}

/// The file: which day was looked at last, and what is known.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// `2026-11-20`; empty: none.
    day: String,
    facts: Vec<Reference>,
    /// The day on which the exchange's days were asked for last.
    #[serde(default)]
    days_asked: String,
    #[serde(default)]
    days: Vec<(Timestamp, ChangedDay)>,
}

fn file(folder: &Path, provider: &str) -> PathBuf {
    folder.join(format!("{provider}-reference.json"))
}

fn kept(path: &Path) -> anyhow::Result<Kept> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; remove it: it is made anew from the log", path.display())),
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => Ok(Kept::default()),
        Err(problem) => Err(problem).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// What the last look on this machine knew, without the log.
///
/// # Errors
/// A damaged file, with the cure.
pub fn known_here(folder: &Path, provider: &str) -> anyhow::Result<Known> {
    let mut known = Known::default();
    let kept = kept(&file(folder, provider))?;
    kept.facts.into_iter().for_each(|fact| known.apply(fact));
    known.days = kept.days.into_iter().collect();
    Ok(known)
}

/// What came of a look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refreshed {
    /// Broker.
    pub provider: &'static str,
    /// Day on the venue's clock.
    pub day: String,
    /// Instruments it spoke of.
    pub instruments: usize,
    /// Instruments asked for that it does not know.
    pub unknown: usize,
    /// Rows that could not be read.
    pub set_aside: usize,
    /// Records published.
    pub published: usize,
    /// Of those, instruments said for the first time.
    pub new: usize,
    /// No longer listed, or soon.
    pub delisted: usize,
    /// Halts that began.
    pub halted: usize,
    /// Halts that ended.
    pub resumed: usize,
    /// Names, markets or flags that changed.
    pub changed: usize,
}

/// Looks, compares and publishes.
pub struct Watch {
    checked: Checked,
    master: &'static dyn Master,
    symbols: Vec<Instrument>,
    at: Time,
    calls: access::Client,
    publisher: Publisher,
    clock: VenueClock,
    log: Option<Log>,
    store: Store,
    /// The lease under which one looks at a time.
    lease: String,
    file: PathBuf,
    day: String,
    days_asked: String,
    asks_for_days: bool,
    known: watch::Sender<Arc<Known>>,
}

/// The topics, and how far they were read.
struct Log {
    reader: Reader,
    decoder: Decoder,
    next: BTreeMap<i32, i64>,
    next_status: BTreeMap<i32, i64>,
}

impl Log {
    /// Gives what was appended since the last time.
    fn read_on(&mut self, mut take: impl FnMut(Reference)) -> anyhow::Result<()> {
        for partition in 0..self.reader.partition_count(topics::REFERENCE)? {
            let place = TopicPartition::new(topics::REFERENCE, partition);
            let from = match self.next.get(&partition) {
                Some(next) => *next,
                None => self.reader.range(&place)?.0,
            };
            let read = self.reader.try_read_to_end(&place, from, STALLED_AFTER, |record| {
                take(self.decoder.decode(record.value().unwrap_or_default())?);
                Ok::<_, anyhow::Error>(ControlFlow::Continue(()))
            })?;
            self.next.insert(partition, read.with_context(|| format!("cannot read {place} back"))?);
        }
        Ok(())
    }
}

/// One call of a look.
struct Call<'a> {
    master: &'static dyn Master,
    question: &'a MasterQuestion,
    further: Option<&'a str>,
}

impl access::Question for Call<'_> {
    type Answer = (MasterRows, Option<String>);

    fn class(&self) -> Class {
        Class::Backfill
    }

    fn request(&self, credentials: &Credentials, pass: &Secret) -> CallRequest {
        self.master.request(self.question, self.further, credentials, pass)
    }

    fn read<'a>(
        &self,
        answer: RestAnswer<'_>,
        header: &dyn Fn(&'static str) -> Option<&'a str>,
        _: Timestamp,
    ) -> Result<Self::Answer, CallError> {
        let further = self.master.further(header).map(str::to_owned);
        Ok((self.master.read(self.question, answer)?, further))
    }
}

impl Watch {
    /// Reads back what was said; `symbols` are asked for where the broker is asked about each instrument.
    ///
    /// # Errors
    /// Kafka does not answer, or a file that is damaged.
    #[expect(clippy::too_many_arguments, reason = "everything that a look is made of")]
    pub async fn open(
        config: &Config,
        checked: &Checked,
        symbols: &[Instrument],
        folder: &Path,
        owner: &str,
        store: Store,
        calls: access::Client,
        publisher: Publisher,
        clock: VenueClock,
        decoder: Decoder,
    ) -> anyhow::Result<Self> {
        let id = checked.provider.id;
        let reader = {
            let kafka: KafkaConfig = config.kafka.clone();
            on_thread("reader", move || Ok::<_, anyhow::Error>(Reader::new(&kafka)?)).await?
        };
        let path = file(folder, id);
        let Kept { day, days_asked, .. } = kept(&path)?;
        let mut watch = Self {
            checked: checked.clone(),
            master: checked.master,
            symbols: symbols.to_vec(),
            at: checked.reference_at,
            calls,
            publisher,
            clock,
            log: Some(Log { reader, decoder, next: BTreeMap::new(), next_status: BTreeMap::new() }),
            store,
            lease: format!("{id}-reference-{owner}"),
            day,
            days_asked,
            asks_for_days: config.reference.holidays && checked.holidays.is_some(),
            file: path,
            known: watch::Sender::new(Arc::new(Known::default())),
        };
        watch.catch_up().await?;
        Ok(watch)
    }

    /// What is known, now and whenever it changes.
    pub fn known(&self) -> watch::Receiver<Arc<Known>> {
        self.known.subscribe()
    }

    /// Looks at instruments and days each trading day at the time configured, and at the start where that has passed, until it is told to stop.
    pub async fn daily(mut self, stop: Stop) {
        let (mut not_before, mut days_not_before, mut read_at) = (Timestamp::MIN, Timestamp::MIN, Instant::now());
        while !stop.requested() {
            let now = self.clock.now();
            // Days first: they say whether today is one to look on.
            if self.asks_for_days && now >= days_not_before && self.is_due(&self.days_asked, now) {
                self.take_up_days();
                if !self.is_due(&self.days_asked, now) {
                    continue;
                }
                match self.compare(&stop).await {
                    Ok(Some(seen)) => info!(
                        provider = seen.provider,
                        day = seen.day,
                        days = seen.days,
                        differences = seen.differences.len(),
                        "compared the exchange's days"
                    ),
                    Ok(None) => return,
                    Err(problem) => {
                        warn!(
                            problem = format!("{problem:#}"),
                            "the exchange's days could not be asked for; again in ten minutes"
                        );
                        days_not_before = self.clock.now().plus_micros(RETRY_AFTER_MICROS);
                    }
                }
            }
            if now >= not_before && self.is_due(&self.day, now) {
                self.take_up_days();
                if !self.is_due(&self.day, now) {
                    continue;
                }
                match self.refresh(&stop).await {
                    Ok(Some(seen)) => info!(
                        provider = seen.provider,
                        day = seen.day,
                        instruments = seen.instruments,
                        published = seen.published,
                        "looked at the broker's instruments"
                    ),
                    Ok(None) => return,
                    Err(problem) => {
                        warn!(
                            problem = format!("{problem:#}"),
                            "the broker's instruments could not be looked at; again in ten minutes"
                        );
                        not_before = self.clock.now().plus_micros(RETRY_AFTER_MICROS);
                    }
                }
            }
            // What people change meanwhile.
            if read_at.elapsed() >= READ_AGAIN {
                read_at = Instant::now();
                if let Err(problem) = self.catch_up().await {
                    warn!(problem = format!("{problem:#}"), "what was said meanwhile could not be read");
                }
            }
            tokio::select! {
                () = stop.wait() => return,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Another process may have looked.
    fn take_up_days(&mut self) {
        if let Ok(kept) = kept(&self.file) {
            self.day = kept.day.max(std::mem::take(&mut self.day));
            self.days_asked = kept.days_asked.max(std::mem::take(&mut self.days_asked));
        }
    }

    fn is_due(&self, done: &str, now: Timestamp) -> bool {
        let calendar = self.known.borrow().calendar(self.checked.provider.venue);
        let today = date_of(&calendar, now);
        let has_session = || !super::plan::regular(&calendar, today, today).is_empty();
        done != today.to_string() && now >= calendar.instant(today, self.at) && has_session()
    }

    /// Asks for the exchange's coming days now and changes the calendar where it differs; `None` when it was told to stop while another process
    /// looked.
    ///
    /// # Errors
    /// The broker tells no days, refuses or fails too often; Kafka takes nothing.
    pub async fn compare(&mut self, stop: &Stop) -> anyhow::Result<Option<Compared>> {
        let id = self.checked.provider.id;
        let days = self
            .checked
            .holidays
            .with_context(|| format!("{id} tells nothing of the exchange's days; kis does"))
            .exit(Exit::Usage)?;
        let Some(lease) = self.store.lease([self.lease.clone()], stop).await? else { return Ok(None) };
        lease.hold(self.compare_with(days)).await.map(Some)
    }

    async fn compare_with(&mut self, days: &'static dyn Holidays) -> anyhow::Result<Compared> {
        let (id, venue) = (self.checked.provider.id, self.checked.provider.venue);
        self.catch_up().await?;
        let planned = Calendar::of_venue(venue);
        let today = date_of(planned, self.clock.now());
        let said = holidays::ask(&self.calls, days, today).await?;
        let (known, now) = (self.known.borrow().clone(), self.clock.now());
        let differences = holidays::differences(planned, &known.days, &known.calendar(venue), &said, now);
        for difference in &differences {
            warn!(
                provider = id,
                date = %difference.date,
                calendar = difference.calendar,
                broker = difference.broker,
                published = difference.published,
                "the broker says something else of a day than the calendar"
            );
            self.publisher.count_difference(difference.broker);
            if let Some(control) = difference.control(id, planned, now) {
                self.publisher.calendar_change(control).await?;
            }
        }
        self.days_asked = today.to_string();
        self.catch_up().await?;
        Ok(Compared { provider: id, day: today.to_string(), days: said.len(), differences })
    }

    /// Looks now; `None` when it was told to stop while another process looked.
    ///
    /// # Errors
    /// The broker refuses or fails too often, a list that is not believed, Kafka takes nothing.
    pub async fn refresh(&mut self, stop: &Stop) -> anyhow::Result<Option<Refreshed>> {
        let Some(lease) = self.store.lease([self.lease.clone()], stop).await? else { return Ok(None) };
        lease.hold(self.look()).await.map(Some)
    }

    async fn look(&mut self) -> anyhow::Result<Refreshed> {
        // Another process may have said something since.
        self.catch_up().await?;
        let calendar = Calendar::of_venue(self.checked.provider.venue);
        let provider = self.checked.provider.id;
        let today = date_of(calendar, self.clock.now());
        let (listings, malformed) = self.ask().await?;
        let received = self.clock.now();
        // A row that could not be read may be any instrument's: none is taken for gone then.
        let whole = self.master.is_whole() && malformed.is_empty();
        let known = self.known.borrow().clone();
        let changes = known.changes(provider, &listings, whole, calendar.start_of(today), received)?;
        let mut seen = Refreshed { provider, day: today.to_string(), instruments: listings.len(), ..Refreshed::default() };
        if !self.master.is_whole() {
            seen.unknown = self.symbols.iter().filter(|symbol| !listings.contains_key(*symbol)).count();
        }
        (seen.set_aside, seen.published) = (malformed.len(), changes.len());
        for row in malformed {
            self.publisher.set_aside(None, row, &self.checked.rest_url, received).await?;
        }
        let mut known = Known::clone(&known);
        for change in changes {
            let before = known.instruments.get(&change.instrument);
            let count = match (change.kind, change.valid_to, before) {
                (ReferenceKind::Halt, None, _) => &mut seen.halted,
                (ReferenceKind::Halt, Some(_), _) => &mut seen.resumed,
                (_, Some(_), Some(before)) if before.valid_to.is_none() => &mut seen.delisted,
                (_, _, None) => &mut seen.new,
                (_, _, Some(_)) => &mut seen.changed,
            };
            *count += 1;
            self.publisher.reference(&change).await?;
            known.apply(change);
        }
        self.publisher.delivered().await?;
        self.day.clone_from(&seen.day);
        self.keep(&known)?;
        self.known.send_replace(Arc::new(known));
        Ok(seen)
    }

    /// Every answer, and the rows that could not be read.
    async fn ask(&self) -> anyhow::Result<(BTreeMap<Instrument, Listing>, Vec<MalformedRow>)> {
        let mut listings: BTreeMap<Instrument, Listing> = BTreeMap::new();
        let mut malformed = Vec::new();
        for question in &self.master.questions(&self.symbols) {
            let mut pages_seen = BTreeSet::new();
            let mut further: Option<String> = None;
            loop {
                let call = Call { master: self.master, question, further: further.as_deref() };
                let (rows, next) = self.calls.ask(&call).await.with_context(|| format!("{question:?}"))?;
                malformed.extend(rows.malformed);
                for listing in rows.listings {
                    match listings.remove(&listing.instrument) {
                        Some(before) => listings.insert(listing.instrument.clone(), before.with(listing)),
                        None => listings.insert(listing.instrument.clone(), listing),
                    };
                }
                match next {
                    Some(next) if pages_seen.insert(next.clone()) => further = Some(next),
                    Some(_) => bail!("{question:?}: the broker goes around in its pages"),
                    None => break,
                }
            }
        }
        // Warnings alone name nothing: what an instrument is was not said.
        listings.retain(|_, listing| listing.name.is_some());
        Ok((listings, malformed))
    }

    /// Reads what stands on the topic since the last time.
    async fn catch_up(&mut self) -> anyhow::Result<()> {
        let mut log = self.log.take().context("the log is read by one at a time")?;
        let (provider, calendar) = (self.checked.provider.id, Calendar::of_venue(self.checked.provider.venue));
        let mut known = Known::clone(&self.known.borrow());
        let (log, read) = on_thread("read-back", move || {
            let read = log.read_on(|said| {
                if said.provider == provider {
                    known.apply(said)
                }
            });
            let Log { reader, decoder, next_status, .. } = &mut log;
            let read =
                read.and_then(|()| Ok(read_changes(reader, decoder, calendar, next_status, &mut known.days, STALLED_AFTER)?));
            Ok((log, read.map(|()| known)))
        })
        .await?;
        self.log = Some(log);
        let known = read?;
        self.keep(&known)?;
        self.known.send_if_modified(|before| {
            let is_new = **before != known;
            if is_new {
                *before = Arc::new(known);
            }
            is_new
        });
        Ok(())
    }

    /// Written beside and renamed, so it is never half a file.
    fn keep(&self, known: &Known) -> anyhow::Result<()> {
        let doing = || format!("cannot write {}", self.file.display());
        let kept = Kept {
            day: self.day.clone(),
            facts: known.all().cloned().collect(),
            days_asked: self.days_asked.clone(),
            days: known.days.iter().map(|(date, day)| (*date, day.clone())).collect(),
        };
        let temporary = self.file.with_extension(format!("{}.tmp", std::process::id()));
        std::fs::write(&temporary, serde_json::to_vec(&kept)?).with_context(doing)?;
        std::fs::rename(&temporary, &self.file).with_context(doing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(&format!("{text}+09:00")).unwrap()
    }

    fn listing(code: &str) -> (Instrument, Listing) {
        let instrument = Instrument::new("KRX", code).unwrap();
        let mut listing = Listing::new(instrument.clone());
        listing.name = Some(code.to_owned());
        (instrument, listing)
    }

    /// What a day's look publishes, and what is known after it.
    fn look(known: &mut Known, day: &str, listings: &[(Instrument, Listing)], whole: bool) -> Vec<String> {
        let (day, received) = (at(&format!("{day}T00:00:00")), at(&format!("{day}T08:10:00")));
        let changes = known.changes("kiwoom", &listings.iter().cloned().collect(), whole, day, received).unwrap();
        let local = |at: Timestamp| at.plus_micros(9 * 3_600_000_000).to_string()[5..16].to_owned();
        changes
            .into_iter()
            .map(|change| {
                let end = change.valid_to.map_or_else(|| "-".to_owned(), local);
                let kind = if change.kind == ReferenceKind::Halt { "halt" } else { "is" };
                let flags: Vec<_> = change.attributes.iter().map(|(name, _)| name.as_str()).collect();
                let text =
                    format!("{} {kind} {} {end} {}", change.instrument.symbol(), local(change.valid_from), flags.join(","));
                known.apply(change);
                text.trim_end().to_owned()
            })
            .collect()
    }

    #[test]
    fn the_first_look_says_everything_and_the_next_only_what_changed() {
        let mut known = Known::default();
        let (a, b, c) = (listing("000010"), listing("000020"), listing("000030"));
        assert_eq!(
            look(&mut known, "2026-11-19", &[a.clone(), b.clone()], true),
            ["000010 is 11-19T00:00 -", "000020 is 11-19T00:00 -"]
        );
        assert!(look(&mut known, "2026-11-19", &[a.clone(), b.clone()], true).is_empty(), "said once");
        // One comes, one goes, one is halted.
        let mut halted = a.clone();
        halted.1.halted = true;
        assert_eq!(
            look(&mut known, "2026-11-20", &[halted.clone(), c.clone()], true),
            ["000010 halt 11-20T00:00 -", "000030 is 11-20T00:00 -", "000020 is 11-19T00:00 11-20T00:00"]
        );
        assert!(look(&mut known, "2026-11-20", &[halted, c.clone()], true).is_empty());
        // It goes on; the other is put under administration.
        let mut managed = c.clone();
        managed.1.attributes.insert(attribute::ADMINISTRATION, "yes".to_owned());
        assert_eq!(
            look(&mut known, "2026-11-23", &[a.clone(), managed.clone()], true),
            ["000010 halt 11-20T00:00 11-23T00:00", "000030 is 11-23T00:00 - administration"]
        );
        // Listed again.
        assert_eq!(look(&mut known, "2026-11-24", &[a, b, managed], true), ["000020 is 11-24T00:00 -"]);
    }

    #[test]
    fn an_end_that_is_announced_is_the_end_of_the_state_and_may_be_taken_back() {
        let mut known = Known::default();
        let (code, mut of) = listing("000010");
        look(&mut known, "2026-11-19", &[(code.clone(), of.clone())], false);
        of.delisted_from = Some(at("2026-11-23T00:00:00"));
        let announced = (code.clone(), of.clone());
        assert_eq!(
            look(&mut known, "2026-11-20", std::slice::from_ref(&announced), false),
            ["000010 is 11-19T00:00 11-23T00:00"]
        );
        let session =
            |day: &str| super::super::plan::regular(Calendar::of_venue("KRX"), day.parse().unwrap(), day.parse().unwrap())[0];
        assert!(known.is_listed(&code, &session("2026-11-20")) && !known.is_listed(&code, &session("2026-11-23")));
        assert!(look(&mut known, "2026-11-23", &[announced], false).is_empty(), "it is over, as was said");
        assert!(look(&mut known, "2026-11-23", &[], false).is_empty(), "not asked for is not gone");
        of.delisted_from = None;
        assert_eq!(look(&mut known, "2026-11-24", &[(code.clone(), of)], false), ["000010 is 11-24T00:00 -"]);
        assert!(known.is_listed(&code, &session("2026-11-24")));
    }

    #[test]
    fn a_halt_covers_its_sessions_and_one_found_today_ends_no_sooner() {
        let mut known = Known::default();
        let (code, mut of) = listing("000010");
        of.halted = true;
        look(&mut known, "2026-11-19", &[(code.clone(), of.clone())], false);
        let session =
            |day: &str| super::super::plan::regular(Calendar::of_venue("KRX"), day.parse().unwrap(), day.parse().unwrap())[0];
        assert!(known.is_halted(&code, &session("2026-11-20")) && !known.is_halted(&code, &session("2026-11-18")));
        of.halted = false;
        assert_eq!(look(&mut known, "2026-11-19", &[(code.clone(), of.clone())], false), ["000010 halt 11-19T00:00 11-19T08:10"]);
        assert!(!known.is_halted(&code, &session("2026-11-19")));
        of.halted = true;
        assert_eq!(look(&mut known, "2026-11-19", &[(code.clone(), of)], false), ["000010 halt 11-19T00:00 -"]);
        assert!(known.is_halted(&code, &session("2026-11-19")));
    }

    #[test]
    fn a_list_that_lacks_too_much_is_not_believed() {
        let mut known = Known::default();
        let all: Vec<_> = (0..200).map(|number| listing(&format!("{number:06}"))).collect();
        assert_eq!(look(&mut known, "2026-11-19", &all, true).len(), 200);
        assert_eq!(look(&mut known.clone(), "2026-11-20", &all[20..], true).len(), 20);
        let short = all[21..].iter().cloned().collect();
        assert!(known.changes("kiwoom", &short, true, at("2026-11-20T00:00:00"), at("2026-11-20T08:10:00")).is_err());
    }

    #[test]
    fn an_instrument_is_not_asked_for_before_its_first_day() {
        let mut known = Known::default();
        let (code, mut of) = listing("000010");
        of.attributes.insert(attribute::LISTED_ON, "2026-11-20".to_owned());
        look(&mut known, "2026-11-20", &[(code.clone(), of)], false);
        let session =
            |day: &str| super::super::plan::regular(Calendar::of_venue("KRX"), day.parse().unwrap(), day.parse().unwrap())[0];
        assert!(!known.is_listed(&code, &session("2026-11-19")) && known.is_listed(&code, &session("2026-11-20")));
        assert!(known.is_listed(&"KRX:000020".parse().unwrap(), &session("2026-11-19")), "of others nothing is known");
    }
}
