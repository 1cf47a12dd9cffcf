"""Rows land as Parquet files: a load is one file that appears when it is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from fsspec.implementations.local import LocalFileSystem

from dbt_bridge.connectors.lake.location import Lake
from dbt_bridge.connectors.lake.parquet import ParquetDestination
from dbt_bridge.contracts.destination import Load, Loaded, Window
from dbt_bridge.errors import DestinationError, TypeRefused, UsageError
from dbt_bridge.nouns.receipt import new_load_id
from dbt_bridge.nouns.table import Table, TableName

ORDERS = TableName("landing", "orders")


@pytest.fixture
def lake(tmp_path: Path) -> ParquetDestination:
    return ParquetDestination("lake", Lake(str(tmp_path)), LocalFileSystem())


def arrive(lake: ParquetDestination, rows: pa.Table, disposition: Any = "replace", **also: Any) -> Loaded:
    load = Load(Table.of_schema(also.pop("name", ORDERS), rows.schema, ("id",)), disposition, "load-1", **also)
    return lake.load(load, rows.to_reader())


def rows_of(tmp_path: Path, name: TableName = ORDERS) -> list[tuple[Any, ...]]:
    rows = ds.dataset(tmp_path / name.schema / name.name, format="parquet").to_table().to_pylist()
    return sorted((tuple(row.values()) for row in rows), key=repr)


def people(*rows: tuple[int | None, str | None]) -> pa.Table:
    return pa.table(
        {"id": pa.array([r[0] for r in rows], pa.int64()), "name": pa.array([r[1] for r in rows], pa.string())}
    )


def test_replace_leaves_exactly_the_new_rows_in_one_file(lake: ParquetDestination, tmp_path: Path) -> None:
    arrive(lake, people((1, "a"), (2, "b")))
    loaded = arrive(lake, people((3, "c")))
    assert (loaded.rows_inserted, loaded.rows_updated, loaded.rows_deleted) == (1, 0, 2)
    assert rows_of(tmp_path) == [(3, "c")]
    assert len(list((tmp_path / "landing" / "orders").iterdir())) == 1


def test_an_empty_replace_leaves_an_empty_table_with_its_columns(lake: ParquetDestination, tmp_path: Path) -> None:
    arrive(lake, people((1, "a")))
    arrive(lake, people())
    assert rows_of(tmp_path) == []
    existing = lake.find_table(ORDERS)
    assert existing is not None
    assert [(c.name, c.type) for c in existing.columns] == [("id", pa.int64()), ("name", pa.string())]


def test_append_adds_a_file(lake: ParquetDestination, tmp_path: Path) -> None:
    arrive(lake, people((1, "a")), "append")
    assert arrive(lake, people((2, "b")), "append").rows_deleted == 0
    assert rows_of(tmp_path) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(("disposition", "also"), [("merge", {}), ("append", {"window": Window("id", "1")})])
def test_what_must_change_single_rows_is_refused(
    lake: ParquetDestination, disposition: str, also: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="Parquet files cannot") as refused:
        arrive(lake, people((1, "a")), disposition, **also)
    assert 'table_format = "delta"' in str(refused.value)
    assert lake.find_table(ORDERS) is None


def test_a_changed_type_and_infinity_are_refused(lake: ParquetDestination, tmp_path: Path) -> None:
    arrive(lake, people((1, "a")))
    with pytest.raises(TypeRefused, match=r"'id' of landing\.orders is int64"):
        arrive(lake, pa.table({"id": ["x"]}), "append")
    with pytest.raises(TypeRefused, match="column 'at' holds infinity"):
        arrive(lake, pa.table({"at": pa.array([2**63 - 1], pa.timestamp("us"))}))
    assert rows_of(tmp_path) == [(1, "a")]
    assert len(list((tmp_path / "landing" / "orders").iterdir())) == 1


def test_a_broken_load_leaves_no_part_and_a_killed_one_is_cleaned_up(lake: ParquetDestination, tmp_path: Path) -> None:
    arrive(lake, people((1, "a")))

    def breaking() -> Any:
        yield people((2, "b")).to_batches()[0]
        raise DestinationError("the origin broke off")

    load = Load(Table.of_schema(ORDERS, people().schema), "replace", "load-2")
    with pytest.raises(DestinationError, match="the origin broke off"):
        lake.load(load, pa.RecordBatchReader.from_batches(people().schema, breaking()))
    folder = tmp_path / "landing" / "orders"
    assert len(list(folder.iterdir())) == 1
    (folder / f".{new_load_id()}-0123abcd.parquet").write_bytes(b"PAR1 half")
    (folder / ".theirs.parquet").write_bytes(b"PAR1 of somebody else")
    assert rows_of(tmp_path) == [(1, "a")]
    arrive(lake, people((2, "b")), "append")
    assert rows_of(tmp_path) == [(1, "a"), (2, "b")]
    assert [file.name for file in folder.glob(".*")] == [".theirs.parquet"]


@pytest.mark.parametrize(
    "hostile", ['"; DROP TABLE x; --', "múltí ♥", "x" * 63, "select", "a.b{}", "'", "a?b#c: d*[1]"]
)
def test_hostile_names_are_kept_exactly(lake: ParquetDestination, tmp_path: Path, hostile: str) -> None:
    name = TableName(hostile, hostile)
    arrive(lake, pa.table({hostile: [1]}), name=name)
    arrive(lake, pa.table({hostile: [2]}), "append", name=name)
    assert rows_of(tmp_path, name) == [(1,), (2,)]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    lake = ParquetDestination("lake", Lake(str(tmp_path / "file")), LocalFileSystem())
    with pytest.raises(DestinationError, match=r"Parquet files of landing\.orders were not written"):
        arrive(lake, people((1, "a")))
