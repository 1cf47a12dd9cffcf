"""Digests that a Postgres landing computes are those of the rows that it gives back, in its state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.contracts.canon import Digested, NoDigests, choose_canon
from dbt_bridge.contracts.destination import Load, Replica
from dbt_bridge.contracts.side import Digests
from dbt_bridge.nouns.table import Column, Table
from dbt_bridge.prove.sides import make_landing_side
from dbt_bridge.testing.changes import Change, changes_of, rows_of
from dbt_bridge.testing.workload import COPIED_AT, orders, replica_of
from dbt_bridge.verify.canonical.row_digest import compute_digests, mix_digests

ROWS = [{"id": n, "part": f"p{n % 3}", "note": None, "big": f"b'{n}", "amount": n} for n in range(500)]


@pytest.fixture
def warehouse(database: str) -> Iterator[PostgresWarehouse]:
    with PostgresWarehouse("postgres", database) as warehouse:
        yield warehouse


def landed(warehouse: PostgresWarehouse, **how: Any) -> Replica:
    """500 rows, of which one was changed and one deleted."""
    replica = replica_of(orders(), **how)
    staged = warehouse.stage(Load(replica.table, "replace", "1"), rows_of(replica.table, ROWS).to_reader())
    with warehouse.open_application("1") as application:
        application.join(replica, staged, COPIED_AT)
        changes = [
            Change("update", {**ROWS[7], "note": "seven"}, 10, 10, unchanged=frozenset({"big"})),
            Change("delete", dict.fromkeys(ROWS[0]) | {"id": 8, "part": "p2"}, 10, 10),
        ]
        application.apply(replica, changes_of(replica.table, changes))
        application.commit(11)
    return replica


@pytest.mark.parametrize("how", [{}, {"deletes": "soft"}, {"change_log": True}], ids=["hard", "soft", "log"])
def test_digests_are_those_of_the_rows_that_stand_for_the_origins(
    warehouse: PostgresWarehouse, how: dict[str, Any]
) -> None:
    replica = landed(warehouse, **how)
    every = [Digested(column, choose_canon(column, column)) for column in replica.table.columns]
    key, values = every[:2], every[2:]
    with warehouse.open_state() as state:
        side = make_landing_side(state, replica, "postgres: orders")
        assert isinstance(side, Digests)
        rows = side.rows([d.column.name for d in every]).read_all()
        assert len(rows) == 499 == side.count()
        sent = side.digests(key, values).read_all()
        assert sent.column_names == ["id", "part", "_row"]
        by_key = {(r["id"], r["part"]): r["_row"] for r in sent.to_pylist()}
        own = digested(rows, values)
        ids = zip(rows["id"].to_pylist(), rows["part"].to_pylist(), strict=True)
        assert by_key == dict(zip(ids, own, strict=True))
        assert side.wire_bytes >= sent.nbytes > 0

        totals: dict[int, int] = {}
        one, both = np.array(digested(sent, key)), sent["_row"].to_numpy()
        for bucket, total in zip((one & 7).tolist(), mix_digests(one, both).tolist(), strict=True):
            totals[bucket] = totals.get(bucket, 0) + total
        buckets = side.buckets(key, values, 8)
        assert {r["bucket"]: int(r["total"]) for r in buckets.to_pylist()} == totals
        assert sum(buckets["rows"].to_pylist()) == 499
        assert side.transfer_rate() > 1_000_000


def digested(rows: pa.Table, columns: list[Digested]) -> list[int]:
    return compute_digests([rows[d.column.name].combine_chunks() for d in columns], [d.canon for d in columns]).tolist()


def test_a_column_of_the_digests_own_name_is_told(warehouse: PostgresWarehouse) -> None:
    plain = orders(())
    replica = replica_of(Table(plain.name, (*plain.columns, Column("_row", pa.int64()))))
    warehouse.load(Load(replica.table, "replace", "1"), replica.table.arrow_schema.empty_table().to_reader())
    column = replica.table.columns[0]
    with warehouse.open_state() as state, pytest.raises(NoDigests, match="has a column _row"):
        make_landing_side(state, replica, "p").digests([], [Digested(column, choose_canon(column, column))])  # type: ignore[attr-defined]
