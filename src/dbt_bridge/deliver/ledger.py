"""The ledger of a delivery with `deletes: own`, in dbt's warehouse: what was sent, as keyed digests.

One table for each exposure, destination table and relation, `_dbt_bridge.delivered_<exposure>_<digest>`:

    key_digest   of the row's key
    row_digest   of the whole row as it was sent; NULL while that is not certain
    is_own       whether a delivery inserted the row: one that was there before is somebody else's, and never deleted
    secret_id    which secret the digests are made with: with another one they say nothing
    token        of the delivery after which the destination holds the row so

A state without rows is one row without a key: it is known to be empty, and not unknown.

The destination keeps the token of its last delivery in the transaction of the rows. So before a delivery sends
anything, the ledger is written as it is and as it will be, each under its token; which of them is true is never a
guess, whatever was killed or got no answer in between. Under a token that the ledger does not know (another warehouse
delivered there) every row is uncertain, and own is what was own in all that it knows. What goes past the ledger
(`repair`, a delivery without `deletes: own`) makes every row of it uncertain.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.contracts.destination import Ledger, Load
from dbt_bridge.contracts.outgoing import Mark
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
        pa.field("token", pa.string()),
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


def ledger_table(delivery: Delivery) -> TableName:
    """Where a delivery's ledger is."""
    place = (delivery.node, delivery.destination, delivery.schema, delivery.table, str(delivery.relation))
    digest = hashlib.sha256("\0".join(place).encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9_]+", "_", delivery.name.lower())[:30]
    return TableName(AUDIT_SCHEMA, f"delivered_{readable}_{digest}")


def read_sent(warehouse: Ledger, delivery: Delivery, mark: Mark) -> SentRows:
    """What was sent, as far as it is digested with the secret of the destination's mark."""
    rows = _read(warehouse, delivery) if mark.secret else None
    if rows is None:
        return SentRows.none()
    rows = rows.filter(pc.equal(rows["secret_id"], _identify(mark.secret)))
    now = rows.filter(pc.equal(rows["token"], mark.token))
    is_known = bool(len(now)) or not len(rows)
    found = now if is_known else _doubt_all(rows)
    found = found.filter(pc.is_valid(found["key_digest"]))
    keys, digests = (
        _whole(found[name].cast(pa.binary()).cast(pa.binary(SIZE))) for name in ("key_digest", "row_digest")
    )
    return SentRows(keys, digests, _whole(found["is_own"].cast(pa.bool_())))


def write_sent(
    warehouse: Ledger, delivery: Delivery, secret: bytes, states: Mapping[str, SentRows], load_id: str
) -> None:
    """Replace the ledger.

    Args:
        states: what the destination holds, by the token of the delivery after which it does.
    """
    secret_id = _identify(secret)

    def batches() -> Iterator[pa.RecordBatch]:
        for token, sent in states.items():
            if not len(sent.keys):
                row = dict(zip(_SCHEMA.names, (None, None, False, secret_id, token), strict=True))
                yield pa.RecordBatch.from_pylist([row], _SCHEMA)
            for start in range(0, len(sent.keys), _ROWS):
                keys, rows, own = (column.slice(start, _ROWS) for column in (sent.keys, sent.rows, sent.own))
                said = (pa.repeat(pa.scalar(text, pa.string()), len(keys)) for text in (secret_id, token))
                columns = [keys.cast(pa.binary()), rows.cast(pa.binary()), own, *said]
                yield pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)

    load = Load(Table.of_schema(ledger_table(delivery), _SCHEMA), "replace", load_id)
    warehouse.load(load, make_reader(_SCHEMA, batches()))


def doubt_sent(warehouse: Ledger, delivery: Delivery, load_id: str) -> None:
    """Take every row for uncertain, where there is a ledger: rows are about to be written past it."""
    rows = _read(warehouse, delivery)
    if rows is None:
        return
    place = _SCHEMA.get_field_index("row_digest")
    doubted = rows.set_column(place, _SCHEMA.field(place), pa.nulls(len(rows), pa.binary()))
    load = Load(Table.of_schema(ledger_table(delivery), _SCHEMA), "replace", load_id)
    warehouse.load(load, doubted.to_reader())


def _read(warehouse: Ledger, delivery: Delivery) -> pa.Table | None:
    """The ledger; None where there is none. One of an earlier version knows no tokens, and neither does its mark."""
    name = ledger_table(delivery)
    if warehouse.find_table(name) is None:
        return None
    rows = warehouse.read(name).read_all()
    if "token" not in rows.column_names:
        rows = rows.append_column("token", pa.repeat(pa.scalar("", pa.string()), len(rows)))
    return rows.select(_SCHEMA.names).cast(_SCHEMA)


def _doubt_all(rows: pa.Table) -> pa.Table:
    """All that is known, of whatever state, with what is own in every one."""
    states = len(pc.unique(rows["token"]))
    grouped = rows.group_by("key_digest").aggregate([("is_own", "all"), ("is_own", "count")])
    own = pc.and_(grouped["is_own_all"], pc.equal(grouped["is_own_count"], states))
    nulls = pa.nulls(len(grouped), pa.binary())
    return pa.table({"key_digest": grouped["key_digest"], "row_digest": nulls, "is_own": own})


def _identify(secret: bytes) -> str:
    return hashlib.blake2b(b"dbt-bridge ledger", key=secret, digest_size=8).hexdigest()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        return pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array
