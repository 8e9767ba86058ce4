//! The minutes of one page: one call, and further ones for what the venue cut off.
//!
//! Next: `check.rs`; one call is `crates/access/src/client.rs`.

use anyhow::Context;
use marketflow_access as access;
use marketflow_model::{Amount, Feed, Instrument, Timestamp};
use marketflow_pacing::Class;
use marketflow_providers::{CallError, CallRequest, CandlePage, CandleRows, Candles, Credentials, RestAnswer, Secret};

/// Asks the venue for candles; cheap to clone.
#[derive(Clone)]
pub struct Client {
    candles: &'static dyn Candles,
    calls: access::Client,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Of which instrument.
    pub instrument: &'a Instrument,
    /// Which minutes.
    pub page: &'a CandlePage,
    /// Of which feed the candles are.
    pub feed: &'a Feed,
    /// The day's turnover before them, where it is known.
    pub before: Option<Amount>,
    /// What for.
    pub class: Class,
}

/// One call of it.
struct Call<'a> {
    candles: &'static dyn Candles,
    question: Question<'a>,
    /// Names the rows that are older than the answer before.
    further: Option<&'a str>,
}

impl access::Question for Call<'_> {
    type Answer = CandleRows;

    fn class(&self) -> Class {
        self.question.class
    }

    fn request(&self, credentials: &Credentials, pass: &Secret) -> CallRequest {
        self.candles.request(self.question.instrument, self.question.page, self.further, credentials, pass)
    }

    fn read<'a>(
        &self,
        answer: RestAnswer<'_>,
        header: &dyn Fn(&'static str) -> Option<&'a str>,
        received: Timestamp,
    ) -> Result<CandleRows, CallError> {
        let Question { instrument, page, feed, before, .. } = self.question;
        let further = self.candles.further(header);
        let rows = self.candles.read(instrument, feed, page, before, answer, received)?;
        Ok(CandleRows { further: further.map(str::to_owned), ..rows })
    }
}

impl Client {
    /// Of these candles, by these calls.
    pub fn new(candles: &'static dyn Candles, calls: access::Client) -> Self {
        Self { candles, calls }
    }

    /// Asks until it is answered, and again for what the venue cut off.
    ///
    /// # Errors
    /// The venue refuses, or fails too often; the day's calls are spent.
    pub async fn ask(&self, question: Question<'_>) -> anyhow::Result<CandleRows> {
        let about = || format!("the minutes from {} of {}", question.page.from, question.instrument);
        let candles = self.candles;
        let mut rows = self.calls.ask(&Call { candles, question, further: None }).await.with_context(about)?;
        while rows.reaches.is_some_and(|oldest| oldest > question.page.from)
            && let Some(further) = rows.further.take()
        {
            let older = self.calls.ask(&Call { candles, question, further: Some(&further) }).await.with_context(about)?;
            rows = rows.with_older(older).with_context(about)?;
        }
        Ok(rows)
    }

    /// Calls that were answered with rows, and all.
    pub fn calls(&self) -> (u64, u64) {
        self.calls.calls()
    }
}
