"""The example of a connector in a package of its own is installed and found, passes the conformance suites, and a real
project lands and delivers with it."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from dbt_bridge.contracts.connector import GROUP, Connector
from dbt_bridge.contracts.destination import Destination, Replica
from dbt_bridge.contracts.origin import Increment, Origin
from dbt_bridge.contracts.settings import DestinationSettings, OriginSettings
from dbt_bridge.errors import DestinationError, OriginError, TypeRefused, UsageError
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.project.connectors import DESTINATIONS, ORIGINS, WAREHOUSES, Opening, Registry
from dbt_bridge.testing.destination import NAME, DestinationBench, DestinationTests, Row, load_of, people
from dbt_bridge.testing.origin import OriginTests

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"
DBT_BRIDGE = Path(sys.executable).with_name("dbt-bridge")
SOURCES = """
sources:
  - name: shop
    schema: shop_landing
    config: {meta: {bridge: {origin: exports, replication: initial_copy}}}
    tables:
      - name: orders
      - name: countries
exposures:
  - name: big_orders_as_files
    type: application
    owner: {name: growth}
    depends_on: [ref('big_orders')]
    config:
      meta:
        bridge: {destination: partner, schema: outbox, table: big, write_disposition: merge, primary_key: id}
"""
ORDERS = {
    "columns": [
        {"name": "id", "type": "bigint", "nullable": False},
        {"name": "amount", "type": "decimal(12,2)"},
        {"name": "placed_at", "type": "timestamptz"},
        {"name": "receipt", "type": "bytes"},
    ],
    "key": ["id"],
}
ROWS = [
    {"id": 1, "amount": "10.50", "placed_at": "2024-02-29T23:59:59.999999+02:00", "receipt": "AP8="},
    {"id": 2, "amount": 1234567890.01, "placed_at": None},
    {"id": 3, "amount": "0.10", "placed_at": "2024-03-01 00:00:00Z", "receipt": ""},
]

Run = Callable[..., str]


def install(package: Path, site: Path) -> None:
    """What `pip install --target` makes of a package, without the build backend that it would download."""
    about = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    module = about["name"].replace("-", "_")
    shutil.copytree(package / "src" / module, site / module)
    information = site / f"{module}-{about['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
    )
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {place}" for name, place in points.items())])
        for group, points in about["entry-points"].items()
    ]
    (information / "entry_points.txt").write_text("\n".join(groups) + "\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages, with the plugin in it."""
    folder = tmp_path_factory.mktemp("site")
    install(PLUGIN, folder)
    return folder


