"""Logs that origins keep for this project although no source of it uses them any more, and that fill their disks.

A source was removed or renamed, its replication is another now, or its dbt target is gone: nobody reads its log, and
nobody lets go of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dbt_bridge.contracts.change_source import KeptLog
from dbt_bridge.errors import BridgeError, OriginError
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.nouns.quantities import format_bytes
from dbt_bridge.nouns.table import quote_literal
from dbt_bridge.project.origins import find_log


@dataclass(frozen=True, slots=True)
class UnusedLog:
    """A log that nobody uses.

    Attributes:
        retained_bytes: of log that the origin keeps; None where it could not be asked.
        nodes: unique_ids of the tables that were followed through it, as far as the warehouse remembers them.
        unknown: why the origin could not be asked.
        made_for: `project/target`, where the warehouse remembers nothing of it: another one may.
    """

    origin: str
    slot: str
    retained_bytes: int | None
    nodes: tuple[str, ...] = ()
    unknown: str = ""
    made_for: str = ""

    @property
    def what(self) -> str:
        was = f" (it was that of {', '.join(self.nodes)})" if self.nodes else ""
        if self.made_for and not was:
            was = f" (made for {self.made_for}: make sure that nobody runs that with another profile or warehouse)"
        unused = f"and no source uses it any more{was}"
        if self.retained_bytes is None:
            return f"slot {self.slot!r} of origin {self.origin!r} may retain log, {unused}: {self.unknown}"
        size = format_bytes(self.retained_bytes)
        return f"slot {self.slot!r} of origin {self.origin!r} retains {size} of log, {unused}"

    @property
    def mend(self) -> str:
        if self.retained_bytes is None:
            rows = " OR ".join(f"node = {quote_literal(node)}" for node in self.nodes)
            forget = f"DELETE FROM _dbt_bridge.checkpoints WHERE {rows};"  # noqa: S608
            return (
                f"dbt-bridge slots drop {self.slot}, when it answers; or, where it is gone, in the warehouse: {forget}"
            )
        return f"dbt-bridge slots drop {self.slot}"


@dataclass(slots=True)
class UnusedLogs:
    """Finds them, origin by origin; each is asked once.

    Args:
        points: what the warehouse remembered before a run changed it.
    """

    project: Project
    points: Sequence[Checkpoint]
    _found: dict[str, Sequence[UnusedLog]] = field(default_factory=dict)

    @property
    def origins(self) -> tuple[str, ...]:
        """Of the project's sources, and of those that the warehouse remembers."""
        named = {source.origin for source in self.project.sources}
        return tuple(sorted(named | {origin for origin, _ in self._remembered()}))

    def of(self, origin: str) -> Sequence[UnusedLog]:
        """Those of one origin; none where it has no log or cannot be asked."""
        if origin not in self._found:
            self._found[origin] = self._find(origin)
        return self._found[origin]

    def refuse_beyond(self, source: LandingSource) -> None:
        """Raises OriginError: one of this target is larger than the source's `max_wal`. Another target's is told, but
        its `max_wal` is another, and it may be in use there."""
        bound = source.max_wal
        for unused in self.of(source.origin) if bound is not None else ():
            if bound is not None and self._is_of_target(unused) and (unused.retained_bytes or 0) > bound:
                raise OriginError(f"{unused.what}; max_wal is {format_bytes(bound)}", mend=unused.mend)

    def _is_of_target(self, unused: UnusedLog) -> bool:
        """Whether this warehouse remembers it, or it was made for this target."""
        return bool(unused.nodes) or unused.made_for in ("", f"{self.project.name}/{self.project.target}")

    def _find(self, origin: str) -> Sequence[UnusedLog]:
        remembered = {slot: nodes for (of, slot), nodes in self._remembered().items() if of == origin}
        try:
            changes = find_log(origin, project_root=self.project.root)
            if changes is None:
                return ()
            with changes:
                kept = changes.list_logs()
        except BridgeError as error:
            if any(source.origin == origin for source in self.project.sources):
                return ()  # that is told of its tables
            return [UnusedLog(origin, slot, None, tuple(sorted(n)), error.what) for slot, n in remembered.items()]
        used = list_used(self.project)
        return [
            UnusedLog(
                origin, log.name, log.retained_bytes, tuple(sorted(remembered.get(log.name, ()))), made_for=log.owner
            )
            for log in kept
            if (origin, log.name) not in used
            and not log.is_read
            and (log.name in remembered or _is_ours(log, origin, self.project))
        ]

    def _remembered(self) -> Mapping[tuple[str, str], list[str]]:
        """(origin, slot) -> tables, of the checkpoints that are of no source's log."""
        found: dict[tuple[str, str], list[str]] = {}
        used = list_used(self.project)
        for point in self.points:
            place = point.origin, point.slot.rpartition("/")[2]
            if point.slot and place not in used:
                found.setdefault(place, []).append(point.node)
        return found


def list_used(project: Project) -> Collection[tuple[str, str]]:
    """(origin, slot) of each source that follows a log, whatever is selected."""
    return {(source.origin, source.slot) for source in project.sources if source.follows_log}


def find_named(logs: UnusedLogs, slot: str) -> list[UnusedLog]:
    """The unused logs of a name."""
    return [unused for origin in logs.origins for unused in logs.of(origin) if unused.slot == slot]


def _is_ours(log: KeptLog, origin: str, project: Project) -> bool:
    """Whether it was made for this project, and for this target or one that the profile has no more; or for a source
    that lands otherwise now. A name alone says nothing: a log of another project may begin like ours."""
    if log.owner:
        name, _, target = log.owner.rpartition("/")
        return name == project.name and target not in project.other_targets
    return any((source.origin, source.slot) == (origin, log.name) for source in project.sources)
