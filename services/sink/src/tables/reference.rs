//! `Reference` → `reference_log`.
//!
//! Next: `schemas/clickhouse/019_reference.sql`.

use super::{Row, names};
use marketflow_clickhouse::{Column, RowWriter};
use marketflow_model::{Reference, ReferenceKind, Timestamp};

impl Row for Reference {
    const TABLE: &'static str = "reference_log";
    const VERSION: u32 = 1;
    const MONTH_OF: Option<&'static str> = None;
    const COLUMNS: &'static [Column] = &[
        ("kind", "LowCardinality(String)"),
        ("instrument", "String"),
        ("member", "String"),
        ("valid_from", "DateTime64(6, 'UTC')"),
        ("valid_to", "Nullable(DateTime64(6, 'UTC'))"),
        ("name", "Nullable(String)"),
        ("value", "Nullable(Decimal(38, 12))"),
        ("attributes", "Map(LowCardinality(String), String)"),
        ("provider", "LowCardinality(String)"),
        ("receive_time", "DateTime64(6, 'UTC')"),
    ];

    fn time(&self) -> Timestamp {
        self.valid_from
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.string(kind(self.kind));
        row.string(self.instrument.as_str());
        row.string(&self.member);
        row.micros(self.valid_from);
        row.nullable(self.valid_to, RowWriter::micros);
        row.nullable(self.name.as_deref(), RowWriter::string);
        row.nullable(self.value, |row, value| row.decimal38(value.scaled()));
        row.array(self.attributes.iter(), |row, (name, value)| {
            row.string(name);
            row.string(value);
        });
        row.string(&self.provider);
        row.micros(self.receive_time);
    }
}

names!(kind, ReferenceKind, {
    Unknown => "unknown", Instrument => "instrument", Halt => "halt", EtfConstituent => "etf_constituent",
    CorporateAction => "corporate_action",
});

#[cfg(test)]
mod tests {
    use super::super::tests::row_of;
    use super::*;

    #[test]
    fn attributes_are_a_map_of_their_names() {
        let reference = Reference {
            kind: ReferenceKind::Instrument,
            instrument: "KRX:005930".parse().unwrap(),
            member: "common".to_owned(),
            valid_from: Timestamp::from_micros(1_763_478_000_000_000),
            valid_to: Some(Timestamp::from_micros(1_795_014_000_000_000)),
            name: Some("삼성전자".to_owned()),
            value: "0.25".parse().ok(),
            attributes: vec![("administration".to_owned(), "yes".to_owned()), ("market".to_owned(), "KOSPI".to_owned())],
            provider: "kiwoom".to_owned(),
            receive_time: Timestamp::from_micros(1_763_507_412_345_678),
        };
        assert_eq!(
            row_of(&reference),
            "kind=instrument instrument=KRX:005930 member=common valid_from=1763478000000000 valid_to=1795014000000000 name=삼성전자 \
             value=250000000000 attributes=[(administration, yes), (market, KOSPI)] provider=kiwoom receive_time=1763507412345678"
        );
    }
}
