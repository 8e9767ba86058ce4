#!/usr/bin/env python3
"""Measures the tables: bytes per row by codec, and how long roll-ups take to fold and to read.

    make build && python3 benches/tables.py codecs     # which codec packs which column best, on the recorded tape
    make build && python3 benches/tables.py storage    # bytes per row of trades_log and bars_log, before and after 010_storage.sql
    make build && python3 benches/tables.py rollups    # ten years of daily bars for 500 instruments

Starts a clickhouse-local-server of its own in a scratch folder (or uses --url, an empty database), applies schemas/clickhouse and prints
Markdown. The rows are real-shaped: the recorded trades of the demo, once per instrument, each shifted in time and price.
Exit codes: 0 measured, 69 the server did not start.
"""

import argparse
import contextlib
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TAPE = "tape/bitstamp_trades_from_20131125_usd.csv"
TRADES_PER_INSTRUMENT = 100_000
CANDIDATES = ["LZ4", "ZSTD(1)", "Delta, LZ4", "Delta, ZSTD(1)", "DoubleDelta, ZSTD(1)", "T64, ZSTD(1)"]


class Server:
    """ClickHouse by its HTTP interface."""

    def __init__(self, url: str, pid: int | None = None) -> None:
        self.url = url
        self.pid = pid

    def cpu_ms(self) -> float:
        """Processor time its process has used; 0 for a server that is not ours."""
        if self.pid is None:
            return 0
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")

    def ask(self, sql: str, body: bytes | None = None, **settings) -> str:
        return self.bytes(sql, body, **settings).decode()

    def bytes(self, sql: str, body: bytes | None = None, **settings) -> bytes:
        query = urllib.parse.urlencode({**settings, **({"query": sql} if body is not None else {})})
        request = urllib.request.Request(f"{self.url}/?{query}", data=sql.encode() if body is None else body)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{error.read().decode()}\n{sql}") from None

    def rows(self, sql: str) -> list[list[str]]:
        return [line.split("\t") for line in self.ask(sql, default_format="TabSeparated").splitlines()]

    def apply(self, *but: str) -> None:
        for file in sorted((ROOT / "schemas/clickhouse").glob("*.sql")):
            if file.name not in but:
                for statement in file.read_text().split(";\n"):
                    if statement.strip():
                        self.ask(statement)


