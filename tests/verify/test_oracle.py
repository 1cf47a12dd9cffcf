"""verify against plain SQL, for every type at once: real PostgreSQL, landed by the bridge in DuckDB, then spoilt there.

What differs is told by EXCEPT in one engine, between what landed and what became of it. Names are hostile throughout.
"""

from __future__ import annotations

import importlib.util
import random
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.contracts.destination import Load, Replica
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import BridgeError
from dbt_bridge.nouns.parity import Method, Parity
from dbt_bridge.nouns.table import (
    Table,
    TableName,
    quote_identifier,
    quote_table_name,
)
from dbt_bridge.prove.sides import make_landing_side, make_origin_side
from dbt_bridge.verify.compare import compare
from dbt_bridge.verify.request import VerifyRequest

_golden = Path(__file__).parents[1] / "connectors" / "postgres" / "origin" / "test_golden_types.py"
_spec = importlib.util.spec_from_file_location("golden_types", _golden)
assert _spec is not None and _spec.loader is not None
golden: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

BEGAN = datetime(2026, 11, 21, tzinfo=UTC)
OPENED = Parity("load", "source.a.b.c", "o", "d", "rows", "failed", "now", BEGAN, BEGAN, 0.0, error="not yet")
METHODS: tuple[Method, ...] = ("digests", "buckets", "values")
HOSTILE = TableName('sche"ma %s', "ta\"ble'; -- {é}")
LANDING = TableName("lan\"ding'", 'ta"ble %(x)s')
TRUTH = "truth"
KEY = 'i"d %s'
TYPES = [name for name, (_, values) in golden.CASES.items() if values]
COLUMNS = {f"c{number} \"'%s;--": name for number, name in enumerate(TYPES)}
"""column -> its type"""


@pytest.fixture(scope="module")
def database_url(server: Server) -> Iterator[str]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE oracle")
    with psycopg.connect(server.url("oracle"), autocommit=True) as connection:
        connection.execute(golden.SETUP)
        connection.execute(f"CREATE SCHEMA {quote_identifier(HOSTILE.schema)}".encode())
        columns = "".join(f", {quote_identifier(name)} {type_}" for name, type_ in COLUMNS.items())
        connection.execute(
            f"CREATE TABLE {quote_table_name(HOSTILE)} ({quote_identifier(KEY)} int PRIMARY KEY{columns})".encode()
        )
    yield server.url("oracle")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE oracle WITH (FORCE)")


