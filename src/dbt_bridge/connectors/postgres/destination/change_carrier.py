"""Changes travel into Postgres: from Arrow into unlogged tables, which any transaction can then read.

psycopg has no fast way from Arrow into COPY, and ADBC's driver has none into a transaction of somebody else.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from psycopg import sql

from dbt_bridge.connectors.postgres.destination import stage as staging_area
from dbt_bridge.connectors.postgres.destination.column_types import wire
from dbt_bridge.connectors.postgres.destination.relation import identifier
from dbt_bridge.contracts.destination import Load
from dbt_bridge.nouns.table import Column, Table, TableName


class Carrier:
    """One connection of ADBC's, kept: to open one takes 0.1 s, in which it reads the server's types (version 1.12).

    Several threads may use it, one after the other.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: Any = None
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def carry(self, staging: TableName, of: TableName, columns: Sequence[Column], rows: pa.Table) -> None:
        """Put rows into a new unlogged table, committed at once.

        Args:
            of: the landing table, for messages.

        Raises:
            TypeRefused: a value that Postgres cannot keep.
            DestinationError: Postgres broke off.
        """
        import adbc_driver_postgresql.dbapi as adbc

        load = Load(Table(of, tuple(columns)), "append", "")
        encoded = staging_area.Encoded(load, rows.select([c.name for c in columns]).to_reader())
        definitions = sql.SQL(", ").join(
            [sql.SQL("{} {}").format(sql.Identifier(c.name), sql.SQL(wire(c).sql_type)) for c in columns]
        )
        create = sql.SQL("CREATE UNLOGGED TABLE {} ({})").format(identifier(staging), definitions)
        try:
            with self._lock, self._open().cursor() as cur:
                cur.execute(create.as_string())
                cur.adbc_ingest(staging.name, encoded.reader(), mode="append", db_schema_name=staging.schema)
        except adbc.Error as error:
            self.close()  # it may be broken; the next rows open another one
            if encoded.failure is not None:
                raise encoded.failure from None
            raise staging_area.told(str(error), getattr(error, "sqlstate", None), staging, encoded) from error

    def _open(self) -> Any:
        import adbc_driver_postgresql.dbapi as adbc

        if self._connection is None:
            self._connection = adbc.connect(self._conninfo, autocommit=True)
            with self._connection.cursor() as cur:
                cur.execute("SET synchronous_commit = off")  # what is staged need not survive anything
        return self._connection
