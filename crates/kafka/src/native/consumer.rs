//! A group consumer that takes records from librdkafka by the batch: one call and one wake-up for many records.
//!
//! `BaseConsumer` cannot do that: it turns rebalance events on without a callback, and the batch call then gives every partition back at each
//! rebalance. So the client is built here from the native configuration with a callback of its own, which records, assigns, pauses and
//! unassigns, and does nothing else.

use super::Guard;
use rdkafka::bindings as native;
use rdkafka::config::NativeClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use std::{ptr, slice};

/// Told from within librdkafka's calls, on the calling thread.
pub(crate) trait Watcher: Send + Sync {
    /// Whether whoever is told of an assignment seeks each partition before it is resumed, so that none begins where it was committed.
    fn is_sought(&self) -> bool;
    /// These were assigned, and paused.
    fn assigned(&self, partitions: Vec<(String, i32)>);
    /// These went; `lost` when somebody else may have them already.
    fn revoked(&self, partitions: Vec<(String, i32)>, lost: bool);
    /// librdkafka reports something by itself; syslog level.
    fn log(&self, level: i32, facility: &str, text: &str);
    /// librdkafka met an error it goes on from.
    fn error(&self, code: RDKafkaErrorCode, reason: &str);
}

/// A member of a consumer group.
pub(crate) struct NativeConsumer<W> {
    handle: *mut native::rd_kafka_t,
    queue: *mut native::rd_kafka_queue_t,
    /// Where the callbacks find it: shared, so that it does not move.
    watcher: Arc<W>,
}

// SAFETY: librdkafka's handles and queues may be used from any thread and from several at once; `W` is `Send + Sync`.
unsafe impl<W: Watcher> Send for NativeConsumer<W> {}
// SAFETY: as above.
unsafe impl<W: Watcher> Sync for NativeConsumer<W> {}

impl<W: Watcher> NativeConsumer<W> {
    pub(crate) fn new(config: &NativeClientConfig, watcher: W) -> Result<Self, String> {
        let watcher = Arc::new(watcher);
        let mut reason: [c_char; 512] = [0; 512];
        // SAFETY: the configuration is a copy that `rd_kafka_new` takes over when it succeeds and that is destroyed here when it does not;
        // the opaque pointer is the watcher, which outlives the handle (see `Drop`).
        unsafe {
            let config = native::rd_kafka_conf_dup(config.ptr());
            native::rd_kafka_conf_set_opaque(config, Arc::as_ptr(&watcher).cast_mut().cast());
            native::rd_kafka_conf_set_rebalance_cb(config, Some(on_rebalance::<W>));
            native::rd_kafka_conf_set_log_cb(config, Some(on_log::<W>));
            native::rd_kafka_conf_set_error_cb(config, Some(on_error::<W>));
            let handle =
                native::rd_kafka_new(native::rd_kafka_type_t::RD_KAFKA_CONSUMER, config, reason.as_mut_ptr(), reason.len());
            if handle.is_null() {
                native::rd_kafka_conf_destroy(config);
                return Err(CStr::from_ptr(reason.as_ptr()).to_string_lossy().into_owned());
            }
            native::rd_kafka_poll_set_consumer(handle);
            Ok(Self { handle, queue: native::rd_kafka_queue_get_consumer(handle), watcher })
        }
    }

    pub(crate) fn watcher(&self) -> &W {
        &self.watcher
    }

    pub(crate) fn subscribe(&self, topics: &[&str]) -> KafkaResult<()> {
        let mut list = TopicPartitionList::with_capacity(topics.len());
        for topic in topics {
            list.add_topic_unassigned(topic);
        }
        // SAFETY: handle and list live; librdkafka copies the list.
        check(unsafe { native::rd_kafka_subscribe(self.handle, list.ptr()) }, |code| KafkaError::Subscription(code.to_string()))
    }

