"""`python server.py SOCKET`: `dbt-bridge`, `dbt` and Python scripts run in forks of a process that has imported.

A command of the suite takes four seconds to import dbt, dlt and pandas, and half of one to do its work. Each command
here is a process of its own, with the caller's folder, environment and standard streams; it saves the imports alone.
What a start imports, and that the installed commands start at all, is tested with them as they are installed.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

# What commands import at their start, and what they need of their drivers. Nothing of dbt_bridge that reads the
# environment or the folder when it is imported: there is no such thing, and tests/test_architecture.py keeps it so.
_IMPORTED = (
    "dbt.cli.main", "dbt.adapters.duckdb", "dbt.adapters.postgres", "dlt", "pandas", "sqlalchemy", "duckdb", "pyarrow",
    "psycopg", "adbc_driver_postgresql.dbapi", "rich.console", "rich.live", "pydantic", "jinja2", "deltalake",
    "dbt_bridge.cli",
)  # fmt: skip


def serve(path: str) -> None:
    """Answer until standard input ends: whoever started this server holds its other end."""
    sys.path.remove(str(Path(__file__).parent))
    for module in _IMPORTED:
        __import__(module)
    gc.freeze()  # what is imported is garbage for no child
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        print("ready", flush=True)
        if os.fork() == 0:
            _accept(listening)
        sys.stdin.read()
        os.killpg(0, signal.SIGTERM)


def _accept(listening: socket.socket) -> None:
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            _answer(connection)
        connection.close()


def _answer(connection: socket.socket) -> None:
    """Run one command in a child, and send its process id and then its exit code; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not message.endswith(b"\n"):
        message += connection.recv(1 << 20)
    child = os.fork()
    if child == 0:
        connection.close()
        _become(json.loads(message), streams)
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(BrokenPipeError):  # whoever asked was killed
        connection.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(order: dict[str, Any], streams: list[int]) -> NoReturn:
    """The command, in this process."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate(("r", "w", "w")))
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    tempfile.tempdir = None  # TMPDIR is read anew
    program, *arguments = order["command"]
    sys.argv = [program, *arguments]
    code: Any = 1
    try:
        code = _run(Path(program).name, arguments)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    _end(code)


def _end(code: Any) -> NoReturn:
    """As Python ends a process, but for what C++ destroys: threads of the server's libraries are no child's to join."""
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, BrokenPipeError):  # closed, or nobody reads any more
            stream.flush()
    os._exit(code or 0)


def _run(name: str, arguments: list[str]) -> Any:
    if name == "dbt-bridge":
        from dbt_bridge.cli import main

        return main()
    if name == "dbt":
        from dbt.cli.main import cli

        return cli()
    if arguments[0] == "-c":
        sys.argv = arguments
        sys.path.insert(0, "")
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        return 0
    sys.argv = arguments  # python SCRIPT ...
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    return runpy.run_path(arguments[0], run_name="__main__") and 0


if __name__ == "__main__":
    serve(sys.argv[1])
