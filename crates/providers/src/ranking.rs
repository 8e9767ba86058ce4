//! Which instruments are the most active now (거래량·거래대금 순위): how a broker is asked, and how its answers are read.
//!
//! Pure like the rest: requests out, answers in. What is done with it is `services/producer/src/ranking.rs` (who has a registration) and the
//! back-fill (who comes first).
//!
//! Next: `crates/providers/src/kis/ranking.rs`, `crates/providers/src/kiwoom/ranking.rs`.

use crate::{CallError, CallLimits, CallRequest, Credentials, Provider, RestAnswer, Secret};
use marketflow_model::Instrument;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Most active by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActiveBy {
    /// Money of the day so far (거래대금).
    Turnover,
    /// Shares of the day so far (거래량).
    Volume,
}

/// Where a ranking is asked for and by which name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankingCall {
    /// Path below the request endpoint.
    pub path: Cow<'static, str>,
    /// The call's name: KIS's `tr_id`, Kiwoom's `api-id`.
    pub name: Cow<'static, str>,
}

/// A broker's ranking.
pub trait Ranking: Sync {
    /// What one key may ask of the broker, whatever it asks.
    fn limits(&self) -> CallLimits;

    /// The broker's own call.
    fn call(&self, by: ActiveBy) -> RankingCall;

    /// The question.
    fn request(&self, by: ActiveBy, call: &RankingCall, credentials: &Credentials, pass: &Secret) -> CallRequest;

    /// Reads the answer: the most active first, each once. Rows of what is no instrument of the provider are left out.
    ///
    /// # Errors
    /// [`CallError`] for anything but the documented shape, whatever the status says.
    fn read(&self, by: ActiveBy, answer: RestAnswer<'_>) -> Result<Vec<Instrument>, CallError>;
}

/// The ranking of a provider's id, where it tells one.
pub fn ranking_of(id: &str) -> Option<&'static dyn Ranking> {
    match id {
        "kis" => Some(&crate::kis::KisRanking),
        "kiwoom" => Some(&crate::kiwoom::KiwoomRanking),
        _ => None,
    }
}

/// The instruments of these codes, each once, in their order.
pub(crate) fn instruments<'a>(provider: &Provider, codes: impl IntoIterator<Item = &'a str>) -> Vec<Instrument> {
    let mut seen = BTreeSet::new();
    let named = codes.into_iter().filter_map(|code| Instrument::new(provider.venue, code.trim()).ok());
    named.filter(|instrument| (provider.accepts)(instrument) && seen.insert(instrument.clone())).collect()
}
