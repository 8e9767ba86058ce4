"""Quix Streams: the same job, one process, as `python app.py` is run.

Environment: BOOTSTRAP TOPIC OUT GROUP STATE_DIR EXPECT ROOT TRADE_SCHEMA CONTROL_SCHEMA
"""
import io
import os

import fastavro
from quixstreams import Application

E = os.environ
EXPECT = int(E["EXPECT"])
SCHEMAS = {
    int(E[f"{name.upper()}_SCHEMA"]).to_bytes(4, "big"): fastavro.schema.load_schema(f"{E['ROOT']}/schemas/avro/{name}.v1.avsc")
    for name in ("trade", "control")
}
TRADE = int(E["TRADE_SCHEMA"]).to_bytes(4, "big")


def micros(time):
    return int(time.timestamp()) * 1_000_000 + time.microsecond


def decode(value):
    record = fastavro.schemaless_reader(io.BytesIO(value[5:]), SCHEMAS[value[1:5]])
    if value[1:5] == TRADE:
        return {"t": micros(record["event_time"]), "p": float(record["price"]), "q": float(record["size"]), "i": record["sequence"]}
    if record["kind"] == "END":  # stands behind every window: closes them
        return {"t": micros(record["clock"]), "p": 0.0, "q": 0.0, "i": 0}
    return None


def first(v):
    place = [v["t"], v["i"]]
    return {"o": v["p"], "h": v["p"], "l": v["p"], "c": v["p"], "v": v["q"], "pv": v["p"] * v["q"], "n": 1, "first": place, "last": place}


def add(bar, v):
    price, place = v["p"], [v["t"], v["i"]]
    if place < bar["first"]:
        bar["first"], bar["o"] = place, price
    if place > bar["last"]:
        bar["last"], bar["c"] = place, price
    bar["h"], bar["l"] = max(bar["h"], price), min(bar["l"], price)
    bar["v"] += v["q"]
    bar["pv"] += price * v["q"]
    bar["n"] += 1
    return bar


def row(result, key, seconds):
    v = result["value"]
    return {"instrument": key.decode(), "interval_s": seconds, "open_time": result["start"] * 1000, "open": v["o"], "high": v["h"], "low": v["l"],
            "close": v["c"], "volume": v["v"], "vwap": v["pv"] / v["v"], "trade_count": v["n"]}


app = Application(broker_address=E["BOOTSTRAP"], consumer_group=E["GROUP"], auto_offset_reset="earliest", processing_guarantee="at-least-once",
                  state_dir=E["STATE_DIR"], commit_interval=1.0, loglevel="WARNING",
                  producer_extra_config={"compression.type": "lz4", "partitioner": "murmur2"}, consumer_extra_config={"fetch.queue.backoff.ms": 10})
trades = app.dataframe(app.topic(E["TOPIC"], value_deserializer="bytes", key_deserializer="bytes")).apply(decode)
trades = trades.filter(lambda v: v is not None).set_timestamp(lambda v, key, timestamp, headers: v["t"] // 1000)
out = app.topic(E["OUT"], value_serializer="json", key_serializer="bytes")
written = 0


def count(*_):
    global written
    written += 1
    if written >= EXPECT:
        app.stop()


for seconds in (60, 300, 900):
    # closing_strategy="partition": the end's key closes every key's windows in its partition, as with the other peers
    bars = trades.tumbling_window(seconds * 1000, grace_ms=5000, name=f"w{seconds}").reduce(reducer=add, initializer=first)
    bars = bars.final(closing_strategy="partition").apply(lambda r, key, *_, s=seconds: row(r, key, s), metadata=True)
    bars.to_topic(out).update(count)
app.run()
print("bars", written)
