"""Whom the making of a slot waits for: transactions that were open before it, and that only their owners can end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dbt_bridge.errors import OriginError

Query = Callable[[str, Mapping[str, object] | None], list[tuple[Any, ...]]]
_BLOCKERS = "SELECT DISTINCT unnest(pg_blocking_pids(%(pid)s))"
_PREPARED = "SELECT gid FROM pg_prepared_xacts ORDER BY prepared"


class Blockers:
    """Waits for the transactions that were open before a slot, up to a bound, and says which they are.

    Args:
        name: the origin's, for messages.
        query: of another connection than the one that waits.
        pid: of the server process that waits.
        timeout: seconds.
        on_wait: called once per set of transactions, after a few seconds.
    """

    def __init__(
        self, name: str, query: Query, pid: int, timeout: float, on_wait: Callable[[str], None] | None
    ) -> None:
        self._name = name
        self._query = query
        self._pid = pid
        self._timeout = timeout
        self._on_wait = on_wait
        self._reported = ""

    def __call__(self, seconds: float) -> None:
        if seconds < min(3.0, self._timeout):
            return
        who, mend = self._blockers()
        if seconds >= self._timeout:
            raise OriginError(f"origin {self._name!r}: its new slot waited {seconds:.0f} s for {who}", mend=mend)
        if self._on_wait is not None and who != self._reported:
            self._reported = who
            self._on_wait(f"the new slot waits for {who}")

    def _blockers(self) -> tuple[str, str]:
        pids = sorted(pid for (pid,) in self._query(_BLOCKERS, {"pid": self._pid}))
        if 0 in pids:  # of prepared transactions, which no process holds
            gids = [gid for (gid,) in self._query(_PREPARED, None)]
            return f"prepared transactions {', '.join(gids)}", "; ".join(f"ROLLBACK PREPARED '{g}'" for g in gids)
        if pids:
            named = ", ".join(map(str, pids))
            look = f"SELECT pid, usename, xact_start, query FROM pg_stat_activity WHERE pid IN ({named});"  # noqa: S608
            end = " ".join(f"SELECT pg_terminate_backend({pid});" for pid in pids)
            return f"transactions of server processes {named}", f"{look} end them, or: {end}"
        return (
            "the next record of running transactions",
            "SELECT pg_log_standby_snapshot(); at the primary of a standby",
        )
