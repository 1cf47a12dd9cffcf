"""A connection that carries rows as Arrow: ADBC's driver for Postgres, without its DBAPI layer.

`adbc_driver_manager.dbapi` imports pandas and polars where they are installed (1.13): seconds of start and 70 MB.
"""

from __future__ import annotations

import threading
from collections.abc import Generator

import adbc_driver_manager
import adbc_driver_postgresql
import pyarrow as pa

BATCH_BYTES = 4_000_000
RAW_FORMAT = "PostgreSQL COPY, format binary"
"""What `SendsRawCopy` and `TakesRawCopy` say of this connector's origin and destination."""

Error = adbc_driver_manager.Error


class BulkConnection:
    """One connection, used by one thread; only `cancel` may come from another.

    Raises:
        Error: from every method, as the driver has it. In the middle of a stream pyarrow raises OSError or
            pa.ArrowInvalid instead.
    """

    def __init__(self, conninfo: str) -> None:
        self._database = adbc_driver_postgresql.connect(conninfo)
        try:
            self._connection = adbc_driver_manager.AdbcConnection(self._database)
        except Error:
            self._database.close()
            raise
        self._statement: adbc_driver_manager.AdbcStatement | None = None
        self._lock = threading.Lock()

    def execute(self, sql: str) -> None:
        """A statement whose answer nobody needs."""
        for _ in self.stream(sql):
            pass

    def stream(self, sql: str) -> Generator[pa.RecordBatch, None, None]:
        """The batches of a query, each about BATCH_BYTES as Postgres sends them."""
        statement = adbc_driver_manager.AdbcStatement(self._connection)
        with self._lock:
            self._statement = statement
        try:
            statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
            statement.set_sql_query(sql)
            handle, _ = statement.execute_query()
            yield from pa.RecordBatchReader.from_stream(handle)
        finally:
            with self._lock:
                self._statement = None
            statement.close()

    def cancel(self) -> None:
        """End a running query; it raises in its own thread."""
        with self._lock:
            if self._statement is not None:
                self._statement.cancel()

    def close(self) -> None:
        self._connection.close()
        self._database.close()
