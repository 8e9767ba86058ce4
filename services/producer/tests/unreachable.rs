//! A venue out of reach: the tick-producer ends with exit code 69 and says why and what helps, when it was told not to wait for ever.

use anyhow::Context;
use marketflow_testkit::TestStack;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn a_venue_out_of_reach_is_said_with_its_cure() -> anyhow::Result<()> {
    let stack = TestStack::start_with(&["kafka", "registry"]).await?;
    let foreign = TcpListener::bind(("127.0.0.1", 0)).await?;
    let foreign_address = foreign.local_addr()?.to_string();
    let answering = tokio::spawn(async move {
        while let Ok((mut stream, _)) = foreign.accept().await {
            let asked = stream.read(&mut [0; 4096]).await;
            let refusal = b"HTTP/1.1 451 Unavailable For Legal Reasons\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            if asked.is_ok() && stream.write_all(refusal).await.is_err() {
                break;
            }
        }
    });
    let closed = TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.to_string();
    // the kernel completes connections that nobody ever takes
    let black_hole = TcpListener::bind(("127.0.0.1", 0)).await?;
    let silent = black_hole.local_addr()?.to_string();
    for (address, why) in [
        (foreign_address.as_str(), "does not serve this region (HTTP 451); choose another provider"),
        (&closed, "Connection refused"),
        (&silent, "no answer within 500ms"),
        ("venue.invalid", "was not reached within 1s"),
    ] {
        let words = refused(&stack, address).await.with_context(|| why.to_owned())?;
        assert!(words.contains(&format!("ws://{address}")) && words.contains(why), "{why}: {words}");
        assert!(words.contains("play a recorded session instead of live"), "{words}");
    }
    answering.abort();
    stack.stop().await;
    Ok(())
}

/// Everything a producer says that is to connect there; it must end with 69.
async fn refused(stack: &TestStack, address: &str) -> anyhow::Result<String> {
    let (socket, rest) = (format!("ws://{address}"), format!("http://{address}"));
    let settings = [
        ("provider.websocket_url", socket.as_str()),
        ("provider.rest_url", &rest),
        ("connection.connect_timeout", "500ms"),
        ("connection.give_up_after", "1s"),
    ];
    let spec = stack.service("tick-producer", &settings)?;
    let mut command = Command::new(spec.program);
    command.args(spec.args).envs(spec.env).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(90), command.output()).await.context("it did not end")??;
    let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(69), "{words}");
    Ok(words)
}
