"""Delta and Parquet in an object store: a real HTTP server that speaks S3, opened through dlt's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dbt_bridge.contracts.destination import Load, Loaded
from dbt_bridge.errors import DestinationError
from dbt_bridge.nouns.table import Table, TableName
from dbt_bridge.project.destinations import open_destination

ORDERS = TableName("landing", "orders")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = pytest.importorskip("moto.server", reason="moto (and Flask), which stands for S3, is not installed")
    pytest.importorskip("s3fs", reason="s3fs (dlt[s3]) is not installed")
    running = server.ThreadedMotoServer("127.0.0.1", 0)
    running.start()
    host, port = running.get_host_and_port()
    import boto3

    url = f"http://{host}:{port}"
    boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="key", aws_secret_access_key="canary-7391", region_name="us-east-1"
    ).create_bucket(Bucket="bucket")
    yield url
    running.stop()


@pytest.fixture(params=["delta", "parquet"])
def lake(request: pytest.FixtureRequest, tmp_path: Path, endpoint: str) -> Any:
    return opened(tmp_path, endpoint, f"s3://bucket/{os.path.basename(tmp_path)}", request.param)  # noqa: PTH119


def opened(root: Path, endpoint: str, url: str, table_format: str) -> Any:
    (root / ".dlt").mkdir()
    (root / ".dlt" / "secrets.toml").write_text(
        "[destination.lake]\n"
        'destination_type = "filesystem"\n'
        f'bucket_url = "{url}"\n'
        f'table_format = "{table_format}"\n'
        "[destination.lake.credentials]\n"
        'aws_access_key_id = "key"\n'
        'aws_secret_access_key = "canary-7391"\n'
        f'endpoint_url = "{endpoint}"\n'
        'region_name = "us-east-1"\n'
    )
    return open_destination("lake", project_root=root)


def arrive(lake: Any, rows: pa.Table, disposition: Any = "replace") -> Loaded:
    loaded: Loaded = lake.load(Load(Table.of_schema(ORDERS, rows.schema), disposition, "l-1"), rows.to_reader())
    return loaded


def test_replace_and_append_in_a_bucket(lake: Any) -> None:
    assert arrive(lake, pa.table({"id": [1, 2]})).rows_deleted == 0
    assert arrive(lake, pa.table({"id": [3]}), "append").rows_inserted == 1
    loaded = arrive(lake, pa.table({"id": [7, 8, 9, 10]}))
    assert (loaded.rows_inserted, loaded.rows_deleted) == (4, 3)
    assert arrive(lake, pa.table({"id": pa.array([], pa.int64())})).rows_deleted == 4


def test_a_broken_load_leaves_the_old_rows(lake: Any) -> None:
    arrive(lake, pa.table({"id": [1, 2]}))
    schema = pa.schema([("id", pa.int64())])

    def breaking() -> Any:
        yield pa.RecordBatch.from_arrays([pa.array([3])], schema=schema)
        raise DestinationError("the origin broke off")

    load = Load(Table.of_schema(ORDERS, schema), "replace", "l-2")
    with pytest.raises(DestinationError, match="the origin broke off"):
        lake.load(load, pa.RecordBatchReader.from_batches(schema, breaking()))
    assert arrive(lake, pa.table({"id": [5]})).rows_deleted == 2


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("table_format", ["delta", "parquet"])
def test_a_bucket_that_is_not_there_is_told_without_the_secret(
    tmp_path: Path, endpoint: str, table_format: str
) -> None:
    lake = opened(tmp_path, endpoint, "s3://no-such-bucket/x", table_format)
    with pytest.raises(DestinationError) as refused:
        arrive(lake, pa.table({"id": [1]}))
    assert "canary-7391" not in str(refused.value)
