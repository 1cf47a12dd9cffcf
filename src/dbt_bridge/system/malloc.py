"""Whether large blocks go back to the operating system when they are freed."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE = 1 << 20  # bytes
_MOST = 32 << 20  # the most that glibc lets it grow to by itself (DEFAULT_MMAP_THRESHOLD_MAX)


@functools.cache
def give_back_large_blocks() -> None:
    """Keep glibc from raising its threshold for blocks of their own.

    It does so, up to 32 MB, whenever such a block is freed (mallopt(3), M_MMAP_THRESHOLD); the vectors of a run of
    messages then come from the heaps of three threads, which keep what they once had: 100 to 150 MB more at the same
    work. Other C libraries are left as they are.
    """
    _threshold(_LARGE)


@contextmanager
def large_blocks_kept() -> Iterator[None]:
    """Where batch after batch of the same size comes by, each block from the system costs more than it gives back: a
    fifth of a comparison's CPU time, for 20 MB."""
    _threshold(_MOST)
    try:
        yield
    finally:
        if give_back_large_blocks.cache_info().currsize:
            _threshold(_LARGE)


def _threshold(size: int) -> None:
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, size)
