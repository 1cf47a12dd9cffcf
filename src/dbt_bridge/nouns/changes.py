"""The nouns of change data capture that rooms share: what happened to one table, in commit order.

Each commit has an ordinal, a number of 64 bits that ascends along the origin's log (`nouns/position`). A table that
stands at a position holds every transaction whose ordinal is below the position's and none of the others. So one rule
decides everywhere whether a change is still to be applied: `ordinal >= position.ordinal`. It is what `_lsn` holds, too,
in histories and logs of changes.

Of Postgres the ordinal is the LSN where the commit record starts (`final_lsn` of pgoutput's Begin message), and the
rule is what a slot's consistent point says of its exported snapshot (snapbuild.c, SnapBuildXactNeedsSkip).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from dbt_bridge.nouns.table import Column

INSERT, UPDATE, DELETE = b"IUD"  # pgoutput's own letters, as bytes (integers)


@dataclass(frozen=True, slots=True)
class Changes:
    """Row changes of one table in one shape, in the order in which they happened. All arrays have one entry per change.

    Attributes:
        rows: the columns of the landing table, as they travel. The new row of an insert or update; the old row of a
            delete, in which columns outside of the replica identity are NULL.
        kind: uint8: INSERT, UPDATE or DELETE.
        ordinal: int64: of the commit; never decreases.
        committed_at: int64: microseconds since 1970 in UTC, by the origin's clock.
        unchanged: column -> bool: True where an update did not send the value, because it is stored out of line
            (TOAST) and did not change; the value in `rows` is NULL there. Only columns that have such values.
        before: the old values that updates sent: the columns of the key; all columns for a table without a key under
            REPLICA IDENTITY FULL, and where it `rotates`. NULL where `has_before` is False. None when no change has
            any.
        has_before: bool.
        rotates: two rows may have one key at once inside of a transaction, and are told apart by their old values.
        repairs: these are no changes of the origin: they set right what lies at the position where the table stands,
            and are not passed over for its standing there.
    """

    rows: pa.Table
    kind: np.ndarray
    ordinal: np.ndarray
    committed_at: np.ndarray
    unchanged: Mapping[str, np.ndarray] = field(default_factory=dict)
    before: pa.Table | None = None
    has_before: np.ndarray | None = None
    repairs: bool = False
    rotates: bool = False

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True, slots=True)
class Truncated:
    """The table was emptied by TRUNCATE.

    Attributes:
        ordinal, committed_at: as in `Changes`.
    """

    ordinal: int
    committed_at: int


@dataclass(frozen=True, slots=True)
class Reshaped:
    """The table's columns changed, without any stored value changing.

    Attributes:
        columns: all columns from here on, as they travel.
        renamed: old name -> new name.
    """

    columns: Sequence[Column]
    renamed: Mapping[str, str] = field(default_factory=dict)


Event = Changes | Truncated | Reshaped
