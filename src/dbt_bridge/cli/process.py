"""The process around a command: standard streams that may be closed, full or read by nobody, a user without a home,
and somebody who presses Ctrl-C more than once."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from typing import TextIO

from dbt_bridge.system.environment import find_home

_INPUT, _OUTPUT, _ERRORS = 0, 1, 2
_replaced: list[
    TextIO
] = []  # a stream that nobody holds closes its descriptor, and the next file that is opened gets it


class Outlet(io.FileIO):
    """A file descriptor to which writing never fails: what nobody reads, or has no room, is dropped from then on.

    A build must not end in its middle because somebody piped what it prints into `head`.

    Attributes:
        failure: why something was dropped; None where nobody wanted it.
    """

    failure: OSError | None = None

    def write(self, data: object) -> int:
        try:
            while (written := super().write(data)) is None:  # type: ignore[arg-type]
                select.select([], [self], [])  # a pipe that whoever started us has set so that nobody waits for it
            return written
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.failure = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes  # type: ignore[arg-type]


def open_outlet(descriptor: int, like: TextIO | None = None, *, encoding: str | None = None) -> TextIO:
    """A text stream over an `Outlet`, with another stream's encoding."""
    outlet = Outlet(descriptor, "wb", closefd=False)
    named = encoding or getattr(like, "encoding", None) or "utf-8"
    errors = getattr(like, "errors", None) or "backslashreplace"
    buffered = io.BufferedWriter(outlet)
    return io.TextIOWrapper(buffered, named, errors, line_buffering=descriptor == _ERRORS or outlet.isatty())


def find_failure(stream: TextIO) -> OSError | None:
    """Why the stream could not be written, after all of it was; None where it could."""
    stream.flush()
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, Outlet) else None


def prepare_process() -> None:
    """Before a command begins: file descriptors 0 to 2 are there, and writing to them ends nothing.

    A file that is opened while one of them is closed takes its number, and whatever prints would print into it.
    """
    for descriptor in (_INPUT, _OUTPUT, _ERRORS):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if opened != descriptor:
                os.dup2(opened, descriptor)
            os.set_inheritable(descriptor, True)  # a dbt that is started has the same need
    if sys.stdin is None:
        sys.stdin = open(_INPUT, encoding="utf-8", closefd=False)  # noqa: SIM115 - a file descriptor
    _replaced.extend(stream for stream in (sys.stdout, sys.stderr) if stream is not None)
    if sys.stdout is None or not sys.stdout.isatty():
        sys.stdout = open_outlet(_OUTPUT, sys.stdout)
    if sys.stderr is None or not sys.stderr.isatty():
        sys.stderr = open_outlet(_ERRORS, sys.stderr)
    # dbt, dlt and DuckDB ask for the home without regard for who has none.
    if "HOME" not in os.environ and hasattr(os, "getuid"):
        os.environ["HOME"] = str(find_home())


def handle_interruptions() -> None:
    """The first SIGINT or SIGTERM raises KeyboardInterrupt; the second one is what the first one does already; the
    third ends the process at once, which loses nothing that had landed."""
    count = 0

    def interrupt(_: int, __: object) -> None:
        nonlocal count
        count += 1
        if count == 1:
            raise KeyboardInterrupt
        if count > 2:
            os._exit(130)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
