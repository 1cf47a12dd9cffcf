"""`dbt-bridge doctor`: what is well, and what mends the rest; on a real Postgres."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from dbt_bridge.cli import run_command
from dbt_bridge.connectors.postgres.origin.table_locks import TableLocks
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.nouns.table import TableName
from dbt_bridge.run import surroundings
from dbt_bridge.run.surroundings import check_installation, check_secrets, find_others

YAML = """
sources:
  - name: shop
    schema: landing
    config: {meta: {bridge: {origin: shop_pg, schema: public}}}
    tables:
      - name: orders
        config: {meta: {bridge: {replication: incremental, cursor: updated_at}}}
      - name: secret_table
      - name: keyless
        config: {meta: {bridge: {replication: incremental, cursor: id, write_disposition: merge}}}
      - name: log
        config: {meta: {bridge: {replication: incremental, cursor: id}}}
      - name: local
        config: {meta: {bridge: {replication: incremental, cursor: at}}}
      - name: gone
exposures:
  - name: crm
    type: application
    owner: {name: growth, email: growth@example.com}
    depends_on: [ref('m')]
    config: {meta: {bridge: {destination: crm_pg, schema: crm, write_disposition: replace}}}
"""

Checks = dict[str, dict[str, str]]


def doctor(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, Checks]:
    capsys.readouterr()
    code = run_command(["doctor", "--json", "--project-dir", str(root), "--profiles-dir", str(root)])
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == ("failed" if code else "success")
    return code, {check["subject"]: check for check in document["checks"]}


@pytest.fixture
def root(dbt_root: Path) -> Path:
    (dbt_root / "models" / "all.yml").write_text(YAML)
    (dbt_root / "models" / "m.sql").write_text("select 1 as id")
    (dbt_root / ".dlt").mkdir()
    return dbt_root


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[TableName]:
    """Tables that are locked at an origin when it is closed."""
    found: list[TableName] = []
    close = TableLocks.close

    def look(locks: TableLocks) -> None:
        found.extend(name for session in locks._sessions for name in session.live)
        close(locks)

    monkeypatch.setattr(TableLocks, "close", look)
    return found


def test_each_fault_is_found_with_what_mends_it(
    root: Path,
    origin: psycopg.Connection,
    database: str,
    capsys: pytest.CaptureFixture[str],
    held: list[TableName],
) -> None:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, updated_at timestamptz NOT NULL DEFAULT now())")
    origin.execute("CREATE TABLE secret_table (id int)")
    origin.execute("CREATE TABLE keyless (id int)")
    origin.execute("CREATE TABLE log (id int)")
    origin.execute("CREATE TABLE local (id int PRIMARY KEY, at timestamp NOT NULL)")
    origin.execute("CREATE SCHEMA crm")
    origin.execute("DROP ROLE IF EXISTS patient")
    origin.execute("CREATE ROLE patient LOGIN")
    origin.execute("GRANT SELECT ON orders, keyless, log, local TO patient")
    url = database.replace("//postgres@", "//patient:x@")
    (root / ".dlt" / "secrets.toml").write_text(
        f'[sources.shop_pg]\ncredentials = "{url}"\n'
        f'[destination.crm_pg]\ndestination_type = "postgres"\ncredentials = "{url}"\n'
    )
    try:
        code, checks = doctor(root, capsys)
    finally:
        origin.execute("DROP OWNED BY patient")
        origin.execute("DROP ROLE patient")

    assert code == 1
    status = {subject: check["status"] for subject, check in checks.items()}
    assert (
        status["versions"] == status["dbt project"] == status["warehouse (duckdb)"] == status["origin shop_pg"] == "ok"
    )
    assert status["source.shop.shop.orders"] == "ok"
    assert status["source.shop.shop.log"] == status["source.shop.shop.local"] == "note"
    assert "no time zone" in checks["source.shop.shop.local"]["what"]
    assert "`lag: 1 hour`" in checks["source.shop.shop.local"]["mend"]
    assert status["exposure.shop.crm"] == "note", "its model is not built yet"
    faults = {subject: check["mend"] for subject, check in checks.items() if check["status"] == "fault"}
    assert set(faults) == {
        "source.shop.shop.secret_table", "source.shop.shop.keyless", "source.shop.shop.gone", "destination crm_pg",
    }  # fmt: skip
    assert faults["source.shop.shop.secret_table"].startswith('GRANT SELECT ON "public"."secret_table" TO patient;')
    assert "primary_key: [...]" in faults["source.shop.shop.keyless"]
    assert faults["source.shop.shop.gone"]
    assert faults["destination crm_pg"]
    assert origin.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'crm'").fetchall() == [(0,)]
    assert held == []


def test_a_landing_schema_and_a_destination_are_faults_of_their_own(
    root: Path, origin: psycopg.Connection, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The warehouse is the same Postgres, whose user may write its audit tables and not the landing schema."""
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    origin.execute("CREATE SCHEMA landing")
    origin.execute("CREATE SCHEMA _dbt_bridge")
    origin.execute("DROP ROLE IF EXISTS tenant")
    origin.execute("CREATE ROLE tenant LOGIN")
    origin.execute("GRANT SELECT ON orders TO tenant")
    origin.execute("GRANT ALL ON SCHEMA _dbt_bridge TO tenant")
    url = urlsplit(database.replace("//postgres@", "//tenant:x@"))
    (root / ".dlt" / "secrets.toml").write_text(f'[sources.shop_pg]\ncredentials = "{url.geturl()}"\n')
    output = {
        "type": "postgres", "host": url.hostname, "port": url.port, "user": "tenant", "password": "x",
        "dbname": url.path[1:], "schema": "public",
    }  # fmt: skip
    (root / "profiles.yml").write_text(json.dumps({"shop": {"target": "dev", "outputs": {"dev": output}}}))
    source = "{name: %s, schema: landing, config: {meta: {bridge: {origin: shop_pg%s}}}, tables: [{name: orders}]}"
    (root / "models" / "all.yml").write_text(
        f"sources: [{source % ('shop', '')}, {source % ('lake_shop', ', destination: lake')}]"
    )
    try:
        _, checks = doctor(root, capsys)
    finally:
        origin.execute("DROP OWNED BY tenant")
        origin.execute("DROP ROLE tenant")
    assert checks["warehouse (postgres)"]["status"] == checks["source.shop.shop.orders"]["status"] == "ok"
    faults = {subject: check["mend"] for subject, check in checks.items() if check["status"] == "fault"}
    assert set(faults) == {"warehouse (postgres), schema landing", "destination lake"}
    assert "GRANT USAGE, CREATE" in faults["warehouse (postgres), schema landing"]
    assert "[destination.lake]" in faults["destination lake"]


