//! Our decoder against apache-avro's on any bytes; used by `tests/contract.rs` and by `fuzz/fuzz_targets/decode.rs`.

use apache_avro::Schema as AvroSchema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use marketflow_contract::{AvroRecord, DecodeError};
use std::fmt::Debug;
use std::io::{self, Read};

/// Accepted by us means accepted by apache-avro with the same content. The reverse holds but for what Avro does not know: the grammar of
/// instruments and intervals, the precision of decimals, and numbers of more than 64 bits, which apache-avro cuts.
pub(crate) fn check_agreement<R: AvroRecord + PartialEq + Debug>(body: &[u8]) {
    match (R::decode(body), read(R::SCHEMA.parsed(), body)) {
        (Ok(record), Ok(value)) => assert_eq!(R::decode(&write(R::SCHEMA.parsed(), value)).unwrap(), record),
        (Ok(record), Err(error)) => panic!("only we accept {record:?}: {error}"),
        (Err(_), Err(_)) => {}
        (Err(DecodeError::BadText { .. } | DecodeError::BadDecimal(_) | DecodeError::BadLength(_)), Ok(_)) => {}
        (Err(error), Ok(value)) => panic!("only we refuse {value:?}: {error}"),
    }
}

pub(crate) fn write(schema: &AvroSchema, value: Value) -> Vec<u8> {
    GenericDatumWriter::builder(schema).build().unwrap().write_value_to_vec(value).unwrap()
}

/// Reads a whole body; the end of the body inside a field is an error (apache-avro takes a plain end of input for null).
pub(crate) fn read(schema: &AvroSchema, body: &[u8]) -> Result<Value, String> {
    struct Whole<'a>(&'a [u8]);
    impl Read for Whole<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() { Err(io::Error::other("end of body")) } else { self.0.read(buffer) }
        }
    }
    let mut rest = Whole(body);
    let value = GenericDatumReader::builder(schema).build().unwrap().read_value(&mut rest).map_err(|e| e.to_string())?;
    if rest.0.is_empty() { Ok(value) } else { Err(format!("{} bytes follow", rest.0.len())) }
}
