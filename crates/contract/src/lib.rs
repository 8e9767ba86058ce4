//! marketflow-contract.
