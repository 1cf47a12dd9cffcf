"""Names that the bridge makes beside those of an origin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dbt_bridge.nouns.names import DUCKDB, POSTGRES, is_own_name

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=70)


@given(NAMES, NAMES)
def test_two_names_stay_two_with_a_suffix_and_within_the_engines_length(one: str, other: str) -> None:
    made = {POSTGRES.make(name, "_history") for name in (one, other)}
    assert all(len(name.encode()) <= 63 and name.endswith("_history") for name in made)
    assert len(made) == len({one, other})


def test_a_short_form_is_what_the_guide_says() -> None:
    assert POSTGRES.make("o" * 55, "_history") == "o" * 55 + "_history"
    assert POSTGRES.make("o" * 56, "_history") == "o" * 46 + "_706d47d9_history"
    assert DUCKDB.make("o" * 56, "_history") == "o" * 56 + "_history"


def test_the_bridges_own_names_are_known_in_any_case() -> None:
    assert is_own_name("_dbt_bridge_stage_1") and is_own_name("_DBT_BRIDGE") and not is_own_name("dbt_bridge_orders")
