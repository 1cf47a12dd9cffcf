"""dbt's commands, run in this process through its public `dbtRunner`."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbt.cli.main import dbtRunner, dbtRunnerResult
from dbt.exceptions import DbtProjectError
from dbt.flags import get_flags

from dbt_bridge.errors import BridgeError, DbtFailed, MissingExtra, UsageError
from dbt_bridge.nouns.project import DbtOptions, Project
from dbt_bridge.project.arguments import spell_build, spell_project, spell_selection

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

# dbt keeps flags, adapters and loggers in globals: two runners at once overwrite each other's.
_ONE_AT_A_TIME = threading.Lock()

_ADAPTERS_OF_EXTRAS = frozenset({"duckdb", "postgres", "snowflake", "bigquery", "redshift", "athena", "trino"})
"""The extras that bring dbt's adapter of the same name; the other warehouses' adapters hold dbt-core back."""


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What dbt says of one node: `success`, `pass`, `warn`, `error`, `fail`, `skipped`, `no-op`, ..."""

    unique_id: str
    status: str
    message: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A `dbt build`: whether dbt itself calls it a success, and every node that it reached.

    Attributes:
        partial: `--empty` or `--sample`, when dbt was told (by its environment) to build without the real rows.
    """

    success: bool
    nodes: tuple[NodeResult, ...]
    error: str | None = None
    partial: str | None = None

    @property
    def statuses(self) -> dict[str, str]:
        """What the run says to those who wait for a node's rows."""
        return _mark_partial({node.unique_id: node.status for node in self.nodes}, self.partial)


def parse(options: DbtOptions) -> Manifest:
    """The project's manifest (`dbt parse`), quietly.

    Raises:
        UsageError: there is no dbt project in `project_dir`, or dbt cannot parse it.
    """
    if not (options.project_dir / "dbt_project.yml").is_file():
        raise UsageError(
            f"there is no dbt_project.yml in {options.project_dir.resolve()}",
            mend="go into a dbt project, name it with --project-dir, or write a new one: dbt-bridge init NAME",
        )
    done = _invoke(["parse", *_quiet_arguments(), *spell_project(options)], None)
    if done.exception is not None or not done.success:
        raise _describe_parse_failure(done.exception, options)
    return done.result  # type: ignore[return-value]


def list_selected(options: DbtOptions, manifest: Manifest) -> frozenset[str]:
    """unique_ids of what dbt's `--select` and `--exclude` name (`dbt ls`)."""
    arguments = [
        "ls",
        "--output",
        "json",
        "--output-keys",
        "unique_id",
        *_quiet_arguments(),
        *spell_project(options),
    ]
    done = _invoke([*arguments, *spell_selection(options)], manifest)
    if done.exception is not None or not done.success:
        what = f"dbt does not understand the selection: {_describe_error(done.exception)}"
        if "no comparison manifest" in what:
            raise UsageError(what, mend="name the folder of the manifest.json to compare with: --state FOLDER")
        raise UsageError(what, mend=f"try it: dbt ls {' '.join(spell_selection(options))}")
    names = done.result if isinstance(done.result, list) else []
    return frozenset(json.loads(name)["unique_id"] for name in names)


def build(options: DbtOptions, manifest: Manifest | None = None, *, quiet: bool = False) -> BuildResult:
    """Run `dbt build`, printing what dbt prints; afterwards the warehouse's file is free again.

    Args:
        manifest: from `parse`, to save parsing again.
        quiet: dbt prints errors only.

    Raises:
        DbtFailed: dbt stopped before or while it ran nodes (a wrong option, a lost warehouse).
        KeyboardInterrupt: the user stopped it.
    """
    arguments = ["build", *(["--quiet"] if quiet else []), *spell_build(options)]
    done = _invoke(arguments, manifest)
    results = getattr(done.result, "results", None)
    if results is None:
        if done.success:  # nothing was selected
            return BuildResult(True, ())
        raise DbtFailed(
            f"dbt build stopped: {_describe_error(done.exception)}", mend="read logs/dbt.log in the dbt project"
        )
    nodes = tuple(NodeResult(r.node.unique_id, str(r.status), r.message, float(r.execution_time)) for r in results)
    error = None if done.exception is None else _describe_error(done.exception)
    return BuildResult(bool(done.success), nodes, error, _find_partial_option(getattr(done.result, "args", {})))


