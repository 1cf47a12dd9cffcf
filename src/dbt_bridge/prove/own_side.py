"""A delivered table as far as its rows are a delivery's own: those whose keys its ledger has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.contracts.canon import Digested
from dbt_bridge.deliver.digests import Digester
from dbt_bridge.prove.sides import LandedSide
from dbt_bridge.system.owned_reader import make_reader, owning


class OwnSide:
    """A `Side` over the rows of another one that a delivery has sent.

    Args:
        key: what digests a row's key.
        sent: the digests of the keys that were sent.
    """

    def __init__(self, side: LandedSide, key: Digester, sent: pa.Array) -> None:
        self.name = side.name
        self.table = side.table
        self._side = side
        self._key = key
        self._sent = sent

    def count(self) -> int:
        with owning(self.rows([column.name for column in self._key.columns])) as rows:
            return sum(batch.num_rows for batch in rows)

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """See `Side.rows`."""
        hidden = [column.name for column in self._key.columns if column.name not in columns]
        whole = self._side.rows([*columns, *hidden], keys)
        schema = pa.schema([whole.schema.field(place) for place in range(len(columns))])

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in whole:
                own = batch.filter(pc.is_in(self._key.digest(batch), value_set=self._sent))
                yield pa.RecordBatch.from_arrays(own.columns[: len(columns)], schema=schema)

        return make_reader(schema, batches(), whole)

    def cancel(self) -> None:
        """See `Cancels.cancel`."""
        self._side.cancel()

    def travelling(self, digested: Digested) -> Digested:
        return digested
