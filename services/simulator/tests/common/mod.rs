//! A simulator in this process, and clients that know nothing of its code.

#![allow(dead_code, clippy::unwrap_used, unreachable_pub, reason = "helpers of tests; each test binary uses its part")]

use futures_util::{SinkExt, StreamExt};
use marketflow_runtime::{Metrics, Stop};
use marketflow_simulator::player::Player;
use marketflow_simulator::server::Wire;
use marketflow_simulator::{Config, DEFAULTS, Simulation, admin};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A configuration: the defaults, a tape of these rows, and whatever the test changes.
pub fn config(folder: &tempfile::TempDir, rows: &str, change: &str) -> Config {
    let tape = folder.path().join("tape.csv");
    std::fs::write(&tape, format!("timestamp,price,amount\n{rows}")).unwrap();
    let mut table: toml::Table = DEFAULTS.parse().unwrap();
    merge(&mut table, change.parse().unwrap());
    for tape_table in table["tapes"].as_array_mut().unwrap() {
        if let Some(path) = tape_table.get_mut("path") {
            *path = toml::Value::String(
                path.as_str().unwrap().replace("{tools}/tape/bitstamp_trades_from_20131125_usd.csv", tape.to_str().unwrap()),
            );
        }
    }
    table["wire"]["listen"] = toml::Value::String("127.0.0.1:0".into());
    table.try_into().unwrap()
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Rows of a tape: so many trades, one every so many seconds from 2013-11-25 on.
pub fn rows(count: usize, every_seconds: usize) -> String {
    (0..count)
        .map(|n| format!("{},{}.{:02},0.{:03}\n", 1_385_337_600 + n * every_seconds, 800 + n % 7, n % 100, 1 + n % 999))
        .collect()
}

/// A running simulator.
pub struct Running {
    pub simulation: Arc<Simulation>,
    pub wire: SocketAddr,
    pub admin: SocketAddr,
    stop: Stop,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.request();
    }
}

pub async fn start(config: Config) -> Running {
    let simulation = Simulation::new(config, &Metrics::new(marketflow_runtime::program!("simulator"))).unwrap();
    let wire = Wire::bind(simulation.clone()).unwrap();
    let address = wire.address();
    let stop = Stop::new();
    tokio::spawn(wire.serve(stop.clone()));
    tokio::spawn(Player::new(simulation.clone()).run(stop.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin_address = listener.local_addr().unwrap();
    let routes = admin::routes(simulation.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Running { simulation, wire: address, admin: admin_address, stop }
}

impl Running {
    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = self.response(path).await;
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub async fn response(&self, path: &str) -> reqwest::Response {
        reqwest::get(format!("http://{}{path}", self.wire)).await.unwrap()
    }

    pub async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await.1).unwrap()
    }

    pub async fn admin(&self, path: &str) -> Value {
        reqwest::get(format!("http://{}{path}", self.admin)).await.unwrap().json().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let client = reqwest::Client::new();
        client.post(format!("http://{}{path}", self.admin)).json(&body).send().await.unwrap().json().await.unwrap()
    }

    /// The truth, line by line.
    pub async fn truth(&self) -> Vec<Value> {
        let text = reqwest::get(format!("http://{}/truth", self.admin)).await.unwrap().text().await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub async fn truth_of(&self, line: &str) -> Vec<Value> {
        self.truth().await.into_iter().filter(|value| value["line"] == line).collect()
    }

    pub async fn finished(&self) {
        let wait = async {
            while self.admin("/clock").await["finished"] != true {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the tape ends");
    }

    pub async fn connect(&self, path: &str) -> Client {
        let (socket, _) = connect_async(format!("ws://{}{path}", self.wire)).await.unwrap();
        Client { socket }
    }

    /// A Bitstamp client that has subscribed to these channels.
    pub async fn bitstamp(&self, channels: &[&str]) -> Client {
        let mut client = self.connect("/bitstamp").await;
        for channel in channels {
            client.send(&format!(r#"{{"event":"bts:subscribe","data":{{"channel":"{channel}"}}}}"#)).await;
            let ack = format!(r#"{{"event":"bts:subscription_succeeded","channel":"{channel}","data":{{}}}}"#);
            assert_eq!(client.text().await, ack);
        }
        client
    }
}

pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// How a connection ended.
#[derive(Debug, PartialEq)]
pub enum End {
    Close(u16, String),
    Abrupt,
}

impl Client {
    pub async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.text().await
    }

    /// The next text frame.
    pub async fn text(&mut self) -> String {
        self.next().await.expect("a frame, not the end")
    }

    /// The next text frame, or how the connection ended.
    pub async fn next(&mut self) -> Result<String, End> {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("something arrives in time") {
                Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    return Err(End::Close(code.into(), reason.to_string()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(End::Abrupt),
            }
        }
    }

    /// The next frames, so many.
    pub async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.text().await);
        }
        texts
    }

    /// Whether nothing arrives for a while.
    pub async fn silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.socket.next()).await.is_err()
    }
}

pub fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

pub fn ids(frames: &[String]) -> Vec<String> {
    frames.iter().map(|frame| parse(frame)["data"]["id_str"].as_str().unwrap().to_owned()).collect()
}
