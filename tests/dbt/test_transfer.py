"""`transfer` in real dbt runs: what a Python model lands, what it returns, and what happens when it fails."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time

import duckdb
import pyarrow as pa
import pytest

from dbt_bridge.connectors.duckdb.model_session import DuckDBModelSession
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.contracts.destination import BeginAgain
from dbt_bridge.python_models.transfer import _Place, _Request, _Transfer


def call(rows, table, **arguments):
    """The lines of a model that transfers `rows` (Python source) into landed.<table> of dbt's own file."""
    target = arguments.pop("target_destination", "'duckdb'")
    extra = "".join(f", {name}={value!r}" for name, value in arguments.items())
    return (
        f"rows = {rows}\n"
        f"return dbt_bridge.transfer(dbt=dbt, source_data=rows, target_destination={target}, dataset_name='landed', "
        f"table_name={table!r}{extra})"
    )


# dlt's decorators look up the module of what they decorate, and dbt-duckdb does not register a model's own: sources
# live in a module of the project.
SHOP_API = """
import dlt

@dlt.source
def two():
    return [dlt.resource([{'id': 1}], name='two_a'), dlt.resource([{'id': 2}, {'id': 3}], name='two_b')]

@dlt.resource
def changes(at=dlt.sources.incremental('id')):
    yield [{'id': 1}]

@dlt.resource
def length_of_key(api_key=dlt.secrets.value):
    yield {'length': len(api_key)}
"""


def with_shop_api(project, **profile):
    project.write("lib/shop_api.py", SHOP_API)
    project.profile(module_paths=[str(project.root / "lib")], **profile)


PAGES = "([{'id': n} for n in range(page * 100, page * 100 + 100)] for page in range(250))"
KINDS = {
    "list_of_dicts": "[{'id': 1, 'v': 'a'}, {'id': 2, 'v': None}]",
    "generator_of_rows": "({'id': n, 'v': v} for n, v in ((1, 'a'), (2, None)))",
    "generator_of_pages": "([{'id': n, 'v': v}] for n, v in ((1, 'a'), (2, None)))",
    "pandas_frame": "__import__('pandas').DataFrame({'id': [1, 2], 'v': ['a', None]})",
    "polars_frame": "__import__('polars').DataFrame({'id': [1, 2], 'v': ['a', None]})",
    "polars_lazy": "__import__('polars').LazyFrame({'id': [1, 2], 'v': ['a', None]})",
    "arrow_table": "__import__('pyarrow').table({'id': [1, 2], 'v': ['a', None]})",
    "record_batch": "__import__('pyarrow').record_batch({'id': [1, 2], 'v': ['a', None]})",
    "record_batch_reader": "__import__('pyarrow').table({'id': [1, 2], 'v': ['a', None]}).to_reader()",
    "relation": "session.sql(\"select * from (values (1::bigint, 'a'), (2, null)) t(id, v)\")",
    "dlt_resource": "__import__('dlt').resource([{'id': 1, 'v': 'a'}, {'id': 2, 'v': None}], name='r')",
    "generator_of_frames": "(__import__('pyarrow').table({'id': [n], 'v': [v]}) for n, v in ((1, 'a'), (2, None)))",
}


