//! `Control` of `market.feed-status.v1` → `feed_status_log`. Controls beside data are not landed: this topic holds their copies.
//!
//! Next: `schemas/clickhouse/005_feed_status.sql`.

use super::{Row, names};
use marketflow_clickhouse::{Column, RowWriter};
use marketflow_model::{Control, ControlKind, FeedState, Timestamp};

impl Row for Control {
    const TABLE: &'static str = "feed_status_log";
    const VERSION: u32 = 1;
    const MONTH_OF: Option<&'static str> = None;
    const COLUMNS: &'static [Column] = &[
        ("kind", "LowCardinality(String)"),
        ("feed", "LowCardinality(String)"),
        ("instrument", "Nullable(String)"),
        ("clock", "DateTime64(6, 'UTC')"),
        ("complete_through", "Nullable(DateTime64(6, 'UTC'))"),
        ("gap_id", "Nullable(String)"),
        ("from_time", "Nullable(DateTime64(6, 'UTC'))"),
        ("to_time", "Nullable(DateTime64(6, 'UTC'))"),
        ("state", "LowCardinality(String)"),
        ("reason", "Nullable(String)"),
        ("connection_id", "Nullable(String)"),
    ];

    fn time(&self) -> Timestamp {
        self.clock
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.string(kind(self.kind));
        row.string(self.feed.as_str());
        row.nullable(self.instrument.as_ref(), |row, instrument| row.string(instrument.as_str()));
        row.micros(self.clock);
        row.nullable(self.complete_through, RowWriter::micros);
        row.nullable(self.gap_id.as_deref(), RowWriter::string);
        row.nullable(self.from, RowWriter::micros);
        row.nullable(self.to, RowWriter::micros);
        row.string(state(self.state));
        row.nullable(self.reason.as_deref(), RowWriter::string);
        row.nullable(self.connection_id.as_deref(), RowWriter::string);
    }
}

names!(kind, ControlKind, {
    Unknown => "unknown", Heartbeat => "heartbeat", FeedState => "feed_state", GapOpened => "gap_opened", GapFilled => "gap_filled",
    GapAbandoned => "gap_abandoned", Halt => "halt", CalendarChange => "calendar_change", End => "end", Clock => "clock",
});
names!(state, FeedState, { Unknown => "unknown", Up => "up", Down => "down" });
