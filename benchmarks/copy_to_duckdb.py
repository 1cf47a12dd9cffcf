"""Postgres -> DuckDB: dbt-bridge against the server's own COPY to nowhere, and against dlt's fastest sql_database.

    python benchmarks/copy_to_duckdb.py [--rows 5000000] [--url postgresql://...] [--workers 1 2] [--dlt-rows 1000000]

Without --url an embedded PostgreSQL is started, and removed afterwards. The table has 17 columns (4 numeric, a uuid,
texts, timestamps) and is created once per size. Every path runs in a process of its own, so that its peak memory is its
own, with a COPY before and after it: a ratio compares what was measured within the same minute.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

SCHEMA = "bench"

FILL = """
CREATE TABLE {table} AS
SELECT g::bigint AS id,
       (g % 100000)::int AS customer_id,
       (g % 7)::smallint AS status_code,
       (ARRAY['new', 'paid', 'shipped', 'returned'])[1 + g % 4] AS status,
       (g * 1.37)::numeric(12, 2) AS amount,
       (g % 1000 * 0.19)::numeric(10, 4) AS tax,
       (g % 97 * 1.1)::numeric(18, 6) AS discount,
       (g * 3)::numeric(20, 0) AS ref_no,
       g * 0.001::float8 AS score,
       g % 2 = 0 AS active,
       'customer name ' || g AS name,
       'some longer free text for row ' || g || ' with more words' AS note,
       date '2020-01-01' + (g % 2000)::int AS d,
       timestamptz '2020-01-01' + (g || ' seconds')::interval AS created_at,
       timestamptz '2021-01-01' + (g || ' seconds')::interval AS updated_at,
       md5(g::text)::uuid AS uid,
       CASE WHEN g % 10 <> 0 THEN g::int END AS opt
FROM generate_series(1, {rows}) g
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--url", help="of a Postgres database to fill and read")
    parser.add_argument("--workers", type=int, nargs="*", default=[2])
    parser.add_argument("--dlt-rows", type=int, default=1_000_000, help="dlt reads a slice of so many rows; 0 for none")
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measured(*args.measure)))
        return
    with server(args.url) as (url, psql):
        compare(url, psql, args.rows, args.workers, args.dlt_rows)


def compare(url: str, psql: str, rows: int, workers: list[int], dlt_rows: int) -> None:
    """Run every path and print the table of ratios."""
    table = fill(url, rows)
    print(f"{rows:,} rows x 17 columns, {os.cpu_count()} cores")
    print(f"{'path':44} {'seconds':>8} {'limit':>8} {'ratio':>6} {'peak MB':>8}")
    limit = copy_to_nowhere(url, psql, table)
    for count in workers:
        limit = line(f"dbt-bridge, {count} worker(s)", ["bridge", url, table, str(count)], limit, psql)
    if dlt_rows:
        table = fill(url, dlt_rows)
        print(f"the same with {dlt_rows:,} rows")
        limit = copy_to_nowhere(url, psql, table)
        limit = line(f"dbt-bridge, {workers[-1]} worker(s)", ["bridge", url, table, str(workers[-1])], limit, psql)
        for backend in ("connectorx", "pyarrow"):
            limit = line(f"dlt sql_database, {backend}", ["dlt", url, table, backend], limit, psql)


