"""`unfit: text`: a database with awkward tables lands, and what landed is proven; without it they are refused."""
# ruff: noqa: S608

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.projects import landing_source, table

from dbt_bridge.nouns.bridge_keys import Columns
from dbt_bridge.nouns.names import DUCKDB, POSTGRES
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.verify import verify
from dbt_bridge.run.sync import SyncOptions, sync
from dbt_bridge.sync.unfit import add_suffix, suffix_twins

Rows = list[tuple[Any, ...]]
ID, NAME = "ID_3843", "Name_dcd1"


class Told(Silent):
    """What is told to people."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def awkward(origin: psycopg.Connection) -> None:
    origin.execute(
        """
        CREATE TABLE matrices (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), m int[], flat text[]);
        INSERT INTO matrices (id, m, flat)
          VALUES (1, '{1,2}', '{a}'), (2, '{{1,2},{3,4}}', NULL), (3, '[0:1]={5,6}', '{}');
        CREATE TABLE twins
          (id int PRIMARY KEY, "ID" text, at timestamptz NOT NULL DEFAULT now(), "Name" text, name text);
        INSERT INTO twins (id, "ID", "Name", name) VALUES (1, 'one', 'A', 'a'), (2, NULL, 'B', NULL);
        CREATE TABLE nothing ();
        CREATE TABLE plain (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
        INSERT INTO plain VALUES (1)
        """
    )


def source(**keys: Any) -> LandingSource:
    made = landing_source(replication="initial_copy", every_table=True)
    return replace(made, defaults=replace(made.defaults, **keys))


def sync_all(project: Project, made: LandingSource, told: Told | None = None, **options: Any) -> dict[str, Receipt]:
    receipts = sync(replace(project, sources=(made,)), SyncOptions(**options), told or Silent())
    return {receipt.node.rpartition(".")[2]: receipt for receipt in receipts}


def verify_all(project: Project, made: LandingSource) -> dict[str, str]:
    parities = verify(replace(project, sources=(made,)), VerifyOptions(), Silent())
    return {parity.node.rpartition(".")[2]: parity.error or parity.status for parity in parities}


def test_by_default_they_are_refused_one_by_one(project: Project, awkward: None) -> None:
    told = sync_all(project, source())
    assert {name: receipt.status for name, receipt in told.items()} == {
        "matrices": "failed", "twins": "failed", "nothing": "failed", "plain": "success",
    }  # fmt: skip
    for name in ("twins", "nothing"):
        assert "unfit: text" in str(told[name].error)


@pytest.mark.parametrize("replication", ["initial_copy", "incremental"])
def test_they_land_with_one_line_and_are_equal(
    project: Project, awkward: None, origin: psycopg.Connection, landed: Callable[[str], Rows], replication: Any
) -> None:
    keys: dict[str, Any] = {"replication": replication, "cursor": "at"} if replication == "incremental" else {}
    made = source(unfit="text", **keys)
    told = Told()
    receipts = sync_all(project, made, told)
    assert {name: (r.status, r.error) for name, r in receipts.items()} == dict.fromkeys(
        ("matrices", "twins", "plain"), ("success", None)
    )
    assert any("nothing is left out" in text and "no columns" in text for text in told.messages)
    assert any("column 'm' lands as text" in text for text in told.messages)
    assert landed("SELECT id, m, flat FROM shop_landing.matrices ORDER BY id") == [
        (1, "{1,2}", ["a"]), (2, "{{1,2},{3,4}}", None), (3, "[0:1]={5,6}", []),
    ]  # fmt: skip
    twins = f"SELECT id, {ID}, {NAME}, name FROM shop_landing.twins ORDER BY id"
    assert landed(twins) == [(1, "one", "A", "a"), (2, None, "B", None)]
    assert verify_all(project, made) == dict.fromkeys(("matrices", "twins", "plain"), "equal")

    origin.execute("UPDATE twins SET \"ID\" = 'two', at = now() WHERE id = 2")
    origin.execute("INSERT INTO matrices (id, m) VALUES (4, '{7}')")
    again = sync_all(project, made, told)
    assert {r.status for r in again.values()} == {"success"}
    assert landed("SELECT m FROM shop_landing.matrices WHERE id = 4") == [("{7}",)], "text stays text"
    assert landed(twins)[1] == (2, "two", "B", None)
    assert verify_all(project, made) == dict.fromkeys(("matrices", "twins", "plain"), "equal")


def test_declarations_call_columns_as_the_origin_does(
    project: Project, origin: psycopg.Connection, landed: Callable[[str], Rows]
) -> None:
    origin.execute('CREATE TABLE t (id text, "ID" int PRIMARY KEY, "Id" int[], "AT" timestamptz, "At" text, at text)')
    origin.execute("INSERT INTO t VALUES ('a', 7, '{{1},{2}}', now(), 'hidden', 'secret')")
    keys: dict[str, Any] = {"primary_key": ("ID",), "cursor": "AT", "mask": {"at": "sha256"}, "types": {"ID": "bigint"}}
    made = landing_source(
        table("t", "incremental", unfit="text", columns=Columns(exclude=("At",)), **keys), replication="incremental"
    )
    for _ in range(2):
        assert sync_all(project, made)["t"].error is None
    suffixed = {name: add_suffix(name) for name in ("ID", "Id", "AT")}
    described = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 't' ORDER BY column_index"
    assert landed(described) == [
        ("id", "VARCHAR"), (suffixed["ID"], "BIGINT"), (suffixed["Id"], "VARCHAR"),
        (suffixed["AT"], "TIMESTAMP WITH TIME ZONE"), ("at", "VARCHAR"),
    ]  # fmt: skip
    hashed = hashlib.sha256(b"secret").hexdigest()
    assert landed(f'SELECT id, {suffixed["ID"]}, {suffixed["Id"]}, "at" FROM shop_landing.t') == [
        ("a", 7, "{{1},{2}}", hashed)
    ]
    assert verify_all(project, made) == {"t": "equal"}


def test_a_value_that_comes_late_makes_text_of_its_column(
    project: Project, origin: psycopg.Connection, landed: Callable[[str], Rows]
) -> None:
    origin.execute("CREATE TABLE matrices (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), m int[])")
    origin.execute("INSERT INTO matrices (id, m) VALUES (1, '{1,2}')")
    made = source(unfit="text", replication="incremental", cursor="at")
    sync_all(project, made)
    assert landed("SELECT m FROM shop_landing.matrices") == [([1, 2],)]
    origin.execute("INSERT INTO matrices (id, m) VALUES (2, '{{1,2},{3,4}}')")
    assert sync_all(project, made)["matrices"].status == "success"
    assert landed("SELECT m FROM shop_landing.matrices ORDER BY id") == [("{1,2}",), ("{{1,2},{3,4}}",)]
    origin.execute("DELETE FROM matrices WHERE id = 2")
    sync_all(project, made, full_refresh=True)
    assert landed("SELECT m FROM shop_landing.matrices") == [([1, 2],)], "a full refresh begins again"


def test_followed_tables_land_and_follow_as_text(
    project: Project, origin: psycopg.Connection, landed: Callable[[str], Rows]
) -> None:
    origin.execute(
        "CREATE TABLE matrices (id int PRIMARY KEY, m int[]); CREATE TABLE late (id int PRIMARY KEY, m int[])"
    )
    origin.execute("CREATE TABLE nothing ()")
    origin.execute("INSERT INTO matrices VALUES (1, '{{1,2},{3,4}}'); INSERT INTO late VALUES (1, '{1}')")
    made = landing_source(replication="cdc", every_table=True, slot="dbt_bridge_test_unfit")
    made = replace(made, defaults=replace(made.defaults, unfit="text"))
    assert {name: r.status for name, r in sync_all(project, made).items()} == {"matrices": "success", "late": "success"}
    assert landed("SELECT m FROM shop_landing.late") == [([1],)]
    origin.execute("INSERT INTO matrices VALUES (2, '{5}'); INSERT INTO late VALUES (2, '{{1},{2}}')")
    receipts = sync_all(project, made)
    assert {name: (r.status, r.error) for name, r in receipts.items()} == dict.fromkeys(
        ("matrices", "late"), ("success", None)
    )
    assert landed("SELECT m FROM shop_landing.matrices ORDER BY id") == [("{{1,2},{3,4}}",), ("{5}",)]
    assert landed("SELECT m FROM shop_landing.late ORDER BY id") == [("{1}",), ("{{1},{2}}",)]
    origin.execute("UPDATE late SET m = '{9,9}' WHERE id = 1")
    assert sync_all(project, made)["late"].hop == "cdc", "it is followed, and not copied again"
    assert landed("SELECT m FROM shop_landing.late ORDER BY id") == [("{9,9}",), ("{{1},{2}}",)]
    assert verify_all(project, made) == {"matrices": "equal", "late": "equal"}


@given(st.lists(st.text("iIdDéÉ", min_size=1, max_size=3), unique=True, max_size=8), st.randoms())
def test_names_that_are_one_get_a_suffix_that_depends_on_nothing_else(names: list[str], chance: Any) -> None:
    landing = suffix_twins(names, DUCKDB.same_column)
    shuffled = list(names)
    chance.shuffle(shuffled)
    assert suffix_twins(shuffled, DUCKDB.same_column) == landing
    folded = [DUCKDB.same_column(name) for name in landing.values()]
    assert len(set(folded)) == len(names)
    assert suffix_twins(names, POSTGRES.same_column) == {name: name for name in names}


def test_the_suffixes_are_those_of_the_documentation() -> None:
    assert suffix_twins(["id", "ID", "v"], DUCKDB.same_column) == {"id": "id", "ID": ID, "v": "v"}
