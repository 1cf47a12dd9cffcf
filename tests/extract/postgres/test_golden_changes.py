"""A value lands by change capture exactly as the initial copy lands it: array for array, in text and in binary.

The types and values are those of the initial copy's own golden test.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import TypeRefused
from dbt_bridge.extract.postgres import PostgresOrigin, catalog
from dbt_bridge.extract.postgres.column_types import OriginType
from dbt_bridge.extract.postgres.connection import SETTINGS, Connections
from dbt_bridge.extract.postgres.messages import BINARY, TEXT, Cells, Rows
from dbt_bridge.extract.postgres.pgoutput import Decoder, messages_of
from dbt_bridge.extract.postgres.values import Unfit, column, decodes_binary
from dbt_bridge.table import Column, TableName

_spec = importlib.util.spec_from_file_location("golden_types", Path(__file__).with_name("test_golden_types.py"))
assert _spec and _spec.loader
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

TYPES = list(golden.CASES)
REFUSED = [(name, value) for name, values in golden.REFUSED.items() for value in values]

# Types whose binary form is another one than what they travel in: a source that has one of them is read in text.
ONLY_TEXT = {
    "numeric", "numeric(39,2)", "numeric(1000,500)", '"char"', "time with time zone", "public.mood", "public.place",
    "int4range", "tstzrange", "nummultirange", "inet", "cidr", "macaddr", "macaddr8", "xml", "money", "bit(5)",
    "bit varying", "tsvector", "tsquery", "point", "line", "box", "path", "polygon", "circle", "pg_lsn", "jsonpath",
    "regclass", "public.ltree", "public.hstore", "public.tags", *(name for name in TYPES if name.endswith("[]")),
}  # fmt: skip


@dataclass(frozen=True)
class Captured:
    """What a slot's changes say of the tables of one database: the cells of their columns `v`, by table."""

    url: str
    cells: dict[tuple[str, bool], Cells]  # (table, whether in binary)
    types: dict[str, OriginType]


