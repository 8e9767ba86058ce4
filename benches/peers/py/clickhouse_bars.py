"""The same job by ClickHouse's own parts, in one process: Kafka engine (AvroConfluent) -> materialized view -> MergeTree, bars by GROUP BY once the
topic's end is reached, out through a second Kafka engine table as JSON. It closes no windows by event time: bars are final because the input ended.

Environment: CHDB_LIB BOOTSTRAP REGISTRY TOPIC OUT GROUP STATE_DIR TRADES
"""
import ctypes as c
import os
import sys
import time

E = os.environ
FUNCTIONS = {  # of the C interface: result, arguments
    "chdb_connect": (c.POINTER(c.c_void_p), [c.c_int, c.POINTER(c.c_char_p)]),
    "chdb_query_n": (c.c_void_p, [c.c_void_p, c.c_char_p, c.c_size_t, c.c_char_p, c.c_size_t]),
    "chdb_result_error": (c.c_char_p, [c.c_void_p]),
    "chdb_result_buffer": (c.c_void_p, [c.c_void_p]),
    "chdb_result_length": (c.c_size_t, [c.c_void_p]),
    "chdb_destroy_query_result": (None, [c.c_void_p]),
}
chdb = c.CDLL(E["CHDB_LIB"])
for name, (result, arguments) in FUNCTIONS.items():
    getattr(chdb, name).restype, getattr(chdb, name).argtypes = result, arguments
connection = chdb.chdb_connect(2, (c.c_char_p * 2)(b"chdb", b"--path=" + E["STATE_DIR"].encode()))[0]


def sql(text):
    text = text.encode()
    result = chdb.chdb_query_n(connection, text, len(text), b"TSV", 3)
    if error := chdb.chdb_result_error(result):
        sys.exit("chdb: " + error.decode()[:600])
    length = chdb.chdb_result_length(result)
    answer = c.string_at(chdb.chdb_result_buffer(result), length).decode() if length else ""
    chdb.chdb_destroy_query_result(result)
    return answer.strip()


# controls have another schema: the columns they lack get defaults, and their price of 0 tells them apart
sql(f"""CREATE TABLE source (instrument String, event_time DateTime64(6, 'UTC'), price Decimal(18, 8), size Decimal(38, 8), sequence Int64)
    ENGINE = Kafka('{E["BOOTSTRAP"]}', '{E["TOPIC"]}', '{E["GROUP"]}', 'AvroConfluent')
    SETTINGS format_avro_schema_registry_url = '{E["REGISTRY"]}', input_format_avro_allow_missing_fields = 1, input_format_null_as_default = 1,
    kafka_num_consumers = 1, kafka_max_block_size = 262144, kafka_poll_max_batch_size = 65536, kafka_flush_interval_ms = 1000""")
sql("""CREATE TABLE trades (instrument LowCardinality(String), event_time DateTime64(6, 'UTC'), price Float64, size Float64, sequence Int64)
    ENGINE = MergeTree ORDER BY (instrument, event_time)""")
sql("CREATE MATERIALIZED VIEW feed TO trades AS SELECT instrument, event_time, toFloat64(price) AS price, toFloat64(size) AS size, sequence FROM source WHERE price > 0")
rows, moved = -1, time.time()
while (now := int(sql("SELECT count() FROM trades") or 0)) < int(E["TRADES"]):
    if now != rows:
        rows, moved = now, time.time()
    if time.time() - moved > 60:
        sys.exit(f"stuck at {rows} rows: " + sql("SELECT exceptions.text FROM system.kafka_consumers")[:600])
    time.sleep(0.05)
sql(f"""CREATE TABLE out (instrument String, interval_s Int32, open_time Int64, open Float64, high Float64, low Float64, close Float64, volume Float64,
    vwap Float64, trade_count Int64) ENGINE = Kafka('{E["BOOTSTRAP"]}', '{E["OUT"]}', '{E["GROUP"]}-out', 'JSONEachRow')""")
for seconds in (60, 300, 900):
    sql(f"""INSERT INTO out SELECT instrument, {seconds}, toUnixTimestamp(start) * 1000000, open, high, low, close, volume, vwap, n FROM (
        SELECT instrument, toStartOfInterval(event_time, INTERVAL {seconds} SECOND, 'UTC') AS start, argMin(price, (event_time, sequence)) AS open,
        max(price) AS high, min(price) AS low, argMax(price, (event_time, sequence)) AS close, sum(size) AS volume,
        sum(price * size) / volume AS vwap, count() AS n FROM trades GROUP BY instrument, start)""")
sys.stdout.flush()
os._exit(0)  # the engine does not always shut down cleanly with such tables open