@pytest.fixture(scope="module")
def built(make_project):
    """One dbt run, four threads, of all models that must succeed; in a file that is open with config options."""
    project = make_project("built")
    with_shop_api(project, settings={"memory_limit": "2GB"}, config_options={"threads": 2})
    for kind, rows in KINDS.items():
        project.model(f"m_{kind}", call(rows, kind))
    project.model("paged", call(PAGES, "paged"))
    project.model(
        "upserted",
        "before = [{'a': 1, 'b': 1, 'v': 1}, {'a': 1, 'b': 2, 'v': 1}]\n"
        "dbt_bridge.transfer(dbt, before, 'duckdb', 'landed', 'upserted')\n"
        + call("[{'a': 1, 'b': 2, 'v': 2}, {'a': 2, 'b': 2, 'v': 3}, {'a': 2, 'b': 2, 'v': 4}]", "upserted",
               write_disposition="merge", primary_key=["a", "b"]),
    )  # fmt: skip
    project.model(
        "appended",
        "dbt_bridge.transfer(dbt, [{'id': 1}], 'duckdb', 'landed', 'appended')\n"
        + call("[{'id': 1, 'new': 1.5}]", "appended", write_disposition="append"),
    )
    theirs = (
        "session.execute('create schema if not exists landed')\n"
        "session.execute('create table landed.{0} as select 1::bigint as id')\n"
    )
    project.model(
        "theirs",
        theirs.format("theirs")
        + call("[{'id': 1, 'new': 1.5}]", "theirs", write_disposition="append", on_error="receipt"),
    )
    project.model(
        "evolved",
        theirs.format("evolved") + call("[{'id': 1, 'new': 1.5}]", "evolved", write_disposition="append", evolve=True),
    )
    project.model(
        "emptied",
        "dbt_bridge.transfer(dbt, [{'id': 1, 'v': 'x'}], 'duckdb', 'landed', 'emptied')\n" + call("[]", "emptied"),
    )
    project.model("tolerated", call("({'id': 1 // n} for n in (1, 0))", "tolerated", on_error="receipt"))
    project.model(
        "source_of_two",
        "import shop_api\nreturn dbt_bridge.transfer(dbt, shop_api.two(), 'duckdb', 'landed', None)",
    )
    project.model(
        "other_file",
        call("[{'id': 1}]", "other", target_destination="__import__('dlt').destinations.duckdb('other.duckdb')"),
    )
    project.model(
        "own_file",
        call("[{'id': 1}]", "own", target_destination="__import__('dlt').destinations.duckdb('warehouse.duckdb')"),
    )
    project.model(
        "own_session",
        call("[{'id': 1}]", "session", target_destination="__import__('dlt').destinations.duckdb(session.cursor())"),
    )
    project.model(
        "threads_of_its_own",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def one(n):\n"
        "    dbt_bridge.transfer(dbt, [{'id': n}], 'duckdb', 'landed', f'thread_{n % 2}', 'append', session=session)\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    list(pool.map(one, range(8)))\n"
        "return session.sql('select 1 as n')",
    )
    run = project.dbt("run")
    assert run.code == 0, run.output
    return project


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_lands(built, kind):
    assert built.query(f"from landed.{kind} order by id") == [(1, "a"), (2, None)]


def test_n_rows_in_pages_are_n_rows(built):
    assert built.query("select count(*), min(id), max(id), count(distinct id) from landed.paged") == [
        (25_000, 0, 24_999, 25_000)
    ]


def test_merge_updates_and_inserts_and_the_last_row_of_a_key_wins(built):
    assert built.query("from landed.upserted order by all") == [(1, 1, 1), (1, 2, 2), (2, 2, 4)]
    assert built.query("select rows_loaded, rows_inserted, rows_updated, rows_deleted from upserted") == [(3, 1, 1, 0)]


def test_append_adds_and_new_columns_evolve_the_table(built):
    assert built.query("from landed.appended order by all") == [(1, 1.5), (1, None)]


def test_a_table_that_was_there_before_is_altered_only_where_that_is_allowed(built):
    assert built.query("from landed.theirs") == [(1,)]
    ((error,),) = built.query("select error from theirs")
    assert "has no column 'new'" in error and "evolve=True" in error
    assert built.query("from landed.evolved order by all") == [(1, 1.5), (1, None)]
    assert built.query("select note from evolved") == [("added the column new DOUBLE",)]


def test_an_empty_input_leaves_an_empty_table_with_its_columns(built):
    assert built.query("select * from landed.emptied") == []
    assert [row[0] for row in built.query("describe landed.emptied")] == ["id", "v"]
    assert built.query("select status, rows_loaded, rows_deleted from emptied") == [("success", 0, 1)]


def test_a_failure_that_is_tolerated_is_in_the_receipt_and_nothing_landed(built):
    (status, rows, error) = built.query("select status, rows_loaded, error from tolerated")[0]
    assert (status, rows) == ("failed", 0)
    assert "ZeroDivisionError" in error
    assert built.query("select 1 from duckdb_tables() where table_name = 'tolerated' and schema_name = 'landed'") == []


def test_a_source_of_several_tables_lands_each_with_a_receipt(built):
    assert built.query("from landed.two_b order by id") == [(2,), (3,)]
    assert built.query("select table_name, rows_loaded from source_of_two order by 1") == [
        ("landed.two_a", 1),
        ("landed.two_b", 2),
    ]


def test_dbts_own_file_is_written_through_dbts_connection_and_another_file_is_opened(built):
    assert built.query("from landed.own") == [(1,)]
    assert built.query("from landed.session") == [(1,)]
    with duckdb.connect(str(built.root / "other.duckdb")) as other:
        assert other.execute("from landed.other").fetchall() == [(1,)]
    assert built.query("select status from _dbt_bridge.receipts where table_name = 'landed.other'") == [("success",)]


