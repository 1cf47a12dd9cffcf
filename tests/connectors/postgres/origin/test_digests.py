"""Digests that a Postgres origin computes are those of the rows that it gives, in its snapshot."""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.postgres.origin import ctid_ranges
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.connectors.postgres.origin.queries import PostgresQueries
from dbt_bridge.contracts.canon import (
    Canon,
    Digested,
    NoDigests,
    choose_canon,
)
from dbt_bridge.contracts.side import BucketSelection
from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.reconciliation import Selection
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.verify.canonical.row_digest import compute_digests, mix_digests

NAME = TableName("public", 'it"ems')


@pytest.fixture
def filled(each_database: str) -> str:
    with psycopg.connect(each_database, autocommit=True) as connection:
        connection.execute(
            b'CREATE TABLE "it""ems" (id int, "Part %s" text, n numeric(12,2), m numeric, t timestamptz, u uuid,'
            b' b bytea, f float8, j jsonb, a int[], d date, o boolean, PRIMARY KEY (id, "Part %s"))'
        )
        connection.execute(
            'INSERT INTO "it""ems" SELECT n, \'k\' || n % 3, n / 7.0, n / 7.0, to_timestamp(n), md5(n::text)::uuid,'
            " decode(md5(n::text), 'hex'), n / 3.0, jsonb_build_object('n', n), ARRAY[n, NULL], date '2000-01-01' + n,"
            " n % 2 = 0 FROM generate_series(1, 20000) n"
        )
        connection.execute("INSERT INTO \"it\"\"ems\" VALUES (-1, '', 0, 'NaN', 'infinity'), (-2, 'é', 0, NULL, NULL)")
    return each_database


def halves(table: Table) -> tuple[list[Digested], list[Digested]]:
    every = [Digested(column, choose_canon(column, column)) for column in table.columns]
    return [d for d in every if d.column.name in table.key], [d for d in every if d.column.name not in table.key]


def digested(rows: pa.Table, columns: list[Digested]) -> list[int]:
    arrays = [rows[d.column.name].combine_chunks() for d in columns]
    return [int(v) for v in compute_digests(arrays, [d.canon for d in columns])]


def test_digests_and_buckets_are_those_of_the_rows(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctid_ranges, "RANGE_PAGES", 16)
    with PostgresOrigin("shop", filled) as origin:
        table = origin.describe(NAME).table
        assert origin.digest_table(NAME, 2)._relation.pages > 32, "it is read in ranges"
        key, values = halves(table)
        with psycopg.connect(filled, autocommit=True) as other:
            other.execute('DELETE FROM "it""ems" WHERE id > 10000')  # after the snapshot
        rows = origin.rows(NAME, table.columns).read_all()
        wanted = {
            (i, p): r
            for i, p, r in zip(rows["id"].to_pylist(), rows["Part %s"].to_pylist(), digested(rows, values), strict=True)
        }
        side = origin.digest_table(NAME, 2)
        sent = side.digests(key, values).read_all()
        assert sent.schema.types == [pa.int32(), pa.string(), pa.int64()]
        found = {(i, p): r for i, p, r in zip(*sent.to_pydict().values(), strict=True)}
        assert found == wanted and len(sent) == len(wanted) == 20_002
        assert side.wire_bytes > 20_000 * 16

        sums: dict[int, tuple[int, int]] = {}
        one, both = np.array(digested(sent, key)), sent["_row"].to_numpy()
        for k, total in zip(one.tolist(), mix_digests(one, both).tolist(), strict=True):
            rows_so_far, so_far = sums.get(k & 63, (0, 0))
            sums[k & 63] = (rows_so_far + 1, so_far + total)
        buckets = origin.digest_table(NAME, 2).buckets(key, values, 64)
        assert buckets.schema == pa.schema({"bucket": pa.int64(), "rows": pa.int64(), "total": pa.decimal128(38, 0)})
        assert {b: (n, int(t)) for b, n, t in zip(*buckets.to_pydict().values(), strict=True)} == sums

        some = side.digests(key, values, BucketSelection(64, [3, 60])).read_all()
        assert {k & 63 for k in digested(some, key)} == {3, 60}
        assert len(some) == sums[3][0] + sums[60][0]
        assert len(side.digests(key, values, BucketSelection(64, [])).read_all()) == 0


