#!/usr/bin/env python3
"""Recomputes flows of markets from the same observations with pandas and fractions, and compares: money to the last decimal, ratios to 1e-9.

    python3 tests/python/market_flows_check.py SETTINGS.toml OBSERVATIONS.jsonl FUND_FLOWS.jsonl RESULTS.json

Written from docs/methodology/fund-flows.md; shares no code with the processor. Needs: pip install pandas
"""

import json
import math
import sys
import tomllib
from fractions import Fraction
from functools import cache

import numpy as np
import pandas as pd

HOUR = 3_600_000_000
DAY = 24 * HOUR
SCALE = 10**8


def micros(stamp: pd.Timestamp) -> int:
    return (stamp - pd.Timestamp(0)) // pd.Timedelta(microseconds=1)


@cache
def window_of(start: int, end: int):
    """Kind, open and close of the UTC day or month that holds the middle of the period."""
    length, middle = end - start, start + (end - start) // 2
    if 20 * HOUR <= length <= 28 * HOUR:
        day = middle // DAY * DAY
        return ("day", day, day + DAY)
    if 27 * DAY <= length <= 32 * DAY:
        return month_of(middle)
    return None


@cache
def month_of(instant: int):
    first = pd.Timestamp(instant, unit="us").to_period("M").to_timestamp()
    return ("month", micros(first), micros(first + pd.offsets.MonthBegin(1)))


