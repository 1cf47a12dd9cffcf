"""Postgres -> Postgres on one server: dbt-bridge against the server's own COPY to nowhere.

    python benchmarks/copy_to_postgres.py [--rows 5000000] [--url postgresql://...] [--workers 1 2]

The table is that of `copy_to_duckdb.py`. `undecoded` pipes binary COPY into the staging table; `as Arrow` decodes and
encodes the rows, as they travel from any other origin. `psql | psql` is what the server takes without the bridge.
Reader, writer and this process share the machine's cores, so the limit here counts one of three.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time

import psycopg

from copy_to_duckdb import SCHEMA, copy_to_nowhere, fill, server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--url", help="of a Postgres database to fill, read and write")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        how, url, table = args.measure
        print(json.dumps(measured(how, url, table)))
        return
    with server(args.url) as (url, psql):
        table = fill(url, args.rows)
        print(f"{args.rows:,} rows x 17 columns, {os.cpu_count()} cores")
        print(f"{'path':24} {'seconds':>8} {'limit':>8} {'ratio':>6} {'peak MB':>8}")
        limit = piped(url, psql, table, copy_to_nowhere(url, psql, table))
        for workers in args.workers:
            for how in ("undecoded", "as Arrow"):
                limit = line(f"{how}, {workers}", [f"{how}:{workers}", url, table], limit, psql)


def line(path: str, what: list[str], before: float, psql: str) -> float:
    """Measure one path in a process of its own, then the limit again; returns that limit."""
    done = subprocess.run([sys.executable, __file__, "--measure", *what], check=True, capture_output=True, text=True)
    after = copy_to_nowhere(what[1], psql, what[2])
    result = json.loads(done.stdout.splitlines()[-1])
    told(path, result["seconds"], (before + after) / 2, f"{result['peak_mb']:8.0f}")
    return after


def told(path: str, seconds: float, limit: float, peak: str = "") -> None:
    print(f"{path:24} {seconds:8.1f} {limit:8.1f} {seconds / limit:6.2f} {peak}", flush=True)


def piped(url: str, psql: str, table: str, before: float) -> float:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {SCHEMA}.piped".encode())
        connection.execute(f"CREATE TABLE {SCHEMA}.piped (LIKE {SCHEMA}.{table})".encode())
        run = f"{shlex.quote(psql)} {shlex.quote(url)} -qXc"
        begin = time.perf_counter()
        subprocess.run(
            f"{run} 'COPY {SCHEMA}.{table} TO STDOUT (FORMAT binary)'"
            f" | {run} 'COPY {SCHEMA}.piped FROM STDIN (FORMAT binary)'",
            shell=True,
            check=True,
        )
        seconds = time.perf_counter() - begin
        connection.execute(f"DROP TABLE {SCHEMA}.piped".encode())
    after = copy_to_nowhere(url, psql, table)
    told("psql | psql", seconds, (before + after) / 2)
    return after


def measured(how: str, url: str, table: str) -> dict[str, float]:
    """Wall seconds of one replace, after the imports, and this process's peak resident memory."""
    from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
    from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
    from dbt_bridge.contracts.destination import Load
    from dbt_bridge.nouns.table import Table, TableName

    path, _, workers = how.partition(":")
    begin = time.perf_counter()
    with PostgresOrigin("bench", url) as origin, PostgresWarehouse("bench", url) as warehouse:
        described = origin.describe(TableName(SCHEMA, table)).table
        columns = tuple(warehouse.map_column(c) for c in described.columns)
        load = Load(Table(TableName("landing", table), columns, described.key), "replace", "bench")
        if path == "undecoded":
            casts = warehouse.find_raw_casts(load)
            assert casts is not None
            streams = origin.copy_raw(described.name, [c.name for c in columns], casts, workers=int(workers))
            staged = warehouse.stage_raw(load, streams)
        else:
            staged = warehouse.stage(load, origin.rows(described.name, columns, workers=int(workers)))
        loaded = warehouse.publish([staged])[0]
    seconds = time.perf_counter() - begin
    assert loaded.rows_inserted == int(table.rsplit("_", 1)[1])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA landing CASCADE")
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()
