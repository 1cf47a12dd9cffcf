"""The keys of a `config.meta.bridge` block of dbt's YAML, each declared once: its name, its type and its default.

A new key is one more line here. `project.bridge_block` derives from these classes how a block is read and checked, and
the values of a project (`LandingTable`, `LandingSource`, `Delivery`) inherit them. The types `Name` to `EveryTable` say
how a value is written: under the same names `bridge_block` has what reads it from YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

Replication = Literal["initial_copy", "incremental", "cdc"]
Mask = Literal["sha256"]

Name = str  # not empty
Names = tuple[str, ...]  # one name or a list of them, none twice
Seconds = float  # a number, or a text like "10 minutes"
Bytes = int  # a number, or a text like "10GB"
Slot = str  # a name that Postgres takes for a replication slot
EveryTable = bool  # written "*"


@dataclass(frozen=True)
class Columns:
    """Which columns land, by globs of their names; all of them without any glob."""

    include: Names = ()
    exclude: Names = ()

    def lets_land(self, name: str) -> bool:
        included = not self.include or any(fnmatchcase(name, glob) for glob in self.include)
        return included and not any(fnmatchcase(name, glob) for glob in self.exclude)


@dataclass(frozen=True, kw_only=True)
class TableKeys:
    """What can be said of one source table, or of all tables of a source at once.

    Attributes:
        primary_key: overrides the origin's catalog; empty to use it.
        lag: seconds (dates and timestamps) or units (numbers) to read again before the checkpoint.
        types: overrides per column: `text`, `decimal(38,10)`, `timestamp`, ...
        mask: column -> how its values are made unreadable before they leave the process.
        deletes, history: for cdc, see `contracts.destination.Replica`; `write_disposition: append` there is a log of
            every change.
        unfit: what becomes of a column without an exact type at the destination, of names that are one there, and of a
            table without columns; see `sync/unfit.py`.
    """

    replication: Replication = "initial_copy"
    cursor: Name | None = None
    write_disposition: Literal["append", "merge"] | None = None
    primary_key: Names = ()
    lag: Seconds = 0
    types: Mapping[str, str] = field(default_factory=dict)
    columns: Columns = Columns()
    mask: Mapping[str, Mask] = field(default_factory=dict)
    deletes: Literal["hard", "soft"] = "hard"
    history: bool = False
    unfit: Literal["refuse", "text"] = "refuse"


@dataclass(frozen=True, kw_only=True)
class SourceKeys:
    """What can be said of a source alone.

    Attributes:
        origin: reads dlt's `[sources.ORIGIN] credentials`.
        origin_schema: the schema at the origin; the origin's default when None.
        destination: a dlt destination's name when rows land elsewhere than the warehouse.
        every_table: `tables: "*"`: all tables of the origin's schema that `include` and `exclude` leave.
        slot: for cdc: the replication slot's name, and its publication's.
        max_wal: for cdc: bytes of log that the slot may retain at the origin; None for no bound.
    """

    origin: Name
    origin_schema: Name | None = field(default=None, metadata={"key": "schema"})
    destination: Name | None = None
    every_table: EveryTable = field(default=False, metadata={"key": "tables"})
    include: Names = ()
    exclude: Names = ()
    slot: Slot | None = None
    max_wal: Bytes | None = None


@dataclass(frozen=True, kw_only=True)
class SourceBlock(SourceKeys, TableKeys):
    """A source's block: what it says of itself, and of all its tables."""


@dataclass(frozen=True, kw_only=True)
class DeliveryKeys:
    """What can be said of a delivery.

    Attributes:
        destination: reads dlt's `[destination.NAME]`.
        schema: at the destination; the model's own when None.
        table: at the destination; the exposure's name when None.
        model: which of the models that the exposure depends on is delivered; None where it is only one.
        types: as for a source: `text`, ... for columns that the destination shall have in another type.
        evolve: columns of a table that the bridge did not create may be added and widened.
        deletes: for merge: `own` deletes what an earlier delivery inserted and the model has no more.
    """

    destination: Name
    schema: Name | None = None
    table: Name | None = None
    write_disposition: Literal["replace", "append", "merge"]
    primary_key: Names = ()
    columns: Names = ()
    model: Name | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    evolve: bool = False
    deletes: Literal["none", "own"] = "none"


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
"""What YAML 1.1 reads as something else than text."""


def quote_in_yaml(name: str) -> str:
    """The name, in quotes where it needs them."""
    is_plain = _PLAIN.fullmatch(name) and name.lower() not in _WORDS
    return name if is_plain else json.dumps(name, ensure_ascii=False)
