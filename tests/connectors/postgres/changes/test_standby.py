"""A standby as the origin, since PostgreSQL 16: the primary has the publications, the standby the slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from tests.support.servers import start_standby

from dbt_bridge.connectors.postgres.changes import publication
from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.connectors.postgres.changes.stream import ReplicationStream
from dbt_bridge.demo import postgres
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.table import TableName

ITEMS = TableName("public", "items")


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    """A primary and its standby."""
    primary = postgres.start(settings={"fsync": "off"})
    try:
        with start_standby(primary, {"fsync": "off", "hot_standby_feedback": "on"}) as standby:
            yield primary, standby
    finally:
        postgres.remove(primary)


def test_a_standby_is_followed(pair: tuple[Server, Server], taken: Callable, until: Callable, tmp_path: Path) -> None:
    primary, standby = pair
    with (
        psycopg.connect(primary.url(), autocommit=True) as connection,
        Replication("primary", primary.url()) as at_primary,
        Replication("standby", standby.url()) as at_standby,
    ):
        assert at_standby.identity().is_standby
        assert at_standby.identity().system_identifier == at_primary.identity().system_identifier
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, name text)")
        created = at_primary.current_lsn()
        until(lambda: at_standby.current_lsn() >= created)
        with pytest.raises(OriginError, match="read-only") as raised:
            publication.ensure(at_standby, "shop", [ITEMS], [])
        connection.execute(raised.value.mend.removeprefix("at the primary: ").encode())
        until(lambda: publication.plan_publications(at_standby, "shop", [ITEMS], []).statements == ())

        def let_go(said: str) -> None:
            assert said == "the new slot waits for the next record of running transactions"
            connection.execute("SELECT pg_log_standby_snapshot()")

        with at_standby.create_slot("shop", on_wait=let_go, timeout=60) as slot:
            assert not at_standby.slot("shop").failover
        connection.execute("INSERT INTO items SELECT i, 'x' FROM generate_series(1, 1000) i")
        written = at_primary.current_lsn()
        until(lambda: at_standby.current_lsn() >= written)
        stream = ReplicationStream(
            "standby", standby.url(), "shop", ["shop"], slot.consistent_point, binary=False, spool_folder=tmp_path
        )
        with stream:
            reader = taken(stream, at_standby.current_lsn())
        assert [len(transaction.changes) for transaction in reader.transactions] == [1000]
