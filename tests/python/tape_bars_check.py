#!/usr/bin/env python3
"""Imports recorded tapes and compares every value column of their bars with bars computed here, by pandas and exact integers.

    tests/python/tape_bars_check.py TAPE [FOLDER]          needs a running stack (`marketflow up`)

TAPE is the recorded week of Bitstamp that set-up fetches; it is imported as MARKETFLOW_TAPE_INSTRUMENT (default BITSTAMP:BTCUSD). FOLDER holds
more: crypto/binance_spot_trades_…, fx/oanda_eurusd_ticks_…, stocks/ibm_trade_ticks_…; none of them ships with this repository, and
without them it says so. MARKETFLOW_BIN is the program (default target/debug/marketflow). Nothing here is shared with the programs under test.
Exit code 2 when a bar differs.

The rules: windows [open, open + interval) in UTC; a reported size of zero is no trade; a size not reported counts 0; open and close follow
the id where it is a number, else the file; turnover is the sum of price x size, vwap is turnover / volume, both rounded half to even at 8
decimals, vwap empty without volume.
"""

import glob
import io
import json
import os
import random
import subprocess
import sys
import tempfile

import pandas as pd

PROGRAM = os.environ.get("MARKETFLOW_BIN", "target/debug/marketflow")
SCALE = 10**8
VALUES = ["open", "high", "low", "close", "volume", "buy_volume", "trade_count", "vwap", "turnover", "sell_volume"]


def main() -> int:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="marketflow-tapes-") as scratch:
        for tape in bitstamp(sys.argv[1], scratch):
            wrong += check(tape)
        if len(sys.argv) > 2:
            for tape in others(sys.argv[2], scratch):
                wrong += check(tape)
        else:
            print("SKIPPED: the tapes of Binance, OANDA and IBM were NOT compared, as no folder holds them")
    print("every bar equals its recomputation" if wrong == 0 else f"{wrong} bars DIFFER")
    return 0 if wrong == 0 else 2


class Tape:
    """A file to import, how, and its rows as the check reads them: time_us, price, size (or None), side, order."""

    def __init__(self, name, path, instrument, options, rows, twice=False):
        self.name, self.path, self.instrument, self.options, self.rows, self.twice = name, path, instrument, options, rows, twice


def times(column, micros):
    return column.astype("int64") * micros


def bitstamp(path, scratch):
    raw = pd.read_csv(path, dtype=str)
    rows = pd.DataFrame({"time_us": times(raw.timestamp, 10**6), "price": raw.price, "size": raw.amount, "side": "", "order": raw.index})
    options = "--time-column timestamp --time-unit s --price-column price --size-column amount".split()
    instrument = os.environ.get("MARKETFLOW_TAPE_INSTRUMENT", "BITSTAMP:BTCUSD")
    yield Tape("Bitstamp BTC/USD", path, instrument, options, rows, twice=True)

    # the same rows with their number as an order column, each moved by up to four minutes among the others
    chance = random.Random(20131125)
    moved = raw.assign(row=raw.index + 1, at=[int(t) + chance.uniform(0, 240) for t in raw.timestamp]).sort_values("at", kind="stable")
    path = os.path.join(scratch, "shuffled.csv")
    moved.drop(columns="at").to_csv(path, index=False)
    yield Tape("Bitstamp, shuffled", path, "SHUFFLED:BTCUSD", options + ["--id-column", "row"], rows)
    path = os.path.join(scratch, "reversed.csv")
    raw.assign(row=raw.index + 1)[::-1].to_csv(path, index=False)
    yield Tape("Bitstamp, backwards, --sort", path, "BACKWARDS:BTCUSD", options + ["--id-column", "row", "--sort"], rows)


def others(folder, scratch):
    def read(pattern):
        found = glob.glob(os.path.join(folder, pattern))
        if len(found) != 1:
            sys.exit(f"{folder} holds {len(found)} files {pattern}, one was expected")
        return found[0], pd.read_csv(found[0], dtype=str)

    _, both = read("crypto/binance_spot_trades_*.csv.gz")
    options = "--time-column ts_ms --time-unit ms --price-column price --size-column qty --id-column trade_id".split()
    options += "--side-column is_buyer_maker --side-buy-value false --side-sell-value true".split()
    for symbol, raw in both.groupby("symbol"):
        path = os.path.join(scratch, f"{symbol}.csv")
        raw.to_csv(path, index=False)
        sides = raw.is_buyer_maker.map({"true": "sell", "false": "buy"})
        order = raw.trade_id.astype("int64")
        rows = pd.DataFrame({"time_us": times(raw.ts_ms, 1000), "price": raw.price, "size": raw.qty, "side": sides, "order": order})
        yield Tape(f"Binance {symbol}", path, f"BINANCE:{symbol}", options, rows)

    path, raw = read("fx/oanda_eurusd_ticks_*.csv.gz")
    rows = pd.DataFrame({"time_us": times(raw.ts_ms, 1000), "price": raw.bid, "size": None, "side": "", "order": raw.index})
    yield Tape("OANDA EUR/USD bids", path, "OANDA:EURUSD", "--time-column ts_ms --time-unit ms --price-column bid".split(), rows)

    path, raw = read("stocks/ibm_trade_ticks_*.csv.gz")
    rows = pd.DataFrame({"time_us": times(raw.ts_ms, 1000), "price": raw.price, "size": raw["size"], "side": "", "order": raw.index})
    options = "--time-column ts_ms --time-unit ms --price-column price --size-column size".split()
    yield Tape("IBM", path, "NYSE:IBM", options, rows)


