"""Two sides whose rows are compared, where they meet, and what was read of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbt_bridge.contracts.side import Digests, Side
from dbt_bridge.errors import UsageError
from dbt_bridge.verify.request import VerifyRequest
from dbt_bridge.verify.rows.column_pairs import ColumnPairs, pair_columns
from dbt_bridge.verify.rows.digest_batches import Sender
from dbt_bridge.verify.rows.in_flight import late


@dataclass(slots=True)
class Read:
    """What was read so far, from both sides, each in a thread of its own.

    Attributes:
        sent_before: what each side's own counter of bytes showed when the comparison began.
    """

    progress: Callable[[int], None]
    sent_before: list[int]
    bytes: int = 0
    rows: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, bytes_: int, rows: int) -> None:
        with self._lock:
            self.bytes += bytes_
            self.rows += rows
            self.progress(self.rows // 2)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides whose rows are compared, and where they meet.

    Attributes:
        engine: the private DuckDB.
        folder: for what does not fit into memory.
    """

    senders: tuple[Sender, Sender]
    asked: VerifyRequest
    engine: Any
    folder: Path
    read: Read

    @property
    def bytes(self) -> int:
        """That both wires carried: digests and sums as their sides count them, rows as Arrow has them."""
        on_wires = sum(_sent(side) - before for side, before in zip(self.ends, self.read.sent_before, strict=True))
        return self.read.bytes + on_wires

    @property
    def paired(self) -> ColumnPairs:
        return self.senders[0].paired

    @property
    def ends(self) -> tuple[Side, Side]:
        return self.senders[0].side, self.senders[1].side


def between(ends: tuple[Side, Side], asked: VerifyRequest, engine: Any, folder: Path) -> Comparison:
    """The comparison of two sides; reads nothing yet.

    Raises:
        UsageError: what is asked does not fit the sides.
    """
    columns = pair_columns(*ends, asked)
    if asked.tolerances and not columns.key and asked.level == "rows":
        raise UsageError(
            f"rows of {ends[0].name} have no key to meet by, so a tolerance cannot be kept", mend="declare its key"
        )
    read = Read(asked.progress, [_sent(side) for side in ends])
    limit = late(columns, asked.bound, engine)
    senders = Sender(ends[0], "origin", columns, read, limit), Sender(ends[1], "destination", columns, read, limit)
    return Comparison(senders, asked, engine, folder, read)


def _sent(side: Side) -> int:
    return side.wire_bytes if isinstance(side, Digests) else 0
