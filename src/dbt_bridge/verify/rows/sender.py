"""What a side sends of each row to be matched: its key, two digests, and the few values that matching needs.

A batch on its way to be matched has these columns:

    _key          int64: the digest of the key, by which rows of both sides meet; of the whole row without a key
    _row          int64: the digest of the values beside the key
    _late         int8: whether the row's cursor is above the bound; only with a bound
    k0, k1, ...   the key in the side's own types, so that the row can be fetched again; not of carried columns
    c0, c1, ...   the carried columns, canonical, as the engine holds them
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dbt_bridge.arrow.batch_sizes import cut_batch
from dbt_bridge.contracts.side import BucketSelection, Cancels, Digests, Side
from dbt_bridge.nouns.both import End
from dbt_bridge.system.owned_reader import owning
from dbt_bridge.verify.canonical.elements import to_canonical
from dbt_bridge.verify.canonical.row_digest import compute_digests, mix_digests
from dbt_bridge.verify.rows.column_pairs import ColumnPair, ColumnPairs
from dbt_bridge.verify.rows.engine_values import as_engine_values
from dbt_bridge.verify.rows.in_flight import CursorLimit

Numbers = NDArray[np.int64]
Arrays = Mapping[ColumnPair, pa.Array]
KEY, ROW, LATE = "_key", "_row", "_late"
_MOST_BYTES = 16 << 20  # of a batch: what is made of its values to be digested has several times as many
_THREADS = 2  # numpy lets go of the interpreter: one thread would still digest when the other side is done


def key_column(place: int) -> str:
    return f"k{place}"


def is_key_column(name: str) -> bool:
    return name.startswith("k")


def carried_column(place: int) -> str:
    return f"c{place}"


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some rows of one side with their digests: `key` of their keys, `row` of the values beside the key."""

    arrays: Arrays
    key: Numbers
    row: Numbers


@dataclass(frozen=True, slots=True)
class Sender:
    """One side of a comparison, and which of its columns are wanted.

    Attributes:
        count_read: called with the bytes and rows of each batch that came.
        limit: marks the rows in flight; None without a bound.
    """

    side: Side
    end: End
    pairs: ColumnPairs
    count_read: Callable[[int, int], None]
    limit: CursorLimit | None = None

    def cancel(self) -> None:
        """The user interrupted: end what another thread reads from this side, where it can be ended."""
        if isinstance(self.side, Cancels):
            self.side.cancel()

    def stream_values(self, within: BucketSelection | None = None) -> Iterator[pa.RecordBatch]:
        """Batches to be matched: the side streams its values, and this process digests them."""
        pairs = list(self.pairs)
        waiting: deque[Future[_Rows]] = deque()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="verify-digest") as pool:
            for batch in self.stream_rows(pairs):
                waiting.append(pool.submit(self._digest_batch, pairs, batch, within))
                if len(waiting) >= _THREADS:
                    yield from self._to_match(waiting.popleft().result(), within)
            while waiting:
                yield from self._to_match(waiting.popleft().result(), within)

    def stream_digests(self, within: BucketSelection | None = None) -> Iterator[pa.RecordBatch]:
        """Batches to be matched: the side computes the digests and streams them with its keys and carried columns."""
        side = self.side
        assert isinstance(side, Digests)
        sent = (*self.pairs.key, *self.pairs.carried)
        reader = side.digests(
            [pair.as_digested(self.end) for pair in sent],
            [pair.as_digested(self.end) for pair in self.pairs.values],
            within,
        )
        with owning(reader):
            for batch in reader:
                self.count_read(0, batch.num_rows)  # the side counts its bytes
                arrays = dict(zip(sent, batch.columns, strict=False))
                row = batch.column(ROW).to_numpy()
                yield from self._to_match(_Rows(arrays, self.digest_identity(arrays, row), row), None)

    def stream_rows(self, pairs: Sequence[ColumnPair], keys: pa.Table | None = None) -> Iterator[pa.RecordBatch]:
        """These columns in the side's own types, of the rows with some keys or of all."""
        with owning(self.side.rows([pair.name_at(self.end) for pair in pairs], keys)) as reader:
            for batch in reader:
                self.count_read(batch.nbytes, batch.num_rows)
                yield from cut_batch(batch, _MOST_BYTES)

    def digest_identity(self, arrays: Arrays, row: Numbers | None = None) -> Numbers:
        """The digest by which rows of both sides meet: of the key, or of the whole row without one.

        Args:
            row: the digest of `pairs.values`, where it is known.
        """
        if self.pairs.key:
            return _digest(arrays, self.pairs.key)
        row = _digest(arrays, self.pairs.values) if row is None else row
        carried = [pair for pair in self.pairs.carried if pair.is_compared]
        return mix_digests(row, _digest(arrays, carried)) if carried else row

    def _digest_batch(
        self, pairs: Sequence[ColumnPair], batch: pa.RecordBatch, within: BucketSelection | None
    ) -> _Rows:
        """A batch, or those rows of it that may be wanted, with their digests."""
        arrays = dict(zip(pairs, batch.columns, strict=True))
        if within is not None and self.pairs.key:  # most rows need no more than the digest of their key
            wanted = _lie_within(self.digest_identity(arrays), within)
            arrays = dict(zip(pairs, batch.filter(wanted).columns, strict=True))
        row = _digest(arrays, self.pairs.values)
        return _Rows(arrays, self.digest_identity(arrays, row), row)

    def _to_match(self, rows: _Rows, within: BucketSelection | None) -> Iterator[pa.RecordBatch]:
        """The batch to be matched; none where no row of it is wanted."""
        columns = {KEY: pa.array(rows.key), ROW: pa.array(rows.row)}
        if self.limit is not None:
            columns[LATE] = self.limit.mark_above(rows.arrays)
        columns |= {key_column(i): rows.arrays[pair] for i, pair in enumerate(self.pairs.key)}
        columns |= {
            carried_column(i): as_engine_values(to_canonical(rows.arrays[pair], pair.canon))
            for i, pair in enumerate(self.pairs.carried)
        }
        batch = pa.RecordBatch.from_pydict(columns)
        if within is not None:
            batch = batch.filter(_lie_within(rows.key, within))
        if batch.num_rows:
            yield batch


def _digest(arrays: Arrays, pairs: Sequence[ColumnPair]) -> Numbers:
    if not pairs:
        return np.zeros(len(next(iter(arrays.values()))), np.int64)
    return compute_digests([arrays[pair] for pair in pairs], [pair.canon for pair in pairs])


def _lie_within(key: Numbers, within: BucketSelection) -> pa.Array:
    """Which rows lie in the selected buckets."""
    is_wanted = np.zeros(within.count, np.bool_)
    is_wanted[np.asarray(within.wanted, np.int64)] = True
    return pa.array(is_wanted[key & np.int64(within.count - 1)])
