"""Names at a warehouse that stores the unquoted ones in upper case, as Snowflake does: dbt must find what landed."""

from __future__ import annotations

from typing import Any

import dlt
import pyarrow as pa
import pytest

from dbt_bridge.connectors.dlt.destination import DltDestination
from dbt_bridge.connectors.dlt.naming import folding_of, name_columns, naming_of, sameness_of
from dbt_bridge.contracts.destination import Load
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.table import Table, TableName

ORDERS = TableName("landing", "orders")


def upper() -> Any:
    """DuckDB with the capabilities that dlt gives to Snowflake."""
    made = dlt.destinations.duckdb(":memory:", naming_convention=None)
    able = made.capabilities()
    able.casefold_identifier = str.upper
    made.capabilities = lambda *_, **__: able  # type: ignore[method-assign]
    return made


def test_only_where_the_warehouse_raises_names_they_are_raised() -> None:
    postgres = dlt.destinations.postgres("postgresql://u:p@h/d")
    assert (naming_of(postgres), folding_of(postgres)("Orders")) == ("direct", "Orders")
    assert naming_of(upper()) == "dbt_bridge.connectors.dlt.naming"
    assert folding_of(upper())("Orders") == "ORDERS"


def test_stored_names_are_told_as_they_are_known() -> None:
    stored = ["ID", "ORDERID", "NOTE", "Exact", "exact too"]
    told = name_columns(stored, ["id", "OrderId"], str.upper, ORDERS)
    assert list(told.values()) == ["id", "OrderId", "note", "Exact", "exact too"]
    assert list(name_columns(["Orders", "orders"], [], str, ORDERS).values()) == ["Orders", "orders"]


def test_two_columns_that_are_one_to_the_warehouse_are_refused_before_anything_is_written() -> None:
    rows = pa.table({"note": ["a"], "Note": ["b"]})
    load = Load(Table.of_schema(ORDERS, rows.schema), "replace", "load-1")
    with pytest.raises(TypeRefused, match=r"'note' and 'Note', which are one name"):
        DltDestination("snow", upper()).load(load, rows.to_reader())
    with pytest.raises(TypeRefused, match="one name to the warehouse"):
        name_columns(["NOTE", "Note"], [], str.upper, ORDERS)


@pytest.mark.parametrize(
    ("destination", "are_one"),
    [
        (dlt.destinations.bigquery, True),  # its columns are, whatever its tables are
        (dlt.destinations.mssql, True),
        (dlt.destinations.snowflake, True),  # as the bridge writes them: in upper case
        (dlt.destinations.clickhouse, False),
        (dlt.destinations.postgres, False),
    ],
)
def test_columns_that_differ_in_case_are_one_where_the_engine_says_so(destination: Any, are_one: bool) -> None:
    same = sameness_of(destination())
    assert (same("id") == same("ID")) is are_one
