"""Rows land through dlt wherever the bridge has no loader of its own: real engines, forced through this path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dbt_bridge.connectors.dlt.destination import DltDestination
from dbt_bridge.contracts.destination import Load, Loaded, Window
from dbt_bridge.errors import DestinationError, KeyRefused, TypeRefused, UsageError
from dbt_bridge.nouns.table import Table, TableName
from dbt_bridge.project.destinations import use_project

ORDERS = TableName("landing", "orders")
Make = Callable[[Path, str], Any]


def _duckdb(folder: Path, _: str) -> Any:
    import dlt

    return dlt.destinations.duckdb(str(folder / "d.duckdb"))


def _postgres(_: Path, url: str) -> Any:
    import dlt

    return dlt.destinations.postgres(url.replace("postgres@", "postgres:none@"))


def _sqlite(folder: Path, _: str) -> Any:
    import dlt

    return dlt.destinations.sqlalchemy(f"sqlite:///{folder / 's.db'}")


@pytest.fixture(params=[_duckdb, _postgres, _sqlite], ids=["duckdb", "postgres", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, database: str) -> Iterator[DltDestination]:
    use_project(tmp_path)
    yield DltDestination("engine", request.param(tmp_path, database))


def request_of(rows: pa.Table, disposition: Any, key: tuple[str, ...] = (), **also: Any) -> Load:
    return Load(Table.of_schema(also.pop("name", ORDERS), rows.schema, key), disposition, "load-1", **also)


def arrive(
    engine: DltDestination, rows: pa.Table, disposition: Any = "replace", key: tuple[str, ...] = (), **also: Any
) -> Loaded:
    return engine.load(request_of(rows, disposition, key, **also), rows.to_reader())


def rows_of(engine: DltDestination, columns: tuple[str, ...] = ("id", "name"), name: TableName = ORDERS) -> list[Any]:
    with engine.session.pipeline(name) as pipeline:
        return sorted((tuple(row) for row in engine.session.select(pipeline, name, columns) or ()), key=repr)


def people(*rows: tuple[int | None, str | None]) -> pa.Table:
    return pa.table(
        {"id": pa.array([r[0] for r in rows], pa.int64()), "name": pa.array([r[1] for r in rows], pa.string())}
    )


def counts(loaded: Loaded) -> tuple[int | None, ...]:
    return loaded.rows_loaded, loaded.rows_inserted, loaded.rows_updated, loaded.rows_deleted


def test_replace_append_and_merge_with_true_counts(engine: DltDestination) -> None:
    assert counts(arrive(engine, people((1, "a"), (2, "b")))) == (2, 2, 0, 0)
    assert counts(arrive(engine, people((5, "e")))) == (1, 1, 0, 2)
    assert rows_of(engine) == [(5, "e")]
    assert counts(arrive(engine, people((6, "f")), "append")) == (1, 1, 0, 0)
    rows = people((6, "x"), (7, "y"), (6, None), (7, "z"))
    assert counts(engine.preview(request_of(rows, "merge", ("id",)), rows.to_reader())) == (4, 1, 1, 0)
    assert rows_of(engine) == [(5, "e"), (6, "f")]
    assert counts(arrive(engine, rows, "merge", ("id",))) == (4, 1, 1, 0)
    assert rows_of(engine) == [(5, "e"), (6, None), (7, "z")]


def test_an_empty_replace_leaves_an_empty_table_with_its_columns(engine: DltDestination) -> None:
    assert counts(arrive(engine, people())) == (0, 0, 0, 0)
    arrive(engine, people((1, "a")))
    assert counts(arrive(engine, people())) == (0, 0, 0, 1)
    existing = engine.find_table(ORDERS)
    assert existing is not None
    assert [c.name for c in existing.columns] == ["id", "name"]
    assert rows_of(engine) == []


def test_new_columns_are_added_and_a_changed_type_is_refused(engine: DltDestination) -> None:
    arrive(engine, people((1, "a")))
    arrive(engine, pa.table({"id": [2], "age": pa.array([30], pa.int32())}), "append")
    assert rows_of(engine, ("id", "name", "age")) == [(1, "a", None), (2, None, 30)]
    with pytest.raises(TypeRefused, match=r"'id' of landing\.orders"):
        arrive(engine, pa.table({"id": ["x"]}), "append")
    assert len(rows_of(engine)) == 2


def test_what_cannot_be_loaded_is_refused_before_anything_is_written(engine: DltDestination) -> None:
    with pytest.raises(KeyRefused, match="needs a key"):
        arrive(engine, people((1, "a")), "merge")
    with pytest.raises(KeyRefused, match="holds NULL"):
        arrive(engine, people((None, "a")), "merge", ("id",))
    with pytest.raises(UsageError, match="cannot delete and append"):
        arrive(engine, people((1, "a")), "append", window=Window("id", "1"))
    assert engine.find_table(ORDERS) is None


def test_names_are_kept_as_they_are(engine: DltDestination) -> None:
    name = TableName("landing", "Weird Näme")
    arrive(engine, pa.table({"Some Column": [1], "select": ["x"]}), name=name)
    assert rows_of(engine, ("Some Column", "select"), name) == [(1, "x")]


def test_an_error_of_the_origin_is_told_as_it_was_and_the_old_rows_stay(engine: DltDestination) -> None:
    arrive(engine, people((1, "a")))

    def breaking() -> Any:
        yield people((2, "b")).to_batches()[0]
        raise DestinationError("the origin broke off")

    with pytest.raises(DestinationError, match="the origin broke off"):
        engine.load(request_of(people(), "replace"), pa.RecordBatchReader.from_batches(people().schema, breaking()))
    assert rows_of(engine) == [(1, "a")]


def test_two_tables_of_one_dataset_load_at_once(tmp_path: Path, database: str) -> None:
    engine = DltDestination("engine", _postgres(tmp_path, database))
    names = [TableName("landing", f"t{i}") for i in range(3)]
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(arrive, engine, people((i, "a")), name=name) for i, name in enumerate(names)]
        assert [job.result().rows_inserted for job in jobs] == [1, 1, 1]


def test_a_wrong_password_is_told_without_it(tmp_path: Path, server: Any) -> None:
    import dlt

    url = f"postgresql://nobody_at_all:canary-7391@127.0.0.1:{server.port}/nowhere"
    engine = DltDestination("engine", dlt.destinations.postgres(url))
    with pytest.raises(DestinationError) as refused:
        arrive(engine, people((1, "a")))
    assert "canary-7391" not in str(refused.value)
    with pytest.raises(DestinationError, match=r"dlt failed with landing\.orders in 'engine'"):  # nothing was loaded
        engine.find_table(ORDERS)
