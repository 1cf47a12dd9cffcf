"""What a side sends of each row to be matched: its key, two digests, and the few values that matching needs.

A batch on its way to be matched has these columns:

    _key          int64: the digest of the key, by which rows of both sides meet; of the whole row without a key
    _row          int64: the digest of the values beside the key
    _late         int8: whether the row's cursor is above the bound; only with a bound
    k0, k1, ...   the key in the side's own types, so that the row can be asked for again; of the carried ones none
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

from dbt_bridge.contracts.side import Cancels, Digests, Side
from dbt_bridge.verify.canonical.elements import to_canonical
from dbt_bridge.verify.canonical.row_digest import compute_digests, mix_digests
from dbt_bridge.verify.rows.column_pairs import ColumnPair, ColumnPairs, End
from dbt_bridge.verify.rows.engine import held
from dbt_bridge.verify.rows.in_flight import Late

Numbers = NDArray[np.int64]
KEY, ROW, LATE = "_key", "_row", "_late"
_DIGESTING = 2  # threads, as numpy lets go of the interpreter: one would still digest when the other side is done
Within = tuple[int, Sequence[int]]
"""(number of buckets, a power of two; the buckets that are wanted)."""


@dataclass(frozen=True, slots=True)
class Sender:
    """One end of a comparison, and what is wanted of it.

    Attributes:
        read: told the bytes and rows of each batch that came.
    """

    side: Side
    end: End
    paired: ColumnPairs
    read: Callable[[int, int], None]
    late: Late | None = None

    def cancel(self) -> None:
        """The user interrupted: end what another thread reads of this side, where it can be ended."""
        if isinstance(self.side, Cancels):
            self.side.cancel()

    def values(self, within: Within | None = None) -> Iterator[pa.RecordBatch]:
        """The side streams its values, and this process digests them."""
        pairs = list(self.paired)
        waiting: deque[Future[tuple[Mapping[ColumnPair, pa.Array], Numbers, Numbers]]] = deque()
        with ThreadPoolExecutor(_DIGESTING, thread_name_prefix="verify-digest") as pool:
            for batch in self.rows(pairs):
                waiting.append(pool.submit(self._digested, pairs, batch, within))
                if len(waiting) >= _DIGESTING:
                    yield from self._batch(*waiting.popleft().result(), within)
            while waiting:
                yield from self._batch(*waiting.popleft().result(), within)

    def _digested(
        self, pairs: Sequence[ColumnPair], batch: pa.RecordBatch, within: Within | None
    ) -> tuple[Mapping[ColumnPair, pa.Array], Numbers, Numbers]:
        """The columns of a batch, or of those rows of it that may be wanted, and the digests of keys and of rows."""
        arrays = dict(zip(pairs, batch.columns, strict=True))
        if within is not None and self.paired.key:  # most rows need no more than the digest of their key
            arrays = dict(zip(pairs, batch.filter(_among(self.digest(arrays), within)).columns, strict=True))
        row = self._digest(arrays, self.paired.values)
        return arrays, self.digest(arrays, row), row

    def digests(self, within: Within | None = None) -> Iterator[pa.RecordBatch]:
        """The side computes the digests and streams them with its keys (and the carried columns)."""
        side = self.side
        assert isinstance(side, Digests)
        sent = (*self.paired.key, *self.paired.carried)
        reader = side.digests(
            [pair.digested(self.end) for pair in sent], [pair.digested(self.end) for pair in self.paired.values], within
        )
        for batch in reader:
            self.read(0, batch.num_rows)  # its bytes are counted by the side
            arrays = dict(zip(sent, batch.columns, strict=False))
            row = batch.column(ROW).to_numpy()
            yield from self._batch(arrays, self.digest(arrays, row), row, None)

    def rows(self, pairs: Sequence[ColumnPair], keys: pa.Table | None = None) -> Iterator[pa.RecordBatch]:
        """The rows' columns in the side's own types, those of some keys alone or all."""
        with self.side.rows([pair.at(self.end).name for pair in pairs], keys) as reader:
            for batch in reader:
                self.read(batch.nbytes, batch.num_rows)
                yield batch

    def digest(self, arrays: Mapping[ColumnPair, pa.Array], row: Numbers | None = None) -> Numbers:
        """By which rows of both sides meet: of the key, or of the whole row without one.

        Args:
            row: the digest of `paired.values`, where it is known.
        """
        if self.paired.key:
            return self._digest(arrays, self.paired.key)
        row = self._digest(arrays, self.paired.values) if row is None else row
        carried = [pair for pair in self.paired.carried if pair.compared]
        return mix_digests(row, self._digest(arrays, carried)) if carried else row

    def _digest(self, arrays: Mapping[ColumnPair, pa.Array], pairs: Sequence[ColumnPair]) -> Numbers:
        if not pairs:
            return np.zeros(len(next(iter(arrays.values()))), np.int64)
        return compute_digests([arrays[pair] for pair in pairs], [pair.canon for pair in pairs])

    def _batch(
        self, arrays: Mapping[ColumnPair, pa.Array], key: Numbers, row: Numbers, within: Within | None
    ) -> Iterator[pa.RecordBatch]:
        columns = {KEY: pa.array(key), ROW: pa.array(row)}
        if self.late is not None:
            columns[LATE] = self.late.of(arrays)
        columns |= {f"k{i}": arrays[pair] for i, pair in enumerate(self.paired.key)}
        columns |= {f"c{i}": held(to_canonical(arrays[pair], pair.canon)) for i, pair in enumerate(self.paired.carried)}
        batch = pa.RecordBatch.from_pydict(columns)
        if within is not None:
            batch = batch.filter(_among(key, within))
        if batch.num_rows:
            yield batch


def _among(key: Numbers, within: Within) -> pa.Array:
    """Which rows lie in the wanted buckets."""
    buckets, wanted = within
    is_wanted = np.zeros(buckets, np.bool_)
    is_wanted[np.asarray(wanted, np.int64)] = True
    return pa.array(is_wanted[key & np.int64(buckets - 1)])
