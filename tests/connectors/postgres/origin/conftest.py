"""What the tests of the Postgres origin share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin


@pytest.fixture
def reading(database: str) -> Iterator[PostgresOrigin]:
    """The empty database as an origin. It connects with its first use, so a test may fill the database before."""
    with PostgresOrigin("pg", database) as reading:
        yield reading
