//! The picture of the code holds: who depends on whom, the reading order, and that what the documents promise exists.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates that decide and touch nothing: no socket, no clock, no environment.
const PURE: [&str; 6] = ["model", "providers", "pacing", "contract", "engine", "oracle"];

/// Which of our crates a library may use. Services may use any of them, but never another service.
const ARROWS: [(&str, &[&str]); 13] = [
    ("model", &[]),
    ("providers", &["model"]),
    ("pacing", &["model"]),
    ("contract", &["model"]),
    ("engine", &["model"]),
    ("oracle", &["model"]),
    ("kafka", &["model", "contract"]),
    ("clickhouse", &["model"]),
    ("archive", &["model", "contract", "runtime"]),
    ("access", &["model", "providers", "pacing", "runtime"]),
    ("metadata", &["runtime"]),
    ("runtime", &[]),
    ("stack", &[]),
];

#[test]
fn crates_depend_as_in_the_picture() {
    let workspace = Workspace::read();
    let ours = |name: &str| name.strip_prefix("marketflow-").map(str::to_owned);
    for (package, folder) in &workspace.members {
        let name = ours(package).unwrap_or_else(|| panic!("{package} lacks the prefix"));
        let uses: BTreeSet<String> = workspace.direct(package).iter().filter_map(|d| ours(d)).collect();
        let services: BTreeSet<String> =
            workspace.members.iter().filter(|(_, f)| f.starts_with("services/")).filter_map(|(p, _)| ours(p)).collect();
        match folder.split('/').next() {
            Some("crates") if name != "testkit" => {
                let (_, allowed) =
                    ARROWS.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{folder} is not in the picture"));
                let extra: Vec<_> = uses.iter().filter(|u| !allowed.contains(&u.as_str())).collect();
                assert!(extra.is_empty(), "{folder} uses {extra:?}");
            }
            Some("services") => {
                let peers: Vec<_> = uses.intersection(&services).collect();
                assert!(peers.is_empty(), "{folder} uses another service: {peers:?}");
                assert!(!uses.contains("testkit"), "{folder} uses testkit outside its tests");
                let local = uses.contains("stack") || uses.contains("oracle");
                assert!(!local || name == "cli", "only the command line starts the stack and judges bars, not {folder}");
            }
            Some("crates" | "tests" | "benches") => {}
            other => panic!("{folder}: no such place {other:?}"),
        }
    }
}

#[test]
fn pure_crates_reach_no_runtime_no_socket_and_no_broker() {
    let workspace = Workspace::read();
    for name in PURE {
        let reached = workspace.reached(&format!("marketflow-{name}"));
        assert!(reached.contains(&format!("marketflow-{name}")), "no crate {name}");
        for forbidden in ["tokio", "rdkafka", "reqwest", "mio", "hyper"] {
            assert!(!reached.contains(forbidden), "{name} reaches {forbidden}");
        }
    }
}

#[test]
fn every_member_takes_the_workspace_lints() {
    for (package, folder) in &Workspace::read().members {
        let manifest: toml::Table = read(&format!("{folder}/Cargo.toml")).parse().unwrap();
        let lints = manifest.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(lints, Some(true), "{package}: write [lints] workspace = true");
    }
}

#[test]
fn pure_crates_forbid_the_clock() {
    for name in PURE {
        let rules = read(&format!("crates/{name}/clippy.toml"));
        for method in ["std::time::SystemTime::now", "std::time::Instant::now", "std::env::var"] {
            assert!(rules.contains(method), "crates/{name}/clippy.toml does not disallow {method}");
        }
    }
}

