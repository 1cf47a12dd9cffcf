"""The design's rules, read from the code itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "dbt_bridge"
ROOMS = ("extract", "load", "transform", "verify", "deliver")
KNOW_SEVERAL_ROOMS = ("run", "transfer", "doctor", "demo")
FILES = sorted(ROOT.rglob("*.py"))


def _place(file: Path) -> str:
    """The room (or the module beside the rooms) that a file belongs to."""
    return file.relative_to(ROOT).with_suffix("").parts[0]


def _imports(file: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """Every module that a file imports, wherever the statement stands; types alone do not count.

    Args:
        at_import_time: without those inside of functions.
    """

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if at_import_time and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}: a relative import"
                module = child.module or ""
                yield module
                yield from (f"{module}.{alias.name}" for alias in child.names)
            yield from visit(child)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")))


def _rooms(file: Path) -> set[str]:
    parts = (name.split(".") for name in _imports(file) if name.startswith("dbt_bridge."))
    return {part[1] for part in parts if part[1] in ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_no_other_room(room: str) -> None:
    others = {str(file.relative_to(ROOT)): _rooms(file) - {room} for file in (ROOT / room).rglob("*.py")}
    assert {file: found for file, found in others.items() if found} == {}


def test_only_the_composition_roots_know_several_rooms() -> None:
    several = {_place(file) for file in FILES if _place(file) not in ROOMS and len(_rooms(file)) > 1}
    assert several <= set(KNOW_SEVERAL_ROOMS)


@pytest.mark.parametrize(
    ("library", "allowed"), [("dlt", {"extract", "load"}), ("dbt", {"transform"}), ("psycopg2", set())]
)
def test_a_library_is_imported_only_where_it_belongs(library: str, allowed: set[str]) -> None:
    users = {
        _place(file)
        for file in FILES
        if any(name == library or name.startswith(f"{library}.") for name in _imports(file))
    }
    assert users <= allowed


def test_no_module_is_named_for_nothing() -> None:
    forbidden = {"utils", "util", "common", "helpers", "helper", "types", "base", "manager", "misc", "core"}
    assert [str(file) for file in FILES if file.stem in forbidden or file.parent.name in forbidden] == []


def test_a_file_is_one_concept_and_stays_short() -> None:
    lines = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {file: count for file, count in lines.items() if count > 450} == {}


def test_a_function_takes_at_most_seven_parameters() -> None:
    """But for the public `transfer`, whose names are what a dbt model writes; `self` and `cls` do not count."""
    many = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [argument.arg for argument in given if argument.arg not in ("self", "cls")]
                if len(names) > 7 and node.name not in ("transfer", "api_to_df"):
                    many.append(f"{file.relative_to(ROOT)}: {node.name}")
    assert many == []


@pytest.mark.parametrize(
    "module",
    ["__init__", *(f"cli/{file.stem}" for file in (ROOT / "cli").glob("*.py")), "errors", "project", "progress"],
)
def test_what_every_command_loads_imports_nothing_heavy(module: str) -> None:
    """`dbt-bridge --help` answers at once, and dbt imports `dbt_bridge` at each start."""
    heavy = {"dbt", "dlt", "duckdb", "pyarrow", "adbc_driver_postgresql", "psycopg", "rich", "pydantic", "pandas"}
    assert {name.split(".")[0] for name in _imports(ROOT / f"{module}.py", at_import_time=True)} & heavy == set()
