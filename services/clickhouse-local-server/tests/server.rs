//! The real server over the real engine, each test with a process and a data folder of its own.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails by panicking, as the test itself does")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clickhouse::{Client, Compression, Row};
use reqwest::{RequestBuilder, StatusCode};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Where the engine library is; without it no test here can run.
fn library() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").unwrap_or_else(|| variable("HOME").unwrap_or_default().join(".cache"));
    let tools = variable("MARKETFLOW_TOOLS").unwrap_or_else(|| cache.join("marketflow/tools"));
    let path = variable("MARKETFLOW_LIBCHDB").unwrap_or_else(|| tools.join("chdb/libchdb.so"));
    assert!(path.is_file(), "the ClickHouse engine is not at {}: run `make setup`", path.display());
    path
}

struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn command(data: &Path, settings: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickhouse-local-server"));
    command.env("MARKETFLOW_LIBCHDB", library()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let data = format!("server.data={}", data.display());
    let own = ["server.listen=127.0.0.1:0", "admin.listen=127.0.0.1:0", "log.format=json", data.as_str()];
    for setting in own.iter().chain(settings) {
        command.args(["--set", setting]);
    }
    command
}

/// Starts a server and waits until it says where it listens.
fn start(data: &Path, settings: &[&str]) -> Server {
    let mut server = Server { child: command(data, settings).spawn().unwrap(), url: String::new() };
    let (sender, lines) = std::sync::mpsc::channel();
    for pipe in
        [Box::new(server.child.stderr.take().unwrap()) as Box<dyn Read + Send>, Box::new(server.child.stdout.take().unwrap())]
    {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                drop(sender.send(line)); // keeps reading, so that the server never blocks on its log
            }
        });
    }
    drop(sender);
    let mut log = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(120);
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Some(at) = line.find("\"listen\":\"") {
            let url = line[at + 10..].split('"').next().unwrap();
            std::thread::spawn(move || lines.into_iter().for_each(drop));
            server.url = format!("http://{url}");
            return server;
        }
        log.push(line);
    }
    panic!("the server does not start: {log:#?}");
}

fn fresh() -> (TempDir, Server) {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &[]);
    (data, server)
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_gzip().no_proxy().build().unwrap()
}

struct Reply {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn code(&self) -> &str {
        self.header("x-clickhouse-exception-code")
    }
}

async fn send(request: RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    Reply { status, headers, body: response.bytes().await.unwrap().to_vec() }
}

impl Server {
    fn post(&self, parameters: &[(&str, &str)], body: impl Into<reqwest::Body>) -> RequestBuilder {
        http().post(&self.url).query(parameters).body(body)
    }

    async fn ask(&self, sql: &str) -> Reply {
        send(self.post(&[], sql.to_owned())).await
    }

    /// Runs a statement that must succeed.
    async fn sql(&self, sql: &str) -> String {
        let reply = self.ask(sql).await;
        assert_eq!(reply.status, StatusCode::OK, "{sql}: {}", reply.text());
        reply.text()
    }

    async fn count(&self, table: &str) -> u64 {
        self.sql(&format!("SELECT count() FROM {table}")).await.trim().parse().unwrap()
    }

    fn terminate(&mut self) -> ExitStatus {
        let id = tell_to_stop(&self.child);
        assert!(id, "the process is there to be told");
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server does not stop");
    }