@pytest.fixture
def run(site: Path, dbt_root: Path, warm_commands: Path) -> Run:
    """A command of the project, where the plugin is installed: as it starts by itself, or from what is imported."""
    script = site / "start.py"  # whose folder is on the path
    script.write_text("from dbt_bridge.cli import main\nmain()\n")

    def start(*arguments: str, warm: bool = True) -> str:
        command = [warm_commands / "python", script] if warm else [DBT_BRIDGE]
        done = subprocess.run(
            [*command, *arguments, "--project-dir", dbt_root, "--profiles-dir", dbt_root],
            cwd=dbt_root,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return start


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def read_delivered(folder: Path, table: str) -> list[dict[str, Any]]:
    schema = json.loads((folder / f"{table}.schema.json").read_text())
    return [json.loads(line) for line in (folder / schema["rows"]).read_text().splitlines()]


def make_project(root: Path) -> None:
    """Its orders have a schema file; of its countries the types are inferred."""
    (root / "models" / "_shop.yml").write_text(SOURCES)
    (root / "models" / "big_orders.sql").write_text("select * from {{ source('shop', 'orders') }} where amount > 1")
    (root / ".dlt").mkdir()
    (root / ".dlt" / "config.toml").write_text(
        '[sources.exports]\ncredentials = "jsonl:///exports"\n'
        '[destination.partner]\ndestination_type = "jsonl"\nfolder = "partner"\n'
    )
    (root / "exports").mkdir()
    (root / "exports" / "orders.schema.json").write_text(json.dumps(ORDERS))
    write_lines(root / "exports" / "orders.jsonl", ROWS)
    write_lines(root / "exports" / "countries.jsonl", [{"code": "NL", "people": 17.5}, {"code": "VA", "people": 0}])


def test_a_project_lands_files_and_delivers_files(dbt_root: Path, run: Run) -> None:
    make_project(dbt_root)

    run("sync", warm=False)

    with duckdb.connect(str(dbt_root / "warehouse.duckdb"), read_only=True) as warehouse:
        landed = "SELECT id, amount::text, epoch_us(placed_at), receipt FROM shop_landing.orders ORDER BY id"
        assert warehouse.execute(landed).fetchall() == [
            (1, "10.50", 1709243999999999, b"\x00\xff"),
            (2, "1234567890.01", None, None),
            (3, "0.10", 1709251200000000, b""),
        ]
        assert warehouse.execute("SELECT people FROM shop_landing.countries ORDER BY 1").fetchall() == [(0.0,), (17.5,)]

    run("build")

    delivered = [
        {"id": 1, "amount": "10.50", "placed_at": "2024-02-29 21:59:59.999999Z", "receipt": "AP8="},
        {"id": 2, "amount": "1234567890.01", "placed_at": None, "receipt": None},
    ]
    assert read_delivered(dbt_root / "partner" / "outbox", "big") == delivered
    compared = {parity["node"]: parity for parity in json.loads(run("verify", "--json"))["parity"]}
    assert {node.rpartition(".")[2]: (p["status"], p["matching"]) for node, p in compared.items()} == {
        "orders": ("equal", 3),
        "countries": ("equal", 2),
        "big_orders_as_files": ("equal", 2),
    }

    shutil.rmtree(dbt_root / "partner")
    run("deliver")
    assert read_delivered(dbt_root / "partner" / "outbox", "big") == delivered


@pytest.fixture
def connector(site: Path, monkeypatch: pytest.MonkeyPatch) -> Connector:
    """The plugin's, imported in this process."""
    monkeypatch.syspath_prepend(str(site))
    found: Connector = importlib.import_module("dbt_bridge_jsonl.connector").JSONL
    return found


def open_origin(connector: Connector, folder: Path) -> Origin:
    assert connector.open_origin is not None
    return connector.open_origin(OriginSettings("files", f"jsonl:///{folder}", "jsonl", Path()))


def open_destination(connector: Connector, folder: Path) -> Destination:
    assert connector.open_destination is not None
    return connector.open_destination(settings_of({"folder": str(folder)}))


def settings_of(said: dict[str, str]) -> DestinationSettings:
    return DestinationSettings("files", "jsonl", None, lambda: True, said.get, lambda: None, lambda: None)


class JsonlBench:
    schema = ""  # the folder itself
    has_keys = True

    def __init__(self, connector: Connector, folder: Path) -> None:
        self._connector, self._folder = connector, folder

    def create(self, name: str, rows: pa.Table) -> None:
        types = {"id": "bigint", "name": "text", "score": "double"}
        columns = [{"name": column, "type": type_} for column, type_ in types.items()]
        (self._folder / f"{name}.schema.json").write_text(json.dumps({"columns": columns, "key": ["id"]}))
        write_lines(self._folder / f"{name}.jsonl", rows.to_pylist())

    def open(self) -> Origin:
        return open_origin(self._connector, self._folder)


class TestOrigin(OriginTests):
    @pytest.fixture
    def bench(self, connector: Connector, tmp_path: Path) -> JsonlBench:
        return JsonlBench(connector, tmp_path)


@pytest.fixture
def bench(connector: Connector, tmp_path: Path) -> DestinationBench:
    destination: Any = open_destination(connector, tmp_path)

    def read(table: Table) -> list[Row]:
        with destination.open_state() as state:
            rows: list[Row] = state.rows(Replica("model.shop.people", table)).read_all().to_pylist()
            return rows

    return DestinationBench(destination, read)


class TestDestination(DestinationTests):
    """With the `bench` above."""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"a": 1}\n{"a": "one"}', "'a' holds integer and text values"),
        ('{"a": 9007199254740993}\n{"a": 0.5}', "'a' holds bigint and double values"),
        ('{"a": 0.1000000000000000055}', "'a' holds long number values"),
        ('{"a": 9223372036854775808}', "'a' holds large number values"),
        ('{"a": [1]}', "'a' holds nested values"),
        ('{"a": null}', "'a' holds NULL alone"),
        ("", "has no rows to tell its columns by"),
        ('{"a": NaN}', "line 1 is no row: NaN is not JSON"),
        ('{"a": 1, "a": 2}', "line 1 is no row: a field comes twice"),
        ('{"a": 1}\n[2]', "line 2 is no row"),
    ],
)
def test_types_that_cannot_be_told_exactly_are_refused(
    connector: Connector, tmp_path: Path, lines: str, said: str
) -> None:
    (tmp_path / "t.jsonl").write_text(lines)
    with open_origin(connector, tmp_path) as origin, pytest.raises(OriginError, match=said) as refused:
        origin.describe(TableName("", "t"))
    assert refused.value.mend