@pytest.fixture(scope="module")
def captured(server: Server) -> Iterator[Captured]:
    """One table per case and per refused value, filled after the slot was created."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE golden_changes")
    url = server.url("golden_changes")
    tables = {f"case_{i}": (name, golden.CASES[name][1]) for i, name in enumerate(TYPES)}
    tables |= {f"refused_{i}": (name, [value]) for i, (name, value) in enumerate(REFUSED)}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(golden.SETUP)
        for table, (type_, _) in tables.items():
            connection.execute(
                sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, v {})").format(sql.Identifier(table), sql.SQL(type_))  # type: ignore[arg-type]
            )
        connection.execute("CREATE PUBLICATION golden FOR ALL TABLES")
        connection.execute("SELECT pg_create_logical_replication_slot('golden_changes', 'pgoutput')")
        for table, (_, values) in tables.items():
            for i, value in enumerate([*values, None]):
                connection.execute(sql.SQL("INSERT INTO {} VALUES (%s, %s)").format(sql.Identifier(table)), [i, value])
    cells = {(name, binary): found for binary in (False, True) for name, found in changes(url, binary).items()}
    connections = Connections("golden", url)
    types = {table: catalog.relation(connections, TableName("public", table)).types["v"] for table in tables}
    connections.close()
    yield Captured(url, cells, types)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_drop_replication_slot('golden_changes')")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE golden_changes WITH (FORCE)")


def changes(url: str, binary: bool) -> dict[str, Cells]:
    with psycopg.connect(url, autocommit=True) as connection:
        for name, value in SETTINGS:
            if connection.execute("SELECT 1 FROM pg_settings WHERE lower(name) = lower(%s)", [name]).fetchone():
                connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        found = connection.execute(
            "SELECT data FROM pg_logical_slot_peek_binary_changes('golden_changes', NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'golden', 'binary', %s)",
            [str(binary).lower()],
            binary=True,
        ).fetchall()
    items = Decoder().decode(messages_of([row[0] for row in found])).items
    return {item.relation.name.name: item.cells[1] for item in items if isinstance(item, Rows)}


def copied(url: str, table: str, type_: pa.DataType | None = None) -> tuple[pa.Array, Column]:
    """Column `v` by the initial copy, in the order of the inserts."""
    name = TableName("public", table)
    with PostgresOrigin("golden", url) as origin:
        columns = origin.describe(name).table.columns
        if type_ is not None:
            columns = (columns[0], Column("v", type_))
        rows = origin.rows(name, columns).read_all().sort_by("id")
    return rows.column("v").combine_chunks(), columns[1]


def same(found: pa.Array, expected: pa.Array) -> bool:
    """Value by value and bit by bit: NaN is NaN, and -0 is not 0."""
    if pa.types.is_floating(expected.type):
        bits = pa.int32() if pa.types.is_float32(expected.type) else pa.int64()
        return found.type == expected.type and found.view(bits).equals(expected.view(bits))
    if pa.types.is_list(expected.type) and pa.types.is_floating(expected.type.value_type):
        return found.offsets.equals(expected.offsets) and same(found.values, expected.values)
    return found.type == expected.type and found.equals(expected)


@pytest.mark.parametrize("name", TYPES)
def test_text_changes_are_what_the_initial_copy_lands(captured: Captured, name: str) -> None:
    table = f"case_{TYPES.index(name)}"
    cells = captured.cells[table, False]
    assert BINARY not in cells.tag
    expected, described = copied(captured.url, table)
    found = column(cells, captured.types[table], described.type)
    found.validate(full=not pa.types.is_time(found.type))  # Arrow has no 24:00:00
    assert same(found, expected), (found, expected)


@pytest.mark.parametrize("name", [name for name in TYPES if name not in ONLY_TEXT])
def test_binary_changes_are_what_the_initial_copy_lands(captured: Captured, name: str) -> None:
    table = f"case_{TYPES.index(name)}"
    expected, described = copied(captured.url, table)
    assert decodes_binary(captured.types[table], described.type)
    cells = captured.cells[table, True]
    assert BINARY in cells.tag
    assert TEXT not in cells.tag
    found = column(cells, captured.types[table], described.type)
    found.validate(full=not pa.types.is_time(found.type))  # Arrow has no 24:00:00
    assert same(found, expected), (found, expected)


@pytest.mark.parametrize("name", sorted(ONLY_TEXT))
def test_a_type_whose_binary_form_is_not_read_says_so(captured: Captured, name: str) -> None:
    table = f"case_{TYPES.index(name)}"
    assert not decodes_binary(captured.types[table], golden.CASES[name][0])


@pytest.mark.parametrize("name", TYPES)
def test_text_that_is_asked_for_is_the_initial_copys(captured: Captured, name: str) -> None:
    table = f"case_{TYPES.index(name)}"
    expected, _ = copied(captured.url, table, pa.string())
    assert column(captured.cells[table, False], captured.types[table], pa.string()).equals(expected)


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[f"{n} {v}" for n, v in REFUSED])
def test_what_the_initial_copy_refuses_is_refused(captured: Captured, number: int) -> None:
    table = f"refused_{number}"
    with pytest.raises(TypeRefused):
        copied(captured.url, table)
    wanted = described(captured.url, table).type
    origin = captured.types[table]
    with pytest.raises(Unfit):
        column(captured.cells[table, False], origin, wanted)
    if decodes_binary(origin, wanted):
        with pytest.raises(Unfit):
            column(captured.cells[table, True], origin, wanted)
    text, _ = copied(captured.url, table, pa.string())
    assert column(captured.cells[table, False], origin, pa.string()).equals(text)


def described(url: str, table: str) -> Column:
    with PostgresOrigin("golden", url) as origin:
        return origin.describe(TableName("public", table)).table.columns[1]