@contextlib.contextmanager
def server(tools: pathlib.Path):
    """A server of its own, gone afterwards."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, admin = one.getsockname()[1], two.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="marketflow-tables-") as folder:
        settings = [f"server.listen=127.0.0.1:{port}", f"server.data={folder}", f"admin.listen=127.0.0.1:{admin}",
                    f"server.library={tools / 'chdb/libchdb.so'}"]
        command = [ROOT / "target/debug/clickhouse-local-server", *(word for s in settings for word in ("--set", s))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            found = Server(f"http://127.0.0.1:{port}", process.pid)
            for _ in range(300):
                with contextlib.suppress(OSError):
                    found.ask("SELECT 1")
                    break
                if process.poll() is not None:
                    sys.exit(69)
                time.sleep(0.1)
            yield found
        finally:
            process.terminate()
            process.wait()


# --- real-shaped rows ------------------------------------------------------------------------------------------------------------


def load_trades(to: Server, tools: pathlib.Path, instruments: int) -> None:
    """The tape once per instrument, in the order of arrival, 50,000 rows an insert as a busy sink does."""
    to.ask("CREATE TABLE tape (second UInt32, price Decimal(18, 8), amount Decimal(38, 8), n UInt64) ENGINE = MergeTree ORDER BY n")
    lines = (tools / TAPE).read_text().splitlines()[1 : TRADES_PER_INSTRUMENT + 1]
    body = "".join(f"{line},{n}\n" for n, line in enumerate(lines)).encode()
    to.ask("INSERT INTO tape FORMAT CSV", body)
    to.ask(
        f"""CREATE TABLE arrivals ENGINE = MergeTree ORDER BY (receive_time, instrument) AS
        SELECT concat('VENUE:S', leftPad(toString(i), 4, '0')) AS instrument,
               toDateTime64(second + i * 7, 6, 'UTC') + toIntervalMicrosecond(n * 7919 % 1000000) AS event_time,
               event_time + toIntervalMicrosecond(40000 + sipHash64(n, i) % 260000) AS receive_time,
               CAST(round(price * (1 + i % 17) * 100) / 100, 'Decimal(18, 8)') AS price, amount AS size,
               if(sipHash64(i, n) % 2 = 0, 'buy', 'sell') AS side, n + i * 10000000 AS id
        FROM tape, (SELECT number AS i FROM numbers({instruments})) AS i""",
        max_threads=2,
    )
    total = int(to.ask("SELECT count() FROM arrivals"))
    for first in range(0, total, 50_000):
        to.ask(
            f"""INSERT INTO trades_log (stream_epoch, topic, partition, offset, append_time, instrument, feed, event_time, receive_time,
                price, size, side, trade_id, sequence, import_row, conditions, source)
            SELECT 'cluster/topic', 'market.trades.v1', sipHash64(instrument) % 4, {first} + rowNumberInAllBlocks(),
                   toDateTime64(receive_time, 3) + toIntervalMillisecond(5 + id % 40), instrument, 'venue', event_time, receive_time,
                   price, size, side, toString(id), id, NULL, [], 'websocket'
            FROM (SELECT * FROM arrivals ORDER BY receive_time, instrument LIMIT {first}, 50000)"""
        )


def load_bars(to: Server) -> None:
    """The 1, 5 and 15-minute bars of these trades, one in fifty revised once."""
    for interval in (1, 5, 15):
        for revision, which in ((0, "1"), (1, "sipHash64(instrument, open_time) % 50 = 0")):
            to.ask(
                f"""INSERT INTO bars_log (stream_epoch, topic, partition, offset, append_time, instrument, interval, open_time, close_time,
                    open, high, low, close, volume, turnover, vwap, trade_count, buy_volume, sell_volume, revision, quality, feed, source,
                    revision_reason)
                SELECT 'cluster/topic', 'market.bars.v1', sipHash64(instrument) % 4, rowNumberInAllBlocks() + {interval * 10_000_000},
                       toDateTime64(open_time, 3) + toIntervalMillisecond({interval} * 60000 + 2100 + {revision} * 300000),
                       instrument, '{interval}m', open_time, open_time + toIntervalMinute({interval}) AS close_time,
                       open, high, low, close, volume, turnover, CAST(turnover / volume, 'Nullable(Decimal(18, 8))'), trade_count,
                       buy_volume, volume - buy_volume, {revision}, 'complete', 'venue', 'trades',
                       {"'late'" if revision else "NULL"}
                FROM (SELECT instrument, toDateTime64(toStartOfInterval(event_time, toIntervalMinute({interval})), 6, 'UTC') AS open_time,
                             argMin(price, (event_time, offset)) AS open, max(price) AS high, min(price) AS low,
                             argMax(price, (event_time, offset)) AS close, sum(assumeNotNull(size)) AS volume,
                             CAST(sum(toDecimal128(price, 8) * size), 'Decimal(38, 8)') AS turnover,
                             toInt64(count()) AS trade_count, sumIf(assumeNotNull(size), side = 'buy') AS buy_volume
                      FROM trades_log GROUP BY instrument, open_time HAVING volume > 0 AND {which} ORDER BY open_time)""",
                max_threads=2,
            )


def packed(of: Server, table: str) -> dict[str, int]:
    """Bytes on disk by column, everything merged."""
    of.ask(f"OPTIMIZE TABLE {table} FINAL")
    rows = of.rows(
        f"""SELECT column, sum(column_data_compressed_bytes) FROM system.parts_columns
        WHERE active AND table = '{table}' AND database = currentDatabase() GROUP BY column ORDER BY column"""
    )
    return {name: int(size) for name, size in rows}


# --- what is measured ------------------------------------------------------------------------------------------------------------


def codecs(on: Server, tools: pathlib.Path, instruments: int) -> None:
    on.apply("010_storage.sql")
    load_trades(on, tools, instruments)
    load_bars(on)
    for table in ("trades_log", "bars_log"):
        columns = on.rows(
            f"SELECT name, type FROM system.columns WHERE table = '{table}' AND database = currentDatabase() AND default_kind != 'ALIAS'"
        )
        found: dict[str, dict[str, int]] = {}
        for candidate in CANDIDATES:
            on.ask("DROP TABLE IF EXISTS probe")
            on.ask(f"CREATE TABLE probe AS {table}")
            for name, kind in columns:
                if fits(candidate, kind):
                    on.ask(f"ALTER TABLE probe MODIFY COLUMN {name} CODEC({candidate})", allow_suspicious_codecs=1)
            names = ", ".join(name for name, _ in columns)
            on.ask(f"INSERT INTO probe ({names}) SELECT {names} FROM {table}", max_threads=2)
            found[candidate] = packed(on, "probe")
        rows = int(on.ask(f"SELECT count() FROM {table}"))
        print(f"\n`{table}`, {rows:,} rows, bytes per row:\n\n| column | " + " | ".join(CANDIDATES) + " |")
        print("|---|" + "---:|" * len(CANDIDATES))
        for name, kind in columns:
            sizes = [f"{found[c][name] / rows:.3f}" if fits(c, kind) else "" for c in CANDIDATES]
            print(f"| {name} | " + " | ".join(sizes) + " |", flush=True)


def fits(codec: str, kind: str) -> bool:
    """Whether a codec of numbers makes sense for a type."""
    if "Delta" not in codec and "T64" not in codec:
        return True
    plain = re.sub(r"^Nullable\((.*)\)$", r"\1", kind)
    wide = plain.startswith("Decimal(38")
    return not plain.startswith(("String", "LowCardinality", "Array")) and not wide


def storage(on: Server, tools: pathlib.Path, instruments: int) -> None:
    on.apply("010_storage.sql")
    load_trades(on, tools, instruments)
    load_bars(on)
    before = {table: packed(on, table) for table in ("trades_log", "bars_log")}
    read_before = read_times(on)
    for statement in (ROOT / "schemas/clickhouse/010_storage.sql").read_text().split(";\n"):
        if statement.strip():
            on.ask(statement)
    for table in before:
        # written anew: a part that is alone in its partition would stay as it is
        on.ask(f"CREATE TABLE copy AS {table}")
        names = ", ".join(row[0] for row in on.rows(
            f"SELECT name FROM system.columns WHERE table = '{table}' AND database = currentDatabase() AND default_kind != 'ALIAS'"))
        on.ask(f"INSERT INTO copy ({names}) SELECT {names} FROM {table}", max_threads=2)
        on.ask(f"EXCHANGE TABLES copy AND {table}")
        on.ask("DROP TABLE copy")
    print("\n| table | rows | bytes per row before | after |\n|---|---:|---:|---:|")
    for table, old in before.items():
        rows, new = int(on.ask(f"SELECT count() FROM {table}")), packed(on, table)
        print(f"| `{table}` | {rows:,} | {sum(old.values()) / rows:.1f} | {sum(new.values()) / rows:.1f} |")
    print("\n| query | ms before | CPU ms before | ms after | CPU ms after |\n|---|---:|---:|---:|---:|")
    for (what, then), (_, now) in zip(read_before, read_times(on)):
        print(f"| {what} | {then} | {now} |")


def read_times(on: Server) -> list[tuple[str, str]]:
    queries = {
        "trades of one instrument, one hour": "SELECT * FROM trades WHERE instrument = 'VENUE:S0003' AND event_time >= '2013-11-30 03:00:00' "
        "AND event_time < '2013-11-30 04:00:00'",
        "sum over all trades": "SELECT instrument, sum(price * size) FROM trades_log GROUP BY instrument",
        "a day of 1-minute bars of one instrument": "SELECT * FROM bars_final WHERE instrument = 'VENUE:S0003' AND interval = '1m' "
        "AND open_time >= '2013-11-30' AND open_time < '2013-12-01'",
    }
    return [(what, times(on, sql)) for what, sql in queries.items()]


def rollups(on: Server, years: int, instruments: int) -> None:
    """Two minutes a day stand for the 381 or 1,440 of life: what is read afterwards is the same number of days."""
    on.apply()
    on.ask("SYSTEM STOP VIEW bars_rollup")
    days = years * 252
    for year in range(years):
        on.ask(
            f"""INSERT INTO bars_log (stream_epoch, topic, partition, offset, append_time, instrument, interval, open_time, close_time, open,
                high, low, close, volume, turnover, vwap, trade_count, buy_volume, sell_volume, revision, quality, feed, source, revision_reason)
            SELECT 'cluster/topic', 'market.bars.v1', i % 4, {year} * 1000000000 + number, now64(3),
                   concat('KRX:', leftPad(toString(i), 6, '0')), '1m',
                   toDateTime64('2014-01-02 00:00:00', 6, 'UTC') + toIntervalDay({year} * 365 + intDiv(d * 365, 252)) + toIntervalMinute(m) AS o,
                   o + toIntervalMinute(1), p, p + 50, p - 50, p + 10, 1000 + sipHash64(number) % 100000 AS v, v * p, p, v % 100,
                   v / 2, v / 2, 0, 'complete', 'kis', 'trades', NULL
            FROM (SELECT number, number % 2 AS m, intDiv(number, 2) % 252 AS d, intDiv(number, 504) AS i,
                         toDecimal64(10000 + i * 100 + sipHash64(i, d) % 2000, 8) AS p FROM numbers({252 * 2 * instruments}))"""
        )
    bars = int(on.ask("SELECT count() FROM bars_log"))
    started, used = time.monotonic(), on.cpu_ms()
    on.ask("SYSTEM START VIEW bars_rollup")
    on.ask("SYSTEM REFRESH VIEW bars_rollup")
    on.ask("SYSTEM WAIT VIEW bars_rollup")
    print(f"\nfirst fold of {bars:,} minute bars into {on.ask('SELECT count() FROM bars_daily').strip()} days and as many hours: "
          f"{time.monotonic() - started:.1f} s, {(on.cpu_ms() - used) / 1000:.1f} s of CPU")
    on.ask("SYSTEM STOP VIEW bars_rollup")
    on.ask("OPTIMIZE TABLE bars_rollup_log FINAL")
    # a live day: the last day of every instrument folded ten times more, as parts of their own
    for _ in range(10):
        on.ask("INSERT INTO bars_rollup_log SELECT * REPLACE (now64(3, 'UTC') AS refreshed_at) FROM bars_rollup_log FINAL WHERE session_date = "
               "(SELECT max(session_date) FROM bars_rollup_log)")
    queries = {
        "SELECT 1": "SELECT 1",
        "one instrument, ten years of days, every column": "SELECT * FROM bars_daily WHERE instrument = 'KRX:000250' ORDER BY open_time",
        "500 instruments, ten years: first open, last close, low, high of each": "SELECT instrument, argMin(open, open_time), argMax(close, "
        "open_time), min(low), max(high) FROM bars_daily GROUP BY instrument",
        "500 instruments, ten years: turnover of each year": "SELECT toYear(open_time) AS year, sum(turnover) FROM bars_daily GROUP BY year",
        "500 instruments, ten years: every day and close, as Native": "SELECT instrument, session_date, close FROM bars_daily FORMAT Native",
        "500 instruments, ten years: every day, open, high, low, close and volume, as Native": "SELECT instrument, session_date, open, high, low, "
        "close, volume FROM bars_daily FORMAT Native",
        "one instrument, ten years of months": "SELECT * FROM bars_monthly WHERE instrument = 'KRX:000250' ORDER BY month",
        "500 instruments, ten years of months": "SELECT instrument, month, open, high, low, close FROM bars_monthly FORMAT Native",
        "market_overview": "SELECT * FROM market_overview FORMAT Native",
    }
    print(f"\n{years} years x {days // years} days x {instruments} instruments; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
          "\n| query | ms, median of 9 | CPU ms |\n|---|---:|---:|")
    for what, sql in queries.items():
        print(f"| {what} | {times(on, sql)} |", flush=True)


def times(on: Server, sql: str) -> str:
    """Median wall time of nine runs, and the mean processor time of one."""
    walls = []
    used = on.cpu_ms()
    for _ in range(9):
        started = time.monotonic()
        on.bytes(sql)
        walls.append((time.monotonic() - started) * 1000)
    return f"{statistics.median(walls):.0f} | {(on.cpu_ms() - used) / 9:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["codecs", "storage", "rollups"])
    parser.add_argument("--url", help="an empty database instead of a server of its own")
    parser.add_argument("--tools", type=pathlib.Path, default=pathlib.Path("~/.cache/marketflow/tools").expanduser())
    parser.add_argument("--instruments", type=int, help="default 20 for codecs and storage, 500 for rollups")
    given = parser.parse_args()
    with contextlib.nullcontext(Server(given.url)) if given.url else server(given.tools) as on:
        if given.what == "rollups":
            rollups(on, 10, given.instruments or 500)
        else:
            {"codecs": codecs, "storage": storage}[given.what](on, given.tools, given.instruments or 20)
    return 0


if __name__ == "__main__":
    sys.exit(main())