/// The table "follow one trade" in docs/ARCHITECTURE.md lists files in reading order; the module doc of each says which one comes next.
#[test]
fn each_file_on_a_trades_path_names_the_next() {
    let document = read("docs/ARCHITECTURE.md");
    let steps: Vec<String> = table_rows(section(&document, "follow one trade")).flat_map(files_named).collect();
    assert!(steps.len() >= 8, "docs/ARCHITECTURE.md: no table of files follows one trade");
    let sources: Vec<&String> = steps.iter().filter(|step| step.ends_with(".rs")).collect();
    let (_, but_last) = sources.split_last().unwrap();

    let missing = steps.iter().filter(|step| !root().join(step).exists()).map(|step| format!("no file {step}"));
    let silent = but_last
        .iter()
        .filter(|step| root().join(step).exists() && next_files(step).is_empty())
        .map(|step| format!("the module doc of {step} does not end with \"Next: `path`\""));
    let dangling = tracked().into_iter().filter(|file| file.ends_with(".rs")).flat_map(|file| {
        let next = next_files(&file).into_iter().filter(|next| !root().join(next).exists());
        next.map(|next| format!("{file} points to {next}, which does not exist")).collect::<Vec<_>>()
    });
    assert_none(missing.chain(silent).chain(dangling));
}

#[test]
fn sql_files_are_numbered_without_holes() {
    let mut folders: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for file in tracked().iter().filter(|f| f.ends_with(".sql") && f.starts_with("schemas/")) {
        let path = Path::new(file);
        folders
            .entry(path.parent().unwrap().to_owned())
            .or_default()
            .push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    for (folder, mut names) in folders {
        names.sort();
        for (index, name) in names.iter().enumerate() {
            assert!(
                name.starts_with(&format!("{:03}_", index + 1)),
                "{}: {name} is file {} in order",
                folder.display(),
                index + 1
            );
        }
    }
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    let folders = ["work", "root", "home", "Users"].map(|name| format!("/{name}/"));
    for file in tracked() {
        let Ok(text) = std::fs::read_to_string(root().join(&file)) else { continue };
        for (number, line) in text.lines().enumerate() {
            for folder in &folders {
                let absolute = line.match_indices(folder.as_str()).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || "._-}/*~".contains(c))
                });
                assert!(!absolute, "{file}:{}: {folder} is a folder of one machine", number + 1);
            }
        }
    }
}

/// README.md, "Guarantees": soft until it is written. docs/ARCHITECTURE.md, "Invariants".
#[test]
fn every_promise_names_a_test_that_exists() {
    let tests = test_names();
    let mut problems = Vec::new();
    for (file, heading) in [("README.md", "guarantees"), ("docs/ARCHITECTURE.md", "invariants")] {
        let Ok(document) = std::fs::read_to_string(root().join(file)) else { continue };
        let rows: Vec<&str> = table_rows(section(&document, heading)).skip(1).collect();
        assert!(!rows.is_empty(), "{file}: {heading} stand in a table");
        for row in rows {
            let cells: Vec<&str> = row.trim().trim_matches('|').split('|').collect();
            let named: Vec<&str> = backticked(cells.last().unwrap()).collect();
            if named.is_empty() {
                problems.push(format!("{file}: this promise names no test: {row}"));
            }
            let exists = |name: &str| match name {
                path if path.contains('/') => root().join(path).exists(),
                command if command.contains(' ') => command.starts_with("make "),
                test => tests.contains(test.rsplit("::").next().unwrap_or(test)),
            };
            problems.extend(named.into_iter().filter(|name| !exists(name)).map(|name| format!("{file}: no test {name}")));
        }
    }
    assert_none(problems);
}

// ---- reading the workspace

struct Workspace {
    /// Package name and folder of every member.
    members: BTreeMap<String, String>,
    /// Package id to name.
    names: BTreeMap<String, String>,
    /// Package id to the ids of its normal dependencies.
    uses: BTreeMap<String, Vec<String>>,
}

