"""docs/types.md says what the code does: its table is read, and each row is tried."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import psycopg
import pyarrow as pa

from dbt_bridge.arrow import file_types
from dbt_bridge.connectors.duckdb import column_types as duckdb_types
from dbt_bridge.connectors.postgres.destination import column_types as postgres_types
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.nouns.table import Column, TableName

PAGE = Path(__file__).parents[4] / "docs" / "types.md"


def test_the_table_of_types_is_what_the_code_does(origin: psycopg.Connection, database: str) -> None:
    documented = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if re.match(r"\| `[^|]+\|[^|]+\|[^|]+\|[^|]+\|[^|]+\|$", line)
    ]
    assert len(documented) > 50
    names = [row[0].strip("`") for row in documented]
    origin.execute(
        "CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION hstore; CREATE TYPE an_enum AS ENUM ('a');"
        "CREATE TYPE a_composite AS (i int); CREATE DOMAIN a_domain_over_numeric_10_2 AS numeric(10,2)"
    )
    columns = ", ".join(f"c{i} {name}" for i, name in enumerate(names))
    origin.execute(f"CREATE TABLE t ({columns})".encode())
    with PostgresOrigin("pg", database) as reading:
        described = reading.describe(TableName("public", "t")).table
    tried = [[f"`{name}`", *landings(column)] for name, column in zip(names, described.columns, strict=True)]
    assert tried == documented


def landings(column: Column) -> list[str]:
    return [
        spelled(column.type),
        in_duckdb(duckdb_types.map_column(column).type),
        spelled(file_types.map_column(column).type),
        postgres_types.landing_type(postgres_types.map_column(column)),
    ]


def spelled(type_: pa.DataType) -> str:
    text = re.sub(r"extension<arrow\.(\w+)>", r"\1", str(type_))
    return text.replace("item: ", "").replace("month_day_nano_", "")


def in_duckdb(type_: pa.DataType) -> str:
    with duckdb.connect() as connection:
        connection.register("t", pa.Table.from_batches([], schema=pa.schema([("v", type_)])))
        return str(connection.table("t").types[0])