@pytest.mark.parametrize(
    ("type_", "value", "fits"),
    [
        ("smallint", 32768, False), ("bigint", 1.0, False), ("bigint", "1", False), ("boolean", 1, False),
        ("double", "NaN", True), ("double", "1.5", False), ("decimal(4,2)", "12.345", False),
        ("decimal(4,2)", 12.5, True), ("date", "2024-02-30", False), ("timestamp", "2024-01-01 00:00:00Z", False),
        ("timestamptz", "2024-01-01 00:00:00", False), ("timestamp", "2024-01-01 00:00:00.1234567", False),
        ("bytes", "no base64!", False), ("text", {"a": [1.50, True, None]}, True),
    ],
)  # fmt: skip
def test_a_value_is_exactly_one_of_its_type_or_refused(
    connector: Connector, tmp_path: Path, type_: str, value: Any, fits: bool
) -> None:
    (tmp_path / "t.schema.json").write_text(json.dumps({"columns": [{"name": "a", "type": type_}]}))
    write_lines(tmp_path / "t.jsonl", [{}, {"a": value}])
    with open_origin(connector, tmp_path) as origin:
        table = origin.describe(TableName("", "t")).table
        if fits:
            assert origin.rows(table.name, table.columns).read_all()["a"].null_count == 1
            return
        with pytest.raises(TypeRefused, match=r"t\.jsonl, line 2, column 'a'"):
            origin.rows(table.name, table.columns).read_all()


def test_a_column_may_travel_as_the_text_that_is_written(connector: Connector, tmp_path: Path) -> None:
    (tmp_path / "t.schema.json").write_text('{"columns": [{"name": "a", "type": "text"}]}')
    (tmp_path / "t.jsonl").write_text('{"a": 1.50}\n{"a": {"b": [1e2, true, "é"]}}\n{"a": "it"}\n')
    with open_origin(connector, tmp_path) as origin:
        rows = origin.rows(TableName("", "t"), [Column("a", pa.string())]).read_all()
    assert rows["a"].to_pylist() == ["1.50", '{"b": [1e2, true, "é"]}', "it"]


