#!/usr/bin/env python3
"""Reads freshet's tables with DuckDB's delta extension and Polars, and compares counts and sums.

    check_readers.py [--values] ROOT < expectations.jsonl

ROOT is the storage directory. Each line of the input is one version of one table, with what
`freshet table scan` sees in it; "version" may be left out for the newest, "where" is an optional
SQL condition (it makes readers skip files and pages by their statistics), "reader" names the only
reader that is asked (duckdb or polars), "sums" and "nulls" are sums and numbers of NULLs by column:

    {"path": "features/plane_delays/current", "version": 3, "rows": 3012, "sums": {"flights_1d": 8123}, "nulls": {"seats": 3}}

Integer and decimal sums must be equal, sums of doubles within 1e-9 of the larger magnitude. Prints a
line per reader and table, with --values also what was expected and read of each column; exit 1 on any
difference, 2 on bad input. Needs requirements.txt.
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

    def read(path, version, sums, nulls, where):
        at = "" if version is None else f", version={version}"
        more = "".join(f", sum({quoted(c)})" for c in sums) + "".join(f", count(*) - count({quoted(c)})" for c in nulls)
        return con.execute(f"SELECT count(*){more} FROM delta_scan('{path}'{at}) WHERE {where or 'true'}").fetchone()

    return f"duckdb {duckdb.__version__}", read


def polars_reader():
    import polars as pl

    def read(path, version, sums, nulls, where):
        frame = pl.scan_delta(path, version=version)
        if where:
            frame = frame.filter(pl.sql_expr(where))
        more = [pl.col(c).sum().alias(f"sum_{i}") for i, c in enumerate(sums)]
        more += [pl.col(c).null_count().alias(f"nulls_{i}") for i, c in enumerate(nulls)]
        return frame.select(pl.len(), *more).collect().row(0)

    return f"polars {pl.__version__}", read


def same(got, want):
    if want is None or got is None:
        return not want and not got  # the sum over no values is NULL here and 0 there
    if isinstance(got, float):
        want = float(want)
        return got == want or (math.isnan(got) and math.isnan(want)) or abs(got - want) <= 1e-9 * max(abs(got), abs(want))
    return Decimal(got) == Decimal(want)


def check(reader, read, root, e, values):
    """What differs, or None if this reader is not asked; what was read of each column goes to values."""
    if not reader.startswith(e.get("reader", "")):
        return None
    sums, nulls = e.get("sums", {}), e.get("nulls", {})
    got = read(os.path.join(root, e["path"]), e.get("version"), list(sums), list(nulls), e.get("where"))
    want = [("rows", e["rows"])] + [(f"sum of {c}", v) for c, v in sums.items()] + [(f"NULLs of {c}", v) for c, v in nulls.items()]
    if len(got) != len(want):
        return [f"{len(got)} values were read, expected {len(want)}"]
    values += [(what, w, g) for (what, w), g in zip(want, got)]
    return [f"{what}: {g}, expected {w}" for what, w, g in values if not same(g, w)]


def main():
    args = [a for a in sys.argv[1:] if a != "--values"]
    if len(args) != 1 or args[0].startswith("-"):
        print(__doc__)
        return 0 if args in (["-h"], ["--help"]) else 2
    root = os.path.abspath(args[0])
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
            values = []
            try:
                wrong = check(reader, read, root, e, values)
            except Exception as err:  # whatever a reader raises is a table it cannot read
                wrong = [f"{type(err).__name__}: {err}"]
            if wrong is None:
                continue
            failed += bool(wrong)
            print(f"{'DIFFERS' if wrong else 'ok     '} {reader}: {what}: {'; '.join(wrong) or str(e['rows']) + ' rows'}")
            if "--values" in sys.argv:
                print("".join(f"          {name}: {got}, expected {want}\n" for name, want, got in values), end="")
    print(f"{len(expected)} tables and versions, {failed} differences")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