class Landed:
    """The table at the origin, and where it landed; `truth` is what landed, and is left as it is."""

    def __init__(self, url: str, path: Path) -> None:
        self._url = url
        self._engine = duckdb.connect(str(path))
        self._warehouse = DuckDBWarehouse(self._engine, name="duckdb", catalog=path.stem, owned=False)
        self._origin = PostgresOrigin("pg", url)
        self.table = Table(LANDING, ())

    def close(self) -> None:
        self._origin.close()
        self._engine.close()

    def fill(self, rows: list[list[str | None]]) -> None:
        """These rows, by their number, at the origin, in the landing table and in `truth`."""
        marks = ", ".join(["%s"] * (1 + len(COLUMNS)))
        self._origin.close()  # its snapshot would hold the table
        with psycopg.connect(self._url, autocommit=True) as connection, connection.cursor() as cur:
            cur.execute(f"TRUNCATE {quote_table_name(HOSTILE)}".encode())
            insert = f"INSERT INTO {quote_table_name(HOSTILE).replace('%', '%%')} VALUES ({marks})"  # noqa: S608
            cur.executemany(insert.encode(), [[number, *row] for number, row in enumerate(rows)])
        self.reopen()
        described = self._origin.describe(HOSTILE).table
        self.table = Table(LANDING, tuple(self._warehouse.map_column(c) for c in described.columns), (KEY,))
        load = Load(self.table, "replace", "oracle")
        self._warehouse.load(load, self._origin.rows(HOSTILE, self.table.columns))
        self.sql(f"CREATE OR REPLACE TABLE {TRUTH} AS FROM {quote_table_name(LANDING)}")

    def reopen(self) -> None:
        self._origin.close()
        self._origin = PostgresOrigin("pg", self._url)

    def sql(self, statement: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        return self._engine.execute(statement, values).fetchall()

    def compared(self, asked: VerifyRequest) -> Parity:
        described = self._origin.describe(HOSTILE).table
        with self._warehouse.open_state() as state:
            ours = make_origin_side(self._origin, described, self.table.columns, {}, 1, "pg: table")
            theirs = make_landing_side(state, Replica("source.p.s.t", self.table), "duckdb: table")
            return compare(OPENED, ours, theirs, asked)

    def told_by_sql(self) -> tuple[Counter[int], Counter[int]]:
        """How many rows of each number only the truth has, and only the landing table."""
        # DuckDB takes 30 days for a month.
        selected = ", ".join(
            f"CAST({quote_identifier(name)} AS {type_.replace('INTERVAL', 'VARCHAR')})"
            for name, type_ in self.types().items()
        )
        found = []
        for one, other in ((TRUTH, quote_table_name(LANDING)), (quote_table_name(LANDING), TRUTH)):
            query = f"SELECT {selected} FROM {one} EXCEPT ALL SELECT {selected} FROM {other}"  # noqa: S608
            found.append(Counter(row[0] for row in self.sql(query)))
        return found[0], found[1]

    def types(self) -> dict[str, str]:
        """Column -> DuckDB's type."""
        return {row[0]: row[1] for row in self.sql(f"DESCRIBE {TRUTH}")}


@pytest.fixture(scope="module")
def landed(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Landed]:
    with closing(Landed(database_url, tmp_path_factory.mktemp("oracle") / "l.duckdb")) as opened:
        yield opened


def value(type_: str, number: int) -> str | None:
    """One of the golden values, or NULL."""
    values = [*golden.CASES[type_][1], None]
    return values[number % len(values)]  # type: ignore[no-any-return]


def short(type_: str) -> str:
    """A golden value, neither NaN nor infinite where there is another."""
    plain = [text for text in golden.CASES[type_][1] if "nan" not in text.lower() and "inf" not in text.lower()]
    return str((plain or golden.CASES[type_][1])[-1])


@settings(
    phases=(Phase.generate,),
    max_examples=3,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32))
def test_what_is_found_is_what_except_finds(landed: Landed, seed: int) -> None:
    note(f"seed {seed}")
    chance = random.Random(seed)
    rows = [[value(type_, chance.randrange(9)) for type_ in TYPES] for _ in range(chance.choice([0, 1, 30, 30]))]
    landed.fill(rows)
    spoil(landed, chance, len(rows))
    missing, extra = landed.told_by_sql()
    for method in METHODS:
        parity = landed.compared(VerifyRequest(key=(KEY,), method=method))
        found = {row[KEY]: row["_kind"] for row in parity.keys.to_pylist()} if parity.keys else {}
        assert found == kinds(landed, missing, extra), method
        assert parity.status == ("different" if missing or extra else "equal")
    whole = landed.compared(VerifyRequest(method=chance.choice(METHODS)))
    assert (whole.only_in_origin, whole.only_in_destination) == (missing.total(), extra.total())
    assert whole.status == parity.status


def kinds(landed: Landed, missing: Counter[int], extra: Counter[int]) -> dict[int, str]:
    """What each key that differs is."""
    query = f"SELECT {quote_identifier(KEY)} FROM {quote_table_name(LANDING)} GROUP BY ALL HAVING count(*) > 1"  # noqa: S608
    told = dict.fromkeys(missing, "only_in_origin") | dict.fromkeys(extra, "only_in_destination")
    told |= dict.fromkeys(missing & extra, "different")
    return told | {row[0]: "duplicate" for row in landed.sql(query)}