@pytest.mark.parametrize(
    ("type_", "values", "lag", "newest", "bound"),
    [
        ("bigint", [7, 10], 2.5, "10", "7"),
        ("double", [0.1, 1.5], 0.25, "1.5", "1.25"),
        ("decimal(6,2)", ["9.99", "10.50"], 0.125, "10.50", "10.37"),
        ("date", ["2024-02-29", "2024-03-01"], 86_400, "2024-03-01", "2024-02-29"),
        ("timestamp", ["2024-03-01T00:00:00"], 1.5, "2024-03-01 00:00:00.000000", "2024-02-29 23:59:58.500000"),
        (
            "timestamptz",
            ["2024-03-01T00:00:00+01:00"],
            60,
            "2024-02-29 23:00:00.000000Z",
            "2024-02-29 22:59:00.000000Z",
        ),
    ],
)
def test_a_checkpoint_is_text_that_is_read_back_with_a_lag(
    connector: Connector, tmp_path: Path, type_: str, values: list[Any], lag: float, newest: str, bound: str
) -> None:
    (tmp_path / "t.schema.json").write_text(json.dumps({"columns": [{"name": "at", "type": type_}]}))
    write_lines(tmp_path / "t.jsonl", [{"at": value} for value in values])
    name = TableName("", "t")
    with open_origin(connector, tmp_path) as origin:
        assert origin.newest(name, "at") == newest
        increment = Increment("at", newest, lag)
        assert origin.lower_bound(name, increment) == bound
        columns = origin.describe(name).table.columns
        assert origin.rows(name, columns, Increment("at", newest)).read_all().num_rows == 1
        for late in (0, lag):
            with pytest.raises(UsageError, match="the checkpoint 'soon' is no value of the cursor 'at'"):
                origin.rows(name, columns, Increment("at", "soon", late)).read_all()


