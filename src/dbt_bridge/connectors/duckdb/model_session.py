"""dbt-duckdb's session in a Python model, for `transfer`.

A file that dbt has open cannot be opened again with other options, so a DuckDB destination that means one of the
databases of dbt's connection is reached through that connection.
"""

from __future__ import annotations

from contextlib import closing
from os.path import realpath
from typing import Any

import pyarrow as pa

from dbt_bridge.connectors.duckdb.read import read_relation
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.contracts.settings import DestinationSettings


class DuckDBModelSession:
    """See `ModelSession`.

    Args:
        connection: the model's own; a relation that the model returns must come from it.
        name: of the destination that is written to, for receipts.
    """

    def __init__(self, connection: Any, name: str) -> None:
        self._connection = connection
        self._name = name
        self.warehouse = DuckDBWarehouse.over(connection, name=name)

    def find_destination(self, settings: DestinationSettings) -> DuckDBWarehouse | None:
        catalog = self._find_catalog(settings) if settings.destination_type == "duckdb" else None
        if catalog is None or catalog == self.warehouse.catalog:
            return None if catalog is None else self.warehouse
        return DuckDBWarehouse.over(self._connection, name=self._name, catalog=catalog)

    def find_rows(self, data: Any) -> pa.RecordBatchReader | None:
        """A relation is known by its class's name: whatever DuckDB made it, it has these methods."""
        is_relation = any(kind.__name__ == "DuckDBPyRelation" for kind in type(data).__mro__)
        return read_relation(data) if is_relation else None

    def to_relation(self, rows: pa.Table) -> Any:
        return self._connection.from_arrow(rows)

    def _find_catalog(self, settings: DestinationSettings) -> str | None:
        """The database of this connection that a DuckDB destination means; None for another file.

        One without credentials means dbt's own.
        """
        if not settings.is_configured() and settings.dlt_destination().config_params.get("credentials") is None:
            return self.warehouse.catalog
        credentials = settings.dlt_configuration().credentials
        connection = credentials.external_conn()
        file = realpath(credentials.database) if connection is None else _find_file(connection)
        return next((name for name, path in _list_databases(self._connection) if path and path == file), None)


def _find_file(connection: Any) -> str | None:
    """The file of a connection's own database; None for one in memory."""
    with closing(connection.cursor()) as cur:
        current = str(cur.execute("SELECT current_database()").fetchone()[0])
    return dict(_list_databases(connection)).get(current)


def _list_databases(connection: Any) -> list[tuple[str, str | None]]:
    """Each catalog with the real path of its file; None for one in memory."""
    with closing(connection.cursor()) as cur:
        rows = cur.execute("SELECT database_name, path FROM duckdb_databases() WHERE NOT internal").fetchall()
    return [(name, realpath(path) if path else None) for name, path in rows]
