"""A cursor's checkpoint is of one database, and of one past of it: neither another server's nor a restored one's.

Where an origin says which it is, its checkpoints are refused at another one. A restored origin is the same, but its
cursor has gone back: what is written next may lie below the checkpoint, and would never be read.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from decimal import Decimal, InvalidOperation

from dbt_bridge.arrow.calendar import parse_moment
from dbt_bridge.contracts.capabilities import HasClock, HasIdentity
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.selector import format_shell_selector
from dbt_bridge.nouns.table import TableName
from dbt_bridge.sync.ends import Ends
from dbt_bridge.sync.future_cursor import hold_back, hold_back_to_clock


@dataclass(frozen=True, slots=True)
class SeenOrigin:
    """What a checkpoint remembers of where its value was read.

    Attributes:
        identities: `HasIdentity.read_identity`; empty where the origin does not say, or an earlier version did not ask.
        table: its name there.
        is_held_back: no row has the checkpoint's value (`hold_back`).
        clock: what the origin's clock showed, microseconds since 1970; 0 where that is not known.
        read_at: and this machine's.
    """

    identities: tuple[str, ...] = ()
    table: str = ""
    is_held_back: bool = False
    clock: int = 0
    read_at: int = 0

    @classmethod
    def of(cls, origin: Origin, name: TableName, newest: str | None) -> SeenOrigin:
        """Of the origin now, whose greatest value is `newest`."""
        identities = origin.read_identity() if isinstance(origin, HasIdentity) else ()
        clock = origin.read_clock() if isinstance(origin, HasClock) else 0
        is_held_back = hold_back_to_clock(hold_back(newest), clock) != newest
        return cls(identities, str(name), is_held_back, clock, time.time_ns() // 1000)

    @classmethod
    def of_text(cls, text: str) -> SeenOrigin:
        if not text:
            return cls()
        found = json.loads(text)
        return cls(tuple(found.pop("identities")), **found)

    def as_text(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    def find_step_back(self, now: SeenOrigin) -> float:
        """Seconds by which the origin's clock went back since, if it did: what was written since may lie so far below
        the checkpoint. A second is no step."""
        if not (self.clock and now.clock):
            return 0
        back = self.clock + (now.read_at - self.read_at) - now.clock
        return back / 1_000_000 if back > 1_000_000 else 0

    def is_other_table(self, now: SeenOrigin) -> bool:
        """Whether the declaration means another table of the origin now: the value is no cursor of that."""
        return bool(self.table) and self.table != now.table

    def is_other_origin(self, now: SeenOrigin) -> bool:
        return bool(self.identities and now.identities) and not {*self.identities} & {*now.identities}


def refuse_other_origin(last: Checkpoint, now: SeenOrigin, newest: str | None) -> None:
    """Refuse to go on from a checkpoint of another database, or of a past that was undone.

    Args:
        newest: the cursor's greatest value at the origin.

    Raises:
        OriginError: with the commands that mend it.
    """
    before, node = SeenOrigin.of_text(last.past), format_shell_selector(last.node)
    anew = f"dbt-bridge sync --full-refresh --select {node}"
    if before.is_other_origin(now):
        raise OriginError(
            f"the checkpoint of {last.node} is of {before.identities[0]}, and the origin {last.origin!r} is"
            f" {now.identities[0]}: another server or database",
            mend=f"check [sources.{last.origin}]; if it is right: {anew}; or, if it should hold the same rows:"
            f" dbt-bridge repair --select {node}, after which sync goes on",
        )
    if newest is not None and not before.is_held_back and _is_below(newest, last.value):
        raise OriginError(
            f"the cursor {last.cursor!r} of {now.table} ends at {newest}, before the checkpoint {last.value}: the"
            f" origin {last.origin!r} was restored, its clock or sequence went back, or its newest rows were deleted;"
            " what is written below the checkpoint would never be read",
            mend=f"dbt-bridge repair --select {node} makes the rows equal, after which sync goes on; or,"
            f" where more differs: {anew}",
        )


def adopt_proven(ends: Ends, node: str, name: TableName) -> None:
    """Every row up to a cursor's checkpoint is the origin's: so is the checkpoint, and not beyond what is there."""
    last = ends.ledger.checkpoint(node)
    if last is None or not last.cursor:
        return
    newest = ends.origin.newest(name, last.cursor)
    now, value = SeenOrigin.of(ends.origin, name, newest), last.value
    before = SeenOrigin.of_text(last.past)
    if newest is not None and not before.is_held_back and _is_below(newest, value):
        value = hold_back(newest) or value
    if value != last.value or before.is_other_origin(now):
        ends.ledger.save([replace(last, value=value, past=now.as_text())], [])


def _is_below(newest: str, value: str) -> bool:
    """Whether a cursor's value comes before another one; False where their texts do not say."""
    try:
        return parse_moment(newest) < parse_moment(value)
    except ValueError:
        pass  # numbers
    try:
        return Decimal(newest) < Decimal(value)
    except InvalidOperation:  # not a number: `NaN` has no order, and `-infinity` of a date none here
        return False
