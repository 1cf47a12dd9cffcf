"""What a DuckDB destination remembers of deliveries, in the schema of their tables; see `contracts.outgoing.MARKS`.

A table is known by its name: DuckDB gives it no other identity that lasts.
"""

from __future__ import annotations

from dbt_bridge.connectors.duckdb.relation import CatalogCursor, fold_case, fold_in_sql
from dbt_bridge.contracts.outgoing import MARKS, Mark, Outgoing, refuse_overtaken
from dbt_bridge.nouns.table import TableName


def ensure_marks(on: CatalogCursor, name: TableName, delivery: Outgoing | None) -> None:
    """Create the table of marks beside a table, before the transaction that writes to it."""
    if delivery is not None and (delivery.token or delivery.secret):
        on.execute(
            f"CREATE TABLE IF NOT EXISTS {_marks(on, name)} (\n"
            "  table_name VARCHAR, exposure VARCHAR, relation VARCHAR, token VARCHAR, secret BLOB, load_id VARCHAR,\n"
            "  delivered_at TIMESTAMPTZ\n"
            ")"
        )


def remember(on: CatalogCursor, name: TableName, delivery: Outgoing | None, load_id: str) -> None:
    """Keep what this delivery brought, in the transaction of its rows.

    Raises:
        DestinationError: another run came before it.
    """
    if delivery is None or not (delivery.token or delivery.secret):
        return
    if delivery.follows is not None and recall(on, name, delivery).token != delivery.follows:
        raise refuse_overtaken(name, delivery)
    written = on.find_relation(name)
    place = [name.name if written is None else written.name.name, delivery.node, delivery.relation]
    on.execute(
        f"DELETE FROM {_marks(on, name)} WHERE table_name = ? AND exposure = ? AND relation = ?",  # noqa: S608
        place,
    )
    on.execute(
        f"INSERT INTO {_marks(on, name)} VALUES (?, ?, ?, ?, ?, ?, now())",  # noqa: S608
        [*place, delivery.token, delivery.secret, load_id],
    )


def forget(on: CatalogCursor, name: TableName) -> None:
    """Nothing is known of a table that is about to be made: marks of its name are of one that is gone."""
    if on.find_relation(TableName(name.schema, MARKS)) is not None:
        is_its = f"{fold_in_sql('table_name')} = ?"
        on.execute(f"DELETE FROM {_marks(on, name)} WHERE {is_its}", [fold_case(name.name)])  # noqa: S608


def has_arrived(on: CatalogCursor, name: TableName, delivery: Outgoing) -> bool:
    """See `RemembersAppends`."""
    if not delivery.token or recall(on, name, delivery).token != delivery.token:
        return False
    return on.row(f"SELECT 1 FROM {on.sql_name(name)} LIMIT 1") is not None  # noqa: S608


def recall(on: CatalogCursor, name: TableName, delivery: Outgoing) -> Mark:
    """Of this exposure's last delivery into a table of this name, as it is spelled there; empty without the table."""
    table = on.find_relation(name)
    if table is None or on.find_relation(TableName(name.schema, MARKS)) is None:
        return Mark()
    name = table.name
    row = on.row(
        f"SELECT token, secret FROM {_marks(on, name)}\n"  # noqa: S608
        "WHERE table_name = ? AND exposure = ? AND relation = ?",
        [name.name, delivery.node, delivery.relation],
    )
    return Mark() if row is None else Mark(row[0], bytes(row[1]))


def _marks(on: CatalogCursor, name: TableName) -> str:
    return on.sql_name(TableName(name.schema, MARKS))
