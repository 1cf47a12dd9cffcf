"""The documentation is run like code.

A fenced block's first word says what is done with it, page by page, in order, in a copy of a built shop project:

    shell            run by bash; `cd` lasts until the page ends
    sql              asked of the page's warehouse
    yaml, toml       read; every `bridge` is checked as the project's own would be
    python           compiled; on the page on Python also run, all blocks of the page as one script
    console, text    only shown

A second word is a file, relative to the page's folder, that the block is written to first.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import psycopg
import pytest
import yaml

from dbt_bridge.cli import cli
from dbt_bridge.demo import shop
from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.bridge_keys import SourceBlock
from dbt_bridge.project.bridge_block import read_block, read_delivery_block, read_table_block
from dbt_bridge.project.reconcile_block import read_reconcile_blocks
from dbt_bridge.scaffold import template

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BIN = Path(sys.executable).parent
_BLOCK = re.compile(r"^```(\w+)(?: ([^\n`]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DATABASE = re.compile(r"postgresql://\w+:\w+@localhost:5432/(\w+)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is (or nothing), its text and its line in the page."""

    language: str
    file: str | None
    text: str
    line: int


@dataclass
class Reader:
    """Somebody who follows a page: the folder they are in, the server their URLs mean, the commands they start."""

    folder: Path
    server: Server
    commands: Path
    script: str = ""

    def follows(self, block: Block) -> None:
        text = _DATABASE.sub(lambda match: self.server.url(match[1]), block.text)
        if block.file:
            file = self.folder / block.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        if block.language == "shell":
            self._runs(text)
        elif block.language == "sql" and not block.file:
            self._asks(text)
        elif block.language in ("yaml", "yml"):
            _check_bridges(yaml.safe_load(text))
        elif block.language == "toml":
            tomllib.loads(text)
        elif block.language == "python":
            compile(text, "<block>", "exec")
            self.script += f"{text}\n"

    def runs_the_python(self) -> None:
        (self.folder / "blocks.py").write_text(self.script, encoding="utf-8")
        self._runs("python blocks.py")

    def _runs(self, script: str) -> None:
        here = self.folder / ".here"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f'{script}\npwd > "$HERE"'],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{self.commands}:{BIN}:{os.environ['PATH']}", "HERE": str(here)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        self.folder = Path(here.read_text().strip())

    def _asks(self, script: str) -> None:
        (file,) = self.folder.glob("*.duckdb")
        with duckdb.connect(str(file), read_only=True) as warehouse:
            for statement in warehouse.extract_statements(script):
                assert warehouse.execute(statement).fetchall(), "a documented query that finds nothing"


def _blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], m[3], text.count("\n", 0, m.start()) + 1) for m in _BLOCK.finditer(text)]


def _check_bridges(document: Any) -> None:
    if not isinstance(document, dict):
        return
    for source in document.get("sources", []):
        own = read_block(SourceBlock, _bridge(source), "the documentation")
        for table in source.get("tables", []):
            read_table_block(_bridge(table), "the documentation", own)
    for exposure in document.get("exposures", []):
        read_delivery_block(_bridge(exposure), "the documentation")
    for model in document.get("models", []):
        if bridge := _bridge(model):
            read_reconcile_blocks(bridge, "the documentation")


def _bridge(node: dict[str, Any]) -> dict[str, Any]:
    return dict(node.get("config", {}).get("meta", {}).get("bridge", {}))


@pytest.fixture(scope="module")
def built_shop(server: Server, tmp_path_factory: pytest.TempPathFactory, warm_commands: Path) -> Iterator[Path]:
    """A small shop's project, built once."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for database in ("shop", "crm"):
            connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)".encode())
            connection.execute(f"CREATE DATABASE {database}".encode())
    shop.fill(server.url("shop"), shop.Sizes.of_scale(0.01))
    project = tmp_path_factory.mktemp("docs") / "shop"
    template.write_project(project, template.Answers(origin_url=server.url("shop"), delivery_url=server.url("crm")))
    done = subprocess.run(
        [warm_commands / "dbt-bridge", "build"], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for database in ("shop", "crm"):
            connection.execute(f"DROP DATABASE IF EXISTS built_{database} WITH (FORCE)".encode())
            connection.execute(f"CREATE DATABASE built_{database} TEMPLATE {database}".encode())
    yield project
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for database in ("shop", "crm", "built_shop", "built_crm"):
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())


def _as_built(server: Server) -> None:
    """What an earlier page wrote to the shop is gone: the warehouse of each reader is of the shop as it was built."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for database in ("shop", "crm"):
            known = connection.execute("SELECT oid FROM pg_database WHERE datname = %s", [database]).fetchone()
            assert known is not None
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())
            # Under its number: to a cursor's checkpoint another one is another database.
            connection.execute(f"CREATE DATABASE {database} TEMPLATE built_{database} OID = {known[0]}".encode())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_reader_can_follow_the_page(
    page: Path, built_shop: Path, server: Server, warm_commands: Path, tmp_path: Path
) -> None:
    reader = Reader(tmp_path / "project", server, warm_commands)
    shutil.copytree(built_shop, reader.folder)
    _as_built(server)
    for block in _blocks(page):
        try:
            reader.follows(block)
        except Exception as error:
            raise AssertionError(f"{page.name}:{block.line}: {error}") from error
    if page.name == "python.md":
        reader.runs_the_python()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_every_block_says_what_it_is() -> None:
    known = {"shell", "console", "text", "sql", "yaml", "yml", "toml", "python", "json"}
    unknown = {f"{page.name}:{b.line} {b.language}" for page in PAGES for b in _blocks(page) if b.language not in known}
    assert unknown == set()


def test_the_page_of_commands_is_what_help_prints() -> None:
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == _generator().commands_page(), "make docs"


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_a_heading_its_help_and_an_example(command: str) -> None:
    printed = subprocess.run(
        [BIN / "dbt-bridge", command, "--help"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert f"## dbt-bridge {command}\n\n```text\n{printed}```\n" in page
    assert f"  dbt-bridge {command}" in printed.split("Example:")[1]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
