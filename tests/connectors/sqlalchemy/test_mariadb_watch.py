"""MariaDB behind a network that goes silent: a server that works is waited for, one that cannot be heard is not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from tests.proxy import Proxy

from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin
from dbt_bridge.errors import ConnectionFailed, OriginError
from dbt_bridge.nouns.table import TableName

if TYPE_CHECKING:
    from tests.connectors.conftest import MariaDatabase

Proxied = Callable[..., tuple[str, Proxy]]
NOTES = TableName("", "notes")


@pytest.fixture
def notes(mariadb: MariaDatabase) -> MariaDatabase:
    mariadb.execute("CREATE TABLE notes (id INT PRIMARY KEY, note VARCHAR(100))")
    mariadb.execute("INSERT INTO notes SELECT seq, REPEAT('n', 80) FROM seq_1_to_200000")
    return mariadb


def test_rows_whose_network_went_silent_are_not_waited_for(notes: MariaDatabase, proxied: Proxied) -> None:
    url, proxy = proxied(notes.url, read_timeout="1")
    others = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
    with SqlOrigin("shop_my", url) as origin:
        described = origin.describe(NOTES).table
        proxy.fail_after(2_000_000, "stall")
        with pytest.raises(OriginError, match=r"broke off while .*no answer for"):
            origin.rows(described.name, described.columns).read_all()
        while notes.execute(others):
            pass  # it was ended, and is gone in a moment
        assert proxy.struck.is_set()


def test_a_query_that_takes_its_time_is_waited_for(notes: MariaDatabase, proxied: Proxied) -> None:
    url, proxy = proxied(notes.url, read_timeout="1")
    notes.execute("CREATE VIEW patient AS SELECT GET_LOCK('theirs', 600) AS got")
    notes.execute("SELECT GET_LOCK('theirs', 0)")
    got: list[object] = []

    def read() -> None:
        with SqlOrigin("shop_my", url) as origin:
            described = origin.describe(TableName("", "patient")).table
            got.extend(origin.rows(described.name, described.columns).read_all()["got"].to_pylist())

    reading = threading.Thread(target=read)
    reading.start()
    while proxy.connections < 4 and reading.is_alive():
        pass  # it asks once a second
    notes.execute("SELECT RELEASE_LOCK('theirs')")
    reading.join()
    assert got == [1]


def test_a_server_that_does_not_greet_cannot_be_reached(
    mariadb: MariaDatabase, proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbt_bridge.connectors.sqlalchemy.mysql_watch._BOUND", 1)
    url, proxy = proxied(mariadb.url)
    proxy.freeze()
    with SqlOrigin("shop_my", url) as origin, pytest.raises(ConnectionFailed, match="cannot be reached"):
        origin.describe(NOTES)
