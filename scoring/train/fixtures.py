#!/usr/bin/env python3
"""Makes the fixtures of scoring/model: small LightGBM models, inputs, and what LightGBM says of them.

    fixtures.py ../model/testdata

Writes NAME.txt.gz, the model's text, and NAME.rows.gz: little-endian uint32 rows, inputs and outputs,
then doubles: each input (a column after the other), predict (row by row). The inputs hold NaN, infinities, both zeros, values around 1e-35, and every threshold
and its two neighbours. Also exp.gz: pairs of doubles, x and the C library's exp(x).

Models that must be refused have no rows. Run on Linux with glibc, on a processor with fused
multiply-add: the objectives take exp from the C library.
"""
import ctypes
import gzip
import re
import struct
import sys
from pathlib import Path

import lightgbm as lgb
import numpy as np

ROWS, TRAIN = 300, 3000
BASE = {"verbosity": -1, "num_threads": 1, "seed": 7, "deterministic": True, "force_row_wise": True, "num_leaves": 15, "min_data_in_leaf": 5}


def inputs(rng, n, bounded=False):
    x = np.column_stack([
        rng.normal(size=n),
        rng.integers(-3, 9, n).astype(float),
        np.where(rng.random(n) < 0.8, 0.0, rng.normal(size=n)),
        rng.uniform(0, 1000, n),
        rng.integers(0, 40, n).astype(float),
        rng.normal(size=n) * 10.0 ** rng.integers(-6, 6, n),
    ])
    if not bounded:
        x[rng.random(n) < 0.1, 0] = np.nan
        x[rng.random(n) < 0.4, 5] = np.nan
    return x


def target(rng, x):
    y = np.nan_to_num(x[:, 0], nan=0.7) + 0.4 * x[:, 1] + 2 * (x[:, 2] > 0) + np.sin(x[:, 3] / 90) + 0.5 * (x[:, 4].astype(int) % 3)
    return y + np.where(np.isnan(x[:, 5]), 1, 0) + rng.normal(size=len(x)) * 0.3


def probes(rng, text, columns):
    """Rows like the training rows, each with some values replaced by those that decide at the edge."""
    x = inputs(rng, ROWS)
    if columns > 6:
        x = np.column_stack([x] + [rng.integers(-2, 1200, ROWS).astype(float) for _ in range(columns - 6)])
    edges = {i: [] for i in range(columns)}
    for tree in re.findall(r"split_feature=(.*)\n.*\nthreshold=(.*)\n", text):
        for f, t in zip(tree[0].split(), tree[1].split()):
            t = float(t)
            edges[int(f)] += [t, np.nextafter(t, -np.inf), np.nextafter(t, np.inf)]
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-36, -1e-36, 1e-35, -1e-35, 1.0000000180025095e-35, 1.1e-35, 5e-324, -0.5, -1.0,
               0.999, 31.0, 32.0, 33.7, 2147483647.0, 2147483648.0, 4294967296.0, 1e300, -1e300]
    for r in range(ROWS):
        for f in range(columns):
            draw = rng.random()
            if draw < 0.15:
                x[r, f] = special[rng.integers(len(special))]
            elif draw < 0.5 and edges[f]:
                x[r, f] = edges[f][rng.integers(len(edges[f]))]
    return x


def custom(preds, data):
    return preds - data.get_label(), np.ones_like(preds)


