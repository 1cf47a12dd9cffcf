"""Suspicious rows of both sides are compared value by value, in their canonical form: what is then apart, differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as is_

from dbt_bridge.arrow import decimals
from dbt_bridge.nouns.parity import Difference, Kind
from dbt_bridge.verify.canonical.elements import (
    REAL,
    to_canonical,
    to_storage,
    to_text,
)
from dbt_bridge.verify.rows.column_pairs import (
    ENDS,
    ColumnPair,
    ColumnPairs,
    End,
)
from dbt_bridge.verify.rows.engine import differ, held

KINDS: tuple[Kind, ...] = ("different", "only_in_origin", "only_in_destination", "duplicate")
_ROW = "_at"  # the row's place in its side's table
_COLUMNS_AT_ONCE = 64

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


@dataclass(frozen=True, slots=True)
class _Judged:
    """Keys (rows, without a key) that differ.

    Attributes:
        rows: `kind`; `n0` and `n1`, how often each side has it; `at0` and `at1`, where (the first of) its rows are.
        apart: of each column beside the key, in which of `rows` it differs.
    """

    rows: pa.Table
    apart: Mapping[ColumnPair, NDArray[np.bool_]]

    def of(self, kind: Kind) -> NDArray[np.bool_]:
        return np.asarray(pc.equal(self.rows.column("kind"), kind))


def judge(sides: Sides, paired: ColumnPairs, engine: Any, findings: Findings) -> None:
    """Compare rows of both sides that may belong together.

    Args:
        sides: the compared columns of each side in its own types, in the order of `paired.compared`.
    """
    met = _met(sides, paired, engine)
    n0, n1 = (met.column(name).to_numpy() for name in ("n0", "n1"))
    once = (n0 == 1) & (n1 == 1)
    apart = {pair: np.zeros(len(met), np.bool_) for pair in paired.beside_key} if paired.key else {}
    for pair, differs in _apart(met.filter(pa.array(once)), sides, tuple(apart), engine):
        apart[pair][once] = differs
    conditions: dict[Kind, NDArray[np.bool_]]
    if paired.key:
        conditions = {
            "duplicate": (n0 > 1) | (n1 > 1),
            "only_in_origin": n1 == 0,
            "only_in_destination": n0 == 0,
            "different": np.logical_or.reduce([np.zeros(len(met), np.bool_), *apart.values()]),
        }
    else:
        conditions = {"only_in_origin": n0 > n1, "only_in_destination": n0 < n1}
    which = np.select(list(conditions.values()), list(range(len(conditions))), -1)
    found = which >= 0
    kinds = pa.array(list(conditions)).take(pa.array(which[found]))
    rows = met.filter(pa.array(found)).append_column("kind", kinds)
    judged = _Judged(rows, {pair: flags[found] for pair, flags in apart.items()})
    _count(judged, paired, findings)
    _tell(judged, sides, paired, findings)
    _keep(judged, sides, paired, findings)


def _identity(paired: ColumnPairs) -> tuple[ColumnPair, ...]:
    """The columns by which rows belong together."""
    return paired.key or paired.compared


def _met(sides: Sides, paired: ColumnPairs, engine: Any) -> pa.Table:
    """Of each key: how often each side has it (n0, n1), and where the first of its rows are (at0, at1)."""
    names, selects = [f"k{i}" for i in range(len(_identity(paired)))], []
    for side, (end, table) in enumerate(zip(ENDS, sides, strict=True)):
        if table is None:
            continue
        keys = {name: _held(table, end, pair) for name, pair in zip(names, _identity(paired), strict=True)}
        engine.register(f"rows_{end}", pa.table({_ROW: pa.array(np.arange(table.num_rows)), **keys}))
        selects.append(f"SELECT {side} AS side, * FROM rows_{end}")  # noqa: S608
    query = f"""
        SELECT
            count(*) FILTER (side = 0) AS n0,
            count(*) FILTER (side = 1) AS n1,
            min({_ROW}) FILTER (side = 0) AS at0,
            min({_ROW}) FILTER (side = 1) AS at1
        FROM ({" UNION ALL ".join(selects)})
        GROUP BY {", ".join(names)}"""  # noqa: S608
    return engine.sql(query).to_arrow_table()


def _apart(
    once: pa.Table, sides: Sides, pairs: Sequence[ColumnPair], engine: Any
) -> Iterator[tuple[ColumnPair, NDArray[np.bool_]]]:
    """In which of these rows, which each side has once, each column differs; columns that never do are left out."""
    if not len(once):
        return
    here, there = (cast("pa.Table", side).take(once.column(f"at{i}")) for i, side in enumerate(sides))
    unlike = {
        pair: rows
        for pair in pairs
        if (rows := _unlike(here.column(pair.at("origin").name), there.column(pair.at("destination").name))).any()
    }
    rest = tuple(unlike)
    for start in range(0, len(rest), _COLUMNS_AT_ONCE):
        some = rest[start : start + _COLUMNS_AT_ONCE]
        rows = np.logical_or.reduce([unlike[pair] for pair in some])
        for pair, column in _compared(here.filter(pa.array(rows)), there.filter(pa.array(rows)), some, engine):
            flags = np.zeros(len(once), np.bool_)
            flags[rows] = column
            yield pair, flags


def _unlike(here: pa.ChunkedArray, there: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Where two columns may differ: values of one type that are equal have one canonical form."""
    one, other = (to_storage(column) for column in (here, there))
    anywhere = np.ones(len(one), np.bool_)
    if one.type != other.type:
        return anywhere
    try:
        same = pc.or_(pc.fill_null(pc.equal(one, other), False), pc.and_(one.is_null(), other.is_null()))
    except pa.ArrowNotImplementedError:  # Arrow has no equality of lists and intervals: their canonical forms tell
        return anywhere
    return ~np.asarray(same)


