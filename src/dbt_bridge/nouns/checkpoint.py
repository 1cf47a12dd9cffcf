"""How far a landing table has come, and what must be known to go on from there: a row of `_dbt_bridge.checkpoints`.

A ledger keeps every field as text, under the field's name. Rows that earlier versions wrote lack the later fields, and
are read all the same (`Checkpoint.of_row`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum

_ANEW = "must be copied anew"  # begins the message of `COPY_ANEW`


class TableState(StrEnum):
    """Whether a table goes on from its checkpoint."""

    STANDS = "stands"  # it does
    COPY_ANEW = "copy_anew"  # the next sync copies it, as nothing has to be mended before
    SET_ASIDE = "set_aside"  # an error has to be mended; a sync that is asked for the table copies it then


@dataclass(frozen=True, slots=True)
class HistoryClock:
    """The origin's clock, as far as a history has followed it.

    Attributes:
        latest: the greatest time of a commit so far, microseconds since 1970; 0 before the first.
        is_behind: the origin's clock went back since, and has not come to `latest` again.
    """

    latest: int = 0
    is_behind: bool = False

    @classmethod
    def latest_of(cls, clocks: Iterable[HistoryClock]) -> HistoryClock:
        return max(clocks, key=lambda clock: (clock.latest, clock.is_behind), default=cls())

    def joined_with(self, other: HistoryClock) -> HistoryClock:
        """Of two tables of one log, which brought commits side by side."""
        return HistoryClock(max(self.latest, other.latest), self.is_behind or other.is_behind)


BEGINNING = HistoryClock()


@dataclass(frozen=True, slots=True)
class TableMemory:
    """What the checkpoint of a table that follows a log remembers of it.

    Attributes:
        shape: the table at the origin when it stood there: the change source's own text, opaque to everybody else.
        declaration: a fingerprint of what the dbt YAML says of the rows that land.
        hidden: what of it hides values: each mask, and each choice of columns.
        clock: of its history.
    """

    shape: str
    declaration: str
    hidden: tuple[str, ...]
    clock: HistoryClock = BEGINNING

    def as_text(self) -> str:
        """As JSON."""
        known = {"shape": _nest(self.shape), "landing": self.declaration, "hidden": list(self.hidden)}
        if self.clock.latest:
            known["clock"] = [self.clock.latest, self.clock.is_behind]
        return _compact(known)

    @classmethod
    def of_text(cls, text: str) -> TableMemory:
        found = json.loads(text)
        shape = found["shape"]
        text = shape if isinstance(shape, str) else _compact(shape)
        return cls(text, found["landing"], tuple(found["hidden"]), HistoryClock(*found.get("clock", ())))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A durable cursor value, or position in a log, of one landing table.

    Attributes:
        node: dbt's unique_id of the source table.
        origin: the origin's name.
        cursor: the cursor column's name; empty for a position.
        value: as text that the origin reads back exactly.
        slot: for a position: what it is valid for (of Postgres: `system identifier/slot`).
        shape: what else is remembered of the table, as JSON: read it through `memory` (of a position) or `filters` (of
            a cursor).
        set_aside: why the table does not go on from here; empty while it does.
        landing: where its rows landed, so that a table of the same name elsewhere is not taken for it; empty where an
            earlier version wrote it.
        state: whether it does; it stands exactly where `set_aside` is empty.
        past: by what the origin is known again, and its past: of a position, the change source's own text; of a cursor,
            read it through `sync/same_origin.py`; empty where an earlier version wrote it.

    Raises:
        ValueError: the state contradicts `set_aside`.
    """

    node: str
    origin: str
    cursor: str
    value: str
    slot: str = ""
    shape: str = ""
    set_aside: str = ""
    state: TableState = TableState.STANDS
    landing: str = ""
    past: str = ""

    def __post_init__(self) -> None:
        if self.stands == bool(self.set_aside):
            raise ValueError(f"the checkpoint of {self.node} is {self.state}, but set aside for {self.set_aside!r}")

    @property
    def stands(self) -> bool:
        return self.state is TableState.STANDS

    @property
    def memory(self) -> TableMemory | None:
        """Of a table that follows a log; None where it never landed."""
        return TableMemory.of_text(self.shape) if self.shape and not self.cursor else None

    @property
    def filters(self) -> str:
        """Of a table with a cursor: what else its rows were told by then (`sync/remembered.py`)."""
        return self.shape if self.cursor else ""

    def copy_anew(self, why: str) -> Checkpoint:
        """The same, not to go on from."""
        return replace(self, set_aside=f"{_ANEW}: {why}", state=TableState.COPY_ANEW)

    def put_aside(self, error: str) -> Checkpoint:
        """The same, not to go on from before the error is mended."""
        return replace(self, set_aside=error, state=TableState.SET_ASIDE)

    def as_row(self) -> dict[str, str]:
        """As a ledger keeps it: text under each name of `CHECKPOINT_FIELDS`."""
        return {name: str(getattr(self, name)) for name in CHECKPOINT_FIELDS}

    @classmethod
    def of_row(cls, row: Mapping[str, str | None]) -> Checkpoint:
        """As a ledger kept it; what an earlier version did not write is absent or NULL."""
        texts = {name: row.get(name) or "" for name in CHECKPOINT_FIELDS}
        state = _read_state(texts.pop("state"), texts["set_aside"])
        return cls(**texts, state=state)


def _read_state(state: str, set_aside: str) -> TableState:
    """The state of a row; the message decides where an earlier version wrote it without its state."""
    if not set_aside:
        return TableState.STANDS
    if state in (TableState.COPY_ANEW, TableState.SET_ASIDE):
        return TableState(state)
    return TableState.COPY_ANEW if set_aside.startswith(_ANEW) else TableState.SET_ASIDE


CHECKPOINT_FIELDS: tuple[str, ...] = tuple(field.name for field in fields(Checkpoint))


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _nest(shape: str) -> object:
    """A shape that is a JSON object itself goes in as one, so that people can read it; any other as a string."""
    if not shape.startswith("{"):
        return shape
    try:
        found: object = json.loads(shape)
    except ValueError:
        return shape
    return found if _compact(found) == shape else shape
