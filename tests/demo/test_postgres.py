"""The server that the demo and the tests run on."""

from __future__ import annotations

import socket

import psycopg
import pytest

from dbt_bridge.demo import postgres


def test_a_port_that_somebody_takes_meanwhile_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    free = postgres.find_free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(postgres, "find_free_port", lambda: ports.pop() if ports else free())
        server = postgres.start(settings={"fsync": "off"})
        try:
            assert server.port != taken.getsockname()[1]
            with psycopg.connect(server.url()) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            postgres.remove(server)
