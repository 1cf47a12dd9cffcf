"""Changes -> Delta: how many changes per second are applied to a landing table of 10 columns.

    python benchmarks/apply_delta.py [--rows 1000000] [--chunks 10000 200000] [--history]

The workload is that of `apply_duckdb.py`; the issue's size is `--rows 5000000 --chunks 1000000`. A MERGE rewrites the
files that it touches, so the rate grows with the changes per commit.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np
import pyarrow as pa

from apply_duckdb import BATCH, NAME, Workload, peak, rows_of
from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
from dbt_bridge.connectors.lake.location import Lake
from dbt_bridge.contracts.destination import Load, Replica
from dbt_bridge.nouns.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--chunks", type=int, nargs="*", default=[10_000, 200_000])
    parser.add_argument("--history", action="store_true", help="keep every version too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(DeltaDestination("lake", Lake(folder)), args)


def measure(lake: DeltaDestination, args: argparse.Namespace) -> None:
    schema = rows_of(np.arange(1)).schema
    replica = Replica("source.bench.bench.orders", Table.of_schema(NAME, schema, ("id",)), history=args.history)
    batches = (
        rows_of(np.arange(first, min(first + BATCH, args.rows))).combine_chunks().to_batches()[0]
        for first in range(0, args.rows, BATCH)
    )
    load = Load(replica.table, "replace", "bench")
    loaded = lake.load(load, pa.RecordBatchReader.from_batches(schema, batches))
    with lake.open_application("bench") as application:
        application.join(replica, loaded, 0)
        application.commit(0)
    print(f"{args.rows:,} rows, peak memory so far {peak()}\n")
    workload = Workload(args.rows)
    print("| changes per commit | changes/s | with values that were not sent |\n| --- | --- | --- |")
    for size in args.chunks:
        rates = [rate(lake, replica, workload, size, unchanged) for unchanged in (False, True)]
        print(f"| {size:,} | {rates[0]:,.0f} | {rates[1]:,.0f} |", flush=True)
    print(f"\npeak memory {peak()}")


def rate(lake: DeltaDestination, replica: Replica, workload: Workload, size: int, unchanged: bool) -> float:
    runs = [workload.run(size, unchanged=unchanged) for _ in range(3 if size < 500_000 else 2)]
    began = time.perf_counter()
    for run in runs:
        with lake.open_application("bench") as application:
            application.apply(replica, run)
            application.commit(int(run.ordinal[-1]) + 1)
    return len(runs) * size / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
