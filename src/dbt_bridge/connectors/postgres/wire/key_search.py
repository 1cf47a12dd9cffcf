"""Rows of a Postgres table by their keys: conditions that its index answers, a few thousand keys each.

Rows are streamed by COPY, which takes no parameters (sql-copy.html), so keys stand in the query as one array literal
per column. A comparison with `=` finds them by the index; where `=` takes different values for one (intervals of 30
days and of a month, numerics of different scales, texts in a collation that ignores case), their text is compared too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.connectors.postgres.wire.texts import to_texts

KEYS_PER_QUERY = 10_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two expressions that must be equal: one over the table's columns, and one over a key's text, written `{}`."""

    stored: str
    key: str


@dataclass(frozen=True, slots=True)
class Lookup:
    """How a column is searched: what is compared, and the condition for NULL."""

    compared: Sequence[Comparison]
    is_null: str


def build_conditions(keys: pa.Table, lookup: Callable[[str], Lookup]) -> Iterator[str]:
    """What stands after WHERE, query by query; no row fulfils two of them.

    Args:
        keys: values of some columns, in the types in which they travel; NULL equals NULL.
        lookup: from a column's name to how it is searched.
    """
    written = pa.table({name: to_texts(_single_array(keys[name])) for name in keys.column_names})
    distinct = written.group_by(written.column_names).aggregate([]).combine_chunks()
    if not distinct.num_columns:
        return
    lookups = {name: lookup(name) for name in keys.column_names}
    patterns = _find_null_patterns(distinct)
    for pattern in pc.unique(patterns).to_pylist():
        alike = distinct.filter(pc.equal(patterns, pattern))
        nulls = [name for name, flag in zip(distinct.column_names, pattern, strict=True) if flag == "1"]
        for start in range(0, len(alike), KEYS_PER_QUERY):
            yield _build_condition(lookups, alike.slice(start, KEYS_PER_QUERY), nulls)


def _single_array(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)


def _find_null_patterns(keys: pa.Table) -> pa.Array:
    """Which columns of each key are NULL, as text of 0 and 1. Keys of one pattern are searched together: `IS NULL` uses
    an index, which `IS NOT DISTINCT FROM` does not.
    """
    flags = [pc.if_else(_single_array(keys[name]).is_null(), "1", "0") for name in keys.column_names]
    return pc.binary_join_element_wise(*flags, "")


def _build_condition(lookups: dict[str, Lookup], keys: pa.Table, nulls: Sequence[str]) -> str:
    parts = [lookups[name].is_null for name in nulls]
    present = [name for name in keys.column_names if name not in nulls]
    if present:
        comparisons = [(one, f"k.c{place}") for place, name in enumerate(present) for one in lookups[name].compared]
        stored = ", ".join(one.stored for one, _ in comparisons)
        selected = ", ".join(one.key.replace("{}", key) for one, key in comparisons)
        arrays = ", ".join(_quote_array(_single_array(keys[name])) for name in present)
        names = ", ".join(f"c{place}" for place in range(len(present)))
        parts.append(f"({stored}) IN (SELECT {selected} FROM unnest({arrays}) AS k ({names}))")  # noqa: S608
    return " AND ".join(parts)


def _quote_array(values: pa.Array) -> str:
    """A literal of an array of texts, with any setting of `standard_conforming_strings`."""
    escaped = pc.replace_substring(pc.replace_substring(values, "\\", "\\\\"), '"', '\\"')
    body = "{" + ",".join(f'"{text}"' for text in escaped.to_pylist()) + "}"
    return "E'" + body.replace("\\", "\\\\").replace("'", "''") + "'::text[]"
