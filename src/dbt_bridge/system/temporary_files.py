"""Folders for what does not fit into memory: each process has its own, and removes those that killed ones left."""

from __future__ import annotations

import errno
import getpass
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dbt_bridge.errors import BridgeError

_LOCK = "lock"
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
# DuckDB repeats the system's words, or says that its own limit is reached, which is a share of what was free.
_FULL_WORDS = ("No space left", "File too large", "Disk quota exceeded", "max_temp_directory_size")


def find_shared_folder(purpose: str) -> Path:
    """Where all processes of a user have such folders: in TMPDIR, or where the system keeps temporary files."""
    user = getattr(os, "getuid", getpass.getuser)()  # Windows has names only
    return Path(tempfile.gettempdir()) / f"dbt-bridge-{purpose}-{user}"


def is_of_another_user(folder: Path) -> bool:
    """A folder for temporary files is everybody's: somebody else may have made this one, to read what is in it."""
    return sys.platform != "win32" and folder.lstat().st_uid != os.getuid()


def make_own_folder(parent: Path, prefix: str) -> tuple[Path, IO[bytes]]:
    """A new folder in `parent`, readable by this user only, and the file by which it is ours until that is closed."""
    with (parent / ".lock").open("ab") as guard:
        _lock(guard, wait=True)
        remove_leftovers(parent, prefix)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = (folder / _LOCK).open("ab")
        _lock(lock)
    return folder, lock


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A folder that is removed when the context ends; where the process is killed, by the next one.

    Raises:
        OSError: it cannot be made.
    """
    parent = find_shared_folder(purpose)
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_of_another_user(parent):
        raise PermissionError(f"{parent} belongs to another user")
    folder, lock = make_own_folder(parent, "")
    try:
        yield folder
    finally:
        lock.close()
        shutil.rmtree(folder, ignore_errors=True)  # what stays is removed by the next one


def full(folder: Path, error: BaseException, what: str) -> BridgeError | None:
    """The error where the disk of temporary files is full; None where it says something else.

    Args:
        folder: where they are.
        what: could not be done.
    """
    said = " ".join(str(error).split())
    if getattr(error, "errno", None) not in _FULL and not any(words in said for words in _FULL_WORDS):
        return None
    free = shutil.disk_usage(folder).free // 1_000_000 if folder.exists() else 0
    return BridgeError(
        f"{what}: there is no room for temporary files in {folder}, where {free:,} MB are free: {said}",
        mend="free disk space there, or set TMPDIR to a folder on a larger disk, then run the same command again",
    )


def remove_leftovers(parent: Path, prefix: str) -> None:
    """Folders whose process has ended: its lock went with it."""
    for folder in [path for path in parent.glob(f"{prefix}*") if path.is_dir()]:
        try:
            with (folder / _LOCK).open("ab") as lock:
                abandoned = _lock(lock)
        except FileNotFoundError:
            abandoned = True  # made and locked under the parent's lock, so this one was being removed
        if abandoned:
            shutil.rmtree(folder, ignore_errors=True)


if sys.platform == "win32":

    def _lock(file: IO[bytes], *, wait: bool = False) -> bool:
        """Windows does not delete what another process has open: that is lock enough."""
        return True

else:
    import fcntl

    def _lock(file: IO[bytes], *, wait: bool = False) -> bool:
        """Whether the file is ours until it is closed; the kernel lets go of it when a process dies."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True