    /// Waits up to `wait` for the first record, then takes what is there, up to `max`; callbacks run meanwhile.
    pub(crate) fn take<'c>(&'c self, wait: Duration, max: usize, into: &mut Messages<'c>) {
        let wait_ms = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        let before = into.list.len();
        if wait_ms > 0 {
            self.take_up_to(wait_ms, 1.min(max), into);
            if into.list.len() == before {
                return;
            }
        }
        self.take_up_to(0, max.saturating_sub(into.list.len() - before), into);
    }

    fn take_up_to(&self, wait_ms: c_int, max: usize, into: &mut Messages<'_>) {
        if max == 0 {
            return;
        }
        into.list.reserve(max);
        let length = into.list.len();
        // SAFETY: room for `max` pointers was reserved behind `length`; librdkafka fills as many as it returns, each a message that is now ours.
        unsafe {
            let room = into.list.as_mut_ptr().add(length).cast::<*mut native::rd_kafka_message_t>();
            let taken = native::rd_kafka_consume_batch_queue(self.queue, wait_ms, room, max);
            into.list.set_len(length + usize::try_from(taken).unwrap_or(0));
        }
    }

    pub(crate) fn commit(&self, offsets: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: handle and list live.
        check(unsafe { native::rd_kafka_commit(self.handle, offsets.ptr(), 0) }, KafkaError::ConsumerCommit)
    }

    pub(crate) fn pause(&self, partitions: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: handle and list live.
        check(unsafe { native::rd_kafka_pause_partitions(self.handle, partitions.ptr()) }, |code| {
            KafkaError::PauseResume(code.to_string())
        })
    }

    pub(crate) fn resume(&self, partitions: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: handle and list live.
        check(unsafe { native::rd_kafka_resume_partitions(self.handle, partitions.ptr()) }, |code| {
            KafkaError::PauseResume(code.to_string())
        })
    }

    pub(crate) fn seek(&self, topic: &str, partition: i32, offset: i64, timeout: Duration) -> KafkaResult<()> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        // SAFETY: handle and list live; a returned error object is ours and is destroyed by the guard; one element was added above.
        unsafe {
            let error = Guard(
                native::rd_kafka_seek_partitions(self.handle, list.ptr(), milliseconds(timeout)),
                native::rd_kafka_error_destroy,
            );
            if !error.0.is_null() {
                return Err(KafkaError::Seek(CStr::from_ptr(native::rd_kafka_error_string(error.0)).to_string_lossy().into()));
            }
            check((*(*list.ptr()).elems).err, |code| KafkaError::Seek(code.to_string()))
        }
    }

    /// What is assigned.
    pub(crate) fn assignment(&self) -> KafkaResult<Vec<(String, i32)>> {
        let mut list = ptr::null_mut();
        // SAFETY: on success the list is ours and is destroyed by the guard.
        unsafe {
            check(native::rd_kafka_assignment(self.handle, &raw mut list), KafkaError::MetadataFetch)?;
            let list = Guard(list, native::rd_kafka_topic_partition_list_destroy);
            Ok(names(list.0))
        }
    }

    /// Fills in the next offset to deliver of each partition.
    pub(crate) fn position(&self, partitions: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: handle and list live.
        check(unsafe { native::rd_kafka_position(self.handle, partitions.ptr()) }, KafkaError::OffsetFetch)
    }

    /// Fills in the committed offset of each partition.
    pub(crate) fn committed(&self, partitions: &TopicPartitionList, timeout: Duration) -> KafkaResult<()> {
        // SAFETY: handle and list live.
        check(
            unsafe { native::rd_kafka_committed(self.handle, partitions.ptr(), milliseconds(timeout)) },
            KafkaError::OffsetFetch,
        )
    }

    /// Oldest offset and end.
    pub(crate) fn watermarks(&self, topic: &str, partition: i32, timeout: Duration) -> KafkaResult<(i64, i64)> {
        let name = CString::new(topic).map_err(KafkaError::Nul)?;
        let (mut low, mut high) = (-1, -1);
        // SAFETY: all pointers live through the call.
        let code = unsafe {
            native::rd_kafka_query_watermark_offsets(
                self.handle,
                name.as_ptr(),
                partition,
                &raw mut low,
                &raw mut high,
                milliseconds(timeout),
            )
        };
        check(code, KafkaError::MetadataFetch).map(|()| (low, high))
    }

    pub(crate) fn assignment_lost(&self) -> bool {
        // SAFETY: the handle lives.
        unsafe { native::rd_kafka_assignment_lost(self.handle) != 0 }
    }

    /// Adds offsets to the open transaction of a producer, under this group's metadata of this moment.
    pub(crate) fn send_offsets_to(
        &self,
        producer: *mut native::rd_kafka_t,
        offsets: &TopicPartitionList,
        timeout: Duration,
    ) -> Result<(), TransactionProblem> {
        // SAFETY: the caller's producer lives through the call; metadata and error object are ours and destroyed by their guards.
        unsafe {
            let metadata =
                Guard(native::rd_kafka_consumer_group_metadata(self.handle), native::rd_kafka_consumer_group_metadata_destroy);
            if metadata.0.is_null() {
                return Err(TransactionProblem {
                    code: RDKafkaErrorCode::UnknownMemberId,
                    reason: "not a member of a group".to_owned(),
                    is_fatal: false,
                    requires_abort: true,
                    is_retriable: false,
                });
            }
            let error = Guard(
                native::rd_kafka_send_offsets_to_transaction(producer, offsets.ptr(), metadata.0, milliseconds(timeout)),
                native::rd_kafka_error_destroy,
            );
            if error.0.is_null() {
                return Ok(());
            }
            Err(TransactionProblem {
                code: native::rd_kafka_error_code(error.0).into(),
                reason: CStr::from_ptr(native::rd_kafka_error_string(error.0)).to_string_lossy().into_owned(),
                is_fatal: native::rd_kafka_error_is_fatal(error.0) != 0,
                requires_abort: native::rd_kafka_error_txn_requires_abort(error.0) != 0,
                is_retriable: native::rd_kafka_error_is_retriable(error.0) != 0,
            })
        }
    }
}

