"""How much memory DuckDB may take: little, but for values and tables that need more, for which the bound is raised.

DuckDB works on vectors of 2048 rows, and holds all values of one at once when it commits or reads them (1.5.5: "failed
to pin block"): twenty rows of 48 MB need 1 GB, although there is a disk for what does not fit. Each column that is
written takes blocks of 256 KB, too. The bound is the database's: once raised it stays so until that is closed.

It is raised as far as the machine, its control group and this process's own limits leave room, and never beyond a
`memory_limit` of the profile. Where there is no more of it DuckDB goes on with one thread, each of which has blocks of
its own for every column. Only what does not fit then is refused.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from dbt_bridge.contracts.destination import BeginAgain
from dbt_bridge.errors import DestinationError, TypeRefused
from dbt_bridge.system.memory_room import find_limit, measure_room
from dbt_bridge.system.owned_reader import make_reader

_T = TypeVar("_T")
_VECTOR_ROWS = 2048
_COLUMN = 512 << 10  # of each column that is written, with what its compression needs
_BASE = 150 << 20
_SMALL = 16 << 20  # of a batch that need not be cut
# The process, with Arrow batches in flight and what DuckDB does not count, stays under 600 MB at any number of rows.
_FIRST, _LEAST = 300_000_000, 64_000_000
# What DuckDB does not count comes on top: Python, Arrow's batches, vectors of long values. Of the rest it may have a
# part at first, as other tables are copied at the same time, and all that is usual where nothing else helps.
_UNCOUNTED = 256 << 20
_PART, _ALL = 0.6, 0.8
_STEP = 20  # a raise by less than this part is none: work that it does not help would be done for ever
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
# What is longer than a block's share lies in blocks of its own. Of rows that are only in the log it is known how long
# the longest is, and that all of them are no more than what is held in memory, or beside it on disk.
_LONG_VALUES = """
SELECT coalesce(max(bytes), 0)
FROM (
  SELECT sum(least(stored, 2048 * longest)) AS bytes
  FROM (
    SELECT
      row_group_id,
      max(longest) AS longest,
      sum(least(count * longest, CASE WHEN persistent THEN len(blocks) * 262144 ELSE held END)) AS stored
    FROM (
      SELECT
        row_group_id, column_path, count, persistent, additional_block_ids AS blocks,
        (SELECT coalesce(sum(memory_usage_bytes + temporary_storage_bytes), 0) FROM duckdb_memory()) AS held,
        coalesce(try_cast(regexp_extract(stats, 'Max String Length: ([0-9]+)', 1) AS BIGINT), 0) AS longest
      FROM pragma_storage_info(?)
      WHERE segment_type <> 'VALIDITY'
    )
    GROUP BY row_group_id, column_path
  )
  GROUP BY row_group_id
)
"""
_OUT_OF_MEMORY = ("out of memory", "failed to pin block", "could not allocate block")
_raising = threading.Lock()  # so that nobody lowers what another thread has just raised


def is_out_of_memory(error: BaseException) -> bool:
    """DuckDB's own bound is reached, or the machine's. A COMMIT says it in words alone."""
    raised = (duckdb.Error, pa.ArrowException, OSError)  # the last two, by a stream
    return isinstance(error, raised) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


class Memory:
    """The bound of one database.

    Args:
        connection: to it; every use is on a cursor of its own, so that several threads may have one.
        is_fixed: somebody chose the bound, which is never raised.
    """

    def __init__(self, connection: Any, *, is_fixed: bool = False) -> None:
        self._connection = connection
        self._is_fixed = is_fixed
        self._limit: int | None = None
        self._told: list[str] = []

    def take_told(self) -> list[str]:
        """What a person should know, once."""
        told, self._told = self._told, []
        return told

    def make_room(self, window: int, columns: int, where: object) -> int:
        """Raise the bound where so many bytes in rows that DuckDB handles at once need it.

        Args:
            window: see `Window`.
            columns: of the table that is written.

        Returns:
            Bytes that it needs at least.

        Raises:
            TypeRefused: they fit into no bound that there may be.
        """
        needed = _BASE + 2 * window + columns * _COLUMN
        if needed > (now := self.limit):
            self._raise(now, max(needed, now * 3 // 2), where, _PART)
            if window > self.limit:
                raise self.refuse(window, where)
        return window + columns * _COLUMN

    def make_more(self, where: object) -> bool:
        """After an operation was out of memory: twice as much, then fewer threads; False where neither is left."""
        now = self.limit
        return self._raise(now, 2 * now, where, _PART) or self._work_alone(where)

    def make_all(self, where: object) -> bool:
        """After nothing else has helped: all that there is; False where it has that."""
        now = self.limit
        return self._raise(now, 2 * now, where, _ALL)

    def with_more(self, work: Callable[[], _T], where: object) -> _T:
        """Do work that leaves nothing behind when it fails, again as long as there is more memory for it."""
        while True:
            try:
                return work()
            except duckdb.Error as error:
                if not (is_out_of_memory(error) and (self.make_more(where) or self.make_all(where))):
                    raise

    def watch(self, rows: pa.RecordBatchReader, where: object) -> pa.RecordBatchReader:
        """The same rows; raises BeginAgain where they were out of memory, and there is more now."""

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                yield from rows
            except DestinationError as error:
                cause = error.__cause__
                if cause is not None and is_out_of_memory(cause) and (self.make_more(where) or self.make_all(where)):
                    raise BeginAgain(f"DuckDB was out of memory while {where} was read") from error
                raise

        return make_reader(rows.schema, batches(), rows)

    def make_room_to_read(self, table: str, where: object) -> int:
        """Raise the bound for a table whose long values DuckDB holds at once when they are read.

        Args:
            table: its quoted name; a view tells nothing of itself.

        Returns:
            Bytes of the long values that it may hold at once.

        Raises:
            TypeRefused: they fit into no bound that there may be.
        """
        with closing(self._connection.cursor()) as cur, suppress(duckdb.CatalogException):
            window = int(cur.execute(_LONG_VALUES, [table]).fetchone()[0])
            self.make_room(window, 0, where)
            return window
        return 0

    def refuse(self, needed: int, where: object) -> TypeRefused:
        """The error where rows and columns for which so many bytes are needed at once do not fit."""
        if self._is_fixed:
            bound, mend = "the profile's memory_limit allows", "raise memory_limit in the profile; or "
        else:
            bound, mend = f"{find_limit().name} leaves to it", "run where there is more memory; or "
        return TypeRefused(
            f"{where}: DuckDB holds 2048 rows of every column at once, {needed / 1e6:,.0f} MB here, and has the"
            f" {self.limit / 1e6:,.0f} MB that {bound}",
            mend=f"{mend}leave large columns out with `columns: {{exclude: [...]}}`",
        )

    @property
    def limit(self) -> int:
        """Bytes that DuckDB may take now."""
        if self._limit is None:
            with closing(self._connection.cursor()) as cur:
                self._limit = _read_limit(cur)
        return self._limit

    def _raise(self, now: int, wanted: int, where: object, share: float) -> bool:
        if self._is_fixed:
            return False
        with _raising, closing(self._connection.cursor()) as cur:
            there = _read_limit(cur)
            bound = min(wanted, largest_limit(share), _read_used(cur) + measure_room())
            least = now + now // _STEP
            if there > least or bound < least:  # raised meanwhile: by another thread, or for another database
                self._limit = there
                return there > least
            cur.execute(f"SET GLOBAL memory_limit = '{bound // 1000}KB'")
            self._limit = bound
        self._told.append(
            f"{where}: DuckDB may take {bound / 1e6:,.0f} MB of memory from here on instead of {now / 1e6:,.0f} MB, for"
            " values or columns that need it (a memory_limit in the profile's settings is kept)"
        )
        return True

    def _work_alone(self, where: object) -> bool:
        with _raising, closing(self._connection.cursor()) as cur:
            threads = int(cur.execute("SELECT current_setting('threads')").fetchone()[0])
            if threads == 1:
                return False
            cur.execute("SET GLOBAL threads = 1")
        self._told.append(
            f"{where}: DuckDB works with one thread from here on instead of {threads}, for its"
            f" {self.limit / 1e6:,.0f} MB of memory were too little"
        )
        return True


class Window:
    """Bytes of the rows that DuckDB handles at once, of rows that come one batch after the other."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, int]] = deque()
        self._rows = self._bytes = 0

    def add(self, rows: pa.Table | pa.RecordBatch) -> int:
        """Take up a batch; answers the bytes of the last batches that may lie in one vector."""
        if rows.num_rows <= _VECTOR_ROWS or rows.nbytes < _SMALL:
            return self._add(rows)
        parts = (rows.slice(start, _VECTOR_ROWS) for start in range(0, rows.num_rows, _VECTOR_ROWS))
        return max(self._add(part) for part in parts)

    def _add(self, rows: pa.Table | pa.RecordBatch) -> int:
        if not rows.num_rows:
            return self._bytes
        size = int(rows.nbytes)
        self._batches.append((rows.num_rows, size))
        self._rows += rows.num_rows
        self._bytes += size
        while self._rows - self._batches[0][0] >= _VECTOR_ROWS:
            gone, size = self._batches.popleft()
            self._rows -= gone
            self._bytes -= size
        return self._bytes