def read_last_statuses(project: Project) -> dict[str, str]:
    """dbt's statuses of the last run in this project, from `target/run_results.json`.

    Raises:
        UsageError: nothing was run yet.
    """
    target = get_flags().TARGET_PATH or "target"  # type: ignore[no-untyped-call]
    file = project.root / target / "run_results.json"
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"dbt has not run in {project.root} yet, so nothing is known of the tests that guard deliveries",
            mend="dbt-bridge build",
        ) from None
    except ValueError:  # a run that was killed while it wrote
        raise UsageError(f"{file} is not what dbt writes at the end of a run", mend="dbt-bridge build") from None
    return _mark_partial(
        {result["unique_id"]: result["status"] for result in run["results"]}, _find_partial_option(run["args"])
    )


def _find_partial_option(arguments: Mapping[str, Any]) -> str | None:
    """The option that makes dbt build on no rows or on a sample of them, from what dbt says of its own run."""
    return next((f"--{name}" for name in ("empty", "sample") if arguments.get(name)), None)


def _mark_partial(statuses: dict[str, str], partial: str | None) -> dict[str, str]:
    """A node that was built without the real rows has not succeeded for those who wait for them."""
    if partial is None:
        return statuses
    name = partial.removeprefix("--")
    but = f"but dbt ran with {partial}: dbt-bridge build, without {partial} and DBT_{name.upper()}"
    return {node: f"{status}, {but}" for node, status in statuses.items()}


def _invoke(arguments: Sequence[str], manifest: Manifest | None) -> dbtRunnerResult:
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise BridgeError(
            "dbt is already running in this process", mend="let the first run end, or use another process"
        )
    dlt_folder = os.environ.get("DLT_PROJECT_DIR")
    try:
        done = dbtRunner(manifest=manifest).invoke(list(arguments))
    finally:
        _release_duckdb()
        if dlt_folder is None:  # set by python_models/ghost_sources.py, for this project only
            os.environ.pop("DLT_PROJECT_DIR", None)
        _ONE_AT_A_TIME.release()
    # dbtRunner hands every BaseException back as a value: an interrupt must stay one.
    if isinstance(done.exception, KeyboardInterrupt | SystemExit):
        raise done.exception
    return done


def _release_duckdb() -> None:
    """dbt-duckdb keeps the file open, and locked, in a class attribute until the process ends.

    Dropping that attribute is not enough: any library that keeps an exception from its import inside a Python model
    keeps the model's frame, and with it dbt's environment. So its connection is closed by name.
    """
    module = sys.modules.get("dbt.adapters.duckdb.connections")
    if module is None:
        return
    manager = module.DuckDBConnectionManager
    environment = manager._ENV
    manager.close_all_connections()
    if environment is not None:
        environment.close()
    gc.collect()  # functions that a Python model defines keep its session in a cycle


def _quiet_arguments() -> list[str]:
    return ["--log-level", "none", "--no-print", "--quiet"]


def _describe_error(error: BaseException | None) -> str:
    """dbt's message, one paragraph, without its decoration."""
    text = str(error).strip() if error is not None else "a node failed"
    return " ".join(line.strip() for line in text.splitlines() if line.strip()) or type(error).__name__


def _describe_parse_failure(error: BaseException | None, options: DbtOptions) -> BridgeError:
    said = _describe_error(error)
    if absent := re.search(r"Could not find adapter type (\w+)", said):
        adapter = absent.group(1)
        if adapter in _ADAPTERS_OF_EXTRAS:
            return MissingExtra(adapter, f"a dbt profile of type {adapter}")
        return DbtFailed(f"dbt has no adapter of the profile's type {adapter}", mend=f"pip install dbt-{adapter}")
    if isinstance(error, DbtProjectError) or "profile" in said.lower():
        return UsageError(
            f"dbt cannot load the project or its profile: {said}",
            mend=f"dbt debug {_format_project_option(options)}".strip(),
        )
    mend = f"dbt parse {_format_project_option(options)}".strip()
    if "Could not render" in said and re.search(r"'(ref|this|source)' is undefined", said):
        mend = (
            "in a `bridge` block write {this} and {ref('model')} with single braces: dbt renders double ones too early"
        )
    return UsageError(f"dbt cannot parse the project: {said}", mend=mend)


def _format_project_option(options: DbtOptions) -> str:
    return "" if options.project_dir.resolve() == options.project_dir.cwd() else f"--project-dir {options.project_dir}"
