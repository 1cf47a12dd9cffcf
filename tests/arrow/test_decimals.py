"""Numbers that Arrow's own cast would take for others: each comes out as itself, or is refused."""

from __future__ import annotations

import decimal
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dbt_bridge.arrow.decimals import cast, cast_exactly

SHAPES = [pa.decimal128(38, 0), pa.decimal128(38, 10), pa.decimal128(38, 18), pa.decimal128(9, 2)]
SHAPES += [pa.decimal256(76, 0), pa.decimal256(76, 30)]
DIGITS = st.text("0123456789", min_size=1, max_size=140)
TEXT = st.builds(lambda sign, whole, rest: f"{sign}{whole}{rest}", st.sampled_from(["", "-", "+"]), DIGITS, DIGITS.map(
    lambda digits: f".{digits}") | st.sampled_from(["", ".", "e5", "e-3", "E40", "e130"]))  # fmt: skip


def fits(number: Decimal, shape: pa.DataType) -> bool:
    scaled = int(number.scaleb(shape.scale)) if number == number.to_integral_value() else None
    if scaled is None:
        digits = f"{number:f}".partition(".")[2].rstrip("0")
        if len(digits) > shape.scale:
            return False
        scaled = int(f"{number:f}".partition(".")[0] + digits.ljust(shape.scale, "0"))
    return abs(scaled) < 10**shape.precision


@settings(deadline=None, max_examples=300)
@given(TEXT, st.sampled_from(SHAPES))
@example("1" + "0" * 128, pa.decimal128(38, 0))
@example("1." + "0" * 130, pa.decimal128(38, 18))
@example(str(2**128 + 5), pa.decimal128(38, 0))
@example("1" + "0" * 256, pa.decimal256(76, 0))
@example("1e30", pa.decimal128(38, 18))
@example("12345678901234567890123.5", pa.decimal128(38, 18))
def test_a_text_is_read_as_itself_or_refused(text: str, shape: pa.DataType) -> None:
    with decimal.localcontext(prec=500):
        number = Decimal(text)
        if fits(number, shape):
            assert cast_exactly(pa.array([text, None]), shape).to_pylist() == [number, None]
        else:
            with pytest.raises(pa.ArrowInvalid):
                cast_exactly(pa.array([text, None]), shape)


@settings(deadline=None, max_examples=300)
@given(st.integers(-(10**38) + 1, 10**38 - 1), st.integers(0, 38), st.sampled_from(SHAPES))
@example(10**30, 0, pa.decimal128(38, 18))
def test_a_decimal_of_another_scale_is_itself_or_refused(unscaled: int, scale: int, shape: pa.DataType) -> None:
    with decimal.localcontext(prec=500):
        number = Decimal(unscaled).scaleb(-scale)
        array = pa.array([number], pa.decimal128(38, scale))
        if fits(number, shape):
            assert cast_exactly(array, shape).to_pylist() == [number]
        else:
            with pytest.raises(pa.ArrowInvalid):
                cast_exactly(array, shape)


@pytest.mark.parametrize("text", ["", ".", "-", "1e", "NaN", "Infinity", "1_0", " 1", "\u0661", "0x1"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(pa.ArrowInvalid):
        cast_exactly(pa.array([text]), pa.decimal128(38, 0))


def test_texts_of_every_layout_are_read() -> None:
    for layout in (pa.string(), pa.large_string(), pa.string_view()):
        for texts in (["1.5", None], ["15e-1", None]):
            assert cast_exactly(pa.array(texts, layout), pa.decimal128(9, 2)).to_pylist() == [Decimal("1.50"), None]


def test_a_cast_is_exact_for_decimals_and_arrows_own_for_others() -> None:
    wide = pa.chunked_array([pa.array([Decimal(10**30)], pa.decimal128(38, 0)), pa.array([None], pa.decimal128(38, 0))])
    with pytest.raises(pa.ArrowInvalid):
        cast(wide, pa.decimal128(38, 18))
    assert cast(wide, pa.decimal128(38, 5)).to_pylist() == [Decimal(10**30), None]
    lists = pa.array([[None, Decimal(10**30)], None], pa.list_(pa.decimal128(38, 0)))
    with pytest.raises(pa.ArrowInvalid):
        cast(lists, pa.list_(pa.decimal128(38, 18)))
    assert cast(lists, pa.list_(pa.decimal128(38, 5))).to_pylist() == [[None, Decimal(10**30)], None]
    assert cast(pa.array([7]), pa.string()).to_pylist() == ["7"]
    with pytest.raises(pa.ArrowInvalid):
        cast(pa.array([2**40]), pa.int32())
