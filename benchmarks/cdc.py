"""Change data capture, from the log to committed rows: dbt-bridge against `pg_recvlogical -f /dev/null`.

    python benchmarks/cdc.py [--rows 5000000] [--events 1000000] [--to duckdb postgres delta]
                             [--transactions 1000 | --transactions small | --transactions one] [--url postgresql://...]

The table has 10 columns (a sometimes large text among them) and is copied first. Then events come (70% inserts, 20%
updates, 10% deletes) in transactions of so many, of 1 to 3 (`small`), or in a single one (`one`: inserts only). Each
destination catches up in a process of its own, with a pg_recvlogical of the same part of the log before and after it: a
ratio compares what was measured within the same minutes. 1.0 is as fast as the server can send.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from copy_to_duckdb import server

FILL = """
CREATE SCHEMA IF NOT EXISTS bench;
DROP TABLE IF EXISTS bench.orders;
CREATE TABLE bench.orders (
    id bigint PRIMARY KEY, customer_id int, amount numeric(12, 2), status text, created_at timestamptz,
    active boolean, token uuid, doc jsonb, day date, note text
);
CREATE OR REPLACE FUNCTION bench.rows(first bigint, last bigint) RETURNS SETOF bench.orders LANGUAGE sql AS $$
    SELECT g, (g % 100000)::int, (g % 100000) * 1.37, (ARRAY['new', 'paid', 'shipped', 'returned'])[1 + g % 4],
           timestamptz '2026-01-01' + g * interval '1 second', g % 3 = 0, md5(g::text)::uuid,
           jsonb_build_object('n', g, 'tags', '["a", "b"]'::jsonb), date '2026-01-01' + (g % 1000)::int,
           CASE WHEN g % 100 = 0 THEN repeat(md5(g::text), 100) ELSE 'note ' || g END
    FROM generate_series(first, last) g
$$;
INSERT INTO bench.orders SELECT * FROM bench.rows(1, {rows});
"""

# Updates take odd numbers and deletes even ones, each once, spread over the table.
EVENTS = """
CREATE OR REPLACE PROCEDURE bench.work(transactions int, inserts int, updates int, deletes int, rows bigint)
LANGUAGE plpgsql AS $$
DECLARE
    half bigint := rows / 2;
BEGIN
    FOR t IN 0 .. transactions - 1 LOOP
        INSERT INTO bench.orders SELECT * FROM bench.rows(rows + t * inserts + 1, rows + (t + 1) * inserts);
        UPDATE bench.orders SET amount = amount + 1, status = 'changed'
        WHERE id IN (SELECT 2 * ((t::bigint * updates + g) * 7919 % half) + 1 FROM generate_series(0, updates - 1) g);
        DELETE FROM bench.orders
        WHERE id IN (SELECT 2 * ((t::bigint * deletes + g) * 7919 % half) + 2 FROM generate_series(0, deletes - 1) g);
        COMMIT;
    END LOOP;
END $$
"""
SMALL = """
CREATE OR REPLACE PROCEDURE bench.small(transactions int, rows bigint) LANGUAGE plpgsql AS $$
DECLARE
    half bigint := rows / 2;
BEGIN
    FOR t IN 1 .. transactions LOOP
        INSERT INTO bench.orders SELECT * FROM bench.rows(rows + t, rows + t);
        IF t % 2 = 0 THEN
            UPDATE bench.orders SET status = 'changed' WHERE id = 2 * (t::bigint * 7919 % half) + 1;
        END IF;
        IF t % 3 = 0 THEN
            DELETE FROM bench.orders WHERE id = 2 * (t::bigint * 7919 % half) + 2;
        END IF;
        COMMIT;
    END LOOP;
END $$
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--transactions", default="1000", help="events in each, or `small`, or `one`")
    parser.add_argument("--to", nargs="+", default=["duckdb", "postgres", "delta"])
    parser.add_argument("--url", help="of a Postgres server with wal_level = logical; a database is made in it")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measured(*args.measure)))
        return
    with server(args.url) as (url, psql), database(url) as origin, tempfile.TemporaryDirectory() as folder:
        with psycopg.connect(origin, autocommit=True) as connection:
            connection.execute(FILL.format(rows=args.rows).encode())
            connection.execute("VACUUM ANALYZE bench.orders")
            for to in args.to:
                child(to, origin, folder)
            events, end = work(connection, args)
        print(
            f"{events:,} events in transactions of {args.transactions} on a table of {args.rows:,} rows x 10 columns,"
        )
        print(f"{os.cpu_count()} cores for server, bridge and destination together")
        print(f"{'to':10} {'seconds':>8} {'events/s':>9} {'limit':>9} {'ratio':>6} {'CPU s':>6} {'peak MB':>8}")
        limit = received(psql, origin, end)
        for to in args.to:
            result = child(to, origin, folder)
            again = received(psql, origin, end)
            seconds, between = result["seconds"], (limit + again) / 2
            assert result["changes"] == events, f"{result['changes']} of {events} events arrived"
            print(
                f"{to:10} {seconds:8.1f} {events / seconds:9,.0f} {events / between:9,.0f} {between / seconds:6.2f}"
                f" {result['cpu']:6.1f} {result['peak_mb']:8.0f}",
                flush=True,
            )
            limit = again


