"""Sides of a comparison whose rows lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from dbt_bridge.contracts.canon import Digested, NoDigests
from dbt_bridge.contracts.side import BucketSelection
from dbt_bridge.nouns.table import Table, TableName
from dbt_bridge.verify.canonical.row_digest import compute_digests, mix_digests


class ArrowSide:
    """A table in memory, sent in small batches, shuffled, so that nothing can lean on order."""

    def __init__(self, name: str, rows: pa.Table, batch_rows: int = 1000, *, key: tuple[str, ...] = ()) -> None:
        self.name = name
        self.table = Table.of_schema(TableName("shop", name), rows.schema, key)
        self.held = rows
        self.asked_by_key = 0
        self.whole_readings = 0
        self._batch_rows = batch_rows
        self._order = np.random.default_rng(len(name)).permutation(rows.num_rows)

    def count(self) -> int:
        return self.held.num_rows

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        rows = self.held
        if keys is None:
            self.whole_readings += 1
            rows = rows.take(pa.array(self._order))
        else:
            self.asked_by_key += 1
            for name in keys.column_names:
                assert keys.schema.field(name).type == rows.schema.field(name).type
            wanted = {repr(row) for row in keys.to_pylist()}
            there = rows.select(keys.column_names).to_pylist()
            rows = rows.filter(pa.array([repr(row) in wanted for row in there], pa.bool_()))
        return self._sent(rows.select(list(columns)))

    def _sent(self, rows: pa.Table) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(self._batch_rows))


class HashingSide(ArrowSide):
    """The same, which computes digests where its rows are, as PostgreSQL does."""

    def __init__(
        self, name: str, rows: pa.Table, batch_rows: int = 1000, *, rate: float = 1e9, key: tuple[str, ...] = ()
    ) -> None:
        super().__init__(name, rows, batch_rows, key=key)
        self.wire_bytes = 0
        self._rate = rate

    def digests(
        self, key: Sequence[Digested], values: Sequence[Digested], within: BucketSelection | None = None
    ) -> pa.RecordBatchReader:
        of_key, of_row = self._digests(key, values)
        sent = self.held.select([digested.column.name for digested in key])
        sent = sent.append_column("_row", pa.array(of_row))
        if within is not None:
            sent = sent.filter(pa.array(np.isin(of_key & (within.count - 1), within.wanted)))
        self.wire_bytes += sent.nbytes
        return self._sent(sent)

    def buckets(self, key: Sequence[Digested], values: Sequence[Digested], buckets: int) -> pa.Table:
        of_key, of_row = self._digests(key, values)
        summed: dict[int, list[int]] = {}
        for bucket, total in zip((of_key & (buckets - 1)).tolist(), mix_digests(of_key, of_row).tolist(), strict=True):
            both = summed.setdefault(bucket, [0, 0])
            both[0] += 1
            both[1] += total
        answer = pa.table(
            {
                "bucket": pa.array(list(summed), pa.int64()),
                "rows": pa.array([rows for rows, _ in summed.values()], pa.int64()),
                "total": pa.array([total for _, total in summed.values()], pa.decimal128(38, 0)),
            }
        )
        self.wire_bytes += answer.nbytes
        return answer

    def transfer_rate(self) -> float:
        return self._rate

    def _digests(self, key: Sequence[Digested], values: Sequence[Digested]) -> tuple[np.ndarray, np.ndarray]:
        none = np.zeros(self.held.num_rows, np.int64)
        row = self._digest(values) if values else none
        return (self._digest(key) if key else row), row

    def _digest(self, columns: Sequence[Digested]) -> np.ndarray:
        return compute_digests([self.held.column(one.column.name) for one in columns], [one.canon for one in columns])


class HashingOtherwise(HashingSide):
    """A server whose hashes are not those of `canonical`."""

    def digests(self, *_: object, **__: object) -> pa.RecordBatchReader:
        raise NoDigests("the server hashes otherwise")

    def transfer_rate(self) -> float:
        raise NoDigests("the server hashes otherwise")

    buckets: Callable[..., pa.Table] = digests
