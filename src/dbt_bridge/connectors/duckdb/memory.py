"""How much memory DuckDB may take: little, but for values and tables that need more, for which the bound is raised.

DuckDB works on vectors of 2048 rows, and holds all values of one at once when it commits or reads them (1.5.5: "failed
to pin block"): twenty rows of 48 MB need 1 GB, although there is a disk for what does not fit. Each column that is
written takes blocks of 256 KB, too. The bound is the database's: once raised it stays so until that is closed.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import closing, suppress
from typing import Any

import duckdb
import pyarrow as pa

_VECTOR_ROWS = 2048
_COLUMN = 512 << 10  # of each column that is written, with what its compression needs
_BASE = 150 << 20
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
# What is longer than a block's share lies in blocks of its own; of rows that are only in the log the length is known.
_LONG_VALUES = """
SELECT coalesce(max(bytes), 0)
FROM (
  SELECT sum(least(
    least(count, 2048) * coalesce(try_cast(regexp_extract(stats, 'Max String Length: ([0-9]+)', 1) AS BIGINT), 0),
    CASE WHEN persistent THEN len(additional_block_ids) * 262144 ELSE 9223372036854775807 END
  )) AS bytes
  FROM pragma_storage_info(?)
  WHERE segment_type <> 'VALIDITY'
  GROUP BY row_group_id
)
"""
_OUT_OF_MEMORY = ("out of memory", "failed to pin block", "could not allocate block")
_raising = threading.Lock()  # so that nobody lowers what another thread has just raised


def is_out_of_memory(error: BaseException) -> bool:
    """DuckDB's own bound is reached, or the machine's. A COMMIT says it in words alone."""
    return isinstance(error, duckdb.Error) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


class Memory:
    """The bound of one database.

    Args:
        connection: to it; every use is on a cursor of its own, so that several threads may have one.
        most: bytes beyond which it is never raised; None for DuckDB's own default, four fifths of the machine.
    """

    def __init__(self, connection: Any, most: int | None = None) -> None:
        self._connection = connection
        self._most = most
        self._limit: int | None = None
        self._told: list[str] = []

    def take_told(self) -> list[str]:
        """What a person should know, once."""
        told, self._told = self._told, []
        return told

    def make_room(self, window: int, columns: int, where: object) -> None:
        """Raise the bound where so many bytes in rows that DuckDB handles at once need it.

        Args:
            window: see `Window`.
            columns: of the table that is written.
        """
        needed = _BASE + 2 * window + columns * _COLUMN
        if needed > (now := self.limit):
            self._raise(now, max(needed, now * 3 // 2), where)

    def make_more(self, where: object) -> bool:
        """After an operation was out of memory: twice as much; False where the machine has no more."""
        now = self.limit
        return self._raise(now, 2 * now, where)

    def make_room_to_read(self, table: str, where: object) -> None:
        """Raise the bound for a table whose long values DuckDB holds at once when they are read.

        Args:
            table: its quoted name; a view tells nothing of itself.
        """
        with closing(self._connection.cursor()) as cur, suppress(duckdb.CatalogException):
            self.make_room(int(cur.execute(_LONG_VALUES, [table]).fetchone()[0]), 0, where)

    @property
    def limit(self) -> int:
        """Bytes that DuckDB may take now."""
        if self._limit is None:
            with closing(self._connection.cursor()) as cur:
                self._limit = _read_limit(cur)
        return self._limit

    def _raise(self, now: int, wanted: int, where: object) -> bool:
        if self._most is None:
            with closing(duckdb.connect()) as other:
                self._most = _read_limit(other)
        bound = min(wanted, self._most)
        if bound <= now:
            return False
        with _raising, closing(self._connection.cursor()) as cur:
            there = _read_limit(cur)
            if there >= bound:  # raised meanwhile: by another thread, or for another database of this connection
                self._limit = there
                return True
            cur.execute(f"SET GLOBAL memory_limit = '{bound // 1000}KB'")
            self._limit = bound
        self._told.append(
            f"{where}: DuckDB may take {bound / 1e6:,.0f} MB of memory from here on instead of {now / 1e6:,.0f} MB, for"
            " values or columns that need it (memory_limit in the profile's settings is where it begins)"
        )
        return True


class Window:
    """Bytes of the rows that DuckDB handles at once, of rows that come one batch after the other."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, int]] = deque()
        self._rows = self._bytes = 0

    def add(self, rows: pa.Table | pa.RecordBatch) -> int:
        """Take up a batch; answers the bytes of the last batches that may lie in one vector."""
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


def _read_limit(cur: Any) -> int:
    """Bytes, from DuckDB's `286.1 MiB`."""
    number, _, unit = str(cur.execute("SELECT current_setting('memory_limit')").fetchone()[0]).partition(" ")
    return int(float(number) * _UNITS.get(unit, 1))
