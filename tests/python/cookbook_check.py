#!/usr/bin/env python3
"""Runs every query of a cookbook with clickhouse-connect, as the user who may only read, and prints how many there were.

    python3 tests/python/cookbook_check.py http://127.0.0.1:8123 docs/queries.md

Needs: pip install clickhouse-connect
"""

import pathlib
import re
import sys
from urllib.parse import urlsplit

import clickhouse_connect


def main() -> int:
    address, cookbook = sys.argv[1:]
    url = urlsplit(address)
    client = clickhouse_connect.get_client(host=url.hostname, port=url.port or 8123, username="reader")
    queries = re.findall(r"^```sql\n(.*?)\n```", pathlib.Path(cookbook).read_text(), re.MULTILINE | re.DOTALL)
    rows = 0
    for query in queries:
        rows += len(client.query(query).result_rows)
    if rows == 0:
        raise SystemExit("no query had a row")
    print(f"{len(queries)} queries, {rows} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
