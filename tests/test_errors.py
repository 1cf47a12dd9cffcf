"""Errors: what they hide, and that each one says what to do next."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbt_bridge import errors
from dbt_bridge.cli import run_command
from dbt_bridge.errors import BridgeError, MissingExtra, OriginError, UsageError, scrubbed

CANARY = "c4n4ry-Pa55w0rd"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://shop:{CANARY}@db:5432/shop",
        f"could not connect: postgresql+psycopg://shop:{CANARY}@db/shop?sslmode=require (timeout)",
        f"mysql://:{CANARY}@db",
        f"postgresql://shop:un@escaped/{CANARY}@db/shop",
        f"host=db password={CANARY} dbname=shop",
        f"host=db password='{CANARY} with spaces' dbname=shop",
        f"host=db password='it\\'s {CANARY}' dbname=shop",
        f'password = "{CANARY}"',
        f"PGPASSWORD={CANARY} psql",
        f'{{"username": "shop", "password": "{CANARY}"}}',
        f"{{'password': '{CANARY}', 'port': 5432}}",
        f"CREATE SECRET (TYPE s3, SECRET '{CANARY}')",
        f"aws_secret_access_key={CANARY}&region=eu",
        f"api_key: {CANARY}",
        f"?token={CANARY}&page=2",
    ],
)
def test_a_password_does_not_survive(text: str) -> None:
    assert CANARY not in scrubbed(text)
    assert "***" in scrubbed(text)


@pytest.mark.parametrize(
    "text",
    [
        'password authentication failed for user "shop"',
        "postgresql://shop@db:5432/shop",
        "the column public.users.password is text",
        ".dlt/secrets.toml is not valid TOML",
        "primary_key: orders has no column 'key'",
        "Access denied for user 'root'@'localhost' (using password: YES)",
        "https://example.com/a:b",
    ],
)
def test_what_is_no_password_stays(text: str) -> None:
    assert scrubbed(text) == text


def test_an_error_hides_passwords_however_it_is_shown() -> None:
    error = BridgeError(f"cannot reach postgresql://u:{CANARY}@db/x", mend="check it")
    shown = io.StringIO()
    traceback.print_exception(error, file=shown)
    assert CANARY not in str(error) + repr(error) + repr(error.args) + shown.getvalue()


def test_an_error_is_what_and_then_what_mends_it() -> None:
    assert str(UsageError("no table orders", mend="did you mean 'order'?")) == (
        "no table orders\n  -> did you mean 'order'?"
    )


def test_a_message_can_be_told_without_the_role_of_its_database() -> None:
    error = OriginError("'shop' at db:5432: refused", role="origin")
    assert (error.what, error.what_without_role) == ("origin 'shop' at db:5432: refused", "'shop' at db:5432: refused")
    assert OriginError("origin of all evil").what_without_role == "origin of all evil"


def test_the_tree_is_shallow_and_drawn() -> None:
    drawn = errors.__doc__ or ""
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, BridgeError) and value is not BridgeError:
            assert value.__bases__ == (BridgeError,), name
            assert f"── {name}" in drawn


def test_a_missing_extra_names_the_pip_command() -> None:
    assert MissingExtra("s3", "the destination 'lake'", of="lake").mend == "pip install 'lake[s3]'"


def test_what_an_extra_of_ours_brings_is_installed_by_its_own_names() -> None:
    """Under our name PyPI has another project."""
    mend = MissingExtra("mysql", "the origin 'shop'").mend
    assert mend.startswith("pip install '") and "'pymysql>=1.1'" in mend and "'sqlalchemy>=2.0'" in mend
    assert "dbt-bridge" not in mend and "docs/install.md" in MissingExtra("unheard", "it").mend


SOURCE = """
sources:
  - name: shop
    schema: landing
    config: {meta: {bridge: {origin: shop_pg, schema: public, %s}}}
    tables: [{name: %s}]
