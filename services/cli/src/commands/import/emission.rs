//! What an import writes, record by record: evidence of a feed of its own, the rows, time that moves with them, and the end.
//!
//! Pure: rows in, records out. Where they go is `publish.rs`.
//!
//! Next: `publish.rs`.

use super::row::{BadRow, Row, Values};
use marketflow_model::{
    Candle, Conditions, Control, ControlKind, Envelope, EnvelopeClass, Feed, FeedState, Instrument, Source, Timestamp, Trade,
};

/// A heartbeat at the latest after so many rows, so that windows close while a long file is read …
const HEARTBEAT_ROWS: u64 = 5_000;
/// … or once time has moved this far, if at least so many rows passed: sparse files would else be half heartbeats.
const HEARTBEAT_MICROS: i64 = 60_000_000;
const HEARTBEAT_ROWS_LEAST: u64 = 100;

/// What is known of the rows before the first is written.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub(crate) instrument: Instrument,
    /// `import:<id>`.
    pub(crate) feed: Feed,
    /// For people: the file's name.
    pub(crate) file: String,
    /// Evidence exists from here on; `None`: since ever.
    pub(crate) from: Option<Timestamp>,
    /// The file was cut here; `None`: it was not.
    pub(crate) to: Option<Timestamp>,
    /// No row lies further behind an earlier one, in microseconds.
    pub(crate) disorder_micros: i64,
}

/// Turns rows into records.
pub(crate) struct Emission {
    declared: Declared,
    /// When the import began: receive time of its rows and clock of its controls.
    now: Timestamp,
    /// Of the last row written, from 1.
    row: i64,
    latest: Timestamp,
    complete_through: Timestamp,
    rows_since_heartbeat: u64,
}

/// A row as a record.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Record {
    Trade(Trade),
    Candle(Candle),
}

impl Emission {
    pub(crate) fn new(declared: Declared, now: Timestamp) -> Self {
        Self { declared, now, row: 0, latest: Timestamp::MIN, complete_through: Timestamp::MIN, rows_since_heartbeat: 0 }
    }

    /// First: from when on the rows are evidence.
    pub(crate) fn up(&self) -> Control {
        let mut up = self.control(ControlKind::FeedState);
        up.state = FeedState::Up;
        up.from = self.declared.from;
        up.reason = Some(format!("import of {} as {}", self.declared.file, self.declared.instrument));
        up
    }

    /// A row, numbered in the order of writing.
    pub(crate) fn record(&mut self, row: Row) -> Record {
        self.row += 1;
        self.rows_since_heartbeat += 1;
        self.latest = self.latest.max(row.event_time);
        let (instrument, feed) = (self.declared.instrument.clone(), self.declared.feed.clone());
        match row.values {
            Values::Trade { price, size, side, trade_id, number } => Record::Trade(Trade {
                instrument,
                feed,
                event_time: row.event_time,
                receive_time: self.now,
                price,
                size,
                side,
                // ids that are no numbers say nothing of the order: event time and place do then
                sequence: if trade_id.is_some() { number } else { Some(self.row) },
                trade_id,
                import_row: Some(self.row),
                conditions: Conditions::NONE,
                source: Source::Import,
            }),
            Values::Candle { interval, open, high, low, close, volume, turnover, trade_count, buy_volume } => {
                Record::Candle(Candle {
                    instrument,
                    feed,
                    interval,
                    open_time: row.event_time,
                    receive_time: self.now,
                    open,
                    high,
                    low,
                    close,
                    volume,
                    turnover,
                    trade_count,
                    buy_volume,
                    import_row: Some(self.row),
                    closed: true,
                    source: Source::Import,
                })
            }
        }
    }

    /// After a row: how far all earlier event times are written, when enough has passed to say so.
    pub(crate) fn heartbeat(&mut self) -> Option<Control> {
        let complete_through = self.latest.plus_micros(-self.declared.disorder_micros);
        let far = complete_through.micros_since(self.complete_through) >= HEARTBEAT_MICROS;
        let due = self.rows_since_heartbeat >= HEARTBEAT_ROWS || (far && self.rows_since_heartbeat >= HEARTBEAT_ROWS_LEAST);
        if !due || complete_through <= self.complete_through {
            return None;
        }
        self.complete_through = complete_through;
        self.rows_since_heartbeat = 0;
        let mut heartbeat = self.control(ControlKind::Heartbeat);
        heartbeat.complete_through = Some(complete_through);
        Some(heartbeat)
    }

    /// A line that is no row, kept as it stood.
    pub(crate) fn quarantine(&self, bad: BadRow) -> Envelope {
        Envelope {
            consumer: "import".to_owned(),
            class: EnvelopeClass::Quarantine,
            reason: format!("{} line {}: {}", self.declared.file, bad.line, bad.reason),
            origin_topic: self.declared.feed.to_string(),
            origin_partition: -1,
            origin_offset: -1,
            receive_time: self.now,
            schema_id: None,
            key: Some(self.declared.instrument.as_str().as_bytes().to_vec()),
            value: bad.raw,
            headers: Vec::new(),
        }
    }

