"""Changes -> DuckDB: how many changes per second are applied to a table of 5 million rows and 10 columns.

    python benchmarks/apply_duckdb.py [--rows 5000000] [--chunks 1000 10000 100000 250000] [--transaction 10000000]

70% of the changes are inserts, 20% updates of random rows, 10% deletes, in transactions of 1,000. For each size of a
chunk: changes per second from Arrow to committed rows, without and with a text that a third of the updates do not send.
Then one transaction of so many changes, applied in chunks: its rate, its peak memory and what it leaves on disk.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute

from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.contracts.destination import Load, Replica
from dbt_bridge.nouns.changes import (
    DELETE,
    INSERT,
    UPDATE,
    Changes,
)
from dbt_bridge.nouns.table import Table, TableName

NAME = TableName("landing", "orders")
BATCH = 50_000


def rows_of(ids: np.ndarray) -> pa.Table:
    """Rows of 10 mixed columns."""
    numbers = pa.array(ids)
    text = numbers.cast(pa.string())
    return pa.table(
        {
            "id": numbers,
            "customer_id": pa.array(ids % 100_000, pa.int64()),
            "status": pa.array(ids % 7, pa.int16()),
            "amount": pa.array(ids % 99_999, pa.int64()).cast(pa.decimal128(19, 0)),
            "name": pa.compute.binary_join_element_wise("customer", text, " "),
            "note": pa.compute.binary_join_element_wise("some longer free text of row", text, " "),
            "day": pa.array((ids % 2000).astype(np.int32)).cast(pa.date32()),
            "created_at": pa.array(ids * 1_000_000).cast(pa.timestamp("us", "UTC")),
            "score": pa.array(ids * 0.5),
            "active": pa.array(ids % 2 == 0),
        }
    )


class Workload:
    """Changes of a table that grows: the rows that exist are those below `end`, but for the deleted ones."""

    def __init__(self, rows: int) -> None:
        self.random = np.random.default_rng(7)
        self.end = rows
        self.gone = np.zeros(rows * 5, bool)
        self.lsn = 1

    def run(self, size: int, *, unchanged: bool = False, one_transaction: bool = False) -> Changes:
        kind = np.full(size, INSERT, np.uint8)
        kind[self.random.permutation(size)[: size * 3 // 10]] = UPDATE
        old = np.flatnonzero(kind == UPDATE)
        kind[old[::3]] = DELETE
        ids = np.empty(size, np.int64)
        inserts = kind == INSERT
        chosen = np.unique(self.random.integers(0, self.end, len(old) * 2))
        chosen = self.random.permutation(chosen[~self.gone[chosen]])[: len(old)]
        ids[~inserts] = chosen
        self.gone[ids[kind == DELETE]] = True
        ids[inserts] = self.end + np.arange(inserts.sum())
        self.end += int(inserts.sum())
        rows = rows_of(ids)
        unsent = {}
        if unchanged:
            unsent["note"] = (kind == UPDATE) & (ids % 3 == 0)
            note = pa.compute.if_else(pa.array(unsent["note"]), pa.scalar(None, pa.string()), rows["note"])
            rows = rows.set_column(5, "note", note)
        lsn = np.full(size, self.lsn) if one_transaction else self.lsn + np.arange(size) // 1000
        self.lsn = int(lsn[-1]) + (not one_transaction)
        return Changes(rows, kind, lsn, lsn * 1000, unsent)


def peak() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--chunks", type=int, nargs="*", default=[1_000, 10_000, 100_000, 250_000])
    parser.add_argument("--transaction", type=int, default=10_000_000, help="changes of one transaction; 0 for none")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "warehouse.duckdb")
        with DuckDBWarehouse.open(file) as warehouse:
            measure(warehouse, file, args)


def measure(warehouse: DuckDBWarehouse, file: Path, args: argparse.Namespace) -> None:
    schema = rows_of(np.arange(1)).schema
    replica = Replica("source.bench.bench.orders", Table.of_schema(NAME, schema, ("id",)))
    batches = (
        rows_of(np.arange(first, min(first + BATCH, args.rows))).combine_chunks().to_batches()[0]
        for first in range(0, args.rows, BATCH)
    )
    staged = warehouse.stage(
        Load(replica.table, "replace", "bench"), pa.RecordBatchReader.from_batches(schema, batches)
    )
    with warehouse.open_application("bench") as application:
        application.join(replica, staged, 0)
        application.commit(1)
    print(f"{args.rows:,} rows, {size_of(file)}, peak memory so far {peak()}\n")
    workload = Workload(args.rows)
    print(
        "| changes per commit | changes/s (CPU s per million) | with values that were not sent |\n| --- | --- | --- |"
    )
    for size in args.chunks:
        rates = [rate(warehouse, replica, workload, size, unchanged) for unchanged in (False, True)]
        print(f"| {size:,} | {rates[0]} | {rates[1]} |", flush=True)
    print(f"\n{size_of(file)}, peak memory so far {peak()}")
    if args.transaction:
        whole(warehouse, replica, workload, args.transaction)
        print(f"{size_of(file)}, peak memory {peak()}")


def rate(warehouse: DuckDBWarehouse, replica: Replica, workload: Workload, size: int, unchanged: bool) -> str:
    runs = [workload.run(size, unchanged=unchanged) for _ in range(max(3, min(20, 200_000 // size)))]
    began, cpu = time.perf_counter(), time.process_time()
    for run in runs:
        with warehouse.open_application("bench") as application:
            application.apply(replica, run)
            application.commit(workload.lsn)
    changes, cpu = len(runs) * size, time.process_time() - cpu
    return f"{changes / (time.perf_counter() - began):,.0f} ({cpu / changes * 1e6:.1f})"


def whole(warehouse: DuckDBWarehouse, replica: Replica, workload: Workload, changes: int) -> None:
    """One transaction; making its changes is not counted."""
    spent, done = 0.0, 0
    with warehouse.open_application("bench") as application:
        while done < changes:
            run = workload.run(min(warehouse.chunk_rows, changes - done), one_transaction=True)
            began = time.perf_counter()
            application.apply(replica, run)
            spent, done = spent + time.perf_counter() - began, done + len(run)
        began = time.perf_counter()
        application.commit(workload.lsn + 1)
        spent += time.perf_counter() - began
    print(f"\none transaction of {changes:,} changes: {changes / spent:,.0f} changes/s ({spent:.1f} s)")


def size_of(file: Path) -> str:
    wal = Path(f"{file}.wal")
    return (
        f"file {file.stat().st_size / 1e6:,.0f} MB + {wal.stat().st_size / 1e6 if wal.exists() else 0:,.0f} MB of WAL"
    )


if __name__ == "__main__":
    main()
