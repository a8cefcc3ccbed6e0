"""Predicts with LightGBM, in turn with the program that started it.

Arguments: model file, input (rows x columns doubles, row by row), columns, output (doubles).
First writes {"version": ...}; then for each line on standard input one round: seconds, and
CPU-seconds, as a line.
"""

import json
import sys
import time

import lightgbm
import numpy

model, source, columns, target = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
booster = lightgbm.Booster(model_file=model)
rows = numpy.fromfile(source, dtype="<f8").reshape(-1, columns)
booster.predict(rows[:100], num_threads=1)
print(json.dumps({"version": lightgbm.__version__}), flush=True)
for _ in sys.stdin:
    start, busy = time.perf_counter(), time.process_time()
    out = booster.predict(rows, num_threads=1)
    took, busy = time.perf_counter() - start, time.process_time() - busy
    out.astype("<f8").tofile(target)
    print(took, busy, flush=True)