def largest_limit(share: float = _ALL) -> int:
    """Bytes that DuckDB may take at most, whatever is left now."""
    return int((find_limit().bytes - _UNCOUNTED) * share)


def connect_with_memory(path: str, config: Mapping[str, Any], *, is_fixed: bool) -> Any:
    """A connection that begins with more than usual tables need, and with less where the machine is small.

    The log that a run with a raised bound has left is replayed when the file is opened, and needs as much again.

    Args:
        is_fixed: the configuration has a bound of its own.
    """
    if is_fixed:
        return duckdb.connect(path, config=dict(config))
    first = min(_FIRST, max(_LEAST, measure_room() // 2))
    try:
        return duckdb.connect(path, config={**config, "memory_limit": f"{first // 1000}KB"})
    except duckdb.Error as error:
        if not is_out_of_memory(error):
            raise
        return duckdb.connect(path, config={**config, "memory_limit": f"{largest_limit() // 1000}KB"})


def _read_used(cur: Any) -> int:
    return int(cur.execute("SELECT coalesce(sum(memory_usage_bytes), 0) FROM duckdb_memory()").fetchone()[0])


def _read_limit(cur: Any) -> int:
    """Bytes, from DuckDB's `286.1 MiB`."""
    number, _, unit = str(cur.execute("SELECT current_setting('memory_limit')").fetchone()[0]).partition(" ")
    return int(float(number) * _UNITS.get(unit, 1))
