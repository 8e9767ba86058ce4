//! The first pass: how many rows, how far out of order, what is bad; and the external merge sort of `--sort`.
//!
//! Next: `emission.rs`.

use super::row::{BadRow, Item, Row, Rows, Values};
use anyhow::Context;
use marketflow_model::Timestamp;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// How many bad rows are shown; all of them are quarantined.
const SHOWN: usize = 10;

/// What the first pass learned.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Survey {
    /// Rows that will be sent.
    pub(crate) rows: u64,
    pub(crate) bad: u64,
    /// Rows outside `--from` … `--to`.
    pub(crate) outside: u64,
    /// The first bad rows, by line.
    pub(crate) first_bad: Vec<(u64, String)>,
    pub(crate) earliest: Option<Timestamp>,
    pub(crate) latest: Option<Timestamp>,
    /// How far the most misplaced row lies behind an earlier one, in microseconds of event time.
    pub(crate) disorder_micros: i64,
    /// Rows further behind than allowed, and the first such line.
    pub(crate) too_far_behind: u64,
    pub(crate) first_too_far_behind: Option<u64>,
    /// SHA-256 of the decompressed file.
    pub(crate) hash: [u8; 32],
}

impl Survey {
    /// Every line that was no header and not blank.
    pub(crate) fn read(&self) -> u64 {
        self.rows + self.bad + self.outside
    }

    fn row(&mut self, row: &Row, allowed_micros: i64) {
        self.rows += 1;
        self.earliest = Some(self.earliest.map_or(row.event_time, |t| t.min(row.event_time)));
        let latest = self.latest.map_or(row.event_time, |t| t.max(row.event_time));
        self.latest = Some(latest);
        let behind = latest.micros_since(row.event_time);
        self.disorder_micros = self.disorder_micros.max(behind);
        if behind > allowed_micros {
            self.too_far_behind += 1;
            self.first_too_far_behind.get_or_insert(row.line);
        }
    }

    fn bad(&mut self, bad: &BadRow) {
        self.bad += 1;
        if self.first_bad.len() < SHOWN {
            self.first_bad.push((bad.line, bad.reason.clone()));
        }
    }
}

/// Reads the whole file once; `each` sees every item in file order.
///
/// # Errors
/// What ends the reading, and what `each` returns.
pub(crate) fn survey(
    rows: &mut Rows,
    allowed_micros: i64,
    mut each: impl FnMut(Item) -> anyhow::Result<()>,
) -> anyhow::Result<Survey> {
    let mut survey = Survey::default();
    while let Some(item) = rows.next()? {
        match &item {
            Item::Row(row) => survey.row(row, allowed_micros),
            Item::Bad(bad) => survey.bad(bad),
        }
        each(item)?;
    }
    survey.outside = rows.outside;
    survey.hash = rows.lines.hash();
    Ok(survey)
}

/// What the second pass sends: the file again, or its sorted copy.
pub(crate) enum Items {
    File(Box<Rows>),
    Sorted(Sorted),
}

impl Items {
    /// The next item.
    ///
    /// # Errors
    /// What ends the reading.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Item>> {
        match self {
            Self::File(rows) => Ok(rows.next()?),
            Self::Sorted(sorted) => sorted.next().context("cannot read the sorted rows back from the temporary folder"),
        }
    }
}

/// Event time, then the numeric id, then the line; bad rows first, as they have no time.
type Key = (Timestamp, Option<i64>, u64);

fn key(item: &Item) -> Key {
    match item {
        Item::Bad(bad) => (Timestamp::MIN, None, bad.line),
        Item::Row(row) => {
            let number = match &row.values {
                Values::Trade { number, .. } => *number,
                Values::Candle { .. } => None,
            };
            (row.event_time, number, row.line)
        }
    }
}

/// Sorts any number of items with memory for one run: full runs go, sorted, to one temporary file.
pub(crate) struct Sorter {
    run: Vec<Item>,
    run_length: usize,
    spill: BufWriter<File>,
    /// Where each run ends in the file.
    ends: Vec<u64>,
    written: u64,
    bytes: Vec<u8>,
}

