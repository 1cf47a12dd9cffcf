"""Origins that come back as others: a disk that is set back, a standby that takes over."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dbt_bridge.demo import postgres
from dbt_bridge.demo.postgres import Server


def copy_disk(server: Server) -> Path:
    """The data directory of a server that is stopped, slots and all, beside it."""
    assert not (server.data / "postmaster.pid").exists(), "stop it first"
    copy = Path(tempfile.mkdtemp(prefix="dbt-bridge-disk-"))
    copy.rmdir()
    _copy_owned(server.data, copy)
    return copy


def set_back(server: Server, disk: Path, settings: Mapping[str, str]) -> Server:
    """The server on a disk that was copied before, as if nothing had been written since; the disk is used up."""
    server.stop()
    shutil.rmtree(server.data)
    disk.rename(server.data)
    return postgres.start(server.data, settings, binaries=server.binaries)


@contextmanager
def start_standby(
    primary: Server, settings: Mapping[str, str], *, slot: str = "", database: str = ""
) -> Iterator[Server]:
    """A standby of a server; removed at the end.

    Args:
        slot: a physical slot at the primary, through which it receives.
        database: that it connects to, as it must to synchronise slots.
    """
    data = Path(tempfile.mkdtemp(prefix="dbt-bridge-standby-"))
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    if account is not None:
        os.chown(data, account.pw_uid, account.pw_gid)
    data.chmod(0o700)
    copy = [primary.binaries / "pg_basebackup", "-d", primary.url(), "-D", data, "-R", "-c", "fast"]
    user = {"user": account.pw_uid, "group": account.pw_gid} if account is not None else {}
    subprocess.run(copy, check=True, capture_output=True, cwd=tempfile.gettempdir(), **user)
    upstream = f"host=127.0.0.1 port={primary.port} user={primary.user}" + f" dbname={database}" * bool(database)
    with (data / "postgresql.auto.conf").open("a") as conf:  # as ALTER SYSTEM: it holds when it is started again
        conf.write(f"primary_conninfo = '{upstream}'\nprimary_slot_name = '{slot}'\n")
    standby = postgres.start(data, settings, binaries=primary.binaries)
    try:
        yield standby
    finally:
        postgres.remove(standby)


def _copy_owned(source: Path, target: Path) -> None:
    """`cp -a`: the server refuses files of another owner."""
    subprocess.run(["cp", "-a", source, target], check=True, capture_output=True)
