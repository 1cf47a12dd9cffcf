"""What needs dbt 1 in this environment says so where there is none."""

from __future__ import annotations

import sys

import pytest

import dbt_bridge
from dbt_bridge.errors import UsageError


def test_transfer_says_what_it_needs_and_what_dbt_2_has_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "dbt" or name.startswith("dbt.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dbt", None)  # as where it is not installed
    with pytest.raises(UsageError, match="need dbt 1 with dbt-duckdb, which is not installed here") as refused:
        dbt_bridge.transfer(
            dbt=None, source_data=[{"id": 1}], target_destination="crm", dataset_name="s", table_name="t"
        )
    assert "with dbt 2, land the rows as a source" in refused.value.mend
