"""Origins open by their name in dlt's settings, wherever the command was started from."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import TableName
from dbt_bridge.project.origins import list_origins, open_origin

Settings = Callable[[str], Path]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Write `.dlt/secrets.toml` of a project, and start from another folder."""

    def write(secrets: str) -> Path:
        root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
        (root / ".dlt").mkdir(parents=True)
        elsewhere.mkdir()
        (root / ".dlt" / "secrets.toml").write_text(secrets)
        monkeypatch.chdir(elsewhere)
        monkeypatch.delenv("DLT_PROJECT_DIR", raising=False)
        return root

    return write


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_a_postgres_url_opens_the_native_origin(
    settings: Settings, database: str, origin: psycopg.Connection, scheme: str
) -> None:
    origin.execute("CREATE TABLE t (a int)")
    root = settings(f'[sources.shop_pg]\ncredentials = "{database.replace("postgresql", scheme)}"')
    with open_origin("shop_pg", project_root=root) as shop:
        assert isinstance(shop, PostgresOrigin)
        assert shop.tables("public") == [TableName("public", "t")]


def test_fields_and_the_environment_complete_each_other(
    settings: Settings, origin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.execute("CREATE TABLE t (a int)")
    info = origin.info
    root = settings(
        f'[sources.shop_pg.credentials]\ndrivername = "postgresql"\nhost = "{info.host}"\nport = {info.port}\n'
        'username = "postgres"\ndatabase = "wrong"\nquery = {application_name = "bridge"}'
    )
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS__DATABASE", info.dbname)
    with open_origin("shop_pg", project_root=root) as shop:
        assert shop.tables("public") == [TableName("public", "t")]


def test_config_toml_and_a_relative_sqlite_file_belong_to_the_project(settings: Settings) -> None:
    root = settings("")
    (root / ".dlt" / "config.toml").write_text('[sources.lite]\ncredentials = "sqlite:///data/shop.db"')
    (root / "data").mkdir()
    with sqlite3.connect(root / "data" / "shop.db") as lite:
        lite.execute("CREATE TABLE t (a int)")
    lite.close()
    with open_origin("lite", project_root=root) as shop:
        assert isinstance(shop, SqlOrigin)
        assert shop.tables(None) == [TableName("main", "t")]


def test_the_environment_alone_is_enough(
    settings: Settings, database: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = settings("")
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    with open_origin("shop_pg", project_root=root) as shop:
        assert shop.tables("public") == []
    assert capfd.readouterr() == ("", "")


def test_variables_of_the_shell_that_are_not_meant_do_not_count(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = settings("")
    for name, value in {"CREDENTIALS": "postgresql://h/d", "HOST": "h", "SOURCES__CREDENTIALS": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="not configured"):
        open_origin("shop_pg", project_root=root)


def test_a_name_that_is_not_configured_names_the_nearest_and_the_lines_to_add(settings: Settings) -> None:
    root = settings('[sources.shop_pg]\ncredentials = "postgresql://u:canary@h/d"\n[sources.other]\nkey = 1')
    assert list_origins(project_root=root) == ["shop_pg"]
    with pytest.raises(UsageError, match="'shop_gp' is not configured; did you mean 'shop_pg'") as unknown:
        open_origin("shop_gp", project_root=root)
    assert f"add to {root / '.dlt' / 'secrets.toml'}:" in unknown.value.mend
    assert "[sources.shop_gp]\n     credentials = " in unknown.value.mend
    assert "SOURCES__SHOP_GP__CREDENTIALS" in unknown.value.mend
    assert "canary" not in str(unknown.value)


@pytest.mark.parametrize(
    ("secrets", "said"),
    [
        ('[sources.x]\ncredentials = "canary nonsense"', "not a URL"),
        ('[sources.x]\ncredentials = "postgresql://u:canary@h:port/d"', "not a URL"),
        ('[sources.x.credentials]\nhost = "h"\npassword = "canary"', "no drivername"),
        ('[sources.x.credentials]\ndrivername = "mysql"\nport = "canary"', "port"),
        ('[sources.x]\ncredentials = "{canary"', "JSON"),
        ('[sources.x]\ncredentials = "canary', "not valid TOML"),
    ],
)
def test_credentials_that_cannot_be_read_are_said_without_being_shown(
    settings: Settings, secrets: str, said: str
) -> None:
    root = settings(secrets)
    with pytest.raises(UsageError, match=said) as unreadable:
        open_origin("x", project_root=root)
    assert unreadable.value.mend
    assert "canary" not in str(unreadable.value)
    assert unreadable.value.__suppress_context__ or unreadable.value.__context__ is None


def test_a_database_that_no_installed_package_knows_is_said(settings: Settings) -> None:
    root = settings('[sources.x]\ncredentials = "neverdb://u:canary@h/d"')
    with pytest.raises(UsageError, match="no SQLAlchemy dialect is installed for 'neverdb'") as unknown:
        open_origin("x", project_root=root).tables(None)
    assert "canary" not in str(unknown.value)


def test_origins_are_opened_from_several_threads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream opens those of all its sources at the same moment."""
    monkeypatch.setenv("SOURCES__SHOP__CREDENTIALS", "postgresql://u@localhost/shop")
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: open_origin("shop", project_root=tmp_path).name, range(100)))
    assert opened == ["shop"] * 100
