//! Any bytes, as a record of any schema: our decoder accepts what apache-avro accepts, with the same content, and nothing else. The first byte
//! chooses the schema.
//!
//! The same body runs on damaged valid records in `crates/contract/tests/contract.rs`, in every `make test`.

#![no_main]

#[path = "../../crates/contract/tests/agreement/mod.rs"]
mod agreement;

use agreement::check_agreement;
use libfuzzer_sys::fuzz_target;
use marketflow_model::{Bar, Candle, Control, Envelope, FlowAggregate, FundFlow, Observation, Quote, Reference, Trade};

/// apache-avro allocates what a length claims, before it looks whether there is so much.
const LONGEST: usize = 4_096;

const CHECKS: [fn(&[u8]); 10] = [
    check_agreement::<Trade>,
    check_agreement::<Control>,
    check_agreement::<Candle>,
    check_agreement::<Quote>,
    check_agreement::<Bar>,
    check_agreement::<Envelope>,
    check_agreement::<Observation>,
    check_agreement::<FundFlow>,
    check_agreement::<FlowAggregate>,
    check_agreement::<Reference>,
];

fuzz_target!(|bytes: &[u8]| {
    if let Some((choice, body)) = bytes.split_first()
        && body.len() <= LONGEST
    {
        CHECKS[usize::from(*choice) % CHECKS.len()](body);
    }
});
