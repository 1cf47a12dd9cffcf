"""Changes -> Postgres: how many changes per second are applied to a landing table of 10 columns.

    python benchmarks/apply_postgres.py [--rows 1000000] [--chunks 1000 10000 100000] [--url postgresql://...]

The workload is that of `apply_duckdb.py`; the issue's size is `--rows 5000000`. Without a URL a server of its own is
started, with its default settings.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pyarrow as pa

from apply_duckdb import BATCH, NAME, Workload, peak, rows_of
from copy_to_duckdb import server
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.contracts.destination import Load, Replica
from dbt_bridge.nouns.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--chunks", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--url", help="of a Postgres database to write to")
    args = parser.parse_args()
    with server(args.url) as (url, _), PostgresWarehouse("postgres", url) as warehouse:
        measure(warehouse, args.rows, args.chunks)


def measure(warehouse: PostgresWarehouse, rows: int, chunks: list[int]) -> None:
    schema = rows_of(np.arange(1)).schema
    replica = Replica("source.bench.bench.orders", Table.of_schema(NAME, schema, ("id",)))
    batches = (
        rows_of(np.arange(first, min(first + BATCH, rows))).combine_chunks().to_batches()[0]
        for first in range(0, rows, BATCH)
    )
    load = Load(replica.table, "replace", "bench")
    staged = warehouse.stage(load, pa.RecordBatchReader.from_batches(schema, batches))
    with warehouse.open_application("bench") as application:
        application.join(replica, staged, 0)
        application.commit(1)
    print(f"{rows:,} rows, peak memory so far {peak()}\n")
    workload = Workload(rows)
    print("| changes per commit | changes/s | with values that were not sent |\n| --- | --- | --- |")
    for size in chunks:
        rates = [rate(warehouse, replica, workload, size, unchanged) for unchanged in (False, True)]
        print(f"| {size:,} | {rates[0]:,.0f} | {rates[1]:,.0f} |", flush=True)
    print(f"\npeak memory {peak()}")


def rate(warehouse: PostgresWarehouse, replica: Replica, workload: Workload, size: int, unchanged: bool) -> float:
    runs = [workload.run(size, unchanged=unchanged) for _ in range(max(3, min(20, 200_000 // size)))]
    began = time.perf_counter()
    for run in runs:
        with warehouse.open_application("bench") as application:
            application.apply(replica, run)
            application.commit(workload.lsn)
    return len(runs) * size / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
