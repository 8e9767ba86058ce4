//! What a run cost: CPU and memory of processes, read from `/proc`.

use crate::load::Load;
use anyhow::Context;
use marketflow_testkit::TestStack;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// CPU seconds and peak memory by part.
pub(crate) struct Cost(BTreeMap<String, (f64, u64)>);

impl Cost {
    /// Of these parts, those that run.
    pub(crate) fn of(stack: &TestStack, parts: &[&str]) -> anyhow::Result<Self> {
        let mut cost = BTreeMap::new();
        for part in stack.parts.status() {
            if let (true, Some(pid)) = (parts.contains(&part.name.as_str()), part.pid) {
                cost.insert(part.name, (cpu_seconds(pid)?, peak_rss_bytes(pid)?));
            }
        }
        Ok(Self(cost))
    }

    /// Of these processes; those of one name are summed.
    pub(crate) fn of_processes(processes: impl Iterator<Item = (&'static str, u32)>) -> anyhow::Result<Self> {
        let mut cost: BTreeMap<String, (f64, u64)> = BTreeMap::new();
        for (name, pid) in processes {
            let sum = cost.entry(name.to_owned()).or_default();
            *sum = (sum.0 + cpu_seconds(pid)?, sum.1 + peak_rss_bytes(pid)?);
        }
        Ok(Self(cost))
    }

    /// Most memory that all of them had, MB.
    pub(crate) fn peak_mb(&self) -> u64 {
        self.0.values().map(|(_, rss)| rss >> 20).sum()
    }

    /// CPU since an earlier look; memory stays the peak.
    pub(crate) fn since(mut self, before: &Self) -> Self {
        for (part, (cpu, _)) in &mut self.0 {
            *cpu -= before.0.get(part).map_or(0.0, |(earlier, _)| *earlier);
        }
        self
    }
}

/// One run's figures.
pub(crate) struct Figures {
    part: String,
    pub(crate) trades_per_second: f64,
    cpu: String,
    rss: String,
    value_bytes: usize,
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(crate) fn new(part: &str, load: Load, elapsed: Duration, cost: &Cost) -> Self {
        let millions = load.trades as f64 / 1e6;
        let cpu: Vec<String> = cost.0.iter().map(|(name, (cpu, _))| format!("{name} {:.2}", cpu / millions)).collect();
        let rss: Vec<String> = cost.0.iter().map(|(name, (_, rss))| format!("{name} {}", rss >> 20)).collect();
        Self {
            part: part.to_owned(),
            trades_per_second: load.trades as f64 / elapsed.as_secs_f64(),
            cpu: cpu.join(", "),
            rss: rss.join(", "),
            value_bytes: load.value_bytes,
        }
    }

    /// CPU and memory alone.
    pub(crate) fn cost(&self) -> String {
        format!("CPU-s: {}; peak MB: {}", self.cpu, self.rss)
    }

    pub(crate) fn row(&self) -> String {
        format!("| {} | {:.0} | {} | {} | {} |", self.part, self.trades_per_second, self.cpu, self.rss, self.value_bytes)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.0} trades/s; CPU-s per million: {}; peak MB: {}", self.part, self.trades_per_second, self.cpu, self.rss)
    }
}

/// User and system time of a process so far.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process runs")?;
    // the second field, the program's name, may hold blanks; user and system ticks are the 12th and 13th after it
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|t| t.parse::<u64>().ok()).context("a number of ticks");
    #[expect(unsafe_code, reason = "sysconf has no safe wrapper in libc and only reads a constant")]
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok((ticks(11)? + ticks(12)?) as f64 / per_second as f64)
}

/// Most memory a process ever had at once.
pub(crate) fn peak_rss_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process runs")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("a peak")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("a number of KiB")?;
    Ok(kib * 1024)
}

/// Cores, model and memory.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).map_or("unknown", |m| m.trim_start_matches([' ', '\t', ':']));
    let memory =
        read("/proc/meminfo").lines().next().and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) >> 20;
    format!("{} × {model}, {memory} GiB", std::thread::available_parallelism().map_or(0, std::num::NonZero::get))
}

/// The commit measured, marked when the tree differs from it.
pub(crate) fn revision() -> String {
    let git = |args: &[&str]| {
        Command::new("git").args(args).output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let changed = if git(&["status", "--porcelain", "--untracked-files=no"]).is_empty() { "" } else { " with changes" };
    format!("{}{changed}", git(&["rev-parse", "--short", "HEAD"]))
}

/// A control group that holds one process to a share of a core; removed once the process is gone.
pub(crate) struct CpuLimit(PathBuf);

impl CpuLimit {
    /// Needs root, and control groups of either version.
    pub(crate) fn of(pid: u32, share: f64) -> anyhow::Result<Self> {
        const PERIOD_MICROS: u32 = 20_000;
        let quota = format!("{:.0}", f64::from(PERIOD_MICROS) * share);
        let root = Path::new("/sys/fs/cgroup");
        let (folder, limits) = if root.join("cgroup.controllers").exists() {
            (root.to_owned(), vec![("cpu.max", format!("{quota} {PERIOD_MICROS}"))])
        } else {
            (root.join("cpu"), vec![("cpu.cfs_period_us", PERIOD_MICROS.to_string()), ("cpu.cfs_quota_us", quota)])
        };
        let group = Self(folder.join(format!("marketflow-bench-{pid}")));
        let limited = fs::create_dir(&group.0)
            .and_then(|()| limits.iter().try_for_each(|(file, value)| fs::write(group.0.join(file), value)))
            .and_then(|()| fs::write(group.0.join("cgroup.procs"), pid.to_string()));
        limited.with_context(|| format!("cannot limit process {pid} through {}; root may", group.0.display()))?;
        Ok(group)
    }
}

impl Drop for CpuLimit {
    fn drop(&mut self) {
        if let Err(problem) = fs::remove_dir(&self.0) {
            eprintln!("{} stays: {problem}", self.0.display());
        }
    }
}