def test_a_file_that_somebody_writes_while_it_is_read_is_refused(connector: Connector, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    write_lines(file, [{"a": 1}])
    with open_origin(connector, tmp_path) as origin:
        assert origin.count(TableName("", "t")) == 1
        write_lines(file, [{"a": 1}, {"a": 2}])
        with pytest.raises(OriginError, match="was written while it was read"):
            origin.count(TableName("", "t"))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a.b", "a\\b", "a:b", "a\0", " a", "a ", "x" * 101])
def test_a_name_that_cannot_be_a_files_is_refused(
    connector: Connector, bench: DestinationBench, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a file"):
        bench.load(people(1), name=TableName("landing", name))
    with open_origin(connector, tmp_path) as origin, pytest.raises(UsageError, match="cannot be the name of a file"):
        origin.describe(TableName("", name))
    if name:
        with pytest.raises(UsageError, match="cannot be the name of a file"):
            bench.load(people(1), name=TableName(name, "people"))
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_names_that_some_system_takes_for_one_are_refused(bench: DestinationBench) -> None:
    bench.load(people(1))
    with pytest.raises(UsageError, match="has a table 'people' already, and 'People' may be the same file"):
        bench.load(people(2), name=TableName("landing", "People"))


def test_what_a_killed_load_left_is_removed_by_the_next_one(bench: DestinationBench, tmp_path: Path) -> None:
    bench.load(people(1))
    for left in ("people.0123.jsonl", "people.0123.new"):
        (tmp_path / "landing" / left).write_text("{")
    assert bench.ids() == [1]
    bench.load(people(2), "append")
    assert bench.ids() == [1, 2]
    files = sorted(path.name for path in (tmp_path / "landing").glob("people.*"))
    assert len(files) == 2 and files[1] == "people.schema.json"


def test_one_load_of_a_table_holds_off_the_others(bench: DestinationBench, tmp_path: Path) -> None:
    bench.load(people(1))
    with (tmp_path / "landing" / ".people.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DestinationError, match=r"another load writes landing\.people"):
            bench.load(people(2))
    bench.load(people(3), "append")
    assert bench.ids() == [1, 3]


@pytest.mark.parametrize("failure", [OriginError("the server went", broke_off=True), ConnectionResetError("it went")])
def test_what_the_new_rows_fail_with_is_no_error_of_the_destination(
    bench: DestinationBench, failure: Exception
) -> None:
    rows = people(1)

    def broken() -> Iterator[pa.RecordBatch]:
        yield from rows.to_batches()
        raise failure

    with pytest.raises(type(failure), match="went"):
        bench.destination.load(load_of(rows, "append"), pa.RecordBatchReader.from_batches(rows.schema, broken()))
    assert bench.destination.find_table(NAME) is None


def test_what_stands_there_and_is_no_table_is_an_error_of_the_destination(
    bench: DestinationBench, tmp_path: Path
) -> None:
    bench.load(people(1))
    (tmp_path / "landing" / "people.schema.json").write_text("{}")
    with pytest.raises(DestinationError, match="is not a schema file") as refused:
        bench.load(people(2), "append")
    assert "write {" in refused.value.mend


def test_a_column_that_comes_later_is_added_and_one_of_another_type_refused(bench: DestinationBench) -> None:
    bench.load(people(1))
    bench.load(pa.table({"id": [2], "more": [True]}), "append")
    table = bench.destination.find_table(NAME)
    assert table is not None
    assert bench.read(NAME, table.arrow_schema) == [
        {"id": 1, "note": None, "more": None},
        {"id": 2, "note": None, "more": True},
    ]
    with pytest.raises(TypeRefused, match=r"column 'id' of landing\.people is int64 and the new rows bring string"):
        bench.load(pa.table({"id": ["3"]}), "append")


@pytest.mark.parametrize("infinite", [2**63 - 1, -(2**63) + 1])
def test_a_moment_that_has_no_text_is_refused(bench: DestinationBench, infinite: int) -> None:
    bench.load(people(1))
    with pytest.raises(TypeRefused, match="column 'at' holds a value that JSON lines do not keep"):
        bench.load(pa.table({"id": [2], "at": pa.array([infinite], pa.int64()).view(pa.timestamp("us"))}), "append")
    assert bench.ids() == [1]


def test_settings_without_a_folder_say_what_to_write(connector: Connector) -> None:
    assert connector.open_origin is not None and connector.open_destination is not None
    with pytest.raises(UsageError, match="name no folder"):
        connector.open_origin(OriginSettings("files", "jsonl://host/a", "jsonl", Path()))
    with pytest.raises(UsageError, match="has no folder") as refused:
        connector.open_destination(settings_of({}))
    assert "[destination.files]" in refused.value.mend


OTHER = """
from dbt_bridge.contracts.connector import Connector

def open_it(settings):
    raise AssertionError("whose it is cannot be told")

LINES = Connector(
    name="lines", drivernames=frozenset({"jsonl"}), destination_types=frozenset({"jsonl"}),
    adapters=frozenset({"duckdb"}), open_origin=open_it, open_destination=open_it, open_warehouse=open_it,
)
"""


@pytest.mark.usefixtures("other_package")
@pytest.mark.parametrize(
    ("what", "word", "claimed", "packages"),
    [
        (ORIGINS, "jsonl", "an origin with the drivername 'jsonl'", {"dbt-bridge-jsonl", "other-lines"}),
        (DESTINATIONS, "jsonl", "a destination of the type 'jsonl'", {"dbt-bridge-jsonl", "other-lines"}),
        (WAREHOUSES, "duckdb", "a warehouse with dbt's adapter 'duckdb'", {"dbt-bridge", "other-lines"}),
    ],
)
def test_what_two_packages_claim_is_refused_until_one_is_removed(
    what: Opening[Any, Any], word: str, claimed: str, packages: set[str]
) -> None:
    with pytest.raises(UsageError, match=f"several connectors claim {claimed}") as refused:
        Registry(tuple(entry_points(group=GROUP))).open(what, word, None, "it")
    assert all(package in refused.value.what for package in packages)
    assert refused.value.mend.removeprefix("remove one: pip uninstall ") in packages - {"dbt-bridge"}


@pytest.fixture
def other_package(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another package that claims what the plugin and ours claim."""
    package, folder = tmp_path / "other", tmp_path / "site"
    module = package / "src" / "other_lines"
    module.mkdir(parents=True)
    (module / "connector.py").write_text(OTHER)
    (package / "pyproject.toml").write_text(
        '[project]\nname = "other-lines"\nversion = "1"\n'
        f'[project.entry-points."{GROUP}"]\nlines = "other_lines.connector:LINES"\n'
    )
    install(package, folder)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.syspath_prepend(str(folder))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "other_lines"]:
        del sys.modules[name]
