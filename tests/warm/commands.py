"""Commands that start at once: `dbt-bridge`, `dbt` and `python` in a folder for PATH; see server.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# It hands its command line, folder, environment and standard streams to the server, passes signals on, and ends with
# the command's exit code. Isolated and without `site` it starts in a fiftieth of a second.
_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
order = {{"command": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ)}}
text = json.dumps(order).encode() + b"\\n"
sent = socket.send_fds(server, [text[:65536]], [0, 1, 2])
server.sendall(text[sent:])
answers = server.makefile()
child = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.kill(child, number))
code = int(answers.readline() or 1)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
_NAMES = ("dbt-bridge", "dbt", "python")


@contextmanager
def started(folder: Path) -> Iterator[Path]:
    """A server in this folder; gives the folder of its commands."""
    address = folder / "s"
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("server.py")), str(address)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        commands = folder / "bin"
        commands.mkdir()
        for name in _NAMES:
            (commands / name).write_text(_CLIENT.format(python=sys.executable, address=str(address)))
            (commands / name).chmod(0o755)
        yield commands
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()
