"""`stream --every 1s` under a steady load: from commit to visible, memory and lag over time, and CPU while idle.

    python benchmarks/stream_latency.py [--rows 1000000] [--rate 1000] [--seconds 60] [--idle 20] [--url postgresql://...]

pgbench makes so many transactions per second (an insert or an update of one row each, stamped with the server's
clock) on a table that was copied first. Visible is when the batch that holds the row has committed in DuckDB, which its
receipt tells: the same clock, as everything is on one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg

from copy_to_duckdb import server

FILL = """
CREATE SCHEMA bench;
CREATE TABLE bench.readings (id bigint PRIMARY KEY, value numeric(12, 2), note text, at timestamptz);
INSERT INTO bench.readings SELECT g, g * 1.5, 'note ' || g, now() FROM generate_series(1, {rows}) g;
CREATE SEQUENCE bench.ids START {next};
"""
SCRIPT = """
\\set kind random(1, 10)
\\set id random(1, {rows})
\\if :kind > 3
INSERT INTO bench.readings VALUES (nextval('bench.ids'), :id, 'new', clock_timestamp());
\\else
UPDATE bench.readings SET value = value + 1, at = clock_timestamp() WHERE id = :id;
\\endif
"""
LATENCY = """
WITH batches AS (
    SELECT last_commit_at, finished_at FROM _dbt_bridge.receipts WHERE hop = 'cdc' AND rows_loaded > 0
), seen AS (
    SELECT epoch(min(b.finished_at)) - epoch(r.at) AS seconds
    FROM landing.readings r
    JOIN batches b ON b.last_commit_at >= r.at
    WHERE r.at > $1
    GROUP BY r.id, r.at
)
SELECT count(*), quantile_cont(seconds, 0.5), quantile_cont(seconds, 0.95), max(seconds) FROM seen
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--idle", type=int, default=20)
    parser.add_argument("--url", help="of a Postgres database with wal_level = logical; the schema bench is made in it")
    parser.add_argument("--follow", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.follow:
        follow(*args.follow)
        return
    with server(args.url) as (url, psql), tempfile.TemporaryDirectory() as folder:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(FILL.format(rows=args.rows, next=args.rows + 1).encode())
        child = subprocess.Popen(
            [sys.executable, __file__, "--follow", url, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            measure(args, url, str(Path(psql).with_name("pgbench")), folder, child)
        finally:
            child.kill()
            child.wait()
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def measure(args: argparse.Namespace, url: str, pgbench: str, folder: str, child: subprocess.Popen[str]) -> None:
    import duckdb

    ask(child, "ready")
    idle_from = ask(child, "usage")
    time.sleep(args.idle)
    idle = ask(child, "usage")
    script = Path(folder) / "load.sql"
    script.write_text(SCRIPT.format(rows=args.rows))
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT clock_timestamp()").fetchone()
    begun = row[0] if row else None
    seconds = str(args.seconds)
    load = subprocess.Popen(
        [pgbench, "-n", "-f", str(script), "-R", str(args.rate), "-T", seconds, "-c", "4", "-j", "2", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    samples = []
    while load.poll() is None:
        time.sleep(max(1.0, args.seconds / 6))
        samples.append(ask(child, "usage"))
    time.sleep(5)
    ask(child, "stop")
    child.wait(timeout=60)
    with duckdb.connect(f"{folder}/stream.duckdb", read_only=True) as connection:
        found = connection.execute(LATENCY, [begun]).fetchone()
    assert found is not None
    rows, median, p95, most = found
    busy = samples[-1]["cpu"] - idle["cpu"]
    print(f"{args.rate:,} transactions/s for {args.seconds} s on {args.rows:,} rows, {os.cpu_count()} cores")
    print(f"visible after: median {median:.2f} s, p95 {p95:.2f} s, longest {most:.2f} s ({rows:,} rows)")
    print(f"CPU while following: {100 * busy / args.seconds:.0f}% of a core")
    print("memory (MB): " + ", ".join(f"{sample['rss']:.0f}" for sample in samples))
    print("lag of the last batch (s): " + ", ".join(f"{sample['lag']:.2f}" for sample in samples))
    share = (idle["cpu"] - idle_from["cpu"]) / args.idle
    print(f"idle for {args.idle} s: {100 * share:.2f}% of a core")


def ask(child: subprocess.Popen[str], what: str) -> dict[str, float]:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(what + "\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())  # type: ignore[no-any-return]


def follow(url: str, folder: str) -> None:
    """The process that is measured: a stream, and answers on standard output."""
    from dbt_bridge.cdc.stream import stream
    from dbt_bridge.cdc.stream_connection import StreamOptions
    from dbt_bridge.nouns.project import (
        LandingSource,
        LandingTable,
        Project,
        WarehouseProfile,
    )
    from dbt_bridge.observe.stream_progress import Batch, WatchSilent

    os.environ["SOURCES__BENCH__CREDENTIALS"] = url
    table = LandingTable("source.bench.bench.readings", "readings", "readings", replication="cdc")
    source = LandingSource(
        name="bench",
        origin="bench",
        origin_schema="bench",
        landing_schema="landing",
        landing_database="",
        destination=None,
        tables=(table,),
        defaults=LandingTable("source.bench.bench", "", "", replication="cdc"),
        slot="bench_stream",
    )
    profile = WarehouseProfile(
        "duckdb", "stream", "main", 2, {"type": "duckdb", "path": f"{folder}/stream.duckdb", "schema": "main"}
    )
    caught, stop, last = threading.Event(), threading.Event(), [0.0]

    class Seen(WatchSilent):
        def caught_up(self, source: str, at: object) -> None:
            caught.set()

        def batch(self, batch: Batch) -> None:
            last[0] = batch.lag_seconds or 0.0

    project = Project(Path(folder), "bench", profile, (source,), ())
    following = threading.Thread(target=stream, args=(project, StreamOptions(every=1.0), Seen(), stop))
    following.start()
    for line in sys.stdin:
        if line.strip() == "ready":
            caught.wait()
        if line.strip() == "stop":
            stop.set()
            following.join()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
        print(json.dumps({"cpu": usage.ru_utime + usage.ru_stime, "rss": resident, "lag": last[0]}), flush=True)
        if stop.is_set():
            return


if __name__ == "__main__":
    main()
