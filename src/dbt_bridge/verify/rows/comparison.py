"""Two sides whose rows are compared, where they meet, and what was read of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from dbt_bridge.contracts.side import Digests, Side
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.both import ENDS, Both
from dbt_bridge.verify.request import VerifyRequest
from dbt_bridge.verify.rows.column_pairs import ColumnPairs, pair_columns
from dbt_bridge.verify.rows.in_flight import resolve_bound
from dbt_bridge.verify.rows.sender import Sender
from dbt_bridge.verify.rows.workspace import Workspace


@dataclass(slots=True)
class ReadCounter:
    """What was read so far from both sides, each in a thread of its own.

    Attributes:
        progress: called with the number of rows compared so far.
        bytes: of rows, as Arrow has them; digests are counted by their sides.
    """

    progress: Callable[[int], None]
    bytes: int = 0
    rows: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, bytes_: int, rows: int) -> None:
        with self._lock:
            self.bytes += bytes_
            self.rows += rows
            self.progress(self.rows // 2)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides whose rows are compared.

    Attributes:
        sent_before: how many bytes of digests each side had sent when the comparison began.
    """

    senders: Both[Sender]
    request: VerifyRequest
    workspace: Workspace
    counter: ReadCounter
    sent_before: Both[int]

    @property
    def bytes(self) -> int:
        """What both wires carried: digests and sums as their sides count them, rows as Arrow has them."""
        sent = self.sides.map(_wire_bytes)
        return self.counter.bytes + sum(sent) - sum(self.sent_before)

    @property
    def pairs(self) -> ColumnPairs:
        return self.senders.origin.pairs

    @property
    def sides(self) -> Both[Side]:
        return self.senders.map(lambda sender: sender.side)


def prepare_comparison(sides: Both[Side], request: VerifyRequest, workspace: Workspace) -> Comparison:
    """The comparison of two sides; reads nothing yet.

    Raises:
        UsageError: the request does not fit the sides.
    """
    pairs = pair_columns(sides, request)
    if request.tolerances and not pairs.key and request.level == "rows":
        raise UsageError(
            f"rows of {sides.origin.name} have no key to meet by, so a tolerance cannot be kept",
            mend="declare its key",
        )
    counter = ReadCounter(request.progress)
    limit = resolve_bound(pairs, request.bound, workspace.engine)
    senders = ENDS.map(lambda end: Sender(sides.at(end), end, pairs, counter.count, limit))
    return Comparison(senders, request, workspace, counter, sides.map(_wire_bytes))


def _wire_bytes(side: Side) -> int:
    return side.wire_bytes if isinstance(side, Digests) else 0
