"""Large transactions that the server streams before their commit wait in files, and are given when they commit.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html (Stream Start, Stop, Commit, Abort)

A chunk of such a transaction lies between Stream Start and Stream Stop; each message in it carries the id of its
(sub)transaction behind its letter. Per transaction there is a file of bytes and one of positions, both written and read
in pieces, so memory does not grow with the transaction.

The rows are as the origin sent them, before any column is left out or masked. So no name leads to a file: whoever else
looks finds nothing to open, and the kernel frees it with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from dbt_bridge.connectors.postgres.changes.messages import SLACK, Messages
from dbt_bridge.errors import OriginError
from dbt_bridge.system.temporary_files import is_of_another_user, remove_leftovers

_START, _STOP, _COMMIT, _ABORT, _ORIGIN = b"SEcAO"
_CONTROL = np.array([_START, _STOP, _COMMIT, _ABORT], np.uint8)
_PIECE_MESSAGES = 65_536
_PIECE_BYTES = 16 << 20
_POSITION = np.dtype("<u4")  # twice per message: bytes skipped before its letter, bytes from there to its end
_NAMED = "streamed-"  # folders of files with names, which earlier versions left when they were killed


class Spool:
    """The streamed transactions of one stream.

    Args:
        name: the origin's, for messages.
        folder: on whose disk they wait; made when it is absent.

    Raises (from every method):
        OriginError: the folder cannot be written, or its disk is full.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._streamed: dict[int, _Streamed] = {}
        self._current: _Streamed | None = None  # whose chunk has begun and not stopped

    def __enter__(self) -> Spool:
        with self._writing():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner()
            remove_leftovers(self._folder, _NAMED)
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what waits: after a reconnect the server streams it again."""
        self._current = None
        for streamed in self._streamed.values():
            streamed.close()
        self._streamed.clear()

    def unspool(self, run: Messages) -> Iterator[Messages]:
        """The run without streamed chunks, and each streamed transaction where it commits, in bounded pieces."""
        at = 0
        for index in np.flatnonzero(np.isin(run.kind, _CONTROL)).tolist():
            yield from self._between(run.slice(at, index))
            at = index + 1
            yield from self._control(run, index)
        yield from self._between(run.slice(at, len(run)))

    def _between(self, messages: Messages) -> Iterator[Messages]:
        if not len(messages):
            return
        if self._current is None:
            yield messages
            return
        with self._writing():
            self._current.add(messages)

    def _control(self, run: Messages, index: int) -> Iterator[Messages]:
        kind, body = int(run.kind[index]), run.buffer[run.body[index] : run.end[index]].tobytes()
        if kind == _STOP:
            self._current = None
            return
        xid = int.from_bytes(body[:4], "big")
        if kind == _START:
            if body[4] or xid not in self._streamed:
                self._abort(xid, xid)
                with self._writing():
                    self._streamed[xid] = _Streamed(self._folder)
            self._current = self._streamed[xid]
        elif kind == _ABORT:
            self._abort(xid, int.from_bytes(body[4:8], "big"))
        else:
            yield from self._commit(xid, body)

    def _abort(self, xid: int, subxid: int) -> None:
        if xid not in self._streamed:
            return
        if subxid == xid:
            self._streamed.pop(xid).close()
        else:
            self._streamed[xid].aborted.append(subxid)

    def _commit(self, xid: int, body: bytes) -> Iterator[Messages]:
        """Begin, the transaction's messages, Commit.

        Stream Commit: xid, flags, where the commit record starts and ends, its time. Begin wants start, time, xid;
        Commit all but the xid.
        """
        streamed = self._streamed.pop(xid, None)
        if streamed is None:
            raise OriginError(
                f"origin {self._name!r} commits the streamed transaction {xid}, of which it has sent nothing",
                mend="run again: nothing of it was applied; if it comes back, something between here and the server"
                " changes bytes",
            )
        yield _single(b"B" + body[5:13] + body[21:29] + body[:4])
        with self._writing():
            yield from streamed.pieces()
            streamed.close()
        yield _single(b"C" + body[4:29])

    def _check_owner(self) -> None:
        if is_of_another_user(self._folder):
            raise OriginError(
                f"origin {self._name!r}: large transactions would wait for their commit in {self._folder}, which"
                " belongs to another user",
                mend="set TMPDIR to a folder that only your user can write to",
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OriginError(
                f"origin {self._name!r}: a large transaction cannot wait for its commit in {self._folder}: "
                f"{error.strerror or error}",
                mend=f"free space in {self._folder} (a transaction takes about what its rows take as text), "
                "then run the same command again",
            ) from error


class _Streamed:
    """One transaction that has not committed yet."""

    def __init__(self, folder: Path) -> None:
        self._bytes: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self._positions: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.aborted: list[int] = []  # ids of subtransactions

    def add(self, messages: Messages) -> None:
        letter = messages.body - 1
        first = int(letter[0])
        positions = np.empty((len(messages), 2), _POSITION)
        positions[0, 0] = 0
        positions[1:, 0] = letter[1:] - messages.end[:-1]
        positions[:, 1] = messages.end - letter
        self._bytes.write(messages.buffer[first : int(messages.end[-1])].data)
        self._positions.write(positions.data)
        self._bytes.flush()  # where the disk is full, it is told here
        self._positions.flush()

    def pieces(self) -> Iterator[Messages]:
        aborted = np.array(sorted(self.aborted), np.uint32)
        self._bytes.seek(0)
        self._positions.seek(0)
        while True:
            raw = self._positions.read(2 * _PIECE_MESSAGES * _POSITION.itemsize)
            read = np.frombuffer(raw, _POSITION).astype(np.int64)
            if not len(read):
                return
            ends = np.cumsum(read)
            while len(read):
                fit = max(int(np.searchsorted(ends[1::2], _PIECE_BYTES, "right")), 1)
                size = int(ends[2 * fit - 1])
                piece = np.zeros(size + SLACK, np.uint8)
                if self._bytes.readinto(piece[:size].data) != size:  # type: ignore[attr-defined]
                    raise OSError("a file is shorter than what was written to it")
                messages = _drop_aborted(piece, ends[: 2 * fit], aborted)
                if len(messages):
                    yield messages
                read, ends = read[2 * fit :], ends[2 * fit :] - size

    def close(self) -> None:
        """The files have no names, and go."""
        self._bytes.close()
        self._positions.close()


def _drop_aborted(buffer: np.ndarray, positions: np.ndarray, aborted: np.ndarray) -> Messages:
    """The messages of subtransactions that committed; Origin carries no transaction id, and says nothing to us."""
    letter, end = positions[0::2], positions[1::2]
    kind = buffer[letter]
    keep = kind != _ORIGIN
    if len(aborted):
        where = np.minimum(letter[:, None] + np.arange(1, 5), len(buffer) - 1)
        xid = np.ascontiguousarray(buffer[where]).view(">u4")[:, 0]
        keep &= ~np.isin(xid, aborted)
    return Messages(buffer, kind[keep], letter[keep] + 5, end[keep])


def _single(message: bytes) -> Messages:
    buffer = np.frombuffer(message + bytes(SLACK), np.uint8)
    return Messages(buffer, buffer[:1], np.ones(1, np.int64), np.array([len(message)], np.int64))
