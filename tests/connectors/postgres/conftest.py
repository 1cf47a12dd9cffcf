"""What the tests of change capture share: reading messages in the plainest way, and a network that fails on demand."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from dbt_bridge.connectors.postgres.changes.messages import Messages


@dataclass
class Transaction:
    """What one transaction said: (kind, table, values as text), in order."""

    xid: int
    lsn: int
    changes: list[tuple[str, str, tuple[str | None, ...]]] = field(default_factory=list)


class Reader:
    """Reads messages one by one, as the manual describes them, and refuses what a Messages run may not hold."""

    def __init__(self) -> None:
        self.transactions: list[Transaction] = []
        self.is_open = False
        self.sent = 0
        self._names: dict[int, str] = {}

    def read(self, run: Messages) -> None:
        assert run.sent >= self.sent
        self.sent = run.sent
        for kind, start, end in zip(run.kind.tolist(), run.body.tolist(), run.end.tolist(), strict=True):
            self._message(chr(kind), run.buffer[start:end].tobytes())

    def _message(self, kind: str, body: bytes) -> None:
        if kind == "B":
            assert not self.is_open
            lsn, _, xid = struct.unpack(">QqI", body)
            assert not self.transactions or lsn > self.transactions[-1].lsn, "commits come in the order of the log"
            self.transactions.append(Transaction(xid, lsn))
            self.is_open = True
        elif kind == "C":
            _, lsn, end, _ = struct.unpack(">BQQq", body)
            assert self.is_open and lsn == self.transactions[-1].lsn < end
            self.is_open = False
        elif kind == "R":
            oid, rest = struct.unpack(">I", body[:4])[0], body[4:].split(b"\0")
            self._names[oid] = f"{rest[0].decode()}.{rest[1].decode()}"
        elif kind == "T":
            count, _, *oids = struct.unpack(f">IB{(len(body) - 5) // 4}I", body)
            assert count == len(oids)
            self.transactions[-1].changes += [("T", self._names[oid], ()) for oid in oids]
        elif kind in "IUD":
            assert self.is_open
            oid, tuples = struct.unpack(">I", body[:4])[0], body[4:]
            if kind == "U" and tuples[:1] in b"KO":
                _, tuples = _tuple(tuples)
            values, rest = _tuple(tuples)
            assert not rest
            self.transactions[-1].changes.append((kind, self._names[oid], values))
        else:
            assert kind in "YO", f"{kind!r} is no message of protocol version 1"


def _tuple(data: bytes) -> tuple[tuple[str | None, ...], bytes]:
    """A tag (N, K or O) and the values; binary ones as hex."""
    (count,), at, values = struct.unpack(">H", data[1:3]), 3, list[str | None]()
    for _ in range(count):
        tag, at = data[at : at + 1], at + 1
        if tag in b"nu":
            values.append(None)
            continue
        (length,) = struct.unpack(">I", data[at : at + 4])
        value = data[at + 4 : at + 4 + length]
        values.append(value.decode() if tag == b"t" else value.hex())
        at += 4 + length
    return tuple(values), data[at:]


@pytest.fixture
def taken() -> Callable[..., Reader]:
    """`taken(stream, upto)` reads until the server has sent everything below `upto`, or fails after 30 s."""

    def read(stream, upto: int, reader: Reader | None = None, acknowledge: bool = False) -> Reader:
        reader, end = reader or Reader(), time.monotonic() + 180
        while reader.sent < upto or reader.is_open:
            assert time.monotonic() < end, f"{reader.sent:X} of {upto:X} after 30 s"
            run = stream.next(1)
            if run is not None:
                reader.read(run)
                if acknowledge and not reader.is_open:
                    stream.acknowledge(reader.sent)
        return reader

    return read
