"""The process around a command: streams that are closed, full or read by nobody, no home, several interrupts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dbt_bridge.cli.process import find_failure, open_outlet
from dbt_bridge.system.environment import find_home

COMMAND = f'"{sys.executable}" -m dbt_bridge'


def run(script: str, redirected: str = "") -> subprocess.CompletedProcess[str]:
    """A script of Python, whose streams the shell redirects."""
    command = ["sh", "-c", f'"$0" -c "$1" {redirected}', sys.executable, script]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_what_nobody_reads_is_dropped_and_what_has_no_room_is_told() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = open_outlet(writing)
    print("nobody reads this", file=stream)
    assert find_failure(stream) is None
    os.close(writing)
    full = os.open("/dev/full", os.O_WRONLY) if Path("/dev/full").exists() else None
    if full is not None:
        stream = open_outlet(full)
        print("no room for this", file=stream)
        failure = find_failure(stream)
        assert failure is not None and failure.strerror == "No space left on device"
        print("nor for this", file=stream)
        stream.flush()
        os.close(full)


def test_a_pipe_that_nobody_may_wait_for_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stream, text = open_outlet(writing), "x" * 1_000_000
    received: list[bytes] = []

    def receive() -> None:
        with os.fdopen(reading, "rb") as pipe:
            received.append(pipe.read())

    reader = threading.Thread(target=receive)
    reader.start()
    print(text, end="", file=stream)
    assert find_failure(stream) is None
    os.close(writing)
    reader.join()
    assert received == [text.encode()]


def test_a_command_ends_well_whatever_its_streams_are() -> None:
    for redirected, code in (("| true", 0), (">&-", 0), ("<&- >&- 2>&-", 0), (">/dev/full", 1), ("2>/dev/full", 0)):
        if "full" in redirected and not Path("/dev/full").exists():
            continue
        inner = f"{COMMAND} --help; echo $? >&3" if "|" in redirected else ""
        line = f"{{ {inner} {redirected}; }} 3>&1" if inner else f"{COMMAND} --help {redirected}; echo $?"
        done = subprocess.run(["sh", "-c", line], check=False, capture_output=True, text=True)
        assert done.stdout.strip().splitlines()[-1] == str(code), (redirected, done)
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, redirected


def test_no_file_takes_the_number_of_a_closed_stream() -> None:
    script = "from dbt_bridge.cli.process import prepare_process as p; p(); f = open('/dev/null'); print('x'); "
    done = run(f"{script} raise SystemExit(f.fileno() <= 2)", "<&- >&- 2>&-")
    assert done.returncode == 0
    child = "import os; [os.fstat(n) for n in range(3)]"
    started = f"import subprocess, sys; raise SystemExit(subprocess.call([sys.executable, '-c', {child!r}]))"
    assert run(f"{script} {started}", "<&- >&- 2>&-").returncode == 0, "a process that is started has them, too"


def test_no_file_takes_the_number_of_a_stream_that_was_replaced() -> None:
    script = "import os, sys; sys.stdout, sys.stderr = (os.fdopen(number, 'w') for number in (1, 2)); "
    script += "from dbt_bridge.cli.process import prepare_process as p; p(); f = open('/dev/null'); print('x'); "
    done = run(f"{script} raise SystemExit(f.fileno() <= 2)")
    assert (done.returncode, done.stdout) == (0, "x\n")


def test_three_interrupts_end_a_process_and_two_do_not() -> None:
    done = run(
        "from dbt_bridge.cli.process import handle_interruptions as h; import signal as s; h()\n"
        "try: s.raise_signal(s.SIGINT)\n"
        "except KeyboardInterrupt: s.raise_signal(s.SIGTERM); print('tidied', flush=True)\n"
        "s.raise_signal(s.SIGINT); print('never')"
    )
    assert (done.returncode, done.stdout) == (130, "tidied\n")


def test_a_user_without_a_name_has_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd", reason="users are Unix's")

    def nobody(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert not find_home().exists()
