"""Receiving a slot's changes, without decoding, against pg_recvlogical -f /dev/null on a copy of the same slot.

    python benchmarks/receive.py [--events 300000] [--recvlogical /path/pg_recvlogical]

A table of 10 columns gets inserts in transactions of 1,000 and of one row, and in one transaction alone, which the
server streams before its commit and the receiver keeps in files. An embedded server; both clients on the same machine,
one after the other. CPU is the client's, the wall is the server's: it decodes the log on one core.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from dbt_bridge.connectors.postgres.changes import publication
from dbt_bridge.connectors.postgres.changes.lsn import format_lsn
from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.connectors.postgres.changes.stream import ReplicationStream
from dbt_bridge.demo import postgres
from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.table import TableName

SLOT = "bench_receive"
TABLE = """
CREATE TABLE bench_receive (id int PRIMARY KEY, account bigint, amount numeric(12, 2), note text, at timestamptz,
    active bool, uid uuid, doc jsonb, day date, story text);
CREATE PROCEDURE bench_receive_fill(events int, per_transaction int) LANGUAGE plpgsql AS $$
BEGIN
    FOR low IN 0 .. events - 1 BY per_transaction LOOP
        INSERT INTO bench_receive
        SELECT g, g * 7919::bigint, g % 1000000 * 0.37, 'a note about event ' || g,
               timestamptz '2026-01-01' + make_interval(secs => g * 1.5), g % 3 = 0, md5(g::text)::uuid,
               jsonb_build_object('event', g, 'kind', 'order'), date '2026-01-01' + g % 700, 'short'
        FROM generate_series(low, least(low + per_transaction, events) - 1) g;
        COMMIT;
    END LOOP;
END $$;
"""


@dataclass(frozen=True)
class Measured:
    """Seconds; what came, where the client counts it."""

    wall: float
    cpu: float
    messages: int = 0


def ours(server: Server, slot: str, start: int, end: int, *, binary: bool) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu, messages, sent = time.perf_counter(), time.process_time(), 0, 0
        stream = ReplicationStream("bench", server.url(), slot, [SLOT], start, binary=binary, spool_folder=Path(folder))
        with stream:
            while sent < end:
                run = stream.next(60)
                if run is None:
                    raise SystemExit("the server sent nothing for a minute")
                messages, sent = messages + len(run), run.sent
            return Measured(time.perf_counter() - wall, time.process_time() - cpu, messages)


def recvlogical(program: str, server: Server, slot: str, end: int, *, binary: bool) -> Measured:
    options = ["-o", "proto_version=1", "-o", f"publication_names={SLOT}", *(["-o", "binary=true"] if binary else [])]
    command = [program, "-d", server.url(), "--slot", slot, "--start", "--no-loop", "-f", "/dev/null", *options]
    wall, before = time.perf_counter(), os.times()
    subprocess.run([*command, "--endpos", format_lsn(end)], check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Measured(time.perf_counter() - wall, cpu)


def copied(connection: psycopg.Connection, measure: Callable[[str], Measured]) -> Measured:
    """Measured on a copy of the slot, so that each client reads the same log."""
    connection.execute("SELECT pg_copy_logical_replication_slot(%s, 'bench_copy')", [SLOT])
    try:
        return measure("bench_copy")
    finally:
        connection.execute("SELECT pg_drop_replication_slot('bench_copy')")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=300_000)
    arguments.add_argument("--recvlogical", default=shutil.which("pg_recvlogical"))
    given = arguments.parse_args()
    program = given.recvlogical or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_recvlogical")), None)
    server = postgres.start(settings={"fsync": "off", "max_wal_size": "4GB"})
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(TABLE.encode())
            for per_transaction in (1_000, 1, given.events):
                compare(server, connection, given.events, per_transaction, program)
    finally:
        postgres.remove(server)


def compare(
    server: Server, connection: psycopg.Connection, events: int, per_transaction: int, program: str | None
) -> None:
    connection.execute("TRUNCATE bench_receive")
    with Replication("bench", server.url()) as replication:
        publication.ensure(replication, SLOT, [TableName("public", "bench_receive")], [])
        with replication.create_slot(SLOT) as slot:
            start = slot.consistent_point
        connection.execute("CALL bench_receive_fill(%s, %s)", [events, per_transaction])
        end = replication.current_lsn()
        print(f"\n{events:,} inserts, {per_transaction:,} per transaction")
        for binary in (False, True):
            found = {"dbt-bridge": copied(connection, lambda s, b=binary: ours(server, s, start, end, binary=b))}
            if program:
                found["pg_recvlogical"] = copied(
                    connection, lambda s, b=binary: recvlogical(program, server, s, end, binary=b)
                )
            for name, measured in found.items():
                rate, share = events / measured.wall, measured.cpu / measured.wall
                per_event = measured.cpu / events * 1e6
                print(
                    f"  {'binary' if binary else 'text  '} {name:15} {rate:9,.0f} events/s  wall {measured.wall:5.2f} s"
                    f"  client CPU {measured.cpu:5.2f} s ({share:4.0%} of a core, {per_event:.2f} us per event)"
                )
        replication.drop_slot(SLOT)


if __name__ == "__main__":
    main()
