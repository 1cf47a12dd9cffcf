"""The thread that receives a slot's messages, and the bounded queue between it and the consumer.

https://www.postgresql.org/docs/current/protocol-replication.html (XLogData, keepalive, status update)
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import psycopg

from dbt_bridge.connectors.postgres.changes.messages import SLACK, Messages
from dbt_bridge.connectors.postgres.changes.spool import Spool
from dbt_bridge.connectors.postgres.changes.walsender import Walsender
from dbt_bridge.errors import BridgeError, ConnectionFailed, OriginError

RUN_MESSAGES = 65_536
RUN_BYTES = 16 << 20
_WAITING = 2  # runs that wait for the consumer
_QUIET = 0.01  # seconds without data after which a run is given away
_LINGER = 0.25  # seconds after which a run is given away although data goes on coming

_HEADER = 25  # of XLogData: w, start, end, clock
_KEEPALIVE = struct.Struct(">cQQB")  # k, where the walsender stands, its clock, whether it wants an answer
_STATUS = struct.Struct(">cQQQqB")  # r, written, flushed, applied, our clock, whether we want an answer
_EPOCH = 946_684_800  # of Postgres: 2000-01-01, as seconds since 1970
_COMMIT = ord("C")
_EMPTY = Messages(np.empty(0, np.uint8), np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds.

    Attributes:
        status_every: between status updates, and without a byte before an answer is asked for.
        silence: without a byte, though an answer was asked for, after which the server counts as gone.
        goodbye: that the end of a stream may take.
    """

    status_every: float
    silence: float
    goodbye: float


class Runs:
    """Between the receiving thread and the consumer: a bounded queue, and a socket that wakes the thread."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.stopping = False
        self.woken, self._waker = socket.socketpair()
        self.woken.setblocking(False)
        self._waker.setblocking(False)
        self._ready: deque[Messages] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = False

    # the consumer's side

    def get(self, wait: float) -> Messages | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended, wait)
            if self._ready:
                run = self._ready.popleft()
                self._wake()
                return run
            if self._error is not None:
                raise self._error
            return None

    def acknowledge(self, lsn: int) -> None:
        if lsn > self.acknowledged:
            self.acknowledged = lsn
            self._wake()

    def stop(self) -> None:
        self.stopping = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: the thread wakes anyway; closed: it has ended
            self._waker.send(b"!")

    # the thread's side

    def is_full(self) -> bool:
        return len(self._ready) >= _WAITING

    def is_empty(self) -> bool:
        return not self._ready

    def put(self, run: Messages) -> None:
        with self._changed:
            self._ready.append(run)
            self._changed.notify()

    def slept(self) -> None:
        """Take the wakers' bytes."""
        with contextlib.suppress(BlockingIOError):
            while self.woken.recv(4096):
                pass

    def end(self, error: BaseException | None) -> None:
        with self._changed:
            self._error = error
            self._ended = True
            self._changed.notify_all()
        self.woken.close()
        self._waker.close()


