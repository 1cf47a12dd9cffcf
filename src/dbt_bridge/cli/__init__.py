"""The command line: parse, call, print, exit code.

Exit codes: 0 all done, 1 something failed, 2 the command or the project is wrong and nothing was touched,
130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from dbt_bridge.cli.commands import (  # noqa: F401 (they add their commands to the group)
    build,
    deliver,
    demo,
    doctor,
    init,
    plan,
    reconcile,
    repair,
    simulate,
    slots,
    stream,
    sync,
    verify,
)
from dbt_bridge.cli.dbt_flags import explain_unknown, move_behind_command, spread_values
from dbt_bridge.cli.group import cli
from dbt_bridge.cli.output import FAILED, INTERRUPTED, USAGE, Output
from dbt_bridge.cli.process import find_failure, handle_interruptions, open_outlet, prepare_process
from dbt_bridge.contracts.connector import has_plugins
from dbt_bridge.errors import BridgeError, UsageError, is_interruption, scrubbed
from dbt_bridge.nouns.parity import Interrupted
from dbt_bridge.system.unasked_pandas import keep_pandas_out

__all__ = ["cli", "main", "run_command"]


def run_command(arguments: Sequence[str]) -> int:
    """Run one command; every failure becomes a message and an exit code."""
    output = Output("--json" in arguments, debug="--debug" in arguments)
    try:
        return (
            cli.main(args=spread_values(move_behind_command(arguments)), prog_name="dbt-bridge", standalone_mode=False)
            or 0
        )
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "dbt-bridge"
        if isinstance(error, click.NoSuchOption) and (said := explain_unknown(error.option_name, command)):
            return output.report_failure(*said, USAGE)
        return output.report_failure(error.format_message(), f"{command} --help", USAGE)
    except click.Abort as answer:
        if answer.__cause__ is None:  # click makes one of Ctrl-C too, outside of its questions
            return output.report_failure("nothing was touched", "answer yes, or add --yes", FAILED)
        return _report_interruption(output, answer.__cause__)
    except KeyboardInterrupt as interruption:
        return _report_interruption(output, interruption)
    except UsageError as error:
        return output.report_failure(error.what, error.mend, USAGE)
    except BridgeError as error:
        return output.report_failure(error.what, error.mend, FAILED)
    except Exception as error:
        if is_interruption(error):
            return _report_interruption(output, error)
        if output.debug:
            click.echo(scrubbed(traceback.format_exc()), err=True)
        what = f"this is a bug in dbt-bridge: {type(error).__name__}: {scrubbed(str(error))}"
        return output.report_failure(what, "run it again with --debug, and report the traceback", FAILED)


def _report_interruption(output: Output, by: BaseException) -> int:
    if isinstance(by, Interrupted):
        return output.report_interruption(by.parities, by.receipts)
    return output.report_interruption((), ())


_MOVES = frozenset({"deliver", "doctor", "plan", "reconcile", "repair", "slots", "sync", "verify"})
"""The commands that run no model of the project, which might make a frame of pandas."""


def main() -> None:
    """The entry point `dbt-bridge`."""
    prepare_process()
    handle_interruptions()
    if _MOVES & set(move_behind_command(sys.argv[1:])[:1]):  # a model may be named `sync`
        keep_pandas_out(unless=has_plugins)
    if "--json" in sys.argv:
        _keep_standard_output_for_the_document()
    code = run_command(sys.argv[1:])
    if (failure := find_failure(sys.stdout)) is not None:
        click.echo(f"standard output cannot be written: {failure.strerror}", err=True)
        code = code or FAILED
    if code == INTERRUPTED:  # threads of drivers may be at work still, and end a process badly that ends around them
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _keep_standard_output_for_the_document() -> None:
    """What a Python model's child process, or a library in C, writes to file descriptor 1 goes to standard error."""
    document = open_outlet(os.dup(1), encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = document
