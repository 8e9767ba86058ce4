#!/usr/bin/env python3
"""Draws panels of a board as PNG from the board's own SQL, to look at without a Grafana.

    marketflow demo --keep    # or any stack with data
    python3 grafana/render.py --url http://127.0.0.1:8123 --instrument BITSTAMP:BTCUSD --interval 5m --out /tmp grafana/dashboards/marketflow-market.json

Every panel of type candlestick and timeseries that has rows becomes one picture. Needs: pip install matplotlib
"""

import argparse
import datetime
import json
import pathlib
import re
import sys
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates
import matplotlib.pyplot as plt


def ask(url: str, sql: str) -> list[dict]:
    request = urllib.request.Request(f"{url}/?user=reader&default_format=JSONEachRow", data=sql.encode())
    with urllib.request.urlopen(request) as answer:
        return [json.loads(line) for line in answer.read().splitlines() if line]


def expanded(sql: str, values: dict[str, str]) -> str:
    """The macros and variables Grafana fills in; the whole of time."""
    sql = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 >= '1970-01-02 00:00:00'", sql)
    for name, value in values.items():
        sql = sql.replace(f"${{{name}}}", value)
    return sql


def time_of(row: dict) -> float:
    return matplotlib.dates.date2num(datetime.datetime.fromisoformat(str(row["time"])))


def candles(axes, rows: list[dict]) -> None:
    """Wicks from low to high, bodies from open to close, volume below."""
    times = [time_of(row) for row in rows]
    width = 0.7 * min((b - a for a, b in zip(times, times[1:]) if b > a), default=1 / 1440)
    prices, volumes = axes
    for at, row in zip(times, rows):
        low, high, first, last = (float(row[name]) for name in ("low", "high", "open", "close"))
        colour = "tab:green" if last >= first else "tab:red"
        prices.vlines(at, low, high, colour, linewidth=0.7)
        prices.bar(at, abs(last - first) or (high - low) * 0.01, width, min(first, last), color=colour)
        volumes.bar(at, float(row["volume"]), width, color=colour)
    prices.set_ylabel("price")
    volumes.set_ylabel("volume")


def series(axes, rows: list[dict]) -> None:
    """A line for each number, or for each name where a column is text."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        names = [str(value) for key, value in row.items() if key != "time" and not number(value)]
        for key, value in row.items():
            if key != "time" and number(value):
                lines.setdefault(" ".join(names) or key, []).append((time_of(row), float(value)))
    for name, points in lines.items():
        axes.plot([at for at, _ in points], [value for _, value in points], label=name, linewidth=0.9)
    axes.legend(fontsize="small")


def number(value) -> bool:
    return isinstance(value, (int, float)) or isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value) is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", type=pathlib.Path)
    parser.add_argument("--url", default="http://127.0.0.1:8123")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    parser.add_argument("--instrument", default="BITSTAMP:BTCUSD")
    parser.add_argument("--interval", default="5m")
    parser.add_argument("--scope", default="venue")
    given = parser.parse_args()
    values = {"instrument": given.instrument, "interval": given.interval, "scope": given.scope}
    board, drawn = json.loads(given.board.read_text()), 0
    for panel in board["panels"]:
        queries = [target["rawSql"] for target in panel["targets"] if "rawSql" in target]
        if panel["type"] not in ("candlestick", "timeseries") or not queries:
            continue
        rows = ask(given.url, expanded(queries[0], values))
        title = expanded(panel["title"], values).split(" · ")[0]
        if not rows:
            print(f"no rows: {title}")
            continue
        if panel["type"] == "candlestick":
            figure, axes = plt.subplots(2, 1, figsize=(12, 7), sharex=True, gridspec_kw={"height_ratios": [3, 1]})
            candles(axes, rows)
            bottom = axes[1]
        else:
            figure, bottom = plt.subplots(figsize=(12, 5))
            series(bottom, rows)
        bottom.xaxis.set_major_formatter(matplotlib.dates.ConciseDateFormatter(bottom.xaxis.get_major_locator()))
        figure.suptitle(f"{title} ({len(rows)} rows, UTC)")
        figure.tight_layout()
        path = given.out / f"{board['uid']}-{panel['id']}.png"
        figure.savefig(path, dpi=100)
        plt.close(figure)
        print(f"{path}: {title}, {len(rows)} rows")
        drawn += 1
    return 0 if drawn else 2


if __name__ == "__main__":
    sys.exit(main())