def spoil(landed: Landed, chance: random.Random, rows: int) -> None:
    """A few of: rows gone, doubled, new; a value of another row, of another column, NULL."""
    table, key = quote_table_name(LANDING), quote_identifier(KEY)
    for _ in range(chance.randrange(7) if rows else 0):
        at, other = chance.randrange(rows), chance.randrange(rows)
        columns = list(COLUMNS)
        column = quote_identifier(chance.choice(columns))
        landed.sql(
            chance.choice(
                [
                    f"DELETE FROM {table} WHERE {key} = {at}",  # noqa: S608
                    f"INSERT INTO {table} FROM {TRUTH} WHERE {key} = {at}",
                    f"INSERT INTO {table} SELECT * REPLACE ({rows + at} AS {key}) FROM {TRUTH} WHERE {key} = {other}",  # noqa: S608
                    f"UPDATE {table} SET {column} = (SELECT {column} FROM {TRUTH} WHERE {key} = {other})"  # noqa: S608
                    f" WHERE {key} = {at}",
                    f"UPDATE {table} SET {column} = NULL WHERE {key} = {at}",  # noqa: S608
                    f"UPDATE {table} SET {swapped(landed, chance)} WHERE {key} = {at}",  # noqa: S608
                    f"UPDATE {table} SET {key} = {rows + other} WHERE {key} = {at}",  # noqa: S608
                ]
            )
        )


def swapped(landed: Landed, chance: random.Random) -> str:
    """Two columns of one Arrow type change places. (Trailing spaces of a char(n) do not count, but for EXCEPT.)"""
    plain = {name: golden.CASES[own][0] for name, own in COLUMNS.items() if "character(" not in own}
    one = chance.choice(list(plain))
    alike = [name for name, type_ in plain.items() if type_ == plain[one] and name != one]
    if not alike:
        return f"{quote_identifier(one)} = NULL"
    other = chance.choice(alike)
    return f"{quote_identifier(one)} = {quote_identifier(other)}, {quote_identifier(other)} = {quote_identifier(one)}"


def test_the_smallest_change_of_any_type_is_found_with_its_row_and_column(landed: Landed) -> None:
    """In each row one column is another by one bit (one day, one element ...), is NULL, or is no longer NULL."""
    rows = [[short(type_) for type_ in TYPES] for _ in TYPES]
    rows += [[value(type_, place + number) for number, type_ in enumerate(TYPES)] for place in range(2 * len(TYPES))]
    landed.fill(rows)
    expected: dict[str, tuple[str, ...]] = {}
    for number, (column, type_) in enumerate(list(landed.types().items())[1:]):
        for at in range(number, len(rows), len(TYPES)):
            to = smallest_change(landed, column, type_, at)
            table, key = quote_table_name(LANDING), quote_identifier(KEY)
            landed.sql(f"UPDATE {table} SET {quote_identifier(column)} = {to} WHERE {key} = {at}")  # noqa: S608
            expected[str(at)] = (column,)
    missing, extra = landed.told_by_sql()
    assert missing.keys() == extra.keys() == {int(key) for key in expected}
    for method in METHODS:
        parity = landed.compared(VerifyRequest(key=(KEY,), method=method, shown=1000))
        assert {example.key[KEY]: example.columns for example in parity.examples} == expected, method
        assert {example.kind for example in parity.examples} == {"different"}


def smallest_change(landed: Landed, column: str, type_: str, at: int) -> str:
    """SQL of another value of this type than the row has, as near to it as can be."""
    v = quote_identifier(column)
    [(is_null, text)] = landed.sql(
        f"SELECT {v} IS NULL, CAST({v} AS VARCHAR)\n"
        f"FROM {quote_table_name(LANDING)}\nWHERE {quote_identifier(KEY)} = {at}"
    )
    if is_null:
        return NOTHING.get(type_, "[]" if type_.endswith("[]") else "0")
    if at % 3 == 2:
        return "NULL"
    if type_.endswith("[]"):
        return f"list_append({v}, NULL)"
    if type_ in ("VARCHAR", "JSON"):
        return literal(near(text, is_json=type_ == "JSON"))
    if type_.startswith("DECIMAL"):
        return f"{v} + CAST({'-' if text[0] != '-' else ''}1e-{type_[:-1].split(',')[1]} AS {type_})"
    if type_ in FLOATS:
        if text == "nan":
            return "0"
        raw = bytearray(struct.pack(FLOATS[type_], float(text)))
        raw[0] ^= 1
        return f"CAST('{struct.unpack(FLOATS[type_], raw)[0]!r}' AS {type_})"
    if type_.startswith(("DATE", "TIMESTAMP")) and "inf" in text:
        return f"CAST('2000-01-01' AS {type_})"
    return CHANGES.get(type_, "xor({0}, 1)").format(v, tick="INTERVAL '1 microsecond'")