def test_threads_of_the_model_may_transfer(built):
    assert built.query("select count(*), count(distinct id) from landed.thread_0") == [(4, 4)]
    assert built.query("select count(*), count(distinct id) from landed.thread_1") == [(4, 4)]


def test_the_receipt_is_true_and_the_same_in_the_warehouse(built):
    row = built.query("select * from paged")[0]
    assert built.query("select * from _dbt_bridge.receipts where table_name = 'landed.paged'") == [row]
    names = [name for name, *_ in built.query("describe paged")]
    told = dict(zip(names, row, strict=True))
    assert (told["hop"], told["node"], told["origin"]) == ("transfer", "model.shop.paged", "builtins.generator")
    assert (told["status"], told["rows_loaded"], told["bytes"] > 0) == ("success", 25_000, True)
    assert told["started_at"].utcoffset() == dt.timedelta(0) or told["started_at"].tzinfo is not None
    assert abs((told["finished_at"] - told["started_at"]).total_seconds() - told["duration_seconds"]) < 1e-3


def test_no_staging_table_stays(built):
    assert built.query("select table_name from duckdb_tables() where table_name like '%stage%'") == []


def test_a_failed_load_fails_the_model_its_children_and_the_command(project):
    project.model("move", call("({'id': 1 // n} for n in (1, 0))", "users"))
    project.write("models/child.sql", "select * from {{ ref('move') }}")
    run = project.shell("run")
    assert run.code == 1
    assert "ZeroDivisionError" in run.output
    assert "SKIP=1" in run.output
    assert project.query("select status, rows_loaded from _dbt_bridge.receipts") == [("failed", 0)]
    assert project.query("select 1 from duckdb_tables() where schema_name = 'landed'") == []


REFUSALS = {
    "merge_without_key": (call("[{'id': 1}]", "t", write_disposition="merge"), "needs a key"),
    "unknown_disposition": (call("[{'id': 1}]", "t", write_disposition="upsert"), "unknown write_disposition 'upsert'"),
    "key_absent": (call("[{'id': 1}]", "t", write_disposition="merge", primary_key="nr"), "column 'nr' is not among"),
    "key_null": (
        call("[{'id': 1}, {'id': None}]", "t", write_disposition="merge", primary_key="id"), "key column 'id'",
    ),
    "name_for_several": (
        call("__import__('shop_api').two()", "t"),
        "was given for a source of 2 tables: two_a, two_b",
    ),
    "no_rows_at_all": (call("42", "t"), "cannot read rows from a int"),
    "not_a_row": (call("[(1, 2)]", "t"), "a row is a int, not a dict"),
    "mixed_types": (call("[{'id': 1}, {'id': 'x'}]", "t"), "column 'id' mixes"),
    "incremental_append": (
        call("__import__('shop_api').changes()", "t", write_disposition="append"),
        "is incremental",
    ),
    "destination_not_configured": (call("[{'id': 1}]", "t", target_destination="'crm_pg'"), "is not configured"),
}  # fmt: skip


@pytest.fixture(scope="module")
def refused(make_project):
    project = make_project("refused")
    with_shop_api(project)
    for name, (body, _) in REFUSALS.items():
        project.model(name, body)
    return project, project.dbt("run")


@pytest.mark.parametrize("name", REFUSALS)
def test_a_wrong_call_is_refused_before_anything_is_written(refused, name):
    project, run = refused
    assert REFUSALS[name][1] in run.output, run.output
    assert f"ERROR={len(REFUSALS)}" in run.output
    assert project.query("select 1 from duckdb_tables() where schema_name = 'landed'") == []


@pytest.mark.parametrize("flag", [["--empty"], ["--sample", "1 day"]])
def test_empty_and_sample_runs_never_write(project, flag):
    project.model("move", call("[{'id': 1}]", "users"))
    assert project.dbt("run").code == 0
    run = project.dbt("run", *flag)
    assert run.code == 1
    assert f"dbt runs with {flag[0]}" in run.output
    assert project.query("from landed.users") == [(1,)]


CANARY = "canary-Pa55word-9"


