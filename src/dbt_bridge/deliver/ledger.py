"""The ledger of a delivery with `deletes: own`, in dbt's warehouse: what was sent, as keyed digests.

One table for each exposure, destination table and relation, `_dbt_bridge.delivered_<exposure>_<digest>`:

    key_digest   of the row's key
    row_digest   of the whole row as it was sent; NULL while that is not certain
    is_own       whether a delivery inserted the row: one that was there before is somebody else's, and never deleted
    secret_id    which secret the digests are made with: with another one they say nothing

It is written before the destination commits, with what is about to be sent as uncertain, and after. A run that is
killed in between sends those rows again, which a merge absorbs. Rows that a refused delivery was to insert are not its
own: who inserts them by then is somebody else. What goes past the ledger (`repair`, a delivery without `deletes: own`)
makes every row of it uncertain.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.contracts.destination import Ledger, Load
from dbt_bridge.deliver.digests import SIZE
from dbt_bridge.nouns.project import Delivery
from dbt_bridge.nouns.receipt import AUDIT_SCHEMA
from dbt_bridge.nouns.table import Table, TableName
from dbt_bridge.system.owned_reader import make_reader

_SCHEMA = pa.schema(
    [
        pa.field("key_digest", pa.binary()),
        pa.field("row_digest", pa.binary()),
        pa.field("is_own", pa.bool_()),
        pa.field("secret_id", pa.string()),
    ]
)
_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class SentRows:
    """What the ledger holds: as many keys as row digests and flags, in no order."""

    keys: pa.Array
    rows: pa.Array
    own: pa.Array

    @classmethod
    def none(cls) -> SentRows:
        return cls(pa.array([], pa.binary(SIZE)), pa.array([], pa.binary(SIZE)), pa.array([], pa.bool_()))

    def filter(self, chosen: pa.Array) -> SentRows:
        return SentRows(self.keys.filter(chosen), self.rows.filter(chosen), self.own.filter(chosen))

    def __add__(self, other: SentRows) -> SentRows:
        pairs = ((self.keys, other.keys), (self.rows, other.rows), (self.own, other.own))
        return SentRows(*(pa.concat_arrays([one, two]) for one, two in pairs))


def ledger_table(delivery: Delivery) -> TableName:
    """Where a delivery's ledger is."""
    place = (delivery.node, delivery.destination, delivery.schema, delivery.table, str(delivery.relation))
    digest = hashlib.sha256("\0".join(place).encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9_]+", "_", delivery.name.lower())[:30]
    return TableName(AUDIT_SCHEMA, f"delivered_{readable}_{digest}")


def read_sent(warehouse: Ledger, delivery: Delivery, secret: bytes) -> SentRows:
    """What was sent, as far as it is digested with this secret."""
    name = ledger_table(delivery)
    if not secret or warehouse.find_table(name) is None:
        return SentRows.none()
    rows = warehouse.read(name, _SCHEMA.names).read_all()
    rows = rows.filter(pc.equal(rows["secret_id"], _identify(secret)))
    key, row = (_whole(rows[column].cast(pa.binary()).cast(pa.binary(SIZE))) for column in ("key_digest", "row_digest"))
    return SentRows(key, row, _whole(rows["is_own"].cast(pa.bool_())))


def write_sent(warehouse: Ledger, delivery: Delivery, secret: bytes, sent: SentRows, load_id: str) -> None:
    """Replace the ledger."""
    secret_id = _identify(secret)

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(sent.keys), _ROWS):
            keys, rows, own = (column.slice(start, _ROWS) for column in (sent.keys, sent.rows, sent.own))
            ids = pa.repeat(pa.scalar(secret_id, pa.string()), len(keys))
            columns = [keys.cast(pa.binary()), rows.cast(pa.binary()), own, ids]
            yield pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)

    load = Load(Table.of_schema(ledger_table(delivery), _SCHEMA), "replace", load_id)
    warehouse.load(load, make_reader(_SCHEMA, batches()))


def doubt_sent(warehouse: Ledger, delivery: Delivery, load_id: str) -> None:
    """Take every row for uncertain, where there is a ledger: rows are about to be written past it."""
    name = ledger_table(delivery)
    if warehouse.find_table(name) is None:
        return
    rows = warehouse.read(name, _SCHEMA.names).read_all().cast(_SCHEMA)
    place = _SCHEMA.get_field_index("row_digest")
    doubted = rows.set_column(place, _SCHEMA.field(place), pa.nulls(len(rows), pa.binary()))
    warehouse.load(Load(Table.of_schema(name, _SCHEMA), "replace", load_id), doubted.to_reader())


def _identify(secret: bytes) -> str:
    return hashlib.blake2b(b"dbt-bridge ledger", key=secret, digest_size=8).hexdigest()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        return pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array
