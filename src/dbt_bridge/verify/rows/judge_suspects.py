"""Suspects of both sides are compared value by value, in canonical form: those whose values differ are findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.nouns.both import ENDS, Both, End
from dbt_bridge.nouns.parity import Kind
from dbt_bridge.verify.canonical.buffers import to_storage
from dbt_bridge.verify.canonical.elements import to_canonical
from dbt_bridge.verify.rows.column_pairs import ColumnPair, ColumnPairs
from dbt_bridge.verify.rows.engine_values import as_engine_values, differ_condition
from dbt_bridge.verify.rows.findings import Findings, Flags, Judgement, count_column, place_column
from dbt_bridge.verify.rows.match import Meeting

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_PLACE = "_place"  # of a row in its table
_COLUMNS_AT_ONCE = 64


def judge(sides: Meeting, pairs: ColumnPairs, engine: DuckDBPyConnection, findings: Findings) -> None:
    """Compare rows of both sides that may belong together, and add what differs to the findings.

    Args:
        sides: the compared columns of each side in its own types, in the order of `ColumnPairs.to_compare`.
    """
    met = _group_by_identity(sides, pairs, engine)
    counts = ENDS.map(lambda end: met.column(count_column(end)).to_numpy())
    once = (counts.origin == 1) & (counts.destination == 1)
    unequal = {pair: np.zeros(len(met), np.bool_) for pair in pairs.beside_key} if pairs.key else {}
    for pair, flags in _find_unequal(met.filter(pa.array(once)), sides, tuple(unequal), engine).items():
        unequal[pair][once] = flags
    conditions: dict[Kind, Flags]
    if pairs.key:
        conditions = {
            "duplicate": (counts.origin > 1) | (counts.destination > 1),
            "only_in_origin": counts.destination == 0,
            "only_in_destination": counts.origin == 0,
            "different": np.logical_or.reduce([np.zeros(len(met), np.bool_), *unequal.values()]),
        }
    else:
        conditions = {
            "only_in_origin": counts.origin > counts.destination,
            "only_in_destination": counts.origin < counts.destination,
        }
    which = np.select(list(conditions.values()), list(range(len(conditions))), -1)
    found = which >= 0
    kinds = pa.array(list(conditions)).take(pa.array(which[found]))
    rows = met.filter(pa.array(found)).append_column("kind", kinds)
    findings.add(Judgement(rows, {pair: flags[found] for pair, flags in unequal.items()}, sides, pairs))


def _group_by_identity(sides: Meeting, pairs: ColumnPairs, engine: DuckDBPyConnection) -> pa.Table:
    """For each key (row, without a key): how often each side has it, and where the first of its rows is."""
    names = [f"k{place}" for place in range(len(pairs.identity))]
    selects = []
    for end in ENDS:
        if (table := sides.at(end)) is None:
            continue
        keys = {name: _engine_column(table, end, pair) for name, pair in zip(names, pairs.identity, strict=True)}
        engine.register(f"{end}_rows", pa.table({_PLACE: pa.array(np.arange(table.num_rows)), **keys}))
        selects.append(f"SELECT '{end}' AS side, * FROM {end}_rows")  # noqa: S608
    counts = [f"count(*) FILTER (side = '{end}') AS {count_column(end)}" for end in ENDS]
    places = [f"min({_PLACE}) FILTER (side = '{end}') AS {place_column(end)}" for end in ENDS]
    query = f"""
        SELECT {", ".join([*counts, *places])}
        FROM ({" UNION ALL ".join(selects)})
        GROUP BY {", ".join(names)}"""  # noqa: S608
    return engine.sql(query).to_arrow_table()


def _find_unequal(
    once: pa.Table, sides: Meeting, pairs: Sequence[ColumnPair], engine: DuckDBPyConnection
) -> dict[ColumnPair, Flags]:
    """In which of these rows, which each side has once, each column differs; columns that never do are left out."""
    if not len(once):
        return {}
    tables = ENDS.map(lambda end: cast("pa.Table", sides.at(end)).take(once.column(place_column(end))))
    candidates = {pair: flags for pair in pairs if (flags := _may_differ(tables, pair)).any()}
    unequal: dict[ColumnPair, Flags] = {}
    left = tuple(candidates)
    for start in range(0, len(left), _COLUMNS_AT_ONCE):
        some = left[start : start + _COLUMNS_AT_ONCE]
        rows = np.logical_or.reduce([candidates[pair] for pair in some])
        differing = Both(*(table.filter(pa.array(rows)) for table in tables))
        for pair, flags in _compare_columns(differing, some, engine).items():
            unequal[pair] = np.zeros(len(once), np.bool_)
            unequal[pair][rows] = flags
    return unequal


def _may_differ(tables: Both[pa.Table], pair: ColumnPair) -> Flags:
    """In which rows a column may differ: values of one type that are equal have one canonical form."""
    one, other = (to_storage(tables.at(end).column(pair.name_at(end))) for end in ENDS)
    anywhere = np.ones(len(one), np.bool_)
    if one.type != other.type:
        return anywhere
    try:
        same = pc.or_(pc.fill_null(pc.equal(one, other), False), pc.and_(one.is_null(), other.is_null()))
    except pa.ArrowNotImplementedError:  # Arrow has no equality of lists and intervals: their canonical forms tell
        return anywhere
    return ~np.asarray(same)


def _compare_columns(
    tables: Both[pa.Table], pairs: Sequence[ColumnPair], engine: DuckDBPyConnection
) -> dict[ColumnPair, Flags]:
    """In which rows of two tables each column differs. DuckDB plans few columns at once: the time of a plan grows with
    the square of their number."""
    columns = {_PLACE: pa.array(np.arange(len(tables.origin)))}
    columns |= {
        f"{end}_{place}": _engine_column(tables.at(end), end, pair) for end in ENDS for place, pair in enumerate(pairs)
    }
    engine.register("once", pa.table(columns))
    flags = ", ".join(
        f"{differ_condition(pair, Both(f'origin_{place}', f'destination_{place}'))} AS unequal_{place}"
        for place, pair in enumerate(pairs)
    )
    unequal = engine.sql(f"SELECT {flags} FROM once ORDER BY {_PLACE}").to_arrow_table()  # noqa: S608
    engine.unregister("once")
    return {pair: np.asarray(column) for pair, column in zip(pairs, unequal.columns, strict=True)}


def _engine_column(table: pa.Table, end: End, pair: ColumnPair) -> pa.Array:
    return as_engine_values(to_canonical(table.column(pair.name_at(end)), pair.canon))
