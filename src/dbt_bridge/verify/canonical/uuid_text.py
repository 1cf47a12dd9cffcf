"""The bytes of uuids that are written as text."""

from __future__ import annotations

import re
import uuid

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_PARTS_OF_UUID = ((0, 8), (9, 13), (14, 18), (19, 23), (24, 36))  # between its dashes
ZERO = "00000000-0000-0000-0000-000000000000"
_ONES = np.uint64(0x0101010101010101)


def read(text: str) -> bytes:
    """Of one uuid in any spelling. Raises ValueError."""
    if re.search("[^-{}0-9a-fA-F]", text):  # int() in uuid.UUID also reads spaces and underscores
        raise ValueError(f"{text!r} is no uuid")
    return uuid.UUID(text).bytes


def bytes_of(array: pa.Array) -> NDArray[np.uint32] | None:
    """The 16 bytes of each, eight digits at a time; None where one is not written as PostgreSQL does."""
    if not len(array):
        return np.zeros(0, np.uint32)
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    if (offsets[1:] - offsets[:-1] != 36).any():
        return None
    written = np.frombuffer(array.buffers()[2], np.uint8, 36 * len(array), int(offsets[0])).reshape(-1, 36)
    if any((written[:, dash] != ord("-")).any() for dash in (8, 13, 18, 23)):
        return None
    characters = np.empty((len(array), 32), np.uint8)
    place = 0
    for begin, end in _PARTS_OF_UUID:
        characters[:, place : place + end - begin] = written[:, begin:end]
        place += end - begin
    eight = characters.view(np.uint64)
    is_letter = (eight >> np.uint64(6)) & _ONES
    digits = (eight & (_ONES * np.uint64(15))) + is_letter * np.uint64(9)
    is_letter = ((digits + _ONES * np.uint64(6)) >> np.uint64(4)) & _ONES
    spelled = digits + _ONES * np.uint64(ord("0")) + is_letter * np.uint64(ord("a") - ord("9") - 1)
    if (spelled != eight).any() or (digits & (_ONES * np.uint64(0xF0))).any():
        return None  # upper case, or no hexadecimal digit
    pairs = ((digits << np.uint64(4)) | (digits >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    pairs = (pairs | (pairs >> np.uint64(8))) & np.uint64(0x0000FFFF0000FFFF)
    return (pairs | (pairs >> np.uint64(16))).astype(np.uint32)