    fn kill_hard(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Sends SIGTERM through the `kill` program, so that these tests need no unsafe code.
fn tell_to_stop(child: &Child) -> bool {
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within a minute: {what}");
}

#[tokio::test]
async fn health_and_queries_answer_as_clickhouse_does() {
    let (_data, server) = fresh();
    for path in ["/ping", "/replicas_status", "/"] {
        let reply = send(http().get(format!("{}{path}", server.url))).await;
        assert_eq!((reply.status, reply.text().as_str()), (StatusCode::OK, "Ok.\n"), "{path}");
    }
    assert_eq!(send(http().get(format!("{}/nowhere", server.url))).await.status, StatusCode::NOT_FOUND);

    let reply = send(http().get(&server.url).query(&[("query", "SELECT 1 AS a"), ("query_id", "my-id")])).await;
    assert_eq!(reply.text(), "1\n");
    assert_eq!(reply.header("x-clickhouse-query-id"), "my-id");
    assert_eq!(reply.header("x-clickhouse-format"), "TabSeparated");
    assert_eq!(reply.header("content-type"), "text/tab-separated-values; charset=UTF-8");
    assert!(!reply.header("x-clickhouse-timezone").is_empty() && !reply.header("x-clickhouse-server-display-name").is_empty());
    let summary: serde_json::Value = serde_json::from_str(reply.header("x-clickhouse-summary")).unwrap();
    assert_eq!(summary["result_rows"], "1", "{summary}");

    // Query half in the URL, half in the body; formats by clause, parameter and header; database by parameter and header.
    assert_eq!(send(server.post(&[("query", "SELECT")], "2")).await.text(), "2\n");
    assert_eq!(server.sql("SELECT 1 AS a FORMAT JSONEachRow").await, "{\"a\":1}\n");
    assert_eq!(send(server.post(&[("default_format", "CSVWithNames")], "SELECT 'x' AS a")).await.text(), "\"a\"\n\"x\"\n");
    assert_eq!(
        send(server.post(&[], "SELECT 'x' AS a").header("X-ClickHouse-Format", "JSONEachRow")).await.text(),
        "{\"a\":\"x\"}\n"
    );
    assert_eq!(send(server.post(&[("database", "system")], "SELECT currentDatabase()")).await.text(), "system\n");
    assert_eq!(
        send(server.post(&[], "SELECT currentDatabase()").header("X-ClickHouse-Database", "system")).await.text(),
        "system\n"
    );
    assert_eq!(send(server.post(&[("max_threads", "3")], "SELECT getSetting('max_threads')")).await.text(), "3\n");
    assert_eq!(server.sql("SELECT engine FROM system.databases WHERE name = 'default'").await, "Atomic\n");
}

#[tokio::test]
async fn parameters_are_bound_and_not_pasted() {
    let (_data, server) = fresh();
    let evil = "x' OR 1 = 1 --";
    let reply =
        send(server.post(&[("param_s", evil), ("param_n", "42")], "SELECT {s:String} AS s, {n:UInt8} + 1 FORMAT TSVRaw")).await;
    assert_eq!(reply.text(), format!("{evil}\t43\n"));
    assert_eq!(send(server.post(&[("param_a", "[1,2,3]")], "SELECT arraySum({a:Array(UInt8)})")).await.text(), "6\n");
    assert_eq!(send(server.post(&[("param_t", "one")], "SELECT count() FROM system.{t:Identifier}")).await.text(), "1\n");
    assert_eq!(send(server.post(&[], "SELECT {missing:String}")).await.code(), "456");

    // in a form, as the clickhouse crate and clickhouse-connect send them
    let form = |parts: &[(&str, &str)]| {
        let part = |(head, value): &(&str, &str)| format!("--cut\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n");
        let body = parts.iter().map(part).collect::<String>() + "--cut--\r\n";
        http().post(&server.url).header("content-type", "multipart/form-data; boundary=cut").body(body)
    };
    let query = (r#"name="query""#, "SELECT {s:String} AS s, {n:UInt8} + 1 FORMAT TSVRaw");
    let reply = send(form(&[query, (r#"name="param_s""#, evil), (r#"name="param_n""#, "42")])).await;
    assert_eq!(reply.text(), format!("{evil}\t43\n"));
    let named = (r#"name="query""#, "SELECT {out_format:String}");
    let reply = send(form(&[named, (r#"name="param_out_format""#, "x"), (r#"name="default_format""#, "CSV")])).await;
    assert_eq!(reply.text(), "\"x\"\n");
    let external = send(form(&[query, (r#"name="rows"; filename="rows.tsv""#, "1\n")])).await;
    assert_eq!((external.code(), external.status), ("48", StatusCode::NOT_IMPLEMENTED));
    let torn = http().post(&server.url).header("content-type", "multipart/form-data; boundary=cut").body("--cut\r\nContent-Disp");
    assert_eq!(send(torn).await.code(), "36");
    let client = Client::default().with_url(&server.url).with_validation(false);
    let bound = client.query("SELECT concat({s:String}, '!')").param("s", evil).fetch_one::<String>().await.unwrap();
    assert_eq!(bound, format!("{evil}!"));
}

#[tokio::test]
async fn errors_have_the_codes_and_statuses_of_clickhouse() {
    let (_data, server) = fresh();
    for (sql, code, status) in [
        ("SELECT * FROM missing", "60", 404),
        ("SELEC 1", "62", 400),
        ("1", "62", 400),
        ("SELECT 1; SELECT 2", "62", 400),
        ("", "62", 400),
        ("SELECT missing()", "46", 404),
        ("SELECT * FROM missing.t", "81", 404),
        ("SELECT 1 FORMAT Missing", "73", 404),
        ("SELECT throwIf(1)", "395", 500),
        ("SELECT sleepEachRow(1) FROM numbers(5) SETTINGS max_block_size = 1, max_execution_time = 1", "159", 408),
        ("INSERT INTO missing FORMAT CSV\n1", "60", 404),
        ("SELECT 1 INTO OUTFILE '/tmp/never'", "48", 501),
    ] {
        let reply = server.ask(sql).await;
        assert_eq!((reply.code(), reply.status.as_u16()), (code, status), "{sql}: {}", reply.text());
        assert!(reply.text().starts_with(&format!("Code: {code}. DB::Exception: ")), "{}", reply.text());
    }
    assert_eq!(send(server.post(&[("nonsense", "1")], "SELECT 1")).await.code(), "115");
    let get = send(http().get(&server.url).query(&[("query", "CREATE TABLE t (a UInt8) ENGINE = Memory")])).await;
    assert_eq!((get.code(), get.status), ("164", StatusCode::INTERNAL_SERVER_ERROR));
    let get = send(http().get(&server.url).query(&[("query", "INSERT INTO t VALUES (1)")])).await;
    assert_eq!(get.code(), "164");
    // The codes we raise ourselves have the engine's names.
    assert_eq!(
        server.sql("SELECT errorCodeToName(516), errorCodeToName(373), errorCodeToName(202), errorCodeToName(209)").await,
        "AUTHENTICATION_FAILED\tSESSION_IS_LOCKED\tTOO_MANY_SIMULTANEOUS_QUERIES\tSOCKET_TIMEOUT\n"
    );
}

#[tokio::test]
async fn every_format_is_inserted_as_a_stream() {
    let (_data, server) = fresh();
    server.sql("CREATE TABLE t (a UInt32, s String) ENGINE = MergeTree ORDER BY a").await;
    let insert = async |query: &str, body: Vec<u8>| {
        let reply = send(server.post(&[("query", query)], body)).await;
        assert_eq!(reply.status, StatusCode::OK, "{query}: {}", reply.text());
        let summary: serde_json::Value = serde_json::from_str(reply.header("x-clickhouse-summary")).unwrap();
        summary["written_rows"].as_str().unwrap().to_owned()
    };
    // Two line ends in a row inside the rows: appended to SQL text they would end the statement.
    let row = b"\x0a\x0a\x00\x00\x03\n\n;".to_vec();
    assert_eq!(insert("INSERT INTO t FORMAT RowBinary", row.clone()).await, "1");
    let header = b"\x02\x01a\x01s\x06UInt32\x06String".to_vec();
    assert_eq!(insert("INSERT INTO t FORMAT RowBinaryWithNamesAndTypes", [header, row].concat()).await, "1");
    assert_eq!(insert("INSERT INTO t FORMAT JSONEachRow", b"{\"a\":3,\"s\":\"j\"}\n{\"s\":\"k\",\"a\":4}\n".to_vec()).await, "2");
    assert_eq!(insert("INSERT INTO t (s, a) FORMAT CSV", b"c,5\nd,6\n".to_vec()).await, "2");
    let native = send(server.post(&[], "SELECT a, s FROM t ORDER BY a FORMAT Native")).await.body;
    assert_eq!(insert("INSERT INTO t FORMAT Native", native).await, "6");
    assert_eq!(server.count("t").await, 12);
    // Statement and rows in one body; no format named; none in the query but one in the header; no rows at all.
    server.sql("INSERT INTO t VALUES (7, 'v'), (8, concat('a', 'b'))").await;
    assert_eq!(insert("INSERT INTO t VALUES", b"(9, 'w')".to_vec()).await, "1");
    assert_eq!(
        send(server.post(&[("query", "INSERT INTO t")], "{\"a\":10}").header("X-ClickHouse-Format", "JSONEachRow")).await.status,
        200
    );
    assert_eq!(insert("INSERT INTO t FORMAT RowBinary", Vec::new()).await, "0");
    server.sql("INSERT INTO t SELECT number, 'n' FROM numbers(5)").await;
    assert_eq!(server.count("t").await, 21);
    assert_eq!(server.sql("SELECT count() FROM t WHERE s = '\\n\\n;'").await, "4\n");

    let wrong =
        send(server.post(&[("query", "INSERT INTO t FORMAT RowBinaryWithNamesAndTypes")], b"\x01\x01a\x06String\x01x".to_vec()))
            .await;
    assert_ne!(wrong.status, StatusCode::OK, "a header of other types is refused");
    let csv = send(server.post(&[("query", "INSERT INTO t FORMAT CSV")], "x,y\n")).await;
    assert_eq!(csv.status, StatusCode::BAD_REQUEST, "{}", csv.text());
    assert_eq!(server.count("t").await, 21);
}

#[tokio::test]
async fn a_torn_body_inserts_nothing() {
    let (_data, server) = fresh();
    server.sql("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").await;
    let rows: Vec<u8> = (0..1000_u64).flat_map(u64::to_le_bytes).collect();
    // Torn within a row, complete as HTTP.
    let torn = send(server.post(&[("query", "INSERT INTO t FORMAT RowBinary")], rows[..rows.len() - 3].to_vec())).await;
    assert_eq!((torn.code(), torn.status), ("33", StatusCode::INTERNAL_SERVER_ERROR));
    // The connection breaks between two rows: what came is well-formed, and is not all.
    for chunked in [false, true] {
        let mut socket = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
        let length = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", rows.len()) };
        write!(socket, "POST /?query=INSERT+INTO+t+FORMAT+RowBinary HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n").unwrap();
        if chunked {
            write!(socket, "{:x}\r\n", 4000).unwrap();
        }
        socket.write_all(&rows[..4000]).unwrap();
        if chunked {
            write!(socket, "\r\n").unwrap();
        }
        std::thread::sleep(Duration::from_millis(300));
        drop(socket);
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.count("t").await, 0);
    assert_eq!(send(server.post(&[("query", "INSERT INTO t FORMAT RowBinary")], rows)).await.status, StatusCode::OK);
    assert_eq!(server.count("t").await, 1000);
}

#[derive(Row, Serialize, Deserialize, Debug, PartialEq, Clone)]
struct Record {
    id: u64,
    price: i64,
    name: String,
    note: Option<String>,
}

#[tokio::test]
async fn the_clickhouse_crate_inserts_and_reads_with_and_without_lz4() {
    let (_data, server) = fresh();
    for (table, compression) in [("plain", Compression::None), ("packed", Compression::Lz4)] {
        let client = Client::default().with_url(&server.url).with_compression(compression).with_validation(true);
        client
            .query(&format!(
                "CREATE TABLE {table} (id UInt64, price Int64, name String, note Nullable(String)) ENGINE = MergeTree ORDER BY id"
            ))
            .execute()
            .await
            .unwrap();
        let record = |id: u64| Record {
            id,
            price: -(id as i64),
            name: format!("n{id}\n\n"),
            note: id.is_multiple_of(2).then(|| "x".to_owned()),
        };
        let mut insert = client.insert::<Record>(table).await.unwrap();
        for id in 0..200_000 {
            insert.write(&record(id)).await.unwrap();
        }
        insert.end().await.unwrap();
        // More than one block comes back; every block of the engine has a header of its own, the client must see one.
        let mut rows = client.query(&format!("SELECT ?fields FROM {table} ORDER BY id")).fetch::<Record>().unwrap();
        let mut seen = 0;
        while let Some(row) = rows.next().await.unwrap() {
            assert_eq!(row, record(seen));
            seen += 1;
        }
        assert_eq!(seen, 200_000);
        let bound: u64 = client.query("SELECT toUInt64(?) + 1").bind(41_u64).fetch_one().await.unwrap();
        assert_eq!(bound, 42);
        let error = client.query("SELECT * FROM missing").fetch_all::<Record>().await.unwrap_err().to_string();
        assert!(error.contains("Code: 60"), "{error}");
        // A failure after the first bytes were sent is still a failure to the client.
        let failing = "SELECT throwIf(number = 3000000) AS a, number AS b FROM numbers(5000000) SETTINGS max_block_size = 65536";
        let mut rows = client.query(failing).fetch::<(u8, u64)>().unwrap();
        let mut outcome = Ok(());
        let mut count = 0_u64;
        loop {
            match rows.next().await {
                Ok(Some(_)) => count += 1,
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(error.to_string());
                    break;
                }
            }
        }
        assert!(count > 65536, "{count} rows came before the failure");
        assert!(outcome.unwrap_err().contains("Code: 395"), "the reason reaches the client");
    }
}

#[tokio::test]
async fn a_repeated_token_inserts_once_also_after_restart_and_kill() {
    let data = tempfile::tempdir().unwrap();
    let mut server = start(data.path(), &[]);
    server
        .sql("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 1000")
        .await;
    let insert = async |server: &Server, token: &str, value: &str| {
        let reply =
            send(server.post(&[("query", "INSERT INTO t FORMAT CSV"), ("insert_deduplication_token", token)], value.to_owned()))
                .await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    };
    for token in 0..20 {
        insert(&server, &token.to_string(), &token.to_string()).await;
    }
    insert(&server, "3", "999").await;
    assert_eq!(server.count("t").await, 20, "the second insert of token 3 is a repeat");
    server.sql("INSERT INTO t SETTINGS insert_deduplication_token = '4' VALUES (998)").await;
    assert_eq!(server.count("t").await, 20, "the token in the statement works the same");

    assert!(server.terminate().success());
    let mut server = start(data.path(), &[]);
    insert(&server, "3", "999").await;
    assert_eq!(server.count("t").await, 20, "after a restart");
    insert(&server, "new", "20").await;
    server.kill_hard();
    let server = start(data.path(), &[]);
    insert(&server, "new", "999").await;
    assert_eq!(server.count("t").await, 21, "after kill -9");
    // Merges go on after restarts.
    for token in 100..140 {
        insert(&server, &token.to_string(), &token.to_string()).await;
    }
    eventually("background merges reduce 61 inserts to few parts", async || {
        server.sql("SELECT count() FROM system.parts WHERE active AND table = 't'").await.trim().parse::<u32>().unwrap() < 20
    })
    .await;
}

#[tokio::test]
async fn acknowledged_inserts_survive_kill() {
    let data = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..3_u64 {
        let mut server = start(data.path(), &[]);
        server.sql("CREATE TABLE IF NOT EXISTS t (a UInt64) ENGINE = MergeTree ORDER BY a").await;
        assert_eq!(server.count("t").await, acknowledged, "before round {round}");
        let address = server.url.clone();
        let (first, first_acknowledged) = tokio::sync::oneshot::channel();
        let inserts = tokio::spawn(async move {
            let client = http();
            let (mut done, mut first) = (0_u64, Some(first));
            for _ in 0..10_000 {
                let request = client.post(&address).query(&[("query", "INSERT INTO t FORMAT CSV")]).body("1\n2\n3\n");
                match request.send().await {
                    Ok(reply) if reply.status() == StatusCode::OK => done += 3,
                    _ => break,
                }
                if let Some(first) = first.take() {
                    first.send(()).unwrap();
                }
            }
            done
        });
        first_acknowledged.await.unwrap();
        // in the middle of one of those that follow
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.kill_hard();
        let done = inserts.await.unwrap();
        // One insert may have been stored without its acknowledgement having left.
        let server = start(data.path(), &[]);
        let stored = server.count("t").await;
        assert!(stored == acknowledged + done || stored == acknowledged + done + 3, "{stored} stored, {done} acknowledged");
        acknowledged = stored;
    }
}

#[tokio::test]
async fn a_read_only_user_reads_tables_and_nothing_else() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &["users.reader.password=secret", "users.default.password=root"]);
    let as_user = |user: &str, password: &str, sql: &str| {
        http().post(&server.url).header("X-ClickHouse-User", user).header("X-ClickHouse-Key", password).body(sql.to_owned())
    };
    let root = async |sql: &str| send(as_user("default", "root", sql)).await;
    assert_eq!(root("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").await.status, StatusCode::OK);
    assert_eq!(root("INSERT INTO t VALUES (1)").await.status, StatusCode::OK);

    // Who one is.
    assert_eq!(send(http().post(&server.url).body("SELECT 1")).await.status, StatusCode::UNAUTHORIZED);
    for (user, password) in [("reader", "wrong"), ("nobody", ""), ("default", "secret")] {
        let reply = send(as_user(user, password, "SELECT 1")).await;
        assert_eq!((reply.code(), reply.status), ("516", StatusCode::FORBIDDEN), "{user}");
    }
    assert_eq!(send(http().post(&server.url).basic_auth("reader", Some("secret")).body("SELECT 1")).await.text(), "1\n");
    assert_eq!(
        send(http().get(&server.url).query(&[("user", "reader"), ("password", "secret"), ("query", "SELECT 2")])).await.text(),
        "2\n"
    );

    // What a reader may.
    let read = async |sql: &str| send(as_user("reader", "secret", sql)).await;
    for sql in [
        "SELECT sum(a) FROM t",
        "SELECT sum(a) FROM default.t SETTINGS max_threads = 2",
        "WITH 1 AS x SELECT x FROM numbers(1)",
        "SHOW TABLES",
        "DESCRIBE TABLE t",
        "SELECT format('{}', 1), * APPLY(toString) FROM t",
        "EXISTS t",
        "EXPLAIN SELECT * FROM t",
        "SELECT count() FROM system.parts",
    ] {
        let reply = read(sql).await;
        assert_eq!(reply.status, StatusCode::OK, "{sql}: {}", reply.text());
    }
    // And may not: writing by any way, and reaching out by any way.
    for sql in [
        "INSERT INTO t VALUES (2)",
        "CREATE TABLE u (a UInt64) ENGINE = Memory",
        "CREATE TEMPORARY TABLE u (a String) ENGINE = File(LineAsString, '/etc/hostname')",
        "DROP TABLE t",
        "ALTER TABLE t DELETE WHERE 1",
        "SET readonly = 0",
        "KILL QUERY WHERE 1",
        "SYSTEM FLUSH LOGS",
        "SELECT * FROM t INTO OUTFILE '/tmp/never'",
        "SELECT * FROM t SETTINGS readonly = 0",
        "SELECT * FROM file('/etc/hostname', LineAsString)",
        "SELECT * FROM FILE('/etc/hostname', 'LineAsString')",
        "SELECT * FROM `file`('/etc/hostname', LineAsString)",
        "SELECT file('/etc/hostname')",
        "SELECT * APPLY(file) FROM (SELECT '/etc/hostname' AS a)",
        "SELECT COLUMNS('a') APPLY(x -> file(x)) FROM (SELECT '/etc/hostname' AS a)",
        "SELECT arrayMap(x -> file(x), ['/etc/hostname'])",
        "SELECT arrayMap(file, ['/etc/hostname'])",
        "EXPLAIN QUERY TREE SELECT arrayMap(file, ['/etc/hostname'])",
        "WITH file AS f SELECT arrayMap(f, ['/etc/hostname'])",
        "SELECT COLUMNS('a') APPLY(x -> arrayMap(file, [x])) FROM (SELECT '/etc/hostname' AS a)",
        "DESCRIBE TABLE url('http://127.0.0.1:1/', CSV)",
        "SELECT * FROM (SELECT * FROM url('http://127.0.0.1:1/', CSV, 'a String'))",
        "SELECT (SELECT count() FROM url('http://127.0.0.1:1/', CSV, 'a String'))",
        "WITH x AS (SELECT * FROM url('http://127.0.0.1:1/', CSV, 'a String')) SELECT * FROM x",
        "SELECT 1 IN (SELECT 1 FROM remote('127.0.0.2', system.one))",
        "SELECT * FROM executable('id', TSV, 'a String')",
        "SELECT * FROM loop(file('/etc/hostname', LineAsString))",
        "SELECT * FROM view(SELECT * FROM file('/etc/hostname', LineAsString))",
        "SELECT * FROM eval('SELECT 1')",
        "EXPLAIN SELECT * FROM url('http://127.0.0.1:1/', CSV, 'a String')",
        "EXPLAIN AST SELECT file('x')",
        "SELECT * FROM \"/etc/hostname\"",
        "SELECT * FROM default.\"/etc/hostname\"",
        "SELECT * FROM '/etc/hostname'",
        "SELECT hasColumnInTable('127.0.0.2', 'system', 'one', 'dummy')",
        "SELECT 1; DROP TABLE t",
    ] {
        let reply = read(sql).await;
        assert_ne!(reply.status, StatusCode::OK, "{sql}: {}", reply.text());
        assert!(["60", "62", "164", "497", "46", "47"].contains(&reply.code()), "{sql}: {}", reply.text());
    }
    let denied = read("SELECT * FROM file('/etc/hostname', LineAsString)").await;
    assert_eq!((denied.code(), denied.status), ("497", StatusCode::FORBIDDEN));
    let lifted = http().post(&server.url).query(&[("readonly", "0")]).basic_auth("reader", Some("secret")).body("SELECT 1");
    assert_eq!(send(lifted).await.code(), "164", "the URL does not lift it either");
    let reading = http().post(&server.url).query(&[("param_f", "/etc/hostname")]).basic_auth("reader", Some("secret"));
    assert_eq!(send(reading.body("SELECT * FROM file({f:String}, LineAsString)")).await.code(), "497");
    let naming = http().post(&server.url).query(&[("param_f", "file")]).basic_auth("reader", Some("secret"));
    assert_eq!(send(naming.body("SELECT arrayMap({f:Identifier}, ['/etc/hostname'])")).await.code(), "497");
    assert_eq!(root("SELECT count() FROM t").await.text(), "1\n");
}

#[tokio::test]
async fn requests_and_responses_are_compressed_each_way() {
    use std::io::Cursor;
    let (_data, server) = fresh();
    server.sql("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").await;
    let csv: Vec<u8> = (0..50_000_u64).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let deflate = |bytes: &[u8]| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let lz4 = |bytes: &[u8]| {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let bodies = [
        ("gzip", gzip(&csv)),
        ("deflate", deflate(&csv)),
        ("zstd", zstd::encode_all(Cursor::new(&csv), 1).unwrap()),
        ("lz4", lz4(&csv)),
    ];
    for (coding, body) in bodies {
        let insert = server.post(&[("query", "INSERT INTO t FORMAT CSV")], body.clone()).header("Content-Encoding", coding);
        let reply = send(insert).await;
        assert_eq!(reply.status, StatusCode::OK, "{coding}: {}", reply.text());
        let torn = server
            .post(&[("query", "INSERT INTO t FORMAT CSV")], body[..body.len() - 9].to_vec())
            .header("Content-Encoding", coding);
        assert_ne!(send(torn).await.status, StatusCode::OK, "torn {coding}");
        let text = send(server.post(&[], "SELECT a FROM t ORDER BY a LIMIT 50000").header("Accept-Encoding", coding)).await;
        assert_eq!(text.header("content-encoding"), coding);
        let plain = match coding {
            "gzip" => read_all(flate2::read::GzDecoder::new(text.body.as_slice())),
            "deflate" => read_all(flate2::read::ZlibDecoder::new(text.body.as_slice())),
            "zstd" => zstd::decode_all(text.body.as_slice()).unwrap(),
            _ => read_all(lz4_flex::frame::FrameDecoder::new(text.body.as_slice())),
        };
        assert_eq!(plain.iter().filter(|&&byte| byte == b'\n').count(), 50_000, "{coding}");
        server.sql("TRUNCATE TABLE t").await;
    }
    // ClickHouse's own blocks: what compress=1 gave is taken back by decompress=1; a flipped bit is noticed.
    server.sql("INSERT INTO t SELECT number FROM numbers(300000)").await;
    let blocks = send(server.post(&[("compress", "1")], "SELECT a FROM t FORMAT RowBinary")).await;
    assert_eq!(blocks.header("content-encoding"), "");
    assert_ne!(blocks.body.len(), 300_000 * 8);
    assert_eq!(
        send(server.post(&[("decompress", "1"), ("query", "INSERT INTO t FORMAT RowBinary")], blocks.body.clone())).await.status,
        200
    );
    assert_eq!(server.count("t").await, 600_000);
    let mut damaged = blocks.body;
    damaged[40] ^= 1;
    assert_ne!(send(server.post(&[("decompress", "1"), ("query", "INSERT INTO t FORMAT RowBinary")], damaged)).await.status, 200);
    assert_eq!(server.count("t").await, 600_000);
    let off = server.post(&[("enable_http_compression", "0")], "SELECT 1").header("Accept-Encoding", "gzip");
    assert_eq!(send(off).await.header("content-encoding"), "");
    assert_eq!(send(server.post(&[], "SELECT 1").header("Content-Encoding", "br")).await.code(), "48");
}

fn read_all(mut reader: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    all
}

#[tokio::test]
async fn results_are_streamed_or_held_as_asked() {
    let (_data, server) = fresh();
    let rows = "SELECT number AS n FROM numbers(3000000)";
    let text = server.sql(rows).await;
    assert_eq!(text.lines().count(), 3_000_000);
    for (format, extra) in [("TSVWithNames", 1), ("TSVWithNamesAndTypes", 2), ("CSVWithNames", 1), ("JSONEachRow", 0)] {
        assert_eq!(server.sql(&format!("{rows} FORMAT {format}")).await.lines().count(), 3_000_000 + extra, "{format}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&server.sql("SELECT number AS n FROM numbers(200000) FORMAT JSON").await).unwrap();
    assert_eq!((json["rows"].as_u64(), json["data"].as_array().unwrap().len()), (Some(200_000), 200_000));
    let totals =
        server.sql("SELECT number % 2 AS a, count() FROM numbers(10) GROUP BY a WITH TOTALS ORDER BY a FORMAT JSON").await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&totals).unwrap()["totals"]["count()"], 10);

    let failing = "SELECT throwIf(number = 2900000), number FROM numbers(3000000)";
    let streamed = server.post(&[], failing).send().await.unwrap();
    assert_eq!(streamed.status(), StatusCode::OK, "the failure comes after the first bytes");
    assert!(streamed.bytes().await.is_err(), "and cuts the connection");
    let small = "SELECT throwIf(number = 50), number FROM numbers(100) SETTINGS max_block_size = 1";
    assert_eq!(server.ask(small).await.code(), "395", "what is small is held until the query has ended");
    let eager = server.post(&[("wait_end_of_query", "0")], small).send().await.unwrap();
    assert_eq!(eager.status(), StatusCode::OK, "unless each piece is asked for at once");
    let eager = server.post(&[("wait_end_of_query", "0")], small).header("Accept-Encoding", "zstd").send().await.unwrap();
    assert_eq!(eager.status(), StatusCode::OK, "also through compression");
    let held = send(server.post(&[("wait_end_of_query", "1")], failing)).await;
    assert_eq!((held.code(), held.status), ("395", StatusCode::INTERNAL_SERVER_ERROR));
    let held = send(server.post(&[("wait_end_of_query", "1")], rows)).await;
    let summary: serde_json::Value = serde_json::from_str(held.header("x-clickhouse-summary")).unwrap();
    assert_eq!(summary["result_rows"], "3000000", "held whole, the summary is complete");
}

#[tokio::test]
async fn native_carries_block_information_for_clients_with_a_protocol_version() {
    let (_data, server) = fresh();
    let sql = "SELECT toUInt8(number) AS n, [toString(n), 'x'] AS a, map('k', (n, 'v')) AS m, toDecimal128(n, 8) AS d, \
               if(n = 1, NULL, toDateTime64(n, 6, 'UTC')) AS t, CAST((1, 'y'), 'Tuple(a UInt8, `b c` String)') AS p, \
               toLowCardinality(toString(n)) AS l, [toLowCardinality(if(n = 1, NULL, 'z'))] AS al, \
               map(toLowCardinality('k'), n) AS ml FROM numbers(3) FORMAT Native";
    let plain = send(server.post(&[], sql)).await.body;
    let versioned = send(server.post(&[("client_protocol_version", "54405")], sql)).await.body;
    assert_eq!(versioned, [&[1, 0, 2, 255, 255, 255, 255, 0], plain.as_slice()].concat());
    let flagged = send(server.post(&[("client_protocol_version", "54460")], sql)).await.body;
    assert_eq!(flagged.len(), versioned.len() + 9, "one flag for each column");
    let odd = "SELECT '{}'::JSON AS j FORMAT Native";
    let old = send(server.post(&[("client_protocol_version", "54405")], odd)).await.body;
    assert_eq!(old[..8], [1, 0, 2, 255, 255, 255, 255, 0]);
    assert_eq!(send(server.post(&[("client_protocol_version", "54460")], odd)).await.code(), "48");
}

#[tokio::test]
async fn sessions_keep_tables_and_settings_but_not_those_of_one_request() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &["limits.session_timeout=1s"]);
    let in_session = async |sql: &str, more: &[(&str, &str)]| {
        let mut parameters = vec![("session_id", "s1"), ("session_timeout", "60")];
        parameters.extend(more);
        send(server.post(&parameters, sql.to_owned())).await
    };
    assert_eq!(in_session("CREATE TEMPORARY TABLE temporary (a UInt8)", &[]).await.status, 200);
    assert_eq!(in_session("INSERT INTO temporary VALUES (1)", &[]).await.status, 200);
    assert_eq!(in_session("SET max_threads = 5", &[]).await.status, 200);
    assert_eq!(
        in_session("SELECT getSetting('max_threads'), currentDatabase()", &[("max_threads", "7"), ("database", "system")])
            .await
            .text(),
        "7\tsystem\n"
    );
    assert_eq!(
        in_session("SELECT count(), getSetting('max_threads'), currentDatabase() FROM temporary", &[]).await.text(),
        "1\t5\tdefault\n"
    );
    assert_eq!(server.ask("SELECT * FROM temporary").await.code(), "60", "other requests do not see it");
    assert_eq!(send(server.post(&[("session_id", "none"), ("session_check", "1")], "SELECT 1")).await.code(), "372");
    let slow = server.post(&[("session_id", "s1")], "SELECT sleep(1)").send();
    let (slow, busy) = tokio::join!(slow, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        in_session("SELECT 1", &[]).await
    });
    assert_eq!((slow.unwrap().status().as_u16(), busy.code()), (200, "373"));
}

#[tokio::test]
async fn a_query_whose_client_left_is_cancelled() {
    let (_data, server) = fresh();
    server.sql("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").await;
    let running = async || {
        let sql = "SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%' AND query NOT LIKE '%system.processes%'";
        server.sql(sql).await.trim().parse::<u32>().unwrap()
    };
    // One that has not answered yet, and one that has begun to.
    let silent = tokio::spawn(server.post(&[], "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)").send());
    let mut begun = server.post(&[], "SELECT sipHash64(number) FROM numbers(1000000000000)").send().await.unwrap();
    assert!(begun.chunk().await.unwrap().is_some());
    eventually("both run", async || running().await == 2).await;
    silent.abort();
    drop(begun);
    eventually("none runs", async || running().await == 0).await;
}

#[tokio::test]
async fn too_many_queries_wait_and_are_then_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path(), &["limits.concurrent_queries=2", "limits.queue_wait=300ms"]);
    let slow = || server.post(&[], "SELECT sleep(1.5)").send();
    let (first, second, third) = tokio::join!(slow(), slow(), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.ask("SELECT 1").await
    });
    assert_eq!((first.unwrap().status(), second.unwrap().status()), (StatusCode::OK, StatusCode::OK));
    assert_eq!(third.code(), "202");
    assert!(third.text().contains("limits.concurrent_queries"), "{}", third.text());
    assert_eq!(server.sql("SELECT 1").await, "1\n");
}

#[tokio::test]
async fn sigterm_lets_queries_finish_and_closes_the_folder() {
    let data = tempfile::tempdir().unwrap();
    let mut server = start(data.path(), &[]);
    server.sql("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").await;
    let slow = tokio::spawn(server.post(&[], "INSERT INTO t SELECT number + sleepEachRow(0.5) FROM numbers(3)").send());
    tokio::time::sleep(Duration::from_millis(400)).await;
    let status = server.terminate();
    assert!(status.success(), "{status}");
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::OK, "the running insert was finished");
    let mut server = start(data.path(), &["limits.drain=500ms"]);
    assert_eq!(server.count("t").await, 3);
    let endless = tokio::spawn(server.post(&[], "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)").send());
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(server.terminate().success(), "an endless query is cancelled after the drain time");
    drop(endless.await);
}

#[test]
fn one_process_has_a_folder_and_other_versions_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let first = start(data.path(), &[]);
    let refused = |data: &Path| {
        let output = command(data, &[]).output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned()
    };
    let said = refused(data.path());
    assert!(said.contains(&first.child.id().to_string()) && said.contains("server.data"), "{said}");

    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(other.path().join("chdb-25.8/store")).unwrap();
    let said = refused(other.path());
    assert!(said.contains("chdb-25.8") && said.contains("libchdb.so"), "{said}");
    drop(first);
    start(data.path(), &[]);
}
