"""A repair keeps every type exactly: each column of one row is spoilt, and holds afterwards what it held before."""

# ruff: noqa: S608  (the statements' parts are this file's own)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from tests.connectors.postgres.origin.test_golden_types import CASES, SETUP
from tests.projects import table
from tests.prove.spoilt import Shop

from dbt_bridge.nouns.project import Project

Ask = Callable[[str], list[tuple[object, ...]]]
TYPES = [name for name, (_, values) in CASES.items() if values]


def made(origin: psycopg.Connection, key: str) -> None:
    """One column of each type; one row per type, and in it the types' values in turn."""
    origin.execute(SETUP.encode())
    columns = ", ".join(f"v{i} {name}" for i, name in enumerate(TYPES))
    origin.execute(f"CREATE TABLE everything (id int {key}, {columns})".encode())
    for row in range(len(TYPES)):
        values = [values[row % len(values)] for name in TYPES for values in [CASES[name][1]]]
        origin.execute(f"INSERT INTO everything VALUES ({row}{', %s' * len(values)})".encode(), values)


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""], ids=["by key", "whole rows"])
def test_every_type_is_repaired_exactly(
    project: Project, warehouse_file: Path, origin: psycopg.Connection, landed: Ask, key: str
) -> None:
    made(origin, key)
    if not key:
        origin.execute("ALTER TABLE everything REPLICA IDENTITY FULL")
    shop = Shop(project, warehouse_file, table("everything"))
    texts = ", ".join(f"v{i}::VARCHAR" for i in range(len(TYPES)))
    before = landed(f"SELECT id, {texts} FROM shop_landing.everything ORDER BY id")
    shop.spoil(
        *[f"UPDATE shop_landing.everything SET v{i} = NULL WHERE id = {i}" for i in range(len(TYPES))],
        "DELETE FROM shop_landing.everything WHERE id IN (0, 1, 2)",
        "INSERT INTO shop_landing.everything SELECT * REPLACE (id + 1000 AS id) FROM shop_landing.everything"
        " WHERE id IN (3, 4, 5)",
    )
    (receipt,) = shop.repair(max_share=1)
    wrong = len(TYPES) - 3
    if key:
        assert (receipt.rows_inserted, receipt.rows_updated, receipt.rows_deleted) == (3, wrong, 3)
    else:
        assert (receipt.rows_inserted, receipt.rows_deleted) == (3 + wrong, 3 + wrong)
    assert landed(f"SELECT id, {texts} FROM shop_landing.everything ORDER BY id") == before
