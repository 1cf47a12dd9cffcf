"""Whether a slot still has every change that the followed tables need, and keeps no more log than it may."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dbt_bridge.cdc.census import Tracked
from dbt_bridge.connectors.postgres.changes.slot import Replication, misfit
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns import lsn
from dbt_bridge.nouns.quantities import format_bytes
from dbt_bridge.nouns.selector import selector

_NEAR = 0.8  # of max_wal: told
_OLDEST = "SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start;"
_LOOK = 10.0  # seconds between two looks


def check_ours(replication: Replication, slot: str) -> None:
    """Refuse a slot of this name that is another program's or database's, before anything is copied.

    Raises:
        OriginError: it is.
    """
    state = replication.slot(slot)
    if state is None:
        return
    ((database,),) = replication.query("SELECT current_database()")
    if problem := misfit(state, database):
        raise OriginError(f"origin {replication.name!r}: {problem}", mend="give the source another `slot:` name")


def check_slot(replication: Replication, slot: str, followed: Sequence[Tracked]) -> None:
    """Refuse to go on where changes between a table's checkpoint and the slot's position would be missing.

    Raises:
        OriginError: names the tables that must be copied again.
    """
    if not followed:
        return
    tables = " ".join(selector(t.node) for t in followed)
    names = ", ".join(t.node for t in followed)
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
    if behind := [t.node for t in followed if t.followed.position < confirmed]:
        raise OriginError(
            f"{place} has moved on to {lsn.spelled(confirmed)}, beyond the checkpoints of {', '.join(behind)}: another"
            " warehouse read from it, or this one is an older copy",
            mend=f"give each warehouse a `slot:` of its own; then {resync}",
        )
    end = replication.current_lsn()
    if ahead := [t.node for t in followed if t.followed.position > end]:
        raise OriginError(
            f"the checkpoints of {', '.join(ahead)} are ahead of the origin {replication.name!r}, whose log ends at"
            f" {lsn.spelled(end)}: it was restored from a backup",
            mend=resync,
        )


def let_log_go(replication: Replication, slot: str, upto: int) -> None:
    """Advance a slot that no table is followed through: what it retains is of use to nobody."""
    state = replication.slot(slot)
    if state is not None and not state.is_lost and (state.confirmed_flush_lsn or 0) < upto:
        replication.query(
            "SELECT pg_replication_slot_advance(%(slot)s, %(upto)s::pg_lsn)", {"slot": slot, "upto": lsn.spelled(upto)}
        )


class WalGuard:
    """Looks after the log that a slot retains at the origin, whose disk it fills.

    Args:
        max_wal: bytes; None for no bound.
        warn: told once when the slot nears the bound.
    """

    def __init__(self, replication: Replication, slot: str, max_wal: int | None, warn: Callable[[str], None]) -> None:
        self._replication = replication
        self._slot = slot
        self._max_wal = max_wal
        self._warn = warn
        self._warned = False
        self._looked = 0.0
        self._before: int | None = None

    def is_bearable(self) -> bool:
        """True; looks every few seconds, and minds a backlog only while it does not shrink.

        Raises:
            OriginError: the slot retains more than the bound, and more than at the last look.
        """
        now = time.monotonic()
        if self._max_wal is not None and now - self._looked >= _LOOK:
            self._looked = now
            before, retained = self._before, self._retained()
            self._before = retained
            if retained > self._max_wal and before is not None and retained >= before:
                raise self._too_much(retained)
        return True

    def check(self) -> None:
        """After everything was applied.

        Raises:
            OriginError: the slot retains more than the bound all the same.
        """
        if self._max_wal is not None and (retained := self._retained()) > self._max_wal:
            raise self._too_much(retained)

    def _retained(self) -> int:
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
