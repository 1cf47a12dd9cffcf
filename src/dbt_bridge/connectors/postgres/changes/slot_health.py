"""Whether a slot still has every change that the followed tables need, and keeps no more log than it may."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from dbt_bridge.connectors.postgres.changes.lsn import format_lsn
from dbt_bridge.connectors.postgres.changes.publication import read_owner
from dbt_bridge.connectors.postgres.changes.slot import PLUGIN, Replication, SlotState, find_misfit
from dbt_bridge.contracts.change_source import KeptLog, LogHealth
from dbt_bridge.contracts.settings import ChangeSourceSettings
from dbt_bridge.errors import OriginError, UsageError
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.quantities import format_bytes
from dbt_bridge.nouns.selector import format_shell_selector

_NEAR = 0.8  # of max_wal, from which on a person is warned
_OLDEST = "SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start;"
_LOOK = 10.0  # seconds between two looks
_OTHER_NAME = "give the source another `slot:` name"
# A walsender's replay lag is NULL when the reader has confirmed all there is. Since PostgreSQL 17 a slot says since
# when nobody reads it; before, nothing at the server does.
_LAG = """
SELECT CASE WHEN s.active THEN coalesce(extract(epoch FROM w.replay_lag), 0)
            ELSE extract(epoch FROM clock_timestamp() - (to_jsonb(s) ->> 'inactive_since')::timestamptz)
       END::float8
FROM pg_replication_slots s
LEFT JOIN pg_stat_replication w ON w.pid = s.active_pid
WHERE s.slot_name = %(name)s
"""


# Slots from which changes of this database can be read, and the comment of a publication of the same name.
_KEPT = """
SELECT s.slot_name, coalesce(obj_description(p.oid, 'pg_publication'), '')
FROM pg_replication_slots s
LEFT JOIN pg_publication p ON p.pubname = s.slot_name
WHERE s.database = current_database()
"""


def list_kept(replication: Replication) -> list[KeptLog]:
    """The slots of this database that may be dbt-bridge's."""
    comments = dict(replication.query(_KEPT))
    return [
        KeptLog(state.name, state.retained_bytes, state.active, read_owner(comments[state.name]))
        for state in replication.slots()
        if state.name in comments and state.plugin == PLUGIN and not state.temporary
    ]


def check_ours(replication: Replication, slot: str) -> None:
    """Refuse a slot of this name that is another program's or database's, before anything is copied.

    Raises:
        OriginError: it is.
    """
    if problem := _foreign(replication, slot):
        raise OriginError(f"origin {replication.name!r}: {problem}", mend=_OTHER_NAME)


def refuse_foreign(replication: Replication, settings: ChangeSourceSettings) -> None:
    """Refuse to drop a slot that is another program's or database's.

    Raises:
        UsageError: it is.
    """
    if problem := _foreign(replication, settings.slot):
        raise UsageError(f"source {settings.source}: {problem}", mend=_OTHER_NAME)


def _foreign(replication: Replication, slot: str) -> str | None:
    state = replication.slot(slot)
    if state is None:
        return None
    ((database,),) = replication.query("SELECT current_database()")
    return find_misfit(state, database)


def check_slot(replication: Replication, slot: str, positions: Mapping[str, Position]) -> None:
    """Refuse to go on where changes between a table's checkpoint and the slot's position would be missing.

    Args:
        positions: node -> where the table stands.

    Raises:
        OriginError: names the tables that must be copied again.
    """
    if not positions:
        return
    tables = " ".join(format_shell_selector(node) for node in positions)
    names = ", ".join(positions)
    resync = f"dbt-bridge sync --full-refresh --select {tables}"
    state = replication.slot(slot)
    place = f"slot {slot!r} of origin {replication.name!r}"
    if state is None or state.is_lost:
        why = "is gone" if state is None else f"is lost ({state.invalidation_reason or state.wal_status})"
        raise OriginError(
            f"{place} {why}: the changes since the last sync cannot be had any more, of {names}",
            mend=resync if state is None else f"dbt-bridge slots drop {slot}, then {resync}",
        )
    confirmed = state.confirmed_flush_lsn or 0
    if behind := [node for node, position in positions.items() if position.ordinal < confirmed]:
        raise OriginError(
            f"{place} has moved on to {format_lsn(confirmed)}, beyond the checkpoints of {', '.join(behind)}: another"
            " warehouse read from it, or this one is an older copy",
            mend=f"give each warehouse a `slot:` of its own; then {resync}",
        )
    end = replication.current_lsn()
    if ahead := [node for node, position in positions.items() if position.ordinal > end]:
        raise OriginError(
            f"the checkpoints of {', '.join(ahead)} are ahead of the origin {replication.name!r}, whose log ends at"
            f" {format_lsn(end)}: it was restored from a backup",
            mend=resync,
        )