impl Sorter {
    /// Rows sorted in memory: about 100 MB of trades.
    pub(crate) const RUN_LENGTH: usize = 500_000;

    /// Spills to an unnamed file in `folder`.
    ///
    /// # Errors
    /// No file can be made there.
    pub(crate) fn new(folder: &Path, run_length: usize) -> anyhow::Result<Self> {
        let file =
            tempfile::tempfile_in(folder).with_context(|| format!("cannot make a file in {} to sort in", folder.display()))?;
        let spill = BufWriter::new(file);
        Ok(Self { run: Vec::new(), run_length, spill, ends: Vec::new(), written: 0, bytes: Vec::new() })
    }

    /// Takes one more.
    ///
    /// # Errors
    /// The temporary folder is full.
    pub(crate) fn push(&mut self, item: Item) -> anyhow::Result<()> {
        self.run.push(item);
        if self.run.len() >= self.run_length {
            self.spill().context("cannot write rows to sort to the temporary folder (TMPDIR chooses another)")?;
        }
        Ok(())
    }

    fn spill(&mut self) -> anyhow::Result<()> {
        self.run.sort_unstable_by_key(key);
        for item in self.run.drain(..) {
            self.bytes.clear();
            self.bytes = postcard::to_extend(&item, std::mem::take(&mut self.bytes))?;
            let length = u32::try_from(self.bytes.len())?;
            self.spill.write_all(&length.to_le_bytes())?;
            self.spill.write_all(&self.bytes)?;
            self.written += 4 + u64::from(length);
        }
        self.ends.push(self.written);
        Ok(())
    }

    /// The items in order.
    ///
    /// # Errors
    /// The temporary folder is full.
    pub(crate) fn finish(mut self) -> anyhow::Result<Sorted> {
        self.spill()?;
        let file = Arc::new(self.spill.into_inner().map_err(io::IntoInnerError::into_error)?);
        let mut sorted = Sorted { runs: Vec::new(), heads: BinaryHeap::new(), bytes: Vec::new() };
        let mut start = 0;
        for end in self.ends {
            sorted.runs.push(BufReader::with_capacity(64 * 1024, Section { file: Arc::clone(&file), at: start, end }));
            sorted.refill(sorted.runs.len() - 1)?;
            start = end;
        }
        Ok(sorted)
    }
}

/// Sorted runs being merged.
pub(crate) struct Sorted {
    runs: Vec<BufReader<Section>>,
    heads: BinaryHeap<Reverse<Head>>,
    bytes: Vec<u8>,
}

impl Sorted {
    fn next(&mut self) -> anyhow::Result<Option<Item>> {
        let Some(Reverse(head)) = self.heads.pop() else { return Ok(None) };
        self.refill(head.run)?;
        Ok(Some(head.item))
    }

    fn refill(&mut self, run: usize) -> anyhow::Result<()> {
        let reader = &mut self.runs[run];
        let mut length = [0; 4];
        match reader.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.bytes.resize(usize::try_from(u32::from_le_bytes(length))?, 0);
        reader.read_exact(&mut self.bytes)?;
        let item = postcard::from_bytes(&self.bytes)?;
        self.heads.push(Reverse(Head { key: key(&item), run, item }));
        Ok(())
    }
}

/// The next item of a run. Keys hold the line, so no two are equal.
struct Head {
    key: Key,
    run: usize,
    item: Item,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

/// A part of a file, read at its own place: any number of runs share one open file.
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += u64::try_from(length).expect("a length fits 64 bits");
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::TradesFormat;
    use super::super::lines::Lines;
    use super::*;
    use indicatif::ProgressBar;

    fn rows(content: &str) -> Rows {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        let first = content.lines().next().unwrap();
        let layout = TradesFormat::Bitcoincharts.wanted().settle(first.as_bytes()).unwrap();
        let lines = Lines::open(file.path(), &ProgressBar::hidden()).unwrap();
        Rows::new(lines, file.path().to_owned(), Arc::new(layout), Timestamp::MIN..Timestamp::MAX)
    }

