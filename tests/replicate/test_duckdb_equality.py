"""Rows leave a window that tells keys or rows apart as they came; what is one, and what is two, is told by Postgres."""

# ruff: noqa: S608  (the statements' parts are this file's own)

from __future__ import annotations

import duckdb
import pytest

from dbt_bridge.replicate.duckdb_equality import as_key, as_written

# type -> values that are one as keys; then how many they are as they are written
ALIKE = {
    "DOUBLE": (["'-0.0'", "'0.0'"], 2),
    "FLOAT": (["'-0.0'", "'0.0'"], 2),
    "DOUBLE[]": (["['-0.0'::DOUBLE, NULL]", "[0.0, NULL]"], 2),
    "FLOAT[2]": (["['-0.0'::FLOAT, 1]", "[0.0, 1]"], 2),
    'STRUCT("a b" DOUBLE, t VARCHAR)': (["{'a b': '-0.0'::DOUBLE, 't': 'x'}", "{'a b': 0.0, 't': 'x'}"], 2),
    "MAP(VARCHAR, DOUBLE[])": (["MAP {'k': ['-0.0'::DOUBLE]}", "MAP {'k': [0.0]}"], 2),
    "INTERVAL": (["'1 mon'", "'30 days'", "'29 days 24:00:00'"], 3),
}
NANS = {"DOUBLE": ["'nan'", "'-nan'"], "DOUBLE[]": ["['nan'::DOUBLE]", "['-nan'::DOUBLE]"]}
CASES = [
    *[(type_, values, 1, written) for type_, (values, written) in ALIKE.items()],
    *[(type_, values, 1, 1) for type_, values in NANS.items()],
    *[(type_, ["NULL", "NULL", values[0]], 2, 2) for type_, (values, _) in ALIKE.items()],
    ("DOUBLE", ["1.5", "-1.5", "NULL", "'nan'", "0"], 5, 5),
    ("DOUBLE[]", ["[1.5]", "[-1.5]", "NULL", "[NULL]", "[]"], 5, 5),
]


@pytest.mark.parametrize(("type_", "values", "keys", "written"), CASES)
def test_rows_leave_a_window_as_they_came(type_: str, values: list[str], keys: int, written: int) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t (id INT, v {type_})")
        for number, value in enumerate(values):
            connection.execute(f"INSERT INTO t VALUES ({number}, {value}::{type_})")
        ((named,),) = connection.execute("SELECT data_type FROM duckdb_columns() WHERE column_name = 'v'").fetchall()
        came = connection.execute("SELECT id, v::VARCHAR FROM t ORDER BY id").fetchall()
        for alike, count in (([as_key("v", named)], keys), (as_written("v", named), written)):
            window = f"SELECT *, row_number() OVER (PARTITION BY {', '.join(alike)}) AS n FROM t"
            left = connection.execute(f"SELECT id, v::VARCHAR, n FROM ({window}) ORDER BY id").fetchall()
            assert [row[:2] for row in left] == came
            assert [row[2] for row in left].count(1) == count
