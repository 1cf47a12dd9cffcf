"""Many differences are found as exactly as few, wherever they lie, in memory and in files."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from tests.verify.arrow_sides import ArrowSide, HashingSide

from dbt_bridge.nouns.parity import Parity
from dbt_bridge.verify.compare import compare
from dbt_bridge.verify.request import VerifyRequest

BEGAN = datetime(2026, 11, 21, tzinfo=UTC)
OPENED = Parity("load", "source.a.b.c", "o", "d", "rows", "failed", "now", BEGAN, BEGAN, 0.0, error="not yet")
ROWS, CHANGED, GONE, NEW = 10_000, 600, 300, 300
NAN = float("nan")


def row(key: int) -> dict[str, Any]:
    return {
        "id": key,
        "amount": Decimal(key) / 100,
        "price": Decimal(key) / 4,
        "score": (NAN, 0.0, None, key * 0.1)[key % 4],
        "tags": [str(key), None],
        "note": None if key % 7 == 0 else f"note {key}",
    }


HERE = pa.schema(
    {
        "id": pa.int64(), "amount": pa.decimal128(12, 2), "price": pa.decimal128(10, 2), "score": pa.float64(),
        "tags": pa.list_(pa.string()), "note": pa.string(),
    }
)  # fmt: skip
THERE = HERE.set(2, pa.field("price", pa.string()))  # as another system spells it: no form is equal as it stands


def spelled_there(values: dict[str, Any]) -> dict[str, Any]:
    score = -0.0 if values["score"] == 0.0 else values["score"]
    return {**values, "price": f"{values['price']:.4f}", "score": score}


@pytest.mark.parametrize("step", [8, 1], ids=["scattered", "clustered"])
@pytest.mark.parametrize(("method", "memory_mb"), [("digests", 1), ("digests", 256), ("buckets", 1), ("values", 1)])
def test_they_are_found_exactly(method: str, memory_mb: int, step: int) -> None:
    places = [1 + place * step for place in range(CHANGED + GONE)]
    changed, gone = places[:CHANGED], set(places[CHANGED:])
    there = {key: spelled_there(row(key)) for key in range(ROWS) if key not in gone}
    there |= {key: spelled_there(row(key)) for key in range(ROWS, ROWS + NEW)}
    for place, key in enumerate(changed):
        column, value = (("amount", Decimal(-1)), ("price", "-1"), ("score", 7e9), ("tags", []), ("note", ""))[
            place % 5
        ]
        there[key][column] = value
    origin = HashingSide("orders", pa.Table.from_pylist([row(key) for key in range(ROWS)], HERE), key=("id",))
    landed = ArrowSide("landed", pa.Table.from_pylist(list(there.values()), THERE))
    parity = compare(OPENED, origin, landed, VerifyRequest(key=("id",), method=method, memory_mb=memory_mb))  # type: ignore[arg-type]
    assert parity.keys is not None
    assert sorted(
        (key, kind) for key, kind in zip(*(parity.keys[n].to_pylist() for n in ("id", "_kind")), strict=True)
    ) == (
        sorted(
            [(key, "different") for key in changed]
            + [(key, "only_in_origin") for key in gone]
            + [(key, "only_in_destination") for key in range(ROWS, ROWS + NEW)]
        )
    )
    assert (parity.different, parity.only_in_origin, parity.only_in_destination) == (CHANGED, GONE, NEW)
    assert parity.columns == dict.fromkeys(("amount", "price", "score", "tags", "note"), CHANGED // 5)
    assert (parity.rows_origin, parity.rows_destination) == (ROWS, ROWS - GONE + NEW)
    assert (origin.asked_by_key, landed.asked_by_key) == (1, 1)  # all at once: a side may look at every row for it


def test_examples_tell_what_each_side_has() -> None:
    origin = pa.Table.from_pylist([row(key) for key in range(12)], HERE)
    there = [spelled_there(row(key)) for key in range(2, 13)]
    there[3] |= {"price": "9.5", "note": None}
    landed = pa.Table.from_pylist(there, THERE)
    asked = VerifyRequest(key=("id",), masked=frozenset({"note"}))
    parity = compare(OPENED, ArrowSide("orders", origin), ArrowSide("landed", landed), asked)
    told = {(e.kind, e.key["id"]): e for e in parity.examples}
    assert told.keys() == {
        ("different", "5"), ("only_in_origin", "0"), ("only_in_origin", "1"), ("only_in_destination", "12"),
    }  # fmt: skip
    apart = told["different", "5"]
    assert (apart.columns, apart.origin, apart.destination) == (("price", "note"), {"price": "1.25"}, {"price": "9.50"})
    gone = told["only_in_origin", "1"]
    assert gone.origin == {"amount": "0.01", "price": "0.25", "score": "0", "tags": "{1,NULL}"}
    assert gone.destination == {}
    assert told["only_in_destination", "12"].destination["price"] == "3.00"


def test_examples_without_a_key_are_of_rows_that_a_side_has_more_often() -> None:
    origin, landed = (pa.table({"v": values}) for values in (["a", "b", "b", "b"], ["a", "a", "b", "c"]))
    parity = compare(OPENED, ArrowSide("orders", origin), ArrowSide("landed", landed), VerifyRequest())
    told = {(e.kind, *(e.origin or e.destination).values(), e.rows) for e in parity.examples}
    assert told == {
        ("only_in_origin", "b", (3, 1)), ("only_in_destination", "a", (1, 2)), ("only_in_destination", "c", (0, 1)),
    }  # fmt: skip
