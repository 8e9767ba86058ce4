//! How far partitions reach, asked beside the loop that reads them.
//!
//! A question on the loop's own connection waits behind its fetches, up to 50 ms each; for every partition of a service that is a standstill of
//! seconds. Next: `reader.rs`.

use crate::config::Quiet;
use crate::{Error, KafkaConfig, TopicPartition};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A partition, and its oldest offset up to the end of what `read_committed` sees.
pub type End = (TopicPartition, Range<i64>);

/// Asks on a thread and a connection of its own; neither asking nor taking an answer waits. For measuring lag: an answer may come late or,
/// while the cluster is away, not at all.
pub struct Ends {
    questions: Sender<Vec<TopicPartition>>,
    answers: Receiver<Vec<End>>,
    /// Whether an answer is outstanding.
    waiting: bool,
}

impl Ends {
    /// Starts the thread; it ends when this is dropped.
    ///
    /// # Errors
    /// A setting librdkafka does not take, or no thread.
    pub fn new(kafka: &KafkaConfig) -> Result<Self, Error> {
        let fixed = [("group.id", "marketflow-reader"), ("isolation.level", "read_committed"), ("enable.auto.commit", "false")];
        let asker: BaseConsumer<Quiet> = kafka.client(&[], &fixed, Quiet)?;
        let (questions, asked) = channel::<Vec<TopicPartition>>();
        let (answer, answers) = channel();
        let work = move || {
            while let Ok(partitions) = asked.recv() {
                if answer.send(ends_of(&asker, partitions)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("kafka-ends".to_owned()).spawn(work);
        thread.map_err(|problem| Error::Config(format!("cannot start a thread: {problem}")))?;
        Ok(Self { questions, answers, waiting: false })
    }

    /// Asks for these partitions, unless the question before is still open.
    pub fn ask(&mut self, partitions: Vec<TopicPartition>) {
        if !self.waiting {
            self.waiting = self.questions.send(partitions).is_ok();
        }
    }

    /// The answer, when it has come since the last call. Partitions the cluster did not answer for are not in it.
    pub fn answer(&mut self) -> Option<Vec<End>> {
        let answer = self.answers.try_recv().ok()?;
        self.waiting = false;
        Some(answer)
    }
}

fn ends_of(asker: &BaseConsumer<Quiet>, partitions: Vec<TopicPartition>) -> Vec<End> {
    let ends = partitions.into_iter().map_while(|of| {
        match asker.fetch_watermarks(&of.topic, of.partition, ANSWER_WITHIN) {
            Ok((low, end)) => Some((of, low..end)),
            Err(problem) => {
                // the next ones would only wait as long
                tracing::debug!(%of, error = %problem, "its end is unknown");
                None
            }
        }
    });
    ends.collect()
}