"""

Sync = Callable[[str, str], dict[str, Any]]


@pytest.fixture
def sync(dbt_root: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sync:
    """Run `dbt-bridge sync` of one source on a real Postgres; answers its JSON document and exit code."""
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)

    def run(bridge: str, table: str) -> dict[str, Any]:
        (dbt_root / "models" / "sources.yml").write_text(SOURCE % (bridge, table))
        capsys.readouterr()
        code = run_command(["sync", "--json", "--project-dir", str(dbt_root), "--profiles-dir", str(dbt_root)])
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return {**document, "code": code}

    return run


def what_failed(document: dict[str, Any]) -> str:
    """The error of the run, or of its one receipt, with what mends it after the arrow."""
    if document["error"]:
        return f"{document['error']['what']}\n  -> {document['error']['mend']}"
    (receipt,) = document["receipts"]
    assert receipt["status"] == "failed"
    return str(receipt["error"])


WRONG_NAMES = {
    "ordres": ("replication: initial_copy", "no table public.ordres", "did you mean 'orders'?"),
    "t1": ("replication: incremental, cursor: udpated_at", "no column 'udpated_at'", "did you mean 'updated_at'?"),
    "t2": ("replication: incremental, cursor: note", "'note'", "numeric, date or timestamp"),
    "t3": ("replication: incremental, cursor: maybe", "holds NULLs", "NOT NULL"),
    "t4": ("types: {amuont: text}", "no column 'amuont'", "did you mean 'amount'?"),
    "t5": ("primary_key: idd", "no column 'idd'", "did you mean 'id'?"),
    "t6": ("types: {amount: txet}", "type 'txet' is unknown", "did you mean 'text'?"),
}


def test_a_wrong_name_is_answered_with_the_nearest_and_spares_the_other_tables(
    sync: Sync, origin: psycopg.Connection
) -> None:
    """Each table is wrong in one way but `orders`; all in one run."""
    for name in ("orders", *(name for name in WRONG_NAMES if name != "ordres")):
        origin.execute(
            f'CREATE TABLE "{name}" (id int PRIMARY KEY, amount numeric(10,2), note text, maybe int, '
            "updated_at timestamptz NOT NULL DEFAULT now())".encode()
        )
        origin.execute(f'INSERT INTO "{name}" (id, amount) VALUES (1, 2.5)'.encode())  # noqa: S608
    tables = (f"{name}, config: {{meta: {{bridge: {{{wrong[0]}}}}}}}" for name, wrong in WRONG_NAMES.items())
    document = sync("replication: initial_copy", "orders}, {name: " + "}, {name: ".join(tables))

    assert document["code"] == 1
    receipts = {receipt["node"].split(".")[-1]: receipt for receipt in document["receipts"]}
    assert receipts["orders"]["rows_loaded"] == 1, receipts["orders"]["error"]
    for name, (_, what, mend) in WRONG_NAMES.items():
        said, _, mended = receipts[name]["error"].partition("\n  -> ")
        assert receipts[name]["status"] == "failed"
        assert (name, what in said, mend in mended) == (name, True, True), receipts[name]["error"]


def test_a_missing_privilege_is_answered_with_its_grant(
    sync: Sync, origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.execute("DROP ROLE IF EXISTS poor_reader")
    origin.execute("CREATE ROLE poor_reader LOGIN")
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database.replace("//postgres@", f"//poor_reader:{CANARY}@"))
    try:
        document = sync("replication: initial_copy", "orders")
    finally:
        origin.execute("DROP ROLE poor_reader")
    assert document["code"] == 1
    assert 'GRANT SELECT ON "public"."orders" TO poor_reader;' in what_failed(document)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        (f"postgresql://shop:{CANARY}@127.0.0.1:1/shop", "shop_pg"),
        (f"nonsense {CANARY}", "shop_pg"),
    ],
)
def test_an_origin_that_cannot_be_reached_is_named_without_its_password(
    sync: Sync, monkeypatch: pytest.MonkeyPatch, url: str, what: str
) -> None:
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", url)
    document = sync("replication: initial_copy", "orders")
    said, arrow, mended = what_failed(document).partition("\n  -> ")
    assert document["code"] in (1, 2)
    assert what in said
    assert arrow and mended
    assert CANARY not in json.dumps(document)


def test_an_origin_that_is_not_configured_says_what_to_add(sync: Sync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCES__SHOP_PG__CREDENTIALS")
    document = sync("replication: initial_copy", "orders")
    assert document["code"] == 2
    assert "secrets.toml" in what_failed(document)
    assert "[sources.shop_pg]" in what_failed(document)


def test_a_canary_password_appears_in_nothing_that_a_build_leaves_behind(
    dbt_root: Path, origin: psycopg.Connection, database: str
) -> None:
    """Origin and destination have the password; one build succeeds, one delivery fails, one origin is unreachable."""
    origin.execute("CREATE SCHEMA crm")
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    origin.execute("INSERT INTO orders VALUES (1)")
    url = database.replace("//postgres@", f"//postgres:{CANARY}@")
    (dbt_root / ".dlt").mkdir()
    secrets = dbt_root / ".dlt" / "secrets.toml"
    destination = f'[destination.crm_pg]\ndestination_type = "postgres"\ncredentials = "{url}"\n'
    secrets.write_text(f'[sources.shop_pg]\ncredentials = "{url}"\n{destination}')
    models = dbt_root / "models"
    exposure = (
        "exposures: [{name: crm, type: application, owner: {name: a, email: a@b.c}, depends_on: [ref('m')], config: "
        "{meta: {bridge: {destination: crm_pg, schema: crm, table: m, write_disposition: merge, primary_key: %s}}}}]"
    )
    (models / "sources.yml").write_text(SOURCE % ("replication: initial_copy", "orders"))
    (models / "m.sql").write_text("select id from {{ source('shop', 'orders') }}")

    said = ""
    for key, port, code in (("id", None, 0), ("no_such_column", None, 1), ("id", 1, 1)):
        (models / "exposures.yml").write_text(exposure % key)
        if port:
            secrets.write_text(
                f'[sources.shop_pg]\ncredentials = "postgresql://u:{CANARY}@127.0.0.1:1/x"\n{destination}'
            )
        done = subprocess.run(
            [sys.executable, "-m", "dbt_bridge", "build", "--debug"],
            cwd=dbt_root,
            capture_output=True,
            text=True,
            check=False,
        )
        said += done.stdout + done.stderr
        assert done.returncode == code, said

    assert CANARY not in said
    leaks = [f for f in dbt_root.rglob("*") if f.is_file() and f != secrets and CANARY.encode() in f.read_bytes()]
    assert leaks == []
