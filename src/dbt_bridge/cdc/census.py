"""The tables of a cdc source: which are followed, which must be copied (and why), which cannot be followed.

The change source says how each table stands at the origin; what the declaration, the checkpoint and the destination add
to it is decided here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dbt_bridge.cdc.followed_keys import check_keys
from dbt_bridge.cdc.followed_source import make_declared_table
from dbt_bridge.contracts.change_feed import FollowedTable, TableFinding, TableVersion
from dbt_bridge.contracts.change_source import ChangeSource
from dbt_bridge.contracts.destination import (
    CHANGE,
    CHANGE_LSN,
    COMMITTED_AT,
    DELETED_AT,
    VALID_FROM,
    VALID_TO,
    Destination,
    Replica,
)
from dbt_bridge.errors import BridgeError, ConnectionFailed, DestinationError, KeyRefused, UsageError
from dbt_bridge.nouns.checkpoint import BEGINNING, Checkpoint, HistoryClock, TableMemory, TableState
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.project import LandingTable
from dbt_bridge.nouns.refusals import Refusals
from dbt_bridge.nouns.table import Column, Table, TableName, quote_table_name
from dbt_bridge.sync.ends import Ends
from dbt_bridge.sync.landing_columns import find_landing_columns, landing_columns, shows
from dbt_bridge.sync.unfit import fit_types
from dbt_bridge.sync.wanted import Wanted
from dbt_bridge.system.retry import is_transient


@dataclass(frozen=True, slots=True)
class Tracked:
    """A table that is followed.

    Attributes:
        followed: what the feed knows of it.
        replica: what the destination knows of it.
        without: columns that would land if the log had them, and why it does not; empty for none.
        clock: of its history.
    """

    wanted: Wanted
    followed: FollowedTable
    replica: Replica
    without: str = ""
    clock: HistoryClock = BEGINNING

    @property
    def node(self) -> str:
        return self.wanted.table.node

    @property
    def position(self) -> Position:
        """Where it stands."""
        return self.followed.position

    def at(self, position: Position) -> Tracked:
        """The same table, standing at least at a position."""
        return replace(self, followed=replace(self.followed, position=max(position, self.position)))

    def checkpoint(self, identity: str) -> Checkpoint:
        """Where the table stands, and in which shape."""
        memory = TableMemory(self.followed.shape, fingerprint(self.wanted), list_hidden(self.wanted), self.clock)
        origin, place = self.wanted.source.origin, self.wanted.place
        at = self.position
        return Checkpoint(self.node, origin, "", str(at), identity, memory.as_text(), landing=place, past=at.past)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Tables by node.

    Attributes:
        needed: that are copied where they have not landed: those that the selection needs, and those that were lost.
        anew: those of them that are copied whether or not they have.
    """

    needed: frozenset[str]
    anew: frozenset[str]


@dataclass(frozen=True, slots=True)
class Census:
    """What is to be done with each table of a source.

    Attributes:
        tracked: go on from their checkpoints.
        to_copy: table -> why it is copied.
        refused: table -> why it cannot be followed now.
        findings: how each table stands at the origin that does.
    """

    tracked: Mapping[str, Tracked] = field(default_factory=dict)
    to_copy: Mapping[str, tuple[Wanted, str]] = field(default_factory=dict)
    refused: Mapping[str, tuple[Wanted, BridgeError]] = field(default_factory=dict)
    findings: Mapping[str, TableFinding] = field(default_factory=dict)


