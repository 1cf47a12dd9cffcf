"""Rows of SQLite and MariaDB by their keys: exactly those, whatever the database takes for equal."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from tests.connectors.sqlalchemy.conftest import MakeSqlite

from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.table import Table, TableName


def assert_each_row_is_found(origin: SqlOrigin, table: Table) -> None:
    """By every single column, by all of them, and by all rows' values at once; rows are told by a column `id`."""
    rows = origin.rows(table.name, table.columns).read_all()
    for column in table.columns:
        distinct = len(set(map(str, rows[column.name].to_pylist()))) == len(rows)
        assert distinct, f"every row has its own value of {column.name}"
        for row in range(len(rows)):
            found = origin.rows_of(table.name, table.columns, rows.slice(row, 1).select([column.name])).read_all()
            assert found == rows.slice(row, 1), column.name
        found = origin.rows_of(table.name, table.columns, rows.select([column.name])).read_all()
        assert sorted(found["id"].to_pylist()) == sorted(rows["id"].to_pylist())
    found = origin.rows_of(table.name, table.columns, rows).read_all()
    assert sorted(found["id"].to_pylist()) == sorted(rows["id"].to_pylist())


SQLITE = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, b BOOLEAN, r REAL, n NUMERIC, d DECIMAL(10,2), dt DATE, ts DATETIME,"
    " x BLOB, s TEXT COLLATE NOCASE, j JSON, tm TIME, u)",
    "INSERT INTO t VALUES (1, 1, 0.1, 2.5, 0.99, '2024-02-29', '2024-02-29T12:00:00.123456', x'00ff',"
    " 'it''s', '1.50', '23:59:59.5', 5)",
    "INSERT INTO t VALUES (2, 0, -1e308, 7, 12345678, '0001-01-01', '2024-02-29 12:00:00', x'', 'IT''S', 5, '23:59',"
    " 0.1)",
    "INSERT INTO t VALUES (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
)


def test_every_sqlite_value_finds_its_row(make: MakeSqlite) -> None:
    with make(*SQLITE) as origin:
        assert_each_row_is_found(origin, origin.describe(TableName("", "t")).table)
        assert origin.count(TableName("", "t")) == 3


def test_sqlite_columns_that_travel_as_text_find_their_rows(make: MakeSqlite) -> None:
    with make(*SQLITE) as origin:
        table = origin.describe(TableName("", "t")).table
        assert_each_row_is_found(
            origin, table.with_types({c.name: pa.string() for c in table.columns if c.name != "x"})
        )


def test_many_composite_keys_with_null_and_hostile_names(make: MakeSqlite) -> None:
    origin = make(
        'CREATE TABLE "t""x" ("a b" INTEGER, "c\'%" TEXT, n INTEGER)',
        "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3000)"
        ' INSERT INTO "t""x" SELECT n % 50, n / 50, n FROM r',
        'INSERT INTO "t""x" VALUES (NULL, \'x\', -1), (NULL, NULL, -2), (1, NULL, -3)',
    )
    with origin:
        table = origin.describe(TableName("", 't"x')).table
        rows = origin.rows(table.name, table.columns).read_all()
        wanted = rows.filter(pa.array([n % 3 != 1 for n in rows["n"].to_pylist()]))
        keys = pa.concat_tables([wanted, wanted.slice(0, 10)]).select(["c'%", "a b"])
        found = origin.rows_of(table.name, table.columns[2:], keys).read_all()
        assert sorted(found["n"].to_pylist()) == sorted(wanted["n"].to_pylist())
        assert len(origin.rows_of(table.name, table.columns, keys.slice(0, 0)).read_all()) == 0
        with pytest.raises(OriginError, match="no column 'z'"):
            origin.rows_of(table.name, table.columns, pa.table({"z": [1]})).read_all()


def test_every_mariadb_value_finds_its_row(mariadb: Any) -> None:
    for statement in (
        "CREATE TABLE t (id INT PRIMARY KEY, u BIGINT UNSIGNED, f FLOAT, g DOUBLE, d DECIMAL(40,10), b BIT(1),"
        " bb BIT(9), s VARCHAR(20), c CHAR(5), e ENUM('x','Y'), bin VARBINARY(9), dt DATE, ts DATETIME(6),"
        " z TIMESTAMP(6) NULL, tm TIME(6), y YEAR, j JSON, uu UUID) CHARACTER SET utf8mb4",
        "INSERT INTO t VALUES (1, 18446744073709551615, 0.1, 0.1, 123456789012345678901234567890.0123456789, 1, 300,"
        " 'a''\\\\%', 'a', 'x', x'00ff', '2024-02-29', '2024-02-29 12:00:00.000001', '2024-02-29 12:00:00.000001',"
        " '12:00:00.5', 2024, '{\"a\": 1}', 'ffffffff-1234-5678-9abc-def012345678')",
        "INSERT INTO t VALUES (2, 0, 1e-30, 5e-324, 0, 0, 0, 'A''\\\\%', 'é', 'Y', x'', '1000-01-01',"
        " '1000-01-01', '1980-01-01', '00:00:00', 1999, '[]', '00000000-0000-0000-0000-000000000000')",
        "INSERT INTO t (id) VALUES (3)",
    ):
        mariadb.execute(statement)
    with SqlOrigin("legacy", mariadb.url) as origin:
        table = origin.describe(TableName("", "t")).table
        assert_each_row_is_found(origin, table)
        assert_each_row_is_found(
            origin, table.with_types({c.name: pa.string() for c in table.columns if c.name != "bin"})
        )
        assert origin.count(table.name) == 3


def test_mariadb_finds_text_keys_whatever_its_collation_takes_for_equal(mariadb: Any) -> None:
    for statement in (
        "CREATE TABLE t (id INT PRIMARY KEY, s VARCHAR(9)) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        "INSERT INTO t VALUES (1, 'a'), (2, 'A'), (3, 'á'), (4, 'a '), (5, NULL)",
    ):
        mariadb.execute(statement)
    with SqlOrigin("legacy", mariadb.url) as origin:
        assert_each_row_is_found(origin, origin.describe(TableName("", "t")).table)
