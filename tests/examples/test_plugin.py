"""The example of a connector in a package of its own is installed, found, and used by a real project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

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

Run = Callable[..., subprocess.CompletedProcess[str]]


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
def run(site: Path, dbt_root: Path) -> Run:
    """A command of the project, where the plugin is installed."""

    def start(*arguments: str, packages: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(map(str, [site, *packages]))
        return subprocess.run(
            [DBT_BRIDGE, *arguments, "--project-dir", dbt_root, "--profiles-dir", dbt_root],
            cwd=dbt_root,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

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

    synced = run("sync")

    assert synced.returncode == 0, synced.stdout + synced.stderr
    with duckdb.connect(str(dbt_root / "warehouse.duckdb"), read_only=True) as warehouse:
        landed = "SELECT id, amount::text, epoch_us(placed_at), receipt FROM shop_landing.orders ORDER BY id"
        assert warehouse.execute(landed).fetchall() == [
            (1, "10.50", 1709243999999999, b"\x00\xff"),
            (2, "1234567890.01", None, None),
            (3, "0.10", 1709251200000000, b""),
        ]
        assert warehouse.execute("SELECT people FROM shop_landing.countries ORDER BY 1").fetchall() == [(0.0,), (17.5,)]

    built = run("build")

    assert built.returncode == 0, built.stdout + built.stderr
    assert read_delivered(dbt_root / "partner" / "outbox", "big") == [
        {"id": 1, "amount": "10.50", "placed_at": "2024-02-29 21:59:59.999999Z", "receipt": "AP8="},
        {"id": 2, "amount": "1234567890.01", "placed_at": None, "receipt": None},
    ]
