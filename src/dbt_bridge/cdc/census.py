"""The tables of a cdc source: which are followed, which must be copied (and why), which cannot be followed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dbt_bridge.connectors.postgres.changes.followed import Followed, shown
from dbt_bridge.connectors.postgres.changes.publication import Publishable
from dbt_bridge.connectors.postgres.origin import shape as shapes
from dbt_bridge.connectors.postgres.origin.catalog import PRIMARY_KEY, resolve_columns
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.shape import Shape
from dbt_bridge.contracts.destination import (
    CHANGE,
    CHANGE_LSN,
    COMMITTED_AT,
    DELETED_AT,
    VALID_FROM,
    VALID_TO,
    Checkpoint,
    Destination,
    Replica,
)
from dbt_bridge.errors import BridgeError, ConnectionFailed, DestinationError, KeyRefused, OriginError, UsageError
from dbt_bridge.nouns import lsn
from dbt_bridge.nouns.table import (
    Column,
    Table,
    TableName,
    quote_table_name,
)
from dbt_bridge.sync.landing import Wanted
from dbt_bridge.sync.landing_columns import landing_columns, shows
from dbt_bridge.system.retry import is_transient

ANEW = "must be copied anew"  # begins why a table is set aside that nobody has to mend


@dataclass(frozen=True, slots=True)
class Tracked:
    """A table that is followed.

    Attributes:
        followed: what the feed knows of it.
        replica: what the destination knows of it.
    """

    wanted: Wanted
    followed: Followed
    replica: Replica

    @property
    def node(self) -> str:
        return self.wanted.table.node

    def at(self, position: int) -> Tracked:
        """The same table, standing at least at a position."""
        return replace(self, followed=replace(self.followed, position=max(position, self.followed.position)))

    def checkpoint(self, slot: str) -> Checkpoint:
        """Where the table stands, and in which shape."""
        memory = {
            "shape": json.loads(self.followed.shape.as_json()),
            "landing": fingerprint(self.wanted, self.replica),
            "hidden": hidden(self.wanted),
        }
        text = json.dumps(memory, ensure_ascii=False, separators=(",", ":"))
        at = lsn.spelled(self.followed.position)
        return Checkpoint(self.node, self.wanted.source.origin, "", at, slot, text)


@dataclass(frozen=True, slots=True)
class Census:
    """What is to be done with each table of a source.

    Attributes:
        tracked: go on from their checkpoints.
        to_copy: table -> why it is copied.
        refused: table -> why it cannot be followed now.
        shapes: the shape of each table now.
    """

    tracked: Mapping[str, Tracked] = field(default_factory=dict)
    to_copy: Mapping[str, tuple[Wanted, str]] = field(default_factory=dict)
    refused: Mapping[str, tuple[Wanted, BridgeError]] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(default_factory=dict)


def census(
    origin: Connections,
    destination: Destination,
    wanted: Sequence[Wanted],
    checkpoints: Mapping[str, Checkpoint],
    chosen: tuple[frozenset[str], frozenset[str]],
    known: Mapping[TableName, Publishable],
) -> Census:
    """Decide for each table.

    Args:
        origin: of this moment.
        wanted: every table of the source that is declared, asked for or not: all that are followed move together.
        checkpoints: of the tables that have one for this slot.
        chosen: the tables that the selection needs, as only they are copied; and those of them that are copied
            whatever their checkpoints say.
        known: what the catalog says of publishing each table.

    Raises:
        ConnectionFailed, OriginError, DestinationError: one of the ends could not be asked.
    """
    asked, anew = chosen
    tracked: dict[str, Tracked] = {}
    to_copy: dict[str, tuple[Wanted, str]] = {}
    refused: dict[str, tuple[Wanted, BridgeError]] = {}
    seen: dict[str, Shape] = {}
    for item in wanted:
        node, point = item.table.node, checkpoints.get(item.table.node)
        try:
            name = declared_name(origin, item)
            oid = shapes.find_oid(origin, name)
            now = None if oid is None else shapes.describe_shape(origin, oid)
            if now is None or name not in known:  # or was dropped between the two looks
                raise _missing(origin, name, point)
            seen[node] = now
            check_publishable(known[name], item)
            _refuse_shown(item, point, now)
            if newly := _newly_hidden(item, point):
                _refuse_what_was_kept(destination, track(origin, destination, item, now, 0).replica, newly)
            follows = point is not None and (not point.set_aside or point.set_aside.startswith(ANEW))
            why = "" if node in anew else _why_anew(origin, destination, item, point, now)
            if node not in anew and not why and point is not None:
                tracked[node] = _tracked(origin, destination, item, point, now)
            elif node in asked or (follows and node not in anew):
                to_copy[node] = (item, why or "full refresh")
        except (DestinationError, ConnectionFailed):
            raise  # of an end, not of this table: nothing has to be copied anew for it
        except BridgeError as error:
            if is_transient(error):
                raise
            if point is not None or node in asked:
                refused[node] = (item, error)
    return Census(tracked, to_copy, refused, seen)


def declared_name(origin: Connections, wanted: Wanted) -> TableName:
    """A table's name at the origin; the default schema is known to a connection."""
    if not wanted.source.origin_schema and not origin.server_version:
        origin.query("SELECT 1")
    return TableName(wanted.source.origin_schema or origin.default_schema, wanted.table.identifier)


