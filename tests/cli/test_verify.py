"""`dbt-bridge verify` on the command line: exit codes, one JSON document, a report that is whole or not there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from dbt_bridge.cli import run_command
from dbt_bridge.cli.comparison_output import Presentation, present
from dbt_bridge.cli.output import Output
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.parity import Difference, Parity
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.nouns.receipt import now, start_receipt
from dbt_bridge.run.outcomes import BuildOutcome, CompareOutcome, DeliverOutcome, Parities, Receipts
from dbt_bridge.run.selected_nothing import MOVED, nothing_compared, require_compared

SOURCES = """
sources:
  - name: shop
    schema: landing
    config: {meta: {bridge: {origin: shop_pg, schema: public}}}
    tables: [{name: orders}, {name: customers}]
  - name: files
    schema: main
    tables: [{name: rates}]
"""
BEGAN = now()
EQUAL = Parity(
    "load-1", "source.shop.shop.customers", "pg: public.customers", "duckdb: landing.customers", "rows", "equal",
    "now", BEGAN, BEGAN, 0.1, rows_origin=2, rows_destination=2, only_in_origin=0, only_in_destination=0, different=0,
    duplicates=0,
)  # fmt: skip
DIFFERENT = Parity(
    "load-1", "source.shop.shop.orders", "pg: public.orders", "duckdb: landing.orders", "rows", "different", "now",
    BEGAN, BEGAN, 0.1, rows_origin=3, rows_destination=3, only_in_origin=0, only_in_destination=0, different=2,
    duplicates=0, key=("id",), columns={"note": 2},
    examples=tuple(
        Difference("different", {"id": i}, ("note",), {"note": f"old-{i}"}, {"note": f"new-{i}"}) for i in "23"
    ),
)  # fmt: skip
FAILED = Parity(
    "load-1", "source.shop.shop.items", "pg: public.items", "duckdb: landing.items", "rows", "failed", "now", BEGAN,
    BEGAN, 0.1, error="items is locked\n  -> try again",
)  # fmt: skip


def told(parities: list[Parity], how: Presentation) -> int:
    return present(CompareOutcome("shop", Parities(parities)), how)


def how(tmp_path: Path, **output: bool) -> Presentation:
    return Presentation(Output(**output), "Verification of shop", {"project": "shop"}, tmp_path / "parity.html")


@pytest.mark.parametrize(
    ("parities", "code"),
    [([EQUAL], 0), ([EQUAL, DIFFERENT], 1), ([EQUAL, FAILED], 1)],
    ids=["equal", "different", "failed"],
)
def test_only_equal_passes(
    parities: list[Parity], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(parities, how(tmp_path)) == code
    printed = capsys.readouterr()
    assert all(parity.destination.removeprefix("duckdb: ") in printed.out for parity in parities)
    assert printed.err == f"the report is in {tmp_path / 'parity.html'}\n"

    assert told(parities, how(tmp_path, as_json=True)) == code
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == ("failed" if code else "success")
    assert [found["status"] for found in document["parity"]] == [parity.status for parity in parities]
    assert document["error"] is None


def test_a_gate_that_compared_nothing_does_not_pass(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing was compared: the project has no table"):
        require_compared([], "table", DbtOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_selection_of_nothing_is_named_with_how_to_select() -> None:
    refused = nothing_compared(MOVED, DbtOptions(select=("source:shop.ordres",), exclude=("tag:big",)))
    assert refused.what.startswith(
        "nothing was compared: --select source:shop.ordres --exclude tag:big leaves no source"
    )
    assert "source:NAME.TABLE" in refused.mend and "dbt-bridge plan" in refused.mend


def test_quiet_tells_what_is_not_equal_as_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told([EQUAL], how(tmp_path, quiet=True)) == 0
    assert capsys.readouterr() == ("", "")
    assert told([EQUAL, DIFFERENT], how(tmp_path, quiet=True)) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "landing.orders" in printed.err
    assert "landing.customers" not in printed.err


def test_a_report_replaces_the_last_one_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told([DIFFERENT], how(tmp_path))
    assert "old-2" in (tmp_path / "parity.html").read_text()
    told([EQUAL], how(tmp_path))
    assert "old-2" not in (tmp_path / "parity.html").read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["parity.html"]


def test_quiet_tells_what_a_gate_held_back(capsys: pytest.CaptureFixture[str]) -> None:
    names = {"table_name": "crm.loyal", "origin": "main.loyal", "destination": "crm", "write_disposition": "merge"}
    held = replace(
        start_receipt("load", "deliver", "exposure.shop.loyal", **names), status="skipped", error="fct differs"
    )
    assert Output(quiet=True).print_outcome(DeliverOutcome(Receipts([held]))) == 1
    assert capsys.readouterr().err == "crm.loyal: fct differs\n"
    assert Output(quiet=True).print_outcome(BuildOutcome(Receipts([held]))) == 0
    assert capsys.readouterr().err == ""


def test_a_report_that_cannot_be_written_fails_the_command_and_the_result_is_told_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "parity.html").mkdir()  # since the command began
    assert told([EQUAL], how(tmp_path)) == 1
    printed = capsys.readouterr()
    assert "landing.customers" in printed.out
    assert "the report could not be written" in printed.err

    assert told([EQUAL], how(tmp_path, as_json=True)) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["status"], len(document["parity"])) == ("failed", 1)
    assert "the report could not be written" in document["error"]["what"]
    assert [file.name for file in tmp_path.iterdir()] == ["parity.html"]


@pytest.mark.parametrize("place", ["missing/parity.html", "."])
def test_a_report_without_a_place_is_told_before_anything_is_done(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where no project is: it is not even looked for
    assert run_command(["verify", "--report", place]) == 2
    printed = capsys.readouterr()
    assert str(tmp_path) in printed.err
    assert "dbt_project.yml" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_report_replaces_nothing_but_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "orders.sql"
    model.write_text("select 1")
    assert run_command(["reconcile", "--report", str(model), "--project-dir", str(tmp_path)]) == 2
    assert f"{model} is there, and is no report" in capsys.readouterr().err
    assert model.read_text() == "select 1"

    told([EQUAL], how(tmp_path))
    assert run_command(["reconcile", "--report", str(tmp_path / "parity.html"), "--project-dir", str(tmp_path)]) == 2
    assert "no dbt_project.yml" in capsys.readouterr().err, "the report was no hindrance"


@pytest.fixture
def shop(dbt_root: Path, origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    origin.execute("INSERT INTO orders VALUES (1, 'a'), (2, NULL), (3, '<b>')")
    origin.execute("CREATE TABLE customers (id int PRIMARY KEY)")
    origin.execute("INSERT INTO customers VALUES (1), (2)")
    (dbt_root / "models" / "all.yml").write_text(SOURCES)
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    monkeypatch.chdir(dbt_root)
    return dbt_root


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Run one command with --json; answers its exit code and its document, which is all of standard output."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = run_command([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_verify_gates_and_reports(
    shop: Path, command: Callable[..., tuple[int, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("sync")[0] == 0
    code, document = command("verify")
    assert (code, document["status"]) == (0, "success"), document
    assert {p["node"]: (p["status"], p["rows_origin"], p["rows_destination"]) for p in document["parity"]} == {
        "source.shop.shop.customers": ("equal", 2, 2),
        "source.shop.shop.orders": ("equal", 3, 3),
    }

    with duckdb.connect(str(shop / "warehouse.duckdb")) as connection:
        connection.execute("UPDATE landing.orders SET note = '' WHERE id = 2")
        connection.execute("DELETE FROM landing.customers WHERE id = 1")
    code, document = command("verify", "--select", "source:shop.orders", "--report", "parity.html")
    (found,) = document["parity"]
    assert (code, document["status"], document["error"]) == (1, "failed", None)
    assert (found["different"], found["columns"]) == (1, {"note": 1})
    assert [(e["key"], e["origin"], e["destination"]) for e in found["examples"]] == [
        ({"id": "2"}, {"note": None}, {"note": ""})
    ]
    assert "1 row of landing.orders differs" in (shop / "parity.html").read_text()

    assert run_command(["verify", "--level", "rows", "--show", "0"]) == 1
    text = capsys.readouterr().out
    assert len(re.findall("repair --select source:shop", text)) == 2
    with duckdb.connect(str(shop / "warehouse.duckdb"), read_only=True) as connection:
        kept = connection.execute("SELECT node, status, error FROM _dbt_bridge.parity ORDER BY load_id, node")
        rows = kept.fetchall()
    assert [(node.removeprefix("source.shop.shop."), status) for node, status, _ in rows] == [
        ("customers", "equal"), ("orders", "equal"), ("orders", "different"), ("customers", "different"),
        ("orders", "different"),
    ]  # fmt: skip

    code, document = command("verify", "--select", "source:files.rates")
    assert (code, document["status"]) == (2, "failed")
    assert "nothing was compared" in document["error"]["what"]
