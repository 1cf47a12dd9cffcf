"""Memory that is free goes back to the operating system: large blocks at once, the rest where it is asked for."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE = 1 << 20  # bytes
_MOST = 32 << 20  # the most that glibc lets it grow to by itself (DEFAULT_MMAP_THRESHOLD_MAX)


@functools.cache
def return_large_blocks() -> None:
    """Keep glibc from raising its threshold for blocks of their own.

    It does so, up to 32 MB, whenever such a block is freed (mallopt(3), M_MMAP_THRESHOLD); the vectors of a run of
    messages then come from the heaps of three threads, which keep what they once had: 100 to 150 MB more at the same
    work. Other C libraries are left as they are.
    """
    _set_threshold(_LARGE)


@contextmanager
def keep_large_blocks() -> Iterator[None]:
    """Where batch after batch of the same size comes by, each block from the system costs more than it gives back: a
    fifth of a comparison's CPU time, for 20 MB."""
    _set_threshold(_MOST)
    try:
        yield
    finally:
        if return_large_blocks.cache_info().currsize:
            _set_threshold(_LARGE)


def trim_memory() -> None:
    """Give back what streamed by and left holes, in which the next step finds no room. Takes some 10 ms.

    After 5 million rows of 17 columns glibc held 70 MB that nobody used: batches were made and freed by threads that
    have an arena each, and free(3) gives back nothing but the end of an arena.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    if (trim := _malloc_trim()) is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Any:
    """malloc_trim(3), which glibc alone has."""
    if sys.platform != "linux":
        return None
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except OSError:  # an interpreter that is linked statically loads nothing
        return None


def _set_threshold(size: int) -> None:
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, size)