def track(origin: Connections, destination: Destination, wanted: Wanted, shape: Shape, position: int) -> Tracked:
    """A table in the shape that its landing table has."""
    columns_sent = [column.wire_column for column in shape.columns]
    natural, _ = resolve_columns(origin, columns_sent)
    primary = origin.query(PRIMARY_KEY, {"oid": shape.oid})
    key = shapes.resolve_key(shape, wanted.table.primary_key, [row[0] for row in primary])
    columns = landing_columns(Table(shape.table, natural, key), wanted.table, destination)
    names = [column.name for column in columns]
    log_only = wanted.table.write_disposition == "append"
    if not log_only and (hidden := [column for column in key if column not in names]):
        raise KeyRefused(
            f"{shape.table}: the key column {hidden[0]!r} does not land, and changes are found by it",
            mend=f"take {hidden[0]!r} into `columns`, or `write_disposition: append` for a log of changes",
        )
    _refuse_own_names(names, wanted)

    def land(table: Table) -> tuple[Column, ...]:
        return landing_columns(table, wanted.table, destination)

    followed = Followed(
        wanted.table.node, shape.table, shape, columns, key, position, land, dict(wanted.table.mask), log_only
    )
    landing = Table(wanted.landing, tuple(_plain(c, wanted) for c in columns), () if log_only else key)
    replica = Replica(
        wanted.table.node, landing, wanted.table.deletes, history=wanted.table.history, change_log=log_only
    )
    return Tracked(wanted, followed, replica)


def _plain(column: Column, wanted: Wanted) -> Column:
    """An override or a mask stands above the origin's own type, which a destination of the same kind would take."""
    chosen = column.name in wanted.table.types or column.name in wanted.table.mask
    return replace(column, origin_type="" if chosen else column.origin_type, nullable=True)


_RELATION = """
SELECT 1
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('v', 'm', 'f')
"""


def _tracked(origin: Connections, destination: Destination, wanted: Wanted, point: Checkpoint, now: Shape) -> Tracked:
    known = Shape.from_json(json.dumps(json.loads(point.shape)["shape"]))
    # The same columns, untouched: a new file alone is a TRUNCATE or VACUUM FULL, which changes no stored value.
    known = now if known.columns == now.columns and known.table == now.table else known
    return track(origin, destination, wanted, known, lsn.parsed(point.value))


def _why_anew(
    origin: Connections, destination: Destination, wanted: Wanted, point: Checkpoint | None, now: Shape
) -> str:
    """Why the table must be copied; empty when it goes on from its checkpoint."""
    if point is None:
        return "it has not landed yet"
    if point.set_aside:
        return f"it was set aside: {point.set_aside}"
    memory = json.loads(point.shape)
    known = Shape.from_json(json.dumps(memory["shape"]))
    if known.oid != now.oid:
        return "it is another table of the same name at the origin"
    if lost := shapes.find_rewrite(known, now):
        return lost
    tracked = _tracked(origin, destination, wanted, point, now)
    if memory["landing"] != fingerprint(wanted, tracked.replica):
        return "its declaration in the dbt YAML changed"
    if destination.existing(wanted.landing) is None:
        return "its landing table is gone"
    return ""