def line(path: str, what: list[str], before: float, psql: str) -> float:
    """Measure one path, then the limit again; returns that limit."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", *what], check=False, capture_output=True, text=True, cwd="/"
    )
    after = copy_to_nowhere(what[1], psql, what[2])
    if done.returncode:
        print(f"{path:44} failed: {done.stderr.strip().splitlines()[-1]}")
        return after
    result = json.loads(done.stdout.splitlines()[-1])
    limit = (before + after) / 2
    seconds, peak = result["seconds"], result["peak_mb"]
    print(f"{path:44} {seconds:8.1f} {limit:8.1f} {seconds / limit:6.2f} {peak:8.0f}", flush=True)
    return after


def measured(path: str, url: str, table: str, how: str) -> dict[str, float]:
    """One path in this process: wall seconds after the imports, and this process's peak resident memory."""
    with tempfile.TemporaryDirectory() as folder:
        copied = by_bridge(url, table, int(how), folder) if path == "bridge" else by_dlt(url, table, how, folder)
    rows, seconds = copied
    assert rows == int(table.rsplit("_", 1)[1]), f"{rows} rows arrived"
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def by_bridge(url: str, table: str, workers: int, folder: str) -> tuple[int, float]:
    from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
    from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
    from dbt_bridge.contracts.destination import Load
    from dbt_bridge.nouns.table import Table, TableName

    begin = time.perf_counter()
    with (
        PostgresOrigin("bench", url) as origin,
        DuckDBWarehouse.open(Path(folder) / "bench.duckdb") as warehouse,
    ):
        described = origin.describe(TableName(SCHEMA, table)).table
        columns = tuple(warehouse.map_column(column) for column in described.columns)
        batches = origin.rows(described.name, columns, workers=workers)
        landing = Table(TableName("landing", table), columns, described.key)
        loaded = warehouse.load(Load(landing, "replace", "bench"), batches)
    return loaded.rows_loaded, time.perf_counter() - begin  # with the checkpoint of the file that closing makes


def by_dlt(url: str, table: str, backend: str, folder: str) -> tuple[int, float]:
    import dlt
    from dlt.sources.sql_database import sql_table

    os.environ.update(DLT_DATA_DIR=folder, RUNTIME__DLTHUB_TELEMETRY="false", RUNTIME__LOG_LEVEL="ERROR")
    pipeline = dlt.pipeline(
        "bench", pipelines_dir=folder, destination=dlt.destinations.duckdb(f"{folder}/bench.duckdb"), dataset_name="l"
    )
    address = url.replace("postgresql://", "postgresql+psycopg://")
    resource_ = sql_table(
        address, table, SCHEMA, backend=backend, chunk_size=100_000, reflection_level="full_with_precision"
    )
    begin = time.perf_counter()
    pipeline.run(resource_, write_disposition="replace")
    seconds = time.perf_counter() - begin
    with pipeline.sql_client() as client:
        found = client.execute_sql(f"SELECT count(*) FROM {table}")  # noqa: S608  (a name made here)
    return int(found[0][0]) if found else 0, seconds


def copy_to_nowhere(url: str, psql: str, table: str) -> float:
    """Seconds of the server's own binary COPY, thrown away by psql."""
    name = sql.Identifier(SCHEMA, table).as_string(None)
    copy = f"COPY {name} TO STDOUT (FORMAT binary)"
    begin = time.perf_counter()
    with Path(os.devnull).open("wb") as nowhere:
        subprocess.run([psql, url, "-qXc", copy], check=True, stdout=nowhere)
    return time.perf_counter() - begin


def fill(url: str, rows: int) -> str:
    """The table of this size, made on the first run."""
    table = f"t17_{rows}"
    name = sql.Identifier(SCHEMA, table)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)))
        found = connection.execute("SELECT to_regclass(%s)", [name.as_string(connection)]).fetchone()
        if found and found[0] is None:
            with connection.transaction():
                connection.execute(sql.SQL(FILL.replace("{rows}", str(rows))).format(table=name))
                connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (id)").format(name))
        connection.execute(sql.SQL("VACUUM ANALYZE {}").format(name))
    return table


@contextmanager
def server(url: str | None) -> Iterator[tuple[str, str]]:
    """The database's URL and psql."""
    if url:
        yield url, shutil.which("psql") or sys.exit("psql is not installed")
        return
    from dbt_bridge.demo import postgres

    running = postgres.start(settings={"fsync": "off"})
    try:
        yield running.url(), str(running.binaries / "psql")
    finally:
        postgres.remove(running)


if __name__ == "__main__":
    main()
