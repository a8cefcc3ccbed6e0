#!/usr/bin/env python3
"""Reads freshet's tables with DuckDB's delta extension and Polars, and compares counts and sums.

    check_readers.py ROOT < expectations.jsonl

ROOT is the storage directory. Each line of the input is one version of one table, with what
`freshet table scan` sees in it; "version" may be left out for the newest, "where" is an optional
SQL condition (it makes readers skip files and pages by their statistics), "reader" names the only
reader that is asked (duckdb or polars):

    {"path": "features/plane_delays/current", "version": 3, "rows": 3012, "sums": {"flights_1d": 8123, "seats": 401221}}

Integer and decimal sums must be equal, sums of doubles within 1e-9 of the larger magnitude. Prints a
line per reader and table; exit 1 on any difference, 2 on bad input. Needs requirements.txt.
"""
import glob
import json
import math
import os
import sys
from decimal import Decimal


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def duckdb_reader():
    import duckdb

    con = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    found = [f for p in sys.path if p.endswith("-packages") for f in glob.glob(p + "/**/delta.duckdb_extension", recursive=True)]
    if not found:
        sys.exit("error: the package duckdb-extension-delta is not installed (pip install -r requirements.txt)")
    con.execute(f"LOAD '{found[0]}'")

    def read(path, version, columns, where):
        at = "" if version is None else f", version={version}"
        sums = "".join(f", sum({quoted(c)})" for c in columns)
        return con.execute(f"SELECT count(*){sums} FROM delta_scan('{path}'{at}) WHERE {where or 'true'}").fetchone()

    return f"duckdb {duckdb.__version__}", read


def polars_reader():
    import polars as pl

    def read(path, version, columns, where):
        frame = pl.scan_delta(path, version=version)
        if where:
            frame = frame.filter(pl.sql_expr(where))
        return frame.select(pl.len(), *(pl.col(c).sum().alias(f"sum_{i}") for i, c in enumerate(columns))).collect().row(0)

    return f"polars {pl.__version__}", read


def same(got, want):
    if want is None or got is None:
        return not want and not got  # the sum over no values is NULL here and 0 there
    if isinstance(got, float):
        want = float(want)
        return got == want or (math.isnan(got) and math.isnan(want)) or abs(got - want) <= 1e-9 * max(abs(got), abs(want))
    return Decimal(got) == Decimal(want)


def check(reader, read, root, e):
    if not reader.startswith(e.get("reader", "")):
        return None
    columns = list(e.get("sums", {}))
    got = read(os.path.join(root, e["path"]), e.get("version"), columns, e.get("where"))
    if got is None:
        return None
    wrong = []
    if got[0] != e["rows"]:
        wrong.append(f"{got[0]} rows, expected {e['rows']}")
    for column, value in zip(columns, got[1:]):
        if not same(value, e["sums"][column]):
            wrong.append(f"sum of {column} is {value}, expected {e['sums'][column]}")
    return wrong


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    root = os.path.abspath(sys.argv[1])
    try:
        expected = [json.loads(line, parse_float=Decimal) for line in sys.stdin if line.strip()]
        bad = [e for e in expected if not isinstance(e.get("path"), str) or not isinstance(e.get("rows"), int)]
    except (ValueError, AttributeError) as e:
        sys.exit(f"error: the input is not JSON lines of objects: {e}")
    if bad or not expected:
        sys.exit(f"error: expected objects with path and rows, got {bad or 'none'}")
    failed = 0
    for reader, read in (duckdb_reader(), polars_reader()):
        for e in expected:
            what = f"{e['path']} version {e.get('version', 'newest')}" + (f" where {e['where']}" if e.get("where") else "")
            try:
                wrong = check(reader, read, root, e)
            except Exception as err:  # whatever a reader raises is a table it cannot read
                wrong = [f"{type(err).__name__}: {err}"]
            if wrong is None:
                continue
            failed += bool(wrong)
            print(f"{'DIFFERS' if wrong else 'ok     '} {reader}: {what}: {'; '.join(wrong) or str(e['rows']) + ' rows'}")
    print(f"{len(expected)} tables and versions, {failed} differences")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
