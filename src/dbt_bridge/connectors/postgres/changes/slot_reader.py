"""One process reads a slot at a time; what this process left behind at the server does not keep it from going on."""

from __future__ import annotations

import time

from dbt_bridge.connectors.postgres.changes.slot import Replication

_BUSY = 10.0  # seconds in which a slot's last reader may still be on its way out
_LEAVING = 1.0  # seconds in which a reader that was ended may leave by itself

# `system identifier/slot` -> the server process that sent to this process last. After a connection that went silent
# the server does not know that nobody listens, and keeps the slot for wal_sender_timeout (a minute by default).
_LAST: dict[str, int] = {}


def wait_until_free(replication: Replication, slot: str, identity: str) -> None:
    """Wait for the slot's last reader, who may have been killed a moment ago; one of our own is ended.

    Args:
        identity: `system identifier/slot`.

    Raises:
        OriginError: somebody else reads the slot.
    """
    began = time.monotonic()
    while (state := replication.slot(slot)) is not None and state.active:
        waited = time.monotonic() - began
        if waited >= _BUSY:
            raise replication.make_in_use_error(state)
        if waited >= _LEAVING and _LAST.get(identity) == state.active_pid:
            replication.query("SELECT pg_terminate_backend(%(pid)s)", {"pid": state.active_pid})
        time.sleep(0.1)


def remember_reader(replication: Replication, slot: str, identity: str) -> None:
    """Now that we read it: which server process sends."""
    state = replication.slot(slot)
    if state is not None and state.active_pid is not None:
        _LAST[identity] = state.active_pid
