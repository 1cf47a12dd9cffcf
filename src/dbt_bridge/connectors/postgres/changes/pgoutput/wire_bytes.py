"""The bytes of pgoutput's messages, read by vectors of positions, or field by field.

All integers are big-endian and not aligned. No claim of a message is trusted: none leads outside of its buffer.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from dbt_bridge.connectors.postgres.changes.messages import SLACK, Messages
from dbt_bridge.errors import OriginError


class Bytes:
    """Big-endian integers at vectors of positions, aligned or not.

    Attributes:
        buffer: the bytes, with SLACK after the last of them that a message holds.
    """

    def __init__(self, buffer: np.ndarray, end: int) -> None:
        """`end`: where the last message ends. A buffer without SLACK after it is copied."""
        if end + SLACK > len(buffer):
            buffer = np.concatenate((buffer, np.zeros(SLACK, np.uint8)))
        self.buffer = np.ascontiguousarray(buffer)
        self.last = len(self.buffer) - SLACK
        self.words = np.ndarray((self.last + 1,), np.dtype("<u8"), self.buffer, strides=(1,))

    def uint8(self, at: np.ndarray) -> np.ndarray:
        value: np.ndarray = self.buffer[at]
        return value

    def uint16(self, at: np.ndarray) -> np.ndarray:
        value: np.ndarray = self.words[at].astype("<u2").byteswap()
        return value

    def uint32(self, at: np.ndarray) -> np.ndarray:
        value: np.ndarray = self.words[at].astype("<u4").byteswap()
        return value

    def int64(self, at: np.ndarray) -> np.ndarray:
        value: np.ndarray = self.words[at].byteswap().view("<i8")
        return value


class Fields:
    """The fields of one message, read one after another.

    Raises (from every method): OriginError: the message has not what is read.
    """

    def __init__(self, messages: Messages, number: int) -> None:
        self.number = number
        self._bytes = messages.buffer[messages.body[number] : messages.end[number]].tobytes()
        self._at = 0

    def integer(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.raw(size), "big", signed=signed)

    def string(self) -> str:
        end = self._bytes.find(0, self._at)
        if end < 0:
            refuse(self.number, "is cut off (a name has no end)")
        try:
            text = self._bytes[self._at : end].decode()
        except UnicodeDecodeError:
            refuse(self.number, "holds a name that is no UTF-8")
        self._at = end + 1
        return text

    def raw(self, size: int) -> bytes:
        if self._at + size > len(self._bytes):
            refuse(self.number, "is cut off")
        self._at += size
        return self._bytes[self._at - size : self._at]

    def end(self) -> None:
        if self._at != len(self._bytes):
            refuse(self.number, "is longer than its fields")


def check(right: np.ndarray, numbers: np.ndarray, what: str) -> None:
    if not right.all():
        refuse(int(numbers[int(np.argmin(right))]), what)


def refuse(number: int, what: str) -> NoReturn:
    """`number`: of the message in its run, from 0."""
    raise OriginError(
        f"message {number + 1} of the replication stream's current run {what}",
        mend="run again: nothing of this run was applied; if it comes back, the server sends what pgoutput's"
        " documentation does not have, or something between here and there changes bytes",
    )