def test_secrets_come_from_the_projects_dlt_folder_and_are_never_printed(project, tmp_path):
    project.write(
        ".dlt/secrets.toml",
        f'[sources.shop_api]\napi_key = "{CANARY}"\n'
        f'[destination.crm_pg]\ndestination_type = "postgres"\n'
        f'credentials = "postgresql://loader:{CANARY}@127.0.0.1:1/crm"\n',
    )
    with_shop_api(project)
    project.model("read_secret", call("__import__('shop_api').length_of_key()", "secret"))
    project.model("unreachable", call("[{'id': 1}]", "t", target_destination="'crm_pg'"))
    project.model(
        "told_by_a_driver",
        "def rows():\n    yield {'id': 1}\n    raise RuntimeError('no route: postgresql://u:%s@h/d' % "
        "__import__('dlt').secrets['sources.shop_api.api_key'])\n" + call("rows()", "t"),
    )
    run = project.shell("--debug", "run", cwd=tmp_path)
    assert run.code == 1
    assert "PASS=1" in run.output, run.output
    assert project.query("from landed.secret") == [(len(CANARY),)]
    assert CANARY not in run.output
    for file in project.root.rglob("*"):
        if file.is_file() and file.name != "secrets.toml":
            assert CANARY.encode() not in file.read_bytes(), file


MOVE = """
import os, pathlib, time
import pyarrow as pa
if os.environ.get('STEP') == 'first':
    return dbt_bridge.transfer(dbt, [{'id': 1, 'v': 0}], 'duckdb', 'landed', DISPOSITION)
def rows():
    for n in range(40):
        yield pa.record_batch({'id': pa.array(range(n * 5000, n * 5000 + 5000)), 'v': pa.array([1] * 5000)})
        if n == 20 and os.environ.get('STEP') == 'hang':
            (pathlib.Path(os.environ['SIGNALS']) / DISPOSITION).touch()
            time.sleep(60)
reader = pa.RecordBatchReader.from_batches(pa.schema({'id': pa.int64(), 'v': pa.int64()}), rows())
return dbt_bridge.transfer(dbt, reader, 'duckdb', 'landed', DISPOSITION, DISPOSITION, 'id')
"""


def test_a_kill_in_the_middle_leaves_the_old_tables_and_a_retry_repairs(project, tmp_path):
    dispositions = ("append", "merge", "replace")
    for disposition in dispositions:
        project.model(f"move_{disposition}", MOVE.replace("DISPOSITION", repr(disposition)))
    assert project.shell("run", env={"STEP": "first"}).code == 0
    command = [sys.executable, "-m", "dbt.cli.main", "run", "--project-dir", ".", "--profiles-dir", "."]
    environment = {**os.environ, "STEP": "hang", "SIGNALS": str(tmp_path)}
    victim = subprocess.Popen(command, cwd=project.root, env=environment, stdout=subprocess.DEVNULL)
    try:
        assert _until(lambda: all((tmp_path / d).exists() for d in dispositions), 120)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    for disposition in dispositions:
        assert project.query(f"from landed.{disposition}") == [(1, 0)]
    assert project.shell("run").code == 0
    for disposition in dispositions:
        counts = project.query(f"from (from landed.{disposition}) select count(*), count(distinct id), sum(v)")
        assert counts == [(200_001 if disposition == "append" else 200_000, 200_000, 200_000)]
    assert project.query("select table_name from duckdb_tables() where table_name like '%stage%'") == []


def test_a_call_outside_of_dbt_names_what_is_missing():
    import dbt_bridge
    from dbt_bridge.errors import UsageError

    with pytest.raises(UsageError, match="no dbt-duckdb session"):
        dbt_bridge.transfer(None, [{"id": 1}], "duckdb", "landed", "t")


def _until(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("is_once", [False, True])
def test_a_warehouse_that_made_room_gets_the_rows_again(monkeypatch, is_once):
    """What is known of a real lack of memory is in tests of the warehouse."""
    stage, tries = DuckDBWarehouse.stage, []

    def first_out_of_room(self, load, batches):
        if tries:
            return stage(self, load, batches)
        tries.append(batches.read_all().num_rows)
        raise BeginAgain("DuckDB was out of memory while landed.t was copied")

    monkeypatch.setattr(DuckDBWarehouse, "stage", first_out_of_room)
    with duckdb.connect() as connection:
        session = DuckDBModelSession(connection, "duckdb")
        moving = _Transfer(
            _Place(session.warehouse, session), _Request("landed", "t", "replace", (), False), "model.a.b"
        )
        rows = pa.table({"id": [1, 2]})
        (receipt,) = moving.run(rows.to_reader() if is_once else rows, tolerate=True)
    assert tries == [2]
    if is_once:
        assert receipt.status == "failed" and "can be read once only" in receipt.error
    else:
        assert (receipt.status, receipt.rows_loaded, receipt.note) == ("success", 2, "created the table")
