"""Everybody gets the same versions: with uv from uv.lock, with pip from its export."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
REQUIREMENTS = (ROOT / "requirements-dev.txt").read_text()


def test_the_export_is_the_locks_development_group() -> None:
    exported = set(re.findall(r"^([\w.-]+)==([^\s;]+)", REQUIREMENTS, re.MULTILINE))
    locked = {(package["name"], package["version"]) for package in LOCK["package"] if "version" in package}
    missing = _development() - {name for name, _ in exported}
    assert not exported - locked, "make lock"
    assert not missing, "make lock"


def test_the_lock_names_no_host_but_pypi() -> None:
    urls = re.findall(r'https?://[^"\s]+', (ROOT / "uv.lock").read_text())
    assert {urlsplit(url).hostname for url in urls} == {"pypi.org", "files.pythonhosted.org"}


def _development() -> set[str]:
    """Names that the development group asks for by itself, and through this project's own dependencies."""
    own = next(package for package in LOCK["package"] if package["name"] == "dbt-bridge")
    asked = [*own["dependencies"], *own["dev-dependencies"]["dev"]]
    return {dependency["name"] for dependency in asked} - {"dbt-bridge"}