def check(tape) -> int:
    report = imported(tape)
    feeds = [report["feed"]]
    if tape.twice:
        again = imported(tape)
        if again["feed"] != report["feed"] or again["known_before"] != report["rows"]:
            print(f"{tape.name}: the second import is not known as the first: {again}")
            return 1
    wrong = 0
    for minutes in (1, 5, 15):
        expected = bars(tape.rows, minutes)
        command = ["bars", "--instrument", tape.instrument, "--interval", f"{minutes}m", "--feed", feeds[0], "--format", "csv"]
        got = pd.read_csv(io.StringIO(marketflow(command)), dtype=str, keep_default_na=False)
        wrong += compare(tape.name, minutes, expected, got)
    return wrong


def imported(tape):
    venue, symbol = tape.instrument.split(":")
    command = ["import", "trades", tape.path, "--venue", venue, "--symbol", symbol, *tape.options, "--json"]
    return json.loads(marketflow(command))


def marketflow(arguments) -> str:
    done = subprocess.run([PROGRAM, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{PROGRAM} {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


def compare(name, minutes, expected, got) -> int:
    wrong = 0
    if list(expected.open_time) != list(got.open_time):
        missing = sorted(set(expected.open_time) - set(got.open_time))
        surplus = sorted(set(got.open_time) - set(expected.open_time))
        print(f"{name} {minutes}m: {len(missing)} bars are missing, {len(surplus)} too many, such as {(missing + surplus)[:3]}")
        return len(missing) + len(surplus) or 1
    for column in VALUES + ["quality", "revision"]:
        for at in expected.index[expected[column] != got[column]]:
            wrong += 1
            if wrong <= 5:
                values = f"{got[column][at]!r}, not {expected[column][at]!r}"
                print(f"{name} {minutes}m {expected.open_time[at]} {column}: {values}")
    print(f"{name} {minutes}m: {len(expected)} bars, {'all equal' if wrong == 0 else f'{wrong} values differ'}")
    return wrong


def bars(rows, minutes):
    """One row a window, every value as text."""
    scaled_size = rows["size"].map(lambda size: None if size is None or pd.isna(size) else scaled(size))
    rows = rows.assign(size=scaled_size.astype(object), price=rows.price.map(scaled).astype(object))
    rows = rows[rows["size"].map(lambda size: size != 0)]
    span = minutes * 60_000_000
    made = []
    for window, trades in rows.groupby(rows.time_us // span * span, sort=True):
        trades = trades.sort_values(["order"], kind="stable")
        prices = list(trades.price)
        sizes = [size or 0 for size in trades["size"].where(trades["size"].notna(), None)]
        volume = sum(sizes)
        turnover = sum(price * size for price, size in zip(prices, sizes))
        side_volume = {side: sum(s for s, of in zip(sizes, trades.side) if of == side) for side in ("buy", "sell")}
        made.append({
            "open_time": pd.Timestamp(window, unit="us", tz="UTC").strftime("%Y-%m-%dT%H:%M:%SZ"),
            "open": text(prices[0]),
            "high": text(max(prices)),
            "low": text(min(prices)),
            "close": text(prices[-1]),
            "volume": text(volume),
            "buy_volume": text(side_volume["buy"]),
            "trade_count": str(len(prices)),
            "vwap": text(half_even(turnover, volume)) if volume else "",
            "turnover": text(half_even(turnover, SCALE)),
            "sell_volume": text(side_volume["sell"]),
            "quality": "complete",
            "revision": "0",
        })
    return pd.DataFrame(made)


def scaled(text_value: str) -> int:
    """A decimal text times 10^8, exactly."""
    sign = -1 if text_value.startswith("-") else 1
    whole, _, fraction = text_value.lstrip("+-").partition(".")
    fraction = fraction.ljust(8, "0")
    assert set(fraction[8:]) <= {"0"}, f"{text_value} has more than 8 decimals"
    return sign * (int(whole or "0") * SCALE + int(fraction[:8]))


def text(value: int) -> str:
    """Without exponent or trailing zeros."""
    whole, fraction = divmod(abs(value), SCALE)
    digits = f"{whole}.{fraction:08d}".rstrip("0").rstrip(".")
    return f"-{digits}" if value < 0 else digits


def half_even(numerator: int, denominator: int) -> int:
    quotient, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and quotient % 2 == 1):
        quotient += 1
    return quotient


if __name__ == "__main__":
    sys.exit(main())
