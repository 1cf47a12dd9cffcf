"""Digests of a Postgres landing table, computed by its server: `verify.side.Digests`, in the state's snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.connectors.postgres.wire.digest_sql import (
    build_bucket_select,
    build_digest_select,
    check_server,
    measure_transfer_rate,
)
from dbt_bridge.contracts.canon import Digested, NoDigests
from dbt_bridge.contracts.destination import Replica
from dbt_bridge.nouns.table import Column, Table
from dbt_bridge.replicate.stored_values import in_types

if TYPE_CHECKING:
    from dbt_bridge.connectors.postgres.destination.state import PostgresState, Standing

ROW = "_row"
_BUCKETS = pa.schema({"bucket": pa.int64(), "rows": pa.int64(), "total": pa.decimal128(38, 0)})
Within = tuple[int, Sequence[int]]


class ReplicaDigests:
    """`verify.side.Digests` of one replica.

    Raises (from every method):
        NoDigests: the server hashes otherwise, or cannot hash one of the columns; before any row is read.
    """

    def __init__(self, state: PostgresState, replica: Replica) -> None:
        self.wire_bytes = 0
        self._state = state
        self._replica = replica
        self._is_checked = False

    def digests(
        self, key: Sequence[Digested], values: Sequence[Digested], within: Within | None = None
    ) -> pa.RecordBatchReader:
        """See `Digests.digests`."""
        from dbt_bridge.connectors.postgres.destination.state import decoder, selection

        standing = self._checked()
        keys = [d.column for d in key]
        selected = [selection(column, standing.relation.columns[column.name]) for column in keys]
        own = Column(ROW, pa.int64(), nullable=False)
        name = self._replica.table.name
        schema = Table(name, (*keys, own)).arrow_schema
        query = build_digest_select(
            standing.sql, _own(key, standing), _own(values, standing), selected=selected, within=within
        )
        decoders = [decoder(field.type) for field in schema]

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in self._state.stream(query, name):
                self.wire_bytes += batch.nbytes
                arrays = [decode(array) for decode, array in zip(decoders, batch.columns, strict=True)]
                yield in_types(arrays, schema, name)

        return pa.RecordBatchReader.from_batches(schema, batches())

    def buckets(self, key: Sequence[Digested], values: Sequence[Digested], buckets: int) -> pa.Table:
        """See `Digests.buckets`."""
        standing = self._checked()
        sums = build_bucket_select(standing.sql, _own(key, standing), _own(values, standing), buckets)
        query = f"SELECT bucket, rows, total::text AS total FROM ({sums}) AS sums"  # noqa: S608
        found = []
        for batch in self._state.stream(query, self._replica.table.name):
            self.wire_bytes += batch.nbytes
            total = pc.cast(batch.column(2), pa.decimal128(38, 0))
            found.append(pa.RecordBatch.from_arrays([batch.column(0), batch.column(1), total], schema=_BUCKETS))
        return pa.Table.from_batches(found, _BUCKETS)

    def transfer_rate(self) -> float:
        """See `Digests.transfer_rate`."""
        return measure_transfer_rate(self._state.row)

    def _checked(self) -> Standing:
        standing = self._state.standing(self._replica)
        if self._is_checked:
            return standing
        version = self._state.server_version
        check_server(version, self._state.row)
        if ROW in standing.relation.columns:
            raise NoDigests(f"{self._replica.table.name} has a column {ROW}, as which digests are sent")
        self._is_checked = True
        return standing


def _own(digested: Sequence[Digested], standing: Standing) -> tuple[Digested, ...]:
    """The columns in the types that they have in the table."""
    stored = standing.relation.columns
    return tuple(replace(d, column=replace(d.column, origin_type=stored[d.column.name])) for d in digested)
