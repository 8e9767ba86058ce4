//! marketflow-stack.
