"""Messages of a replication slot, received through libpq by a thread of their own.

https://www.postgresql.org/docs/current/protocol-replication.html (START_REPLICATION, XLogData, keepalives)
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

from dbt_bridge.connectors.postgres.changes.lsn import format_lsn
from dbt_bridge.connectors.postgres.changes.messages import Messages
from dbt_bridge.connectors.postgres.changes.receiver import Patience, Receiver, Runs
from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.connectors.postgres.changes.spool import Spool
from dbt_bridge.connectors.postgres.changes.walsender import Walsender
from dbt_bridge.errors import ConnectionFailed, OriginError
from dbt_bridge.nouns.table import quote_identifier, quote_literal
from dbt_bridge.system.retry import SLOT, retry

OBJECT_IN_USE = "55006"  # SQLSTATE: postgresql.org/docs/current/errcodes-appendix.html


class ReplicationStream:
    """What a slot sends, from an LSN on. Constructing does no I/O; a context manager.

    One transaction after another as protocol version 1 has them: those that the server streamed before their commit
    wait in files until then.

    Args:
        name: the origin's, for messages.
        slot: exists; is read by nobody else.
        publications: exist since before `start`.
        start: transactions whose commit record starts below it are not sent.
        binary: values in their types' binary form, where the server knows it (14 and later).
        spool_folder: where large transactions wait for their commit; None to have the server keep them.

    Raises (from entering and from `next`):
        ConnectionFailed: the server cannot be reached, or went silent.
        OriginError: the slot is absent, in use or lost, the server broke off, or the spool's disk is full.
    """

    status_every = 10.0  # seconds; well below the server's wal_sender_timeout (60 s by default)
    silence = 60.0  # seconds without any byte, though an answer was asked for, after which the server counts as gone
    in_use = SLOT  # how long it is tried again while the slot is in use

    goodbye = 5.0  # seconds to wait for the server to have taken the last acknowledgement

    def __init__(
        self,
        name: str,
        url: str,
        slot: str,
        publications: Sequence[str],
        start: int,
        *,
        binary: bool,
        spool_folder: Path | None,
    ) -> None:
        self.name = name
        self._url = url
        self._slot = slot
        self._publications = tuple(publications)
        self._start = start
        self._binary = binary
        self._spool_folder = spool_folder
        self._acknowledged = 0
        self._runs: Runs | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> ReplicationStream:
        if self._thread is not None:
            raise RuntimeError("a stream is entered once")
        with Replication(self.name, self._url) as replication, contextlib.ExitStack() as undo:
            walsender = undo.enter_context(Walsender(replication.connections))
            self._start_replication(replication, walsender)
            spool = None
            if self._spool_folder is not None:
                spool = undo.enter_context(Spool(self.name, self._spool_folder))
            self._runs = Runs()
            receiver = Receiver(walsender, spool, self._runs, Patience(self.status_every, self.silence, self.goodbye))
            undo.pop_all()
        self._thread = threading.Thread(target=receiver.run, name=f"dbt-bridge-{self._slot}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def next(self, wait: float) -> Messages | None:
        """The next run of messages; None when nothing came within `wait` seconds.

        A run without messages has a newer `sent`. All that came before an error is given before it is raised.
        """
        return self._require_entered().get(wait)

    def acknowledge(self, lsn: int) -> None:
        """Everything that committed below `lsn` is durable at the destination: the server need not keep it."""
        self._require_entered().acknowledge(lsn)

    def close(self) -> None:
        """Tell the server the last acknowledgement, end the stream in order and disconnect, within a few seconds."""
        if self._thread is not None and self._runs is not None:
            self._runs.stop()
            self._thread.join()

    def _require_entered(self) -> Runs:
        if self._runs is None:
            raise RuntimeError("enter the stream first")
        return self._runs

    def _start_replication(self, replication: Replication, walsender: Walsender) -> None:
        command = self._command(walsender.server_version)

        def is_in_use(error: Exception) -> bool:
            """The slot may have become free between the refusal and the look."""
            if not isinstance(error, OriginError):
                return False
            state = replication.slot(self._slot)
            return (state is not None and state.active) or error.sqlstate == OBJECT_IN_USE

        def expect_answer(seconds: float) -> None:
            """The server answers before it reads its log, so it is not what it works on."""
            if seconds >= self.silence:
                raise ConnectionFailed(
                    f"origin {self.name!r}: its server has not answered START_REPLICATION for {seconds:.0f} s",
                    mend="check the network between here and the server; then run the same command again",
                )

        try:
            retry(lambda: walsender.command(command, waiting=expect_answer), self.in_use, is_in_use)
        except OriginError as error:
            state = replication.slot(self._slot)
            if state is not None and state.active:
                raise replication.make_in_use_error(state) from error
            replication.require_usable(self._slot)  # says what is wrong with the slot, if it is the slot
            raise

    def _command(self, version: int) -> str:
        """START_REPLICATION with what this server's pgoutput knows.

        https://www.postgresql.org/docs/current/protocol-logical-replication.html
        """
        streamed = self._spool_folder is not None and version >= 140000
        names = ",".join(quote_identifier(name) for name in self._publications)
        options = [f"proto_version '{2 if streamed else 1}'", f"publication_names {quote_literal(names)}"]
        if self._binary and version >= 140000:
            options.append("binary 'true'")
        if streamed:
            options.append("streaming 'on'")
        at = format_lsn(self._start)
        return f"START_REPLICATION SLOT {quote_identifier(self._slot)} LOGICAL {at} ({', '.join(options)})"