def read_lines(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def last_word(records, key, word):
    """The record with the greatest word of each key, whatever order they come in."""
    last = {}
    for record in records:
        known = last.get(key(record))
        if known is None or word(known) < word(record):
            last[key(record)] = record
    return last


def optional(value, of=lambda value: value):
    """Orders nothing before something."""
    return (value is not None, 0 if value is None else of(value))


class Inputs:
    def __init__(self, settings, observations, fund_flows):
        self.settings = settings
        self.base = settings["base_currency"]
        self.rates = {rate["currency"]: rate for rate in settings.get("rate", [])}
        self.series = {}
        words = last_word(
            (o for o in observations if window_of(o["period_start"], o["period_end"])),
            lambda o: (f"{o['provider']}:{o['series']}", o["period_start"], o["period_end"]),
            lambda o: (
                (o["vintage"] is not None, o["vintage"] or ""), optional(o["published_at"]), o["receive_time"], optional(o["value"], Fraction)
            ),
        )
        for (name, start, end), observation in words.items():
            if observation["value"] is not None:
                self.series.setdefault(name, {})[(start, end)] = Fraction(observation["value"])
        self.funds = last_word(
            (f for f in fund_flows if window_of(f["period_start"], f["period_end"])),
            lambda f: (f["period_start"], f["period_end"], f["instrument"], f["provider"], f["investor_class"]),
            lambda f: ((f["vintage"] is not None, f["vintage"] or ""), f["receive_time"], optional(f["net_amount"], Fraction)),
        )
        # of several who report the same flow the first by name counts
        first = {}
        for start, end, instrument, provider, investor_class in sorted(self.funds):
            first.setdefault((start, end, instrument, investor_class), provider)
        self.funds = {key: fund for key, fund in self.funds.items() if first[key[:3] + key[4:]] == key[3]}

    def known(self, name):
        return sorted(self.series.get(name, {}).items())

    def rate(self, currency, end):
        """What a unit is worth in the base currency for a period that ends then, and whether that is stale."""
        if currency == self.base:
            return Fraction(1), False
        rate = self.rates.get(currency)
        if rate is None:
            return None, True
        if "fixed" in rate:
            return Fraction(rate["fixed"]), False
        before = [(period, value) for period, value in self.known(rate["series"]) if period[0] < end and value > 0]
        if not before:
            return None, True
        (_, rate_end), value = before[-1]
        stale = end - rate_end > self.settings["rate_stale_after_days"] * DAY
        return (1 / value if rate.get("inverse") else value), stale


def rounded(exact):
    """Half to even, as an integer times 10^8."""
    return None if exact is None else round(exact * SCALE)


class Flows:
    """One row for each flow and aggregate it belongs to."""

    def __init__(self, inputs):
        self.inputs = inputs
        self.rows = []
        # configured sources: the aggregates they belong to, their first month, and in which months they are
        self.sources = []

    def add(self, member, window, exact, end, hole):
        rate, rate_stale = self.inputs.rate(member["currency"], end)
        own = rounded(exact)
        base = None if exact is None or rate is None else rounded(exact * rate)
        for scope, name, method, currency in self.places(member):
            amount = base if currency == self.inputs.base else own
            stale = hole or (rate_stale and currency == self.inputs.base) or amount is None
            self.rows.append((*window, scope, name, method, currency, amount, stale))

    def places(self, member):
        inputs, market, method = self.inputs, member["market"], member["method"]
        for currency in dict.fromkeys([inputs.base, member["currency"]]):
            yield "market", market, method, currency
            yield "asset_class", member["asset_class"], method, currency
            if member.get("investor_class"):
                yield "investor_class", f"{market}/{member['investor_class']}", method, currency
        if inputs.settings["markets"][market] == method:
            yield "market", market, "COMBINED", inputs.base
            yield "global", "all", "COMBINED", inputs.base

    def add_source(self, member, flows):
        """`flows`: (start, end, exact, hole). A month without a value of its own is made of its days."""
        months = {window_of(start, end) for start, end, _, _ in flows if window_of(start, end)[0] == "month"}
        seen = set()
        for start, end, exact, hole in flows:
            window = window_of(start, end)
            self.add(member, window, exact, end, hole)
            if window[0] == "month":
                seen.add(window)
            elif month_of(window[1]) not in months:
                self.add(member, month_of(window[1]), exact, end, hole)
                seen.add(month_of(window[1]))
        if seen:
            self.sources.append((set(self.places(member)), min(opened for _, opened, _ in seen), seen))

    def aggregates(self):
        columns = ["kind", "open", "close", "scope", "name", "method", "currency", "amount", "stale"]
        frame = pd.DataFrame(self.rows, columns=columns).astype({"amount": object})
        keys = columns[:7]

        def fold(group):
            amounts = [amount for amount in group["amount"] if amount is not None]
            return pd.Series(
                {
                    "inflow": sum(amount for amount in amounts if amount > 0),
                    "outflow": -sum(amount for amount in amounts if amount < 0),
                    "inputs": len(amounts),
                    "stale": bool(group["stale"].any()) or not amounts,
                },
                dtype=object,
            )

        folded = frame.groupby(keys)[["amount", "stale"]].apply(fold)
        for key in folded.index:
            if key[0] == "month" and self.lacks_a_source(key):
                folded.at[key, "stale"] = True
        return folded

    def lacks_a_source(self, key):
        return any(key[3:] in places and first < key[1] and key[:3] not in months for places, first, months in self.sources)


def changes(inputs, level):
    """(start, end, value before, value, hole) for each value that has one before it, days and months apart."""
    last = {}
    for (start, end), value in inputs.known(level):
        kind, opened, _ = window_of(start, end)
        if kind in last:
            before_open, before = last[kind]
            hole = opened - before_open > 10 * DAY if kind == "day" else month_of(before_open)[2] != opened
            yield start, end, before, value, hole
        last[kind] = (opened, value)


def all_flows(inputs):
    settings, flows = inputs.settings, Flows(inputs)
    for source in settings.get("reported", []):
        factor = Fraction(source.get("factor", "1"))
        known = inputs.known(source["value"])
        flows.add_source(source | {"method": "REPORTED"}, [(start, end, value * factor, False) for (start, end), value in known])
    for source in settings.get("signed_turnover", []):
        found = []
        factor = Fraction(source.get("factor", "1"))
        for start, end, before, close, hole in changes(inputs, source["price"]):
            at = lambda name: inputs.series.get(name, {}).get((start, end))  # noqa: E731
            sign = (close > before) - (close < before)
            if "turnover" in source:
                turnover = at(source["turnover"])
            else:
                volume = at(source["volume"])
                prices = [close] + ([at(source["high"]), at(source["low"])] if "high" in source else [])
                turnover = None if volume is None or None in prices else sum(prices) / len(prices) * volume
            if turnover is not None:
                found.append((start, end, sign * turnover * factor, hole))
        flows.add_source(source | {"method": "SIGNED_TURNOVER"}, found)
    for source in settings.get("value_change", []):
        found = []
        for start, end, before, now, hole in changes(inputs, source["level"]):
            month = str(pd.Timestamp(start + (end - start) // 2, unit="us").to_period("M"))
            sizes = [size for size in source["size"] if size["from"] <= month] or source["size"][:1]
            size = Fraction(sizes[-1]["amount"])
            if "duration" in source:
                exact = -Fraction(source["duration"]) * (now - before) / 100 * size
            elif before <= 0 or (source.get("inverse") and now <= 0):
                exact = None
            elif source.get("inverse"):
                exact = (1 / now - 1 / before) / (1 / before) * size
            else:
                exact = (now - before) / before * size
            found.append((start, end, exact, hole))
        flows.add_source(source | {"method": "VALUE_CHANGE"}, found)
    venues = {venue["venue"]: venue for venue in settings.get("reported_venue", [])}
    for (start, end, instrument, _, investor_class), fund in inputs.funds.items():
        venue = venues.get(instrument.split(":")[0])
        if venue is None or investor_class == "total":
            continue
        member = {"market": venue["market"], "asset_class": venue["asset_class"], "currency": fund["currency"], "method": "REPORTED"}
        if investor_class != "unknown":
            member["investor_class"] = investor_class
        exact = None if fund["net_amount"] is None else Fraction(fund["net_amount"])
        window = window_of(start, end)
        flows.add(member, window, exact, end, False)
        if window[0] == "day":
            flows.add(member, month_of(window[1]), exact, end, False)
    return flows


class Comparison:
    def __init__(self):
        self.compared, self.problems = 0, []

    def equal(self, what, ours, theirs):
        self.compared += 1
        if ours != theirs:
            self.problems.append(f"{what}: pandas {ours!r}, published {theirs!r}")

    def near(self, what, ours, theirs):
        self.compared += 1
        ours = None if ours is None or math.isnan(ours) else ours
        if (ours is None) != (theirs is None) or (ours is not None and abs(ours - theirs) > 1e-9 * max(1.0, abs(ours))):
            self.problems.append(f"{what}: pandas {ours!r}, published {theirs!r}")


def p_value(correlation, n):
    """Two-sided, Student's t with n - 2 degrees of freedom: the finite series for whole degrees (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    freedom = n - 2
    if abs(correlation) >= 1:
        return 0.0
    theta = math.atan(abs(correlation) / math.sqrt(1 - correlation**2))  # = atan(t / sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    if freedom % 2 == 0:
        term = total = 1.0
        for k in range(1, freedom // 2):
            term *= (2 * k - 1) / (2 * k) * cosine**2
            total += term
        return 1 - sine * total
    total, term = 0.0, cosine
    for k in range(1, (freedom - 1) // 2 + 1):
        total += term
        term *= 2 * k / (2 * k + 1) * cosine**2
    return 1 - 2 / math.pi * (theta + sine * total)


def stands_still(values):
    return ((values - values.mean()) ** 2).sum() <= (1e-12 * values.mean()) ** 2 * len(values)


def compare_markets(aggregates, results, comparison):
    """Shares, z-scores, lead and lag, rotation: of markets by the method that speaks for each, in the base currency."""
    of_markets = aggregates[
        (aggregates.index.get_level_values("kind") == "month")
        & (aggregates.index.get_level_values("scope") == "market")
        & (aggregates.index.get_level_values("method") == "COMBINED")
    ]
    frame = of_markets.reset_index()
    frame["month"] = pd.to_datetime(frame["open"], unit="us").dt.to_period("M")
    frame["net"] = frame["inflow"] - frame["outflow"]
    frame["gross"] = frame["inflow"] + frame["outflow"]
    months = pd.period_range(frame["month"].min(), frame["month"].max(), freq="M")
    exact = frame.pivot(index="month", columns="name", values="net").reindex(months)
    net = exact.apply(lambda column: column.map(lambda value: value / SCALE, na_action="ignore")).astype(float)
    gross = frame.groupby("month")["gross"].agg(lambda values: sum(values))

    before = net.shift(1).rolling(36, min_periods=24)
    mean = before.apply(np.nanmean, raw=True)
    deviation = before.apply(lambda values: np.nanstd(values, ddof=1), raw=True)
    score = ((net - mean) / deviation).where(deviation > 1e-12 * mean.abs())
    published = {(ratio["name"], ratio["month"]): ratio for ratio in results["ratios"]}
    comparison.equal("months of ratios", len(frame), len(published))
    for row in frame.itertuples():
        ratio = published[(row.name, str(row.month))]
        all_gross = gross[row.month]
        comparison.near(f"share {row.name} {row.month}", row.net / all_gross if all_gross else None, ratio["share"])
        comparison.near(f"z-score {row.name} {row.month}", score.at[row.month, row.name], ratio["z_score"])

    published = {(pair["leader"], pair["follower"], pair["lag_months"]): pair for pair in results["lead_lags"]}
    expected = 0
    for leader in net.columns:
        for follower in net.columns.drop(leader):
            for lag in range(0 if leader < follower else 1, 7):
                pairs = pd.DataFrame({"x": net[leader], "y": net[follower].shift(-lag)}).dropna()
                if len(pairs) < 3 or stands_still(pairs["x"]) or stands_still(pairs["y"]):
                    continue
                expected += 1
                what = f"{leader} leads {follower} by {lag}"
                pair = published.get((leader, follower, lag))
                if pair is None:
                    comparison.equal(what, "there", "missing")
                    continue
                correlation = pairs["x"].corr(pairs["y"])
                comparison.equal(f"{what}: n", len(pairs), pair["n"])
                comparison.near(f"{what}: correlation", correlation, pair["correlation"])
                comparison.near(f"{what}: slope", pairs["x"].cov(pairs["y"]) / pairs["x"].var(), pair["slope"])
                comparison.near(f"{what}: p-value", p_value(correlation, len(pairs)), pair["p_value"])
    comparison.equal("pairs and lags", expected, len(published))

    published = {(r["month"], r["from"], r["to"]): r["amount"] for r in results["rotations"]}
    expected = {}
    for month in exact.index:
        values = exact.loc[month].dropna()
        gave, took = -values[values < 0], values[values > 0]
        larger = max(sum(gave), sum(took))
        for giver, given in gave.items():
            for taker, taken in took.items():
                if given * taken // larger:
                    expected[(str(month), giver, taker)] = given * taken // larger
    comparison.equal("rotations", sorted(expected), sorted(published))
    for key, amount in expected.items():
        comparison.equal(f"rotation {key}", amount, published.get(key) and round(Fraction(published[key]) * SCALE))


def main() -> int:
    settings_path, observations, fund_flows, results_path = sys.argv[1:]
    with open(settings_path, "rb") as file:
        settings = tomllib.load(file)
    with open(results_path, encoding="utf-8") as file:
        results = json.load(file)
    aggregates = all_flows(Inputs(settings, read_lines(observations), read_lines(fund_flows))).aggregates()

    comparison = Comparison()
    published = {}
    for flow in results["aggregates"]:
        key = (flow["open_time"], flow["close_time"], flow["scope"], flow["name"], flow["method"], flow["currency"])
        if flow["revision"] != published.get(key, {"revision": -1})["revision"] + 1:
            comparison.problems.append(f"{key}: revision {flow['revision']} is not the next")
        published[key] = flow
    comparison.equal("aggregates", sorted(key[1:] for key in aggregates.index), sorted(published))
    for key, row in aggregates.iterrows():
        flow = published.get(key[1:])
        if flow is None:
            continue
        amounts = [round(Fraction(flow[column]) * SCALE) for column in ("inflow", "outflow", "net")]
        comparison.equal(f"{key}: money", [row["inflow"], row["outflow"], row["inflow"] - row["outflow"]], amounts)
        comparison.equal(f"{key}: inputs, stale", [row["inputs"], row["stale"]], [flow["input_count"], flow["stale"]])
    compare_markets(aggregates, results, comparison)
    if comparison.problems:
        print("\n".join(comparison.problems[:20]), file=sys.stderr)
        raise SystemExit(f"{len(comparison.problems)} of {comparison.compared} differ")
    print(f"{len(aggregates)} aggregates, {comparison.compared} numbers compared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
