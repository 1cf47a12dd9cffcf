"""Figures of a stream for Prometheus, over HTTP on this machine.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format

`prometheus_client` is a fine library, but these are nine figures without histograms: their text is shorter than
an optional dependency, and `--metrics-port` needs no extra to be installed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from dbt_bridge.errors import UsageError
from dbt_bridge.observe.stream_progress import Batch, WatchSilent

_FIGURES = (
    ("events_total", "counter", "Changes that are visible at the destination."),
    ("batches_total", "counter", "Commits at the destination."),
    ("batch_seconds_total", "counter", "Seconds from the first change of a batch to its commit, summed up."),
    ("batch_seconds", "gauge", "Seconds that the last batch took."),
    ("errors_total", "counter", "Times that the origin or the destination broke off."),
    ("lag_seconds", "gauge", "From the last applied transaction's commit at the origin to its commit here."),
    ("lag_bytes", "gauge", "Log that the origin had written beyond the last batch."),
    ("lsn", "gauge", "Where the tables stand, as a number of bytes."),
    ("paused", "gauge", "1 while another process verifies or repairs the landing tables."),
)
_CONTENT = "text/plain; version=0.0.4; charset=utf-8"


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


class Metrics(WatchSilent, AbstractContextManager["Metrics"]):
    """A watch that keeps figures and serves them at `/metrics` while it is open.

    Args:
        port: 0 takes a free one.
        address: 127.0.0.1 keeps them on this machine.

    Raises:
        UsageError: when it is opened, and the port cannot be had.
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._wanted = (address, port)
        self._lock = threading.Lock()
        self._sources: dict[str, _Source] = {}
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None, "it has no port before it is open"
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/metrics"

    def __enter__(self) -> Metrics:
        try:
            self._server = _Server(self._wanted, self.exposed)
        except OSError as error:
            raise UsageError(
                f"--metrics-port {self._wanted[1]}: {error.strerror}", mend="name another port, or 0 for a free one"
            ) from error
        threading.Thread(target=self._server.serve_forever, name="dbt-bridge-metrics", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def caught_up(self, source: str, at: int) -> None:
        with self._lock:
            figures = self._of(source)
            figures.lsn, figures.lag_bytes, figures.lag_seconds = at, 0, 0.0
            figures.paused = 0

    def batch(self, batch: Batch) -> None:
        with self._lock:
            figures = self._of(batch.source)
            figures.events_total += batch.changes
            figures.batches_total += 1
            figures.batch_seconds_total += batch.seconds
            figures.batch_seconds = batch.seconds
            figures.lsn, figures.paused = batch.to_lsn, 0
            figures.lag_seconds = figures.lag_seconds if batch.lag_seconds is None else batch.lag_seconds
            figures.lag_bytes = figures.lag_bytes if batch.lag_bytes is None else batch.lag_bytes

    def retrying(self, source: str, error: BaseException, pause: float) -> None:
        with self._lock:
            self._of(source).errors_total += 1

    def paused(self, source: str) -> None:
        with self._lock:
            self._of(source).paused = 1

    def exposed(self) -> str:
        """All figures in the text format."""
        lines: list[str] = []
        with self._lock:
            for name, kind, help_ in _FIGURES:
                lines += [f"# HELP dbt_bridge_{name} {help_}", f"# TYPE dbt_bridge_{name} {kind}"]
                for source, figures in self._sources.items():
                    value = getattr(figures, name)
                    if value is not None:
                        lines.append(f'dbt_bridge_{name}{{source="{_escaped(source)}"}} {value}')
        return "\n".join(lines) + "\n"

    def _of(self, source: str) -> _Source:
        return self._sources.setdefault(source, _Source())


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], text: Callable[[], str]) -> None:
        self.text = text
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.split("?")[0] not in ("/", "/metrics"):
            self.send_error(404)
            return
        assert isinstance(self.server, _Server)
        body = self.server.text().encode()
        self.send_response(200)
        self.send_header("Content-Type", _CONTENT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not news."""


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
