"""From a name, a dlt destination or a dbt profile to the loader that fits."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dbt.adapters.duckdb.credentials import DuckDBCredentials
from psycopg.conninfo import conninfo_to_dict

from dbt_bridge.connectors.dlt.destination import DltDestination
from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
from dbt_bridge.connectors.lake.parquet import ParquetDestination
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.contracts.destination import Load, Warehouse
from dbt_bridge.errors import ConnectionFailed, MissingExtra, TypeRefused, UsageError
from dbt_bridge.nouns.project import WarehouseProfile
from dbt_bridge.nouns.table import Table, TableName
from dbt_bridge.project.destinations import open_destination, open_warehouse
from dbt_bridge.project.profile import list_duckdb_statements


def project(folder: Path, secrets: str) -> Path:
    (folder / ".dlt").mkdir()
    (folder / ".dlt" / "secrets.toml").write_text(secrets)
    return folder


SECRETS = """
[destination.crm]
destination_type = "postgres"
credentials = "postgresql://user:p%40ss%20w%27%5C@db.example:5433/sales?sslmode=require"

[destination.parts]
destination_type = "postgres"
[destination.parts.credentials]
host = "db.example"
database = "sales"
username = "user"
password = "two words"

[destination.lake]
destination_type = "filesystem"
bucket_url = "lake"

[destination.files]
destination_type = "filesystem"
bucket_url = "s3://bucket/folder"
table_format = "parquet"
[destination.files.credentials]
aws_access_key_id = "key"
aws_secret_access_key = "canary-7391"

[destination.odd]
destination_type = "filesystem"
bucket_url = "lake"
table_format = "iceberg"

[destination.duck]
destination_type = "duckdb"
credentials = "there.duckdb"

[destination.lite]
destination_type = "sqlalchemy"
credentials = "sqlite:///lite.db"

[destination.empty]
destination_type = "filesystem"

