"""Follows a delta topic with confluent-kafka: brokers, topic, address of a node's HTTP port, after how many deltas to stop."""

import decimal
import json
import sys

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext


def plain(v):
    return str(v) if isinstance(v, decimal.Decimal) else v


def main(brokers, topic, registry, limit=-1):
    consumer = Consumer({
        "bootstrap.servers": brokers,
        "group.id": "example",  # no group is joined: partitions are assigned by hand
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
    })
    read = AvroDeserializer(SchemaRegistryClient({"url": registry}))
    partitions = consumer.list_topics(topic).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    last, rows = {}, {}
    while limit != 0:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            raise SystemExit(message.error())
        d = read(message.value(), SerializationContext(topic, MessageField.VALUE))
        place = message.partition(), d["generation"]
        before = last.get(place, 0)
        if d["sequence"] <= before:
            continue  # we have it
        if before and d["sequence"] > before + 1:
            raise SystemExit(f"partition {place[0]}: deltas {before + 1} to {d['sequence'] - 1} are missing")
        last[place] = d["sequence"]
        if d["op"] == "delete":
            rows.pop(message.key(), None)
        else:
            rows[message.key()] = d["features"]
        features = d["features"] and {k: plain(v) for k, v in d["features"].items()}
        print(json.dumps({
            "partition": place[0], "sequence": d["sequence"], "version": d["version"], "op": d["op"],
            "key": d["key"], "features": features, "rows": len(rows),
        }), flush=True)
        limit -= 1
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
