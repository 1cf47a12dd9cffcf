"""A run of messages as the receiver makes them, from the bytes of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dbt_bridge.connectors.postgres.changes.messages import SLACK, Messages
from dbt_bridge.connectors.postgres.changes.pgoutput.wire_bytes import refuse


def join_messages(chunks: Sequence[bytes], sent: int = 0) -> Messages:
    """The messages one after another; `sent` as in `Messages`.

    Raises:
        OriginError: a message is empty.
    """
    length = np.fromiter(map(len, chunks), np.int64, len(chunks))
    if not length.all():
        refuse(int(np.argmin(length)), "is empty")
    end = np.cumsum(length)
    start = end - length
    buffer = np.frombuffer(b"".join((*chunks, bytes(SLACK))), np.uint8)
    return Messages(buffer, buffer[start], start + 1, end, sent)
