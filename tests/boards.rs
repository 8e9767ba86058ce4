//! What people read and watch: every query of the cookbook, the runbook and the boards runs and answers; every expression parses and names
//! metrics, labels and values that the code has; every alert has its page and its test.

use marketflow_clickhouse::{ClickHouse, ClickHouseConfig};
use marketflow_testkit::TestStack;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A part of every board's time range that the rows of the test lie in.
const RANGE: (&str, &str) = ("2026-11-01 00:00:00", "2026-12-02 00:00:00");

pub(crate) async fn every_query_runs(stack: &TestStack) {
    let cookbook = read("docs/queries.md");
    let queries: Vec<&str> = blocks(&cookbook, "sql").collect();
    assert!(queries.len() >= 30, "docs/queries.md: {} queries", queries.len());
    for sql in queries {
        ask(stack, sql).await;
    }
    let pages = files("docs/runbook", ".md").into_iter().chain(["docs/clickhouse.md".to_owned()]);
    let mut told = 0;
    for page in pages {
        for sql in read(&page).split("marketflow sql \"").skip(1).filter_map(|rest| rest.split('"').next()) {
            ask(stack, sql).await;
            told += 1;
        }
    }
    assert!(told >= 5, "the runbook tells {told} queries");
}

/// curl, with the query as the body and as a form, and clickhouse-connect: what they print is what our own client is told.
pub(crate) async fn the_cookbook_runs_in_other_clients(stack: &TestStack) {
    let address = stack.addresses().clickhouse;
    let cookbook = read("docs/queries.md");
    for sql in blocks(&cookbook, "sql") {
        let expected = ask(stack, sql).await;
        let url = format!("{address}/?user=reader&default_format=TabSeparated");
        let posted = printed(Command::new("curl").args(["-sS", "--fail-with-body", &url, "--data-binary", sql]));
        let form =
            printed(Command::new("curl").args(["-sS", "--fail-with-body", &url, "--form-string", &format!("query={sql}")]));
        for (how, answer) in [("as the body", posted), ("as a form", form)] {
            let sorted = |answer: &str| {
                let mut lines: Vec<String> = answer.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(&answer), sorted(&expected), "{sql}: {how}");
        }
    }
    let script = "tests/python/cookbook_check.py";
    let python = marketflow_stack::tools_folder().join("python/bin/python");
    let said = printed(Command::new(python).args([script, &address, "docs/queries.md"]));
    let (queries, _) = said.trim().split_once(" queries").unwrap_or_else(|| panic!("{script}: {said}"));
    assert_eq!(queries.parse(), Ok(blocks(&cookbook, "sql").count()), "{said}");
}