impl Workspace {
    fn read() -> Self {
        let version = run("rustc", &["-vV"]);
        let host = version.lines().find_map(|l| l.strip_prefix("host: ")).unwrap();
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let metadata: Json =
            serde_json::from_str(&run(&cargo, &["metadata", "--format-version=1", "--offline", "--filter-platform", host]))
                .unwrap();
        let text = |json: &Json| json.as_str().unwrap().to_owned();
        let list = |json: &Json| json.as_array().unwrap().clone();

        let names: BTreeMap<String, String> =
            list(&metadata["packages"]).iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect();
        let base = format!("{}/", text(&metadata["workspace_root"]));
        let members = list(&metadata["workspace_members"]);
        let members = list(&metadata["packages"])
            .iter()
            .filter(|p| members.contains(&p["id"]))
            .map(|p| (text(&p["name"]), text(&p["manifest_path"]).replace(&base, "").replace("/Cargo.toml", "")))
            .collect();
        let normal = |dependency: &&Json| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
        let uses = list(&metadata["resolve"]["nodes"])
            .iter()
            .map(|node| (text(&node["id"]), list(&node["deps"]).iter().filter(normal).map(|d| text(&d["pkg"])).collect()))
            .collect();
        Self { members, names, uses }
    }

    fn id(&self, package: &str) -> &str {
        let (id, _) = self.names.iter().find(|(_, name)| *name == package).unwrap_or_else(|| panic!("no package {package}"));
        id
    }

    /// Names of the direct normal dependencies.
    fn direct(&self, package: &str) -> BTreeSet<String> {
        self.uses[self.id(package)].iter().map(|id| self.names[id].clone()).collect()
    }

    /// Names of everything normal dependencies lead to, and the package's own.
    fn reached(&self, package: &str) -> BTreeSet<String> {
        let mut open = vec![self.id(package)];
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(self.uses[id].iter().map(String::as_str));
            }
        }
        seen.into_iter().map(|id| self.names[id].clone()).collect()
    }
}

/// The paths in the last paragraph of a file's module doc, if that paragraph says what is next.
fn next_files(file: &str) -> Vec<String> {
    let text = read(file);
    let doc: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let last = doc.split(|line| line.is_empty()).next_back().unwrap_or_default().join(" ");
    if last.starts_with("Next: `") { resolve(&last, Path::new(file).parent().unwrap()) } else { Vec::new() }
}

/// The files a table row names; a bare name stands in the folder of the file before it.
fn files_named(row: &str) -> Vec<String> {
    resolve(row.split('|').nth(2).unwrap_or_default(), Path::new(""))
}

fn resolve(text: &str, start: &Path) -> Vec<String> {
    let mut folder = start.to_owned();
    let mut files = Vec::new();
    for name in backticked(text).filter(|name| name.contains(['.', '/'])) {
        let path = if root().join(name).exists() || ["crates/", "services/", "schemas/"].iter().any(|top| name.starts_with(top)) {
            PathBuf::from(name)
        } else {
            folder.join(name)
        };
        folder = path.parent().unwrap_or(Path::new("")).to_owned();
        files.push(path.to_str().unwrap().to_owned());
    }
    files
}

/// The part of a document under the heading that starts so.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let mut parts = document.split("\n## ");
    parts.find(|part| part.to_lowercase().starts_with(heading)).unwrap_or_else(|| panic!("no section {heading}"))
}

fn assert_none(problems: impl IntoIterator<Item = String>) {
    let problems: Vec<String> = problems.into_iter().collect();
    assert!(problems.is_empty(), "\n  {}", problems.join("\n  "));
}

/// Names of the test functions in Rust and Python files.
fn test_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in tracked().iter().filter(|f| f.ends_with(".rs") || f.ends_with(".py")) {
        for line in read(file).lines() {
            let line = line.trim_start();
            let function = ["fn ", "async fn ", "def "].iter().find_map(|keyword| line.strip_prefix(keyword));
            names.extend(function.and_then(|f| f.split(['(', '<']).next()).map(str::to_owned));
        }
    }
    names
}

fn table_rows(markdown: &str) -> impl Iterator<Item = &str> {
    markdown
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|-") && !line.starts_with("| -") && !line.starts_with("|:"))
}

fn backticked(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Every file of the project: tracked, or new and not ignored.
fn tracked() -> Vec<String> {
    let listed = run("git", &["ls-files", "--cached", "--others", "--exclude-standard"]);
    listed.lines().filter(|file| root().join(file).is_file()).map(str::to_owned).collect()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(root()).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