def take_census(
    changes: ChangeSource,
    ends: Ends,
    wanted: Sequence[Wanted],
    checkpoints: Mapping[str, Checkpoint],
    chosen: Chosen,
) -> Census:
    """Decide for each table.

    Args:
        wanted: every table of the source that is declared, needed or not: all that are followed move together.
        checkpoints: of the tables that have one for this log.

    Raises:
        ConnectionFailed, OriginError, DestinationError: one of the ends did not answer.
    """
    tracked: dict[str, Tracked] = {}
    to_copy: dict[str, tuple[Wanted, str]] = {}
    refused: dict[str, tuple[Wanted, BridgeError]] = {}
    findings: dict[str, TableFinding] = {}
    points = {item.table.node: checkpoints.get(item.table.node) for item in wanted}
    newly_hidden = {item.table.node: _newly_hidden(item, points[item.table.node]) for item in wanted}
    found = changes.take_census(
        [
            make_declared_table(item, points[item.table.node], asks_latest=bool(newly_hidden[item.table.node]))
            for item in wanted
        ]
    )
    for declared in wanted:
        item = declared
        node, point = item.table.node, points[item.table.node]
        try:
            finding = found[node]
            if isinstance(finding, BridgeError):
                raise finding
            findings[node] = finding
            natural = Table(finding.version.name, finding.version.columns, finding.version.key)
            item = fit_types(item, natural, ends.destination, anew=node in chosen.anew)
            _refuse(changes, ends, item, (point, newly_hidden[node]), finding)
            is_followed = point is not None and point.state is not TableState.SET_ASIDE
            verdict = "full refresh" if node in chosen.anew else _go_on(changes, ends, item, point, finding)
            if isinstance(verdict, Tracked):
                tracked[node] = verdict
            elif node in chosen.needed or (is_followed and node not in chosen.anew):
                # Refused before a log is kept for it.
                track(ends, item, finding.latest or finding.version, changes.beginning)
                to_copy[node] = (item, verdict)
        except (DestinationError, ConnectionFailed):
            raise  # of an end, not of this table: nothing has to be copied anew for it
        except BridgeError as error:
            if is_transient(error):
                raise
            if point is not None or node in chosen.needed:
                refused[node] = (item, error)
    return Census(tracked, to_copy, refused, findings)


def _refuse(
    changes: ChangeSource,
    ends: Ends,
    wanted: Wanted,
    before: tuple[Checkpoint | None, set[str]],
    finding: TableFinding,
) -> None:
    """Refuse what the origin refuses, and what would show values that are to be hidden.

    Args:
        before: the table's checkpoint, and what its declaration hides that it did not hide there.
    """
    point, newly_hidden = before
    if finding.refused is not None:
        raise _join_own_refusals(ends.destination, wanted, finding.version, finding.refused)
    _refuse_hidden_renamed(wanted, point, finding)
    if newly_hidden and finding.latest is not None:
        # What is wrong in the declaration itself is said first: a slip in a name must drop no history.
        replica = track(ends, wanted, finding.latest, changes.beginning).replica
        _refuse_what_was_kept(ends.destination, replica, newly_hidden)


def track(ends: Ends, wanted: Wanted, version: TableVersion, position: Position) -> Tracked:
    """A table in the version that its landing table has.

    Raises:
        KeyRefused: the key by which changes are found does not land, or rows are not told apart by it there.
        UsageError: its declaration names columns that it does not have, or it has columns that the bridge adds.
        TypeRefused: the destination has no exact form of a type.
    """
    destination = ends.destination
    key, log_only = version.key, wanted.table.write_disposition == "append"
    columns = _find_columns(destination, wanted, version)

    def map_columns(table: Table, renamed: Mapping[str, str]) -> tuple[Column, ...]:
        mapped = landing_columns(table, wanted.table, destination)
        _refuse_shown(table.name, renamed, wanted.table)
        return mapped

    node, mask = wanted.table.node, dict(wanted.table.mask)
    followed = FollowedTable(
        node, version.name, version.shape, columns, key, position, map_columns, mask, log_only, version.rotates
    )  # fmt: skip
    landing = Table(wanted.landing, tuple(_plain(c, wanted) for c in columns), () if log_only else key)
    replica = Replica(node, landing, wanted.table.deletes, wanted.table.history, log_only, ends.names)
    return Tracked(wanted, followed, replica, format_unfollowed(version, wanted.table))


def _find_columns(destination: Destination, wanted: Wanted, version: TableVersion) -> tuple[Column, ...]:
    """The columns that land, after a look at everything that could be wrong with them; raises what `track` does."""
    refusals = Refusals()
    columns: tuple[Column, ...] = ()
    with refusals.gather():
        natural = Table(version.name, version.columns, version.key)
        columns = find_landing_columns(natural, wanted.table, destination, refusals)
    names = [column.name for column in version.columns if wanted.table.columns.lets_land(column.name)]
    with refusals.gather():
        _refuse_own_names(names, wanted)
    if wanted.table.write_disposition != "append":
        with refusals.gather():
            _refuse_absent_key(version, names)
        with refusals.gather():
            check_keys(destination, wanted.landing, version, columns, wanted.table.mask)
    refusals.raise_all()
    return columns


def _join_own_refusals(
    destination: Destination, wanted: Wanted, version: TableVersion, refused: BridgeError
) -> BridgeError:
    """What the origin refuses, and what would be refused here if it did not."""
    refusals = Refusals()
    refusals.add(refused)
    with refusals.gather():
        _find_columns(destination, wanted, version)
    return refusals.join() or refused


