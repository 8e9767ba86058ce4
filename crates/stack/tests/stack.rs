//! The stack with real Kafka and a real registry: it starts, survives kill -9 of anything, keeps its data and names what is in its way.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which the lint's own exception does not reach")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use marketflow_stack::{
    Error, PartSpec, Probe, ProcessIdentity, Snapshot, Stack, StackConfig, StackFile, StackPhase, State, purge, supervisor,
};
use serde_json::{Value, json};

const PARTS: [&str; 2] = ["kafka", "registry"];
const HOME: &str = "MARKETFLOW_STACK_TEST_HOME";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_become_ready_come_back_after_a_crash_and_leave_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let config = StackConfig::for_test(home.path()).unwrap().with_infrastructure(&PARTS);
    let begun = Instant::now();
    let stack = Stack::start(config).await.unwrap();
    println!("ready from nothing in {:.1} s", begun.elapsed().as_secs_f64());
    assert!(stack.status().iter().all(|part| part.state == State::Ready), "{:?}", stack.status());

    let before = pid(&stack, "kafka");
    stack.crash("kafka").unwrap();
    eventually("Kafka is started again", || stack.status()[0].restarts == 1 && stack.status()[0].state == State::Ready).await;
    assert_ne!(pid(&stack, "kafka"), before);

    stack.kill("registry").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stack.status()[1].state, State::Stopped, "a killed part stays down");
    stack.restart("registry").await.unwrap();

    stack.pause("registry").unwrap();
    eventually("a part that stands still is noticed", || stack.status()[1].state == State::NotAnswering).await;
    stack.resume("registry").unwrap();
    eventually("and answers again", || stack.status()[1].state == State::Ready).await;

    let processes: Vec<_> = PARTS.map(|part| ProcessIdentity::read(home.path(), part).unwrap()).to_vec();
    let begun = Instant::now();
    stack.stop().await;
    println!("stopped in {:.1} s", begun.elapsed().as_secs_f64());
    assert!(processes.iter().all(|process| !process.alive()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_supervisor_leaves_data_and_schema_ids_and_the_next_start_recovers() {
    let home = tempfile::tempdir().unwrap();
    let ports = StackConfig::for_test(home.path()).unwrap().ports;
    let text = format!(
        "[ports]\nkafka = {}\nkafka_controller = {}\nregistry = {}\n",
        ports.kafka, ports.kafka_controller, ports.registry
    );
    std::fs::write(home.path().join("stack.toml"), text).unwrap();

    let mut first = start_supervisor(home.path()).await;
    let registry = Snapshot::read(home.path()).unwrap().addresses.registry;
    let ids = [register(&registry, "a").await, register(&registry, "b").await];
    let cluster = cluster_id(home.path());
    let left: Vec<_> = PARTS.map(|part| ProcessIdentity::read(home.path(), part).unwrap()).to_vec();
    assert!(left.iter().all(ProcessIdentity::alive));

    let refused = Stack::start(config_of(home.path())).await.unwrap_err();
    assert!(matches!(refused, Error::AlreadyRunning { pid: Some(pid), .. } if pid == first.id()), "{refused}");

    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(supervisor(home.path()), None);

    let begun = Instant::now();
    let mut second = start_supervisor(home.path()).await;
    println!("recovered in {:.1} s", begun.elapsed().as_secs_f64());
    assert!(left.iter().all(|process| !process.alive()), "nothing of the first run is left");
    assert_eq!(cluster_id(home.path()), cluster);
    // the other order: an id that was counted anew would differ
    let again = [register(&registry, "b").await, register(&registry, "a").await];
    assert_eq!([again[1], again[0]], ids);

    let processes: Vec<_> = PARTS.map(|part| ProcessIdentity::read(home.path(), part).unwrap()).to_vec();
    supervisor(home.path()).unwrap().end(Duration::from_secs(60));
    second.wait().unwrap();
    assert!(processes.iter().all(|process| !process.alive()), "a clean stop ends every part");

    purge(home.path()).await.unwrap();
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["stack.toml"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producer_is_stopped_at_the_disk_cap_the_rest_goes_on_and_what_is_done_stays_so() {
    let home = tempfile::tempdir().unwrap();
    let mut config = StackConfig::for_test(home.path()).unwrap().with_infrastructure(&["kafka"]);
    config.disk_cap_bytes = 1;
    let mut stack = Stack::start(config).await.unwrap();
    // any process will do; it counts as ready as soon as Kafka answers
    let producer = PartSpec {
        name: "tick-producer".into(),
        program: "sleep".into(),
        args: vec!["1000".into()],
        env: Vec::new(),
        folder: None,
        ports: Vec::new(),
        probe: Probe::Kafka { port: stack.config().ports.kafka },
        ready_line: None,
        ready_within: Duration::from_secs(10),
        stop_within: Duration::from_secs(10),
        may_end: false,
    };
    let archiver =
        PartSpec { name: "archiver".into(), program: "true".into(), args: Vec::new(), may_end: true, ..producer.clone() };
    stack.start_service(producer).await.unwrap();
    eventually("the producer is stopped", || stack.status()[1].state == State::Stopped).await;
    assert_eq!(stack.status()[0].state, State::Ready);
    eventually("status says so", || Snapshot::read(home.path()).is_some_and(|state| state.disk.at_cap())).await;
    stack.start_service(archiver).await.unwrap();
    eventually("what has done its work is not started again", || stack.status()[2].state == State::Done).await;
    assert_eq!((stack.status()[2].pid, stack.status()[2].restarts), (None, 0));
    stack.stop().await;
}

#[tokio::test]
async fn port_in_use_is_said_before_anything_starts() {
    let home = tempfile::tempdir().unwrap();
    let config = StackConfig::for_test(home.path()).unwrap().with_infrastructure(&PARTS);
    let port = config.ports.registry;
    let _holder = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let error = Stack::start(config).await.unwrap_err();
    let words = error.to_string();
    for word in [&port.to_string(), &format!("pid {}", std::process::id()), "--registry-port", "stack.toml"] {
        assert!(words.contains(word), "{words}");
    }
    assert_eq!(Snapshot::read(home.path()).unwrap().phase, StackPhase::Failed);
}

/// Not a test of its own: the process the tests above start, kill and recover.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the other tests as the supervisor process"]
async fn supervisor_process() {
    let home = std::env::var(HOME).expect("started by another test");
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    let stack = Stack::start(config_of(Path::new(&home))).await.unwrap();
    stack.mark_ready();
    terminated.recv().await;
    stack.stop().await;
}

fn config_of(home: &Path) -> StackConfig {
    let mut config = StackConfig::new(home).with_infrastructure(&PARTS);
    StackFile::read(home).unwrap().apply(&mut config).unwrap();
    config
}

async fn start_supervisor(home: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "supervisor_process", "--ignored"]).env(HOME, home).stdout(Stdio::null());
    let child = command.spawn().unwrap();
    eventually("the supervisor reports ready", || {
        supervisor(home).is_some_and(|process| process.pid == child.id())
            && Snapshot::read(home).is_some_and(|state| state.phase == StackPhase::Ready)
    })
    .await;
    child
}

async fn register(registry: &str, name: &str) -> u64 {
    let schema = json!({ "type": "record", "name": name, "fields": [] }).to_string();
    let url = format!("{registry}/subjects/{name}/versions");
    let answer: Value =
        reqwest::Client::new().post(url).json(&json!({ "schema": schema })).send().await.unwrap().json().await.unwrap();
    answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

fn cluster_id(home: &Path) -> String {
    let text = std::fs::read_to_string(home.join("kafka/data/meta.properties")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("cluster.id=")).unwrap().to_owned()
}

fn pid(stack: &Stack, part: &str) -> u32 {
    stack.status().iter().find(|status| status.name == part).unwrap().pid.unwrap()
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 180 s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