def fingerprint(wanted: Wanted, replica: Replica) -> str:
    """What of the declaration changes the rows that land; not the columns that the origin itself adds."""
    table = wanted.table
    said = [
        str(replica.table.name), sorted(table.types.items()), table.columns.include, table.columns.exclude,
        sorted(table.mask.items()), table.deletes, table.history, replica.change_log, wanted.source.destination or "",
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def hidden(wanted: Wanted) -> list[str]:
    """What of the declaration hides values: each mask, and each choice of columns."""
    table = wanted.table
    chosen = [f"include {glob}" for glob in table.columns.include]
    chosen += [f"exclude {glob}" for glob in table.columns.exclude]
    return sorted([*chosen, *(f"mask {column}" for column in table.mask)])


def _newly_hidden(wanted: Wanted, point: Checkpoint | None) -> set[str]:
    """What of the declaration hides values that the table's last copy showed."""
    before = json.loads(point.shape)["hidden"] if point is not None and point.shape else hidden(wanted)
    return set(hidden(wanted)).difference(before)


def _refuse_shown(wanted: Wanted, point: Checkpoint | None, now: Shape) -> None:
    """A column that is hidden by its name has another one at the origin, and nobody has looked at the declaration.

    Raises:
        UsageError: it would land as it is.
    """
    if point is None or not point.shape or json.loads(point.shape)["hidden"] != hidden(wanted):
        return
    known = Shape.from_json(json.dumps(json.loads(point.shape)["shape"]))
    for old, new in (shapes.find_renames(known, now) if known.oid == now.oid else {}).items():
        if not shows(old, wanted.table) and shows(new, wanted.table):
            raise shown(now.table, old, new)


def _refuse_what_was_kept(destination: Destination, replica: Replica, newly: set[str]) -> None:
    """A new copy replaces rows, but not those that are kept for ever.

    Raises:
        UsageError: values are to be hidden that a history, soft deletes or a log hold in the open.
    """
    kept = [replica.history_name] if replica.history else []
    kept += [replica.table.name] if replica.deletes == "soft" or replica.change_log else []
    standing = [name for name in kept if destination.existing(name) is not None]
    if newly and standing:
        raise UsageError(
            f"{', '.join(sorted(newly))}: {', '.join(map(str, standing))} keeps values from before, and would go on"
            " showing them",
            mend=" ".join(f"DROP TABLE {quote_table_name(name)};" for name in standing) + " then dbt-bridge sync",
        )


def check_publishable(table: Publishable, wanted: Wanted) -> None:
    """Refuse a table that cannot be followed whole, before it is in a publication.

    Raises:
        OriginError: its rows are not, or not all, in the log under its name.
        KeyRefused: its updates and deletes do not say which row they mean, and they are not only appended.
    """
    if table.persistence != "p":
        raise OriginError(
            f"{table.name} is not in the log: it is unlogged, or temporary",
            mend=f"ALTER TABLE {quote_table_name(table.name)} SET LOGGED; or replication: initial_copy",
        )
    if table.has_heirs:
        raise OriginError(
            f"other tables inherit from {table.name}, and their changes come under their own names",
            mend="declare those tables beside it, each with cdc; or replication: initial_copy for this one",
        )
    if table.identifies or wanted.table.write_disposition == "append":
        return
    lacking = ", ".join(map(str, table.unidentified))
    full = " ".join(f"ALTER TABLE {quote_table_name(name)} REPLICA IDENTITY FULL;" for name in table.unidentified)
    raise KeyRefused(
        f"updates and deletes of {table.name} do not say which row they mean: no primary key and no other replica"
        f" identity (of {lacking})",
        mend=f"ALTER TABLE ... ADD PRIMARY KEY (...); or {full} or `write_disposition: append` in its bridge block,"
        " which lands its inserts as a log",
    )


def _refuse_own_names(names: Sequence[str], wanted: Wanted) -> None:
    table = wanted.table
    own = {
        DELETED_AT: table.deletes == "soft", VALID_FROM: table.history, VALID_TO: table.history,
        CHANGE: table.write_disposition == "append", CHANGE_LSN: table.write_disposition == "append",
        COMMITTED_AT: table.write_disposition == "append",
    }  # fmt: skip
    for name, used in own.items():
        if used and name in names:
            raise UsageError(
                f"{wanted.landing}: the origin has a column {name!r}, which the bridge adds itself here",
                mend=f"columns: {{exclude: [{name}]}}, or leave out `deletes: soft`, `history` or `append`",
            )


def _missing(origin: Connections, name: TableName, point: Checkpoint | None) -> OriginError:
    if origin.query(_RELATION, {"schema": name.schema, "name": name.name}):
        return OriginError(
            f"origin {origin.name!r}: {name} is no table but a view or a foreign table, whose rows are in no log",
            mend="replication: initial_copy or incremental in its bridge block; or exclude it",
        )
    what = f"origin {origin.name!r} has no table {name}"
    if point is None or not point.shape:
        return OriginError(what, mend="correct the table's name in the dbt source, or `identifier:`")
    known = Shape.from_json(json.dumps(json.loads(point.shape)["shape"]))
    now = shapes.describe_shape(origin, known.oid)
    if now is None:
        return OriginError(
            f"{what}: it was dropped, and its landing table stays as it last was",
            mend="take the table out of the dbt source, or create it at the origin again",
        )
    return OriginError(f"{what}: it was renamed to {now.table}", mend=f"identifier: {now.name} in the dbt source")
