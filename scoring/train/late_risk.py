#!/usr/bin/env python3
"""Trains late_risk, the demo's model: will an aircraft's next flight arrive more than 15 minutes late?

    late_risk.py DATA MODELS

DATA is internal/demo/data, MODELS internal/demo/project/models. Writes

    late_risk.txt               LightGBM's text
    late_risk.parity.parquet    10,000 rows: the inputs, and what LightGBM says of them (risk, and raw before the sigmoid)

and prints the model's SHA-256 for definitions/models.yaml. An input is the view plane_delays of
definitions/views.yaml as it stands when the flight is scheduled to leave: over the aircraft's
flights that have arrived by then, by scheduled departure, in whole hours. Approximately: the
replayer also moves flights between aircraft and changes seats, which is left out here.

In the parity file a third of the rows are as in training; in the others values are replaced by NULL,
NaN, infinities, both zeros, and thresholds with their two neighbours.
"""
import csv
import gzip
import hashlib
import re
import sys
from bisect import bisect_right
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

INPUTS = ["plane_delays." + f for f in ("flights_1d", "flights_7d", "arr_delay_1d", "arr_delay_7d", "worst_7d", "seats")]
PARAMS = {
    "objective": "binary", "num_leaves": 31, "learning_rate": 0.05, "min_data_in_leaf": 40, "lambda_l2": 1.0,
    "seed": 1, "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbosity": -1,
}
TREES, ROWS, HOUR = 100, 10_000, 3600


def read(data, name):
    with gzip.open(Path(data) / f"{name}.csv.gz", "rt", newline="") as f:
        return list(csv.DictReader(f))


def instants(flight, zones):
    """Scheduled departure and arrival in Unix seconds, as internal/demo computes them (a month without daylight saving)."""
    hour = datetime.strptime(flight["time_hour"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    departure = int(hour.timestamp()) + int(flight["minute"]) * 60
    midnight = datetime(int(flight["year"]), int(flight["month"]), int(flight["day"]), tzinfo=timezone.utc)
    hhmm = int(flight["sched_arr_time"])
    arrival = int((midnight + timedelta(hours=hhmm // 100, minutes=hhmm % 100)).timestamp()) - int(zones.get(flight["dest"], -4) * HOUR)
    return departure, arrival if arrival > departure else arrival + 24 * HOUR


def examples(data):
    """The inputs (rows × 6) and the label of every flight whose aircraft has arrived before."""
    zones = {a["faa"]: float(a["tz"]) for a in read(data, "airports")}
    seats = {p["tailnum"]: float(p["seats"]) for p in read(data, "planes") if p["seats"] != "NA"}
    by_plane = defaultdict(list)
    for f in read(data, "flights"):
        if f["tailnum"] != "NA" and f["arr_delay"] != "NA":
            departure, arrival = instants(f, zones)
            delay = float(f["arr_delay"])
            by_plane[f["tailnum"]].append((departure, arrival + delay * 60, delay))
    x, y = [], []
    for tail, flights in sorted(by_plane.items()):
        flights.sort()
        departures = [f[0] for f in flights]
        for now, _, delay in flights:
            known = [f for f in flights[:bisect_right(departures, now)] if f[1] <= now]
            if not known:
                continue
            in_window = lambda days: [f[2] for f in known if f[0] >= (now - days * 24 * HOUR) // HOUR * HOUR]
            day, week = in_window(1), in_window(7)
            x.append([len(day), len(week), mean(day), mean(week), max(week, default=np.nan), seats.get(tail, np.nan)])
            y.append(delay > 15)
    return np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)


def mean(values):
    return sum(values) / len(values) if values else np.nan


def parity_rows(x, text):
    """Inputs (rows × 6), and which of them are NULL rather than NaN."""
    rng = np.random.default_rng(2013)
    edges = [[] for _ in INPUTS]
    for tree in re.findall(r"split_feature=(.*)\n.*\nthreshold=(.*)\n", text):
        for f, t in zip(tree[0].split(), tree[1].split()):
            edges[int(f)] += [float(t), np.nextafter(float(t), -np.inf), np.nextafter(float(t), np.inf)]
    rows = x[rng.choice(len(x), ROWS, replace=len(x) < ROWS)].copy()
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-36, -1e-35, 5e-324])
    for r in range(ROWS // 3, ROWS):
        for f in range(len(INPUTS)):
            draw = rng.random()
            if draw < 0.1:
                rows[r, f] = special[rng.integers(len(special))]
            elif draw < 0.5:
                rows[r, f] = edges[f][rng.integers(len(edges[f]))]
    return rows, np.isnan(rows) & (rng.random(rows.shape) < 0.5)


def main(data, models):
    x, y = examples(data)
    booster = lgb.train(PARAMS, lgb.Dataset(x, y, feature_name=INPUTS), TREES)
    models = Path(models)
    models.mkdir(exist_ok=True)
    text = booster.model_to_string()
    (models / "late_risk.txt").write_text(text)
    saved = lgb.Booster(model_str=text)
    rows, null = parity_rows(x, text)
    columns = {name: pa.array(rows[:, i], mask=null[:, i]) for i, name in enumerate(INPUTS)}
    columns["risk"] = pa.array(saved.predict(rows, num_threads=1))
    columns["raw"] = pa.array(saved.predict(rows, raw_score=True, num_threads=1))
    pq.write_table(pa.table(columns), models / "late_risk.parity.parquet", compression="zstd", compression_level=19, store_schema=False)
    print(f"{len(x)} examples, {y.mean():.3f} late; {len(text)} bytes; sha256 {hashlib.sha256(text.encode()).hexdigest()}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
