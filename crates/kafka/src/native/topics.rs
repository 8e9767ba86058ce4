//! `DescribeTopics`, which librdkafka has and the safe wrapper has not: it alone tells a topic's id, and the id alone tells a topic from
//! another one created later under the same name.

use super::Guard;
use rdkafka::ClientContext;
use rdkafka::bindings as native;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int};
use std::ptr;
use std::time::Duration;

/// Topic name → topic id, as librdkafka prints it (URL-safe base64). Unknown topics are left out.
pub(crate) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> KafkaResult<BTreeMap<String, String>> {
    let names: Vec<CString> = topics.iter().map(|name| CString::new(*name)).collect::<Result<_, _>>().map_err(KafkaError::Nul)?;
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);

    // SAFETY: every object created here is destroyed at the end of its guard's scope; `names` outlives `pointers`, which librdkafka copies;
    // the result's pointers are read only while the event that owns them lives; `client` keeps the handle alive.
    unsafe {
        let queue = Guard(native::rd_kafka_queue_new(client.native_ptr()), native::rd_kafka_queue_destroy);
        let collection = Guard(
            native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            native::rd_kafka_TopicCollection_destroy,
        );
        let options = Guard(
            native::rd_kafka_AdminOptions_new(client.native_ptr(), native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            native::rd_kafka_AdminOptions_destroy,
        );
        native::rd_kafka_AdminOptions_set_request_timeout(options.0, timeout_ms, ptr::null_mut(), 0);
        native::rd_kafka_DescribeTopics(client.native_ptr(), collection.0, options.0, queue.0);
        let event = Guard(native::rd_kafka_queue_poll(queue.0, timeout_ms), native::rd_kafka_event_destroy);
        if event.0.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        }
        let code = native::rd_kafka_event_error(event.0);
        if code != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(KafkaError::AdminOp(code.into()));
        }
        let result = native::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(KafkaError::AdminOpCreation("an answer to something else".to_owned()));
        }
        let mut count = 0;
        let descriptions = native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let mut ids = BTreeMap::new();
        for index in 0..count {
            let description = *descriptions.add(index);
            let error = native::rd_kafka_TopicDescription_error(description);
            if !error.is_null() && native::rd_kafka_error_code(error) != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                continue;
            }
            let name = CStr::from_ptr(native::rd_kafka_TopicDescription_name(description)).to_string_lossy().into_owned();
            let id = native::rd_kafka_Uuid_base64str(native::rd_kafka_TopicDescription_topic_id(description));
            if !id.is_null() {
                ids.insert(name, CStr::from_ptr(id).to_string_lossy().into_owned());
            }
        }
        Ok(ids)
    }
}
