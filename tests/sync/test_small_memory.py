"""Wide tables and long values where there is little memory: copied, changed, compared, repaired and delivered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from tests.cdc.ends import End
from tests.projects import known, landing_source, table
from tests.small_memory import SmallProcess, small_process

from dbt_bridge.nouns.project import Delivery, Project
from dbt_bridge.nouns.table import Relation
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.repair import RepairOptions, repair
from dbt_bridge.prove.verify import verify
from dbt_bridge.run.deliver import deliver
from dbt_bridge.run.sync import SyncOptions, sync

_MOST = 1 << 30
_WIDE, _COLUMNS = 300, 200
_SHAPES = {
    "wide": (
        f"id int PRIMARY KEY, n int, {', '.join(f'c{i} int' for i in range(_WIDE))}",
        f"SELECT g, 0, {', '.join(['g'] * _WIDE)} FROM generate_series(1, 40) g",  # noqa: S608
    ),
    "columns": (
        f"id int PRIMARY KEY, n int, {', '.join(f'c{i} text' for i in range(_COLUMNS))}",
        f"SELECT g, 0, {', '.join(['md5(g::text)'] * _COLUMNS)} FROM generate_series(1, 1500) g",  # noqa: S608
    ),
    "long": (
        "id int PRIMARY KEY, n int, v text",
        "SELECT g, 0, repeat(md5(g::text), 31250) FROM generate_series(1, 60) g",
    ),
    "documents": (
        "id int PRIMARY KEY, n int, j jsonb",
        "SELECT g, 0, jsonb_build_object('a', repeat(md5(g::text), 320)) FROM generate_series(1, 5000) g",
    ),
}
_HISTORY = ("long", "documents")


@pytest.fixture
def shapes(origin: psycopg.Connection) -> psycopg.Connection:
    for name, (columns, rows) in _SHAPES.items():
        origin.execute(f"CREATE TABLE {name} ({columns})".encode())
        origin.execute(f"INSERT INTO {name} {rows}".encode())
    origin.execute("ALTER TABLE long ALTER v SET STORAGE EXTERNAL")
    return origin


@pytest.fixture
def small() -> Iterator[SmallProcess]:
    with small_process(_MOST) as process:
        yield process


def _delivery(name: str) -> Delivery:
    return Delivery(
        node=f"exposure.shop.{name}", name=name, model=f"model.shop.{name}", relation=Relation("shop_landing", name),
        ancestors=frozenset({f"model.shop.{name}"}), gates=frozenset(), destination="crm_pg", schema="crm", table=name,
        write_disposition="merge", primary_key=("id",),
    )  # fmt: skip


def _assert_equal(small: SmallProcess, project: Project) -> None:
    found = small.call(verify, project, VerifyOptions(), Silent())
    assert {p.node: (p.status, p.error) for p in found} == {p.node: ("equal", None) for p in found}
    assert len(found) >= len(_SHAPES)


def test_each_shape_goes_each_way(end: End, shapes: psycopg.Connection, small: SmallProcess) -> None:
    tables = [table(name, history=name in _HISTORY) for name in _SHAPES]
    source = landing_source(*tables, destination=end.destination, slot="dbt_bridge_small")
    project = replace(end.project, sources=(source,))

    def land() -> None:
        receipts = small.call(sync, project, SyncOptions(), Silent())
        assert {(r.node, r.error) for r in receipts if r.status != "success"} == set()

    land()
    with shapes.transaction():
        for name in _SHAPES:
            shapes.execute(f"UPDATE {name} SET n = n + 1 WHERE id % 3 = 0".encode())  # noqa: S608
        shapes.execute("UPDATE long SET v = v || 'x' WHERE id % 4 = 0")
    land()
    _assert_equal(small, project)
    shapes.execute("DELETE FROM documents WHERE id = 7")
    if end.kind == "lake":
        return
    deliveries = tuple(_delivery(name) for name in _SHAPES)
    passed = known({delivery.model: "success" for delivery in deliveries})
    receipts = small.call(deliver, replace(project, deliveries=deliveries), passed, Silent())
    assert {(r.node, r.error) for r in receipts if r.status != "success"} == set()
    shapes.execute("UPDATE crm.documents SET n = -1 WHERE id = 9")
    done = small.call(repair, replace(project, deliveries=deliveries), RepairOptions(), Silent(), passed)
    assert done.ok, ([p.error for p in done.parities], [r.error for r in done.receipts])
    assert {r.node for r in done.receipts} == {"exposure.shop.documents"}
