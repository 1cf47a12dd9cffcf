"""What was found of the rows that differ: how many of each kind, in which columns, some in full, and all their keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as is_

from dbt_bridge.arrow import decimals
from dbt_bridge.nouns.both import ENDS, Both, End
from dbt_bridge.nouns.parity import Difference, Kind
from dbt_bridge.verify.canonical.buffers import to_array
from dbt_bridge.verify.canonical.elements import REAL, to_canonical, to_text
from dbt_bridge.verify.rows.column_pairs import ColumnPair, ColumnPairs

KINDS: tuple[Kind, ...] = ("different", "only_in_origin", "only_in_destination", "duplicate")
KIND, ORIGIN_ROWS, DESTINATION_ROWS = "_kind", "_origin_rows", "_destination_rows"
"""The columns of `Parity.keys` beside the key."""

Flags = NDArray[np.bool_]
Texts = dict[str, str | None]
"""Some values of a row: column -> value as text, None for NULL."""


def count_column(end: End) -> str:
    """In `Judgement.rows`: how often a side has it."""
    return f"{end}_count"


def place_column(end: End) -> str:
    """In `Judgement.rows`: where in a side's table its (first) row is; NULL where it has none."""
    return f"{end}_place"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Keys (rows, without a key) that differ, among some rows of both sides.

    Attributes:
        rows: one for each key: `kind`, and of each side `count_column` and `place_column`.
        unequal: for each column beside the key, in which of `rows` it differs.
        sides: the judged rows: the compared columns of each side in its own types.
    """

    rows: pa.Table
    unequal: Mapping[ColumnPair, Flags]
    sides: Both[pa.Table | None]
    pairs: ColumnPairs

    def are(self, kind: Kind) -> Flags:
        return np.asarray(pc.equal(self.rows.column("kind"), kind))

    def counts(self, end: End) -> NDArray[np.int64]:
        return cast("NDArray[np.int64]", self.rows.column(count_column(end)).to_numpy())

    def values(self, end: End, pair: ColumnPair, places: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
        """A column of a side's rows at these places."""
        return cast("pa.Table", self.sides.at(end)).column(pair.name_at(end)).take(places)


@dataclass(slots=True)
class Findings:
    """What was found, over all rows that were judged.

    Attributes:
        shown: at most so many examples of each kind are kept.
        allow_extra: rows that only the destination has are no differences.
        counts: rows (keys) of each kind; `allowed` for those that only the destination has, and may.
        columns: column -> in how many rows it differs.
        keys: see `Parity.keys`.
    """

    shown: int
    allow_extra: bool
    counts: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    examples: dict[Kind, list[Difference]] = field(default_factory=dict)
    keys: list[pa.Table] = field(default_factory=list)

    def add(self, judgement: Judgement) -> None:
        self._add_counts(judgement)
        self._add_examples(judgement)
        self._add_keys(judgement)

    def _add_counts(self, judgement: Judgement) -> None:
        surplus = np.abs(judgement.counts("origin") - judgement.counts("destination"))
        for kind in KINDS:
            among = judgement.are(kind)
            number = int(among.sum()) if judgement.pairs.key else int(surplus[among].sum())
            if number:
                is_allowed = kind == "only_in_destination" and self.allow_extra
                self.counts["allowed" if is_allowed else kind] += number
        self.columns.update({pair.name: int(flags.sum()) for pair, flags in judgement.unequal.items() if flags.any()})

    def _add_examples(self, judgement: Judgement) -> None:
        """Add those that come first at the origin, while there are fewer than `shown`."""
        places = [judgement.rows.column(place_column(end)) for end in ENDS]
        first = pc.coalesce(*places).to_numpy()
        for kind in KINDS:
            examples = self.examples.setdefault(kind, [])
            if kind == "only_in_destination" and self.allow_extra:
                continue
            among = np.flatnonzero(judgement.are(kind))
            among = among[np.argsort(first[among], kind="stable")][: max(self.shown - len(examples), 0)]
            if len(among):
                unequal = {pair: flags[among] for pair, flags in judgement.unequal.items()}
                rows = judgement.rows.take(pa.array(among))
                examples.extend(_describe(kind, Judgement(rows, unequal, judgement.sides, judgement.pairs)))

    def _add_keys(self, judgement: Judgement) -> None:
        """Add the keys that differ, in the origin's types where they have a form in them."""
        different = judgement.rows
        if self.allow_extra:
            different = different.filter(pc.not_equal(different.column("kind"), "only_in_destination"))
        has_origin = pc.is_valid(different.column(place_column("origin")))
        present = Both(has_origin, pc.invert(has_origin))
        for end in ENDS:
            rows = different.filter(present.at(end))
            if not rows.num_rows:
                continue
            places = rows.column(place_column(end))
            columns = {
                pair.name: _cast_to_origin(judgement.values(end, pair, places), pair)
                for pair in judgement.pairs.identity
            }
            columns[KIND] = rows.column("kind")
            columns[ORIGIN_ROWS] = rows.column(count_column("origin"))
            columns[DESTINATION_ROWS] = rows.column(count_column("destination"))
            self.keys.append(pa.table(columns))


