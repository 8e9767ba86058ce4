//! marketflow-simulator.