impl<W> Drop for NativeConsumer<W> {
    fn drop(&mut self) {
        // SAFETY: no message outlives the consumer (`Messages` borrows it); closing runs the last rebalance callback, for which the watcher
        // still lives: fields are dropped after this.
        unsafe {
            native::rd_kafka_queue_destroy(self.queue);
            native::rd_kafka_consumer_close(self.handle);
            native::rd_kafka_destroy(self.handle);
        }
    }
}

/// librdkafka's answer about a transaction.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason} ({code})")]
pub struct TransactionProblem {
    /// Its code.
    pub code: RDKafkaErrorCode,
    /// In words.
    pub reason: String,
    pub(crate) is_fatal: bool,
    pub(crate) requires_abort: bool,
    pub(crate) is_retriable: bool,
}

/// A message that is ours until its [`Messages`] are dropped.
#[repr(transparent)]
pub(crate) struct Owned(*mut native::rd_kafka_message_t);

impl Owned {
    pub(crate) fn get(&self) -> &native::rd_kafka_message_t {
        // SAFETY: not null, and destroyed by `Messages` only, which lends it out.
        unsafe { &*self.0 }
    }
}

/// Records and errors taken from a consumer; destroyed together.
pub(crate) struct Messages<'c> {
    list: Vec<Owned>,
    consumer: PhantomData<&'c ()>,
}

impl Messages<'_> {
    pub(crate) fn new() -> Self {
        Self { list: Vec::new(), consumer: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &native::rd_kafka_message_t> {
        self.list.iter().map(Owned::get)
    }

    /// Neighbours of the same topic and partition.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &[Owned]> {
        self.list.chunk_by(|a, b| (a.get().rkt, a.get().partition) == (b.get().rkt, b.get().partition))
    }

    /// Destroys those that are not to be kept.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&native::rd_kafka_message_t) -> bool) {
        self.list.retain(|message| {
            let kept = keep(message.get());
            if !kept {
                // SAFETY: ours, destroyed once, here, and forgotten.
                unsafe { native::rd_kafka_message_destroy(message.0) }
            }
            kept
        });
    }
}

impl Drop for Messages<'_> {
    fn drop(&mut self) {
        for message in &self.list {
            // SAFETY: ours, and destroyed once.
            unsafe { native::rd_kafka_message_destroy(message.0) }
        }
    }
}

/// What a message of the safe wrapper points to.
pub(crate) fn of_borrowed<'a>(message: &'a BorrowedMessage<'a>) -> &'a native::rd_kafka_message_t {
    // SAFETY: not null, and alive as long as its owner, which is borrowed for as long.
    unsafe { &*message.ptr() }
}

/// The error a message stands for, if it is none.
pub(crate) fn problem_of(message: &native::rd_kafka_message_t) -> Option<KafkaError> {
    check(message.err, KafkaError::MessageConsumption).err()
}

/// Topic name of a message.
pub(crate) fn topic_of(message: &native::rd_kafka_message_t) -> &str {
    // SAFETY: the name belongs to the topic object, which the message keeps alive; topic names are ASCII, and anything else reads as empty.
    unsafe { CStr::from_ptr(native::rd_kafka_topic_name(message.rkt)).to_str().unwrap_or_default() }
}