fn printed(program: &mut Command) -> String {
    let output = program.current_dir(root()).output().unwrap_or_else(|e| panic!("{program:?}: {e}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

pub(crate) async fn every_panel_shows_rows(stack: &TestStack) {
    let mut empty = BTreeSet::new();
    for (file, board) in boards() {
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for variable in list(&board["templating"]["list"]) {
            let value = match variable["type"].as_str() {
                // what Grafana shows first: the first value of the list
                Some("query") => ask(stack, text(&variable["query"])).await.lines().next().unwrap_or_default().to_owned(),
                _ => text(&variable["current"]["value"]).to_owned(),
            };
            assert!(!value.is_empty(), "{file}: variable {} has no value", variable["name"]);
            values.insert(text(&variable["name"]).to_owned(), value);
        }
        // the instrument of which the test has everything
        values.entry("instrument".to_owned()).and_modify(|value| "KRX:035420".clone_into(value));
        for (panel, target) in targets(&board, "grafana-clickhouse-datasource") {
            let sql = expanded(text(&target["rawSql"]), &values);
            let answer = ask(stack, &sql).await;
            if answer.trim().is_empty() {
                empty.insert(format!("{file}: {}: {sql}", text(&panel["title"])));
            }
        }
    }
    assert!(empty.is_empty(), "panels without rows:\n{}", empty.into_iter().collect::<Vec<_>>().join("\n"));
}

/// Asks as the boards do: as the user who may only read.
async fn ask(stack: &TestStack, sql: &str) -> String {
    let config = ClickHouseConfig { user: "reader".to_owned(), ..ClickHouseConfig::new(stack.addresses().clickhouse) };
    let answer = ClickHouse::new(&config).text("ask as a reader", sql, "TabSeparated").await;
    answer.unwrap_or_else(|problem| panic!("{sql}: {:#}", anyhow::Error::from(problem)))
}

/// Grafana's macros and variables as it would fill them in.
fn expanded(sql: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once("$__timeFilter(") {
        let (column, after) = after.split_once(')').expect("the macro is closed");
        out.push_str(before);
        out.push_str(&format!("{column} >= toDateTime('{}', 'UTC') AND {column} <= toDateTime('{}', 'UTC')", RANGE.0, RANGE.1));
        rest = after;
    }
    out.push_str(rest);
    for (name, value) in values {
        out = out.replace(&format!("${{{name}}}"), value);
    }
    assert!(!out.contains('$'), "a macro or variable nobody fills in: {out}");
    out
}

#[test]
fn boards_are_whole() {
    let sources = read("grafana/provisioning/datasources/marketflow.yml");
    let mut uids = BTreeSet::new();
    for (file, board) in boards() {
        assert!(uids.insert(text(&board["uid"]).to_owned()), "{file}: its uid is another board's");
        assert_eq!(
            format!("{}.json", text(&board["uid"])),
            file.rsplit('/').next().expect("a name"),
            "a board's file is its uid"
        );
        assert!(board["schemaVersion"].as_i64() >= Some(39), "{file}");
        assert!(korean(text(&board["title"])), "{file}: its title is English and Korean");
        let panels = list(&board["panels"]);
        let mut ids = BTreeSet::new();
        let mut taken: Vec<[i64; 4]> = Vec::new();
        for panel in panels {
            let title = text(&panel["title"]);
            assert!(ids.insert(panel["id"].as_i64()), "{file}: {title}: its id is taken");
            assert!(korean(title) || title == "CPU", "{file}: {title}: English and Korean");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_i64().expect("a number"));
            assert!(w > 0 && h > 0 && x >= 0 && x + w <= 24, "{file}: {title} is outside of the grid");
            let over = taken.iter().any(|[tx, ty, tw, th]| x < tx + tw && *tx < x + w && y < ty + th && *ty < y + h);
            assert!(!over, "{file}: {title} lies over another panel");
            taken.push([x, y, w, h]);
            assert!(!list(&panel["targets"]).is_empty(), "{file}: {title} asks nothing");
            for target in list(&panel["targets"]) {
                let uid = text(&target["datasource"]["uid"]);
                assert!(sources.contains(&format!("uid: {uid}\n")), "{file}: {title}: no data source {uid}");
                assert!(sources.contains(&format!("type: {}", text(&target["datasource"]["type"]))), "{file}: {title}");
            }
        }
    }
    assert!(uids.len() >= 4, "{uids:?}");
}

#[test]
fn metrics_are_those_the_services_export() {
    let exported = exported();
    let documented: BTreeSet<String> = read("docs/metrics.md")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned()))
        .filter(|name| name.starts_with("marketflow_"))
        .collect();
    assert_eq!(documented, exported, "docs/metrics.md lists other metrics than the code");
}

