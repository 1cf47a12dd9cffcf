"""stream: cdc sources are followed, and the models downstream of what changed are built in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from dbt_bridge.cdc.stream import stream
from dbt_bridge.cdc.stream_connection import StreamOptions
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.receipt import new_load_id
from dbt_bridge.observe.stream_progress import BatchCount, Watch, Watches
from dbt_bridge.run.outcomes import StreamOutcome
from dbt_bridge.run.recorded_build import run_recorded
from dbt_bridge.system.lock_wait import LockWait, use_lock_wait


@dataclass(frozen=True, slots=True)
class Stream:
    """A project that was read, ready to be followed.

    Attributes:
        build: after each batch that changed something, `dbt build` of the models downstream of it.
    """

    project: Project
    options: StreamOptions
    build: bool

    def run(self, watch: Watch, stop: threading.Event) -> StreamOutcome:
        """Follow the cdc sources that the selection needs until `stop` is set; see `cdc.stream`."""
        count = BatchCount()
        rebuild = make_rebuild(self.project, watch) if self.build else None
        with use_lock_wait(LockWait()):  # a stream tries again by itself, and can be stopped meanwhile
            stream(self.project, self.options, Watches([watch, count]), stop, rebuild)
        return StreamOutcome(count.batches, count.changes)


def make_rebuild(project: Project, watch: Watch) -> Callable[[frozenset[str]], bool]:
    """Builds what is downstream of changed source tables, within the user's own selection."""
    from dbt_bridge.deliver.build_record import list_built
    from dbt_bridge.project.invoke import build as dbt_build
    from dbt_bridge.project.selection import select_downstream

    def rebuild(changed: frozenset[str]) -> bool:
        options = select_downstream(project.options, project.graph, changed, project.selected)
        if options is None:
            return True
        began = time.monotonic()
        with watch.aside():
            nodes = list_built(project) & project.graph.list_descendants(*changed)
            command = "dbt-bridge stream --build"
            built, _ = run_recorded(project, lambda: dbt_build(options, quiet=True), new_load_id(), command, nodes)
        seconds = time.monotonic() - began
        watch.message(
            f"dbt build: {len(built.nodes)} nodes, {'' if built.success else 'not '}all well, {seconds:.1f} s"
        )
        return built.success

    return rebuild
