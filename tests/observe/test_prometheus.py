"""What a stream tells: to Prometheus, to a person, to a program."""

from __future__ import annotations

import importlib
import io
import json
import socket
import sys
import urllib.error
import urllib.request

import pytest
from rich.console import Console

from dbt_bridge.connectors.postgres.changes.lsn import position_of
from dbt_bridge.errors import MissingExtra, OriginError, UsageError
from dbt_bridge.observe.prometheus import Metrics
from dbt_bridge.observe.stream_progress import (
    Batch,
    Watches,
    WatchJson,
    WatchLines,
    WatchLive,
    make_watcher,
)


def batch(changes: int = 10, source: str = "shop", **settings: object) -> Batch:
    given = {
        "from_lsn": position_of(100),
        "to_lsn": position_of(0x1_0000_00AB),
        "lag_seconds": 0.5,
        "lag_bytes": 2048,
        "seconds": 0.25,
    }
    return Batch(source, changes, **{**given, **settings})  # type: ignore[arg-type]


def scraped(url: str) -> dict[str, float]:
    """What Prometheus reads: every sample with its labels."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = answer.read().decode().splitlines()
    assert not [line for line in lines if "_created" in line], "a series that nobody asked for"
    return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}


def test_prometheus_reads_what_each_source_did() -> None:
    with Metrics(0) as metrics:
        assert scraped(metrics.url) == {}, "nothing is known before the first batch"
        metrics.batch(batch(10))
        metrics.batch(batch(5, lag_seconds=None, seconds=0.5))
        metrics.retrying("shop", OriginError("gone"), 1.0)
        metrics.batch(batch(1, source='the "other"\\'))
        seen = scraped(metrics.url)
        assert seen['dbt_bridge_events_total{source="shop"}'] == 15
        assert seen['dbt_bridge_batches_total{source="shop"}'] == 2
        assert seen['dbt_bridge_batch_seconds_total{source="shop"}'] == 0.75
        assert seen['dbt_bridge_batch_seconds{source="shop"}'] == 0.5
        assert seen['dbt_bridge_errors_total{source="shop"}'] == 1
        assert seen['dbt_bridge_lag_seconds{source="shop"}'] == 0.5, "a batch without a transaction says nothing of it"
        assert seen['dbt_bridge_lag_bytes{source="shop"}'] == 2048
        assert seen['dbt_bridge_lsn{source="shop"}'] == 0x1_0000_00AB
        assert seen['dbt_bridge_events_total{source="the \\"other\\"\\\\"}'] == 1

        metrics.caught_up("shop", position_of(0x1_0000_00FF))
        seen = scraped(metrics.url)
        assert [seen[f'dbt_bridge_{name}{{source="shop"}}'] for name in ("lag_seconds", "lag_bytes", "lsn")] == [
            0, 0, 0x1_0000_00FF,
        ]  # fmt: skip


def test_a_pause_is_seen_until_the_stream_goes_on() -> None:
    with Metrics(0) as metrics:
        metrics.batch(batch())
        seen = []
        for told in (lambda: metrics.paused("shop"), lambda: metrics.caught_up("shop", position_of(1))):
            told()
            seen.append(scraped(metrics.url)['dbt_bridge_paused{source="shop"}'])
    assert seen == [1, 0]


def test_every_sample_has_its_help_and_type() -> None:
    metrics = Metrics(0)
    metrics.batch(batch())
    lines = metrics.format_text().splitlines()
    for line in (line for line in lines if not line.startswith("#")):
        name = line.split("{")[0]
        place = lines.index(line)
        assert lines[place - 1].startswith(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}")
        assert lines[place - 2].startswith(f"# HELP {name} ")


def test_another_path_is_not_found_and_the_port_is_free_afterwards() -> None:
    with Metrics(0) as metrics:
        url = metrics.url
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url.replace("/metrics", "/secrets"), timeout=60)
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=60)


def test_a_port_that_is_taken_is_a_usage_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="--metrics-port") as refused, Metrics(taken.getsockname()[1]):
            pass
        assert "another port" in refused.value.mend


def test_without_the_extra_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "dbt_bridge.observe.prometheus")
    with pytest.raises(MissingExtra, match="--metrics-port needs an optional part") as refused:
        importlib.import_module("dbt_bridge.observe.prometheus")
    assert refused.value.mend == "pip install 'prometheus-client>=0.20'"


def test_plain_lines_add_up_what_came_between_them() -> None:
    out = io.StringIO()
    with WatchLines(out, seconds_between=3600) as lines:
        lines.caught_up("shop", position_of(0xAB))
        lines.batch(batch(10))
        lines.batch(batch(5))
        lines.batch(batch(6))
        lines.retrying("shop", OriginError("the server went away", mend="wait"), 2.0)
        lines.batch(batch(1))
    assert out.getvalue().splitlines() == [
        "shop: caught up at 0/AB",
        "shop: 10 changes, lag 0.5 s, 2.0 kB, at 1/AB",
        "shop: 11 changes, lag 0.5 s, 2.0 kB, at 1/AB",
        "shop: the server went away",
        "  -> wait",
        "shop: trying again in 2 s",
        "shop: 1 changes, lag 0.5 s, 2.0 kB, at 1/AB",
    ]


def test_a_terminal_has_a_line_per_source() -> None:
    out = io.StringIO()
    with WatchLive(Console(file=out, force_terminal=True, width=120)) as live:
        live.batch(batch(1234))
        live.caught_up("shop", position_of(0xAC))
        live.batch(batch(7, source="crm", lag_seconds=None, lag_bytes=None))
        with live.aside():
            print("dbt's line", file=out)
    shown = out.getvalue()
    for text in (
        "shop",
        "caught up",
        "1,234 in all",
        "lag 0.5 s, 2.0 kB",
        "at 0/AC",
        "crm",
        "following",
        "lag unknown",
    ):
        assert text in shown, text
    assert "dbt's line" in shown


def test_json_is_one_document_per_batch() -> None:
    out, lines = io.StringIO(), io.StringIO()
    with Watches([WatchJson(out), WatchLines(lines)]) as both:
        both.message("begins")
        both.caught_up("shop", position_of(1))
        both.batch(batch(10, tables=frozenset({"source.shop.shop.orders"})))
    (document,) = [json.loads(line) for line in out.getvalue().splitlines()]
    assert document == {
        "source": "shop",
        "changes": 10,
        "from_lsn": "0/64",
        "to_lsn": "1/AB",
        "lag_seconds": 0.5,
        "lag_bytes": 2048,
        "seconds": 0.25,
        "tables": ["source.shop.shop.orders"],
    }
    assert lines.getvalue().startswith("begins\n")


def test_who_looks_decides_what_is_shown() -> None:
    assert type(make_watcher(io.StringIO())) is WatchLines
    with make_watcher(io.StringIO(), silent=True) as silent:
        silent.batch(batch())
