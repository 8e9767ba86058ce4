#!/usr/bin/env python3
"""The same job on other engines, on the floor and on marketflow, on one broker, one topic, one machine; one table at the end.

peers.py [peer ...]     the usual ones without a name; --help shows all and every setting

Order: for each round, for each size: the topic is written, then every peer reads it once, in turn. Each run prints one line
  peer= trades= secs= msgs_per_s= cpu_s= rss_mb= broker_cpu_s= other_cpu_s= cpu_s_per_m= check=
secs from start to exit; cpu_s and rss_mb the peer's own (user + system, peak); broker_cpu_s the broker's meanwhile; other_cpu_s everybody
else's: the noise. check compares every bar on the output topic with an answer computed without Kafka; a wrong or failed run has no rate.
Steady = the largest size minus the smallest: what start-up and warm-up do not hide. README.md says how to read the figures.
"""
import argparse
import hashlib
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "marketflow" / "peers"
TOOLS = Path(os.environ.get("MARKETFLOW_TOOLS") or CACHE.parent / "tools")
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
PEERS = TARGET / "release/marketflow-peers"
PROCESSOR = TARGET / "release/processor"
INPUT, OUTPUT, BARS, CHANGELOG = "market.trades.v1", "peers.bars", "market.bars.v1", "marketflow.processor.changelog.v1"
TICK = os.sysconf("SC_CLK_TCK")

# What did best in a pass over single runs with the harness's own schema; everything else is the engine's default.
STREAMS = {"COMMIT_MS": "1000"}
TUNED = {
    "STORE": "memory",
    "COMMIT_MS": "1000",
    "CACHE_BYTES": "104857600",
    "EXTRA": "consumer.max.poll.records=10000,buffered.records.per.partition=20000,consumer.max.partition.fetch.bytes=4194304",
}
PARALLEL_GC = ["-XX:+UseParallelGC"]


class Peer:
    """A peer: how it is run in an environment that names broker, topics, schemas, group and expected bars."""

    out = OUTPUT

    def __init__(self, name, build, command, env=None):
        self.name, self.build, self.command, self.env = name, build, command, env or {}


def java(engine, main, flags=()):
    home = CACHE / engine
    opens = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in ("util", "lang", "time")]
    quiet = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.log.org.apache.flink.metrics.MetricGroup=error"]
    return lambda run: ["java", *opens, "-Xms256m", "-Xmx1g", *flags, *quiet, "-cp", f"{home}/classes:{home}/lib/*", f"marketflow.peers.{main}"]


def streams(name, flags, env):
    return Peer(name, lambda: build_java("streams"), java("streams", "StreamsBars", flags), env)


def flink(name, flags, env):
    return Peer(name, lambda: build_java("flink"), java("flink", "FlinkBars", flags), env)


def floor(run):
    return [PEERS, "floor", *run.kafka, *run.schemas, "--out", OUTPUT, "--threads", "2"]


def python(script, interpreter):
    return lambda run: [interpreter, HERE / "py" / script]


MARKETFLOW = Peer("marketflow", lambda: None, lambda run: [PROCESSOR])
MARKETFLOW.out = BARS
QUIX = CACHE / "quix/bin/python"
ALL = {
    peer.name: peer
    for peer in [
        Peer("floor", lambda: None, floor),
        MARKETFLOW,
        streams("streams-alo-memory-tuned", PARALLEL_GC, TUNED),
        streams("streams-eos-rocksdb", (), {**STREAMS, "GUARANTEE": "exactly_once_v2"}),
        flink("flink-alo-tuned", PARALLEL_GC, {"CHECKPOINT_MS": "10000"}),
        flink("flink-eos", (), {"GUARANTEE": "EXACTLY_ONCE", "CHECKPOINT_MS": "1000"}),
        Peer("clickhouse-kafka", lambda: None, python("clickhouse_bars.py", "python3")),
        Peer("quix", lambda: build_quix(), python("quix_bars.py", QUIX)),
    ]
}
USUAL = list(ALL)[:6]


# ---- set-up ---------------------------------------------------------------------------------------------------------------------


def say(text):
    print(text, flush=True)


def sh(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, text=True, **options)


def build(peers):
    CACHE.mkdir(parents=True, exist_ok=True)
    say("building: the processor, the floor and the checker, in release")
    sh("cargo", "build", "--quiet", "--release", "--workspace", "--bin", "processor", cwd=ROOT)
    sh("cargo", "build", "--quiet", "--release", "--locked", cwd=HERE / "rust", env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)})
    for peer in peers:
        peer.build()


