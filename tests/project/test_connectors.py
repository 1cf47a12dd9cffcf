"""Connectors are found by entry points: ours, and whatever other packages register."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dbt_bridge.contracts.connector import ANY, GROUP, Connector
from dbt_bridge.contracts.settings import OriginSettings
from dbt_bridge.errors import MissingExtra, UsageError, require_extra
from dbt_bridge.project import connectors
from dbt_bridge.project.connectors import ORIGINS, WAREHOUSES, Registry, registry

SETTINGS = OriginSettings("shop", "jsonl:///rows", "jsonl", Path())
Origins: Any = ORIGINS


def point(name: str, found: Any, package: str = "theirs") -> EntryPoint:
    """An entry point of an installed package, whose module holds `found`; none for a module that is not there."""
    module = f"{package.replace('-', '_')}_{name}"
    if found is not None:
        sys.modules[module] = ModuleType(module)
        sys.modules[module].__dict__["IT"] = found
    made = EntryPoint(name, f"{module}:IT", GROUP)
    vars(made)["dist"] = SimpleNamespace(name=package)
    return made


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    before = dict(sys.modules)
    yield
    for name in sys.modules.keys() - before.keys():
        if name.startswith(("theirs_", "others_", "dbt_bridge_")):
            del sys.modules[name]


def opening(answer: str, **words: Any) -> Connector:
    return Connector(answer, open_origin=lambda settings: (answer, settings.name), **words)  # type: ignore[arg-type, return-value]


def test_who_names_the_technology_comes_before_a_fall_back() -> None:
    found = Registry([
        point("all", opening("all", drivernames=frozenset({ANY}))),
        point("files", opening("files", drivernames=frozenset({"jsonl"}))),
        point("asked", Connector("asked", drivernames=frozenset({"jsonl"}))),  # which opens no origin
    ])  # fmt: skip
    assert found.open(Origins, "jsonl", SETTINGS, "it") == ("files", "shop")
    assert found.open(Origins, "mysql", SETTINGS, "it") == ("all", "shop")


def test_what_nobody_opens_names_what_is_known() -> None:
    found = Registry([point("files", opening("files", drivernames=frozenset({"jsonl"})))])
    with pytest.raises(UsageError, match="no connector opens an origin with the drivername 'mysql'") as refused:
        found.open(ORIGINS, "mysql", SETTINGS, "it")
    assert "known are jsonl" in refused.value.mend


@pytest.mark.parametrize(
    ("one", "other", "claimed"),
    [
        (opening("a", drivernames=frozenset({"jsonl"})), opening("b", drivernames=frozenset({"jsonl"})), "'jsonl'"),
        (opening("a", drivernames=frozenset({ANY})), opening("b", drivernames=frozenset({ANY})), "'jsonl'"),
        (opening("a", drivernames=frozenset({"jsonl"})), opening("a"), "the same name"),
    ],
)
def test_what_two_packages_claim_is_nobodys(one: Connector, other: Connector, claimed: str) -> None:
    found = Registry([point("one", one, "dbt-bridge"), point("other", other)])
    with pytest.raises(UsageError, match=f"several connectors claim .*{claimed}") as refused:
        found.open(ORIGINS, "jsonl", SETTINGS, "it")
    assert "of dbt-bridge and " in refused.value.what
    assert refused.value.mend == "remove one: pip uninstall theirs"


@pytest.mark.parametrize(
    ("broken", "said"), [(None, "cannot be imported: ModuleNotFoundError: No module named"), ("text", "is a str")]
)
def test_a_connector_that_is_broken_is_told_where_it_might_be_the_one(broken: Any, said: str) -> None:
    found = Registry([
        point("broken", broken, "others"),
        point("files", opening("files", drivernames=frozenset({"jsonl"}))),
        point("all", opening("all", drivernames=frozenset({ANY}))),
    ])  # fmt: skip
    assert found.open(Origins, "jsonl", SETTINGS, "it") == ("files", "shop")
    with pytest.raises(UsageError, match=f"connector 'broken' of others .*{said}") as refused:
        found.open(ORIGINS, "mysql", SETTINGS, "it")
    assert "pip uninstall others" in refused.value.mend


def test_a_driver_that_is_not_installed_is_an_extra_of_the_package_that_needs_it() -> None:
    def missing(settings: OriginSettings) -> Any:
        import no_such_driver  # type: ignore[import-not-found]  # noqa: F401

    said = {"drivernames": frozenset({"jsonl"}), "title": "JSON", "open_origin": missing}
    found = Registry([point("files", Connector("files", extra="fast", **said))])  # type: ignore[arg-type]
    with pytest.raises(MissingExtra, match="the JSON origin 'x' needs an optional part of theirs") as refused:
        found.open(ORIGINS, "jsonl", SETTINGS, "the {} origin 'x'")
    assert refused.value.mend == "pip install 'theirs[fast]'"
    found = Registry([point("files", Connector("files", **said))])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the JSON origin 'x' needs the module 'no_such_driver'"):
        found.open(ORIGINS, "jsonl", SETTINGS, "the {} origin 'x'")


def test_a_module_of_the_packages_own_is_no_extra() -> None:
    with pytest.raises(ModuleNotFoundError), require_extra("fast", "it"):
        import dbt_bridge.no_such_module  # type: ignore[import-not-found]  # noqa: F401


def test_an_installation_without_our_connectors_says_how_to_install_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stale = [each for each in entry_points(group=GROUP) if each.name != "duckdb"]
    monkeypatch.setattr(connectors, "entry_points", lambda **_: stale)
    registry.cache_clear()
    try:
        with pytest.raises(UsageError, match="without its connectors duckdb: the installation is older") as refused:
            registry()
        assert "make install" in refused.value.mend
    finally:
        registry.cache_clear()


def test_looking_for_a_connector_imports_no_driver() -> None:
    code = (
        "from dbt_bridge.contracts.connector import GROUP; from importlib.metadata import entry_points\n"
        "before = set(sys.modules)\n"
        "for point in entry_points(group=GROUP): point.load()\n"
        "print(' '.join(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}"], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names)
    assert loaded == {"dbt_bridge"}


def test_the_fall_backs_open_what_is_ours_by_no_other_name() -> None:
    settings = OriginSettings("lite", "sqlite://", "sqlite", Path())
    assert type(registry().open(ORIGINS, "sqlite", settings, "it")).__name__ == "SqlOrigin"
    assert WAREHOUSES.words(next(p.load() for p in entry_points(group=GROUP) if p.name == "dlt")) == {ANY}
