"""The command line: parse, call, print, exit code.

Exit codes: 0 all done, 1 something failed, 2 the command or the project is wrong and nothing was touched,
130 interrupted.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbt_bridge import __version__
from dbt_bridge.errors import BridgeError, MissingExtra, UsageError, scrubbed

if TYPE_CHECKING:
    from dbt_bridge.progress import Reporter
    from dbt_bridge.project import DbtOptions
    from dbt_bridge.receipt import Receipt
    from dbt_bridge.transform.invoke import BuildResult

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130
_SELECTORS = {
    "--select": "--select",
    "-s": "--select",
    "--models": "--select",
    "-m": "--select",
    "--exclude": "--exclude",
}


@dataclass
class Output:
    """Where results go. With `--json` nothing but one document is written to standard output, whatever happens."""

    as_json: bool = False
    quiet: bool = False
    debug: bool = False

    def document(self, **parts: Any) -> None:
        """The one JSON document."""
        blank: dict[str, Any] = {"status": "success", "receipts": [], "dbt": None, "error": None}
        click.echo(json.dumps({**blank, **parts}, ensure_ascii=False, default=str))

    def reporter(self) -> Reporter:
        from dbt_bridge.progress import reporter

        return reporter(silent=self.as_json or self.quiet)

    def result(self, receipts: Sequence[Receipt], *, ok: bool, dbt: BuildResult | None = None) -> int:
        """Print what happened; answers the exit code."""
        if self.as_json:
            status = "success" if ok else "failed"
            self.document(status=status, receipts=[r.as_json() for r in receipts], dbt=_dbt_as_json(dbt))
        elif not self.quiet:
            from dbt_bridge.progress import print_summary

            print_summary(receipts)
            if not receipts:
                click.echo("nothing to move: no selected source or exposure has a config.meta.bridge block", err=True)
        return 0 if ok else _FAILED

    def failure(self, what: str, mend: str, code: int) -> int:
        if self.as_json:
            self.document(status="failed", error={"what": what, "mend": mend})
        click.echo(f"{what}\n  -> {mend}" if mend else what, err=True)
        return code


_OPTIONS = (
    click.option("--project-dir", type=click.Path(path_type=Path), envvar="DBT_PROJECT_DIR",
                 help="Folder of dbt_project.yml; the working directory or one above it by default."),
    click.option("--profiles-dir", type=click.Path(path_type=Path), envvar="DBT_PROFILES_DIR",
                 help="Folder of profiles.yml, as in dbt."),
    click.option("--profile", envvar="DBT_PROFILE", help="Profile to use, as in dbt."),
    click.option("--target", "-t", envvar="DBT_TARGET", help="Target of the profile, as in dbt."),
    click.option("--vars", "variables", metavar="YAML", help="Variables for dbt: '{start: 2026-01-01}'."),
    click.option("--select", "-s", multiple=True, help="What to run, in dbt's selector syntax."),
    click.option("--exclude", multiple=True, help="What to leave out, in dbt's selector syntax."),
    click.option("--threads", type=click.IntRange(min=1), help="Tables and nodes at once; by default the profile's."),
)  # fmt: skip
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document with the receipts.")
_DEBUG = click.option("--debug", is_flag=True, help="Print the traceback of an unexpected error.")
_OUTPUT = (_JSON, click.option("--quiet", "-q", is_flag=True, help="Print errors only."), _DEBUG)
_FULL_REFRESH = click.option("--full-refresh", is_flag=True, help="Copy and build everything anew; forget checkpoints.")


def _options(*options: Callable[..., Any]) -> Callable[..., Any]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dbt-bridge")
def cli() -> None:
    """Move, transform, verify and deliver data in one dbt project.

    Sources and exposures say where their rows live, in `config.meta.bridge` of the dbt YAML.

    \b
    Example:
      dbt-bridge demo              see it work, on a real PostgreSQL and DuckDB
      dbt-bridge init my_project   write a project of your own
      dbt-bridge build             land the sources, run dbt build, deliver the exposures
    """


@cli.command()
@_options(*_OPTIONS, _FULL_REFRESH, *_OUTPUT)
def sync(**given: Any) -> int:
    """Land the sources: their rows come from the origins into the warehouse.

    \b
    Example:
      dbt-bridge sync
      dbt-bridge sync --select source:shop.orders
      dbt-bridge sync --full-refresh --json
    """
    output, options = _output(given), _dbt_options(given)
    from dbt_bridge import run
    from dbt_bridge.project import load_project

    project = load_project(options)
    with output.reporter() as progress:
        receipts = run.sync(project, _run_options(options), progress)
    return output.result(receipts, ok=all(r.status == "success" for r in receipts))


@cli.command()
@_options(*_OPTIONS, _FULL_REFRESH, *_OUTPUT)
def build(**given: Any) -> int:
    """Land what the selection needs, run `dbt build`, deliver what passed.

    An exposure is delivered only when every model above it and every test on them passed.

    \b
    Example:
      dbt-bridge build
      dbt-bridge build --select source:shop.orders+ --target prod
    """
    output, options = _output(given), _dbt_options(given)
    from dbt_bridge import run
    from dbt_bridge.project import load_project
    from dbt_bridge.transform.invoke import build as dbt_build

    project = load_project(options)
    built: list[BuildResult] = []

    def run_dbt() -> tuple[dict[str, str], bool]:
        built.append(dbt_build(project.options, project.manifest, to_stderr=output.as_json, quiet=output.quiet))
        return built[0].statuses, built[0].success

    with output.reporter() as progress:
        outcome = run.build(project, run_dbt, _run_options(options), progress)
    # `--empty` and `--sample` come from dbt's environment: what they held back was meant to be delivered.
    partial = bool(built and built[0].partial) and any(receipt.status == "skipped" for receipt in outcome.receipts)
    return output.result(outcome.receipts, ok=outcome.ok and not partial, dbt=built[0] if built else None)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Only count what would be inserted, updated and deleted.")
@_options(*_OPTIONS, *_OUTPUT)
def deliver(dry_run: bool, **given: Any) -> int:
    """Deliver the exposures, as the last `dbt build` left their models (reverse ETL).

    \b
    Example:
      dbt-bridge deliver --dry-run
      dbt-bridge deliver --select exposure:crm_segments
    """
    output, options = _output(given), _dbt_options(given)
    from dbt_bridge import run
    from dbt_bridge.project import load_project
    from dbt_bridge.transform.invoke import last_statuses

    project = load_project(options)
    with output.reporter() as progress:
        receipts = run.deliver(project, last_statuses(project), _run_options(options, dry_run=dry_run), progress)
    return output.result(receipts, ok=all(r.status == "success" for r in receipts))


@cli.command()
@_options(*_OPTIONS, *_OUTPUT)
def plan(**given: Any) -> int:
    """Show what `build` would do, in order, without connecting to anything.

    \b
    Example:
      dbt-bridge plan
      dbt-bridge plan --select source:shop.orders+ --json
    """
    output, options = _output(given), _dbt_options(given)
    from dbt_bridge.plan import planned, print_plan
    from dbt_bridge.project import load_project

    found = planned(load_project(options))
    if output.as_json:
        output.document(plan=found.as_json())
    else:
        print_plan(found, sys.stdout)
    return 0


@cli.command()
@_options(*_OPTIONS, *_OUTPUT)
def doctor(**given: Any) -> int:
    """Look at every connection, privilege and setting that the project needs; say what mends each fault.

    \b
    Example:
      dbt-bridge doctor
      dbt-bridge doctor --target prod --json
    """
    output, options = _output(given), _dbt_options(given)
    from dataclasses import asdict

    from dbt_bridge.doctor import examined, print_findings
    from dbt_bridge.project import load_project

    findings = examined(lambda: load_project(options))
    found = list(findings) if output.as_json or output.quiet else print_findings(findings, sys.stdout)
    faults = [finding for finding in found if finding.status == "fault"]
    if output.as_json:
        output.document(status="failed" if faults else "success", checks=[asdict(finding) for finding in found])
    elif output.quiet:
        print_findings(iter(faults), sys.stderr)
    return _FAILED if faults else 0


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="The dbt project's name; the folder's by default.")
@click.option(
    "--origin-url",
    envvar="DBT_BRIDGE_ORIGIN_URL",
    help="Your own database: the project gets its tables, and .dlt/secrets.toml this URL.",
)
@click.option("--origin-schema", help="Schema of --origin-url to take; its default one otherwise.")
@_options(*_OUTPUT)
def init(directory: Path, name: str | None, origin_url: str | None, origin_schema: str | None, **given: Any) -> int:
    """Write a dbt project that works into DIRECTORY: sources, models, tests, snapshot, seed, exposure.

    Without --origin-url it is the demo's shop, to be changed into yours.

    \b
    Example:
      dbt-bridge init my_project
      dbt-bridge init my_project --origin-url postgresql://me:secret@host/database
      cd my_project && dbt-bridge doctor
    """
    output = _output(given)
    from dbt_bridge.init import Answers, write_project

    name = name or re.sub(r"\W+", "_", directory.resolve().name, flags=re.ASCII).lower()
    answers = Answers(name=name, warehouse=f"{name}.duckdb")
    if origin_url:
        from dbt_bridge.scaffold import write_own_project

        files = write_own_project(directory, replace(answers, origin_url=origin_url), origin_schema)
    else:
        files = write_project(directory, answers)
    if output.as_json:
        output.document(files=[str(file) for file in files])
    elif not output.quiet:
        click.echo(f"{len(files)} files are in {directory}")
        if not origin_url:
            click.echo(f"put the origin's URL into {directory / '.dlt' / 'secrets.toml'}, then: dbt-bridge doctor")
    return 0


@cli.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default="dbt-bridge-demo",
    show_default=True,
    help="Where the demo's dbt project goes.",
)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="1 is about 200,000 rows.",
)
@click.option("--keep", is_flag=True, help="Let the PostgreSQL run on, to try other commands.")
@_options(_JSON, _DEBUG)
def demo(directory: Path, scale: float, *, keep: bool, as_json: bool, debug: bool) -> int:
    """See it work: a shop in a real PostgreSQL, built into DuckDB, delivered back, checked at both ends.

    \b
    Example:
      dbt-bridge demo
      dbt-bridge demo --dir /tmp/shop --scale 5 --keep
    """
    try:
        from dbt_bridge.demo.run import demo as run_demo
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("dbt_bridge"):
            raise
        raise MissingExtra("demo", "the demo") from missing
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        shown = run_demo(directory, scale, keep=keep)
    if as_json:
        status = "success" if shown.ok else "failed"
        Output().document(status=status, receipts=[r.as_json() for r in shown.receipts], checks=shown.checks)
    return 0 if shown.ok else _FAILED


def _run_options(options: DbtOptions, *, dry_run: bool = False) -> Any:
    from dbt_bridge.run import Options

    return Options(full_refresh=options.full_refresh, threads=options.threads, dry_run=dry_run)


def _output(given: dict[str, Any]) -> Output:
    return Output(given["as_json"], given["quiet"], given["debug"])


def _dbt_options(given: dict[str, Any]) -> DbtOptions:
    from dbt_bridge.project import DbtOptions, nearest_project

    return DbtOptions(
        project_dir=given["project_dir"] or nearest_project(Path.cwd()),
        profiles_dir=given["profiles_dir"],
        profile=given["profile"],
        target=given["target"],
        vars=_variables(given["variables"]),
        select=tuple(given["select"]),
        exclude=tuple(given["exclude"]),
        threads=given["threads"],
        full_refresh=given.get("full_refresh", False),
    )


def _variables(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    import yaml  # type: ignore[import-untyped]

    try:
        variables = yaml.safe_load(text)
    except yaml.YAMLError:
        variables = None
    if not isinstance(variables, dict):
        raise UsageError("--vars is not a YAML dictionary", mend="write it as in dbt: --vars '{start: 2026-01-01}'")
    return variables


def _dbt_as_json(built: BuildResult | None) -> dict[str, Any] | None:
    if built is None:
        return None
    nodes = [
        {"unique_id": n.unique_id, "status": n.status, "message": n.message, "seconds": n.seconds} for n in built.nodes
    ]
    return {"success": built.success, "error": built.error, "nodes": nodes}


def _spread(arguments: Iterable[str]) -> list[str]:
    """dbt takes several selectors after one flag: `--select a b` is `--select a --select b`."""
    spread: list[str] = []
    flag: str | None = None
    for argument in arguments:
        if argument in _SELECTORS:
            flag = _SELECTORS[argument]
            spread += [flag]
        elif flag and not argument.startswith("-"):
            spread += [argument] if spread[-1] == flag else [flag, argument]
        else:
            flag = None
            spread.append(argument)
    return spread


def answered(arguments: Sequence[str]) -> int:
    """Run one command; every failure becomes a message and an exit code."""
    output = Output("--json" in arguments, debug="--debug" in arguments)
    try:
        return cli.main(args=_spread(arguments), prog_name="dbt-bridge", standalone_mode=False) or 0
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "dbt-bridge"
        return output.failure(error.format_message(), f"{command} --help", _USAGE)
    except (KeyboardInterrupt, click.Abort):
        return output.failure("interrupted", "run the same command again: what had landed stays", _INTERRUPTED)
    except UsageError as error:
        return output.failure(error.what, error.mend, _USAGE)
    except BridgeError as error:
        return output.failure(error.what, error.mend, _FAILED)
    except BrokenPipeError:  # `dbt-bridge plan | head`
        sys.stderr.close()
        return _FAILED
    except Exception as error:
        if output.debug:
            click.echo(scrubbed(traceback.format_exc()), err=True)
        what = f"this is a bug in dbt-bridge: {type(error).__name__}: {scrubbed(str(error))}"
        return output.failure(what, "run it again with --debug, and report the traceback", _FAILED)


def main() -> None:
    """The entry point `dbt-bridge`."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if "--json" in sys.argv:
        _keep_standard_output_for_the_document()
    sys.exit(answered(sys.argv[1:]))


def _keep_standard_output_for_the_document() -> None:
    """What a Python model's child process, or a library in C, writes to file descriptor 1 goes to standard error."""
    document = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = document