    /// Last: nothing follows, all windows close.
    pub(crate) fn end(&self) -> Control {
        let mut end = self.control(ControlKind::End);
        end.to = self.declared.to;
        end.reason = Some(format!("import of {} as {}: {} rows", self.declared.file, self.declared.instrument, self.row));
        end
    }

    fn control(&self, kind: ControlKind) -> Control {
        Control::new(kind, self.declared.feed.clone(), self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marketflow_model::Side;

    const NOW: Timestamp = Timestamp::from_seconds(2_000_000_000);

    fn emission_of(disorder_seconds: i64) -> Emission {
        let declared = Declared {
            instrument: "BITSTAMP:BTCUSD".parse().unwrap(),
            feed: Feed::import("0123456789abcdef"),
            file: "trades.csv".to_owned(),
            from: None,
            to: Some(Timestamp::from_seconds(9_000)),
            disorder_micros: disorder_seconds * 1_000_000,
        };
        Emission::new(declared, NOW)
    }

    fn trade(seconds: i64, id: Option<&str>) -> Row {
        let values = Values::Trade {
            price: "800.01".parse().unwrap(),
            size: None,
            side: Side::Buy,
            trade_id: id.map(str::to_owned),
            number: id.and_then(|id| id.parse().ok()),
        };
        Row { line: 1, event_time: Timestamp::from_seconds(seconds), values }
    }

    fn ids(emission: &mut Emission, id: Option<&str>) -> (Option<String>, Option<i64>, Option<i64>) {
        match emission.record(trade(100, id)) {
            Record::Trade(trade) => (trade.trade_id, trade.sequence, trade.import_row),
            Record::Candle(_) => panic!("a trade was given"),
        }
    }

    #[test]
    fn rows_are_numbered_as_written_and_ordered_by_their_id_where_it_is_a_number() {
        let mut emission = emission_of(0);
        assert_eq!(ids(&mut emission, None), (None, Some(1), Some(1)));
        assert_eq!(ids(&mut emission, Some("70")), (Some("70".to_owned()), Some(70), Some(2)));
        assert_eq!(ids(&mut emission, Some("a-7")), (Some("a-7".to_owned()), None, Some(3)));
    }

    #[test]
    fn a_trade_carries_the_feed_of_the_import() {
        let Record::Trade(trade) = emission_of(0).record(trade(100, None)) else { panic!("a trade was given") };
        assert_eq!(trade.feed.as_str(), "import:0123456789abcdef");
        assert_eq!((trade.source, trade.event_time, trade.receive_time), (Source::Import, Timestamp::from_seconds(100), NOW));
    }

    #[test]
    fn heartbeats_trail_the_latest_row_by_the_disorder_and_only_move_forward() {
        let mut emission = emission_of(30);
        let mut beats = Vec::new();
        for n in 0..20_000 {
            // one row a second, every second one 30 s back
            emission.record(trade(if n % 2 == 0 { 100_000 + n } else { 100_000 + n - 30 }, None));
            beats.extend(emission.heartbeat().map(|beat| (n, beat.complete_through.unwrap())));
        }
        assert_eq!(beats[0], (99, Timestamp::from_seconds(100_068)));
        assert_eq!(beats[1], (199, Timestamp::from_seconds(100_168)));
        assert!(beats.windows(2).all(|pair| pair[0].1 < pair[1].1));

        let mut still = emission_of(0);
        let beats: Vec<_> = (0..20_000)
            .filter_map(|_| {
                still.record(trade(100, None));
                still.heartbeat()
            })
            .collect();
        assert_eq!(beats.len(), 1, "time that stands still is said once");
    }

    #[test]
    fn controls_say_where_the_file_was_cut() {
        let mut emission = emission_of(0);
        let up = emission.up();
        assert_eq!((up.kind, up.state, up.from), (ControlKind::FeedState, FeedState::Up, None));
        emission.record(trade(100, None));
        let end = emission.end();
        assert_eq!((end.kind, end.complete_through, end.to), (ControlKind::End, None, Some(Timestamp::from_seconds(9_000))));
        assert_eq!(end.reason.unwrap(), "import of trades.csv as BITSTAMP:BTCUSD: 1 rows");
    }

    #[test]
    fn a_bad_row_is_kept_byte_for_byte_with_its_line() {
        let bad = BadRow { line: 17, reason: "price \"x\": not a decimal number".to_owned(), raw: b"1,x,\xff".to_vec() };
        let envelope = emission_of(0).quarantine(bad);
        assert_eq!(envelope.reason, "trades.csv line 17: price \"x\": not a decimal number");
        assert_eq!((envelope.class, envelope.value), (EnvelopeClass::Quarantine, b"1,x,\xff".to_vec()));
        assert_eq!((envelope.origin_topic.as_str(), envelope.origin_partition), ("import:0123456789abcdef", -1));
    }
}
