"""A database that nobody here wrote comes out of MariaDB as it went in."""
# ruff: noqa: S608

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg

from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin

if TYPE_CHECKING:
    from tests.connectors.conftest import MariaDatabase

_TYPES = {"timestamp without time zone": "DATETIME(6)", "integer": "INT"}


def test_chinook_comes_out_of_mariadb_value_by_value(
    mariadb: MariaDatabase, real_database: Callable[[str], dict[str, int]], origin: psycopg.Connection
) -> None:
    expected = real_database("chinook")
    rows: dict[str, Counter[tuple[object, ...]]] = {}
    for table in expected:
        columns = origin.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
            [f"public.{table}"],
        ).fetchall()
        types = [_TYPES.get(kind, kind.replace("character varying", "VARCHAR")) for _, kind in columns]
        declared = ", ".join(f"`{name}` {kind}" for (name, _), kind in zip(columns, types, strict=True))
        mariadb.execute(f"CREATE TABLE `{table}` ({declared})")
        fetched = origin.execute(f"SELECT * FROM public.{table}").fetchall()
        rows[table] = Counter(fetched)
        with mariadb.connection.cursor() as cur:
            cur.executemany(f"INSERT INTO `{table}` VALUES ({', '.join(['%s'] * len(columns))})", fetched)

    with SqlOrigin("real_my", mariadb.url) as sql:
        names = sql.tables(None)
        found = {}
        for name in names:
            batches = sql.rows(name, sql.describe(name).table.columns).read_all()
            found[name.name] = Counter(zip(*batches.to_pydict().values(), strict=True))

    assert {table: sum(counter.values()) for table, counter in found.items()} == expected
    for table, counter in rows.items():
        assert found[table] == counter, table
