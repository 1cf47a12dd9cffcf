"""`python interrupted.py`: commands in processes of their own, which send themselves a signal at a named step.

As `killed_sync`, of which the project comes: each line of the input is one command (`Command` as JSON), in a fork of
this process, from its entry point on; each line of the output is its exit code. Only dbt is left out.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import killed_sync
from killed_sync import Orders, Step

from dbt_bridge import cli
from dbt_bridge.nouns.reconciliation import Reconciliation
from dbt_bridge.nouns.table import TableName
from dbt_bridge.project import load
from dbt_bridge.prove import repair_changes
from dbt_bridge.verify.rows import partitions


@dataclass(frozen=True, slots=True)
class Command:
    """What the process is to do.

    Attributes:
        arguments: of dbt-bridge.
        out, err: files that get its output; `<err>.pid` gets its process id.
        function, after, call: the step, as `killed_sync.Step` has it, and at which of its calls the signal comes; no
            function for none.
        signal: its name.
        spills: whether rows go to files from the first on.
    """

    orders: Orders
    arguments: tuple[str, ...]
    out: str
    err: str
    function: str = ""
    after: bool = False
    call: int = 1
    signal: str = "SIGINT"
    spills: bool = False


def _signalled(command: Command) -> None:
    step = Step(command.function, command.after)
    holder, name, function = killed_sync.found(step)
    number, left = getattr(signal, command.signal), [command.call]

    def counted(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if not left[0] and not step.after:
            os.kill(os.getpid(), number)
        answer = function(*given, **named)
        if not left[0] and step.after:
            os.kill(os.getpid(), number)
        return answer

    setattr(holder, name, counted)


def _landed_model(name: str) -> Reconciliation:
    """A model that is the landing table, and replaces what it came from."""
    relation = TableName("public", name)
    return Reconciliation(f"model.shop.{name}", name, f"landing.{name}", f"landing.{name}", "shop_pg", relation)


def _run(command: Command) -> None:
    orders = command.orders
    os.environ.update(orders.environment)
    tempfile.tempdir = orders.temporary
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    whole = replace(killed_sync.project(orders), reconciliations=tuple(_landed_model(name) for name in orders.tables))
    load.load_project = lambda options: whole  # type: ignore[assignment]
    repair_changes._PIECE = orders.chunk_rows
    if command.spills:
        partitions._SHARE = 1 << 60
    if command.function:
        _signalled(command)
    if orders.largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (orders.largest_file, orders.largest_file))
    sys.argv = ["dbt-bridge", *command.arguments]
    cli.main()


def _forked(command: Command) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    try:
        Path(f"{command.err}.pid").write_text(str(os.getpid()))
        for number, path in ((1, command.out), (2, command.err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        _run(command)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    killed_sync.import_late()
    for line in sys.stdin:
        given = json.loads(line)
        orders = Orders(**{**given["orders"], "tables": tuple(given["orders"]["tables"])})
        print(_forked(Command(**{**given, "orders": orders, "arguments": tuple(given["arguments"])})), flush=True)


if __name__ == "__main__":
    main()
