#!/usr/bin/env python3
"""Opens the Parquet files of an archive with pandas, polars and DuckDB and compares types and values with what was sent, to the last decimal.

    python3 tests/python/archive_check.py FOLDER EXPECTED.json

EXPECTED.json: [{"path": glob, "columns": {name: kind}, "order": [names], "rows": [{name: value or null}]}], where
kind is text, texts, micros (UTC microseconds since 1970), decimal(P,S), long, int or boolean, decimals are text, and rows are in that order.
Needs: pip install pandas pyarrow polars duckdb
Exit codes: 0 everything is as it was sent, 2 something is not.
"""

import glob
import json
import re
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal, getcontext

import duckdb
import pandas
import polars

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)
PANDAS = {"text": "string", "texts": "object", "micros": "datetime64[us, UTC]", "long": "Int64", "int": "Int32", "boolean": "boolean"}
DUCKDB = {"text": "VARCHAR", "texts": "VARCHAR[]", "micros": "TIMESTAMP WITH TIME ZONE", "long": "BIGINT", "int": "INTEGER", "boolean": "BOOLEAN"}
POLARS = {"text": polars.String, "texts": polars.List(polars.String), "micros": polars.Datetime("us", "UTC"), "long": polars.Int64,
          "int": polars.Int32, "boolean": polars.Boolean}

failures = 0
getcontext().prec = 60


def equal(what: str, found, expected) -> None:
    global failures
    if found != expected:
        failures += 1
        print(f"WRONG {what}: found {found!r:.500}, expected {expected!r:.500}")


def rows_equal(what: str, found: list, expected: list) -> None:
    equal(f"{what}: rows", len(found), len(expected))
    for number, (row, wanted) in enumerate(zip(found, expected)):
        if row != wanted:
            equal(f"{what}: row {number}", row, wanted)
            return


def precision(kind: str):
    found = re.fullmatch(r"decimal\((\d+),(\d+)\)", kind)
    return found and tuple(map(int, found.groups()))


def wanted_rows(rows: list, kinds: dict) -> list:
    """Expected cells: decimals with exactly the digits of their scale, instants as microseconds."""
    def cell(name, value):
        if value is None or not precision(kinds[name]):
            return value
        return format(Decimal(value).quantize(Decimal(1).scaleb(-precision(kinds[name])[1])), "f")
    return [{name: cell(name, value) for name, value in row.items()} for row in rows]


def plain(value):
    """A cell as the expected rows have it."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return (value - EPOCH) // MICROSECOND
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def check(path: str, order: list, rows: list, kinds: dict) -> None:
    names = list(kinds)
    expected = wanted_rows(rows, kinds)

    # numpy_nullable: pandas' own default turns whole numbers with gaps into floats
    files = sorted(glob.glob(path, recursive=True))
    frame = pandas.concat([pandas.read_parquet(one, partitioning=None, dtype_backend="numpy_nullable") for one in files])
    frame = frame.sort_values(order)[names]
    for name, kind in kinds.items():
        equal(f"pandas {path} {name}", str(frame[name].dtype), PANDAS.get(kind, "object"))
        if precision(kind):
            scales = {-value.as_tuple().exponent for value in frame[name].dropna()}
            equal(f"pandas {path} {name} decimals", scales - {precision(kind)[1]}, set())
    found = []
    for row in frame.to_dict("records"):
        cells = {}
        for name, value in row.items():
            if kinds[name] != "texts" and pandas.isna(value):
                value = None
            elif kinds[name] == "micros":
                value = value.to_pydatetime()
            elif kinds[name] in ("long", "int"):
                value = int(value)
            cells[name] = plain(value)
        found.append(cells)
    rows_equal(f"pandas {path}", found, expected)

    frame = polars.read_parquet(path, hive_partitioning=False).sort(order).select(names)
    for name, kind in kinds.items():
        wanted = polars.Decimal(*precision(kind)) if precision(kind) else POLARS[kind]
        equal(f"polars {path} {name}", frame.schema[name], wanted)
    rows_equal(f"polars {path}", [{name: plain(value) for name, value in row.items()} for row in frame.to_dicts()], expected)

    source = f"read_parquet('{path}', hive_partitioning = false)"
    types = {name: kind for name, kind, *_ in duckdb.sql(f"DESCRIBE SELECT * FROM {source}").fetchall()}
    for name, kind in kinds.items():
        equal(f"duckdb {path} {name}", types[name], kind.upper() if precision(kind) else DUCKDB[kind])
    cells = ", ".join(f'epoch_us("{name}")' if kind == "micros" else f'"{name}"' for name, kind in kinds.items())
    answer = duckdb.sql(f"SELECT {cells} FROM {source} ORDER BY {', '.join(map(json.dumps, order))}").fetchall()
    rows_equal(f"duckdb {path}", [dict(zip(names, map(plain, row))) for row in answer], expected)
    print(f"read {len(rows)} rows of {path} with pandas, polars and DuckDB")


def main() -> int:
    folder, file = sys.argv[1:]
    with open(file, encoding="utf-8") as expected:
        for one in json.load(expected):
            check(f"{folder}/{one['path']}", one["order"], one["rows"], one["columns"])
    return 2 if failures else 0


sys.exit(main())
