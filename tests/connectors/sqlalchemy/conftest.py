"""What the tests of SQLAlchemy origins share."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin

MakeSqlite = Callable[..., SqlOrigin]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shop é.db"


@pytest.fixture
def make(file: Path) -> MakeSqlite:
    """Run statements in the file, and open it as an origin."""

    def run(*statements: str) -> SqlOrigin:
        connection = sqlite3.connect(file)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()
        return SqlOrigin("lite", f"sqlite:///{file}")

    return run
