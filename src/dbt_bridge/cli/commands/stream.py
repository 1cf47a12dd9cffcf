"""stream: the cdc sources are followed until somebody stops them."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import (
    DEBUG,
    FULL_REFRESH,
    MAX_SECONDS,
    OPTIONS,
    Span,
    dbt_options,
    output_of,
    takes,
)
from dbt_bridge.cli.output import Output

if TYPE_CHECKING:
    from dbt_bridge.nouns.project import Project
    from dbt_bridge.observe.stream_progress import (
        Watcher,
        WatchLines,
        WatchLive,
        WatchSilent,
    )


@cli.command(short_help="Follow the cdc sources until stopped.")
@click.option(
    "--build",
    "with_build",
    is_flag=True,
    help="After each batch that changed something, dbt build of the models downstream of it.",
)
@click.option(
    "--every",
    type=Span(),
    default="2s",
    show_default=True,
    metavar="TIME",
    help="Time between commits, at most: 2s, 500ms, 1m.",
)
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Serve Prometheus metrics; 0 takes a free port.")
@click.option("--metrics-address", default="127.0.0.1", show_default=True, help="Where they are served.")
@takes(*OPTIONS, FULL_REFRESH, MAX_SECONDS)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document per batch, each on a line.")
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
@takes(DEBUG)
def stream(*, with_build: bool, every: float, metrics_port: int | None, metrics_address: str, **given: Any) -> int:
    """Follow the cdc sources until stopped: changes land within seconds.

    SIGTERM or Ctrl-C finishes the batch in work and exits with 0; a second Ctrl-C breaks it off. What was not
    committed comes again the next time.

    \b
    Example:
      dbt-bridge stream
      dbt-bridge stream --build --every 10s
      dbt-bridge stream --metrics-port 9187 --json
    """  # fmt: skip
    output, chosen = output_of(given), dbt_options(given)
    from dbt_bridge.observe.stream_progress import Watches, WatchJson, watcher
    from dbt_bridge.project.load import load_project

    project = load_project(chosen)
    from dbt_bridge.cdc.stream import stream as follow
    from dbt_bridge.cdc.stream_connection import StreamOptions

    options = StreamOptions(every, chosen.full_refresh, chosen.threads, given.get("max_seconds"))
    person = watcher(sys.stderr, silent=output.as_json or output.quiet)
    watches: list[Watcher] = [person]
    if output.as_json:
        watches.append(WatchJson(sys.stdout))
    if metrics_port is not None:
        from dbt_bridge.observe.prometheus import Metrics

        watches.append(metrics := Metrics(metrics_port, metrics_address))
    rebuild = rebuilding(project, output, person) if with_build else None
    with stopped_by_signals() as stop, Watches(watches) as watch:
        if metrics_port is not None:
            watch.message(f"metrics are at {metrics.url}")
        follow(project, options, watch, stop, rebuild)
    if not output.as_json and not output.quiet:
        click.echo("stopped: what was committed stays, and the next run goes on from there", err=True)
    return 0


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second SIGINT is a KeyboardInterrupt."""
    stop, asked = threading.Event(), threading.Event()

    def ask(signum: int, frame: object) -> None:
        if asked.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rebuilding(
    project: Project, output: Output, person: WatchSilent | WatchLines | WatchLive
) -> Callable[[frozenset[str]], bool]:
    """Builds what is downstream of changed source tables, within the user's own selection."""
    from dbt_bridge.observe.stream_progress import WatchLive
    from dbt_bridge.project.invoke import build as dbt_build
    from dbt_bridge.project.selection import select_downstream

    def rebuild(changed: frozenset[str]) -> bool:
        assert project.manifest is not None, "the project was read by dbt"
        options = select_downstream(project.options, project.manifest, changed)
        if options is None:
            return True
        began = time.monotonic()
        with person.aside() if isinstance(person, WatchLive) else nullcontext():
            # dbt marks what it has compiled in the manifest, and would not inject ephemeral models a second time.
            manifest = project.manifest.deepcopy()
            built = dbt_build(options, manifest, to_stderr=output.as_json, quiet=True)
        seconds = time.monotonic() - began
        person.message(
            f"dbt build: {len(built.nodes)} nodes, {'' if built.success else 'not '}all well, {seconds:.1f} s"
        )
        return built.success

    return rebuild