def _refuse_absent_key(version: TableVersion, names: Sequence[str]) -> None:
    if absent := [column for column in version.key if column not in names]:
        raise KeyRefused(
            f"{version.name}: the key column {absent[0]!r} does not land, and changes are found by it",
            mend=f"take {absent[0]!r} into `columns`, or `write_disposition: append` for a log of changes",
        )


def format_unfollowed(version: TableVersion, declared: LandingTable) -> str:
    """The columns that would land if the log had them, and why it does not; empty for none."""
    return "; ".join(str(column) for column in version.unfollowed if shows(column.name, declared))


def _plain(column: Column, wanted: Wanted) -> Column:
    """An override or a mask stands above the origin's own type, which a destination of the same kind would take."""
    chosen = column.name in wanted.table.types or column.name in wanted.table.mask
    return replace(column, origin_type="" if chosen else column.origin_type, nullable=True)


def _go_on(
    changes: ChangeSource, ends: Ends, wanted: Wanted, point: Checkpoint | None, finding: TableFinding
) -> Tracked | str:
    """The table as it goes on from its checkpoint; or why it must be copied."""
    if point is None:
        return "it has not landed yet"
    if not point.stands:
        return f"it was set aside: {point.set_aside}"
    if finding.lost:
        return finding.lost
    if point.memory is None or point.memory.declaration != fingerprint(wanted):
        return "its declaration in the dbt YAML changed"
    position = replace(changes.parse_position(point.value), past=point.past)
    tracked = track(ends, wanted, finding.version, position)
    if ends.destination.find_table(wanted.landing) is None:
        return "its landing table is gone"
    return replace(tracked, clock=point.memory.clock)


def fingerprint(wanted: Wanted) -> str:
    """What of the declaration changes the rows that land; not the columns that the origin itself adds."""
    table = wanted.table
    said = [
        str(wanted.relation), sorted(table.types.items()), table.columns.include, table.columns.exclude,
        sorted(table.mask.items()), table.deletes, table.history, table.write_disposition == "append",
        wanted.source.destination or "",
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def list_hidden(wanted: Wanted) -> tuple[str, ...]:
    """What of the declaration hides values: each mask, and each choice of columns."""
    table = wanted.table
    chosen = [f"include {glob}" for glob in table.columns.include] + [
        f"exclude {glob}" for glob in table.columns.exclude
    ]
    return tuple(sorted([*chosen, *(f"mask {column}" for column in table.mask)]))


def _newly_hidden(wanted: Wanted, point: Checkpoint | None) -> set[str]:
    """What of the declaration hides values that the table's last copy showed."""
    before = point.memory if point is not None else None
    return set() if before is None else set(list_hidden(wanted)).difference(before.hidden)


def _refuse_hidden_renamed(wanted: Wanted, point: Checkpoint | None, finding: TableFinding) -> None:
    """A column that is hidden by its name has another one at the origin, and nobody has looked at the declaration.

    Raises:
        UsageError: it would land as it is.
    """
    before = point.memory if point is not None else None
    if before is not None and before.hidden == list_hidden(wanted):
        _refuse_shown(finding.name, finding.renamed, wanted.table)


def _refuse_shown(table: TableName, renamed: Mapping[str, str], declared: LandingTable) -> None:
    """Raises UsageError: a column that was hidden by its name is renamed, and would land as it is."""
    for old, new in renamed.items():
        if not shows(old, declared) and shows(new, declared):
            raise UsageError(
                f"{table}: its hidden column {old!r} was renamed to {new!r} at the origin, and would land as it is",
                mend=f"name {new!r} in `mask` or `columns` in the place of {old!r}, then: dbt-bridge sync",
            )


def _refuse_what_was_kept(destination: Destination, replica: Replica, newly: set[str]) -> None:
    """A new copy replaces rows, but not those that are kept for ever.

    Raises:
        UsageError: values are to be hidden that a history, soft deletes or a log hold in the open.
    """
    lasting = [replica.history_name] if replica.history else []
    lasting += [replica.table.name] if replica.deletes == "soft" or replica.change_log else []
    standing = [name for name in lasting if destination.find_table(name) is not None]
    if newly and standing:
        raise UsageError(
            f"{', '.join(sorted(newly))}: {', '.join(map(str, standing))} keeps values from before, and would go on"
            " showing them",
            mend=" ".join(f"DROP TABLE {quote_table_name(name)};" for name in standing) + " then dbt-bridge sync",
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
