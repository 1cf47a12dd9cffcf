"""The statements that write a net effect through dlt, per warehouse, as they were read and agreed to.

After a change that is meant: `REWRITE_GOLDEN=1 pytest tests/connectors/dlt/test_merge_sql.py`, and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlglot

from dbt_bridge.connectors.dlt.merge_sql import MergeSql

GOLDEN = Path(__file__).parent / "golden"
DIALECTS = ("snowflake", "bigquery", "databricks", "redshift", "postgres", "duckdb")


def statements(dialect: str) -> list[str]:
    """A table with a key of two columns, a name that needs its quotes, a kept value, moved rows, a column by hand."""
    merge = MergeSql(
        dialect,
        ("landing", "orders"),
        ("landing", "_dbt_bridge_stage_1"),
        ("id", "part"),
        ("id", "part", 'odd "name"', "big", "_deleted_at"),
        {"big": "_dbt_bridge_kept_0"},
        {"id": "_dbt_bridge_found_0", "part": "_dbt_bridge_found_1"},
        ("mine",),
        str.upper if dialect == "snowflake" else str,
    )
    settled = merge.settle()
    assert settled is not None
    return [*merge.missing(), merge.take_along(), settled, *merge.write()]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_statements_are_those_that_were_agreed_to(dialect: str) -> None:
    file = GOLDEN / f"merge_{dialect}.sql"
    text = "".join(f"{statement};\n\n" for statement in statements(dialect)).rstrip("\n") + "\n"
    if os.environ.get("REWRITE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_warehouse_reads_its_own(dialect: str) -> None:
    for statement in statements(dialect):
        sqlglot.parse_one(statement, read=dialect, error_level=sqlglot.ErrorLevel.RAISE)


def test_a_table_of_keys_alone_is_merged_too() -> None:
    merge = MergeSql("snowflake", ("landing", "tags"), ("landing", "_stage"), ("id",), ("id",))
    (statement,) = merge.write()
    assert "UPDATE" not in statement
    assert "DELETE" in statement
    assert "INSERT" in statement
