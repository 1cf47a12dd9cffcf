"""Whether staged rows fit a DuckDB table that is not ours as it stands: its types, NOT NULL and checks.

Every value is cast to its column's type and back. Where it comes back as it was, it fits: 3.00 fits INTEGER, 2.5 does
not. Between types of different kinds (a number and a text) nothing fits but NULL.
"""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

from dbt_bridge.connectors.duckdb.column_types import TIMESTAMPS, kind, wider
from dbt_bridge.connectors.duckdb.relation import CatalogCursor, Relation
from dbt_bridge.contracts.outgoing import count_rows, refuse_column, refuse_nulls, refuse_values
from dbt_bridge.errors import DestinationError, TypeRefused
from dbt_bridge.nouns.table import TableName, quote_identifier


def check_fit(on: CatalogCursor, staging: TableName, incoming: Mapping[str, str], standing: Relation) -> None:
    """Refuse staged rows that the standing table cannot take as it is.

    Args:
        incoming: the staged columns with their types.

    Raises:
        TypeRefused: a column is not there, or a value does not fit; names the column and both types.
        DestinationError: a check of the table refuses a row.
    """
    rows = on.sql_name(staging)
    checks = on.list_checks(standing.name)
    required = {column for check in checks if check.kind in ("NOT NULL", "PRIMARY KEY") for column in check.columns}
    for column, new in incoming.items():
        there = standing.column(column)
        if there is None:
            raise refuse_column(standing.name, column, new, standing.columns)
        existing, name = standing.columns[there], quote_identifier(column)
        unfit = _unfit(name, existing, new)
        if unfit and (number := on.scalar(f"SELECT count(*) FROM {rows} WHERE {name} IS NOT NULL AND {unfit}")):  # noqa: S608
            raise refuse_values(standing.name, there, existing, new, count_rows(number))
        if there in required and on.scalar(f"SELECT 1 FROM {rows} WHERE {name} IS NULL LIMIT 1"):  # noqa: S608
            raise refuse_nulls(standing.name, there, existing, new)
    spelled = {standing.column(column): column for column in incoming}
    for check in checks:
        if check.kind == "CHECK" and set(check.columns) <= spelled.keys():
            values = ", ".join(
                f"CAST({quote_identifier(spelled[c] or c)} AS {standing.columns[c]}) AS {quote_identifier(c)}"
                for c in check.columns
            )
            refused = on.scalar(f"SELECT count(*) FROM (SELECT {values} FROM {rows}) WHERE NOT ({check.expression})")  # noqa: S608
            if refused:
                told = ", ".join(
                    f"{c!r} ({standing.columns[c]}, in the model {incoming[spelled[c] or c]})" for c in check.columns
                )
                raise DestinationError(
                    f"{standing.name} refuses {refused} of the rows: CHECK ({check.expression}) of {told}",
                    mend="correct the rows in the model, or filter them out",
                )


def _unfit(name: str, existing: str, incoming: str) -> str:
    """What is true for a staged value that does not fit; empty where each does."""
    if existing == incoming or (existing == wider(existing, incoming) and "DOUBLE" not in existing):
        return ""
    there, new = existing, incoming
    while there.endswith("[]") and new.endswith("[]"):
        there, new = there[:-2], new[:-2]
    if new == "VARCHAR" and (there in ("JSON", "UUID") or there.startswith("ENUM")):
        return f"TRY_CAST({name} AS {existing}) IS NULL"
    numbers = kind(there) is not None and kind(new) is not None
    moments = there in TIMESTAMPS and new in TIMESTAMPS
    texts = {there, new} <= {"VARCHAR", "JSON"} or (there == "VARCHAR" and new.startswith("ENUM"))
    if numbers or moments or texts:
        return f"TRY_CAST(TRY_CAST({name} AS {existing}) AS {incoming}) IS DISTINCT FROM {name}"
    return "true"


def tell_refusal(standing: Relation, error: duckdb.Error) -> DestinationError | TypeRefused:
    """What the table itself refused while rows were written to it: nothing of them stays."""
    told = str(error).partition("\n")[0]
    if "generated column" in told:
        return TypeRefused(
            f"a column of {standing.name} is generated, and the model brings values for it",
            mend="leave it out with `columns:`",
        )
    return DestinationError(
        f"{standing.name} refuses the rows: {told}",
        mend="correct the rows in the model, or bring what the table requires (in the model, and in `columns:`)",
    )
