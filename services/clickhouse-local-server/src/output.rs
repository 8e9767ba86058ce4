//! A response on its way out: held back while it is small, then streamed, compressed as the client asked.
//!
//! As long as everything is held back a failing query gets its proper HTTP status. Once bytes are out, a failure is written at the end
//! in ClickHouse's `__exception__` frame, named by `X-ClickHouse-Exception-Tag`, and the connection is cut so that no client mistakes
//! the rest for the whole.
//!
//! Next: `execute.rs`.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::codec::{BlockWriter, Coding, Encoder};
use crate::fault::Fault;
use crate::ffi::Counts;

/// What goes into the response's headers.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) format: Option<String>,
    pub(crate) coding: Option<Coding>,
    pub(crate) tag: String,
    /// Known when the statement is over before the headers leave.
    pub(crate) summary: Option<String>,
}

/// What a query's thread says to the request's task.
#[derive(Debug)]
pub(crate) enum Part {
    /// The whole response.
    Whole(Head, Bytes),
    /// The headers of a response whose body follows in pieces.
    Head(Head),
    /// A piece of the body.
    Body(Bytes),
    /// The end of a body in pieces.
    End,
    /// Nothing was sent yet: answer with this fault.
    Failed(Fault),
    /// The body broke off; its last piece says why.
    Cut,
}

const HOLDING: u8 = 0;
const SENDING: u8 = 1;
const DISCARDING: u8 = 2;

/// How a response is to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery {
    pub(crate) coding: Option<Coding>,
    /// ClickHouse's own compressed blocks.
    pub(crate) blocks: bool,
    /// `wait_end_of_query=1`: send nothing before all is there.
    pub(crate) whole: bool,
    /// Bytes held back before the first are sent.
    pub(crate) buffer: usize,
    /// Bytes that `whole` may hold.
    pub(crate) whole_limit: usize,
}

/// The response a query writes to.
pub(crate) struct Output {
    encoder: Encoder<Sink>,
    state: Arc<AtomicU8>,
    parts: mpsc::Sender<Part>,
    tag: String,
    /// Nothing is to be held back, neither here nor in the encoder.
    eager: bool,
}

impl Output {
    pub(crate) fn new(parts: mpsc::Sender<Part>, delivery: Delivery, format: Option<String>, tag: String) -> io::Result<Self> {
        let state = Arc::new(AtomicU8::new(HOLDING));
        let coding = delivery.coding.filter(|_| !delivery.blocks);
        let head = Head { format, coding, tag: tag.clone(), summary: None };
        let sink = Sink { held: Vec::new(), delivery, head, state: Arc::clone(&state), parts: parts.clone() };
        let encoder = match coding {
            _ if delivery.blocks => Encoder::Blocks(BlockWriter::new(sink)),
            Some(coding) => Encoder::coded(coding, sink)?,
            None => Encoder::Plain(sink),
        };
        Ok(Self { encoder, state, parts, tag, eager: delivery.buffer <= 1 && !delivery.whole })
    }

    /// Adds to the body. An error means the client is gone, or the result is larger than may be held.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.encoder.write_all(bytes)?;
        if self.eager { self.encoder.flush() } else { Ok(()) }
    }

    /// Ends a good response.
    pub(crate) fn finish(self, counts: Counts, elapsed_ns: u128) -> io::Result<()> {
        self.encoder.finish()?.close(counts, elapsed_ns)
    }

    /// Ends with a fault: as the whole answer, or at the end of what was sent already.
    pub(crate) fn fail(mut self, fault: Fault) {
        if self.state.load(Ordering::Relaxed) == SENDING {
            let (tag, message) = (&self.tag, &fault.message);
            let frame = format!("\r\n__exception__\r\n{tag}\r\n{message}\n{} {tag}\r\n__exception__\r\n", message.len() + 1);
            let written = self.encoder.flush().and_then(|()| self.encoder.write_all(frame.as_bytes()));
            if written.and_then(|()| self.encoder.finish()).and_then(|mut sink| sink.send_held()).is_ok() {
                // A closed channel means the client is gone already.
                drop(self.parts.blocking_send(Part::Cut));
            }
            return;
        }
        self.state.store(DISCARDING, Ordering::Relaxed); // what the encoder still writes when dropped goes nowhere
        drop(self.encoder);
        drop(self.parts.blocking_send(Part::Failed(fault)));
    }
}

/// `X-ClickHouse-Summary`; ClickHouse writes its numbers as texts.
fn summary(counts: Counts, elapsed_ns: u128) -> String {
    let Counts { result_rows, result_bytes, read_rows, read_bytes, written_rows, written_bytes } = counts;
    format!(
        r#"{{"read_rows":"{read_rows}","read_bytes":"{read_bytes}","written_rows":"{written_rows}","written_bytes":"{written_bytes}","total_rows_to_read":"0","result_rows":"{result_rows}","result_bytes":"{result_bytes}","elapsed_ns":"{elapsed_ns}"}}"#
    )
}

struct Sink {
    held: Vec<u8>,
    delivery: Delivery,
    head: Head,
    state: Arc<AtomicU8>,
    parts: mpsc::Sender<Part>,
}

impl Sink {
    fn send(&self, part: Part) -> io::Result<()> {
        self.parts.blocking_send(part).map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone"))
    }

    fn send_held(&mut self) -> io::Result<()> {
        if self.state.swap(SENDING, Ordering::Relaxed) == HOLDING {
            self.send(Part::Head(self.head.clone()))?;
        }
        let held = std::mem::take(&mut self.held);
        if held.is_empty() { Ok(()) } else { self.send(Part::Body(held.into())) }
    }

    fn close(mut self, counts: Counts, elapsed_ns: u128) -> io::Result<()> {
        if self.state.load(Ordering::Relaxed) == HOLDING {
            self.head.summary = Some(summary(counts, elapsed_ns));
            let body = std::mem::take(&mut self.held);
            return self.send(Part::Whole(self.head.clone(), body.into()));
        }
        self.send_held()?;
        self.send(Part::End)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.state.load(Ordering::Relaxed) == DISCARDING {
            return Ok(bytes.len());
        }
        self.held.extend_from_slice(bytes);
        if self.delivery.whole {
            if self.held.len() > self.delivery.whole_limit {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the result is larger than limits.whole_response_bytes"));
            }
        } else if self.held.len() >= self.delivery.buffer {
            self.send_held()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
