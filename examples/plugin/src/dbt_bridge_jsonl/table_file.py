"""A table in a folder: its schema file, the file with its rows, and how they are read.

    people.schema.json   {"columns": [{"name": "id", "type": "bigint", "nullable": false}, ...], "key": ["id"]}
    people.jsonl         a row a line: {"id": 1, "name": "Ada"}; a field that is absent is NULL

`"rows": "people.4f2a.jsonl"` in the schema file names another file with the rows. The destination writes each version
into a file of its own, and renaming the schema file over the old one is the one step that shows all of it. Without a
schema file the types are inferred from all rows, where that is exact.

A schema of the database is a folder within; the default one is the folder itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from dbt_bridge.errors import OriginError, TypeRefused, UsageError
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge_jsonl.column_types import REFUSALS, Number, decode, find_kind, infer_type, parse_name

ROWS_SUFFIX, SCHEMA_SUFFIX = ".jsonl", ".schema.json"
_BATCH_ROWS = 10_000
# Without a dot, which separates a table from its versions; what some system would fold or cut off is left out too.
_FILE_NAME = re.compile(r"\w(?:[\w $-]{0,98}[\w$-])?")

Line = tuple[int, dict[str, Any]]
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table as it is at one moment.

    Attributes:
        stamp: of the file with the rows; another one means that somebody wrote.
    """

    table: Table
    rows: Path
    stamp: Stamp


def folder_of(root: Path, schema: str) -> Path:
    """Where the tables of a schema are.

    Raises:
        UsageError: it cannot be a file's name.
    """
    return root / check_file_name(schema) if schema else root


def check_file_name(name: str) -> str:
    """The name, which can be a file's on every system.

    Raises:
        UsageError: it cannot.
    """
    if not _FILE_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a file of JSON lines",
            mend="give it another name: up to 100 letters, digits, _ - $ and spaces within",
        )
    return name


def find_table_file(root: Path, name: TableName) -> TableFile | None:
    """The table of this name; None where there is none.

    Raises:
        OriginError: its files do not say what its columns are.
    """
    folder, file_name = folder_of(root, name.schema), check_file_name(name.name)
    schema = folder / f"{file_name}{SCHEMA_SUFFIX}"
    try:
        declared = _parse_schema(name, schema) if schema.exists() else None
        rows = folder / (declared.rows if declared else f"{file_name}{ROWS_SUFFIX}")
        if not rows.exists():
            return None
        stamp = _stamp(rows)
        return TableFile(declared.table if declared else _infer_table(name, rows, schema), rows, stamp)
    except OSError as error:
        raise OriginError(f"{schema.parent} cannot be read: {error.strerror}", mend="check its rights") from error


@dataclass(frozen=True, slots=True)
class _Declared:
    table: Table
    rows: str


def _parse_schema(name: TableName, file: Path) -> _Declared:
    try:
        said = json.loads(file.read_bytes())
        columns = tuple(
            Column(c["name"], parse_name(c["type"]), c["type"], c.get("nullable", True)) for c in said["columns"]
        )
        table = Table(name, columns, tuple(said.get("key", ())))
        if any(table.column(column) is None for column in table.key):
            raise ValueError("the key has a column that is not among the columns")
        rows = said.get("rows", f"{name.name}{ROWS_SUFFIX}")
        if Path(rows).name != rows:
            raise ValueError("the rows are in another folder")
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise OriginError(
            f"{file} is not a schema file: {error}",
            mend='write {"columns": [{"name": "id", "type": "bigint"}], "key": ["id"]}',
        ) from error
    return _Declared(table, rows)


def _infer_table(name: TableName, rows: Path, schema: Path) -> Table:
    """Columns in the order in which they first come, each of one kind of values."""
    kinds: dict[str, set[str]] = {}
    for _, row in _stream_lines(rows):
        for field, value in row.items():
            seen = kinds.setdefault(field, set())
            if value is not None:
                seen.add(find_kind(value))
    columns = []
    for field, seen in kinds.items():
        kind = infer_type(seen)
        if kind is None:
            what = f"holds {' and '.join(sorted(seen))} values" if seen else "holds NULL alone"
            raise OriginError(f"{rows}: {field!r} {what}, which is no type", mend=f"declare the columns in {schema}")
        columns.append(Column(field, kind))
    if not columns:
        raise OriginError(f"{rows} has no rows to tell its columns by", mend=f"declare them in {schema}")
    return Table(name, tuple(columns))


def count_rows(file: TableFile) -> int:
    return sum(1 for _ in _stream_unchanged(file))


def read_batches(file: TableFile, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
    """The rows, each column exactly in its type; columns may come twice, in two types.

    Raises:
        TypeRefused: a value is none of its column's type.
        OriginError: a line is no row of this table, or somebody wrote while it was read.
    """
    schema = pa.schema([pa.field(c.name, c.type, c.nullable) for c in columns])
    for column in columns:
        if file.table.column(column.name) is None:
            raise OriginError(
                f"{file.rows} has no column {column.name!r}",
                mend=f"name one of {', '.join(c.name for c in file.table.columns)}",
            )
    lines = _stream_unchanged(file)
    while chunk := list(islice(lines, _BATCH_ROWS)):
        yield pa.RecordBatch.from_arrays([_decode_column(file, chunk, column) for column in columns], schema=schema)


def _decode_column(file: TableFile, lines: list[Line], column: Column) -> pa.Array:
    try:
        return _decode_lines(lines, column)
    except REFUSALS:
        for line in lines:
            try:
                _decode_lines([line], column)
            except REFUSALS as error:
                raise TypeRefused(
                    f"{file.rows}, line {line[0]}, column {column.name!r}: {error}",
                    mend=f"correct the value or the type in the schema file, or add `types: {{{column.name}: text}}`",
                ) from error
        raise


def _decode_lines(lines: list[Line], column: Column) -> pa.Array:
    values = [row.get(column.name) for _, row in lines]
    if not column.nullable and None in values:
        raise ValueError("NULL where the schema file allows none")
    return decode(values, column.type)


def _stream_unchanged(file: TableFile) -> Iterator[Line]:
    """The rows of one moment: none are given as the last that somebody may have written over."""
    known = {column.name for column in file.table.columns}
    for number, row in _stream_lines(file.rows):
        if not row.keys() <= known:
            strangers = ", ".join(sorted(row.keys() - known))
            raise OriginError(
                f"{file.rows}, line {number}: {strangers} is no column of the table", mend="add it to the schema file"
            )
        yield number, row
    if _stamp(file.rows) != file.stamp:
        raise _changed(file.rows)


def _stream_lines(path: Path) -> Iterator[Line]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, _parse_line(path, number, line)
    except FileNotFoundError:
        raise _changed(path) from None
    except OSError as error:
        raise OriginError(f"{path} cannot be read: {error.strerror}", mend="check its rights and its disk") from error


def _parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(
            line.decode(),
            parse_int=Number,
            parse_float=Number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_make_object,
        )
        if not isinstance(row, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise OriginError(f"{path}, line {number} is no row: {error}", mend="correct the line") from error
    return row


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON; write it as a text")


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a field comes twice")
    return made


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise _changed(path) from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _changed(path: Path) -> OriginError:
    return OriginError(f"{path} was written while it was read", mend="run the same command again")