def _compared(
    here: pa.Table, there: pa.Table, pairs: Sequence[ColumnPair], engine: Any
) -> Iterator[tuple[ColumnPair, NDArray[np.bool_]]]:
    """In which rows of two tables each column differs. DuckDB plans few columns at once: the time of a plan grows with
    the square of their number."""
    columns = {_ROW: pa.array(np.arange(len(here)))}
    columns |= {f"v{i}_0": _held(here, "origin", pair) for i, pair in enumerate(pairs)}
    columns |= {f"v{i}_1": _held(there, "destination", pair) for i, pair in enumerate(pairs)}
    engine.register("once", pa.table(columns))
    flags = ", ".join(f"{differ(pair, f'v{i}_0', f'v{i}_1')} AS x{i}" for i, pair in enumerate(pairs))
    told = engine.sql(f"SELECT {flags} FROM once ORDER BY {_ROW}").to_arrow_table()  # noqa: S608
    engine.unregister("once")
    for pair, column in zip(pairs, told.columns, strict=True):
        yield pair, np.asarray(column)


def _held(table: pa.Table, end: End, pair: ColumnPair) -> pa.Array:
    return held(to_canonical(_one(table.column(pair.at(end).name)), pair.canon))


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _count(judged: _Judged, paired: ColumnPairs, findings: Findings) -> None:
    n0, n1 = (judged.rows.column(name).to_numpy() for name in ("n0", "n1"))
    for kind in KINDS:
        among = judged.of(kind)
        number = int(among.sum()) if paired.key else int(np.abs(n0 - n1)[among].sum())
        if number:
            is_allowed = kind == "only_in_destination" and findings.allow_extra
            findings.counts["allowed" if is_allowed else kind] += number
    findings.columns.update({pair.name: int(flags.sum()) for pair, flags in judged.apart.items() if flags.any()})


def _tell(judged: _Judged, sides: Sides, paired: ColumnPairs, findings: Findings) -> None:
    """Add examples, while there are too few."""
    first = pc.coalesce(judged.rows.column("at0"), judged.rows.column("at1")).to_numpy()
    for kind in KINDS:
        told = findings.examples.setdefault(kind, [])
        if kind == "only_in_destination" and findings.allow_extra:
            continue
        among = np.flatnonzero(judged.of(kind))
        among = among[np.argsort(first[among], kind="stable")][: max(findings.shown - len(told), 0)]
        if len(among):
            apart = {pair: flags[among] for pair, flags in judged.apart.items()}
            told.extend(_differences(kind, _Judged(judged.rows.take(pa.array(among)), apart), sides, paired))


