//! marketflow-processor.