@contextmanager
def database(url: str) -> Iterator[str]:
    """A database of its own, dropped with its slots; beside it one for the warehouse, on the same server."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE bench_cdc")
        connection.execute("CREATE DATABASE bench_warehouse")
        try:
            yield url.rpartition("/")[0] + "/bench_cdc"
        finally:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = 'bench_cdc'"
            )
            connection.execute("DROP DATABASE bench_cdc WITH (FORCE)")
            connection.execute("DROP DATABASE bench_warehouse WITH (FORCE)")


def work(connection: psycopg.Connection, args: argparse.Namespace) -> tuple[int, str]:
    """Make the events; answers how many there are, and where the log ends."""
    connection.execute("CREATE PUBLICATION limit_of_bench FOR TABLE bench.orders")
    connection.execute("SELECT pg_create_logical_replication_slot('limit_of_bench', 'pgoutput')")
    events = args.events
    if args.transactions == "one":
        connection.execute(
            b"INSERT INTO bench.orders SELECT * FROM bench.rows(%d, %d)" % (args.rows + 1, args.rows + events)
        )
    elif args.transactions == "small":
        connection.execute(SMALL)
        connection.execute(b"CALL bench.small(%d, %d)" % (events, args.rows))
        events += events // 2 + events // 3
    else:
        each = int(args.transactions)
        parts = (each * 7 // 10, each * 2 // 10, each - each * 7 // 10 - each * 2 // 10)
        connection.execute(EVENTS)
        connection.execute(b"CALL bench.work(%d, %d, %d, %d, %d)" % (events // each, *parts, args.rows))
        events = events // each * each
    row = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
    connection.execute("CHECKPOINT")
    assert row is not None
    return events, str(row[0])


def received(psql: str, url: str, end: str) -> float:
    """Wall seconds of pg_recvlogical to nowhere, from a copy of the slot that was made before the events."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_copy_logical_replication_slot('limit_of_bench', 'limit_now')")
        begin = time.perf_counter()
        command = [
            str(Path(psql).with_name("pg_recvlogical")), "-d", url, "--slot", "limit_now", "--start", "--no-loop",
            "--endpos", end, "-o", "proto_version=1", "-o", "publication_names=limit_of_bench", "-f", "/dev/null",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=1800)
        seconds = time.perf_counter() - begin
        connection.execute("SELECT pg_drop_replication_slot('limit_now')")
    return seconds


def child(to: str, url: str, folder: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", to, url, folder], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measured(to: str, url: str, folder: str) -> dict[str, float]:
    """One `sync` of the table, after the imports: wall and CPU seconds, peak memory, and the changes that arrived."""
    import dlt  # noqa: F401
    import duckdb  # noqa: F401
    import pandas  # noqa: F401  (duckdb imports it with the first bound value, where it is installed)

    import dbt_bridge.cdc.capture  # noqa: F401
    from dbt_bridge.nouns.project import (
        LandingSource,
        LandingTable,
        Project,
        WarehouseProfile,
    )
    from dbt_bridge.observe.progress import Silent
    from dbt_bridge.run.sync import SyncOptions, sync

    os.environ["SOURCES__BENCH__CREDENTIALS"] = url
    os.environ["DESTINATION__LAKE__DESTINATION_TYPE"] = "filesystem"
    os.environ["DESTINATION__LAKE__BUCKET_URL"] = f"{folder}/lake"
    table = LandingTable("source.bench.bench.orders", "orders", "orders", replication="cdc")
    source = LandingSource(
        name="bench",
        origin="bench",
        origin_schema="bench",
        landing_schema=f"landing_{to}",
        landing_database="",
        destination="lake" if to == "delta" else None,
        tables=(table,),
        defaults=LandingTable("source.bench.bench", "", "", replication="cdc"),
        slot=f"bench_{to}",
    )
    if to == "postgres":
        parameters = {**psycopg.conninfo.conninfo_to_dict(url), "dbname": "bench_warehouse", "type": "postgres"}
        warehouse = WarehouseProfile("postgres", "bench_warehouse", "public", 2, parameters)
    else:
        path = f"{folder}/{to}.duckdb"
        warehouse = WarehouseProfile("duckdb", to, "main", 2, {"type": "duckdb", "path": path, "schema": "main"})
    project = Project(Path(folder), "bench", warehouse, (source,), ())
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    receipts = sync(project, SyncOptions(), Silent())
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    if any(receipt.status != "success" for receipt in receipts):
        raise SystemExit(str(receipts[0].error))
    return {
        "seconds": seconds,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": after.ru_maxrss / 1024,
        "changes": sum(r.rows_loaded or 0 for r in receipts if r.hop == "cdc"),
    }


if __name__ == "__main__":
    main()
