"""A dbt project on DuckDB in a temporary folder, run by the real dbt: in this process, or by its command."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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

    def dbt(self, *arguments: str) -> Run:
        """A dbt command in this process, which saves the seconds of dbt's imports."""
        from dbt.cli.main import dbtRunner

        from dbt_bridge.project.runners.module import _release_duckdb

        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                done = dbtRunner().invoke(["--no-use-colors", *arguments, *self._place()])
        finally:
            _release_duckdb()
            os.environ.pop("DLT_PROJECT_DIR", None)
        code = 0 if done.success else 2 if done.exception else 1
        return Run(code, said.getvalue() + str(done.exception or ""))

    def shell(self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Run:
        """A dbt command as a user starts it."""
        done = subprocess.run(
            [str(DBT), "--no-use-colors", *arguments, *self._place()],
            cwd=cwd or self.root,
            env={**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false", **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return Run(done.returncode, done.stdout + done.stderr)

    def _place(self) -> list[str]:
        return ["--project-dir", str(self.root), "--profiles-dir", str(self.root)]

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.root / "warehouse.duckdb")) as connection:
            return connection.execute(sql, list(values)).fetchall()

    def manifest(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.root / "target" / "manifest.json").read_text())
        return loaded


@pytest.fixture
def project(tmp_path: Path) -> DbtProject:
    return new_project(tmp_path / "shop")


@pytest.fixture(scope="session")
def make_project(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DbtProject]:
    """Projects for fixtures that many tests share, which only look at what one dbt run left."""
    return lambda name: new_project(tmp_path_factory.mktemp(name) / "shop")


def new_project(root: Path) -> DbtProject:
    made = DbtProject(root)
    made.write(
        "dbt_project.yml",
        "name: shop\nversion: '1.0'\nprofile: shop\nflags: {send_anonymous_usage_stats: false}\n",
    )
    made.profile()
    return made


@pytest.fixture
def endpoint():
    """Starts a server that answers each GET by a function of its handler; gives its address."""
    servers = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()
