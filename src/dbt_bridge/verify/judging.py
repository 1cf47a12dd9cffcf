"""Suspicious rows of both sides are compared value by value, in their canonical form: what is then apart, differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from dbt_bridge.verify.elements import canonical, texts
from dbt_bridge.verify.engine import differ, held
from dbt_bridge.verify.paired import ENDS, End, Pair, Paired
from dbt_bridge.verify.parity import Difference, Kind

KINDS: tuple[Kind, ...] = ("different", "only_in_origin", "only_in_destination", "duplicate")
_ROW = "_at"  # the row's place in its side's table

Sides = tuple[pa.Table | None, pa.Table | None]


@dataclass(slots=True)
class Findings:
    """What was found, over all rows that were judged.

    Attributes:
        counts: rows (keys) of each kind; `allowed` for those that only the destination has, and may.
        columns: column -> in how many rows it differs.
        examples: at most `shown` of each kind.
        keys: see `Parity.keys`.
    """

    shown: int
    allow_extra: bool
    counts: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Difference]] = field(default_factory=dict)
    keys: list[pa.Table] = field(default_factory=list)


def judge(sides: Sides, paired: Paired, engine: Any, findings: Findings) -> None:
    """Compare rows of both sides that may belong together.

    Args:
        sides: the compared columns of each side in its own types, in the order of `paired.compared`.
    """
    _hold(sides, paired, engine)
    kind = _kind_with_key(paired) if paired.key else _KIND_WITHOUT_KEY
    flags = [f"x{i}" for i in range(len(paired.beside_key))] if paired.key else []
    engine.execute(f"CREATE OR REPLACE TEMP TABLE judged AS\n{_query(paired, kind)}")
    _count(engine, paired, flags, findings)
    _tell(engine, sides, paired, findings)
    _keep(engine, sides, paired, findings)
    engine.execute("DROP TABLE judged")


_KIND_WITHOUT_KEY = """CASE
        WHEN n0 > n1 THEN 'only_in_origin'
        WHEN n0 < n1 THEN 'only_in_destination'
    END"""


def _kind_with_key(paired: Paired) -> str:
    apart = " OR ".join([f"x{i}" for i in range(len(paired.beside_key))] or ["false"])
    return f"""CASE
        WHEN n0 > 1 OR n1 > 1 THEN 'duplicate'
        WHEN n1 = 0 THEN 'only_in_origin'
        WHEN n0 = 0 THEN 'only_in_destination'
        WHEN {apart} THEN 'different'
    END"""


def _identity(paired: Paired) -> tuple[Pair, ...]:
    """The columns by which rows belong together."""
    return paired.key or paired.compared


def _query(paired: Paired, kind: str) -> str:
    """Of each key that differs: how often each side has it, where (the first of) its rows are, and what is apart."""
    identity = ", ".join(f"k{i}" for i in range(len(_identity(paired))))
    beside = paired.beside_key if paired.key else ()
    firsts = [f"first(v{i}) FILTER (side = {side}) AS v{i}_{side}" for i in range(len(beside)) for side in (0, 1)]
    flags = [f"n0 = 1 AND n1 = 1 AND {differ(pair, f'v{i}_0', f'v{i}_1')} AS x{i}" for i, pair in enumerate(beside)]
    grouped = ",\n".join(
        [
            "count(*) FILTER (side = 0) AS n0",
            "count(*) FILTER (side = 1) AS n1",
            f"min({_ROW}) FILTER (side = 0) AS at0",
            f"min({_ROW}) FILTER (side = 1) AS at1",
            *firsts,
        ]
    )
    return f"""
        SELECT n0, n1, at0, at1, {"".join(f"x{i}, " for i in range(len(flags)))}{kind} AS kind
        FROM (
            SELECT n0, n1, at0, at1{"".join(f", {flag}" for flag in flags)}
            FROM (SELECT {grouped} FROM both_sides GROUP BY {identity})
        )
        WHERE kind IS NOT NULL"""  # noqa: S608


def _hold(sides: Sides, paired: Paired, engine: Any) -> None:
    """Make the view `both_sides` of the rows: side, place, identity (k) and the values beside the key (v)."""
    selects = []
    for side, (end, table) in enumerate(zip(ENDS, sides, strict=True)):
        if table is None:
            continue
        columns = {_ROW: pa.array(np.arange(table.num_rows))}
        columns |= {f"k{i}": _held(table, end, pair) for i, pair in enumerate(_identity(paired))}
        if paired.key:
            columns |= {f"v{i}": _held(table, end, pair) for i, pair in enumerate(paired.beside_key)}
        engine.register(f"rows_{end}", pa.table(columns))
        selects.append(f"SELECT {side} AS side, * FROM rows_{end}")  # noqa: S608
    engine.execute(f"CREATE OR REPLACE TEMP VIEW both_sides AS {' UNION ALL '.join(selects)}")


def _held(table: pa.Table, end: End, pair: Pair) -> pa.Array:
    return held(canonical(_one(table.column(pair.at(end).name)), pair.canon))


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _count(engine: Any, paired: Paired, flags: Sequence[str], findings: Findings) -> None:
    rows = "1" if paired.key else "abs(n0 - n1)"
    sums = "".join(f", count(*) FILTER ({flag})" for flag in flags)
    query = f"SELECT kind, CAST(sum({rows}) AS BIGINT){sums} FROM judged GROUP BY kind"  # noqa: S608
    for kind, number, *apart in engine.execute(query).fetchall():
        if kind == "only_in_destination" and findings.allow_extra:
            findings.counts["allowed"] += number
            continue
        findings.counts[kind] += number
        if kind == "different":
            findings.columns.update({p.name: n for p, n in zip(paired.beside_key, apart, strict=True) if n})


def _tell(engine: Any, sides: Sides, paired: Paired, findings: Findings) -> None:
    """Add examples, while there are too few."""
    for kind in KINDS:
        told = findings.examples.setdefault(kind, [])
        if len(told) >= findings.shown or (kind == "only_in_destination" and findings.allow_extra):
            continue
        query = "SELECT * FROM judged WHERE kind = ? ORDER BY coalesce(at0, at1) LIMIT ?"
        for row in engine.execute(query, [kind, findings.shown - len(told)]).to_arrow_table().to_pylist():
            told.append(_difference(kind, row, sides, paired))


def _difference(kind: Kind, row: dict[str, Any], sides: Sides, paired: Paired) -> Difference:
    rows = int(row["n0"]), int(row["n1"])
    has: End = "origin" if row["at0"] is not None else "destination"
    key = {pair.name: _told(pair, has, sides, row) for pair in paired.key if not pair.masked}
    if kind == "duplicate":
        return Difference(kind, key, rows=rows)
    if kind == "different":
        apart = tuple(pair for i, pair in enumerate(paired.beside_key) if row[f"x{i}"])
        here, there = ({pair.name: _told(pair, end, sides, row) for pair in apart if not pair.masked} for end in ENDS)
        return Difference(kind, key, tuple(pair.name for pair in apart), here, there, rows)
    beside = paired.beside_key if paired.key else paired.compared
    whole = {pair.name: _told(pair, has, sides, row) for pair in beside if not pair.masked}
    if kind == "only_in_origin":
        return Difference(kind, key, origin=whole, rows=rows)
    return Difference(kind, key, destination=whole, rows=rows)


def _told(pair: Pair, end: End, sides: Sides, row: dict[str, Any]) -> str | None:
    """One value as text."""
    side = ENDS.index(end)
    table = cast("pa.Table", sides[side])
    cell = _one(table.column(pair.at(end).name).slice(row[f"at{side}"], 1))
    return _in_words(cell, pair)[0]


def _in_words(values: pa.Array, pair: Pair) -> list[str | None]:
    if is_.is_boolean(pair.origin.type) and is_.is_boolean(pair.destination.type):
        return cast("list[str | None]", values.cast(pa.string()).to_pylist())
    words: list[str | None] = texts(canonical(values, pair.canon), pair.canon).to_pylist()
    return words


def _keep(engine: Any, sides: Sides, paired: Paired, findings: Findings) -> None:
    """Add the keys that differ, in the origin's types where they have a form in them."""
    allowed = "only_in_destination" if findings.allow_extra else ""
    judged = engine.execute("SELECT * FROM judged WHERE kind <> ?", [allowed]).to_arrow_table()
    at0 = judged.column("at0")
    for end, mine in (("origin", pc.is_valid(at0)), ("destination", pc.is_null(at0))):
        rows = judged.filter(mine)
        if not rows.num_rows:
            continue
        side = ENDS.index(cast("End", end))
        found = cast("pa.Table", sides[side]).take(rows.column(f"at{side}"))
        columns = {
            pair.name: as_at_origin(found.column(pair.at(cast("End", end)).name), pair) for pair in _identity(paired)
        }
        columns["_kind"] = rows.column("kind")
        columns |= {"_origin_rows": rows.column("n0"), "_destination_rows": rows.column("n1")}
        findings.keys.append(pa.table(columns))


def as_at_origin(values: pa.ChunkedArray, pair: Pair) -> pa.Array | pa.ChunkedArray:
    """Values of either side in the origin's type; as text where they have no form in it."""
    wanted = pair.origin.type
    if values.type == wanted:
        return values
    try:
        return values.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        words = pa.array(_in_words(_one(values), pair), pa.string())
    try:
        return words.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return words


def keys_of(findings: Findings) -> pa.Table | None:
    """All keys that differ; a column has the origin's type, or is text where one of its values has no form in it."""
    if not findings.keys:
        return None
    if len({table.schema for table in findings.keys}) == 1:
        return pa.concat_tables(findings.keys)
    return pa.concat_tables([_texts_alike(table, findings.keys) for table in findings.keys])


def _texts_alike(table: pa.Table, others: Sequence[pa.Table]) -> pa.Table:
    mixed = {name for name in table.column_names if len({other.schema.field(name).type for other in others}) > 1}
    columns = {
        name: table.column(name).cast(pa.string()) if name in mixed else table.column(name)
        for name in table.column_names
    }
    return pa.table(columns)