/// Key bytes.
pub(crate) fn key_of(message: &native::rd_kafka_message_t) -> Option<&[u8]> {
    bytes(message.key, message.key_len)
}

/// Value bytes.
pub(crate) fn value_of(message: &native::rd_kafka_message_t) -> Option<&[u8]> {
    bytes(message.payload, message.len)
}

/// Milliseconds since 1970, when the log or the producer told.
pub(crate) fn timestamp_of(message: &native::rd_kafka_message_t) -> Option<i64> {
    let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: the message lives.
    let time = unsafe { native::rd_kafka_message_timestamp(message, &raw mut kind) };
    (time >= 0 && kind != native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE).then_some(time)
}

/// Headers in order; a name that is not UTF-8 reads as empty.
pub(crate) fn headers_of(message: &native::rd_kafka_message_t) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
    let mut headers = ptr::null_mut();
    // SAFETY: the message lives; it owns the headers.
    let code = unsafe { native::rd_kafka_message_headers(message, &raw mut headers) };
    let has_headers = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    (0..).map_while(move |index| {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the headers live as long as the message, and so do the name and value they point to.
        unsafe {
            let found = has_headers
                && native::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size)
                    == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
            found.then(|| {
                let name: &CStr = CStr::from_ptr(name);
                (name.to_str().unwrap_or_default(), bytes(value.cast_mut(), size))
            })
        }
    })
}

fn bytes<'a>(start: *mut c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: only called with pointer and length of one field of a message that lives for 'a (the callers' signatures say so).
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start.cast::<u8>(), length) })
}

fn check(code: RDKafkaRespErr, error: impl FnOnce(RDKafkaErrorCode) -> KafkaError) -> KafkaResult<()> {
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR { Ok(()) } else { Err(error(code.into())) }
}

fn milliseconds(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

/// # Safety
/// The list must live.
unsafe fn names(list: *const native::rd_kafka_topic_partition_list_t) -> Vec<(String, i32)> {
    // SAFETY: the caller's.
    unsafe {
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        let elements = if count == 0 { &[][..] } else { slice::from_raw_parts((*list).elems, count) };
        elements.iter().map(|e| (CStr::from_ptr(e.topic).to_string_lossy().into_owned(), e.partition)).collect()
    }
}

unsafe extern "C" fn on_rebalance<W: Watcher>(
    handle: *mut native::rd_kafka_t,
    code: RDKafkaRespErr,
    partitions: *mut native::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is the watcher given at creation, which outlives the handle; handle and list live through the callback.
    unsafe {
        let watcher = &*opaque.cast::<W>();
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            if watcher.is_sought() {
                // so that a group without offsets is no error before the seek
                let count = usize::try_from((*partitions).cnt).unwrap_or(0);
                for place in 0..count {
                    (*(*partitions).elems.add(place)).offset = i64::from(native::RD_KAFKA_OFFSET_BEGINNING);
                }
            }
            native::rd_kafka_assign(handle, partitions);
            native::rd_kafka_pause_partitions(handle, partitions);
            watcher.assigned(names(partitions));
        } else {
            let lost = native::rd_kafka_assignment_lost(handle) != 0;
            watcher.revoked(names(partitions), lost);
            native::rd_kafka_assign(handle, ptr::null());
        }
    }
}

unsafe extern "C" fn on_log<W: Watcher>(
    handle: *const native::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    text: *const c_char,
) {
    // SAFETY: as in `on_rebalance`; the texts live through the callback.
    unsafe {
        let opaque = native::rd_kafka_opaque(handle);
        // the first lines come while the handle is being made
        if opaque.is_null() {
            return;
        }
        let (facility, text) = (CStr::from_ptr(facility).to_string_lossy(), CStr::from_ptr(text).to_string_lossy());
        (*opaque.cast::<W>()).log(level, &facility, &text);
    }
}

unsafe extern "C" fn on_error<W: Watcher>(_: *mut native::rd_kafka_t, code: c_int, reason: *const c_char, opaque: *mut c_void) {
    // SAFETY: as in `on_rebalance`.
    unsafe {
        let code = RDKafkaRespErr::try_from(code).unwrap_or(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN);
        (*opaque.cast::<W>()).error(code.into(), &CStr::from_ptr(reason).to_string_lossy());
    }
}
