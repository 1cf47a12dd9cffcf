"""Digests of a Postgres table, computed by its server: `contracts.side.Digests`, in the origin's snapshot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.connectors.postgres.origin.catalog import Relation
from dbt_bridge.connectors.postgres.origin.column_types import Reading, resolve_reading
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.ctid_ranges import EVERYTHING, split_by_size, split_evenly
from dbt_bridge.connectors.postgres.origin.initial_copy import Copy, open_reader
from dbt_bridge.connectors.postgres.wire.digest_sql import (
    build_bucket_select,
    build_digest_select,
    build_element,
    check_server,
    measure_transfer_rate,
    resolve_builtin,
)
from dbt_bridge.contracts.canon import Digested, NoDigests
from dbt_bridge.contracts.side import BucketSelection
from dbt_bridge.nouns.table import Column, quote_identifier, quote_table_name
from dbt_bridge.system.owned_reader import make_reader

ROW = "_row"
_CATALOG_FIRST = re.compile(r"(pg_temp_\d+,)?pg_catalog(,|$)")  # temporary functions are found by no path
_AS_IT_IS = Reading(lambda column: column, lambda array: array)


@dataclass(frozen=True, slots=True)
class DigestCopy(Copy):
    """One row for each row of the table: the key's columns, and `_row`, the digest of the others."""

    key: tuple[Digested, ...] = ()
    values: tuple[Digested, ...] = ()
    within: BucketSelection | None = None

    def build_select(self, range_: str) -> str:
        selected = [
            f"{_key_expression(digested, reading)} AS {quote_identifier(digested.column.name)}"
            for digested, reading in zip(self.key, self.readings, strict=False)
        ]
        return build_digest_select(
            self.rows or quote_table_name(self.name),
            self.key,
            self.values,
            selected=selected,
            condition=range_,
            within=self.within,
        )


def _key_expression(digested: Digested, reading: Reading) -> str:
    """The expression of a key column; of a masked one only the hash leaves the server."""
    column = quote_identifier(digested.column.name)
    if digested.mask:
        return build_element(column, resolve_builtin(digested.column), digested.canon, digested.mask)
    return reading.expression(column)


@dataclass(frozen=True, slots=True)
class BucketCopy(Copy):
    """One row for each bucket and range: `bucket`, `rows` and `total` as text."""

    key: tuple[Digested, ...] = ()
    values: tuple[Digested, ...] = ()
    buckets: int = 1

    def build_select(self, range_: str) -> str:
        rows = self.rows or quote_table_name(self.name)
        sums = build_bucket_select(rows, self.key, self.values, self.buckets, condition=range_)
        return f"SELECT bucket, rows, total::text AS total FROM ({sums}) AS sums"  # noqa: S608


class TableDigests:
    """`contracts.side.Digests` of one table.

    Args:
        workers: ranges of a big table that are read at once.
        rows: what stands after FROM; empty for the relation itself.

    Raises (from every method):
        NoDigests: the server hashes otherwise, or cannot hash one of the columns; before any row is read.
    """

    def __init__(self, connections: Connections, relation: Relation, workers: int, rows: str = "") -> None:
        self.wire_bytes = 0
        self._rows = rows
        self._connections = connections
        self._relation = relation
        self._workers = workers
        self._is_checked = False

    def digests(
        self, key: Sequence[Digested], values: Sequence[Digested], within: BucketSelection | None = None
    ) -> pa.RecordBatchReader:
        """See `Digests.digests`; in no order."""
        self._check_server()
        relation = self._relation
        keys = tuple(d.column for d in key)
        own = Column(ROW, pa.int64(), nullable=False)
        readings = (*(resolve_reading(relation.types[c.name], c.type) for c in keys), _AS_IT_IS)
        copy = DigestCopy(
            relation.table.name, (*keys, own), readings,
            ranges=split_by_size(self._pages, self._workers), rows=self._rows,
            key=self._as_cataloged(key), values=self._as_cataloged(values), within=within,
        )  # fmt: skip
        copy.build_select("")  # raises for a column that cannot be hashed, before anything is read
        return self._count_bytes(open_reader(self._connections, copy, self._workers))

    def buckets(self, key: Sequence[Digested], values: Sequence[Digested], buckets: int) -> pa.Table:
        """See `Digests.buckets`. Each worker sends its sums; they are added here."""
        self._check_server()
        columns = (Column("bucket", pa.int64()), Column("rows", pa.int64()), Column("total", pa.string()))
        # One range per worker, for each range sends every bucket.
        is_big = len(split_by_size(self._pages, self._workers)) > 1
        ranges = split_evenly(self._pages, self._workers) if is_big else EVERYTHING
        copy = BucketCopy(
            self._relation.table.name, columns, (_AS_IT_IS,) * 3, ranges=ranges,
            rows=self._rows, key=self._as_cataloged(key), values=self._as_cataloged(values), buckets=buckets,
        )  # fmt: skip
        copy.build_select("")
        sums = self._count_bytes(open_reader(self._connections, copy, self._workers)).read_all()
        sums = sums.set_column(2, "total", pc.cast(sums["total"], pa.decimal128(38, 0)))
        added = sums.group_by("bucket").aggregate([("rows", "sum"), ("total", "sum")])
        added = added.select(["bucket", "rows_sum", "total_sum"]).rename_columns(["bucket", "rows", "total"])
        return added.cast(pa.schema({"bucket": pa.int64(), "rows": pa.int64(), "total": pa.decimal128(38, 0)}))

    def transfer_rate(self) -> float:
        """See `Digests.transfer_rate`."""
        return measure_transfer_rate(lambda sql: self._connections.query(sql)[0])

    @property
    def _pages(self) -> int:
        return self._relation.pages

    def _check_server(self) -> None:
        if self._is_checked:
            return
        self._connections.query("SELECT 1")
        [(path,)] = self._connections.query("SELECT pg_catalog.array_to_string(pg_catalog.current_schemas(true), ',')")
        if not _CATALOG_FIRST.match(path):
            raise NoDigests("the role's search_path puts other schemas before pg_catalog, so that they may shadow it")
        version = self._connections.server_version
        check_server(version, lambda sql: self._connections.query(sql)[0])
        if ROW in self._relation.types:
            raise NoDigests(f"{self._relation.table.name} has a column {ROW}, as which digests are sent")
        self._is_checked = True

    def _as_cataloged(self, digested: Sequence[Digested]) -> tuple[Digested, ...]:
        """The columns as the catalog has them: an override or a mask does not change what is hashed."""
        known = {column.name: column for column in self._relation.table.columns}
        return tuple(replace(d, column=known[d.column.name]) for d in digested)

    def _count_bytes(self, rows: pa.RecordBatchReader) -> pa.RecordBatchReader:
        def batches() -> Iterator[pa.RecordBatch]:
            for batch in rows:
                self.wire_bytes += batch.nbytes
                yield batch

        return make_reader(rows.schema, batches(), rows)
