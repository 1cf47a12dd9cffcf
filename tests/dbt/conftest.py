"""A dbt project on DuckDB in a temporary folder, run by the real dbt command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

DBT = Path(sys.executable).with_name("dbt")
MODEL = "import dbt_bridge\n\ndef model(dbt, session):\n    dbt.config(materialized='table')\n"


@dataclass(frozen=True)
class Run:
    code: int
    output: str


@dataclass(frozen=True)
class DbtProject:
    root: Path

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def model(self, name: str, body: str) -> None:
        """A Python model: the lines after `def model(dbt, session):`, without indentation."""
        lines = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
        self.write(f"models/{name}.py", MODEL + lines)

    def profile(self, **extra: Any) -> None:
        output = {"type": "duckdb", "path": str(self.root / "warehouse.duckdb"), "threads": 4, **extra}
        self.write("profiles.yml", json.dumps({"shop": {"target": "dev", "outputs": {"dev": output}}}))

    def dbt(self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Run:
        place = ["--project-dir", str(self.root), "--profiles-dir", str(self.root)]
        done = subprocess.run(
            [str(DBT), "--no-use-colors", *arguments, *place],
            cwd=cwd or self.root,
            env={**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false", **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return Run(done.returncode, done.stdout + done.stderr)

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.root / "warehouse.duckdb")) as connection:
            return connection.execute(sql, list(values)).fetchall()

    def manifest(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.root / "target" / "manifest.json").read_text())
        return loaded


@pytest.fixture
def project(tmp_path: Path) -> DbtProject:
    made = DbtProject(tmp_path / "shop")
    made.write("dbt_project.yml", "name: shop\nversion: '1.0'\nprofile: shop\n")
    made.profile()
    return made
