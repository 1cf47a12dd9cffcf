"""`transfer` of a relation into DuckDB against a plain dlt pipeline on the same rows, and its peak memory.

    python benchmarks/transfer.py [--rows 1000000] [--big 5000000]

Each measurement runs in a process of its own, in dbt's situation: one open DuckDB file that is read and written. The
goal is at least 3 times dlt's speed, and 5 million rows in under 1 GB.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

ROWS = """
CREATE TABLE rows AS
SELECT range AS id, 'customer ' || range AS name, range % 97 AS kind, CAST(range AS DOUBLE) / 7 AS score,
    CAST(range AS DECIMAL(18, 2)) / 4 AS amount, TIMESTAMP '2026-01-01' + to_seconds(range) AS at,
    range % 2 = 0 AS active, 'note ' || (range % 1000) AS note
FROM range(?)
"""


def prepared(folder: Path, rows: int) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(str(folder / "warehouse.duckdb"))
    connection.execute(ROWS.replace("?", str(rows)))
    connection.execute("CHECKPOINT")
    return connection


def by_transfer(connection: duckdb.DuckDBPyConnection) -> None:
    from dbt_bridge import transfer

    transfer(None, connection.table("rows"), "duckdb", "landed", "rows", session=connection)


def by_dlt(connection: duckdb.DuckDBPyConnection) -> None:
    """dlt's fastest way for a relation: Arrow batches, through the open connection."""
    import dlt

    @dlt.resource(name="rows")
    def batches():
        yield from connection.cursor().sql("FROM rows").to_arrow_reader(100_000)

    pipeline = dlt.pipeline("benchmark", destination=dlt.destinations.duckdb(connection), dataset_name="landed")
    pipeline.run(batches(), write_disposition="replace")


WAYS = {"transfer": by_transfer, "dlt": by_dlt}


def measured(way: str, rows: int) -> None:
    """Print seconds and the process's peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        connection = prepared(Path(folder), rows)
        import dbt.flags  # noqa: F401 - in a dbt run these are imported long before: not measured
        import dbt_common.events.contextvars  # noqa: F401
        import dlt  # noqa: F401
        import pandas  # noqa: F401

        started = time.perf_counter()
        WAYS[way](connection)
        seconds = time.perf_counter() - started
        landed = connection.execute("SELECT count(*), sum(id) FROM landed.rows").fetchone()
        assert landed == (rows, rows * (rows - 1) // 2), landed
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def in_its_own_process(way: str, rows: int) -> tuple[float, float]:
    command = [sys.executable, __file__, "--way", way, "--rows", str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, megabytes = done.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--big", type=int, default=5_000_000)
    arguments.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.way:
        measured(given.way, given.rows)
        return
    print(f"{'way':<10} {'rows':>10} {'seconds':>8} {'peak MB':>8}")
    taken = {}
    for way, rows in (("dlt", given.rows), ("transfer", given.rows), ("transfer", given.big)):
        seconds, megabytes = in_its_own_process(way, rows)
        taken.setdefault(way, seconds)
        print(f"{way:<10} {rows:>10,} {seconds:>8.2f} {megabytes:>8.0f}")
    print(f"transfer is {taken['dlt'] / taken['transfer']:.1f} times as fast as dlt (goal: 3)")


if __name__ == "__main__":
    main()