#[test]
fn expressions_parse_and_name_what_is_there() {
    let expressions = expressions();
    assert!(expressions.len() >= 30, "{}", expressions.len());
    let exported = exported();
    let code = sources();
    for (place, expression) in &expressions {
        for name in words(expression).filter(|word| word.starts_with("marketflow_")) {
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(exported.contains(name) || exported.contains(base), "{place}: nothing exports {name}");
        }
        // label values, such as outcome="committed": the code must know them; jobs are in prometheus.yml
        for matcher in expression.split(['{', ',']).filter(|part| part.contains("=\"") || part.contains("~\"")) {
            let (label, value) = matcher.split_once('"').expect("a matcher");
            let value = value.split('"').next().unwrap_or_default();
            let label = label.trim_end_matches(['=', '~', '!']).trim();
            if matches!(label, "fstype" | "mountpoint") || value.contains(['$', '*', '(']) {
                continue;
            }
            for value in value.split('|') {
                let known = match label {
                    "job" => read("prometheus/prometheus.yml").contains(&format!("job_name: {value}\n")),
                    _ => code.contains(&format!("\"{value}\"")),
                };
                assert!(known, "{place}: nothing says {label}=\"{value}\"");
            }
        }
    }
    // promtool parses each as a recording rule
    let rules: Vec<String> = expressions
        .iter()
        .enumerate()
        .map(|(n, (_, expression))| {
            let quoted = expression.replace("$__rate_interval", "5m").replace('\'', "''").replace('\n', " ");
            format!("  - record: parsed:{n}\n    expr: '{quoted}'\n")
        })
        .collect();
    let file = std::env::temp_dir().join(format!("marketflow-expressions-{}.yml", std::process::id()));
    std::fs::write(&file, format!("groups:\n- name: parsed\n  rules:\n{}", rules.concat()))
        .expect("a file in the temporary folder");
    promtool(&["check", "rules", file.to_str().expect("a plain path")]);
    std::fs::remove_file(&file).expect("it was there");
}

#[test]
fn alerts_hold_and_each_has_its_page_and_its_test() {
    promtool(&["check", "config", "prometheus/prometheus.yml"]);
    promtool(&["test", "rules", "prometheus/alerts.test.yml"]);
    let rules = read("prometheus/alerts.yml");
    let tests = read("prometheus/alerts.test.yml");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 12, "{}", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap_or_default().trim();
        let page = alert.lines().find_map(|line| line.trim().strip_prefix("runbook: ")).unwrap_or_default();
        assert!(read(page).contains(name), "{name}: {page} does not name it");
        assert!(alert.contains("summary_ko:"), "{name} has no Korean words");
        assert!(tests.contains(&format!("alertname: {name}\n        exp_alerts:\n")), "no test in which {name} fires");
    }
}

/// Every `MARKETFLOW__SECTION__KEY`, program and admin port named for containers is one of the services' own.
#[test]
fn compose_and_kubernetes_name_keys_programs_and_ports_that_exist() {
    let defaults: Vec<toml::Table> = [files("services", "default.toml"), files("services", "candles.toml")]
        .concat()
        .iter()
        .map(|file| read(file).parse().unwrap_or_else(|e| panic!("{file}: {e}")))
        .collect();
    let manifests: Vec<String> = files("services", "Cargo.toml").iter().map(|file| read(file)).collect();
    let mut keys = 0;
    for file in files("k8s", ".yaml").into_iter().chain(["docker-compose.yml".to_owned()]) {
        let lines = read(&file);
        for word in words(&lines).filter_map(|word| word.strip_prefix("MARKETFLOW__")) {
            let (section, key) = word.split_once("__").unwrap_or_else(|| panic!("{file}: {word}"));
            let (section, key) = (section.to_lowercase(), key.to_lowercase());
            let known = defaults.iter().any(|default| default.get(&section).is_some_and(|section| section.get(&key).is_some()));
            assert!(known, "{file}: no service has a key {section}.{key}");
            keys += 1;
        }
        for line in lines.lines() {
            let ours = line.trim().strip_prefix("command: [").filter(|command| !command.starts_with("--"));
            if let Some(program) = ours.and_then(|command| command.split([',', ']']).next()) {
                assert!(manifests.iter().any(|m| m.contains(&format!("name = \"{program}\""))), "{file}: no program {program}");
            }
            if let Some((_, port)) = line.split_once("0.0.0.0:91").filter(|_| line.contains("ADMIN__LISTEN")) {
                let port = format!(":91{}", &port[..2]);
                let default =
                    |default: &toml::Table| default["admin"]["listen"].as_str().is_some_and(|listen| listen.ends_with(&port));
                assert!(defaults.iter().any(default), "{file}: no service listens on {port}");
            }
        }
    }
    assert!(keys > 20, "{keys} keys");
}

