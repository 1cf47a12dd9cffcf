"""dbt in this process, through its public `dbtRunner`: dbt 1, installed beside the bridge."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from dbt_bridge.errors import BridgeError, DbtFailed
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project.arguments import spell_build, spell_look, spell_project, spell_selection
from dbt_bridge.project.graph import make_graph
from dbt_bridge.project.runners.contract import NOTHING, BuildResult, NodeResult, Parsed, as_utc, find_partial_option
from dbt_bridge.project.runners.failures import describe_parse_failure, describe_selection_failure, format_said

if TYPE_CHECKING:
    from dbt.cli.main import dbtRunnerResult
    from dbt.contracts.graph.manifest import Manifest

# dbt keeps flags, adapters and loggers in globals: two runners at once overwrite each other's.
_ONE_AT_A_TIME = threading.Lock()

_QUIET = ("--log-level", "none", "--no-print", "--quiet")
_STILL = ("--no-write-json",)


class ModuleRunner:
    """dbt's module. It remembers what it parsed, for the `ls` that follows; a build parses for itself, as dbt does."""

    def __init__(self) -> None:
        self._manifest: Manifest | None = None

    @property
    def identity(self) -> str:
        """The place of this environment; which versions are in it is for whoever lists its packages."""
        return f"module {sys.prefix}"

    def parse(self, options: DbtOptions) -> Parsed:
        """See `Runner`."""
        seen: dict[str, Any] = {}

        def hold(_: Any) -> None:
            # dbtRunner answers the results of a build and no manifest; dbt's commands keep it in click's context.
            if not seen and (context := click.get_current_context(silent=True)) is not None and context.obj:
                seen["context"] = context.obj

        done = _invoke(["build", *_QUIET, *_STILL, *spell_look(options), "--select", NOTHING], callbacks=[hold])
        held = seen.get("context", {})
        manifest, config = held.get("manifest"), held.get("runtime_config")
        if manifest is None or config is None:
            from dbt.exceptions import DbtProjectError

            of_project = isinstance(done.exception, DbtProjectError)
            raise describe_parse_failure(_describe_error(done.exception), options, of_project=of_project)
        self._manifest = manifest

        from dbt_bridge.project.profile import read_warehouse_profile
        from dbt_bridge.project.runners.yaml_blocks import list_bare_sources, list_raw_blocks

        graph = make_graph(
            manifest.writable_manifest().to_dict(omit_none=False),
            list_bare_sources(manifest, config),
            list_raw_blocks(manifest),
        )
        return Parsed(
            graph,
            config.profile_name,
            config.target_name,
            read_warehouse_profile(config),
            is_repeatable=not manifest.external_node_unique_ids,
        )

    def list_selected(self, options: DbtOptions) -> frozenset[str]:
        """See `Runner`."""
        if self._manifest is None:
            self.parse(options)
        arguments = ["ls", "--output", "json", "--output-keys", "unique_id", *_QUIET, *_STILL]
        done = _invoke([*arguments, *spell_project(options), *spell_selection(options)], self._manifest)
        if done.exception is not None or not done.success:
            raise describe_selection_failure(_describe_error(done.exception), spell_selection(options))
        names = done.result if isinstance(done.result, list) else []
        return frozenset(json.loads(name)["unique_id"] for name in names)

    def build(self, options: DbtOptions, *, quiet: bool = False) -> BuildResult:
        """See `Runner`; afterwards the warehouse's file is free again."""
        heard: list[str] = []
        listen = [lambda event: heard.append(event.info.invocation_id) if not heard else None]
        done = _invoke(["build", *(["--quiet"] if quiet else []), *spell_build(options)], callbacks=listen)
        results = getattr(done.result, "results", None)
        if results is None:
            if done.success:  # nothing was selected
                return BuildResult(True, ())
            raise DbtFailed(
                f"dbt build stopped: {_describe_error(done.exception)}", mend="read logs/dbt.log in the dbt project"
            )
        error = None if done.exception is None else _describe_error(done.exception)
        args = getattr(done.result, "args", {})
        return BuildResult(
            bool(done.success),
            tuple(map(_make_result, results)),
            error,
            find_partial_option(args),
            "".join(heard),
            bool(args.get("defer")),
        )


def _make_result(result: Any) -> NodeResult:
    ends = [step.completed_at for step in result.timing if step.completed_at is not None]
    return NodeResult(
        result.node.unique_id,
        str(result.status),
        result.message,
        float(result.execution_time),
        getattr(result.node, "relation_name", None) or "",
        as_utc(ends[-1]) if ends else None,
        getattr(result.node, "compiled_code", None) or "",
    )


def _invoke(
    arguments: Sequence[str], manifest: Manifest | None = None, callbacks: list[Any] | None = None
) -> dbtRunnerResult:
    from dbt.cli.main import dbtRunner

    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise BridgeError(
            "dbt is already running in this process", mend="let the first run end, or use another process"
        )
    dlt_folder = os.environ.get("DLT_PROJECT_DIR")
    try:
        done = dbtRunner(manifest=manifest, callbacks=callbacks).invoke(list(arguments))
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


def _describe_error(error: BaseException | None) -> str:
    return format_said(str(error) if error is not None else "a node failed") or type(error).__name__