def test_a_project_that_dbt_cannot_read_is_a_fault(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "models" / "m.sql").write_text("select * from {{ ref('nowhere') }}")
    code, checks = doctor(root, capsys)
    assert code == 1
    assert "nowhere" in checks["dbt project"]["what"]
    assert checks["dbt project"]["mend"].startswith("dbt parse")


def test_secrets_that_git_would_take_are_a_fault(root: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    (root / ".dlt" / "secrets.toml").write_text("")
    subprocess.run([git, "init", "-q", str(root)], check=True)

    (open_,) = check_secrets(root)
    assert (open_.status, open_.mend) == ("fault", "echo .dlt/secrets.toml >> .gitignore")

    (root / ".gitignore").write_text(".dlt/secrets.toml\n")
    (ignored,) = check_secrets(root)
    assert ignored.status == "ok"

    subprocess.run([git, "-C", str(root), "add", "-f", ".dlt/secrets.toml"], check=True)
    (committed,) = check_secrets(root)
    assert committed.status == "fault"
    assert "git rm --cached" in committed.mend


def test_secrets_that_others_of_the_machine_may_read_or_write_are_a_fault() -> None:
    with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to others
        root, file = Path(made), Path(made) / ".dlt" / "secrets.toml"
        if not all(folder.stat().st_mode & 0o001 for folder in root.parents):
            pytest.skip("others may not enter this machine's folder of temporary files")
        root.chmod(0o755)
        file.parent.mkdir()
        file.touch()
        for mode, may in ((0o640, ""), (0o644, "read"), (0o602, "write"), (0o666, "read and write")):
            file.chmod(mode)
            assert find_others(file) == may
        fault, _ = check_secrets(root)
        assert (fault.status, fault.mend) == ("fault", f"chmod o-w {file.parent} && chmod o-rw {file}")
        file.chmod(0o600)
        file.parent.chmod(0o777)
        assert find_others(file) == "write", "whoever may write in the folder puts another file there"
        root.chmod(0o700)
        assert find_others(file) == ""


@pytest.mark.parametrize(
    ("line", "is_open"),
    [
        ("password: abc", True),
        ("client_secret: 'abc'", True),
        ("settings: {s3_secret_access_key: abc}", True),
        ("password: \"{{ env_var('PASSWORD') }}\"", False),
        ("private_key_path: /etc/keys/one.p8", False),
        ("secrets:\n  - {type: s3, secret: \"{{ env_var('S3') }}\"}", False),
    ],
)
def test_a_profile_with_a_secret_of_its_own_is_told_where_others_may_read_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, *, is_open: bool
) -> None:
    monkeypatch.setattr(surroundings, "find_others", lambda _: "read")
    (tmp_path / "profiles.yml").write_text(line)
    found = list(surroundings.check_profile(DbtOptions(profiles_dir=tmp_path)))
    assert [finding.status for finding in found] == ["fault"] * is_open


def test_another_project_of_the_same_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "dbt_bridge-0.1.5.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: dbt-bridge\nVersion: 0.1.5\n")
    assert {finding.status for finding in check_installation()} == {"ok"}
    monkeypatch.syspath_prepend(tmp_path)
    *_, found = check_installation()
    assert (
        found.status == "fault" and "another project of PyPI, 0.1.5" in found.what and "docs/install.md" in found.mend
    )


def test_what_change_capture_needs_of_the_origin_is_looked_at(
    root: Path,
    origin: psycopg.Connection,
    database: str,
    capsys: pytest.CaptureFixture[str],
    held: list[TableName],
) -> None:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, updated_at timestamptz)")
    origin.execute("CREATE TABLE keyless (line text)")
    (root / "models" / "all.yml").write_text(
        """
sources:
  - name: shop
    schema: landing
    config: {meta: {bridge: {origin: shop_pg, schema: public, replication: cdc, slot: doctors, max_wal: 1GB}}}
    tables: [{name: orders}, {name: keyless}]
"""
    )
    (root / ".dlt" / "secrets.toml").write_text(f'[sources.shop_pg]\ncredentials = "{database}"\n')
    code, checks = doctor(root, capsys)
    assert code == 1
    assert checks["origin shop_pg, slot doctors"]["what"] == "will be made by the first sync"
    assert "public.orders" in checks["origin shop_pg, publication doctors"]["what"]
    assert "REPLICA IDENTITY FULL" in checks["origin shop_pg, table public.keyless"]["mend"]
    origin.execute('ALTER TABLE "public"."keyless" REPLICA IDENTITY FULL')
    code, checks = doctor(root, capsys)
    assert "origin shop_pg, table public.keyless" not in checks
    assert code == 0
    assert held == []