// --- what is compared ------------------------------------------------------------------------------------------------------------

/// Every expression of documents, rules and boards, with the place it stands at.
fn expressions() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> =
        blocks(&read("docs/metrics.md"), "promql").map(|block| ("docs/metrics.md".to_owned(), block.trim().to_owned())).collect();
    let rules = read("prometheus/alerts.yml");
    let mut lines = rules.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(first) = line.trim().strip_prefix("expr: ") else { continue };
        let mut expression = if first == ">" { String::new() } else { first.to_owned() };
        while let Some(more) = lines.next_if(|next| first == ">" && next.starts_with("          ")) {
            expression = format!("{expression} {}", more.trim());
        }
        found.push(("prometheus/alerts.yml".to_owned(), expression.trim().to_owned()));
    }
    for (file, board) in boards() {
        found.extend(targets(&board, "prometheus").map(|(_, target)| (file.clone(), text(&target["expr"]).to_owned())));
    }
    found
}

/// The metrics named in the services' and the runtime's `metrics.rs`.
fn exported() -> BTreeSet<String> {
    let shared = ["crates/runtime/src/metrics.rs", "crates/access/src/metrics.rs"].map(str::to_owned);
    let folders = files("services", "metrics.rs").into_iter().chain(shared);
    folders
        .flat_map(|file| {
            let text = read(&file);
            let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
            text.split('"')
                .skip(1)
                .step_by(2)
                .filter(|word| word.starts_with("marketflow_") && !word.contains(' '))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// All of the services' code.
fn sources() -> String {
    files("services", ".rs").iter().map(|file| read(file)).collect()
}

fn boards() -> Vec<(String, Json)> {
    let boards = files("grafana/dashboards", ".json");
    assert!(!boards.is_empty());
    boards
        .into_iter()
        .map(|file| (file.clone(), serde_json::from_str(&read(&file)).unwrap_or_else(|e| panic!("{file}: {e}"))))
        .collect()
}

fn targets<'a>(board: &'a Json, source: &'a str) -> impl Iterator<Item = (&'a Json, &'a Json)> {
    let panels = list(&board["panels"]).iter();
    panels
        .flat_map(|panel| list(&panel["targets"]).iter().map(move |target| (panel, target)))
        .filter(move |(_, target)| target["datasource"]["type"] == source)
}

/// The contents of a document's fenced blocks of a language.
fn blocks<'a>(document: &'a str, language: &'a str) -> impl Iterator<Item = &'a str> {
    document.split("\n```").filter_map(move |part| part.strip_prefix(language)?.strip_prefix('\n'))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

fn korean(text: &str) -> bool {
    text.chars().any(|c| ('가'..='힣').contains(&c))
}

fn list(value: &Json) -> &Vec<Json> {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

fn text(value: &Json) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

fn promtool(arguments: &[&str]) {
    let fetched = marketflow_stack::tools_folder().join("promtool/promtool");
    let program = if fetched.is_file() { fetched } else { PathBuf::from("promtool") };
    let run = Command::new(program).args(arguments).current_dir(root()).output();
    let run = run.unwrap_or_else(|e| panic!("promtool: {e}; `make setup` fetches it"));
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "promtool {}: {said}", arguments.join(" "));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the project").to_owned()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Files below a folder whose name ends so, in order.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap_or_else(|e| panic!("{folder}: {e}")) {
            let entry = entry.expect("a readable folder");
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
