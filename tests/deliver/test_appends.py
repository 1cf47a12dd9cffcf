"""Appends to destinations that remember nothing: sent once, and what nobody knows is told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from tests.deliver.contacts import CONTACTS

from dbt_bridge.contracts.destination import Loaded
from dbt_bridge.deliver.appends import Appends
from dbt_bridge.errors import DestinationError, TypeRefused, UsageError
from dbt_bridge.nouns.project import Project
from dbt_bridge.project.claims import refuse_impossible
from dbt_bridge.project.destinations import open_warehouse

ONE = Loaded(1, 1, 0, 0, 8)
Append = Callable[..., Loaded | None]


@pytest.fixture
def append(project: Project) -> Append:
    def once(token: str, *, fails: Exception | None = None, is_there: bool = True) -> Loaded | None:
        def send() -> Loaded:
            if fails is not None:
                raise fails
            return ONE

        with closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse:
            return Appends(warehouse, CONTACTS, token, "load").append_once(send, is_there=is_there)

    return once


def test_one_build_is_appended_once(append: Append) -> None:
    assert append("a", is_there=False) == ONE
    assert append("a") is None
    assert append("a", is_there=False) == ONE, "what was sent to a table that is gone is gone"
    assert append("b") == ONE


def test_rows_that_were_refused_before_they_travelled_are_sent_again(append: Append) -> None:
    append("a")
    with pytest.raises(TypeRefused):
        append("b", fails=TypeRefused("it does not fit"))
    assert append("b") == ONE
    assert append("b") is None


def test_rows_that_were_refused_by_a_new_table_are_sent_though_the_old_one_had_them(append: Append) -> None:
    append("a")
    with pytest.raises(TypeRefused):
        append("a", fails=TypeRefused("it does not fit"), is_there=False)
    assert append("a") == ONE


@pytest.mark.parametrize(("found", "then"), [("sent", None), ("failed", ONE)])
def test_whether_rows_arrived_is_told_as_not_known(
    append: Append, project: Project, warehouse_file: Path, found: str, then: Loaded | None
) -> None:
    with pytest.raises(DestinationError, match="whether its rows arrived in") as told:
        append("a", fails=DestinationError("the connection broke off"))
    with pytest.raises(DestinationError, match="the last append of it did not come to its end") as again:
        append("a")
    assert again.value.mend == told.value.mend
    statement = told.value.mend.partition("in the warehouse: ")[2].partition(";")[0]
    assert statement.startswith("UPDATE _dbt_bridge.appended SET status = 'sent'")
    with duckdb.connect(str(warehouse_file)) as warehouse:
        warehouse.execute(statement.replace("'sent'", f"'{found}'"))
    assert append("a") == then


@pytest.mark.parametrize(
    ("settings", "deletes", "why"),
    [
        ({"DESTINATION_TYPE": "snowflake"}, "own", "what is reached through dlt deletes no rows"),
        ({"DESTINATION_TYPE": "filesystem", "TABLE_FORMAT": "parquet"}, "none", "Parquet files cannot"),
        ({"DESTINATION_TYPE": "filesystem"}, "own", None),
        ({"DESTINATION_TYPE": "snowflake"}, "none", None),
    ],
)
def test_what_a_destination_cannot_do_is_refused_before_anything_moves(
    project: Project, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], deletes: str, why: str | None
) -> None:
    for key, value in settings.items():
        monkeypatch.setenv(f"DESTINATION__THERE__{key}", value)
    item = replace(CONTACTS, destination="there", deletes=deletes)
    if why is None:
        return refuse_impossible(replace(project, deliveries=(item,)))
    with pytest.raises(UsageError, match=f"exposure.shop.contacts: .* is not for the destination 'there': .*{why}"):
        refuse_impossible(replace(project, deliveries=(item,)))
    return refuse_impossible(replace(project, deliveries=(item,), selected=frozenset()))