def test_without_a_key_the_row_is_the_key(filled: str) -> None:
    with PostgresOrigin("shop", filled) as origin:
        table = origin.describe(NAME).table
        every = [d for half in halves(table) for d in half]
        sent = origin.digest_table(NAME).digests([], every).read_all()
        assert sent.column_names == ["_row"]
        assert sorted(sent["_row"].to_pylist()) == sorted(digested(origin.rows(NAME, table.columns).read_all(), every))


def test_a_masked_column_is_hashed_by_the_server(origin: psycopg.Connection, database: str) -> None:
    origin.execute("CREATE TABLE p (id int PRIMARY KEY, born date)")
    origin.execute("INSERT INTO p VALUES (1, '2000-01-02'), (2, NULL)")
    with PostgresOrigin("shop", database) as reading:
        name = TableName("public", "p")
        table = reading.describe(name).table
        key = [Digested(table.columns[0], Canon("int", bits=32))]
        values = [Digested(Column("born", pa.string()), Canon("text"), mask="sha256")]
        sent = {r["id"]: r["_row"] for r in reading.digest_table(name).digests(key, values).read_all().to_pylist()}
        hashed = pa.array([hashlib.sha256(b"2000-01-02").hexdigest(), None])
        assert [sent[1], sent[2]] == compute_digests([hashed], [Canon("text")]).tolist()


def told(database: str, statement: str, column: str = "v", canon: Canon | None = None) -> str:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(statement.encode())
    with PostgresOrigin("shop", database) as reading:
        name = TableName("public", "t")
        found: Any = reading.describe(name).table.column(column)
        with pytest.raises(NoDigests) as refusal:
            reading.digest_table(name).digests([], [Digested(found, canon or choose_canon(found, found))])
        return str(refusal.value)


def test_what_cannot_be_hashed_is_told_before_anything_is_read(database: str) -> None:
    assert "no digest as int" in told(database, "CREATE TABLE t (v text)", canon=Canon("int"))


def test_a_column_of_the_digests_own_name_is_told(database: str) -> None:
    assert "has a column _row" in told(database, "CREATE TABLE t (_row int)", column="_row")


def test_a_path_on_which_the_catalog_may_be_shadowed_is_told(database: str) -> None:
    """A query that a person wrote keeps the role's path; digests in it would take whatever it finds first."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS v")
        name = connection.info.dbname
        for path, shadows in (("public", False), ("public, pg_catalog", True)):
            connection.execute(f"ALTER DATABASE {name} SET search_path = {path}".encode())
            with closing(PostgresQueries("old", database)) as queries:
                side = queries.side("old", Selection("t", {"v": "v"}))
                digesting = [Digested(column, choose_canon(column, column)) for column in side.table.columns]
                if shadows:
                    with pytest.raises(NoDigests, match="search_path"):
                        side.digests([], digesting)
                else:
                    assert side.digests([], digesting).read_all().num_rows == 1


def test_a_server_that_hashes_otherwise_is_told(server: Server) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        assert "hashes otherwise" in told(server.url("latin"), "CREATE TABLE t (v text)")
    finally:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("DROP DATABASE latin WITH (FORCE)")


def test_the_wire_is_measured_in_no_time(database: str) -> None:
    with PostgresOrigin("shop", database) as reading:
        reading.tables(None)
        origin_has = reading.describe(TableName("pg_catalog", "pg_class")).table
        assert reading.digest_table(origin_has.name).transfer_rate() > 1_000_000