[destination.strange]
destination_type = "no_such_thing"
"""


def test_each_name_gets_the_loader_that_fits(tmp_path: Path) -> None:
    root = project(tmp_path, SECRETS)
    crm = open_destination("crm", project_root=root)
    assert isinstance(crm, PostgresWarehouse)
    assert conninfo_to_dict(crm._conninfo) == {
        "host": "db.example", "port": "5433", "user": "user", "password": "p@ss w'\\", "dbname": "sales",
        "sslmode": "require", "connect_timeout": "15",
    }  # fmt: skip
    parts = open_destination("parts", project_root=root)
    assert isinstance(parts, PostgresWarehouse)
    assert conninfo_to_dict(parts._conninfo)["password"] == "two words"
    lake = open_destination("lake", project_root=root)
    assert isinstance(lake, DeltaDestination)
    assert lake._lake.url == str(root / "lake")
    assert isinstance(open_destination("lite", project_root=root), DltDestination)
    with open_destination("duck", project_root=root) as duck:  # type: ignore[attr-defined]
        assert isinstance(duck, Warehouse)
    assert (root / "there.duckdb").exists()


def test_an_unknown_name_tells_the_nearest_and_the_lines_to_add(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'crn' is not configured; did you mean 'crm'") as refused:
        open_destination("crn", project_root=project(tmp_path, SECRETS))
    assert "[destination.crn]" in str(refused.value)
    assert str(tmp_path / ".dlt" / "secrets.toml") in str(refused.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "the destination 'empty' has no bucket_url"),
        ("odd", "table_format = 'iceberg'"),
        ("strange", "'strange' is not configured"),
    ],
)
def test_settings_that_are_missing_or_wrong_are_told(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_destination(name, project_root=project(tmp_path, SECRETS))


def test_files_that_are_no_toml_are_told_without_their_content(tmp_path: Path) -> None:
    root = project(tmp_path, '[destination.crm]\ncredentials = "canary-7391\n')
    with pytest.raises(UsageError, match=r"secrets\.toml is not valid TOML") as refused:
        open_destination("crm", project_root=root)
    assert "canary" not in str(refused.value)


def test_the_environment_configures_a_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESTINATION__CRM__DESTINATION_TYPE", "postgres")
    monkeypatch.setenv("DESTINATION__CRM__CREDENTIALS", "postgresql://u:p@h/d")
    crm = open_destination("crm", project_root=tmp_path)
    assert isinstance(crm, PostgresWarehouse)
    assert conninfo_to_dict(crm._conninfo)["host"] == "h"


def test_a_corrected_file_of_settings_is_read_again(tmp_path: Path) -> None:
    import os

    root = project(tmp_path, "")
    with pytest.raises(UsageError):
        open_destination("crm", project_root=root)
    secrets = root / ".dlt" / "secrets.toml"
    secrets.write_text(SECRETS)
    os.utime(secrets, (1, 1))
    assert open_destination("crm", project_root=root).name == "crm"


def test_a_dlt_destination_object_and_its_factory(tmp_path: Path) -> None:
    import dlt
    import duckdb

    connection = duckdb.connect()
    warehouse = open_destination(dlt.destinations.duckdb(connection.cursor()), project_root=tmp_path)
    rows = pa.table({"id": [1]})
    warehouse.load(Load(Table.of_schema(TableName("s", "t"), rows.schema), "replace", "l"), rows.to_reader())
    assert connection.execute("SELECT id FROM s.t").fetchall() == [(1,)]
    lake = open_destination(dlt.destinations.filesystem(str(tmp_path / "lake")), project_root=tmp_path)
    assert isinstance(lake, DeltaDestination)
    with pytest.raises(UsageError, match="int is not a destination"):
        open_destination(7, project_root=tmp_path)


def test_a_parquet_lake_opens_with_its_file_system(tmp_path: Path) -> None:
    root = project(tmp_path, '[destination.f]\ndestination_type="filesystem"\nbucket_url="x"\ntable_format="parquet"\n')
    files = open_destination("f", project_root=root)
    assert isinstance(files, ParquetDestination)
    rows = pa.table({"id": [1]})
    files.load(Load(Table.of_schema(TableName("s", "t"), rows.schema), "replace", "l"), rows.to_reader())
    assert len(list((root / "x" / "s" / "t").glob("*.parquet"))) == 1


def profile(adapter: str, **credentials: Any) -> WarehouseProfile:
    prepare: tuple[str, ...] = ()
    if adapter == "duckdb":
        given = {"type": adapter, "schema": "main", **deepcopy(credentials)}
        prepare = list_duckdb_statements(DuckDBCredentials.from_dict(given))
    return WarehouseProfile(adapter, "wh", "main", 1, credentials, prepare)


def test_the_postgres_profile_connects_as_dbt_does(server: Any, origin: Any) -> None:
    origin.execute('CREATE ROLE "loader role"')
    origin.execute(f'GRANT CREATE ON DATABASE {origin.info.dbname} TO "loader role"')
    warehouse = open_warehouse(
        profile("postgres", host="127.0.0.1", port=server.port, user="postgres", dbname=origin.info.dbname,
                role="loader role", search_path="a, b", sslmode="prefer", keepalives_idle=0)
    )  # fmt: skip
    try:
        rows = pa.table({"id": [1]})
        warehouse.load(Load(Table.of_schema(TableName("s", "t"), rows.schema), "replace", "l"), rows.to_reader())
        owner = origin.execute("SELECT tableowner FROM pg_tables WHERE tablename = 't'").fetchone()
        assert owner == ("loader role",)
    finally:
        warehouse.close()
        origin.execute('DROP OWNED BY "loader role"')
        origin.execute('DROP ROLE "loader role"')


def test_the_duckdb_profile_has_its_settings_and_attached_databases(tmp_path: Path) -> None:
    warehouse = open_warehouse(
        profile("duckdb", path=str(tmp_path / "wh.duckdb"), settings={"threads": 1},
                attach=[{"path": str(tmp_path / "other.duckdb"), "alias": "other"}])
    )  # fmt: skip
    try:
        rows = pa.table({"id": [1]})
        warehouse.load(Load(Table.of_schema(TableName("s", "t"), rows.schema), "replace", "l"), rows.to_reader())
        assert warehouse.read(TableName("s", "t")).read_all().num_rows == 1
        assert (tmp_path / "other.duckdb").exists()
    finally:
        warehouse.close()


def test_values_that_a_lake_lacks_are_refused_through_a_name_too(tmp_path: Path) -> None:
    lake = open_destination("lake", project_root=project(tmp_path, SECRETS))
    rows = pa.table({"at": pa.array([2**63 - 1], pa.timestamp("us"))})
    with pytest.raises(TypeRefused, match="infinity"):
        lake.load(Load(Table.of_schema(TableName("s", "t"), rows.schema), "replace", "l"), rows.to_reader())


def test_a_secret_of_the_duckdb_profile_is_made_and_a_wrong_one_is_told_without_it(tmp_path: Path) -> None:
    path = str(tmp_path / "wh.duckdb")
    secret = {"type": "no_such_type", "key_id": "key", "secret": "canary-7391"}
    with pytest.raises(ConnectionFailed, match="refused a secret") as refused:
        open_warehouse(profile("duckdb", path=path, secrets=[secret]))
    assert "canary-7391" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_driver_without_an_extra_of_ours_is_dlts_to_install(tmp_path: Path) -> None:
    settings = '[destination.events]\ndestination_type = "clickhouse"\n'
    with pytest.raises(MissingExtra, match=r"pip install 'dlt\[clickhouse\]'"):
        open_destination("events", project_root=project(tmp_path, settings))


def test_a_profile_of_duckdb_is_prepared_by_dbt_duckdbs_own_sql(tmp_path: Path) -> None:
    attached = [{"path": f"{tmp_path}/it's.duckdb", "alias": "other", "read_only": True}]
    assert profile("duckdb", secrets=[{"type": "s3", "key_id": "it's", "name": "lake"}], attach=attached).prepare == (
        "CREATE OR REPLACE SECRET lake (\n    type s3,\n    key_id 'it''s'\n)",
        f"ATTACH IF NOT EXISTS '{tmp_path}/it''s.duckdb' AS other (READ_ONLY)",
    )


def test_an_attached_database_that_dbt_duckdb_refuses_is_refused() -> None:
    twice = [{"path": "other.duckdb", "type": "sqlite", "options": {"type": "sqlite"}}]
    with pytest.raises(UsageError, match="Attachment option"):
        profile("duckdb", attach=twice)