def advance_slot(replication: Replication, slot: str, upto: Position) -> None:
    """Let go of the log of a slot that no table is followed through: what it retains is of use to nobody."""
    state = replication.slot(slot)
    if state is not None and not state.is_lost and (state.confirmed_flush_lsn or 0) < upto.ordinal:
        replication.query(
            "SELECT pg_replication_slot_advance(%(slot)s, %(upto)s::pg_lsn)", {"slot": slot, "upto": str(upto)}
        )


def describe_health(replication: Replication, settings: ChangeSourceSettings, sync: str) -> LogHealth:
    """How the slot stands.

    Args:
        sync: the command that brings the source up.
    """
    state = replication.slot(settings.slot)
    if state is None:
        return LogHealth(exists=False)
    ((database,),) = replication.query("SELECT current_database()")
    lag = replication.query(_LAG, {"name": settings.slot})
    problem, mend = _find_problem(state, database, settings.max_wal, sync)
    return LogHealth(
        exists=True,
        active=state.active,
        active_pid=state.active_pid,
        lag_bytes=state.lag_bytes,
        lag_seconds=lag[0][0] if lag else None,
        retained_bytes=state.retained_bytes,
        wal_status=state.wal_status,
        problem=problem,
        mend=mend,
    )


def _find_problem(state: SlotState, database: str, max_wal: int | None, sync: str) -> tuple[str, str]:
    """What is wrong with a slot, worst first, and the mend."""
    if foreign := find_misfit(state, database):
        return foreign, _OTHER_NAME
    if state.is_lost:
        why = state.invalidation_reason or "max_slot_wal_keep_size"
        return f"log that it needs is gone ({why})", f"dbt-bridge slots drop {state.name}, then {sync}"
    gone = f"{sync}; or, when nobody needs it any more, dbt-bridge slots drop {state.name}"
    if max_wal is not None and state.retained_bytes > max_wal:
        return f"it retains more than max_wal ({state.retained_bytes} of {max_wal} bytes)", gone
    if state.wal_status == "unreserved":
        return "the server removes its log at the next checkpoint", f"at once: {gone}"
    return "", ""


class WalGuard:
    """Looks after the log that a slot retains at the origin, whose disk it fills.

    Args:
        max_wal: bytes; None for no bound.
        warn: called once when the slot nears the bound.
    """

    def __init__(self, replication: Replication, slot: str, max_wal: int | None, warn: Callable[[str], None]) -> None:
        self._replication = replication
        self._slot = slot
        self._max_wal = max_wal
        self._warn = warn
        self._warned = False
        self._looked = 0.0
        self._before: int | None = None

    def check_progress(self) -> None:
        """Look every few seconds, and mind a backlog only while it does not shrink.

        Raises:
            OriginError: the slot retains more than the bound, and more than at the last look.
        """
        now = time.monotonic()
        if self._max_wal is not None and now - self._looked >= _LOOK:
            self._looked = now
            before, retained = self._before, self._measure_retained()
            self._before = retained
            if retained > self._max_wal and before is not None and retained >= before:
                raise self._too_much(retained)

    def check(self) -> None:
        """After everything was applied.

        Raises:
            OriginError: the slot retains more than the bound all the same.
        """
        if self._max_wal is not None and (retained := self._measure_retained()) > self._max_wal:
            raise self._too_much(retained)

    def _measure_retained(self) -> int:
        state = self._replication.slot(self._slot)
        retained = 0 if state is None else state.retained_bytes
        assert self._max_wal is not None
        if retained > _NEAR * self._max_wal and not self._warned:
            self._warned = True
            log, bound = format_bytes(retained), format_bytes(self._max_wal)
            self._warn(f"slot {self._slot!r} retains {log} of log; max_wal is {bound}")
        return retained

    def _too_much(self, retained: int) -> OriginError:
        assert self._max_wal is not None
        log, bound = format_bytes(retained), format_bytes(self._max_wal)
        return OriginError(
            f"slot {self._slot!r} of origin {self._replication.name!r} retains {log} of log, more than"
            f" max_wal: {bound}; a transaction that stays open holds it, or a destination too slow",
            mend=f"{_OLDEST} and end the oldest one; or give the log up: dbt-bridge slots drop {self._slot}",
        )
