//! What a back-fill has done, a line for each answer whose candles are in Kafka: where it goes on after it was killed.
//!
//! A line is written when Kafka has acknowledged everything of its answer. So after a kill the one answer of each symbol that was under way is
//! asked for again, and no more; its rows that were written already count once, as their numbers are their minutes. A last line cut short is
//! passed over. The file is of one key and keeps what is there over runs: days that are there are not asked for again.
//!
//! Next: `backfill.rs`.

use anyhow::Context;
use jiff::civil::Date;
use marketflow_model::{Amount, Instrument, Price, Session, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A feed of an instrument's history begins.
    Begin {
        /// Whose.
        symbol: Instrument,
        /// Name of the feed.
        feed: String,
    },
    /// An answer is in Kafka.
    Page(PageDone),
    /// The feed has ended.
    End {
        /// Whose.
        symbol: Instrument,
    },
}

/// What an answer held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PageDone {
    /// Of which instrument.
    pub symbol: Instrument,
    /// Of the session that opens on this day.
    #[serde(with = "super::as_text")]
    pub day: Date,
    /// Minutes before this are done.
    pub to: Timestamp,
    /// Bars of 1, 5 and 15 minutes that its candles make.
    pub bars: [usize; 3],
    /// Minutes shown without a trade.
    pub quiet: usize,
    /// Candles that were not believed, and rows that could not be read.
    pub set_aside: usize,
    /// Whether the day has another base price than the close before.
    pub new_base: bool,
    /// Turnover of the day so far.
    pub turnover: Option<Amount>,
    /// The last close.
    pub close: Option<Price>,
}

/// What is there of one session of one instrument.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DayDone {
    /// Minutes before this are done; `None`: nothing is.
    pub to: Option<Timestamp>,
    /// Sums over its answers.
    pub bars: [usize; 3],
    /// Minutes shown without a trade.
    pub quiet: usize,
    /// Candles and rows set aside.
    pub set_aside: usize,
    /// Whether it has another base price than the close before.
    pub new_base: bool,
    /// Turnover so far.
    pub turnover: Option<Amount>,
    /// The last close.
    pub close: Option<Price>,
}

impl DayDone {
    /// Whether all of the session is there.
    pub fn is_whole(&self, session: &Session) -> bool {
        self.to >= Some(session.last_minute_close())
    }
}

/// What is there of one instrument.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SymbolDone {
    /// Sessions by the day they open on.
    pub days: BTreeMap<Date, DayDone>,
    /// The feed that has begun and not ended.
    pub open_feed: Option<String>,
    /// The last minute written to it (exclusive).
    pub written_to: Option<Timestamp>,
    /// Feeds begun so far.
    pub feeds: usize,
}

impl SymbolDone {
    /// Takes a line.
    pub fn apply(&mut self, line: Line) {
        match line {
            Line::Begin { feed, .. } => {
                (self.open_feed, self.written_to) = (Some(feed), None);
                self.feeds += 1;
            }
            Line::End { .. } => self.open_feed = None,
            Line::Page(page) => {
                self.written_to = self.written_to.max(Some(page.to));
                let day = self.days.entry(page.day).or_default();
                if day.to.is_some_and(|to| page.to <= to) {
                    // Asked for again, on demand: the day begins anew.
                    *day = DayDone::default();
                }
                day.to = Some(page.to);
                for (sum, bars) in day.bars.iter_mut().zip(page.bars) {
                    *sum += bars;
                }
                day.quiet += page.quiet;
                day.set_aside += page.set_aside;
                day.new_base |= page.new_base;
                day.turnover = page.turnover;
                day.close = page.close.or(day.close);
            }
        }
    }

    /// The close of the last session before this day that is known.
    pub fn close_before(&self, day: Date) -> Option<Price> {
        self.days.range(..day).rev().find_map(|(_, done)| done.close)
    }
}

