"""A masked column holds hashes of the values' text, and nothing of the values."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbt_bridge.arrow.mask import mask_array, mask_batches

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None)
@given(values=st.lists(st.one_of(st.none(), texts), max_size=50))
def test_each_value_is_the_sha256_of_its_text(values: list[str | None]) -> None:
    expected = [None if v is None else hashlib.sha256(v.encode()).hexdigest() for v in values]
    found = mask_array(pa.array(values, pa.string()), "sha256")
    assert found.type == pa.string()
    assert found.to_pylist() == expected


def test_equal_values_have_equal_hashes_in_every_batch_and_in_slices() -> None:
    array = pa.array(["x", "ann@example.org", None, "ann@example.org"])
    assert mask_array(array.slice(1), "sha256").to_pylist()[0] == mask_array(array, "sha256").to_pylist()[3]


def test_it_is_what_postgres_itself_would_hash() -> None:
    """`encode(sha256(convert_to('naïve', 'UTF8')), 'hex')`, so that a mask can be computed at the origin too."""
    found = mask_array(pa.array(["naïve"]), "sha256").to_pylist()
    assert found == ["f86fd89de87a848a45bfe77708d91a5d2ff48b8e4a4b98af5165af82692f8928"]


def test_batches_keep_their_schema_and_their_other_columns() -> None:
    schema = pa.schema([pa.field("id", pa.int32(), nullable=False), pa.field("email", pa.string())])
    batches = [pa.record_batch([pa.array([i, i + 1], pa.int32()), [f"{i}@x", None]], schema=schema) for i in (1, 3)]
    reader = mask_batches(pa.RecordBatchReader.from_batches(schema, batches), {"email": "sha256"})
    found = reader.read_all()
    assert found.schema == schema
    assert found.column("id").to_pylist() == [1, 2, 3, 4]
    assert found.column("email").to_pylist()[0] == hashlib.sha256(b"1@x").hexdigest()
    assert found.column("email").to_pylist()[1] is None


def test_a_mask_that_does_not_exist_hides_nothing_and_says_so() -> None:
    with pytest.raises(ValueError, match="sha256"):
        mask_array(pa.array(["x"]), "md5")  # type: ignore[arg-type]