def _differences(kind: Kind, judged: _Judged, sides: Sides, paired: ColumnPairs) -> Iterator[Difference]:
    """Some differences of one kind in full; each column's values become text at once."""
    count = len(judged.rows)
    at_origin = np.asarray(pc.is_valid(judged.rows.column("at0")))
    keys, wholes, here, there = ([_Texts() for _ in range(count)] for _ in range(4))
    beside = (paired.beside_key if paired.key else paired.compared) if kind.startswith("only_in") else ()
    for side, mine in enumerate((at_origin, ~at_origin)):
        _write(keys, dict.fromkeys(paired.key, mine), judged, sides, side)
        _write(wholes, dict.fromkeys(beside, mine), judged, sides, side)
    if kind == "different":
        _write(here, judged.apart, judged, sides, 0)
        _write(there, judged.apart, judged, sides, 1)
    if kind == "only_in_origin":
        here = wholes
    elif kind == "only_in_destination":
        there = wholes
    numbers = zip(*(judged.rows.column(name).to_pylist() for name in ("n0", "n1")), strict=True)
    for row, rows in enumerate(numbers):
        apart = [pair.name for pair, flags in judged.apart.items() if flags[row]] if kind == "different" else ()
        yield Difference(kind, keys[row], tuple(apart), here[row], there[row], rows)


_Texts = dict[str, "str | None"]  # of a row, by column


def _write(
    into: Sequence[_Texts], wanted: Mapping[ColumnPair, NDArray[np.bool_]], judged: _Judged, sides: Sides, side: int
) -> None:
    """Add what one side has in some columns, each in the rows where it is wanted; masked columns are told nowhere."""
    places = judged.rows.column(f"at{side}").combine_chunks()
    for pair, mine in wanted.items():
        rows = np.flatnonzero(mine)
        if pair.masked or not len(rows):
            continue
        column = cast("pa.Table", sides[side]).column(pair.at(ENDS[side]).name)
        words = _in_words(_one(column.take(places.take(pa.array(rows)))), pair)
        for row, text in zip(rows.tolist(), words, strict=True):
            into[row][pair.name] = text


def _in_words(values: pa.Array, pair: ColumnPair) -> list[str | None]:
    if is_.is_boolean(pair.origin.type) and is_.is_boolean(pair.destination.type):
        return cast("list[str | None]", values.cast(pa.string()).to_pylist())
    values = to_canonical(values, pair.canon)
    if pair.is_real:
        return cast("list[str | None]", to_text(values.cast(pa.float32()), REAL).to_pylist())
    words: list[str | None] = to_text(values, pair.canon).to_pylist()
    return words


def _keep(judged: _Judged, sides: Sides, paired: ColumnPairs, findings: Findings) -> None:
    """Add the keys that differ, in the origin's types where they have a form in them."""
    different = judged.rows
    if findings.allow_extra:
        different = different.filter(pc.not_equal(different.column("kind"), "only_in_destination"))
    at0 = different.column("at0")
    ends: tuple[tuple[End, Any], ...] = (("origin", pc.is_valid(at0)), ("destination", pc.is_null(at0)))
    for side, (end, mine) in enumerate(ends):
        rows = different.filter(mine)
        if not rows.num_rows:
            continue
        there = cast("pa.Table", sides[side]).take(rows.column(f"at{side}"))
        columns = {pair.name: as_at_origin(there.column(pair.at(end).name), pair) for pair in _identity(paired)}
        columns["_kind"] = rows.column("kind")
        columns |= {"_origin_rows": rows.column("n0"), "_destination_rows": rows.column("n1")}
        findings.keys.append(pa.table(columns))


def as_at_origin(values: pa.ChunkedArray, pair: ColumnPair) -> pa.Array | pa.ChunkedArray:
    """Values of either side in the origin's type; as text where they have no form in it."""
    wanted = pair.origin.type
    if values.type == wanted:
        return values
    try:
        return decimals.cast(_one(values), wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        words = pa.array(_in_words(_one(values), pair), pa.string())
    try:
        return decimals.cast(words, wanted)
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