/// The file.
pub struct Journal {
    path: PathBuf,
    file: Mutex<File>,
}

impl Journal {
    /// Opens it for writing, and reads what is there.
    ///
    /// # Errors
    /// A file that cannot be read or written, or a line in its middle that is none.
    pub fn open(path: &Path) -> anyhow::Result<(Self, BTreeMap<Instrument, SymbolDone>)> {
        let doing = || format!("cannot use the journal {}", path.display());
        let (done, whole) = Self::read(path)?;
        let file = OpenOptions::new().create(true).append(true).open(path).with_context(doing)?;
        // A line cut short by a kill would spoil the next.
        file.set_len(whole).with_context(doing)?;
        Ok((Self { path: path.to_owned(), file: Mutex::new(file) }, done))
    }

    /// What is there by instrument, and the length of its whole lines.
    ///
    /// # Errors
    /// A file that cannot be read, or a line in its middle that is none.
    pub fn read(path: &Path) -> anyhow::Result<(BTreeMap<Instrument, SymbolDone>, u64)> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(problem) => return Err(problem).with_context(|| format!("cannot read the journal {}", path.display())),
        };
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut done: BTreeMap<Instrument, SymbolDone> = BTreeMap::new();
        for (number, line) in text[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let line: Line = serde_json::from_slice(line).with_context(|| {
                format!("{} is damaged in line {}; remove it: everything is asked for again then", path.display(), number + 1)
            })?;
            let symbol = match &line {
                Line::Begin { symbol, .. } | Line::End { symbol } => symbol,
                Line::Page(page) => &page.symbol,
            };
            done.entry(symbol.clone()).or_default().apply(line);
        }
        Ok((done, whole as u64))
    }

    /// Writes a line.
    ///
    /// # Errors
    /// A full or read-only disk.
    pub fn write(&self, line: &Line) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&text).with_context(|| format!("cannot write the journal {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(day: &str, to: i64, bars: usize) -> Line {
        Line::Page(PageDone {
            symbol: "KRX:005930".parse().unwrap(),
            day: day.parse().unwrap(),
            to: Timestamp::from_seconds(to),
            bars: [bars, 1, 1],
            quiet: 2,
            set_aside: 0,
            new_base: false,
            turnover: None,
            close: "70100".parse().ok(),
        })
    }

    #[test]
    fn what_was_written_is_there_after_a_kill_in_the_middle_of_a_line() {
        let path = std::env::temp_dir().join(format!("marketflow-journal-{}", std::process::id()));
        let symbol: Instrument = "KRX:005930".parse().unwrap();
        let lines = [
            Line::Begin { symbol: symbol.clone(), feed: "import:1".into() },
            page("2026-11-19", 120, 120),
            page("2026-11-19", 240, 100),
        ];
        {
            let (journal, done) = Journal::open(&path).unwrap();
            assert!(done.is_empty());
            lines.iter().for_each(|line| journal.write(line).unwrap());
        }
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"page":{"symbol":"KRX"#).unwrap();
        let (journal, done) = Journal::open(&path).unwrap();
        let there = &done[&symbol];
        let day = &there.days[&"2026-11-19".parse().unwrap()];
        assert_eq!((day.to, day.bars, day.quiet), (Some(Timestamp::from_seconds(240)), [220, 2, 2], 4));
        assert_eq!((there.open_feed.as_deref(), there.written_to, there.feeds), (Some("import:1"), day.to, 1));
        assert_eq!(there.close_before("2026-11-20".parse().unwrap()), "70100".parse().ok());
        assert_eq!(there.close_before("2026-11-19".parse().unwrap()), None);
        journal.write(&Line::End { symbol: symbol.clone() }).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1[&symbol].open_feed, None);

        std::fs::write(&path, "{\n{}\n").unwrap();
        assert!(format!("{:#}", Journal::open(&path).err().unwrap()).contains("remove it"));
        std::fs::remove_file(&path).unwrap();
    }
}
