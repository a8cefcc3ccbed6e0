"""Predicts with LightGBM, in turn with the program that started it.

Arguments: model file, input (rows x columns doubles, row by row), columns, output (doubles).
First writes {"version": ...}; then for each line on standard input one round: seconds, as a line.
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
    start = time.perf_counter()
    out = booster.predict(rows, num_threads=1)
    took = time.perf_counter() - start
    out.astype("<f8").tofile(target)
    print(took, flush=True)
