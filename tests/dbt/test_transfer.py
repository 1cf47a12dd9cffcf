"""`transfer` in real dbt runs: what a Python model lands, what it returns, and what happens when it fails."""

from __future__ import annotations

TRANSFER = "return dbt_bridge.transfer(dbt=dbt, source_data=rows, target_destination='duckdb', dataset_name='landed', "


def test_a_model_lands_rows_and_returns_their_receipt(project):
    project.model("move", f"rows = [{{'id': 1}}, {{'id': 2}}]\n{TRANSFER}table_name='users')")
    run = project.dbt("run")
    assert run.code == 0, run.output
    assert project.query("from landed.users order by id") == [(1,), (2,)]
    columns = "status, rows_loaded, rows_inserted, rows_updated, rows_deleted, table_name, error"
    expected = [("success", 2, 2, 0, 0, "landed.users", None)]
    assert project.query(f"select {columns} from move") == expected  # noqa: S608
    assert project.query(f"select {columns} from _dbt_bridge.receipts") == expected  # noqa: S608
    assert project.query("select load_id, node from _dbt_bridge.receipts") == [
        (*project.query("select load_id from move")[0], "model.shop.move")
    ]
