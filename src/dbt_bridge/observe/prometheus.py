"""Figures of a stream for Prometheus, over HTTP on this machine. `--metrics-port` needs the extra `metrics`.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from dbt_bridge.errors import MissingExtra, UsageError
from dbt_bridge.nouns.position import Position
from dbt_bridge.observe.stream_progress import Batch, WatchSilent

try:
    from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.exposition import ThreadingWSGIServer
    from prometheus_client.registry import Collector
except ModuleNotFoundError as missing:
    raise MissingExtra("metrics", "--metrics-port") from missing

_COUNTERS = {
    "events_total": "Changes that are visible at the destination.",
    "batches_total": "Commits at the destination.",
    "batch_seconds_total": "Seconds from the first change of a batch to its commit, summed up.",
    "errors_total": "Times that the origin or the destination broke off.",
}
_GAUGES = {
    "batch_seconds": "Seconds that the last batch took.",
    "lag_seconds": "From the last applied transaction's commit at the origin to its commit here.",
    "lag_bytes": "Log that the origin had written beyond the last batch.",
    "lsn": "Where the tables stand, as a number of bytes.",
    "paused": "1 while another process verifies or repairs the landing tables.",
}


@dataclass
class _Source:
    """The figures of one source; None is not exposed, as nothing is known of it yet."""

    events_total: int = 0
    batches_total: int = 0
    batch_seconds_total: float = 0.0
    batch_seconds: float | None = None
    errors_total: int = 0
    lag_seconds: float | None = None
    lag_bytes: int | None = None
    lsn: int | None = None
    paused: int = 0


class _Figures(Collector):
    """The figures of all sources. They are collected as one state: a batch counts in all of them or in none.

    The client's own counters would add a `_created` series for each, which can only be switched off for the whole
    process (prometheus_client 0.26).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: dict[str, _Source] = {}

    def change(self, source: str, change: Callable[[_Source], None]) -> None:
        with self._lock:
            change(self._sources.setdefault(source, _Source()))

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        with self._lock:
            kinds = ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES))
            families = [self._family(kind, name, text) for kind, figures in kinds for name, text in figures.items()]
        yield from families

    def _family(
        self, kind: type[CounterMetricFamily | GaugeMetricFamily], name: str, text: str
    ) -> CounterMetricFamily | GaugeMetricFamily:
        family = kind(f"dbt_bridge_{name}", text, labels=["source"])
        for source, figures in self._sources.items():
            if (value := getattr(figures, name)) is not None:
                family.add_metric([source], value)
        return family


class Metrics(WatchSilent, AbstractContextManager["Metrics"]):
    """A watch that keeps figures and serves them at `/metrics` while it is open.

    Args:
        port: 0 takes a free one.
        address: 127.0.0.1 keeps them on this machine.

    Raises:
        UsageError: when it is opened, and the port cannot be had.
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._address, self._port = address, port
        self._figures = _Figures()
        self._registry = CollectorRegistry(auto_describe=True)
        self._registry.register(self._figures)
        self._server: WSGIServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None, "it has no port before it is open"
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/metrics"

    def __enter__(self) -> Metrics:
        try:
            application = _serve_only_metrics(make_wsgi_app(self._registry))
            self._server = make_server(self._address, self._port, application, ThreadingWSGIServer, _QuietHandler)
        except OSError as error:
            raise UsageError(
                f"--metrics-port {self._port}: {error.strerror}", mend="name another port, or 0 for a free one"
            ) from error
        threading.Thread(target=self._server.serve_forever, name="dbt-bridge-metrics", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def caught_up(self, source: str, at: Position) -> None:
        def change(figures: _Source) -> None:
            figures.lsn, figures.lag_bytes, figures.lag_seconds, figures.paused = at.ordinal, 0, 0.0, 0

        self._figures.change(source, change)

    def batch(self, batch: Batch) -> None:
        def change(figures: _Source) -> None:
            figures.events_total += batch.changes
            figures.batches_total += 1
            figures.batch_seconds_total += batch.seconds
            figures.batch_seconds = batch.seconds
            figures.lsn, figures.paused = batch.to_lsn.ordinal, 0
            figures.lag_seconds = figures.lag_seconds if batch.lag_seconds is None else batch.lag_seconds
            figures.lag_bytes = figures.lag_bytes if batch.lag_bytes is None else batch.lag_bytes

        self._figures.change(batch.source, change)

    def retrying(self, source: str, error: BaseException, pause: float) -> None:
        def change(figures: _Source) -> None:
            figures.errors_total += 1

        self._figures.change(source, change)

    def paused(self, source: str) -> None:
        def change(figures: _Source) -> None:
            figures.paused = 1

        self._figures.change(source, change)

    def format_text(self) -> str:
        """All figures in the text format."""
        return generate_latest(self._registry).decode()


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not news."""


def _serve_only_metrics(metrics: Callable[..., Any]) -> Callable[..., Iterable[bytes]]:
    """The client's application at `/metrics`; it would answer any other path with the figures too."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] in ("/", "/metrics"):
            answer: Iterable[bytes] = metrics(environ, start_response)
            return answer
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"figures are at /metrics\n"]

    return application
