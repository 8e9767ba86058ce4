#!/usr/bin/env python3
"""Reads a topic from its first record to its committed end with Confluent's own consumer, deserializer and registry client, and prints
one JSON object per record: partition, offset, key, kind (the header, if any) and the decoded value.

Decimals are printed as plain text without trailing zeros, times as microseconds since 1970, bytes as numbers.

    KAFKA=127.0.0.1:9092 REGISTRY=http://127.0.0.1:8081/apis/ccompat/v7 confluent_check.py [TOPIC]
"""

import json
import os
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def main() -> None:
    topic = sys.argv[1] if len(sys.argv) > 1 else "market.bars.v1"
    registry = SchemaRegistryClient({"url": os.environ.get("REGISTRY", "http://127.0.0.1:8081/apis/ccompat/v7")})
    decode = AvroDeserializer(registry)
    consumer = Consumer({
        "bootstrap.servers": os.environ.get("KAFKA", "127.0.0.1:9092"),
        "group.id": "confluent-check",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
    })
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    open_partitions = set(partitions)
    while open_partitions:
        message = consumer.poll(30)
        if message is None:
            sys.exit(f"no record and no end of {topic} for 30 s")
        if message.error():
            if message.error().code() != KafkaError._PARTITION_EOF:
                raise KafkaException(message.error())
            open_partitions.discard(message.partition())
            continue
        value = decode(message.value(), SerializationContext(topic, MessageField.VALUE))
        kind = dict(message.headers() or []).get("kind")
        print(json.dumps({
            "partition": message.partition(),
            "offset": message.offset(),
            "key": message.key().decode(),
            "kind": kind and kind.decode(),
            "value": plain(value),
        }, ensure_ascii=False))
    consumer.close()


def plain(value):
    """The value in terms of JSON."""
    match value:
        case dict():
            return {name: plain(inner) for name, inner in value.items()}
        case list():
            return [plain(inner) for inner in value]
        case Decimal():
            text = f"{value:f}"
            return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
        case datetime():
            return (value - EPOCH) // timedelta(microseconds=1)
        case bytes():
            return list(value)
        case _:
            return value


if __name__ == "__main__":
    main()