NOTHING = {
    "VARCHAR": "''", "JSON": "'null'", "BLOB": "''::BLOB", "UUID": "'00000000-0000-0000-0000-000000000000'",
    "DATE": "'1970-01-01'", "TIME": "'00:00:00'", "INTERVAL": "'0 s'", "BOOLEAN": "false", "TIMESTAMP": "'epoch'",
    "TIMESTAMP WITH TIME ZONE": "'epoch'",
}  # fmt: skip
FLOATS = {"FLOAT": "<f", "DOUBLE": "<d"}
CHANGES = {
    "BOOLEAN": "NOT {0}", "DATE": "{0} - 1", "TIME": "{0} - {tick}", "TIMESTAMP": "{0} - {tick}",
    "TIMESTAMP WITH TIME ZONE": "{0} - {tick}", "INTERVAL": "{0} + {tick}", "BLOB": "{0} || '\\x00'::BLOB",
    "UUID": "CAST(left({0}::VARCHAR, 35) || CASE right({0}::VARCHAR, 1) WHEN '8' THEN '9' ELSE '8' END AS UUID)",
}  # fmt: skip


def near(text: str, *, is_json: bool) -> str:
    if not is_json:
        return text[:-1] + chr(ord(text[-1]) ^ 1) if text else "\x01"
    digits = [place for place, sign in enumerate(text) if sign.isdigit()]
    return text[: digits[-1]] + str(int(text[digits[-1]]) ^ 1) + text[digits[-1] + 1 :] if digits else "0"


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def test_rows_are_found_by_keys_of_every_type(landed: Landed) -> None:
    """Composite keys with columns of every type: all golden values, and NULL."""
    landed.fill([[value(type_, number // 8) for type_ in TYPES] for number in range(64)])
    v, other = list(COLUMNS)[1:3]
    table, key = quote_table_name(LANDING), quote_identifier(KEY)
    landed.sql(f"DELETE FROM {table} WHERE {key} = 9")  # noqa: S608
    landed.sql(f"UPDATE {table} SET {quote_identifier(v)} = 77 WHERE {key} IN (3, 62)")  # noqa: S608
    landed.sql(f"INSERT INTO {table} SELECT * REPLACE (64 AS {key}) FROM {TRUTH} WHERE {key} = 2")  # noqa: S608
    expected = {9: "only_in_origin", 3: "different", 62: "different", 64: "only_in_destination"}
    columns = [column for column in COLUMNS if column != v]
    for start in range(0, len(columns), 6):
        among = columns[start : start + 6]
        wanted = dict.fromkeys((*among, KEY, v, other))
        parity = landed.compared(
            VerifyRequest(key=(*among, KEY), columns={name: name for name in wanted}, method="digests")
        )
        assert parity.keys is not None
        found = parity.keys.select([KEY, "_kind"]).to_pylist()  # Python has no infinite dates
        assert {row[KEY]: row["_kind"] for row in found} == expected, [COLUMNS[column] for column in among]


def test_a_server_that_goes_away_between_the_two_stages_is_a_failure(landed: Landed, database_url: str) -> None:
    landed.fill([[short(type_) for type_ in TYPES] for _ in range(20)])
    landed.sql(f"DELETE FROM {quote_table_name(LANDING)} WHERE {quote_identifier(KEY)} = 7")  # noqa: S608
    own = "datname = current_database() AND pid <> pg_backend_pid()"

    def terminate(_: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {own}".encode())  # noqa: S608

    for method in METHODS:
        with pytest.raises(BridgeError, match=r"(?i)pg|duckdb|origin"):
            landed.compared(VerifyRequest(key=(KEY,), method=method, progress=terminate))
        landed.reopen()
