"""Postgres -> Delta on the local disk: dbt-bridge against the server's own COPY to nowhere.

    python benchmarks/copy_to_delta.py [--rows 5000000] [--url postgresql://...] [--workers 1 2]

The table is that of `copy_to_duckdb.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from copy_to_duckdb import SCHEMA, copy_to_nowhere, fill, server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--url", help="of a Postgres database to fill and read")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        url, table, workers = args.measure
        print(json.dumps(measured(url, table, int(workers))))
        return
    with server(args.url) as (url, psql):
        table = fill(url, args.rows)
        print(f"{args.rows:,} rows x 17 columns, {os.cpu_count()} cores")
        print(f"{'path':24} {'seconds':>8} {'limit':>8} {'ratio':>6} {'peak MB':>8}")
        limit = copy_to_nowhere(url, psql, table)
        for workers in args.workers:
            limit = line(f"{workers} worker(s)", [url, table, str(workers)], limit, psql)


def line(path: str, what: list[str], before: float, psql: str) -> float:
    """Measure in a process of its own, then the limit again; returns that limit."""
    done = subprocess.run([sys.executable, __file__, "--measure", *what], check=True, capture_output=True, text=True)
    after = copy_to_nowhere(what[0], psql, what[1])
    result = json.loads(done.stdout.splitlines()[-1])
    limit, seconds = (before + after) / 2, result["seconds"]
    print(f"{path:24} {seconds:8.1f} {limit:8.1f} {seconds / limit:6.2f} {result['peak_mb']:8.0f}", flush=True)
    return after


def measured(url: str, table: str, workers: int) -> dict[str, float]:
    """Wall seconds of one replace, after the imports, and this process's peak resident memory."""
    from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
    from dbt_bridge.connectors.lake.location import Lake
    from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
    from dbt_bridge.contracts.destination import Load
    from dbt_bridge.nouns.table import Table, TableName

    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with PostgresOrigin("bench", url) as origin:
            lake = DeltaDestination("bench", Lake(folder))
            described = origin.describe(TableName(SCHEMA, table)).table
            columns = tuple(lake.map_column(c) for c in described.columns)
            load = Load(Table(TableName("landing", table), columns, described.key), "replace", "bench")
            loaded = lake.load(load, origin.rows(described.name, columns, workers=workers))
        seconds = time.perf_counter() - begin
    assert loaded.rows_inserted == int(table.rsplit("_", 1)[1])
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()
