"""Tables and random workloads that the tests of destinations share."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dbt_bridge.contracts.destination import Replica
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.testing.changes import Model, Row

_numbers = itertools.count(1)
COPIED_AT = 500_000

RANDOM = settings(
    max_examples=max(1, settings().max_examples // 5),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors],
)
KEYS = st.tuples(st.integers(1, 4), st.sampled_from("ab"))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), KEYS),
        st.tuples(st.just("update"), KEYS, st.booleans()),
        st.tuples(st.just("update"), KEYS, st.booleans()),
        st.tuples(st.just("move"), KEYS, KEYS, st.booleans()),
        st.tuples(st.just("move"), KEYS, KEYS, st.booleans()),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("truncate")),
        st.tuples(st.just("commit")),
        st.tuples(st.just("commit")),
        st.tuples(st.just("cut")),
        st.tuples(st.just("publish")),
        st.tuples(st.sampled_from(["add", "drop", "rename"])),
    ),
    max_size=40,
)
COPY = [
    {"id": 1, "part": "a", "note": "n", "big": "copied 1", "amount": Decimal("0.10")},
    {"id": 1, "part": "b", "note": None, "big": "copied 2", "amount": None},
    {"id": 3, "part": "a", "note": "", "big": None, "amount": Decimal("-7.00")},
]


def orders(key: tuple[str, ...] = ("id", "part")) -> Table:
    """A new table; `big` is the one whose value updates may leave out."""
    columns = (
        Column("id", pa.int64(), "bigint"),
        Column("part", pa.string(), "text"),
        Column("note", pa.string(), "text"),
        Column("big", pa.string(), "text"),
        Column("amount", pa.decimal128(12, 2), "numeric(12,2)"),
    )
    return Table(TableName("landing", f"orders_{next(_numbers)}"), columns, key)


def replica_of(table: Table, **how: Any) -> Replica:
    return Replica("source.shop.shop.orders", table, **how)


def sort_rows(rows: list[Row]) -> list[Row]:
    return sorted(({k: row[k] for k in sorted(row)} for row in rows), key=repr)


def play(model: Model, steps: list[tuple[Any, ...]]) -> list[int]:
    """Make the steps that are possible; answers after how many events an application ends."""
    values, ends = itertools.count(1), []

    def row(key: tuple[Any, ...]) -> Row:
        rest = {c.name: value(c) for c in model.table.columns if c.name not in model.table.key}
        return {**dict(zip(model.table.key, key, strict=True)), **rest}

    def value(column: Column) -> Any:
        number = next(values)
        if number % 5 == 0:
            return None
        if pa.types.is_decimal(column.type):
            return Decimal(number).scaleb(-2)
        return number if pa.types.is_integer(column.type) else f"{column.name} {number}"

    for step in steps:
        what, key = step[0], step[1] if len(step) > 1 else ()
        if what == "insert" and key not in model.state:
            model.insert(row(key))
        elif what == "update" and key in model.state:
            model.update(key, row(key), frozenset({"big"} if step[2] else ()))
        elif what == "move" and key in model.state and step[2] not in model.state:
            model.update(key, row(step[2]), frozenset({"big"} if step[3] else ()))
        elif what == "delete" and key in model.state:
            model.delete(key)
        elif what == "truncate":
            model.truncate()
        elif what == "cut":
            model.cut()
        elif what == "commit":
            model.commit()
        elif what in ("publish", "add", "drop", "rename"):
            model.commit()
            model.cut()
            if what == "publish":
                ends.append(len(model.events))
            else:
                reshape(model, what, next(values))
    model.commit()
    model.cut()
    return [*ends, len(model.events)]


def reshape(model: Model, what: str, number: int) -> None:
    columns = list(model.table.columns)
    rest = [c for c in columns if c.name not in (*model.table.key, "big")]
    if what == "add":
        model.reshape([*columns, Column(f"extra{number}", pa.int64(), "bigint")], {})
    elif what == "drop" and rest:
        model.reshape([c for c in columns if c != rest[-1]], {})
    elif what == "rename" and rest:
        new = Column(f"renamed{number}", rest[0].type, rest[0].origin_type)
        model.reshape([new if c == rest[0] else c for c in columns], {rest[0].name: new.name})