def models(rng):
    """Gives (name, parameters, x, y, arguments of Dataset, trees)."""
    x = inputs(rng, TRAIN)
    y = target(rng, x)
    positive = np.exp(y / 3)
    yes = (y > np.median(y)).astype(float)
    three = np.digitize(y, np.quantile(y, [0.3, 0.7])).astype(float)
    grade = np.digitize(y, np.quantile(y, [0.3, 0.6, 0.9])).astype(float)
    groups = {"group": [30] * (TRAIN // 30)}
    wide = np.column_stack([x, rng.integers(0, 1000, TRAIN)])
    one_hot = {"categorical_feature": [1, 4, 6], "params": {"max_cat_to_onehot": 4}}
    yield "binary", {"objective": "binary"}, x, yes, {}, 12
    yield "binary_sigmoid", {"objective": "binary", "sigmoid": 0.7123}, x, yes, {}, 8
    yield "regression", {"objective": "regression"}, x, y, {}, 12
    yield "regression_sqrt", {"objective": "regression", "reg_sqrt": True}, x, y, {}, 8
    yield "regression_l1", {"objective": "regression_l1"}, x, y, {}, 6
    yield "regression_l1_sqrt", {"objective": "regression_l1", "reg_sqrt": True}, x, y, {}, 6
    yield "huber", {"objective": "huber"}, x, y, {}, 6
    yield "fair", {"objective": "fair"}, x, y, {}, 6
    yield "quantile", {"objective": "quantile", "alpha": 0.8}, x, y, {}, 6
    yield "mape", {"objective": "mape"}, x, positive, {}, 6
    yield "poisson", {"objective": "poisson"}, x, positive, {}, 8
    yield "gamma", {"objective": "gamma"}, x, positive, {}, 8
    yield "tweedie", {"objective": "tweedie"}, x, positive, {}, 8
    yield "cross_entropy", {"objective": "cross_entropy"}, x, 1 / (1 + np.exp(-y)), {}, 8
    yield "multiclass", {"objective": "multiclass", "num_class": 3}, x, three, {}, 6
    yield "multiclassova", {"objective": "multiclassova", "num_class": 3, "sigmoid": 1.3}, x, three, {}, 6
    yield "lambdarank", {"objective": "lambdarank"}, x, grade, groups, 6
    yield "rank_xendcg", {"objective": "rank_xendcg"}, x, grade, groups, 6
    yield "custom", {"objective": custom}, x, y, {}, 6
    yield "rf_binary", {"objective": "binary", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}, x, yes, {}, 7
    yield "rf_regression", {"objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}, x, y, {}, 7
    yield "dart", {"objective": "binary", "boosting": "dart", "drop_rate": 0.5}, x, yes, {}, 10
    yield "categorical", {"objective": "binary"}, wide, (yes + (wide[:, 6] % 7 < 2)) % 2, one_hot, 12
    yield "categorical_multiclass", {"objective": "multiclass", "num_class": 3}, wide, three, one_hot, 4
    yield "zero_as_missing", {"objective": "binary", "zero_as_missing": True}, x, yes, {}, 12
    yield "use_missing_false", {"objective": "binary", "use_missing": False}, x, yes, {}, 12
    yield "many_leaves", {"objective": "regression", "num_leaves": 255, "max_bin": 1023, "min_data_in_leaf": 1}, x, y, {}, 3
    yield "constant", {"objective": "regression"}, x, np.full(TRAIN, 2.5), {}, 3
    yield "refused_linear", {"objective": "regression", "linear_tree": True}, inputs(rng, TRAIN, bounded=True), y, {}, 3
    yield "refused_cross_entropy_lambda", {"objective": "cross_entropy_lambda"}, x, 1 / (1 + np.exp(-y)), {}, 3


def write(path, data):
    with open(path, "wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=9) as z:
        z.write(data)


def exponentials(rng):
    libm = ctypes.CDLL("libm.so.6")
    libm.exp.restype, libm.exp.argtypes = ctypes.c_double, [ctypes.c_double]
    xs = np.concatenate([
        rng.uniform(-5, 5, 2000), rng.normal(size=1000) * 10.0 ** rng.uniform(-18, 0, 1000), rng.uniform(-746, 710, 3000), rng.uniform(-746, -700, 500),
        [0.0, -0.0, np.inf, -np.inf, np.nan, 709.782712893384, 709.7827128933841, -708.3964185322641, -745.1332191019411, -745.1332191019412, 1e300, -1e300],
    ])
    return b"".join(struct.pack("<dd", x, libm.exp(x)) for x in xs)


def main(folder):
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    for name, params, x, y, of_data, trees in models(np.random.default_rng(7)):
        data = lgb.Dataset(x, label=y, free_raw_data=False, **{**of_data, "params": {**BASE, **of_data.get("params", {})}})
        text = lgb.train({**BASE, **of_data.get("params", {}), **params}, data, num_boost_round=trees).model_to_string()
        write(folder / f"{name}.txt.gz", text.encode())
        if name.startswith("refused_"):
            continue
        booster = lgb.Booster(model_str=text)
        rng = np.random.default_rng(len(name))
        rows = probes(rng, text, x.shape[1])
        out = booster.predict(rows, num_threads=1).reshape(ROWS, -1)
        head = struct.pack("<III", ROWS, rows.shape[1], out.shape[1])
        write(folder / f"{name}.rows.gz", head + rows.T.astype("<f8").tobytes() + out.astype("<f8").tobytes())
        print(f"{name}: {text.count('Tree=')} trees, {len(np.unique(out))} values")
    write(folder / "exp.gz", exponentials(np.random.default_rng(1)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