    fn survey_of(content: &str, allowed_seconds: i64) -> Survey {
        survey(&mut rows(content), allowed_seconds * 1_000_000, |_| Ok(())).unwrap()
    }

    #[test]
    fn the_largest_step_back_is_measured_against_the_latest_row_so_far() {
        let survey = survey_of("100,1,1\n160,1,1\n150,1,1\n155,1,1\n130,1,1\n200,1,1\n", 20);
        assert_eq!((survey.rows, survey.bad), (6, 0));
        assert_eq!(survey.disorder_micros, 30_000_000);
        assert_eq!((survey.too_far_behind, survey.first_too_far_behind), (1, Some(5)));
        assert_eq!((survey.earliest.unwrap().micros(), survey.latest.unwrap().micros()), (100_000_000, 200_000_000));
    }

    #[test]
    fn bad_rows_and_blank_lines_do_not_move_time() {
        let survey = survey_of("time,price,amount\n100,1,1\n\n  \n99999999999999,1,1\n101,x,1\n102,1,1\n", 0);
        assert_eq!((survey.rows, survey.bad, survey.disorder_micros), (2, 2, 0));
        assert_eq!(survey.first_bad.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [5, 6]);
    }

    #[test]
    fn rows_outside_the_range_are_counted_and_not_sent() {
        let mut all = rows("100,1,1\n160,1,1\n150,1,1\n200,1,1\n");
        all = Rows::new(
            std::mem::replace(&mut all.lines, rows("1,1,1").lines),
            "x".into(),
            Arc::new(TradesFormat::Bitcoincharts.wanted().settle(b"1,1,1").unwrap()),
            Timestamp::from_seconds(150)..Timestamp::from_seconds(200),
        );
        let survey = survey(&mut all, 0, |_| Ok(())).unwrap();
        assert_eq!((survey.rows, survey.outside), (2, 2));
    }

    fn sorted_lines(content: &str, run_length: usize) -> Vec<u64> {
        let mut sorter = Sorter::new(&std::env::temp_dir(), run_length).unwrap();
        survey(&mut rows(content), i64::MAX, |item| sorter.push(item)).unwrap();
        let mut items = Items::Sorted(sorter.finish().unwrap());
        let mut lines = Vec::new();
        while let Some(item) = items.next().unwrap() {
            lines.push(match item {
                Item::Row(row) => row.line,
                Item::Bad(bad) => bad.line,
            });
        }
        lines
    }

    #[test]
    fn sorting_is_stable_and_the_same_with_any_run_length() {
        let content = "300,1,1\n100,1,1\n200,1,1\n200,2,1\nbad,1,1\n100,3,1\n200,3,1\n";
        for run_length in [1, 2, 3, 100] {
            assert_eq!(sorted_lines(content, run_length), [5, 2, 6, 3, 4, 7, 1], "runs of {run_length}");
        }
        assert_eq!(sorted_lines("time,price,amount\n", 2), [0u64; 0]);
    }

    #[test]
    fn equal_times_sort_by_a_numeric_id() {
        let trade = |line, number| {
            let price = "1".parse().unwrap();
            let side = marketflow_model::Side::Unknown;
            let values = Values::Trade { price, size: None, side, trade_id: None, number };
            Item::Row(Row { line, event_time: Timestamp::from_seconds(100), values })
        };
        let mut sorter = Sorter::new(&std::env::temp_dir(), 2).unwrap();
        for item in [trade(1, Some(30)), trade(2, Some(10)), trade(3, Some(20))] {
            sorter.push(item).unwrap();
        }
        let mut sorted = sorter.finish().unwrap();
        let mut order = Vec::new();
        while let Some(item) = sorted.next().unwrap() {
            order.push(key(&item).1.unwrap());
        }
        assert_eq!(order, [10, 20, 30]);
    }
}
