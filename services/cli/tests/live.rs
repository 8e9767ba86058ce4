//! `marketflow demo --live` where the exchange cannot be reached: cause and cure at once, exit code 69, and nothing was started.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

/// A venue that answers every request with this status line, and its address.
fn venue(status: &'static str) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // a request without a body fits in one read
            if stream.read(&mut [0; 4096]).unwrap() > 0 {
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}").unwrap();
            }
        }
    });
    address
}

/// The demo refuses, naming the address that is in the way and why.
fn refused(rest: &str, socket: &str, culprit: &str, why: &str) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_marketflow"));
    for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    let output = command
        .args(["demo", "--live", "--minutes", "1"])
        .env("MARKETFLOW_HOME", home.path())
        .env("MARKETFLOW__PROVIDER__REST_URL", format!("http://{rest}"))
        .env("MARKETFLOW__PROVIDER__WEBSOCKET_URL", format!("ws://{socket}"))
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{words}");
    assert!(words.contains(&format!("{culprit}: ")) && words.contains(why), "{culprit}, {why}: {words}");
    assert!(words.contains("`marketflow demo` without it plays a recorded session"), "{words}");
    assert!(!home.path().join("demo").exists(), "something was started");
}

#[test]
fn an_exchange_out_of_reach_is_said_at_once() {
    let fine = venue("200 OK");
    let foreign = venue("451 Unavailable For Legal Reasons");
    // dropped at once: nobody listens there any more
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().to_string();
    // the kernel completes connections that nobody ever takes
    let black_hole = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent = black_hole.local_addr().unwrap().to_string();
    let nameless = "exchange.invalid";
    for (address, why) in [
        (foreign.as_str(), "it refuses this region (HTTP 451)"),
        (&closed, "refused"),
        (&silent, "no answer within 8 s"),
        (nameless, "exchange.invalid"),
    ] {
        refused(&fine, address, &format!("ws://{address}"), why);
        refused(address, &fine, &format!("http://{address}"), why);
    }
    let broken = venue("503 Service Unavailable");
    refused(&fine, &broken, &format!("ws://{broken}"), "HTTP 503");
}
