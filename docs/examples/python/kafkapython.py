"""Follows a delta topic with kafka-python: brokers, topic, address of a node's HTTP port, after how many deltas to stop."""

import decimal
import io
import json
import struct
import sys
import urllib.request

import fastavro
from kafka import KafkaConsumer, TopicPartition


def plain(v):
    return str(v) if isinstance(v, decimal.Decimal) else v


class Registry:
    def __init__(self, url):
        self.url, self.schemas = url, {}

    def read(self, value):
        """A record is a zero, the schema's id in four bytes, Avro."""
        magic, schema_id = struct.unpack_from(">BI", value)
        if magic != 0:
            raise ValueError("no schema's frame")
        if schema_id not in self.schemas:
            with urllib.request.urlopen(f"{self.url}/schemas/ids/{schema_id}") as r:
                self.schemas[schema_id] = fastavro.parse_schema(json.loads(json.load(r)["schema"]))
        return fastavro.schemaless_reader(io.BytesIO(value[5:]), self.schemas[schema_id])


def main(brokers, topic, registry, limit=-1):
    consumer = KafkaConsumer(
        bootstrap_servers=brokers, isolation_level="read_committed",
        enable_auto_commit=False, auto_offset_reset="earliest", group_id=None,
    )
    consumer.assign([TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)])
    consumer.seek_to_beginning()
    schemas, last, rows = Registry(registry), {}, {}
    while limit != 0:
        for records in consumer.poll(timeout_ms=1000).values():
            for r in records:
                if limit == 0:
                    break
                d = schemas.read(r.value)
                place = r.partition, d["generation"]
                before = last.get(place, 0)
                if d["sequence"] <= before:
                    continue  # we have it
                if before and d["sequence"] > before + 1:
                    raise SystemExit(f"partition {r.partition}: deltas {before + 1} to {d['sequence'] - 1} are missing")
                last[place] = d["sequence"]
                if d["op"] == "delete":
                    rows.pop(r.key, None)
                else:
                    rows[r.key] = d["features"]
                features = d["features"] and {k: plain(v) for k, v in d["features"].items()}
                print(json.dumps({
                    "partition": r.partition, "sequence": d["sequence"], "version": d["version"], "op": d["op"],
                    "key": d["key"], "features": features, "rows": len(rows),
                }), flush=True)
                limit -= 1
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
