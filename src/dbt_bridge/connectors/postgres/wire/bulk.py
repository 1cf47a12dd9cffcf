"""Rows in bulk: a connection that carries them as Arrow, and what its driver makes of infinity and far moments.

The connection is ADBC's driver for Postgres without its DBAPI layer: `adbc_driver_manager.dbapi` imports pandas and
polars where they are installed (1.13), which takes seconds of start and 70 MB.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import adbc_driver_manager
import adbc_driver_postgresql
import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.connectors.postgres.wire.session import prepare_session
from dbt_bridge.connectors.postgres.wire.watch import Watch
from dbt_bridge.nouns.table import quote_literal
from dbt_bridge.system.owned_reader import make_reader

BATCH_BYTES = 4_000_000
RAW_FORMAT = "PostgreSQL COPY, format binary"
"""What `SendsRawCopy` and `TakesRawCopy` say of this connector's origin and destination."""

Error = adbc_driver_manager.Error

_CANCEL = 5.0  # seconds

# adbc_driver_postgresql 1.13 adds the 30 years from 2000 to 1970 to Postgres's own numbers and lets them wrap around.
_EPOCH_US = 946_684_800_000_000
_EPOCH_DAYS = 10_957
_WRAP64, _WRAP32 = 2**64, 2**32
_MAX64, _MAX32 = 2**63 - 1, 2**31 - 1
_FIRST_US = -210_866_803_200_000_000  # 4714-11-24 BC, the first moment that Postgres has
_FIRST_DAY = -2_440_588


class BulkConnection:
    """One connection, used by one thread; only `cancel` may come from another.

    Raises:
        Error: from every method, as the driver has it. In the middle of a stream pyarrow raises OSError or
            pa.ArrowInvalid instead.
    """

    def __init__(self, conninfo: str, watch: Watch | None = None) -> None:
        self.watch = watch or Watch(conninfo)
        self._statement: adbc_driver_manager.AdbcStatement | None = None
        self._lock = threading.Lock()
        with self.watch.waiting():
            self._database = adbc_driver_postgresql.connect(conninfo)
            try:
                self._connection = adbc_driver_manager.AdbcConnection(self._database)
            except Error:
                self._database.close()
                raise

    def execute(self, sql: str) -> pa.RecordBatch | None:
        """Run a statement; answers its first rows."""
        batches = [batch for batch in self.stream(sql) if batch.num_rows]
        return batches[0] if batches else None

    def prepare(self, settings: str) -> None:
        """Run SQL of `build_settings_sql`."""
        self.watch.pid = self._first_row(settings)[-1]

    def prepare_session(self, path: str) -> None:
        """Set what a session of a destination relies on.

        Args:
            path: its `search_path`; the driver may have begun with another one.
        """
        self.watch.pid = prepare_session(self._first_row)
        self.execute(f"SELECT pg_catalog.set_config('search_path', {quote_literal(path)}, false)")

    def _first_row(self, sql: str) -> Sequence[Any]:
        answer = self.execute(sql)
        assert answer is not None, "it has rows"
        return [column[0].as_py() for column in answer.columns]

    def stream(self, sql: str) -> Generator[pa.RecordBatch, None, None]:
        """The batches of a query, each about BATCH_BYTES as Postgres sends them."""
        statement = adbc_driver_manager.AdbcStatement(self._connection)
        with self._lock:
            self._statement = statement
        try:
            statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
            statement.set_sql_query(sql)
            with self.watch.waiting():
                handle, _ = statement.execute_query()
                reader = pa.RecordBatchReader.from_stream(handle)
            while (batch := self._read(reader)) is not None:
                yield batch
        finally:
            with self._lock:
                self._statement = None
            statement.close()

    def _read(self, reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
        with self.watch.waiting():
            try:
                return reader.read_next_batch()
            except StopIteration:
                return None

    def ingest(self, schema: str, table: str, rows: pa.RecordBatchReader) -> None:
        """Append rows to a table, committed at once. What reading them raises, the driver tells as its own error."""
        with contextlib.closing(adbc_driver_manager.AdbcStatement(self._connection)) as statement:
            statement.set_options(
                **{
                    adbc_driver_manager.INGEST_OPTION_TARGET_TABLE: table,
                    adbc_driver_manager.INGEST_OPTION_MODE: adbc_driver_manager.INGEST_OPTION_MODE_APPEND,
                    adbc_driver_manager.StatementOptions.INGEST_TARGET_DB_SCHEMA.value: schema,
                }
            )
            statement.bind_stream(make_reader(rows.schema, self._pull(rows), rows))
            with self.watch.waiting():
                statement.execute_update()

    def _pull(self, rows: pa.RecordBatchReader) -> Generator[pa.RecordBatch, None, None]:
        while True:
            with self.watch.resting():
                batch = next(rows, None)
            if batch is None:
                return
            yield batch

    def cancel(self) -> None:
        """End a running query; it raises in its own thread. Waits a few seconds at most."""
        if not self.watch.is_over:
            asking = threading.Thread(target=self._cancel, name="dbt-bridge-cancel", daemon=True)
            asking.start()
            asking.join(_CANCEL)

    def _cancel(self) -> None:
        with self._lock, contextlib.suppress(Error):  # the query may have ended just now
            if self._statement is not None:
                self._statement.cancel()

    def close(self) -> None:
        """One that another thread still waits for is left to the end of the process."""
        if not self.watch.is_waiting:
            self._connection.close()
            self._database.close()


@dataclass(frozen=True, slots=True)
class _Limits:
    """The numbers of a type of moments.

    Attributes:
        first: the least one that Postgres has.
        infinity: infinity as it travels; -infinity is its negative.
        wrapped: what the driver makes of infinity; of -infinity it makes one more.
    """

    integer: pa.DataType
    first: int
    infinity: int
    wrapped: int


_TIMESTAMPS = _Limits(pa.int64(), _FIRST_US, _MAX64, _MAX64 + _EPOCH_US - _WRAP64)
_DATES = _Limits(pa.int32(), _FIRST_DAY, _MAX32, _MAX32 + _EPOCH_DAYS - _WRAP32)


def repair_moments(own: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    """A decoder of the driver's arrays of this type: infinities as DuckDB has them, values that it wrapped refused."""
    if pa.types.is_timestamp(own):
        return lambda array: _unwrap(array, _TIMESTAMPS)
    if pa.types.is_date(own):
        return lambda array: _unwrap(array, _DATES)
    return lambda array: array


def _unwrap(array: pa.Array, limits: _Limits) -> pa.Array:
    integer, first, most = limits.integer, limits.first, limits.infinity
    numbers = array.view(integer)
    bounds = pc.min_max(numbers)
    least, greatest = bounds["min"].as_py(), bounds["max"].as_py()
    if least is None or (least >= first and greatest < most):
        return array
    plus = pc.equal(numbers, pa.scalar(limits.wrapped, integer))
    minus = pc.equal(numbers, pa.scalar(limits.wrapped + 1, integer))
    finite = pc.filter(numbers, pc.invert(pc.or_(plus, minus)))
    left = pc.min_max(finite)
    if left["min"].as_py() is not None and (left["min"].as_py() < first or left["max"].as_py() >= most):
        raise ValueError("a moment after the year 294246, which Arrow cannot hold")
    numbers = pc.if_else(plus, pa.scalar(most, integer), pc.if_else(minus, pa.scalar(-most, integer), numbers))
    return numbers.view(array.type)
