//! What librdkafka can and the safe wrapper cannot: consuming in batches, and `DescribeTopics`. All unsafe code of the crate is here.

mod consumer;
mod topics;

pub use consumer::TransactionProblem;
pub(crate) use consumer::{
    Messages, NativeConsumer, Owned, Watcher, headers_of, key_of, of_borrowed, problem_of, timestamp_of, topic_of, value_of,
};
pub(crate) use topics::topic_ids;

/// Destroys a native object at the end of its scope.
pub(super) struct Guard<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: created by librdkafka for us, destroyed once, here.
            unsafe { (self.1)(self.0) }
        }
    }
}
