"""stream: the cdc sources are followed until somebody stops them."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from dbt_bridge.cli.dbt_flags import BUILD_FLAGS
from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import DEBUG, FULL_REFRESH, MAX_SECONDS, OPTIONS, Span, add_options, make_output, open_given

if TYPE_CHECKING:
    from dbt_bridge.observe.stream_progress import Watcher


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
@add_options(*OPTIONS, *BUILD_FLAGS, FULL_REFRESH, MAX_SECONDS)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document per batch, each on a line.")
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
@add_options(DEBUG)
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
    output = make_output(given)
    prepared = open_given(given).prepare_stream(
        every=every, build=with_build, full_refresh=given["full_refresh"], max_seconds=given["max_seconds"]
    )
    from dbt_bridge.observe.stream_progress import Watches, WatchJson, make_watcher

    watches: list[Watcher] = [make_watcher(sys.stderr, silent=output.as_json or output.quiet)]
    if output.as_json:
        watches.append(WatchJson(sys.stdout))
    if metrics_port is not None:
        from dbt_bridge.observe.prometheus import Metrics

        watches.append(metrics := Metrics(metrics_port, metrics_address))
    with stop_by_signals() as stop, output.reserve_stdout(), Watches(watches) as watch:
        if metrics_port is not None:
            watch.message(f"metrics are at {metrics.url}")
        prepared.run(watch, stop)
    if not output.as_json and not output.quiet:
        click.echo("stopped: what was committed stays, and the next run goes on from there", err=True)
    return 0


@contextmanager
def stop_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second SIGINT is a KeyboardInterrupt."""
    stop, signalled = threading.Event(), threading.Event()

    def set_stop(signum: int, frame: object) -> None:
        if signalled.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt
        signalled.set()
        stop.set()

    before = {number: signal.signal(number, set_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