def build_java(engine):
    """Compiles one Java peer and lays its jars beside it, unless what is there was made from the same sources."""
    home, sources = CACHE / engine, sorted((HERE / "java").rglob("*.*"))
    stamp = hashlib.sha256(b"".join(f.read_bytes() for f in sources if f.is_file())).hexdigest()
    if (home / "stamp").exists() and (home / "stamp").read_text() == stamp:
        return
    say(f"building: {engine}")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    sh("mvn", "-q", "-B", "-ntp", "-f", HERE / "java/pom.xml", "-P", engine, f"-Dpeers.build={home}", "compile",
       "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={home}/lib")
    (home / "stamp").write_text(stamp)


def build_quix():
    if not QUIX.exists():
        say("building: quix")
        sh(sys.executable, "-m", "venv", QUIX.parents[1])
        sh(QUIX, "-m", "pip", "install", "--quiet", "quixstreams==3.28.1", "fastavro==1.13.1")


# ---- one run --------------------------------------------------------------------------------------------------------------------


class Run:
    """The stack all runs share, and what was measured."""

    def __init__(self, file, limit, pause):
        self.file, self.limit, self.pause = file, limit, pause
        self.stack, self.peer, self.waiter, self.number = None, None, None, 0
        self.results = {}
        self.home = CACHE / f"run-{os.getpid()}"

    def __enter__(self):
        self.home.mkdir(parents=True)
        try:
            self.stack = self.start([PEERS, "stack", "--home", self.home / "stack"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            line = self.stack.stdout.readline()
            if not line:
                sys.exit("the stack did not start")
        except BaseException:
            self.__exit__()
            raise
        self.at = dict(pair.split("=", 1) for pair in line.split())
        self.kafka = ["--bootstrap", self.at["kafka"]]
        self.schemas = ["--trade-schema", self.at["trade_schema"], "--control-schema", self.at["control_schema"]]
        return self

    def __exit__(self, *_):
        for process in (self.peer, self.waiter):
            if process and process.returncode is None:
                process.kill()
                process.wait()
        if self.stack:
            self.stack.stdin.close()  # its signal to end
            try:
                self.stack.wait(60)
            except subprocess.TimeoutExpired:
                self.stack.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self, command, **options):
        """Its own session, so that Ctrl-C reaches only us, who end it in order; and it does not outlive us."""
        command = ["setpriv", "--pdeathsig", "TERM", *map(str, command)]
        return subprocess.Popen(command, start_new_session=True, **options)

    def write(self, line):
        say(line)
        with self.file.open("a") as file:
            file.write(line + "\n")

    def load(self, trades):
        loaded = sh(PEERS, "load", *self.kafka, *self.schemas, "--trades", trades, capture_output=True, timeout=self.limit)
        self.write(f"# {loaded.stdout.strip()}")
        self.value_bytes = float(re.search(r"value_bytes=([\d.]+)", loaded.stdout)[1])
        self.expected = sh(PEERS, "expect", "--trades", trades, capture_output=True).stdout.strip()

    def measure(self, peer, trades):
        self.number += 1
        group, state = f"bench-{self.number}", self.home / "state"
        fresh = [BARS, CHANGELOG] if peer is MARKETFLOW else [OUTPUT]
        sh(PEERS, "fresh", *self.kafka, *fresh)
        env = {
            **os.environ, **peer.env, "BOOTSTRAP": self.at["kafka"], "REGISTRY": self.at["registry"], "TOPIC": INPUT, "OUT": OUTPUT, "GROUP": group,
            "STATE_DIR": str(state), "EXPECT": self.expected, "TRADES": str(trades), "LIMIT_S": str(self.limit), "ROOT": str(ROOT),
            "TRADE_SCHEMA": self.at["trade_schema"], "CONTROL_SCHEMA": self.at["control_schema"], "CHDB_LIB": str(TOOLS / "chdb/libchdb.so"),
            "MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS": self.at["kafka"], "MARKETFLOW__REGISTRY__URL": self.at["registry"],
            "MARKETFLOW__ADMIN__LISTEN": "127.0.0.1:0", "MARKETFLOW__WORKER__COUNT": "2", "MARKETFLOW__WORKER__GROUP": group,
            # the job is bars: the peers make neither sums over instruments nor unfinished bars
            "MARKETFLOW__FLOWS__ENABLED": "false", "MARKETFLOW__LIVE__ENABLED": "false",
        }
        if peer is MARKETFLOW:  # a service does not end by itself: it is told to once everything is committed
            self.waiter = self.start([PEERS, "wait", *self.kafka, "--group", group, "--seconds", self.limit])
        time.sleep(self.pause)
        log = (self.home / f"{peer.name}.log").open("w")
        busy_before, broker_before, begun = machine_cpu(), process_cpu(self.at["kafka_pid"]), time.monotonic()
        self.peer = self.start(peer.command(self), env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        status, usage = self.wait_for_end(begun)
        secs = time.monotonic() - begun
        broker = process_cpu(self.at["kafka_pid"]) - broker_before
        cpu = usage.ru_utime + usage.ru_stime
        other = max(0.0, machine_cpu() - busy_before - cpu - broker)
        check = self.check(peer, trades, status, Path(log.name))
        good = check == "bars_ok"
        result = {
            "peer": peer.name, "trades": trades, "secs": f"{secs:.2f}", "msgs_per_s": f"{trades / secs if good else 0:.0f}", "cpu_s": f"{cpu:.2f}",
            "rss_mb": f"{usage.ru_maxrss / 1024:.0f}", "broker_cpu_s": f"{broker:.2f}", "other_cpu_s": f"{other:.2f}",
            "cpu_s_per_m": f"{cpu / trades * 1e6 if good else 0:.3f}", "check": check,
        }
        self.write(" ".join(f"{key}={value}" for key, value in result.items()))
        self.results.setdefault((peer.name, trades), []).append(result)
        shutil.rmtree(state, ignore_errors=True)
        sh(PEERS, "forget", *self.kafka, group)

    def wait_for_end(self, begun):
        asked = False
        while True:
            pid, status, usage = os.wait4(self.peer.pid, os.WNOHANG)
            if pid:
                self.peer.returncode = os.waitstatus_to_exitcode(status)
                if self.waiter and self.waiter.poll() is None:
                    self.waiter.kill()
                    self.waiter.wait()
                self.waiter = None
                return self.peer.returncode, usage
            if self.waiter and self.waiter.poll() is not None and not asked:
                self.peer.terminate()
                asked = True
            if time.monotonic() - begun > self.limit:
                self.peer.kill()
            time.sleep(0.01)

    def check(self, peer, trades, status, log):
        if status != 0:
            say("  " + "\n  ".join(log.read_text(errors="replace").splitlines()[-15:]))
            return f"exit{status}"
        checked = subprocess.run([str(PEERS), "check", *self.kafka, "--topic", peer.out, "--trades", str(trades)], capture_output=True, text=True)
        if checked.returncode == 0:
            return "bars_ok"
        say("  " + checked.stderr.strip())
        return "BARS_WRONG(" + checked.stdout.strip().replace(" ", ",") + ")"


def machine_cpu():
    """CPU seconds of the machine, all but idle and waiting for disks."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICK


def process_cpu(pid):
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


# ---- what was measured ----------------------------------------------------------------------------------------------------------


class Figures:
    """Medians of a peer's good runs; steady is the largest size minus the smallest where both were run."""

    def __init__(self, results, peer, sizes):
        self.runs = {n: [r for r in results.get((peer, n), []) if r["check"] == "bars_ok"] for n in sizes}
        self.all = [r for n in sizes for r in results.get((peer, n), [])]
        small, large = min(sizes), max(sizes)
        self.rate, self.cpu = None, None
        if self.runs[large]:
            secs, cpu, trades = self.median(large, "secs"), self.median(large, "cpu_s"), large
            if small != large and self.runs[small]:
                secs, cpu, trades = secs - self.median(small, "secs"), cpu - self.median(small, "cpu_s"), large - small
            if (small == large or self.runs[small]) and secs > 0:
                self.rate, self.cpu = trades / secs, cpu / trades * 1e6

    def median(self, size, key):
        return statistics.median(float(r[key]) for r in self.runs[size])

    def peak(self, key):
        return max((float(r[key]) for r in self.all), default=0)


def table(results, peers, sizes, value_bytes, rounds):
    figures = {peer: Figures(results, peer, sizes) for peer in peers}
    ours = figures.get("marketflow")
    steady = "steady" if len(set(sizes)) > 1 else "whole run"
    lines = [
        f"\n## Peers, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC\n",
        f"500 instruments, 4 partitions, lz4, up to 2 s out of order, {value_bytes:.1f} bytes a value of `market.trades.v1`; 1, 5 and 15-minute bars, "
        f"each checked. {rounds} interleaved rounds, medians. {machine()}; {versions()}; revision {revision()}. `make bench-peers`\n",
        "| peer | " + " | ".join(f"{n / 1e6:g} M trades/s" for n in sizes)
        + f" | {steady} trades/s | {steady} CPU-s per M | peak RSS MB | broker CPU-s per M | other CPU-s (max) | runs with right bars | marketflow ÷ it |",
        "|---" * (len(sizes) + 8) + "|",
    ]
    for peer, f in figures.items():
        rates = [f"{n / f.median(n, 'secs'):,.0f}" if f.runs[n] else "-" for n in sizes]
        large = f.runs[max(sizes)]
        broker = f"{statistics.median(float(r['broker_cpu_s']) for r in large) / max(sizes) * 1e6:.2f}" if large else "-"
        good = sum(len(runs) for runs in f.runs.values())
        factor = f"{ours.rate / f.rate:.2f}" if ours and ours.rate and f.rate else "-"
        cells = [peer, *rates, f"{f.rate:,.0f}" if f.rate else "-", f"{f.cpu:.2f}" if f.rate else "-", f"{f.peak('rss_mb'):.0f}", broker,
                 f"{f.peak('other_cpu_s'):.2f}", f"{good} of {len(f.all)}", factor]
        lines.append("| " + " | ".join(cells) + " |")

    def ratio(*names):
        rates = [figures[name].rate for name in names if name in figures and figures[name].rate]
        return f"{ours.rate / max(rates):.2f}" if rates and ours and ours.rate else "-"

    last = (f"ratio kafka_streams_eos={ratio('streams-eos-rocksdb')} kafka_streams_alo={ratio('streams-alo-memory-tuned')} "
            f"flink={ratio('flink-alo-tuned', 'flink-eos')} floor={ratio('floor')}")
    return "\n".join(lines), last


def machine():
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) >> 20
    return f"{os.cpu_count()} × {model[1] if model else platform.machine()}, {memory} GiB, broker and peer on the same cores"


def versions():
    def pinned(file, name):
        return re.search(rf"<{name}>(.*?)</{name}>", file.read_text())[1]

    def first_line(*command):
        return sh(*command, capture_output=True)

    pom = HERE / "java/pom.xml"
    broker = re.search(r"<artifactId>kafka_2.13</artifactId>\s*<version>(.*?)<", (ROOT / "scripts/setup/kafka-pom.xml").read_text())[1]
    runtime = re.search(r'version "([^"]*)"', first_line("java", "-version").stderr)[1]
    rdkafka = re.search(r'name = "rdkafka-sys"\nversion = "([^"]*)"', (HERE / "rust/Cargo.lock").read_text())[1]
    return (f"broker {broker}, Kafka Streams {pinned(pom, 'kafka.version')}, "
            f"Flink {pinned(pom, 'flink.version')} (connector {pinned(pom, 'flink.kafka.version')}), Avro {pinned(pom, 'avro.version')}, Java {runtime}, "
            f"librdkafka {rdkafka.split('+')[-1]}, {first_line('rustc', '--version').stdout.split(' (')[0]}")


def revision():
    def git(*arguments):
        return sh("git", *arguments, cwd=ROOT, capture_output=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def main():
    env = os.environ.get
    arguments = argparse.ArgumentParser(description="Measures stream processors on one broker, topic and machine.")
    arguments.add_argument("peers", nargs="*", metavar="peer", default=env("PEERS", "").split() or USUAL, help=f"of {', '.join(ALL)}")
    arguments.add_argument("--rounds", type=int, default=int(env("ROUNDS") or 3), help="ROUNDS (3)")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[int(n) for n in (env("SIZES") or "5000000 20000000").split()],
                           help='trades, SIZES ("5000000 20000000")')
    arguments.add_argument("--limit", type=int, default=int(env("LIMIT") or 900), help="seconds one run may take, LIMIT (900)")
    arguments.add_argument("--pause", type=float, default=float(env("PAUSE") or 2), help="seconds before each run, PAUSE (2)")
    arguments.add_argument("--dry-run", action="store_true", default=bool(env("DRY_RUN")), help="keep nothing: neither results/ nor docs/, DRY_RUN")
    args = arguments.parse_args()
    if unknown := [name for name in args.peers if name not in ALL]:
        arguments.error(f"no peer {unknown[0]}; there are {', '.join(ALL)}")
    peers = [ALL[name] for name in args.peers]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    build(peers)
    file = (CACHE if args.dry_run else HERE / "results") / f"{datetime.now(timezone.utc):%Y-%m-%dT%H%M%SZ}.txt"
    file.parent.mkdir(exist_ok=True)
    with Run(file, args.limit, args.pause) as run:
        run.write(f"# {machine()}; {versions()}; revision {revision()}")
        for number in range(1, args.rounds + 1):
            for size in args.sizes:
                run.write(f"# round {number} of {args.rounds}, {size} trades, {datetime.now(timezone.utc):%H:%M:%S} UTC, load {os.getloadavg()[0]:.2f}")
                run.load(size)
                for peer in peers:
                    run.measure(peer, size)
        text, last = table(run.results, args.peers, args.sizes, run.value_bytes, args.rounds)
        run.write(last)
    say(text)
    if not args.dry_run:
        with (ROOT / "docs/benchmarks.md").open("a") as document:
            document.write(f"{text}\n\n`{last}`; every run: `{file.relative_to(ROOT)}`\n")
    say(f"raw: {file}\n{last}")
    if any(result["check"] != "bars_ok" for results in run.results.values() for result in results):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        sys.exit(f"{error}\n{error.stderr or ''}")
