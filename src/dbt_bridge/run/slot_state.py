"""Whether a slot still has every change that the followed tables need, and keeps no more log than it may."""

from __future__ import annotations

from collections.abc import Sequence

from dbt_bridge import lsn
from dbt_bridge.errors import OriginError
from dbt_bridge.extract.postgres.slot import Replication
from dbt_bridge.progress import in_bytes
from dbt_bridge.run.tracked import Tracked

_WARNING = 0.8  # of max_wal


def check_slot(replication: Replication, slot: str, followed: Sequence[Tracked]) -> None:
    """Refuse to go on where changes between a table's checkpoint and the slot's position would be missing.

    Raises:
        OriginError: names the tables that must be copied again.
    """
    if not followed:
        return
    tables = " ".join(f"source:{t.wanted.source.name}.{t.wanted.table.name}" for t in followed)
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


def wal_warning(replication: Replication, slot: str, max_wal: int | None) -> tuple[str, bool]:
    """What is to be said of the log that the slot retains (nothing when all is well), and whether it is too much."""
    state = replication.slot(slot)
    if max_wal is None or state is None or state.retained_bytes < max_wal * _WARNING:
        return "", False
    kept = in_bytes(state.retained_bytes)
    said = f"slot {slot!r} retains {kept} of log at the origin, and max_wal is {in_bytes(max_wal)}"
    return said, state.retained_bytes > max_wal
