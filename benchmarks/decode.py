"""The decoder of pgoutput alone: what a server sent, from bytes in memory to typed Arrow arrays, on one core.

    python benchmarks/decode.py [--events 200000] [--url postgresql://...] [--profile]

70% inserts, 20% updates, 10% deletes on a table of 10 columns (int, bigint, numeric(12,2), text, timestamptz, bool,
uuid, jsonb, date, and a text of which every 50th is stored out of line), in transactions of 1,000 changes and of one,
sent in text and in binary. The messages come from a real server (an embedded one without --url; wal_level must be
logical) by pg_logical_slot_peek_binary_changes, before the clock starts. They are decoded in runs of 65,536, as the
receiver makes them. Each figure is CPU time of the best of five rounds.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import psycopg
import pyarrow as pa

from dbt_bridge.connectors.postgres.changes.messages import SLACK, Messages, Rows
from dbt_bridge.connectors.postgres.changes.pgoutput.decoder import Decoder
from dbt_bridge.connectors.postgres.changes.values.columns import decode_column
from dbt_bridge.connectors.postgres.origin.column_types import OriginType, natural_type

RUN = 65_536  # messages, as receiver.RUN_MESSAGES
COLUMNS = {
    "id": OriginType("int4"),
    "account": OriginType("int8"),
    "amount": OriginType("numeric", (12 << 16 | 2) + 4),
    "note": OriginType("text"),
    "at": OriginType("timestamptz"),
    "active": OriginType("bool"),
    "uid": OriginType("uuid"),
    "doc": OriginType("jsonb"),
    "day": OriginType("date"),
    "story": OriginType("text"),
}

TABLE = """
DROP TABLE IF EXISTS bench_decode;
CREATE TABLE bench_decode (id int PRIMARY KEY, account bigint, amount numeric(12, 2), note text, at timestamptz,
    active bool, uid uuid, doc jsonb, day date, story text);
ALTER TABLE bench_decode ALTER story SET STORAGE EXTERNAL;
CREATE OR REPLACE PROCEDURE bench_decode_fill(events int, per_transaction int) LANGUAGE plpgsql AS $$
DECLARE
    tens int := events / 10;
    first int;
BEGIN
    FOR t IN 0 .. tens - 1 LOOP
        first := t * 7;
        FOR g IN first .. first + 6 LOOP
            INSERT INTO bench_decode VALUES (g, g * 7919::bigint, g % 1000000 * 0.37, 'a note about event ' || g,
                timestamptz '2026-01-01' + make_interval(secs => g * 1.5), g % 3 = 0, md5(g::text)::uuid,
                jsonb_build_object('event', g, 'kind', 'order'), date '2026-01-01' + g % 700,
                CASE WHEN g % 50 = 0 THEN repeat('story ', 500) WHEN g % 5 > 0 THEN 'short' END);
            IF per_transaction = 1 THEN COMMIT; END IF;
        END LOOP;
        UPDATE bench_decode SET amount = amount + 1, note = 'updated' WHERE id = first;
        IF per_transaction = 1 THEN COMMIT; END IF;
        UPDATE bench_decode SET at = at + interval '1 day' WHERE id = first + 1;
        IF per_transaction = 1 THEN COMMIT; END IF;
        DELETE FROM bench_decode WHERE id = first + 2;
        IF per_transaction = 1 OR (t + 1) % (per_transaction / 10) = 0 THEN COMMIT; END IF;
    END LOOP;
END $$
"""
PEEK = """
SELECT data FROM pg_logical_slot_peek_binary_changes('bench_decode', NULL, NULL, 'proto_version', '1',
    'publication_names', 'bench_decode', 'binary', %s)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--url", help="of a Postgres database; its table bench_decode is dropped")
    parser.add_argument("--profile", action="store_true", help="show where the time goes, in text and binary")
    args = parser.parse_args()
    pa.set_cpu_count(1)
    print(
        f"{'per transaction':>15} {'form':>7} {'rows':>9} {'MB':>6} {'structure/s':>12} {'values/s':>10} {'both/s':>10}"
    )
    with server(args.url) as url:
        for per_transaction in (1000, 1):
            for form, chunks in recorded(url, args.events, per_transaction):
                runs = in_runs(chunks)
                measure(per_transaction, form, runs)
                if args.profile and per_transaction > 1:
                    profile(runs)


def in_runs(chunks: Sequence[bytes]) -> list[Messages]:
    return [joined(chunks[i : i + RUN]) for i in range(0, len(chunks), RUN)]


def joined(chunks: Sequence[bytes]) -> Messages:
    """The messages in one buffer, as the receiver hands them to the decoder."""
    length = np.fromiter(map(len, chunks), np.int64, len(chunks))
    end = np.cumsum(length)
    buffer = np.frombuffer(b"".join((*chunks, bytes(SLACK))), np.uint8)
    return Messages(buffer, buffer[end - length], end - length + 1, end)


def measure(per_transaction: int, form: str, runs: Sequence[Messages]) -> None:
    structure = values = 1e9
    for _ in range(5):
        started = time.process_time()
        rows = structured(runs)
        between = time.process_time()
        typed(rows)
        ended = time.process_time()
        structure, values = min(structure, between - started), min(values, ended - between)
    n, size = sum(map(len, rows)), sum(len(run.buffer) for run in runs)
    rates = f"{n / structure:12,.0f} {n / values:10,.0f} {n / (structure + values):10,.0f}"
    print(f"{per_transaction:15,} {form:>7} {n:9,} {size / 1e6:6.0f} {rates}", flush=True)


def structured(runs: Sequence[Messages]) -> list[Rows]:
    decoder = Decoder()
    return [item for run in runs for item in decoder.decode(run).items if isinstance(item, Rows)]


def typed(changes: Sequence[Rows]) -> list[list[pa.Array]]:
    types = [(origin, natural_type(origin)) for origin in COLUMNS.values()]
    return [[decode_column(cells, *type_) for cells, type_ in zip(rows.cells, types, strict=True)] for rows in changes]


def profile(runs: Sequence[Messages]) -> None:
    with cProfile.Profile() as profiler:
        typed(structured(runs))
    pstats.Stats(profiler).sort_stats("tottime").print_stats(14)


def recorded(url: str, events: int, per_transaction: int) -> Iterator[tuple[str, list[bytes]]]:
    """The messages of the same changes, in text and in binary."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")  # for the many small transactions
        connection.execute("DROP PUBLICATION IF EXISTS bench_decode")
        connection.execute(TABLE)
        connection.execute("CREATE PUBLICATION bench_decode FOR TABLE bench_decode")
        connection.execute("SELECT pg_create_logical_replication_slot('bench_decode', 'pgoutput')")
        try:
            connection.execute("CALL bench_decode_fill(%s::int, %s::int)", [events, per_transaction])
            connection.execute("SET synchronous_commit = on")
            connection.execute("SELECT pg_logical_emit_message(true, 'bench_decode', 'all before this is on disk')")
            for form in ("text", "binary"):
                with connection.cursor(binary=True) as cur:
                    yield form, [row[0] for row in cur.execute(PEEK, [str(form == "binary").lower()])]
        finally:
            connection.execute("SELECT pg_drop_replication_slot('bench_decode')")
            connection.execute("DROP PUBLICATION bench_decode")
            connection.execute("DROP PROCEDURE bench_decode_fill; DROP TABLE bench_decode")


@contextmanager
def server(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    from dbt_bridge.demo import postgres

    running = postgres.start(settings={"fsync": "off"})
    try:
        yield running.url()
    finally:
        postgres.remove(running)


if __name__ == "__main__":
    main()
