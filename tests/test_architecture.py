"""The design's rules that import-linter cannot say (its own are in pyproject.toml, and `make lint` runs it)."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

from dbt_bridge.contracts.connector import ANY
from dbt_bridge.project.connectors import registry

ROOT = Path(__file__).parent.parent / "src" / "dbt_bridge"
FILES = sorted(ROOT.rglob("*.py"))
FOLDERS = sorted({file.parent for file in FILES})


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(_tree(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _imports_at_import_time(file: Path) -> Iterator[str]:
    """Every module that a file imports when it is imported itself; types alone do not count."""

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}: a relative import"
                yield child.module or ""
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
            yield from visit(child)

    yield from visit(_tree(file))


def _file_of(module: str) -> Path | None:
    place = ROOT.parent.joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()), None)


def test_a_folder_holds_at_most_twenty_files() -> None:
    counts = {_name(folder): len(list(folder.glob("*.py"))) for folder in FOLDERS}
    assert {folder: count for folder, count in counts.items() if count > 20} == {}


def test_no_more_than_three_siblings_share_a_prefix() -> None:
    """`slot_health`, `slot_reader`, `slot_wait`: a fourth would make a folder of them."""
    families = {}
    for folder in FOLDERS:
        prefixes = Counter(file.stem.partition("_")[0] for file in folder.glob("*_*.py") if file.stem[0] != "_")
        families |= {f"{_name(folder)}/{prefix}_": count for prefix, count in prefixes.items() if count > 3}
    assert families == {}


def test_no_circle_of_imports() -> None:
    """Also none by way of a package and what is in it, which import-linter's contract on siblings passes over."""
    graph = grimp.build_graph("dbt_bridge", cache_dir=None)
    TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()


def test_no_module_is_named_for_nothing() -> None:
    forbidden = {"utils", "util", "common", "helpers", "helper", "types", "base", "manager", "misc", "core"}
    assert [_name(file) for file in FILES if file.stem in forbidden or file.parent.name in forbidden] == []


def test_a_file_is_one_concept_and_stays_short() -> None:
    lines = {_name(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {file: count for file, count in lines.items() if count > 450} == {}


def test_a_function_is_short() -> None:
    lines = {
        f"{_name(file)}: {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for file in FILES
        for node in _functions(file)
    }
    assert {function: count for function, count in lines.items() if count > 60} == {}


def test_a_function_takes_at_most_seven_parameters() -> None:
    """But for the public functions, whose names are what users write; `self` and `cls` do not count."""
    many = []
    for file in FILES:
        for node in _functions(file):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = [argument.arg for argument in given if argument.arg not in ("self", "cls")]
            if len(names) > 7 and node.name not in ("transfer", "api_to_df", "open_project"):
                many.append(f"{_name(file)}: {node.name}")
    assert many == []


def test_what_every_command_loads_imports_nothing_heavy() -> None:
    """`dbt-bridge --help` answers at once, and dbt imports `dbt_bridge` at each start."""
    heavy = {"dbt", "dlt", "duckdb", "pyarrow", "adbc_driver_postgresql", "psycopg", "rich", "pydantic", "pandas"}
    waiting = [ROOT / "__init__.py", ROOT / "nouns" / "project.py", ROOT / "observe" / "progress.py"]
    waiting += (ROOT / "cli").rglob("*.py")
    seen: dict[str, set[str]] = {}
    while waiting:
        file = waiting.pop()
        if _name(file) not in seen:
            modules = set(_imports_at_import_time(file))
            seen[_name(file)] = {module.partition(".")[0] for module in modules} & heavy
            waiting += filter(None, map(_file_of, modules))
    assert "errors.py" in seen
    assert {file: found for file, found in seen.items() if found} == {}


def _classes(node: ast.expr) -> Iterator[str]:
    """The names of the classes in the second argument of `isinstance`."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr


def _tested_classes(tree: ast.Module) -> Iterator[str]:
    """The classes whose names decide something: by `isinstance`, by `match`, or compared as text."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kind]):
                yield from _classes(kind)
            case ast.MatchClass(cls=kind):
                yield from _classes(kind)
            case ast.Compare(comparators=comparators):
                for text in comparators:
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        yield text.value


def test_nobody_outside_asks_which_connector_it_is() -> None:
    """What a connector can do is declared (contracts/), never read from its class."""
    concrete = {
        node.name
        for file in (ROOT / "connectors").rglob("*.py")
        for node in _tree(file).body
        if isinstance(node, ast.ClassDef)
    }
    outside = [file for file in FILES if file.relative_to(ROOT).parts[0] != "connectors"]
    assert concrete and len(outside) > 100
    found = {_name(file): set(_tested_classes(_tree(file))) & concrete for file in outside}
    assert {file: classes for file, classes in found.items() if classes} == {}


# Facts of dbt's own adapters, in the two rooms that know dbt: dbt-duckdb's SQL for its profile, and Python models,
# which of the adapters here run in dbt's process with dbt-duckdb alone; and of dlt's settings, whose class of
# credentials for Postgres is asked by name.
_KNOW_ADAPTERS = {
    "project/destinations.py",
    "project/profile.py",
    "python_models/ghost_sources.py",
    "python_models/session.py",
}


def _compared_texts(tree: ast.Module) -> Iterator[str]:
    """Constant texts that something is compared with: by an operator, in a tuple, list or set, or by `match`."""
    for node in ast.walk(tree):
        sides = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        for side in sides:
            elements = side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]
            yield from (e.value for e in elements if isinstance(e, ast.Constant) and isinstance(e.value, str))


def test_nobody_outside_decides_by_the_name_of_a_technology() -> None:
    ours = [registered.connector for registered in registry()._loaded[0]]
    words = {word for c in ours for word in {c.name, *c.drivernames, *c.adapters, *c.destination_types}} - {ANY}
    assert {"duckdb", "postgres", "postgresql", "filesystem"} <= words
    outside = [file for file in FILES if file.relative_to(ROOT).parts[0] != "connectors"]
    found = {_name(file): set(_compared_texts(_tree(file))) & words for file in outside}
    assert {file: texts for file, texts in found.items() if texts and file not in _KNOW_ADAPTERS} == {}
