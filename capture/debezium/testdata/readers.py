"""What confluent-kafka's AvroDeserializer makes of keys and values: readers.py URL. A line in is {topic, key,
value} in base64, a line out {key, value} in JSON as Connect's converter has it: bytes in base64, decimals as the bytes of
their unscaled integer, and as text the floats that JSON lacks."""

import base64
import datetime
import decimal
import json
import math
import sys

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

read = AvroDeserializer(SchemaRegistryClient({"url": sys.argv[1]}))


def plain(v):
    if isinstance(v, dict):
        return {k: plain(x) for k, x in v.items()}
    if isinstance(v, list):
        return [plain(x) for x in v]
    if isinstance(v, bytes):
        return base64.b64encode(v).decode()
    if isinstance(v, decimal.Decimal):
        sign, digits, _ = v.as_tuple()  # the exponent is the schema's
        n = int("".join(map(str, digits))) * (-1 if sign else 1)
        return plain(n.to_bytes((n if n >= 0 else ~n).bit_length() // 8 + 1, "big", signed=True))
    if isinstance(v, float) and not math.isfinite(v):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(v, "NaN")
    if isinstance(v, (datetime.datetime, datetime.date, datetime.time)):
        raise TypeError("Debezium's times are numbers, not logical types of Avro")
    return v


for line in sys.stdin:
    record = json.loads(line)
    out = {}
    for name, part in (("key", MessageField.KEY), ("value", MessageField.VALUE)):
        b = record[name]
        out[name] = None if b is None else plain(read(base64.b64decode(b), SerializationContext(record["topic"], part)))
    print(json.dumps(out))