class Receiver:
    """What the thread does: alone it uses the connection.

    Args:
        walsender: after START_REPLICATION; closed at the end, as is the spool.
        spool: for streamed transactions; None when there are none.
    """

    def __init__(self, walsender: Walsender, spool: Spool | None, runs: Runs, patience: Patience) -> None:
        self._walsender = walsender
        self._pgconn = walsender.pgconn
        self._pgconn.nonblocking = 1
        self._spool = spool
        self._runs = runs
        self._patience = patience
        self._pieces: list[memoryview] = []  # XLogData messages of the run that grows
        self._bytes = 0
        self._begun = 0.0  # when its first message came
        self._sent = 0
        self._sent_to_consumer = 0
        self._news_from = 0.0  # another database may write thousands of commits per second, which are no news
        self._reported = 0
        self._reported_at = self._heard = time.monotonic()
        self._asked = False  # whether the server owes an answer
        self._wakers = selectors.DefaultSelector()
        self._wakers.register(runs.woken, selectors.EVENT_READ)
        self._sockets = selectors.DefaultSelector()
        self._sockets.register(runs.woken, selectors.EVENT_READ)
        self._sockets.register(self._pgconn.socket, selectors.EVENT_READ)

    def run(self) -> None:
        """Receive until the consumer stops it or the stream breaks off."""
        error: BaseException | None = None
        try:
            while not self._runs.stopping:
                self._step()
            self._say_goodbye()
        except BaseException as raised:  # for the consumer: `next` raises it
            error = raised
        finally:
            self._wakers.close()
            self._sockets.close()
            self._walsender.close()
            if self._spool is not None:
                self._spool.close()
            self._runs.end(None if self._runs.stopping else error)

    def _step(self) -> None:
        """Take what libpq holds, give it away when it is time, then wait for more."""
        self._drain()
        now = time.monotonic()
        full = len(self._pieces) >= RUN_MESSAGES or self._bytes >= RUN_BYTES
        if self._pieces and (full or now - self._begun >= _LINGER):
            self._give()
        elif self._has_news() and now >= self._news_from:
            self._put(_EMPTY, self._sent)
            self._news_from = now + _LINGER
        self._report(now)
        if full:
            return  # libpq may hold more
        if self._sleep(_QUIET if self._pieces else self._pause(now)):
            # libpq's buffer grows only by what does not make a whole message, as it was drained before. TLS may keep
            # the rest of a record (16 KB at most, libpq reads 8 KB at least), which the socket does not show.
            for _ in range(3 if self._pgconn.ssl_in_use else 1):
                self._walsender.consume()
        elif self._pieces:
            self._give()

    def _has_news(self) -> bool:
        """Whether the consumer would learn from an empty run that the log went on."""
        return not self._pieces and self._sent > self._sent_to_consumer and self._runs.is_empty()

    def _drain(self) -> None:
        """Messages out of libpq's buffer: nothing is done with each but taking it."""
        get, add = self._pgconn.get_copy_data, self._pieces.append
        if not self._pieces:
            self._begun = time.monotonic()
        room, size = RUN_MESSAGES - len(self._pieces), self._bytes
        try:
            while room and size < RUN_BYTES:
                n, data = get(1)
                if n > _HEADER:
                    add(data)
                    size += n
                    room -= 1
                elif n == _KEEPALIVE.size:
                    self._keepalive(data)
                elif n == 0:
                    break
                else:
                    raise self._make_end_error()
        except psycopg.Error as error:
            raise self._walsender.make_broken_error() from error
        finally:
            self._bytes = size

    def _keepalive(self, data: memoryview) -> None:
        """Everything that committed before where the walsender stands was sent before this."""
        _, at, _, wants_answer = _KEEPALIVE.unpack(data)
        self._sent = max(self._sent, at)
        if wants_answer:
            self._tell()

    def _give(self) -> None:
        """Hand the run over, with streamed transactions in their places; only its last part has a newer `sent`."""
        lengths = np.fromiter(map(len, self._pieces), np.int64, len(self._pieces))
        buffer = np.frombuffer(b"".join((*self._pieces, bytes(SLACK))), np.uint8)
        end = np.cumsum(lengths)
        letter = end - lengths + _HEADER
        run = Messages(buffer, buffer[letter], letter + 1, end)
        self._pieces.clear()
        self._bytes = 0
        last: Messages | None = None
        for part in self._spool.unspool(run) if self._spool is not None else (run,):
            if last is not None:
                self._put(last, self._sent_to_consumer)
            if self._runs.stopping:  # nobody takes the rest of a large transaction
                return
            last = part
        if last is not None:
            self._sent = max(self._sent, _find_commit_end(last))
            self._put(last, self._sent)

    def _put(self, run: Messages, sent: int) -> None:
        """Into the queue. While it is full nothing is read, and the server hears that we live."""
        while self._runs.is_full() and not self._runs.stopping:
            now = time.monotonic()
            self._heard, self._asked = now, False  # nobody listens
            self._report(now)
            self._sleep(self._pause(now), reading=False)
        self._sent_to_consumer = sent
        self._runs.put(Messages(run.buffer, run.kind, run.body, run.end, sent))

    def _sleep(self, seconds: float, *, reading: bool = True) -> bool:
        """Until the server sends, the consumer calls, or time is over; whether the server has sent."""
        sent = False
        for key, _ in (self._sockets if reading else self._wakers).select(max(seconds, 0)):
            if key.fileobj is self._runs.woken:
                self._runs.slept()
            else:
                sent = True
        if sent:
            self._heard, self._asked = time.monotonic(), False
        return sent

    # --- what the server hears ---------------------------------------------------------------------------------

    def _report(self, now: float) -> None:
        """A status update when something was acknowledged, in good time before the server gives us up, or to ask."""
        quiet = now - self._heard
        if self._asked and quiet >= self._patience.silence:
            raise ConnectionFailed(
                f"origin {self._walsender.name!r}: its server has sent nothing for {quiet:.0f} s, though it was asked",
                mend="check the network between here and the server; then run the same command again",
            )
        if quiet >= self._patience.status_every and not self._asked:
            self._tell(ask=True)
        elif self._runs.acknowledged > self._reported or now - self._reported_at >= self._patience.status_every:
            self._tell()
        self._walsender.flush()

    def _pause(self, now: float) -> float:
        """Seconds until there is something to report."""
        listened = self._heard + (self._patience.silence if self._asked else self._patience.status_every)
        wake = min(self._reported_at + self._patience.status_every, listened)
        return (min(wake, self._news_from) if self._has_news() else wake) - now

    def _tell(self, *, ask: bool = False) -> None:
        acknowledged = self._runs.acknowledged
        clock = round((time.time() - _EPOCH) * 1_000_000)
        written = max(self._sent, acknowledged)
        status = _STATUS.pack(b"r", written, acknowledged, acknowledged, clock, ask)
        try:
            self._pgconn.put_copy_data(status)
        except psycopg.Error as error:
            raise self._walsender.make_broken_error() from error
        self._walsender.flush()
        self._reported_at, self._reported = time.monotonic(), acknowledged
        self._asked = self._asked or ask

    def _say_goodbye(self) -> None:
        """The last acknowledgement, and the end of COPY from both sides, which shows that the server has taken it.

        In the middle of a large transaction the server ends only after it: then it is left without its answer. It has
        read the acknowledgement or not; if not, it may send again what was acknowledged.
        """
        with contextlib.suppress(BridgeError, psycopg.Error):
            self._tell()
            self._pgconn.put_copy_end()
            end, over = time.monotonic() + self._patience.goodbye, False
            while (left := end - time.monotonic()) > 0:
                self._walsender.flush()
                if not over:
                    n, _ = self._pgconn.get_copy_data(1)
                    if n > 0:
                        continue
                    over = n < 0
                if over and self._has_ended():
                    return
                if self._sleep(left):
                    self._walsender.consume()

    def _has_ended(self) -> bool:
        """Whether every result of the command is there, after COPY is over."""
        while not self._pgconn.is_busy():
            if self._pgconn.get_result() is None:
                return True
        return False

    def _make_end_error(self) -> BridgeError:
        """Why the server ended COPY."""
        result = self._pgconn.get_result()
        if result is not None and result.error_message:
            return self._walsender.make_refusal(result)
        return OriginError(
            f"origin {self._walsender.name!r}: its server is shutting down",
            mend="run the same command again when the server is up",
            broke_off=True,
        )


def _find_commit_end(run: Messages) -> int:
    """Where the last Commit of a run ends: flags, where the commit record starts, where it ends."""
    commits = np.flatnonzero(run.kind == _COMMIT)
    if not len(commits):
        return 0
    at = int(run.body[commits[-1]]) + 9
    return int.from_bytes(run.buffer[at : at + 8].tobytes(), "big")