def collect_keys(findings: Findings) -> pa.Table | None:
    """All keys that differ; a column has the origin's type, or is text where one of its values has no form in it."""
    if not findings.keys:
        return None
    if len({table.schema for table in findings.keys}) == 1:
        return pa.concat_tables(findings.keys)
    return pa.concat_tables([_with_common_types(table, findings.keys) for table in findings.keys])


def _with_common_types(table: pa.Table, others: Sequence[pa.Table]) -> pa.Table:
    mixed = {name for name in table.column_names if len({other.schema.field(name).type for other in others}) > 1}
    columns = {
        name: table.column(name).cast(pa.string()) if name in mixed else table.column(name)
        for name in table.column_names
    }
    return pa.table(columns)


def _describe(kind: Kind, judgement: Judgement) -> Iterator[Difference]:
    """Differences of one kind in full; the values of each column become text all at once."""
    count, pairs = len(judgement.rows), judgement.pairs
    has_origin = np.asarray(pc.is_valid(judgement.rows.column(place_column("origin"))))
    present = Both(has_origin, ~has_origin)
    keys: list[Texts] = [{} for _ in range(count)]
    values: Both[list[Texts]] = ENDS.map(lambda _: [{} for _ in range(count)])
    for end in ENDS:
        _add_texts(keys, dict.fromkeys(pairs.key, present.at(end)), judgement, end)
        if kind == "different":
            _add_texts(values.at(end), judgement.unequal, judgement, end)
        elif kind != "duplicate":
            whole_rows = values.origin if kind == "only_in_origin" else values.destination
            columns = pairs.beside_key if pairs.key else pairs.to_compare
            _add_texts(whole_rows, dict.fromkeys(columns, present.at(end)), judgement, end)
    numbers = zip(*(judgement.counts(end).tolist() for end in ENDS), strict=True)
    for row, rows in enumerate(numbers):
        unequal = [pair.name for pair, flags in judgement.unequal.items() if flags[row]] if kind == "different" else ()
        yield Difference(kind, keys[row], tuple(unequal), values.origin[row], values.destination[row], rows)


def _add_texts(texts: Sequence[Texts], wanted: Mapping[ColumnPair, Flags], judgement: Judgement, end: End) -> None:
    """Add what one side has in some columns, each in the rows where it is wanted; masked columns are left out."""
    places = judgement.rows.column(place_column(end)).combine_chunks()
    for pair, flags in wanted.items():
        rows = np.flatnonzero(flags)
        if pair.masked or not len(rows):
            continue
        values = judgement.values(end, pair, places.take(pa.array(rows)))
        for row, text in zip(rows.tolist(), _to_texts(values, pair), strict=True):
            texts[row][pair.name] = text


def _to_texts(values: pa.ChunkedArray, pair: ColumnPair) -> list[str | None]:
    """Values of a column as people know them, whichever side they are of."""
    if all(is_.is_boolean(column.type) for column in pair.columns):
        return cast("list[str | None]", values.cast(pa.string()).to_pylist())
    canonical = to_canonical(values, pair.canon)
    if pair.is_real:
        return cast("list[str | None]", to_text(canonical.cast(pa.float32()), REAL).to_pylist())
    return cast("list[str | None]", to_text(canonical, pair.canon).to_pylist())


def _cast_to_origin(values: pa.ChunkedArray, pair: ColumnPair) -> pa.Array | pa.ChunkedArray:
    """Values of either side in the origin's type; as text where they have no form in it."""
    wanted = pair.columns.origin.type
    if values.type == wanted:
        return values
    try:
        return decimals.cast(to_array(values), wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        texts = pa.array(_to_texts(values, pair), pa.string())
    try:
        return decimals.cast(texts, wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return texts
