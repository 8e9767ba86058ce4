#!/usr/bin/env python3
"""Queries, inserts and streams with clickhouse-connect, a client nobody here wrote, against a ClickHouse URL.

    python3 tests/python/clickhouse_connect_check.py http://127.0.0.1:8123 [--user NAME --password TEXT]

Needs: pip install clickhouse-connect pandas
Exit codes: 0 every answer was as expected, 2 at least one was not, 69 the server is not reachable.
"""

import argparse
import datetime
import decimal
import sys
import uuid
from urllib.parse import urlsplit

import clickhouse_connect
import pandas

ROWS = 200_000
UTC = datetime.timezone.utc


class Check:
    """Collects what differs."""

    def __init__(self) -> None:
        self.failures = 0

    def equal(self, what: str, found, expected) -> None:
        if found == expected:
            print(f"ok    {what}")
        else:
            self.failures += 1
            print(f"WRONG {what}: found {found!r}, expected {expected!r}")

    def fails(self, what: str, code: int, action) -> None:
        try:
            action()
        except clickhouse_connect.driver.exceptions.DatabaseError as error:
            self.equal(what, f"{code}." in str(error) or f"code {code}" in str(error), True)
        else:
            self.equal(what, "no error", f"code {code}")


def run(client, check: Check) -> None:
    table = f"connect_check_{uuid.uuid4().hex[:8]}"
    columns = ["id", "name", "price", "at", "note"]
    start = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

    def row(n: int) -> list:
        at = start + datetime.timedelta(microseconds=n)
        return [n, f"이름 {n}\n", decimal.Decimal(n) / 100 - 5, at, None if n % 3 else f"note {n}"]

    check.equal("query", client.query("SELECT 1, 'a'").result_rows, [(1, "a")])
    found = client.query("SELECT {n:UInt32} + 1, {s:String}", parameters={"n": 41, "s": "it's"}).result_rows
    check.equal("parameters bound by the server", found, [(42, "it's")])
    client.form_encode_query_params = True
    found = client.query("SELECT {n:UInt32} + 1, {s:String}", parameters={"n": 41, "s": "it's"}).result_rows
    check.equal("parameters in a form", found, [(42, "it's")])
    client.form_encode_query_params = False
    check.fails("error of a missing table", 60, lambda: client.query("SELECT * FROM missing_table_here"))
    try:
        client.command(
            f"CREATE TABLE {table} (id UInt64, name String, price Decimal(18, 8), at DateTime64(6, 'UTC'), note Nullable(String))"
            " ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"
        )
        rows = [row(n) for n in range(ROWS)]
        summary = client.insert(table, rows, column_names=columns, settings={"insert_deduplication_token": "first"})
        check.equal("rows the insert reports", summary.written_rows, ROWS)
        client.insert(table, rows, column_names=columns, settings={"insert_deduplication_token": "first"})
        check.equal("a repeated token inserts once", client.command(f"SELECT count() FROM {table}"), ROWS)

        found = client.query(f"SELECT * FROM {table} ORDER BY id LIMIT 3").result_rows
        # The client gives UTC times without a zone unless asked otherwise.
        found = [[*values[:3], values[3].replace(tzinfo=UTC), values[4]] for values in found]
        check.equal("values come back exactly", found, [row(n) for n in range(3)])

        seen = 0
        with client.query_row_block_stream(f"SELECT id FROM {table} ORDER BY id", settings={"max_block_size": 10000}) as stream:
            for block in stream:
                for (number,) in block:
                    if number != seen:
                        break
                    seen += 1
        check.equal("rows streamed in order", seen, ROWS)

        frame = client.query_df(f"SELECT id, name, price FROM {table} WHERE id < 1000 ORDER BY id")
        check.equal("DataFrame shape", frame.shape, (1000, 3))
        check.equal("DataFrame sum", int(frame["id"].sum()), 499_500)
        more = pandas.DataFrame({"id": [ROWS, ROWS + 1], "name": ["x", "y"], "price": [decimal.Decimal("1.5"), decimal.Decimal("2.25")]})
        more["at"] = pandas.to_datetime(["2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"])
        more["note"] = None
        client.insert_df(table, more)
        check.equal("DataFrame inserted", client.command(f"SELECT count(), sum(price) FROM {table} WHERE id >= {ROWS}"), ["2", "3.75"])

        raw = client.raw_query(f"SELECT id FROM {table} ORDER BY id LIMIT 2", fmt="CSV")
        check.equal("raw query", raw, b"0\n1\n")
        client.raw_insert(table, ["id", "name"], b"900000,raw\n", fmt="CSV")
        check.equal("raw insert", client.command(f"SELECT name FROM {table} WHERE id = 900000"), "raw")
    finally:
        client.command(f"DROP TABLE IF EXISTS {table}")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("url")
    arguments.add_argument("--user", default="default")
    arguments.add_argument("--password", default="")
    given = arguments.parse_args()
    url = urlsplit(given.url)
    check = Check()
    for compress in (False, "lz4", "zstd", "gzip"):
        print(f"-- compression: {compress}")
        try:
            client = clickhouse_connect.get_client(
                host=url.hostname, port=url.port or 8123, username=given.user, password=given.password, compress=compress
            )
        except clickhouse_connect.driver.exceptions.OperationalError as error:
            print(f"{given.url} is not reachable: {error}", file=sys.stderr)
            return 69
        run(client, check)
        client.close()
    print("every answer was as expected" if check.failures == 0 else f"{check.failures} answers were not as expected")
    return 2 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
