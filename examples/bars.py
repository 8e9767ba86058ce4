#!/usr/bin/env python3
"""Prints the bars on market.bars.v1 until ten seconds pass without one. All clients are Confluent's own."""
import os

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

kafka, registry = os.environ.get("KAFKA", "127.0.0.1:9092"), os.environ.get("REGISTRY", "http://127.0.0.1:8081/apis/ccompat/v7")
decode = AvroDeserializer(SchemaRegistryClient({"url": registry}))
consumer = Consumer({"bootstrap.servers": kafka, "group.id": "example-bars", "auto.offset.reset": "earliest",
                     "enable.auto.commit": False, "isolation.level": "read_committed"})  # unfinished transactions stay unseen
consumer.subscribe(["market.bars.v1"])
while (message := consumer.poll(10)) is not None:
    if message.error():
        raise KafkaException(message.error())
    bar = decode(message.value(), SerializationContext(message.topic(), MessageField.VALUE))
    numbers = [f"{bar[name]:f}" for name in ("open", "high", "low", "close", "volume")]
    print(bar["instrument"], bar["interval"], bar["open_time"].isoformat(), *numbers, bar["quality"], f"revision {bar['revision']}")
consumer.close()
