//! The simulator as an exchange, and the tick-producer as its client: what every test of that path starts alike.

use crate::TestStack;
use anyhow::{Context, ensure};
use serde_json::Value;

/// A running simulator.
pub struct Simulator {
    http: reqwest::Client,
    wire: String,
    admin: String,
}

impl Simulator {
    /// Starts it with the generated tape of one symbol: `trades` of them, on the average so many a virtual second.
    ///
    /// # Errors
    /// A simulator that does not start.
    pub async fn start(
        stack: &mut TestStack,
        venue: &str,
        trades: usize,
        trades_per_second: f64,
        more: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let tape = format!(
            r#"[{{kind="generated",venue="{venue}",symbols=1,trades={trades},trades_per_second={trades_per_second:.1},start="2024-01-02T00:00:00Z"}}]"#
        );
        let settings = [&[("tapes", tape.as_str()), ("bitstamp.transactions_day", "7days")], more].concat();
        Self::start_with(stack, &settings).await
    }

    /// Starts it with these settings and no others.
    ///
    /// # Errors
    /// A simulator that does not start.
    pub async fn start_with(stack: &mut TestStack, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        stack.start_service("simulator", settings).await?;
        let ports = &stack.parts.config().ports;
        Ok(Self {
            http: reqwest::Client::new(),
            wire: format!("127.0.0.1:{}", ports.simulator),
            admin: format!("http://127.0.0.1:{}", ports.simulator_admin),
        })
    }

    /// Starts the tick-producer on it, impatient enough for tests.
    ///
    /// # Errors
    /// A tick-producer that does not start.
    pub async fn start_tick_producer(
        &self,
        stack: &mut TestStack,
        venue: &str,
        socket: &str,
        instrument: &str,
        more: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let (websocket, rest) = (format!("ws://{}/{socket}", self.wire), format!("http://{}/{venue}", self.wire));
        let (instruments, clock) = (format!(r#"["{instrument}"]"#), format!("{}/clock", self.admin));
        let usual = [
            ("provider.name", venue),
            ("provider.websocket_url", &websocket),
            ("provider.rest_url", &rest),
            ("provider.instruments", &instruments),
            ("clock.source", &clock),
            ("connection.backoff_min", "50ms"),
            ("connection.backoff_max", "500ms"),
            ("connection.attempts", "1000"),
            ("repair.backoff_min", "50ms"),
            ("repair.backoff_max", "500ms"),
        ];
        stack.start_service("tick-producer", &[&usual, more].concat()).await
    }

    /// What an admin address answers.
    ///
    /// # Errors
    /// No answer, or one that is no success.
    pub async fn get(&self, what: &str) -> anyhow::Result<String> {
        Ok(self.http.get(format!("{}/{what}", self.admin)).send().await?.error_for_status()?.text().await?)
    }

    /// Tells an admin address.
    ///
    /// # Errors
    /// No answer, or one that is no success, with its text.
    pub async fn post(&self, what: &str, body: &Value) -> anyhow::Result<()> {
        let request = self.http.post(format!("{}/{what}", self.admin)).header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await?;
        ensure!(answer.status().is_success(), "{}", answer.text().await?);
        Ok(())
    }

    /// Address of its wire port.
    pub fn wire(&self) -> &str {
        &self.wire
    }

    /// What it sent, line by line.
    ///
    /// # Errors
    /// No answer, or a line that is not JSON.
    pub async fn truth(&self) -> anyhow::Result<Vec<Value>> {
        self.get("truth").await?.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("the truth")
    }
}

/// How often a fault of the truth took effect.
pub fn effects(truth: &[Value], fault: &str) -> u64 {
    let of = truth.iter().filter(|line| line["line"] == "fault" && line["name"] == fault);
    of.filter_map(|line| line["effects"].as_u64()).sum()
}
