"""A value lands by change capture exactly as the initial copy lands it: array for array, in text and in binary.

The types and values are those of the initial copy's own golden test.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql
from tests.connectors.postgres.changes.runs import join_messages

from dbt_bridge.connectors.postgres.changes.messages import (
    BINARY,
    TEXT,
    Cells,
    Rows,
)
from dbt_bridge.connectors.postgres.changes.pgoutput.decoder import Decoder
from dbt_bridge.connectors.postgres.changes.values.columns import Unfit, decode_column, is_binary_decodable
from dbt_bridge.connectors.postgres.origin import catalog
from dbt_bridge.connectors.postgres.origin.column_types import OriginType
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.connectors.postgres.wire.session import CONTROL_SETTINGS, build_settings_sql
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.table import Column, TableName

_spec = importlib.util.spec_from_file_location(
    "golden_types", Path(__file__).parents[1] / "origin" / "test_golden_types.py"
)
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


# The server from pip cannot store these: it is built without libxml.
XML = ['<?xml version="1.0" encoding="UTF-8"?><a b="c">é</a>', "<a/>"]


@dataclass(frozen=True)
class Captured:
    """What a slot's changes say of the tables of one database.

    Attributes:
        cells: of their columns `v`, by table and whether they were sent in binary.
        origin: the same database, for the initial copy.
    """

    origin: PostgresOrigin
    cells: dict[tuple[str, bool], Cells]
    types: dict[str, OriginType]

    def of(self, table: str, *, binary: bool = False) -> Cells:
        if (table, binary) not in self.cells:
            pytest.skip("this server has no such type or value")
        return self.cells[table, binary]

    def column(self, table: str) -> Column:
        return self.origin.describe(TableName("public", table)).table.columns[1]

    def copied(self, table: str, type_: pa.DataType | None = None) -> pa.Array:
        """Column `v` by the initial copy, in the order of the inserts."""
        name = TableName("public", table)
        columns = self.origin.describe(name).table.columns
        if type_ is not None:
            columns = (columns[0], Column("v", type_))
        return self.origin.rows(name, columns).read_all().sort_by("id").column("v").combine_chunks()


@pytest.fixture(scope="module")
def captured(each_server: Server) -> Iterator[Captured]:
    """One table per case and per refused value, filled after the slot was created."""
    with psycopg.connect(each_server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE golden_changes")
    url = each_server.url("golden_changes")
    filled = fill(url)
    cells = {(name, binary): found for binary in (False, True) for name, found in changes(url, binary).items()}
    connections = Connections("golden", url)
    types = {table: catalog.describe_relation(connections, TableName("public", table)).types["v"] for table in filled}
    connections.close()
    with PostgresOrigin("golden", url) as origin:
        yield Captured(origin, cells, types)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_drop_replication_slot('golden_changes')")
    with psycopg.connect(each_server.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE golden_changes WITH (FORCE)")


def fill(url: str) -> list[str]:
    """The tables that got values; an older version lacks some types and values."""
    cases = [(f"case_{i}", name, golden.CASES[name][1]) for i, name in enumerate(TYPES)]
    cases += [(f"refused_{i}", name, [value]) for i, (name, value) in enumerate(REFUSED)]
    cases += [("xml", "xml", XML), ("xmls", "xml[]", ["{" + ",".join(map(in_quotes, XML)) + "}"])]
    filled = []
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in golden.SETUP.strip().splitlines():
            with contextlib.suppress(psycopg.NotSupportedError):  # a server without contrib's extensions
                connection.execute(statement)
        connection.execute("CREATE PUBLICATION golden FOR ALL TABLES")
        connection.execute("SELECT pg_create_logical_replication_slot('golden_changes', 'pgoutput')")
        for table, type_, values in cases:
            try:
                with connection.transaction():
                    store(connection, table, type_, values)
                filled.append(table)
            except (psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError):
                assert connection.info.server_version < 180000 or table.startswith("xml")  # the test's own server
    return filled


def store(connection: psycopg.Connection, table: str, type_: str, values: list[str]) -> None:
    name = sql.Identifier(table)
    create = sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, v {})")
    connection.execute(create.format(name, sql.SQL(type_)))  # type: ignore[arg-type]
    for i, value in enumerate([*values, None]):
        connection.execute(sql.SQL("INSERT INTO {} VALUES (%s, %s)").format(name), [i, value])


def in_quotes(element: str) -> str:
    return '"' + element.replace('"', '\\"') + '"'


def changes(url: str, binary: bool) -> dict[str, Cells]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(build_settings_sql(CONTROL_SETTINGS, for_transaction=False).encode())
        found = connection.execute(
            "SELECT data FROM pg_logical_slot_peek_binary_changes('golden_changes', NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'golden', 'binary', %s)",
            [str(binary).lower()],
            binary=True,
        ).fetchall()
    items = Decoder().decode(join_messages([row[0] for row in found])).items
    return {item.relation.name.name: item.cells[1] for item in items if isinstance(item, Rows)}


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
    cells = captured.of(table)
    assert BINARY not in cells.tag
    expected = captured.copied(table)
    found = decode_column(cells, captured.types[table], captured.column(table).type)
    found.validate(full=not pa.types.is_time(found.type))  # Arrow has no 24:00:00
    assert same(found, expected), (found, expected)


@pytest.mark.parametrize("name", [name for name in TYPES if name not in ONLY_TEXT])
def test_binary_changes_are_what_the_initial_copy_lands(captured: Captured, name: str) -> None:
    table = f"case_{TYPES.index(name)}"
    cells = captured.of(table, binary=True)
    assert BINARY in cells.tag
    assert TEXT not in cells.tag
    expected, wanted = captured.copied(table), captured.column(table).type
    assert is_binary_decodable(captured.types[table], wanted)
    found = decode_column(cells, captured.types[table], wanted)
    found.validate(full=not pa.types.is_time(found.type))
    assert same(found, expected), (found, expected)


@pytest.mark.parametrize("name", sorted(ONLY_TEXT))
def test_a_type_whose_binary_form_is_not_read_says_so(captured: Captured, name: str) -> None:
    table = f"case_{TYPES.index(name)}"
    captured.of(table)
    assert not is_binary_decodable(captured.types[table], golden.CASES[name][0])


@pytest.mark.parametrize("name", TYPES)
def test_text_that_is_asked_for_is_the_initial_copys(captured: Captured, name: str) -> None:
    table = f"case_{TYPES.index(name)}"
    found = decode_column(captured.of(table), captured.types[table], pa.string())
    assert found.equals(captured.copied(table, pa.string()))


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[f"{n} {v}" for n, v in REFUSED])
def test_what_the_initial_copy_refuses_is_refused(captured: Captured, number: int) -> None:
    table = f"refused_{number}"
    cells, origin = captured.of(table), captured.types[table]
    wanted = captured.column(table).type
    with pytest.raises(TypeRefused):
        captured.copied(table)
    with pytest.raises(Unfit):
        decode_column(cells, origin, wanted)
    if is_binary_decodable(origin, wanted):
        with pytest.raises(Unfit):
            decode_column(captured.of(table, binary=True), origin, wanted)
    assert decode_column(cells, origin, pa.string()).equals(captured.copied(table, pa.string()))


@pytest.mark.parametrize("table", ["xml", "xmls"])
def test_xml_is_its_output_without_the_encoding_that_it_had(captured: Captured, table: str) -> None:
    found = decode_column(captured.of(table), captured.types[table], captured.column(table).type)
    assert found.equals(captured.copied(table))
    assert "encoding" not in str(found)
